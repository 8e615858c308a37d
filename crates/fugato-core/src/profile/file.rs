//! The profile as it is written to `profile.json`, and what a profile must satisfy before
//! it is used.
//!
//! **Invariant:** a [`Profile`] that passed [`Profile::check`] has no point that is NaN,
//! zero, negative, longer than a day, duplicate or outside the device, and none missing
//! unless its model says that it is [`ModelProfile::sparse`]; and its conclusions are within
//! its grid and its device.
//!
//! Shares and neighbours are in slices, times in seconds.

mod beside;
mod check;
mod optimum;

pub use beside::{Beside, Interference};
pub use check::{ModelKey, PointKey, ProfileError, check_samples};
pub use optimum::{Candidate, Constraint, Infeasible, Optima, Optimum, OptimumPoint};

use super::parallelism::KernelList;
use crate::plan::Plan;
use crate::time::Nanos;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// The schema that this build reads and writes.
pub const SCHEMA: &str = "fugato.profile/1";

/// Measured latencies of some models on one device, and what was concluded from them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Always [`SCHEMA`]; written first, so that a file of another schema is refused by
    /// its name and not by the first field that is new in it.
    #[serde(deserialize_with = "known_schema")]
    pub schema: String,
    /// The device it was measured on.
    pub device: DeviceKey,
    /// The runtime that ran the models, with its version: `onnxruntime 1.31.0`.
    pub runtime: String,
    /// Whether it was computed rather than measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub synthetic: bool,
    /// The median time from the end of a run to the start of one that is handed to the idle
    /// device because of it, in seconds; none where that was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_s: Option<f64>,
    /// The models, in the order they were profiled.
    pub models: Vec<ModelProfile>,
}

/// What must be equal for a profile to apply to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceKey {
    /// The kind of device: `cpu`, `cuda`, `v100`.
    pub kind: String,
    /// The device's own name: the CPU's model name, the accelerator's product name.
    pub name: String,
    /// Slices of the whole device.
    pub slices: u16,
}

/// What was measured of one model version, and concluded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelProfile {
    /// The model's name in its repository.
    pub name: String,
    /// The model's version in its repository; absent where there is no repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The content hash of the model file, as the model store keys it: another one in
    /// another precision.
    pub hash: String,
    /// The precision it computed in; absent where that was as its file has it.
    #[serde(default, skip_serializing_if = "Precision::is_as_filed")]
    pub precision: Precision,
    /// The latency objective that the optima were found under, in seconds; none leaves
    /// only `max_batch` to bind.
    pub slo_s: Option<f64>,
    /// The rate of arrival that batches are assembled at, in items per second; none counts
    /// assembly as no time.
    pub arrival_rate: Option<f64>,
    /// The largest batch that may be run, in items.
    pub max_batch: u32,
    /// The knee at [`ModelProfile::knee_batch`], in slices.
    pub knee: Knee,
    /// The batch that `knee` was taken at: the largest measured one within `max_batch`.
    pub knee_batch: Option<u32>,
    /// Whether some definition's knee rests on intervals that overlap.
    pub undecided: bool,
    /// The definitions that are undecided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undecided_by: Vec<KneeRule>,
    /// The knee at each measured batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub knees: Vec<BatchKnee>,
    /// The best (batch, share) by two measures.
    pub optima: Optima,
    /// The parallelism model fitted to the grid; none where there are too few points.
    pub fit: Option<Fit>,
    /// Whether points of the grid were left out: an interrupted or bisecting survey. A
    /// model that is not sparse must have every batch at every share.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sparse: bool,
    /// Whether it was measured while serving and points are still to come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
    /// What a publication states of the model, beside what this profile concludes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// What a run costs more right after one of another model; empty where that was not
    /// measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changeovers: Vec<Changeover>,
    /// The median of what a run takes longer by the host's clock, by which legs are timed while
    /// serving, than by the device's, which the times here are of, in seconds; none where they
    /// are the host's too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_s: Option<f64>,
    /// What neighbours of other models cost; empty where that was not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Beside>,
    /// How it and its neighbours slow each other, concluded from `beside` over all models of a
    /// profile; none where nothing was measured of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interference: Option<Interference>,
    /// The measured points.
    pub grid: Vec<GridPoint>,
    /// The legs of a plan that the model is cut into, in the order they run, each with a
    /// surface of its own; empty for a model that runs whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<LegProfile>,
    /// How it was cut into the legs that were measured; none for a model that runs whole, and for
    /// legs that are assumed or that come without a plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leg_plan: Option<Box<LegPlan>>,
}

/// How a model was cut into the legs that were measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegPlan {
    /// The longest leg that was asked for, in nanoseconds; none where the plan was given.
    #[serde(
        rename = "longest_ns",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub longest: Option<Nanos>,
    /// The plan: which segments each leg has. Its own times are those that it was made by.
    pub plan: Plan,
}

/// In what precision a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As its file has it.
    #[default]
    Fp32,
    /// Floats of 32 bits are made ones of 16; inputs and outputs stay as they are.
    Fp16,
}

/// What a run costs more right after one of another model in the same slices, whose weights
/// and tensors then fill the caches. The times of [`GridPoint`] are of runs after each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changeover {
    /// Items in the batch.
    pub batch: u32,
    /// Slices it ran in, alone on the device.
    pub share: u16,
    /// The median of what the run after another model's took longer than the one after it, in
    /// seconds; 0 where it took no longer.
    pub extra_s: f64,
    /// Pairs of runs that it is the median of.
    pub repeats: u32,
}

/// What is known of one leg of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LegProfile {
    /// Whether its times were made up from those of the whole model rather than measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub assumed: bool,
    /// Its knee at the largest batch, in slices.
    #[serde(default)]
    pub knee: Knee,
    /// The parallelism model of the leg; none where all that is known is its grid.
    #[serde(default)]
    pub fit: Option<Fit>,
    /// Its points, as those of a model.
    pub grid: Vec<GridPoint>,
}

/// The smallest share that is enough, by three definitions, in slices; none where too
/// little was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knee {
    /// Latency within a tolerance of the best.
    pub tolerance: Option<u16>,
    /// The largest efficacy.
    pub efficacy: Option<u16>,
    /// The largest distance from the chord of the curve.
    pub chord: Option<u16>,
}

/// A definition of the knee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KneeRule {
    /// See [`Knee::tolerance`].
    Tolerance,
    /// See [`Knee::efficacy`].
    Efficacy,
    /// See [`Knee::chord`].
    Chord,
}

/// The knee at one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchKnee {
    /// Items in the batch.
    pub batch: u32,
    /// The knee, in slices.
    #[serde(flatten)]
    pub knee: Knee,
    /// The definitions whose knee rests on intervals that overlap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undecided_by: Vec<KneeRule>,
}

/// One point of the grid: measured, or failed with the reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridPoint {
    /// Items in the batch.
    pub batch: u32,
    /// Slices it ran in.
    pub share: u16,
    /// Slices that were busy with other work meanwhile; 0 is alone.
    pub neighbours: u16,
    /// The median latency, in seconds.
    #[serde(default, deserialize_with = "number_or_its_name")]
    pub median_s: Option<f64>,
    /// The 95th percentile of the latency, in seconds.
    #[serde(default, deserialize_with = "number_or_its_name")]
    pub p95_s: Option<f64>,
    /// Lower end of the bootstrap 95 % interval of the median, in seconds.
    #[serde(default, deserialize_with = "number_or_its_name")]
    pub low_s: Option<f64>,
    /// Upper end of the bootstrap 95 % interval of the median, in seconds.
    #[serde(default, deserialize_with = "number_or_its_name")]
    pub high_s: Option<f64>,
    /// Runs timed, warm-up left out.
    pub repeats: u32,
    /// Why there are no times.
    pub failed: Option<String>,
}

/// The times of a point that did not fail, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// The median latency.
    pub median_s: f64,
    /// The 95th percentile of the latency; the median where it was not measured.
    pub p95_s: f64,
    /// Lower end of the median's interval; the median where it was not measured.
    pub low_s: f64,
    /// Upper end of the median's interval; the median where it was not measured.
    pub high_s: f64,
}

/// The parallelism model of one model, how well it fits, and where it may be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// The fitted kernels.
    pub model: KernelList,
    /// How much longer a pass takes where all other slices are busy, as a fraction; none
    /// where no such point was measured.
    pub contention: Option<f64>,
    /// Where the fit may be asked; nothing is predicted beyond it.
    pub range: FitRange,
    /// Median of the relative errors of `points`.
    pub median_error: f64,
    /// Largest of the relative errors of `points`.
    pub worst_error: f64,
    /// The errors at batches and shares that were left out of the fit; none where the
    /// grid is too small to leave any out.
    pub held_out: Option<HeldOut>,
    /// The error at each point the model was fitted to.
    pub points: Vec<FitPoint>,
}

/// The ranges of the measured points, ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitRange {
    /// Smallest batch, in items.
    pub batch_min: u32,
    /// Largest batch, in items.
    pub batch_max: u32,
    /// Smallest share, in slices.
    pub share_min: u16,
    /// Largest share, in slices.
    pub share_max: u16,
}

/// Relative errors at points that the fit was not shown.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Median of the relative errors.
    pub median_error: f64,
    /// Largest of the relative errors.
    pub worst_error: f64,
    /// Points predicted.
    pub points: u32,
}

/// The fit at one measured point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitPoint {
    /// Items in the batch.
    pub batch: u32,
    /// Slices it ran in.
    pub share: u16,
    /// Slices that were busy with other work.
    pub neighbours: u16,
    /// The measured median, in seconds.
    pub measured_s: f64,
    /// The model's answer, in seconds.
    pub fitted_s: f64,
    /// `|fitted - measured| / measured`.
    pub error: f64,
    /// The same where the point's batch (or share) was left out of the fit; none where it
    /// is at the edge of the grid, where leaving it out would mean extrapolating.
    pub held_out_error: Option<f64>,
}

/// What a publication states of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Where it is stated.
    pub source: String,
    /// Its batch, in items.
    pub batch: u32,
    /// Its share, in slices.
    pub share: u16,
    /// Its latency at that point, in seconds.
    pub latency_s: f64,
}

impl Precision {
    fn is_as_filed(&self) -> bool {
        *self == Self::Fp32
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
        })
    }
}

impl GridPoint {
    /// The times; `None` where the point failed.
    #[must_use]
    pub fn times(&self) -> Option<Times> {
        let median_s = self.median_s?;
        Some(Times {
            median_s,
            p95_s: self.p95_s.unwrap_or(median_s),
            low_s: self.low_s.unwrap_or(median_s),
            high_s: self.high_s.unwrap_or(median_s),
        })
    }

    /// What tells the point from the others of its model.
    #[must_use]
    pub fn key(&self) -> PointKey {
        PointKey {
            batch: self.batch,
            share: self.share,
            neighbours: self.neighbours,
        }
    }
}

impl LegProfile {
    /// What is known of a leg that was looked at as a model by itself, as
    /// [`ModelProfile::each_leg`] gives it.
    pub(super) fn of(leg: &ModelProfile, assumed: bool) -> Self {
        Self {
            assumed,
            knee: leg.knee,
            fit: leg.fit.clone(),
            grid: leg.grid.clone(),
        }
    }
}

impl ModelProfile {
    /// A profile without points, to be filled and then
    /// analysed.
    #[must_use]
    pub fn new(name: impl Into<String>, hash: impl Into<String>, max_batch: u32) -> Self {
        Self {
            name: name.into(),
            version: None,
            hash: hash.into(),
            precision: Precision::default(),
            slo_s: None,
            arrival_rate: None,
            max_batch,
            knee: Knee::default(),
            knee_batch: None,
            undecided: true,
            undecided_by: Vec::new(),
            knees: Vec::new(),
            optima: Optima::default(),
            fit: None,
            sparse: false,
            unfinished: false,
            published: None,
            changeovers: Vec::new(),
            host_s: None,
            beside: Vec::new(),
            interference: None,
            grid: Vec::new(),
            legs: Vec::new(),
            leg_plan: None,
        }
    }

    /// The model without its legs, run whole.
    #[must_use]
    pub fn whole(&self) -> Self {
        let mut whole = self.clone();
        whole.legs = Vec::new();
        whole.leg_plan = None;
        whole
    }

    /// Each leg as if it were a model by itself, in the order they run; of a model that runs
    /// whole, the model. What others do to it is what they do to the model.
    pub fn each_leg(&self) -> impl Iterator<Item = Self> {
        let whole = self.legs.is_empty().then(|| self.clone());
        let legs = self.legs.iter().enumerate();
        let legs = legs.map(|(index, leg)| Self {
            knee: leg.knee,
            fit: leg.fit.clone(),
            grid: leg.grid.clone(),
            sparse: self.sparse,
            interference: self.interference,
            ..Self::new(
                format!("{}, leg {index}", self.name),
                self.hash.clone(),
                self.max_batch,
            )
        });
        whole.into_iter().chain(legs)
    }

    /// The point at exactly this place.
    #[must_use]
    pub fn point(&self, key: PointKey) -> Option<&GridPoint> {
        self.grid.iter().find(|point| point.key() == key)
    }
}

fn known_schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let found = String::deserialize(deserializer)?;
    check::schema(&found).map_err(serde::de::Error::custom)?;
    Ok(found)
}

/// What JSON has no number for, and some writers put in words.
#[derive(Deserialize)]
enum NoNumber {
    #[serde(alias = "nan")]
    NaN,
    #[serde(alias = "inf", alias = "Inf")]
    Infinity,
    #[serde(rename = "-Infinity", alias = "-inf", alias = "-Inf")]
    NegativeInfinity,
}

/// Reads `"NaN"` and its like as what they say, so that [`Profile::check`] refuses them by
/// the point they belong to and not by their place in the file.
fn number_or_its_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number of seconds or null")]
    enum Wire {
        Number(f64),
        Name(NoNumber),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => None,
        Some(Wire::Number(number)) => Some(number),
        Some(Wire::Name(NoNumber::NaN)) => Some(f64::NAN),
        Some(Wire::Name(NoNumber::Infinity)) => Some(f64::INFINITY),
        Some(Wire::Name(NoNumber::NegativeInfinity)) => Some(f64::NEG_INFINITY),
    })
}
