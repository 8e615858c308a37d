//! What neighbours of another kind cost, as the scheduler reckons with it: a model that waits
//! for memory is predicted to take longer beside one that moves much than beside one that
//! computes.

mod common;

use common::{MS, arrival, at, config, device, model, world};
use fugato_core::policy::FugatoParts;
use fugato_core::profile::{GridPoint, Interference, ModelProfile};
use fugato_core::sched::{
    Action, Decision, Input, LegResult, ModelSpec, PolicySpec, Scheduler, SchedulerConfig, Start,
};
use fugato_core::sim::World;
use fugato_core::{DeviceId, LegIndex, ModelId, Nanos, PartitionId, Timestamp};
use proptest::prelude::*;

/// Waits for memory and demands little; moves much; computes.
const WAITS: u32 = 0;
const MOVES: u32 = 1;
const COMPUTES: u32 = 2;

/// Sensitivity and demand. Beside [`MOVES`] on all other slices [`WAITS`] takes half as long
/// again, beside its own kind a tenth, beside [`COMPUTES`] no longer.
const NUMBERS: [(f64, f64); 3] = [(0.5, 0.2), (0.4, 1.0), (0.0, 0.0)];

/// 8 ms an item on one of so many slices and on all of them, and what its own kind adds on the
/// others.
fn profile(id: u32, slices: u16) -> ModelProfile {
    let mut profile = ModelProfile::new(format!("model-{id}"), format!("hash-{id}"), 8);
    let (sensitivity, demand) = NUMBERS[id as usize];
    let batches = [1, 2, 4, 8];
    let points = batches
        .iter()
        .flat_map(|&batch| [(batch, 1, 0), (batch, 1, slices - 1), (batch, slices, 0)]);
    for (batch, share, neighbours) in points {
        let longer = match neighbours {
            0 => 1.0,
            _ => 1.0 + sensitivity * demand,
        };
        let median_s = f64::from(batch) * 8e-3 * longer;
        profile.grid.push(GridPoint {
            batch,
            share,
            neighbours,
            median_s: Some(median_s),
            p95_s: Some(1.1 * median_s),
            low_s: None,
            high_s: None,
            repeats: 9,
            failed: None,
        });
    }
    assert_eq!(profile.check(slices), Ok(()));
    profile
}

fn with_interference(id: u32, slices: u16) -> ModelProfile {
    let (sensitivity, demand) = NUMBERS[id as usize];
    ModelProfile {
        interference: Some(Interference {
            sensitivity,
            demand,
        }),
        ..profile(id, slices)
    }
}

fn spec(id: u32) -> ModelSpec {
    ModelSpec {
        slo: Some(Nanos::from_millis(1_000)),
        ..model(id)
    }
}

/// Each leg has the smallest share that is enough.
fn settings() -> SchedulerConfig {
    let parts = FugatoParts {
        widen: false,
        ..FugatoParts::default()
    };
    SchedulerConfig {
        decisions: 1_000,
        ..config(PolicySpec::Fugato(parts))
    }
}

/// What is known of a model on a device of so many slices.
type Known = fn(u32, u16) -> ModelProfile;

/// A scheduler of so many slices with all models.
fn scheduler(slices: u16, profile: Known) -> Scheduler {
    let mut scheduler = Scheduler::new(settings());
    scheduler.handle(Timestamp::ZERO, Input::DeviceAdded(device(0, slices, 2)));
    for id in [WAITS, MOVES, COMPUTES] {
        scheduler.handle(Timestamp::ZERO, Input::ModelAdded(spec(id)));
        let given = Input::ProfileGiven {
            model: ModelId(id),
            profile: Box::new(profile(id, slices)),
        };
        scheduler.handle(Timestamp::ZERO, given);
    }
    scheduler
}

/// Hands in a request, and says that its leg has started; gives the start with what was
/// predicted of it.
fn run(scheduler: &mut Scheduler, request: u64, model: u32, now: Timestamp) -> (Start, Nanos) {
    let asked = arrival(request, model, now.as_nanos());
    scheduler.handle(now, Input::Arrived(asked));
    let action = scheduler.poll_action().expect("there is room");
    let Action::Start(start) = action else {
        panic!("not a start: {action:?}");
    };
    assert_eq!(scheduler.poll_action(), None);
    assert_ne!(start.partition, PartitionId(0), "a part of the device");
    let started = Input::LegStarted {
        device: DeviceId(0),
        task: start.task,
        leg: LegIndex(0),
        at: now,
    };
    scheduler.handle(now, started);
    let decisions = std::iter::from_fn(|| scheduler.poll_decision());
    let predicted = decisions.filter_map(|decision| {
        let Decision::Issued { predicted, .. } = decision else {
            return None;
        };
        predicted
    });
    let predicted = predicted.last().expect("it is profiled");
    (start, predicted)
}

/// Says that a leg ended after `took`.
fn end(scheduler: &mut Scheduler, start: &Start, started: Timestamp, took: Nanos) {
    let ended = started + took;
    let finished = Input::LegFinished {
        device: DeviceId(0),
        task: start.task,
        leg: LegIndex(0),
        started,
        ended,
        result: LegResult::Done,
    };
    scheduler.handle(ended, finished);
    while scheduler.poll_action().is_some() {}
}

/// What is predicted of [`WAITS`] beside a neighbour.
fn beside(neighbour: u32, profile: Known) -> Nanos {
    let mut scheduler = scheduler(2, profile);
    run(&mut scheduler, 0, neighbour, at(0));
    run(&mut scheduler, 1, WAITS, at(1)).1
}

#[test]
fn a_prediction_is_of_the_neighbour_that_there_is() {
    let micros = Nanos::from_micros;
    let expected = [
        (WAITS, micros(8_800)),
        (MOVES, micros(12_000)),
        (COMPUTES, micros(8_000)),
    ];
    for (neighbour, predicted) in expected {
        assert_eq!(beside(neighbour, with_interference), predicted);
        // A profile that does not tell them apart says what its own kind costs.
        assert_eq!(beside(neighbour, profile), micros(8_800));
    }
}

#[test]
fn neighbours_count_by_their_slices() {
    let mut scheduler = scheduler(4, with_interference);
    run(&mut scheduler, 0, MOVES, at(0));
    run(&mut scheduler, 1, COMPUTES, at(1));
    // Two of the other three slices, half of which demand 1 and half nothing:
    // 0.5 * 0.5 * 2 / 3 longer.
    let (_, predicted) = run(&mut scheduler, 2, WAITS, at(2));
    assert_eq!(predicted, Nanos::new(9_333_333));
}

#[test]
fn a_time_is_judged_by_the_neighbour_that_there_was() {
    for (neighbour, took) in [(MOVES, 12_000), (COMPUTES, 8_000)] {
        for order in [[neighbour, WAITS], [WAITS, neighbour]] {
            let mut scheduler = scheduler(2, with_interference);
            // What was predicted is compared with the online estimate's, which the first of
            // the two makes.
            for turn in 0..2 {
                let begin = at(turn * 100 * MS);
                let started = order.map(|model| {
                    let request = 2 * turn + u64::from(model != neighbour);
                    run(&mut scheduler, request, model, begin).0
                });
                for start in started {
                    let took = match start.model {
                        ModelId(WAITS) => Nanos::from_micros(took),
                        _ => Nanos::from_millis(20),
                    };
                    end(&mut scheduler, &start, begin, took);
                }
            }
            let status = scheduler.profile_status(ModelId(WAITS)).expect("known");
            let standing = status.standing.expect("profiled");
            assert_eq!(standing.profile_error, Some(0.0), "of {order:?}");
        }
    }
}

/// A world whose legs take what the profiles say of them alone, whoever runs beside them.
fn served(profile: Known, requests: &[(u32, u64)]) -> World {
    let mut world = world(settings(), vec![device(0, 2, 2)], |start| {
        Nanos::new(u64::from(start.batch.0) * 8 * MS)
    });
    for id in [WAITS, MOVES, COMPUTES] {
        world.push(Timestamp::ZERO, Input::ModelAdded(spec(id)));
        let given = Input::ProfileGiven {
            model: ModelId(id),
            profile: Box::new(profile(id, 2)),
        };
        world.push(Timestamp::ZERO, given);
    }
    let mut time = 0;
    for (request, &(model, gap)) in (0..).zip(requests) {
        time += gap;
        world.push(at(time), Input::Arrived(arrival(request, model, time)));
    }
    let steps = (0..100_000).take_while(|_| world.step()).count();
    assert!(steps < 100_000, "the world does not come to rest");
    world.scheduler().audit();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_request_ends_once_whatever_neighbours_cost(
        requests in prop::collection::vec((0_u32..3, 0_u64..20 * MS), 1..80),
    ) {
        let mut world = served(with_interference, &requests);
        let mut ended: Vec<u64> = common::outcomes(&mut world)
            .iter()
            .map(|(request, _)| *request)
            .collect();
        ended.sort_unstable();
        prop_assert_eq!(ended, (0..requests.len() as u64).collect::<Vec<_>>());
    }
}
