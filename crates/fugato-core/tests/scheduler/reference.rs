//! A naive model of the scheduler: vectors and linear scans, right by inspection.
//!
//! It takes the same inputs and sees the same actions. It cannot say what a policy should
//! decide; it says what no policy may: a request that ends twice or never, a leg before its
//! predecessor, atoms shared where that is forbidden, a batch out of the queue's order.

mod actions;

use fugato_core::device::DeviceSpec;
use fugato_core::policy::{self, Policy};
use fugato_core::sched::{
    Arrival, DeadlineMode, Explanation, FailReason, Input, LaneRef, LegResult, ModelSpec, Outcome,
    Overdue, Scheduler, SchedulerConfig, Start,
};
use fugato_core::{DeviceId, LegIndex, ModelId, RequestId, TaskId, Timestamp};

/// A request that was handed in and has not ended.
#[derive(Debug)]
struct Open {
    arrival: Arrival,
    deadline: Option<Timestamp>,
    /// Whether it has waited past its queue timeout and goes last.
    overdue: bool,
    task: Option<TaskId>,
    /// How it must end in this drain.
    must: Option<Outcome>,
    /// Whether it came, or came back, since the last drain.
    fresh: bool,
}

#[derive(Debug)]
struct Leg {
    leg: LegIndex,
    at: LaneRef,
    started: bool,
    revoking: bool,
}

#[derive(Debug)]
struct Task {
    start: Start,
    members: Vec<RequestId>,
    /// Legs on lanes, the earlier first.
    legs: Vec<Leg>,
    /// Legs that have ended.
    done: u16,
    device: DeviceId,
}

/// The model.
#[derive(Debug)]
pub struct Reference {
    config: SchedulerConfig,
    policy: Box<dyn Policy>,
    devices: Vec<DeviceSpec>,
    models: Vec<(ModelSpec, bool)>,
    open: Vec<Open>,
    tasks: Vec<Task>,
    draining: bool,
    /// Whether deadlines were enforced at any time since the last drain.
    enforced: bool,
    /// Inputs since the last drain.
    inputs: u32,
    /// Requests that have ended.
    pub ended: Vec<(RequestId, Outcome)>,
}

impl Reference {
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            policy: policy::from_spec(&config.policy),
            config,
            devices: Vec::new(),
            models: Vec::new(),
            open: Vec::new(),
            tasks: Vec::new(),
            draining: false,
            enforced: true,
            inputs: 0,
            ended: Vec::new(),
        }
    }

    pub fn is_present(&self, device: DeviceId) -> bool {
        self.devices.iter().any(|known| known.id == device)
    }

    /// Whether anything is under way.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.tasks.is_empty()
    }

    /// The legs that run on a device, with their tasks.
    pub fn running(&self, device: DeviceId) -> Vec<(TaskId, LegIndex)> {
        let tasks = self.tasks.iter().filter(|task| task.device == device);
        let legs = tasks.flat_map(|task| task.legs.iter().map(|leg| (task.start.task, leg)));
        let running = legs.filter(|(_, leg)| leg.started);
        running.map(|(task, leg)| (task, leg.leg)).collect()
    }

    pub fn spec(&self, model: ModelId) -> Option<&ModelSpec> {
        let known = self.models.iter().find(|(spec, _)| spec.id == model)?;
        Some(&known.0)
    }

    /// Takes in what the scheduler is handed at `now`.
    pub fn input(&mut self, now: Timestamp, input: &Input) {
        self.inputs += 1;
        self.delay_overdue(now);
        match input {
            Input::Arrived(arrival) => self.arrived(*arrival),
            Input::Cancelled { request } => self.cancelled(*request),
            Input::LegStarted { task, leg, .. } => {
                if let Some(task) = self
                    .tasks
                    .iter_mut()
                    .find(|known| known.start.task == *task)
                {
                    let first = task.legs.first_mut().expect("a leg on a lane");
                    assert_eq!((first.leg, first.started), (*leg, false));
                    first.started = true;
                    first.revoking = false;
                }
            }
            Input::LegFinished {
                task, leg, result, ..
            } => self.finished(*task, *leg, *result),
            Input::LegRevoked { task, leg, .. } => {
                self.revoked(*task, *leg);
                self.delay_overdue(now);
            }
            Input::ModelAdded(spec) => self.models.push((spec.clone(), false)),
            Input::ModelChanged(spec) => {
                let known = self.models.iter_mut().find(|known| known.0.id == spec.id);
                known.expect("a known model").0 = spec.clone();
            }
            Input::ModelRemoved { model } => {
                for known in self.models.iter_mut().filter(|known| known.0.id == *model) {
                    known.1 = true;
                }
            }
            Input::PolicyChanged(spec) => {
                self.policy = policy::from_spec(spec);
                self.refreshed();
            }
            Input::DeadlinesChanged(mode) => {
                self.config.deadlines = *mode;
                self.enforced |= *mode == DeadlineMode::Enforce;
                self.refreshed();
            }
            Input::DeviceAdded(spec) => self.devices.push(spec.clone()),
            Input::DeviceLost { device } => {
                self.lost(*device);
                self.delay_overdue(now);
            }
            Input::Drain => self.draining = true,
            Input::ProfileGiven { .. } | Input::ProfileWanted { .. } | Input::Timeout => {}
        }
    }

    fn refreshed(&mut self) {
        for open in &mut self.open {
            open.fresh = true;
        }
    }

    fn delay_overdue(&mut self, now: Timestamp) {
        for open in &mut self.open {
            let due = open.arrival.queue_timeout.is_some_and(|at| at <= now);
            let waits = open.task.is_none() && open.must.is_none();
            if due && waits && open.arrival.overdue == Overdue::Delay {
                open.overdue = true;
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival) {
        let slo = self.spec(arrival.model).and_then(|spec| spec.slo);
        let slo = slo.map(|slo| arrival.received + slo);
        self.open.push(Open {
            arrival,
            deadline: slo.into_iter().chain(arrival.deadline).min(),
            overdue: false,
            task: None,
            must: None,
            fresh: true,
        });
    }

    fn cancelled(&mut self, request: RequestId) {
        self.must(&[request], Outcome::Cancelled);
        let mut open = self.open.iter();
        let task = open.find(|open| open.arrival.request == request);
        let task = task.and_then(|open| open.task);
        let in_flight = |id: &TaskId| self.tasks.iter().any(|task| task.start.task == *id);
        // A task between two legs ends with the last that waits for it.
        if let Some(id) = task.filter(in_flight) {
            self.end_if_abandoned(id);
        }
    }

    fn must(&mut self, requests: &[RequestId], outcome: Outcome) {
        for open in &mut self.open {
            if requests.contains(&open.arrival.request) && open.must.is_none() {
                open.must = Some(outcome);
            }
        }
    }

    fn finished(&mut self, id: TaskId, leg: LegIndex, result: LegResult) {
        let Some(task) = self.tasks.iter_mut().find(|task| task.start.task == id) else {
            return;
        };
        let ended = task.legs.remove(0);
        assert_eq!((ended.leg, ended.started), (leg, true), "{id} ended a leg");
        task.done = leg.0 + 1;
        let legs = self.spec(self.task(id).start.model).expect("known").legs;
        let members = self.task(id).members.clone();
        if result == LegResult::Failed {
            self.must(&members, Outcome::Failed(FailReason::Run));
        } else if self.task(id).done == legs {
            self.must(&members, Outcome::Completed);
        }
        self.end_if_abandoned(id);
    }

    fn revoked(&mut self, id: TaskId, leg: LegIndex) {
        let Some(task) = self.tasks.iter_mut().find(|task| task.start.task == id) else {
            return;
        };
        let back = task.legs.pop().expect("a leg to give back");
        assert_eq!(
            (back.leg, back.started, back.revoking),
            (leg, false, true),
            "{id} gave back a leg"
        );
        if leg == self.task(id).start.leg {
            self.return_to_queue(id);
        } else {
            self.end_if_abandoned(id);
        }
    }

    fn return_to_queue(&mut self, id: TaskId) {
        for open in self.open.iter_mut().filter(|open| open.task == Some(id)) {
            open.task = None;
            open.fresh = true;
        }
        self.tasks.retain(|task| task.start.task != id);
    }

    fn end_if_abandoned(&mut self, id: TaskId) {
        let task = self.task(id);
        let alive = |open: &Open| open.task == Some(id) && open.must.is_none();
        if task.legs.is_empty() && !self.open.iter().any(alive) {
            self.tasks.retain(|task| task.start.task != id);
        }
    }

    fn lost(&mut self, device: DeviceId) {
        if !self.is_present(device) {
            return;
        }
        self.devices.retain(|known| known.id != device);
        let on_it = self.tasks.iter().filter(|task| task.device == device);
        let on_it: Vec<TaskId> = on_it.map(|task| task.start.task).collect();
        let lost = Outcome::Failed(FailReason::DeviceLost { device });
        for id in on_it {
            let task = self.task(id);
            let only_committed = task.legs.iter().all(|leg| !leg.started);
            if task.done == 0 && only_committed {
                self.return_to_queue(id);
            } else {
                let members = task.members.clone();
                self.must(&members, lost);
                self.tasks.retain(|task| task.start.task != id);
            }
        }
        let models = self.models.iter().map(|(spec, _)| spec);
        let unhosted = models.filter(|spec| {
            let hosts = &spec.devices;
            hosts.contains(&device) && !hosts.iter().any(|&host| self.is_present(host))
        });
        let unhosted: Vec<ModelId> = unhosted.map(|spec| spec.id).collect();
        let waiting = self
            .open
            .iter()
            .filter(|open| open.task.is_none() && unhosted.contains(&open.arrival.model));
        let waiting: Vec<RequestId> = waiting.map(|open| open.arrival.request).collect();
        self.must(&waiting, lost);
    }

    fn task(&self, id: TaskId) -> &Task {
        let task = self.tasks.iter().find(|task| task.start.task == id);
        task.unwrap_or_else(|| panic!("{id} is not in flight"))
    }

    /// Compares what the scheduler says of itself after a drain at `now`.
    pub fn drained(&mut self, now: Timestamp, scheduler: &Scheduler) {
        let enforced = self.config.deadlines == DeadlineMode::Enforce;
        for open in &self.open {
            assert_eq!(open.must, None, "{open:?} should have ended");
            let request = open.arrival.request;
            let expected = match open.task {
                Some(task) => Explanation::InTask { task },
                None => Explanation::Waiting {
                    deadline: open.deadline,
                },
            };
            assert_eq!(scheduler.explain(request), Some(expected), "of {request}");
            let late = enforced && open.deadline.is_some_and(|deadline| deadline <= now);
            let timed_out = open.arrival.overdue == Overdue::Drop
                && open.arrival.queue_timeout.is_some_and(|at| at <= now);
            let kept = open.task.is_none() && !open.fresh && (late || timed_out);
            assert!(!kept || self.inputs == 0, "{open:?} waits on at {now:?}");
        }
        assert_eq!(scheduler.requests_open(), self.open.len());
        for (spec, stopping) in &self.models {
            let status = scheduler.model_status(spec.id).expect("a known model");
            let of_model = || {
                self.open
                    .iter()
                    .filter(|open| open.arrival.model == spec.id)
            };
            let waiting = of_model().filter(|open| open.task.is_none()).count();
            assert_eq!(status.waiting, waiting as u64, "waiting for {}", spec.id);
            let bytes: u64 = of_model().map(|open| open.arrival.bytes).sum();
            assert_eq!(status.bytes, bytes, "bytes of {}", spec.id);
            assert!(bytes <= spec.limits.bytes, "bytes of {}", spec.id);
            let tasks = self.tasks.iter().filter(|task| task.start.model == spec.id);
            let tasks = tasks.count();
            assert_eq!(usize::from(status.in_flight), tasks, "tasks of {}", spec.id);
            let left = waiting + tasks > 0;
            assert!(!stopping || left, "{} was not drained", spec.id);
        }
        let models = scheduler.models().map(|spec| spec.id);
        assert!(models.eq(self.sorted_models()), "the models");
        for open in &mut self.open {
            open.fresh = false;
        }
        self.inputs = 0;
        self.enforced = enforced;
        scheduler.audit();
    }

    fn sorted_models(&self) -> Vec<ModelId> {
        let mut models: Vec<ModelId> = self.models.iter().map(|(spec, _)| spec.id).collect();
        models.sort_unstable();
        models
    }
}
