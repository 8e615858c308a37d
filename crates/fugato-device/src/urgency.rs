//! Whose kernels go first where models share multiprocessors.

use fugato_core::Nanos;

/// How far a model's kernels go before those of others on the same multiprocessors, where a
/// device has streams of several priorities: in steps below the most urgent.
///
/// It matters only where legs overlap, as under policy `uncontrolled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Urgency(u8);

impl Urgency {
    /// Behind all that are more urgent; that of a model without an objective.
    pub const LEAST: Self = Self(u8::MAX);

    /// Models with objectives up to this are the most urgent. Shorter ones are of models that take
    /// a third of a millisecond, whose waits for others are as short.
    const SHORTEST: Nanos = Nanos::from_millis(1);

    /// Steps from [`SHORTEST`](Self::SHORTEST) to 128 ms: what a device divides among its
    /// priorities. The objectives of D-STACK's mixes, 25, 50 and 100 ms, are then of three
    /// priorities where there are six, and those of small models that share a device, 3 to 20 ms,
    /// of three too.
    pub(crate) const RANGE: u8 = 14;

    /// That of a model with such an objective: two steps less for each time that it is twice as
    /// long.
    pub fn of_slo(slo: Option<Nanos>) -> Self {
        let Some(slo) = slo else { return Self::LEAST };
        let square = |time: Nanos| u128::from(time.as_nanos()).pow(2);
        let times = square(slo) / square(Self::SHORTEST);
        let steps = times.checked_ilog2().unwrap_or(0);
        Self(u8::try_from(steps).unwrap_or(u8::MAX))
    }

    /// Steps below the most urgent.
    pub fn steps(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_the_objective_the_more_urgent() {
        let steps = |millis| Urgency::of_slo(Some(Nanos::from_millis(millis))).steps();
        let cases = [
            (0, 0),
            (1, 0),
            (2, 2),
            (3, 3),
            (5, 4),
            (8, 6),
            (12, 7),
            (20, 8),
            (25, 9),
            (50, 11),
            (100, 13),
            (128, 14),
            (1_000, 19),
        ];
        for (millis, expected) in cases {
            assert_eq!(steps(millis), expected, "{millis} ms");
        }
        assert_eq!(Urgency::of_slo(None), Urgency::LEAST);
        let longest = Urgency::of_slo(Some(Nanos::new(u64::MAX)));
        assert!(longest < Urgency::LEAST, "{longest:?}");
    }
}
