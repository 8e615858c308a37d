//! Where a model can be cut: its segments, what holds operators together, and which of them
//! are longer than a leg should be.

use crate::engine::{ImportedModel, PlanBench};
use fugato_core::plan::LegLimits;
use fugato_core::{Nanos, OperatorIndex, Share};
use fugato_device::ModelGraph;
use serde::Serialize;

/// Operations per second of one core that times are estimated with where nothing is run: about
/// what convolutions reach on a server's core, a factor of two either way.
const ASSUMED_FLOPS: f64 = 100e9;

/// Operators that a table names; the rest is in the JSON.
const NAMED_MAX: usize = 12;

/// Tasks that a measured time is the median of.
const ROUNDS: usize = 10;

/// Operators whose subgraphs run inside them: between the operators in there nobody can
/// step in.
const WITH_SUBGRAPHS: [&str; 4] = ["If", "Loop", "Scan", "SequenceMap"];

/// Where a model can be cut into legs, as ONNX Runtime has optimised it.
#[derive(Debug, Serialize)]
pub(super) struct Legs {
    /// Operators after optimisation.
    operators: usize,
    /// Chains between forks and joins; plans cut long chains further.
    segments: usize,
    /// Why the model stays in one piece, where it must.
    indivisible: Option<String>,
    /// Tensors that keep the operators around them in one segment, and why.
    held_together: Vec<(String, String)>,
    /// Operators with a graph inside, which is not cut.
    with_subgraphs: Vec<String>,
    /// Operators whose floating-point operations are not known.
    uncounted: usize,
    /// Whether the times are measured, or estimated from operations at an assumed speed.
    measured: bool,
    /// Operators that take longer than a leg should, one item on one core, and how long.
    longest: Vec<(String, Nanos)>,
}

impl Legs {
    /// Looks at the graph; times are estimated.
    pub(super) fn of(model: &ImportedModel) -> Self {
        let graph = model.graph();
        let operators = graph.graph().operators().iter();
        let time = |flops: u64| Nanos::new((flops as f64 / ASSUMED_FLOPS * 1e9) as u64);
        let times = operators.map(|operator| time(operator.flops)).collect();
        Self::with_times(graph, times, false)
    }

    /// Runs each operator by itself, one item on one core; operators that hold together count
    /// as the first of them.
    pub(super) fn timed(bench: &mut PlanBench) -> anyhow::Result<Self> {
        let apart = bench.graph().segments_from(0);
        let timed = bench.segment_times(&apart, Share(1), ROUNDS, &mut |_| {})?;
        let graph = bench.graph();
        let mut times = vec![Nanos::ZERO; graph.graph().operators().len()];
        for (segment, time) in apart.all().iter().zip(timed.unwrap_or_default()) {
            if let Some(first) = segment.operators.first() {
                times[first.place()] = time;
            }
        }
        Ok(Self::with_times(graph, times, true))
    }

    fn with_times(graph: &ModelGraph, times: Vec<Nanos>, measured: bool) -> Self {
        let limit = LegLimits::default().max;
        let onnx = graph.graph();
        let label = |place| onnx.label(OperatorIndex::at(place));
        let mut longest: Vec<(usize, Nanos)> = times.into_iter().enumerate().collect();
        longest.retain(|&(_, time)| time > limit);
        longest.sort_by_key(|&(place, time)| (std::cmp::Reverse(time), place));
        let held = onnx.tensors().iter().filter(|tensor| !tensor.weight);
        let held = held.filter_map(|tensor| Some((tensor.name.clone(), tensor.uncut.clone()?)));
        let inside = onnx.operators().iter().enumerate();
        let inside = inside.filter(|(_, one)| WITH_SUBGRAPHS.contains(&one.op_type.as_str()));
        Self {
            operators: onnx.operators().len(),
            segments: graph.segments().count(),
            indivisible: graph.indivisible().map(ToString::to_string),
            held_together: held.collect(),
            with_subgraphs: inside.map(|(place, _)| label(place)).collect(),
            uncounted: graph.uncounted_operators().len(),
            measured,
            longest: longest
                .into_iter()
                .map(|(place, time)| (label(place), time))
                .collect(),
        }
    }

    /// The rows of a table.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![(
            "segments",
            format!("{} of {} operators", self.segments, self.operators),
        )];
        if let Some(reason) = &self.indivisible {
            rows.push(("one piece", reason.clone()));
        } else if self.segments == 1 && self.held_together.is_empty() {
            let reason = "it neither forks nor joins; plans cut its chain after so many operations";
            rows.push(("one segment", reason.to_owned()));
        }
        let held = self.held_together.iter();
        rows.extend(held.map(|(tensor, reason)| ("not cut at", format!("`{tensor}`: {reason}"))));
        let inside = self.with_subgraphs.iter();
        let inside = inside.map(|one| ("not cut inside", format!("{one}: a graph of its own")));
        rows.extend(inside);
        let limit = LegLimits::default().max;
        let origin = match self.measured {
            true => "measured, one item on one core".to_owned(),
            false => format!(
                "ESTIMATED at {:.0} GFLOP/s, one item on one core; --time measures",
                ASSUMED_FLOPS / 1e9
            ),
        };
        rows.push((
            "above a leg",
            format!("{} operators over {limit} ({origin})", self.longest.len()),
        ));
        let longest = self.longest.iter().take(NAMED_MAX);
        rows.extend(longest.map(|(one, time)| ("", format!("{time} {one}"))));
        if let Some(more @ 1..) = self.longest.len().checked_sub(NAMED_MAX) {
            rows.push(("", format!("{more} more: `--format json` has all")));
        }
        if self.uncounted > 0 && !self.measured {
            let text = format!(
                "{} operators, whose shapes do not tell their work",
                self.uncounted
            );
            rows.push(("not estimated", text));
        }
        rows
    }
}
