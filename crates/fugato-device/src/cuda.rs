//! NVIDIA devices: the driver, green contexts, graphs, and ONNX Runtime on their streams.
//!
//! Start reading at [`Driver::find`], which tells whether there is anything to use, then
//! [`Gpu::open`], [`Gpu::split`] and [`Partition`]. A [`CudaModel`] runs on one [`Stream`],
//! which lies in one partition; [`Stream::capture`] makes a [`Graph`] of what it does.
//!
//! All work is enqueued on streams of green contexts, never on the primary context's: a green
//! context is a cap and not a reservation, so work of the primary context runs on every
//! multiprocessor, those of green contexts too.
//!
//! A [`CudaDevice`] is all of that as one [`Device`](crate::Device).
//!
//! [`SmLayout`] reckons slices and partitions without a driver.
//!
//! **Invariant:** nothing here calls the driver before [`Driver::find`] has found it, because
//! the bindings panic where the library is missing; each type holds what proves that it was.

mod backend;
mod device;
mod division;
mod driver;
#[cfg(test)]
mod fake;
mod gpm;
mod gpu;
mod graph;
mod kernels;
mod layout;
mod libraries;
mod memory;
mod model;
mod nvidia;
mod nvml;
mod open;
mod priority;
mod provider;
mod queues;
mod stream;
mod trap;
mod words;

pub use driver::{CudaError, Driver, NoDriver};
pub use gpu::{Found, Gpu, GpuInfo, Partition, SmGroups, find};
pub use graph::{Executable, Graph, GraphNodes};
pub use kernels::lacks_kernel;
pub use layout::{SmGranularity, SmLayout};
pub use libraries::{
    CudaLibraries, LibrariesError, LibrariesMissing, LibrariesUnfit, Unfit, Unloadable,
};
pub use memory::{DeviceMemory, PinnedMemory};
pub use model::{CudaModel, CudaModelError, CudaModelOptions, Port};
pub use open::{CudaDevice, CudaOptions};
pub use stream::{Event, Stream};
