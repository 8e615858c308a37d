//! The core of Fugato: scheduler, policies, latency models and simulator, sans-IO.
//!
//! **Invariant:** nothing in this crate reads a clock, starts a thread, does I/O, reads
//! the environment, takes randomness from the operating system or iterates in hash
//! order. The server and the simulator drive the same scheduler type.

pub mod device;
mod id;
pub mod sched;
mod time;
pub mod workload;

pub use id::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, PartitionId, RequestId, ShapeClass, Share,
    SlotIndex, TaskId,
};
pub use time::{Nanos, Timestamp};
