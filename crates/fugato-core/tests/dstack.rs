//! `dstack`: what a session holds, what fits between its runs, and that nothing is ever
//! oversubscribed. Figures are simulated, on D-STACK's table of models on a V100.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the actions it is about"
)]

mod common;

use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::policy::OperatingPoint;
use fugato_core::profile::v100_dstack;
use fugato_core::sched::{DeadlineMode, PolicySpec, SchedulerConfig};
use fugato_core::sim::{PolicyReport, Scenario, SimOptions, Simulated};
use fugato_core::timeline::TimelineLeg;
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{DeviceId, Nanos, Share};

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
    for point in [
        OperatingPoint::Published,
        OperatingPoint::Efficacy,
        OperatingPoint::Work,
        OperatingPoint::Knee,
    ] {
        for models in [&ARV[..], &C4[..]] {
            let (simulated, report) = saturated(models, dstack(point, true));
            println!(
                "{point:?} {models:?} util {} occ {} jain {}",
                report.utilisation, report.occupancy, report.jain
            );
            for m in &report.models {
                println!(
                    "   {} {} batch {:?} occ {}",
                    m.name, m.goodput, m.mean_batch, m.occupancy
                );
            }
            let _ = simulated;
        }
    }
    let (_, report) = saturated(&C4, PolicySpec::Fifo);
    println!(
        "fifo util {} occ {} jain {}",
        report.utilisation, report.occupancy, report.jain
    );
    for m in &report.models {
        println!(
            "   {} {} batch {:?} occ {}",
            m.name, m.goodput, m.mean_batch, m.occupancy
        );
    }
    let (simulated, _) = saturated(&ARV, dstack(OperatingPoint::Published, true));
    assert_disjoint(&legs(&simulated));
}
