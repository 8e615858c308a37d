//! Settings that are one of a few words.

use serde::{Deserialize, Serialize};

/// How the scheduler chooses what to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// One task at a time on the whole device, in order of arrival.
    Fifo,
    /// One task at a time, earliest deadline first; drops what will be late.
    Edf,
    /// As `edf`, chosen anew at each boundary between two legs of a task.
    EdfLegs,
    /// One model at a time on the whole device, in turns whose lengths are in proportion to
    /// the objectives.
    Temporal,
    /// Every model at once, with a number of instances, preferred batch sizes and a queue
    /// delay, and no shares.
    Uncontrolled,
    /// The whole device in order of arrival, with batches that grow while they are in time.
    Clipper,
    /// Models packed into duty cycles of the whole device, with batches for their rates.
    Nexus,
    /// Each model in a partition of its own at its knee, with batches that adapt.
    Gslice,
    /// In shares; what brings most items per slice-second first.
    MaxThroughput,
    /// In shares; the model that had least device time by its weight first.
    MaxMin,
    /// Sessions of planned runs in shares that never overlap, and what fits between them.
    Dstack,
    /// In the smallest shares that keep deadlines, chosen anew at each leg.
    Fugato,
}

/// Who decides when models are loaded and unloaded (Triton's modes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ModelControlMode {
    /// All models of the repository are loaded at the start, and that is all.
    None,
    /// The repository is looked at now and then: what was added, changed or removed is
    /// loaded, loaded anew or unloaded.
    Poll,
    /// The models named at the start are loaded; clients load and unload.
    Explicit,
}

/// Which device runs the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// An NVIDIA device where all that it needs is there, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA device. It is an error where one cannot be used.
    Cuda,
}

/// Which of a server's devices runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ModelDevice {
    /// The one that the server runs models on.
    Server,
    /// That one, or the CPU beside it where that one refuses the model for what it is.
    Auto,
    /// The CPU.
    Cpu,
}

/// How cuDNN's way of computing a convolution is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CudnnSearch {
    /// By cuDNN's quick rules.
    Heuristic,
    /// By cuDNN's thorough rules.
    Exhaustive,
    /// What works always.
    Fallback,
}

/// In what precision a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// As its file has it.
    Fp32,
    /// In floats of 16 bits; inputs and outputs stay as they are.
    Fp16,
}

/// Whether a supervisor holds the listening sockets and starts another server where one ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Supervise {
    /// With a device whose faults only a new process heals: an NVIDIA device, not the CPU.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Whether groups that a plan has at once run side by side on an NVIDIA device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PlanLanes {
    /// Where `fugato gpu-check` has found on this machine that they do so well.
    Auto,
    /// Wherever a leg can be captured.
    On,
    /// Nowhere.
    Off,
}

/// How log lines are written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
