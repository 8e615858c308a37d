//! Latencies of many requests in little memory.

use crate::time::Nanos;

/// Buckets per doubling: a quantile is at most 1/512 above the exact one.
const PRECISION: u32 = 9;

/// Counts of times in buckets that grow with the time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: Nanos,
}

impl Histogram {
    /// Counts one time.
    pub fn record(&mut self, time: Nanos) {
        let bucket = bucket_of(time.as_nanos());
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.longest = self.longest.max(time);
    }

    /// Counts all that another one has counted.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    /// The least time that `quantile` (0 to 1) of the times do not exceed, to 0.2 %;
    /// `None` before the first.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the rank is between 1 and the count"
    )]
    pub fn quantile(&self, quantile: f64) -> Option<Nanos> {
        let rank = (quantile * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank.min(self.total) && seen > 0 {
                return Some(Nanos::new(end_of(bucket)).min(self.longest));
            }
        }
        None
    }
}

/// Times below 2^(PRECISION + 1) ns have buckets of their own; each doubling after that has
/// 2^PRECISION buckets.
fn bucket_of(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(PRECISION + 1);
    let bucket = (u64::from(shift) << PRECISION) + (nanos >> shift);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The longest time of a bucket.
fn end_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> PRECISION).saturating_sub(1);
    let first = bucket - (shift << PRECISION);
    ((first + 1) << shift).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_at_most_a_five_hundredth_above_the_exact_ones(
            mut times in prop::collection::vec(0_u64..1 << 40, 1..200),
            per_mille in 0_u64..=1_000,
        ) {
            let mut histogram = Histogram::default();
            for &time in &times {
                histogram.record(Nanos::new(time));
            }
            times.sort_unstable();
            let quantile = per_mille as f64 / 1e3;
            let rank = (quantile * times.len() as f64).ceil().max(1.0);
            let rank = times.iter().zip(1_u32..).find(|&(_, place)| f64::from(place) >= rank);
            let exact = *rank.expect("a rank up to the count").0;
            let found = histogram.quantile(quantile).expect("some times").as_nanos();
            prop_assert!(found >= exact && found - exact <= exact >> PRECISION, "{found} for {exact}");
        }
    }

    #[test]
    fn merging_counts_both() {
        let (mut one, mut two) = (Histogram::default(), Histogram::default());
        assert_eq!(one.quantile(0.5), None);
        one.record(Nanos::new(10));
        two.record(Nanos::from_millis(7));
        one.merge(&two);
        assert_eq!(one.quantile(0.5), Some(Nanos::new(10)));
        assert_eq!(one.quantile(1.0), Some(Nanos::from_millis(7)));
    }
}
