//! Who is suspended, under `fugato` on two cores of which one that runs may be.
//!
//! `short` takes 2 ms in one slice; the others gain nothing by a second one.

use super::room::{at, model, simulated};
use fugato_core::device::LaneClass;
use fugato_core::policy::FugatoParts;
use fugato_core::profile::{Profile, v100_dstack};
use fugato_core::sim::{PolicyReport, sim_device};
use fugato_core::timeline::TimelineLeg;
use fugato_core::workload::ModelLoad;
use fugato_core::{ModelId, Share};

/// Models in the order of their loads, by what they take.
fn ran(takes: &[(&str, f64)], loads: Vec<ModelLoad>) -> (PolicyReport, Vec<TimelineLeg>) {
    let mut profile: Profile = v100_dstack();
    profile.synthetic = false;
    profile.device.slices = 2;
    let models = takes.iter();
    profile.models = models
        .map(|&(name, millis)| model(name, &[[millis; 2]], 2))
        .collect();
    let device = sim_device("cpu", Share(2));
    simulated(device, &profile, loads, FugatoParts::default())
}

/// Models whose legs others ran over.
fn suspended(legs: &[TimelineLeg]) -> Vec<ModelId> {
    let device = sim_device("cpu", Share(2));
    let is_urgent = |leg: &TimelineLeg| {
        let lanes = &device.partitions[usize::from(leg.partition.0)].lanes;
        lanes[usize::from(leg.lane.0)] == LaneClass::Urgent
    };
    let over = |below: &TimelineLeg| {
        let over = |leg: &TimelineLeg| {
            let at_once = leg.started < below.ended && below.started < leg.ended;
            is_urgent(leg) && at_once && leg.atoms.overlaps(below.atoms)
        };
        !is_urgent(below) && legs.iter().any(over)
    };
    let below = legs.iter().filter(|leg| over(leg));
    below.map(|leg| leg.model).collect()
}

const TURNS: u64 = 20;

/// Turns of 100 ms, in each of which one comes so many milliseconds after its begin.
fn each(name: &str, slo_ms: u64, offset: u64) -> ModelLoad {
    at(name, slo_ms, (0..TURNS).map(|turn| 100 * turn + offset))
}

/// `short`, due after 8 ms, while two runs of 40 ms hold both cores, due after so many milliseconds.
fn beside_two(slos: [u64; 2]) -> (PolicyReport, Vec<TimelineLeg>) {
    ran_two(slos, each("short", 8, 10))
}

fn ran_two(slos: [u64; 2], short: ModelLoad) -> (PolicyReport, Vec<TimelineLeg>) {
    let takes = [("first", 40.0), ("second", 40.0), ("short", 2.0)];
    let loads = vec![each("first", slos[0], 0), each("second", slos[1], 0), short];
    ran(&takes, loads)
}

#[test]
fn of_two_that_run_the_one_with_the_most_time_to_spare_is_suspended() {
    for (slos, most) in [([60, 90], 1), ([90, 60], 0)] {
        let (report, legs) = beside_two(slos);
        assert_eq!(report.attainment, Some(1.0), "{report:?}");
        let below = suspended(&legs);
        assert_eq!(below, [ModelId(most); TURNS as usize], "{slos:?}");
    }
}

#[test]
fn nobody_is_suspended_whom_that_would_make_late() {
    // Both have 1 ms to spare.
    let (report, legs) = beside_two([41, 41]);
    assert_eq!(suspended(&legs), []);
    let attained = report.models.iter().map(|model| model.attainment);
    let attained: Vec<_> = attained.collect();
    assert_eq!(attained, [Some(1.0), Some(1.0), Some(0.0)], "{report:?}");
}

/// `short`, due after so many milliseconds and received so many after two runs of 40 ms began, which
/// have 20 ms to spare.
fn beside_two_at(slo_ms: u64, offset: u64) -> (PolicyReport, Vec<TimelineLeg>) {
    ran_two([60, 60], each("short", slo_ms, offset))
}

#[test]
fn nobody_is_suspended_for_one_that_can_wait_and_has_more_time_to_spare() {
    // 26 ms to spare, of which it would wait for 10.
    let (report, legs) = beside_two_at(28, 30);
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    assert_eq!(suspended(&legs), []);
    // 16 ms.
    let (report, legs) = beside_two_at(18, 30);
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    assert_eq!(suspended(&legs).len(), TURNS as usize);
}

#[test]
fn one_that_cannot_wait_goes_over_those_with_less_time_to_spare() {
    // 24 ms to spare, and 30 until a core is free.
    let (report, legs) = beside_two_at(26, 10);
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    assert_eq!(suspended(&legs).len(), TURNS as usize);
}
