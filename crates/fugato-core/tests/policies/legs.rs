//! Tasks of several legs.

use super::affine;
use super::common::{MS, US, arrival, at, config, device, model, starts, world};
use fugato_core::sched::{
    DeadlineMode, DropReason, Input, ModelSpec, Outcome, PolicySpec, SchedulerConfig,
};
use fugato_core::sim::World;
use fugato_core::{LegIndex, Nanos, Timestamp};

#[test]
fn the_next_leg_is_committed_before_the_running_one_ends() {
    let mut world = affine(config(PolicySpec::Fifo), &[model(0)]);
    // The first task teaches 1.1 ms; the second starts at 10 ms; while it runs a third
    // request waits, and is committed one lead (0.3 ms) before the predicted end.
    for (request, received) in [(0, 0), (1, 10 * MS), (2, 10 * MS + 100 * US)] {
        world.push_arrival(arrival(request, 0, received));
    }
    world.run();
    let times: Vec<u64> = starts(&mut world).iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [0, 10 * MS, 10 * MS + 800 * US]);
    let end = world.effects_mut().ended[2].at;
    assert_eq!(end, at(10 * MS + 2_200 * US), "no bubble between the two");
}

#[test]
fn legs_of_a_task_run_in_order_and_ahead_of_new_tasks() {
    let mut world = affine(
        config(PolicySpec::Fifo),
        &[ModelSpec {
            legs: 3,
            ..model(0)
        }],
    );
    for request in 0..3 {
        world.push_arrival(arrival(request, 0, request * 10 * MS));
    }
    world.push_arrival(arrival(3, 0, 20 * MS + 1));
    world.run();
    let legs: Vec<(u64, u16)> = starts(&mut world)
        .iter()
        .map(|(_, start)| (start.task.0, start.leg.0))
        .collect();
    let expected: Vec<(u64, u16)> = (0..4)
        .flat_map(|task| (0..3).map(move |leg| (task, leg)))
        .collect();
    assert_eq!(legs, expected);
    let ended = &world.effects_mut().ended;
    assert_eq!(
        ended[2].at,
        at(20 * MS + 3_300 * US),
        "legs follow each other without a bubble"
    );
    assert_eq!(LegIndex(0).0, 0);
}

/// Models of three legs, of which each takes the model's number + 1 in milliseconds.
fn in_three_legs(models: &[ModelSpec]) -> World {
    let mut world = world(
        SchedulerConfig {
            deadlines: DeadlineMode::Enforce,
            ..config(PolicySpec::EdfLegs)
        },
        vec![device(0, 1, 1)],
        |start| Nanos::from_millis(u64::from(start.model.0) + 1),
    );
    for spec in models {
        let spec = ModelSpec {
            legs: 3,
            ..spec.clone()
        };
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    }
    world
}

fn model_and_leg(world: &mut World) -> Vec<(u32, u16)> {
    let starts = starts(world);
    let legs = starts.iter();
    legs.map(|(_, start)| (start.model.0, start.leg.0))
        .collect()
}

#[test]
fn edf_legs_lets_an_urgent_task_in_between_two_legs() {
    let slo = |id, millis| ModelSpec {
        slo: Some(Nanos::from_millis(millis)),
        ..model(id)
    };
    let mut world = in_three_legs(&[slo(0, 20), slo(4, 100)]);
    world.push_arrival(arrival(0, 4, 0));
    world.push_arrival(arrival(1, 0, 2 * MS));
    world.push_arrival(arrival(2, 0, 12 * MS));
    world.run();
    let expected = [
        (4, 0),
        (0, 0),
        (0, 1),
        (0, 2),
        (4, 1),
        (0, 0),
        (0, 1),
        (0, 2),
        (4, 2),
    ];
    assert_eq!(model_and_leg(&mut world), expected);
    let ended = &world.effects_mut().ended;
    let ends: Vec<(u64, Timestamp)> = ended.iter().map(|end| (end.request.0, end.at)).collect();
    let expected = [(1, at(8 * MS)), (2, at(16 * MS)), (0, at(21 * MS))];
    assert_eq!(ends, expected, "one leg is the most that anybody waits");
}

#[test]
fn edf_legs_gives_a_task_up_that_can_no_longer_be_in_time() {
    let slo = |id, millis| ModelSpec {
        slo: Some(Nanos::from_millis(millis)),
        slots: 1,
        ..model(id)
    };
    let mut world = in_three_legs(&[slo(0, 10), slo(4, 17)]);
    // What a leg takes is known after one run of each.
    world.push_arrival(arrival(0, 0, 0));
    world.push_arrival(arrival(1, 4, 10 * MS));
    world.push_arrival(arrival(2, 4, 40 * MS));
    world.push_arrival(arrival(3, 0, 41 * MS));
    world.run();
    let ended = world.effects_mut().ended.iter();
    let late: Vec<u64> = ended
        .filter(|end| matches!(end.outcome, Outcome::Dropped(DropReason::Doomed { .. })))
        .map(|end| end.request.0)
        .collect();
    assert_eq!(late, [2]);
    let legs = model_and_leg(&mut world);
    assert_eq!(legs[6..], [(4, 0), (0, 0), (0, 1), (0, 2)]);
}
