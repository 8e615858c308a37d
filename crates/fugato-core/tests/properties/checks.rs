//! What holds in every world, by what went into the scheduler and what came out.

use crate::common;
use crate::worlds::Scenario;
use fugato_core::driver::RecordedInputs;
use fugato_core::policy::{CapacityRule, from_spec};
use fugato_core::sched::{
    Action, Arrival, DeadlineMode, Input, LegResult, ModelSpec, Overdue, PolicySpec, Start,
};
use fugato_core::sim::World;
use fugato_core::{ModelId, RequestId, TaskId};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that happened, in order: inputs at a time before the actions at that time.
pub(crate) fn ended_once(world: &mut World, inputs: &[RecordedInputs]) -> TestCaseResult {
    let arrived = inputs
        .iter()
        .flat_map(|recorded| &recorded.inputs)
        .filter_map(|input| match input {
            Input::Arrived(arrival) => Some(arrival.request),
            _ => None,
        });
    let mut open: BTreeMap<RequestId, u32> = arrived.map(|request| (request, 0)).collect();
    for ended in &world.effects_mut().ended {
        *open.entry(ended.request).or_insert(100) += 1;
    }
    for (request, ends) in open {
        prop_assert_eq!(ends, 1, "{} ended {} times", request, ends);
    }
    prop_assert_eq!(world.scheduler().requests_open(), 0);
    Ok(())
}

/// The capacity rule, by what devices report: which legs ran when.
pub(crate) fn capacity_held(
    scenario: &Scenario,
    world: &mut World,
    inputs: &[RecordedInputs],
) -> TestCaseResult {
    let starts: BTreeMap<(TaskId, u16), Start> = common::starts(world)
        .into_iter()
        .map(|(_, start)| ((start.task, start.leg.0), start))
        .collect();
    let mut running: BTreeMap<(TaskId, u16), &Start> = BTreeMap::new();
    for input in inputs.iter().flat_map(|recorded| &recorded.inputs) {
        match input {
            Input::LegStarted { task, leg, .. } => {
                let start = &starts[&(*task, leg.0)];
                let here = running
                    .values()
                    .filter(|other| other.device == start.device);
                let rule = from_spec(&scenario.config.policy).capacity();
                match rule {
                    CapacityRule::Exclusive | CapacityRule::Layered => {
                        let partition = |start: &Start| {
                            let device = &scenario.devices[usize::from(start.device.0)];
                            &device.partitions[usize::from(start.partition.0)]
                        };
                        let atoms = |start: &Start| partition(start).atoms;
                        let class =
                            |start: &Start| partition(start).lanes[usize::from(start.lane.0)];
                        for other in here {
                            // A leg that was committed before an urgent one came may begin
                            // under it.
                            let layers =
                                rule == CapacityRule::Layered && class(other) != class(start);
                            prop_assert!(
                                layers || !atoms(other).overlaps(atoms(start)),
                                "{:?} beside {:?}",
                                start,
                                other
                            );
                        }
                    }
                    CapacityRule::Oversubscribed { lanes } => {
                        prop_assert!(
                            here.count() < usize::from(lanes),
                            "{:?} is one too many",
                            start
                        );
                    }
                }
                prop_assert!(
                    leg.0 == 0 || !running.contains_key(&(*task, leg.0 - 1)),
                    "a leg before its predecessor"
                );
                running.insert((*task, leg.0), start);
            }
            Input::LegFinished {
                task, leg, result, ..
            } => {
                prop_assert!(running.remove(&(*task, leg.0)).is_some());
                prop_assert_eq!(*result, LegResult::Done);
            }
            Input::DeviceLost { device } => running.retain(|_, start| start.device != *device),
            _ => {}
        }
    }
    Ok(())
}

/// What a start may contain.
pub(crate) fn batches_are_sound(
    scenario: &Scenario,
    world: &mut World,
    inputs: &[RecordedInputs],
) -> TestCaseResult {
    let arrivals = arrivals_of(inputs);
    let specs: BTreeMap<ModelId, &ModelSpec> =
        scenario.models.iter().map(|spec| (spec.id, spec)).collect();
    for (_, start) in common::starts(world) {
        let spec = specs[&start.model];
        prop_assert!(
            spec.devices.contains(&start.device),
            "{:?} on a device that does not host it",
            start
        );
        prop_assert!(start.leg.0 < spec.legs);
        prop_assert!(
            start.batch <= spec.max_batch,
            "{:?} over {:?}",
            start,
            spec.max_batch
        );
        if start.leg.0 == 0 && start.requests.is_empty() {
            prop_assert!(
                scenario.config.profile_share > 0.0,
                "{:?} is for nobody",
                start
            );
        } else if start.leg.0 == 0 || start.unsplit {
            let members: Vec<&Arrival> = start
                .requests
                .iter()
                .map(|request| &arrivals[request])
                .collect();
            prop_assert_eq!(
                members.iter().map(|member| member.items.0).sum::<u32>(),
                start.batch.0
            );
            prop_assert!(
                members
                    .iter()
                    .all(|member| member.class == members[0].class && member.model == start.model)
            );
        } else {
            prop_assert!(start.requests.is_empty());
        }
    }
    Ok(())
}

/// Tasks of one model never share a slot while both are in flight.
pub(crate) fn slots_are_exclusive(world: &mut World, inputs: &[RecordedInputs]) -> TestCaseResult {
    if lost_one(inputs) {
        // A lost device takes its legs with it, and no report says so.
        return Ok(());
    }
    let mut held: BTreeMap<(ModelId, u16), TaskId> = BTreeMap::new();
    let mut slot_of: BTreeMap<TaskId, (ModelId, u16)> = BTreeMap::new();
    let mut legs: BTreeMap<TaskId, BTreeSet<u16>> = BTreeMap::new();
    let mut replay = inputs.iter().peekable();
    for (when, action) in &world.effects_mut().actions {
        while let Some(recorded) = replay.next_if(|recorded| recorded.at <= *when) {
            for input in &recorded.inputs {
                if let Input::LegFinished { task, leg, .. } | Input::LegRevoked { task, leg, .. } =
                    input
                    && let Some(open) = legs.get_mut(task)
                {
                    open.remove(&leg.0);
                }
            }
        }
        if let Action::Start(start) = action {
            let slot = (start.model, start.slot.0);
            legs.entry(start.task).or_default().insert(start.leg.0);
            if start.leg.0 == 0 || start.unsplit {
                if let Some(other) = held.insert(slot, start.task) {
                    let running = legs.get(&other).is_some_and(|legs| !legs.is_empty());
                    prop_assert!(!running, "{:?} takes a held slot", start);
                }
                slot_of.insert(start.task, slot);
            } else {
                prop_assert_eq!(
                    slot_of.get(&start.task),
                    Some(&slot),
                    "a task changed its slot"
                );
            }
        }
    }
    Ok(())
}

fn lost_one(inputs: &[RecordedInputs]) -> bool {
    inputs
        .iter()
        .flat_map(|recorded| &recorded.inputs)
        .any(|input| matches!(input, Input::DeviceLost { .. }))
}

/// Under enforced deadlines nothing is begun whose deadline has passed.
pub(crate) fn nothing_begins_late(
    scenario: &Scenario,
    world: &mut World,
    inputs: &[RecordedInputs],
) -> TestCaseResult {
    if scenario.config.deadlines == DeadlineMode::Observe {
        return Ok(());
    }
    let arrivals = arrivals_of(inputs);
    for (when, start) in common::starts(world) {
        let slo = scenario
            .models
            .iter()
            .find(|spec| spec.id == start.model)
            .and_then(|spec| spec.slo);
        for request in &start.requests {
            let arrival = arrivals[request];
            let deadline = [slo.map(|slo| arrival.received + slo), arrival.deadline]
                .into_iter()
                .flatten()
                .min();
            prop_assert!(
                deadline.is_none_or(|deadline| when <= deadline.as_nanos()),
                "{} was begun at {} after {:?}",
                request,
                when,
                deadline
            );
        }
    }
    Ok(())
}

/// `fifo` passes over nobody: when it starts a task, no older request waits that could
/// have started on that device instead. What may be overdue and wait on may be passed over.
pub(crate) fn fifo_passes_over_nobody(
    scenario: &Scenario,
    world: &mut World,
    inputs: &[RecordedInputs],
) -> TestCaseResult {
    // Slots change with ModelChanged, and priorities go before age within a model.
    let changed = |input: &Input| matches!(input, Input::ModelChanged(_));
    let mut all = inputs.iter().flat_map(|recorded| &recorded.inputs);
    if scenario.config.policy != PolicySpec::Fifo || all.any(changed) || lost_one(inputs) {
        return Ok(());
    }
    let arrivals = arrivals_of(inputs);
    let specs: BTreeMap<ModelId, &ModelSpec> =
        scenario.models.iter().map(|spec| (spec.id, spec)).collect();
    let mut waiting: BTreeSet<RequestId> = BTreeSet::new();
    let mut in_flight: BTreeMap<ModelId, BTreeSet<TaskId>> = BTreeMap::new();
    let mut replay = inputs.iter().peekable();
    for (when, action) in &world.effects_mut().actions {
        while let Some(recorded) = replay.next_if(|recorded| recorded.at <= *when) {
            for input in &recorded.inputs {
                match input {
                    Input::Arrived(arrival) => {
                        waiting.insert(arrival.request);
                    }
                    Input::LegFinished { task, leg, .. } => {
                        for (model, tasks) in &mut in_flight {
                            if leg.0 + 1 == specs[model].legs {
                                tasks.remove(task);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        match action {
            Action::Finish { request, .. } => {
                waiting.remove(request);
            }
            Action::Start(start) if start.leg.0 == 0 => {
                let Some(head) = start.requests.iter().min() else {
                    prop_assert!(waiting.is_empty(), "{:?} while {:?} wait", start, waiting);
                    in_flight.entry(start.model).or_default().insert(start.task);
                    continue;
                };
                let may_be_overdue = |request: &RequestId| {
                    let arrival = &arrivals[request];
                    arrival.queue_timeout.is_some() && arrival.overdue == Overdue::Delay
                };
                let older = waiting.range(..head);
                for older in older.filter(|request| !may_be_overdue(request)) {
                    let model = arrivals[older].model;
                    let spec = specs[&model];
                    let free =
                        in_flight.get(&model).map_or(0, BTreeSet::len) < usize::from(spec.slots);
                    let same_time = arrivals[older].received == arrivals[head].received;
                    let could =
                        model != start.model && free && spec.devices.contains(&start.device);
                    // Its model may stand behind a younger request of higher priority.
                    let first = waiting
                        .iter()
                        .filter(|request| arrivals[request].model == model)
                        .all(|request| arrivals[request].priority == arrivals[older].priority);
                    prop_assert!(
                        !(could && first && !same_time),
                        "{:?} passed over {} of {}",
                        start,
                        older,
                        model
                    );
                }
                for request in &start.requests {
                    waiting.remove(request);
                }
                in_flight.entry(start.model).or_default().insert(start.task);
            }
            _ => {}
        }
    }
    Ok(())
}

fn arrivals_of(inputs: &[RecordedInputs]) -> BTreeMap<RequestId, Arrival> {
    let inputs = inputs.iter().flat_map(|recorded| &recorded.inputs);
    let arrivals = inputs.filter_map(|input| match input {
        Input::Arrived(arrival) => Some((arrival.request, *arrival)),
        _ => None,
    });
    arrivals.collect()
}
