//! The largest multiple of a workload that a live server holds.
//!
//! For each seed, [`Largest`] says which multiple to try; a probe is a whole run at it.
//! Each run has its own warm-up, waits for the replies of the one before, and is bounded in
//! time by its workload and `drain`.

use super::report::{Loop, Report, aligned};
use super::{Bench, BenchError, run};
use crate::provenance::Provenance;
use fugato_core::capacity::{Capacity, Largest, LargestSettings, SettingsError, Spread};
use fugato_core::workload::WorkloadError;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The schema of [`CapacityReport`] as JSON.
pub const CAPACITY_SCHEMA: &str = "fugato.capacity/1";

/// Requests below which a single miss is more than a tenth of the misses that 99 % allow.
const FEW_REQUESTS: u64 = 1_000;

/// A search to make.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The run at the workload's own rates; its seed is the first of the seeds.
    pub bench: Bench,
    /// The attainment that counts as held, as [`fugato_core::capacity::holds`] reads it.
    pub attainment: f64,
    /// Where and how closely to search.
    pub settings: LargestSettings,
    /// Searches, each with the next seed.
    pub seeds: u32,
    /// Rest between two runs.
    pub pause: Duration,
}

/// Why a search could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HuntError {
    /// Closed loop has no rates to multiply.
    #[error("capacity is searched in open loop; hint: leave `--concurrency` out")]
    ClosedLoop,
    /// The search's bounds or tolerance.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A multiple leaves the range of rates.
    #[error("the workload cannot be sent at {factor} times its rates")]
    Workload {
        /// The multiple.
        factor: f64,
        /// The cause.
        source: WorkloadError,
    },
    /// A run could not be made.
    #[error(transparent)]
    Bench(#[from] BenchError),
}

/// One run of a search.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// The seed.
    pub seed: u64,
    /// The multiple of the workload's rates.
    pub factor: f64,
    /// Whether it was held.
    pub holds: bool,
    /// Over all requests.
    pub attainment: Option<f64>,
    /// The model with the least attainment.
    pub worst: Option<WorstModel>,
    /// Requests.
    pub requests: u64,
    /// Replies within their objectives per second.
    pub goodput_rps: f64,
    /// Refused requests.
    pub rejected: u64,
    /// Late replies.
    pub late: u64,
    /// What limits the meaning of this run.
    pub warnings: Vec<String>,
}

/// A model and how it fared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorstModel {
    /// Its name.
    pub name: String,
    /// Its attainment.
    pub attainment: f64,
}

impl Probe {
    fn new(report: Report, factor: f64, wanted: f64) -> Self {
        let models = report.models.iter().filter_map(|model| {
            let attainment = model.figures.attainment?;
            Some(WorstModel {
                name: model.name.clone(),
                attainment,
            })
        });
        let worst = models.min_by(|one, other| one.attainment.total_cmp(&other.attainment));
        Self {
            seed: report.seed,
            factor,
            holds: report.attains(wanted),
            attainment: report.total.attainment,
            worst,
            requests: report.total.requests,
            goodput_rps: report.total.goodput_rps,
            rejected: report.total.rejected,
            late: report.total.late,
            warnings: report.warnings,
        }
    }

    /// The probe on one line, for progress.
    pub fn line(&self) -> String {
        let percent = |part: Option<f64>| match part {
            Some(part) => format!("{:.2} %", part * 100.0),
            None => "no requests".to_owned(),
        };
        let worst = self.worst.as_ref();
        let worst = worst
            .map(|worst| format!("; least `{}` {:.2} %", worst.name, worst.attainment * 100.0));
        format!(
            "seed {} at {:.3}x: {}, {} of {} requests in time{}",
            self.seed,
            self.factor,
            if self.holds { "held" } else { "NOT held" },
            percent(self.attainment),
            self.requests,
            worst.unwrap_or_default()
        )
    }
}

/// What the search with one seed found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// The largest multiple held and the smallest not held.
    #[serde(flatten)]
    pub found: Capacity,
    /// All runs, in order.
    pub probes: Vec<Probe>,
}

/// The result of a search. Measured, never simulated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CapacityReport {
    /// [`CAPACITY_SCHEMA`].
    pub schema: &'static str,
    /// How, where and when it was made.
    pub provenance: Option<Provenance>,
    /// The servers' addresses.
    pub urls: Vec<String>,
    /// The attainment that counts as held.
    pub attainment: f64,
    /// The models' floor: the attainment that each must reach.
    pub model_floor: f64,
    /// How the search was made.
    pub search: LargestSettings,
    /// Seconds measured in each run, after `warmup_s` of load.
    pub measured_s: f64,
    /// Seconds of load before the measured time of each run.
    pub warmup_s: f64,
    /// Whether the search was ended before its time.
    pub interrupted: bool,
    /// By seed. Of an interrupted search the last one may not be done.
    pub seeds: Vec<SeedReport>,
    /// The largest multiple held, over the seeds; absent where one of them held none.
    pub factor: Option<Spread>,
    /// Mean requests per second of the workload at `factor.mean`.
    pub offered_rps: Option<f64>,
    /// What limits the meaning of these figures.
    pub warnings: Vec<String>,
}

/// Searches, telling `progress` of each run. Cancelling `stop` ends the search; what is
/// known until then is reported.
///
/// # Errors
/// [`HuntError`], where the search cannot begin or a run cannot be made.
pub async fn find(
    hunt: &Hunt,
    stop: CancellationToken,
    mut progress: impl FnMut(&Probe),
) -> Result<CapacityReport, HuntError> {
    if hunt.bench.pacing != Loop::Open {
        return Err(HuntError::ClosedLoop);
    }
    let mut first = true;
    let probe = async |factor: f64, seed: u64| {
        if !std::mem::take(&mut first) {
            tokio::select! {
                () = tokio::time::sleep(hunt.pause) => {}
                () = stop.cancelled() => {}
            }
        }
        if stop.is_cancelled() {
            return Ok(None);
        }
        let workload = hunt.bench.workload.scaled(factor);
        let workload = workload.map_err(|source| HuntError::Workload { factor, source })?;
        let bench = Bench {
            workload,
            seed,
            ..hunt.bench.clone()
        };
        let report = match run(&bench, stop.clone()).await {
            Err(BenchError::Interrupted) => return Ok(None),
            report => report?,
        };
        if report.interrupted {
            return Ok(None);
        }
        let probe = Probe::new(report, factor, hunt.attainment);
        progress(&probe);
        Ok(Some(probe))
    };
    let (seeds, interrupted) = search(hunt, probe).await?;
    Ok(CapacityReport::new(hunt, seeds, interrupted))
}

/// The searches of all seeds; the second value says whether a probe answered `None`, which
/// ends them.
async fn search(
    hunt: &Hunt,
    mut probe: impl AsyncFnMut(f64, u64) -> Result<Option<Probe>, HuntError>,
) -> Result<(Vec<SeedReport>, bool), HuntError> {
    let mut settings = hunt.settings;
    let mut seeds = Vec::new();
    for seed in (hunt.bench.seed..).take(hunt.seeds as usize) {
        let mut search = Largest::new(settings)?;
        let mut probes = Vec::new();
        while let Some(factor) = search.next_probe() {
            let Some(probe) = probe(factor, seed).await? else {
                let found = search.found();
                seeds.push(SeedReport {
                    seed,
                    found,
                    probes,
                });
                return Ok((seeds, true));
            };
            search.record(probe.holds);
            probes.push(probe);
        }
        let found = search.found();
        if let Some(holds) = found.holds {
            settings = hunt.settings.near(holds);
        }
        seeds.push(SeedReport {
            seed,
            found,
            probes,
        });
    }
    Ok((seeds, false))
}

impl CapacityReport {
    fn new(hunt: &Hunt, seeds: Vec<SeedReport>, interrupted: bool) -> Self {
        let done = &seeds[..seeds.len() - usize::from(interrupted)];
        let held: Option<Vec<f64>> = done.iter().map(|seed| seed.found.holds).collect();
        let factor = held.and_then(|held| Spread::of(&held));
        let workload = &hunt.bench.workload;
        let rates = workload.models().iter();
        let rate: f64 = rates
            .map(|model| model.arrivals.mean_rate(workload.end()))
            .sum();
        let mut report = Self {
            schema: CAPACITY_SCHEMA,
            provenance: hunt.bench.provenance.clone(),
            urls: hunt.bench.urls.iter().map(ToString::to_string).collect(),
            attainment: hunt.attainment,
            model_floor: hunt.attainment.min(fugato_core::capacity::MODEL_FLOOR),
            search: hunt.settings,
            measured_s: workload.duration().as_secs_f64(),
            warmup_s: workload.warmup().as_secs_f64(),
            interrupted,
            factor,
            offered_rps: factor.map(|factor| rate * factor.mean),
            warnings: Vec::new(),
            seeds,
        };
        report.warnings = report.limits();
        report
    }

    /// What limits the meaning of the figures.
    fn limits(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for seed in &self.seeds {
            let edge = |holds: bool, factor: Option<f64>| {
                let mut probes = seed.probes.iter().rev();
                probes.find(|probe| probe.holds == holds && Some(probe.factor) == factor)
            };
            if let Some(fails) = edge(false, seed.found.fails) {
                warnings.extend(fails.warnings.iter().map(|warning| {
                    format!(
                        "seed {} at {:.3}x, not held: {warning}",
                        seed.seed, fails.factor
                    )
                }));
            }
            if let Some(holds) = edge(true, seed.found.holds)
                && holds.requests < FEW_REQUESTS
            {
                warnings.push(format!(
                    "seed {} at {:.3}x: {} requests decide, so {} misses more or less do; hint: a longer `--duration`",
                    seed.seed,
                    holds.factor,
                    holds.requests,
                    ((1.0 - self.attainment) * holds.requests as f64).floor() + 1.0
                ));
            }
        }
        if self.seeds.len() < 3 {
            warnings.push(format!(
                "{} of at least 3 seeds: the spread says little; hint: `--seeds 5`",
                self.seeds.len()
            ));
        }
        warnings
    }

    /// The report as indented JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds only strings and finite numbers")
    }

    /// The answer in one sentence.
    pub fn answer(&self) -> String {
        let wanted = format!(
            "{} % of all requests and {} % of each model in time",
            self.attainment * 100.0,
            self.model_floor * 100.0
        );
        let Some(factor) = self.factor else {
            return match self.nearest() {
                Some(probe) => format!(
                    "not held at any multiple tried ({wanted}); nearest: {}",
                    probe.line()
                ),
                None => format!("nothing was tried to its end ({wanted})"),
            };
        };
        let rate = self.offered_rps.unwrap_or(0.0);
        let interval = match factor.interval {
            Some(half) => format!(", 95 % interval of the mean \u{b1}{half:.3}"),
            None => String::new(),
        };
        let open = self.seeds.iter().any(|seed| seed.found.fails.is_none());
        let bound = if open {
            " or more (the largest multiple tried was held)"
        } else {
            ""
        };
        format!(
            "capacity {:.3}x the workload{bound}, {rate:.1} requests/s ({:.3}x to {:.3}x over {} seeds{interval}), with {wanted}",
            factor.mean, factor.low, factor.high, factor.count
        )
    }

    /// The run that missed by least, where a seed held none.
    fn nearest(&self) -> Option<&Probe> {
        let probes = self.seeds.iter().flat_map(|seed| &seed.probes);
        let attained = |probe: &&Probe| probe.attainment.unwrap_or(0.0);
        probes
            .filter(|probe| !probe.holds)
            .max_by(|one, other| attained(one).total_cmp(&attained(other)))
    }

    /// The report for people.
    pub fn table(&self) -> String {
        let head = [
            "seed",
            "held",
            "not held",
            "goodput/s",
            "attained",
            "least model",
            "runs",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        for seed in &self.seeds {
            let times = |factor: Option<f64>| match factor {
                Some(factor) => format!("{factor:.3}x"),
                None => "-".to_owned(),
            };
            let mut probes = seed.probes.iter();
            let held = probes.find(|probe| Some(probe.factor) == seed.found.holds);
            let percent = |part: Option<f64>| match part {
                Some(part) => format!("{:.2} %", part * 100.0),
                None => "-".to_owned(),
            };
            let worst = held.and_then(|held| held.worst.as_ref());
            rows.push([
                seed.seed.to_string(),
                times(seed.found.holds),
                times(seed.found.fails),
                held.map_or_else(|| "-".to_owned(), |held| format!("{:.1}", held.goodput_rps)),
                percent(held.and_then(|held| held.attainment)),
                percent(worst.map(|worst| worst.attainment)),
                seed.probes.len().to_string(),
            ]);
        }
        let mut text = format!(
            "MEASURED, open loop, {:.1} s after {:.1} s warm-up in each run, over {}\n",
            self.measured_s,
            self.warmup_s,
            self.urls.join(" and ")
        );
        text.push_str(&aligned(&rows));
        let interrupted = if self.interrupted {
            "INTERRUPTED: "
        } else {
            ""
        };
        let _ = writeln!(text, "{interrupted}{}", self.answer());
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }
}

#[cfg(test)]
mod tests;
