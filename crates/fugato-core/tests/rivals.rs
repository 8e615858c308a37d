//! What the policies that others published do, beside what their papers say of them: on
//! simulated devices only.

mod common;

use common::{MS, US, arrival, at, batches, config, device, model, outcomes, starts, world};
use fugato_core::device::{AtomSet, DeviceSpec, LaneClass};
use fugato_core::profile::v100_dstack;
use fugato_core::sched::{
    DeadlineMode, DropReason, DynamicBatching, Input, ModelSpec, Outcome, PolicySpec, QueueLimits,
    SchedulerConfig,
};
use fugato_core::sim::{PolicyReport, Scenario, SimOptions, Simulated};
use fugato_core::timeline::TimelineLeg;
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, Share, Timestamp};

/// The device of `v100-dstack`: any tenths of its 80 slices.
fn v100() -> DeviceSpec {
    let lanes = [LaneClass::Normal; 2];
    let slices = Share(80);
    DeviceSpec::subsets(DeviceId(0), "V100", slices, Share(8), &lanes, &lanes)
}

const ALEXNET: (&str, u64) = ("alexnet", 25);
const RESNET: (&str, u64) = ("resnet50", 50);
const VGG: (&str, u64) = ("vgg19", 100);
const MOBILENET: (&str, u64) = ("mobilenet", 25);

fn saturated(models: &[(&str, u64)]) -> Vec<ModelLoad> {
    let load = |&(name, slo): &(&str, u64)| {
        ModelLoad::new(name, Nanos::from_millis(slo), ArrivalProcess::Saturated)
    };
    models.iter().map(load).collect()
}

fn poisson(models: &[((&str, u64), f64)]) -> Vec<ModelLoad> {
    let load = |&((name, slo), rate): &((&str, u64), f64)| {
        let arrivals = ArrivalProcess::Poisson { rate };
        ModelLoad::new(name, Nanos::from_millis(slo), arrivals)
    };
    models.iter().map(load).collect()
}

fn simulate(
    policy: PolicySpec,
    deadlines: DeadlineMode,
    loads: Vec<ModelLoad>,
    seconds: u64,
) -> (PolicyReport, Simulated) {
    with_slots(2, policy, deadlines, (loads, seconds))
}

fn with_slots(
    slots: u16,
    policy: PolicySpec,
    deadlines: DeadlineMode,
    (loads, seconds): (Vec<ModelLoad>, u64),
) -> (PolicyReport, Simulated) {
    let millis = Nanos::from_millis;
    let workload = Workload::new(millis(seconds * 1_000), millis(2_000), None, loads);
    let options = SimOptions {
        timeline: 100_000,
        slots,
        ..SimOptions::default()
    };
    let workload = workload.expect("valid");
    let scenario = Scenario::new(&v100_dstack(), workload, v100(), options).expect("valid");
    let config = SchedulerConfig {
        deadlines,
        ..config(policy.clone())
    };
    let simulated = scenario.run(config, 7);
    let report = PolicyReport::new(policy.name(), scenario.workload(), &simulated.tally);
    (report, simulated)
}

fn legs(simulated: Simulated) -> Vec<TimelineLeg> {
    let timeline = simulated.timeline.expect("asked for");
    assert_eq!(timeline.lost(), 0, "the timeline keeps all legs");
    timeline.into_legs()
}

/// The part of the busy time that each model had.
fn time_shares(simulated: &Simulated) -> Vec<f64> {
    let held: Vec<f64> = simulated
        .tally
        .models
        .iter()
        .map(|model| model.used.held as f64)
        .collect();
    let all: f64 = held.iter().sum();
    held.iter().map(|held| held / all).collect()
}

fn assert_near(found: f64, expected: f64, within: f64) {
    assert!(
        (found - expected).abs() <= within,
        "{found} is not within {within} of {expected}"
    );
}

#[test]
fn temporal_divides_time_by_objectives_and_uses_what_the_knees_use() {
    for cycle in [None, Some(Nanos::from_millis(10))] {
        let policy = PolicySpec::Temporal { cycle };
        let loads = saturated(&[ALEXNET, RESNET, VGG]);
        let (report, simulated) = simulate(policy, DeadlineMode::Observe, loads, 60);
        // Runs are not preempted: a minute of turns is off by less than one run.
        let one_run = 0.055 / 60.0;
        let shares = time_shares(&simulated);
        for (share, slo) in shares.into_iter().zip([25.0, 50.0, 100.0]) {
            assert_near(share, slo / 175.0, one_run);
        }
        let closed_form = (25.0 * 0.3 + 50.0 * 0.4 + 100.0 * 0.5) / 175.0;
        assert_near(report.utilisation, closed_form, 0.001);
        assert_near(report.occupancy, 1.0, 0.001);
    }
}

#[test]
fn temporal_gives_the_turns_of_silent_models_away_and_saves_none_up() {
    // Model 2 asks for nothing until 1 s; of the first second the others have all, and from
    // then on each has its part.
    let spec = |id, slo| ModelSpec {
        slo: Some(Nanos::from_millis(slo)),
        max_batch: BatchSize(1),
        limits: QueueLimits {
            requests: 10_000,
            bytes: 1 << 30,
        },
        ..model(id)
    };
    let observe = SchedulerConfig {
        deadlines: DeadlineMode::Observe,
        ..config(PolicySpec::Temporal { cycle: None })
    };
    let mut world = world(observe, vec![device(0, 2, 1)], |_| Nanos::new(MS));
    for (id, slo) in [(0, 10), (1, 30), (2, 40)] {
        world.push(Timestamp::ZERO, Input::ModelAdded(spec(id, slo)));
    }
    for request in 0..4_000 {
        world.push_arrival(arrival(request, u32::from(request % 4 > 0), 1));
    }
    for request in 4_000..5_000 {
        world.push_arrival(arrival(request, 2, 1_000 * MS));
    }
    world.run_before(at(2_000 * MS));
    let starts = starts(&mut world);
    let runs = |from: u64, to: u64| -> Vec<usize> {
        let within = |when: u64| (from * MS..to * MS).contains(&when);
        let of = |id| {
            let own = starts
                .iter()
                .filter(move |(_, start)| start.model == ModelId(id));
            own.filter(|(when, _)| within(*when)).count()
        };
        (0..3).map(of).collect()
    };
    let first = runs(0, 1_000);
    assert_eq!(first[2], 0);
    assert!((249..=251).contains(&first[0]), "{first:?}");
    let second = runs(1_000, 2_000);
    assert!(
        second
            .iter()
            .zip([125, 375, 500])
            .all(|(runs, wanted)| runs.abs_diff(wanted) <= 4),
        "{second:?}"
    );
}

const CLIPPER: PolicySpec = PolicySpec::Clipper { target_percent: 50 };

#[test]
fn clipper_grows_batches_by_one_and_backs_off_from_late_ones() {
    // 1 ms + 0.5 ms per item, later twice that: half of 20 ms holds 18 items, later 8.
    let mut world = world(
        SchedulerConfig {
            deadlines: DeadlineMode::Observe,
            ..config(CLIPPER)
        },
        vec![device(0, 2, 1)],
        |start| {
            let slow = if start.not_before < at(2_000 * MS) {
                1
            } else {
                2
            };
            Nanos::new(slow * (MS + u64::from(start.batch.0) * 500 * US))
        },
    );
    let adaptive = ModelSpec {
        slo: Some(Nanos::from_millis(20)),
        max_batch: BatchSize(64),
        slots: 1,
        ..model(0)
    };
    let adaptive = ModelSpec {
        limits: QueueLimits {
            requests: 100_000,
            bytes: 1 << 30,
        },
        ..adaptive
    };
    world.push(Timestamp::ZERO, Input::ModelAdded(adaptive));
    for request in 0..20_000 {
        world.push_arrival(arrival(request, 0, 1));
    }
    world.run_before(at(4_000 * MS));
    let sizes: Vec<(u64, u32)> = starts(&mut world)
        .iter()
        .map(|(when, start)| (when / MS, start.batch.0))
        .collect();
    let climb: Vec<u32> = sizes[..19].iter().map(|&(_, size)| size).collect();
    assert_eq!(climb, (1..=19).collect::<Vec<u32>>());
    let between = |from: u64, to: u64| {
        let sizes = sizes
            .iter()
            .filter(move |&&(when, _)| (from..to).contains(&when));
        sizes.map(|&(_, size)| size)
    };
    assert!(between(500, 2_000).all(|size| (16..=19).contains(&size)));
    assert!(between(2_500, 4_000).all(|size| (7..=9).contains(&size)));
}

#[test]
fn clipper_waits_for_a_fuller_batch_where_a_model_asks_for_it() {
    let patient = ModelSpec {
        batching: DynamicBatching {
            max_queue_delay: Nanos::new(2 * MS),
            ..DynamicBatching::default()
        },
        ..model(0)
    };
    let mut world = world(config(CLIPPER), vec![device(0, 2, 1)], |_| Nanos::new(MS));
    world.push(Timestamp::ZERO, Input::ModelAdded(patient));
    // A batch of one is full at first; then two are, of which one comes late, and one not at
    // all.
    for (request, received) in [(0, 0), (1, 10 * MS), (2, 11 * MS), (3, 20 * MS)] {
        world.push_arrival(arrival(request, 0, received));
    }
    world.run();
    let whens: Vec<u64> = starts(&mut world).iter().map(|(when, _)| *when).collect();
    assert_eq!(whens, [0, 11 * MS, 22 * MS]);
    assert_eq!(batches(&mut world), [vec![0], vec![1, 2], vec![3]]);
}

#[test]
fn nexus_meets_objectives_at_a_load_that_fits_and_drops_early_above_it() {
    // Batches of 16 take about 18 ms together, and 16 of each come in 32 ms.
    let mix = [(("mobilenet", 100), 500.0), (("alexnet", 100), 500.0)];
    let (report, _) = simulate(PolicySpec::Nexus, DeadlineMode::Enforce, poisson(&mix), 20);
    let attainment = report.attainment.expect("offered");
    assert!(attainment > 0.99, "{report:?}");
    // Four times that: what fits is still served in time, and the rest is dropped rather than
    // late.
    let loads = poisson(&mix.map(|(model, rate)| (model, 4.0 * rate)));
    let (over, _) = simulate(PolicySpec::Nexus, DeadlineMode::Enforce, loads, 20);
    assert!(over.goodput > 1.5 * report.goodput, "{over:?}");
    assert!(over.late * 100 < over.requests, "{over:?}");
    assert!(over.dropped + over.rejected > over.requests / 4, "{over:?}");
}

#[test]
fn nexus_drops_the_heads_that_would_hold_a_planned_batch_up() {
    let spec = ModelSpec {
        slo: Some(Nanos::from_millis(20)),
        ..model(0)
    };
    let mut world = world(config(PolicySpec::Nexus), vec![device(0, 2, 1)], |start| {
        Nanos::new(4 * MS + u64::from(start.batch.0) * 500 * US)
    });
    world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    // Far more than 8 per 8 ms: what is served is served in full batches, in time.
    for request in 0..4_000 {
        world.push_arrival(arrival(request, 0, request * 250 * US));
    }
    world.run();
    let late: Vec<u32> = starts(&mut world)
        .iter()
        .filter(|(when, _)| *when > 300 * MS && *when < 990 * MS)
        .map(|(_, start)| start.batch.0)
        .collect();
    let full = late.iter().filter(|&&size| size == 8).count();
    assert!(full * 10 >= late.len() * 9, "{late:?}");
    let ended = outcomes(&mut world);
    let doomed = |outcome: &Outcome| matches!(outcome, Outcome::Dropped(DropReason::Doomed { .. }));
    assert!(ended.iter().any(|(_, outcome)| doomed(outcome)));
}

#[test]
fn nexus_packs_models_onto_devices_and_leaves_none_out() {
    let both = vec![DeviceId(0), DeviceId(1)];
    let devices = vec![device(0, 2, 1), device(1, 2, 1)];
    let mut world = world(config(PolicySpec::Nexus), devices, |_| Nanos::new(5 * MS));
    for id in 0..4 {
        let spec = ModelSpec {
            slo: Some(Nanos::from_millis(50)),
            devices: both.clone(),
            max_batch: BatchSize(2),
            ..model(id)
        };
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    }
    // Each of the four fills a third of one device: three are packed onto the first.
    for request in 0..1_000 {
        let id = u32::try_from(request % 4).expect("small");
        world.push_arrival(arrival(request, id, request * 2 * MS));
    }
    world.run();
    // From the second second on, when rates are known.
    let ended = outcomes(&mut world);
    let missed = ended
        .iter()
        .filter(|&&(request, outcome)| request >= 500 && outcome != Outcome::Completed);
    assert_eq!(missed.count(), 0);
    for id in 0..2 {
        let starts = starts(&mut world);
        let here = starts
            .iter()
            .filter(|(_, start)| start.device == DeviceId(id));
        assert!(here.count() > 100, "both devices are used");
    }
}

const GSLICE: PolicySpec = PolicySpec::Gslice {
    lanes: 16,
    target_percent: 100,
};

/// The partitions of each model.
fn partitions(legs: &[TimelineLeg], model: u32) -> Vec<AtomSet> {
    let mut found: Vec<AtomSet> = legs
        .iter()
        .filter(|leg| leg.model == ModelId(model))
        .map(|leg| leg.atoms)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn gslice_keeps_each_model_in_its_own_partition_and_oversubscribes() {
    let loads = saturated(&[ALEXNET, RESNET, VGG]);
    let (_, simulated) = simulate(GSLICE, DeadlineMode::Observe, loads, 10);
    let legs = legs(simulated);
    let places: Vec<Vec<AtomSet>> = (0..3).map(|model| partitions(&legs, model)).collect();
    assert!(places.iter().all(|places| places.len() == 1), "{places:?}");
    let [a, r, v] = [0, 1, 2].map(|model: usize| places[model][0]);
    assert_eq!([a, r, v].map(AtomSet::count), [24, 32, 40]);
    // 120 % of the device, so one fifth of it lies under two partitions, and all is used.
    assert_eq!(a.union(r).union(v).count(), 80);
    assert_eq!(a.intersection(r).count(), 0);
    // Each model runs one batch at a time.
    for model in 0..3 {
        let mut own: Vec<&TimelineLeg> = legs
            .iter()
            .filter(|leg| leg.model == ModelId(model))
            .collect();
        own.sort_by_key(|leg| leg.started);
        assert!(own.windows(2).all(|pair| pair[0].ended <= pair[1].started));
    }
}

#[test]
fn gslice_shares_nothing_where_the_knees_fit() {
    let loads = saturated(&[ALEXNET, RESNET]);
    let (report, simulated) = simulate(GSLICE, DeadlineMode::Observe, loads, 10);
    let legs = legs(simulated);
    let places: Vec<AtomSet> = (0..2).flat_map(|model| partitions(&legs, model)).collect();
    assert_eq!(places.len(), 2);
    assert!(!places[0].overlaps(places[1]));
    // Both partitions are busy all the time, with what the knees can use.
    assert_near(report.utilisation, 0.7, 0.005);
}

#[test]
fn max_min_divides_device_time_evenly_and_by_weight() {
    let four = [MOBILENET, ALEXNET, RESNET, VGG];
    let run = |loads| with_slots(8, PolicySpec::MaxMin, DeadlineMode::Observe, (loads, 20));
    let (report, _) = run(saturated(&four));
    assert!(report.jain > 0.999, "{report:?}");
    let mut loads = saturated(&four);
    loads[3].weight = 3.0;
    let shares = time_shares(&run(loads).1);
    for (share, weight) in shares.into_iter().zip([1.0, 1.0, 1.0, 3.0]) {
        assert_near(share, weight / 6.0, 0.01);
    }
}

#[test]
fn max_throughput_serves_more_and_starves_the_dear_model() {
    let four = [MOBILENET, ALEXNET, RESNET, VGG];
    let run = |policy| with_slots(8, policy, DeadlineMode::Observe, (saturated(&four), 20)).0;
    let most = run(PolicySpec::MaxThroughput);
    let fair = run(PolicySpec::MaxMin);
    assert!(most.goodput > 1.2 * fair.goodput, "{most:?} {fair:?}");
    assert!(most.jain < 0.8, "{most:?}");
    let rate = |report: &PolicyReport, model: usize| report.models[model].goodput;
    assert!(rate(&most, 3) < 0.2 * rate(&fair, 3), "{most:?} {fair:?}");
}

fn all() -> Vec<PolicySpec> {
    let named = PolicySpec::NAMES.map(|name| PolicySpec::named(name).expect("a known name"));
    named.into_iter().collect()
}

/// A device of that many slices, with its parts.
fn small(id: u16, slices: u16) -> DeviceSpec {
    device(id, slices, 2)
}

#[test]
fn every_policy_serves_models_of_any_kind_on_devices_of_any_size() {
    for policy in all() {
        for sizes in [vec![1], vec![2], vec![8], vec![1, 2, 40]] {
            let devices: Vec<DeviceSpec> = sizes
                .iter()
                .zip(0..)
                .map(|(&slices, id)| small(id, slices))
                .collect();
            let hosts: Vec<DeviceId> = devices.iter().map(|device| device.id).collect();
            let mut world = world(config(policy.clone()), devices, |start| {
                Nanos::new(200 * US * u64::from(start.batch.0 + start.model.0))
            });
            // Neither has a profile; one has no objective, one has an odd number of legs.
            for id in 0..3 {
                let spec = ModelSpec {
                    slo: (id != 1).then_some(Nanos::from_millis(50)),
                    legs: if id == 2 { 3 } else { 1 },
                    unsplit: false,
                    devices: hosts.clone(),
                    ..model(id)
                };
                world.push(Timestamp::ZERO, Input::ModelAdded(spec));
            }
            for request in 0..90 {
                let id = u32::try_from(request % 3).expect("small");
                world.push_arrival(arrival(request, id, request * 3 * MS));
            }
            world.run();
            let ended = outcomes(&mut world);
            let done = ended
                .iter()
                .filter(|(_, outcome)| *outcome == Outcome::Completed);
            assert_eq!(done.count(), 90, "{policy:?} on {sizes:?}");
        }
    }
}

#[test]
fn one_model_alone_has_the_device_under_every_policy() {
    for policy in all() {
        let mut world = world(config(policy.clone()), vec![small(0, 2)], |_| {
            Nanos::new(MS)
        });
        let spec = ModelSpec {
            slo: None,
            max_batch: BatchSize(1),
            ..model(0)
        };
        world.push(Timestamp::ZERO, Input::ModelAdded(spec));
        for request in 0..100 {
            world.push_arrival(arrival(request, 0, 1));
        }
        world.run();
        let last = world.effects_mut().ended.last().map(|ended| ended.at);
        let last = last.expect("100 ended");
        assert!(last <= at(101 * MS), "{policy:?} took until {last}");
    }
}

#[test]
fn a_model_without_requests_keeps_nobody_waiting_and_one_that_returns_is_served() {
    for policy in all() {
        let mut world = world(config(policy.clone()), vec![small(0, 4)], |_| {
            Nanos::new(MS)
        });
        for id in 0..2 {
            let spec = ModelSpec {
                slo: Some(Nanos::from_millis(100)),
                max_batch: BatchSize(1),
                ..model(id)
            };
            world.push(Timestamp::ZERO, Input::ModelAdded(spec));
        }
        // Model 0 fills the device for two seconds; model 1 comes after one.
        let mut next = 0;
        for step in 0..2_000_u64 {
            world.push_arrival(arrival(next, 0, step * MS));
            next += 1;
            if step == 1_000 {
                world.push_arrival(arrival(next, 1, step * MS));
                next += 1;
            }
        }
        world.run();
        let ended = outcomes(&mut world);
        let returned = ended.iter().find(|(request, _)| *request == 1_001);
        assert_eq!(
            returned.map(|(_, outcome)| *outcome),
            Some(Outcome::Completed),
            "{policy:?}"
        );
        let done = ended
            .iter()
            .filter(|(_, outcome)| *outcome == Outcome::Completed);
        assert!(done.count() >= 1_990, "{policy:?}");
    }
}

#[test]
fn every_policy_may_follow_every_other_in_the_middle_of_runs() {
    for first in all() {
        for second in all() {
            let devices = vec![small(0, 4), small(1, 2)];
            let mut world = world(config(first.clone()), devices, |start| {
                Nanos::new(700 * US * u64::from(start.batch.0))
            });
            for id in 0..3 {
                let spec = ModelSpec {
                    devices: vec![DeviceId(0), DeviceId(1)],
                    legs: 1 + u16::try_from(id % 2).expect("small"),
                    ..model(id)
                };
                world.push(Timestamp::ZERO, Input::ModelAdded(spec));
            }
            for request in 0..60 {
                let id = u32::try_from(request % 3).expect("small");
                world.push_arrival(arrival(request, id, request * 100 * US));
                if request == 20 {
                    let change = Input::PolicyChanged(second.clone());
                    world.push(at(request * 100 * US), change);
                }
                if request == 40 {
                    let change = Input::PolicyChanged(first.clone());
                    world.push(at(request * 100 * US), change);
                }
            }
            world.run();
            let ended = outcomes(&mut world);
            let done = ended
                .iter()
                .filter(|(_, outcome)| *outcome == Outcome::Completed);
            assert_eq!(done.count(), 60, "{first:?}, then {second:?}");
        }
    }
}
