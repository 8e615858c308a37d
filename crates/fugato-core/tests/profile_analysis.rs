//! Knees and optima: cases by hand, and properties against definitions written out
//! naively.

use fugato_core::profile::{
    AnalysisOptions, Candidate, Constraint, CurvePoint, GridPoint, KneeRule, Limits, ModelProfile,
    Optimum, analyse, conclude, knee,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn curve(points: &[(u16, f64)], spread: f64) -> Vec<CurvePoint> {
    let point = |&(share, median_s): &(u16, f64)| CurvePoint {
        share,
        median_s,
        low_s: median_s * (1.0 - spread),
        high_s: median_s * (1.0 + spread),
    };
    points.iter().map(point).collect()
}

/// Name, (share, latency), interval, knees by tolerance, efficacy and chord, undecided.
type KneeCase<'a> = (
    &'a str,
    &'a [(u16, f64)],
    f64,
    [Option<u16>; 3],
    &'a [KneeRule],
);

#[test]
fn knees_by_hand() {
    use KneeRule::{Chord, Efficacy, Tolerance};
    let cases: [KneeCase<'_>; 8] = [
        (
            "latency rises with the share: the smaller share",
            &[(1, 4.0), (2, 5.5)],
            0.02,
            [Some(1), Some(1), None],
            &[],
        ),
        (
            "latency nearly halves: the larger share",
            &[(1, 36.0), (2, 19.0)],
            0.02,
            [Some(2), Some(2), None],
            &[],
        ),
        (
            "gains 20 %: enough for the tolerance, not for the efficacy",
            &[(1, 12.0), (2, 10.0)],
            0.02,
            [Some(2), Some(1), None],
            &[],
        ),
        (
            "equal: the smaller share",
            &[(1, 10.0), (2, 10.0)],
            0.0,
            [Some(1), Some(1), None],
            &[],
        ),
        (
            "gains 6 % with intervals of 2 %: the smaller share, undecided",
            &[(1, 10.6), (2, 10.0)],
            0.02,
            [Some(1), Some(1), None],
            &[Tolerance],
        ),
        (
            "gains just the square root of 2: efficacy undecided",
            &[(1, 14.2), (2, 10.0)],
            0.02,
            [Some(2), Some(1), None],
            &[Efficacy],
        ),
        (
            "rises after a minimum: nothing is gained past it",
            &[(1, 40.0), (2, 22.0), (3, 18.0), (4, 30.0), (8, 60.0)],
            0.0,
            [Some(3), Some(2), Some(3)],
            &[],
        ),
        (
            "wide intervals leave all three open",
            &[(1, 40.0), (2, 22.0), (3, 18.0), (4, 17.0)],
            0.3,
            [Some(2), Some(1), Some(1)],
            &[Tolerance, Efficacy, Chord],
        ),
    ];
    for (case, points, spread, expected, undecided_by) in cases {
        let found = knee(&curve(points, spread), 0.05);
        let shares = [found.knee.tolerance, found.knee.efficacy, found.knee.chord];
        assert_eq!(shares, expected, "{case}");
        assert_eq!(found.undecided_by, undecided_by, "{case}");
    }
    let one = knee(&curve(&[(1, 4.0)], 0.0), 0.05);
    assert_eq!(one.knee.tolerance, None, "one share is no curve");
    assert_eq!(one.undecided_by, [Tolerance, Efficacy]);
}

fn point(batch: u32, share: u16, median_s: f64) -> GridPoint {
    GridPoint {
        batch,
        share,
        neighbours: 0,
        median_s: Some(median_s),
        p95_s: Some(median_s),
        low_s: Some(median_s),
        high_s: Some(median_s),
        repeats: 20,
        failed: None,
    }
}

/// A model on two slices whose latency is `1 ms + 2 ms x batch / share`.
fn model(slo_s: Option<f64>, arrival_rate: Option<f64>, max_batch: u32) -> ModelProfile {
    let mut model = ModelProfile::new("model", "hash", max_batch);
    model.slo_s = slo_s;
    model.arrival_rate = arrival_rate;
    for batch in 1..=8 {
        for share in 1..=2 {
            let latency = 0.001 + 0.002 * f64::from(batch) / f64::from(share);
            model.grid.push(point(batch, share, latency));
        }
    }
    model
}

fn place(optimum: &Optimum) -> Option<(u32, u16)> {
    optimum.point().map(|point| (point.batch, point.share))
}

#[test]
fn constraints_bind_by_hand() {
    let options = AnalysisOptions::new(2);
    // Latency at share 1 is 3, 5, 7, .. ms; at share 2 it is 2, 3, 4, .. ms. Efficacy
    // b / (L^2 S) is largest at batch 1 of share 2 (1/8), before share 1 (1/9).
    let cases = [
        ("nothing binds", None, None, 8, (1, 2), (8, 1)),
        ("max_batch binds", None, None, 5, (1, 2), (5, 1)),
        // Half of 12.1 ms allows 2 items on one slice (5 ms per 2) and 5 on two, which do
        // less work per item (2 x 6 ms per 5).
        ("half the SLO binds", Some(0.0121), None, 8, (1, 2), (5, 2)),
        // 200 items per second: a batch of b takes 5 b ms to assemble; 4 items and their
        // 9 ms are 29 ms.
        ("assembly binds", Some(0.03), Some(200.0), 8, (1, 2), (4, 1)),
    ];
    for (case, slo_s, rate, max_batch, efficacy, work) in cases {
        let mut model = model(slo_s, rate, max_batch);
        analyse(&mut model, &options);
        assert_eq!(place(&model.optima.efficacy), Some(efficacy), "{case}");
        assert_eq!(place(&model.optima.work), Some(work), "{case}");
    }
}

#[test]
fn an_infeasible_objective_is_told_the_nearest_point_and_the_shortfall() {
    let cases = [
        // The fastest point takes 2 ms; half of 3 ms is 1.5 ms.
        (0.003, None, 0.0, Constraint::HalfSlo, 0.0005),
        // A leg of 1 ms in the way: 3 ms against 2.5 ms.
        (0.005, None, 0.001, Constraint::HalfSlo, 0.0005),
        // One item takes 20 ms to come: 22 ms against 15 ms.
        (0.015, Some(50.0), 0.0, Constraint::Assembly, 0.007),
    ];
    for (slo_s, rate, blocking_s, constraint, shortfall_s) in cases {
        let mut options = AnalysisOptions::new(2);
        options.blocking_s = blocking_s;
        let mut model = model(Some(slo_s), rate, 8);
        analyse(&mut model, &options);
        let nearest = Candidate { batch: 1, share: 2 };
        for optimum in [&model.optima.efficacy, &model.optima.work] {
            let why = optimum.infeasible().expect("infeasible");
            assert_eq!((why.constraint, why.nearest), (constraint, nearest));
            assert!(
                (why.shortfall_s - shortfall_s).abs() < 1e-9,
                "SLO {slo_s}: {why:?}"
            );
        }
    }
    let mut empty = ModelProfile::new("empty", "hash", 8);
    analyse(&mut empty, &AnalysisOptions::new(2));
    assert_eq!(empty.optima.work, Optimum::Unknown);
    assert!(empty.undecided);
}

/// Work is judged with the other slices busy: a neighbour that doubles the latency makes
/// one slice as expensive as two.
#[test]
fn work_counts_what_neighbours_cost() {
    let mut model = model(None, None, 8);
    analyse(&mut model, &AnalysisOptions::new(2));
    assert_eq!(place(&model.optima.work), Some((8, 1)));
    let busy: Vec<GridPoint> = model
        .grid
        .iter()
        .filter(|point| point.share == 1)
        .map(|alone| GridPoint {
            neighbours: 1,
            ..point(alone.batch, 1, alone.median_s.expect("measured") * 2.5)
        })
        .collect();
    model.grid.extend(busy);
    analyse(&mut model, &AnalysisOptions::new(2));
    assert_eq!(place(&model.optima.work), Some((8, 2)));
    assert_eq!(
        place(&model.optima.efficacy),
        Some((1, 2)),
        "alone, as ever"
    );
}

/// A batch between two measured ones wins where the objective lets the larger one not be
/// run, and is marked as not measured.
#[test]
fn unmeasured_batches_fill_the_gaps() {
    let mut model = model(Some(0.0321), None, 8);
    // Half of 32.1 ms allows 7 items on one slice (15 ms), of which 4 are measured.
    model
        .grid
        .retain(|point| [1, 2, 4, 8].contains(&point.batch));
    analyse(&mut model, &AnalysisOptions::new(2));
    let work = model.optima.work.point().expect("feasible");
    assert_eq!((work.batch, work.share, work.measured), (7, 1, false));
    assert!((work.latency_s - 0.015).abs() < 0.0002, "{work:?}");
}

#[test]
fn rivals_are_the_points_whose_intervals_overlap_the_best() {
    let mut model = model(None, None, 8);
    for point in &mut model.grid {
        point.low_s = point.median_s.map(|median| median * 0.99);
        point.high_s = point.median_s.map(|median| median * 1.01);
    }
    conclude(&mut model, &AnalysisOptions::new(2));
    let work = model.optima.work.point().expect("feasible");
    // Work per item at share 1 is 2 + 1/b ms: 2.125 at 8, 2.143 at 7, 2.167 at 6.
    let rivals: Vec<u32> = work.rivals.iter().map(|rival| rival.batch).collect();
    assert_eq!((work.batch, rivals), (8, vec![6, 7]));
    assert!(work.rivals.iter().all(|rival| rival.share == 1));
}

/// Latencies over shares 1, 2, 3, .. with intervals.
fn any_curve() -> impl Strategy<Value = Vec<CurvePoint>> {
    let point = (0.5f64..2.0, 0.0f64..0.1, 0.0f64..0.1);
    prop::collection::vec(point, 2..12).prop_map(|points| {
        let mut share = 0;
        let rise = |(median_s, below, above): (f64, f64, f64)| {
            share += 1;
            CurvePoint {
                share,
                median_s,
                low_s: median_s * (1.0 - below),
                high_s: median_s * (1.0 + above),
            }
        };
        points.into_iter().map(rise).collect()
    })
}

/// The definitions on exact latencies, written out.
fn naive(latencies: &[(u16, f64)]) -> (u16, u16) {
    let best = latencies
        .iter()
        .map(|&(_, s)| s)
        .fold(f64::INFINITY, f64::min);
    let tolerance = latencies.iter().find(|&&(_, s)| s <= 1.05 * best);
    let efficacy = latencies.iter().max_by(|a, b| {
        let eta = |&(share, s): &(u16, f64)| 1.0 / (s * s * f64::from(share));
        eta(a).total_cmp(&eta(b)).then(b.0.cmp(&a.0))
    });
    (
        tolerance.expect("not empty").0,
        efficacy.expect("not empty").0,
    )
}

/// One fixed set of cases in every run; PROPTEST_RNG_SEED and PROPTEST_CASES sweep further.
fn seeded() -> ProptestConfig {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    match config.rng_seed {
        RngSeed::Random => ProptestConfig {
            rng_seed: RngSeed::Fixed(0x00f0_6a70),
            ..config
        },
        RngSeed::Fixed(_) => config,
    }
}

proptest! {
    #![proptest_config(seeded())]

    /// Whatever the true latencies within the intervals, a decided knee is their knee, and
    /// an undecided one is never above it.
    #[test]
    fn a_decided_knee_holds_for_every_latency_within_the_intervals(
        curve in any_curve(),
        draws in prop::collection::vec(0.0f64..1.0, 12),
    ) {
        let found = knee(&curve, 0.05);
        let truth: Vec<(u16, f64)> = curve
            .iter()
            .zip(&draws)
            .map(|(point, draw)| (point.share, point.low_s + draw * (point.high_s - point.low_s)))
            .collect();
        let (tolerance, efficacy) = naive(&truth);
        let rules = [
            (KneeRule::Tolerance, found.knee.tolerance, tolerance),
            (KneeRule::Efficacy, found.knee.efficacy, efficacy),
        ];
        for (rule, share, truth) in rules {
            let share = share.expect("at least two shares");
            if found.undecided_by.contains(&rule) {
                prop_assert!(share <= truth, "{rule:?}: {share} above {truth}");
            } else {
                prop_assert_eq!(share, truth, "{:?}", rule);
            }
        }
    }

    /// On a full grid the optima are those of trying every point.
    #[test]
    fn optima_are_those_of_trying_every_point(
        latencies in prop::collection::vec(0.001f64..0.05, 24),
        slo_s in prop::option::of(0.002f64..0.12),
        rate in prop::option::of(50.0f64..2000.0),
        blocking_s in 0.0f64..0.005,
        max_batch in 1u32..=6,
    ) {
        let mut model = ModelProfile::new("model", "hash", max_batch);
        (model.slo_s, model.arrival_rate) = (slo_s, rate);
        let places = (1..=6).flat_map(|batch| (1..=4).map(move |share| (batch, share)));
        model.grid = places
            .zip(&latencies)
            .map(|((batch, share), &latency_s)| point(batch, share, latency_s))
            .collect();
        let mut options = AnalysisOptions::new(4);
        options.blocking_s = blocking_s;
        // No fit: neighbours cost nothing, every point is measured.
        conclude(&mut model, &options);
        let limits = Limits { slo_s, arrival_rate: rate, max_batch, blocking_s };
        let allowed: Vec<(f64, f64, u32, u16)> = model
            .grid
            .iter()
            .filter(|point| point.batch <= max_batch)
            .map(|point| (point.median_s.expect("measured"), point.batch, point.share))
            .filter(|&(latency_s, batch, _)| slo_s.is_none_or(|slo_s| {
                let assembly_s = rate.map_or(0.0, |rate| f64::from(batch) / rate);
                latency_s + assembly_s <= slo_s && latency_s + blocking_s <= slo_s / 2.0
            }))
            .map(|(latency_s, batch, share)| {
                let work = latency_s * f64::from(share) / f64::from(batch);
                (latency_s * work, work, batch, share)
            })
            .collect();
        let best = |cost: fn(&(f64, f64, u32, u16)) -> f64| {
            let least = allowed.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
            least.map(|&(_, _, batch, share)| (batch, share))
        };
        prop_assert_eq!(place(&model.optima.efficacy), best(|point| point.0));
        prop_assert_eq!(place(&model.optima.work), best(|point| point.1));
        if let Some(why) = model.optima.work.infeasible() {
            prop_assert!(allowed.is_empty());
            let at = |batch: u32, share: u16| latencies[(batch as usize - 1) * 4 + usize::from(share) - 1];
            let nearest = limits.violation(why.nearest.batch, at(why.nearest.batch, why.nearest.share));
            prop_assert_eq!(nearest.map(|broken| broken.shortfall_s), Some(why.shortfall_s));
            for batch in 1..=max_batch {
                for share in 1..=4 {
                    let broken = limits.violation(batch, at(batch, share)).expect("infeasible");
                    prop_assert!(broken.shortfall_s >= why.shortfall_s);
                }
            }
        }
    }
}
