//! Requests that wait: their order, when they are given up, and the work that they stand for.

use super::{Place, Plan, Request, State};
use crate::id::{ModelId, RequestId};
use crate::policy::{Backlog, QueueOrder};
use crate::sched::config::DeadlineMode;
use crate::sched::pools::Pool;
use crate::sched::queue::QueueKey;
use crate::sched::work::block_of;
use crate::time::{Nanos, Timestamp};

/// Of a request that has waited past its queue timeout and may run last.
const OVERDUE: u32 = u32::MAX;

/// The lowest priority of a request that is not overdue.
const LOWEST: u32 = OVERDUE - 1;

/// Waiting requests are priced anew when the plan's price has moved by more than one part
/// in this many: a finer step would walk the queue's blocks after every task for a
/// difference that noise takes back.
pub(super) const PRICE_STEP: u64 = 16;

impl State {
    pub(in crate::sched) fn key(
        &self,
        id: RequestId,
        priority: u32,
        received: Timestamp,
        deadline: Option<Timestamp>,
    ) -> QueueKey {
        let order = match self.order {
            QueueOrder::Arrival => received,
            QueueOrder::Deadline => deadline.unwrap_or(received + self.config.best_effort),
        };
        // Triton: 1 is the highest priority, 0 (not given) the lowest.
        let priority = match priority {
            0 => LOWEST,
            given => given.min(LOWEST),
        };
        QueueKey {
            priority,
            order,
            request: id,
        }
    }

    /// A deadline, where deadlines are enforced.
    pub(in crate::sched) fn enforced(&self, deadline: Option<Timestamp>) -> Option<Timestamp> {
        match self.config.deadlines {
            DeadlineMode::Enforce => deadline,
            DeadlineMode::Observe => None,
        }
    }

    /// When a waiting request is given up: at its queue timeout, or as soon as it could not
    /// end by its deadline even if it started at once and by itself.
    fn give_up_at(&self, request: &Request) -> Option<Timestamp> {
        let doomed = self.enforced(request.deadline).map(|deadline| {
            match self.fastest(request.model, request.items) {
                // A run that ends at its deadline is in time.
                Some(run) if deadline.before(run) > self.now => {
                    deadline.before(run) + Nanos::new(1)
                }
                _ => deadline,
            }
        });
        match (doomed, request.queue_timeout) {
            (Some(doomed), Some(timeout)) => Some(doomed.min(timeout)),
            (one, other) => one.or(other),
        }
    }

    /// Puts a known request into its queue.
    pub(in crate::sched) fn enqueue(&mut self, id: RequestId) {
        let request = *self.request(id);
        let give_up = self.give_up_at(&request);
        if let Some(at) = give_up {
            self.expiry.insert((at, id), ());
        }
        if let Some(known) = self.requests.get_mut(&id) {
            known.place = Place::Queue;
            known.give_up = give_up;
        }
        let promised = self.enforced(request.deadline).is_some();
        let model = self.model_mut(request.model);
        model
            .queue
            .push(request.class, request.key, request.items.0, promised);
        let work = model.price.times(u64::from(request.items.0));
        let all = self.backlog == Backlog::All;
        let pool = self.pool_mut(request.model);
        pool.waiting += 1;
        if all {
            let block = block_of(request.key.order());
            pool.work.add(block, work);
            if promised {
                pool.promised.add(block, work);
            }
        }
        self.waiting += 1;
        self.unpark(request.model);
    }

    /// Sets the time at which a waiting request is looked at again.
    pub(in crate::sched) fn postpone(&mut self, id: RequestId, until: Timestamp) {
        let request = self.requests.get_mut(&id);
        let request = request.unwrap_or_else(|| panic!("{id} is unknown or has ended"));
        if let Some(at) = request.give_up.replace(until) {
            self.expiry.remove((at, id));
        }
        self.expiry.insert((until, id), ());
    }

    /// Puts a waiting request behind all of its model that are not overdue, for as long
    /// as its deadline lets it wait.
    pub(in crate::sched) fn delay(&mut self, id: RequestId) {
        self.dequeue(id);
        if let Some(request) = self.requests.get_mut(&id) {
            request.queue_timeout = None;
            request.key.priority = OVERDUE;
        }
        self.enqueue(id);
    }

    /// Takes a request out of its queue.
    pub(in crate::sched) fn dequeue(&mut self, id: RequestId) {
        let model = self.request(id).model;
        self.dequeue_all(model, &[id]);
        self.refresh(model);
    }

    /// Takes requests of a model out of its queue; its entries in `ready` are to be brought
    /// up to date then.
    pub(in crate::sched) fn dequeue_all(&mut self, id: ModelId, requests: &[RequestId]) {
        // Those that are taken out together are mostly of few blocks.
        let (mut block, mut all, mut promised) = (0, Nanos::ZERO, Nanos::ZERO);
        for &request in requests {
            let known = *self.request(request);
            if let Some(at) = known.give_up {
                self.expiry.remove((at, request));
            }
            let model = self.model_mut(id);
            let gone = model.queue.remove(known.class, known.key);
            let is_promised =
                gone.unwrap_or_else(|| panic!("{request} is not in the queue of {id}"));
            let work = model.price.times(u64::from(known.items.0));
            let other = block_of(known.key.order());
            if other != block {
                self.work_gone(id, block, all, promised);
                (block, all, promised) = (other, Nanos::ZERO, Nanos::ZERO);
            }
            all += work;
            if is_promised {
                promised += work;
            }
        }
        self.work_gone(id, block, all, promised);
        self.pool_mut(id).waiting -= requests.len() as u64;
        self.waiting -= requests.len() as u64;
    }

    /// Notes that predicted work of a model in a block, and the promised part of it, is taken
    /// out.
    fn work_gone(&mut self, id: ModelId, block: u64, all: Nanos, promised: Nanos) {
        if self.backlog == Backlog::All {
            let pool = self.pool_mut(id);
            pool.work.remove(block, all);
            pool.promised.remove(block, promised);
        }
    }

    /// Prices a model's waiting requests anew where that makes a difference.
    ///
    /// # Cost
    /// The milliseconds that hold requests of the model, seldom.
    pub(super) fn reprice(&mut self, id: ModelId) {
        let Some(model) = self.models.get_mut(&id) else {
            return;
        };
        let (old, new) = (model.price, model.plan.map_or(Nanos::ZERO, Plan::per_item));
        if old.as_nanos().abs_diff(new.as_nanos()) <= old.as_nanos() / PRICE_STEP {
            return;
        }
        model.price = new;
        if self.backlog == Backlog::Own {
            return;
        }
        let Pool { work, promised, .. } = self.pools.get_mut(model.pool);
        for (block, items) in model.queue.items_by_block() {
            work.remove(block, old.times(items.all));
            work.add(block, new.times(items.all));
            promised.remove(block, old.times(items.promised));
            promised.add(block, new.times(items.promised));
        }
    }

    /// Rebuilds every index that depends on the policy or on deadlines being enforced.
    pub(in crate::sched) fn rebuild(&mut self, change: impl FnOnce(&mut Self)) {
        let waiting: Vec<RequestId> = self
            .requests
            .iter()
            .filter(|(_, request)| request.place == Place::Queue)
            .map(|(id, _)| id)
            .collect();
        for &id in &waiting {
            self.dequeue(id);
        }
        change(self);
        let keys: Vec<(RequestId, QueueKey)> = self
            .requests
            .iter()
            .map(|(id, request)| {
                let priority = request.key.priority;
                let key = self.key(id, 0, request.received, request.deadline);
                // Whoever is overdue stays so.
                (id, QueueKey { priority, ..key })
            })
            .collect();
        for (id, key) in keys {
            if let Some(request) = self.requests.get_mut(&id) {
                request.key = key;
            }
        }
        for task in self.tasks.values_mut() {
            let keys = task
                .requests
                .iter()
                .filter_map(|id| self.requests.get(id).map(|request| request.key));
            if let Some(first) = keys.min() {
                task.key = first;
            }
        }
        for id in waiting {
            self.enqueue(id);
        }
    }
}
