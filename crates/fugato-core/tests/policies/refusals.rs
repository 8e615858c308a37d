//! What is refused or dropped, and what it is told.

use super::affine;
use super::common::{MS, US, arrival, at, config, model, outcomes};
use fugato_core::sched::{
    Arrival, DeadlineMode, DropReason, Input, ModelSpec, Outcome, PolicySpec, QueueLimits,
    Rejection, SchedulerConfig, Scope,
};
use fugato_core::{BatchSize, ModelId, Nanos, RequestId};

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
