//! What to measure next of a model that is served without a profile: by bisection over the
//! shares, batch by batch.
//!
//! # Source
//! D-STACK (TCC 2024): a model that was never profiled begins at a nominal 30 % of the
//! device, and its knee is searched for by halving, on the latency it shows. Ours differs:
//! the search is repeated for batches of 1, 2, 4, .. each from the knee of the one before,
//! because the knee grows with the batch; and the whole device is measured first at each,
//! as the end of the search and because latency may also fall as the share does.

use super::GridPoint;
use crate::id::{BatchSize, Share};
use crate::time::Nanos;
use std::collections::{BTreeMap, BTreeSet};

/// The share that a model begins at, in thousandths of the device (D-STACK).
const NOMINAL: u32 = 300;

/// A share is enough where its median is within this of the best one's, in thousandths:
/// the default tolerance of the knee.
const ENOUGH: u64 = 1_050;

/// Runs of a point before those that count: the first one may have to make the point's
/// sessions, and fills its caches.
const WARM_UP: u32 = 2;

/// Runs of a point that count: the fewest whose second smallest and second largest hold the
/// median in 95 of 100 cases, whatever its distribution.
const REPEATS: usize = 9;

/// A point to measure, alone on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BisectionPoint {
    /// Items in the batch.
    pub batch: BatchSize,
    /// Slices.
    pub share: Share,
}

/// A survey of one model by bisection. It says what to measure, and is told the times.
///
/// # Cost
/// At most (log2 of the shares + 2) points per batch, of 11 runs each.
#[derive(Clone, Debug)]
pub struct Bisection {
    /// Those that the device has partitions of, rising; the last one is the whole.
    shares: Vec<Share>,
    max_batch: BatchSize,
    batch: BatchSize,
    /// Where the knee of this batch lies among the shares, ends included.
    range: (usize, usize),
    /// The share that is looked at first.
    first: usize,
    /// The point that is being measured.
    at: Option<usize>,
    warm_up: u32,
    samples: Vec<Nanos>,
    /// By batch and place of the share: the median.
    medians: BTreeMap<(BatchSize, usize), Nanos>,
    /// The places that cannot be measured at this batch.
    refused: BTreeSet<usize>,
    points: Vec<GridPoint>,
}

impl Bisection {
    /// A survey of a model of batches up to `max_batch` over `shares`; `None` without any.
    #[must_use]
    pub fn new(shares: impl IntoIterator<Item = Share>, max_batch: BatchSize) -> Option<Self> {
        let mut shares: Vec<Share> = shares.into_iter().collect();
        shares.sort_unstable();
        shares.dedup();
        let whole = u32::from(shares.last()?.0);
        let nominal = |share: &Share| u32::from(share.0) * 1_000 >= whole * NOMINAL;
        let first = shares.iter().position(nominal)?;
        let mut survey = Self {
            range: (0, shares.len() - 1),
            shares,
            max_batch,
            batch: BatchSize(1),
            first,
            at: None,
            warm_up: WARM_UP,
            samples: Vec::with_capacity(REPEATS),
            medians: BTreeMap::new(),
            refused: BTreeSet::new(),
            points: Vec::new(),
        };
        survey.choose();
        Some(survey)
    }

    /// What to run next; `None` where all is known.
    #[must_use]
    pub fn next(&self) -> Option<BisectionPoint> {
        Some(BisectionPoint {
            batch: self.batch,
            share: self.shares[self.at?],
        })
    }

    /// How long that may take, judged from what was measured: a batch takes no more than in
    /// proportion to a smaller one, and so does a smaller share. `None` before the first
    /// time.
    #[must_use]
    pub fn expected(&self) -> Option<Nanos> {
        let at = self.at?;
        if let Some(&last) = self.samples.last() {
            return Some(last);
        }
        let known = self.medians.range(..=(self.batch, usize::MAX));
        let scaled = known.map(|(&(batch, place), &median)| {
            let larger = self.shares[place].0.max(self.shares[at].0);
            let median = median.scaled(u64::from(self.batch.0), u64::from(batch.0));
            median.scaled(u64::from(larger), u64::from(self.shares[at].0))
        });
        scaled.min()
    }

    /// Takes in the time of a run of [`next`](Self::next). Says whether that was the last
    /// one of its batch.
    pub fn record(&mut self, took: Nanos) -> bool {
        let Some(at) = self.at else { return false };
        if self.warm_up > 0 {
            self.warm_up -= 1;
            return false;
        }
        self.samples.push(took);
        if self.samples.len() < REPEATS {
            return false;
        }
        let mut sorted = std::mem::take(&mut self.samples);
        sorted.sort_unstable();
        let median = sorted[REPEATS / 2];
        self.medians.insert((self.batch, at), median);
        let secs = |time: Nanos| Some(time.as_secs_f64());
        self.points.push(GridPoint {
            median_s: secs(median),
            // Of so few, the largest is the one that is nearest to it.
            p95_s: secs(sorted[REPEATS - 1]),
            low_s: secs(sorted[1]),
            high_s: secs(sorted[REPEATS - 2]),
            repeats: u32::try_from(REPEATS).unwrap_or(u32::MAX),
            ..self.point(at, None)
        });
        self.choose_on()
    }

    /// Notes that [`next`](Self::next) cannot be measured, and why. A share that cannot be
    /// is not enough; where the whole device cannot, neither can larger batches. Says
    /// whether that was the last one of its batch.
    pub fn refuse(&mut self, reason: &str) -> bool {
        let Some(at) = self.at else { return false };
        self.points.push(self.point(at, Some(reason)));
        self.samples.clear();
        self.refused.insert(at);
        if at + 1 == self.shares.len() {
            self.at = None;
            return true;
        }
        self.choose_on()
    }

    /// Chooses the next point; says whether it is of another batch, or none is left.
    fn choose_on(&mut self) -> bool {
        let batch = self.batch;
        self.choose();
        self.at.is_none() || self.batch != batch
    }

    /// What has been measured, and what failed.
    #[must_use]
    pub fn points(&self) -> &[GridPoint] {
        &self.points
    }

    /// The knee at a measured batch: the smallest share that was found enough.
    fn knee(&self) -> usize {
        self.range.1
    }

    fn point(&self, at: usize, failed: Option<&str>) -> GridPoint {
        GridPoint {
            batch: self.batch.0,
            share: self.shares[at].0,
            neighbours: 0,
            median_s: None,
            p95_s: None,
            low_s: None,
            high_s: None,
            repeats: 0,
            failed: failed.map(str::to_owned),
        }
    }

    fn median(&self, at: usize) -> Option<Nanos> {
        self.medians.get(&(self.batch, at)).copied()
    }

    /// Chooses the next point: of this batch, else of the next.
    fn choose(&mut self) {
        self.warm_up = WARM_UP;
        self.at = self.within_batch();
        if self.at.is_some() {
            return;
        }
        if self.batch >= self.max_batch {
            return;
        }
        self.first = self.knee();
        self.batch = BatchSize(self.batch.0.saturating_mul(2)).min(self.max_batch);
        self.range = (0, self.shares.len() - 1);
        self.refused.clear();
        self.at = self.within_batch();
    }

    fn within_batch(&mut self) -> Option<usize> {
        let whole = self.shares.len() - 1;
        for needed in [whole, self.first] {
            if self.median(needed).is_none() && !self.refused.contains(&needed) {
                return Some(needed);
            }
        }
        let of_batch = self.medians.range((self.batch, 0)..=(self.batch, whole));
        let best = of_batch.map(|(_, &median)| median).min()?;
        let enough = best.scaled(ENOUGH, 1_000);
        let mut half = self.first;
        while self.range.0 < self.range.1 {
            let (low, high) = self.range;
            if half >= high || half < low {
                half = low + (high - low) / 2;
            }
            match self.median(half) {
                None if self.refused.contains(&half) => self.range.0 = half + 1,
                None => return Some(half),
                Some(median) if median <= enough => self.range.1 = half,
                Some(_) => self.range.0 = half + 1,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a survey where a batch of `b` takes `b * unit / min(share, knee)`, and a little
    /// more for each slice beyond the knee.
    fn survey(slices: u16, max_batch: u32, knee: impl Fn(u32) -> u16) -> (Bisection, u32) {
        let shares = (1..=slices).map(Share);
        let survey = Bisection::new(shares, BatchSize(max_batch));
        let mut survey = survey.expect("there are shares");
        let mut runs = 0;
        while let Some(point) = survey.next() {
            let useful = point.share.0.min(knee(point.batch.0));
            let took = u64::from(point.batch.0) * 840_000 / u64::from(useful);
            let over = u64::from(point.share.0 - useful);
            let expected = survey.expected();
            assert!(
                expected.is_none_or(|most| most.as_nanos() + 200 >= took),
                "{point:?}"
            );
            survey.record(Nanos::new(took + over));
            runs += 1;
            assert!(runs < 10_000, "it does not end");
        }
        (survey, runs)
    }

    #[test]
    fn two_slices_are_both_measured_at_every_batch() {
        let (survey, runs) = survey(2, 6, |_| 1);
        let places = |point: &GridPoint| (point.batch, point.share);
        let points: Vec<_> = survey.points().iter().map(places).collect();
        let of_batch = |batch| [(batch, 2), (batch, 1)];
        assert_eq!(points, [1, 2, 4, 6].map(of_batch).concat());
        assert_eq!(runs, 8 * 11);
    }

    #[test]
    fn a_share_that_cannot_be_measured_is_not_enough_and_the_whole_is_the_end() {
        let shares = [1, 2, 4].map(Share);
        let mut survey = Bisection::new(shares, BatchSize(8)).expect("there are shares");
        let run = |survey: &mut Bisection| {
            let point = survey.next().expect("it has not ended");
            (0..11).for_each(|_| {
                survey.record(Nanos::new(100));
            });
            (point.batch.0, point.share.0)
        };
        assert_eq!(run(&mut survey), (1, 4));
        assert!(
            survey.refuse("it is too long"),
            "and fewer slices are too few"
        );
        assert_eq!(run(&mut survey), (2, 4));
        assert!(survey.refuse("it is too long"));
        let next = survey.next().map(|point| (point.batch.0, point.share.0));
        assert_eq!(next, Some((4, 4)));
        assert!(survey.refuse("it is too long"));
        assert_eq!(survey.next(), None);
        let failed = |point: &GridPoint| point.failed.is_some();
        let failed: Vec<bool> = survey.points().iter().map(failed).collect();
        assert_eq!(failed, [false, true, false, true, true]);
    }

    proptest! {
        #[test]
        fn the_knee_is_found_in_few_points(slices in 1u16..133, part in 1u32..101, max_batch in 1u32..17) {
            let knee = |batch: u32| {
                let grows = u32::from(slices) * part * batch / max_batch / 100;
                u16::try_from(grows).unwrap_or(slices).clamp(1, slices)
            };
            let (survey, runs) = survey(slices, max_batch, knee);
            let mut batches: Vec<u32> = survey.points().iter().map(|point| point.batch).collect();
            batches.dedup();
            let most = batches.len() * (slices.ilog2() as usize + 4);
            prop_assert!(runs as usize <= most * 11, "{runs} runs of {slices} slices, {batches:?}");
            for batch in batches {
                // The smallest share within 5 % of the best is not far below the true knee.
                let of_batch = survey.points().iter().filter(|point| point.batch == batch);
                let best = of_batch.clone().filter_map(|point| point.median_s).fold(f64::MAX, f64::min);
                let enough = of_batch.filter(|point| point.median_s.is_some_and(|time| time <= best * 1.05));
                let found = enough.map(|point| point.share).min().expect("one is the best");
                let truth = knee(batch);
                prop_assert!(found <= truth && f64::from(found) >= f64::from(truth) / 1.06 - 1.0, "{found} for {truth}");
            }
        }
    }
}
