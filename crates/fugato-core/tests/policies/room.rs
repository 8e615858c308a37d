//! What a model of a leg that nobody can cut leaves to one of a short objective, under `fugato`.
//!
//! `long` takes 26 ms in one slice, of which its second leg is 24, and 14.2 ms in two; `short`
//! takes 2 ms in one. Two slices, but where it is said.

use fugato_core::device::DeviceSpec;
use fugato_core::policy::FugatoParts;
use fugato_core::profile::{GridPoint, Knee, LegProfile, ModelProfile, Profile, v100_dstack};
use fugato_core::sched::{PolicySpec, SchedulerConfig};
use fugato_core::sim::{PolicyReport, Scenario, SimOptions, sim_device};
use fugato_core::timeline::TimelineLeg;
use fugato_core::workload::{ArrivalProcess, ModelLoad, Trace, Workload, parse_trace};
use fugato_core::{ModelId, Nanos, Share, Timestamp};
use proptest::prelude::*;
use std::ops::Range;

const LONG: ModelId = ModelId(0);

/// Objectives in milliseconds, under which `short` is late where it waits for the leg of `long`.
const LATE: [u64; 2] = [500, 10];

/// Milliseconds in one and in two slices.
pub(super) type Times = [f64; 2];

/// Of the second leg of `long`.
const LEG: Times = [24.0, 13.0];

fn grid(times: Times, slices: u16) -> Vec<GridPoint> {
    let points = (1..=slices).zip(times);
    let points = points.map(|(share, millis)| GridPoint {
        batch: 1,
        share,
        neighbours: 0,
        median_s: Some(millis / 1e3),
        p95_s: Some(millis / 1e3),
        low_s: None,
        high_s: None,
        repeats: 1,
        failed: None,
    });
    points.collect()
}

pub(super) fn model(name: &str, legs: &[Times], slices: u16) -> ModelProfile {
    let whole = |share: usize| legs.iter().map(|times| times[share]).sum();
    let mut model = ModelProfile::new(name, name, 1);
    model.grid = grid([whole(0), whole(1)], slices);
    if legs.len() > 1 {
        let legs = legs.iter().map(|&times| LegProfile {
            assumed: false,
            knee: Knee::default(),
            fit: None,
            grid: grid(times, slices),
        });
        model.legs = legs.collect();
    }
    model
}

/// The models, of which `long` has a long leg of so many milliseconds.
fn profile(slices: u16, leg: Times) -> Profile {
    let mut profile = v100_dstack();
    profile.synthetic = false;
    profile.device.slices = slices;
    let legs = [[1.0, 0.6], leg, [1.0, 0.6]];
    profile.models = vec![
        model("long", &legs, slices),
        model("short", &[[2.0, 1.5]], slices),
    ];
    profile
}

/// Requests at these milliseconds.
pub(super) fn at(name: &str, slo_ms: u64, millis: impl Iterator<Item = u64>) -> ModelLoad {
    let rows = millis.map(|millis| format!("{},{name},1\n", millis as f64 / 1e3));
    let rows: String = rows.collect();
    let rows = parse_trace(&format!("time,model,count\n{rows}")).expect("valid rows");
    let trace = ArrivalProcess::Trace(Trace::new(&rows, name, None));
    ModelLoad::new(name, Nanos::from_millis(slo_ms), trace)
}

/// Six seconds of `long`, two requests at once, and from 1 s to 3 s of `short` too, which comes
/// while the long leg of `long` runs.
fn ran(
    kind: &str,
    slices: u16,
    slos: [u64; 2],
    parts: FugatoParts,
) -> (PolicyReport, Vec<TimelineLeg>) {
    let device = sim_device(kind, Share(slices));
    ran_on(device, &profile(slices, LEG), slos, parts)
}

fn ran_on(
    device: DeviceSpec,
    profile: &Profile,
    [long_ms, short_ms]: [u64; 2],
    parts: FugatoParts,
) -> (PolicyReport, Vec<TimelineLeg>) {
    let long = (0..60).flat_map(|turn| [100 * turn; 2]);
    let short = (0..20).map(|turn| 1_003 + 100 * turn);
    let loads = vec![at("long", long_ms, long), at("short", short_ms, short)];
    simulated(device, profile, loads, parts)
}

pub(super) fn simulated(
    device: DeviceSpec,
    profile: &Profile,
    loads: Vec<ModelLoad>,
    parts: FugatoParts,
) -> (PolicyReport, Vec<TimelineLeg>) {
    let workload = Workload::new(Nanos::from_millis(6_000), Nanos::ZERO, None, loads);
    let options = SimOptions {
        timeline: 10_000,
        ..SimOptions::default()
    };
    let workload = workload.expect("valid");
    let scenario = Scenario::new(profile, workload, device, options).expect("valid");
    let config = SchedulerConfig {
        policy: PolicySpec::Fugato(parts),
        ..SchedulerConfig::default()
    };
    let simulated = scenario.run(config, 1);
    let report = PolicyReport::new("it", scenario.workload(), &simulated.tally);
    (report, simulated.timeline.expect("asked for").into_legs())
}

fn usual(slos: [u64; 2]) -> (PolicyReport, Vec<TimelineLeg>) {
    ran("other", 2, slos, FugatoParts::default())
}

/// The most slices that `long` held at once, of legs that began within some milliseconds.
fn most_held(legs: &[TimelineLeg], millis: Range<u64>) -> u16 {
    most_held_by(&[LONG], legs, millis)
}

fn most_held_by(models: &[ModelId], legs: &[TimelineLeg], millis: Range<u64>) -> u16 {
    let time = |millis| Timestamp::ZERO + Nanos::from_millis(millis);
    let within = time(millis.start)..time(millis.end);
    let long = legs.iter().filter(|leg| models.contains(&leg.model));
    let long: Vec<&TimelineLeg> = long.filter(|leg| within.contains(&leg.started)).collect();
    let held = |at: Timestamp| {
        let there = long
            .iter()
            .filter(|leg| leg.started <= at && at < leg.ended);
        there.map(|leg| leg.share.0).sum()
    };
    let most = long.iter().map(|leg| held(leg.started)).max();
    most.expect("it ran")
}

#[test]
fn a_model_of_a_long_leg_leaves_a_slice_while_a_short_objective_is_asked_for() {
    let (report, legs) = usual(LATE);
    assert_eq!(most_held(&legs, 0..1_000), 2, "alone");
    // What began before the first request of the other ends as it is.
    assert_eq!(most_held(&legs, 1_030..3_900), 1);
    assert_eq!(most_held(&legs, 4_000..6_000), 2, "alone for a second");
    let [long, short] = &report.models[..] else {
        panic!("{report:?}");
    };
    assert_eq!(long.attainment, Some(1.0), "{long:?}");
    // The first one found both slices taken.
    assert!(short.attainment >= Some(0.95), "{short:?}");
    let greedy = FugatoParts {
        leave_room: false,
        ..FugatoParts::default()
    };
    let (without, legs) = ran("other", 2, LATE, greedy);
    assert_eq!(most_held(&legs, 1_030..3_000), 2);
    let short = &without.models[1];
    assert!(short.attainment < Some(0.5), "{short:?}");
}

#[test]
fn nobody_is_held_back_for_nothing() {
    let most = |(_, legs): (PolicyReport, Vec<TimelineLeg>)| most_held(&legs, 1_030..3_000);
    assert_eq!(most(usual([500, 47])), 1, "under twice the leg of 24 ms");
    assert_eq!(most(usual([500, 50])), 2, "the other can wait for it");
    assert_eq!(most(usual([20, 10])), 2, "it would be late itself");
    assert_eq!(most(usual([500, 1])), 2, "two slices are not enough for it");
    let suspends = ran("cpu", 2, LATE, FugatoParts::default());
    assert_eq!(suspends.0.models[1].attainment, Some(1.0));
    assert_eq!(most(suspends), 2, "who is urgent runs over it");
    let without = FugatoParts {
        niceness: false,
        ..FugatoParts::default()
    };
    assert_eq!(most(ran("cpu", 2, LATE, without)), 1, "it cannot now");
}

/// `short` and two models of a long leg, asked for together, of which the second is due after so
/// many milliseconds and takes so many.
fn with_second(second_ms: u64, times: Times) -> (PolicyReport, Vec<TimelineLeg>) {
    let mut profile = profile(2, LEG);
    profile.models.push(model("second", &[times], 2));
    let long = |offset: u64| (0..30).map(move |turn| 100 * turn + offset);
    let short = (0..20).map(|turn| 1_003 + 100 * turn);
    let loads = vec![
        at("long", 500, long(0)),
        at("short", 10, short),
        at("second", second_ms, long(1)),
    ];
    simulated(
        sim_device("other", Share(2)),
        &profile,
        loads,
        FugatoParts::default(),
    )
}

#[test]
fn models_of_long_legs_leave_a_slice_together() {
    let (report, legs) = with_second(500, LEG);
    assert_eq!(most_held_by(&[LONG, ModelId(2)], &legs, 1_030..2_900), 1);
    let in_time = |model: usize| report.models[model].attainment;
    assert_eq!([in_time(0), in_time(2)], [Some(1.0); 2], "{report:?}");
    assert!(in_time(1) >= Some(0.95), "{report:?}");
}

#[test]
fn who_cannot_wait_for_a_long_leg_takes_the_slice_that_it_leaves() {
    // Its own leg is too long for `short`, and that of `long` for it.
    let (report, legs) = with_second(30, [8.0, 5.0]);
    assert_eq!(most_held(&legs, 1_030..2_900), 1);
    assert_eq!(most_held_by(&[LONG, ModelId(2)], &legs, 1_030..2_900), 2);
    let second = &report.models[2];
    assert!(second.attainment >= Some(0.95), "{report:?}");
}

/// A model whose runs take up to half as long again as their median, and more.
fn uneven(name: &str, legs: &[Times]) -> ModelProfile {
    let mut model = model(name, legs, 2);
    let points = model.legs.iter_mut().flat_map(|leg| &mut leg.grid);
    for point in points.chain(&mut model.grid) {
        point.p95_s = point.median_s.map(|median| 1.5 * median);
    }
    model
}

#[test]
fn who_waits_for_others_goes_on_when_they_end_whenever_that_is() {
    let mut profile = profile(2, LEG);
    profile.models[0] = uneven("long", &[LEG]);
    profile.models.push(uneven("second", &[LEG]));
    // Nothing of its own brings `second` back: its next request comes much later.
    let short = (0..60).map(|turn| 100 * turn);
    let second = (0..20).map(|turn| 300 * turn + 20);
    let loads = vec![
        at("long", 500, (0..120).map(|turn| 50 * turn)),
        at("short", 10, short),
        at("second", 5_000, second),
    ];
    let device = sim_device("other", Share(2));
    let (report, _) = simulated(device, &profile, loads, FugatoParts::default());
    assert_eq!(report.models[0].attainment, Some(1.0), "{report:?}");
    let second = &report.models[2];
    assert_eq!(second.requests, 20);
    assert!(second.p99_ms < Some(150.0), "{report:?}");
}

#[test]
fn who_waits_for_another_gets_what_it_has_at_a_boundary() {
    let mut profile = profile(2, LEG);
    // Two tasks of 120 ms every 250 ms, and between their legs of 6 ms whoever is due in 60 ms.
    profile.models[0] = model("long", &[[6.0; 2]; 20], 2);
    profile.models.push(model("second", &[[8.0; 2]], 2));
    let loads = vec![
        at(
            "long",
            2_000,
            (0..24).map(|turn| 250 * turn).flat_map(|at| [at; 2]),
        ),
        at("short", 10, (0..60).map(|turn| 100 * turn)),
        at("second", 60, (0..58).map(|turn| 100 * turn + 130)),
    ];
    let device = sim_device("other", Share(2));
    let (report, legs) = simulated(device, &profile, loads, FugatoParts::default());
    assert_eq!(most_held_by(&[LONG, ModelId(2)], &legs, 1_000..5_000), 1);
    let in_time = [0, 1, 2].map(|model: usize| report.models[model].attainment);
    assert!(in_time.iter().all(|&part| part >= Some(0.98)), "{report:?}");
}

#[test]
fn one_slice_is_for_whoever_comes() {
    let (report, legs) = ran("other", 1, [500, 100], FugatoParts::default());
    assert_eq!(most_held(&legs, 0..6_000), 1);
    assert_eq!(report.attainment, Some(1.0), "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The rule anew, for two slices.
    #[test]
    fn the_rule_holds_whatever_the_times(
        leg in 5.0..60.0_f64,
        speedup in 1.0..1.9_f64,
        long_ms in 20_u64..300,
        short_ms in 3_u64..100,
    ) {
        // Under twice the leg in either share.
        let short = (short_ms as f64) < 2.0 * leg / speedup;
        // One item of each in one slice: a late long one could not be held back.
        let in_time = (long_ms as f64) > leg + 2.0;
        let device = sim_device("other", Share(2));
        let profile = profile(2, [leg, leg / speedup]);
        let (_, legs) = ran_on(device, &profile, [long_ms, short_ms], FugatoParts::default());
        let began = Timestamp::ZERO + Nanos::from_millis(1_003) + Nanos::from_millis(70);
        let ended = Timestamp::ZERO + Nanos::from_millis(3_000);
        prop_assume!(short && in_time);
        prop_assume!(legs.iter().any(|leg| leg.model == LONG && (began..ended).contains(&leg.started)));
        prop_assert_eq!(most_held(&legs, 1_073..3_000), 1);
    }
}
