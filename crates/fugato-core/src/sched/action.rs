//! What the scheduler tells the driver to do.

use crate::id::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, PartitionId, RequestId, SlotIndex, TaskId,
};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A leg for a device to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Where it runs.
    pub device: DeviceId,
    /// The task it belongs to.
    pub task: TaskId,
    /// The model of the task.
    pub model: ModelId,
    /// Which leg of the model's plan; legs of a task start in order.
    pub leg: LegIndex,
    /// The atoms it may use.
    pub partition: PartitionId,
    /// The in-order queue of that partition it enters. If the lane is running a leg,
    /// this one is *committed*: the device starts it when the lane falls free, unless it
    /// is revoked before.
    pub lane: LaneId,
    /// The buffers of the task; the same for all its legs.
    pub slot: SlotIndex,
    /// Items in the batch: the sum of the items of `requests`.
    pub batch: BatchSize,
    /// The device must not start it earlier.
    pub not_before: Timestamp,
    /// The requests of the task, in the order of their rows; given with leg 0, empty
    /// with the legs after it.
    pub requests: Vec<RequestId>,
}

/// What the scheduler tells the driver to do. Drain the scheduler
/// after each input and carry the actions out in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Run a leg, or queue it behind the lane's running one.
    Start(Start),
}
