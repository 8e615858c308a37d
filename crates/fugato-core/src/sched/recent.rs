//! How much of something came in of late.

use crate::time::{Nanos, Timestamp};

/// An amount that came in of late: that of the running period of 2^`SHIFT` ns, and the part
/// of the last one that is less than a period ago.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recent<const SHIFT: u32> {
    period: u64,
    running: u64,
    last: u64,
}

impl<const SHIFT: u32> Recent<SHIFT> {
    /// As it stands in a later period.
    fn in_period(self, period: u64) -> Self {
        match period.saturating_sub(self.period) {
            0 => self,
            1 => Self {
                period,
                running: 0,
                last: self.running,
            },
            _ => Self {
                period,
                ..Self::default()
            },
        }
    }

    /// Takes in an amount.
    pub(super) fn add(&mut self, now: Timestamp, amount: u64) {
        *self = self.in_period(now.as_nanos() >> SHIFT);
        self.running += amount;
    }

    /// Adds another one up with this one, as of the later one's period.
    pub(super) fn join(&mut self, other: Self) {
        let period = self.period.max(other.period);
        let other = other.in_period(period);
        *self = self.in_period(period);
        self.running += other.running;
        self.last += other.last;
    }

    /// Takes out what was joined.
    pub(super) fn part(&mut self, other: Self) {
        let other = other.in_period(self.period);
        self.running -= other.running;
        self.last -= other.last;
    }

    /// What came in over the last 2^`SHIFT` ns.
    pub(super) fn recent(self, now: Timestamp) -> u64 {
        let known = self.in_period(now.as_nanos() >> SHIFT);
        let past = now.as_nanos() & ((1 << SHIFT) - 1);
        let left = (1 << SHIFT) - past;
        known.running + Nanos::new(known.last).scaled(left, 1 << SHIFT).as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_fades_within_two_periods() {
        let period = Nanos::new(1 << 29);
        let mut usage = Recent::<29>::default();
        let start = Timestamp::ZERO + period;
        usage.add(start, 1_000);
        assert_eq!(usage.recent(start), 1_000);
        assert_eq!(usage.recent(start + period), 1_000);
        let half = Nanos::new(period.as_nanos() / 2);
        assert_eq!(usage.recent(start + period + half), 500);
        assert_eq!(usage.recent(start + period + period), 0);
        let mut all = Recent::<29>::default();
        all.join(usage);
        let mut other = Recent::<29>::default();
        other.add(start + period, 7);
        all.join(other);
        assert_eq!(all.recent(start + period + half), 507);
        all.part(usage);
        assert_eq!(all.recent(start + period + half), 7);
    }
}
