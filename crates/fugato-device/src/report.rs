//! What lanes report of a leg.

use crate::device::{
    DeviceEvent, EventSink, LegWork, RunError, RunErrorKind, RunSplit, TaskOutputs,
};
use fugato_core::Timestamp;
use std::any::Any;

/// What came of a leg, and how its time divides.
pub(crate) type Outcome = (Result<TaskOutputs, RunError>, RunSplit);

pub(crate) fn report_started(sink: &EventSink, work: &LegWork, at: Timestamp) {
    sink(DeviceEvent::Started {
        device: work.start.device,
        task: work.start.task,
        leg: work.start.leg,
        at,
    });
}

pub(crate) fn report_finished(
    sink: &EventSink,
    work: &LegWork,
    (started, ended): (Timestamp, Timestamp),
    (result, split): Outcome,
) {
    sink(DeviceEvent::Finished {
        device: work.start.device,
        task: work.start.task,
        leg: work.start.leg,
        started,
        ended,
        split,
        result,
    });
}

pub(crate) fn run_error(work: &LegWork, kind: RunErrorKind, detail: String) -> RunError {
    RunError {
        model: work.start.model,
        batch: work.start.batch.0,
        kind,
        detail,
    }
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(owned).unwrap_or("(no message)")
}
