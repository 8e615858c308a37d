//! Records of what the scheduler decided and why, for traces, metrics and reports. The
//! core logs nothing itself.

use super::ledger::LaneRef;
use super::outcome::Outcome;
use crate::id::{BatchSize, LegIndex, ModelId, RequestId, TaskId};
use crate::time::{Nanos, Timestamp};
use serde::Serialize;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// A request was accepted.
    Accepted {
        /// When.
        at: Timestamp,
        /// The request.
        request: RequestId,
        /// Its model.
        model: ModelId,
        /// The earliest of the client's deadline and the model's SLO.
        deadline: Option<Timestamp>,
        /// When it should end, where that can be predicted.
        predicted: Option<Timestamp>,
    },
    /// A leg was handed to a device.
    Issued {
        /// When.
        at: Timestamp,
        /// Its task.
        task: TaskId,
        /// The model.
        model: ModelId,
        /// The leg.
        leg: LegIndex,
        /// Whether it is the whole task in one go.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        unsplit: bool,
        /// Items in the batch.
        batch: BatchSize,
        /// Where.
        lane: LaneRef,
        /// Whether it was committed behind a running leg.
        ahead: bool,
        /// Predicted run time.
        predicted: Option<Nanos>,
    },
    /// A committed leg is to be taken back.
    Revoking {
        /// When.
        at: Timestamp,
        /// Its task.
        task: TaskId,
    },
    /// A leg ended.
    LegEnded {
        /// When the scheduler heard of it.
        at: Timestamp,
        /// Its task.
        task: TaskId,
        /// The model.
        model: ModelId,
        /// The leg.
        leg: LegIndex,
        /// Whether it was the whole task in one go; `leg` is the last one then.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        unsplit: bool,
        /// Items in the batch.
        batch: BatchSize,
        /// Where it ran.
        lane: LaneRef,
        /// The device's time of its start.
        started: Timestamp,
        /// The device's time of its end.
        ended: Timestamp,
        /// What had been predicted.
        predicted: Option<Nanos>,
    },
    /// A model has been measured at another batch, or in full; see
    /// [`Scheduler::measured_points`](super::Scheduler::measured_points).
    Measured {
        /// When.
        at: Timestamp,
        /// The model.
        model: ModelId,
        /// Whether nothing is left to measure.
        done: bool,
    },
    /// A model's times have left the band of its profile. It is measured anew, where that
    /// is allowed; said once per episode.
    Drifted {
        /// When.
        at: Timestamp,
        /// The model.
        model: ModelId,
    },
    /// A request ended.
    Ended {
        /// When.
        at: Timestamp,
        /// The request.
        request: RequestId,
        /// How.
        outcome: Outcome,
    },
}
