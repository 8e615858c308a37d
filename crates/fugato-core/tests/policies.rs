//! Scenarios: what each policy does, event by event, on the simulator.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the outcomes it is about"
)]

mod common;

use common::{MS, US, arrival, at, batches, config, device, model, outcomes, starts, world};
use fugato_core::sched::{
    Arrival, DeadlineMode, DropReason, DynamicBatching, Input, ModelSpec, Outcome, Overdue,
    PolicySpec, QueueLimits, Rejection, SchedulerConfig, Scope,
};
use fugato_core::sim::World;
use fugato_core::{
    BatchSize, DeviceId, LegIndex, ModelId, Nanos, RequestId, ShapeClass, Timestamp,
};

/// One device, these models, every leg 1 ms + 0.1 ms per item.
fn affine(config: SchedulerConfig, models: &[ModelSpec]) -> World {
    let mut world = world(config, vec![device(0, 2, 4)], |start| {
        Nanos::new(MS + u64::from(start.batch.0) * 100 * US)
    });
    for model in models {
        world.push(Timestamp::ZERO, Input::ModelAdded(model.clone()));
    }
    world
}

#[test]
fn fifo_serves_in_order_of_arrival_and_batches_what_waits() {
    let mut world = affine(config(PolicySpec::Fifo), &[model(0), model(1)]);
    for (request, model) in [(0, 0), (1, 1), (2, 0), (3, 0), (4, 1)] {
        world.push_arrival(arrival(request, model, 10 + request));
    }
    world.run();
    assert_eq!(batches(&mut world), [vec![0], vec![1, 4], vec![2, 3]]);
    assert!(
        outcomes(&mut world)
            .iter()
            .all(|(_, outcome)| *outcome == Outcome::Completed)
    );
}

#[test]
fn requests_handed_in_together_share_a_batch() {
    let mut world = affine(config(PolicySpec::Fifo), &[model(0)]);
    for request in 0..10 {
        world.push_arrival(arrival(request, 0, 10));
    }
    world.run();
    let sizes: Vec<usize> = batches(&mut world).iter().map(Vec::len).collect();
    assert_eq!(sizes, [8, 2], "the largest batch is 8");
}

#[test]
fn classes_of_one_model_never_share_a_batch() {
    let mut world = affine(config(PolicySpec::Fifo), &[model(0)]);
    for (request, class) in [(0, 7), (1, 9), (2, 7), (3, 9)] {
        world.push_arrival(Arrival {
            class: ShapeClass(class),
            ..arrival(request, 0, 10)
        });
    }
    world.run();
    assert_eq!(batches(&mut world), [vec![0, 2], vec![1, 3]]);
}

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
fn edf_serves_the_earliest_deadline_and_revokes_a_less_urgent_commitment() {
    let slow = ModelSpec {
        slo: Some(Nanos::from_millis(100)),
        ..model(0)
    };
    let urgent = ModelSpec {
        slo: Some(Nanos::from_millis(5)),
        ..model(1)
    };
    let mut world = affine(config(PolicySpec::Edf), &[slow, urgent]);
    let requests = [
        (0, 0, 0),
        (1, 1, 5 * MS),
        (2, 0, 10 * MS),
        (3, 0, 10 * MS + 1),
        (4, 1, 10 * MS + 900 * US),
    ];
    for (request, model, received) in requests {
        world.push_arrival(arrival(request, model, received));
    }
    world.run();
    let order: Vec<Vec<u64>> = batches(&mut world);
    // 3 is committed at 10.8 ms behind 2, revoked at 10.9 ms when 4 arrives, and follows it.
    assert_eq!(
        order,
        [vec![0], vec![1], vec![2], vec![3], vec![4], vec![3]]
    );
    let ended: Vec<u64> = outcomes(&mut world)
        .iter()
        .map(|(request, _)| *request)
        .collect();
    assert_eq!(ended, [0, 1, 2, 4, 3]);
}

#[test]
fn edf_chooses_the_largest_batch_that_ends_in_time() {
    let tight = ModelSpec {
        slo: Some(Nanos::new(2_550 * US)),
        ..model(0)
    };
    let mut world = affine(config(PolicySpec::Edf), &[tight]);
    world.push_arrival(arrival(0, 0, 0));
    world.push_arrival(Arrival {
        items: BatchSize(8),
        ..arrival(1, 0, 5 * MS)
    });
    for request in 2..9 {
        world.push_arrival(arrival(request, 0, 10 * MS));
    }
    world.run();
    let sizes: Vec<usize> = batches(&mut world).iter().map(Vec::len).collect();
    assert_eq!(sizes[2], 7, "7 items need 1.7 ms of 2.55 ms");
    assert!(
        outcomes(&mut world)
            .iter()
            .all(|(_, outcome)| *outcome == Outcome::Completed)
    );
}

#[test]
fn what_cannot_end_in_time_is_refused_with_the_amount() {
    let tight = ModelSpec {
        slo: Some(Nanos::from_millis(2)),
        ..model(0)
    };
    let mut world = affine(config(PolicySpec::Fifo), &[tight]);
    world.push_arrival(arrival(0, 0, 0));
    // At 10 ms three requests come: one runs (1.1 ms), the second ends 0.2 ms late.
    for (request, received) in [(1, 10 * MS), (2, 10 * MS + 1)] {
        world.push_arrival(arrival(request, 0, received));
    }
    world.run();
    let refused = outcomes(&mut world)
        .into_iter()
        .find(|(request, _)| *request == 2);
    let Some((
        _,
        Outcome::Rejected(Rejection::DeadlineUnreachable {
            deadline,
            predicted,
            wait,
            run,
        }),
    )) = refused
    else {
        panic!("expected a refusal, got {refused:?}");
    };
    assert_eq!(deadline, at(12 * MS + 1));
    assert_eq!(
        (wait, run),
        (Nanos::new(1_100 * US - 1), Nanos::new(1_100 * US))
    );
    assert_eq!(predicted, at(12 * MS + 200 * US));
    assert_eq!(
        world.scheduler().explain(RequestId(2)).map(|_| ()),
        Some(()),
        "explain remembers what was refused"
    );
}

#[test]
fn without_enforcement_nothing_is_refused_for_its_deadline() {
    let tight = ModelSpec {
        slo: Some(Nanos::from_millis(2)),
        ..model(0)
    };
    let observe = SchedulerConfig {
        deadlines: DeadlineMode::Observe,
        ..config(PolicySpec::Fifo)
    };
    let mut world = affine(observe, &[tight]);
    for request in 0..100 {
        world.push_arrival(arrival(request, 0, request));
    }
    world.run();
    assert!(
        outcomes(&mut world)
            .iter()
            .all(|(_, outcome)| *outcome == Outcome::Completed)
    );
}

#[test]
fn a_request_is_dropped_when_its_deadline_or_queue_timeout_passes() {
    let mut world = affine(config(PolicySpec::Fifo), &[model(0), model(1)]);
    world.push_arrival(arrival(0, 1, 0));
    world.push_arrival(Arrival {
        deadline: Some(at(500 * US)),
        ..arrival(1, 0, 1)
    });
    world.push_arrival(Arrival {
        queue_timeout: Some(at(700 * US)),
        ..arrival(2, 0, 2)
    });
    world.run();
    let ended = world.effects_mut().ended.clone();
    assert_eq!(
        ended[0].outcome,
        Outcome::Dropped(DropReason::Expired {
            deadline: at(500 * US)
        })
    );
    assert_eq!(
        (ended[0].request, ended[0].at),
        (RequestId(1), at(500 * US))
    );
    assert_eq!(
        ended[1].outcome,
        Outcome::Dropped(DropReason::QueueTimeout { at: at(700 * US) })
    );
    assert_eq!(
        (ended[1].request, ended[1].at),
        (RequestId(2), at(700 * US))
    );
}

#[test]
fn a_delayed_request_runs_after_all_that_are_not_overdue() {
    let alone = ModelSpec {
        slots: 1,
        max_batch: BatchSize(1),
        ..model(0)
    };
    let mut world = affine(config(PolicySpec::Fifo), &[alone]);
    world.push_arrival(arrival(0, 0, 0));
    world.push_arrival(Arrival {
        queue_timeout: Some(at(200 * US)),
        overdue: Overdue::Delay,
        priority: 1,
        ..arrival(1, 0, 1)
    });
    world.push_arrival(arrival(2, 0, 2));
    // Overdue, and its deadline passes while the others run.
    world.push_arrival(Arrival {
        queue_timeout: Some(at(200 * US)),
        overdue: Overdue::Delay,
        deadline: Some(at(600 * US)),
        ..arrival(3, 0, 3)
    });
    world.run();
    let ended = world.effects_mut().ended.clone();
    let completed: Vec<u64> = ended
        .iter()
        .filter(|ended| ended.outcome == Outcome::Completed)
        .map(|ended| ended.request.0)
        .collect();
    assert_eq!(completed, [0, 2, 1], "{ended:?}");
    assert_eq!(ended.len(), 4, "{ended:?}");
}

#[test]
fn who_is_overdue_stays_so_under_another_policy() {
    let alone = ModelSpec {
        slots: 1,
        max_batch: BatchSize(1),
        ..model(0)
    };
    let mut world = affine(config(PolicySpec::Fifo), &[alone]);
    world.push_arrival(arrival(0, 0, 0));
    world.push_arrival(Arrival {
        queue_timeout: Some(at(200 * US)),
        overdue: Overdue::Delay,
        ..arrival(1, 0, 1)
    });
    world.push_arrival(arrival(2, 0, 2));
    world.push(at(300 * US), Input::PolicyChanged(PolicySpec::Edf));
    world.run();
    let ended = world.effects_mut().ended.iter();
    let order: Vec<u64> = ended.map(|ended| ended.request.0).collect();
    assert_eq!(order, [0, 2, 1]);
}

#[test]
fn limits_refuse_by_count_and_by_bytes() {
    let limits = QueueLimits {
        requests: 2,
        bytes: 100,
    };
    let mut world = affine(
        config(PolicySpec::Fifo),
        &[ModelSpec {
            limits,
            slots: 1,
            ..model(0)
        }],
    );
    for request in 0..4 {
        world.push_arrival(arrival(request, 0, 1 + request));
    }
    world.push_arrival(Arrival {
        bytes: 95,
        ..arrival(4, 0, 2 * MS)
    });
    world.push_arrival(Arrival {
        items: BatchSize(9),
        ..arrival(5, 0, 20 * MS)
    });
    world.push_arrival(Arrival {
        model: ModelId(9),
        ..arrival(6, 0, 20 * MS)
    });
    world.push(at(30 * MS), Input::Drain);
    world.push_arrival(arrival(7, 0, 30 * MS));
    world.run();
    let rejected: Vec<(u64, Rejection)> = outcomes(&mut world)
        .into_iter()
        .filter_map(|(request, outcome)| match outcome {
            Outcome::Rejected(reason) => Some((request, reason)),
            _ => None,
        })
        .collect();
    let scope = Scope::Model;
    assert_eq!(
        rejected,
        [
            (
                3,
                Rejection::QueueFull {
                    scope,
                    queued: 2,
                    limit: 2
                }
            ),
            (
                4,
                Rejection::BytesFull {
                    scope,
                    held: 8,
                    request: 95,
                    limit: 100
                }
            ),
            (
                5,
                Rejection::BatchTooLarge {
                    items: BatchSize(9),
                    max: BatchSize(8)
                }
            ),
            (6, Rejection::UnknownModel),
            (7, Rejection::Draining),
        ]
    );
}

#[test]
fn edf_admits_what_goes_before_the_backlog() {
    let mut world = affine(
        config(PolicySpec::Edf),
        &[ModelSpec {
            max_batch: BatchSize(1),
            slots: 1,
            ..model(0)
        }],
    );
    // 40 requests without a deadline wait, 44 ms of work; one of 10 ms goes before them.
    for request in 0..40 {
        world.push_arrival(arrival(request, 0, request));
    }
    world.push_arrival(Arrival {
        deadline: Some(at(15 * MS)),
        ..arrival(40, 0, 5 * MS)
    });
    world.run();
    let outcomes = outcomes(&mut world);
    assert!(
        outcomes
            .iter()
            .all(|(_, outcome)| *outcome == Outcome::Completed)
    );
    let place = outcomes.iter().position(|(request, _)| *request == 40);
    assert!(
        place.is_some_and(|place| place < 8),
        "it ended as number {place:?}"
    );
}

#[test]
fn a_priority_orders_one_models_requests_and_no_others() {
    for policy in [PolicySpec::Fifo, PolicySpec::Edf] {
        let single = |id| ModelSpec {
            max_batch: BatchSize(1),
            slots: 1,
            ..model(id)
        };
        let mut world = affine(config(policy), &[single(0), single(1)]);
        for request in 0..20 {
            world.push_arrival(Arrival {
                priority: u32::from(request >= 10),
                ..arrival(request, 0, request)
            });
        }
        world.push_arrival(arrival(20, 1, 100));
        for request in 21..40 {
            world.push_arrival(Arrival {
                priority: 1,
                ..arrival(request, 0, 100 + request)
            });
        }
        world.run();
        let ended: Vec<u64> = outcomes(&mut world)
            .iter()
            .map(|(request, _)| *request)
            .collect();
        let place = |request| {
            ended
                .iter()
                .position(|ended| *ended == request)
                .expect("it ended")
        };
        assert!(
            place(10) < place(1),
            "a higher priority goes first within the model"
        );
        assert!(
            place(20) <= 21,
            "another model waits for what is older, not for priorities: {ended:?}"
        );
    }
}

#[test]
fn a_busy_device_does_not_hold_up_another() {
    for policy in [
        PolicySpec::Fifo,
        PolicySpec::Edf,
        PolicySpec::Uncontrolled {
            lanes: 1,
            share: None,
        },
    ] {
        let devices = vec![device(0, 1, 1), device(1, 1, 1)];
        let mut world = world(config(policy.clone()), devices, |_| Nanos::new(MS));
        world.push(
            Timestamp::ZERO,
            Input::ModelAdded(ModelSpec {
                max_batch: BatchSize(1),
                ..model(0)
            }),
        );
        world.push(
            Timestamp::ZERO,
            Input::ModelAdded(ModelSpec {
                devices: vec![DeviceId(1)],
                ..model(1)
            }),
        );
        for request in 0..10 {
            world.push_arrival(arrival(request, 0, 1));
        }
        world.push_arrival(arrival(10, 1, 2));
        world.run();
        let start = starts(&mut world)
            .into_iter()
            .find(|(_, start)| start.model == ModelId(1));
        assert_eq!(start.map(|(at, _)| at), Some(2), "{policy:?}");
    }
}

#[test]
fn what_waits_for_a_lost_device_fails_and_the_rest_goes_on() {
    let devices = vec![device(0, 1, 1), device(1, 1, 1)];
    let mut world = world(config(PolicySpec::Fifo), devices, |_| Nanos::new(MS));
    world.push(
        Timestamp::ZERO,
        Input::ModelAdded(ModelSpec {
            max_batch: BatchSize(1),
            slots: 1,
            ..model(0)
        }),
    );
    world.push(
        Timestamp::ZERO,
        Input::ModelAdded(ModelSpec {
            devices: vec![DeviceId(1)],
            ..model(1)
        }),
    );
    for request in 0..3 {
        world.push_arrival(arrival(request, 0, 1));
    }
    world.push(
        at(10),
        Input::DeviceLost {
            device: DeviceId(0),
        },
    );
    world.push_arrival(arrival(3, 1, 20));
    world.run();
    let outcomes = outcomes(&mut world);
    assert!(
        outcomes[..3]
            .iter()
            .all(|(_, outcome)| matches!(outcome, Outcome::Failed(_))),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[3], (3, Outcome::Completed));
}

#[test]
fn one_bad_sample_does_not_shut_a_model_out() {
    let tight = ModelSpec {
        slo: Some(Nanos::from_millis(5)),
        ..model(0)
    };
    let mut first = true;
    let mut world = world(config(PolicySpec::Edf), vec![device(0, 2, 1)], move |_| {
        let service = if first { 50 * MS } else { MS };
        first = false;
        Nanos::new(service)
    });
    world.push(Timestamp::ZERO, Input::ModelAdded(tight));
    for request in 0..20 {
        world.push_arrival(arrival(request, 0, request * 100 * MS));
    }
    world.run();
    let good = outcomes(&mut world)
        .iter()
        .filter(|(_, outcome)| *outcome == Outcome::Completed)
        .count();
    assert!(
        good >= 17,
        "a probe mends the estimate after at most 250 ms, {good} of 20 completed"
    );
}

#[test]
fn uncontrolled_runs_models_at_once_and_waits_for_preferred_batches() {
    let batching = DynamicBatching {
        instances: 1,
        preferred: vec![BatchSize(4)],
        max_queue_delay: Nanos::new(500 * US),
    };
    let models = [
        ModelSpec {
            batching,
            ..model(0)
        },
        model(1),
    ];
    let mut world = affine(
        config(PolicySpec::Uncontrolled {
            lanes: 4,
            share: None,
        }),
        &models,
    );
    for (request, model, received) in [
        (0, 0, 0),
        (1, 1, 10),
        (2, 0, 20),
        (3, 0, 30),
        (4, 0, 40),
        (5, 0, 2 * MS),
    ] {
        world.push_arrival(arrival(request, model, received));
    }
    world.run();
    let starts: Vec<(u64, Vec<u64>)> = starts(&mut world)
        .into_iter()
        .map(|(at, start)| (at, start.requests.iter().map(|id| id.0).collect()))
        .collect();
    // Model 1 starts at once; model 0 when four wait (40 ns); request 5 after its delay.
    assert_eq!(starts[..2], [(10, vec![1]), (40, vec![0, 2, 3, 4])]);
    let (when, last) = &starts[2];
    assert_eq!(last, &[5]);
    assert!(*when >= 2 * MS + 500 * US);
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

#[test]
fn a_lost_device_fails_what_ran_and_keeps_what_waited() {
    let both = ModelSpec {
        devices: vec![DeviceId(0), DeviceId(1)],
        ..model(0)
    };
    let mut world = world(
        config(PolicySpec::Fifo),
        vec![device(0, 1, 1), device(1, 1, 1)],
        |_| Nanos::new(MS),
    );
    world.push(
        Timestamp::ZERO,
        Input::ModelAdded(ModelSpec {
            max_batch: BatchSize(1),
            ..both
        }),
    );
    for request in 0..4 {
        world.push_arrival(arrival(request, 0, 1));
    }
    world.push(
        at(500 * US),
        Input::DeviceLost {
            device: DeviceId(0),
        },
    );
    world.run();
    let outcomes = outcomes(&mut world);
    let failed: Vec<u64> = outcomes
        .iter()
        .filter(|(_, o)| matches!(o, Outcome::Failed(_)))
        .map(|(r, _)| *r)
        .collect();
    assert_eq!(failed, [0]);
    let done: Vec<u64> = outcomes
        .iter()
        .filter(|(_, o)| *o == Outcome::Completed)
        .map(|(r, _)| *r)
        .collect();
    assert_eq!(done, [1, 2, 3]);
    assert_eq!(world.scheduler().requests_open(), 0);
}

#[test]
fn a_removed_model_finishes_what_it_has_and_is_drained_once() {
    use fugato_core::sched::Action;
    let mut world = affine(config(PolicySpec::Fifo), &[model(0)]);
    for request in 0..20 {
        world.push_arrival(arrival(request, 0, 1));
    }
    world.push(at(2), Input::ModelRemoved { model: ModelId(0) });
    world.push_arrival(arrival(20, 0, 3));
    world.run();
    let outcomes = outcomes(&mut world);
    assert_eq!(
        outcomes
            .iter()
            .filter(|(_, outcome)| *outcome == Outcome::Completed)
            .count(),
        20
    );
    assert!(outcomes.contains(&(20, Outcome::Rejected(Rejection::ModelStopping))));
    let last = world
        .effects_mut()
        .actions
        .last()
        .map(|(_, action)| action.clone());
    assert_eq!(last, Some(Action::ModelDrained { model: ModelId(0) }));
}

#[test]
fn a_cancelled_request_frees_its_place() {
    let mut world = affine(
        config(PolicySpec::Fifo),
        &[ModelSpec {
            max_batch: BatchSize(1),
            ..model(0)
        }],
    );
    for request in 0..3 {
        world.push_arrival(arrival(request, 0, 1));
    }
    world.push(
        at(2),
        Input::Cancelled {
            request: RequestId(1),
        },
    );
    world.push(
        at(3),
        Input::Cancelled {
            request: RequestId(0),
        },
    );
    world.push(
        at(50 * MS),
        Input::Cancelled {
            request: RequestId(2),
        },
    );
    world.run();
    let expected = [
        (1, Outcome::Cancelled),
        (0, Outcome::Cancelled),
        (2, Outcome::Completed),
    ];
    assert_eq!(outcomes(&mut world), expected);
    assert_eq!(batches(&mut world), [vec![0], vec![2]]);
}

#[test]
fn the_policy_changes_live_without_losing_a_request() {
    let mut world = affine(config(PolicySpec::Fifo), &[model(0), model(1)]);
    for request in 0..60 {
        world.push_arrival(arrival(
            request,
            u32::from(request % 2 == 0),
            request * 200 * US,
        ));
    }
    world.push(
        at(13 * MS),
        Input::PolicyChanged(PolicySpec::Uncontrolled {
            lanes: 3,
            share: None,
        }),
    );
    world.push(at(14 * MS), Input::DeadlinesChanged(DeadlineMode::Observe));
    world.push(at(15 * MS), Input::PolicyChanged(PolicySpec::Edf));
    world.run();
    let mut completed: Vec<u64> = outcomes(&mut world)
        .iter()
        .map(|(request, _)| *request)
        .collect();
    completed.sort_unstable();
    assert_eq!(completed, (0..60).collect::<Vec<u64>>());
    assert_eq!(world.scheduler().policy(), "edf");
}

#[test]
fn a_changed_objective_orders_what_comes_after_it() {
    let slo = |id, ms| ModelSpec {
        slo: Some(Nanos::from_millis(ms)),
        max_batch: BatchSize(1),
        slots: 1,
        ..model(id)
    };
    let order = |change: bool| {
        let mut world = affine(config(PolicySpec::Edf), &[slo(0, 500), slo(1, 900)]);
        // Holds the device while the others come.
        world.push_arrival(arrival(0, 0, 0));
        world.push_arrival(arrival(1, 1, 10 * US));
        world.push_arrival(arrival(2, 0, 20 * US));
        if change {
            world.push(at(30 * US), Input::ModelChanged(slo(1, 100)));
        }
        world.push_arrival(arrival(3, 1, 40 * US));
        world.run();
        let ended = world.effects_mut().ended.iter();
        ended.map(|ended| ended.request.0).collect::<Vec<u64>>()
    };
    assert_eq!(order(false), [0, 2, 1, 3]);
    // The one that came before the change keeps its place.
    assert_eq!(order(true), [0, 3, 2, 1]);
}
