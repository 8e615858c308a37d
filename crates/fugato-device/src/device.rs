//! The seam between the driver and a device.

use crate::shared::InputFault;
use crate::store::Cuts;
use crate::tensor::{InputTensor, OutputTensor};
use crate::urgency::Urgency;
use fugato_core::device::DeviceSpec;
use fugato_core::sched::Start;
use fugato_core::{DeviceId, LegIndex, ModelId, PartitionId, TaskId, Timestamp};
use std::sync::Arc;

/// A device that runs legs.
///
/// A device is handed its event sink and clock when it is made. It calls the sink from its
/// lane threads; the sink must not block. For every [`Device::start`] it reports either
/// [`DeviceEvent::Started`] then [`DeviceEvent::Finished`], or [`DeviceEvent::Revoked`],
/// and nothing else; legs of one lane run in the order they were started.
///
/// Models are loaded by the device's own type, since what loading needs differs by device.
pub trait Device: Send + Sync {
    /// What the device publishes to the scheduler.
    fn spec(&self) -> &DeviceSpec;

    /// Queues a leg on its lane and returns at once. A lane holds one running and one
    /// committed leg; a third is a bug of the caller and panics.
    ///
    /// A leg of a model that is not loaded finishes with
    /// [`RunErrorKind::ModelNotLoaded`].
    fn start(&self, work: LegWork);

    /// Takes a committed leg back, if its lane has not begun it. The answer is an event:
    /// [`DeviceEvent::Revoked`], or the leg's [`DeviceEvent::Started`], which may have
    /// been sent already.
    fn revoke(&self, start: &RevokeLeg);

    /// Frees what a task that goes no further has left in its slot. None of its legs may be
    /// on the device any more, and no other task in the slot. A device that keeps nothing
    /// between legs has nothing to do.
    fn let_go(&self, place: &LeftBehind) {
        let _nothing_kept = place;
    }
}

/// Where a device reports what happens. Called from lane threads; must not block.
pub type EventSink = Arc<dyn Fn(DeviceEvent) + Send + Sync>;

/// Where a task that was given up between two legs has left its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// The task.
    pub task: TaskId,
    /// Its model.
    pub model: ModelId,
    /// Its slot.
    pub slot: fugato_core::SlotIndex,
}

/// Which committed leg to take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokeLeg {
    /// The task of the leg.
    pub task: TaskId,
    /// The leg.
    pub leg: LegIndex,
    /// The partition it was committed to.
    pub partition: PartitionId,
    /// The lane it was committed to.
    pub lane: fugato_core::LaneId,
}

/// A leg to run, with the payload the core does not see.
#[derive(Debug)]
pub struct LegWork {
    /// The core's order.
    pub start: Start,
    /// The requests of the task in row order, parallel to [`Start::requests`]; empty for
    /// legs after the first.
    pub requests: Vec<RequestInputs>,
}

/// The inputs of one request.
#[derive(Clone, Debug)]
pub struct RequestInputs {
    /// Rows of the batch dimension this request brings; 1 for a model without one.
    pub items: u32,
    /// One tensor per input of the model, in the model's order.
    pub inputs: Arc<[InputTensor]>,
}

/// What a device tells the driver.
#[derive(Debug)]
pub enum DeviceEvent {
    /// A leg has begun.
    Started {
        /// The device.
        device: DeviceId,
        /// The task.
        task: TaskId,
        /// Its leg.
        leg: LegIndex,
        /// When the lane took it up.
        at: Timestamp,
    },
    /// A leg has ended, well or badly.
    Finished {
        /// The device.
        device: DeviceId,
        /// The task.
        task: TaskId,
        /// Its leg.
        leg: LegIndex,
        /// When the lane took it up.
        started: Timestamp,
        /// When its results lay in memory.
        ended: Timestamp,
        /// The parts of `ended - started`.
        split: RunSplit,
        /// The outputs, after the last leg; an error ends the task.
        result: Result<TaskOutputs, RunError>,
    },
    /// The device is lost to this process for good. Told once; its legs end besides, each as
    /// [`RunErrorKind::DeviceLost`].
    Lost {
        /// The device.
        device: DeviceId,
        /// What it said.
        detail: String,
    },
    /// A committed leg was taken back before it began.
    Revoked {
        /// The device.
        device: DeviceId,
        /// The task.
        task: TaskId,
        /// Its leg.
        leg: LegIndex,
    },
}

/// How the time of a leg divides: Triton's compute_input, compute_infer, compute_output, and what
/// the device itself had to do with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunSplit {
    /// Copying the requests side by side into the slot's buffers.
    pub input: fugato_core::Nanos,
    /// Running the model.
    pub infer: fugato_core::Nanos,
    /// Dividing the outputs among the requests.
    pub output: fugato_core::Nanos,
    /// What the leg's copies and its run took by the device's own clock: nothing of what the host
    /// did before, between and after them. `None` where the device has no clock of its own, or
    /// did not tell.
    pub on_device: Option<fugato_core::Nanos>,
}

/// The outputs of a leg.
///
/// # Shape
/// `requests[request][output]`: requests in row order, outputs in the model's order.
/// Empty for every leg but the last.
#[derive(Debug, Default)]
pub struct TaskOutputs {
    /// One entry per request of the task; an error where its inputs could not be had,
    /// which its neighbours in the batch do not feel.
    pub requests: Vec<Result<Vec<OutputTensor>, InputFault>>,
}

/// Why a leg could not run.
#[derive(Clone, Debug, thiserror::Error)]
#[error("model {model:?} could not run a batch of {batch}: {detail}")]
pub struct RunError {
    /// The model.
    pub model: ModelId,
    /// Items in the batch.
    pub batch: u32,
    /// What sort of failure this is.
    pub kind: RunErrorKind,
    /// The runtime's own words, with shapes and types where it gives them.
    pub detail: String,
}

/// The sorts of [`RunError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunErrorKind {
    /// The model is not (or no longer) loaded on this device.
    ModelNotLoaded,
    /// An operator refused the inputs (a shape that only running finds out).
    InvalidInput,
    /// The runtime failed.
    Runtime,
    /// An output did not have one row per item, so it cannot be divided.
    OutputShape,
    /// The device is lost to this process for good: every further call would fail alike (a
    /// sticky error of CUDA). All models and all other legs are lost with it.
    DeviceLost,
}

/// Whether requests to a model may share runs, side by side along the first dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Batches {
    /// As the model store found.
    #[default]
    AsFound,
    /// The owner vouches that every first dimension is the batch, where the model's own
    /// names of them leave that open. All must still vary.
    Vouched,
    /// No first dimension is a batch, whatever the model looks like.
    Never,
}

/// How an NVIDIA device runs a model. The CPU has no such choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuTuning {
    /// Whether products of 32-bit floats may be rounded to 10 bits, as tensor cores do.
    pub tf32: bool,
    /// Whether convolutions run with channels last.
    pub nhwc: bool,
    /// How the way that a convolution is computed is chosen.
    pub convolutions: ConvolutionSearch,
    /// Whether runs are captured into graphs, by batch.
    pub graphs: bool,
    /// Whether groups that a plan has at once run so, in one graph, where the device does that at
    /// all.
    pub side_by_side: bool,
    /// Whose kernels go first where models share multiprocessors at once.
    pub urgency: Urgency,
}

impl Default for GpuTuning {
    fn default() -> Self {
        Self {
            tf32: false,
            nhwc: false,
            convolutions: ConvolutionSearch::Heuristic,
            graphs: true,
            side_by_side: true,
            urgency: Urgency::LEAST,
        }
    }
}

/// How cuDNN's way of computing a convolution is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConvolutionSearch {
    /// By cuDNN's quick rules.
    #[default]
    Heuristic,
    /// By cuDNN's thorough rules.
    Exhaustive,
    /// What works always.
    Fallback,
}

/// How a model is loaded on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// The most items of a batch, at least 1; above 1 only for a batchable model.
    pub max_batch: u32,
    /// Sets of buffers, one for each task in flight, at least 1.
    pub slots: u16,
    /// Partitions whose sessions are made at once; others are made by the first leg that
    /// needs them.
    pub warm: Vec<PartitionId>,
    /// Whether requests may share runs.
    pub batches: Batches,
    /// How the model is cut into legs; `None`: one leg, the model as it is.
    pub cuts: Option<Cuts>,
    /// Whether a cut model can run in one go besides, where the device has that: for one more
    /// session of it in each partition.
    pub unsplit: bool,
    /// Whether groups at once run as is faster at each share and batch, found out while the model
    /// is served, on the CPU; or else as the cuts have them, always. For one more session of each
    /// such part, with a thread for each slice, on each lane of several.
    pub finds_ways: bool,
    /// What only an NVIDIA device heeds.
    pub gpu: GpuTuning,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            max_batch: 1,
            // One task runs while the next is gathered.
            slots: 2,
            warm: vec![PartitionId(0)],
            batches: Batches::AsFound,
            cuts: None,
            unsplit: false,
            finds_ways: false,
            gpu: GpuTuning::default(),
        }
    }
}

/// What came of loading a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The legs of its tasks: as many as the cuts have, or one where a part did not load
    /// or run by itself and the model is served as it is.
    pub legs: u16,
    /// Whether a task of several legs can run in one go besides
    /// ([`Start::unsplit`](fugato_core::sched::Start::unsplit)). On the CPU, where that was asked
    /// for.
    pub unsplit: bool,
    /// Those of them whose groups run at once, in every partition that was made warm, on an
    /// NVIDIA device; others' groups run as the device has it.
    pub legs_at_once: u16,
}

/// What an NVIDIA device says of itself. `None`: this device or driver does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuHealth {
    /// Bytes of its memory that are taken, by whomever.
    pub memory_used: Option<u64>,
    /// Bytes of its memory.
    pub memory_total: Option<u64>,
    /// Power that it draws, in milliwatts.
    pub power_milliwatts: Option<u32>,
    /// Energy that it has drawn since the driver was loaded, in millijoules.
    pub energy_millijoules: Option<u64>,
    /// Percent of the last moments in which any kernel ran: one busy multiprocessor is 100.
    pub busy_percent: Option<u32>,
    /// Percent of its multiprocessors that had work, on average since it was asked before; from
    /// Hopper on.
    pub sm_active_percent: Option<f64>,
    /// Percent of the warps that its multiprocessors could hold that were there, as above.
    pub sm_occupied_percent: Option<f64>,
    /// Its temperature, in degrees Celsius.
    pub celsius: Option<u32>,
}

/// What a device has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceMetrics {
    /// Legs that ended, well or badly.
    pub legs: u64,
    /// Legs that ran with groups at once: on an NVIDIA device, that it was given so, in one graph.
    pub legs_at_once: u64,
    /// Other legs that an NVIDIA device was given all in graphs of the runtime's.
    pub legs_captured: u64,
    /// Bytes of requests copied into slot buffers: each byte once.
    pub bytes_copied_in: u64,
    /// Bytes of results copied out of the runtime: strings, and outputs that are inputs
    /// of the model at once. All other results share the device's buffers.
    pub bytes_copied_out: u64,
    /// What an NVIDIA device says of itself, where it can be asked.
    pub gpu: Option<GpuHealth>,
}
