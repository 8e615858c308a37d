//! Several runs of one kind side by side; the first is what the others are compared with.

use super::bench::pacing;
use super::html::{Page, number, percent, ratio};
use super::simulation::{Simulation, deadlines};
use crate::bench::report::{ModelReport, Report};
use crate::plots::inline::Bars;
use fugato_core::sim::{ModelSetup, Setup};

/// Measured times and rates that differ by less are the same load.
const SAME: f64 = 0.01;

/// Compares measured runs: all requests together, then model by model.
pub(super) fn measured(page: &mut Page, runs: &[(&str, &Report)]) {
    let Some(((_, first), others)) = runs.split_first() else {
        return;
    };
    page.heading("Compared, all requests");
    let warnings = others
        .iter()
        .filter_map(|(label, report)| {
            let differs = differences(first, report);
            (!differs.is_empty()).then(|| {
                format!(
                    "`{label}` is not the same load as `{}`: {}",
                    runs[0].0,
                    differs.join("; ")
                )
            })
        })
        .collect::<Vec<_>>();
    page.warnings(&warnings);
    let head = [
        "run",
        "goodput/s",
        "of the first",
        "in time",
        "requests",
        "late",
        "refused",
        "loop",
    ];
    let rows = runs.iter().map(|(label, report)| {
        let total = &report.total;
        vec![
            (*label).to_owned(),
            number(total.goodput_rps, 1),
            ratio(Some(total.goodput_rps), Some(first.total.goodput_rps)),
            percent(total.attainment),
            total.requests.to_string(),
            total.late.to_string(),
            total.rejected.to_string(),
            pacing(report).split(':').next().unwrap_or("").to_owned(),
        ]
    });
    page.table(&head, &rows.collect::<Vec<_>>());
    let chart = |title, unit, full, aim, value: fn(&Report) -> Option<f64>| {
        let rows = runs.iter();
        let rows = rows.filter_map(|(label, run)| Some(((*label).to_owned(), vec![value(run)?])));
        let bars = Bars {
            title,
            unit,
            parts: vec![title.to_owned()],
            rows: rows.collect(),
            full,
            aim,
        };
        bars.svg()
    };
    page.charts(&[
        (
            "Goodput by run",
            chart("goodput", "/s", None, None, |run| {
                Some(run.total.goodput_rps)
            }),
        ),
        (
            "Attainment by run; the line is at 99 %",
            chart("attainment", "%", Some(100.0), Some(99.0), |run| {
                run.total.attainment.map(|part| part * 100.0)
            }),
        ),
    ]);
    page.heading("Compared, by model");
    by_model(page, runs);
    page.heading("The runs");
}

fn by_model(page: &mut Page, runs: &[(&str, &Report)]) {
    let mut names: Vec<&str> = Vec::new();
    for model in runs.iter().flat_map(|(_, report)| &report.models) {
        if !names.contains(&model.name.as_str()) {
            names.push(&model.name);
        }
    }
    let head = [
        "model",
        "run",
        "goodput/s",
        "of the first",
        "in time",
        "p50 ms",
        "of the first",
        "p99 ms",
        "of the first",
        "batch",
    ];
    let find = |report: &'_ Report, name: &str| -> Option<ModelReport> {
        let mut models = report.models.iter();
        models.find(|model| model.name == name).cloned()
    };
    let mut rows = Vec::new();
    for name in names {
        let first = runs.first().and_then(|(_, report)| find(report, name));
        let first = first.as_ref();
        for (label, report) in runs {
            let Some(model) = find(report, name) else {
                continue;
            };
            let at = |model: &ModelReport| model.figures.latency_ms;
            let [p50, p99] = [at(&model).map(|l| l.p50), at(&model).map(|l| l.p99)];
            let of_first = first.and_then(at);
            rows.push(vec![
                name.to_owned(),
                (*label).to_owned(),
                number(model.figures.goodput_rps, 1),
                ratio(
                    Some(model.figures.goodput_rps),
                    first.map(|first| first.figures.goodput_rps),
                ),
                percent(model.figures.attainment),
                number(p50, 2),
                ratio(p50, of_first.map(|l| l.p50)),
                number(p99, 2),
                ratio(p99, of_first.map(|l| l.p99)),
                number(model.figures.mean_batch, 2),
            ]);
        }
    }
    page.table(&head, &rows);
}

/// In what a run's load differs from the first one's, so that its figures cannot be
/// compared with those as they stand.
fn differences(first: &Report, other: &Report) -> Vec<String> {
    let mut differs = Vec::new();
    let apart = |one: f64, other: f64| (one - other).abs() > SAME * one.abs().max(other.abs());
    if first.pacing != other.pacing {
        differs.push("the loop differs".to_owned());
    }
    if apart(first.measured_s, other.measured_s) {
        differs.push(format!(
            "{:.1} s were measured, not {:.1} s",
            other.measured_s, first.measured_s
        ));
    }
    if first.shared_memory != other.shared_memory {
        differs.push("only one used shared memory".to_owned());
    }
    for model in &first.models {
        let name = &model.name;
        let Some(same) = other.models.iter().find(|same| same.name == *name) else {
            differs.push(format!("no model `{name}`"));
            continue;
        };
        if model.slo_ms != same.slo_ms {
            differs.push(format!("another objective of `{name}`"));
        }
        if model.batch != same.batch {
            differs.push(format!("another batch of `{name}`"));
        }
        if let (Some(one), Some(two)) = (model.offered_rps, same.offered_rps)
            && apart(one, two)
        {
            differs.push(format!("`{name}` was offered {two:.1}/s, not {one:.1}/s"));
        }
    }
    for model in &other.models {
        if !first.models.iter().any(|same| same.name == model.name) {
            differs.push(format!("`{}` besides", model.name));
        }
    }
    differs
}

/// Compares simulations, policy by policy of each.
pub(super) fn simulated(page: &mut Page, runs: &[(&str, &Simulation)]) {
    page.heading("Compared (simulated)");
    if let Some(((first_label, first), others)) = runs.split_first() {
        let warnings = others.iter().filter_map(|(label, other)| {
            let differs = setups(first, other);
            (!differs.is_empty()).then(|| {
                let differs = differs.join("; ");
                format!("`{label}` was not simulated as `{first_label}`: {differs}")
            })
        });
        page.warnings(&warnings.collect::<Vec<_>>());
    }
    let head = [
        "run",
        "policy",
        "goodput/s",
        "of the first",
        "in time",
        "utilisation",
        "occupancy",
        "Jain",
    ];
    let all = runs.iter().flat_map(|(label, simulation)| {
        let policies = simulation.policies.iter();
        policies.map(move |policy| (*label, policy))
    });
    let first = all.clone().next().map(|(_, policy)| policy.goodput);
    let rows = all.map(|(label, policy)| {
        vec![
            label.to_owned(),
            policy.policy.clone(),
            number(policy.goodput, 1),
            ratio(Some(policy.goodput), first),
            percent(policy.attainment),
            percent(policy.utilisation),
            percent(policy.occupancy),
            number(policy.jain, 3),
        ]
    });
    page.table(&head, &rows.collect::<Vec<_>>());
    page.note("SIMULATED. All ratios are to the first row.");
    page.heading("The simulations");
}

/// In what a simulation differs from the first one, apart from its policies: its ratios then
/// say nothing about these.
fn setups(first: &Simulation, other: &Simulation) -> Vec<String> {
    let mut differs = Vec::new();
    let mut note = |what: &str, one: Option<String>, two: Option<String>| {
        if one != two {
            let said = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
            differs.push(format!("{what} {}, not {}", said(two), said(one)));
        }
    };
    let text = |value: &dyn ToString| value.to_string();
    note("profile", first.profile.clone(), other.profile.clone());
    let devices = |run: &Simulation| run.devices.map(|count| text(&count));
    note("devices", devices(first), devices(other));
    let slices = |run: &Simulation| run.slices.map(|count| text(&count));
    note("slices", slices(first), slices(other));
    let seconds = |run: &Simulation| run.duration_s.map(|length| text(&length));
    note("seconds", seconds(first), seconds(other));
    note("seed", Some(text(&first.seed)), Some(text(&other.seed)));
    match (&first.setup, &other.setup) {
        (Some(one), Some(two)) => {
            for ((what, one), (_, two)) in named(one).into_iter().zip(named(two)) {
                note(what, Some(one), Some(two));
            }
            differs.extend(loads(&one.loads, &two.loads));
        }
        (None, None) => differs.push("neither says its workload".to_owned()),
        _ => differs.push("only one says its workload".to_owned()),
    }
    differs
}

/// The settings of a simulation, by what a reader knows them as.
fn named(setup: &Setup) -> [(&'static str, String); 9] {
    [
        ("workload", setup.workload.clone()),
        ("scale", setup.scale.to_string()),
        ("seconds of warm-up", setup.warmup_s.to_string()),
        ("slots", setup.slots.to_string()),
        ("instances", setup.instances.to_string()),
        ("launch in us", setup.launch_us.to_string()),
        ("boundary in us", setup.boundary_us.to_string()),
        ("deadlines", deadlines(setup.deadlines).to_owned()),
        ("noise", setup.noise.to_string()),
    ]
}

/// In what the load of each model differs.
fn loads(first: &[ModelSetup], other: &[ModelSetup]) -> Vec<String> {
    let mut differs = Vec::new();
    for one in first {
        let name = &one.name;
        let Some(two) = other.iter().find(|two| two.name == *name) else {
            differs.push(format!("no model `{name}`"));
            continue;
        };
        if one.rate != two.rate {
            let said = |rate: Option<f64>| match rate {
                Some(rate) => format!("{rate:.1}/s"),
                None => "all it can do".to_owned(),
            };
            let (one, two) = (said(one.rate), said(two.rate));
            differs.push(format!("`{name}` was asked {two}, not {one}"));
        }
        if one.slo_ms != two.slo_ms {
            let (one, two) = (one.slo_ms, two.slo_ms);
            differs.push(format!("objective of `{name}` {two} ms, not {one} ms"));
        }
        if (one.items, one.max_batch) != (two.items, two.max_batch) {
            differs.push(format!("another batch of `{name}`"));
        }
    }
    let besides = other
        .iter()
        .filter(|two| first.iter().all(|one| one.name != two.name));
    differs.extend(besides.map(|two| format!("`{}` besides", two.name)));
    differs
}
