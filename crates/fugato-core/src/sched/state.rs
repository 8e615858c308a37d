//! The scheduler's state: models, requests, tasks, and the indices that keep every
//! decision cheap.
//!
//! **Invariant:** `ready` holds a model exactly when it has a waiting request and a free
//! slot and is not parked; `expiry` holds a request exactly when it waits and has a time
//! to be given up; `continuing` holds a task exactly when it has a leg left that may be
//! issued and somebody waits for it.

mod knowledge;
mod waiting;

pub use knowledge::ModelFacts;
pub(super) use knowledge::Spot;

use super::config::{ModelSpec, SchedulerConfig};
use super::dense::DenseMap;
use super::input::Overdue;
use super::latencies::Latencies;
use super::ledger::{LaneRef, Ledger};
use super::line::Line;
use super::pools::{Pool, PoolId, Pools};
use super::queue::{ModelKey, ModelQueue, QueueKey};
use super::recent::Recent;
use crate::id::{
    BatchSize, DeviceId, LegIndex, ModelId, RequestId, ShapeClass, Share, SlotIndex, TaskId,
};
use crate::policy::{Backlog, CapacityRule, QueueOrder};
use crate::profile::{Demand, Window};
use crate::time::{Nanos, Timestamp};
use knowledge::Plan;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct State {
    pub(super) now: Timestamp,
    pub(super) config: SchedulerConfig,
    pub(super) rule: CapacityRule,
    pub(super) order: QueueOrder,
    pub(super) backlog: Backlog,
    pub(super) models: DenseMap<ModelId, Model>,
    pub(super) requests: DenseMap<RequestId, Request>,
    pub(super) tasks: DenseMap<TaskId, Task>,
    pub(super) ledger: Ledger,
    pub(super) latency: Latencies,
    /// By device that hosts them and is present.
    pub(super) ready: BTreeMap<DeviceId, BTreeSet<(ModelKey, ModelId)>>,
    pub(super) parked: BTreeSet<(Timestamp, ModelId)>,
    /// Rises when anything in `ready` changes.
    pub(super) moves: u64,
    pub(super) expiry: Line<(Timestamp, RequestId), ()>,
    pub(super) continuing: BTreeSet<TaskId>,
    /// Requests that wait, of all models.
    pub(super) waiting: u64,
    /// Bytes of requests that have not ended, of all models.
    pub(super) bytes: u64,
    /// What is kept of the models by the devices that they compete for.
    pub(super) pools: Pools,
    pub(super) draining: bool,
    /// Rises when a model or a device comes, goes or changes its settings.
    pub(super) configuration: u64,
    pub(super) next_task: u64,
}

/// Arrivals are counted over periods of 2^30 ns, about a second.
pub(super) const RATE_PERIOD: u32 = 30;

/// What a model had of the devices since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Had {
    /// Tasks that ran to the end.
    pub tasks: u64,
    /// Time of their legs, each times the slices it held.
    pub slice_time: Nanos,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) spec: ModelSpec,
    pub(super) pool: PoolId,
    pub(super) queue: ModelQueue,
    pub(super) free_slots: BTreeSet<SlotIndex>,
    pub(super) in_flight: u16,
    pub(super) bytes: u64,
    pub(super) stopping: bool,
    /// Its key in `ready`, in the set of each present device that hosts it.
    pub(super) ready: Option<ModelKey>,
    /// Whether it is parked, and its entry in `parked` if that ends at a time.
    pub(super) parked: Option<Option<Timestamp>>,
    /// How its backlog will be served; `None` before the first measurement.
    pub(super) plan: Option<Plan>,
    /// The price per item at which its waiting requests stand in [`Pool::work`]: that of
    /// the plan, give or take [`PRICE_STEP`](waiting::PRICE_STEP).
    pub(super) price: Nanos,
    pub(super) last_done: Option<Timestamp>,
    /// Relative errors of predictions, in thousandths.
    pub(super) errors: Window,
    /// When it was last said to have drifted, and whether that goes on.
    pub(super) drift: Option<(Timestamp, bool)>,
    /// Items that were asked for of late, served or refused.
    pub(super) asked: Recent<RATE_PERIOD>,
    /// What it had of the devices since it was added.
    pub(super) had: Had,
    /// What its profile concludes.
    pub(super) facts: Option<ModelFacts>,
    /// Rises when what is known of its latency has changed enough to size it anew.
    pub(super) knowledge: u32,
    /// Times, and profiles, that were told of its latency.
    pub(super) told: u64,
    /// Whether it can be run without requests.
    pub(super) measurable: bool,
    /// Whether the profile it was given lacks points that are still to be measured.
    pub(super) unfinished: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) model: ModelId,
    pub(super) class: ShapeClass,
    pub(super) items: BatchSize,
    pub(super) bytes: u64,
    pub(super) received: Timestamp,
    pub(super) deadline: Option<Timestamp>,
    pub(super) queue_timeout: Option<Timestamp>,
    pub(super) overdue: Overdue,
    pub(super) key: QueueKey,
    pub(super) place: Place,
    /// Its entry in `expiry`.
    pub(super) give_up: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Queue,
    Task(TaskId),
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) model: ModelId,
    pub(super) slot: SlotIndex,
    pub(super) batch: BatchSize,
    pub(super) requests: Vec<RequestId>,
    /// The queue key of its most urgent request.
    pub(super) key: QueueKey,
    /// The leg issued last.
    pub(super) leg: LegIndex,
    /// Whether it runs in one go: `leg` is the last one then, from the beginning.
    pub(super) unsplit: bool,
    /// Where that leg is or was.
    pub(super) at: LaneRef,
    /// Where the leg is in its life.
    pub(super) stage: LegStage,
    /// Whether the next leg is committed behind `leg` on the same lane.
    pub(super) ahead: bool,
    /// What ran beside its leg when most other slices were held since it started.
    pub(super) beside: Beside,
    /// Whether an urgent leg ran over its running leg, whose time then says nothing.
    pub(super) suspended: bool,
    /// While leg 0 is committed behind a running leg: the last moment at which its start
    /// lets the first request end in time, at the median. `None` where there is none, or
    /// where it was past when the leg was committed.
    pub(super) start_by: Option<Timestamp>,
    /// Device time of its legs so far.
    pub(super) spent: Nanos,
}

/// What runs beside a leg. Ordered by slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Beside {
    /// Slices that other legs hold.
    pub(super) neighbours: Share,
    /// What these demand, where that is known.
    pub(super) demand: Option<Demand>,
}

impl Task {
    /// Whether this is the leg that it begins with.
    pub(super) const fn is_first(&self, leg: LegIndex) -> bool {
        leg.0 == 0 || self.unsplit
    }
}

impl Beside {
    pub(super) const NOTHING: Self = Self {
        neighbours: Share(0),
        demand: None,
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LegStage {
    /// Handed to the device, which has not begun it.
    Committed,
    /// On the device.
    Running,
    /// Ended; the next leg is to be issued.
    Between,
}

impl Model {
    pub(super) fn new(spec: ModelSpec, pool: PoolId) -> Self {
        let free_slots = (0..spec.slots).map(SlotIndex).collect();
        Self {
            spec,
            pool,
            queue: ModelQueue::default(),
            free_slots,
            in_flight: 0,
            bytes: 0,
            stopping: false,
            ready: None,
            parked: None,
            plan: None,
            price: Nanos::ZERO,
            last_done: None,
            errors: Window::default(),
            drift: None,
            asked: Recent::default(),
            had: Had::default(),
            facts: None,
            knowledge: 0,
            told: 0,
            measurable: false,
            unfinished: false,
        }
    }
}

impl State {
    pub(super) fn model(&self, model: ModelId) -> &Model {
        self.models
            .get(&model)
            .unwrap_or_else(|| panic!("{model} is unknown"))
    }

    pub(super) fn model_mut(&mut self, model: ModelId) -> &mut Model {
        self.models
            .get_mut(&model)
            .unwrap_or_else(|| panic!("{model} is unknown"))
    }

    /// The pool of a model.
    pub(super) fn pool(&self, model: ModelId) -> &Pool {
        self.pools.get(self.model(model).pool)
    }

    pub(super) fn pool_mut(&mut self, model: ModelId) -> &mut Pool {
        let pool = self.model(model).pool;
        self.pools.get_mut(pool)
    }

    /// The pool that has all of these devices. Those that have some are joined for it.
    pub(super) fn pool_of(&mut self, devices: &[DeviceId]) -> PoolId {
        let found = self.pools.with(devices);
        let (pool, others) = match found.split_first() {
            Some((&first, others)) => (first, others),
            None => (self.pools.open(), &[][..]),
        };
        if !others.is_empty() {
            self.rebuild(|state| {
                for &other in others {
                    state.pools.join(other, pool);
                }
                for model in state.models.values_mut() {
                    if others.contains(&model.pool) {
                        model.pool = pool;
                    }
                }
            });
        }
        self.pools.get_mut(pool).devices.extend(devices);
        pool
    }

    pub(super) fn request(&self, request: RequestId) -> &Request {
        self.requests
            .get(&request)
            .unwrap_or_else(|| panic!("{request} is unknown or has ended"))
    }

    pub(super) fn task(&self, task: TaskId) -> &Task {
        self.tasks
            .get(&task)
            .unwrap_or_else(|| panic!("{task} is unknown or has ended"))
    }

    pub(super) fn task_mut(&mut self, task: TaskId) -> &mut Task {
        self.tasks
            .get_mut(&task)
            .unwrap_or_else(|| panic!("{task} is unknown or has ended"))
    }

    /// Brings a model's entries in `ready` up to date.
    pub(super) fn refresh(&mut self, id: ModelId) {
        let Some(model) = self.models.get_mut(&id) else {
            return;
        };
        let head = model.queue.head().map(|(key, _)| key.model_key());
        let ready = head.filter(|_| !model.free_slots.is_empty() && model.parked.is_none());
        let old = std::mem::replace(&mut model.ready, ready);
        if ready == old {
            return;
        }
        self.moves += 1;
        for device in &model.spec.devices {
            let Some(set) = self.ready.get_mut(device) else {
                continue;
            };
            if let Some(old) = old {
                set.remove(&(old, id));
            }
            if let Some(key) = ready {
                set.insert((key, id));
            }
        }
    }

    /// Opens the set of a device that is present from here on.
    pub(super) fn add_device(&mut self, device: DeviceId) {
        let hosted = self
            .models
            .iter()
            .filter(|(_, model)| model.spec.devices.contains(&device));
        let ready = hosted
            .filter_map(|(id, model)| Some((model.ready?, id)))
            .collect();
        self.ready.insert(device, ready);
    }

    /// Whether any model could start on a present device.
    pub(super) fn any_ready(&self) -> bool {
        self.ready.values().any(|set| !set.is_empty())
    }

    pub(super) fn park(&mut self, id: ModelId, until: Option<Timestamp>) {
        self.unpark(id);
        self.model_mut(id).parked = Some(until);
        if let Some(until) = until {
            self.parked.insert((until, id));
        }
        self.refresh(id);
    }

    pub(super) fn unpark(&mut self, id: ModelId) {
        if let Some(model) = self.models.get_mut(&id)
            && let Some(Some(until)) = model.parked.take()
        {
            self.parked.remove(&(until, id));
        }
        self.refresh(id);
    }
}
