//! How requests end. None of these is an error of the program: they are results.

use crate::id::{BatchSize, DeviceId};
use crate::time::{Nanos, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its task ran to the end; the outputs are with the driver.
    Completed,
    /// It was refused on arrival.
    Rejected(Rejection),
    /// It was accepted, and given up before it ran.
    Dropped(DropReason),
    /// Its client went away.
    Cancelled,
    /// Its task failed.
    Failed(FailReason),
}

/// Why a request was refused on arrival: which constraint, and by how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The scheduler knows no such model.
    UnknownModel,
    /// The model is being removed.
    ModelStopping,
    /// The server is draining.
    Draining,
    /// No device that hosts the model is present.
    NoDevice,
    /// The request alone is larger than the model's largest batch.
    BatchTooLarge {
        /// Items the request brings.
        items: BatchSize,
        /// The most one batch may hold.
        max: BatchSize,
    },
    /// A queue holds its limit of requests.
    QueueFull {
        /// Whose limit it is.
        scope: Scope,
        /// Requests in the queue.
        queued: u64,
        /// The most it may hold.
        limit: u64,
    },
    /// The request's bytes do not fit a limit.
    BytesFull {
        /// Whose limit it is.
        scope: Scope,
        /// Bytes of accepted requests that have not ended.
        held: u64,
        /// Bytes of this request.
        request: u64,
        /// The most that may be held.
        limit: u64,
    },
    /// It would end after its deadline.
    DeadlineUnreachable {
        /// When it should end.
        deadline: Timestamp,
        /// When it would end: now, then `wait`, then `run`.
        predicted: Timestamp,
        /// Predicted time before its task could start.
        wait: Nanos,
        /// Predicted time of its task.
        run: Nanos,
    },
    /// It could end in time, and requests that were accepted before it would not.
    NoRoom {
        /// When it should end.
        deadline: Timestamp,
        /// How much time is short, with the reserve that is kept for errors of prediction.
        short: Nanos,
    },
}

/// Whose limit a request ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The queue of its model.
    Model,
    /// All models together.
    Total,
}

/// Why an accepted request was given up before it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// Its deadline passed while it waited.
    Expired {
        /// The deadline.
        deadline: Timestamp,
    },
    /// It could no longer end in time: not if it started at once and by itself, or, under
    /// overload, not in the full batch that those behind it are to run in.
    Doomed {
        /// The deadline.
        deadline: Timestamp,
        /// When it would have ended.
        predicted: Timestamp,
    },
    /// It waited longer than its own queue timeout (Triton's `timeout` parameter).
    QueueTimeout {
        /// When the timeout ran out.
        at: Timestamp,
    },
}

/// Why a task failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// The device could not run the leg; the driver holds the device's own error.
    Run,
    /// The device went away while the task ran.
    DeviceLost {
        /// The device.
        device: DeviceId,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownModel => f.write_str("no such model is being served"),
            Self::ModelStopping => f.write_str("the model is being unloaded"),
            Self::Draining => f.write_str("the server is draining"),
            Self::NoDevice => f.write_str("no device that hosts the model is present"),
            Self::BatchTooLarge { items, max } => {
                write!(
                    f,
                    "the request has {} items, more than the largest batch of {}",
                    items.0, max.0
                )
            }
            Self::QueueFull {
                scope,
                queued,
                limit,
            } => {
                write!(
                    f,
                    "{} holds {queued} requests, its limit is {limit}",
                    scope.queue()
                )
            }
            Self::BytesFull {
                scope,
                held,
                request,
                limit,
            } => write!(
                f,
                "{} holds {held} bytes, a request of {request} more goes over its limit of {limit}",
                scope.queue()
            ),
            Self::DeadlineUnreachable {
                deadline,
                predicted,
                wait,
                run,
            } => write!(
                f,
                "it would end {} after its deadline (a wait of {wait}, then a run of {run})",
                *predicted - *deadline
            ),
            Self::NoRoom { short, .. } => write!(
                f,
                "requests that were accepted before it would be {short} short of time"
            ),
        }
    }
}

impl Scope {
    fn queue(self) -> &'static str {
        match self {
            Self::Model => "the model's queue",
            Self::Total => "the server",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { .. } => f.write_str("its deadline passed while it waited"),
            Self::Doomed {
                deadline,
                predicted,
            } => {
                write!(
                    f,
                    "it would have ended {} after its deadline",
                    *predicted - *deadline
                )
            }
            Self::QueueTimeout { .. } => f.write_str("it waited longer than its queue timeout"),
        }
    }
}
