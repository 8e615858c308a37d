//! All that is ready, at once.

use super::planner::{Pricing, Waits};
use super::{Group, Planner, Progress, Stage, StageCost};
use crate::graph::Segments;
use crate::id::SegmentIndex;
use std::collections::BTreeSet;

/// Each stage is all segments that are ready, each a group of its own, up to a limit.
///
/// It looks at no price: where running side by side costs more than it gains, it loses.
///
/// # Source
/// IOS's *greedy* baseline, whose groups are single operators. Here a group is a segment, so
/// that a chain of operators does not end at a barrier after each of them: a stage is
/// longer, and there are fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greedy {
    /// Most groups of a stage; at least 1.
    pub groups_max: usize,
}

impl Default for Greedy {
    /// 10 groups, as IOS has streams.
    fn default() -> Self {
        Self { groups_max: 10 }
    }
}

impl Planner for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn stages<C: StageCost>(
        &self,
        segments: &Segments,
        costs: &mut C,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Stage>, C::Error> {
        let mut pricing = Pricing::new(segments, costs, progress);
        let mut waits = Waits::new(segments);
        let mut ready: BTreeSet<SegmentIndex> = waits.ready().into_iter().collect();
        let mut stages = Vec::new();
        while !ready.is_empty() {
            let mut taken = Vec::new();
            while taken.len() < self.groups_max.max(1)
                && let Some(segment) = ready.pop_first()
            {
                taken.push(segment);
            }
            for &segment in &taken {
                ready.extend(waits.done(segment, segments));
            }
            let groups = taken.iter().map(|&segment| Group::from(vec![segment]));
            stages.push(pricing.stage(groups.collect())?);
            pricing.planned(taken.len());
        }
        Ok(stages)
    }
}
