//! A naive model of the scheduler: vectors and linear scans, right by inspection.
//!
//! It takes the same inputs and sees the same actions. It cannot say what a policy should
//! decide; it says what no policy may: a request that ends twice or never, a leg before its
//! predecessor, atoms shared where that is forbidden, a batch out of the queue's order.

use fugato_core::device::{AtomSet, DeviceSpec, LaneClass};
use fugato_core::policy::{self, CapacityRule, Policy, QueueOrder};
use fugato_core::sched::{
    Action, Arrival, DeadlineMode, DropReason, Explanation, FailReason, Input, LaneRef, LegResult,
    ModelSpec, Outcome, Overdue, Rejection, Scheduler, SchedulerConfig, Scope, Start,
};
use fugato_core::{DeviceId, LegIndex, ModelId, RequestId, TaskId, Timestamp};
use std::collections::BTreeSet;

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

    /// The devices that models connect with one, itself among them.
    fn connected(&self, device: DeviceId) -> BTreeSet<DeviceId> {
        let mut found = BTreeSet::from([device]);
        loop {
            let before = found.len();
            for (model, _) in &self.models {
                if model.devices.iter().any(|device| found.contains(device)) {
                    found.extend(&model.devices);
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// Takes in what the scheduler is handed at `now`.
    pub fn input(&mut self, now: Timestamp, input: &Input) {
        self.inputs += 1;
        self.delay_overdue(now);
        match input {
            Input::Arrived(arrival) => self.arrived(*arrival),
            Input::Cancelled { request } => self.must(&[*request], Outcome::Cancelled),
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
        task.done += 1;
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
        if leg == LegIndex(0) {
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

    /// Checks an action that the scheduler gave at `now`, and carries it out.
    pub fn action(&mut self, now: Timestamp, action: &Action) {
        match action {
            Action::Start(start) if start.leg == LegIndex(0) => self.launch(start),
            Action::Start(start) => self.go_on(start),
            Action::Revoke { task, leg, .. } => self.revoke(*task, *leg),
            Action::Finish { request, outcome } => self.finish(now, *request, *outcome),
            Action::ModelDrained { model } => {
                let tasks = self.tasks.iter().any(|task| task.start.model == *model);
                let open = self.open.iter().any(|open| {
                    open.arrival.model == *model && (open.task.is_some() || !open.fresh)
                });
                assert!(!tasks && !open, "{model} was drained with work left");
                let stopping = self
                    .models
                    .iter()
                    .any(|(spec, stop)| spec.id == *model && *stop);
                assert!(stopping, "{model} was drained and not removed");
                self.models.retain(|(spec, _)| spec.id != *model);
            }
        }
    }

    /// A leg may have started, or its device been lost, between two inputs of one drain.
    fn revoke(&mut self, id: TaskId, leg: LegIndex) {
        let task = self.tasks.iter_mut().find(|task| task.start.task == id);
        let known = task.and_then(|task| task.legs.iter_mut().find(|known| known.leg == leg));
        let Some(known) = known.filter(|known| !known.started) else {
            assert!(self.inputs > 1, "{leg} of {id} does not wait on a lane");
            return;
        };
        assert!(!known.revoking, "{leg} of {id} is revoked twice");
        known.revoking = true;
    }

    fn launch(&mut self, start: &Start) {
        let (id, model) = (start.task, start.model);
        let spec = self.spec(model).expect("a known model").clone();
        assert!(
            spec.devices.contains(&start.device),
            "{start:?} is not hosted"
        );
        assert!(start.slot.0 < spec.slots, "{start:?} has no such slot");
        assert!(start.batch <= spec.max_batch, "{start:?} is too large");
        let in_slot = self
            .tasks
            .iter()
            .find(|task| task.start.model == model && task.start.slot == start.slot);
        assert!(in_slot.is_none(), "{start:?} takes the slot of {in_slot:?}");
        let waiting = |open: &&Open| {
            open.task.is_none() && open.must.is_none() && open.arrival.model == model
        };
        if let Some(first) = start.requests.first() {
            let mut queue: Vec<&Open> = self.open.iter().filter(waiting).collect();
            queue.sort_by_key(|open| self.key(open));
            let head = queue.iter().find(|open| open.arrival.request == *first);
            let class = head
                .unwrap_or_else(|| panic!("{first} does not wait"))
                .arrival
                .class;
            let of_class = queue.iter().filter(|open| open.arrival.class == class);
            let expected: Vec<RequestId> = of_class
                .map(|open| open.arrival.request)
                .take(start.requests.len())
                .collect();
            assert_eq!(start.requests, expected, "{start:?} is out of order");
            let items = queue
                .iter()
                .filter(|open| start.requests.contains(&open.arrival.request));
            let items: u32 = items.map(|open| open.arrival.items.0).sum();
            assert_eq!(start.batch.0, items, "{start:?} miscounts");
        } else {
            assert!(self.config.profile_share > 0.0, "{start:?} is for nobody");
            let rivals = self.connected(start.device);
            let is_here = |open: &&Open| {
                let model = self.spec(open.arrival.model).expect("known");
                model.devices.iter().any(|device| rivals.contains(device))
            };
            let waits = self.open.iter().find(is_here);
            assert!(waits.is_none(), "{start:?} while {waits:?} waits");
            let runs = self.tasks.iter().find(|task| rivals.contains(&task.device));
            assert!(runs.is_none(), "{start:?} beside {runs:?}");
        }
        for open in &mut self.open {
            if start.requests.contains(&open.arrival.request) {
                open.task = Some(id);
            }
        }
        self.tasks.push(Task {
            start: start.clone(),
            members: start.requests.clone(),
            legs: Vec::new(),
            done: 0,
            device: start.device,
        });
        self.put_on_lane(start);
    }

    fn go_on(&mut self, start: &Start) {
        let task = self.task(start.task);
        let (first, before) = (&task.start, task.done + task.legs.len() as u16);
        assert_eq!(start.leg.0, before, "{start:?} is out of order");
        assert!(start.leg.0 < self.spec(start.model).expect("known").legs);
        assert_eq!(
            (start.slot, start.batch, start.model, start.device),
            (first.slot, first.batch, first.model, first.device),
            "{start:?} goes on after {first:?}"
        );
        assert!(start.requests.is_empty());
        let behind = task
            .legs
            .iter()
            .all(|leg| leg.started && leg.at == lane(start));
        assert!(behind, "{start:?} before its predecessor ended");
        self.put_on_lane(start);
    }

    /// The legs on lanes of a device.
    fn on_device(&self, device: DeviceId) -> impl Iterator<Item = LaneRef> {
        let legs = self.tasks.iter().flat_map(|task| &task.legs);
        legs.map(|leg| leg.at).filter(move |at| at.device == device)
    }

    fn atoms(&self, at: LaneRef) -> AtomSet {
        let device = self.devices.iter().find(|known| known.id == at.device);
        device.expect("a present device").partitions[usize::from(at.partition.0)].atoms
    }

    fn is_urgent(&self, at: LaneRef) -> bool {
        let device = self.devices.iter().find(|known| known.id == at.device);
        let partitions = &device.expect("a present device").partitions;
        partitions[usize::from(at.partition.0)].lanes[usize::from(at.lane.0)] == LaneClass::Urgent
    }

    fn put_on_lane(&mut self, start: &Start) {
        let at = lane(start);
        let mut others: Vec<LaneRef> = self.on_device(at.device).collect();
        let here = others.iter().filter(|&&other| other == at).count();
        assert!(here <= 1, "{start:?} is the third leg on its lane");
        others.retain(|&other| other != at);
        others.sort_unstable();
        others.dedup();
        match self.policy.capacity() {
            rule @ (CapacityRule::Exclusive | CapacityRule::Layered) => {
                let atoms = self.atoms(at);
                let layered = rule == CapacityRule::Layered;
                let bars = |other: LaneRef| {
                    // One that follows on its lane may go on under what came over it since.
                    let may_overlap = match self.is_urgent(other) {
                        true => layered && here > 0 && !self.is_urgent(at),
                        false => layered && self.is_urgent(at),
                    };
                    !may_overlap && atoms.overlaps(self.atoms(other))
                };
                let shared = others.iter().find(|&&other| bars(other));
                assert!(shared.is_none(), "{start:?} shares atoms with {shared:?}");
            }
            CapacityRule::Oversubscribed { lanes } => assert!(
                here > 0 || others.len() < usize::from(lanes),
                "{start:?} is one too many of {lanes}"
            ),
        }
        let task = self
            .tasks
            .iter_mut()
            .find(|task| task.start.task == start.task);
        task.expect("in flight").legs.push(Leg {
            leg: start.leg,
            at,
            started: false,
            revoking: false,
        });
    }

    /// Where a request stands in its model's queue.
    fn key(&self, open: &Open) -> (u32, Timestamp, RequestId) {
        let arrival = &open.arrival;
        let priority = match arrival.priority {
            _ if open.overdue => u32::MAX,
            0 => u32::MAX - 1,
            given => given.min(u32::MAX - 1),
        };
        let order = match self.policy.queue_order() {
            QueueOrder::Arrival => arrival.received,
            QueueOrder::Deadline => open
                .deadline
                .unwrap_or(arrival.received + self.config.best_effort),
        };
        (priority, order, arrival.request)
    }

    fn finish(&mut self, now: Timestamp, request: RequestId, outcome: Outcome) {
        let place = self
            .open
            .iter()
            .position(|open| open.arrival.request == request);
        let place = place.unwrap_or_else(|| panic!("{request} ended twice, or never came"));
        let open = self.open.remove(place);
        let enforced = self.enforced;
        match outcome {
            Outcome::Completed | Outcome::Cancelled | Outcome::Failed(_) => {
                assert_eq!(open.must, Some(outcome), "{open:?} ended");
            }
            Outcome::Rejected(reason) => {
                assert!(open.fresh && open.task.is_none(), "{open:?} was refused");
                self.refused(&open, reason);
            }
            Outcome::Dropped(reason) => {
                self.dropped_from(&open, reason);
                let sound = match reason {
                    DropReason::Expired { deadline } => {
                        enforced && open.deadline == Some(deadline) && deadline <= now
                    }
                    DropReason::Doomed {
                        deadline,
                        predicted,
                    } => enforced && open.deadline == Some(deadline) && predicted > deadline,
                    DropReason::QueueTimeout { at } => {
                        open.arrival.queue_timeout == Some(at)
                            && at <= now
                            && open.arrival.overdue == Overdue::Drop
                    }
                };
                assert!(sound, "{open:?} was dropped at {now:?} for {reason:?}");
                if let Some(task) = open.task {
                    self.end_if_abandoned(task);
                }
            }
        }
        self.ended.push((request, outcome));
    }

    /// A task may be given up, with all its requests, between two legs and because they are
    /// late; never before it began.
    fn dropped_from(&self, open: &Open, reason: DropReason) {
        let task = open.task.map(|id| {
            let known = self.tasks.iter().find(|task| task.start.task == id);
            known.unwrap_or_else(|| panic!("{open:?} is in no known task"))
        });
        let between = |task: &Task| task.legs.is_empty() && task.done > 0;
        assert!(
            task.is_none_or(|task| between(task) && matches!(reason, DropReason::Doomed { .. })),
            "{open:?} was dropped from {task:?}"
        );
    }

    fn refused(&self, open: &Open, reason: Rejection) {
        let arrival = &open.arrival;
        let known = self
            .models
            .iter()
            .find(|(spec, _)| spec.id == arrival.model);
        let sound = match reason {
            Rejection::UnknownModel => known.is_none() || self.inputs > 1,
            Rejection::ModelStopping => known.is_none_or(|(_, stopping)| *stopping),
            Rejection::Draining => self.draining,
            Rejection::NoDevice => {
                let hosts = known.map_or(&[][..], |(spec, _)| &spec.devices);
                self.inputs > 1 || !hosts.iter().any(|&host| self.is_present(host))
            }
            Rejection::BatchTooLarge { items, max } => items == arrival.items && items > max,
            Rejection::QueueFull {
                scope,
                queued,
                limit,
            } => {
                let counted = self.waiting(scope, arrival) as u64;
                queued >= limit && (self.inputs > 1 || counted == queued)
            }
            Rejection::BytesFull {
                held,
                request,
                limit,
                ..
            } => request == arrival.bytes && held + request > limit,
            Rejection::DeadlineUnreachable {
                deadline,
                predicted,
                ..
            } => open.deadline == Some(deadline) && predicted > deadline,
            Rejection::NoRoom { deadline, .. } => open.deadline == Some(deadline),
        };
        assert!(sound, "{open:?} was refused for {reason:?}");
    }

    /// Requests that wait: of the arrival's model, or of all.
    fn waiting(&self, scope: Scope, arrival: &Arrival) -> usize {
        let waiting = self.open.iter().filter(|open| {
            let counts = scope == Scope::Total || open.arrival.model == arrival.model;
            counts && open.task.is_none() && open.must.is_none()
        });
        waiting.count()
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

fn lane(start: &Start) -> LaneRef {
    LaneRef {
        device: start.device,
        partition: start.partition,
        lane: start.lane,
    }
}
