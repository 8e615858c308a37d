//! What the driver tells the scheduler.

use super::config::{DeadlineMode, ModelSpec, PolicySpec};
use crate::device::DeviceSpec;
use crate::id::{BatchSize, DeviceId, LegIndex, ModelId, RequestId, ShapeClass, TaskId};
use crate::profile::ModelProfile;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The version of [`Input`]'s serialised form. Raised when an old recording would no
/// longer be read, or would be read differently.
pub const INPUT_VERSION: u32 = 1;

/// An event from outside: the closed set of what can move the scheduler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A request came in.
    Arrived(Arrival),
    /// A request's client went away. Unknown and ended requests are ignored: the client
    /// may have raced with the reply.
    Cancelled {
        /// The request.
        request: RequestId,
    },
    /// A device has begun a leg.
    LegStarted {
        /// The device.
        device: DeviceId,
        /// The task.
        task: TaskId,
        /// Its leg.
        leg: LegIndex,
        /// The device's own time of it.
        at: Timestamp,
    },
    /// A device has ended a leg.
    LegFinished {
        /// The device.
        device: DeviceId,
        /// The task.
        task: TaskId,
        /// Its leg.
        leg: LegIndex,
        /// The device's time of its start.
        started: Timestamp,
        /// The device's time of its end.
        ended: Timestamp,
        /// Whether it ended well.
        result: LegResult,
    },
    /// A device gave a committed leg back.
    LegRevoked {
        /// The device.
        device: DeviceId,
        /// The task.
        task: TaskId,
        /// Its leg.
        leg: LegIndex,
    },
    /// A model is there to be scheduled.
    ModelAdded(ModelSpec),
    /// A model's settings changed; its id, legs and devices stay. Requests that were
    /// accepted keep their deadlines.
    ModelChanged(ModelSpec),
    /// A model takes no more requests; what it has runs to its end, then
    /// [`Action::ModelDrained`](super::Action::ModelDrained) follows.
    ModelRemoved {
        /// The model.
        model: ModelId,
    },
    /// A model has a measured profile from here on, in place of an earlier one. It is not
    /// measured while serving, unless it drifts from it.
    ProfileGiven {
        /// The model, of one leg.
        model: ModelId,
        /// What was measured of it.
        profile: Box<ModelProfile>,
    },
    /// A model can be run without requests: where
    /// [`SchedulerConfig::profile_share`](super::SchedulerConfig::profile_share) allows it,
    /// it is measured while nothing waits, if it has no profile or drifts from it.
    ProfileWanted {
        /// The model. One of several legs is not measured.
        model: ModelId,
    },
    /// Another policy takes over. Requests and running legs stay.
    PolicyChanged(PolicySpec),
    /// Deadlines are enforced or only observed from now on.
    DeadlinesChanged(DeadlineMode),
    /// A device is there, for the first time or again.
    DeviceAdded(DeviceSpec),
    /// A device is gone: legs that ran on it have failed, legs committed to it go back
    /// into their queues.
    DeviceLost {
        /// The device.
        device: DeviceId,
    },
    /// No request is accepted from now on.
    Drain,
    /// The time that [`Scheduler::poll_timeout`](super::Scheduler::poll_timeout) named
    /// has come.
    Timeout,
}

impl Input {
    /// Whether a model or a device comes, goes or changes its settings, or what is known of
    /// a model is given anew.
    pub(super) const fn changes_configuration(&self) -> bool {
        match self {
            Self::ModelAdded(_)
            | Self::ModelChanged(_)
            | Self::ProfileGiven { .. }
            | Self::DeviceAdded(_)
            | Self::DeviceLost { .. } => true,
            Self::Arrived(_)
            | Self::Cancelled { .. }
            | Self::LegStarted { .. }
            | Self::LegFinished { .. }
            | Self::LegRevoked { .. }
            | Self::ModelRemoved { .. }
            | Self::ProfileWanted { .. }
            | Self::PolicyChanged(_)
            | Self::DeadlinesChanged(_)
            | Self::Drain
            | Self::Timeout => false,
        }
    }
}

/// A request as the scheduler sees it: no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Its id; rises from request to request.
    pub request: RequestId,
    /// The model it asks for.
    pub model: ModelId,
    /// Rows of the batch dimension it brings.
    pub items: BatchSize,
    /// Bytes it holds until it ends.
    pub bytes: u64,
    /// Which requests it can share a batch with.
    pub class: ShapeClass,
    /// When its first byte was received.
    pub received: Timestamp,
    /// The client's own deadline, if it named one; the model's SLO applies besides.
    pub deadline: Option<Timestamp>,
    /// When it gives up if it has not started (Triton's `timeout`).
    pub queue_timeout: Option<Timestamp>,
    /// What happens to it then.
    #[serde(default)]
    pub overdue: Overdue,
    /// Triton's priority: 1 is the highest; 0 stands for the lowest.
    pub priority: u32,
}

/// What happens to a request that has waited until its queue timeout (Triton's
/// `timeout_action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overdue {
    /// It is dropped.
    #[default]
    Drop,
    /// It runs after all requests of its model that are not overdue.
    Delay,
}

/// How a leg ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegResult {
    /// Well: the next leg may start, or the task is done.
    Done,
    /// Badly: the task is over.
    Failed,
}
