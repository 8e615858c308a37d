//! Devices that are busy or lost, and what changes while requests wait.

use super::common::{MS, US, arrival, at, batches, config, device, model, outcomes, starts, world};
use super::{affine, completed, ended};
use fugato_core::sched::{
    Arrival, DeadlineMode, Input, ModelSpec, Outcome, Overdue, PolicySpec, Rejection,
};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, RequestId, Timestamp};

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
    assert_eq!(ended(&mut world), [0, 2, 1]);
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
    assert_eq!(completed(&mut world), [1, 2, 3]);
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
    assert_eq!(completed(&mut world).len(), 20);
    assert!(outcomes(&mut world).contains(&(20, Outcome::Rejected(Rejection::ModelStopping))));
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
    let mut ended = ended(&mut world);
    ended.sort_unstable();
    assert_eq!(ended, (0..60).collect::<Vec<u64>>());
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
        ended(&mut world)
    };
    assert_eq!(order(false), [0, 2, 1, 3]);
    // The one that came before the change keeps its place.
    assert_eq!(order(true), [0, 3, 2, 1]);
}
