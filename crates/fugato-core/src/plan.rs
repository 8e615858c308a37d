//! Stage plans: which segments of a model run side by side, and in which order.
//!
//! A [`Plan`] is a list of [`Stage`]s, one after the other; a stage is a set of [`Group`]s
//! that run at once, each on a lane; a group is segments that run in order, or in a merged stage
//! as one operator. [`Leg`]s are runs of stages that a scheduler dispatches as one piece.
//!
//! **Invariant:** a plan that passed [`Plan::check`] runs each segment once and never before
//! what it reads: predecessors are in earlier stages, or earlier in the same group.
//!
//! A plan is made for one model, device, runtime, share and batch; [`Plan::matches`] refuses
//! any other by name. It is written as JSON of a stated schema, its times in nanoseconds.

mod check;
mod choice;
mod cost;
mod greedy;
mod in_flight;
mod ios;
mod legs;
mod list;
mod memo;
mod planner;
mod sequential;

pub use check::PlanError;
pub use choice::{AnyPlanner, UnknownPlanner};
pub use cost::{CostModel, ModelledCost};
pub use greedy::Greedy;
pub use in_flight::{Together, TogetherError};
pub use ios::Ios;
pub use legs::LegLimits;
pub use list::List;
pub use memo::{Memo, Remembered};
pub use planner::{Planner, Progress, StageCost};
pub use sequential::Sequential;

use crate::id::{BatchSize, SegmentIndex, Share};
use crate::profile::DeviceKey;
use crate::time::Nanos;
use serde::{Deserialize, Deserializer, Serialize};
use std::ops::Range;

/// The schema that this build reads and writes.
pub const SCHEMA: &str = "fugato.plan/1";

/// The stages of one model, made for a batch and a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Always [`SCHEMA`]; written first, so that a file of another schema is refused by
    /// its name and not by the first field that is new in it.
    #[serde(deserialize_with = "known_schema")]
    pub schema: String,
    /// What it was made for.
    pub key: PlanKey,
    /// The planner that made it.
    pub planner: String,
    /// Where the times of its stages are from.
    pub costs: CostBasis,
    /// Floating-point operations after which chains of operators were cut, as
    /// [`Graph::segments_from`](crate::graph::Graph::segments_from) does; `None`: at forks and
    /// joins only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_flops: Option<u64>,
    /// Whether operators that can be stacked were cut from what follows them, as
    /// [`Graph::segments_to_stack`](crate::graph::Graph::segments_to_stack) does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stackable_apart: bool,
    /// The time of all stages, in nanoseconds.
    #[serde(rename = "predicted_ns")]
    pub predicted: Nanos,
    /// What it took, timed in turns with the model as it is; `None` where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed: Option<Timed>,
    /// The stages, in the order they run.
    pub stages: Vec<Stage>,
    /// The legs, in the order they run: every stage is in one.
    pub legs: Vec<Leg>,
}

/// Median times of runs in turns, at the plan's share and batch, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timed {
    /// Of the plan's legs one after the other, their dispatch included.
    #[serde(rename = "legs_ns")]
    pub legs: Nanos,
    /// Of the model as it is.
    #[serde(rename = "unsplit_ns")]
    pub unsplit: Nanos,
}

/// What must be equal for a plan to apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanKey {
    /// The content hash of the model file, as the model store keys it.
    pub model: String,
    /// The device.
    pub device: DeviceKey,
    /// The runtime that runs the model, with its version: `onnxruntime 1.31.0`.
    pub runtime: String,
    /// Slices that the plan runs in.
    pub share: Share,
    /// Items in the batch.
    pub batch: BatchSize,
}

/// Where the times of stages are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CostBasis {
    /// Each stage was run on the device.
    Measured,
    /// Computed by a model of the device.
    Modelled,
}

/// Groups that run at once; the next stage starts when all have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// The groups.
    pub groups: Vec<Group>,
    /// Whether the stage is **merged**: its one group has segments of one operator each, which
    /// run as a single operator with the weights of all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merged: bool,
    /// The time of the stage, in nanoseconds.
    #[serde(rename = "predicted_ns")]
    pub predicted: Nanos,
}

/// Segments that run one after the other on one lane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Group {
    /// The segments, in the order they run.
    pub segments: Vec<SegmentIndex>,
}

/// Consecutive stages that are dispatched to the device as one piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leg {
    /// Its stages, counted from 0.
    pub stages: Range<u32>,
    /// In how many parts of the batch it would have to run, one after the other, to take no longer
    /// than a leg may; from 1 to the items of the batch. Devices run it whole.
    pub sub_batches: u32,
    /// The time of its stages for the whole batch at once, in nanoseconds.
    #[serde(rename = "predicted_ns")]
    pub predicted: Nanos,
}

impl Plan {
    /// A plan of these stages, cut into legs.
    #[must_use]
    pub fn new(
        key: PlanKey,
        planner: &str,
        costs: CostBasis,
        stages: Vec<Stage>,
        limits: LegLimits,
    ) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            planner: planner.to_owned(),
            costs,
            segment_flops: None,
            stackable_apart: false,
            timed: None,
            predicted: total(&stages),
            legs: limits.legs(&stages, key.batch),
            key,
            stages,
        }
    }

    /// The stages of a leg.
    ///
    /// # Panics
    /// Where the leg is not of this plan.
    #[must_use]
    pub fn stages_of(&self, leg: &Leg) -> &[Stage] {
        &self.stages[leg.stages.start as usize..leg.stages.end as usize]
    }

    /// Whether the other plan cuts the same model into the same legs, whatever times either says.
    #[must_use]
    pub fn cuts_alike(&self, other: &Self) -> bool {
        let segments = |plan: &Self| (plan.segment_flops, plan.stackable_apart);
        let stages = |plan: &Self| plan.stages.len();
        let alike =
            |one: &Stage, other: &Stage| (&one.groups, one.merged) == (&other.groups, other.merged);
        let legs = |plan: &Self| {
            plan.legs
                .iter()
                .map(|leg| leg.stages.clone())
                .collect::<Vec<_>>()
        };
        self.key.model == other.key.model
            && segments(self) == segments(other)
            && stages(self) == stages(other)
            && self
                .stages
                .iter()
                .zip(&other.stages)
                .all(|(a, b)| alike(a, b))
            && legs(self) == legs(other)
    }

    /// The largest number of groups that run at once: the lanes that the plan can use.
    #[must_use]
    pub fn width(&self) -> usize {
        let widths = self.stages.iter().map(|stage| stage.groups.len());
        widths.max().unwrap_or(0)
    }
}

impl Stage {
    /// The stage's segments, group by group.
    pub fn segments(&self) -> impl Iterator<Item = SegmentIndex> {
        let groups = self.groups.iter();
        groups.flat_map(|group| group.segments.iter().copied())
    }
}

impl From<Vec<SegmentIndex>> for Group {
    fn from(segments: Vec<SegmentIndex>) -> Self {
        Self { segments }
    }
}

fn total(stages: &[Stage]) -> Nanos {
    let times = stages.iter().map(|stage| stage.predicted);
    times.fold(Nanos::ZERO, |sum, time| sum + time)
}

fn known_schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let found = String::deserialize(deserializer)?;
    check::schema(&found).map_err(serde::de::Error::custom)?;
    Ok(found)
}

#[cfg(test)]
mod tests;
