//! The latency surface of one model: its measured points, and the fitted model between
//! them.

use super::file::{Fit, Interference, ModelProfile, PointKey, Times};
use super::fit::median;
use super::{Basis, Demand, Prediction};
use crate::flat::FlatMap;
use crate::id::{BatchSize, Share};
use crate::time::Nanos;

/// What is known of one model's latency over (batch, share), for any part of the other
/// slices busy.
#[derive(Clone, Debug)]
pub struct Surface {
    slices: u16,
    measured: FlatMap<Rank, Times>,
    fit: Option<Fit>,
    /// 95th percentile over median, at the median point: what an unmeasured point is given.
    tail: f64,
    /// See [`Surface::expected_error`].
    error: f64,
    interference: Option<Interference>,
}

/// A median latency, and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The median, in seconds.
    pub median_s: f64,
    /// 95th percentile, in seconds.
    pub p95_s: f64,
    /// Lower end of the median's interval, in seconds; of an estimate, by the error of the
    /// fit.
    pub low_s: f64,
    /// Upper end of the median's interval, in seconds; of an estimate, by the error of the
    /// fit.
    pub high_s: f64,
    /// Whether this very point was measured; alone, where the cost of neighbours is not
    /// known.
    pub measured: bool,
    /// Whether it was asked beside busy neighbours and what they cost is not known: then
    /// the times are those of the model alone.
    pub neighbours_unknown: bool,
}

/// What the other slices do meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Nothing.
    Alone,
    /// All of them are busy.
    Busy,
}

/// A point's place in the order of points as one number, which compares at once: by batch,
/// then share, then neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u64);

impl Rank {
    fn of(point: PointKey) -> Self {
        let (share, neighbours) = (u64::from(point.share), u64::from(point.neighbours));
        Self(u64::from(point.batch) << 32 | share << 16 | neighbours)
    }

    /// The batch and the share.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "cut to the bits that each has"
    )]
    const fn place(self) -> (u32, u16) {
        ((self.0 >> 32) as u32, (self.0 >> 16) as u16)
    }
}

impl Surface {
    /// The surface of a whole model on a device of `slices` slices, with the fit that the
    /// profile carries.
    #[must_use]
    pub fn new(model: &ModelProfile, slices: u16) -> Self {
        let measured: FlatMap<Rank, Times> = model
            .grid
            .iter()
            .filter_map(|point| Some((Rank::of(point.key()), point.times()?)))
            .collect();
        let tails = measured
            .values()
            .iter()
            .map(|times| times.p95_s / times.median_s);
        Self {
            slices,
            tail: median(tails.collect()).unwrap_or(1.0),
            error: model.fit.as_ref().map_or(0.0, expected_error),
            measured,
            fit: model.fit.clone(),
            interference: model.interference,
        }
    }

    /// The `quantile` (0 to 1) of the latency of `batch` on `share` slices while
    /// `neighbours` other slices are busy; `None` outside the range that was measured.
    ///
    /// The profile knows the median and the 95th percentile. Between them the answer is
    /// linear in the quantile; below the median it is the median, above the 95th
    /// percentile it is the 95th percentile. Where the cost of busy neighbours was not
    /// measured the answer is the latency alone, marked [`Basis::Extrapolated`].
    #[must_use]
    pub fn predict(
        &self,
        batch: BatchSize,
        share: Share,
        neighbours: Share,
        quantile: f64,
    ) -> Option<Prediction> {
        self.predict_beside(batch, share, (neighbours, None), quantile)
    }

    /// As [`predict`](Self::predict), with the busy slices busy with what demands so much of
    /// what all slices share; with the same model where that is `None`.
    ///
    /// # Source
    /// Where all other slices busy with the same model cost `c` of the time, such ones cost
    /// `c + f * sensitivity * (demand - its own demand)`, where `f` is what makes `c` of the
    /// model's `sensitivity * demand`, within a factor of 4 ([`Interference::at`]). So they cost
    /// `c` where they demand what the model does, in proportion where they demand more or less,
    /// and what its sensitivity says where it demands nothing. A profile without interference
    /// does not tell them apart.
    #[must_use]
    pub fn predict_beside(
        &self,
        batch: BatchSize,
        share: Share,
        (neighbours, demand): (Share, Option<Demand>),
        quantile: f64,
    ) -> Option<Prediction> {
        let point = PointKey {
            batch: batch.0,
            share: share.0,
            neighbours: neighbours.0,
        };
        let estimate = self.estimate(point)?;
        let towards_tail = ((quantile - 0.5) / 0.45).clamp(0.0, 1.0);
        let seconds = estimate.median_s + towards_tail * (estimate.p95_s - estimate.median_s);
        let seconds = match demand {
            Some(demand) => seconds * self.against_own_kind(point, demand),
            None => seconds,
        };
        Some(Prediction {
            time: Nanos::from_secs_f64(seconds),
            basis: if estimate.neighbours_unknown {
                Basis::Extrapolated
            } else {
                Basis::Measured
            },
        })
    }

    /// The latency at a point: measured there, or fitted; `None` outside the range.
    #[must_use]
    pub fn estimate(&self, point: PointKey) -> Option<Estimate> {
        if let Some(times) = self.measured.get(Rank::of(point)) {
            return Some(Estimate {
                median_s: times.median_s,
                p95_s: times.p95_s,
                low_s: times.low_s,
                high_s: times.high_s,
                measured: true,
                neighbours_unknown: false,
            });
        }
        if point.neighbours == 0 {
            return self.fitted(point);
        }
        let alone = self.estimate(PointKey {
            neighbours: 0,
            ..point
        })?;
        let slowdown = self.slowdown(point, alone.median_s);
        let factor = slowdown.unwrap_or(1.0);
        Some(Estimate {
            median_s: alone.median_s * factor,
            p95_s: alone.p95_s * factor,
            low_s: alone.low_s * factor,
            high_s: alone.high_s * factor,
            measured: alone.measured && slowdown.is_none(),
            neighbours_unknown: slowdown.is_none(),
        })
    }

    /// The latency with the other slices as `load` says.
    #[must_use]
    pub fn under(&self, batch: u32, share: u16, load: Load) -> Option<Estimate> {
        let neighbours = match load {
            Load::Alone => 0,
            Load::Busy => self.slices.saturating_sub(share),
        };
        self.estimate(PointKey {
            batch,
            share,
            neighbours,
        })
    }

    /// The relative error to reckon with at a point that was not measured: the 90th
    /// percentile of the fit's errors at points it was not shown, or at its own points
    /// where none was left out. Not the worst, which on a large grid is a disturbed
    /// measurement; 0 without a fit, which answers nothing.
    #[must_use]
    pub const fn expected_error(&self) -> f64 {
        self.error
    }

    /// Every (batch, share) that the surface answers, up to `max_batch` items, in rising
    /// order.
    pub(super) fn places(&self, max_batch: u32) -> Vec<(u32, u16)> {
        let measured = self.measured.keys().iter();
        let measured = measured.map(|rank| rank.place());
        let fitted = self.fit.iter().flat_map(|fit| {
            let range = fit.range;
            (range.batch_min..=range.batch_max.min(max_batch)).flat_map(move |batch| {
                (range.share_min..=range.share_max).map(move |share| (batch, share))
            })
        });
        let mut places: Vec<_> = measured
            .filter(|(batch, _)| *batch <= max_batch)
            .chain(fitted)
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    fn fitted(&self, point: PointKey) -> Option<Estimate> {
        let fit = self.fit.as_ref()?;
        let range = fit.range;
        let inside = (range.batch_min..=range.batch_max).contains(&point.batch)
            && (range.share_min..=range.share_max).contains(&point.share);
        if !inside {
            return None;
        }
        let median_s = fit
            .model
            .latency_s(f64::from(point.batch), f64::from(point.share));
        let error = self.error;
        Some(Estimate {
            median_s,
            p95_s: median_s * self.tail,
            low_s: median_s * (1.0 - error).max(0.0),
            high_s: median_s * (1.0 + error),
            measured: false,
            neighbours_unknown: false,
        })
    }

    /// What busy neighbours multiply the latency by; `None` where that is not known.
    fn slowdown(&self, point: PointKey, alone_s: f64) -> Option<f64> {
        let part = self.busy_part(point)?;
        let contention = self.contention(point, alone_s)?;
        Some((1.0 + contention * part).max(f64::EPSILON))
    }

    /// What neighbours of this demand multiply the latency by, over what as many of the same
    /// model do; 1 where that is not known.
    fn against_own_kind(&self, point: PointKey, demand: Demand) -> f64 {
        let Some(model) = self.interference else {
            return 1.0;
        };
        if point.neighbours == 0 || demand == Demand::new(model.demand) {
            return 1.0;
        }
        let alone = self.estimate(PointKey {
            neighbours: 0,
            ..point
        });
        let Some(part) = self.busy_part(point) else {
            return 1.0;
        };
        let own = alone.and_then(|alone| self.contention(point, alone.median_s));
        let Some(own) = own else {
            // Then the prediction is the time alone.
            return 1.0 + model.sensitivity * demand.get() * part;
        };
        // Of the neighbours, too: as much as its own kind has here.
        let times = model.strength(Some(own)).powi(2);
        let more = times * model.sensitivity * (demand.get() - model.demand);
        let longer = (own + more).max(own.min(0.0));
        (1.0 + longer * part) / (1.0 + own * part).max(f64::EPSILON)
    }

    /// The part of the other slices that is busy; `None` where there are none.
    fn busy_part(&self, point: PointKey) -> Option<f64> {
        let others = self.slices.checked_sub(point.share).filter(|&n| n > 0)?;
        Some(f64::from(point.neighbours.min(others)) / f64::from(others))
    }

    /// How much longer a run takes with all other slices busy with the same model, as a part of
    /// its time alone: from the point where it was measured, else from the fit; `None` where
    /// neither is known.
    fn contention(&self, point: PointKey, alone_s: f64) -> Option<f64> {
        let others = self.slices.checked_sub(point.share)?;
        let full = self.measured.get(Rank::of(PointKey {
            neighbours: others,
            ..point
        }));
        match (full, &self.fit) {
            (Some(times), _) => Some(times.median_s / alone_s - 1.0),
            (None, Some(fit)) => fit.contention,
            (None, None) => None,
        }
    }
}

fn expected_error(fit: &Fit) -> f64 {
    let unseen = fit.points.iter().filter_map(|point| point.held_out_error);
    let mut errors: Vec<f64> = unseen.collect();
    if errors.is_empty() {
        errors = fit.points.iter().map(|point| point.error).collect();
    }
    errors.sort_by(f64::total_cmp);
    // The least error that nine in ten do not exceed.
    let rank = (errors.len() * 9).div_ceil(10);
    rank.checked_sub(1).map_or(0.0, |rank| errors[rank])
}
