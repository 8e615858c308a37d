//! The report of a run: as a table for people, as JSON and CSV for programs.

use super::stats::Figures;
use crate::provenance::Provenance;
use fugato_core::capacity;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// The schema of [`Report`] as JSON. A change that could break a reader makes a new one.
pub const REPORT_SCHEMA: &str = "fugato.bench/1";

/// The part of its objective that the client's own lateness may use up at p99 before
/// the report warns that the client shapes the result.
const LATENESS_OF_SLO: f64 = 0.05;

/// As [`LATENESS_OF_SLO`], in milliseconds, for models without an objective.
const LATENESS_MS: f64 = 5.0;

/// The CPU time of the client per second above which it may itself be the bottleneck: a
/// core less a fifth.
const BUSY_CORES: f64 = 0.8;

/// Answers below which a 99th percentile is the largest sample or near it.
const FEW_ANSWERS: u64 = 100;

/// How requests were paced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Loop {
    /// By the workload's arrivals, whatever the server does; latency counts from the
    /// scheduled send time.
    Open,
    /// The next request after the reply; latency counts from the send time and says
    /// nothing about a load that does not wait.
    Closed {
        /// Requests outstanding per model.
        concurrency: u32,
    },
}

/// The result of a run. All figures cover the measured time only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: String,
    /// The version of the load generator.
    pub version: String,
    /// How, where and when the run was made, where its maker said.
    pub provenance: Option<Provenance>,
    /// How requests were paced.
    #[serde(rename = "loop")]
    pub pacing: Loop,
    /// Whether the run was ended before its time.
    pub interrupted: bool,
    /// The servers' addresses.
    pub urls: Vec<String>,
    /// The seed of arrivals and random inputs.
    pub seed: u64,
    /// Whether answers were compared with expected ones.
    pub checked: bool,
    /// Whether inputs and outputs went through system shared memory.
    #[serde(default)]
    pub shared_memory: bool,
    /// Seconds of load before the measured time.
    pub warmup_s: f64,
    /// Seconds of measured time (less than asked for where interrupted).
    pub measured_s: f64,
    /// What the load generator used.
    pub client: ClientUsage,
    /// What the server used, where its process was named.
    pub server: Option<ServerUsage>,
    /// By model.
    pub models: Vec<ModelReport>,
    /// All models together.
    pub total: Figures,
    /// What limits the meaning of these figures.
    pub warnings: Vec<String>,
}

/// What the load generator used, from the start of the load to the last reply.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientUsage {
    /// User and system CPU seconds, where the system says.
    pub cpu_s: Option<f64>,
    /// Its niceness, where the system says: above 0 it gives way to the server.
    pub nice: Option<i32>,
    /// Seconds.
    pub wall_s: f64,
    /// The most requests of one model that may be unanswered at once.
    pub max_outstanding: u32,
}

/// What the server used in the same time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerUsage {
    /// Its process.
    pub pid: u32,
    /// User and system CPU seconds.
    pub cpu_s: f64,
    /// CPU microseconds per request sent, warm-up included.
    pub cpu_us_per_request: Option<f64>,
}

/// The result for one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Its name.
    pub name: String,
    /// Its objective; absent where none was given, and every right answer is in time.
    pub slo_ms: Option<f64>,
    /// The mean rate the arrivals are drawn from; absent in closed loop.
    pub offered_rps: Option<f64>,
    /// Items per request.
    pub batch: u32,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

impl Report {
    /// Adds what limits the meaning of the figures to [`Report::warnings`].
    pub fn add_warnings(&mut self) {
        let mut warnings = Vec::new();
        for model in &self.models {
            let (name, figures) = (&model.name, &model.figures);
            let limit = model
                .slo_ms
                .map_or(LATENESS_MS, |slo| slo * LATENESS_OF_SLO);
            if let Some(late) = figures.lateness_ms.filter(|late| late.p99 > limit) {
                warnings.push(format!(
                    "`{name}`: the load generator sent late (p99 {:.2} ms, limit {limit:.2} ms), so it shapes the result; hint: lower the rate or give it a free core",
                    late.p99
                ));
            }
            if figures.unsent > 0 {
                warnings.push(format!(
                    "`{name}`: {} requests were not sent, as {} were unanswered; they count as missed",
                    figures.unsent, self.client.max_outstanding
                ));
            }
            if figures.unanswered > 0 {
                warnings.push(format!(
                    "`{name}`: {} requests had no answer by the end of the wait",
                    figures.unanswered
                ));
            }
            let answers = figures.in_time + figures.late;
            if answers > 0 && answers < FEW_ANSWERS {
                warnings.push(format!("`{name}`: {answers} answers are too few for a p99"));
            }
        }
        let cores = self.client.cpu_s.map(|cpu| cpu / self.client.wall_s);
        if let Some(cores) = cores.filter(|cores| *cores > BUSY_CORES) {
            warnings.push(format!(
                "the load generator used {cores:.2} cores; on the server's machine it competes with it"
            ));
        }
        self.warnings.append(&mut warnings);
    }

    /// Whether attainment is at least `wanted` over all requests, and at least the
    /// smaller of `wanted` and 95 % for each model. A model without requests fails.
    pub fn attains(&self, wanted: f64) -> bool {
        let models = self.models.iter().map(|model| model.figures.attainment);
        capacity::holds(wanted, self.total.attainment, models)
    }

    /// The report as indented JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds only strings and finite numbers")
    }

    /// One line per model, under a line of names. Milliseconds and requests per second.
    pub fn csv(&self) -> String {
        let mut text = String::from(
            "model,loop,slo_ms,offered_rps,batch,requests,in_time,late,rejected,failed,wrong,unsent,unanswered,goodput_rps,attainment,p50_ms,p90_ms,p99_ms,p999_ms,max_ms,mean_batch,lateness_p99_ms\n",
        );
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        for model in &self.models {
            let figures = &model.figures;
            let latency = figures.latency_ms;
            let cells = [
                format!("\"{}\"", model.name.replace('"', "\"\"")),
                match self.pacing {
                    Loop::Open => "open".to_owned(),
                    Loop::Closed { concurrency } => format!("closed-{concurrency}"),
                },
                number(model.slo_ms),
                number(model.offered_rps),
                model.batch.to_string(),
                figures.requests.to_string(),
                figures.in_time.to_string(),
                figures.late.to_string(),
                figures.rejected.to_string(),
                figures.failed.to_string(),
                figures.wrong.to_string(),
                figures.unsent.to_string(),
                figures.unanswered.to_string(),
                figures.goodput_rps.to_string(),
                number(figures.attainment),
                number(latency.map(|latency| latency.p50)),
                number(latency.map(|latency| latency.p90)),
                number(latency.map(|latency| latency.p99)),
                number(latency.map(|latency| latency.p999)),
                number(latency.map(|latency| latency.max)),
                number(figures.mean_batch),
                number(figures.lateness_ms.map(|late| late.p99)),
            ];
            text.push_str(&cells.join(","));
            text.push('\n');
        }
        text
    }

    /// The report for people.
    pub fn table(&self) -> String {
        let mut text = self.heading();
        let mut rows = vec![
            [
                "model",
                "SLO ms",
                "requests",
                "goodput/s",
                "attained",
                "p50 ms",
                "p99 ms",
                "batch",
                "rejected",
                "failed",
                "wrong",
            ]
            .map(str::to_owned),
        ];
        for model in &self.models {
            rows.push(row(&model.name, model.slo_ms, &model.figures));
        }
        if self.models.len() > 1 {
            rows.push(row("all", None, &self.total));
        }
        text.push_str(&aligned(&rows));
        for model in &self.models {
            for (label, rejected) in &model.figures.rejected_by {
                let _ = write!(text, "{}: {} x {label}", model.name, rejected.count);
                let _ = match rejected.due_ms {
                    Some(ms) => writeln!(text, ", p50 {:.2} ms, p99 {:.2} ms", ms.p50, ms.p99),
                    None => writeln!(text),
                };
            }
            for (error, count) in &model.figures.errors {
                let _ = writeln!(text, "{}: {count} x {error}", model.name);
            }
        }
        if let Some(cpu) = self.client.cpu_s {
            let cores = cpu / self.client.wall_s;
            let _ = write!(text, "load generator: {cpu:.2} CPU s ({cores:.2} cores");
            if let Some(nice) = self.client.nice.filter(|nice| *nice != 0) {
                let _ = write!(text, ", nice {nice}");
            }
            text.push(')');
            if let Some(server) = self.server {
                let _ = write!(text, "; server: {:.2} CPU s", server.cpu_s);
                if let Some(each) = server.cpu_us_per_request {
                    let _ = write!(text, " ({each:.0} us per request)");
                }
            }
            text.push('\n');
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }

    fn heading(&self) -> String {
        let pacing = match self.pacing {
            Loop::Open => "open loop".to_owned(),
            Loop::Closed { concurrency } => {
                format!("CLOSED LOOP, concurrency {concurrency} per model")
            }
        };
        let checked = if self.checked {
            "answers checked"
        } else {
            "answers not checked"
        };
        let memory = if self.shared_memory {
            ", system shared memory"
        } else {
            ""
        };
        let interrupted = if self.interrupted {
            " (INTERRUPTED)"
        } else {
            ""
        };
        format!(
            "{pacing}, {:.1} s measured after {:.1} s warm-up{interrupted}, seed {}, {checked}{memory}, over {}\n",
            self.measured_s,
            self.warmup_s,
            self.seed,
            self.urls.join(" and ")
        )
    }
}

/// `failed` is everything that was neither answered, rejected nor wrong.
fn row(name: &str, slo_ms: Option<f64>, figures: &Figures) -> [String; 11] {
    let number = |value: Option<f64>, places: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.places$}"))
    };
    let attained = figures.attainment.map(|attained| attained * 100.0);
    [
        name.to_owned(),
        number(slo_ms, 0),
        figures.requests.to_string(),
        number(Some(figures.goodput_rps), 1),
        attained.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.2} %")),
        number(figures.latency_ms.map(|latency| latency.p50), 2),
        number(figures.latency_ms.map(|latency| latency.p99), 2),
        number(figures.mean_batch, 2),
        figures.rejected.to_string(),
        (figures.failed + figures.unsent + figures.unanswered).to_string(),
        figures.wrong.to_string(),
    ]
}

/// Rows as columns: the first to the left, the others to the right.
pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::stats::{Outcome, Recorder};
    use super::*;
    use fugato_core::Nanos;

    const SECOND: Nanos = Nanos::from_millis(1_000);

    fn report(latencies_ms: &[u64], lateness: Nanos) -> Report {
        let mut recorder = Recorder::default();
        for millis in latencies_ms {
            recorder.scheduled(Nanos::ZERO);
            let outcome = Outcome::Answered { batch: Some(2) };
            recorder.ended(outcome, Nanos::ZERO, lateness, Nanos::from_millis(*millis));
        }
        let figures = recorder.figures(Some(Nanos::from_millis(25)), SECOND);
        let mut report = Report {
            schema: REPORT_SCHEMA.to_owned(),
            version: "0".to_owned(),
            provenance: None,
            pacing: Loop::Open,
            interrupted: false,
            urls: vec!["grpc://a:1".to_owned(), "http://a:2".to_owned()],
            seed: 3,
            checked: true,
            shared_memory: false,
            warmup_s: 0.0,
            measured_s: 1.0,
            client: ClientUsage {
                cpu_s: Some(0.1),
                nice: Some(0),
                wall_s: 1.0,
                max_outstanding: 8,
            },
            server: None,
            total: Figures::total([&figures], SECOND),
            models: vec![ModelReport {
                name: "m".to_owned(),
                slo_ms: Some(25.0),
                offered_rps: Some(4.0),
                batch: 1,
                figures,
            }],
            warnings: Vec::new(),
        };
        report.add_warnings();
        report
    }

    #[test]
    fn the_table_lines_up() {
        let table = report(&[10, 20, 30, 20], Nanos::ZERO).table();
        let expected = "\
open loop, 1.0 s measured after 0.0 s warm-up, seed 3, answers checked, over grpc://a:1 and http://a:2
model  SLO ms  requests  goodput/s  attained  p50 ms  p99 ms  batch  rejected  failed  wrong
m          25         4        3.0   75.00 %   20.00   30.00   2.00         0       0      0
load generator: 0.10 CPU s (0.10 cores)
warning: `m`: 4 answers are too few for a p99
";
        assert_eq!(table, expected);
    }

    #[test]
    fn a_late_generator_is_named() {
        let warns = |lateness| {
            let warnings = report(&[10], lateness).warnings;
            warnings.iter().any(|warning| warning.contains("sent late"))
        };
        assert!(!warns(Nanos::from_micros(1_200)));
        assert!(warns(Nanos::from_micros(1_300)), "above 5 % of 25 ms");
    }

    #[test]
    fn json_and_csv_carry_the_figures() {
        let report = report(&[10, 20, 30, 20], Nanos::ZERO);
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        assert_eq!(json["schema"], "fugato.bench/1");
        assert_eq!(json["loop"]["kind"], "open");
        assert_eq!(json["models"][0]["in_time"], 3);
        assert_eq!(json["models"][0]["latency_ms"]["p999"], 30.0);
        assert_eq!(json["total"]["attainment"], 0.75);
        let csv = report.csv();
        let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines[0].len(), lines[1].len());
        let attainment = lines[0].iter().position(|name| *name == "attainment");
        assert_eq!(lines[1][attainment.expect("a column")], "0.75");
    }

    #[test]
    fn attainment_is_asked_of_all_and_of_each() {
        let mut report = report(&[10, 20, 30, 20], Nanos::ZERO);
        assert!(report.attains(0.75));
        assert!(!report.attains(0.76));
        report.total.attainment = Some(0.99);
        assert!(!report.attains(0.99), "one model is under 95 %");
        report.models[0].figures.attainment = Some(0.96);
        assert!(report.attains(0.99));
        report.models[0].figures.attainment = None;
        assert!(!report.attains(0.0));
    }
}
