//! A model on the device: weights once, buffers by slot, sessions by lane and part.

use super::super::backend::{Backend, Fault, Port};
use super::output::{Leased, PinnedPool};
use super::session::LaneSessions;
use super::slot::{Room, Slot, Tenancy};
use crate::batch::{BatchLimits, batched};
use crate::course::Course;
use crate::device::{GpuTuning, LoadOptions};
use crate::store::LoadCause;
use crate::tensor::TensorSpec;
use fugato_core::{LaneId, LegIndex, Nanos, PartitionId, SlotIndex};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A lane of a partition.
pub(super) type LaneKey = (PartitionId, LaneId);

/// What is timed: a leg, where, with how many rows.
pub(super) type Timed = (PartitionId, LegIndex, u32);

/// A model that is loaded.
pub(super) struct LoadedModel<B: Backend> {
    pub(super) model: B::Model,
    pub(super) weights: Arc<B::Weights>,
    pub(super) tuning: GpuTuning,
    pub(super) limits: BatchLimits,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    pub(super) course: Course,
    pub(super) slots: Vec<Slot<B>>,
    pools: Vec<Arc<PinnedPool<B>>>,
    /// By lane; used by that lane's thread only.
    pub(super) sessions: Mutex<HashMap<LaneKey, Arc<Mutex<LaneSessions<B>>>>>,
    /// The longest run seen.
    longest: Mutex<HashMap<Timed, Nanos>>,
    /// By part: whether its runs cannot be captured.
    pub(super) eager: Vec<AtomicBool>,
    /// Whether it was said why runs are eager.
    pub(super) told: AtomicBool,
    /// By part: what its session that was made last runs on the host.
    on_host: Mutex<BTreeMap<usize, OnHost>>,
    /// Whether it was said that this is not known.
    pub(super) told_unplaced: AtomicBool,
    /// By leg: whether its groups are not to be put side by side, since that failed.
    pub(super) in_turn: Vec<AtomicBool>,
    /// Whether it was said why.
    pub(super) told_in_turn: AtomicBool,
}

/// What a session runs on the host.
pub(super) struct OnHost {
    /// Kinds of operators, and how many of each.
    pub(super) kinds: BTreeMap<String, usize>,
    /// Whether its runs may be captured.
    pub(super) graphs: bool,
}

/// What a model reads and gives, once it is known that the device can hold that.
#[derive(Clone)]
pub(super) struct Interface {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    pub(super) batched: bool,
}

/// The places of inputs or outputs, all of which must be of a fixed size.
fn fixed_ports<'a>(
    direction: &'static str,
    specs: impl Iterator<Item = &'a TensorSpec>,
    batched: bool,
) -> Result<Vec<Port>, LoadCause> {
    specs
        .map(|spec| {
            Port::fixed(spec, batched).ok_or_else(|| LoadCause::NotFixed {
                direction,
                name: spec.name.clone(),
                shape: spec.shape.clone(),
                element: spec.element,
            })
        })
        .collect()
}

impl Interface {
    /// Checks a model and how it is to be loaded.
    pub(super) fn of<B: Backend>(
        model: &B::Model,
        options: &LoadOptions,
    ) -> Result<Self, LoadCause> {
        let (info, _) = B::describe(model);
        if options.max_batch == 0 {
            return Err(LoadCause::Zero { what: "max_batch" });
        }
        if options.slots == 0 {
            return Err(LoadCause::Zero { what: "slots" });
        }
        let batched = batched(info, options.max_batch, options.batches)?;
        Ok(Self {
            inputs: fixed_ports("input", info.inputs.iter(), batched)?,
            outputs: fixed_ports("output", info.outputs.iter(), batched)?,
            batched,
        })
    }
}

impl<B: Backend> LoadedModel<B> {
    /// Takes the buffers of a model's slots, without a session.
    pub(super) fn new(
        backend: &B,
        (model, weights): (&B::Model, &Arc<B::Weights>),
        (interface, options): (&Interface, &LoadOptions),
        course: Course,
    ) -> Result<Self, LoadCause> {
        let Interface {
            inputs,
            outputs,
            batched,
        } = interface.clone();
        let room = Room {
            inputs: &inputs,
            outputs: &outputs,
            kept: course.memory_size,
            legs: course.legs.len(),
            rows: options.max_batch,
        };
        let slots: Result<Vec<_>, Fault> = (0..options.slots)
            .map(|_| Slot::new(backend, &room))
            .collect();
        let slots = slots?;
        let pools: Result<Vec<_>, Fault> = outputs
            .iter()
            .map(|port| PinnedPool::new(backend, slots.len(), room.bytes(port)?))
            .collect();
        Ok(Self {
            pools: pools?,
            limits: BatchLimits {
                legs: course.legs.len(),
                unsplit: false,
                slots: slots.len(),
                max_batch: options.max_batch,
                batched,
                inputs: inputs.len(),
            },
            model: model.clone(),
            weights: Arc::clone(weights),
            tuning: options.gpu,
            inputs,
            outputs,
            slots,
            sessions: Mutex::default(),
            longest: Mutex::default(),
            eager: course.parts.iter().map(|_| AtomicBool::default()).collect(),
            told: AtomicBool::new(false),
            on_host: Mutex::default(),
            told_unplaced: AtomicBool::new(false),
            in_turn: course.legs.iter().map(|_| AtomicBool::default()).collect(),
            told_in_turn: AtomicBool::new(false),
            course,
        })
    }

    /// The buffers of a slot that [`BatchLimits::check`] found to be there.
    pub(super) fn slot(&self, slot: SlotIndex) -> &Slot<B> {
        &self.slots[usize::from(slot.0)]
    }

    /// Who has such a slot.
    pub(super) fn tenancy(&self, slot: SlotIndex) -> MutexGuard<'_, Tenancy> {
        let tenancy = self.slot(slot).tenancy.lock();
        tenancy.unwrap_or_else(PoisonError::into_inner)
    }

    /// How many legs there are.
    pub(super) fn legs(&self) -> usize {
        self.course.legs.len()
    }

    /// Host memory for each output.
    pub(super) fn take_outputs(&self, backend: &B) -> Result<Vec<Leased<B>>, Fault> {
        let take = |pool: &Arc<PinnedPool<B>>| pool.take(backend);
        self.pools.iter().map(take).collect()
    }

    /// The batches whose runs are captured as the model is loaded: powers of two, and the
    /// largest. Others are when they have come a few times.
    pub(super) fn warm_batches(&self) -> Vec<u32> {
        let most = self.limits.max_batch;
        let powers = (0..u32::BITS).map(|bit| 1 << bit);
        let mut batches: Vec<u32> = powers.take_while(|&batch| batch < most).collect();
        batches.push(most);
        batches
    }

    /// Notes what a part runs on the host.
    pub(super) fn note_on_host(&self, part: usize, noted: OnHost) {
        let mut on_host = self.on_host.lock().unwrap_or_else(PoisonError::into_inner);
        on_host.insert(part, noted);
    }

    /// What of the model every run of its eager sessions runs on the host, as far as these are
    /// there: kinds of operators, and how many where there are several. `None`: nothing.
    pub(super) fn on_host(&self) -> Option<String> {
        self.listed_on_host(false)
    }

    /// The same of sessions whose runs are captured: only operators that compute shapes, whose
    /// values are then those of the capture.
    pub(super) fn shapes_on_host(&self) -> Option<String> {
        self.listed_on_host(true)
    }

    fn listed_on_host(&self, graphs: bool) -> Option<String> {
        let on_host = self.on_host.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: BTreeMap<&str, usize> = BTreeMap::new();
        let noted = on_host.values().filter(|noted| noted.graphs == graphs);
        for (kind, count) in noted.flat_map(|noted| &noted.kinds) {
            *all.entry(kind).or_default() += count;
        }
        let each = all.into_iter().map(|(kind, count)| match count {
            1 => kind.to_owned(),
            count => format!("{kind} ({count})"),
        });
        let each: Vec<_> = each.collect();
        (!each.is_empty()).then(|| each.join(", "))
    }

    /// The longest run seen of a leg.
    pub(super) fn longest(&self, timed: Timed) -> Option<Nanos> {
        let longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        longest.get(&timed).copied()
    }

    /// Notes how long a run took.
    pub(super) fn took(&self, timed: Timed, time: Nanos) {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = longest.entry(timed).or_default();
        *known = time.max(*known);
    }
}
