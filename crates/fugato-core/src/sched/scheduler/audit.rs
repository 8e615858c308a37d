//! Every index of the scheduler against the plain facts it stands for.

use super::Scheduler;
use crate::id::{DeviceId, LegIndex, ModelId, RequestId, SlotIndex, TaskId};
use crate::policy::Backlog;
use crate::sched::ledger::Offer;
use crate::sched::pools::{Pool, PoolId};
use crate::sched::queue::QueueKey;
use crate::sched::state::{LegStage, Model, Place, Request, State, Task};
use crate::sched::work::block_of;
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

impl Scheduler {
    /// Compares every index with what it should hold by looking at all requests, tasks and
    /// lanes one by one: for tests, after each drain.
    ///
    /// # Panics
    /// Where one is wrong.
    ///
    /// # Cost
    /// The square of what there is.
    pub fn audit(&self) {
        let state = &self.state;
        for (id, model) in state.models.iter() {
            audit_queue(state, id, model);
            audit_slots(state, id, model);
            audit_ready(state, id, model);
        }
        audit_times(state);
        audit_sums(state);
        audit_tasks(state);
        state.ledger.audit();
        // What is overdue at the end of a drain may wait for the next call.
        let naive = self.naive_timeout().map(|at| at.max(state.now));
        let found = self.poll_timeout();
        assert!(
            naive.is_none_or(|naive| found.is_some_and(|found| found <= naive)),
            "the next timeout is {found:?}, and something is due at {naive:?}"
        );
    }

    /// The earliest time at which anything that is known could need the scheduler.
    fn naive_timeout(&self) -> Option<Timestamp> {
        let state = &self.state;
        let given_up = waiting(state).filter_map(|(_, request)| request.give_up);
        let parked = state.models.values().filter_map(|model| model.parked?);
        let could_start = state.models.values().any(|model| {
            let present = |device: &DeviceId| state.ledger.contains(*device);
            could_start(state, model) && model.spec.devices.iter().any(present)
        });
        let could_go_on = state.tasks.iter().any(|(_, task)| goes_on(state, task));
        let lead = state.config.commit_lead;
        let commits = state.ledger.occupied().filter_map(|at| {
            let front = state.ledger.front(at)?;
            let end = front.started? + front.predicted?;
            let open = state.ledger.next(at).is_none() && end.before(lead) > state.now;
            (open && (could_start || could_go_on)).then(|| end.before(lead))
        });
        let times = given_up.chain(parked).chain(commits);
        times.chain(self.look_again).min()
    }
}

fn waiting(state: &State) -> impl Iterator<Item = (RequestId, &Request)> {
    let requests = state.requests.iter();
    requests.filter(|(_, request)| request.place == Place::Queue)
}

/// The keys of a model's waiting requests with what they bring, in order.
fn queued(state: &State, model: ModelId) -> Vec<(QueueKey, &Request)> {
    let of_model = waiting(state).filter(|(_, request)| request.model == model);
    let mut queued: Vec<_> = of_model
        .map(|(_, request)| (request.key, request))
        .collect();
    queued.sort_by_key(|&(key, _)| key);
    queued
}

fn audit_queue(state: &State, id: ModelId, model: &Model) {
    let queued = queued(state, id);
    assert_eq!(model.queue.requests(), queued.len() as u64, "{id} queues");
    let items = queued.iter().map(|(_, request)| u64::from(request.items.0));
    assert_eq!(model.queue.items(), items.sum::<u64>(), "items of {id}");
    let head = queued.first().map(|&(key, request)| (key, request.class));
    assert_eq!(model.queue.head(), head, "the head of {id}");
    let classes: BTreeSet<_> = queued.iter().map(|(_, request)| request.class).collect();
    for class in classes {
        let of_class = queued.iter().filter(|(_, request)| request.class == class);
        let expected = of_class.map(|(key, request)| (*key, request.items.0));
        assert!(
            model.queue.of_class(class).eq(expected),
            "the order of {class} of {id}"
        );
    }
    let mut blocks: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (key, request) in &queued {
        let (all, promised) = blocks.entry(block_of(key.order())).or_default();
        let items = u64::from(request.items.0);
        *all += items;
        *promised += items * u64::from(state.enforced(request.deadline).is_some());
    }
    let mut found: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for (block, items) in model.queue.items_by_block() {
        let (all, promised) = found.entry(block).or_default();
        *all += items.all;
        *promised += items.promised;
    }
    assert_eq!(found, blocks, "the blocks of {id}");
}

fn audit_slots(state: &State, id: ModelId, model: &Model) {
    let tasks = state.tasks.iter().filter(|(_, task)| task.model == id);
    let held: Vec<_> = tasks.map(|(_, task)| task.slot).collect();
    assert_eq!(usize::from(model.in_flight), held.len(), "tasks of {id}");
    let distinct: BTreeSet<_> = held.iter().copied().collect();
    assert_eq!(distinct.len(), held.len(), "{id} has two tasks in a slot");
    let slots = (0..model.spec.slots).map(SlotIndex);
    let free: BTreeSet<_> = slots.filter(|slot| !distinct.contains(slot)).collect();
    assert_eq!(model.free_slots, free, "free slots of {id}");
    let open = state.requests.iter().filter(|(_, open)| open.model == id);
    let bytes: u64 = open.map(|(_, request)| request.bytes).sum();
    assert_eq!(model.bytes, bytes, "bytes of {id}");
}

fn could_start(state: &State, model: &Model) -> bool {
    let waits = waiting(state).any(|(_, request)| request.model == model.spec.id);
    waits && !model.free_slots.is_empty() && model.parked.is_none()
}

fn audit_ready(state: &State, id: ModelId, model: &Model) {
    let head = queued(state, id).first().map(|(key, _)| key.model_key());
    let expected = head.filter(|_| could_start(state, model));
    for (device, ready) in &state.ready {
        let hosted = model.spec.devices.contains(device);
        let found: Vec<_> = ready.iter().filter(|(_, model)| *model == id).collect();
        let expected: Vec<_> = expected.iter().filter(|_| hosted).collect();
        assert!(
            found
                .iter()
                .map(|(key, _)| key)
                .eq(expected.iter().copied()),
            "{id} is ready on {device} as {found:?}, should be as {expected:?}"
        );
    }
}

fn audit_times(state: &State) {
    let expected: BTreeSet<_> = waiting(state)
        .filter_map(|(id, request)| Some((request.give_up?, id)))
        .collect();
    let found: BTreeSet<_> = state.expiry.iter().map(|(entry, ())| entry).collect();
    assert_eq!(found, expected, "times at which requests are given up");
    let parked = state.models.iter();
    let expected: BTreeSet<_> = parked
        .filter_map(|(id, model)| Some((model.parked??, id)))
        .collect();
    assert_eq!(
        state.parked, expected,
        "times at which models are looked at"
    );
}

fn audit_sums(state: &State) {
    assert_eq!(state.waiting, waiting(state).count() as u64, "requests");
    let bytes: u64 = state.requests.values().map(|request| request.bytes).sum();
    assert_eq!(state.bytes, bytes, "bytes");
    assert_eq!(state.requests.len(), state.requests.iter().count());
    assert_eq!(state.tasks.len(), state.tasks.iter().count());
    let mut pooled = BTreeSet::new();
    for (id, pool) in state.pools.iter() {
        audit_pool(state, id, pool);
        for device in &pool.devices {
            assert!(pooled.insert(device), "{device} is in {id:?} and another");
        }
    }
}

fn audit_pool(state: &State, id: PoolId, pool: &Pool) {
    let is_here = |model: ModelId| state.model(model).pool == id;
    for model in state.models.values() {
        let hosts = model.spec.devices.iter();
        let here = hosts.map(|device| pool.devices.contains(device));
        let here: BTreeSet<bool> = here.collect();
        let expected = BTreeSet::from([model.pool == id]);
        assert_eq!(here, expected, "the pool of {}", model.spec.id);
    }
    let waiting = || waiting(state).filter(|(_, request)| is_here(request.model));
    assert_eq!(pool.waiting, waiting().count() as u64, "requests of {id:?}");
    let tasks = state.tasks.values().filter(|task| is_here(task.model));
    assert_eq!(pool.tasks, tasks.count() as u64, "tasks of {id:?}");
    let (mut work, mut promised): (BTreeMap<u64, u64>, BTreeMap<u64, u64>) = Default::default();
    let priced = waiting().filter(|_| state.backlog == Backlog::All);
    for (_, request) in priced {
        let price = state.model(request.model).price;
        let cost = price.times(u64::from(request.items.0)).as_nanos();
        let block = block_of(request.key.order());
        *work.entry(block).or_default() += cost;
        if state.enforced(request.deadline).is_some() {
            *promised.entry(block).or_default() += cost;
        }
    }
    pool.work.audit(&work);
    pool.promised.audit(&promised);
}

/// Whether a task has a leg left that may be issued, for somebody who waits for it.
fn goes_on(state: &State, task: &Task) -> bool {
    let more = task.leg.0 + 1 < state.model(task.model).spec.legs;
    let open = |request: &RequestId| state.requests.contains_key(request);
    more && !task.ahead && task.stage != LegStage::Committed && task.requests.iter().any(open)
}

fn audit_tasks(state: &State) {
    let mut continuing: BTreeSet<TaskId> = BTreeSet::new();
    let mut on_lanes = 0;
    for (id, task) in state.tasks.iter() {
        if goes_on(state, task) {
            continuing.insert(id);
        }
        let lane = [state.ledger.front(task.at), state.ledger.next(task.at)];
        let legs = lane.into_iter().flatten().filter(|leg| leg.task == id);
        let legs: Vec<_> = legs.map(|leg| (leg.leg, leg.started.is_some())).collect();
        let own = (task.leg, task.stage == LegStage::Running);
        let next = (LegIndex(task.leg.0 + 1), false);
        let expected = match (task.stage, task.ahead) {
            (LegStage::Between, _) => vec![],
            (_, false) => vec![own],
            (_, true) => vec![own, next],
        };
        assert_eq!(legs, expected, "legs of {id} on its lane");
        on_lanes += legs.len();
        let members = task.requests.iter();
        for (request, open) in members.filter_map(|id| Some((id, state.requests.get(id)?))) {
            assert_eq!(open.place, Place::Task(id), "the place of {request}");
        }
    }
    assert_eq!(state.continuing, continuing, "tasks with a leg to issue");
    let held = state.ledger.occupied().map(|at| {
        assert_ne!(
            state
                .ledger
                .offer(at, state.rule, state.now, state.config.commit_lead),
            Offer::Now,
            "{at:?} is occupied"
        );
        1 + usize::from(state.ledger.next(at).is_some())
    });
    assert_eq!(held.sum::<usize>(), on_lanes, "legs on lanes");
}
