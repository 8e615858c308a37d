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

    /// Models with shorter objectives than this are the most urgent. The objectives of D-STACK's
    /// mixes, 25, 50 and 100 ms, are then a step apart each, with one left above them.
    const SHORTEST: Nanos = Nanos::from_millis(20);

    /// That of a model with such an objective: one step less for each time that it is twice as
    /// long.
    pub fn of_slo(slo: Option<Nanos>) -> Self {
        let Some(slo) = slo else { return Self::LEAST };
        let times = slo.as_nanos() / Self::SHORTEST.as_nanos();
        let steps = times.checked_ilog2().map_or(0, |doublings| doublings + 1);
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
            (19, 0),
            (20, 1),
            (25, 1),
            (39, 1),
            (40, 2),
            (50, 2),
            (100, 3),
            (160, 4),
            (1_000, 6),
        ];
        for (millis, expected) in cases {
            assert_eq!(steps(millis), expected, "{millis} ms");
        }
        assert_eq!(Urgency::of_slo(None), Urgency::LEAST);
        let longest = Urgency::of_slo(Some(Nanos::new(u64::MAX)));
        assert!(longest < Urgency::LEAST, "{longest:?}");
    }
}
