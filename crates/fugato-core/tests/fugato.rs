//! What the policy `fugato` is there for, on the built-in mixes cut into legs.

use fugato_core::device::LaneClass;
use fugato_core::mix::Mix;
use fugato_core::policy::FugatoParts;
use fugato_core::profile::{Division, GridPoint, ModelProfile, v100_dstack};
use fugato_core::sched::{PolicySpec, SchedulerConfig};
use fugato_core::sim::{PolicyReport, Scenario, SimOptions, sim_device};
use fugato_core::timeline::TimelineLeg;
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{Nanos, Share, TaskId};
use std::collections::{BTreeMap, BTreeSet};

const SECOND: Nanos = Nanos::from_millis(1_000);

/// A mix on 80 slices in legs of at most 2 ms, for two seconds after one.
fn mix(name: &str, workload: Option<Workload>) -> Scenario {
    let mix = Mix::named(name).expect("built in");
    let profile = mix.profiles().divided(Division {
        leg_max: Nanos::from_millis(2),
        seed: 1,
    });
    let workload = workload.unwrap_or_else(|| mix.rated().expect("valid"));
    let workload = workload.lasting(SECOND.times(2), SECOND).expect("valid");
    let options = SimOptions {
        timeline: 100_000,
        ..SimOptions::default()
    };
    let device = sim_device("v100", Share(80));
    Scenario::new(&profile, workload, device, options).expect("valid")
}

fn spec(parts: FugatoParts) -> PolicySpec {
    PolicySpec::Fugato(parts)
}

fn usual() -> PolicySpec {
    spec(FugatoParts::default())
}

fn run(scenario: &Scenario, policy: PolicySpec) -> (PolicyReport, Vec<TimelineLeg>) {
    let config = SchedulerConfig {
        policy,
        ..SchedulerConfig::default()
    };
    let simulated = scenario.run(config, 1);
    let report = PolicyReport::new("it", scenario.workload(), &simulated.tally);
    let timeline = simulated.timeline.expect("asked for");
    (report, timeline.into_legs())
}

fn at(scenario: &Scenario, factor: f64) -> Scenario {
    let workload = scenario.workload().scaled(factor).expect("valid");
    scenario.clone().with_workload(workload)
}

#[test]
fn it_holds_loads_that_shares_for_whole_runs_do_not() {
    let scenario = at(&mix("c-4", None), 1.2);
    let attainment = |policy| run(&scenario, policy).0.attainment.expect("offered");
    let found = attainment(usual());
    assert!(found > 0.99, "{found}");
    let rival = attainment(PolicySpec::MaxMin);
    assert!(rival < 0.95, "{rival}");
}

#[test]
fn it_does_not_thrash_under_overload() {
    // The loads that are held. On the ConvNets all have the same cheap batch, and what fails is
    // to serve heads that have waited too long for it.
    for (name, held) in [("c-4", 1.4), ("convnet", 2.3)] {
        let scenario = mix(name, None);
        let goodput = |factor, parts| run(&at(&scenario, factor), spec(parts)).0.goodput;
        let parts = FugatoParts::default();
        let peak = goodput(held, parts);
        for factor in [2.0 * held, 4.0 * held] {
            let found = goodput(factor, parts);
            assert!(
                found >= 0.95 * peak,
                "{name}: {found} of {peak} at {factor}"
            );
        }
        let kept = FugatoParts {
            give_up: false,
            ..parts
        };
        let found = goodput(4.0 * held, kept);
        assert!(
            found < 0.7 * peak,
            "{name}: what giving up is for; {found} of {peak}"
        );
    }
}

#[test]
fn tasks_change_their_share_at_boundaries_and_not_without_preemption() {
    let scenario = mix("arv", None);
    let shares = |policy| {
        let mut shares: BTreeMap<TaskId, BTreeSet<u16>> = BTreeMap::new();
        for leg in run(&scenario, policy).1 {
            shares
                .entry(leg.task)
                .or_default()
                .insert(leg.atoms.count());
        }
        let changed = shares.values().filter(|shares| shares.len() > 1);
        (changed.count(), shares.len())
    };
    let (changed, tasks) = shares(usual());
    assert!(10 * changed > tasks, "{changed} of {tasks}");
    let kept = spec(FugatoParts {
        preempt: false,
        ..FugatoParts::default()
    });
    assert_eq!(shares(kept).0, 0);
}

#[test]
fn batches_wait_for_the_dequeue_interval_where_that_makes_them_cheaper() {
    let load = |rate| {
        let arrivals = ArrivalProcess::Poisson { rate };
        let model = ModelLoad::new("alexnet", Nanos::from_millis(25), arrivals);
        Workload::new(SECOND, SECOND, None, vec![model]).expect("valid")
    };
    let figures = |rate, dequeue| {
        let parts = FugatoParts {
            dequeue,
            ..FugatoParts::default()
        };
        let (report, _) = run(&mix("c-2", Some(load(rate))), spec(parts));
        let model = &report.models[0];
        let (batch, median) = (model.mean_batch, model.p50_ms);
        (batch.expect("it ran"), median.expect("it ended"))
    };
    // Two slots and 25 ms: the first of a batch waits for 8.3 ms, in which 500 per second are
    // about 4.
    let (batch, _) = figures(500.0, true);
    assert!((4.0..=6.0).contains(&batch), "{batch}");
    assert!(figures(500.0, false).0 < 0.6 * batch);
    // At 20 per second nobody else comes, and nothing is gained by waiting.
    let (few, median) = figures(20.0, true);
    assert!(few < 1.2, "{few}");
    assert!((median - figures(20.0, false).1).abs() < 0.1, "{median} ms");
}

/// Items that cost the same in any batch, on a machine whose delays of 3 ms meet one run in
/// twenty whatever its batch: in the tail two items look cheaper than one.
#[test]
fn nobody_waits_for_a_batch_that_is_cheaper_in_the_tail_only() {
    let mut model = ModelProfile::new("even", "even", 8);
    for (batch, share) in [1, 2, 4, 8].into_iter().flat_map(|b| [(b, 1), (b, 2)]) {
        let median_s = f64::from(batch) * 0.003 / f64::from(share);
        model.grid.push(GridPoint {
            batch,
            share,
            neighbours: 0,
            median_s: Some(median_s),
            p95_s: Some(median_s + 0.003),
            low_s: None,
            high_s: None,
            repeats: 1,
            failed: None,
        });
    }
    let mut profile = v100_dstack();
    profile.synthetic = false;
    profile.device.slices = 2;
    profile.models = vec![model];
    let arrivals = ArrivalProcess::Poisson { rate: 150.0 };
    let load = ModelLoad::new("even", Nanos::from_millis(72), arrivals);
    let workload = Workload::new(SECOND.times(10), SECOND, None, vec![load]).expect("valid");
    let options = SimOptions {
        timeline: 100_000,
        ..SimOptions::default()
    };
    let device = sim_device("cpu", Share(2));
    let scenario = Scenario::new(&profile, workload, device, options).expect("valid");
    let median = |dequeue| {
        let parts = FugatoParts {
            dequeue,
            ..FugatoParts::default()
        };
        let report = run(&scenario, spec(parts)).0;
        report.models[0].p50_ms.expect("it ended")
    };
    let (with, without) = (median(true), median(false));
    assert!((with - without).abs() < 0.5, "{with} ms, {without} without");
}

/// A batch is not waited for as long as an objective of minutes would allow.
#[test]
fn nobody_waits_long_for_a_fuller_batch() {
    let arrivals = ArrivalProcess::Poisson { rate: 500.0 };
    let model = ModelLoad::new("alexnet", Nanos::from_millis(600_000), arrivals);
    let workload = Workload::new(SECOND, SECOND, None, vec![model]).expect("valid");
    let (report, _) = run(&mix("c-2", Some(workload)), usual());
    let model = &report.models[0];
    assert_eq!(model.attainment, Some(1.0));
    let p99 = model.p99_ms.expect("it ended");
    assert!(p99 < 200.0, "{p99} ms");
}

#[test]
fn an_urgent_model_beside_long_ones_is_served_within_its_objective() {
    let poisson = |name: &str, millis, rate| {
        let arrivals = ArrivalProcess::Poisson { rate };
        ModelLoad::new(name, Nanos::from_millis(millis), arrivals)
    };
    let models = vec![
        poisson("mobilenet", 25, 100.0),
        poisson("resnet50", 500, 900.0),
        poisson("vgg19", 500, 400.0),
    ];
    let workload = Workload::new(SECOND, SECOND, None, models).expect("valid");
    let (report, _) = run(&mix("c-4", Some(workload)), usual());
    let urgent = &report.models[0];
    assert!(report.occupancy > 0.9, "{}", report.occupancy);
    assert_eq!(urgent.attainment, Some(1.0), "{urgent:?}");
    let rest = report.attainment.expect("offered");
    assert!(rest > 0.99, "{report:?}");
}

/// Two cores, whose operating system suspends a leg for one on an urgent lane, and models that
/// are not cut and gain nothing by a second core: one that takes 2 ms and is due after 8, beside
/// two whose runs take 30 and 100 ms and that fill the rest.
fn two_cores() -> Scenario {
    let flat = |name: &str, millis: u32| {
        let mut model = ModelProfile::new(name, name, 1);
        model.grid.extend([1, 2].map(|share| GridPoint {
            batch: 1,
            share,
            neighbours: 0,
            median_s: Some(f64::from(millis) / 1e3),
            p95_s: Some(f64::from(millis) / 1e3),
            low_s: None,
            high_s: None,
            repeats: 1,
            failed: None,
        }));
        model
    };
    let mut profile = v100_dstack();
    profile.synthetic = false;
    profile.device.slices = 2;
    profile.models = vec![flat("short", 2), flat("middle", 30), flat("long", 100)];
    let poisson = |name: &str, millis, rate| {
        let arrivals = ArrivalProcess::Poisson { rate };
        ModelLoad::new(name, Nanos::from_millis(millis), arrivals)
    };
    let models = vec![
        poisson("short", 8, 100.0),
        poisson("middle", 500, 15.0),
        poisson("long", 2_000, 8.0),
    ];
    let workload = Workload::new(SECOND.times(20), SECOND, None, models).expect("valid");
    let options = SimOptions {
        timeline: 100_000,
        ..SimOptions::default()
    };
    let device = sim_device("cpu", Share(2));
    Scenario::new(&profile, workload, device, options).expect("valid")
}

#[test]
fn what_is_urgent_runs_over_a_leg_that_is_longer_than_its_objective() {
    let figures = |niceness, leave_room| {
        let parts = FugatoParts {
            niceness,
            leave_room,
            ..FugatoParts::default()
        };
        run(&two_cores(), spec(parts)).0
    };
    let (with, without) = (figures(true, true), figures(false, false));
    let short = |report: &PolicyReport| report.models[0].clone();
    assert!(short(&with).attainment > Some(0.99), "{:?}", short(&with));
    assert!(
        short(&without).attainment < Some(0.9),
        "{:?}",
        short(&without)
    );
    // A leg of equal weight would take twice its time, not 29/28 of it; and it waits for one of
    // its own kind at times.
    let p99 = short(&with).p99_ms.expect("it ended");
    assert!(p99 < 2.5 * 2.0, "{p99} ms");
    for (with, without) in with.models.iter().zip(&without.models).skip(1) {
        assert!(with.attainment > Some(0.98), "{with:?}");
        assert!(
            with.goodput >= 0.98 * without.goodput,
            "{with:?} {without:?}"
        );
    }
    // A core that is left to it serves it too, and the others less: they ask for 1.25 of them.
    let room = figures(false, true);
    assert!(short(&room).attainment > Some(0.99), "{:?}", short(&room));
    assert!(room.attainment > without.attainment, "{room:?}");
    assert!(with.attainment > room.attainment, "{with:?} {room:?}");
}

#[test]
fn of_two_legs_on_a_core_one_is_urgent_and_of_another_model() {
    let (_, legs) = run(&two_cores(), usual());
    let device = sim_device("cpu", Share(2));
    let is_urgent = |leg: &TimelineLeg| {
        let lanes = &device.partitions[usize::from(leg.partition.0)].lanes;
        lanes[usize::from(leg.lane.0)] == LaneClass::Urgent
    };
    let mut over = 0;
    for (index, leg) in legs.iter().enumerate() {
        let overlaps = |other: &&TimelineLeg| {
            let at_once = other.started < leg.ended && leg.started < other.ended;
            at_once && other.atoms.overlaps(leg.atoms)
        };
        for other in legs.iter().skip(index + 1).filter(overlaps) {
            assert_ne!(other.model, leg.model, "{leg:?} {other:?}");
            assert_ne!(is_urgent(leg), is_urgent(other), "{leg:?} {other:?}");
            over += 1;
        }
    }
    assert!(over > 100, "{over} legs ran over others");
}
