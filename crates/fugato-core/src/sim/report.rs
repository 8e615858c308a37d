//! The report of a simulation, as it is written to JSON.

use super::tally::{ModelTally, Tally};
use crate::sched::DeadlineMode;
use crate::time::Nanos;
use crate::workload::{ArrivalProcess, Workload};
use serde::{Deserialize, Serialize};

/// The schema of [`Report`].
pub const SCHEMA: &str = "fugato.simulation/1";

/// What a simulation gave, policy by policy on the same requests. All figures are
/// simulated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The seed of arrivals and noise.
    pub seed: u64,
    /// The profiled device: its kind and name.
    pub profile: String,
    /// Whether the profile was computed rather than measured.
    pub synthetic: bool,
    /// Simulated devices.
    pub devices: u32,
    /// Slices of each device.
    pub slices: u16,
    /// The measured time, in seconds.
    pub duration_s: f64,
    /// What was simulated besides.
    #[serde(flatten)]
    pub setup: Setup,
    /// What is to be known of the workload: a mix's choices, and why misses are expected.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What each policy gave, in the order they were asked for.
    pub policies: Vec<PolicyReport>,
}

/// With what a simulation was set up: two of other setups cannot be compared as they stand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// The workload: a mix's name, or its file's.
    pub workload: String,
    /// The factor that its rates were multiplied by.
    pub scale: f64,
    /// Time of the same load before the measured time, in seconds.
    pub warmup_s: f64,
    /// What deadlines did.
    pub deadlines: DeadlineMode,
    /// Tasks of a model in flight.
    pub slots: u16,
    /// Instances of a model under `uncontrolled`.
    pub instances: u16,
    /// Time from handing a leg to a free lane to its start, in microseconds.
    pub launch_us: f64,
    /// Time from the end of a leg to the start of the one committed behind it, in microseconds.
    pub boundary_us: f64,
    /// Whether service times varied.
    pub noise: bool,
    /// What was asked of each model, in the order of the workload.
    pub loads: Vec<ModelSetup>,
}

/// What was asked of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSetup {
    /// Its name.
    pub name: String,
    /// Its objective, in milliseconds.
    pub slo_ms: f64,
    /// Requests per second on average; none where its queue is kept full.
    pub rate: Option<f64>,
    /// Items of a request.
    pub items: u32,
    /// The largest batch.
    pub max_batch: u32,
}

/// What one policy gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// Its name.
    pub policy: String,
    /// Requests.
    pub requests: u64,
    /// Requests completed within their objective, per second; of saturated models, those
    /// completed.
    pub goodput: f64,
    /// The part of the requests that were; none where every model is saturated, or nothing came.
    pub attainment: Option<f64>,
    /// Slices in use up to each model's knee, over the slices of the devices: a part of 1.
    pub utilisation: f64,
    /// Slices held, over the slices of the devices: a part of 1.
    pub occupancy: f64,
    /// Jain's index of the models' device time: 1 where all had the same, 1/n where one
    /// had all.
    pub jain: f64,
    /// Requests refused on arrival.
    pub rejected: u64,
    /// Requests accepted and given up before they ran.
    pub dropped: u64,
    /// Requests whose run failed.
    pub failed: u64,
    /// Requests that ended too late, or not at all.
    pub late: u64,
    /// The hash of all actions: equal for equal runs of one binary.
    pub action_hash: String,
    /// Model by model, in the order of the workload.
    pub models: Vec<ModelReport>,
}

/// What one policy gave to one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Its name.
    pub name: String,
    /// Requests.
    pub requests: u64,
    /// As [`PolicyReport::goodput`].
    pub goodput: f64,
    /// As [`PolicyReport::attainment`].
    pub attainment: Option<f64>,
    /// The median latency of completed requests, from arrival to end, in milliseconds.
    pub p50_ms: Option<f64>,
    /// The 99th percentile of the same.
    pub p99_ms: Option<f64>,
    /// Items per run.
    pub mean_batch: Option<f64>,
    /// Device time it held, over that of the devices: a part of 1.
    pub occupancy: f64,
}

impl PolicyReport {
    /// The report of what was counted under `policy`.
    pub fn new(policy: impl Into<String>, workload: &Workload, tally: &Tally) -> Self {
        let sum = |of: fn(&ModelTally) -> u64| tally.models.iter().map(of).sum::<u64>();
        let loads = workload.models().iter().zip(&tally.models);
        let open = loads
            .clone()
            .filter(|(load, _)| !is_saturated(&load.arrivals));
        let (asked, met) = open.fold((0, 0), |(asked, met), (_, model)| {
            (asked + model.requests, met + model.good)
        });
        let parts = |of: fn(&ModelTally) -> u128| {
            tally.models.iter().map(of).sum::<u128>() as f64 / tally.device_time as f64
        };
        Self {
            policy: policy.into(),
            requests: sum(|model| model.requests),
            goodput: sum(|model| model.good) as f64 / tally.window.as_secs_f64(),
            attainment: (asked > 0).then(|| met as f64 / asked as f64),
            utilisation: parts(|model| model.used.useful),
            occupancy: parts(|model| model.used.held),
            jain: jain(tally.models.iter().map(|model| model.used.held as f64)),
            rejected: sum(|model| model.rejected),
            dropped: sum(|model| model.dropped),
            failed: sum(|model| model.failed),
            late: sum(|model| model.late),
            action_hash: format!("{:016x}", tally.action_hash),
            models: loads
                .map(|(load, model)| {
                    let saturated = is_saturated(&load.arrivals);
                    ModelReport::new(&load.name, saturated, model, tally)
                })
                .collect(),
        }
    }
}

impl ModelReport {
    fn new(name: &str, saturated: bool, model: &ModelTally, tally: &Tally) -> Self {
        let millis = |quantile| model.latencies.quantile(quantile).map(Nanos::as_millis_f64);
        let runs = model.used.runs;
        Self {
            name: name.to_owned(),
            requests: model.requests,
            goodput: model.good as f64 / tally.window.as_secs_f64(),
            attainment: model.attainment().filter(|_| !saturated),
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
            mean_batch: (runs > 0).then(|| model.used.items as f64 / runs as f64),
            occupancy: model.used.held as f64 / tally.device_time as f64,
        }
    }
}

fn is_saturated(arrivals: &ArrivalProcess) -> bool {
    *arrivals == ArrivalProcess::Saturated
}

/// Jain's index: the square of the sum over n times the sum of squares; 1 where nobody
/// had anything.
fn jain(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count() as f64;
    let sum: f64 = values.clone().sum();
    let squares: f64 = values.map(|value| value * value).sum();
    if squares > 0.0 {
        sum * sum / (count * squares)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "small integers are exact")]
    fn jains_index_is_one_for_equals_and_a_part_for_one_alone() {
        assert_eq!(jain([3.0, 3.0, 3.0].into_iter()), 1.0);
        assert_eq!(jain([5.0, 0.0, 0.0, 0.0].into_iter()), 0.25);
        assert_eq!(jain([0.0, 0.0].into_iter()), 1.0);
    }
}
