//! What the ideal scheduler reports.

use super::engine::SLICE;
use crate::id::Share;
use crate::sim::report::{ModelReport, PolicyReport};
use crate::time::Nanos;
use serde::Serialize;

/// What the ideal scheduler did with a load. **Simulated**, always.
///
/// Utilisation is reported twice, because kernels and whole runs are not weighted alike:
///
/// - [`utilisation`](Self::utilisation) counts the slices that kernels held, none of which
///   idles: the device can give at most 1.
/// - [`knee_utilisation`](Self::knee_utilisation) counts what the same kernels would have
///   held in runs on their model's knee, as the figure of `dstack` does. Most kernels are
///   narrower than the knee, so it may be above 1: exclusive runs on knees could not do
///   this work on one device.
///
/// Throughputs of the two stand in the relation of the second figure; the paper's own
/// (about 95 % for its ideal) is of the first kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdealReport {
    /// The measured time.
    pub duration: Nanos,
    /// Slices held by kernels, over time, as a fraction of the device. Nothing is held that
    /// is not used, so it is the occupancy, too.
    pub utilisation: f64,
    /// The work done, each kernel counted as its model's knee times its time there, as a
    /// fraction of the device. Comparable with that of policies of whole runs.
    pub knee_utilisation: f64,
    /// Jain's index of the slice-time that the models had: 1 where all had the same.
    pub jain: f64,
    /// The models, in the order given.
    pub models: Vec<IdealModelReport>,
}

/// What the ideal scheduler did for one model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IdealModelReport {
    /// Its name.
    pub name: String,
    /// Requests received in the measured time and ended, the rejected ones included.
    pub requests: u64,
    /// Items of tasks that ended, per second.
    pub throughput: f64,
    /// Requests that ended within the objective, per second; of a saturated model, all that
    /// ended.
    pub goodput: f64,
    /// Requests that ended within the objective, as a fraction of all; none where there
    /// were none, and of a saturated model, whose requests arrive at no time.
    pub attainment: Option<f64>,
    /// Requests whose task could not have ended in time with the whole device.
    pub rejected: u64,
    /// Requests that ended after their objective; 0 of a saturated model.
    pub late: u64,
    /// The median time from receiving to the end, or of a saturated model, of its tasks;
    /// rejected requests left out.
    pub p50: Nanos,
    /// The 99th percentile of the same.
    pub p99: Nanos,
    /// Items of a task, on average; 0 of none.
    pub mean_batch: f64,
    /// What its kernels held, in slice-seconds.
    pub slice_time_s: f64,
    /// The same work on its knee, in slice-seconds.
    pub knee_time_s: f64,
}

impl IdealReport {
    pub(super) fn new(models: Vec<IdealModelReport>, slices: Share, duration: Nanos) -> Self {
        let device = f64::from(slices.0) * duration.as_secs_f64();
        let held = models.iter().map(|model| model.slice_time_s);
        let at_knee: f64 = models.iter().map(|model| model.knee_time_s).sum();
        Self {
            duration,
            utilisation: held.clone().sum::<f64>() / device,
            knee_utilisation: at_knee / device,
            jain: jain(held),
            models,
        }
    }
}

impl From<&IdealReport> for PolicyReport {
    /// The report beside those of policies: its utilisation is
    /// [`IdealReport::knee_utilisation`], which may be above 1, its occupancy
    /// [`IdealReport::utilisation`]. There are no actions, so there is no hash of them.
    fn from(report: &IdealReport) -> Self {
        let models = &report.models;
        let sum = |of: fn(&IdealModelReport) -> u64| models.iter().map(of).sum::<u64>();
        let judged = || models.iter().filter(|model| model.attainment.is_some());
        let asked: u64 = judged().map(|model| model.requests).sum();
        let missed: u64 = judged().map(|model| model.rejected + model.late).sum();
        let held: f64 = models.iter().map(|model| model.slice_time_s).sum();
        let occupancy = |model: &IdealModelReport| {
            if held > 0.0 {
                report.utilisation * model.slice_time_s / held
            } else {
                0.0
            }
        };
        Self {
            policy: "ideal".to_owned(),
            requests: sum(|model| model.requests),
            goodput: models.iter().map(|model| model.goodput).sum(),
            attainment: (asked > 0).then(|| (asked - missed) as f64 / asked as f64),
            utilisation: report.knee_utilisation,
            occupancy: report.utilisation,
            jain: report.jain,
            rejected: sum(|model| model.rejected),
            dropped: 0,
            failed: 0,
            late: sum(|model| model.late),
            action_hash: String::new(),
            models: models
                .iter()
                .map(|model| {
                    let ended = model.requests > model.rejected;
                    ModelReport {
                        name: model.name.clone(),
                        requests: model.requests,
                        goodput: model.goodput,
                        attainment: model.attainment,
                        p50_ms: ended.then(|| model.p50.as_millis_f64()),
                        p99_ms: ended.then(|| model.p99.as_millis_f64()),
                        mean_batch: ended.then_some(model.mean_batch),
                        occupancy: occupancy(model),
                    }
                })
                .collect(),
        }
    }
}

/// Jain's index; 1 for none and for all zero.
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

/// What is counted of one model.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Units of slices times nanoseconds.
    pub(super) held: u128,
    /// Slice-seconds on the knee.
    pub(super) at_knee_s: f64,
    pub(super) rejected: u64,
    pub(super) tasks: u64,
    pub(super) items: u64,
    within: u64,
    latencies: Vec<Nanos>,
}

impl Tally {
    /// Counts a request that ended.
    pub(super) fn ended(&mut self, latency: Nanos, slo: Nanos) {
        self.within += u64::from(latency <= slo);
        self.latencies.push(latency);
    }

    pub(super) fn report(
        mut self,
        name: &str,
        duration: Nanos,
        saturated: bool,
    ) -> IdealModelReport {
        self.latencies.sort_unstable();
        let seconds = duration.as_secs_f64();
        let ended = self.latencies.len() as u64;
        let requests = ended + self.rejected;
        let good = if saturated { ended } else { self.within };
        let judged = !saturated && requests > 0;
        IdealModelReport {
            name: name.to_owned(),
            requests,
            throughput: self.items as f64 / seconds,
            goodput: good as f64 / seconds,
            attainment: judged.then(|| good as f64 / requests as f64),
            rejected: self.rejected,
            late: ended - good,
            p50: nearest_rank(&self.latencies, 50),
            p99: nearest_rank(&self.latencies, 99),
            mean_batch: self.items as f64 / self.tasks.max(1) as f64,
            slice_time_s: self.held as f64 / SLICE as f64 / 1e9,
            knee_time_s: self.at_knee_s,
        }
    }
}

/// The smallest of sorted values that `percent` of them are not above; zero of none.
fn nearest_rank(sorted: &[Nanos], percent: usize) -> Nanos {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(Nanos::ZERO)
}
