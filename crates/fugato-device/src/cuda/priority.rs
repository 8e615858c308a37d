//! Priorities of streams, reckoned: nothing here calls the driver.

use crate::urgency::Urgency;

/// The priorities that streams of a device may have; the lower number goes first.
///
/// Source: the CUDA driver API's description of `cuCtxGetStreamPriorityRange`. A device that
/// knows no priorities answers 0 for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Priorities {
    pub(super) least: i32,
    pub(super) greatest: i32,
}

impl Priorities {
    /// Of a device whose streams all have the same.
    pub(super) const NONE: Self = Self {
        least: 0,
        greatest: 0,
    };

    /// That of streams for such models: the greatest for the most urgent, a step less for each
    /// step of theirs, and never less than the least.
    pub(super) fn of(self, urgency: Urgency) -> i32 {
        let below = self.greatest.saturating_add(urgency.steps().into());
        below.min(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::Nanos;

    #[test]
    fn urgent_models_have_the_greatest_priority_and_those_without_an_objective_the_least() {
        let objectives = [Some(5), Some(25), Some(50), Some(100), Some(10_000), None];
        // Of a device of six priorities, of two, of none, and of one that answers nonsense.
        let devices = [
            (0, -5, [-5, -4, -3, -2, 0, 0]),
            (0, -1, [-1, 0, 0, 0, 0, 0]),
            (0, 0, [0; 6]),
            (-3, 0, [-3; 6]),
        ];
        for (least, greatest, expected) in devices {
            let priorities = Priorities { least, greatest };
            let of = |millis: Option<u64>| Urgency::of_slo(millis.map(Nanos::from_millis));
            let found = objectives.map(|millis| priorities.of(of(millis)));
            assert_eq!(found, expected, "{priorities:?}");
        }
    }
}
