//! Devices: the model store, ONNX Runtime sessions, and the lanes that run legs.
//!
//! Start reading at [`Device`], the seam between the driver and any accelerator. The CPU's
//! path is [`Runtime::load`] once, [`ModelStore::prepare`] per model file, then
//! [`CpuDevice::load`] and [`Device::start`].
//!
//! **Invariant:** this is the only crate of Fugato with `unsafe`; each block says why it
//! is sound.

mod any;
mod batch;
mod capi;
mod clock;
mod course;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod flight;
mod os;
mod profiler;
pub mod reference;
mod report;
mod runtime;
mod shared;
mod store;
mod tensor;
mod urgency;

pub use any::AnyDevice;
pub use clock::MonotonicClock;
pub use cpu::{CpuDevice, CpuError, CpuOptions};
pub use device::{
    Batches, ConvolutionSearch, Device, DeviceEvent, DeviceMetrics, EventSink, GpuHealth,
    GpuTuning, LeftBehind, LegWork, LoadOptions, Loaded, RequestInputs, RevokeLeg, RunError,
    RunErrorKind, RunSplit, TaskOutputs,
};
pub use os::{Promptness, bound_heap, exit_at_once, hasten_this_thread};
pub use profiler::{
    Neighbour, Profiler, Visit, VisitError, Walk, Walked, partitions_beside, slots_beside,
};
pub use runtime::{Runtime, RuntimeError, RuntimeErrorKind};
pub use shared::{InputFault, SharedSlice};
pub use store::{
    Batching, CutError, Cuts, HalfError, Indivisible, LoadError, LoadErrorKind, ModelGraph,
    ModelInfo, ModelStore, Precision, StackError, StoredModel, WeightPages,
};
pub use tensor::{ElementType, InputData, InputTensor, OutputTensor, TensorData, TensorSpec};
pub use urgency::Urgency;
