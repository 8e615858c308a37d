//! Stage plans of a model: made by planners, timed and checked on the device.
//!
//! Segments are timed one by one, in a model that is cut into all of them, on the share of the
//! plan and on one slice. Planners then divide them into stages at these times, and each plan
//! is timed as a whole and stage by stage.

use crate::engine::{PlanBench, PlanBenchError, Timing};
use fugato_core::Nanos;
use fugato_core::SegmentIndex;
use fugato_core::graph::Segments;
use fugato_core::plan::{AnyPlanner, CostBasis, Group, LegLimits, Plan, Planner, StageCost};
use fugato_device::Cuts;
use serde::Serialize;
use std::convert::Infallible;

/// The schema of a [`Report`].
pub const REPORT_SCHEMA: &str = "fugato.plan-report/1";

/// What is asked of planning.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The planners, in the order they are reported.
    pub planners: Vec<AnyPlanner>,
    /// How long legs should be.
    pub legs: LegLimits,
    /// How many tasks a time is the median of.
    pub rounds: usize,
    /// Whether answers are compared with those of the model as it is.
    pub check: bool,
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
    /// The median time of the model as it is.
    #[serde(rename = "unsplit_ns")]
    pub unsplit: Nanos,
    /// The median time of all segments, one after the other.
    #[serde(rename = "sequential_ns")]
    pub sequential: Nanos,
    /// By planner.
    pub plans: Vec<Planned>,
}

/// What a planner made, and what it took.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// The median time of its legs one after the other, their dispatch included.
    #[serde(rename = "measured_ns")]
    pub measured: Nanos,
    /// The median time of each stage by itself.
    #[serde(rename = "stages_measured_ns")]
    pub stages: Vec<Nanos>,
    /// How many times as fast it is as all segments one after the other.
    pub over_sequential: f64,
    /// How many times as fast it is as the model as it is.
    pub over_unsplit: f64,
    /// `max|a-b| / max|b|` against the model as it is; absent where it was not asked for, or
    /// the answers cannot be compared.
    pub difference: Option<f64>,
    /// Whether a part of it did not run by itself, so that the model ran as it is.
    pub fell_back: bool,
}

/// What waking the other threads of a stage of several groups takes, at the least.
const FORK: Nanos = Nanos::from_micros(10);

/// What stages take by the times of their segments: of one group its segments at all slices;
/// of several each group on a slice of its own, the longest first, on whichever is free, and
/// the fork. That they do not slow each other is assumed.
#[derive(Clone, Debug)]
struct SegmentTimes {
    /// By segment: on all slices of the share.
    wide: Vec<Nanos>,
    /// By segment: on one slice.
    narrow: Vec<Nanos>,
    slices: usize,
}

impl StageCost for SegmentTimes {
    type Error = Infallible;

    fn stage(&mut self, groups: &[Group]) -> Result<Nanos, Infallible> {
        let sum = |times: &[Nanos], group: &Group| {
            let segments = group.segments.iter();
            segments.fold(Nanos::ZERO, |sum, segment| sum + times[segment.place()])
        };
        if let [group] = groups {
            return Ok(sum(&self.wide, group));
        }
        let times = groups.iter().map(|group| sum(&self.narrow, group));
        let mut times: Vec<Nanos> = times.collect();
        times.sort_unstable_by(|one, other| other.cmp(one));
        let mut lanes = vec![FORK; self.slices.max(1)];
        for time in times {
            if let Some(first) = lanes.iter_mut().min() {
                *first += time;
            }
        }
        Ok(lanes.into_iter().fold(FORK, Nanos::max))
    }

    fn basis(&self) -> CostBasis {
        CostBasis::Measured
    }
}

/// Plans the model on the bench. Chains are cut where a segment takes about the least time
/// of a leg.
///
/// # Errors
/// Where the model cannot be run.
pub fn plan(bench: &mut PlanBench, wanted: &Wanted) -> Result<(Report, Segments), PlanBenchError> {
    let rounds = wanted.rounds;
    let unsplit = bench.time(&[None], rounds)?;
    let flops = segment_flops(bench, unsplit[0].whole, wanted.legs);
    let segments = bench.graph().segments_from(flops);
    let each = [Some(one_by_one(&segments))];
    let count = segments.count();
    let legs = |timed: Vec<Timing>| match timed.into_iter().next() {
        Some(timing) if timing.legs.len() == count => timing.legs,
        // The model runs as it is, and what a segment takes is not known.
        _ => vec![Nanos::ZERO; count],
    };
    let costs = SegmentTimes {
        wide: legs(bench.time(&each, rounds)?),
        narrow: legs(bench.time_on_one(&each, rounds)?),
        slices: usize::from(bench.key().share.0),
    };
    let mut plans = Vec::new();
    for planner in &wanted.planners {
        let mut costs = costs.clone();
        let Ok(stages) = planner.stages(&segments, &mut costs, &mut |_| {});
        let key = bench.key().clone();
        let mut plan = Plan::new(key, planner.name(), costs.basis(), stages, wanted.legs);
        plan.segment_flops = Some(flops);
        plan.check(&segments)?;
        plans.push(plan);
    }
    let report = measure(bench, plans, &segments, wanted)?;
    Ok((report, segments))
}

/// Times the plans, all in turns.
fn measure(
    bench: &mut PlanBench,
    plans: Vec<Plan>,
    segments: &Segments,
    wanted: &Wanted,
) -> Result<Report, PlanBenchError> {
    let mut ways = vec![None, Some(one_leg(segments))];
    for plan in &plans {
        ways.push(Some(Cuts::of(plan, segments)));
        ways.push(Some(stage_by_stage(plan, segments)));
    }
    let timed = bench.time(&ways, wanted.rounds)?;
    let (unsplit, sequential) = (timed[0].whole, timed[1].whole);
    let mut report = Report {
        schema: REPORT_SCHEMA,
        segments: segments.count(),
        indivisible: bench.graph().indivisible().map(ToString::to_string),
        unsplit,
        sequential,
        plans: Vec::new(),
    };
    for (plan, timed) in plans.into_iter().zip(timed[2..].chunks(2)) {
        let whole = timed[0].whole;
        let ratio = |time: Nanos| time.as_secs_f64() / whole.as_secs_f64();
        report.plans.push(Planned {
            over_sequential: ratio(sequential),
            over_unsplit: ratio(unsplit),
            measured: whole,
            stages: timed[1].legs.clone(),
            difference: match wanted.check {
                true => bench.difference(&plan, segments)?,
                false => None,
            },
            fell_back: timed[0].legs.len() != plan.legs.len(),
            plan,
        });
    }
    Ok(report)
}

/// Floating-point operations that take about the least time of a leg.
fn segment_flops(bench: &PlanBench, unsplit: Nanos, legs: LegLimits) -> u64 {
    let operators = bench.graph().graph().operators().iter();
    let flops: u64 = operators.map(|operator| operator.flops).sum();
    let part = u128::from(flops) * u128::from(legs.min.as_nanos());
    let part = part
        .checked_div(u128::from(unsplit.as_nanos()))
        .unwrap_or(u128::MAX);
    u64::try_from(part).unwrap_or(u64::MAX).max(1)
}

/// All segments in one leg, one after the other.
fn one_leg(segments: &Segments) -> Cuts {
    Cuts::segment_by_segment(segments)
}

/// Each segment a leg.
fn one_by_one(segments: &Segments) -> Cuts {
    let all = segments.all().iter();
    Cuts::sequential(all.map(|segment| segment.operators.clone()))
}

/// Each stage a leg.
fn stage_by_stage(plan: &Plan, segments: &Segments) -> Cuts {
    let operators = |segment: SegmentIndex| segments.segment(segment).operators.clone();
    let stages = plan.stages.iter().map(|stage| {
        let groups = stage.groups.iter();
        let groups = groups.map(|group| {
            let segments = group.segments.iter();
            segments.flat_map(|&segment| operators(segment)).collect()
        });
        vec![groups.collect()]
    });
    Cuts::new(stages.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_at_once_take_as_long_as_the_longest_slice() {
        let times = |times: &[u64]| times.iter().map(|&us| Nanos::from_micros(us)).collect();
        let mut costs = SegmentTimes {
            wide: times(&[60, 50, 40]),
            narrow: times(&[100, 80, 70]),
            slices: 2,
        };
        let group = |segments: &[u32]| -> Group {
            let segments = segments.iter().map(|&segment| SegmentIndex(segment));
            segments.collect::<Vec<_>>().into()
        };
        let mut of = |groups: &[Group]| {
            let Ok(time) = costs.stage(groups);
            time
        };
        assert_eq!(of(&[group(&[0, 1])]), Nanos::from_micros(110));
        assert_eq!(of(&[group(&[0]), group(&[1])]), Nanos::from_micros(110));
        let three = [group(&[0]), group(&[1]), group(&[2])];
        assert_eq!(
            of(&three),
            Nanos::from_micros(160),
            "the last two share a slice"
        );
    }
}
