//! How a leg gets onto the device and off it again.

use super::super::backend::{Backend, Fault, FaultKind, Port};
use super::Core;
use super::lane::{Taken, Watch};
use super::model::{LaneKey, Leased, LoadedModel, Slot};
use crate::batch::{Column, Failed, all_faulty, divide, gather_failure};
use crate::device::{LegWork, RunErrorKind, RunSplit, TaskOutputs};
use crate::shared::InputFault;
use crate::store::LoadCause;
use crate::tensor::{OutputTensor, TensorData};
use fugato_core::device::AtomSet;
use fugato_core::{Nanos, PartitionId, SlotIndex, TaskId};
use std::sync::{Arc, Mutex, PoisonError};

/// What the thread of a lane works with.
pub(super) struct Tools<B: Backend> {
    lane: LaneKey,
    compute: Arc<B::Stream>,
    /// Copies to the device and from it, each on a stream of its own: a copy that waits for a
    /// run to end holds up no copy for the next.
    copies_in: Arc<B::Stream>,
    copies_out: Arc<B::Stream>,
    spare: Arc<Mutex<Vec<Events<B>>>>,
}

/// The points of a leg on the device.
struct Events<B: Backend> {
    begun: B::Event,
    copied_in: B::Event,
    started: B::Event,
    ended: B::Event,
    copied_out: B::Event,
}

/// A leg that the device was given.
pub(super) struct Enqueued<B: Backend> {
    model: Arc<LoadedModel<B>>,
    partition: PartitionId,
    rows: u32,
    items: Vec<u32>,
    faults: Vec<(usize, InputFault)>,
    bytes_copied_in: u64,
    /// Time that the host took to gather.
    gathered: Nanos,
    /// `None`: every request's inputs were at fault, and nothing runs.
    work: Option<Work<B>>,
    _hold: Hold<B>,
}

struct Work<B: Backend> {
    outputs: Vec<Leased<B>>,
    events: Events<B>,
    spare: Arc<Mutex<Vec<Events<B>>>>,
}

/// What a leg gave.
pub(super) struct Ran {
    pub(super) outputs: TaskOutputs,
    pub(super) split: RunSplit,
    pub(super) bytes_copied_in: u64,
}

/// A slot that a task has.
struct Hold<B: Backend> {
    model: Arc<LoadedModel<B>>,
    slot: SlotIndex,
}

impl<B: Backend> Hold<B> {
    fn take(model: &Arc<LoadedModel<B>>, slot: SlotIndex, task: TaskId) -> Result<Self, Failed> {
        let mut taken = model.slot(slot);
        if let Some(other) = taken.task {
            let detail = format!("{task} was given {slot}, which {other} is using");
            return Err((RunErrorKind::Runtime, detail));
        }
        taken.task = Some(task);
        drop(taken);
        let model = Arc::clone(model);
        Ok(Self { model, slot })
    }
}

impl<B: Backend> Drop for Hold<B> {
    fn drop(&mut self) {
        self.model.slot(self.slot).task = None;
    }
}

/// What a fault is to the leg that met it.
pub(super) fn failed(fault: Fault) -> Failed {
    let kind = match fault.kind {
        FaultKind::Lost => RunErrorKind::DeviceLost,
        FaultKind::OutOfMemory | FaultKind::Capture | FaultKind::Other => RunErrorKind::Runtime,
    };
    (kind, fault.detail)
}

impl<B: Backend> Tools<B> {
    pub(super) fn new(backend: &B, lane: LaneKey, atoms: AtomSet) -> Result<Self, Fault> {
        Ok(Self {
            lane,
            compute: backend.stream(atoms)?,
            copies_in: backend.stream(atoms)?,
            copies_out: backend.stream(atoms)?,
            spare: Arc::default(),
        })
    }

    fn events(&self, backend: &B) -> Result<Events<B>, Fault> {
        let spare = self
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        match spare {
            Some(events) => Ok(events),
            None => Ok(Events {
                begun: backend.event()?,
                copied_in: backend.event()?,
                started: backend.event()?,
                ended: backend.event()?,
                copied_out: backend.event()?,
            }),
        }
    }

    /// Gathers a leg's inputs and gives it to the device.
    pub(super) fn enqueue(
        &self,
        core: &Core<B>,
        Taken {
            serial,
            work,
            model,
        }: &Taken<B>,
    ) -> Result<Enqueued<B>, Failed> {
        let model = model.as_ref().ok_or_else(|| {
            let detail = "it is not loaded on this device".to_owned();
            (RunErrorKind::ModelNotLoaded, detail)
        })?;
        model.limits.check(work)?;
        let start = &work.start;
        let mut enqueued = Enqueued {
            _hold: Hold::take(model, start.slot, start.task)?,
            model: Arc::clone(model),
            partition: start.partition,
            rows: start.batch.0,
            items: work.requests.iter().map(|request| request.items).collect(),
            faults: Vec::new(),
            bytes_copied_in: 0,
            gathered: Nanos::ZERO,
            work: None,
        };
        let session = model.on_lane(self.lane);
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let with = (&core.backend, &self.compute);
        // Before the leg starts: it may take seconds, which are no part of the model's latency.
        model.make_ready(with, &mut session).map_err(failed)?;
        core.lane(self.lane).begin(*serial, &core.reporter());
        let begun = (core.clock)();
        gather(&mut enqueued, work)?;
        enqueued.gathered = (core.clock)().since(begun);
        if all_faulty(&enqueued.faults, enqueued.items.len()).is_some() {
            return Ok(enqueued);
        }
        let limit = core.hang.of(model.longest(start.partition, enqueued.rows));
        let since = (core.clock)();
        core.lane(self.lane).watch(*serial, Watch { since, limit });
        let given = self.give(core, &enqueued, start.slot, |slot| {
            model.run(
                with,
                &mut session,
                (start.slot, slot),
                (enqueued.rows, false),
            )
        });
        enqueued.work = Some(given.map_err(failed)?);
        Ok(enqueued)
    }

    /// Enqueues a leg's copies and run. Where that breaks off, waits for what was enqueued:
    /// others may have the buffers next.
    fn give(
        &self,
        core: &Core<B>,
        enqueued: &Enqueued<B>,
        slot: SlotIndex,
        run: impl FnOnce(&Slot<B>) -> Result<(), Fault>,
    ) -> Result<Work<B>, Fault> {
        let (backend, model) = (&core.backend, &enqueued.model);
        let mut work = Work {
            outputs: model.take_outputs(backend)?,
            events: self.events(backend)?,
            spare: Arc::clone(&self.spare),
        };
        match self.enqueue_work(core, enqueued, (&model.slot(slot), &mut work), run) {
            Ok(()) => Ok(work),
            Err(fault) if fault.kind == FaultKind::Lost => {
                // The device may yet write there, and is not waited for.
                std::mem::forget(work);
                Err(fault)
            }
            Err(fault) => {
                for stream in [&self.copies_in, &self.compute, &self.copies_out] {
                    self.settle(backend, stream)?;
                }
                Err(fault)
            }
        }
    }

    /// Enqueues the copies of a slot's inputs, a run, and the copies of its outputs.
    fn enqueue_work(
        &self,
        core: &Core<B>,
        enqueued: &Enqueued<B>,
        (slot, work): (&Slot<B>, &mut Work<B>),
        run: impl FnOnce(&Slot<B>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (backend, model, rows) = (&core.backend, &enqueued.model, enqueued.rows);
        let Work {
            outputs, events, ..
        } = work;
        backend.record(&events.begun, &self.copies_in)?;
        for (port, (staged, memory)) in model.inputs.iter().zip(&slot.inputs) {
            backend.upload(staged, memory, bytes(port, rows)?, &self.copies_in)?;
        }
        backend.record(&events.copied_in, &self.copies_in)?;
        backend.wait(&self.compute, &events.copied_in)?;
        backend.record(&events.started, &self.compute)?;
        run(slot)?;
        backend.record(&events.ended, &self.compute)?;
        backend.wait(&self.copies_out, &events.ended)?;
        for ((port, memory), output) in model.outputs.iter().zip(&slot.outputs).zip(outputs) {
            backend.download(
                memory,
                output.memory(),
                bytes(port, rows)?,
                &self.copies_out,
            )?;
        }
        backend.record(&events.copied_out, &self.copies_out)
    }

    /// Makes a model ready on this lane: its session, and the graphs of its likeliest batches,
    /// by runs over zeros. A model that refuses zeros is none the worse for it.
    pub(super) fn prepare(&self, core: &Core<B>, model: &LoadedModel<B>) -> Result<(), LoadCause> {
        let backend = &core.backend;
        let session = model.on_lane(self.lane);
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let with = (backend, &self.compute);
        model.make_ready(with, &mut session)?;
        // All slots of one batch before the next batch: ONNX Runtime keeps a convolution's plan for
        // the shape that it ran last, and makes it anew for every other.
        for rows in model.warm_batches() {
            for slot in (0..model.slots()).map(SlotIndex) {
                let buffers = &*model.slot(slot);
                for (port, (staged, memory)) in model.inputs.iter().zip(&buffers.inputs) {
                    backend.upload(staged, memory, bytes(port, rows)?, &self.compute)?;
                }
                for capture in [false, true] {
                    let ran = model.run(with, &mut session, (slot, buffers), (rows, capture));
                    match ran {
                        Ok(()) => {}
                        Err(fault) if fault.kind == FaultKind::Other => {
                            tracing::debug!(%fault, "a model refused to run over zeros");
                            return Ok(self.settle(backend, &self.compute)?);
                        }
                        Err(fault) => return Err(fault.into()),
                    }
                }
            }
        }
        Ok(self.settle(backend, &self.compute)?)
    }

    /// Waits for what was enqueued on a stream.
    fn settle(&self, backend: &B, stream: &B::Stream) -> Result<(), Fault> {
        let event = backend.event()?;
        backend.record(&event, stream)?;
        backend.finish(&event)
    }
}

fn bytes(port: &Port, rows: u32) -> Result<usize, Fault> {
    let bytes = port.bytes(rows);
    bytes.ok_or_else(|| Fault::other(format!("`{}` is too large", port.spec.name)))
}

/// Writes the requests side by side into the slot's host memory.
fn gather<B: Backend>(enqueued: &mut Enqueued<B>, work: &LegWork) -> Result<(), Failed> {
    let model = &enqueued.model;
    let mut slot = model.slot(work.start.slot);
    for (index, (port, (staged, _))) in model.inputs.iter().zip(&mut slot.inputs).enumerate() {
        let column = Column {
            spec: &port.spec,
            index,
            requests: &work.requests,
            batched: port.batched,
            reserve: 0,
        };
        let shape = column.shape().map_err(gather_failure)?;
        let expected = port.shape(enqueued.rows);
        let is_fit = shape
            .iter()
            .map(|dim| dim.cast_unsigned())
            .eq(expected.iter().copied());
        if !is_fit {
            let name = &port.spec.name;
            let detail = format!("input `{name}` has shape {shape:?}, expected {expected:?}");
            return Err((RunErrorKind::InvalidInput, detail));
        }
        let size = bytes(port, enqueued.rows).map_err(failed)?;
        let gathered = column.write_into(&mut staged.as_mut()[..size]);
        enqueued.bytes_copied_in += gathered.bytes_copied;
        enqueued.faults.extend(gathered.faults);
    }
    Ok(())
}

impl<B: Backend> Enqueued<B> {
    /// Waits until the device is done; gives what came of it. Frees the slot.
    pub(super) fn finish(self, backend: &B) -> Result<Ran, Failed> {
        let Some(work) = self.work else {
            let outputs = TaskOutputs {
                requests: all_faulty(&self.faults, self.items.len()).unwrap_or_default(),
            };
            return Ok(Ran {
                outputs,
                split: RunSplit {
                    input: self.gathered,
                    ..RunSplit::default()
                },
                bytes_copied_in: self.bytes_copied_in,
            });
        };
        let events = &work.events;
        let times = || {
            backend.finish(&events.copied_out)?;
            let split = RunSplit {
                input: self.gathered + backend.elapsed(&events.begun, &events.copied_in)?,
                infer: backend.elapsed(&events.started, &events.ended)?,
                output: backend.elapsed(&events.ended, &events.copied_out)?,
            };
            Ok(split)
        };
        let split = match times() {
            Ok(split) => split,
            Err(fault) => {
                let failed = failed(fault);
                if failed.0 == RunErrorKind::DeviceLost {
                    // The device may yet write there, and is not waited for.
                    std::mem::forget(work);
                }
                return Err(failed);
            }
        };
        self.model.took(self.partition, self.rows, split.infer);
        let Work {
            outputs,
            events,
            spare,
        } = work;
        spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(events);
        let mut tensors = Vec::with_capacity(outputs.len());
        for (port, output) in self.model.outputs.iter().zip(outputs) {
            let size = bytes(port, self.rows).map_err(failed)?;
            tensors.push(OutputTensor {
                shape: port.shape(self.rows),
                data: TensorData::Raw(output.give_out(size)),
            });
        }
        let items = self.model.limits.batched.then_some(&self.items[..]);
        let name = |output: usize| self.model.outputs[output].spec.name.as_str();
        let faults = self.faults;
        Ok(Ran {
            outputs: divide(items, (tensors, name), faults)?,
            split,
            bytes_copied_in: self.bytes_copied_in,
        })
    }
}
