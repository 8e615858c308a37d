//! Policies: who runs next, where, in what batch. One trait, one file each; the server
//! and the simulator run the same ones.

mod aimd;
mod clipper;
mod dstack;
mod edf;
mod edf_legs;
mod fifo;
mod fugato;
mod gslice;
mod max_min;
mod max_throughput;
mod nexus;
mod sizes;
mod sizing;
mod temporal;
mod turn;
mod uncontrolled;

pub use clipper::Clipper;
pub use dstack::{Dstack, LeftOut, Plan, PlannedRun};
pub use edf::Edf;
pub use edf_legs::EdfLegs;
pub use fifo::Fifo;
pub use fugato::{Fugato, FugatoParts};
pub use gslice::Gslice;
pub use max_min::MaxMin;
pub use max_throughput::MaxThroughput;
pub use nexus::Nexus;
pub use sizing::{OperatingPoint, Sizer, Sizing};
pub use temporal::Temporal;
pub use uncontrolled::Uncontrolled;

use crate::id::{BatchSize, DeviceId, ModelId, RequestId, ShapeClass, Share, TaskId};
use crate::sched::{DropReason, LaneRef, LegResult, PolicySpec, View};
use crate::time::{Nanos, Timestamp};
use std::fmt;

/// A scheduling policy.
///
/// A policy keeps no copy of the scheduler's state: it looks at the [`View`] and gives one
/// [`Verdict`]; the scheduler carries it out and asks again, until [`Verdict::Wait`].
pub trait Policy: fmt::Debug + Send {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it promises about the use of devices; the scheduler asserts it.
    fn capacity(&self) -> CapacityRule;

    /// What it promises to models that wait; the scheduler asserts it.
    fn service_bound(&self) -> Option<ServiceBound>;

    /// How the queues are ordered.
    fn queue_order(&self) -> QueueOrder;

    /// Whose backlog a new request waits for.
    fn backlog(&self) -> Backlog;

    /// What it has planned for a device; `None` for a policy that plans nothing ahead, and
    /// before its first plan.
    fn plan(&self, _device: DeviceId) -> Option<&Plan> {
        None
    }

    /// What to do now.
    ///
    /// # Cost
    /// At most proportional to the models that wait, in the usual case much less, and
    /// independent of queue lengths but for the requests that go into the batch. A policy that
    /// plans ahead may take a millisecond for that at 100 models, a few times in a second.
    fn decide(&mut self, view: &View<'_>) -> Verdict;

    /// When a task of a cut model runs in one go, where its device can run it so.
    fn runs_unsplit(&self) -> RunsUnsplit {
        RunsUnsplit::LoneModel
    }

    /// Learns of a leg that ended: what a policy counts or adapts to.
    ///
    /// # Cost
    /// As that of [`decide`](Self::decide).
    fn ran(&mut self, _ran: &Ran) {}
}

/// When a task of a cut model runs in one go: never while another model waits or runs on its
/// devices, or was asked for within a second, since it is to be given way to at boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsUnsplit {
    /// Never.
    Never,
    /// Where it is the only task and nothing else waits: tasks of one model at different
    /// legs, each in the share that its leg can use, fill a device better than it does.
    LoneTask,
    /// Always otherwise: for a policy that gives all legs of a task one share.
    LoneModel,
}

/// A leg that ended, of a task with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Where.
    pub device: DeviceId,
    /// Of which model.
    pub model: ModelId,
    /// Items in the batch.
    pub batch: BatchSize,
    /// Slices that it held.
    pub share: Share,
    /// The model's latency objective.
    pub slo: Option<Nanos>,
    /// The device's time of the leg.
    pub took: Nanos,
    /// The device's time of the task's legs so far.
    pub task_took: Nanos,
    /// Whether it was the task's last leg.
    pub is_last: bool,
    /// How it ended.
    pub result: LegResult,
}

/// What a policy promises about the use of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityRule {
    /// Legs that run at once run in disjoint partitions.
    Exclusive,
    /// As [`Exclusive`](Self::Exclusive), but on an urgent lane a leg may begin over those
    /// that run on normal lanes, which the device suspends: legs on urgent lanes run in disjoint
    /// partitions, and on a normal lane a leg begins only where nobody holds an atom.
    Layered,
    /// Partitions may overlap; at most this many lanes of a device are occupied.
    Oversubscribed {
        /// The most lanes at once.
        lanes: u16,
    },
}

/// What a policy promises to models that wait.
///
/// Of the models that could start on a device (hosted there, with a free slot, not parked)
/// the one whose first request goes first is passed over by at most `passes` launches on
/// that device in a row. As each model comes first in its turn, none starves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceBound {
    /// Launches of other models it may have to let pass.
    pub passes: u32,
}

/// How queues are ordered, after priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueOrder {
    /// By arrival.
    Arrival,
    /// By deadline.
    Deadline,
}

/// Whose backlog a new request waits for, for admission: what goes before it in the
/// policy's order,
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// of its own model.
    Own,
    /// of all models.
    All,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start a task.
    Launch {
        /// Of which model; it must be waiting and have a free slot.
        model: ModelId,
        /// From which class of its requests, taken in queue order.
        class: ShapeClass,
        /// The most items to take; the first request is taken whatever it brings.
        batch: BatchSize,
        /// Where; the lane must have an open offer.
        at: LaneRef,
    },
    /// Start the next leg of a task that is between two legs.
    Continue {
        /// The task.
        task: TaskId,
        /// Where.
        at: LaneRef,
    },
    /// Take a committed leg back; its requests return to their queue.
    Revoke {
        /// The task.
        task: TaskId,
    },
    /// Give up a waiting request.
    Drop {
        /// The request.
        request: RequestId,
        /// Why.
        reason: DropReason,
    },
    /// Give up a task that is between two legs, with all its requests: none of them could
    /// end in time.
    Abandon {
        /// The task.
        task: TaskId,
        /// When it would end at the earliest.
        predicted: Timestamp,
    },
    /// Leave a model out until a time, or until a request of it arrives or a task of it
    /// ends.
    Park {
        /// The model.
        model: ModelId,
        /// When to look again at the latest.
        until: Option<Timestamp>,
    },
    /// Nothing until the next event, or until a time if none comes before.
    Wait {
        /// When to ask again at the latest; `None` where only an event changes anything.
        until: Option<Timestamp>,
    },
}

impl Verdict {
    /// Nothing until the next event.
    pub const WAIT: Self = Self::Wait { until: None };
}

/// The capacity rule of the policy of a specification.
pub fn capacity_of(spec: &PolicySpec) -> CapacityRule {
    from_spec(spec).capacity()
}

/// Makes the policy of a specification.
pub fn from_spec(spec: &PolicySpec) -> Box<dyn Policy> {
    match spec {
        PolicySpec::Fifo => Box::new(Fifo),
        PolicySpec::Edf => Box::new(Edf),
        PolicySpec::EdfLegs => Box::new(EdfLegs),
        PolicySpec::Temporal { cycle } => Box::new(Temporal::new(*cycle)),
        PolicySpec::Uncontrolled { lanes, share } => Box::new(Uncontrolled::new(*lanes, *share)),
        PolicySpec::Clipper { target_percent } => Box::new(Clipper::new(*target_percent)),
        PolicySpec::Nexus => Box::<Nexus>::default(),
        PolicySpec::Gslice {
            lanes,
            target_percent,
        } => Box::new(Gslice::new(*lanes, *target_percent)),
        PolicySpec::MaxThroughput => Box::new(MaxThroughput::new()),
        PolicySpec::MaxMin => Box::new(MaxMin::new()),
        PolicySpec::Dstack {
            point,
            margin,
            dynamic,
        } => Box::new(Dstack::new(*point, *margin, *dynamic)),
        PolicySpec::Fugato(parts) => Box::new(Fugato::new(*parts)),
    }
}
