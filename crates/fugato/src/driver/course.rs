//! The course of a request through the scheduler, as its decisions tell it.

use fugato_core::sched::Decision;
use fugato_core::{
    BatchSize, DeviceId, LaneId, LegIndex, Nanos, PartitionId, RequestId, TaskId, Timestamp,
};
use std::collections::HashMap;

/// What was decided about one request, in order. Empty where the scheduler keeps no
/// decision records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Course {
    /// Its admission; `None` where it was refused.
    pub accepted: Option<Accepted>,
    /// The legs of the task it ran in.
    pub legs: Vec<LegCourse>,
}

/// That a request was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// When.
    pub at: Timestamp,
    /// The earliest of the client's deadline and the model's SLO.
    pub deadline: Option<Timestamp>,
    /// When it should end, where that could be predicted.
    pub predicted: Option<Timestamp>,
}

/// One leg of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegCourse {
    /// The task.
    pub task: TaskId,
    /// The leg.
    pub leg: LegIndex,
    /// Whether it was the whole task in one go; `leg` is the last one then.
    pub unsplit: bool,
    /// Where it ran.
    pub device: DeviceId,
    /// In which partition of the device.
    pub partition: PartitionId,
    /// In which lane of the partition.
    pub lane: LaneId,
    /// Items in the batch.
    pub batch: BatchSize,
    /// When the scheduler handed it out.
    pub issued: Timestamp,
    /// Whether it was committed behind a running leg.
    pub ahead: bool,
    /// Predicted run time.
    pub predicted: Option<Nanos>,
    /// The device's times of its start and end, once it ended.
    pub ran: Option<(Timestamp, Timestamp)>,
}

/// The courses of what has not ended yet.
#[derive(Debug, Default)]
pub(super) struct Courses {
    accepted: HashMap<RequestId, Accepted>,
    legs: HashMap<TaskId, Vec<LegCourse>>,
}

impl Courses {
    pub(super) fn note(&mut self, decision: &Decision) {
        match *decision {
            Decision::Accepted {
                at,
                request,
                deadline,
                predicted,
                ..
            } => {
                let accepted = Accepted {
                    at,
                    deadline,
                    predicted,
                };
                self.accepted.insert(request, accepted);
            }
            Decision::Issued {
                at,
                task,
                leg,
                unsplit,
                batch,
                lane,
                ahead,
                predicted,
                ..
            } => {
                let course = LegCourse {
                    task,
                    leg,
                    unsplit,
                    device: lane.device,
                    partition: lane.partition,
                    lane: lane.lane,
                    batch,
                    issued: at,
                    ahead,
                    predicted,
                    ran: None,
                };
                if leg.0 == 0 || unsplit {
                    self.legs.insert(task, vec![course]);
                } else if let Some(legs) = self.legs.get_mut(&task) {
                    // Nobody asks any more where all requests of the task have ended.
                    legs.push(course);
                }
            }
            Decision::LegEnded {
                task,
                leg,
                started,
                ended,
                ..
            } => {
                let mut legs = self.legs.get_mut(&task).into_iter().flatten();
                if let Some(course) = legs.find(|course| course.leg == leg) {
                    course.ran = Some((started, ended));
                }
            }
            Decision::Revoking { .. }
            | Decision::Ended { .. }
            | Decision::Measured { .. }
            | Decision::Drifted { .. } => {}
        }
    }

    /// Ends the course of a request, which was part of `task`.
    pub(super) fn end(&mut self, request: RequestId, task: Option<TaskId>) -> Course {
        let legs = task.and_then(|task| self.legs.get(&task));
        Course {
            accepted: self.accepted.remove(&request),
            legs: legs.cloned().unwrap_or_default(),
        }
    }

    /// Forgets a task that ended, or was taken back before it began.
    pub(super) fn forget(&mut self, task: TaskId) {
        self.legs.remove(&task);
    }
}
