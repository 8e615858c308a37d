//! The core of Fugato: scheduler, policies, latency models and simulator, sans-IO.
//!
//! **Invariant:** nothing in this crate reads a clock, starts a thread, does I/O, reads
//! the environment, takes randomness from the operating system or iterates in hash
//! order. The server and the simulator drive the same scheduler type, [`sched::Scheduler`].

pub mod capacity;
pub mod device;
pub mod driver;
mod flat;
pub mod graph;
mod id;
pub mod mix;
pub mod plan;
pub mod policy;
pub mod profile;
pub mod sched;
pub mod sim;
mod time;
pub mod timeline;
pub mod workload;

pub use id::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, OperatorIndex, PartitionId, RequestId,
    SegmentIndex, ShapeClass, Share, SlotIndex, TaskId, TensorIndex,
};
pub use time::{Nanos, Timestamp};
