//! Tasks of several legs.

use super::affine;
use super::common::{MS, US, arrival, at, config, device, model, starts, world};
use fugato_core::policy::FugatoParts;
use fugato_core::sched::{
    Action, DeadlineMode, DropReason, Input, LegResult, ModelSpec, Outcome, PolicySpec, Scheduler,
    SchedulerConfig,
};
use fugato_core::sim::World;
use fugato_core::{DeviceId, LegIndex, ModelId, Nanos, RequestId, TaskId, Timestamp};

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
fn in_three_legs(policy: PolicySpec, models: &[ModelSpec]) -> World {
    let mut world = world(
        SchedulerConfig {
            deadlines: DeadlineMode::Enforce,
            ..config(policy)
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

/// Model 0 of three legs of 1 ms that can run in 2.5 ms in one go, and model 1 of one leg of 1 ms.
fn that_can_run_unsplit(policy: PolicySpec) -> World {
    let mut world = world(config(policy), vec![device(0, 1, 1)], |start| {
        match start.unsplit {
            true => Nanos::from_micros(2_500),
            false => Nanos::from_millis(1),
        }
    });
    let cut = ModelSpec {
        legs: 3,
        unsplit: true,
        ..model(0)
    };
    for spec in [cut, model(1)] {
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    }
    world
}

/// By start: the request, and whether its task runs in one go; the legs after the first left out.
fn requests_and_ways(world: &mut World) -> Vec<(u64, bool)> {
    let starts = starts(world);
    let tasks = starts.iter().map(|(_, start)| start);
    tasks
        .filter_map(|start| Some((start.requests.first()?.0, start.unsplit)))
        .collect()
}

#[test]
fn a_model_alone_on_the_device_runs_unsplit() {
    for policy in ["edf-legs", "fugato", "fifo", "edf"] {
        let mut world = that_can_run_unsplit(PolicySpec::named(policy).expect("one"));
        // The first teaches what its legs take. The other model asks at 20 ms, and counts as
        // asking for a second.
        let times = [
            (0, 0, 0),
            (1, 0, 10),
            (2, 1, 20),
            (3, 0, 30),
            (4, 0, 1_010),
            (5, 0, 1_030),
        ];
        for (request, model, ms) in times {
            world.push_arrival(arrival(request, model, ms * MS));
        }
        world.run();
        let expected = [
            (0, false),
            (1, true),
            (2, false),
            (3, false),
            (4, false),
            (5, true),
        ];
        assert_eq!(requests_and_ways(&mut world), expected, "{policy}");
        let ends: Vec<Timestamp> = world.effects_mut().ended.iter().map(|end| end.at).collect();
        assert_eq!(ends[1], at(12 * MS + 500 * US), "{policy}: in one go");
        assert_eq!(ends[3], at(33 * MS), "{policy}: in three legs");
        let legs = starts(&mut world).len();
        assert_eq!(legs, 3 + 1 + 1 + 3 + 3 + 1, "{policy}");
    }
}

#[test]
fn what_cannot_run_unsplit_or_is_told_not_to_runs_in_legs() {
    let off = PolicySpec::Fugato(FugatoParts {
        unsplit: false,
        ..FugatoParts::default()
    });
    let mut world = that_can_run_unsplit(off);
    let mut in_legs = in_three_legs(PolicySpec::EdfLegs, &[model(0)]);
    for world in [&mut world, &mut in_legs] {
        for request in 0..3 {
            world.push_arrival(arrival(request, 0, request * 10 * MS));
        }
        world.run();
        let expected = [(0, false), (1, false), (2, false)];
        assert_eq!(requests_and_ways(world), expected);
    }
}

#[test]
fn a_task_that_runs_unsplit_teaches_what_its_legs_take_now() {
    let mut world = that_can_run_unsplit(PolicySpec::EdfLegs);
    for request in 0..40 {
        world.push_arrival(arrival(request, 0, request * 10 * MS));
    }
    world.run();
    let status = world.scheduler().model_status(ModelId(0));
    let error = status.and_then(|status| status.prediction_error);
    // Three legs of 1 ms would be a fifth too much.
    assert!(error.is_some_and(|error| error < 0.05), "{error:?}");
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
    let mut world = in_three_legs(PolicySpec::EdfLegs, &[slo(0, 20), slo(4, 100)]);
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

/// Under `fugato`: model 4 of three legs of 5 ms, due after `long`, and model 0 of three of 1 ms, due
/// after `short` milliseconds. Both have run; a task of model 4 begins at 40 ms.
fn long_beside_short(long: Option<u64>, short: u64) -> World {
    let slo = |id, millis: Option<u64>| ModelSpec {
        slo: millis.map(Nanos::from_millis),
        slots: 1,
        ..model(id)
    };
    let fugato = PolicySpec::Fugato(FugatoParts::default());
    let mut world = in_three_legs(fugato, &[slo(0, Some(short)), slo(4, long)]);
    for (request, model, when) in [(0, 4, 0), (1, 0, 20), (2, 4, 40)] {
        world.push_arrival(arrival(request, model, when * MS));
    }
    world
}

#[test]
fn fugato_lets_a_head_in_between_two_legs_that_cannot_wait_for_the_task() {
    let alone = [(4, 0), (4, 1), (4, 2), (0, 0), (0, 1), (0, 2)];
    // It has 17 ms to spare, of which the rest of the task would take 13: more than a quarter.
    let mut world = long_beside_short(Some(500), 20);
    world.push_arrival(arrival(3, 0, 42 * MS));
    world.run();
    let pressed = [(4, 0), (0, 0), (0, 1), (0, 2), (4, 1), (4, 2)];
    assert_eq!(model_and_leg(&mut world), [alone, pressed].concat());
    let ended = &world.effects_mut().ended;
    let ends: Vec<(u64, Timestamp)> = ended.iter().map(|end| (end.request.0, end.at)).collect();
    assert_eq!(ends[2..], [(3, at(48 * MS)), (2, at(58 * MS))]);
    // It has 97 ms to spare: it waits.
    let mut world = long_beside_short(Some(500), 100);
    world.push_arrival(arrival(3, 0, 42 * MS));
    world.run();
    assert_eq!(model_and_leg(&mut world), [alone, alone].concat());
    // The task is the more urgent one by then: it was received at 40 ms, and has 4 ms to spare.
    let mut world = long_beside_short(Some(19), 20);
    world.push_arrival(arrival(3, 0, 42 * MS));
    world.run();
    assert_eq!(model_and_leg(&mut world), [alone, alone].concat());
}

#[test]
fn a_long_head_that_is_pressed_does_not_bar_the_way_of_a_short_one() {
    let slo = |id, millis| ModelSpec {
        slo: Some(Nanos::from_millis(millis)),
        slots: 1,
        ..model(id)
    };
    let fugato = PolicySpec::Fugato(FugatoParts::default());
    let models = [slo(0, 20), slo(4, 60), slo(19, 100)];
    let mut world = in_three_legs(fugato, &models);
    for (request, model, when) in [(0, 4, 0), (1, 0, 20), (2, 19, 40), (3, 4, 120)] {
        world.push_arrival(arrival(request, model, when * MS));
    }
    // Legs of 5 ms, of 20 and of 1. The task has 60 ms, of which it needs 15: the one of 60 ms in all
    // must begin before it must, and it cannot wait for that one.
    world.push_arrival(arrival(4, 19, 121 * MS));
    world.push_arrival(arrival(5, 0, 122 * MS));
    world.run();
    let found = model_and_leg(&mut world);
    let expected = [(4, 0), (0, 0), (0, 1), (0, 2), (4, 1), (4, 2)];
    assert_eq!(found[9..15], expected, "{found:?}");
}

#[test]
fn a_task_of_which_nothing_is_known_is_not_passed() {
    let fugato = PolicySpec::Fugato(FugatoParts::default());
    let slo = |id, slo| ModelSpec {
        slo,
        slots: 1,
        ..model(id)
    };
    let short = slo(0, Some(Nanos::from_millis(20)));
    let mut world = in_three_legs(fugato, &[short, slo(4, None)]);
    world.push_arrival(arrival(0, 0, 0));
    world.push_arrival(arrival(1, 4, 20 * MS));
    for turn in 0..200 {
        world.push_arrival(arrival(2 + turn, 0, (21 + 3 * turn) * MS));
    }
    world.run();
    assert_eq!(model_and_leg(&mut world)[3..6], [(4, 0), (4, 1), (4, 2)]);
}

#[test]
fn fugato_lets_heads_pass_a_task_without_a_deadline_for_a_second_at_most() {
    let mut world = long_beside_short(None, 20);
    // As much as the device can do.
    for turn in 0..500 {
        world.push_arrival(arrival(3 + turn, 0, (42 + 3 * turn) * MS));
    }
    world.run();
    let ended = &world.effects_mut().ended;
    let task = ended.iter().find(|end| end.request.0 == 2);
    let task = task.expect("it ends").at;
    assert!(at(100 * MS) < task && task < at(1_100 * MS), "{task}");
}

#[test]
fn edf_legs_gives_a_task_up_that_can_no_longer_be_in_time() {
    let slo = |id, millis| ModelSpec {
        slo: Some(Nanos::from_millis(millis)),
        slots: 1,
        ..model(id)
    };
    let mut world = in_three_legs(PolicySpec::EdfLegs, &[slo(0, 10), slo(4, 17)]);
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

/// Hands one input in, and gives what is to be done.
fn hand_in(scheduler: &mut Scheduler, now: u64, input: Input) -> Vec<Action> {
    scheduler.handle(at(now), input);
    std::iter::from_fn(|| scheduler.poll_action()).collect()
}

fn started(task: u64, leg: u16, when: u64) -> Input {
    Input::LegStarted {
        device: DeviceId(0),
        task: TaskId(task),
        leg: LegIndex(leg),
        at: at(when),
    }
}

/// The end of a leg of 1 ms.
fn finished(task: u64, leg: u16, when: u64) -> Input {
    Input::LegFinished {
        device: DeviceId(0),
        task: TaskId(task),
        leg: LegIndex(leg),
        started: at(when - MS),
        ended: at(when),
        result: LegResult::Done,
    }
}

/// Policies under which a task's legs follow each other while nobody else asks.
fn of_legs() -> [PolicySpec; 3] {
    ["fifo", "edf-legs", "fugato"].map(|name| PolicySpec::named(name).expect("a policy's name"))
}

/// A scheduler that knows from a first task that each of the three legs of its model takes 1 ms.
fn taught(settings: SchedulerConfig) -> Scheduler {
    let mut scheduler = Scheduler::new(settings);
    let three_legs = ModelSpec {
        legs: 3,
        ..model(0)
    };
    hand_in(&mut scheduler, 0, Input::DeviceAdded(device(0, 1, 1)));
    hand_in(&mut scheduler, 0, Input::ModelAdded(three_legs));
    hand_in(&mut scheduler, 0, Input::Arrived(arrival(0, 0, 0)));
    for leg in 0..3 {
        let begin = u64::from(leg) * MS;
        hand_in(&mut scheduler, begin, started(0, leg, begin));
        hand_in(&mut scheduler, begin + MS, finished(0, leg, begin + MS));
    }
    scheduler
}

/// The second task up to where its first leg runs, from 10 ms on, and its only client goes away
/// at `when`.
fn client_goes_away(policy: PolicySpec, when: u64) -> (Scheduler, Vec<Action>) {
    let mut scheduler = taught(config(policy));
    let arrival = Input::Arrived(arrival(1, 0, 10 * MS));
    hand_in(&mut scheduler, 10 * MS, arrival);
    hand_in(&mut scheduler, 10 * MS, started(1, 0, 10 * MS));
    hand_in(&mut scheduler, when, Input::Timeout);
    let request = RequestId(1);
    let actions = hand_in(&mut scheduler, when, Input::Cancelled { request });
    (scheduler, actions)
}

fn in_flight(scheduler: &Scheduler) -> Option<u16> {
    let status = scheduler.model_status(ModelId(0));
    status.map(|status| status.in_flight)
}

#[test]
fn no_leg_is_committed_for_a_task_that_nobody_waits_for() {
    for policy in of_legs() {
        let (mut scheduler, actions) = client_goes_away(policy, 10 * MS + 100 * US);
        assert!(
            matches!(actions[..], [Action::Finish { .. }]),
            "{actions:?}"
        );
        let actions = hand_in(&mut scheduler, 10 * MS + 800 * US, Input::Timeout);
        assert_eq!(actions, []);
        let actions = hand_in(&mut scheduler, 11 * MS, finished(1, 0, 11 * MS));
        assert_eq!((actions, in_flight(&scheduler)), (vec![], Some(0)));
    }
}

#[test]
fn a_leg_that_nobody_waits_for_is_not_committed_again_when_it_was_taken_back() {
    for policy in of_legs() {
        let (mut scheduler, actions) = client_goes_away(policy, 10 * MS + 800 * US);
        let [Action::Finish { .. }, Action::Revoke { leg, .. }] = actions[..] else {
            panic!("{actions:?}");
        };
        let revoked = Input::LegRevoked {
            device: DeviceId(0),
            task: TaskId(1),
            leg,
        };
        let actions = hand_in(&mut scheduler, 10 * MS + 801 * US, revoked);
        assert_eq!(actions, []);
        let actions = hand_in(&mut scheduler, 11 * MS, finished(1, 0, 11 * MS));
        assert_eq!((actions, in_flight(&scheduler)), (vec![], Some(0)));
    }
}

#[test]
fn a_task_that_was_passed_over_ends_when_nobody_waits_for_it() {
    let mut scheduler = taught(config(PolicySpec::EdfLegs));
    let urgent = ModelSpec {
        slo: Some(Nanos::from_millis(50)),
        ..model(1)
    };
    hand_in(&mut scheduler, 10 * MS, Input::ModelAdded(urgent));
    let long = Input::Arrived(arrival(1, 0, 10 * MS));
    hand_in(&mut scheduler, 10 * MS, long);
    hand_in(&mut scheduler, 10 * MS, started(1, 0, 10 * MS));
    let urgent = Input::Arrived(arrival(2, 1, 10 * MS));
    hand_in(&mut scheduler, 10 * MS, urgent);
    hand_in(&mut scheduler, 10 * MS + 800 * US, Input::Timeout);
    hand_in(&mut scheduler, 11 * MS, finished(1, 0, 11 * MS));
    hand_in(&mut scheduler, 11 * MS, started(2, 0, 11 * MS));
    assert_eq!(in_flight(&scheduler), Some(1));
    let request = RequestId(1);
    hand_in(&mut scheduler, 11 * MS, Input::Cancelled { request });
    assert_eq!(in_flight(&scheduler), Some(0));
    let actions = hand_in(&mut scheduler, 12 * MS, finished(2, 0, 12 * MS));
    assert!(
        matches!(actions[..], [Action::Finish { .. }]),
        "{actions:?}"
    );
}

#[test]
fn a_leg_behind_another_tasks_is_taken_back_when_nobody_waits() {
    let mut scheduler = taught(config(PolicySpec::EdfLegs));
    let urgent = ModelSpec {
        slo: Some(Nanos::from_millis(50)),
        ..model(1)
    };
    hand_in(&mut scheduler, 5 * MS, Input::ModelAdded(urgent));
    let known = Input::Arrived(arrival(1, 1, 5 * MS));
    hand_in(&mut scheduler, 5 * MS, known);
    hand_in(&mut scheduler, 5 * MS, started(1, 0, 5 * MS));
    hand_in(&mut scheduler, 6 * MS, finished(1, 0, 6 * MS));
    let long = Input::Arrived(arrival(2, 0, 10 * MS));
    hand_in(&mut scheduler, 10 * MS, long);
    hand_in(&mut scheduler, 10 * MS, started(2, 0, 10 * MS));
    let urgent = Input::Arrived(arrival(3, 1, 10 * MS));
    hand_in(&mut scheduler, 10 * MS, urgent);
    hand_in(&mut scheduler, 10 * MS + 800 * US, Input::Timeout);
    hand_in(&mut scheduler, 11 * MS, finished(2, 0, 11 * MS));
    hand_in(&mut scheduler, 11 * MS, started(3, 0, 11 * MS));
    let actions = hand_in(&mut scheduler, 11 * MS + 800 * US, Input::Timeout);
    assert!(matches!(actions[..], [Action::Start(_)]), "{actions:?}");
    let request = RequestId(2);
    let actions = hand_in(
        &mut scheduler,
        11 * MS + 900 * US,
        Input::Cancelled { request },
    );
    let [Action::Finish { .. }, Action::Revoke { task, leg, .. }] = actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!((task, leg), (TaskId(2), LegIndex(1)));
}
