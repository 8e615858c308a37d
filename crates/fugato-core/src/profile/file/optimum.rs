//! The best (batch, share) of a model as it is written: found, infeasible with the reason,
//! or not yet known.

use serde::{Deserialize, Serialize};

/// The two optima.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optima {
    /// D-STACK's: the largest `batch / (latency^2 x share)`.
    pub efficacy: Optimum,
    /// The least `share x latency / batch`: slice-seconds per request.
    pub work: Optimum,
}

/// The outcome of looking for the best (batch, share).
///
/// On the wire always an object with `batch` and `share`, which are `null` where there is
/// no point; then `infeasible` says why, if anything was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub enum Optimum {
    /// Nothing was measured that could be judged.
    #[default]
    Unknown,
    /// The best point within the constraints.
    At(OptimumPoint),
    /// No point is within the constraints.
    Infeasible(Infeasible),
}

/// The best point.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimumPoint {
    /// Items in the batch.
    pub batch: u32,
    /// Slices, without the margin.
    pub share: u16,
    /// Slices to grant: `share` with the margin on top, at most the device.
    pub granted: u16,
    /// Latency at (`batch`, `share`), in seconds.
    pub latency_s: f64,
    /// Whether the latency was measured there; else it is the fitted surface's.
    pub measured: bool,
    /// Measured points whose intervals let them be better than this one; none where the
    /// optimum is settled.
    pub rivals: Vec<Candidate>,
}

/// A place on the (batch, share) plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// Items in the batch.
    pub batch: u32,
    /// Slices.
    pub share: u16,
}

/// Why there is no optimum: what binds at the point that comes nearest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Infeasible {
    /// The constraint that is broken by most at `nearest`.
    pub constraint: Constraint,
    /// By how much it is broken there, in seconds.
    pub shortfall_s: f64,
    /// The point that breaks its worst constraint by the least time.
    pub nearest: Candidate,
}

/// A constraint on the optimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// `latency + assembly(batch) <= SLO`: a batch that had to be assembled is in time.
    Assembly,
    /// `latency + blocking <= SLO / 2`: a request that just missed a batch waits for a
    /// whole run (and the longest leg that may block), then runs itself.
    HalfSlo,
}

impl Optimum {
    /// The best point, if there is one.
    #[must_use]
    pub const fn point(&self) -> Option<&OptimumPoint> {
        match self {
            Self::At(point) => Some(point),
            Self::Unknown | Self::Infeasible(_) => None,
        }
    }

    /// Why there is no point, if nothing measured is within the constraints.
    #[must_use]
    pub const fn infeasible(&self) -> Option<&Infeasible> {
        match self {
            Self::Infeasible(why) => Some(why),
            Self::Unknown | Self::At(_) => None,
        }
    }
}

/// The wire form of [`Optimum`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    batch: Option<u32>,
    share: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    granted: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latency_s: Option<f64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    measured: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rivals: Vec<Candidate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    infeasible: Option<Infeasible>,
}

/// A wire form that is neither a point, nor infeasible, nor empty.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "an optimum has `batch`, `share` and `latency_s`, or `infeasible`, or none of them; \
     found batch {batch:?}, share {share:?}, latency_s {latency_s:?}, infeasible: {infeasible}"
)]
struct MixedOptimum {
    batch: Option<u32>,
    share: Option<u16>,
    latency_s: Option<f64>,
    infeasible: bool,
}

impl TryFrom<Wire> for Optimum {
    type Error = MixedOptimum;

    fn try_from(wire: Wire) -> Result<Self, MixedOptimum> {
        match (wire.batch, wire.share, wire.latency_s, wire.infeasible) {
            (Some(batch), Some(share), Some(latency_s), None) => Ok(Self::At(OptimumPoint {
                batch,
                share,
                granted: wire.granted.unwrap_or(share),
                latency_s,
                measured: wire.measured,
                rivals: wire.rivals,
            })),
            (None, None, None, Some(why)) => Ok(Self::Infeasible(why)),
            (None, None, None, None) => Ok(Self::Unknown),
            (batch, share, latency_s, why) => Err(MixedOptimum {
                batch,
                share,
                latency_s,
                infeasible: why.is_some(),
            }),
        }
    }
}

impl From<Optimum> for Wire {
    fn from(optimum: Optimum) -> Self {
        match optimum {
            Optimum::Unknown => Self::default(),
            Optimum::At(point) => Self {
                batch: Some(point.batch),
                share: Some(point.share),
                granted: Some(point.granted),
                latency_s: Some(point.latency_s),
                measured: point.measured,
                rivals: point.rivals,
                infeasible: None,
            },
            Optimum::Infeasible(why) => Self {
                infeasible: Some(why),
                ..Self::default()
            },
        }
    }
}
