//! What `fugato simulate` prints.

use super::Format;
use crate::cli::columns::aligned;
use crate::simulation::{CapacityReport, DevicesNeeded, Missed, Plan, notes};
use fugato_core::sim::{PolicyReport, Report};
use serde::Serialize;
use std::fmt::Write as _;

/// The schema of the answer to how many devices a load needs.
const DEVICES_SCHEMA: &str = "fugato.devices/1";

/// The report of a simulation.
pub(super) fn report(report: &Report, format: Format) -> serde_json::Result<String> {
    Ok(match format {
        Format::Json => json(report)?,
        Format::Csv => csv(report),
        Format::Table => table(report),
    })
}

fn json(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn table(report: &Report) -> String {
    let mut text = heading(report);
    let mut rows = vec![
        [
            "policy",
            "model",
            "requests",
            "goodput/s",
            "attained",
            "p50 ms",
            "p99 ms",
            "batch",
            "util",
            "occup",
            "Jain",
            "refused",
            "dropped",
            "failed",
            "late",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for policy in &report.policies {
        rows.push(total(policy));
        for model in &policy.models {
            rows.push(vec![
                String::new(),
                model.name.clone(),
                model.requests.to_string(),
                format!("{:.1}", model.goodput),
                percent(model.attainment),
                number(model.p50_ms),
                number(model.p99_ms),
                number(model.mean_batch),
                String::new(),
                percent(Some(model.occupancy)),
            ]);
        }
    }
    text += &aligned(&rows, 2);
    text
}

fn heading(report: &Report) -> String {
    let kind = if report.synthetic {
        "a synthetic profile of"
    } else {
        "the profile of"
    };
    let devices = match report.devices {
        1 => "1 device".to_owned(),
        devices => format!("{devices} devices"),
    };
    format!(
        "simulated on {kind} {}: {devices} of {} slices, {} s, seed {}\n\n",
        report.profile, report.slices, report.duration_s, report.seed
    )
}

fn total(policy: &PolicyReport) -> Vec<String> {
    vec![
        policy.policy.clone(),
        String::new(),
        policy.requests.to_string(),
        format!("{:.1}", policy.goodput),
        percent(policy.attainment),
        String::new(),
        String::new(),
        String::new(),
        percent(Some(policy.utilisation)),
        percent(Some(policy.occupancy)),
        format!("{:.3}", policy.jain),
        policy.rejected.to_string(),
        policy.dropped.to_string(),
        policy.failed.to_string(),
        policy.late.to_string(),
    ]
}

fn percent(part: Option<f64>) -> String {
    part.map_or("-".to_owned(), |part| format!("{:.1} %", part * 100.0))
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

fn csv(report: &Report) -> String {
    let mut text = String::from(
        "seed,policy,model,requests,goodput,attainment,p50_ms,p99_ms,mean_batch,utilisation,\
         occupancy,jain,rejected,dropped,failed,late\n",
    );
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for policy in &report.policies {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{},{},,{},{},{},,,,{},{},{},{},{},{},{}",
            report.seed,
            policy.policy,
            policy.requests,
            policy.goodput,
            number(policy.attainment),
            policy.utilisation,
            policy.occupancy,
            policy.jain,
            policy.rejected,
            policy.dropped,
            policy.failed,
            policy.late
        );
        for model in &policy.models {
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{},{},,{},,,,,",
                report.seed,
                policy.policy,
                quoted(&model.name),
                model.requests,
                model.goodput,
                number(model.attainment),
                number(model.p50_ms),
                number(model.p99_ms),
                number(model.mean_batch),
                model.occupancy
            );
        }
    }
    text
}

/// A field of CSV; a model's name may hold commas.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// What each policy holds.
pub(super) fn capacity(
    report: &CapacityReport,
    plan: &Plan,
    format: Format,
) -> serde_json::Result<String> {
    if format == Format::Json {
        return json(report);
    }
    let mut rows = vec![
        ["policy", "multiple", "+-", "low", "high", "requests/s"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for policy in &report.policies {
        let multiple = policy.multiple;
        let of = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        rows.push(vec![
            policy.policy.to_owned(),
            of(multiple.map(|multiple| multiple.mean)),
            of(multiple.and_then(|multiple| multiple.interval)),
            of(multiple.map(|multiple| multiple.low)),
            of(multiple.map(|multiple| multiple.high)),
            policy
                .rate
                .map_or("-".to_owned(), |rate| format!("{rate:.1}")),
        ]);
    }
    if format == Format::Csv {
        return Ok(lines(&rows));
    }
    let mut text = format!(
        "simulated: the largest multiple of the workload held at {} % on {} device(s) of {} slices, \
         {} seeds from {}\n\n",
        report.attainment * 100.0,
        report.devices,
        plan.scenario.device().slices.0,
        report.seeds,
        report.seed
    );
    text += &aligned(&rows, 1);
    for policy in &report.policies {
        let line = match policy.multiple {
            None => {
                let missed = policy.missed.as_ref();
                let multiple = missed.map_or(String::new(), |missed| {
                    format!("{:.4}x the workload, ", missed.multiple)
                });
                let easiest = format!("{multiple}the smallest multiple");
                not_held(&policy.policy, &easiest, missed)
            }
            Some(held) if held.mean < 1.0 => format!(
                "{} does not hold the workload: {:.1} % of it at most\n",
                policy.policy,
                held.mean * 100.0
            ),
            Some(_) => continue,
        };
        text += &line;
    }
    Ok(text)
}

/// That a policy does not hold the easiest that was tried, and by how much, on a line.
fn not_held(policy: &str, easiest: &str, missed: Option<&Missed>) -> String {
    let by = missed.map_or(String::new(), |missed| format!(": {}", missed.words()));
    format!("{policy} does not hold {easiest} tried{by}\n")
}

fn lines(rows: &[Vec<String>]) -> String {
    rows.iter().map(|row| row.join(",") + "\n").collect()
}

#[derive(Serialize)]
struct DevicesReport<'a> {
    schema: &'static str,
    seed: u64,
    attainment: f64,
    most: u32,
    notes: Vec<String>,
    policies: &'a [DevicesNeeded],
}

/// How many devices each policy needs.
pub(super) fn devices(
    found: &[DevicesNeeded],
    plan: &Plan,
    format: Format,
    (attainment, most): (f64, u32),
) -> serde_json::Result<String> {
    if format == Format::Json {
        return json(&DevicesReport {
            schema: DEVICES_SCHEMA,
            seed: plan.seed,
            attainment,
            most,
            notes: notes(plan),
            policies: found,
        });
    }
    let words = |devices: Option<u32>| match devices {
        Some(count) => count.to_string(),
        None => format!("more than {most}"),
    };
    let mut rows = vec![
        ["policy", "devices", "least", "seeds"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for needed in found {
        let least = needed.seeds.iter().flatten().min().copied();
        rows.push(vec![
            needed.policy.clone(),
            words(needed.devices),
            words(least),
            needed.seeds.len().to_string(),
        ]);
    }
    if format == Format::Csv {
        return Ok(lines(&rows));
    }
    let heading = format!(
        "simulated: the fewest devices of {} slices that hold the workload at {} % with every seed \
         from {} on (least: with the best)\n\n",
        plan.scenario.device().slices.0,
        attainment * 100.0,
        plan.seed
    );
    let easiest = match most {
        1 => "the workload on 1 device, the most".to_owned(),
        most => format!("the workload on {most} devices, the most"),
    };
    let missed = found.iter().filter(|needed| needed.devices.is_none());
    let missed = missed.map(|needed| not_held(&needed.policy, &easiest, needed.missed.as_ref()));
    Ok(heading + &aligned(&rows, 1) + &missed.collect::<String>())
}
