//! One measured run.

use super::html::{Page, number, percent};
use crate::bench::report::{Loop, ModelReport, Report};
use crate::bench::stats::Figures;
use crate::plots::inline::{Bars, Lines, Series};
use std::collections::BTreeSet;

/// Adds all that is known of a run.
pub(super) fn section(page: &mut Page, report: &Report) {
    let total = &report.total;
    page.tiles(&[
        ("replies in time per second", number(total.goodput_rps, 1)),
        ("of requests in time", percent(total.attainment)),
        ("requests", total.requests.to_string()),
        ("late", total.late.to_string()),
        ("refused", total.rejected.to_string()),
        ("failed, wrong or without answer", lost(total).to_string()),
    ]);
    page.warnings(&report.warnings);
    page.heading("What was run");
    page.facts(&facts(report));
    page.heading("By model");
    models(page, report);
    charts(page, report);
    errors(page, report);
}

/// Requests that were neither answered rightly nor refused.
fn lost(figures: &Figures) -> u64 {
    figures.failed + figures.wrong + figures.unsent + figures.unanswered
}

/// How requests were paced, in words.
pub(super) fn pacing(report: &Report) -> String {
    match report.pacing {
        Loop::Open => "open loop: sent when due, whatever the server does".to_owned(),
        Loop::Closed { concurrency } => format!(
            "CLOSED LOOP, {concurrency} outstanding per model: the load waits for the server"
        ),
    }
}

fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(made) = &report.provenance {
        facts.push(("command", made.command.join(" ")));
        let commit = made.commit.as_deref().unwrap_or("not known");
        facts.push(("version", format!("{}, commit {commit}", report.version)));
        facts.push(("machine", format!("{}; {}", made.machine, made.system)));
        facts.push(("started", made.started()));
    } else {
        facts.push(("version", report.version.clone()));
    }
    facts.push(("servers", report.urls.join(", ")));
    facts.push(("loop", pacing(report)));
    facts.push(("seed", report.seed.to_string()));
    let ended = if report.interrupted {
        ", INTERRUPTED"
    } else {
        ""
    };
    facts.push((
        "time",
        format!(
            "{:.1} s after {:.1} s of warm-up{ended}",
            report.measured_s, report.warmup_s
        ),
    ));
    facts.push((
        "answers",
        if report.checked {
            "compared with expected ones"
        } else {
            "not compared"
        }
        .to_owned(),
    ));
    let memory = if report.shared_memory {
        "in system shared memory"
    } else {
        "in messages"
    };
    facts.push(("tensors", memory.to_owned()));
    if let Some(cpu) = report.client.cpu_s {
        let cores = cpu / report.client.wall_s;
        facts.push((
            "load generator",
            format!("{cpu:.2} CPU s, {cores:.2} cores"),
        ));
    }
    if let Some(server) = report.server {
        let each = server.cpu_us_per_request;
        let each = each.map(|each| format!(", {each:.0} \u{b5}s per request"));
        let each = each.unwrap_or_default();
        facts.push(("server", format!("{:.2} CPU s{each}", server.cpu_s)));
    }
    facts
}

fn models(page: &mut Page, report: &Report) {
    let head = [
        "model",
        "SLO ms",
        "offered/s",
        "requests",
        "goodput/s",
        "in time",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "batch",
        "late",
        "refused",
        "lost",
    ];
    let row = |name: &str, model: Option<&ModelReport>, figures: &Figures| {
        let latency = figures.latency_ms;
        let at = |of: fn(crate::bench::stats::Percentiles) -> f64| number(latency.map(of), 2);
        vec![
            name.to_owned(),
            number(model.and_then(|model| model.slo_ms), 0),
            number(model.and_then(|model| model.offered_rps), 1),
            figures.requests.to_string(),
            number(figures.goodput_rps, 1),
            percent(figures.attainment),
            at(|latency| latency.p50),
            at(|latency| latency.p99),
            at(|latency| latency.p999),
            number(figures.mean_batch, 2),
            figures.late.to_string(),
            figures.rejected.to_string(),
            lost(figures).to_string(),
        ]
    };
    let rows = report.models.iter();
    let mut rows: Vec<Vec<String>> = rows
        .map(|model| row(&model.name, Some(model), &model.figures))
        .collect();
    if rows.len() > 1 {
        rows.push(row("all", None, &report.total));
    }
    page.table(&head, &rows);
    page.note(
        "Latency counts from when a request was due to its whole reply, over right answers. \
         Late, refused and lost (failed, wrong, not sent, not answered) requests are all misses.",
    );
}

fn charts(page: &mut Page, report: &Report) {
    let each = |series: fn(&ModelReport) -> Vec<(f64, f64)>| -> Vec<Series> {
        let models = report.models.iter().map(|model| Series {
            name: model.name.clone(),
            points: series(model),
            dashed: false,
        });
        models.collect()
    };
    let latency = Lines {
        title: "Distribution of latency by model",
        x_title: "latency, ms (log scale)",
        y_title: "of right answers, %",
        log_x: true,
        most: Some(100.0),
        series: each(|model| {
            let curve = model.figures.latency_curve.iter();
            let drawn = curve.filter(|(_, ms)| *ms > 0.0);
            drawn.map(|(part, ms)| (*ms, part * 100.0)).collect()
        }),
    };
    let in_time = |model: &ModelReport| -> Vec<(f64, f64)> {
        let seconds = model.figures.seconds.iter().zip(0_u32..);
        seconds
            .map(|(second, at)| (f64::from(at), second.in_time as f64))
            .collect()
    };
    let due = report.total.seconds.iter().zip(0_u32..);
    let due = due.map(|(second, at)| (f64::from(at), second.requests as f64));
    let mut over_time = each(in_time);
    over_time.push(Series {
        name: "due, all".to_owned(),
        points: due.collect(),
        dashed: true,
    });
    let goodput = Lines {
        title: "Replies in time, by second in which requests came due",
        x_title: "second of the run",
        y_title: "replies in time per second",
        log_x: false,
        most: None,
        series: over_time,
    };
    let held = report.models.iter().filter_map(|model| {
        let attained = model.figures.attainment?;
        Some((model.name.clone(), vec![attained * 100.0]))
    });
    let attainment = Bars {
        title: "Requests in time by model, with a line at 99 %",
        unit: "%",
        parts: vec!["in time".to_owned()],
        rows: held.collect(),
        full: Some(100.0),
        aim: Some(99.0),
    };
    page.charts(&[
        (
            "Latency: part of the answers that took at most so long",
            latency.svg(),
        ),
        ("Goodput over time", goodput.svg()),
        ("Attainment by model; the line is at 99 %", attainment.svg()),
        (
            "Why requests missed, in % of requests",
            misses(report).svg(),
        ),
    ]);
}

/// How many requests ended in one way.
type Count = fn(&Figures) -> u64;

/// By model, the misses in percent of requests, by kind.
fn misses(report: &Report) -> Bars<'static> {
    let all = report.models.iter();
    let labels: BTreeSet<&str> = all
        .flat_map(|model| model.figures.rejected_by.keys().map(String::as_str))
        .collect();
    let lost: [(&str, Count); 5] = [
        ("late", |figures| figures.late),
        ("failed", |figures| figures.failed),
        ("wrong", |figures| figures.wrong),
        ("not sent", |figures| figures.unsent),
        ("no answer", |figures| figures.unanswered),
    ];
    let lost = lost.into_iter().filter(|(_, of)| of(&report.total) > 0);
    let lost: Vec<_> = lost.collect();
    let names = lost.iter().map(|(name, _)| (*name).to_owned());
    let refused = labels.iter().map(|label| format!("refused: {label}"));
    let parts: Vec<String> = names.chain(refused).collect();
    let rows = report.models.iter().filter_map(|model| {
        let figures = &model.figures;
        let counts = lost.iter().map(|(_, of)| of(figures));
        let refused = labels.iter().map(|label| {
            let of_label = figures.rejected_by.get(*label);
            of_label.map_or(0, |rejected| rejected.count)
        });
        let part = |count: u64| count as f64 * 100.0 / figures.requests as f64;
        let parts = counts.chain(refused).map(part);
        (figures.requests > 0).then(|| (model.name.clone(), parts.collect()))
    });
    Bars {
        title: "Misses by model and kind, in percent of requests",
        unit: "%",
        rows: if parts.is_empty() {
            Vec::new()
        } else {
            rows.collect()
        },
        parts,
        full: None,
        aim: None,
    }
}

fn errors(page: &mut Page, report: &Report) {
    let rows = report.models.iter().flat_map(|model| {
        let errors = model.figures.errors.iter();
        errors.map(|(error, count)| vec![model.name.clone(), error.clone(), count.to_string()])
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        page.heading("What the server said");
        page.table(&["model", "words", "count"], &rows);
    }
}
