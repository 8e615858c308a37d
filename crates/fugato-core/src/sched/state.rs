//! The scheduler's state: models, requests, tasks, and the indices that keep every
//! decision cheap.
//!
//! **Invariant:** `ready` holds a model exactly when it has a waiting request and a free
//! slot and is not parked; `expiry` holds a request exactly when it waits and has a time
//! to be given up; `continuing` holds a task exactly when it has a leg left that may be
//! issued.

use super::config::{DeadlineMode, ModelSpec, SchedulerConfig};
use super::dense::DenseMap;
use super::input::Overdue;
use super::latencies::Latencies;
use super::ledger::{LaneRef, Ledger};
use super::line::Line;
use super::pools::{Pool, PoolId, Pools};
use super::queue::{ModelKey, ModelQueue, QueueKey};
use super::recent::Recent;
use super::work::block_of;
use crate::id::{
    BatchSize, DeviceId, LegIndex, ModelId, RequestId, ShapeClass, Share, SlotIndex, TaskId,
};
use crate::policy::{Backlog, CapacityRule, QueueOrder};
use crate::profile::{Knee, ModelProfile, Optima, Prediction, Published, SurfacePoint, Window};
use crate::time::{Nanos, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Of a request that has waited past its queue timeout and may run last.
const OVERDUE: u32 = u32::MAX;

/// The lowest priority of a request that is not overdue.
const LOWEST: u32 = OVERDUE - 1;

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

/// Without a profile, what is known of a model is taken as changed each time it has run so
/// many tasks more.
const KNOWLEDGE_TASKS: u64 = 64;

/// What a model had of the devices since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Had {
    /// Tasks that ran to the end.
    pub tasks: u64,
    /// Time of their legs, each times the slices it held.
    pub slice_time: Nanos,
}

/// What a model's profile concludes: the profile without its grid, which stands in the
/// latency model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelFacts {
    /// The knee at the largest batch, in slices of the device that was measured.
    pub knee: Knee,
    /// The best (batch, share) by both measures, under the profile's own objective.
    pub optima: Optima,
    /// What a publication states.
    pub published: Option<Published>,
    /// The measured batches, rising.
    pub batches: Vec<BatchSize>,
}

impl ModelFacts {
    pub(super) fn new(profile: &ModelProfile) -> Self {
        let mut batches: Vec<BatchSize> = profile
            .grid
            .iter()
            .map(|point| BatchSize(point.batch))
            .collect();
        batches.sort_unstable();
        batches.dedup();
        Self {
            knee: profile.knee,
            optima: profile.optima.clone(),
            published: profile.published.clone(),
            batches,
        }
    }
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
    /// the plan, give or take [`PRICE_STEP`].
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

/// How a model's backlog will be served where there is more than one batch of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Items of a batch.
    pub(super) batch: BatchSize,
    /// The time of such a batch, at the quantile of admission.
    pub(super) run: Nanos,
}

impl Plan {
    /// What one waiting item costs.
    pub(super) fn per_item(self) -> Nanos {
        self.run.scaled(1, u64::from(self.batch.0.max(1)))
    }
}

/// Waiting requests are priced anew when the plan's price has moved by more than one part
/// in this many: a finer step would walk the queue's blocks after every task for a
/// difference that noise takes back.
const PRICE_STEP: u64 = 16;

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
    /// Where that leg is or was.
    pub(super) at: LaneRef,
    /// Where the leg is in its life.
    pub(super) stage: LegStage,
    /// Whether the next leg is committed behind `leg` on the same lane.
    pub(super) ahead: bool,
    /// The most slices that other legs held at any time since its leg started.
    pub(super) beside: Share,
    /// Whether an urgent leg ran over its running leg, whose time then says nothing.
    pub(super) suspended: bool,
    /// While leg 0 is committed behind a running leg: the last moment at which its start
    /// lets the first request end in time, at the median. `None` where there is none, or
    /// where it was past when the leg was committed.
    pub(super) start_by: Option<Timestamp>,
    /// Device time of its legs so far.
    pub(super) spent: Nanos,
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

    pub(super) fn key(
        &self,
        id: RequestId,
        priority: u32,
        received: Timestamp,
        deadline: Option<Timestamp>,
    ) -> QueueKey {
        let order = match self.order {
            QueueOrder::Arrival => received,
            QueueOrder::Deadline => deadline.unwrap_or(received + self.config.best_effort),
        };
        // Triton: 1 is the highest priority, 0 (not given) the lowest.
        let priority = match priority {
            0 => LOWEST,
            given => given.min(LOWEST),
        };
        QueueKey {
            priority,
            order,
            request: id,
        }
    }

    /// A deadline, where deadlines are enforced.
    pub(super) fn enforced(&self, deadline: Option<Timestamp>) -> Option<Timestamp> {
        match self.config.deadlines {
            DeadlineMode::Enforce => deadline,
            DeadlineMode::Observe => None,
        }
    }

    /// When a waiting request is given up: at its queue timeout, or as soon as it could not
    /// end by its deadline even if it started at once and by itself.
    fn give_up_at(&self, request: &Request) -> Option<Timestamp> {
        let doomed = self.enforced(request.deadline).map(|deadline| {
            match self.fastest(request.model, request.items) {
                // A run that ends at its deadline is in time.
                Some(run) if deadline.before(run) > self.now => {
                    deadline.before(run) + Nanos::new(1)
                }
                _ => deadline,
            }
        });
        match (doomed, request.queue_timeout) {
            (Some(doomed), Some(timeout)) => Some(doomed.min(timeout)),
            (one, other) => one.or(other),
        }
    }

    /// The median of a task of these items by itself, on the best device that hosts the
    /// model; `None` where that was not measured.
    pub(super) fn fastest(&self, model: ModelId, items: BatchSize) -> Option<Nanos> {
        self.fastest_at(model, items, 0.5)
    }

    /// As [`fastest`](Self::fastest), at another quantile.
    pub(super) fn fastest_at(
        &self,
        model: ModelId,
        items: BatchSize,
        quantile: f64,
    ) -> Option<Nanos> {
        self.whole_devices(model)
            .filter_map(|at| self.predict_task(model, items, at, quantile)?.measured())
            .min()
    }

    /// Whether what is known of the model's latency is stale, so that a request that the
    /// knowledge alone shuts out should run to refresh it.
    pub(super) fn is_stale(&self, model: &Model) -> bool {
        let stale = |last| self.now.since(last) >= self.config.probe_interval;
        model.in_flight == 0 && model.last_done.is_none_or(stale)
    }

    /// Whether a request that cannot end in time should run all the same: where nothing
    /// but the model's predicted `run` shuts it out, and that is stale.
    pub(super) fn is_probe(&self, request: &Request, run: Nanos) -> bool {
        let shut_out = request
            .deadline
            .is_some_and(|deadline| request.received + run > deadline);
        shut_out && self.is_stale(self.model(request.model))
    }

    /// Puts a known request into its queue.
    pub(super) fn enqueue(&mut self, id: RequestId) {
        let request = *self.request(id);
        let give_up = self.give_up_at(&request);
        if let Some(at) = give_up {
            self.expiry.insert((at, id), ());
        }
        if let Some(known) = self.requests.get_mut(&id) {
            known.place = Place::Queue;
            known.give_up = give_up;
        }
        let promised = self.enforced(request.deadline).is_some();
        let model = self.model_mut(request.model);
        model
            .queue
            .push(request.class, request.key, request.items.0, promised);
        let work = model.price.times(u64::from(request.items.0));
        let all = self.backlog == Backlog::All;
        let pool = self.pool_mut(request.model);
        pool.waiting += 1;
        if all {
            let block = block_of(request.key.order());
            pool.work.add(block, work);
            if promised {
                pool.promised.add(block, work);
            }
        }
        self.waiting += 1;
        self.unpark(request.model);
    }

    /// Sets the time at which a waiting request is looked at again.
    pub(super) fn postpone(&mut self, id: RequestId, until: Timestamp) {
        let request = self.requests.get_mut(&id);
        let request = request.unwrap_or_else(|| panic!("{id} is unknown or has ended"));
        if let Some(at) = request.give_up.replace(until) {
            self.expiry.remove((at, id));
        }
        self.expiry.insert((until, id), ());
    }

    /// Puts a waiting request behind all of its model that are not overdue, for as long
    /// as its deadline lets it wait.
    pub(super) fn delay(&mut self, id: RequestId) {
        self.dequeue(id);
        if let Some(request) = self.requests.get_mut(&id) {
            request.queue_timeout = None;
            request.key.priority = OVERDUE;
        }
        self.enqueue(id);
    }

    /// Takes a request out of its queue.
    pub(super) fn dequeue(&mut self, id: RequestId) {
        let model = self.request(id).model;
        self.dequeue_all(model, &[id]);
        self.refresh(model);
    }

    /// Takes requests of a model out of its queue; its entries in `ready` are to be brought
    /// up to date then.
    pub(super) fn dequeue_all(&mut self, id: ModelId, requests: &[RequestId]) {
        // Those that are taken out together are mostly of few blocks.
        let (mut block, mut all, mut promised) = (0, Nanos::ZERO, Nanos::ZERO);
        for &request in requests {
            let known = *self.request(request);
            if let Some(at) = known.give_up {
                self.expiry.remove((at, request));
            }
            let model = self.model_mut(id);
            let gone = model.queue.remove(known.class, known.key);
            let is_promised =
                gone.unwrap_or_else(|| panic!("{request} is not in the queue of {id}"));
            let work = model.price.times(u64::from(known.items.0));
            let other = block_of(known.key.order());
            if other != block {
                self.work_gone(id, block, all, promised);
                (block, all, promised) = (other, Nanos::ZERO, Nanos::ZERO);
            }
            all += work;
            if is_promised {
                promised += work;
            }
        }
        self.work_gone(id, block, all, promised);
        self.pool_mut(id).waiting -= requests.len() as u64;
        self.waiting -= requests.len() as u64;
    }

    /// Notes that predicted work of a model in a block, and the promised part of it, is taken
    /// out.
    fn work_gone(&mut self, id: ModelId, block: u64, all: Nanos, promised: Nanos) {
        if self.backlog == Backlog::All {
            let pool = self.pool_mut(id);
            pool.work.remove(block, all);
            pool.promised.remove(block, promised);
        }
    }

    /// Prices a model's waiting requests anew where that makes a difference.
    ///
    /// # Cost
    /// The milliseconds that hold requests of the model, seldom.
    fn reprice(&mut self, id: ModelId) {
        let Some(model) = self.models.get_mut(&id) else {
            return;
        };
        let (old, new) = (model.price, model.plan.map_or(Nanos::ZERO, Plan::per_item));
        if old.as_nanos().abs_diff(new.as_nanos()) <= old.as_nanos() / PRICE_STEP {
            return;
        }
        model.price = new;
        if self.backlog == Backlog::Own {
            return;
        }
        let Pool { work, promised, .. } = self.pools.get_mut(model.pool);
        for (block, items) in model.queue.items_by_block() {
            work.remove(block, old.times(items.all));
            work.add(block, new.times(items.all));
            promised.remove(block, old.times(items.promised));
            promised.add(block, new.times(items.promised));
        }
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

    /// Rebuilds every index that depends on the policy or on deadlines being enforced.
    pub(super) fn rebuild(&mut self, change: impl FnOnce(&mut Self)) {
        let waiting: Vec<RequestId> = self
            .requests
            .iter()
            .filter(|(_, request)| request.place == Place::Queue)
            .map(|(id, _)| id)
            .collect();
        for &id in &waiting {
            self.dequeue(id);
        }
        change(self);
        let keys: Vec<(RequestId, QueueKey)> = self
            .requests
            .iter()
            .map(|(id, request)| {
                let priority = request.key.priority;
                let key = self.key(id, 0, request.received, request.deadline);
                // Whoever is overdue stays so.
                (id, QueueKey { priority, ..key })
            })
            .collect();
        for (id, key) in keys {
            if let Some(request) = self.requests.get_mut(&id) {
                request.key = key;
            }
        }
        for task in self.tasks.values_mut() {
            let keys = task
                .requests
                .iter()
                .filter_map(|id| self.requests.get(id).map(|request| request.key));
            if let Some(first) = keys.min() {
                task.key = first;
            }
        }
        for id in waiting {
            self.enqueue(id);
        }
    }

    pub(super) fn predict(
        &self,
        model: ModelId,
        leg: LegIndex,
        batch: BatchSize,
        at: LaneRef,
        quantile: f64,
    ) -> Option<Prediction> {
        let (share, neighbours) = (self.ledger.share(at), self.ledger.neighbours(at));
        self.latency.predict(
            SurfacePoint {
                model,
                leg,
                batch,
                share,
                neighbours,
            },
            quantile,
        )
    }

    /// All legs of the model one after another; `None` where one is unknown.
    pub(super) fn predict_task(
        &self,
        model: ModelId,
        batch: BatchSize,
        at: LaneRef,
        quantile: f64,
    ) -> Option<Prediction> {
        let legs = 0..self.model(model).spec.legs;
        legs.map(|leg| self.predict(model, LegIndex(leg), batch, at, quantile))
            .reduce(|sum, leg| Some(sum?.then(leg?)))?
    }

    /// One whole-device lane of each device that hosts a model.
    pub(super) fn whole_devices(&self, model: ModelId) -> impl Iterator<Item = LaneRef> {
        let devices = &self.model(model).spec.devices;
        devices
            .iter()
            .filter_map(|&device| self.ledger.lanes(device, crate::id::PartitionId(0)).next())
    }

    /// Learns from a leg that ended well.
    pub(super) fn learn(&mut self, task: TaskId, took: Nanos, predicted: Option<Nanos>) {
        let task = self.task(task);
        let (model, leg, batch, at) = (task.model, task.leg, task.batch, task.at);
        let (share, neighbours) = (self.ledger.share(at), task.beside);
        let predicted = predicted.filter(|_| !task.suspended);
        if !task.suspended {
            let point = SurfacePoint {
                model,
                leg,
                batch,
                share,
                neighbours,
            };
            self.latency.observe(point, took);
        }
        self.plan_anew(model, at.device);
        let now = self.now;
        let run = self.model(model).plan.map(|plan| plan.run);
        self.pool_mut(model).rivals.ran(now, model, took, run);
        let known = self.model_mut(model);
        known.last_done = Some(now);
        known.had.slice_time += took.times(u64::from(share.0));
        if leg.0 + 1 == known.spec.legs {
            known.had.tasks += 1;
            let tasks = known.had.tasks;
            let renewed = tasks.is_power_of_two() || tasks.is_multiple_of(KNOWLEDGE_TASKS);
            known.knowledge += u32::from(known.facts.is_none() && renewed);
        }
        if let Some(predicted) = predicted {
            let off = Nanos::new(predicted.as_nanos().abs_diff(took.as_nanos()));
            known
                .errors
                .push(off.scaled(1_000, took.as_nanos().max(1)).as_nanos());
        }
    }

    /// Plans the backlog of a model with what is known.
    pub(super) fn plan_anew(&mut self, model: ModelId, device: DeviceId) {
        let whole = self.ledger.lanes(device, crate::id::PartitionId(0)).next();
        let plan = whole.and_then(|at| self.plan(model, at));
        self.model_mut(model).plan = plan;
        self.reprice(model);
    }

    /// How long a batch may run that blocks rivals hardly longer than the smallest one does,
    /// which has to run anyway: half as long again, in three quarters of the objective.
    ///
    /// Without it a model whose single items take more than its rivals leave it is planned in
    /// batches of one, however little larger ones cost: then the device can do a fraction of
    /// what it could, nearly all is refused, and what is left never fills a larger batch.
    fn little_longer(&self, model: ModelId, at: LaneRef) -> Nanos {
        let alone = self.predict_task(model, BatchSize(1), at, 0.5);
        let alone = alone.map_or(Nanos::ZERO, |alone| alone.time);
        let slo = self.model(model).spec.slo.unwrap_or(Nanos::MAX);
        alone.scaled(3, 2).min(slo.scaled(3, 4))
    }

    /// How a backlog of a model is best served on a device: in the most efficient batches
    /// that leave everybody's objective within reach.
    fn plan(&self, model: ModelId, at: LaneRef) -> Option<Plan> {
        let spec = &self.model(model).spec;
        let within = self.pool(model).rivals.run_within(model, spec.slo);
        let within = within.max(self.little_longer(model, at));
        let share = self.ledger.share(at);
        let batch = self
            .latency
            .best_batch(model, share, spec.max_batch, within)?;
        let quantile = self.config.admission_quantile;
        let run = self.predict_task(model, batch, at, quantile)?.time;
        Some(Plan { batch, run })
    }
}

impl QueueKey {
    /// The request it belongs to.
    pub const fn request(self) -> RequestId {
        self.request
    }
}
