//! What is measured while nothing waits: which models, how much of the devices' time that
//! has taken, and when the next run may begin.
//!
//! **Invariant:** of the devices of one pool one run is measured at a time, and while they are
//! idle. Over any time since the first one, measuring has taken at most its share of them, and
//! one run more.

use super::config::ModelSpec;
use crate::id::{ModelId, TaskId};
use crate::profile::{Bisection, GridPoint};
use crate::time::{Nanos, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// The longest run that is measured, where no model has an objective: what a request that
/// comes in just then waits.
const LONGEST: Nanos = Nanos::from_millis(100);

/// Of the shortest objective, the part that a measured run may take: a request that comes
/// in just then keeps three quarters of it.
const OF_OBJECTIVE: u64 = 4;

#[derive(Debug, Default)]
pub(super) struct Measuring {
    /// Models that have something left to measure.
    open: BTreeMap<ModelId, Open>,
    /// What has been measured of each model, since it was added.
    measured: BTreeMap<ModelId, Measured>,
    /// Objectives of the models that are served.
    slos: BTreeSet<(Nanos, ModelId)>,
    slo_of: BTreeMap<ModelId, Nanos>,
    /// The model that was measured last, so that they take turns.
    last: Option<ModelId>,
    /// More than one only where pools were joined.
    running: BTreeSet<TaskId>,
    /// Since when nothing has run.
    idle_since: Timestamp,
    /// When what measuring has taken is within its share again.
    paid_at: Timestamp,
}

#[derive(Debug)]
struct Open {
    survey: Bisection,
    /// Whether the model has a profile, which this one is to replace.
    again: bool,
}

/// What has been measured of a model.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) points: Vec<GridPoint>,
    /// Whether these are all.
    pub(super) whole: bool,
    /// Slice-seconds over the slices of the device.
    pub(super) device_time: Nanos,
}

impl Measuring {
    /// Takes note of a model's objective.
    pub(super) fn serves(&mut self, spec: &ModelSpec) {
        self.forget_slo(spec.id);
        if let Some(slo) = spec.slo {
            self.slos.insert((slo, spec.id));
            self.slo_of.insert(spec.id, slo);
        }
    }

    fn forget_slo(&mut self, model: ModelId) {
        if let Some(slo) = self.slo_of.remove(&model) {
            self.slos.remove(&(slo, model));
        }
    }

    /// The longest run that may be measured.
    pub(super) fn longest(&self) -> Nanos {
        let shortest = self
            .slos
            .first()
            .map(|&(slo, _)| slo.scaled(1, OF_OBJECTIVE));
        shortest.map_or(LONGEST, |shortest| shortest.min(LONGEST))
    }

    /// Measures a model; `again` where it has a profile, which holds until all is measured.
    pub(super) fn begin(&mut self, model: ModelId, survey: Bisection, again: bool) {
        self.open.insert(model, Open { survey, again });
        self.measured.entry(model).or_default();
    }

    /// Leaves a model out: it has a profile.
    pub(super) fn leave_out(&mut self, model: ModelId) {
        self.open.remove(&model);
    }

    pub(super) fn forget(&mut self, model: ModelId) {
        self.open.remove(&model);
        self.measured.remove(&model);
        self.forget_slo(model);
    }

    /// Takes in what is measured of models that are of one pool with these from here on.
    pub(super) fn join(&mut self, others: Self) {
        self.open.extend(others.open);
        self.measured.extend(others.measured);
        self.slos.extend(others.slos);
        self.slo_of.extend(others.slo_of);
        self.running.extend(others.running);
        self.idle_since = self.idle_since.max(others.idle_since);
        self.paid_at = self.paid_at.max(others.paid_at);
    }

    /// Whether anything is left to measure.
    pub(super) fn is_wanted(&self) -> bool {
        !self.open.is_empty()
    }

    /// The models, by whose turn it is.
    pub(super) fn turns(&self) -> impl Iterator<Item = (ModelId, &Bisection)> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.open.range((after, Bound::Unbounded));
        rest.chain(&self.open)
            .map(|(&model, open)| (model, &open.survey))
    }

    pub(super) fn survey(&mut self, model: ModelId) -> Option<&mut Bisection> {
        self.open.get_mut(&model).map(|open| &mut open.survey)
    }

    /// Keeps what has been measured of a model, with whether that is all; `None` where it
    /// cannot be used yet.
    pub(super) fn keep(&mut self, model: ModelId) -> Option<(Vec<GridPoint>, bool)> {
        let Open { survey, again } = self.open.get(&model)?;
        let done = survey.next().is_none();
        if *again && !done {
            return None;
        }
        let points = survey.points().to_vec();
        if done {
            self.open.remove(&model);
        }
        let measured = self.measured.entry(model).or_default();
        measured.points.clone_from(&points);
        measured.whole = done;
        Some((points, done))
    }

    pub(super) fn measured(&self, model: ModelId) -> Option<&Measured> {
        self.measured.get(&model)
    }

    /// Whether the model is being measured.
    pub(super) fn is_open(&self, model: ModelId) -> bool {
        self.open.contains_key(&model)
    }

    /// When a run of `gap` may begin at the earliest: once nothing has run for as long, and
    /// what earlier runs took is paid.
    pub(super) fn earliest(&self, gap: Nanos) -> Timestamp {
        self.paid_at.max(self.idle_since + gap)
    }

    /// Notes that a leg has ended.
    pub(super) fn ended(&mut self, at: Timestamp) {
        self.idle_since = self.idle_since.max(at);
    }

    pub(super) fn run(&mut self, task: TaskId, model: ModelId) {
        self.running.insert(task);
        self.last = Some(model);
    }

    pub(super) fn is_running(&self, task: TaskId) -> bool {
        self.running.contains(&task)
    }

    /// Lets go of a task that ended in any way.
    pub(super) fn let_go(&mut self, task: TaskId) {
        self.running.remove(&task);
    }

    /// Accounts for a run of a model from `started` that took `device_time`, where
    /// measuring may take `share` of it.
    pub(super) fn pay(
        &mut self,
        model: ModelId,
        started: Timestamp,
        device_time: Nanos,
        share: f64,
    ) {
        if let Some(measured) = self.measured.get_mut(&model) {
            measured.device_time += device_time;
        }
        let owed = Nanos::from_secs_f64(device_time.as_secs_f64() / share);
        self.paid_at = self.paid_at.max(started) + owed;
    }
}
