//! Fits the parallelism model to a grid of measured points.
//!
//! The objective is the relative error, each point weighted by its interval, outliers with
//! a bounded pull (soft-L1 loss); the solver is Levenberg-Marquardt. How many widths the
//! model may use is decided by the error at batches and shares that are left out, so that
//! ten points of two shares are not explained by ten kernels.
//!
//! **Invariant:** the same grid gives the same fit, to the bit, in the same binary.

mod problem;

use super::file::{Fit, FitPoint, FitRange, GridPoint, HeldOut};
use super::parallelism::KernelList;
use problem::{Sample, Term};

/// The fewest points, measured alone, that are fitted.
const MIN_POINTS: usize = 3;

/// How many widths per doubling the model may use, from simple to rich. 0 is none but the
/// serial part and the part that all slices can share.
const LADDERS: [f64; 3] = [0.0, 0.5, 1.0];

/// A richer ladder is taken where it lowers the held-out loss below this part of a simpler
/// one's.
const WORTH: f64 = 0.9;

/// Fits the parallelism model to the points that did not fail; `None` where there are
/// fewer than three alone on the device.
///
/// # Cost
/// Up to 20 solves of some tens of QR decompositions of (points x widths).
#[must_use]
pub fn fit(grid: &[GridPoint], slices: u16) -> Option<Fit> {
    let alone: Vec<(&GridPoint, Sample)> = grid
        .iter()
        .filter(|point| point.neighbours == 0)
        .filter_map(|point| Some((point, sample(point)?)))
        .collect();
    if alone.len() < MIN_POINTS {
        return None;
    }
    let samples: Vec<Sample> = alone.iter().map(|(_, sample)| *sample).collect();
    let (terms, predicted) = select(&samples);
    let model = problem::solve(&terms, &samples);
    let held_out = held_out_errors(&predicted, &samples);
    let contention = contention(&model, grid, slices);
    let points = grid
        .iter()
        .filter_map(|point| {
            let measured_s = point.times()?.median_s;
            let fitted_s = beside(&model, contention, point, slices)?;
            let index = alone.iter().position(|(other, _)| *other == point);
            Some(FitPoint {
                batch: point.batch,
                share: point.share,
                neighbours: point.neighbours,
                measured_s,
                fitted_s,
                error: (fitted_s - measured_s).abs() / measured_s,
                held_out_error: index.and_then(|index| held_out[index]),
            })
        })
        .collect::<Vec<_>>();
    let errors: Vec<f64> = points.iter().map(|point| point.error).collect();
    let unseen: Vec<f64> = held_out.iter().copied().flatten().collect();
    Some(Fit {
        model,
        contention,
        range: range(&alone)?,
        median_error: median(errors.clone())?,
        worst_error: worst(&errors),
        held_out: median(unseen.clone()).map(|median_error| HeldOut {
            median_error,
            worst_error: worst(&unseen),
            points: u32::try_from(unseen.len()).unwrap_or(u32::MAX),
        }),
        points,
    })
}

/// The median, in place of a mean that one outlier would move; `None` of nothing.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        Some(values[middle])
    } else {
        let above = values.get(middle)?;
        Some((values[middle - 1] + above) / 2.0)
    }
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

fn sample(point: &GridPoint) -> Option<Sample> {
    let times = point.times()?;
    Some(Sample {
        batch: f64::from(point.batch),
        share: f64::from(point.share),
        median_s: times.median_s,
        spread: (times.high_s / times.low_s).ln(),
    })
}

fn range(alone: &[(&GridPoint, Sample)]) -> Option<FitRange> {
    let batches = alone.iter().map(|(point, _)| point.batch);
    let shares = alone.iter().map(|(point, _)| point.share);
    Some(FitRange {
        batch_min: batches.clone().min()?,
        batch_max: batches.max()?,
        share_min: shares.clone().min()?,
        share_max: shares.max()?,
    })
}

/// The model's answer beside busy neighbours; `None` where they are busy and nothing is
/// known of what that costs.
fn beside(
    model: &KernelList,
    contention: Option<f64>,
    point: &GridPoint,
    slices: u16,
) -> Option<f64> {
    let alone = model.latency_s(f64::from(point.batch), f64::from(point.share));
    if point.neighbours == 0 {
        return Some(alone);
    }
    Some(alone * (1.0 + contention? * busy_part(point, slices)))
}

/// The part of the other slices that is busy.
fn busy_part(point: &GridPoint, slices: u16) -> f64 {
    let others = slices.saturating_sub(point.share);
    if others == 0 {
        0.0
    } else {
        f64::from(point.neighbours) / f64::from(others)
    }
}

/// How much longer a pass takes where all other slices are busy: the median over the
/// points measured so, against the same point alone where it was measured, else against
/// the model.
fn contention(model: &KernelList, grid: &[GridPoint], slices: u16) -> Option<f64> {
    let slowdown = |point: &GridPoint| {
        let part = busy_part(point, slices);
        if part <= 0.0 {
            return None;
        }
        let alone = grid
            .iter()
            .find(|other| {
                (other.batch, other.share, other.neighbours) == (point.batch, point.share, 0)
            })
            .and_then(GridPoint::times)
            .map_or_else(
                || model.latency_s(f64::from(point.batch), f64::from(point.share)),
                |times| times.median_s,
            );
        Some((point.times()?.median_s / alone - 1.0) / part)
    };
    median(grid.iter().filter_map(slowdown).collect())
}

/// What a fit to the other samples predicts, in seconds, by the sample's index.
type Predicted = Vec<(usize, f64)>;

/// The terms that predict left-out batches and shares best, the simpler of nearly equal
/// ones, and what they predict.
fn select(samples: &[Sample]) -> (Vec<Term>, Predicted) {
    let mut best: Option<(f64, Vec<Term>, Predicted)> = None;
    for per_doubling in LADDERS {
        let terms = terms(samples, per_doubling);
        let predicted = predict_held_out(&terms, samples);
        if predicted.is_empty() {
            return (terms, predicted);
        }
        let loss = |(index, predicted): &(usize, f64)| {
            problem::loss((predicted / samples[*index].median_s).ln())
        };
        let loss = predicted.iter().map(loss).sum::<f64>() / predicted.len() as f64;
        if best.as_ref().is_none_or(|(least, ..)| loss < WORTH * least) {
            best = Some((loss, terms, predicted));
        }
    }
    best.map(|(_, terms, predicted)| (terms, predicted))
        .unwrap_or_default()
}

/// The terms of a ladder of widths, over the widths that the samples can tell apart: below
/// the first a kernel is serial at every sample, above the last it fills every share.
fn terms(samples: &[Sample], per_doubling: f64) -> Vec<Term> {
    let max = |of: fn(&Sample) -> f64| samples.iter().map(of).fold(1.0, f64::max);
    let min_batch = samples
        .iter()
        .map(|s| s.batch)
        .fold(f64::INFINITY, f64::min);
    let (max_batch, max_share) = (max(|s| s.batch), max(|s| s.share));
    let widest = max_share / min_batch;
    let mut terms = vec![Term::Launch, Term::PerItem, Term::Spill];
    if max_share > 1.0 {
        terms.extend([Term::Sync, Term::Traffic, Term::Kernel(widest)]);
    }
    if per_doubling > 0.0 {
        let doublings = (widest * max_batch).log2();
        let rungs = (doublings * per_doubling).ceil();
        let mut rung = 1.0;
        while rung < rungs {
            terms.push(Term::Kernel((doublings * rung / rungs).exp2() / max_batch));
            rung += 1.0;
        }
    }
    terms
}

/// The relative error at each sample when its batch, and its share, were left out: the
/// larger of both; `None` at samples that were never left out.
fn held_out_errors(predicted: &Predicted, samples: &[Sample]) -> Vec<Option<f64>> {
    let mut errors: Vec<Option<f64>> = vec![None; samples.len()];
    for &(index, predicted) in predicted {
        let measured = samples[index].median_s;
        let error = (predicted - measured).abs() / measured;
        errors[index] = Some(errors[index].map_or(error, |known| known.max(error)));
    }
    errors
}

/// What a fit to the other samples predicts: each inner batch is left out in turn, and
/// inner shares in up to four interleaved groups. The edges of the grid stay in, because a
/// prediction beyond them is never given.
fn predict_held_out(terms: &[Term], samples: &[Sample]) -> Predicted {
    /// Groups of shares: each leaves a quarter of them out.
    const GROUPS: usize = 4;
    let mut predicted = Vec::new();
    let mut leave_out = |held: &dyn Fn(&Sample) -> bool| {
        let rest: Vec<Sample> = samples.iter().filter(|s| !held(s)).copied().collect();
        if rest.len() < MIN_POINTS {
            return;
        }
        let model = problem::solve(terms, &rest);
        for (index, sample) in samples.iter().enumerate().filter(|(_, s)| held(s)) {
            predicted.push((index, model.latency_s(sample.batch, sample.share)));
        }
    };
    for batch in inner(samples.iter().map(|sample| sample.batch)) {
        leave_out(&|sample| sample.batch.total_cmp(&batch).is_eq());
    }
    let shares = inner(samples.iter().map(|sample| sample.share));
    for group in 0..GROUPS.min(shares.len()) {
        let out: Vec<f64> = shares.iter().copied().skip(group).step_by(GROUPS).collect();
        leave_out(&|sample| {
            out.iter()
                .any(|share| share.total_cmp(&sample.share).is_eq())
        });
    }
    predicted
}

/// The distinct values without the least and the largest, in rising order.
fn inner(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut distinct: Vec<f64> = values.collect();
    distinct.sort_by(f64::total_cmp);
    distinct.dedup_by(|a, b| a.total_cmp(b).is_eq());
    distinct.pop();
    distinct.into_iter().skip(1).collect()
}
