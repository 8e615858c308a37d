//! What is known of the models: their profiles, how long they take, and how a backlog of theirs
//! is best served.

use super::{Beside, Model, Request, State};
use crate::id::{BatchSize, DeviceId, LegIndex, ModelId, PartitionId, Share, TaskId};
use crate::profile::{
    Demand, Interference, Knee, ModelProfile, Optima, Prediction, Published, SurfacePoint,
};
use crate::sched::ledger::LaneRef;
use crate::time::Nanos;
use std::ops::Range;

/// Without a profile, what is known of a model is taken as changed each time it has run so
/// many tasks more.
const KNOWLEDGE_TASKS: u64 = 64;

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
    /// How the model and its neighbours slow each other.
    pub interference: Option<Interference>,
    /// The measured batches, rising.
    pub batches: Vec<BatchSize>,
}

impl ModelFacts {
    pub(in crate::sched) fn new(profile: &ModelProfile) -> Self {
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
            interference: profile.interference,
            batches,
        }
    }
}

/// How a model's backlog will be served where there is more than one batch of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sched) struct Plan {
    /// Items of a batch.
    pub(in crate::sched) batch: BatchSize,
    /// The time of such a batch, at the quantile of admission.
    pub(in crate::sched) run: Nanos,
}

/// Where a leg would run.
#[derive(Clone, Copy, Debug)]
pub(in crate::sched) struct Spot {
    share: Share,
    beside: Beside,
}

impl Spot {
    /// A leg of a model here.
    fn point(self, model: ModelId, leg: LegIndex, batch: BatchSize) -> SurfacePoint {
        SurfacePoint {
            model,
            leg,
            batch,
            share: self.share,
            neighbours: self.beside.neighbours,
            demand: self.beside.demand,
        }
    }
}

impl Plan {
    /// What one waiting item costs.
    pub(in crate::sched) fn per_item(self) -> Nanos {
        self.run.scaled(1, u64::from(self.batch.0.max(1)))
    }
}

impl State {
    /// The median of a task of these items by itself, on the best device that hosts the
    /// model; `None` where that was not measured.
    pub(in crate::sched) fn fastest(&self, model: ModelId, items: BatchSize) -> Option<Nanos> {
        self.fastest_at(model, items, 0.5)
    }

    /// As [`fastest`](Self::fastest), at another quantile.
    pub(in crate::sched) fn fastest_at(
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
    pub(in crate::sched) fn is_stale(&self, model: &Model) -> bool {
        let stale = |last| self.now.since(last) >= self.config.probe_interval;
        model.in_flight == 0 && model.last_done.is_none_or(stale)
    }

    /// Whether a request that cannot end in time should run all the same: where nothing
    /// but the model's predicted `run` shuts it out, and that is stale.
    pub(in crate::sched) fn is_probe(&self, request: &Request, run: Nanos) -> bool {
        let shut_out = request
            .deadline
            .is_some_and(|deadline| request.received + run > deadline);
        shut_out && self.is_stale(self.model(request.model))
    }

    pub(in crate::sched) fn predict(
        &self,
        model: ModelId,
        leg: LegIndex,
        batch: BatchSize,
        at: LaneRef,
        quantile: f64,
    ) -> Option<Prediction> {
        let spot = self.spot(at, model);
        self.predict_in((model, leg.0..leg.0 + 1), batch, spot, quantile)
    }

    /// A lane as a model finds it now.
    ///
    /// # Cost
    /// The occupied lanes of the device.
    pub(in crate::sched) fn spot(&self, at: LaneRef, model: ModelId) -> Spot {
        Spot {
            share: self.ledger.share(at),
            beside: self.beside(at, model),
        }
    }

    /// Some legs of a model one after another in a spot; `None` where one is unknown.
    pub(in crate::sched) fn predict_in(
        &self,
        (model, legs): (ModelId, Range<u16>),
        batch: BatchSize,
        spot: Spot,
        quantile: f64,
    ) -> Option<Prediction> {
        let times = legs.map(LegIndex).map(|leg| {
            let point = spot.point(model, leg, batch);
            self.latency.predict(point, quantile)
        });
        times.reduce(|sum, leg| Some(sum?.then(leg?)))?
    }

    /// What runs beside a leg of a model on a lane.
    ///
    /// # Cost
    /// The occupied lanes of the device.
    pub(in crate::sched) fn beside(&self, at: LaneRef, model: ModelId) -> Beside {
        let neighbours = self.ledger.neighbours(at);
        let demand = match neighbours {
            Share(0) => None,
            Share(_) => self.demand_beside(at, model),
        };
        Beside { neighbours, demand }
    }

    /// What legs on other slices than those of a lane demand, the mean over their slices; those
    /// of which nobody knows count as of the `model`. `None` where nobody knows that of the
    /// model, either, or there are no such legs.
    fn demand_beside(&self, at: LaneRef, model: ModelId) -> Option<Demand> {
        let own = self.latency.demand(model)?;
        let (mut sum, mut slices) = (0, 0);
        for other in self.ledger.occupied_apart(at) {
            let front = self.ledger.front(other);
            let runs = front.and_then(|front| self.tasks.get(&front.task));
            let demand = runs.and_then(|task| self.latency.demand(task.model));
            let share = u64::from(self.ledger.share(other).0);
            sum += u64::from(demand.unwrap_or(own).0) * share;
            slices += share;
        }
        let mean = sum.checked_div(slices)?;
        Some(Demand(u16::try_from(mean).unwrap_or(u16::MAX)))
    }

    /// All legs of the model one after another; `None` where one is unknown.
    pub(in crate::sched) fn predict_task(
        &self,
        model: ModelId,
        batch: BatchSize,
        at: LaneRef,
        quantile: f64,
    ) -> Option<Prediction> {
        let legs = 0..self.model(model).spec.legs;
        self.predict_in((model, legs), batch, self.spot(at, model), quantile)
    }

    /// One whole-device lane of each device that hosts a model.
    pub(in crate::sched) fn whole_devices(&self, model: ModelId) -> impl Iterator<Item = LaneRef> {
        let devices = &self.model(model).spec.devices;
        devices
            .iter()
            .filter_map(|&device| self.ledger.lanes(device, PartitionId(0)).next())
    }

    /// Learns from a leg that ended well.
    pub(in crate::sched) fn learn(&mut self, id: TaskId, took: Nanos, predicted: Option<Nanos>) {
        let task = self.task(id);
        let (model, leg, batch, at) = (task.model, task.leg, task.batch, task.at);
        let share = self.ledger.share(at);
        let beside = task.beside;
        let predicted = predicted.filter(|_| !task.suspended);
        let point = |leg| Spot { share, beside }.point(model, leg, batch);
        match (task.suspended, task.unsplit) {
            (true, _) => {}
            (false, false) => self.observe(point(leg), took),
            (false, true) => self.learn_part((id, leg), took, point),
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

    /// Learns from a task that ran in one go, as of one leg, with its part of the time by what is
    /// known of all: of another leg with each task, so that none weighs more than it did. So what
    /// slows a machine is seen while a model is alone on it.
    fn learn_part(
        &mut self,
        (task, last): (TaskId, LegIndex),
        took: Nanos,
        point: impl Fn(LegIndex) -> SurfacePoint,
    ) {
        let leg = task.0 % (u64::from(last.0) + 1);
        let leg = LegIndex(u16::try_from(leg).unwrap_or(0));
        let time = |leg| Some(self.latency.predict(point(leg), 0.5)?.time);
        let all = (0..=last.0).map(LegIndex).map(time);
        let all: Option<Nanos> = all.reduce(|sum, leg| Some(sum? + leg?)).flatten();
        let Some((part, all)) = time(leg).zip(all) else {
            return;
        };
        let part = took.scaled(part.as_nanos(), all.as_nanos().max(1));
        self.observe(point(leg), part);
    }

    /// Takes in how long a leg took.
    pub(in crate::sched) fn observe(&mut self, point: SurfacePoint, took: Nanos) {
        self.latency.observe(point, took);
        self.model_mut(point.model).told += 1;
    }

    /// Plans the backlog of a model with what is known.
    pub(in crate::sched) fn plan_anew(&mut self, model: ModelId, device: DeviceId) {
        let whole = self.ledger.lanes(device, PartitionId(0)).next();
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
