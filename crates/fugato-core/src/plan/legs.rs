//! Stages joined into legs.

use super::{Leg, Stage};
use crate::id::BatchSize;
use crate::time::Nanos;

/// How long legs should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegLimits {
    /// Stages are joined until a leg is at least this long: what dispatching it costs must
    /// be little beside it.
    pub min: Nanos,
    /// Of a leg that is longer the plan says in how many parts of its batch none would be.
    pub max: Nanos,
}

impl Default for LegLimits {
    /// 500 us, fifteen to forty times what a dispatch costs where a thread is woken, and 2 ms,
    /// which an urgent task can wait.
    fn default() -> Self {
        Self {
            min: Nanos::from_micros(500),
            max: Nanos::from_millis(2),
        }
    }
}

impl LegLimits {
    /// The legs of these stages: each as short as `min` allows, the rest joined to the last.
    #[must_use]
    pub(super) fn legs(self, stages: &[Stage], batch: BatchSize) -> Vec<Leg> {
        let mut legs: Vec<Leg> = Vec::new();
        let mut first = 0;
        let mut length = Nanos::ZERO;
        let mut place = 0;
        for stage in stages {
            place += 1;
            length += stage.predicted;
            if length >= self.min {
                legs.push(self.leg(first..place, length, batch));
                (first, length) = (place, Nanos::ZERO);
            }
        }
        if first < place {
            // What is left is too short for a leg of its own.
            let rest = match legs.pop() {
                Some(last) => self.leg(last.stages.start..place, last.predicted + length, batch),
                None => self.leg(first..place, length, batch),
            };
            legs.push(rest);
        }
        legs
    }

    fn leg(self, stages: std::ops::Range<u32>, predicted: Nanos, batch: BatchSize) -> Leg {
        let parts = predicted.as_nanos().div_ceil(self.max.as_nanos().max(1));
        let parts = parts.clamp(1, u64::from(batch.0.max(1)));
        Leg {
            stages,
            sub_batches: u32::try_from(parts).unwrap_or(u32::MAX),
            predicted,
        }
    }
}
