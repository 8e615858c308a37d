//! What a policy may look at.

mod devices;

pub use devices::Running;

use super::config::DynamicBatching;
use super::ledger::{LaneRef, Offer};
use super::queue::QueueKey;
use super::state::{Had, LegStage, ModelFacts, RATE_PERIOD, Spot, State};
use crate::id::{BatchSize, DeviceId, LegIndex, ModelId, RequestId, ShapeClass, Share, TaskId};
use crate::policy::Verdict;
use crate::profile::{Prediction, SurfacePoint};
use crate::time::{Nanos, Timestamp};
use std::ops::Range;

/// A read-only view of the scheduler, given to [`Policy::decide`](crate::policy::Policy).
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    state: &'a State,
}

/// How many requests [`View::fills_after`] passes over: a few batches. It bounds what a
/// decision costs where thousands are due at once.
const PASSED_MAX: u32 = 256;

/// The first request of a model that could start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyHead {
    /// The model.
    pub model: ModelId,
    /// The class of its first request.
    pub class: ShapeClass,
    /// Where that request stands.
    pub key: QueueKey,
}

/// A task with legs left of which none is on a lane ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// The task.
    pub task: TaskId,
    /// Its model.
    pub model: ModelId,
    /// Items in its batch.
    pub batch: BatchSize,
    /// The leg that was issued last.
    pub leg: LegIndex,
    /// Where that leg is or was.
    pub at: LaneRef,
    /// Whether that leg runs; else it has ended.
    pub runs: bool,
    /// Where its most urgent request stood.
    pub key: QueueKey,
}

/// What tasks of a model would take on a lane: see [`View::tasks_on`].
#[derive(Clone, Copy, Debug)]
pub struct TasksOn<'a> {
    view: View<'a>,
    model: ModelId,
    at: LaneRef,
    spot: Spot,
}

impl TasksOn<'_> {
    /// The `quantile` of the time of a whole task; `None` where the model is unknown.
    pub fn predict(&self, batch: BatchSize, quantile: f64) -> Option<Prediction> {
        let (state, legs) = (self.view.state, 0..self.view.legs(self.model));
        state.predict_in((self.model, legs), batch, self.spot, quantile)
    }

    /// The median time of a whole task, by measurements: beside the legs that run, or where
    /// that was not measured alone in the share, which neighbours only add to. `None` where
    /// neither was measured.
    pub fn measured(&self, batch: BatchSize) -> Option<Nanos> {
        let here = self.predict(batch, 0.5);
        here.and_then(Prediction::measured).or_else(|| {
            let alone = (self.view.share_of(self.at), Share(0));
            let alone = self.view.predict_at(self.model, batch, alone, 0.5)?;
            alone.measured()
        })
    }
}

impl<'a> View<'a> {
    pub(super) const fn new(state: &'a State) -> Self {
        Self { state }
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        self.state.now
    }

    /// The devices that are present.
    pub fn devices(&self) -> impl Iterator<Item = DeviceId> + use<'a> {
        self.state.ready.keys().copied()
    }

    /// Of all models that the device hosts and that have a waiting request and a free slot
    /// and are not parked, the one whose first request goes first in the policy's order.
    pub fn first_ready(&self, device: DeviceId) -> Option<ReadyHead> {
        let &(_, model) = self.state.ready.get(&device)?.first()?;
        let (key, class) = self.state.model(model).queue.head()?;
        Some(ReadyHead { model, class, key })
    }

    /// The one after [`first_ready`](Self::first_ready).
    pub fn second_ready(&self, device: DeviceId) -> Option<ReadyHead> {
        let &(_, model) = self.state.ready.get(&device)?.iter().nth(1)?;
        let (key, class) = self.state.model(model).queue.head()?;
        Some(ReadyHead { model, class, key })
    }

    /// All models that the device hosts, rising by id.
    ///
    /// # Cost
    /// The number of models: for planning, not for each decision.
    pub fn models(&self, device: DeviceId) -> impl Iterator<Item = ModelId> + use<'a> {
        let models = self.state.models.iter();
        models
            .filter(move |(_, model)| model.spec.devices.contains(&device))
            .map(|(id, _)| id)
    }

    /// The first requests of all models that could start on the device, in the policy's
    /// order; [`first_ready`](Self::first_ready) is the first.
    pub fn ready(&self, device: DeviceId) -> impl Iterator<Item = ReadyHead> + use<'a> {
        let state = self.state;
        let ready = state.ready.get(&device).into_iter().flatten();
        ready.filter_map(|&(_, model)| {
            let (key, class) = state.model(model).queue.head()?;
            Some(ReadyHead { model, class, key })
        })
    }

    /// The first request of a model, if the model could start: it waits, there is a free
    /// slot, and the model is not parked.
    pub fn head(&self, model: ModelId) -> Option<ReadyHead> {
        let known = self.state.models.get(&model)?;
        known.ready?;
        let (key, class) = known.queue.head()?;
        Some(ReadyHead { model, class, key })
    }

    /// A number that rises when a model comes to be able to start or ceases to, when its
    /// first request changes, and when a leg takes a lane or leaves it: while it stays,
    /// nothing fits that did not fit before.
    pub fn moves(&self) -> u64 {
        self.state.moves + self.state.ledger.moves
    }

    /// Whether a model is known.
    pub fn knows(&self, model: ModelId) -> bool {
        self.state.models.contains_key(&model)
    }

    /// A model's latency objective.
    pub fn slo(&self, model: ModelId) -> Option<Nanos> {
        self.state.model(model).spec.slo
    }

    /// The shortest objective of another model that shares devices with this one and was asked for
    /// within a second or little more; `None` where there is none.
    pub fn shortest_beside(&self, model: ModelId) -> Option<Nanos> {
        self.state.pool(model).rivals.shortest_beside(model)
    }

    /// Whether no other model that shares devices with this one was asked for within a second or little
    /// more.
    pub fn is_alone(&self, model: ModelId) -> bool {
        self.state.pool(model).rivals.is_alone(model)
    }

    /// Other models that the device hosts, whose objectives are under `within` and that were
    /// asked for within a second, the shortest objective first. At most eight are looked at.
    pub fn tighter(
        &self,
        device: DeviceId,
        model: ModelId,
        within: Nanos,
    ) -> impl Iterator<Item = ModelId> + use<'a> {
        let state = self.state;
        let rivals = &state.pool(model).rivals;
        let tight = rivals.tighter(state.now, model, within);
        tight.filter(move |&other| {
            let known = state.models.get(&other);
            known.is_some_and(|known| known.spec.devices.contains(&device))
        })
    }

    /// A model's worth against other models; above zero.
    pub fn weight(&self, model: ModelId) -> f64 {
        self.state.model(model).spec.weight
    }

    /// Items that were asked for of a model over about the last second, served or refused,
    /// per second.
    pub fn rate(&self, model: ModelId) -> f64 {
        let items = self.state.model(model).asked.recent(self.state.now);
        items as f64 * 1e9 / (1_u64 << RATE_PERIOD) as f64
    }

    /// Whether a request of a model waits.
    pub fn waits(&self, model: ModelId) -> bool {
        !self.state.model(model).queue.is_empty()
    }

    /// Items of a model that wait.
    pub fn waiting_items(&self, model: ModelId) -> u64 {
        self.state.model(model).queue.items()
    }

    /// What a model had of the devices since it was added.
    pub fn had(&self, model: ModelId) -> Had {
        self.state.model(model).had
    }

    /// What a model's profile concludes; `None` without one.
    pub fn facts(&self, model: ModelId) -> Option<&'a ModelFacts> {
        self.state.model(model).facts.as_ref()
    }

    /// A number that rises when what is known of a model's latency has changed enough to
    /// size it anew: with a profile, or as it is learned while serving.
    pub fn knowledge(&self, model: ModelId) -> u32 {
        self.state.model(model).knowledge
    }

    /// A number that rises with everything that is told of a model's latency: while it stays, what
    /// is unknown of that stays so.
    pub fn told(&self, model: ModelId) -> u64 {
        self.state.model(model).told
    }

    /// A number that rises when a model or a device comes, goes or changes its settings, or
    /// a model's profile is given: when a plan over all models should be made anew.
    pub fn configuration(&self) -> u64 {
        self.state.configuration
    }

    /// The `quantile` of the time of a whole task in a share, with `neighbours` slices of
    /// the device busy; `None` where nothing is known of it.
    pub fn predict_at(
        &self,
        model: ModelId,
        batch: BatchSize,
        (share, neighbours): (Share, Share),
        quantile: f64,
    ) -> Option<Prediction> {
        let legs = 0..self.state.model(model).spec.legs;
        self.predict_legs((model, legs), batch, (share, neighbours), quantile)
    }

    /// The `quantile` of the time of some legs of a model, one after another.
    pub fn predict_legs(
        &self,
        (model, legs): (ModelId, Range<u16>),
        batch: BatchSize,
        (share, neighbours): (Share, Share),
        quantile: f64,
    ) -> Option<Prediction> {
        let times = legs.map(LegIndex).map(|leg| {
            let point = SurfacePoint {
                model,
                leg,
                batch,
                share,
                neighbours,
                demand: None,
            };
            self.state.latency.predict(point, quantile)
        });
        times.reduce(|sum, leg| Some(sum?.then(leg?)))?
    }

    /// The tasks of a device that have a leg to issue, rising by id.
    pub fn begun(&self, device: DeviceId) -> impl Iterator<Item = Begun> + use<'a> {
        let state = self.state;
        let tasks = state.continuing.iter().map(|&id| (id, state.task(id)));
        let here = tasks.filter(move |(_, task)| task.at.device == device);
        here.map(|(id, task)| Begun {
            task: id,
            model: task.model,
            batch: task.batch,
            leg: task.leg,
            at: task.at,
            runs: task.stage == LegStage::Running,
            key: task.key,
        })
    }

    /// The `quantile` of the time of all legs of a task that were not issued yet, in a share
    /// with `neighbours` slices busy; `None` where nothing is known of one.
    ///
    /// # Cost
    /// A prediction for each of these legs.
    pub fn rest(
        &self,
        begun: Begun,
        (share, neighbours): (Share, Share),
        quantile: f64,
    ) -> Option<Prediction> {
        let legs = self.state.model(begun.model).spec.legs;
        self.predict_legs(
            (begun.model, begun.leg.0 + 1..legs),
            begun.batch,
            (share, neighbours),
            quantile,
        )
    }

    /// The enforced deadline of the first of a task's requests that has not ended; `None`
    /// where it has none.
    pub fn head_deadline(&self, task: TaskId) -> Option<Timestamp> {
        let mut requests = self.state.task(task).requests.iter();
        let first = requests.find_map(|id| self.state.requests.get(id))?;
        self.state.enforced(first.deadline)
    }

    /// By when the first of a task's requests that has not ended is to be served: its enforced
    /// deadline, or what queues by deadline take for one; `None` for a task without requests.
    pub fn head_order(&self, task: TaskId) -> Option<Timestamp> {
        let mut requests = self.state.task(task).requests.iter();
        let first = requests.find_map(|id| self.state.requests.get(id))?;
        let enforced = self.state.enforced(first.deadline);
        Some(enforced.unwrap_or(first.received + self.best_effort()))
    }

    /// Tasks that a model may have in flight.
    pub fn slots(&self, model: ModelId) -> u16 {
        self.state.model(model).spec.slots
    }

    /// Legs of a model's plan.
    pub fn legs(&self, model: ModelId) -> u16 {
        self.state.model(model).spec.legs
    }

    /// The `quantile` of the time of one leg of a model.
    pub fn predict_leg(
        &self,
        (model, leg): (ModelId, LegIndex),
        batch: BatchSize,
        place: (Share, Share),
        quantile: f64,
    ) -> Option<Prediction> {
        self.predict_legs((model, leg.0..leg.0 + 1), batch, place, quantile)
    }

    /// The latest enforced deadline of a task's requests: past it, nothing that it gives is in
    /// time. `None` where one of them has none.
    ///
    /// # Cost
    /// The requests of the batch.
    pub fn last_deadline(&self, task: TaskId) -> Option<Timestamp> {
        let requests = self.state.task(task).requests.iter();
        let open = requests.filter_map(|id| self.state.requests.get(id));
        let deadlines = open.map(|request| self.state.enforced(request.deadline));
        deadlines.reduce(|latest, deadline| Some(latest?.max(deadline?)))?
    }

    /// The earliest enforced deadline of a task's requests that is not before a time.
    ///
    /// # Cost
    /// The requests of the batch.
    pub fn deadline_from(&self, task: TaskId, time: Timestamp) -> Option<Timestamp> {
        let requests = self.state.task(task).requests.iter();
        let open = requests.filter_map(|id| self.state.requests.get(id));
        let deadlines = open.filter_map(|request| self.state.enforced(request.deadline));
        deadlines.filter(|&deadline| deadline >= time).min()
    }

    /// The committed leg of a lane that may be revoked, and that starts too late for its
    /// first request by now, which it did not when it was committed: the leg before it runs
    /// longer than predicted.
    pub fn lapsed(&self, at: LaneRef) -> Option<TaskId> {
        let (task, _) = self.revocable(at)?;
        let latest = self.state.task(task).start_by?;
        (latest < self.state.now).then_some(task)
    }

    /// The verdict that moves on a task with legs left, where a lane is open for one:
    /// behind its own running leg, on the lane of its last leg, or on a free whole-device lane
    /// of its device. Tasks begun go before new ones, so that slots fall free.
    pub fn continue_first(&self) -> Option<Verdict> {
        self.state.continuing.iter().find_map(|&id| {
            let task = self.state.task(id);
            let at = match task.stage {
                LegStage::Running => match self.offer(task.at) {
                    Offer::After(_) => task.at,
                    Offer::Now | Offer::Closed => return None,
                },
                LegStage::Between if self.offer(task.at) == Offer::Now => task.at,
                LegStage::Between => match self.whole_device_offer(task.at.device)? {
                    (at, Offer::Now) => at,
                    (_, Offer::After(_) | Offer::Closed) => return None,
                },
                LegStage::Committed => return None,
            };
            Some(Verdict::Continue { task: id, at })
        })
    }

    /// The model of a task in flight.
    pub fn task_model(&self, task: TaskId) -> ModelId {
        self.state.task(task).model
    }

    /// The largest batch of a model.
    pub fn max_batch(&self, model: ModelId) -> BatchSize {
        self.state.model(model).spec.max_batch
    }

    /// The batch that a lasting load of a model is best served in; `None` before the first
    /// measurement.
    pub fn planned_batch(&self, model: ModelId) -> Option<BatchSize> {
        self.state.model(model).plan.map(|plan| plan.batch)
    }

    /// Whether enough requests of a class wait to fill a batch of `items` with such as are
    /// due no earlier than `due`, and others wait before them. At most 256
    /// requests that are due earlier are passed over to find out.
    pub fn fills_after(
        &self,
        model: ModelId,
        class: ShapeClass,
        due: Timestamp,
        items: BatchSize,
    ) -> bool {
        let (mut passed, mut found) = (0, 0);
        for (key, brings) in self.state.model(model).queue.of_class(class) {
            let early = self
                .enforced_deadline(key.request())
                .is_some_and(|deadline| deadline < due);
            if early {
                passed += 1;
            } else {
                found += brings;
            }
            if found >= items.0 || passed > PASSED_MAX {
                break;
            }
        }
        found >= items.0 && (1..=PASSED_MAX).contains(&passed)
    }

    /// A model's settings for dynamic batching.
    pub fn batching(&self, model: ModelId) -> &'a DynamicBatching {
        &self.state.model(model).spec.batching
    }

    /// Tasks of a model that are committed or running.
    pub fn in_flight(&self, model: ModelId) -> u16 {
        self.state.model(model).in_flight
    }

    /// Tasks of a model that could start beside those in flight.
    pub fn free_slots(&self, model: ModelId) -> usize {
        self.state.model(model).free_slots.len()
    }

    /// Items that one batch of the class could take now, at most `most` (but the first
    /// request is counted whatever it brings).
    pub fn batch_available(&self, model: ModelId, class: ShapeClass, most: BatchSize) -> BatchSize {
        let mut total = 0;
        for (_, items) in self.state.model(model).queue.of_class(class) {
            if total > 0 && total + items > most.0 {
                break;
            }
            total += items;
        }
        BatchSize(total)
    }

    /// What tasks of a model would take on a lane, beside the legs that run.
    ///
    /// # Cost
    /// The occupied lanes of the device, for all predictions that are asked for.
    pub fn tasks_on(&self, model: ModelId, at: LaneRef) -> TasksOn<'a> {
        TasksOn {
            view: *self,
            model,
            at,
            spot: self.state.spot(at, model),
        }
    }

    /// The quantile of latency that promises are made with.
    pub fn admission_quantile(&self) -> f64 {
        self.state.config.admission_quantile
    }

    /// The objective that requests without one are placed by.
    pub fn best_effort(&self) -> Nanos {
        self.state.config.best_effort
    }

    /// How long before the predicted end of a leg another may be committed behind it.
    pub fn commit_lead(&self) -> Nanos {
        self.state.config.commit_lead
    }

    /// A waiting request's deadline, if deadlines are enforced.
    pub fn enforced_deadline(&self, request: RequestId) -> Option<Timestamp> {
        self.state.enforced(self.state.request(request).deadline)
    }

    /// When a waiting request was received.
    pub fn received(&self, request: RequestId) -> Timestamp {
        self.state.request(request).received
    }

    /// The items a waiting request brings.
    pub fn items(&self, request: RequestId) -> BatchSize {
        self.state.request(request).items
    }

    /// Whether a waiting request whose predicted `run` ends too late should run all the
    /// same: where that prediction alone shuts it out, and is stale.
    pub fn is_probe(&self, request: RequestId, run: Nanos) -> bool {
        self.state.is_probe(self.state.request(request), run)
    }
}
