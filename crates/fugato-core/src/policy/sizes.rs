//! The sizings of all models of each device, kept up at stated times within a budget.

use super::sizing::{OperatingPoint, Sizer, Sizing};
use crate::flat::FlatMap;
use crate::id::{DeviceId, ModelId, Share};
use crate::sched::View;
use crate::time::{Nanos, Timestamp};
use std::collections::BTreeSet;

/// How often models are looked at for a change of rate or knowledge: a few times in the second
/// that rates are counted over.
const LOOK_EVERY: Nanos = Nanos::from_millis(250);

/// Models sized in one decision: each takes up to some hundred predictions, and a plan may
/// take a millisecond.
const AT_ONCE: usize = 4;

/// When a decision that is behind with its sizing asks to be asked again.
const CATCH_UP: Nanos = Nanos::from_micros(10);

/// Sizings by device.
#[derive(Debug)]
pub(super) struct Sizes {
    point: OperatingPoint,
    /// At which it was looked for devices that are gone.
    configuration: u64,
    devices: FlatMap<DeviceId, Known>,
}

#[derive(Debug)]
struct Known {
    configuration: u64,
    due: Timestamp,
    sizer: Sizer,
    known: FlatMap<ModelId, Sizing>,
    /// Still to be looked at.
    behind: BTreeSet<ModelId>,
}

/// What a refresh changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The model has another sizing.
    Sized(ModelId, Sizing),
    /// The model is gone.
    Gone(ModelId),
}

impl Sizes {
    pub(super) const fn new(point: OperatingPoint) -> Self {
        Self {
            point,
            configuration: 0,
            devices: FlatMap::new(),
        }
    }

    /// Brings the sizings of a device up to date as far as the budget goes, and tells what has
    /// changed.
    pub(super) fn refresh(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        mut tell: impl FnMut(Change),
    ) {
        // What a device's policy knew of it is forgotten with it, and told anew when it returns.
        if self.configuration != view.configuration() {
            self.configuration = view.configuration();
            self.devices
                .retain(|known| known == device || view.slices(known) > Share(0));
        }
        let point = self.point;
        let sized = self.devices.entry_with(device, || Known {
            configuration: u64::MAX,
            due: Timestamp::ZERO,
            sizer: Sizer::new(point),
            known: FlatMap::default(),
            behind: BTreeSet::new(),
        });
        if sized.configuration != view.configuration() || view.now() >= sized.due {
            sized.configuration = view.configuration();
            sized.due = view.now() + LOOK_EVERY;
            sized.behind = view.models(device).collect();
            sized.sizer.retain(view);
            let (known, behind) = (sized.known.keys().iter(), &sized.behind);
            for &gone in known.filter(|&model| !behind.contains(model)) {
                tell(Change::Gone(gone));
            }
            sized.known.retain(|model| behind.contains(&model));
        }
        let mut anew = 0;
        while anew < AT_ONCE
            && let Some(model) = sized.behind.pop_first()
        {
            anew += usize::from(!sized.sizer.is_known(view, device, model));
            let sizing = sized.sizer.size(view, device, model);
            if sized.known.get(model) != Some(&sizing) {
                sized.known.insert(model, sizing);
                tell(Change::Sized(model, sizing));
            }
        }
    }

    /// A model's sizing; `None` while it is behind.
    pub(super) fn get(&self, device: DeviceId, model: ModelId) -> Option<Sizing> {
        self.devices.get(device)?.known.get(model).copied()
    }

    /// When to be asked again where models are still to be sized.
    pub(super) fn catch_up(&self, view: &View<'_>) -> Option<Timestamp> {
        let is_behind = |device| {
            let sized: Option<&Known> = self.devices.get(device);
            sized.is_some_and(|sized| !sized.behind.is_empty())
        };
        let behind = view.devices().any(is_behind);
        behind.then(|| view.now() + CATCH_UP)
    }
}
