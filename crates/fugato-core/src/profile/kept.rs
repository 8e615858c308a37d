//! Answers about points, kept at hand.

use super::{Prediction, SurfacePoint};
use std::cell::Cell;

/// Answers that are kept, each in the one place that its question has.
///
/// An answer is kept with the `state` of what gave it; it is asked for anew in another state.
#[derive(Debug)]
pub(crate) struct Kept {
    places: Vec<Cell<Option<Answer>>>,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    point: SurfacePoint,
    quantile: u64,
    state: u64,
    prediction: Option<Prediction>,
}

impl Kept {
    /// Room for so many answers.
    ///
    /// # Panics
    /// Where that is no power of two.
    pub(crate) fn of(places: usize) -> Self {
        assert!(places.is_power_of_two(), "{places} places");
        Self {
            places: vec![Cell::new(None); places],
        }
    }

    /// The answer about a point in a state: the one that is kept, or the one that `ask` gives.
    pub(crate) fn get(
        &self,
        (point, quantile): (SurfacePoint, f64),
        state: u64,
        ask: impl FnOnce() -> Option<Prediction>,
    ) -> Option<Prediction> {
        let quantile = quantile.to_bits();
        let place = usize::try_from(mixed(point, quantile)).unwrap_or(0);
        let place = &self.places[place & (self.places.len() - 1)];
        if let Some(known) = place.get()
            && known.point == point
            && (known.quantile, known.state) == (quantile, state)
        {
            return known.prediction;
        }
        let prediction = ask();
        place.set(Some(Answer {
            point,
            quantile,
            state,
            prediction,
        }));
        prediction
    }
}

/// Spreads what is asked over the places.
fn mixed(point: SurfacePoint, quantile: u64) -> u64 {
    let what = u64::from(point.model.0) << 32 | u64::from(point.batch.0);
    let demand = point.demand.map_or(0, |demand| u64::from(demand.0) + 1);
    let place = demand << 48
        | u64::from(point.share.0) << 32
        | u64::from(point.neighbours.0) << 16
        | u64::from(point.leg.0);
    let one = what.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let other = (place ^ quantile).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    (one ^ other.rotate_left(29)) >> 40
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BatchSize, LegIndex, ModelId, Share};
    use crate::profile::Basis;
    use crate::time::Nanos;

    #[test]
    fn nothing_is_asked_twice_in_one_state() {
        let kept = Kept::of(4);
        let asked = Cell::new(0);
        let get = |batch: u32, quantile: f64, state: u64| {
            let point = SurfacePoint {
                model: ModelId(0),
                leg: LegIndex(0),
                batch: BatchSize(batch),
                share: Share(1),
                neighbours: Share(0),
                demand: None,
            };
            let answer = (batch > 0).then(|| Prediction {
                time: Nanos::from_secs_f64(f64::from(batch) + quantile + state as f64),
                basis: Basis::Measured,
            });
            let found = kept.get((point, quantile), state, || {
                asked.set(asked.get() + 1);
                answer
            });
            assert_eq!(found, answer, "batch {batch}, {quantile}, state {state}");
        };
        // That nothing is known is an answer.
        for batch in [3, 3, 0, 0] {
            get(batch, 0.5, 0);
        }
        let once = asked.get();
        assert!(once <= 3, "{once} questions");
        get(0, 0.5, 1);
        assert_eq!(asked.get(), once + 1, "in another state");
        // More questions than places.
        for batch in (0..40).chain(0..40) {
            get(batch, 0.5, 1);
            get(batch, 0.95, 1);
        }
    }
}
