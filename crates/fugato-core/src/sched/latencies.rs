//! The latency model, with what it was asked of late at hand.

use crate::id::{BatchSize, ModelId, Share};
use crate::profile::{
    Demand, Kept, LatencyModel, ModelProfile, Prediction, Standing, SurfacePoint,
};
use crate::time::Nanos;

/// Predictions that are kept at hand.
const PLACES: usize = 1 << 10;

/// A latency model that is not asked twice for the same: one event asks several times for few
/// points, and their answers change only when the model learns.
#[derive(Debug)]
pub(super) struct Latencies {
    model: Box<dyn LatencyModel>,
    known: Kept,
    /// How often something was learned, of the models whose ids are equal modulo its length.
    learned: Vec<u64>,
    /// Whether a profile was learned that tells neighbours apart.
    tells_apart: bool,
}

impl Latencies {
    pub(super) fn new(model: Box<dyn LatencyModel>) -> Self {
        Self {
            model,
            known: Kept::of(PLACES),
            learned: vec![0; PLACES],
            tells_apart: false,
        }
    }

    pub(super) fn predict(&self, point: SurfacePoint, quantile: f64) -> Option<Prediction> {
        let learned = self.learned[place(u64::from(point.model.0))];
        let ask = || self.model.predict(point, quantile);
        self.known.get((point, quantile), learned, ask)
    }

    pub(super) fn best_batch(
        &self,
        model: ModelId,
        share: Share,
        max_batch: BatchSize,
        within: Nanos,
    ) -> Option<BatchSize> {
        self.model.best_batch(model, share, max_batch, within)
    }

    pub(super) fn observe(&mut self, point: SurfacePoint, took: Nanos) {
        self.changed(point.model);
        self.model.observe(point, took);
    }

    pub(super) fn learn(&mut self, model: ModelId, profile: &ModelProfile, slices: Share) {
        self.changed(model);
        self.tells_apart |= profile.interference.is_some();
        self.model.learn(model, profile, slices);
    }

    /// See [`LatencyModel::demand`]; nothing is asked before a profile knows any.
    pub(super) fn demand(&self, model: ModelId) -> Option<Demand> {
        match self.tells_apart {
            true => self.model.demand(model),
            false => None,
        }
    }

    pub(super) fn standing(&self, model: ModelId) -> Option<Standing> {
        self.model.standing(model)
    }

    pub(super) fn forget(&mut self, model: ModelId) {
        self.changed(model);
        self.model.forget(model);
    }

    fn changed(&mut self, model: ModelId) {
        self.learned[place(u64::from(model.0))] += 1;
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number % PLACES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::LegIndex;
    use crate::profile::OnlineQuantiles;
    use proptest::prelude::*;

    proptest! {
        /// Over enough points that some share a place.
        #[test]
        fn it_says_what_the_model_says(
            steps in prop::collection::vec(
                (0_u32..3, 0_u32..2_000, 1_u32..40, 1_u16..4, any::<bool>()), 1..400,
            ),
        ) {
            let mut plain = OnlineQuantiles::default();
            let mut kept = Latencies::new(Box::<OnlineQuantiles>::default());
            for (step, model, batch, share, tail) in steps {
                let point = SurfacePoint {
                    model: ModelId(model / 500 * 512 + model % 3),
                    leg: LegIndex(0),
                    batch: BatchSize(batch),
                    share: Share(share),
                    neighbours: Share(0),
                    demand: None,
                };
                if step == 0 {
                    plain.observe(point, Nanos::new(u64::from(model)));
                    kept.observe(point, Nanos::new(u64::from(model)));
                } else if step == 1 && model < 20 {
                    plain.forget(point.model);
                    kept.forget(point.model);
                }
                let quantile = if tail { 0.95 } else { 0.5 };
                prop_assert_eq!(kept.predict(point, quantile), plain.predict(point, quantile));
            }
        }
    }
}
