//! What each verdict of the policy does, and the promises it is held to.

use super::Scheduler;
use crate::id::{BatchSize, DeviceId, LegIndex, ModelId, RequestId, ShapeClass, TaskId};
use crate::policy::{RunsUnsplit, Verdict};
use crate::sched::action::{Action, Start};
use crate::sched::decision::Decision;
use crate::sched::ledger::{LaneLeg, LaneRef};
use crate::sched::outcome::{DropReason, Outcome};
use crate::sched::state::{Beside, LegStage, Place, Task};
use crate::time::{Nanos, Timestamp};

impl Scheduler {
    pub(super) fn apply(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Launch {
                model,
                class,
                batch,
                at,
            } => self.launch(model, class, batch, at),
            Verdict::Continue { task, at } => self.continue_task(task, at),
            Verdict::Revoke { task } => self.revoke(task),
            Verdict::Drop { request, reason } => {
                self.state.dequeue(request);
                self.end_request(request, Outcome::Dropped(reason));
            }
            Verdict::Abandon { task, predicted } => self.abandon(task, predicted),
            Verdict::Park { model, until } => {
                assert!(
                    until.is_none_or(|until| until > self.state.now),
                    "{model} was parked until the past"
                );
                self.state.park(model, until);
            }
            Verdict::Wait { until } => {
                assert!(
                    until.is_none_or(|until| until > self.state.now),
                    "{} waits until the past",
                    self.policy.name()
                );
                self.dirty = false;
                self.look_again = until;
            }
        }
    }

    fn launch(&mut self, model: ModelId, class: ShapeClass, most: BatchSize, at: LaneRef) {
        self.check_service_bound(at.device, model);
        let id = TaskId(self.state.next_task);
        self.state.next_task += 1;
        let (requests, batch) = self.take_requests(model, class, most);
        let Some(&first) = requests.first() else {
            panic!(
                "{} launched {model} with nothing of {class} waiting",
                self.policy.name()
            );
        };
        let key = self.state.request(first).key;
        self.state.dequeue_all(model, &requests);
        let unsplit = self.runs_unsplit(model, batch, at);
        let leg = match unsplit {
            true => LegIndex(self.state.model(model).spec.legs - 1),
            false => LegIndex(0),
        };
        for request in &requests {
            if let Some(request) = self.state.requests.get_mut(request) {
                request.place = Place::Task(id);
            }
        }
        let spec = self.state.model_mut(model);
        let Some(slot) = spec.free_slots.pop_first() else {
            panic!(
                "{} launched {model}, which has no free slot",
                self.policy.name()
            );
        };
        spec.in_flight += 1;
        self.state.refresh(model);
        let task = Task {
            model,
            slot,
            batch,
            requests: requests.clone(),
            key,
            leg,
            unsplit,
            at,
            stage: LegStage::Committed,
            ahead: false,
            beside: Beside::NOTHING,
            suspended: false,
            start_by: self.start_by(model, batch, first, at),
            spent: Nanos::ZERO,
        };
        self.state.tasks.insert(id, task);
        self.state.pool_mut(model).tasks += 1;
        self.issue(id, leg, at, requests);
    }

    /// Whether a task that is launched has nobody to give way to at its boundaries; see
    /// [`RunsUnsplit`]. What is not known of its legs is learned leg by leg.
    fn runs_unsplit(&self, model: ModelId, batch: BatchSize, at: LaneRef) -> bool {
        let (state, known) = (&self.state, self.state.model(model));
        if !known.spec.unsplit || known.spec.legs == 1 {
            return false;
        }
        let pool = state.pool(model);
        // The task that is launched is in neither yet, and its requests wait no more.
        let (own_tasks, own_waiting) = (u64::from(known.in_flight), known.queue.requests());
        let is_wanted = match self.policy.runs_unsplit() {
            RunsUnsplit::Never => false,
            RunsUnsplit::LoneTask => pool.tasks == 0 && pool.waiting == 0,
            RunsUnsplit::LoneModel => pool.tasks == own_tasks && pool.waiting == own_waiting,
        };
        is_wanted
            && pool.rivals.is_alone(model)
            && state.predict_task(model, batch, at, 0.5).is_some()
    }

    /// When a batch that is about to be committed behind a running leg must start at the
    /// latest, so that its first request ends in time.
    fn start_by(
        &self,
        model: ModelId,
        batch: BatchSize,
        first: RequestId,
        at: LaneRef,
    ) -> Option<Timestamp> {
        let state = &self.state;
        state.ledger.front(at)?;
        let free = state.ledger.free_at(at, state.now)?;
        let deadline = state.enforced(state.request(first).deadline)?;
        let run = state.predict_task(model, batch, at, 0.5)?.measured()?;
        Some(deadline.before(run)).filter(|&latest| free <= latest)
    }

    /// The first requests of a class that fit the batch; the first one always does.
    fn take_requests(
        &self,
        model: ModelId,
        class: ShapeClass,
        most: BatchSize,
    ) -> (Vec<RequestId>, BatchSize) {
        let mut requests = Vec::new();
        let mut total = 0;
        for (key, items) in self.state.model(model).queue.of_class(class) {
            if total > 0 && total + items > most.0 {
                break;
            }
            total += items;
            requests.push(key.request());
        }
        (requests, BatchSize(total))
    }

    /// Ends a task that would end at `predicted` and all of whose requests are due earlier.
    fn abandon(&mut self, id: TaskId, predicted: Timestamp) {
        let task = self.state.task_mut(id);
        assert_eq!(
            task.stage,
            LegStage::Between,
            "{id} was abandoned while a leg of it is on a lane"
        );
        for request in std::mem::take(&mut task.requests) {
            let Some(known) = self.state.requests.get(&request) else {
                continue;
            };
            let deadline = self.state.enforced(known.deadline);
            let Some(deadline) = deadline.filter(|&deadline| deadline < predicted) else {
                panic!("{id} was abandoned, and {request} could end in time");
            };
            let reason = DropReason::Doomed {
                deadline,
                predicted,
            };
            self.end_request(request, Outcome::Dropped(reason));
        }
        self.end_task(id);
    }

    fn continue_task(&mut self, id: TaskId, at: LaneRef) {
        let task = self.state.task_mut(id);
        let leg = LegIndex(task.leg.0 + 1);
        match task.stage {
            LegStage::Running => {
                assert_eq!(
                    at, task.at,
                    "{id} may run {leg} ahead only behind its own running leg"
                );
                assert!(!task.ahead, "{id} has a leg ahead already");
                task.ahead = true;
            }
            LegStage::Between => {
                task.leg = leg;
                task.stage = LegStage::Committed;
                task.at = at;
            }
            LegStage::Committed => panic!("{id} has not started {}", task.leg),
        }
        self.update_continuing(id);
        self.issue(id, leg, at, Vec::new());
    }

    /// Puts a leg on its lane and tells the driver.
    pub(super) fn issue(
        &mut self,
        id: TaskId,
        leg: LegIndex,
        at: LaneRef,
        requests: Vec<RequestId>,
    ) {
        let task = self.state.task(id);
        let (model, slot, batch) = (task.model, task.slot, task.batch);
        let legs = self.state.model(model).spec.legs;
        assert!(
            leg.0 < legs,
            "{model} has {legs} legs, {id} cannot start {leg}"
        );
        let unsplit = task.unsplit;
        let predicted = match unsplit {
            true => self.state.predict_task(model, batch, at, 0.5),
            false => self.state.predict(model, leg, batch, at, 0.5),
        };
        let predicted = predicted.map(|prediction| prediction.time);
        let ahead = self.state.ledger.front(at).is_some();
        let on_lane = LaneLeg {
            task: id,
            leg,
            started: None,
            predicted,
            revoking: false,
        };
        self.state.ledger.claim(at, on_lane, self.state.rule);
        (self.state.ledger).suspend_below(at, predicted.unwrap_or(Nanos::ZERO));
        self.decided(|when| Decision::Issued {
            at: when,
            task: id,
            model,
            leg,
            unsplit,
            batch,
            lane: at,
            ahead,
            predicted,
        });
        self.actions.push_back(Action::Start(Start {
            device: at.device,
            task: id,
            model,
            leg,
            unsplit,
            partition: at.partition,
            lane: at.lane,
            slot,
            batch,
            not_before: self.state.now,
            requests,
        }));
    }

    /// Holds the policy to its service bound: the model that goes first among those that
    /// could start on a device is passed over there at most so often in a row.
    fn check_service_bound(&mut self, device: DeviceId, launched: ModelId) {
        let Some(bound) = self.policy.service_bound() else {
            return;
        };
        let ready = self.state.ready.get(&device);
        let first = ready
            .and_then(|ready| ready.first())
            .map(|&(_, model)| model);
        let passes = self.passes.entry(device).or_default();
        let count = match first {
            Some(first) if first == launched => 0,
            _ if first == passes.0 => passes.1 + 1,
            _ => 1,
        };
        *passes = (first, count);
        assert!(
            count <= bound.passes,
            "{} passed over {first:?} {count} times in a row on {device}, its bound is {}",
            self.policy.name(),
            bound.passes
        );
    }
}
