//! The measured profile where it is better, the online estimate otherwise: per model, by
//! the error of each one's own predictions.
//!
//! Before an observed time is taken in, both are asked what they would have said of it.
//! Two scores are kept of each over the last [`LOOK_BACK`] times: the median relative error of
//! the predicted median, and the mean pinball loss of the predicted 95th percentile. The
//! first one decides who is asked for quantiles up to [`TAIL_FROM`], the second one who is
//! asked for those above: a profile may know the middle of a latency well and, measured on
//! a quiet machine, its tail badly.
//!
//! The same look at each time tells drift: times that leave the profile's band for most of
//! the last [`LOOK_BACK`] legs.

use super::online::cheapest;
use super::{
    Demand, Kept, LatencyModel, ModelProfile, OnlineQuantiles, Prediction, Surface, SurfacePoint,
    Window,
};
use crate::flat::FlatMap;
use crate::id::{BatchSize, ModelId, Share};
use crate::time::Nanos;
use std::collections::VecDeque;

/// Times that the scores look back on.
const LOOK_BACK: usize = Window::SIZE;

/// How far behind the better of the two the one in use may be: where over so many times in
/// a row every error of one is below every error of the other, that one is in use.
pub const LAG: usize = LOOK_BACK / 2 + 1;

/// Times that both must have been asked about before their scores decide. Until then the
/// profile is asked: it rests on more.
pub const JUDGED_MIN: usize = 8;

/// Quantiles above this are a tail. Half-way between the two that are scored.
const TAIL_FROM: f64 = (0.5 + TAIL) / 2.0;

/// The quantile that stands for the tail; what admission asks for by default.
const TAIL: f64 = 0.95;

/// The most that one time adds to a tail's score, in thousandths of the time: a single
/// outlier must not decide.
const LOSS_MAX: u64 = 4_000;

/// How far past the profile's 95th percentile, or below its median, a time leaves the band,
/// in thousandths. The profiles of two runs on an unchanged machine differ by less.
const BAND: (u64, u64) = (1_100, 800);

/// Legs to look at before times are said to have left the band.
const DRIFT_LEGS: usize = LOOK_BACK / 2;

/// Of the last [`LOOK_BACK`] legs, in thousandths: outside the band for it to be drift, and for
/// it to be over.
const DRIFT_SHARE: (u64, u64) = (500, 250);

/// Answers of a profile that are kept: a model is asked about few batches, each in few places.
const SAID: usize = 1 << 8;

/// Who is asked for a model's latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Its measured profile.
    Profile,
    /// The estimate made while serving.
    Online,
}

/// How a model's profile and its online estimate stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Who is asked for medians.
    pub median: Source,
    /// Who is asked for high quantiles.
    pub tail: Source,
    /// Median relative error of the profile's medians; `None` before the first.
    pub profile_error: Option<f64>,
    /// Median relative error of the online estimate's medians at the same points.
    pub online_error: Option<f64>,
    /// Whether times have left the profile's band.
    pub drifted: bool,
}

/// A [`LatencyModel`] of measured profiles and [`OnlineQuantiles`]. Without a profile it
/// is the latter.
///
/// # Cost
/// A prediction is at most one of each; taking in a time is two of each.
#[derive(Debug, Default)]
pub struct Judged {
    online: OnlineQuantiles,
    profiled: FlatMap<ModelId, Profiled>,
}

/// A model with a profile.
#[derive(Debug)]
struct Profiled {
    /// By leg.
    surfaces: Vec<Surface>,
    /// What the surfaces said, which do not change.
    said: Kept,
    /// Slices of the device.
    slices: Share,
    demand: Option<Demand>,
    /// What legs take longer by the host's clock, where the surfaces are of the device's.
    host: Nanos,
    /// The measured batches by share, rising, with their medians alone.
    medians: Vec<Vec<(BatchSize, Nanos)>>,
    by_profile: Score,
    by_online: Score,
    /// Of the last legs, in thousandths: 1,000 outside the band, 0 within.
    outside: Recent,
    drifted: bool,
}

/// How well one of the two predicted the last times.
#[derive(Debug, Default)]
struct Score {
    /// Relative errors of the median, in thousandths.
    errors: Window,
    /// Pinball losses of the tail, in thousandths of the time.
    losses: Recent,
}

/// The mean of the last [`LOOK_BACK`] samples.
#[derive(Debug, Default)]
struct Recent {
    samples: VecDeque<u64>,
    sum: u64,
}

impl Recent {
    fn push(&mut self, sample: u64) {
        if self.samples.len() >= LOOK_BACK {
            self.sum -= self.samples.pop_front().unwrap_or(0);
        }
        self.samples.push_back(sample);
        self.sum += sample;
    }

    fn mean(&self) -> u64 {
        self.sum / (self.samples.len() as u64).max(1)
    }
}

impl Score {
    fn error(&self) -> Option<u64> {
        self.errors.quantile(0.5)
    }
}

impl Profiled {
    fn new(profile: &ModelProfile, slices: Share) -> Option<Self> {
        let measured = profile.grid.iter().filter(|point| point.times().is_some());
        let mut batches: Vec<_> = measured.map(|point| BatchSize(point.batch)).collect();
        batches.sort_unstable();
        batches.dedup();
        if batches.is_empty() {
            return None;
        }
        let legs = profile.each_leg();
        let surfaces: Vec<Surface> = legs.map(|leg| Surface::new(&leg, slices.0)).collect();
        let medians = (0..=slices.0).map(|share| {
            let median =
                |&batch: &BatchSize| Some((batch, in_turn(&surfaces, batch, Share(share))?));
            batches.iter().filter_map(median).collect()
        });
        Some(Self {
            medians: medians.collect(),
            surfaces,
            said: Kept::of(SAID),
            slices,
            demand: profile.interference.map(|known| Demand::new(known.demand)),
            host: profile.host_s.map_or(Nanos::ZERO, Nanos::from_secs_f64),
            by_profile: Score::default(),
            by_online: Score::default(),
            outside: Recent::default(),
            drifted: false,
        })
    }

    /// What the profile says; `None` beyond what it measured, and beside legs on the same
    /// slices, which it does not measure.
    fn predict(&self, point: SurfacePoint, quantile: f64) -> Option<Prediction> {
        let together = u32::from(point.share.0) + u32::from(point.neighbours.0);
        if together > u32::from(self.slices.0) {
            return None;
        }
        let surface = self.surfaces.get(usize::from(point.leg.0))?;
        self.said.get((point, quantile), 0, || {
            let neighbours = (point.neighbours, point.demand);
            surface.predict_beside(point.batch, point.share, neighbours, quantile)
        })
    }

    /// The median of all legs one after another, alone.
    fn whole(&self, batch: BatchSize, share: Share) -> Option<Nanos> {
        (share <= self.slices).then(|| in_turn(&self.surfaces, batch, share))?
    }

    fn source(&self, quantile: f64) -> Source {
        let better = if self.by_profile.errors.len() < JUDGED_MIN {
            true
        } else if quantile <= TAIL_FROM {
            self.by_profile.error() <= self.by_online.error()
        } else {
            self.by_profile.losses.mean() <= self.by_online.losses.mean()
        };
        if better {
            Source::Profile
        } else {
            Source::Online
        }
    }

    /// Judges both by a time that neither has seen.
    fn judge(&mut self, online: &OnlineQuantiles, point: SurfacePoint, took: Nanos) {
        let measured = |quantile| self.predict(point, quantile).map(|known| known.time);
        let Some((median, tail)) = measured(0.5).zip(measured(TAIL)) else {
            return;
        };
        self.watch(median, tail, took);
        let estimated = |quantile| online.predict(point, quantile).map(|known| known.time);
        let Some((online_median, online_tail)) = estimated(0.5).zip(estimated(TAIL)) else {
            return;
        };
        let unit = median.min(online_median);
        for (score, median, tail) in [
            (&mut self.by_profile, median, tail),
            (&mut self.by_online, online_median, online_tail),
        ] {
            score.errors.push(relative_error(median, took));
            score.losses.push(pinball_loss(tail, took, unit));
        }
    }

    /// Sees whether a time is within the profile's band. A leg that follows another at once hides
    /// what the host takes, so the band is the wider for it, and not another one.
    fn watch(&mut self, median: Nanos, tail: Nanos, took: Nanos) {
        let (above, below) = BAND;
        let longest = tail.scaled(above, 1_000) + self.host;
        let outside = took > longest || took < median.scaled(below, 1_000);
        self.outside.push(if outside { 1_000 } else { 0 });
        let (begins, ends) = DRIFT_SHARE;
        let (seen, share) = (self.outside.samples.len(), self.outside.mean());
        if seen >= DRIFT_LEGS && share > begins {
            self.drifted = true;
        } else if share < ends {
            self.drifted = false;
        }
    }

    /// The measured batches up to `max_batch`, and that one, with their medians.
    fn sizes(
        &self,
        share: Share,
        max_batch: BatchSize,
    ) -> impl Iterator<Item = (BatchSize, Nanos)> {
        let medians = self.medians.get(usize::from(share.0));
        let medians = medians.map_or(&[][..], Vec::as_slice);
        let below = medians.partition_point(|&(size, _)| size < max_batch);
        let largest = medians
            .get(below)
            .filter(|&&(size, _)| size == max_batch)
            .copied();
        let largest = largest.or_else(|| Some((max_batch, self.whole(max_batch, share)?)));
        medians[..below].iter().copied().chain(largest)
    }
}

/// The median of legs one after another, alone.
fn in_turn(legs: &[Surface], batch: BatchSize, share: Share) -> Option<Nanos> {
    let times = legs
        .iter()
        .map(|leg| leg.predict(batch, share, Share(0), 0.5));
    let whole = times.reduce(|sum, leg| Some(sum?.then(leg?)))??;
    Some(whole.time)
}

/// `|predicted - took| / took`, in thousandths.
fn relative_error(predicted: Nanos, took: Nanos) -> u64 {
    let off = Nanos::new(predicted.as_nanos().abs_diff(took.as_nanos()));
    off.scaled(1_000, took.as_nanos().max(1)).as_nanos()
}

/// What a predicted tail costs for a time: what it is too short by counts [`TAIL`], what it
/// is too long by the rest of 1. In thousandths of `unit`.
fn pinball_loss(predicted: Nanos, took: Nanos, unit: Nanos) -> u64 {
    let (short, long) = (950, 50);
    let off = predicted.as_nanos().abs_diff(took.as_nanos());
    let weight = if took > predicted { short } else { long };
    let loss = Nanos::new(off).scaled(weight, unit.as_nanos().max(1));
    loss.as_nanos().min(LOSS_MAX)
}

impl LatencyModel for Judged {
    fn predict(&self, point: SurfacePoint, quantile: f64) -> Option<Prediction> {
        let estimated = || self.online.predict(point, quantile);
        let Some(known) = self.profiled.get(point.model) else {
            return estimated();
        };
        let measured = || known.predict(point, quantile);
        match known.source(quantile) {
            Source::Profile => measured().or_else(estimated),
            Source::Online => estimated().or_else(measured),
        }
    }

    fn best_batch(
        &self,
        model: ModelId,
        share: Share,
        max_batch: BatchSize,
        within: Nanos,
    ) -> Option<BatchSize> {
        let estimated = || self.online.best_batch(model, share, max_batch, within);
        let Some(known) = self.profiled.get(model) else {
            return estimated();
        };
        let measured = || cheapest(known.sizes(share, max_batch), within);
        match known.source(0.5) {
            Source::Profile => measured().or_else(estimated),
            Source::Online => estimated().or_else(measured),
        }
    }

    fn observe(&mut self, point: SurfacePoint, took: Nanos) {
        if let Some(known) = self.profiled.get_mut(point.model) {
            known.judge(&self.online, point, took);
        }
        self.online.observe(point, took);
    }

    fn learn(&mut self, model: ModelId, profile: &ModelProfile, slices: Share) {
        match Profiled::new(profile, slices) {
            Some(known) => self.profiled.insert(model, known),
            None => self.profiled.remove(model),
        }
    }

    fn demand(&self, model: ModelId) -> Option<Demand> {
        self.profiled.get(model)?.demand
    }

    fn standing(&self, model: ModelId) -> Option<Standing> {
        let known = self.profiled.get(model)?;
        let error = |score: &Score| score.error().map(|error| error as f64 / 1e3);
        Some(Standing {
            median: known.source(0.5),
            tail: known.source(TAIL),
            profile_error: error(&known.by_profile),
            online_error: error(&known.by_online),
            drifted: known.drifted,
        })
    }

    fn forget(&mut self, model: ModelId) {
        self.online.forget(model);
        self.profiled.remove(model);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::LegIndex;
    use crate::profile::GridPoint;
    use proptest::prelude::*;

    const MODEL: ModelId = ModelId(3);

    /// Batches of 1 and 4 on 1 and 2 slices, at 100 us per item and slice, tails 20 % above.
    fn profile() -> ModelProfile {
        let mut profile = ModelProfile::new("model", "hash", 8);
        for (batch, share) in [(1, 1), (1, 2), (4, 1), (4, 2)] {
            let median_s = f64::from(batch) * 100e-6 / f64::from(share);
            profile.grid.push(GridPoint {
                batch,
                share,
                neighbours: 0,
                median_s: Some(median_s),
                p95_s: Some(1.2 * median_s),
                low_s: Some(median_s),
                high_s: Some(median_s),
                repeats: 9,
                failed: None,
            });
        }
        profile
    }

    fn judged() -> Judged {
        let mut judged = Judged::default();
        judged.learn(MODEL, &profile(), Share(2));
        judged
    }

    fn point(batch: u32, share: u16, neighbours: u16) -> SurfacePoint {
        SurfacePoint {
            model: MODEL,
            leg: LegIndex(0),
            batch: BatchSize(batch),
            share: Share(share),
            neighbours: Share(neighbours),
            demand: None,
        }
    }

    fn micros(judged: &Judged, point: SurfacePoint, quantile: f64) -> Option<u64> {
        let known = judged.predict(point, quantile)?;
        Some(known.time.as_nanos() / 1_000)
    }

    #[test]
    fn the_profile_speaks_first_and_only_where_it_measured() {
        let mut judged = judged();
        assert_eq!(micros(&judged, point(4, 2, 0), 0.5), Some(200));
        assert_eq!(micros(&judged, point(4, 2, 0), 0.95), Some(240));
        assert_eq!(
            micros(&judged, point(8, 2, 0), 0.5),
            None,
            "past its batches"
        );
        assert_eq!(
            micros(&judged, point(4, 2, 2), 0.5),
            None,
            "on slices in use"
        );
        let second = SurfacePoint {
            leg: LegIndex(1),
            ..point(1, 2, 0)
        };
        assert_eq!(micros(&judged, second, 0.5), None, "of another leg");
        judged.observe(point(8, 2, 0), Nanos::from_micros(700));
        assert_eq!(micros(&judged, point(8, 2, 0), 0.5), Some(700));
        judged.forget(MODEL);
        assert_eq!(judged.predict(point(4, 2, 0), 0.5), None);
        assert_eq!(judged.standing(MODEL), None);
    }

    #[test]
    fn the_better_one_is_asked_for_middles_and_for_tails() {
        let mut judged = judged();
        // The middle is as measured, and one time in four is three times as long.
        for turn in 0..200 {
            let took = if turn % 4 == 0 { 150 } else { 51 };
            judged.observe(point(1, 2, 0), Nanos::from_micros(took));
        }
        let standing = judged.standing(MODEL).expect("it has a profile");
        assert_eq!(standing.tail, Source::Online, "{standing:?}");
        assert_eq!(micros(&judged, point(1, 2, 0), 0.95), Some(150));
        // What takes twice as long as measured is better known online.
        for _ in 0..LAG {
            judged.observe(point(1, 2, 0), Nanos::from_micros(100));
        }
        let standing = judged.standing(MODEL).expect("it has a profile");
        assert_eq!(standing.median, Source::Online, "{standing:?}");
        assert_eq!(standing.profile_error, Some(0.5));
        assert_eq!(micros(&judged, point(1, 2, 0), 0.5), Some(100));
    }

    #[test]
    fn the_batch_to_plan_with_comes_from_whoever_is_asked() {
        let mut judged = judged();
        let best = |judged: &Judged, max, within| {
            let within = Nanos::from_micros(within);
            judged.best_batch(MODEL, Share(2), BatchSize(max), within)
        };
        assert_eq!(
            best(&judged, 4, 1_000),
            Some(BatchSize(4)),
            "the larger of equal ones"
        );
        assert_eq!(best(&judged, 4, 199), Some(BatchSize(1)));
        assert_eq!(
            best(&judged, 3, 1_000),
            Some(BatchSize(1)),
            "of those it knows"
        );
        for _ in 0..2 * LAG {
            judged.observe(point(1, 2, 0), Nanos::from_micros(100));
        }
        assert_eq!(best(&judged, 8, 1_000), Some(BatchSize(2)), "to try it");
    }

    #[test]
    fn drift_begins_and_ends_with_most_of_the_times() {
        let mut judged = judged();
        let drifted = |judged: &Judged| judged.standing(MODEL).map(|known| known.drifted);
        let mut observe = |times: usize, took| {
            for _ in 0..times {
                judged.observe(point(4, 1, 0), Nanos::from_micros(took));
            }
            drifted(&judged)
        };
        assert_eq!(observe(100, 430), Some(false), "within the band");
        assert_eq!(observe(32, 600), Some(false), "half of them");
        assert_eq!(observe(1, 600), Some(true), "most of them");
        assert_eq!(observe(48, 400), Some(true), "a quarter of them");
        assert_eq!(observe(1, 400), Some(false));
        assert_eq!(observe(100, 100), Some(true), "faster is drift too");
        judged.learn(MODEL, &profile(), Share(2));
        assert_eq!(drifted(&judged), Some(false), "a new profile begins anew");
    }

    #[test]
    fn what_the_host_takes_besides_is_no_drift() {
        let mut profile = profile();
        profile.host_s = Some(300e-6);
        let mut judged = Judged::default();
        judged.learn(MODEL, &profile, Share(2));
        // The tail is of 480 us, and the band of 528.
        for (took, drifted) in [(400, false), (820, false), (840, true)] {
            for _ in 0..100 {
                judged.observe(point(4, 1, 0), Nanos::from_micros(took));
            }
            let standing = judged.standing(MODEL).expect("it has a profile");
            assert_eq!(standing.drifted, drifted, "{took} us");
        }
    }

    proptest! {
        /// Whatever the times do, the one in use is the one whose last errors have the
        /// lower median; so none that was worse throughout [`LAG`] times is in use.
        #[test]
        fn the_one_in_use_lags_behind_the_better_by_no_more_than_stated(
            regimes in prop::collection::vec((20u64..400, 0u64..100, 1usize..150), 1..8),
            seed in any::<u64>(),
        ) {
            let (mut judged, mut online) = (judged(), OnlineQuantiles::default());
            let surface = Surface::new(&profile(), 2);
            let mut errors: Vec<(u64, u64)> = Vec::new();
            let mut state = seed | 1;
            for (level, noise, length) in regimes {
                for _ in 0..length {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let took = Nanos::from_micros(level + (state >> 33) % (noise + 1));
                    let at = point(if state >> 63 == 0 { 1 } else { 4 }, 2, 0);
                    let measured = surface.predict(at.batch, at.share, at.neighbours, 0.5);
                    let estimated = online.predict(at, 0.5);
                    if let (Some(measured), Some(estimated)) = (measured, estimated) {
                        errors.push((relative_error(measured.time, took), relative_error(estimated.time, took)));
                    }
                    judged.observe(at, took);
                    online.observe(at, took);
                    let used = judged.standing(MODEL).expect("it has a profile").median;
                    let last = &errors[errors.len().saturating_sub(LOOK_BACK)..];
                    if last.len() < JUDGED_MIN {
                        prop_assert_eq!(used, Source::Profile);
                        continue;
                    }
                    let median = |error: fn(&(u64, u64)) -> u64| {
                        let mut errors: Vec<u64> = last.iter().map(error).collect();
                        errors.sort_unstable();
                        errors[(errors.len() - 1) / 2]
                    };
                    let (by_profile, by_online) = (median(|error| error.0), median(|error| error.1));
                    let better = if by_profile <= by_online { Source::Profile } else { Source::Online };
                    prop_assert_eq!(used, better, "{} against {}", by_profile, by_online);
                    if let Some(last) = last.len().checked_sub(LAG).map(|from| &last[from..]) {
                        let worst = last.iter().map(|error| error.0).max();
                        let best = last.iter().map(|error| error.1).min();
                        prop_assert!(worst >= best || used == Source::Profile);
                        let worst = last.iter().map(|error| error.1).max();
                        let best = last.iter().map(|error| error.0).min();
                        prop_assert!(worst >= best || used == Source::Online);
                    }
                }
            }
        }
    }
}
