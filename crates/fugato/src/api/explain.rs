//! What `explain` answers about one request: what was decided, when, and why.

use serde::Serialize;

/// What became of a request, or will. All times are microseconds from its arrival.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The model.
    pub model_name: String,
    /// The version.
    pub model_version: String,
    /// The client's name for the request.
    pub id: String,
    /// Where it is: `waiting`, `in_task` or `ended`.
    pub state: &'static str,
    /// How it ended: `ok`, or the label of its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// The text of its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The constraint that refused it, and by how much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constraint: Option<Constraint>,
    /// Its deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_us: Option<i64>,
    /// When it was predicted to end, as it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_us: Option<i64>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_us: Option<i64>,
    /// Items of the task it ran in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// The legs it ran in, in order.
    pub legs: Vec<LegExplanation>,
}

/// A constraint that a request did not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Constraint {
    /// It would have ended after its deadline.
    Deadline {
        /// The deadline.
        deadline_us: i64,
        /// When it would have ended.
        predicted_us: i64,
        /// How much later that is.
        by_us: i64,
        /// How long it would have waited, where admission refused it.
        #[serde(skip_serializing_if = "Option::is_none")]
        wait_us: Option<i64>,
        /// How long it would have run, where admission refused it.
        #[serde(skip_serializing_if = "Option::is_none")]
        run_us: Option<i64>,
    },
    /// It would have left requests that were accepted before it short of time.
    Room {
        /// Its deadline.
        deadline_us: i64,
        /// How much time is short.
        by_us: i64,
    },
    /// Its deadline passed while it waited.
    Expired {
        /// The deadline.
        deadline_us: i64,
        /// How long ago that was when it was given up.
        by_us: i64,
    },
    /// It waited longer than its own `timeout`.
    QueueTimeout {
        /// When the timeout ran out.
        timeout_us: i64,
    },
    /// A queue held as many requests as it may.
    QueueRequests {
        /// `model` or `total`.
        scope: &'static str,
        /// Requests in it.
        held: u64,
        /// The most it may hold.
        limit: u64,
    },
    /// The bytes of accepted requests would have passed a limit.
    QueueBytes {
        /// `model` or `total`.
        scope: &'static str,
        /// Bytes held.
        held: u64,
        /// Bytes of the request.
        wanted: u64,
        /// The most that may be held.
        limit: u64,
        /// Bytes above it.
        by: u64,
    },
}

/// One leg that a request ran in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LegExplanation {
    /// Which leg of the model's plan.
    pub leg: u16,
    /// Whether it is the whole task in one go; `leg` is the last one then.
    pub unsplit: bool,
    /// The task.
    pub task: u64,
    /// The device.
    pub device: u16,
    /// The partition of the device.
    pub partition: u16,
    /// The lane of the partition.
    pub lane: u16,
    /// Items in the batch.
    pub batch_size: u32,
    /// Whether it was committed behind a running leg.
    pub committed_ahead: bool,
    /// When it was handed to the device.
    pub issued_us: i64,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_us: Option<i64>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_us: Option<i64>,
    /// How long it was predicted to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_run_us: Option<i64>,
}
