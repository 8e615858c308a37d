//! Stages for several tasks in flight at once.

use super::planner::Progress;
use super::{Group, Planner, Stage, StageCost, total};
use crate::graph::{InFlight, MergeError, Merged, Origin};
use crate::id::{SegmentIndex, TaskId};
use crate::time::Nanos;
use std::collections::BTreeMap;

/// Stages of what is left of tasks in flight, beside those of each task alone.
///
/// A device that runs tasks one after the other takes [`Together::one_by_one`]; what running
/// them together gains is TOP's *self-acceleration* where they are of one model.
#[derive(Clone, Debug)]
pub struct Together {
    /// The tasks as one graph, of whose segments the stages are.
    pub merged: Merged,
    /// The stages: those that the planner made of the merged graph, or those of one task
    /// after the other where these are cheaper.
    pub stages: Vec<Stage>,
    /// By task, in the order given: the stages that the planner made of it alone, of the
    /// segments of its model.
    pub alone: Vec<(TaskId, Vec<Stage>)>,
}

/// Why tasks in flight have no stages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TogetherError<E> {
    /// They have no merged graph.
    #[error(transparent)]
    Merge(MergeError),
    /// A stage could not be priced.
    #[error("a stage of tasks in flight could not be priced")]
    Price(#[source] E),
}

impl Together {
    /// Plans what is left of these tasks, together and each alone.
    ///
    /// `costs` gives the prices of a merged graph, which may be of all tasks or of one; by
    /// its origins they can be those of segments of the tasks' models.
    ///
    /// # Errors
    /// Where the tasks cannot be merged, and those of the costs.
    pub fn plan<P: Planner, C: StageCost>(
        planner: &P,
        tasks: &[InFlight<'_>],
        mut costs: impl FnMut(&Merged) -> C,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, TogetherError<C::Error>> {
        let merged = Merged::of(tasks).map_err(TogetherError::Merge)?;
        let mut of = |merged: &Merged| {
            let mut costs = costs(merged);
            let stages = planner.stages(merged.segments(), &mut costs, progress);
            stages.map_err(TogetherError::Price)
        };
        let mut alone = Vec::with_capacity(tasks.len());
        for &task in tasks {
            let only = Merged::of(&[task]).map_err(TogetherError::Merge)?;
            let own = |segment| only.origin(segment).segment;
            alone.push((task.task, renumbered(&of(&only)?, own)));
        }
        let mut stages = of(&merged)?;
        if total(&stages) > one_by_one(&alone) {
            stages = in_turn(&merged, &alone);
        }
        Ok(Self {
            merged,
            stages,
            alone,
        })
    }

    /// What the stages take.
    #[must_use]
    pub fn predicted(&self) -> Nanos {
        total(&self.stages)
    }

    /// What the tasks take one after the other, each as the planner has it alone.
    #[must_use]
    pub fn one_by_one(&self) -> Nanos {
        one_by_one(&self.alone)
    }

    /// How many stages have segments of several tasks.
    #[must_use]
    pub fn shared_stages(&self) -> usize {
        let task = |segment| self.merged.origin(segment).task;
        let stages = self.stages.iter().filter(|stage| {
            let mut tasks = stage.segments().map(task);
            let first = tasks.next();
            tasks.any(|task| Some(task) != first)
        });
        stages.count()
    }
}

fn one_by_one(alone: &[(TaskId, Vec<Stage>)]) -> Nanos {
    let times = alone.iter().map(|(_, stages)| total(stages));
    times.fold(Nanos::ZERO, |sum, time| sum + time)
}

/// The stages of one task after the other, of segments of the merged graph.
fn in_turn(merged: &Merged, alone: &[(TaskId, Vec<Stage>)]) -> Vec<Stage> {
    let places = (0..merged.origins().len()).map(SegmentIndex::at);
    let places: BTreeMap<Origin, SegmentIndex> =
        merged.origins().iter().copied().zip(places).collect();
    let stages = alone.iter().flat_map(|&(task, ref stages)| {
        let place = |segment| places[&Origin { task, segment }];
        renumbered(stages, place)
    });
    stages.collect()
}

/// The stages with other names for their segments.
fn renumbered(stages: &[Stage], name: impl Fn(SegmentIndex) -> SegmentIndex) -> Vec<Stage> {
    let group = |group: &Group| {
        let segments = group.segments.iter().map(|&segment| name(segment));
        Group::from(segments.collect::<Vec<_>>())
    };
    let stage = |stage: &Stage| Stage {
        groups: stage.groups.iter().map(group).collect(),
        merged: stage.merged,
        predicted: stage.predicted,
    };
    stages.iter().map(stage).collect()
}
