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

    /// That of streams for such models: the greatest for the most urgent, the least for those that
    /// are a [range](Urgency::RANGE) of steps or more below, and the others in equal parts between
    /// them, as many as the device has. A device of many priorities has one for each step.
    pub(super) fn of(self, urgency: Urgency) -> i32 {
        let count = i64::from(self.least) - i64::from(self.greatest) + 1;
        let (steps, range) = (i64::from(urgency.steps()), i64::from(Urgency::RANGE));
        let below = (steps * count.min(range) / range).min(count - 1).max(0);
        let below = i32::try_from(below).unwrap_or(i32::MAX);
        match urgency == Urgency::LEAST || count <= 1 {
            true => self.least,
            false => self.greatest.saturating_add(below).min(self.least),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::Nanos;

    #[test]
    fn urgent_models_have_the_greatest_priority_and_those_without_an_objective_the_least() {
        let objectives = [
            Some(1),
            Some(5),
            Some(8),
            Some(25),
            Some(50),
            Some(100),
            Some(10_000),
            None,
        ];
        // Of a device of six priorities, of three, of two, of none, and of one that answers
        // nonsense.
        let devices = [
            (0, -5, [-5, -4, -3, -2, -1, 0, 0, 0]),
            (0, -2, [-2, -2, -1, -1, 0, 0, 0, 0]),
            (0, -1, [-1, -1, -1, 0, 0, 0, 0, 0]),
            (0, 0, [0; 8]),
            (-3, 0, [-3; 8]),
        ];
        for (least, greatest, expected) in devices {
            let priorities = Priorities { least, greatest };
            let of = |millis: Option<u64>| Urgency::of_slo(millis.map(Nanos::from_millis));
            let found = objectives.map(|millis| priorities.of(of(millis)));
            assert_eq!(found, expected, "{priorities:?}");
        }
    }

    #[test]
    fn models_of_one_mix_below_twenty_milliseconds_are_of_several_priorities() {
        let priorities = Priorities {
            least: 0,
            greatest: -5,
        };
        let of = |millis| priorities.of(Urgency::of_slo(Some(Nanos::from_millis(millis))));
        assert_eq!([3, 7, 10, 19].map(of), [-4, -3, -3, -2]);
        // Never a greater priority for a longer objective, on whatever device.
        for count in 1..40 {
            let priorities = Priorities {
                least: 0,
                greatest: 1 - count,
            };
            let of = |millis| priorities.of(Urgency::of_slo(Some(Nanos::from_millis(millis))));
            let all: Vec<i32> = (0..400).map(of).collect();
            assert!(all.is_sorted(), "{count}: {all:?}");
            let in_range = |one: &i32| (priorities.greatest..=priorities.least).contains(one);
            assert!(all.iter().all(in_range), "{count}: {all:?}");
        }
    }
}
