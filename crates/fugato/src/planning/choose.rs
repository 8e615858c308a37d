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
    /// The stages with none merged, where some are.
    unmerged: Option<Vec<Stage>>,
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
        unmerged: None,
    };
    if chosen.at_once_planned + chosen.merged_planned > 0 {
        match faster_stages(bench, plan, wanted.rounds, segments)? {
            Some(Faster { stages, unmerged }) => {
                chosen.unmerged = Some(unmerged).filter(|_| merged(&stages) > 0);
                chosen.plan = rebuilt(plan, stages, wanted.legs);
            }
            None => chosen.fell_back = true,
        }
    }
    Ok(chosen)
}

impl Chosen {
    /// Runs one after the other what is merged; false where nothing is. What padding costs is
    /// more where a share has fewer slices to spare, and no joining of legs makes it less.
    pub(super) fn unmerge(&mut self) -> bool {
        let Some(stages) = self.unmerged.take() else {
            return false;
        };
        self.plan = rebuilt(&self.plan, stages, self.legs);
        true
    }

    /// Joins legs into ones that are twice as long; a plan that is one leg already becomes
    /// the model as it is, which takes `unsplit`.
    pub(super) fn lengthen(&mut self, segments: &Segments, unsplit: Nanos) {
        if let [_] = self.plan.legs[..] {
            self.plan = whole(&self.plan, segments, unsplit);
            return;
        }
        // Twice nothing joins nothing.
        let shortest = self.plan.legs.iter().map(|leg| leg.predicted).min();
        self.legs.min = match self.legs.min {
            Nanos::ZERO => shortest.unwrap_or_default().max(Nanos::new(1)),
            min => min + min,
        };
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

/// Stages as they were measured to be faster.
struct Faster {
    stages: Vec<Stage>,
    /// The same with none merged.
    unmerged: Vec<Stage>,
}

/// The plan's stages, those of several groups and merged ones as they were measured to be faster, with that
/// time; and the same with none merged. `None` where a part does not run by itself.
fn faster_stages(
    bench: &mut PlanBench,
    plan: &Plan,
    rounds: usize,
    segments: &Segments,
) -> Result<Option<Faster>, PlanBenchError> {
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
            return (stage.clone(), stage.clone());
        }
        let of = |chosen: Stage, time| Stage {
            // A plan with computed prices has no measured ones among them.
            predicted: match plan.costs {
                CostBasis::Measured => time,
                CostBasis::Modelled => stage.predicted,
            },
            ..chosen
        };
        let plain = of(in_order, one_by_one);
        match as_planned < one_by_one {
            true if stage.merged => (of(stage.clone(), as_planned), plain),
            true => (of(stage.clone(), as_planned), of(stage.clone(), as_planned)),
            false => (plain.clone(), plain),
        }
    });
    let (stages, unmerged) = faster.unzip();
    Ok(Some(Faster { stages, unmerged }))
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

#[cfg(test)]
mod tests {
    use super::super::{Elsewhere, Planned, REPORT_SCHEMA, Report, lengthened};
    use super::*;
    use fugato_core::graph::{Graph, Operator, Tensor};
    use fugato_core::plan::PlanKey;
    use fugato_core::profile::DeviceKey;
    use fugato_core::{BatchSize, Share, TensorIndex};

    const COUNT: usize = 8;

    /// Segments one after the other.
    fn segments() -> Segments {
        let tensor = |place: usize| Tensor {
            name: format!("t{place}"),
            ..Tensor::default()
        };
        let operator = |place: usize| Operator {
            name: format!("o{place}"),
            inputs: (0..place).last().map(TensorIndex::at).into_iter().collect(),
            outputs: vec![TensorIndex::at(place)],
            flops: 1,
            ..Operator::default()
        };
        let (tensors, operators) = ((0..COUNT).map(tensor), (0..COUNT).map(operator));
        let graph = Graph::new(tensors.collect(), operators.collect(), vec![], vec![]);
        let segments = graph.expect("it has no circle").segments_from(1);
        assert_eq!(segments.count(), COUNT);
        segments
    }

    /// A leg of a millisecond for each of them.
    fn chosen() -> Chosen {
        let key = PlanKey {
            model: "abc".to_owned(),
            device: DeviceKey {
                kind: "cpu".to_owned(),
                name: "a CPU".to_owned(),
                slices: 2,
            },
            runtime: "onnxruntime 1".to_owned(),
            share: Share(1),
            batch: BatchSize(1),
        };
        let stage = |place| Stage {
            groups: vec![Group::from(vec![SegmentIndex::at(place)])],
            merged: false,
            predicted: Nanos::from_millis(1),
        };
        let legs = LegLimits {
            min: Nanos::from_millis(1),
            max: Nanos::from_millis(1),
        };
        let stages = (0..COUNT).map(stage).collect();
        Chosen {
            plan: Plan::new(key, "sequential", CostBasis::Measured, stages, legs),
            at_once_planned: 0,
            merged_planned: 0,
            legs,
            fell_back: false,
            unmerged: None,
        }
    }

    /// What is said of it where all its legs took so many microseconds, and the model as it is ten
    /// milliseconds.
    fn report(chosen: &Chosen, measured: u64) -> Report {
        Report {
            schema: REPORT_SCHEMA,
            segments: COUNT,
            indivisible: None,
            unsplit: Nanos::from_millis(10),
            sequential: None,
            plans: vec![Planned {
                plan: chosen.plan.clone(),
                prunings: None,
                planned_in: Nanos::ZERO,
                reckoned: chosen.plan.predicted,
                merged_planned: 0,
                merged: 0,
                at_once_planned: 0,
                at_once: 0,
                measured: Nanos::from_micros(measured),
                stages: Vec::new(),
                elsewhere: Vec::new(),
                over_sequential: None,
                over_unsplit: 1.0,
                unsplit: chosen.is_unsplit(),
                difference: None,
                farthest_output: None,
                fell_back: chosen.fell_back,
            }],
        }
    }

    #[test]
    fn legs_are_joined_as_long_as_they_cost_too_much() {
        let segments = segments();
        let mut plan = chosen();
        let join = |plan: &mut Chosen, measured| {
            let report = report(plan, measured);
            lengthened(std::slice::from_mut(plan), &report, &segments, 0.03)
        };
        assert!(!join(&mut plan, 10_300), "3 % more is no more than it may");
        for legs in [8, 4, 2] {
            assert_eq!(plan.plan.legs.len(), legs);
            assert!(!plan.is_unsplit());
            assert!(join(&mut plan, 10_301));
        }
        assert_eq!(plan.plan.legs.len(), 1);
        assert!(plan.is_unsplit(), "{:?}", plan.plan);
        assert!(!join(&mut plan, 20_000), "it is the model as it is");
        let mut fallen = Chosen {
            fell_back: true,
            ..chosen()
        };
        assert!(!join(&mut fallen, 20_000), "it was never measured");
        plan.plan.check(&segments).expect("a plan of all segments");
    }

    #[test]
    fn legs_are_joined_as_long_as_they_cost_too_much_elsewhere() {
        let segments = segments();
        let mut plan = chosen();
        let mut join = |measured| {
            let mut report = report(&plan, 10_000);
            let there = |micros| Elsewhere {
                share: Share(2),
                batch: BatchSize(1),
                measured: Nanos::from_micros(micros),
                unsplit: Nanos::from_millis(5),
            };
            report.plans[0].elsewhere = vec![there(5_000), there(measured)];
            lengthened(std::slice::from_mut(&mut plan), &report, &segments, 0.03)
        };
        assert!(!join(5_150), "3 % more is no more than it may");
        assert!(join(5_151));
        assert_eq!(plan.plan.legs.len(), 4);
    }

    #[test]
    fn what_is_merged_goes_first_where_it_costs_too_much_elsewhere() {
        let segments = segments();
        let mut plan = chosen();
        plan.unmerged = Some(plan.plan.stages.clone());
        plan.plan.stages[0].merged = true;
        let mut found = report(&plan, 10_000);
        found.plans[0].elsewhere = vec![Elsewhere {
            share: Share(2),
            batch: BatchSize(1),
            measured: Nanos::from_millis(6),
            unsplit: Nanos::from_millis(5),
        }];
        assert!(lengthened(
            std::slice::from_mut(&mut plan),
            &found,
            &segments,
            0.03
        ));
        assert_eq!((plan.plan.legs.len(), merged(&plan.plan.stages)), (8, 0));
        assert!(lengthened(
            std::slice::from_mut(&mut plan),
            &found,
            &segments,
            0.03
        ));
        assert_eq!(plan.plan.legs.len(), 4);
    }

    #[test]
    fn legs_of_any_length_are_joined_too() {
        let segments = segments();
        let mut plan = chosen();
        plan.legs.min = Nanos::ZERO;
        for _ in 0..6 {
            plan.lengthen(&segments, Nanos::from_millis(10));
        }
        assert!(plan.is_unsplit());
    }

    #[test]
    fn one_leg_of_groups_that_costs_too_much_is_the_model_as_it_is() {
        let segments = segments();
        let mut plan = chosen();
        plan.plan.stages[0].merged = true;
        for _ in 0..3 {
            plan.lengthen(&segments, Nanos::from_millis(10));
        }
        assert_eq!(plan.plan.legs.len(), 1);
        assert!(!plan.is_unsplit(), "it has a merged stage");
        plan.lengthen(&segments, Nanos::from_millis(10));
        assert!(plan.is_unsplit());
        assert_eq!(plan.plan.stages.len(), 1);
        assert_eq!(plan.plan.predicted, Nanos::from_millis(10));
        plan.plan.check(&segments).expect("a plan of all segments");
    }
}
