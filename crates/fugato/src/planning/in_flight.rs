//! Tasks of one model in flight at once, planned as one graph.
//!
//! Each has come another part of its way, evenly apart, in the legs of the planner's own plan;
//! what is left of all of them is one graph to it. What that gains is computed: groups of a
//! stage that are of several tasks are run by no device here.

use super::prices::Source;
use super::{Prunings, Step, Wanted, cut};
use crate::engine::{PlanBench, PlanBenchError};
use fugato_core::graph::{InFlight, Segments};
use fugato_core::plan::{AnyPlanner, CostBasis, Plan, PlanKey, Planner, StageCost, Together};
use fugato_core::{Nanos, SegmentIndex, TaskId};
use serde::Serialize;

/// The schema of an [`InFlightReport`].
pub const IN_FLIGHT_SCHEMA: &str = "fugato.plan-in-flight/1";

/// What tasks in flight take together, and one after the other.
#[derive(Clone, Debug, Serialize)]
pub struct InFlightReport {
    /// Always [`IN_FLIGHT_SCHEMA`].
    pub schema: &'static str,
    /// What it was made for.
    pub key: PlanKey,
    /// Where the times of single segments are from; those of groups at once are computed.
    pub costs: CostBasis,
    /// How many segments the model has.
    pub segments: usize,
    /// Why the model is one segment, if it has to be.
    pub indivisible: Option<String>,
    /// By planner.
    pub plans: Vec<InFlightPlan>,
}

/// What a planner made of tasks in flight.
#[derive(Clone, Debug, Serialize)]
pub struct InFlightPlan {
    /// Its name.
    pub planner: String,
    /// The limits that it looked within, where it is `ios`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prunings: Option<Prunings>,
    /// By task: how far it is.
    pub positions: Vec<Position>,
    /// The time of one task from its first leg on.
    #[serde(rename = "alone_ns")]
    pub alone: Nanos,
    /// The time of what is left of the tasks, one after the other.
    #[serde(rename = "one_by_one_ns")]
    pub one_by_one: Nanos,
    /// The time of what is left of them together.
    #[serde(rename = "together_ns")]
    pub together: Nanos,
    /// How many times as fast that is: the throughput over that of one task after the other.
    pub gain: f64,
    /// Tasks per second, one after the other.
    pub tasks_per_s_one_by_one: f64,
    /// Tasks per second together: as many times more as the gain says.
    pub tasks_per_s: f64,
    /// Stages that have segments of several tasks.
    pub shared_stages: usize,
    /// The stages together.
    pub stages: Vec<SharedStage>,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Legs that have run.
    pub legs_done: usize,
    /// Legs of its plan.
    pub legs: usize,
    /// Segments that are left.
    pub segments_left: usize,
}

/// A stage of several tasks.
#[derive(Clone, Debug, Serialize)]
pub struct SharedStage {
    /// Its groups, which run at once.
    pub groups: Vec<Vec<Placed>>,
    /// Its time.
    #[serde(rename = "predicted_ns")]
    pub predicted: Nanos,
}

/// A segment of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// The task, from 0.
    pub task: TaskId,
    /// The segment of the model.
    pub segment: SegmentIndex,
}

/// Plans so many tasks of the model, evenly apart in their legs, together.
///
/// # Errors
/// Where the model cannot be run, or a segment of it not by itself.
pub fn in_flight(
    bench: &mut PlanBench,
    wanted: &Wanted,
    tasks: u16,
    tell: &mut dyn FnMut(Step),
) -> Result<InFlightReport, PlanBenchError> {
    let share = bench.key().share;
    let apart = wanted.planners.iter().any(AnyPlanner::merges);
    let (segments, _) = cut(bench, (share, wanted.rounds), wanted.legs, apart)?;
    let source = Source::of(bench, &segments, wanted, tell)?;
    if !source.is_known() {
        return Err(PlanBenchError::Apart);
    }
    let mut plans = Vec::with_capacity(wanted.planners.len());
    for planner in &wanted.planners {
        let own = alone(bench, &source, (planner, &segments), wanted, tell);
        own.check(&segments)?;
        let done = (0..tasks).map(|number| done(&own, number, tasks));
        let done: Vec<(usize, Vec<SegmentIndex>)> = done.collect();
        let model = (&segments, &own);
        plans.push(together(bench, &source, (planner, model), &done, tell));
    }
    Ok(InFlightReport {
        schema: IN_FLIGHT_SCHEMA,
        key: bench.key().clone(),
        costs: wanted.costs,
        segments: segments.count(),
        indivisible: bench.graph().indivisible().map(ToString::to_string),
        plans,
    })
}

/// The planner's plan of one task from its start, whose legs say where the others are.
fn alone(
    bench: &PlanBench,
    source: &Source,
    (planner, segments): (&AnyPlanner, &Segments),
    wanted: &Wanted,
    tell: &mut dyn FnMut(Step),
) -> Plan {
    let mut costs = source.prices(bench, segments);
    let Ok(stages) = planner.stages(segments, &mut costs, &mut |progress| {
        tell(Step {
            what: format!("{}: segments placed", planner.name()),
            done: progress.planned,
            all: progress.segments,
        });
    });
    let (key, basis) = (bench.key().clone(), costs.basis());
    Plan::new(key, planner.name(), basis, stages, wanted.legs)
}

/// How many legs task `number` of `tasks` has run, the first none, and their segments: those
/// that end by its part of the plan's time.
fn done(plan: &Plan, number: u16, tasks: u16) -> (usize, Vec<SegmentIndex>) {
    let all = u128::from(plan.predicted.as_nanos());
    let mut passed = 0_u128;
    let mut segments = Vec::new();
    for (place, leg) in plan.legs.iter().enumerate() {
        passed += u128::from(leg.predicted.as_nanos());
        if number == 0 || passed * u128::from(tasks) > all * u128::from(number) {
            return (place, segments);
        }
        let stages = plan.stages_of(leg).iter();
        segments.extend(stages.flat_map(|stage| stage.segments()));
    }
    (plan.legs.len(), segments)
}

fn together(
    bench: &PlanBench,
    source: &Source,
    (planner, (segments, own)): (&AnyPlanner, (&Segments, &Plan)),
    done: &[(usize, Vec<SegmentIndex>)],
    tell: &mut dyn FnMut(Step),
) -> InFlightPlan {
    let tasks = (0..).zip(done).map(|(number, (_, done))| InFlight {
        task: TaskId(number),
        graph: bench.graph().graph(),
        segments,
        batch: bench.key().batch,
        done,
    });
    let tasks: Vec<InFlight<'_>> = tasks.collect();
    let share = bench.key().share;
    let costs = |merged: &_| source.prices_of_merged(merged, share);
    let mut placed = |progress: fugato_core::plan::Progress| {
        tell(Step {
            what: format!("{}: segments of all tasks placed", planner.name()),
            done: progress.planned,
            all: progress.segments,
        });
    };
    let planned = Together::plan(planner, &tasks, costs, &mut placed)
        .expect("tasks have run legs of a checked plan, and prices never fail");
    let origin = |segment: &SegmentIndex| {
        let origin = planned.merged.origin(*segment);
        Placed {
            task: origin.task,
            segment: origin.segment,
        }
    };
    let stages = planned.stages.iter().map(|stage| {
        let groups = stage.groups.iter();
        let groups = groups.map(|group| group.segments.iter().map(origin).collect());
        SharedStage {
            groups: groups.collect(),
            predicted: stage.predicted,
        }
    });
    let positions = done.iter().map(|(legs_done, done)| Position {
        legs_done: *legs_done,
        legs: own.legs.len(),
        segments_left: segments.count() - done.len(),
    });
    let (one_by_one, together) = (planned.one_by_one(), planned.predicted());
    let gain = match together {
        Nanos::ZERO => 1.0,
        _ => one_by_one.as_secs_f64() / together.as_secs_f64(),
    };
    let rate = 1.0 / own.predicted.max(Nanos::new(1)).as_secs_f64();
    InFlightPlan {
        planner: planner.name().to_owned(),
        prunings: Prunings::of(planner),
        positions: positions.collect(),
        alone: own.predicted,
        one_by_one,
        together,
        gain,
        tasks_per_s_one_by_one: rate,
        tasks_per_s: rate * gain,
        shared_stages: planned.shared_stages(),
        stages: stages.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::plan::{Group, LegLimits, Stage};
    use fugato_core::profile::DeviceKey;
    use fugato_core::{BatchSize, Share};

    #[test]
    fn tasks_are_as_far_as_whole_legs_bring_them() {
        let key = PlanKey {
            model: "abc".to_owned(),
            device: DeviceKey {
                kind: "sim".to_owned(),
                name: "test".to_owned(),
                slices: 1,
            },
            runtime: "none".to_owned(),
            share: Share(1),
            batch: BatchSize(1),
        };
        // Legs of 1, 2 and 5 ms.
        let stages = [1, 2, 5].into_iter().zip(0..).map(|(time, segment)| Stage {
            groups: vec![Group::from(vec![SegmentIndex(segment)])],
            merged: false,
            predicted: Nanos::from_millis(time),
        });
        let stages = stages.collect();
        let limits = LegLimits::default();
        let plan = Plan::new(key, "list", CostBasis::Modelled, stages, limits);
        let at = |number| {
            let (legs, segments) = done(&plan, number, 8);
            assert_eq!(legs, segments.len());
            legs
        };
        let legs: Vec<usize> = (0..8).map(at).collect();
        assert_eq!(legs, [0, 1, 1, 2, 2, 2, 2, 2]);
    }
}
