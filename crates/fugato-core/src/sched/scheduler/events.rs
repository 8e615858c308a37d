//! What each event does to the state.

use super::Scheduler;
use crate::id::{DeviceId, LegIndex, ModelId, RequestId, Share, SlotIndex, TaskId};
use crate::policy::Ran;
use crate::sched::action::Action;
use crate::sched::admission::Admitted;
use crate::sched::config::ModelSpec;
use crate::sched::decision::Decision;
use crate::sched::input::{Arrival, LegResult, Overdue};
use crate::sched::ledger::LaneRef;
use crate::sched::outcome::{DropReason, FailReason, Outcome, Rejection};
use crate::sched::state::{Beside, LegStage, Model, Place, Request};
use crate::time::{Nanos, Timestamp};
use std::collections::BTreeSet;

impl Scheduler {
    /// Gives up requests whose time has come, and looks at parked models again.
    pub(super) fn fire_timers(&mut self) {
        let now = self.state.now;
        while let Some((at, id)) = self.state.expiry.first()
            && at <= now
        {
            let Some(reason) = self.why_give_up(id) else {
                continue;
            };
            self.state.dequeue(id);
            self.end_request(id, Outcome::Dropped(reason));
        }
        while let Some(&(at, model)) = self.state.parked.first()
            && at <= now
        {
            self.state.unpark(model);
        }
    }

    /// Why a waiting request whose time has come ends; `None` where its model has become
    /// faster since, or needs it as a probe: then it is looked at again later.
    fn why_give_up(&mut self, id: RequestId) -> Option<DropReason> {
        let now = self.state.now;
        let request = *self.state.request(id);
        if let Some(at) = request.queue_timeout.filter(|&at| at <= now) {
            match request.overdue {
                Overdue::Drop => return Some(DropReason::QueueTimeout { at }),
                Overdue::Delay => {
                    self.state.delay(id);
                    return None;
                }
            }
        }
        let deadline = request.deadline.unwrap_or(now);
        if deadline <= now {
            return Some(DropReason::Expired { deadline });
        }
        let run = self.state.fastest(request.model, request.items);
        let next = match run {
            Some(run) if now + run > deadline => {
                if !self.state.is_probe(&request, run) {
                    let predicted = now + run;
                    return Some(DropReason::Doomed {
                        deadline,
                        predicted,
                    });
                }
                deadline
            }
            Some(run) => deadline.before(run) + Nanos::new(1),
            None => deadline,
        };
        let next = request
            .queue_timeout
            .map_or(next, |timeout| next.min(timeout));
        self.state.postpone(id, next);
        None
    }

    pub(super) fn arrived(&mut self, arrival: &Arrival) {
        let id = arrival.request;
        assert!(!self.state.requests.contains_key(&id), "{id} arrived twice");
        assert!(arrival.items.0 > 0, "{id} brings no items");
        let now = self.state.now;
        if let Some(model) = self.state.models.get_mut(&arrival.model) {
            model.asked.add(now, u64::from(arrival.items.0));
            let work = model.price.times(u64::from(arrival.items.0));
            let pool = self.state.pools.get_mut(model.pool);
            pool.rivals.asked(now, &model.spec, work);
        }
        let admitted = match self.state.admit(arrival) {
            Ok(admitted) => admitted,
            Err(reason) => {
                if let Rejection::DeadlineUnreachable { .. } | Rejection::NoRoom { .. } = reason {
                    let pool = self.state.pool_mut(arrival.model);
                    pool.rivals.refused(now, arrival.model);
                }
                return self.finish(id, Outcome::Rejected(reason));
            }
        };
        let key = self
            .state
            .key(id, arrival.priority, arrival.received, admitted.deadline);
        let request = Request {
            model: arrival.model,
            class: arrival.class,
            items: arrival.items,
            bytes: arrival.bytes,
            received: arrival.received,
            deadline: admitted.deadline,
            queue_timeout: arrival.queue_timeout,
            overdue: arrival.overdue,
            key,
            place: Place::Queue,
            give_up: None,
        };
        self.state.requests.insert(id, request);
        self.state.bytes += arrival.bytes;
        self.state.model_mut(arrival.model).bytes += arrival.bytes;
        self.state.enqueue(id);
        let (
            model,
            Admitted {
                deadline,
                predicted,
            },
        ) = (arrival.model, admitted);
        self.decided(|at| Decision::Accepted {
            at,
            request: id,
            model,
            deadline,
            predicted,
        });
    }

    /// Ends a request that is in no queue any more.
    pub(super) fn end_request(&mut self, id: RequestId, outcome: Outcome) {
        let Some(request) = self.state.requests.remove(&id) else {
            panic!("{id} ended twice");
        };
        self.state.bytes -= request.bytes;
        if let Some(model) = self.state.models.get_mut(&request.model) {
            model.bytes -= request.bytes;
        }
        self.finish(id, outcome);
        self.check_drained(request.model);
    }

    pub(super) fn cancelled(&mut self, id: RequestId) {
        let Some(request) = self.state.requests.get(&id) else {
            return;
        };
        let place = request.place;
        if place == Place::Queue {
            self.state.dequeue(id);
        }
        self.end_request(id, Outcome::Cancelled);
        if let Place::Task(task) = place {
            self.stop_if_abandoned(task);
        }
    }

    /// A task all of whose clients went away need not start, or not go on.
    fn stop_if_abandoned(&mut self, id: TaskId) {
        if !self.abandoned(id) {
            return;
        }
        let task = self.state.task(id);
        if task.stage == LegStage::Between {
            return self.end_task(id);
        }
        if task.stage == LegStage::Committed || task.ahead {
            self.revoke(id);
        }
        self.update_continuing(id);
    }

    fn abandoned(&self, id: TaskId) -> bool {
        let open = |request: &RequestId| self.state.requests.contains_key(request);
        !self.state.task(id).requests.iter().any(open)
    }

    /// Asks a device for a committed leg, once.
    pub(super) fn revoke(&mut self, id: TaskId) {
        let task = self.state.task(id);
        let leg = if task.ahead {
            LegIndex(task.leg.0 + 1)
        } else {
            task.leg
        };
        let at = task.at;
        let on_lane = [self.state.ledger.front(at), self.state.ledger.next(at)];
        let known = on_lane
            .into_iter()
            .flatten()
            .find(|known| known.task == id && known.leg == leg);
        if known.is_none_or(|known| known.revoking || known.started.is_some()) {
            return;
        }
        self.state.ledger.mark_revoking(at, id, leg);
        self.actions.push_back(Action::Revoke {
            device: at.device,
            partition: at.partition,
            lane: at.lane,
            task: id,
            leg,
        });
        self.decided(|at| Decision::Revoking { at, task: id });
    }

    /// Whether a report is about a task that ended when its device was lost.
    fn is_stale(&self, device: DeviceId, task: TaskId) -> bool {
        let known = self.state.tasks.contains_key(&task);
        assert!(
            known || self.devices_lost > 0,
            "{device} reports {task}, which is unknown or has ended"
        );
        !known
    }

    pub(super) fn leg_started(&mut self, device: DeviceId, id: TaskId, at: Timestamp) {
        if self.is_stale(device, id) {
            return;
        }
        let lane = self.state.task(id).at;
        self.state.ledger.started(lane, id, at);
        self.state.task_mut(id).stage = LegStage::Running;
        self.note_neighbours(id, lane);
        self.update_continuing(id);
    }

    /// Notes what a leg that begins has beside it, and what it is to those that run.
    fn note_neighbours(&mut self, id: TaskId, lane: LaneRef) {
        let (state, ledger) = (&self.state, &self.state.ledger);
        let beside = state.beside(lane, state.task(id).model);
        let others: Vec<(TaskId, Beside)> = match beside.neighbours {
            Share(0) => Vec::new(),
            Share(_) => ledger
                .occupied_on(lane.device)
                .filter(|other| *other != lane)
                .filter_map(|other| {
                    let task = ledger.front(other)?.task;
                    Some((task, state.beside(other, state.task(task).model)))
                })
                .collect(),
        };
        let suspended: Vec<TaskId> = match ledger.is_layered(lane) {
            true if ledger.is_normal(lane) => vec![id],
            true => ledger.tasks_below(lane).collect(),
            false => Vec::new(),
        };
        let task = self.state.task_mut(id);
        (task.beside, task.suspended) = (beside, false);
        for (other, beside) in others {
            let other = self.state.task_mut(other);
            other.beside = other.beside.max(beside);
        }
        for id in suspended {
            self.state.task_mut(id).suspended = true;
        }
    }

    pub(super) fn leg_finished(
        &mut self,
        device: DeviceId,
        id: TaskId,
        leg: LegIndex,
        (started, ended): (Timestamp, Timestamp),
        result: LegResult,
    ) {
        if self.is_stale(device, id) {
            return;
        }
        let task = self.state.task(id);
        let (model, batch, lane, ahead) = (task.model, task.batch, task.at, task.ahead);
        let unsplit = task.unsplit;
        assert_eq!(
            (leg, task.stage),
            (task.leg, LegStage::Running),
            "{id} finished a leg it was not running"
        );
        let gone = self.state.ledger.release(lane, id, leg);
        let predicted = gone.predicted;
        self.decided(|at| Decision::LegEnded {
            at,
            task: id,
            model,
            leg,
            unsplit,
            batch,
            lane,
            started,
            ended,
            predicted,
        });
        let now = self.state.now;
        let measuring = &mut self.state.pool_mut(model).measuring;
        measuring.ended(now);
        let is_measured = measuring.is_running(id);
        let took = ended - started;
        self.state.task_mut(id).spent += took;
        if is_measured {
            self.measured(id, (started, ended), result);
        } else {
            self.tell_policy(id, took, result);
            if result == LegResult::Failed {
                self.finish_requests(id, Outcome::Failed(FailReason::Run));
            } else {
                self.state.learn(id, took, predicted);
                self.check_drift(model);
                if leg.0 + 1 == self.state.model(model).spec.legs {
                    self.finish_requests(id, Outcome::Completed);
                }
            }
        }
        let task = self.state.task_mut(id);
        if ahead {
            task.leg = LegIndex(leg.0 + 1);
            task.ahead = false;
            task.stage = LegStage::Committed;
            self.update_continuing(id);
            if self.abandoned(id) {
                self.revoke(id);
            }
        } else {
            task.stage = LegStage::Between;
            if self.abandoned(id) {
                self.end_task(id);
            } else {
                self.update_continuing(id);
            }
        }
    }

    /// Tells the policy of a leg that ended.
    fn tell_policy(&mut self, id: TaskId, took: Nanos, result: LegResult) {
        let task = self.state.task(id);
        let spec = &self.state.model(task.model).spec;
        let ran = Ran {
            device: task.at.device,
            model: task.model,
            batch: task.batch,
            share: self.state.ledger.share(task.at),
            slo: spec.slo,
            took,
            task_took: task.spent,
            is_last: task.leg.0 + 1 == spec.legs,
            result,
        };
        self.policy.ran(&ran);
    }

    /// Ends what is left of a task's requests in one way.
    fn finish_requests(&mut self, id: TaskId, outcome: Outcome) {
        let requests = std::mem::take(&mut self.state.task_mut(id).requests);
        for request in requests {
            if self.state.requests.contains_key(&request) {
                self.end_request(request, outcome);
            }
        }
    }

    pub(super) fn leg_revoked(&mut self, device: DeviceId, id: TaskId, leg: LegIndex) {
        if self.is_stale(device, id) {
            return;
        }
        let task = self.state.task_mut(id);
        let lane = task.at;
        if task.ahead {
            assert_eq!(
                leg.0,
                task.leg.0 + 1,
                "{id} gave back a leg that was not committed"
            );
            task.ahead = false;
        } else {
            assert_eq!(
                (leg, task.stage),
                (task.leg, LegStage::Committed),
                "{id} gave back a leg that had started"
            );
            task.stage = LegStage::Between;
            task.leg = LegIndex(leg.0.saturating_sub(1));
        }
        self.state.ledger.release(lane, id, leg);
        if self.state.task(id).is_first(leg) {
            self.return_to_queue(id);
        } else if self.state.task(id).stage == LegStage::Between && self.abandoned(id) {
            self.end_task(id);
        } else {
            self.update_continuing(id);
        }
    }

    /// Dissolves a task that never began.
    fn return_to_queue(&mut self, id: TaskId) {
        let requests = std::mem::take(&mut self.state.task_mut(id).requests);
        for request in requests {
            if self.state.requests.contains_key(&request) {
                self.state.enqueue(request);
            }
        }
        self.end_task(id);
        self.fire_timers();
    }

    /// Frees what a task held.
    pub(super) fn end_task(&mut self, id: TaskId) {
        self.state.continuing.remove(&id);
        let Some(task) = self.state.tasks.remove(&id) else {
            panic!("{id} ended twice")
        };
        let pool = self.state.pool_mut(task.model);
        pool.measuring.let_go(id);
        pool.tasks -= 1;
        let model = self.state.model_mut(task.model);
        model.in_flight -= 1;
        if task.slot.0 < model.spec.slots {
            model.free_slots.insert(task.slot);
        }
        self.state.unpark(task.model);
        self.check_drained(task.model);
    }

    /// Keeps the task's entry in `continuing` right.
    pub(super) fn update_continuing(&mut self, id: TaskId) {
        let task = self.state.task(id);
        let more = task.leg.0 + 1 < self.state.model(task.model).spec.legs;
        let may_go_on = !task.ahead && task.stage != LegStage::Committed;
        if more && may_go_on && !self.abandoned(id) {
            self.state.continuing.insert(id);
        } else {
            self.state.continuing.remove(&id);
        }
    }

    pub(super) fn model_added(&mut self, spec: ModelSpec) {
        assert!(
            spec.slots > 0 && spec.legs > 0 && spec.max_batch.0 > 0 && !spec.devices.is_empty(),
            "a model without slots, legs, batch or devices: {spec:?}"
        );
        let pool = self.state.pool_of(&spec.devices);
        self.state.pools.get_mut(pool).measuring.serves(&spec);
        let (id, model) = (spec.id, Model::new(spec, pool));
        assert!(
            self.state.models.insert(id, model).is_none(),
            "{id} was added twice"
        );
    }

    pub(super) fn model_changed(&mut self, spec: ModelSpec) {
        let id = spec.id;
        // A slot above an earlier, smaller number may be held still.
        let tasks = self.state.tasks.iter();
        let of_model = tasks.filter(|(_, task)| task.model == id);
        let used: BTreeSet<SlotIndex> = of_model.map(|(_, task)| task.slot).collect();
        let model = self.state.model_mut(id);
        assert_eq!(
            model.spec.legs, spec.legs,
            "{id} may not change its legs while it is loaded"
        );
        assert_eq!(
            model.spec.devices, spec.devices,
            "{id} may not change its devices while it is loaded"
        );
        assert!(
            spec.slots > 0 && spec.max_batch.0 > 0,
            "a model without slots or batch: {spec:?}"
        );
        let slots = (0..spec.slots).map(SlotIndex);
        model.free_slots = slots.filter(|slot| !used.contains(slot)).collect();
        model.spec = spec.clone();
        self.state.pool_mut(id).measuring.serves(&spec);
        // Its batches follow its objective.
        let mut devices = spec.devices.iter();
        if let Some(&device) = devices.find(|&&device| self.state.ledger.contains(device)) {
            self.state.plan_anew(id, device);
        }
        self.state.unpark(id);
    }

    pub(super) fn model_removed(&mut self, id: ModelId) {
        let Some(model) = self.state.models.get_mut(&id) else {
            return;
        };
        model.stopping = true;
        self.state.pool_mut(id).measuring.forget(id);
        self.check_drained(id);
    }

    /// Lets go of a removed model once nothing of it is left.
    fn check_drained(&mut self, id: ModelId) {
        let Some(model) = self.state.models.get(&id) else {
            return;
        };
        if model.stopping && model.queue.is_empty() && model.in_flight == 0 {
            self.state.unpark(id);
            let pool = self.state.pool_mut(id);
            pool.rivals.forget(id);
            pool.measuring.forget(id);
            self.state.models.remove(&id);
            self.state.configuration += 1;
            self.state.latency.forget(id);
            self.actions.push_back(Action::ModelDrained { model: id });
        }
    }

    pub(super) fn device_lost(&mut self, device: DeviceId) {
        if !self.state.ledger.contains(device) {
            return;
        }
        self.devices_lost += 1;
        self.state.ready.remove(&device);
        let legs = self.state.ledger.remove(device);
        let between = self
            .state
            .tasks
            .iter()
            .filter(|(_, task)| task.at.device == device)
            .map(|(id, _)| id);
        let mut tasks: Vec<TaskId> = legs.iter().map(|leg| leg.task).chain(between).collect();
        tasks.sort_unstable();
        tasks.dedup();
        for id in tasks {
            let task = self.state.task(id);
            if task.stage == LegStage::Committed && task.is_first(task.leg) {
                self.return_to_queue(id);
            } else {
                self.finish_requests(id, Outcome::Failed(FailReason::DeviceLost { device }));
                self.end_task(id);
            }
        }
        self.fail_unhosted(device);
    }

    /// Ends what waits for models that no present device hosts: nothing says whether the
    /// device comes back.
    fn fail_unhosted(&mut self, lost: DeviceId) {
        let hosted = |device: &DeviceId| self.state.ledger.contains(*device);
        let unhosted: Vec<ModelId> = self
            .state
            .models
            .iter()
            .filter(|(_, model)| {
                model.spec.devices.contains(&lost) && !model.spec.devices.iter().any(hosted)
            })
            .map(|(id, _)| id)
            .collect();
        let waiting: Vec<RequestId> = self
            .state
            .requests
            .iter()
            .filter(|(_, request)| {
                request.place == Place::Queue && unhosted.contains(&request.model)
            })
            .map(|(id, _)| id)
            .collect();
        for id in waiting {
            self.state.dequeue(id);
            self.end_request(id, Outcome::Failed(FailReason::DeviceLost { device: lost }));
        }
    }
}
