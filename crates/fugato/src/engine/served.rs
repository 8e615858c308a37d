//! A model version that takes requests.

use super::settings::Settings;
use crate::api::{ModelInfo, ShapeSignature};
use crate::telemetry::ModelMetrics;
use fugato_core::sched::ModelSpec;
use fugato_core::{DeviceId, ModelId, ShapeClass};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

/// Shapes of one model that are told apart at a time. Past it the numbering starts afresh
/// with new numbers: requests of one shape may then miss a batch together, and never
/// share one wrongly.
const SHAPES_MAX: usize = 4_096;

/// A model version on the device and in the scheduler.
pub(super) struct ServedModel {
    pub(super) id: ModelId,
    pub(super) number: u64,
    /// Where it runs.
    pub(super) device: DeviceId,
    pub(super) info: Arc<ModelInfo>,
    pub(super) metrics: ModelMetrics,
    pub(super) shapes: ShapeClasses,
    /// The hash of the model's content, and how it is served: what must be equal for a
    /// load to keep it as it is.
    pub(super) content: String,
    pub(super) settings: Arc<Settings>,
    /// As it is configured; what clients changed of it comes on top.
    pub(super) spec: ModelSpec,
    pub(super) gate: Gate,
}

/// Whether requests may still be handed to the scheduler.
///
/// A request passes the gate before it is handed in and until that is done; closing waits
/// for those inside. What follows a closed gate in the mailbox therefore comes after every
/// request that passed it, and a request that finds it closed looks its model up again.
#[derive(Default)]
pub(super) struct Gate(RwLock<bool>);

/// Keeps a [`Gate`] from closing.
pub(super) struct Inside<'a>(#[expect(dead_code, reason = "it is held")] RwLockReadGuard<'a, bool>);

impl Gate {
    /// `None` where it is closed.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        let closed = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (!*closed).then_some(Inside(closed))
    }

    /// Closes it for good, once nobody is inside.
    pub(super) fn close(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// Numbers the shapes that a model's requests come in.
pub(super) struct ShapeClasses {
    /// Whether only the batch dimension varies, so that all requests are of one class.
    fixed: bool,
    known: Mutex<(HashMap<ShapeSignature, ShapeClass>, u32)>,
}

impl ShapeClasses {
    pub(super) fn new(info: &ModelInfo) -> Self {
        let batch = usize::from(info.max_batch_size > 0);
        let fixed = info
            .inputs
            .iter()
            .all(|input| input.shape.iter().skip(batch).all(Option::is_some));
        Self {
            fixed,
            known: Mutex::default(),
        }
    }

    pub(super) fn class(&self, shape: &ShapeSignature) -> ShapeClass {
        if self.fixed {
            return ShapeClass(0);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (classes, next) = &mut *known;
        if let Some(&class) = classes.get(shape) {
            return class;
        }
        if classes.len() >= SHAPES_MAX {
            classes.clear();
        }
        let class = ShapeClass(*next);
        *next = next.wrapping_add(1);
        classes.insert(shape.clone(), class);
        class
    }
}
