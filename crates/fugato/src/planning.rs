//! Stage plans of a model: made by planners, timed and checked on the device.
//!
//! Segments are timed one by one, on the share of the plan and on one slice. Planners divide
//! them into stages at these times. Then what they made is measured, and what a plan says is
//! what was measured: groups stay side by side where that was faster than one after the other
//! on all slices, and legs are joined until they cost little over the model as it is.

mod choose;
mod in_flight;
mod prices;

pub use in_flight::{
    IN_FLIGHT_SCHEMA, InFlightPlan, InFlightReport, Placed, Position, SharedStage, in_flight,
};

use crate::engine::{PlanBench, PlanBenchError};
use choose::Chosen;
use fugato_core::graph::Segments;
use fugato_core::plan::{
    AnyPlanner, CostBasis, CostModel, Group, LegLimits, Plan, PlanError, PlanKey, Planner,
    Sequential, Stage, StageCost, Timed,
};
use fugato_core::{BatchSize, Nanos, SegmentIndex, Share};
use fugato_device::{Cuts, ModelGraph};
use prices::{SegmentTimes, Source};
use serde::Serialize;
use std::time::Instant;

/// The schema of a [`Report`].
pub const REPORT_SCHEMA: &str = "fugato.plan-report/2";

/// What is asked of planning.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The planners, in the order they are reported.
    pub planners: Vec<AnyPlanner>,
    /// How long legs should be.
    pub legs: LegLimits,
    /// What a plan may cost over the model as it is, as a part of its time: what costs more
    /// gets longer legs, and in the end is the model as it is.
    pub cost_max: f64,
    /// Where the prices are from that planners go by.
    pub costs: CostBasis,
    /// How many tasks a time is the median of.
    pub rounds: usize,
    /// Whether answers are compared with those of the model as it is.
    pub check: bool,
}

/// How far planning is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is being done.
    pub what: String,
    /// How much of it is done.
    pub done: usize,
    /// How much there is.
    pub all: usize,
}

/// What planning a model gave.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Always [`REPORT_SCHEMA`].
    pub schema: &'static str,
    /// How many segments there are.
    pub segments: usize,
    /// Why the model is one segment, if it has to be.
    pub indivisible: Option<String>,
    /// The median time of the model as it is, with a thread on each slice.
    #[serde(rename = "unsplit_ns")]
    pub unsplit: Nanos,
    /// The median time of all segments, one after the other, each with a thread on each slice;
    /// `None` on an NVIDIA device, where a leg is one session, and all segments in one leg the
    /// model as it is.
    #[serde(rename = "sequential_ns")]
    pub sequential: Option<Nanos>,
    /// By planner.
    pub plans: Vec<Planned>,
}

/// What a planner made, and what it took.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// The plan, as it was chosen by measurement.
    pub plan: Plan,
    /// The limits that the planner looked within, where it is `ios`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prunings: Option<Prunings>,
    /// How long the planner looked for stages, on this machine; segments were timed before that.
    #[serde(rename = "planned_in_ns")]
    pub planned_in: Nanos,
    /// What the planner reckoned with: sums of the times of segments, and for groups at once
    /// a time that is computed from these.
    #[serde(rename = "reckoned_ns")]
    pub reckoned: Nanos,
    /// Merged stages that the planner made.
    pub merged_planned: usize,
    /// Those of them that stayed: as one operator they were faster than one after the other.
    pub merged: usize,
    /// Stages of several groups that the planner made.
    pub at_once_planned: usize,
    /// Those of them that stayed: at once they were faster than one after the other.
    pub at_once: usize,
    /// The median time of its legs one after the other, their dispatch included.
    #[serde(rename = "measured_ns")]
    pub measured: Nanos,
    /// The median time of each stage by itself.
    #[serde(rename = "stages_measured_ns")]
    pub stages: Vec<Nanos>,
    /// How many times as fast it is as all segments one after the other, where that is known.
    pub over_sequential: Option<f64>,
    /// How many times as fast it is as the model as it is.
    pub over_unsplit: f64,
    /// What it takes at other shares and batches at which it may be served: at the least and the
    /// most of the device and at one item. None where it is the model as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<Elsewhere>,
    /// Whether it is the model as it is, because all else cost more than it may.
    pub unsplit: bool,
    /// `max|a-b| / max|b|` against the model as it is, over several inputs, of the output that
    /// is farthest off; absent where it was not asked for, or cannot be said.
    pub difference: Option<f64>,
    /// That output, where answers were compared.
    pub farthest_output: Option<String>,
    /// Whether a part of it did not run by itself, so that the model ran as it is.
    pub fell_back: bool,
}

/// Median times of a plan at another share and batch than its own, in turns with the model as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// The slices.
    pub share: Share,
    /// The items.
    pub batch: BatchSize,
    /// Of the plan's legs one after the other, their dispatch included.
    #[serde(rename = "measured_ns")]
    pub measured: Nanos,
    /// Of the model as it is.
    #[serde(rename = "unsplit_ns")]
    pub unsplit: Nanos,
}

/// The limits within which `ios` looks for stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Prunings {
    /// Most segments of a group.
    pub r: usize,
    /// Most groups of a stage.
    pub s: usize,
}

impl Prunings {
    /// Those of a planner; `None` where it is not `ios`.
    pub fn of(planner: &AnyPlanner) -> Option<Self> {
        let AnyPlanner::Ios(ios) = planner else {
            return None;
        };
        Some(Self {
            r: ios.group_segments_max,
            s: ios.groups_max,
        })
    }
}

/// Plans the model on the bench. Chains are cut where a segment takes about the least time
/// of a leg.
///
/// # Errors
/// Where the model cannot be run.
pub fn plan(
    bench: &mut PlanBench,
    wanted: &Wanted,
    tell: &mut dyn FnMut(Step),
) -> Result<(Report, Segments), PlanBenchError> {
    let share = bench.key().share;
    let apart = wanted.planners.iter().any(AnyPlanner::merges);
    let (segments, flops) = cut(bench, (share, wanted.rounds), wanted.legs, apart)?;
    let costs = Source::of(bench, &segments, wanted, tell)?.prices(bench, &segments);
    let mut plans = Vec::new();
    let (mut reckoned, mut planned_in) = (Vec::new(), Vec::new());
    for planner in &wanted.planners {
        let mut costs = costs.clone();
        let begun = Instant::now();
        let Ok(stages) = planner.stages(&segments, &mut costs, &mut |progress| {
            tell(Step {
                what: format!("{}: segments placed", planner.name()),
                done: progress.planned,
                all: progress.segments,
            });
        });
        planned_in.push(begun.elapsed());
        let key = bench.key().clone();
        let mut plan = Plan::new(key, planner.name(), costs.basis(), stages, wanted.legs);
        plan.segment_flops = Some(flops);
        plan.stackable_apart = apart;
        plan.check(&segments)?;
        reckoned.push(plan.predicted);
        plans.push(plan);
    }
    let mut chosen = Vec::with_capacity(plans.len());
    for (done, plan) in plans.iter().enumerate() {
        tell(Step {
            what: format!("{}: plans timed", plan.planner),
            done,
            all: plans.len(),
        });
        chosen.push(choose::by_measurement(bench, plan, &segments, wanted)?);
    }
    let mut report = measure(bench, (&chosen, &reckoned), &segments, wanted.rounds)?;
    // What costs too much gets longer legs, and is measured again: first here, then where else
    // it may be served.
    loop {
        while lengthened(&mut chosen, &report, &segments, wanted.cost_max) {
            report = measure(bench, (&chosen, &reckoned), &segments, wanted.rounds)?;
        }
        tell(Step {
            what: "plans timed at other shares and batches".to_owned(),
            done: 0,
            all: bench.elsewhere().len(),
        });
        measure_elsewhere(bench, &mut report, &segments, wanted.rounds)?;
        if !lengthened(&mut chosen, &report, &segments, wanted.cost_max) {
            break;
        }
        report = measure(bench, (&chosen, &reckoned), &segments, wanted.rounds)?;
    }
    let planners = wanted.planners.iter().zip(planned_in);
    for (planned, (planner, planned_in)) in report.plans.iter_mut().zip(planners) {
        planned.plan.check(&segments)?;
        planned.planned_in = Nanos::from_secs_f64(planned_in.as_secs_f64());
        planned.prunings = Prunings::of(planner);
        if wanted.check {
            let found = bench.difference(&planned.plan, &segments)?;
            planned.difference = found.found;
            planned.farthest_output = Some(found.output);
        }
    }
    Ok((report, segments))
}

/// Lengthens the legs of plans that were measured to cost more than they may over the model as
/// it is; says whether there were any.
fn lengthened(plans: &mut [Chosen], report: &Report, segments: &Segments, cost_max: f64) -> bool {
    let mut any = false;
    for (plan, planned) in plans.iter_mut().zip(&report.plans) {
        let elsewhere = planned.elsewhere.iter();
        let mut times = elsewhere
            .map(|there| (there.measured, there.unsplit))
            .chain([(planned.measured, report.unsplit)]);
        let costs_too_much = times.any(|(measured, unsplit)| {
            measured.as_secs_f64() > unsplit.as_secs_f64() * (1.0 + cost_max)
        });
        if costs_too_much && !planned.unsplit && !planned.fell_back {
            // Here merging was measured to pay.
            let here = report.unsplit.as_secs_f64() * (1.0 + cost_max);
            let is_only_elsewhere = planned.measured.as_secs_f64() <= here;
            if !(is_only_elsewhere && plan.unmerge()) {
                plan.lengthen(segments, report.unsplit);
            }
            any = true;
        }
    }
    any
}

/// A plan of legs that one follows after the other, each between half of `longest` and that,
/// as far as the model has operators that are short enough; made at the bench's share and batch.
///
/// # Errors
/// Where the model cannot be run.
pub fn legs(
    bench: &mut PlanBench,
    longest: Nanos,
    rounds: usize,
) -> Result<(Plan, Segments), PlanBenchError> {
    let limits = up_to(longest);
    let share = bench.key().share;
    let (segments, flops) = cut(bench, (share, rounds), limits, false)?;
    let times = bench.segment_times(&segments, share, rounds, &mut |_| {})?;
    let of = (bench.key().clone(), CostBasis::Measured);
    let plan = one_by_one(of, (&segments, flops), times, limits)?;
    Ok((plan, segments))
}

/// As [`legs`], of a model whose parts are not timed: of its time `whole`, at the key's share and
/// batch, each segment is reckoned to take the part that it would take on another device, by
/// its operations and bytes.
///
/// # Errors
/// Where what was made is no plan of the model.
pub fn legs_by_whole(
    graph: &ModelGraph,
    key: PlanKey,
    whole: Nanos,
    longest: Nanos,
) -> Result<(Plan, Segments), PlanError> {
    let limits = up_to(longest);
    let flops = segment_flops(graph, whole, limits);
    let segments = graph.segments_from(flops);
    let model = CostModel::IOS_V100;
    let mut costs = model.costs(graph.graph(), &segments, key.batch, model.lane_slices);
    let there = (0..segments.count()).map(|place| {
        let Ok(time) = costs.stage(&[Group::from(vec![SegmentIndex::at(place)])]);
        time.as_secs_f64()
    });
    let there: Vec<f64> = there.collect();
    let total: f64 = there.iter().sum();
    let here = there
        .iter()
        .map(|time| Nanos::from_secs_f64(whole.as_secs_f64() * time / total.max(1e-9)));
    let of = (key, CostBasis::Modelled);
    let plan = one_by_one(of, (&segments, flops), Some(here.collect()), limits)?;
    Ok((plan, segments))
}

/// Legs between half of `longest` and that.
fn up_to(longest: Nanos) -> LegLimits {
    LegLimits {
        min: Nanos::new(longest.as_nanos() / 2),
        max: longest,
    }
}

/// A plan that has segments of these times one after the other, joined into legs.
fn one_by_one(
    (key, costs): (PlanKey, CostBasis),
    (segments, flops): (&Segments, u64),
    times: Option<Vec<Nanos>>,
    limits: LegLimits,
) -> Result<Plan, PlanError> {
    let mut times = SegmentTimes::of_one_slice(times, segments.count());
    let Ok(stages) = Sequential.stages(segments, &mut times, &mut |_| {});
    let mut plan = Plan::new(key, Sequential.name(), costs, stages, limits);
    plan.segment_flops = Some(flops);
    plan.check(segments)?;
    Ok(plan)
}

/// The segments for such legs, with operators that can be stacked `apart` from what follows them
/// or not; and the operations after which chains are cut.
fn cut(
    bench: &mut PlanBench,
    (share, rounds): (Share, usize),
    legs: LegLimits,
    apart: bool,
) -> Result<(Segments, u64), PlanBenchError> {
    let unsplit = bench.whole_time(share, rounds)?;
    let flops = segment_flops(bench.graph(), unsplit, legs);
    let segments = match apart {
        false => bench.graph().segments_from(flops),
        true => bench.graph().segments_to_stack(flops),
    };
    Ok((segments, flops))
}

/// Times the plans, all in turns.
fn measure(
    bench: &mut PlanBench,
    (plans, reckoned): (&[Chosen], &[Nanos]),
    segments: &Segments,
    rounds: usize,
) -> Result<Report, PlanBenchError> {
    let mut ways = vec![None];
    if bench.runs_parts_apart() {
        ways.push(Some(Cuts::segment_by_segment(segments)));
    }
    let before_plans = ways.len();
    for Chosen { plan, .. } in plans {
        ways.push(Some(Cuts::of(plan, segments)));
        ways.push(Some(Cuts::stage_by_stage(&plan.stages, segments)));
    }
    let timed = bench.time(&ways, rounds)?;
    let (timed, of_plans) = timed.split_at(before_plans);
    let (unsplit, sequential) = (timed[0].whole, timed.get(1).map(|timed| timed.whole));
    let mut report = Report {
        schema: REPORT_SCHEMA,
        segments: segments.count(),
        indivisible: bench.graph().indivisible().map(ToString::to_string),
        unsplit,
        sequential,
        plans: Vec::new(),
    };
    for ((chosen, &reckoned), timed) in plans.iter().zip(reckoned).zip(of_plans.chunks(2)) {
        let (plan, whole) = (&chosen.plan, timed[0].whole);
        let fell_back = chosen.fell_back || timed[0].legs.len() != plan.legs.len();
        let in_turns = Timed {
            legs: whole,
            unsplit,
        };
        let ratio = |time: Nanos| time.as_secs_f64() / whole.as_secs_f64();
        report.plans.push(Planned {
            planned_in: Nanos::ZERO,
            reckoned,
            merged_planned: chosen.merged_planned,
            merged: merged(&plan.stages),
            at_once_planned: chosen.at_once_planned,
            at_once: at_once(&plan.stages),
            over_sequential: sequential.map(ratio),
            over_unsplit: ratio(unsplit),
            measured: whole,
            stages: timed[1].legs.clone(),
            elsewhere: Vec::new(),
            unsplit: chosen.is_unsplit(),
            fell_back,
            difference: None,
            farthest_output: None,
            prunings: None,
            plan: Plan {
                timed: (!fell_back).then_some(in_turns),
                ..plan.clone()
            },
        });
    }
    Ok(report)
}

/// Times the plans where else they may be served, in turns with the model as it is.
fn measure_elsewhere(
    bench: &mut PlanBench,
    report: &mut Report,
    segments: &Segments,
    rounds: usize,
) -> Result<(), PlanBenchError> {
    let plans = report.plans.iter_mut();
    let mut plans: Vec<&mut Planned> = plans
        .filter(|planned| !planned.unsplit && !planned.fell_back)
        .collect();
    if plans.is_empty() {
        return Ok(());
    }
    let cuts = plans
        .iter()
        .map(|planned| Some(Cuts::of(&planned.plan, segments)));
    let ways: Vec<Option<Cuts>> = std::iter::once(None).chain(cuts).collect();
    for (share, batch) in bench.elsewhere() {
        let timed = bench.time_at((share, batch), &ways, rounds)?;
        let Some((unsplit, timed)) = timed.split_first() else {
            continue;
        };
        for (planned, timed) in plans.iter_mut().zip(timed) {
            planned.elsewhere.push(Elsewhere {
                share,
                batch,
                measured: timed.whole,
                unsplit: unsplit.whole,
            });
        }
    }
    Ok(())
}

/// Stages of several groups.
fn at_once(stages: &[Stage]) -> usize {
    stages.iter().filter(|stage| stage.groups.len() > 1).count()
}

/// Stages that run as one operator.
fn merged(stages: &[Stage]) -> usize {
    stages.iter().filter(|stage| stage.merged).count()
}

/// Floating-point operations that take about the least time of a leg: a power of two, so
/// that a model that is timed again is cut as before.
fn segment_flops(graph: &ModelGraph, unsplit: Nanos, legs: LegLimits) -> u64 {
    let operators = graph.graph().operators().iter();
    let flops: u64 = operators.map(|operator| operator.flops).sum();
    let part = u128::from(flops) * u128::from(legs.min.as_nanos());
    let part = part.checked_div(u128::from(unsplit.as_nanos()));
    let part = part.and_then(|part| u64::try_from(part).ok());
    match part {
        Some(part) => 1 << part.max(1).ilog2(),
        None => u64::MAX,
    }
}
