//! What the scheduler may answer: each action is checked against the model, and carried out in
//! it.

use super::{Leg, Open, Reference, Task};
use fugato_core::device::{AtomSet, LaneClass};
use fugato_core::policy::{CapacityRule, QueueOrder};
use fugato_core::sched::{
    Action, Arrival, DropReason, LaneRef, Outcome, Overdue, Rejection, Scope, Start,
};
use fugato_core::{DeviceId, LegIndex, ModelId, RequestId, TaskId, Timestamp};
use std::collections::BTreeSet;

impl Reference {
    /// Checks an action that the scheduler gave at `now`, and carries it out.
    pub fn action(&mut self, now: Timestamp, action: &Action) {
        match action {
            Action::Start(start) if start.leg == LegIndex(0) || start.unsplit => self.launch(start),
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
        if start.unsplit {
            self.may_run_unsplit(start);
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

    /// A task runs in one go only where the device can, and where nobody else asks.
    fn may_run_unsplit(&self, start: &Start) {
        let spec = self.spec(start.model).expect("known");
        assert!(spec.unsplit && spec.legs > 1, "{start:?} is in one go");
        assert_eq!(
            start.leg.0 + 1,
            spec.legs,
            "{start:?} ends with its last leg"
        );
        assert!(!start.requests.is_empty(), "{start:?} measures no leg");
        let rivals = self.connected(start.device);
        let is_here = |model: ModelId| {
            let model = self.spec(model).expect("known");
            model.devices.iter().any(|device| rivals.contains(device))
        };
        let own_too = self.policy.name() == "fugato";
        let counts = |model: ModelId| is_here(model) && (own_too || model != start.model);
        let waits = |open: &&Open| {
            let asked = open.arrival.request;
            open.task.is_none() && open.must.is_none() && !start.requests.contains(&asked)
        };
        let mut waiting = self.open.iter().filter(waits);
        let other = waiting.find(|open| counts(open.arrival.model));
        assert!(
            other.is_none(),
            "{start:?} is in one go and {other:?} waits"
        );
        let task = self.tasks.iter().find(|task| counts(task.start.model));
        assert!(task.is_none(), "{start:?} is in one go beside {task:?}");
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
}

fn lane(start: &Start) -> LaneRef {
    LaneRef {
        device: start.device,
        partition: start.partition,
        lane: start.lane,
    }
}
