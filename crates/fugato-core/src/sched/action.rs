//! What the scheduler tells the driver to do.

use super::outcome::Outcome;
use crate::id::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, PartitionId, RequestId, SlotIndex, TaskId,
};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A leg for a device to run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Start {
    /// Where it runs.
    pub device: DeviceId,
    /// The task it belongs to.
    pub task: TaskId,
    /// The model of the task.
    pub model: ModelId,
    /// Which leg of the model's plan; legs of a task start in order. The last one where the
    /// task runs unsplit.
    pub leg: LegIndex,
    /// Whether the task runs in one go, as if the model were not cut: this is its only start.
    /// Only where [`ModelSpec::unsplit`](super::ModelSpec::unsplit) says that the device can.
    #[serde(default)]
    pub unsplit: bool,
    /// The atoms it may use.
    pub partition: PartitionId,
    /// The in-order queue of that partition it enters. If the lane is running a leg,
    /// this one is *committed*: the device starts it when the lane falls free, unless it
    /// is revoked before.
    pub lane: LaneId,
    /// The buffers of the task; the same for all its legs.
    pub slot: SlotIndex,
    /// Items in the batch: the sum of the items of `requests`, if there are any.
    pub batch: BatchSize,
    /// The device must not start it earlier.
    pub not_before: Timestamp,
    /// The requests of the task, in the order of their rows; given with its first start, empty
    /// with those after it. A task without any is run to be measured: its inputs are
    /// the driver's choice, and its outputs are nobody's.
    pub requests: Vec<RequestId>,
}

/// What the scheduler tells the driver to do. Drain
/// [`Scheduler::poll_action`](super::Scheduler::poll_action) to `None` and carry the
/// actions out in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Run a leg, or queue it behind the lane's running one.
    Start(Start),
    /// Take a committed leg back. The device answers with
    /// [`Input::LegRevoked`](super::Input::LegRevoked), or with
    /// [`Input::LegStarted`](super::Input::LegStarted) where it was too late.
    Revoke {
        /// Where the leg is committed.
        device: DeviceId,
        /// Its partition.
        partition: PartitionId,
        /// Its lane.
        lane: LaneId,
        /// The task of the leg.
        task: TaskId,
        /// The leg.
        leg: LegIndex,
    },
    /// A request has ended; there is exactly one of these per request handed in.
    Finish {
        /// The request.
        request: RequestId,
        /// How it ended.
        outcome: Outcome,
    },
    /// A removed model has no request and no task left; its resources can be freed.
    ModelDrained {
        /// The model.
        model: ModelId,
    },
}
