//! A task between its legs, as devices that compute keep it in its slot.

use crate::batch::Failed;
use crate::device::RunErrorKind;
use crate::shared::InputFault;
use fugato_core::sched::Start;
use fugato_core::{LegIndex, TaskId};

/// A task that has begun and not ended.
///
/// One that is given up between legs stays in its slot until it is let go of; the places of
/// the slot's own memory stay for its next task.
pub(crate) struct Flight {
    pub(crate) task: TaskId,
    /// The leg that comes next.
    pub(crate) next: LegIndex,
    /// Items of the batch.
    pub(crate) rows: u32,
    /// Items of each request.
    pub(crate) items: Vec<u32>,
    /// Requests whose inputs could not be had, by place in the batch.
    pub(crate) faults: Vec<(usize, InputFault)>,
}

impl Flight {
    /// Takes up the task of a slot where its last leg left it.
    pub(crate) fn resume(slot: &mut Option<Self>, start: &Start) -> Result<Self, Failed> {
        let expected = slot.take_if(|flight| {
            flight.task == start.task && flight.next == start.leg && flight.rows == start.batch.0
        });
        expected.ok_or_else(|| {
            let found = match slot {
                Some(Self {
                    task, next, rows, ..
                }) => {
                    format!("{next} of {task} with a batch of {rows} is next")
                }
                None => "no task is under way".to_owned(),
            };
            let (leg, task, batch) = (start.leg, start.task, start.batch);
            let detail = format!("{leg} of {task} with a {batch} was started where {found}");
            (RunErrorKind::InvalidInput, detail)
        })
    }
}
