//! The summary of a point's times: median, 95th percentile, and how sure the median is.
//!
//! Times come in **visits**: legs run one after another, then the point is left for the
//! others and visited again. Noise on a machine that others use comes in phases longer
//! than a visit, so that the legs of one visit are not independent of each other; visits
//! are what the interval resamples (a block bootstrap).

use super::Times;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Resamples of the bootstrap. At 1000 the ends of an interval move by less than a tenth
/// of its width from seed to seed.
const RESAMPLES: usize = 1_000;

/// Visits from which on visits are resampled. The extremes of four visits hold the median
/// of a fifth run only in 7 cases of 8, so that no resampling of so few gives 95 %.
const VISITS_MIN: usize = 5;

/// The widest factor that an interval of few visits reaches on either side, and that of
/// one visit: the times of one say nothing of how visits differ.
const FACTOR_MAX: f64 = 2.0;

/// Student's 97.5th percentile at 1, 2 and 3 degrees of freedom.
const STUDENT: [f64; 3] = [12.706, 4.303, 3.182];

/// The times of a point in seconds, from those of its legs by visit, in nanoseconds;
/// `None` without any.
///
/// The interval is the percentile interval of 95 % of the median, from resampled visits.
/// With fewer than 5 visits it is Student's, over the logarithms of their medians, at
/// least from the shortest to the longest and at most a factor of 2 to either side.
///
/// # Cost
/// O(1000 x legs) with at least 5 visits.
pub(super) fn summarise(visits: &[Vec<u64>], seed: u64) -> Option<Times> {
    let mut pooled: Vec<(u64, usize)> = Vec::new();
    for (visit, legs) in visits.iter().enumerate() {
        pooled.extend(legs.iter().map(|&nanos| (nanos, visit)));
    }
    pooled.sort_unstable();
    let once = vec![1; visits.len()];
    let median = quantile(&pooled, &once, 0.5)?;
    let p95 = quantile(&pooled, &once, 0.95)?;
    let (low, high) = if visits.len() < VISITS_MIN {
        of_few(visits, &pooled, median)
    } else {
        resampled(&pooled, visits.len(), seed)
    };
    Some(Times {
        median_s: seconds(median),
        p95_s: seconds(p95.max(median)),
        low_s: seconds(low.min(median)),
        high_s: seconds(high.max(median)),
    })
}

fn seconds(nanos: f64) -> f64 {
    nanos / 1e9
}

/// The quantile of the pooled times, each counted as often as its visit was drawn. Between
/// two times it is their mean, so that a median of two is not one of them.
fn quantile(pooled: &[(u64, usize)], drawn: &[u32], quantile: f64) -> Option<f64> {
    let count: u64 = pooled
        .iter()
        .map(|&(_, visit)| u64::from(drawn[visit]))
        .sum();
    let target = quantile * count as f64;
    let mut below = 0u64;
    let mut times = pooled.iter().filter(|&&(_, visit)| drawn[visit] > 0);
    while let Some(&(nanos, visit)) = times.next() {
        below += u64::from(drawn[visit]);
        let reached = below as f64 - target;
        if reached > 1e-9 {
            return Some(nanos as f64);
        }
        if reached > -1e-9 {
            let next = times.next().map_or(nanos, |&(next, _)| next);
            return Some(f64::midpoint(nanos as f64, next as f64));
        }
    }
    None
}

fn resampled(pooled: &[(u64, usize)], visits: usize, seed: u64) -> (f64, f64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = vec![0u32; visits];
    let mut medians: Vec<f64> = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        drawn.fill(0);
        for _ in 0..visits {
            drawn[rng.random_range(0..visits)] += 1;
        }
        medians.extend(quantile(pooled, &drawn, 0.5));
    }
    medians.sort_unstable_by(f64::total_cmp);
    let tail = RESAMPLES * 25 / 1_000;
    let at = |index: usize| medians.get(index).copied().unwrap_or(f64::NAN);
    (at(tail), at(RESAMPLES - 1 - tail))
}

fn of_few(visits: &[Vec<u64>], pooled: &[(u64, usize)], median: f64) -> (f64, f64) {
    let ends = pooled.first().zip(pooled.last());
    let (shortest, longest) = ends.map_or((median, median), |(first, last)| {
        (first.0 as f64, last.0 as f64)
    });
    let mut drawn = vec![0u32; visits.len()];
    let logs: Vec<f64> = (0..visits.len())
        .filter_map(|visit| {
            drawn.fill(0);
            drawn[visit] = 1;
            quantile(pooled, &drawn, 0.5).map(f64::ln)
        })
        .collect();
    let count = logs.len() as f64;
    let factor = match logs.len().checked_sub(2).and_then(|i| STUDENT.get(i)) {
        None => FACTOR_MAX,
        Some(student) => {
            let mean = logs.iter().sum::<f64>() / count;
            let squares = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>();
            let deviation = (squares / (count - 1.0)).sqrt();
            (student * deviation / count.sqrt()).exp().min(FACTOR_MAX)
        }
    };
    (
        shortest.max(median / FACTOR_MAX).min(median / factor),
        longest.min(median * FACTOR_MAX).max(median * factor),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Nanos;
    use proptest::prelude::*;

    fn times(visits: &[Vec<u64>]) -> Times {
        summarise(visits, 7).unwrap()
    }

    #[test]
    fn nothing_measured_is_no_times() {
        assert_eq!(summarise(&[], 0), None);
        assert_eq!(summarise(&[vec![], vec![]], 0), None);
    }

    #[test]
    fn one_visit_says_nothing_of_the_others() {
        let found = times(&[vec![2_000_000_000]]);
        assert!((found.median_s - 2.0).abs() < 1e-12);
        assert!((found.low_s - 1.0).abs() < 1e-12 && (found.high_s - 4.0).abs() < 1e-12);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        let found = times(&[vec![10, 30], vec![20, 40]]);
        assert!((found.median_s - 25e-9).abs() < 1e-18);
    }

    #[test]
    fn equal_visits_leave_no_doubt() {
        let found = times(&vec![vec![5_000, 5_000]; 6]);
        assert_eq!(
            (found.low_s, found.high_s),
            (found.median_s, found.median_s)
        );
    }

    #[test]
    fn doubt_grows_with_the_difference_of_visits_not_of_their_legs() {
        // The same times, once spread over the legs of each visit, once over visits.
        let within: Vec<Vec<u64>> = (0..8).map(|_| vec![100, 140, 100, 140]).collect();
        let between: Vec<Vec<u64>> = (0..8).map(|v| vec![100 + 40 * (v % 2); 4]).collect();
        let width = |visits: &[Vec<u64>]| times(visits).high_s - times(visits).low_s;
        assert!(
            width(&between) > 2.0 * width(&within),
            "{}",
            width(&between)
        );
    }

    /// Visits whose logarithms are normal around a known median: the interval holds it
    /// about as often as it says.
    #[test]
    fn the_interval_holds_the_true_median() {
        for (visits, at_least) in [(2, 85), (3, 85), (5, 85), (8, 85), (20, 88)] {
            let mut held = 0;
            for seed in 0..200u64 {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let mut normal = || {
                    let sum: f64 = (0..12).map(|_| rng.random::<f64>()).sum();
                    sum - 6.0
                };
                let drawn: Vec<Vec<u64>> = (0..visits)
                    .map(|_| {
                        let phase = 0.05 * normal();
                        let leg = |noise: f64| 1e-3 * (phase + 0.01 * noise).exp();
                        let leg = |noise| Nanos::from_secs_f64(leg(noise)).as_nanos();
                        (0..4).map(|_| leg(normal())).collect()
                    })
                    .collect();
                let found = summarise(&drawn, seed).unwrap();
                held += u32::from(found.low_s <= 1e-3 && 1e-3 <= found.high_s);
            }
            assert!(held >= at_least * 2, "{held} of 200 with {visits} visits");
        }
    }

    proptest! {
        #[test]
        fn the_median_lies_in_its_interval(
            visits in prop::collection::vec(prop::collection::vec(1u64..1_000_000_000_000, 1..6), 1..12),
            seed: u64,
        ) {
            let found = summarise(&visits, seed).unwrap();
            prop_assert!(found.low_s > 0.0);
            prop_assert!(found.low_s <= found.median_s && found.median_s <= found.high_s);
            prop_assert!(found.median_s <= found.p95_s);
            prop_assert_eq!(Some(found), summarise(&visits, seed), "same seed, same interval");
        }
    }
}
