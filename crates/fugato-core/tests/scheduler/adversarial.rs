//! Cases that are meant to break policies, each over all of them.

use crate::common::{MS, US, arrival, at, config, device, model, world};
use crate::harness::{Event, Harness};
use fugato_core::profile::{GridPoint, Knee, ModelProfile};
use fugato_core::sched::{
    DeadlineMode, DynamicBatching, FailReason, Input, ModelSpec, Outcome, PolicySpec, QueueLimits,
    Rejection, SchedulerConfig,
};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos};

/// Most steps of a world here.
const STEPS: usize = 200_000;

fn policies() -> impl Iterator<Item = PolicySpec> {
    let named = |name: &&str| PolicySpec::named(name).expect("a policy of its name");
    PolicySpec::NAMES.iter().map(named)
}

fn enforced(policy: PolicySpec) -> SchedulerConfig {
    SchedulerConfig {
        deadlines: DeadlineMode::Enforce,
        ..config(policy)
    }
}

fn with_slo(id: u32, millis: u64) -> ModelSpec {
    ModelSpec {
        slo: Some(Nanos::from_millis(millis)),
        ..model(id)
    }
}

/// A device of two slices with these models; runs take `run` whatever the batch.
fn setting(policy: PolicySpec, models: &[ModelSpec], run: u64) -> Harness {
    let service = move |_: &_| Nanos::new(run);
    let mut world = Harness::new(enforced(policy), vec![device(0, 2, 4)], service);
    for model in models {
        world.input(at(0), Input::ModelAdded(model.clone()));
    }
    world
}

/// A profile of these shares: `run` for every batch up to 8.
fn profile(shares: &[u16], run: u64) -> ModelProfile {
    let mut profile = ModelProfile::new("model", "hash", 8);
    profile.knee = Knee {
        tolerance: shares.last().copied(),
        ..Knee::default()
    };
    for (batch, &share) in [1, 8]
        .into_iter()
        .flat_map(|b| shares.iter().map(move |s| (b, s)))
    {
        profile.grid.push(GridPoint {
            batch,
            share,
            neighbours: 0,
            median_s: Some(run as f64 * 1e-9),
            p95_s: Some(run as f64 * 1e-9),
            low_s: None,
            high_s: None,
            repeats: 9,
            failed: None,
        });
    }
    profile
}

/// Nothing can be kept; what is run all the same is what shows that nothing has changed.
#[test]
fn an_objective_shorter_than_any_run_costs_the_device_little() {
    for policy in policies() {
        for given in [false, true] {
            let name = policy.name();
            let mut world = setting(policy.clone(), &[with_slo(0, 2)], 10 * MS);
            if given {
                let profile = Box::new(profile(&[1, 2], 10 * MS));
                world.input(
                    at(0),
                    Input::ProfileGiven {
                        model: ModelId(0),
                        profile,
                    },
                );
            }
            for request in 0..400 {
                world.arrival(arrival(request, 0, request * 5 * MS));
            }
            world.run(STEPS);
            assert_eq!(world.outcomes().len(), 400, "{name}");
            // 2 s, in which a run each 250 ms may show whether the model is faster by now.
            let run = world.count(|outcome| *outcome == Outcome::Completed);
            assert!(
                run <= 2 + 2_000 / 250,
                "{name}, profile {given}: {run} runs for nothing"
            );
        }
    }
}

/// A profile whose every share is larger than the device, and a knee above it.
#[test]
fn a_model_larger_than_the_device_is_served_with_what_there_is() {
    for policy in policies() {
        let name = policy.name();
        let mut world = setting(policy, &[with_slo(0, 100), with_slo(1, 100)], 5 * MS);
        let profile = Box::new(profile(&[40, 60, 80], 5 * MS));
        world.input(
            at(0),
            Input::ProfileGiven {
                model: ModelId(0),
                profile,
            },
        );
        for request in 0..40 {
            world.arrival(arrival(request, (request % 2) as u32, request * 20 * MS));
        }
        world.run(STEPS);
        let run = world.count(|outcome| *outcome == Outcome::Completed);
        assert_eq!(run, 40, "{name}: {:?}", world.outcomes());
    }
}

/// A model that no device can run fails each time, and takes nothing from the other.
#[test]
fn a_model_that_always_fails_does_not_stop_the_other() {
    for policy in policies() {
        let name = policy.name();
        let mut world = setting(policy, &[with_slo(0, 200), with_slo(1, 200)], 5 * MS);
        for round in 0..30 {
            let now = round * 50 * MS;
            world.arrival(arrival(2 * round, 0, now));
            world.push(at(now + MS), Event::Fail(DeviceId(0)));
            world.arrival(arrival(2 * round + 1, 1, now + 20 * MS));
        }
        world.run(STEPS);
        let failed = Outcome::Failed(FailReason::Run);
        for &(request, outcome) in world.outcomes() {
            let expected = if request.0 % 2 == 0 {
                failed
            } else {
                Outcome::Completed
            };
            assert_eq!(outcome, expected, "{name}: {request}");
        }
        assert_eq!(world.outcomes().len(), 60, "{name}");
    }
}

#[test]
fn a_model_that_nobody_asks_for_changes_nothing() {
    for policy in policies() {
        let name = policy.name();
        let idle = setting(policy.clone(), &[with_slo(0, 50), with_slo(1, 5)], 5 * MS);
        let mut idle = idle;
        idle.run(STEPS);
        assert!(idle.actions.is_empty(), "{name} acts on nothing");
        assert_eq!(
            idle.scheduler.poll_timeout(),
            None,
            "{name} waits for nothing"
        );
        let mut world = setting(policy, &[with_slo(0, 50), with_slo(1, 5)], 5 * MS);
        for request in 0..50 {
            world.arrival(arrival(request, 0, request * 20 * MS));
        }
        world.run(STEPS);
        let run = world.count(|outcome| *outcome == Outcome::Completed);
        assert_eq!(run, 50, "{name}: {:?}", world.outcomes());
    }
}

#[test]
fn a_burst_of_100_000_ends() {
    for policy in policies() {
        for slo in [None, Some(Nanos::from_millis(300))] {
            let no_limit = QueueLimits {
                requests: u64::MAX,
                bytes: u64::MAX,
            };
            let settings = SchedulerConfig {
                limits: no_limit,
                ..enforced(policy.clone())
            };
            // Without the checks after each drain, which look at all that waits.
            let mut world = world(settings, vec![device(0, 2, 4)], |_| Nanos::from_micros(100));
            for id in 0..4 {
                let spec = ModelSpec {
                    slo,
                    limits: no_limit,
                    max_batch: BatchSize(64),
                    ..model(id)
                };
                world.push(at(0), Input::ModelAdded(spec));
            }
            for request in 0..100_000 {
                world.push_arrival(arrival(request, (request % 4) as u32, 0));
            }
            world.run();
            let name = policy.name();
            let mut ended: Vec<_> = world
                .effects_mut()
                .ended
                .iter()
                .map(|e| e.request)
                .collect();
            assert_eq!(ended.len(), 100_000, "{name}");
            ended.sort_unstable();
            ended.dedup();
            assert_eq!(ended.len(), 100_000, "{name}");
            let outcomes = world.effects_mut().ended.iter();
            let run = outcomes.filter(|e| e.outcome == Outcome::Completed).count();
            assert!(
                slo.is_some() && run > 0 || run == 100_000,
                "{name} ran {run}"
            );
        }
    }
}

/// A machine that sleeps: hours pass between two calls, with work under way.
#[test]
fn a_clock_that_jumps_forward_drops_what_is_late_and_goes_on() {
    for policy in policies() {
        let name = policy.name();
        let mut world = setting(policy, &[with_slo(0, 100), model(1)], 5 * MS);
        let hour = 3_600_000 * MS;
        let jumps = [100 * MS, hour, 24 * 365 * 10 * hour];
        let mut request = 0;
        let mut now = 0;
        for jump in jumps {
            for _ in 0..20 {
                world.arrival(arrival(request, (request % 2) as u32, now));
                request += 1;
                now += 100 * US;
            }
            while world.now < at(now - 100 * US) {
                assert!(world.step(), "{name} has more to come");
            }
            now += jump;
            world.go_to(at(now));
        }
        // After the last jump it serves as before.
        world.run(STEPS);
        let (before, start) = (world.outcomes().len(), world.now.as_nanos() + MS);
        assert_eq!(before as u64, request, "{name}");
        for later in 0..10 {
            world.arrival(arrival(
                request + later,
                (later % 2) as u32,
                start + later * 20 * MS,
            ));
        }
        world.run(STEPS);
        let last = &world.outcomes()[before..];
        let run = last
            .iter()
            .filter(|(_, outcome)| *outcome == Outcome::Completed);
        assert_eq!(run.count(), 10, "{name}: {last:?}");
    }
}

#[test]
fn a_device_that_hangs_is_lost_and_returns_serves_again() {
    for policy in policies() {
        let name = policy.name();
        let mut world = setting(policy, &[with_slo(0, 50), model(1)], 5 * MS);
        for request in 0..20 {
            world.arrival(arrival(request, (request % 2) as u32, request * MS));
        }
        let device = DeviceId(0);
        world.push(at(19 * MS + 500 * US), Event::Hang(device));
        for request in 20..30 {
            world.arrival(arrival(request, (request % 2) as u32, request * MS));
        }
        world.push(at(500 * MS), Event::Lose(device));
        world.arrival(arrival(30, 0, 510 * MS));
        world.arrival(arrival(31, 1, 520 * MS));
        world.push(at(600 * MS), Event::Return(device));
        for request in 32..42 {
            world.arrival(arrival(request, (request % 2) as u32, request * 20 * MS));
        }
        world.run(STEPS);
        assert_eq!(world.outcomes().len(), 42, "{name}");
        for &(request, outcome) in world.outcomes() {
            match request.0 {
                30 | 31 => {
                    let refused = Outcome::Rejected(Rejection::NoDevice);
                    assert_eq!(outcome, refused, "{name}: {request}");
                }
                32.. => assert_eq!(outcome, Outcome::Completed, "{name}: {request}"),
                _ => {}
            }
        }
        let lost = Outcome::Failed(FailReason::DeviceLost { device });
        assert!(
            world.count(|outcome| *outcome == lost) > 0,
            "{name} lost nothing"
        );
    }
}

/// A slot above the smaller number is held by its task until that ends.
#[test]
fn slots_taken_away_and_given_back_are_not_handed_out_twice() {
    for policy in policies() {
        let slots = |slots| ModelSpec {
            slots,
            max_batch: BatchSize(1),
            batching: DynamicBatching {
                instances: 3,
                ..DynamicBatching::default()
            },
            ..model(0)
        };
        let mut world = setting(policy, &[slots(3)], 20 * MS);
        for request in 0..9 {
            world.arrival(arrival(request, 0, 0));
        }
        world.input(at(5 * MS), Input::ModelChanged(slots(1)));
        world.input(at(6 * MS), Input::ModelChanged(slots(3)));
        world.run(STEPS);
        assert_eq!(world.count(|outcome| *outcome == Outcome::Completed), 9);
    }
}

/// One verdict per drain, to wait, leaves room for the run that is to be measured.
#[test]
fn a_drain_of_one_verdict_still_measures() {
    for policy in policies() {
        let settings = SchedulerConfig {
            verdicts_max: 1,
            profile_share: 0.5,
            ..enforced(policy)
        };
        let mut world = Harness::new(settings, vec![device(0, 2, 1)], |_| Nanos::from_millis(1));
        let id = ModelId(0);
        world.input(at(0), Input::ModelAdded(model(0)));
        world.input(at(0), Input::ProfileWanted { model: id });
        world.run(STEPS);
        let points = world.scheduler.measured_points(id).len();
        assert!(points > 0, "nothing was measured");
    }
}
