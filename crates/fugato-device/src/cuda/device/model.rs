//! A model on the device: weights once, buffers by slot, a session by lane.

use super::super::backend::{
    Backend, Fault, FaultKind, GraphId, How, Places, Port, SessionOptions,
};
use crate::batch::{BatchLimits, batched};
use crate::device::{GpuTuning, LoadOptions};
use crate::store::LoadCause;
use bytes::Bytes;
use fugato_core::{LaneId, Nanos, PartitionId, SlotIndex, TaskId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Eager runs of a batch in a slot before its runs are captured: a batch that comes once or
/// twice is not worth the three runs that a capture takes.
const EAGER_RUNS: u32 = 2;

/// A lane of a partition.
pub(super) type LaneKey = (PartitionId, LaneId);

/// A model that is loaded.
pub(super) struct LoadedModel<B: Backend> {
    model: B::Model,
    weights: Arc<B::Weights>,
    tuning: GpuTuning,
    pub(super) limits: BatchLimits,
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<Port>,
    slots: Vec<Mutex<Slot<B>>>,
    pools: Vec<Arc<PinnedPool<B>>>,
    /// By lane; used by that lane's thread only.
    sessions: Mutex<HashMap<LaneKey, Arc<Mutex<LaneSession<B>>>>>,
    /// The longest run seen, by partition and batch.
    longest: Mutex<HashMap<(PartitionId, u32), Nanos>>,
    /// Whether it was said why runs are eager.
    told: AtomicBool,
}

/// The buffers of one task in flight.
pub(super) struct Slot<B: Backend> {
    /// Where requests are written side by side, and where the device has them.
    pub(super) inputs: Vec<(B::Pinned, Arc<B::Memory>)>,
    pub(super) outputs: Vec<Arc<B::Memory>>,
    /// The task that has it.
    pub(super) task: Option<TaskId>,
}

/// A model on one lane's stream.
pub(super) struct LaneSession<B: Backend> {
    // Before the session, whose memory captured runs use.
    bound: HashMap<(SlotIndex, u32), Bound<B>>,
    /// And whether its runs may be captured.
    session: Option<(B::Session, bool)>,
}

struct Bound<B: Backend> {
    binding: B::Binding,
    eager_runs: u32,
    is_captured: bool,
}

/// Host memory for an output, kept for the next task when the last reply lets go of it.
pub(super) struct PinnedPool<B: Backend> {
    free: Mutex<Vec<B::Pinned>>,
    keep: usize,
    bytes: usize,
}

/// The places of inputs or outputs, all of which must be of a fixed size.
fn fixed_ports<'a>(
    direction: &'static str,
    specs: impl Iterator<Item = &'a crate::tensor::TensorSpec>,
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

impl<B: Backend> LoadedModel<B> {
    /// Takes the model's memory on the device, without a session.
    pub(super) fn new(
        backend: &B,
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
        let inputs = fixed_ports("input", info.inputs.iter(), batched)?;
        let outputs = fixed_ports("output", info.outputs.iter(), batched)?;
        let size = |port: &Port| {
            port.bytes(options.max_batch).ok_or_else(|| {
                Fault::other(format!("`{}` is too large to have memory", port.spec.name))
            })
        };
        let weights = Arc::new(backend.weights(model)?);
        let slot = || -> Result<Mutex<Slot<B>>, Fault> {
            let staged = |port: &Port| {
                let bytes = size(port)?;
                Ok((backend.pinned(bytes)?, Arc::new(backend.memory(bytes)?)))
            };
            let placed = |port: &Port| Ok(Arc::new(backend.memory(size(port)?)?));
            Ok(Mutex::new(Slot {
                inputs: inputs.iter().map(staged).collect::<Result<_, Fault>>()?,
                outputs: outputs.iter().map(placed).collect::<Result<_, Fault>>()?,
                task: None,
            }))
        };
        let slots: Vec<_> = (0..options.slots)
            .map(|_| slot())
            .collect::<Result<_, _>>()?;
        let pool = |port: &Port| -> Result<_, Fault> {
            let bytes = size(port)?;
            let free: Result<Vec<_>, _> = slots.iter().map(|_| backend.pinned(bytes)).collect();
            Ok(Arc::new(PinnedPool {
                free: Mutex::new(free?),
                // One more than tasks in flight: replies are being sent.
                keep: slots.len() + 1,
                bytes,
            }))
        };
        Ok(Self {
            pools: outputs.iter().map(pool).collect::<Result<_, _>>()?,
            limits: BatchLimits {
                legs: 1,
                slots: slots.len(),
                max_batch: options.max_batch,
                batched,
                inputs: inputs.len(),
            },
            model: model.clone(),
            weights,
            tuning: options.gpu,
            inputs,
            outputs,
            slots,
            sessions: Mutex::default(),
            longest: Mutex::default(),
            told: AtomicBool::new(false),
        })
    }

    /// The buffers of a slot that [`BatchLimits::check`] found to be there.
    pub(super) fn slot(&self, slot: SlotIndex) -> MutexGuard<'_, Slot<B>> {
        let slot = self.slots[usize::from(slot.0)].lock();
        slot.unwrap_or_else(PoisonError::into_inner)
    }

    /// What a lane has of the model, which only that lane's thread uses.
    pub(super) fn on_lane(&self, lane: LaneKey) -> Arc<Mutex<LaneSession<B>>> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let empty = || {
            Arc::new(Mutex::new(LaneSession {
                bound: HashMap::new(),
                session: None,
            }))
        };
        Arc::clone(sessions.entry(lane).or_insert_with(empty))
    }

    /// Makes the lane's session where there is none. On the lane's thread.
    pub(super) fn make_ready(
        &self,
        (backend, stream): (&B, &Arc<B::Stream>),
        lane: &mut LaneSession<B>,
    ) -> Result<(), Fault> {
        if lane.session.is_some() {
            return Ok(());
        }
        let make = |graphs| {
            let options = SessionOptions {
                tuning: self.tuning,
                graphs,
            };
            backend.session(&self.model, &self.weights, stream, options)
        };
        let wanted = self.tuning.graphs && !self.told.load(Ordering::Relaxed);
        lane.session = Some(match make(wanted) {
            Ok(session) => (session, wanted),
            // Some models cannot be captured at all: those with control flow, say.
            Err(fault) if wanted && may_be_capture(&fault) => {
                let session = make(false)?;
                self.tell_eager(&fault);
                (session, false)
            }
            Err(fault) => return Err(fault),
        });
        Ok(())
    }

    /// Enqueues a run of what is in a slot, by a graph where there is one or, with `capture`,
    /// one that is captured now. Without, one is when the batch has come a few times, unless that
    /// would have to wait.
    pub(super) fn run(
        &self,
        (backend, stream): (&B, &Arc<B::Stream>),
        lane: &mut LaneSession<B>,
        (index, slot): (SlotIndex, &Slot<B>),
        (rows, capture): (u32, bool),
    ) -> Result<(), Fault> {
        self.make_ready((backend, stream), lane)?;
        let graph = GraphId(u32::from(index.0) * (self.limits.max_batch + 1) + rows);
        let (bound, graphs) = self.bound(backend, lane, (index, slot), rows)?;
        let failed = if !graphs {
            return backend.run(&mut bound.binding, How::Eager);
        } else if bound.is_captured {
            backend.run(&mut bound.binding, How::Replay(graph)).err()
        } else if bound.eager_runs < EAGER_RUNS && !capture {
            bound.eager_runs += 1;
            return backend.run(&mut bound.binding, How::Eager);
        } else {
            match backend.capture(&mut bound.binding, graph, capture) {
                Ok(true) => {
                    bound.is_captured = true;
                    None
                }
                Ok(false) => return backend.run(&mut bound.binding, How::Eager),
                Err(fault) => Some(fault),
            }
        };
        match failed {
            None => Ok(()),
            Some(fault) if fault.kind == FaultKind::Lost => Err(fault),
            Some(fault) => {
                // Whatever a capture broke off has left is gone with its session.
                lane.bound.clear();
                lane.session = None;
                self.tell_eager(&fault);
                self.make_ready((backend, stream), lane)?;
                let (bound, _) = self.bound(backend, lane, (index, slot), rows)?;
                backend.run(&mut bound.binding, How::Eager)
            }
        }
    }

    /// The binding of a slot to a session that is there, and whether its runs may be captured.
    fn bound<'l>(
        &self,
        backend: &B,
        lane: &'l mut LaneSession<B>,
        (index, slot): (SlotIndex, &Slot<B>),
        rows: u32,
    ) -> Result<(&'l mut Bound<B>, bool), Fault> {
        use std::collections::hash_map::Entry;
        let session = lane.session.as_ref();
        let (session, graphs) = session.ok_or_else(|| Fault::other("the lane has no session"))?;
        let bound = match lane.bound.entry((index, rows)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let memory = slot.inputs.iter().map(|(_, memory)| memory);
                let binding = backend.bind(
                    session,
                    &Places {
                        rows,
                        inputs: self.inputs.iter().zip(memory).collect(),
                        outputs: self.outputs.iter().zip(&slot.outputs).collect(),
                    },
                )?;
                vacant.insert(Bound {
                    binding,
                    eager_runs: 0,
                    is_captured: false,
                })
            }
        };
        Ok((bound, *graphs))
    }

    /// Says once for the model why its runs are not captured.
    fn tell_eager(&self, reason: &Fault) {
        if !self.told.swap(true, Ordering::Relaxed) {
            let (_, origin) = B::describe(&self.model);
            tracing::warn!(
                model = %origin.display(),
                %reason,
                "runs of the model cannot be captured into graphs; they are eager"
            );
        }
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

    /// The number of slots.
    pub(super) fn slots(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    /// The longest run of a batch seen in a partition.
    pub(super) fn longest(&self, partition: PartitionId, rows: u32) -> Option<Nanos> {
        let longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        longest.get(&(partition, rows)).copied()
    }

    /// Notes how long a run took.
    pub(super) fn took(&self, partition: PartitionId, rows: u32, time: Nanos) {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = longest.entry((partition, rows)).or_default();
        *known = time.max(*known);
    }
}

/// Whether a session may come about once its runs need not be captured.
fn may_be_capture(fault: &Fault) -> bool {
    match fault.kind {
        FaultKind::Capture | FaultKind::Other => true,
        FaultKind::OutOfMemory | FaultKind::Lost => false,
    }
}

impl<B: Backend> PinnedPool<B> {
    fn take(self: &Arc<Self>, backend: &B) -> Result<Leased<B>, Fault> {
        let free = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let memory = match free {
            Some(memory) => memory,
            None => backend.pinned(self.bytes)?,
        };
        Ok(Leased {
            memory: Some(memory),
            bytes: 0,
            pool: Arc::clone(self),
        })
    }
}

/// Memory of a pool, which goes back there.
pub(super) struct Leased<B: Backend> {
    memory: Option<B::Pinned>,
    bytes: usize,
    pool: Arc<PinnedPool<B>>,
}

impl<B: Backend> Leased<B> {
    pub(super) fn memory(&mut self) -> &mut B::Pinned {
        let memory = self.memory.as_mut();
        memory.expect("a lease holds its memory until it is dropped")
    }

    /// The first `bytes`, for as long as anybody reads them.
    pub(super) fn give_out(mut self, bytes: usize) -> Bytes {
        self.bytes = bytes;
        Bytes::from_owner(self)
    }
}

impl<B: Backend> AsRef<[u8]> for Leased<B> {
    fn as_ref(&self) -> &[u8] {
        let memory = self.memory.as_ref();
        let memory = memory.expect("a lease holds its memory until it is dropped");
        &memory.as_ref()[..self.bytes]
    }
}

impl<B: Backend> Drop for Leased<B> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let mut free = self
                .pool
                .free
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if free.len() < self.pool.keep {
                free.push(memory);
            }
        }
    }
}
