//! From a grid to its conclusions: fit, knee, optima.

use super::file::{BatchKnee, Knee, KneeRule, ModelProfile};
use super::fit::fit;
use super::knee::{CurvePoint, KneeFound, knee};
use super::optima::{Limits, optima};
use super::surface::Surface;
use std::collections::BTreeSet;

/// How a grid is judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnalysisOptions {
    /// Slices of the whole device.
    pub slices: u16,
    /// How much slower than the best a share may be and still be enough, as a fraction.
    pub knee_tolerance: f64,
    /// The least half-width of a median's interval, as a fraction of the median: how much
    /// two runs differ by what a bootstrap within one of them cannot see.
    pub interval_floor: f64,
    /// Slices to grant on top of an optimum's share.
    pub margin: u16,
    /// The longest leg of another model that may block one of this model, in seconds.
    pub blocking_s: f64,
}

impl AnalysisOptions {
    /// The defaults for a device of `slices` slices.
    ///
    /// The margin is one slice on devices of 16 slices and more: the optimum is at the edge
    /// of the steep region, and the paper grants 5 to 10 % of the device on top of it; on
    /// fewer slices one more would be far above 10 %.
    #[must_use]
    pub const fn new(slices: u16) -> Self {
        Self {
            slices,
            knee_tolerance: 0.05,
            interval_floor: 0.02,
            margin: if slices >= 16 { 1 } else { 0 },
            blocking_s: 0.0,
        }
    }
}

/// Fills a model's fit, knees and optima from its grid, objective, rate and batch limit.
///
/// The grid must have passed [`check`](ModelProfile::check).
pub fn analyse(model: &mut ModelProfile, options: &AnalysisOptions) {
    model.fit = fit(&model.grid, options.slices);
    conclude(model, options);
}

/// As [`analyse`], with the fit that the model carries.
pub fn conclude(model: &mut ModelProfile, options: &AnalysisOptions) {
    let batches: BTreeSet<u32> = model
        .grid
        .iter()
        .filter(|point| point.neighbours == 0 && point.median_s.is_some())
        .map(|point| point.batch)
        .collect();
    model.knees = batches
        .into_iter()
        .map(|batch| {
            let KneeFound { knee, undecided_by } = knee_at(model, batch, options);
            BatchKnee {
                batch,
                knee,
                undecided_by,
            }
        })
        .collect();
    let main = model
        .knees
        .iter()
        .rev()
        .find(|knee| knee.batch <= model.max_batch);
    model.knee_batch = main.map(|knee| knee.batch);
    model.knee = main.map(|main| main.knee).unwrap_or_default();
    model.undecided_by = main.map_or_else(
        || vec![KneeRule::Tolerance, KneeRule::Efficacy],
        |main| main.undecided_by.clone(),
    );
    model.undecided = !model.undecided_by.is_empty();
    let limits = Limits {
        slo_s: model.slo_s,
        arrival_rate: model.arrival_rate,
        max_batch: model.max_batch,
        blocking_s: options.blocking_s,
    };
    let surface = Surface::new(model, options.slices);
    model.optima = optima(&surface, &limits, options.slices, options.margin);
}

/// The knee of a model at one batch, over the shares measured alone.
#[must_use]
pub fn knee_at(model: &ModelProfile, batch: u32, options: &AnalysisOptions) -> KneeFound {
    if options.slices == 1 {
        return KneeFound {
            knee: Knee {
                tolerance: Some(1),
                efficacy: Some(1),
                chord: None,
            },
            undecided_by: Vec::new(),
        };
    }
    let floor = options.interval_floor;
    let curve: Vec<CurvePoint> = model
        .grid
        .iter()
        .filter(|point| point.neighbours == 0 && point.batch == batch)
        .filter_map(|point| {
            let times = point.times()?;
            Some(CurvePoint {
                share: point.share,
                median_s: times.median_s,
                low_s: times.low_s.min(times.median_s * (1.0 - floor)),
                high_s: times.high_s.max(times.median_s * (1.0 + floor)),
            })
        })
        .collect();
    knee(&curve, options.knee_tolerance)
}
