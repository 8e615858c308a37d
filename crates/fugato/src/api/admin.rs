//! What operators ask: statistics, loading, settings. The protocols turn these into
//! Triton's messages.

use bytes::Bytes;
use fugato_core::Nanos;
use std::collections::BTreeMap;

/// How often something happened, and how long it took in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How often.
    pub count: u64,
    /// The sum of the times.
    pub total: Nanos,
}

/// What has been counted of one model version since it was loaded (Triton's statistics
/// extension).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelStatistics {
    /// The model.
    pub name: String,
    /// The version.
    pub version: String,
    /// When the last request was made, in milliseconds since 1970; 0 for none.
    pub last_inference_ms: u64,
    /// Items (rows) that ended well.
    pub inference_count: u64,
    /// Tasks that ended well.
    pub execution_count: u64,
    /// Requests that ended well, from arrival to reply.
    pub success: Counted,
    /// Requests that ended badly.
    pub fail: Counted,
    /// Requests that their client took back.
    pub cancel: Counted,
    /// Time of requests in the queue.
    pub queue: Counted,
    /// Time of requests while inputs were copied.
    pub compute_input: Counted,
    /// Time of requests while the model ran.
    pub compute_infer: Counted,
    /// Time of requests while outputs were divided.
    pub compute_output: Counted,
    /// By batch size, rising.
    pub batches: Vec<BatchStatistics>,
}

/// What has been counted of the tasks of one batch size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStatistics {
    /// Items of the batch.
    pub batch_size: u64,
    /// Copying inputs.
    pub compute_input: Counted,
    /// Running the model.
    pub compute_infer: Counted,
    /// Dividing outputs.
    pub compute_output: Counted,
}

/// An order to load a model (Triton's model repository extension).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadRequest {
    /// The model.
    pub name: String,
    /// Its configuration as JSON, in place of its `config.pbtxt`.
    pub config: Option<String>,
    /// Files in place of those of the repository; they need [`Self::config`] too.
    pub files: Vec<LoadFile>,
}

/// A file that comes with an order to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFile {
    /// Relative to the model's folder, `1/model.onnx`; not checked yet.
    pub path: String,
    /// Its bytes.
    pub content: Bytes,
}

/// Trace settings by name, each a list of values (Triton's trace extension).
pub type TraceSettings = BTreeMap<String, Vec<String>>;

/// Log settings by name (Triton's logging extension).
pub type LogSettings = BTreeMap<String, LogSetting>;

/// The value of a log setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSetting {
    /// On or off.
    Switch(bool),
    /// A level of detail.
    Level(u32),
    /// A name: of a format, of a file.
    Text(String),
}
