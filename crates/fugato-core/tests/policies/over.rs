//! Who is suspended, under `fugato` on two cores of which one that runs may be.
//!
//! `short` takes 2 ms in one slice, `tight` 1; the others gain nothing by a second one.

use super::room::{Times, at, model, simulated};
use fugato_core::device::LaneClass;
use fugato_core::policy::FugatoParts;
use fugato_core::profile::{Profile, v100_dstack};
use fugato_core::sim::{PolicyReport, sim_device};
use fugato_core::timeline::TimelineLeg;
use fugato_core::workload::ModelLoad;
use fugato_core::{ModelId, Share};

/// Two models that take 40 ms, in so many legs, `short`, and `tight` where it is asked for.
fn ran(legs: usize, loads: Vec<ModelLoad>) -> (PolicyReport, Vec<TimelineLeg>) {
    let mut profile: Profile = v100_dstack();
    profile.synthetic = false;
    profile.device.slices = 2;
    let long: Vec<Times> = vec![[40.0 / legs as f64; 2]; legs];
    profile.models = vec![
        model("first", &long, 2),
        model("second", &long, 2),
        model("short", &[[2.0; 2]], 2),
        model("tight", &[[1.0; 2]], 2),
    ];
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

const TURNS: usize = 20;

/// Turns of 100 ms, in each of which one comes so many milliseconds after its begin.
fn each(name: &str, slo_ms: u64, offset: u64) -> ModelLoad {
    at(
        name,
        slo_ms,
        (0..TURNS as u64).map(|turn| 100 * turn + offset),
    )
}

/// `first` and a little later `second`, due after so many milliseconds, and `short`.
fn beside_two(legs: usize, slos: [u64; 2], short: (u64, u64)) -> (PolicyReport, Vec<TimelineLeg>) {
    let loads = vec![
        each("first", slos[0], 0),
        each("second", slos[1], 1),
        each("short", short.0, short.1),
    ];
    ran(legs, loads)
}

/// Shorter than what is left of a leg.
const URGENT_MS: u64 = 8;

#[test]
fn of_two_that_run_the_one_with_the_most_time_to_spare_is_suspended() {
    for (slos, most) in [([60, 90], 1), ([90, 60], 0)] {
        // Cut, 2 ms after a boundary of the first and 1 ms after one of the second.
        for (legs, received) in [(1, 10), (4, 12)] {
            let (report, timeline) = beside_two(legs, slos, (URGENT_MS, received));
            assert_eq!(report.attainment, Some(1.0), "{report:?}");
            let below = suspended(&timeline);
            assert_eq!(below, [ModelId(most); TURNS], "{slos:?}, {legs} legs");
        }
    }
}

#[test]
fn nobody_is_suspended_whom_that_would_make_late() {
    // Both have 1 ms to spare. Cut or not, and also before a leg is known to have begun.
    for (legs, received) in [(1, 10), (4, 12), (20, 1), (20, 3)] {
        let (report, below) = beside_two(legs, [41, 41], (4, received));
        let over: Vec<ModelId> = suspended(&below);
        assert_eq!(over, [], "{legs} legs, {received} ms");
        for model in &report.models[..2] {
            assert_eq!(model.attainment, Some(1.0), "{legs} legs: {report:?}");
        }
    }
}

#[test]
fn nobody_is_suspended_for_one_that_can_wait_and_has_more_time_to_spare() {
    // 32 ms to spare, of which it would wait for 10; the others have 20.
    let (report, legs) = beside_two(1, [60, 60], (34, 30));
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    assert_eq!(suspended(&legs), []);
    // 26 ms, which is less than theirs 6 ms later, while it would still wait for 4.
    let (report, legs) = beside_two(1, [60, 60], (28, 30));
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    let short = legs.iter().filter(|leg| leg.model == ModelId(2));
    let begun: Vec<u64> = short
        .map(|leg| leg.started.as_nanos() / 1_000_000 % 100)
        .collect();
    assert_eq!(begun, [36; TURNS]);
    // 16 ms.
    let (report, legs) = beside_two(1, [60, 60], (18, 30));
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    assert_eq!(suspended(&legs).len(), TURNS);
}

#[test]
fn one_that_could_wait_goes_over_others_if_its_run_is_short_beside_their_objectives() {
    // 16 ms to spare, of which it would wait for 2, and the others have 20. Half of 60 is 30.
    let (report, legs) = beside_two(1, [60, 60], (18, 38));
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    assert_eq!(suspended(&legs).len(), TURNS);
    // One that is due after 3 ms could not go over it; it is asked for after the first turn's.
    let loads = vec![
        each("first", 60, 0),
        each("second", 60, 1),
        each("short", 18, 38),
        each("tight", 3, 70),
    ];
    let (report, legs) = ran(1, loads);
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    assert_eq!(suspended(&legs).len(), 1);
}

#[test]
fn one_that_cannot_wait_goes_over_those_with_less_time_to_spare() {
    // 24 ms to spare, and 30 until a core is free.
    let (report, legs) = beside_two(1, [60, 60], (26, 10));
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    assert_eq!(suspended(&legs).len(), TURNS);
}

#[test]
fn who_may_not_go_over_anybody_yet_is_looked_at_again_when_it_may() {
    // 26 ms to spare at 20 ms, where the others have 20 and end at 40: not over them before 26 ms, and
    // then at once, though nothing else happens.
    let (report, legs) = beside_two(1, [60, 60], (28, 20));
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
    let short = legs.iter().filter(|leg| leg.model == ModelId(2));
    let begun = short.map(|leg| leg.started.as_nanos() / 1_000_000 % 100);
    let begun: Vec<u64> = begun.collect();
    assert_eq!(begun, [26; TURNS]);
}
