//! Tasks in flight, planned together, for people and as JSON.

use super::show::{STAGES_MAX, ms, within};
use crate::cli::ReportFormat;
use crate::cli::columns::aligned;
use crate::planning::{InFlightPlan, InFlightReport};
use fugato_core::plan::CostBasis;
use std::collections::BTreeSet;
use std::io::Write;

/// Prints the report.
///
/// # Errors
/// Where standard output cannot be written to.
pub(super) fn print(report: &InFlightReport, format: ReportFormat) -> anyhow::Result<()> {
    let text = match format {
        ReportFormat::Table => table(report),
        ReportFormat::Json => serde_json::to_string_pretty(report)? + "\n",
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// The planners side by side, then the stages of the first.
fn table(report: &InFlightReport) -> String {
    let key = &report.key;
    let first = report.plans.first();
    let mut text = format!(
        "{}, {} of the device, {}: {} tasks in flight of a model of {} segments\n",
        key.device,
        key.share,
        key.batch,
        first.map_or(0, |plan| plan.positions.len()),
        report.segments
    );
    if let Some(reason) = &report.indivisible {
        text += &format!("The model stays in one piece: {reason}\n");
    }
    text += match report.costs {
        CostBasis::Measured => {
            "COMPUTED from measured times of segments; nothing was run together\n\n"
        }
        CostBasis::Modelled => "COMPUTED from operations; no segment was run\n\n",
    };
    let head = [
        "planner",
        "legs done",
        "stages",
        "of several tasks",
        "one by one",
        "together",
        "gain",
        "tasks/s one by one",
        "tasks/s together",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(report.plans.iter().map(row));
    text += &aligned(&rows, 1);
    let plans = report.plans.iter();
    text.extend(plans.map(|plan| within(&plan.planner, plan.prunings)));
    if let Some(first) = first {
        text.push('\n');
        text += &stages(first);
    }
    text
}

fn row(plan: &InFlightPlan) -> Vec<String> {
    let positions = plan.positions.iter();
    let done: Vec<String> = positions.map(|at| at.legs_done.to_string()).collect();
    let legs = plan.positions.first().map_or(0, |at| at.legs);
    vec![
        plan.planner.clone(),
        format!("{} of {legs}", done.join(",")),
        plan.stages.len().to_string(),
        plan.shared_stages.to_string(),
        ms(plan.one_by_one),
        ms(plan.together),
        format!("{:.2}", plan.gain),
        format!("{:.1}", plan.tasks_per_s_one_by_one),
        format!("{:.1}", plan.tasks_per_s),
    ]
}

fn stages(plan: &InFlightPlan) -> String {
    let head = ["stage", "groups", "segments", "tasks", "COMPUTED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (number, stage) in plan.stages.iter().take(STAGES_MAX).enumerate() {
        let placed = || stage.groups.iter().flatten();
        let tasks: BTreeSet<u64> = placed().map(|placed| placed.task.0).collect();
        let tasks: Vec<String> = tasks.iter().map(u64::to_string).collect();
        rows.push(vec![
            number.to_string(),
            stage.groups.len().to_string(),
            placed().count().to_string(),
            tasks.join(","),
            ms(stage.predicted),
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
