//! Planners by name.

use super::{Greedy, Ios, List, Planner, Progress, Sequential, Stage, StageCost};
use crate::graph::Segments;
use std::str::FromStr;

/// A planner chosen by its name, with its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyPlanner {
    /// See [`Sequential`].
    Sequential(Sequential),
    /// See [`Greedy`].
    Greedy(Greedy),
    /// See [`List`].
    List(List),
    /// See [`Ios`].
    Ios(Ios),
}

/// A name that no planner has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown planner `{name}`, expected one of {}", AnyPlanner::NAMES.join(", "))]
pub struct UnknownPlanner {
    name: String,
}

impl AnyPlanner {
    /// The names that can be chosen.
    pub const NAMES: [&'static str; 5] = ["sequential", "greedy", "list", "ios", "ios-merge"];
}

impl AnyPlanner {
    /// Whether its stages may be merged, for which operators that can be stacked must be
    /// segments of their own.
    #[must_use]
    pub fn merges(&self) -> bool {
        matches!(self, Self::Ios(Ios { merge: true, .. }))
    }
}

impl FromStr for AnyPlanner {
    type Err = UnknownPlanner;

    fn from_str(name: &str) -> Result<Self, UnknownPlanner> {
        match name {
            "sequential" => Ok(Self::Sequential(Sequential)),
            "greedy" => Ok(Self::Greedy(Greedy::default())),
            "list" => Ok(Self::List(List::default())),
            "ios" => Ok(Self::Ios(Ios::default())),
            "ios-merge" => Ok(Self::Ios(Ios {
                merge: true,
                ..Ios::default()
            })),
            _ => Err(UnknownPlanner {
                name: name.to_owned(),
            }),
        }
    }
}

impl Planner for AnyPlanner {
    fn name(&self) -> &'static str {
        match self {
            Self::Sequential(planner) => planner.name(),
            Self::Greedy(planner) => planner.name(),
            Self::List(planner) => planner.name(),
            Self::Ios(planner) => planner.name(),
        }
    }

    fn stages<C: StageCost>(
        &self,
        segments: &Segments,
        costs: &mut C,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Stage>, C::Error> {
        match self {
            Self::Sequential(planner) => planner.stages(segments, costs, progress),
            Self::Greedy(planner) => planner.stages(segments, costs, progress),
            Self::List(planner) => planner.stages(segments, costs, progress),
            Self::Ios(planner) => planner.stages(segments, costs, progress),
        }
    }
}
