//! The scheduler: a pure state machine from [`Input`]s to [`Action`]s.
//!
//! Start reading at [`Scheduler`]; the decisions themselves are in [`crate::policy`].

mod action;
mod admission;
mod config;
mod decision;
mod dense;
mod hash;
mod input;
mod latencies;
mod ledger;
mod line;
mod measuring;
mod outcome;
mod pools;
mod queue;
mod recent;
mod rivals;
mod scheduler;
mod state;
mod sums;
mod view;
mod work;

pub use action::{Action, Start};
pub use config::{
    DeadlineMode, DynamicBatching, ModelSpec, PolicySettingError, PolicySpec, QueueLimits,
    SchedulerConfig,
};
pub use decision::Decision;
pub use hash::ActionHash;
pub use input::{Arrival, INPUT_VERSION, Input, LegResult, Overdue};
pub use ledger::{LaneRef, Offer};
pub use outcome::{DropReason, FailReason, Outcome, Rejection, Scope};
pub use queue::{ModelKey, QueueKey};
pub use scheduler::{Explanation, ModelStatus, ProfileStatus, Scheduler};
pub use state::{Had, ModelFacts};
pub use view::{Begun, ReadyHead, Running, TasksOn, View};
