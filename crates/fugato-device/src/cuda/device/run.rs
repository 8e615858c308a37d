//! How a leg gets onto the device; `ended` has how it gets off it again.

mod ended;

use super::super::backend::{Backend, Fault, FaultKind, Port};
use super::Core;
use super::lane::{Taken, Watch};
use super::model::{LaneKey, LoadedModel, Timed};
use super::output::Leased;
use super::session::{Batch, Capture, LaneSessions, Way};
use super::slot::Hold;
use crate::batch::{Column, Failed, all_faulty, gather_failure};
use crate::device::{LegWork, RunErrorKind, RunSplit, TaskOutputs};
use crate::flight::Flight;
use crate::store::LoadCause;
use fugato_core::device::AtomSet;
use fugato_core::{LegIndex, Nanos, SlotIndex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the thread of a lane works with for models of one urgency.
pub(super) struct Tools<B: Backend> {
    pub(super) lane: LaneKey,
    atoms: AtomSet,
    /// Of all its streams.
    priority: i32,
    pub(super) compute: Arc<B::Stream>,
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
    timed: Timed,
    /// What the last leg answers, and whom; `None` before it.
    answers: Option<Flight>,
    bytes_copied_in: u64,
    /// Time that the host took to gather.
    gathered: Nanos,
    /// `None`: every request's inputs were at fault, and nothing runs.
    work: Option<Work<B>>,
    hold: Hold<B>,
}

struct Work<B: Backend> {
    is_first: bool,
    /// Whether its groups run side by side.
    ran: Way,
    /// `None`: legs follow, and what this one gives stays on the device.
    outputs: Option<Vec<Leased<B>>>,
    events: Events<B>,
    spare: Arc<Mutex<Vec<Events<B>>>>,
    /// Whether the device did not tell times once, which was said.
    silent: Arc<AtomicBool>,
}

/// What a leg gave.
pub(super) struct Ran {
    pub(super) outputs: TaskOutputs,
    pub(super) split: RunSplit,
    pub(super) bytes_copied_in: u64,
}

/// Whether a model made ready ran over zeros too.
pub(super) enum Readied {
    Ran,
    /// Why it did not. A model is none the worse for it; a part of one may be.
    Refused(String),
}

/// Which leg is to be given to the device.
struct Order<'a, B: Backend> {
    leg: usize,
    is_last: bool,
    batch: Batch<'a, B>,
    /// Where the leg before it was given to the device.
    left_on: Option<LaneKey>,
}

/// What a fault is to the leg that met it.
pub(super) fn failed(fault: Fault) -> Failed {
    let kind = match fault.kind {
        FaultKind::Lost => RunErrorKind::DeviceLost,
        FaultKind::OutOfMemory | FaultKind::Capture | FaultKind::Refused | FaultKind::Other => {
            RunErrorKind::Runtime
        }
    };
    (kind, fault.detail)
}

impl<B: Backend> Tools<B> {
    pub(super) fn new(
        backend: &B,
        (lane, atoms): (LaneKey, AtomSet),
        priority: i32,
    ) -> Result<Self, Fault> {
        Ok(Self {
            lane,
            atoms,
            priority,
            compute: backend.stream(atoms, priority)?,
            copies_in: backend.stream(atoms, priority)?,
            copies_out: backend.stream(atoms, priority)?,
            spare: Arc::default(),
        })
    }

    /// A further stream of the lane's partition.
    pub(super) fn stream(&self, backend: &B) -> Result<Arc<B::Stream>, Fault> {
        backend.stream(self.atoms, self.priority)
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

    /// Gathers the inputs of a first leg, and gives the leg to the device.
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
        let leg = usize::from(start.leg.0);
        let (hold, flight) = Hold::take(model, start)?;
        let sessions = model.on_lane(self.lane);
        let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the leg starts: it may take seconds, which are no part of the model's latency.
        let with = (&core.backend, &self.compute);
        let ready = model.make_ready(with, &mut sessions, leg);
        ready.map_err(failed)?;
        let first = model.first_turn(&core.backend, &sessions, leg);
        core.lane(self.lane).begin(*serial, &core.reporter());
        let begun = (core.clock)();
        let (mut flight, bytes_copied_in) = match flight {
            None => gather(model, work)?,
            Some(flight) => (flight, 0),
        };
        let gathered = (core.clock)().since(begun);
        let timed = (start.partition, start.leg, flight.rows);
        let order = Order {
            leg,
            is_last: leg + 1 == model.legs(),
            batch: Batch {
                index: start.slot,
                slot: model.slot(start.slot),
                rows: flight.rows,
            },
            left_on: hold.left_on(),
        };
        let given = match all_faulty(&flight.faults, flight.items.len()) {
            Some(_) => None,
            None => {
                let limit = core.hang.of(model.longest(timed));
                // As while it is loaded: the first run of a session makes plans and compiles.
                let limit = match first {
                    Some(_) => limit.max(core.hang.loading()),
                    None => limit,
                };
                let with = (&mut *sessions, (*serial, limit), first);
                let given = self.give_watched(core, model, with, &order);
                let given = given.map_err(failed)?;
                let count = match given.ran {
                    Way::AtOnce => Some(&core.legs_at_once),
                    Way::Captured => Some(&core.legs_captured),
                    Way::Eager => None,
                };
                count.map(|count| count.fetch_add(1, Ordering::Relaxed));
                Some(given)
            }
        };
        let answers = match order.is_last {
            true => {
                hold.leave(self.lane, None);
                Some(flight)
            }
            false => {
                flight.next = LegIndex(start.leg.0 + 1);
                hold.leave(self.lane, Some(flight));
                None
            }
        };
        Ok(Enqueued {
            model: Arc::clone(model),
            timed,
            answers,
            bytes_copied_in,
            gathered,
            work: given,
            hold,
        })
    }

    /// As [`give`](Self::give), watched whether it hangs, and once more where something was made
    /// anew. Whoever has `first` has to, for the first run of a session.
    fn give_watched(
        &self,
        core: &Core<B>,
        model: &LoadedModel<B>,
        (sessions, (serial, limit), mut first): (
            &mut LaneSessions<B>,
            (u64, Nanos),
            Option<B::Turn>,
        ),
        order: &Order<'_, B>,
    ) -> Result<Work<B>, Fault> {
        let (backend, lane) = (&core.backend, core.lane(self.lane));
        loop {
            let since = (core.clock)();
            lane.watch(serial, Some(Watch { since, limit }));
            let given = self.give(core, (model, &mut *sessions), order);
            drop(first);
            let fault = match given {
                Err(fault) if fault.kind != FaultKind::Lost && sessions.is_mendable() => fault,
                given => return given,
            };
            // It takes seconds, in which the leg would be taken to hang.
            lane.watch(serial, None);
            tracing::debug!(%fault, "a leg is given to the device once more");
            model.make_ready((backend, &self.compute), sessions, order.leg)?;
            first = model.first_turn(backend, sessions, order.leg);
        }
    }

    /// Enqueues a leg's copies and run. Where that breaks off, waits for what was enqueued:
    /// others may have the buffers next.
    fn give(
        &self,
        core: &Core<B>,
        (model, sessions): (&LoadedModel<B>, &mut LaneSessions<B>),
        order: &Order<'_, B>,
    ) -> Result<Work<B>, Fault> {
        let backend = &core.backend;
        let outputs = order.is_last.then(|| model.take_outputs(backend));
        let mut work = Work {
            is_first: order.leg == 0,
            ran: Way::Eager,
            outputs: outputs.transpose()?,
            events: self.events(backend)?,
            spare: Arc::clone(&self.spare),
            silent: Arc::clone(&core.silent),
        };
        match self.enqueue_work(backend, (model, sessions), order, &mut work) {
            Ok(()) => Ok(work),
            Err(fault) if fault.kind == FaultKind::Lost => {
                // The device may yet write there, and is not waited for.
                std::mem::forget(work);
                Err(fault)
            }
            Err(fault) => {
                let streams = [&self.copies_in, &self.compute, &self.copies_out];
                let settled = streams.map(|stream| self.settle(core, stream));
                if let Some(worse) = settled.into_iter().find_map(Result::err) {
                    // As above: what may still be written to is not given back.
                    std::mem::forget(work);
                    return Err(worse);
                }
                Err(fault)
            }
        }
    }

    /// Enqueues a run, before it the copies of the model's inputs where the leg is the first,
    /// after it those of the outputs where it is the last.
    fn enqueue_work(
        &self,
        backend: &B,
        (model, sessions): (&LoadedModel<B>, &mut LaneSessions<B>),
        order: &Order<'_, B>,
        work: &mut Work<B>,
    ) -> Result<(), Fault> {
        let Batch { slot, rows, .. } = order.batch;
        let Work {
            outputs,
            events,
            ran,
            ..
        } = work;
        if work.is_first {
            backend.record(&events.begun, &self.copies_in)?;
            self.upload(backend, model, &order.batch, &self.copies_in)?;
            backend.record(&events.copied_in, &self.copies_in)?;
            backend.wait(&self.compute, &events.copied_in)?;
        } else if order.left_on != Some(self.lane)
            && let Some(left) = &slot.left
        {
            backend.wait(&self.compute, left)?;
        }
        backend.record(&events.started, &self.compute)?;
        let with = (backend, &self.compute);
        *ran = model.run_leg(with, sessions, order.leg, &order.batch)?;
        backend.record(&events.ended, &self.compute)?;
        let Some(outputs) = outputs else {
            return match &slot.left {
                Some(left) => backend.record(left, &self.compute),
                None => Ok(()),
            };
        };
        backend.wait(&self.copies_out, &events.ended)?;
        for ((port, memory), output) in model.outputs.iter().zip(&slot.outputs).zip(outputs) {
            let bytes = bytes(port, rows)?;
            backend.download(memory, output.memory(), bytes, &self.copies_out)?;
        }
        backend.record(&events.copied_out, &self.copies_out)
    }

    /// Enqueues the copies of what is gathered in a slot.
    pub(super) fn upload(
        &self,
        backend: &B,
        model: &LoadedModel<B>,
        Batch { slot, rows, .. }: &Batch<'_, B>,
        on: &B::Stream,
    ) -> Result<(), Fault> {
        let staged = slot.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inputs = model.inputs.iter().zip(&*staged).zip(&slot.inputs);
        inputs.try_for_each(|((port, staged), memory)| {
            backend.upload(staged, memory, bytes(port, *rows)?, on)
        })
    }

    /// Makes a model ready on this lane: its sessions, and the graphs of its likeliest batches,
    /// by runs over zeros.
    pub(super) fn prepare(
        &self,
        core: &Core<B>,
        model: &LoadedModel<B>,
    ) -> Result<Readied, LoadCause> {
        let backend = &core.backend;
        let sessions = model.on_lane(self.lane);
        let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
        for leg in 0..model.legs() {
            model.make_ready((backend, &self.compute), &mut sessions, leg)?;
        }
        // All slots of one batch before the next batch: ONNX Runtime keeps a convolution's plan for
        // the shape that it ran last, and makes it anew for every other.
        for rows in model.warm_batches() {
            for (index, slot) in (0..).map(SlotIndex).zip(&model.slots) {
                let batch = Batch { index, slot, rows };
                self.upload(backend, model, &batch, &self.compute)?;
                for (leg, capture) in [false, true]
                    .into_iter()
                    .flat_map(|capture| (0..model.legs()).map(move |leg| (leg, capture)))
                {
                    match self.try_leg(core, (model, &mut *sessions), leg, (&batch, capture)) {
                        Ok(()) => {}
                        Err(fault) if fault.kind == FaultKind::Other => {
                            tracing::debug!(%fault, leg, "a model refused to run over zeros");
                            self.settle(core, &self.compute)?;
                            model.tell_all_in_turn(&fault);
                            return Ok(Readied::Refused(fault.detail));
                        }
                        Err(fault) => return Err(fault.into()),
                    }
                }
            }
        }
        self.settle(core, &self.compute)?;
        self.put_side_by_side(core, model, &mut sessions)?;
        Ok(Readied::Ran)
    }

    /// Runs a leg in its one session, captured where it can be; once more where something was
    /// made anew.
    fn try_leg(
        &self,
        core: &Core<B>,
        (model, sessions): (&LoadedModel<B>, &mut LaneSessions<B>),
        leg: usize,
        (batch, capture): (&Batch<'_, B>, bool),
    ) -> Result<(), Fault> {
        let with = (&core.backend, &self.compute);
        loop {
            let turn = match capture {
                true => Some(core.backend.turn()),
                false => model.first_turn(&core.backend, sessions, leg),
            };
            let how = match &turn {
                Some(turn) if capture => Capture::Now(turn),
                Some(_) | None => Capture::Not,
            };
            let ran = core.watched(self.lane, || {
                model.run_in_turn(with, &mut *sessions, leg, (batch, how))
            });
            drop(turn);
            match ran {
                Ok(_) => return Ok(()),
                Err(fault) if sessions.is_mendable() => {
                    tracing::debug!(%fault, leg, "a leg is run once more");
                    model.make_ready(with, sessions, leg)?;
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Whether the lane's partition is the whole device.
    pub(super) fn has_all(&self, core: &Core<B>) -> bool {
        let partitions = core.spec.partitions.iter();
        partitions.map(|part| part.atoms.count()).max() == Some(self.atoms.count())
    }

    /// Waits for what was enqueued on a stream.
    pub(super) fn settle(&self, core: &Core<B>, stream: &Arc<B::Stream>) -> Result<(), Fault> {
        core.watched(self.lane, || {
            let event = core.backend.event()?;
            core.backend.record(&event, stream)?;
            core.backend.finish(&event)
        })
    }
}

fn bytes(port: &Port, rows: u32) -> Result<usize, Fault> {
    port.bytes(rows).ok_or_else(|| port.too_large())
}

/// Writes the requests side by side into the slot's host memory: the task, and the bytes
/// copied.
fn gather<B: Backend>(model: &LoadedModel<B>, work: &LegWork) -> Result<(Flight, u64), Failed> {
    let start = &work.start;
    let mut flight = Flight {
        task: start.task,
        next: LegIndex(0),
        rows: start.batch.0,
        items: work.requests.iter().map(|request| request.items).collect(),
        faults: Vec::new(),
    };
    let mut bytes_copied = 0;
    let staged = model.slot(start.slot).staged.lock();
    let mut staged = staged.unwrap_or_else(PoisonError::into_inner);
    for (index, (port, staged)) in model.inputs.iter().zip(&mut *staged).enumerate() {
        let column = Column {
            spec: &port.spec,
            index,
            requests: &work.requests,
            batched: port.batched,
            reserve: 0,
        };
        let shape = column.shape().map_err(gather_failure)?;
        let expected = port.shape(flight.rows);
        let is_fit = shape
            .iter()
            .map(|dim| dim.cast_unsigned())
            .eq(expected.iter().copied());
        if !is_fit {
            let name = &port.spec.name;
            let detail = format!("input `{name}` has shape {shape:?}, expected {expected:?}");
            return Err((RunErrorKind::InvalidInput, detail));
        }
        let size = bytes(port, flight.rows).map_err(failed)?;
        let gathered = column.write_into(&mut staged.as_mut()[..size]);
        bytes_copied += gathered.bytes_copied;
        flight.faults.extend(gathered.faults);
    }
    Ok((flight, bytes_copied))
}
