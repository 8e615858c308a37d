//! The legs of models: concluded from what was measured of them ([`LegProfile::measured`]), or an
//! **assumption** for simulations where nobody has.
//!
//! Assumed legs add up to the whole model at every measured point, so that cutting it
//! changes nothing by itself; what a boundary costs, the simulated device adds. Where in the
//! model the parallel work is, a profile does not say, and it is drawn from a seed:
//!
//! | profile | legs |
//! |---|---|
//! | synthetic | its kernels in an order that is drawn, cut as soon as the next one would make the leg too long. A kernel that is too long is a leg |
//! | measured | of each batch the time at the best share, and what smaller shares add to it. A leg has a part of each, drawn apart: that of the first from 0.5 to 1.5 of an even part, that of the second from 0.25 to 1.75 times as much. A leg that has less of what is added has its knee lower than the model |
//!
//! How long a leg is counts at the model's largest batch, or at the largest that it is to run
//! in where that is smaller, and at its knee.

use super::analyse::{AnalysisOptions, analyse, conclude};
use super::file::{Fit, GridPoint, LegProfile, ModelProfile, Profile};
use super::parallelism::{Kernel, KernelList};
use super::surface::{Estimate, Load, Surface};
use crate::id::BatchSize;
use crate::time::Nanos;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The most legs that a model is cut into: more than any length from half a millisecond on
/// gives, and few enough for the tables of all legs.
const LEGS_MAX: usize = 256;

/// How a model is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// The longest leg, at the largest batch and the model's knee.
    pub leg_max: Nanos,
    /// What is drawn, is drawn from this.
    pub seed: u64,
}

impl Profile {
    /// The same models, cut into legs that are marked as
    /// [`assumed`](LegProfile::assumed). A model that has legs keeps them; one that is
    /// shorter than `leg_max`, or of which nothing is measured, stays whole.
    ///
    /// # Cost
    /// Each leg has a table as large as its model's.
    #[must_use]
    pub fn divided(&self, division: Division) -> Self {
        self.divided_within(division, |_| None)
    }

    /// As [`divided`](Self::divided), of models that run in no larger batches than `most` says by
    /// name: what a server cuts is the batch it was given, not the largest that was measured.
    #[must_use]
    pub fn divided_within(
        &self,
        division: Division,
        most: impl Fn(&str) -> Option<BatchSize>,
    ) -> Self {
        let mut divided = self.clone();
        let mut options = AnalysisOptions::new(self.device.slices);
        options.interval_floor = 0.0;
        for (model, index) in divided.models.iter_mut().zip(0_u64..) {
            if !model.legs.is_empty() {
                continue;
            }
            let batch = most(&model.name).map_or(u32::MAX, |most| most.0);
            let batch = batch.min(largest(model));
            let mut rng = ChaCha8Rng::seed_from_u64(division.seed);
            rng.set_stream(index);
            let kernels = model.fit.as_ref().filter(|_| self.synthetic);
            let mut legs = match kernels {
                Some(fit) => by_kernels(model, fit, (division.leg_max, batch), &mut rng),
                None => {
                    let length = (division.leg_max, batch);
                    by_points(model, self.device.slices, length, &mut rng)
                }
            };
            if legs.len() > 1 {
                legs.iter_mut().for_each(|leg| conclude(leg, &options));
                let legs = legs.iter().map(|leg| LegProfile::of(leg, true));
                model.legs = legs.collect();
            }
        }
        divided
    }
}

impl LegProfile {
    /// What follows from the points that were measured of a leg, as from those of a model that
    /// runs at most `max_batch` items: its fit and its knee.
    #[must_use]
    pub fn measured(grid: Vec<GridPoint>, max_batch: u32, options: &AnalysisOptions) -> Self {
        let mut leg = ModelProfile {
            grid,
            ..ModelProfile::new("leg", "leg", max_batch)
        };
        analyse(&mut leg, options);
        Self::of(&leg, false)
    }
}

impl ModelProfile {
    /// The same model, cut into legs that take these parts of its time each, at every point: a
    /// plan says what its legs take at one batch and share, and how far others differ is
    /// **assumed** away until they ran.
    ///
    /// # Shape
    /// One part per leg; they are taken relative to their sum.
    #[must_use]
    pub fn cut(&self, parts: &[f64]) -> Self {
        let total: f64 = parts.iter().sum();
        let leg = |&part: &f64| {
            let part = part / total;
            let scaled = |point: &GridPoint| {
                let scaled = |time: Option<f64>| time.map(|time| time * part);
                GridPoint {
                    median_s: scaled(point.median_s),
                    p95_s: scaled(point.p95_s),
                    low_s: scaled(point.low_s),
                    high_s: scaled(point.high_s),
                    ..point.clone()
                }
            };
            // Time is linear in how often each kernel runs.
            let fit = self.fit.as_ref().map(|fit| {
                let mut model = fit.model.clone();
                model
                    .kernels
                    .iter_mut()
                    .for_each(|kernel| kernel.repeats *= part);
                Fit {
                    model,
                    points: Vec::new(),
                    ..fit.clone()
                }
            });
            let leg = Self {
                knee: self.knee,
                grid: self.grid.iter().map(scaled).collect(),
                fit,
                ..blank(self)
            };
            LegProfile::of(&leg, true)
        };
        let legs = match parts.len() > 1 && total > 0.0 {
            true => parts.iter().map(leg).collect(),
            false => Vec::new(),
        };
        Self {
            legs,
            ..self.whole()
        }
    }
}

/// A leg of a model, with nothing known of it.
fn blank(model: &ModelProfile) -> ModelProfile {
    ModelProfile {
        sparse: model.sparse,
        ..ModelProfile::new(model.name.clone(), model.hash.clone(), model.max_batch)
    }
}

fn by_kernels(
    model: &ModelProfile,
    fit: &Fit,
    (leg_max, batch): (Nanos, u32),
    rng: &mut ChaCha8Rng,
) -> Vec<ModelProfile> {
    let mut order: Vec<Kernel> = Vec::new();
    for kernel in &fit.model.kernels {
        let mut left = kernel.repeats;
        while left > 0.0 {
            let repeats = left.min(1.0);
            order.push(Kernel { repeats, ..*kernel });
            left -= 1.0;
        }
    }
    order.shuffle(rng);
    let (batch, share) = (f64::from(batch), f64::from(knee(model)));
    let long = |kernels: &[Kernel]| {
        let times = kernels.iter();
        let times = times.map(|kernel| kernel.latency_s(batch, share, fit.model.sync_s));
        times.sum::<f64>() > leg_max.as_secs_f64()
    };
    let mut legs: Vec<Vec<Kernel>> = Vec::new();
    for kernel in order {
        match legs.last_mut() {
            Some(leg) => {
                leg.push(kernel);
                if leg.len() > 1 && long(leg) && legs.len() < LEGS_MAX {
                    let next = legs.last_mut().and_then(Vec::pop);
                    legs.push(next.into_iter().collect());
                }
            }
            None => legs.push(vec![kernel]),
        }
    }
    let legs = legs.into_iter().map(|mut kernels| {
        kernels.sort_by(|a, b| b.width.total_cmp(&a.width));
        let list = KernelList {
            kernels,
            sync_s: fit.model.sync_s,
        };
        let time = |point: &GridPoint| {
            let median_s = list.latency_s(f64::from(point.batch), f64::from(point.share));
            with_times(point, [median_s; 4])
        };
        ModelProfile {
            grid: model.grid.iter().map(time).collect(),
            fit: Some(Fit {
                model: list.clone(),
                points: Vec::new(),
                ..fit.clone()
            }),
            ..blank(model)
        }
    });
    legs.collect()
}

fn by_points(
    model: &ModelProfile,
    slices: u16,
    (leg_max, batch): (Nanos, u32),
    rng: &mut ChaCha8Rng,
) -> Vec<ModelProfile> {
    let surface = Surface::new(model, slices);
    let Some(whole) = surface.under(batch, knee(model), Load::Alone) else {
        return Vec::new();
    };
    let even = whole.median_s / leg_max.as_secs_f64();
    for count in (1..=LEGS_MAX).skip_while(|&count| (count as f64) < even) {
        let serial = parts(count, 0.5..=1.5, rng);
        let spread = parts(count, 0.25..=1.75, rng);
        let parallel: Vec<f64> = serial.iter().zip(&spread).map(|(a, b)| a * b).collect();
        let total: f64 = parallel.iter().sum();
        let parallel = parallel.iter().map(|part| part / total);
        let parts: Vec<(f64, f64)> = serial.iter().copied().zip(parallel).collect();
        let legs: Vec<ModelProfile> = parts
            .iter()
            .map(|&parts| part_of(model, &surface, slices, parts))
            .collect();
        let at = |leg: &ModelProfile| {
            let leg = Surface::new(leg, slices);
            leg.under(batch, knee(model), Load::Alone)
        };
        let short =
            |leg: &ModelProfile| at(leg).is_none_or(|leg| leg.median_s <= leg_max.as_secs_f64());
        if legs.iter().all(short) {
            return legs;
        }
    }
    Vec::new()
}

/// Parts of 1, each drawn from a range of even ones.
fn parts(count: usize, range: std::ops::RangeInclusive<f64>, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let (low, high) = (*range.start(), *range.end());
    let drawn: Vec<f64> = (0..count)
        .map(|_| low + (high - low) * rng.random::<f64>())
        .collect();
    let total: f64 = drawn.iter().sum();
    drawn.iter().map(|part| part / total).collect()
}

/// The leg that has these parts of the time at the best share, and of what smaller shares add
/// to it; at every batch, since between measured ones it has no fit to ask.
fn part_of(
    model: &ModelProfile,
    surface: &Surface,
    slices: u16,
    (serial, parallel): (f64, f64),
) -> ModelProfile {
    let mut leg = blank(model);
    let shares: Vec<u16> = (1..=slices).collect();
    for batch in 1..=largest(model) {
        let at = |share| surface.under(batch, share, Load::Alone);
        let times = shares.iter().filter_map(|&share| at(share));
        let Some(best) = times.map(|time| time.median_s).min_by(f64::total_cmp) else {
            continue;
        };
        for &share in &shares {
            for load in [Load::Alone, Load::Busy] {
                let known = surface.under(batch, share, load);
                let Some((alone, known)) = at(share).zip(known) else {
                    continue;
                };
                let busy = load == Load::Busy;
                if busy && (share == slices || known.neighbours_unknown) {
                    continue;
                }
                let own = serial * best + parallel * (alone.median_s - best);
                let point = GridPoint {
                    batch,
                    share,
                    neighbours: if busy { slices - share } else { 0 },
                    median_s: None,
                    p95_s: None,
                    low_s: None,
                    high_s: None,
                    repeats: 1,
                    failed: None,
                };
                let scale = own / alone.median_s;
                leg.grid.push(with_times(&point, times_of(known, scale)));
            }
        }
    }
    leg
}

fn times_of(known: Estimate, scale: f64) -> [f64; 4] {
    [known.median_s, known.p95_s, known.low_s, known.high_s].map(|time| time * scale)
}

/// The point with its median, 95th percentile and interval in seconds.
fn with_times(point: &GridPoint, [median_s, p95_s, low_s, high_s]: [f64; 4]) -> GridPoint {
    GridPoint {
        median_s: Some(median_s),
        p95_s: Some(p95_s.max(median_s)),
        low_s: Some(low_s.min(median_s)),
        high_s: Some(high_s.max(median_s)),
        ..point.clone()
    }
}

/// The largest batch that was measured of those that may be run.
fn largest(model: &ModelProfile) -> u32 {
    let batches = model.grid.iter().map(|point| point.batch);
    let within = batches.filter(|&batch| batch <= model.max_batch);
    within.max().unwrap_or(model.max_batch)
}

fn knee(model: &ModelProfile) -> u16 {
    let widest = model.grid.iter().map(|point| point.share).max();
    model.knee.tolerance.or(widest).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::super::{convnet_mix, v100_dstack};
    use super::*;

    const DIVISION: Division = Division {
        leg_max: Nanos::from_millis(2),
        seed: 7,
    };

    /// The largest relative difference between the whole and the sum of its legs, over the
    /// points alone.
    fn error(model: &ModelProfile, slices: u16) -> f64 {
        let whole = Surface::new(&model.whole(), slices);
        let legs: Vec<Surface> = model
            .each_leg()
            .map(|leg| Surface::new(&leg, slices))
            .collect();
        let mut worst: f64 = 0.0;
        for batch in 1..=model.max_batch {
            for share in 1..=slices {
                let Some(whole) = whole.under(batch, share, Load::Alone) else {
                    continue;
                };
                let legs = legs.iter().map(|leg| leg.under(batch, share, Load::Alone));
                let sum: f64 = legs.map(|leg| leg.expect("it answers").median_s).sum();
                worst = worst.max((sum / whole.median_s - 1.0).abs());
            }
        }
        worst
    }

    #[test]
    fn legs_add_up_to_the_model_and_have_knees_of_their_own() {
        for mut profile in [v100_dstack(), convnet_mix()] {
            for measured in [false, true] {
                profile.synthetic = !measured;
                let divided = profile.divided(DIVISION);
                divided.check().expect("a sound profile");
                assert_eq!(divided, profile.divided(DIVISION), "drawn from the seed");
                for model in &divided.models {
                    let error = error(model, 80);
                    assert!(error < 1e-9, "{}: {error}", model.name);
                    let whole_s = model.point(super::super::PointKey {
                        batch: 16,
                        share: knee(model),
                        neighbours: 0,
                    });
                    let whole_s = whole_s.and_then(|point| point.median_s).expect("measured");
                    let least = whole_s / 2e-3;
                    assert!(model.legs.len() as f64 >= least, "{}", model.name);
                    let knees = model.legs.iter().map(|leg| leg.knee.tolerance);
                    let knees: std::collections::BTreeSet<_> = knees.collect();
                    assert!(knees.len() > 1, "{}: {knees:?}", model.name);
                    assert!(model.legs.iter().all(|leg| leg.assumed));
                }
            }
        }
    }

    #[test]
    fn legs_are_counted_at_the_batch_that_runs() {
        for measured in [false, true] {
            let mut profile = v100_dstack();
            profile.synthetic = !measured;
            let whole = profile.divided(DIVISION);
            let of_two =
                profile.divided_within(DIVISION, |name| (name == "vgg19").then_some(BatchSize(2)));
            of_two.check().expect("a sound profile");
            for (two, whole) in of_two.models.iter().zip(&whole.models) {
                if two.name != "vgg19" {
                    assert_eq!(two, whole);
                    continue;
                }
                assert!(two.legs.len() < whole.legs.len());
                assert!(error(two, 80) < 1e-9, "larger batches are still known");
            }
        }
    }

    #[test]
    fn legs_of_a_plan_have_their_parts_of_every_time() {
        let mut profile = v100_dstack();
        profile.models[0] = profile.models[0].cut(&[1.0, 3.0]);
        profile.check().expect("a sound profile");
        let model = &profile.models[0];
        assert!(error(model, 80) < 1e-9);
        let time = |leg: usize| model.legs[leg].grid[0].median_s.expect("measured");
        assert!((time(1) / time(0) - 3.0).abs() < 1e-9);
        assert!(model.cut(&[2.0]).legs.is_empty(), "one leg is the model");
    }

    #[test]
    fn what_is_short_or_has_legs_stays_as_it_is() {
        let profile = v100_dstack();
        let long = Division {
            leg_max: Nanos::from_millis(100),
            ..DIVISION
        };
        assert_eq!(profile.divided(long), profile);
        let cut = profile.divided(DIVISION);
        assert_eq!(
            cut.divided(Division {
                seed: 8,
                ..DIVISION
            }),
            cut
        );
    }

    #[test]
    fn legs_are_resized_with_their_model() {
        let divided = v100_dstack().divided(DIVISION);
        for slices in [40, 132] {
            let resized = divided.resized(slices);
            resized.check().expect("a sound profile");
            for model in &resized.models {
                assert!(error(model, slices) < 1e-9, "{}", model.name);
            }
        }
    }

    #[test]
    fn a_leg_without_times_is_refused_by_its_number() {
        let mut profile = v100_dstack().divided(DIVISION);
        profile.models[0].legs[3].grid.clear();
        profile.models[0].legs[3].knee = Default::default();
        profile.models[0].legs[3].fit = None;
        let error = profile.check().expect_err("nothing is known of leg 3");
        let text = error.to_string();
        assert!(text.contains("mobilenet, leg 3"), "{text}");
        let json = serde_json::to_string(&v100_dstack()).expect("it serialises");
        assert!(
            !json.contains("legs"),
            "files without legs stay as they were"
        );
    }
}
