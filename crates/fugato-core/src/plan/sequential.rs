//! One segment after the other: what every other planner must beat.

use super::planner::{Pricing, lone};
use super::{Planner, Progress, Stage, StageCost};
use crate::graph::Segments;

/// A stage for each segment, in their order.
///
/// # Source
/// IOS's *sequential* schedule, which has a stage for each operator; a segment runs its
/// operators in the same order. Stages are short, so that legs can end between any two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequential;

impl Planner for Sequential {
    fn name(&self) -> &'static str {
        "sequential"
    }

    fn stages<C: StageCost>(
        &self,
        segments: &Segments,
        costs: &mut C,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Stage>, C::Error> {
        let mut pricing = Pricing::new(segments, costs, progress);
        let alone = pricing.alone(segments)?;
        pricing.planned(segments.count());
        let stages = segments.indices().zip(alone);
        Ok(stages.map(|(index, price)| lone(index, price)).collect())
    }
}
