//! `dstack`: what a session holds, what fits between its runs, and that nothing is ever
//! oversubscribed. Figures are simulated, on D-STACK's table of models on a V100.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the actions it is about"
)]

mod common;

use common::{Log, MS, arrival, at, config, device, model, outcomes, starts, world};
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::policy::{OperatingPoint, Plan, PlannedRun};
use fugato_core::profile::{Surface, v100_dstack};
use fugato_core::sched::{
    DeadlineMode, Input, ModelSpec, Outcome, PolicySpec, SchedulerConfig, Start,
};
use fugato_core::sim::{PolicyReport, Scenario, SimOptions, Simulated, World};
use fugato_core::timeline::TimelineLeg;
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, Share, Timestamp};
use std::collections::BTreeMap;

/// A V100 as CUDA's MPS divides it: any ten units of a tenth each.
fn v100() -> DeviceSpec {
    let lanes = [LaneClass::Normal];
    let (slices, unit) = (Share(80), Share(8));
    DeviceSpec::subsets(DeviceId(0), "v100", slices, unit, &lanes, &lanes)
}

fn dstack(point: OperatingPoint, dynamic: bool) -> PolicySpec {
    PolicySpec::Dstack {
        point,
        margin: Share(0),
        dynamic,
    }
}

fn slo_ms(model: &str) -> u64 {
    match model {
        "resnet50" | "inception" => 50,
        "vgg19" | "resnext50" => 100,
        _ => 25,
    }
}

/// Ten seconds of saturated queues, after one second of warm-up.
fn saturated(models: &[&str], policy: PolicySpec) -> (Simulated, PolicyReport) {
    let loads = models.iter().map(|model| {
        let slo = Nanos::from_millis(slo_ms(model));
        ModelLoad::new(*model, slo, ArrivalProcess::Saturated)
    });
    let (length, warmup) = (Nanos::from_millis(10_000), Nanos::from_millis(1_000));
    let workload = Workload::new(length, warmup, None, loads.collect()).expect("valid");
    let options = SimOptions {
        timeline: 100_000,
        ..SimOptions::default()
    };
    let name = policy.name();
    let config = SchedulerConfig {
        policy,
        deadlines: DeadlineMode::Observe,
        ..SchedulerConfig::default()
    };
    let scenario = Scenario::new(&v100_dstack(), workload, v100(), options).expect("valid");
    let simulated = scenario.run(config, 1);
    let report = PolicyReport::new(name, scenario.workload(), &simulated.tally);
    (simulated, report)
}

fn legs(simulated: &Simulated) -> Vec<TimelineLeg> {
    let timeline = simulated.timeline.as_ref().expect("it was asked for");
    assert_eq!(timeline.lost(), 0);
    timeline.legs().copied().collect()
}

/// No two legs hold an atom at once.
fn assert_disjoint(legs: &[TimelineLeg]) {
    for (index, leg) in legs.iter().enumerate() {
        for other in &legs[..index] {
            let together = leg.started < other.ended && other.started < leg.ended;
            assert!(
                !(together && leg.atoms.overlaps(other.atoms)),
                "{leg:?} and {other:?}"
            );
        }
    }
}

const ARV: [&str; 3] = ["alexnet", "resnet50", "vgg19"];
const C4: [&str; 4] = ["mobilenet", "alexnet", "resnet50", "vgg19"];

#[test]
fn planned_runs_alone_use_as_much_as_the_closed_form() {
    // Knee x runtime x session / SLO: 30 % x 8 ms x 4, 40 % x 28 ms x 2, 50 % x 55 ms.
    let (simulated, report) = saturated(&ARV, dstack(OperatingPoint::Published, false));
    let closed = 0.30 * 8.0 / 25.0 + 0.40 * 28.0 / 50.0 + 0.50 * 55.0 / 100.0;
    assert!((closed - 0.595_f64).abs() < 1e-12);
    assert!(
        (report.utilisation - closed).abs() < 1e-6,
        "{} in place of {closed}",
        report.utilisation
    );
    assert_disjoint(&legs(&simulated));
}

#[test]
fn what_is_free_is_used() {
    let (simulated, report) = saturated(&ARV, dstack(OperatingPoint::Published, true));
    assert!(report.utilisation >= 0.74, "{}", report.utilisation);
    assert_disjoint(&legs(&simulated));
    // One at a time on the whole device uses the mean knee, weighted by time.
    let temporal = PolicySpec::named("temporal").expect("a policy of its name");
    let (simulated, shared) = saturated(&C4, dstack(OperatingPoint::Published, true));
    assert_disjoint(&legs(&simulated));
    let total = |report: &PolicyReport| report.goodput;
    for alone in [PolicySpec::Fifo, temporal] {
        let (_, alone) = saturated(&C4, alone);
        assert!(
            total(&shared) > 2.0 * total(&alone),
            "{} of {} under {}",
            total(&shared),
            total(&alone),
            alone.policy
        );
    }
}

#[test]
fn device_time_is_divided_as_evenly_as_by_max_min() {
    let (_, shared) = saturated(&C4, dstack(OperatingPoint::Published, true));
    let fair = PolicySpec::named("max-min").expect("a policy of its name");
    let (_, fair) = saturated(&C4, fair);
    assert!(shared.jain > 0.95, "{}", shared.jain);
    assert!(
        shared.jain >= 0.95 * fair.jain,
        "{} against {} under max-min",
        shared.jain,
        fair.jain
    );
}

/// A few roundings of times, session after session.
const SLACK: Nanos = Nanos::from_micros(10);

/// Whether a leg of the model is within each turn of its objective from `from` to `to`.
fn runs_in_each_turn(legs: &[TimelineLeg], model: u32, every_ms: u64, turns: std::ops::Range<u64>) {
    for turn in turns {
        let edge = |turn: u64| at(turn * every_ms * MS);
        let found = legs.iter().any(|leg| {
            leg.model.0 == model
                && leg.started + SLACK >= edge(turn)
                && leg.ended <= edge(turn + 1) + SLACK
        });
        assert!(found, "model {model} has no run in its turn {turn}");
    }
}

#[test]
fn every_model_runs_once_per_objective_and_the_shortest_far_apart() {
    for dynamic in [false, true] {
        let (simulated, _) = saturated(&ARV, dstack(OperatingPoint::Published, dynamic));
        let legs = legs(&simulated);
        for (model, name) in (0..).zip(ARV) {
            let every = slo_ms(name);
            runs_in_each_turn(&legs, model, every, 0..5_000 / every);
        }
        let starts: Vec<u64> = legs
            .iter()
            .filter(|leg| leg.model.0 == 0)
            .map(|leg| (leg.started + SLACK).as_nanos() / MS)
            .take_while(|&start| start < 200)
            .collect();
        if !dynamic {
            // Early in one turn of 25 ms, late in the next: 34 ms are left between.
            assert_eq!(starts, [0, 42, 50, 92, 100, 142, 150, 192]);
        }
    }
}

/// A world of models of the table whose requests all wait from the start.
fn burst(policy: PolicySpec, device: DeviceSpec, names: &[&str], requests: u64) -> (World, Log) {
    let profile = v100_dstack();
    let found = |name: &str| {
        let mut models = profile.models.iter();
        models
            .find(|model| model.name == name)
            .expect("of the table")
            .clone()
    };
    let models: Vec<_> = names.iter().map(|name| found(name)).collect();
    let surfaces: Vec<Surface> = models.iter().map(|model| Surface::new(model, 80)).collect();
    let shares: Vec<u16> = device
        .partitions
        .iter()
        .map(|part| part.share().0)
        .collect();
    let log = Log::default();
    let config = SchedulerConfig {
        deadlines: DeadlineMode::Observe,
        ..config(policy)
    };
    let mut world = world(config, vec![device], move |start| {
        let surface = &surfaces[start.model.0 as usize];
        let share = Share(shares[usize::from(start.partition.0)]);
        let known = surface.predict(start.batch, share, Share(0), 0.5);
        known.expect("within the table").time
    })
    .recording(Box::new(log.clone()));
    for ((id, profile), name) in (0..).zip(models).zip(names) {
        let spec = ModelSpec {
            slo: Some(Nanos::from_millis(slo_ms(name))),
            max_batch: BatchSize(16),
            ..model(id)
        };
        world.push(at(0), Input::ModelAdded(spec));
        let profile = Box::new(profile);
        let model = ModelId(id);
        world.push(at(0), Input::ProfileGiven { model, profile });
    }
    let count = names.len() as u64;
    for request in 0..requests * count {
        let model = u32::try_from(request % count).expect("few");
        world.push_arrival(arrival(request, model, 0));
    }
    (world, log)
}

/// When legs began and ended, by model.
fn ran(log: &Log, world: &mut World) -> Vec<(ModelId, Timestamp, Timestamp)> {
    let models: BTreeMap<_, _> = starts(world)
        .into_iter()
        .map(|(_, start)| (start.task, start.model))
        .collect();
    let inputs = log.read().into_iter().flat_map(|recorded| recorded.inputs);
    inputs
        .filter_map(|input| match input {
            Input::LegFinished {
                task,
                started,
                ended,
                ..
            } => Some((models[&task], started, ended)),
            _ => None,
        })
        .collect()
}

#[test]
fn what_runs_in_between_delays_nothing_that_is_planned() {
    let policy = dstack(OperatingPoint::Published, true);
    let (mut world, log) = burst(policy, v100(), &C4, 900);
    let mut plans: Vec<Plan> = Vec::new();
    while world.now() < at(500 * MS) && world.step() {
        let plan = world.scheduler().plan(DeviceId(0)).expect("it plans");
        if plans.last().is_none_or(|last| last.start != plan.start) {
            assert_eq!(plan.left_out, [], "67.5 % of the device");
            plans.push(plan.clone());
        }
    }
    let ran = ran(&log, &mut world);
    assert_eq!(plans.len(), 6, "sessions of 100 ms");
    let planned = plans.iter().flat_map(|plan| &plan.runs);
    let planned: Vec<&PlannedRun> = planned.filter(|run| run.end() < at(480 * MS)).collect();
    assert!(planned.len() > 40);
    for run in &planned {
        let on_time = |&(model, started, _): &(ModelId, Timestamp, Timestamp)| {
            model == run.model && started <= run.start && run.start - started < MAX_EARLY
        };
        assert!(ran.iter().any(on_time), "{run:?} was late");
    }
    assert!(ran.len() > planned.len() + 10, "others ran in between");
}

/// A leg that is committed behind another starts when that ends: up to a lead early.
const MAX_EARLY: Nanos = Nanos::from_micros(300);

#[test]
fn an_overloaded_plan_leaves_out_each_in_its_turn() {
    // Without ResNeXt-50 the table asks for 112.7 % of the device.
    let names = [
        "mobilenet",
        "alexnet",
        "bert",
        "resnet18",
        "resnet50",
        "inception",
        "vgg19",
    ];
    let (mut world, log) = burst(dstack(OperatingPoint::Published, true), v100(), &names, 900);
    let mut left_out = Vec::new();
    let mut last = None;
    while world.now() < at(2_000 * MS) && world.step() {
        let plan = world.scheduler().plan(DeviceId(0)).expect("it plans");
        if last != Some(plan.start) {
            last = Some(plan.start);
            left_out.push(plan.left_out.clone());
        }
    }
    let overloaded = left_out.iter().filter(|out| !out.is_empty()).count();
    assert!(overloaded * 2 > left_out.len(), "{left_out:?}");
    let ran = ran(&log, &mut world);
    for model in 0..7 {
        let of_it = |window: u64| {
            let within =
                |start: Timestamp| start >= at(window * MS) && start < at((window + 500) * MS);
            let runs = ran.iter();
            runs.filter(|(of, start, _)| of.0 == model && within(*start))
                .count()
        };
        for window in [0, 500, 1_000] {
            assert!(of_it(window) > 0, "model {model} starved from {window} ms");
        }
    }
}

#[test]
fn fewest_runs_go_first() {
    // Three models that nothing tells apart, on a device that one run fills.
    let mut world = world(
        SchedulerConfig {
            deadlines: DeadlineMode::Observe,
            ..config(dstack(OperatingPoint::Work, true))
        },
        vec![device(0, 1, 1)],
        |_| Nanos::from_millis(1),
    );
    for id in 0..3 {
        let spec = ModelSpec {
            slo: Some(Nanos::from_millis(50)),
            max_batch: BatchSize(1),
            ..model(id)
        };
        world.push(at(0), Input::ModelAdded(spec));
    }
    // One of each to learn from.
    for request in 0..3 {
        let model = u32::try_from(request).expect("few");
        world.push_arrival(arrival(request, model, request * 100 * MS));
    }
    // The first two have asked for a while before the third comes.
    for request in 3..63 {
        world.push_arrival(arrival(request, u32::from(request % 2 == 1), 400 * MS));
    }
    for request in 63..93 {
        world.push_arrival(arrival(request, 2, 410 * MS));
    }
    world.run();
    let models = starts(&mut world);
    let models: Vec<u32> = models.iter().map(|(_, start)| start.model.0).collect();
    assert_eq!(models.len(), 93);
    let caught_up = models[13..20].iter().filter(|&&model| model == 2).count();
    assert!(
        caught_up >= 4,
        "{models:?}: it has fewer runs than the others"
    );
    for model in 0..3 {
        let runs = models[13..60].iter().filter(|&&of| of == model).count();
        assert!((12..=20).contains(&runs), "{runs} of 47 by model {model}");
    }
}

#[test]
fn every_odd_world_is_served_to_the_end() {
    let long = |_: &Start| Nanos::from_millis(3);
    let slo = |millis: Option<u64>, spec: ModelSpec| ModelSpec {
        slo: millis.map(Nanos::from_millis),
        ..spec
    };
    let worlds: [(&str, Vec<DeviceSpec>, Vec<ModelSpec>); 7] = [
        (
            "no objective",
            vec![device(0, 2, 2)],
            vec![model(0), model(1)],
        ),
        (
            "one model, one slice",
            vec![device(0, 1, 1)],
            vec![slo(Some(20), model(0))],
        ),
        (
            "one model, two slices",
            vec![device(0, 2, 2)],
            vec![slo(Some(20), model(0))],
        ),
        (
            "an objective shorter than any run",
            vec![device(0, 2, 2)],
            vec![slo(Some(1), model(0)), slo(Some(40), model(1))],
        ),
        (
            "objectives far apart",
            vec![device(0, 4, 2)],
            vec![slo(Some(4), model(0)), slo(Some(60_000), model(1))],
        ),
        (
            "several devices",
            vec![device(0, 2, 1), device(1, 4, 1)],
            (0..3)
                .map(|id| ModelSpec {
                    devices: vec![DeviceId(0), DeviceId(1)],
                    ..slo(Some(30), model(id))
                })
                .collect(),
        ),
        (
            "legs, and one slot",
            vec![device(0, 2, 1)],
            vec![
                ModelSpec {
                    legs: 3,
                    slots: 1,
                    ..slo(Some(50), model(0))
                },
                ModelSpec {
                    slots: 1,
                    ..slo(Some(50), model(1))
                },
            ],
        ),
    ];
    for (what, devices, models) in worlds {
        for dynamic in [false, true] {
            for deadlines in [DeadlineMode::Observe, DeadlineMode::Enforce] {
                let config = SchedulerConfig {
                    deadlines,
                    ..config(dstack(OperatingPoint::Work, dynamic))
                };
                let mut world = world(config, devices.clone(), long);
                for spec in &models {
                    world.push(at(0), Input::ModelAdded(spec.clone()));
                }
                let count = models.len() as u64;
                for request in 0..60 {
                    let model = u32::try_from(request % count).expect("few");
                    world.push_arrival(arrival(request, model, request * MS));
                }
                world.run();
                let ended = outcomes(&mut world);
                assert_eq!(ended.len(), 60, "{what}: all end");
                let done = ended
                    .iter()
                    .filter(|(_, outcome)| *outcome == Outcome::Completed);
                let done = done.count();
                match deadlines {
                    DeadlineMode::Observe => assert_eq!(done, 60, "{what}, dynamic {dynamic}"),
                    DeadlineMode::Enforce => assert!(done > 0, "{what}, dynamic {dynamic}"),
                }
            }
        }
    }
}

#[test]
fn a_head_that_would_be_late_is_dropped_before_it_runs() {
    let tight = ModelSpec {
        slo: Some(Nanos::from_millis(5)),
        max_batch: BatchSize(1),
        ..model(0)
    };
    let mut world = world(
        config(dstack(OperatingPoint::Work, true)),
        vec![device(0, 1, 1)],
        |_| Nanos::from_millis(2),
    );
    world.push(at(0), Input::ModelAdded(tight));
    // One to learn from, then two of which only one is in time after what runs.
    for (request, received) in [(0, 0), (1, 10 * MS), (2, 10 * MS), (3, 10 * MS)] {
        world.push_arrival(arrival(request, 0, received));
    }
    world.run();
    let ended = outcomes(&mut world);
    let done = ended
        .iter()
        .filter(|(_, outcome)| *outcome == Outcome::Completed);
    assert_eq!(done.count(), 3, "{ended:?}");
    assert_eq!(starts(&mut world).len(), 3, "the fourth never ran");
}

#[test]
fn a_device_that_returns_with_other_partitions_is_planned_anew() {
    let policy = dstack(OperatingPoint::Work, true);
    let mut world = world(
        SchedulerConfig {
            deadlines: DeadlineMode::Observe,
            ..config(policy)
        },
        vec![device(0, 8, 1)],
        |_| Nanos::from_millis(2),
    );
    for id in 0..3 {
        let spec = ModelSpec {
            slo: Some(Nanos::from_millis(100)),
            ..model(id)
        };
        world.push(at(0), Input::ModelAdded(spec));
    }
    for request in 0..90 {
        if request == 30 {
            let device_lost = DeviceId(0);
            let lost = Input::DeviceLost {
                device: device_lost,
            };
            world.push(at(30 * MS), lost);
            world.push(at(30 * MS), Input::DeviceAdded(device(0, 2, 1)));
        }
        let model = u32::try_from(request % 3).expect("few");
        world.push_arrival(arrival(request, model, request * MS));
    }
    world.run();
    let ended = outcomes(&mut world);
    assert_eq!(ended.len(), 90);
    let done = ended
        .iter()
        .filter(|(_, outcome)| *outcome == Outcome::Completed);
    assert!(done.count() > 80, "only what ran on the lost device failed");
}
