//! Surveys of surfaces whose truth is known.

use super::*;
use crate::profile::{BatchKnee, Knee, KneeRule, OptimumPoint};
use proptest::prelude::*;

fn key(batch: u32, share: u16, neighbours: u16) -> PointKey {
    PointKey {
        batch,
        share,
        neighbours,
    }
}

fn survey() -> Survey {
    Survey::new(&[1, 4], &[1, 2], 2, SurveyOptions::default())
}

/// 10 ms an item on one slice, two thirds of it on two.
fn truth(point: PointKey) -> Nanos {
    let one = Nanos::from_millis(10).times(u64::from(point.batch));
    if point.share == 2 {
        one.scaled(2, 3)
    } else {
        one
    }
}

/// Makes visits until nothing is wanted; gives the points in order.
fn run(survey: &mut Survey) -> Vec<Wanted> {
    let mut order = Vec::new();
    while let Some(wanted) = survey.next() {
        order.push(wanted);
        let legs = vec![truth(wanted.point); wanted.legs as usize];
        survey.record(wanted.point, &legs);
        assert!(order.len() < 10_000, "a survey ends");
    }
    order
}

#[test]
fn every_share_is_measured_alone_and_beside_busy_slices() {
    let mut survey = survey();
    run(&mut survey);
    let keys: Vec<PointKey> = survey.grid().iter().map(GridPoint::key).collect();
    let expected = [1, 4].map(|b| [key(b, 1, 0), key(b, 1, 1), key(b, 2, 0)]);
    assert_eq!(keys, expected.concat());
    assert!(survey.is_covered());
    assert_eq!(survey.left(), Nanos::default());
}

#[test]
fn rounds_visit_all_points_and_turn_around() {
    let mut survey = survey();
    let order = run(&mut survey);
    assert_eq!(order.len(), 6 * 5);
    let round = |n: usize| order[6 * n..6 * (n + 1)].iter().map(|wanted| wanted.point);
    assert!(round(1).eq(round(0).rev()), "{order:?}");
    assert!(round(2).eq(round(0)));
    assert!(
        order
            .iter()
            .enumerate()
            .all(|(i, wanted)| wanted.visits as usize == i / 6)
    );
}

#[test]
fn short_legs_are_repeated_and_warmed_up_and_long_ones_run_once() {
    let mut survey = survey();
    let order = run(&mut survey);
    let at = |point| order.iter().filter(move |wanted| wanted.point == point);
    let shape = |point| -> Vec<(u32, u32)> {
        at(point)
            .map(|wanted| (wanted.warm_up, wanted.legs))
            .collect()
    };
    // Nothing is known of the first: one leg. Then three of 10 ms fill 30 ms.
    assert_eq!(
        shape(key(1, 1, 0)),
        [(2, 1), (1, 3), (1, 3), (1, 3), (1, 3)]
    );
    // Its session has run alone.
    assert_eq!(shape(key(1, 1, 1))[0], (1, 3));
    // 40 ms, as the batch of one says.
    assert_eq!(
        shape(key(4, 1, 0)),
        [(1, 1), (0, 1), (0, 1), (0, 1), (0, 1)]
    );
}

#[test]
fn a_point_that_fails_is_kept_with_its_reason_and_the_others_go_on() {
    let mut survey = survey();
    survey.fail(key(4, 2, 0), "no memory");
    let order = run(&mut survey);
    assert!(order.iter().all(|wanted| wanted.point != key(4, 2, 0)));
    let grid = survey.grid();
    assert_eq!(grid.len(), 6);
    let failed = grid
        .iter()
        .find(|point| point.key() == key(4, 2, 0))
        .unwrap();
    assert_eq!(failed.failed.as_deref(), Some("no memory"));
    assert_eq!((failed.repeats, failed.median_s), (0, None));
}

#[test]
fn what_is_taken_over_is_not_measured_again() {
    let mut first = survey();
    run(&mut first);
    let mut second = survey();
    for point in first.grid() {
        second.keep(point);
    }
    assert_eq!(second.next(), None);
    assert_eq!(second.grid(), first.grid());
}

#[test]
fn a_resumed_survey_goes_on_where_the_first_was_stopped() {
    let mut whole = survey();
    let order = run(&mut whole);
    let mut stopped = survey();
    for wanted in &order[..17] {
        let legs = vec![truth(wanted.point); wanted.legs as usize];
        stopped.record(wanted.point, &legs);
    }
    let mut resumed = survey();
    for (point, visits) in stopped.visits() {
        resumed.resume(point, visits.to_vec());
    }
    let rest: Vec<PointKey> = run(&mut resumed)
        .iter()
        .map(|wanted| wanted.point)
        .collect();
    let expected: Vec<PointKey> = order[17..].iter().map(|wanted| wanted.point).collect();
    assert_eq!(rest, expected);
    assert_eq!(resumed.grid(), whole.grid());
    // In a process of its own, so its sessions have to be warmed up again.
    assert!(stopped.visits().count() == 6);
}

/// What is concluded where the knee at batch 4 is open, and nothing else.
fn undecided() -> ModelProfile {
    let knee = BatchKnee {
        batch: 4,
        knee: Knee::default(),
        undecided_by: vec![KneeRule::Tolerance],
    };
    ModelProfile {
        knees: vec![knee],
        ..ModelProfile::new("m", "h", 4)
    }
}

#[test]
fn the_budget_goes_where_a_decision_is_open() {
    let mut survey = survey();
    run(&mut survey);
    // Times that differ from visit to visit, so that no interval is narrow.
    let noisy = |visit: u32| Nanos::from_millis(100 + u64::from(visit % 7) * 20);
    for point in survey.points.iter_mut() {
        point.visits = (0..5).map(|v| vec![noisy(v).as_nanos()]).collect();
        point.summary.take();
    }
    assert_eq!(survey.next(), None, "nothing hangs on any");
    survey.focus(&undecided());
    let mut order = Vec::new();
    while let Some(wanted) = survey.next() {
        survey.record(wanted.point, &[noisy(wanted.visits)]);
        order.push(wanted.point);
        survey.focus(&undecided());
    }
    let visited: BTreeSet<PointKey> = order.iter().copied().collect();
    assert_eq!(visited, BTreeSet::from([key(4, 1, 0), key(4, 2, 0)]));
    assert_eq!(
        order.len(),
        2 * 55,
        "to the most visits, since it stays open"
    );
}

#[test]
fn rivals_of_an_optimum_are_measured_on() {
    let mut survey = survey();
    run(&mut survey);
    for point in survey.points.iter_mut() {
        point.visits = (1..=5).map(|v| vec![v * 1_000]).collect();
        point.summary.take();
    }
    let mut concluded = ModelProfile::new("m", "h", 4);
    concluded.optima.work = Optimum::At(OptimumPoint {
        batch: 4,
        share: 1,
        granted: 1,
        latency_s: 1.0,
        measured: true,
        rivals: vec![Candidate { batch: 1, share: 1 }],
    });
    survey.focus(&concluded);
    let wanted: Vec<PointKey> = (0..2)
        .map(|_| {
            let wanted = survey.next().unwrap();
            survey.record(wanted.point, &[Nanos::new(1)]);
            wanted.point
        })
        .collect();
    // In reverse, since the round is an odd one; work counts on a full device.
    assert_eq!(wanted, [key(4, 1, 1), key(1, 1, 1)]);
}

#[test]
fn a_narrow_interval_ends_a_point() {
    let mut survey = survey();
    run(&mut survey);
    survey.focus(&undecided());
    assert_eq!(survey.next(), None, "every leg took the same time");
}

proptest! {
    /// Whatever times and failures come, a survey ends, visits each point as often as it
    /// must, and reports each.
    #[test]
    fn a_survey_ends_and_reports_every_point(
        batches in prop::collection::btree_set(1u32..64, 1..4),
        slices in 1u16..5,
        outcomes in prop::collection::vec(prop::option::weighted(0.95, 1u64..2_000_000_000), 1..40),
    ) {
        let batches: Vec<u32> = batches.into_iter().collect();
        let shares: Vec<u16> = (1..=slices).collect();
        let mut survey = Survey::new(&batches, &shares, slices, SurveyOptions::default());
        let points = batches.len() * (2 * shares.len() - 1);
        let mut outcomes = outcomes.iter().cycle();
        let mut visits = 0;
        while let Some(wanted) = survey.next() {
            prop_assert!(wanted.legs >= 1 && wanted.legs <= 16);
            prop_assert!(wanted.visits < 5, "nothing is open");
            match outcomes.next().unwrap() {
                Some(nanos) => {
                    let legs = vec![Nanos::new(*nanos); wanted.legs as usize];
                    survey.record(wanted.point, &legs);
                }
                None => survey.fail(wanted.point, "failed"),
            }
            visits += 1;
            prop_assert!(visits <= 5 * points);
        }
        prop_assert!(survey.is_covered());
        let grid = survey.grid();
        prop_assert_eq!(grid.len(), points);
        let mut profile = ModelProfile::new("m", "hash", 64);
        profile.grid = grid;
        prop_assert_eq!(profile.check(slices), Ok(()));
    }
}
