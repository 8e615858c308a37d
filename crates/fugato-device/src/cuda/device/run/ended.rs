//! How a leg gets off the device: when it ends, what it took by the device's own events, and what
//! it gave.

use super::super::super::backend::{Backend, Fault, FaultKind};
use super::{Enqueued, Ran, Work, bytes, failed};
use crate::batch::{Failed, all_faulty, divide};
use crate::device::{RunErrorKind, RunSplit, TaskOutputs};
use crate::flight::Flight;
use crate::tensor::{OutputTensor, TensorData};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl<B: Backend> Enqueued<B> {
    /// Waits until the device is done; gives what came of it. The slot is free after the last
    /// leg, and where one fails.
    pub(in super::super) fn finish(self, backend: &B) -> Result<Ran, Failed> {
        let Self {
            model,
            timed,
            answers,
            bytes_copied_in,
            gathered,
            work,
            hold,
        } = self;
        let mut split = RunSplit {
            input: gathered,
            ..RunSplit::default()
        };
        let ran = |outputs, split| Ran {
            outputs,
            split,
            bytes_copied_in,
        };
        let Some(work) = work else {
            let all = |answers: Flight| all_faulty(&answers.faults, answers.items.len());
            let requests = answers.and_then(all).unwrap_or_default();
            return Ok(ran(TaskOutputs { requests }, split));
        };
        match work.times(backend) {
            Ok(times) => {
                split.input += times.input;
                split = RunSplit {
                    input: split.input,
                    ..times
                };
            }
            Err(fault) => {
                let failed = failed(fault);
                hold.give_up();
                if failed.0 == RunErrorKind::DeviceLost {
                    // The device may yet write there, and is not waited for.
                    std::mem::forget(work);
                }
                return Err(failed);
            }
        }
        // What nobody tells is no measure of how long it may take.
        if split.on_device.is_some() {
            model.took(timed, split.infer);
        }
        let Work {
            outputs,
            events,
            spare,
            ..
        } = work;
        spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(events);
        let (Some(outputs), Some(answers)) = (outputs, answers) else {
            return Ok(ran(TaskOutputs::default(), split));
        };
        let mut tensors = Vec::with_capacity(outputs.len());
        for (port, output) in model.outputs.iter().zip(outputs) {
            let size = bytes(port, answers.rows).map_err(failed)?;
            tensors.push(OutputTensor {
                shape: port.shape(answers.rows),
                data: TensorData::Raw(output.give_out(size)),
            });
        }
        let items = model.limits.batched.then_some(&answers.items[..]);
        let name = |output: usize| model.outputs[output].spec.name.as_str();
        let outputs = divide(items, (tensors, name), answers.faults)?;
        Ok(ran(outputs, split))
    }
}

impl<B: Backend> Work<B> {
    /// Waits for the end; what the copies and the run took. A device that does not tell leaves
    /// the leg what it is, without times.
    fn times(&self, backend: &B) -> Result<RunSplit, Fault> {
        let events = &self.events;
        let end = match self.outputs {
            Some(_) => &events.copied_out,
            None => &events.ended,
        };
        backend.finish(end)?;
        match self.told(backend) {
            Err(fault) if fault.kind != FaultKind::Lost => {
                if !self.silent.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %fault,
                        "the device does not tell what a leg took; its profiles and times are by \
                         the host's clock"
                    );
                }
                Ok(RunSplit::default())
            }
            told => told,
        }
    }

    /// What the copies and the run took, by events that were reached. They lie around what is
    /// launched and never in a capture: one that was captured is a node of a graph and has no time
    /// of its own, so groups side by side are timed together.
    fn told(&self, backend: &B) -> Result<RunSplit, Fault> {
        let events = &self.events;
        let mut split = RunSplit {
            infer: backend.elapsed(&events.started, &events.ended)?,
            ..RunSplit::default()
        };
        if self.is_first {
            split.input = backend.elapsed(&events.begun, &events.copied_in)?;
        }
        if self.outputs.is_some() {
            split.output = backend.elapsed(&events.ended, &events.copied_out)?;
        }
        split.on_device = Some(split.input + split.infer + split.output);
        Ok(split)
    }
}
