//! Who is served next, and in which batches.

use super::common::{MS, US, arrival, at, batches, config, device, model, outcomes, starts, world};
use super::{affine, completed, ended};
use fugato_core::sched::{
    Arrival, DynamicBatching, Input, ModelSpec, Outcome, Overdue, PolicySpec,
};
use fugato_core::{BatchSize, Nanos, ShapeClass, Timestamp};

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
    assert_eq!(ended(&mut world), [0, 1, 2, 4, 3]);
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
    let outcomes = outcomes(&mut world);
    assert_eq!(completed(&mut world), [0, 2, 1], "{outcomes:?}");
    assert_eq!(outcomes.len(), 4, "{outcomes:?}");
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
        let ended = ended(&mut world);
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
    let good = completed(&mut world).len();
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
