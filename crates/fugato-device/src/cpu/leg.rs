//! How a leg is run: inputs gathered with the first, parts run stage by stage, the groups
//! of a stage at once where the place has several cores, outputs divided among the requests
//! with the last.

use super::Place;
use super::crew::{Crew, Done, Job};
use super::model::{LoadedModel, Output, Ran, Ride, SessionKey, runtime_failure, session_key};
use super::output::value_bytes;
use super::slot::{Bound, Held, Slot};
use super::ways::{Spot, Way};
use crate::batch::{Column, Failed, all_faulty, divide, gather_failure};
use crate::capi::{Binding, OrtError, Value};
use crate::clock::MonotonicClock;
use crate::course::{CoursePart, Source, Target};
use crate::device::{LegWork, RunErrorKind, RunSplit, TaskOutputs};
use crate::flight::Flight;
use crate::tensor::{OutputTensor, TensorData};
use bytes::Bytes;
use fugato_core::{LegIndex, SlotIndex, TaskId};
use ort::ErrorCode;
use std::sync::{Mutex, MutexGuard, TryLockError};

impl LoadedModel {
    /// Runs a leg.
    pub(super) fn run(
        &self,
        work: &LegWork,
        (place, crew): (&Place, Option<&Crew>),
        clock: &MonotonicClock,
    ) -> Result<Ran, Failed> {
        self.check(work)?;
        let ride = Ride::of(&work.start);
        self.make_ready(ride, place).map_err(runtime_failure)?;
        let begun = clock.now();
        let slot = &mut *self.slot(work);
        let (mut flight, bytes_copied_in) = match ride {
            Ride::Leg(0) | Ride::Unsplit => self.embark(slot, work)?,
            Ride::Leg(_) => (Flight::resume(&mut slot.flight, &work.start)?, 0),
        };
        let gathered = clock.now();
        let mut at_once = false;
        let all_faulty = all_faulty(&flight.faults, flight.items.len());
        if all_faulty.is_none() {
            let (first, stages) = self.stages(ride);
            for (stage, parts) in (first..).zip(stages) {
                match crew.filter(|_| parts.len() > 1) {
                    Some(crew) => {
                        let of = (stage, parts);
                        let way = self.run_groups(of, slot, (place, crew), flight.rows, clock)?;
                        at_once |= way == Way::AtOnce;
                    }
                    None => {
                        let on = (place, session_key(parts, place));
                        self.run_in_turn(parts, slot, on, flight.rows)?;
                    }
                }
                slot.kept.release(&self.course.kept, stage);
            }
        }
        let ran = clock.now();
        let (mut outputs, mut bytes_copied_out) = (TaskOutputs::default(), 0);
        if usize::from(work.start.leg.0) + 1 < self.course.legs.len() {
            flight.next = LegIndex(work.start.leg.0 + 1);
            slot.flight = Some(flight);
        } else if let Some(all) = all_faulty {
            outputs.requests = all;
        } else {
            (outputs, bytes_copied_out) = self.answer(slot, flight)?;
        }
        Ok(Ran {
            at_once,
            outputs,
            split: RunSplit {
                input: gathered - begun,
                infer: ran - gathered,
                output: clock.now() - ran,
                on_device: None,
            },
            bytes_copied_in,
            bytes_copied_out,
        })
    }

    /// The buffers of a task, which no other task may be using.
    fn slot(&self, work: &LegWork) -> MutexGuard<'_, Slot> {
        let (slot, task) = (work.start.slot, work.start.task);
        match self.slots[usize::from(slot.0)].try_lock() {
            Ok(slot) => slot,
            // A leg that panicked left buffers that the next one writes anew.
            Err(TryLockError::Poisoned(slot)) => slot.into_inner(),
            Err(TryLockError::WouldBlock) => {
                panic!("{task} was given {slot}, which another task is using")
            }
        }
    }

    /// Begins a task: makes the slot its own, and gathers its inputs. Gives the bytes
    /// copied too.
    fn embark(&self, slot: &mut Slot, work: &LegWork) -> Result<(Flight, u64), Failed> {
        // Of a task that failed in a leg, or that nobody has let go of.
        self.empty(slot);
        slot.kept.prepare().map_err(|error| {
            let detail = format!("memory for the tensors between legs: {error}");
            (RunErrorKind::Runtime, detail)
        })?;
        let mut bytes_copied = 0;
        let mut faults = Vec::new();
        for (index, (input, buffer)) in self.inputs.iter().zip(&mut slot.inputs).enumerate() {
            let column = Column {
                spec: &input.spec,
                index,
                requests: &work.requests,
                batched: self.batched,
                reserve: input.full_bytes,
            };
            let gathered = buffer.gather(&column).map_err(gather_failure)?;
            bytes_copied += gathered.bytes_copied;
            faults.extend(gathered.faults);
        }
        let flight = Flight {
            task: work.start.task,
            next: LegIndex(0),
            rows: work.start.batch.0,
            items: work.requests.iter().map(|request| request.items).collect(),
            faults,
        };
        Ok((flight, bytes_copied))
    }

    /// Frees what a task has left between its legs.
    pub(super) fn let_go(&self, task: TaskId, slot: SlotIndex) {
        let slot = self.slots.get(usize::from(slot.0)).map(Mutex::try_lock);
        let mut slot = match slot {
            Some(Ok(slot)) => slot,
            Some(Err(TryLockError::Poisoned(slot))) => slot.into_inner(),
            // The slot has another task, which freed what this one had left.
            Some(Err(TryLockError::WouldBlock)) | None => return,
        };
        if slot
            .flight
            .as_ref()
            .is_some_and(|flight| flight.task == task)
        {
            self.empty(&mut slot);
        }
    }

    /// Frees what is in a slot: no task is under way there.
    fn empty(&self, slot: &mut Slot) {
        slot.flight = None;
        for (held, output) in slot.outputs.iter_mut().zip(&self.outputs) {
            if let (Some(Held::Pooled(buffer)), Some(pool)) = (held.take(), &output.pool) {
                pool.give(buffer);
            }
        }
        slot.kept.let_go();
    }

    /// Runs the groups of a stage in the way that is faster there, or is to be timed, and says which
    /// that was.
    fn run_groups(
        &self,
        (stage, parts): (usize, &[usize]),
        slot: &mut Slot,
        (place, crew): (&Place, &Crew),
        rows: u32,
        clock: &MonotonicClock,
    ) -> Result<Way, Failed> {
        let threads = place.threads();
        let spot = Spot {
            stage,
            threads,
            rows,
        };
        let found = self.ways.as_ref().map(|ways| (ways, ways.of(spot)));
        let (way, is_timed) = found.map_or((Way::AtOnce, false), |(_, found)| found);
        let begun = is_timed.then(|| clock.now());
        let ran = match way {
            Way::AtOnce => self.run_at_once(parts, slot, (place, crew), rows),
            Way::InTurn => self.run_in_turn(parts, slot, (place, place.session_key()), rows),
        };
        if let (Some((ways, _)), Some(begun)) = (found, begun) {
            let chosen = match &ran {
                Ok(()) => ways.timed(spot, way, clock.now() - begun),
                Err(_) => {
                    ways.failed(spot, way);
                    None
                }
            };
            if let Some(way) = chosen {
                tracing::debug!(stage, threads, rows, ?way, "the faster way to run groups");
            }
        }
        ran.map(|()| way)
    }

    /// Runs the parts of a stage one after the other.
    fn run_in_turn(
        &self,
        parts: &[usize],
        slot: &mut Slot,
        on: (&Place, SessionKey),
        rows: u32,
    ) -> Result<(), Failed> {
        for &part in parts {
            let Job {
                part,
                mut bound,
                is_allocated,
            } = self.job(part, slot, on, rows)?;
            let result = run_bound(&mut bound.binding, is_allocated);
            let done = Done {
                part,
                bound,
                result,
            };
            self.keep(done, slot, rows)?;
        }
        Ok(())
    }

    /// Runs the parts of a stage side by side, each on a thread.
    fn run_at_once(
        &self,
        parts: &[usize],
        slot: &mut Slot,
        (place, crew): (&Place, &Crew),
        rows: u32,
    ) -> Result<(), Failed> {
        let on = (place, session_key(parts, place));
        let jobs = parts.iter().map(|&part| self.job(part, slot, on, rows));
        let done = crew.run(jobs.collect::<Result<_, _>>()?);
        // All are taken in, whatever became of one.
        let kept: Vec<_> = done
            .into_iter()
            .map(|done| self.keep(done, slot, rows))
            .collect();
        kept.into_iter().collect()
    }

    /// Binds what a part reads and writes, where that is not as it was for its last run.
    fn job(
        &self,
        number: usize,
        slot: &mut Slot,
        (place, key): (&Place, SessionKey),
        rows: u32,
    ) -> Result<Job, Failed> {
        let bindings = &mut slot.bindings[number];
        let known = bindings.iter().position(|bound| bound.key == key);
        let mut bound = match known {
            Some(known) => bindings.swap_remove(known),
            None => {
                let session = self
                    .session(number, (place, key))
                    .map_err(runtime_failure)?;
                Bound {
                    key,
                    binding: Binding::new(&session).map_err(runtime_failure)?,
                    rows: None,
                }
            }
        };
        let mut is_allocated = false;
        if bound.rows != Some(rows) {
            bound.rows = None;
            let part = &self.course.parts[number];
            is_allocated = self.bind(part, slot, rows, &mut bound.binding)?;
        }
        Ok(Job {
            part: number,
            bound,
            is_allocated,
        })
    }

    /// Takes in what a part gave.
    fn keep(&self, done: Done, slot: &mut Slot, rows: u32) -> Result<(), Failed> {
        let Done {
            part: number,
            mut bound,
            result,
        } = done;
        let part = &self.course.parts[number];
        let is_placed = result.is_ok() && self.course.is_placed(part);
        bound.rows = is_placed.then_some(rows);
        slot.bindings[number].push(bound);
        for ((_, target), value) in part.outputs.iter().zip(result?) {
            match *target {
                Target::Kept(kept) if self.course.kept[kept].place.is_none() => {
                    slot.kept.keep(kept, value);
                }
                Target::Output(output) if self.outputs[output].pool.is_none() => {
                    slot.outputs[output] = Some(Held::Allocated(value));
                }
                Target::Kept(_) | Target::Output(_) => {}
            }
        }
        Ok(())
    }

    /// Binds a part; says whether the runtime is to allocate any of its outputs.
    fn bind(
        &self,
        part: &CoursePart,
        slot: &mut Slot,
        rows: u32,
        binding: &mut Binding,
    ) -> Result<bool, Failed> {
        for (name, source) in &part.inputs {
            let value = match *source {
                Source::Input(input) => slot.inputs[input].value(),
                Source::Output(output) => match &mut slot.outputs[output] {
                    Some(held) => Some(self.held(output, held, rows)?),
                    None => None,
                },
                Source::Kept(kept) => {
                    let left = slot.kept.left(kept, &self.course.kept[kept], rows);
                    left.map_err(runtime_failure)?
                }
            };
            let value = value.ok_or_else(|| {
                let detail = format!("nobody has left `{}`", name.to_string_lossy());
                (RunErrorKind::Runtime, detail)
            })?;
            binding.input(name, value).map_err(runtime_failure)?;
        }
        let mut is_allocated = false;
        for (name, target) in &part.outputs {
            let value = match *target {
                Target::Kept(kept) => {
                    let placed = slot.kept.placed(kept, &self.course.kept[kept], rows);
                    placed.map_err(runtime_failure)?
                }
                Target::Output(output) => match &self.outputs[output].pool {
                    Some(pool) => {
                        let buffer = pool.take().map_err(|error| {
                            let output = &self.outputs[output].spec.name;
                            let detail = format!("memory for output `{output}`: {error}");
                            (RunErrorKind::Runtime, detail)
                        })?;
                        let held = slot.outputs[output].insert(Held::Pooled(buffer));
                        Some(self.held(output, held, rows)?)
                    }
                    None => None,
                },
            };
            let bound = match value {
                Some(value) => binding.output(name, value),
                None => {
                    is_allocated = true;
                    binding.output_allocated(name)
                }
            };
            bound.map_err(runtime_failure)?;
        }
        Ok(is_allocated)
    }

    /// The value of an output that is there.
    fn held<'h>(&self, output: usize, held: &'h mut Held, rows: u32) -> Result<&'h Value, Failed> {
        match (held, &self.outputs[output].pool) {
            (Held::Allocated(value), _) => Ok(value),
            (Held::Pooled(buffer), Some(pool)) => pool.value(buffer, rows).map_err(runtime_failure),
            (Held::Pooled(_), None) => unreachable!("a buffer is taken from its output's pool"),
        }
    }

    /// Ends a task: its outputs, divided among its requests, and the bytes copied.
    fn answer(&self, slot: &mut Slot, flight: Flight) -> Result<(TaskOutputs, u64), Failed> {
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for (output, held) in self.outputs.iter().zip(&mut slot.outputs) {
            outputs.push(give_out(output, held.take(), flight.rows)?);
        }
        let copied = outputs.iter_mut().map(|output| match &mut output.data {
            // The runtime hands over an input that is an output too: the slot's memory,
            // which the next task overwrites.
            TensorData::Raw(bytes) if slot.inputs.iter().any(|input| input.contains(bytes)) => {
                *bytes = Bytes::copy_from_slice(bytes);
                bytes.len() as u64
            }
            TensorData::Raw(_) => 0,
            TensorData::Strings(_) => output.data.byte_size() as u64,
        });
        let copied = copied.sum();
        let items = self.batched.then_some(&flight.items[..]);
        let name = |output: usize| self.outputs[output].spec.name.as_str();
        Ok((divide(items, (outputs, name), flight.faults)?, copied))
    }
}

/// Runs what is bound; gives the outputs in the order they were bound where the runtime
/// allocated any of them.
pub(super) fn run_bound(binding: &mut Binding, is_allocated: bool) -> Result<Vec<Value>, Failed> {
    // SAFETY: every input and output was bound anew by the caller, or is bound to places of
    // the slot, which do not move: inputs to buffers and values of the slot, which is held
    // locked, outputs to its own, to buffers that nobody else has or to memory of the
    // runtime's own. An output may lie over an input where
    // the operator adds the one to the other element by element (`Kept`).
    let ran = unsafe { binding.run() };
    let values = ran.and_then(|()| match is_allocated {
        true => binding.outputs(),
        false => Ok(Vec::new()),
    });
    if is_allocated || values.is_err() {
        // Or else the binding would hold on to the outputs until the slot's next run.
        binding.clear();
    }
    values.map_err(run_failure)
}

/// An output of the whole batch as bytes or strings.
fn give_out(output: &Output, held: Option<Held>, rows: u32) -> Result<OutputTensor, Failed> {
    match (held, &output.pool) {
        (Some(Held::Pooled(buffer)), Some(pool)) => Ok(OutputTensor {
            shape: pool
                .dims(rows)
                .iter()
                .map(|dim| dim.cast_unsigned())
                .collect(),
            data: TensorData::Raw(pool.lease(buffer, rows)),
        }),
        (Some(Held::Allocated(value)), _) => read_allocated(output, value),
        (Some(Held::Pooled(_)) | None, _) => {
            let detail = format!("no leg has given output `{}`", output.spec.name);
            Err((RunErrorKind::Runtime, detail))
        }
    }
}

/// Reads an output that the runtime allocated.
fn read_allocated(output: &Output, value: Value) -> Result<OutputTensor, Failed> {
    let shape = value.shape().map_err(runtime_failure)?;
    if shape.element != Some(output.spec.element) {
        let (name, found) = (&output.spec.name, shape.element);
        let detail = format!(
            "output `{name}` came as {found:?}, not {}",
            output.spec.element
        );
        return Err((RunErrorKind::Runtime, detail));
    }
    let dims = shape.dims.iter().map(|dim| dim.cast_unsigned()).collect();
    let data = match output.spec.element.size() {
        Some(_) => TensorData::Raw(value_bytes(value, shape).map_err(runtime_failure)?),
        None => TensorData::Strings(value.read_strings(&shape).map_err(runtime_failure)?),
    };
    Ok(OutputTensor { shape: dims, data })
}

/// Sorts an error that the runtime gave when running; the texts are those of 1.31.
fn run_failure(error: OrtError) -> Failed {
    let message = error.message();
    let says = |phrase| message.contains(phrase);
    let kind = if says("The output OrtValue provided for output") {
        RunErrorKind::OutputShape
    } else if says("Failed to allocate memory") || says("bad_alloc") {
        RunErrorKind::Runtime
    } else if error.code() == ErrorCode::InvalidArgument
        || says("Non-zero status code returned while running")
    {
        RunErrorKind::InvalidInput
    } else {
        RunErrorKind::Runtime
    };
    (kind, message.to_owned())
}
