//! Identifiers. Each is its own type, so that no two can be swapped.
//!
//! Ids are given out by the driver (devices, models, requests) or by the scheduler
//! (tasks); the core never derives meaning from their values, only order.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($repr:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id! {
    /// A device: one accelerator, or the CPU.
    DeviceId(u16), "device "
}
id! {
    /// A loaded model version. Reloading a model makes a new one.
    ModelId(u32), "model "
}
id! {
    /// A request, unique for the life of the driver, rising in order of arrival.
    RequestId(u64), "request "
}
id! {
    /// A task: one execution of a model over a batch of requests.
    TaskId(u64), "task "
}
id! {
    /// A leg of a plan, counted from 0.
    LegIndex(u16), "leg "
}
id! {
    /// A partition of a device, as that device numbered it.
    PartitionId(u16), "partition "
}
id! {
    /// A lane of a partition, counted from 0 within the partition.
    LaneId(u16), "lane "
}
id! {
    /// A slot of a model (a set of buffers for one task in flight), counted from 0.
    SlotIndex(u16), "slot "
}
id! {
    /// A class of requests of one model that may share a batch: equal shapes past the
    /// batch dimension. The shell numbers the classes; 0 where shapes are static.
    ShapeClass(u32), "shape class "
}
id! {
    /// A number of items (rows of the batch dimension), at least 1.
    BatchSize(u32), "batch of "
}
id! {
    /// A number of slices of a device.
    Share(u16), "share of "
}
id! {
    /// A tensor of a [`Graph`](crate::graph::Graph), counted from 0.
    TensorIndex(u32), "tensor "
}
id! {
    /// An operator of a [`Graph`](crate::graph::Graph), counted from 0 in its order.
    OperatorIndex(u32), "operator "
}
id! {
    /// A segment of a [`Graph`](crate::graph::Graph), counted from 0 in a topological order.
    SegmentIndex(u32), "segment "
}

macro_rules! place {
    ($($name:ident),*) => {
        $(impl $name {
            /// The place in a list.
            #[must_use]
            pub const fn place(self) -> usize {
                self.0 as usize
            }

            /// The index of a place in a list.
            ///
            /// # Panics
            /// Where the list has more than 2^32 entries, which no constructor lets through.
            #[must_use]
            pub fn at(place: usize) -> Self {
                Self(u32::try_from(place).expect("lists of graphs are shorter than 2^32"))
            }
        })*
    };
}

place!(TensorIndex, OperatorIndex, SegmentIndex);
