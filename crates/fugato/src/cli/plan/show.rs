//! A plan for people: as a table, and as a graph.

use crate::cli::columns::aligned;
use crate::planning::{Planned, Prunings, Report};
use fugato_core::Nanos;
use fugato_core::graph::{Graph, Segments};
use fugato_core::plan::{CostBasis, Plan, PlanKey};
use std::fmt::Write as _;

/// Rows of stages that a table shows; the rest is in the JSON.
pub(super) const STAGES_MAX: usize = 40;

/// The plans side by side, then the stages of the first.
pub(super) fn table(report: &Report, segments: &Segments, graph: &Graph, key: &PlanKey) -> String {
    let mut text = format!(
        "{}, {} of the device, {}: {} operators in {} segments\n",
        key.device,
        key.share,
        key.batch,
        graph.operators().len(),
        report.segments
    );
    if let Some(reason) = &report.indivisible {
        text += &format!("It stays in one piece: {reason}\n");
    }
    let longest = segments
        .indices()
        .max_by_key(|&index| segments.segment(index).flops);
    if let Some(longest) = longest.filter(|_| report.segments > 1) {
        let first = segments.segment(longest).operators.first();
        let name = first.map(|&first| graph.label(first)).unwrap_or_default();
        text += &format!("largest: {longest}, from {name}\n");
    }
    text += &format!("\nunsplit {}", ms(report.unsplit));
    if let Some(sequential) = report.sequential {
        text += &format!(", all segments one after the other {}", ms(sequential));
    }
    text += "\n\n";
    let head = [
        "planner",
        "stages",
        "legs",
        "longest leg",
        "at once",
        "reckoned",
        "measured",
        "/ sequential",
        "/ unsplit",
        "difference",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.plans.iter().map(row));
    text += &aligned(&rows, 1);
    for planned in report.plans.iter().filter(|planned| planned.unsplit) {
        let planner = &planned.plan.planner;
        text += &format!(
            "{planner}: the model runs UNSPLIT: it is shorter than a leg, or whatever else was tried costs \
             more than it may\n"
        );
    }
    for planned in report.plans.iter().filter(|planned| !planned.unsplit) {
        for there in &planned.elsewhere {
            text += &format!(
                "{}: at a {} and a {} {}, {:.2} times the model as it is\n",
                planned.plan.planner,
                there.share,
                there.batch,
                ms(there.measured),
                there.measured.as_secs_f64() / there.unsplit.as_secs_f64()
            );
        }
    }
    for planned in &report.plans {
        text += &within(&planned.plan.planner, planned.prunings);
        let (planner, took) = (&planned.plan.planner, ms(planned.planned_in));
        text += &format!("{planner}: found its stages in {took}\n");
        if planned.merged_planned > 0 {
            text += &format!(
                "{}: {} of {} merged stages were measured to be faster than their segments one \
                 after the other\n",
                planned.plan.planner, planned.merged, planned.merged_planned
            );
        }
    }
    if report
        .plans
        .iter()
        .any(|planned| planned.at_once_planned > 0)
    {
        text += "at once: stages of several groups that were measured to be faster than their \
                 groups one after the other, of those planned\n";
        text += "reckoned: groups at once COMPUTED from times of their segments; plans hold what was \
                 measured\n";
    }
    if let Some(first) = report.plans.first() {
        text.push('\n');
        text += &stages(first);
    }
    text
}

fn row(planned: &Planned) -> Vec<String> {
    let plan = &planned.plan;
    let longest = plan.legs.iter().map(|leg| leg.predicted).max();
    vec![
        plan.planner.clone(),
        plan.stages.len().to_string(),
        plan.legs.len().to_string(),
        ms(longest.unwrap_or_default()),
        format!("{} of {}", planned.at_once, planned.at_once_planned),
        ms(planned.reckoned),
        ms(planned.measured) + if planned.fell_back { " (unsplit)" } else { "" },
        planned
            .over_sequential
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
        format!("{:.2}", planned.over_unsplit),
        match planned.difference {
            Some(found) => format!("{found:.1e}"),
            None => "-".to_owned(),
        },
    ]
}

fn stages(planned: &Planned) -> String {
    let plan = &planned.plan;
    let mut rows = vec![
        [
            "stage",
            "leg",
            "groups",
            "segments",
            match plan.costs {
                CostBasis::Measured => "in the plan",
                CostBasis::Modelled => "COMPUTED",
            },
            "measured",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let legs = plan.legs.iter().enumerate();
    let stages = legs.flat_map(|(number, leg)| {
        leg.stages
            .clone()
            .map(move |stage| (number, stage as usize))
    });
    for (leg, place) in stages.take(STAGES_MAX) {
        let stage = &plan.stages[place];
        let measured = planned.stages.get(place).map(|&time| ms(time));
        rows.push(vec![
            place.to_string(),
            leg.to_string(),
            match stage.merged {
                true => "1 merged".to_owned(),
                false => stage.groups.len().to_string(),
            },
            stage.segments().count().to_string(),
            ms(stage.predicted),
            measured.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let mut text = format!("{}:\n{}", plan.planner, aligned(&rows, 0));
    if plan.stages.len() > STAGES_MAX {
        text += &format!(
            "{} more stages: `--format json` has all\n",
            plan.stages.len() - STAGES_MAX
        );
    }
    text
}

/// A line on the limits of a planner, where it has them.
pub(super) fn within(planner: &str, prunings: Option<Prunings>) -> String {
    match prunings {
        Some(Prunings { r, s }) => {
            format!("{planner}: groups of up to {r} segments (r), stages of up to {s} groups (s)\n")
        }
        None => String::new(),
    }
}

pub(super) fn ms(time: Nanos) -> String {
    format!("{:.3} ms", time.as_millis_f64())
}

/// The segments as boxes, a frame for each stage, as Graphviz draws them.
pub(super) fn dot(plan: &Plan, segments: &Segments, graph: &Graph) -> String {
    let mut text =
        String::from("digraph plan {\n  rankdir=TB;\n  node [shape=box, fontsize=10];\n");
    for (number, stage) in plan.stages.iter().enumerate() {
        let _ = writeln!(
            text,
            "  subgraph cluster_{number} {{\n    label=\"stage {number}: {}\";",
            ms(stage.predicted)
        );
        for segment in stage.segments() {
            let operators = &segments.segment(segment).operators;
            let kinds: Vec<&str> = operators
                .iter()
                .map(|&operator| graph.operator(operator).op_type.as_str())
                .collect();
            let kinds = kinds.join("\\n").replace('"', "'");
            let _ = writeln!(text, "    s{} [label=\"{segment}\\n{kinds}\"];", segment.0);
        }
        text += "  }\n";
    }
    for segment in segments.indices() {
        for next in segments.successors(segment) {
            let _ = writeln!(text, "  s{} -> s{};", segment.0, next.0);
        }
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_of_planners_that_have_them() {
        let told = within("ios", Some(Prunings { r: 1, s: 8 }));
        assert_eq!(
            told,
            "ios: groups of up to 1 segments (r), stages of up to 8 groups (s)\n"
        );
        assert_eq!(within("list", None), "");
    }
}
