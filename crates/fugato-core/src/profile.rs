//! What is known of latencies: the [`LatencyModel`] trait with its first implementation,
//! and measured [`Profile`]s with what can be concluded from them.

mod analyse;
mod bisection;
mod file;
mod fit;
mod interference;
mod interval;
mod judged;
mod kept;
mod knee;
mod legs;
mod online;
mod optima;
mod parallelism;
mod resize;
mod surface;
mod survey;
mod synthetic;
mod window;

pub use analyse::{AnalysisOptions, analyse, conclude, knee_at};
pub use bisection::{Bisection, BisectionPoint};
pub use file::{
    BatchKnee, Beside, Candidate, Changeover, Constraint, DeviceKey, Fit, FitPoint, FitRange,
    GridPoint, HeldOut, Infeasible, Interference, Knee, KneeRule, LegPlan, LegProfile, ModelKey,
    ModelProfile, Optima, Optimum, OptimumPoint, PointKey, Precision, Profile, ProfileError,
    Published, SCHEMA, Times, check_samples,
};
pub use fit::fit;
pub use interference::{Contention, interference};
pub use judged::{JUDGED_MIN, Judged, LAG, Source, Standing};
pub(crate) use kept::Kept;
pub use knee::{CurvePoint, KneeFound, knee};
pub use legs::Division;
pub use online::OnlineQuantiles;
pub use optima::{Limits, Violation, optima};
pub use parallelism::{Kernel, KernelList};
pub use surface::{Estimate, Load, Surface};
pub use survey::{Survey, SurveyOptions, Wanted};
pub use synthetic::{BUILT_IN, built_in, convnet_mix, v100_dstack};
pub use window::Window;

use crate::id::{BatchSize, LegIndex, ModelId, Share};
use crate::time::Nanos;
use std::fmt;

/// A leg at a batch size and a share, beside some neighbours: a point of the latency
/// surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SurfacePoint {
    /// The model.
    pub model: ModelId,
    /// Its leg.
    pub leg: LegIndex,
    /// Items in the batch.
    pub batch: BatchSize,
    /// Slices of the partition it runs in.
    pub share: Share,
    /// Slices of the device that are busy with other legs.
    pub neighbours: Share,
    /// What these demand; none where nobody knows: then they count as of the point's own model.
    pub demand: Option<Demand>,
}

/// What legs demand of what all slices share, in thousandths of [`Interference::demand`]; the
/// mean over their slices where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demand(pub u16);

impl Demand {
    /// The nearest to a demand; more than 65 counts as that.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the value is clamped to the range first"
    )]
    pub fn new(demand: f64) -> Self {
        Self((demand * 1e3).round().clamp(0.0, f64::from(u16::MAX)) as u16)
    }

    /// As [`Interference::demand`] counts it.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / 1e3
    }
}

/// A predicted time, and how far to trust it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The time.
    pub time: Nanos,
    /// What it rests on.
    pub basis: Basis,
}

/// What a prediction rests on. Ordered from firm to loose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// Measurements at or on both sides of the point.
    Measured,
    /// Measurements on one side only. Good enough to be careful with, not good enough to
    /// refuse a request for.
    Extrapolated,
}

impl Prediction {
    /// The time of two legs one after the other, as loose as the looser of them.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        Self {
            time: self.time + next.time,
            basis: self.basis.max(next.basis),
        }
    }

    /// The time, if it rests on measurements.
    pub fn measured(self) -> Option<Nanos> {
        (self.basis == Basis::Measured).then_some(self.time)
    }
}

/// What is known of a leg's latency. All latency knowledge of the scheduler goes through
/// this trait: an online estimator first, measured profiles and fitted surfaces later.
pub trait LatencyModel: fmt::Debug + Send {
    /// The `quantile` (0 to 1) of the time a leg takes on the device; `None` where the
    /// model has never been seen at this share.
    ///
    /// An answer about a model changes only when something of that model is observed, learned
    /// or forgotten: the scheduler keeps answers until then.
    fn predict(&self, point: SurfacePoint, quantile: f64) -> Option<Prediction>;

    /// The batch to plan with under load: of the batch sizes up to `max_batch` that are
    /// known at this share, and whose median is `within`, the one with the least time per
    /// item, the larger of equal ones; the smallest known one where none is within.
    ///
    /// Twice the largest known size counts as known, in proportion: so a plan makes room
    /// for the batch that would show whether larger ones are better.
    fn best_batch(
        &self,
        model: ModelId,
        share: Share,
        max_batch: BatchSize,
        within: Nanos,
    ) -> Option<BatchSize>;

    /// Takes in one measured time.
    fn observe(&mut self, point: SurfacePoint, took: Nanos);

    /// Takes in a measured profile of a model of as many legs, made on a device of `slices`
    /// slices, in place of an earlier one. An estimator that makes no use of profiles
    /// ignores it.
    fn learn(&mut self, _model: ModelId, _profile: &ModelProfile, _slices: Share) {}

    /// What a model demands of what all slices share; `None` where nobody knows, as with an
    /// estimator that does not tell neighbours apart. It changes when a profile is learned.
    fn demand(&self, _model: ModelId) -> Option<Demand> {
        None
    }

    /// How a model's profile stands against what is observed; `None` without a profile.
    fn standing(&self, _model: ModelId) -> Option<Standing> {
        None
    }

    /// Forgets a model that was removed.
    fn forget(&mut self, model: ModelId);
}
