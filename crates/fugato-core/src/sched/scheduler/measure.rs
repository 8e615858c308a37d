//! Runs that are measured: chosen, launched and learned from.

use super::Scheduler;
use crate::id::{BatchSize, DeviceId, LegIndex, ModelId, Share, TaskId};
use crate::profile::{Bisection, BisectionPoint, GridPoint, ModelProfile, Standing, SurfacePoint};
use crate::sched::decision::Decision;
use crate::sched::input::LegResult;
use crate::sched::ledger::LaneRef;
use crate::sched::measuring::Measured;
use crate::sched::pools::Pool;
use crate::sched::queue::QueueKey;
use crate::sched::state::{Beside, LegStage, ModelFacts, Task};
use crate::time::{Nanos, Timestamp};

/// How long after a model was said to have drifted it may be said again: a machine that is
/// never twice the same must not be measured all the time, nor fill the log.
const EPISODE_MIN: Nanos = Nanos::from_millis(300_000);

/// A run to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextMeasurement {
    model: ModelId,
    point: BisectionPoint,
    at: LaneRef,
    /// How long it may take, by what was measured before.
    expected: Option<Nanos>,
    /// When it may begin at the earliest.
    pub(super) due: Timestamp,
}

/// What is known of a model's profile.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileStatus {
    /// How the profile stands against what is observed; `None` without one.
    pub standing: Option<Standing>,
    /// Whether it is being measured while serving.
    pub measuring: bool,
    /// Points measured while serving.
    pub points: u64,
    /// Device time that took: its runs' times, each by the part of the device it held.
    pub device_time: Nanos,
}

impl Scheduler {
    /// What is known of a model's profile; `None` where the model is unknown.
    pub fn profile_status(&self, model: ModelId) -> Option<ProfileStatus> {
        let known = self.state.models.get(&model)?;
        let measuring = &self.state.pools.get(known.pool).measuring;
        let measured = measuring.measured(model);
        Some(ProfileStatus {
            standing: self.state.latency.standing(model),
            measuring: measuring.is_open(model),
            points: measured.map_or(0, |measured| measured.points.len() as u64),
            device_time: measured.map_or(Nanos::ZERO, |measured| measured.device_time),
        })
    }

    /// What was measured of a model while serving, up to the last batch that was measured
    /// in full.
    pub fn measured_points(&self, model: ModelId) -> &[GridPoint] {
        let measured = self.measured_of(model);
        measured.map_or(&[], |measured| &measured.points)
    }

    /// Whether nothing is left to measure beside [`measured_points`](Self::measured_points).
    pub fn is_measured_whole(&self, model: ModelId) -> bool {
        self.measured_of(model)
            .is_some_and(|measured| measured.whole)
    }

    fn measured_of(&self, model: ModelId) -> Option<&Measured> {
        let known = self.state.models.get(&model)?;
        self.state.pools.get(known.pool).measuring.measured(model)
    }

    pub(super) fn profile_given(&mut self, model: ModelId, profile: &ModelProfile) {
        if let Some(known) = self.state.models.get_mut(&model) {
            known.unfinished = profile.unfinished;
            known.facts = Some(ModelFacts::new(profile));
            known.knowledge += 1;
            self.state.pool_mut(model).measuring.leave_out(model);
            self.learn_profile(model, profile);
        }
    }

    /// Hands the latency model the surfaces of the legs that the model runs in: a profile
    /// of other legs says nothing of them.
    fn learn_profile(&mut self, model: ModelId, profile: &ModelProfile) {
        let legs = usize::from(self.state.model(model).spec.legs);
        if legs != profile.legs.len().max(1) {
            if legs == 1 {
                self.learn_profile(model, &profile.whole());
            }
            return;
        }
        let devices = &self.state.model(model).spec.devices;
        let present = devices
            .iter()
            .find_map(|&device| self.state.ledger.spec(device));
        let most = || profile.grid.iter().map(|point| point.share).max();
        let slices = present.map_or_else(|| Share(most().unwrap_or(0)), |device| device.slices);
        self.state.latency.learn(model, profile, slices);
        self.state.model_mut(model).told += 1;
    }

    pub(super) fn profile_wanted(&mut self, model: ModelId) {
        if let Some(known) = self.state.models.get_mut(&model) {
            known.measurable = known.spec.legs == 1 && !known.stopping;
            let lacks = known.unfinished || self.state.latency.standing(model).is_none();
            if known.measurable && lacks {
                self.begin_measuring(model);
            }
        }
    }

    /// Begins to measure a model, if that is allowed.
    fn begin_measuring(&mut self, model: ModelId) {
        let measuring = &self.state.pool(model).measuring;
        let stopping = self.state.model(model).stopping;
        if stopping || self.state.config.profile_share <= 0.0 || measuring.is_open(model) {
            return;
        }
        let spec = &self.state.model(model).spec;
        let shares = self.state.ledger.shares(&spec.devices);
        if let Some(survey) = Bisection::new(shares, spec.max_batch) {
            let again = self.state.latency.standing(model).is_some();
            let measuring = &mut self.state.pool_mut(model).measuring;
            measuring.begin(model, survey, again);
        }
    }

    /// What is measured next, if nothing happens before; `None` while on each of the devices
    /// of models to be measured anything waits or runs.
    pub(super) fn next_measurement(&self) -> Option<NextMeasurement> {
        let pools = self.state.pools.iter();
        let next = pools.filter_map(|(_, pool)| self.next_measurement_of(pool));
        next.min_by_key(|next| next.due)
    }

    fn next_measurement_of(&self, pool: &Pool) -> Option<NextMeasurement> {
        let (state, measuring) = (&self.state, &pool.measuring);
        let is_present = |device: &DeviceId| state.ledger.contains(*device);
        if !measuring.is_wanted() || !pool.devices.iter().any(is_present) {
            return None;
        }
        let idle = |&device: &DeviceId| state.ledger.occupied_on(device).next().is_none();
        let busy = pool.waiting > 0 || pool.tasks > 0 || !pool.devices.iter().all(idle);
        if busy || state.draining {
            return None;
        }
        let (model, survey, point, at) = measuring.turns().find_map(|(model, survey)| {
            let point = survey.next()?;
            let devices = &state.model(model).spec.devices;
            let at = state.ledger.lane_of_share(devices, point.share)?;
            Some((model, survey, point, at))
        })?;
        let expected = survey.expected();
        let longest = measuring.longest();
        // The first run is what a request of the model takes in any case.
        let run = expected.or_else(|| {
            let known = state.predict(model, LegIndex(0), point.batch, at, 0.5);
            known.map(|known| known.time)
        });
        Some(NextMeasurement {
            model,
            point,
            at,
            expected,
            due: measuring.earliest(run.unwrap_or(longest).min(longest)),
        })
    }

    /// Starts a run to measure if it is time for one; says whether it did something.
    pub(super) fn measure(&mut self) -> bool {
        let Some(next) = self.next_measurement() else {
            return false;
        };
        if next.due > self.state.now {
            return false;
        }
        let longest = self.state.pool(next.model).measuring.longest();
        if let Some(expected) = next.expected.filter(|&expected| expected > longest) {
            let reason = format!("a run may take {expected}, and {longest} is the most");
            self.refuse_point(next.model, &reason);
            return true;
        }
        let id = TaskId(self.state.next_task);
        self.state.next_task += 1;
        let now = self.state.now;
        let model = self.state.model_mut(next.model);
        let slot = model.free_slots.pop_first();
        let slot = slot.unwrap_or_else(|| panic!("{} has no task and no free slot", next.model));
        model.in_flight += 1;
        self.state.refresh(next.model);
        let task = Task {
            model: next.model,
            slot,
            batch: next.point.batch,
            requests: Vec::new(),
            key: QueueKey::of_none(now),
            leg: LegIndex(0),
            unsplit: false,
            at: next.at,
            stage: LegStage::Committed,
            ahead: false,
            beside: Beside::NOTHING,
            suspended: false,
            start_by: None,
            spent: Nanos::ZERO,
        };
        self.state.tasks.insert(id, task);
        let pool = self.state.pool_mut(next.model);
        pool.tasks += 1;
        pool.measuring.run(id, next.model);
        self.issue(id, LegIndex(0), next.at, Vec::new());
        true
    }

    /// Learns from a measured run.
    pub(super) fn measured(
        &mut self,
        id: TaskId,
        (started, ended): (Timestamp, Timestamp),
        result: LegResult,
    ) {
        let task = self.state.task(id);
        let (model, at, batch) = (task.model, task.at, task.batch);
        let Beside { neighbours, demand } = task.beside;
        let took = ended - started;
        let share = self.state.ledger.share(at);
        let whole = self
            .state
            .ledger
            .spec(at.device)
            .map_or(share, |device| device.slices);
        let device_time = took.scaled(u64::from(share.0), u64::from(whole.0.max(1)));
        let part = self.state.config.profile_share;
        let measuring = &mut self.state.pool_mut(model).measuring;
        measuring.pay(model, started, device_time, part);
        if result == LegResult::Failed {
            return self.refuse_point(model, "the device could not run it");
        }
        let point = SurfacePoint {
            model,
            leg: LegIndex(0),
            batch,
            share,
            neighbours,
            demand,
        };
        self.state.observe(point, took);
        self.state.plan_anew(model, at.device);
        // What ran beside a request says nothing of the point alone: it is run again.
        let survey = self.state.pool_mut(model).measuring.survey(model);
        let survey = survey.filter(|survey| {
            neighbours == Share(0) && survey.next() == Some(BisectionPoint { batch, share })
        });
        if survey.is_some_and(|survey| survey.record(took)) {
            self.keep_measured(model);
        }
    }

    fn refuse_point(&mut self, model: ModelId, reason: &str) {
        let survey = self.state.pool_mut(model).measuring.survey(model);
        if survey.is_some_and(|survey| survey.refuse(reason)) {
            self.keep_measured(model);
        }
    }

    /// Puts to use what has been measured of a model. A profile that it has holds until
    /// the new one is whole.
    fn keep_measured(&mut self, model: ModelId) {
        let measuring = &mut self.state.pool_mut(model).measuring;
        let Some((points, done)) = measuring.keep(model) else {
            return;
        };
        let spec = &self.state.model(model).spec;
        let BatchSize(max_batch) = spec.max_batch;
        let mut profile = ModelProfile::new(spec.name.clone(), String::new(), max_batch);
        profile.sparse = true;
        profile.grid = points;
        // It is of the model, whatever its times have become.
        let facts = self.state.model(model).facts.as_ref();
        profile.interference = facts.and_then(|facts| facts.interference);
        self.learn_profile(model, &profile);
        self.decided(|at| Decision::Measured { at, model, done });
    }

    /// Says once when a model's times have left its profile's band, and measures it anew.
    pub(super) fn check_drift(&mut self, model: ModelId) {
        let now = self.state.now;
        let standing = self.state.latency.standing(model);
        let drifted = standing.is_some_and(|standing| standing.drifted);
        let drift = &mut self.state.model_mut(model).drift;
        match (*drift, drifted) {
            (Some((at, true)), false) => *drift = Some((at, false)),
            (Some((at, false)), true) if now.since(at) < EPISODE_MIN => {}
            (Some((_, false)) | None, true) => {
                *drift = Some((now, true));
                self.decided(|at| Decision::Drifted { at, model });
                if self.state.model(model).measurable {
                    self.begin_measuring(model);
                }
            }
            (Some((_, true)), true) | (Some((_, false)) | None, false) => {}
        }
    }
}
