//! The [`Scheduler`] type: events in, actions out.

mod audit;
mod events;
mod measure;
mod verdicts;

use super::action::Action;
use super::config::{ModelSpec, SchedulerConfig};
use super::decision::Decision;
use super::hash::ActionHash;
use super::input::Input;
use super::outcome::Outcome;
use super::state::{Place, State};
use super::view::View;
use crate::device::DeviceSpec;
use crate::id::{DeviceId, ModelId, RequestId, TaskId};
use crate::policy::{self, Plan, Policy, ServiceBound};
use crate::profile::{Judged, LatencyModel};
use crate::time::{Nanos, Timestamp};
pub use measure::ProfileStatus;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The scheduler.
///
/// Hand events in with [`handle`](Self::handle) (several, where several are at hand), then
/// drain [`poll_action`](Self::poll_action) to `None` and carry the actions out, then wait
/// for the next event or until [`poll_timeout`](Self::poll_timeout), at which time hand in
/// [`Input::Timeout`]. Getters change nothing.
///
/// Equal inputs at equal times, drained at the same points, give equal actions:
/// [`action_hash`](Self::action_hash) tells.
///
/// # Panics
/// An input that breaks the contract (a leg that was never issued, a device twice) and a
/// policy that breaks its own promises are bugs and panic, in release builds too.
///
/// # Cost
/// An event costs a few logarithms of the number of models, devices and waiting requests,
/// plus the requests of the batch it starts or ends.
#[derive(Debug)]
pub struct Scheduler {
    state: State,
    policy: Box<dyn Policy>,
    actions: VecDeque<Action>,
    hash: ActionHash,
    action_count: u64,
    /// Whether anything happened since the policy last said to wait.
    dirty: bool,
    /// When the policy asked to be asked again.
    look_again: Option<Timestamp>,
    /// Verdicts left before the drain is cut.
    budget: u32,
    /// By device: the model that went first, and how often in a row it was passed over.
    passes: BTreeMap<DeviceId, (Option<ModelId>, u32)>,
    explanations: BTreeMap<RequestId, Explanation>,
    decisions: VecDeque<Decision>,
    decisions_lost: u64,
    /// How often a device was lost; reports of its tasks may still come in after that.
    devices_lost: u64,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// It waits in its model's queue.
    Waiting {
        /// Its deadline.
        deadline: Option<Timestamp>,
    },
    /// It is part of a task.
    InTask {
        /// The task.
        task: TaskId,
    },
    /// It has ended.
    Ended {
        /// When.
        at: Timestamp,
        /// How.
        outcome: Outcome,
    },
}

/// Figures of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelStatus {
    /// Requests that wait.
    pub waiting: u64,
    /// Bytes of its requests that have not ended.
    pub bytes: u64,
    /// Tasks committed or running.
    pub in_flight: u16,
    /// Median relative error of the last latency predictions; `None` before the first.
    pub prediction_error: Option<f64>,
}

impl Scheduler {
    /// A scheduler without models and devices; they come as inputs.
    pub fn new(config: SchedulerConfig) -> Self {
        Self::with_latency_model(config, Box::new(Judged::default()))
    }

    /// As [`new`](Self::new), with other knowledge of latencies.
    pub fn with_latency_model(config: SchedulerConfig, latency: Box<dyn LatencyModel>) -> Self {
        let policy = policy::from_spec(&config.policy);
        let budget = config.verdicts_max;
        let state = State {
            now: Timestamp::ZERO,
            rule: policy.capacity(),
            order: policy.queue_order(),
            backlog: policy.backlog(),
            config,
            models: super::dense::DenseMap::default(),
            requests: super::dense::DenseMap::default(),
            tasks: super::dense::DenseMap::default(),
            ledger: super::ledger::Ledger::default(),
            latency: super::latencies::Latencies::new(latency),
            ready: BTreeMap::new(),
            parked: BTreeSet::new(),
            moves: 0,
            expiry: super::line::Line::default(),
            continuing: BTreeSet::new(),
            waiting: 0,
            bytes: 0,
            pools: super::pools::Pools::default(),
            draining: false,
            configuration: 0,
            next_task: 0,
        };
        Self {
            state,
            policy,
            actions: VecDeque::new(),
            hash: ActionHash::default(),
            action_count: 0,
            dirty: false,
            look_again: None,
            budget,
            passes: BTreeMap::new(),
            explanations: BTreeMap::new(),
            decisions: VecDeque::new(),
            decisions_lost: 0,
            devices_lost: 0,
        }
    }

    /// Takes in an event that happened at `now`. A `now` before the last one counts as
    /// the last one: time never goes back.
    pub fn handle(&mut self, now: Timestamp, input: Input) {
        self.state.now = self.state.now.max(now);
        self.dirty = true;
        self.budget = self.state.config.verdicts_max;
        self.fire_timers();
        self.state.configuration += u64::from(input.changes_configuration());
        match input {
            Input::Arrived(arrival) => self.arrived(&arrival),
            Input::Cancelled { request } => self.cancelled(request),
            Input::LegStarted {
                device, task, at, ..
            } => self.leg_started(device, task, at),
            Input::LegFinished {
                device,
                task,
                leg,
                started,
                ended,
                result,
            } => {
                self.leg_finished(device, task, leg, (started, ended), result);
            }
            Input::LegRevoked { device, task, leg } => self.leg_revoked(device, task, leg),
            Input::ModelAdded(spec) => self.model_added(spec),
            Input::ModelChanged(spec) => self.model_changed(spec),
            Input::ModelRemoved { model } => self.model_removed(model),
            Input::ProfileGiven { model, profile } => self.profile_given(model, &profile),
            Input::ProfileWanted { model } => self.profile_wanted(model),
            Input::PolicyChanged(spec) => {
                let policy = policy::from_spec(&spec);
                self.state.rebuild(|state| {
                    state.rule = policy.capacity();
                    state.order = policy.queue_order();
                    state.backlog = policy.backlog();
                    state.config.policy = spec;
                });
                self.policy = policy;
                self.passes.clear();
            }
            Input::DeadlinesChanged(mode) => {
                self.state.rebuild(|state| state.config.deadlines = mode)
            }
            Input::DeviceAdded(spec) => {
                self.state.add_device(spec.id);
                self.state.ledger.add(spec);
            }
            Input::DeviceLost { device } => self.device_lost(device),
            Input::Drain => self.state.draining = true,
            Input::Timeout => {}
        }
    }

    /// The next thing to do; `None` where nothing is left until the next event.
    pub fn poll_action(&mut self) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                self.hash.update(&action);
                self.action_count += 1;
                return Some(action);
            }
            if !self.dirty {
                // Not counted: it ends by itself, with a run or with nothing to measure.
                if !self.measure() {
                    return None;
                }
                continue;
            }
            if self.budget == 0 {
                return None;
            }
            self.budget -= 1;
            let verdict = self.policy.decide(&View::new(&self.state));
            self.apply(verdict);
        }
    }

    /// The next record of a decision, oldest first.
    pub fn poll_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// When to hand in [`Input::Timeout`] if nothing happens before; `None` for never.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        if self.dirty {
            return Some(self.state.now);
        }
        let state = &self.state;
        let expiry = state.expiry.first().map(|(at, _)| at);
        let parked = state.parked.first().map(|&(at, _)| at);
        let work = state.any_ready() || !state.continuing.is_empty();
        let lane = self.next_lane_time(work);
        let measure = self.next_measurement().map(|next| next.due);
        let times = [expiry, parked, lane, measure, self.look_again];
        times.into_iter().flatten().min()
    }

    /// When the next lane needs to be looked at: where there is `work`, as it comes near enough
    /// to its predicted end to be committed to; and as a committed leg becomes too late for its
    /// first request, because the leg before it runs longer than predicted.
    fn next_lane_time(&self, work: bool) -> Option<Timestamp> {
        let state = &self.state;
        let times = state.ledger.legs().filter_map(|(front, next)| match next {
            None if work => {
                let end = front.started? + front.predicted?;
                Some(end.before(state.config.commit_lead))
            }
            Some(next) if !next.revoking => Some(state.task(next.task).start_by? + Nanos::new(1)),
            None | Some(_) => None,
        });
        times.filter(|&time| time > state.now).min()
    }

    /// What is known of a request; `None` where it is unknown or long gone.
    pub fn explain(&self, request: RequestId) -> Option<Explanation> {
        if let Some(known) = self.state.requests.get(&request) {
            return Some(match known.place {
                Place::Queue => Explanation::Waiting {
                    deadline: known.deadline,
                },
                Place::Task(task) => Explanation::InTask { task },
            });
        }
        self.explanations.get(&request).copied()
    }

    /// Figures of a model; `None` where it is unknown.
    pub fn model_status(&self, model: ModelId) -> Option<ModelStatus> {
        let model = self.state.models.get(&model)?;
        Some(ModelStatus {
            waiting: model.queue.requests(),
            bytes: model.bytes,
            in_flight: model.in_flight,
            prediction_error: model.errors.quantile(0.5).map(|error| error as f64 / 1e3),
        })
    }

    /// The models, rising by id.
    pub fn models(&self) -> impl Iterator<Item = &ModelSpec> {
        self.state.models.values().map(|model| &model.spec)
    }

    /// The devices that are present, rising by id.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceSpec> {
        self.state.ledger.specs()
    }

    /// Requests that have not ended.
    pub fn requests_open(&self) -> usize {
        self.state.requests.len()
    }

    /// Decision records that were lost because nobody polled them in time.
    pub fn decisions_lost(&self) -> u64 {
        self.decisions_lost
    }

    /// The number of actions polled so far.
    pub fn action_count(&self) -> u64 {
        self.action_count
    }

    /// The hash of all actions polled so far.
    pub fn action_hash(&self) -> u64 {
        std::hash::Hasher::finish(&self.hash)
    }

    /// The settings in force: those it began with, with what inputs changed since.
    pub fn config(&self) -> &SchedulerConfig {
        &self.state.config
    }

    /// The name of the policy in force.
    pub fn policy(&self) -> &'static str {
        self.policy.name()
    }

    /// What the policy in force has planned for a device; `None` where it plans nothing
    /// ahead, and before its first plan.
    pub fn plan(&self, device: DeviceId) -> Option<&Plan> {
        self.policy.plan(device)
    }

    /// What the policy in force promises to models that wait.
    pub fn service_bound(&self) -> Option<ServiceBound> {
        self.policy.service_bound()
    }

    fn decided(&mut self, decision: impl FnOnce(Timestamp) -> Decision) {
        let limit = self.state.config.decisions as usize;
        if limit == 0 {
            return;
        }
        if self.decisions.len() >= limit {
            self.decisions.pop_front();
            self.decisions_lost += 1;
        }
        self.decisions.push_back(decision(self.state.now));
    }

    /// Tells the driver how a request ended, and remembers it for `explain`.
    fn finish(&mut self, request: RequestId, outcome: Outcome) {
        self.actions.push_back(Action::Finish { request, outcome });
        self.decided(|at| Decision::Ended {
            at,
            request,
            outcome,
        });
        let limit = self.state.config.explanations as usize;
        if limit == 0 {
            return;
        }
        while self.explanations.len() >= limit {
            self.explanations.pop_first();
        }
        self.explanations.insert(
            request,
            Explanation::Ended {
                at: self.state.now,
                outcome,
            },
        );
    }
}
