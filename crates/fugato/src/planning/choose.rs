//! What of a plan is worth it, by measurement: groups side by side, and the cuts themselves.

use super::{Wanted, at_once, merged};
use crate::engine::{PlanBench, PlanBenchError};
use fugato_core::Nanos;
use fugato_core::SegmentIndex;
use fugato_core::graph::Segments;
use fugato_core::plan::{CostBasis, Group, LegLimits, Plan, Stage};
use fugato_device::Cuts;

/// A plan as it was chosen.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) plan: Plan,
    /// Stages of several groups before anything was chosen.
    pub(super) at_once_planned: usize,
    /// Merged stages before anything was chosen.
    pub(super) merged_planned: usize,
    /// How long its legs are.
    pub(super) legs: LegLimits,
    /// Whether a part did not run by itself.
    pub(super) fell_back: bool,
}

/// Keeps groups side by side, and stages merged, where that is measured to be faster than one
/// segment after the other on all slices.
pub(super) fn by_measurement(
    bench: &mut PlanBench,
    plan: &Plan,
    segments: &Segments,
    wanted: &Wanted,
) -> Result<Chosen, PlanBenchError> {
    let mut chosen = Chosen {
        plan: plan.clone(),
        at_once_planned: at_once(&plan.stages),
        merged_planned: merged(&plan.stages),
        legs: wanted.legs,
        fell_back: false,
    };
    if chosen.at_once_planned + chosen.merged_planned > 0 {
        match faster_stages(bench, plan, wanted.rounds, segments)? {
            Some(stages) => chosen.plan = rebuilt(plan, stages, wanted.legs),
            None => chosen.fell_back = true,
        }
    }
    Ok(chosen)
}

impl Chosen {
    /// Joins legs into ones that are twice as long; a plan that is one leg already becomes
    /// the model as it is, which takes `unsplit`.
    pub(super) fn lengthen(&mut self, segments: &Segments, unsplit: Nanos) {
        if let [_] = self.plan.legs[..] {
            self.plan = whole(&self.plan, segments, unsplit);
            return;
        }
        self.legs.min = self.legs.min + self.legs.min;
        let stages = std::mem::take(&mut self.plan.stages);
        self.plan = rebuilt(&self.plan, stages, self.legs);
    }

    /// Whether the plan runs the model as it is: stages of one group that follow each other in
    /// a leg are run as one, so one leg without groups at once or merged is the whole model.
    pub(super) fn is_unsplit(&self) -> bool {
        let stages = &self.plan.stages;
        self.plan.legs.len() == 1 && at_once(stages) + merged(stages) == 0
    }
}

/// The plan's stages, those of several groups and merged ones as they were measured to be faster, with that
/// time; `None` where a part does not run by itself.
fn faster_stages(
    bench: &mut PlanBench,
    plan: &Plan,
    rounds: usize,
    segments: &Segments,
) -> Result<Option<Vec<Stage>>, PlanBenchError> {
    let in_order = plan.stages.iter().map(one_after_the_other);
    let in_order: Vec<Stage> = in_order.collect();
    let ways = [&plan.stages, &in_order].map(|stages| Some(Cuts::stage_by_stage(stages, segments)));
    let timed = bench.time(&ways, rounds)?;
    let count = plan.stages.len();
    if timed.iter().any(|timed| timed.legs.len() != count) {
        return Ok(None);
    }
    let stages = plan
        .stages
        .iter()
        .zip(in_order)
        .zip(timed[0].legs.iter().zip(&timed[1].legs));
    let faster = stages.map(|((stage, in_order), (&as_planned, &one_by_one))| {
        if stage.groups.len() == 1 && !stage.merged {
            return stage.clone();
        }
        let (chosen, time) = match as_planned < one_by_one {
            true => (stage.clone(), as_planned),
            false => (in_order, one_by_one),
        };
        Stage {
            // A plan with computed prices has no measured ones among them.
            predicted: match plan.costs {
                CostBasis::Measured => time,
                CostBasis::Modelled => stage.predicted,
            },
            ..chosen
        }
    });
    Ok(Some(faster.collect()))
}

/// The stage with its segments in one group, in an order that all of them can run in.
fn one_after_the_other(stage: &Stage) -> Stage {
    let mut segments: Vec<SegmentIndex> = stage.segments().collect();
    segments.sort_unstable();
    Stage {
        groups: vec![Group::from(segments)],
        merged: false,
        predicted: stage.predicted,
    }
}

/// The plan of these stages.
fn rebuilt(plan: &Plan, stages: Vec<Stage>, limits: LegLimits) -> Plan {
    let key = plan.key.clone();
    Plan {
        segment_flops: plan.segment_flops,
        stackable_apart: plan.stackable_apart,
        ..Plan::new(key, &plan.planner, plan.costs, stages, limits)
    }
}

/// The plan of one leg, stage and group, which is the model as it is.
fn whole(plan: &Plan, segments: &Segments, time: Nanos) -> Plan {
    let all: Vec<SegmentIndex> = segments.indices().collect();
    let stage = Stage {
        groups: vec![Group::from(all)],
        merged: false,
        predicted: time,
    };
    let only = LegLimits {
        min: time,
        ..LegLimits::default()
    };
    Plan {
        costs: CostBasis::Measured,
        ..rebuilt(plan, vec![stage], only)
    }
}
