//! What one model's requests came to, and the figures over them.

use fugato_core::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most different error texts kept per model; the rest are only counted.
const ERROR_TEXTS: usize = 5;

/// How one request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Answered, and right where that was checked.
    Answered {
        /// Items of the batch it ran in, where the server says.
        batch: Option<u32>,
    },
    /// Answered, and not what was expected.
    Wrong {
        /// In what it differs.
        what: String,
    },
    /// Refused by the server: too many requests, or no time left.
    Rejected {
        /// The server's word for the reason, or the protocol's status.
        label: String,
        /// The server's words.
        why: String,
    },
    /// Answered by an error, or not at all.
    Failed {
        /// The error.
        why: String,
    },
}

/// The requests of one model inside the measured time.
///
/// **Invariant:** every scheduled request is counted once: answered, wrong, rejected,
/// failed, unsent, or (what is left) unanswered.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    scheduled: u64,
    unsent: u64,
    rejected: u64,
    failed: u64,
    wrong: u64,
    /// From the scheduled send time to the whole reply, of answered requests.
    latencies: Vec<Nanos>,
    rejections: BTreeMap<String, Rejections>,
    /// By second of the measured time in which requests came due.
    seconds: Vec<Second>,
    /// From the scheduled to the actual send time, of sent requests.
    lateness: Vec<Nanos>,
    batch_sum: u64,
    batch_count: u64,
    errors: BTreeMap<String, u64>,
}

/// How long refusals for one reason took.
#[derive(Clone, Debug, Default)]
struct Rejections {
    /// From the scheduled send time to the whole refusal.
    due: Vec<Nanos>,
    /// From the actual send time to it.
    sent: Vec<Nanos>,
}

/// What came of the requests that came due in one second.
#[derive(Clone, Debug, Default)]
struct Second {
    scheduled: u64,
    rejected: u64,
    latencies: Vec<Nanos>,
}

impl Recorder {
    /// A request came due, this long after the start of the measured time.
    pub fn scheduled(&mut self, after: Nanos) {
        self.scheduled += 1;
        self.second(after).scheduled += 1;
    }

    fn second(&mut self, after: Nanos) -> &mut Second {
        let index = usize::try_from(after.as_nanos() / 1_000_000_000).unwrap_or(usize::MAX);
        // A workload's end bounds this.
        if index >= self.seconds.len() {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }

    /// A request that came due was not sent, as too many were outstanding.
    pub fn unsent(&mut self) {
        self.unsent += 1;
    }

    /// A sent request that came due `after` the start of the measured time ended,
    /// `latency` after it came due; it was sent `lateness` after it came due.
    pub fn ended(&mut self, outcome: Outcome, after: Nanos, lateness: Nanos, latency: Nanos) {
        self.lateness.push(lateness);
        let text = match outcome {
            Outcome::Answered { batch } => {
                self.latencies.push(latency);
                self.second(after).latencies.push(latency);
                if let Some(batch) = batch {
                    self.batch_sum += u64::from(batch);
                    self.batch_count += 1;
                }
                return;
            }
            Outcome::Wrong { what } => {
                self.wrong += 1;
                what
            }
            Outcome::Rejected { label, why } => {
                self.rejected += 1;
                self.second(after).rejected += 1;
                let rejections = self.rejections.entry(label).or_default();
                rejections.due.push(latency);
                rejections.sent.push(latency.saturating_sub(lateness));
                why
            }
            Outcome::Failed { why } => {
                self.failed += 1;
                why
            }
        };
        if self.errors.len() < ERROR_TEXTS || self.errors.contains_key(&text) {
            *self.errors.entry(text).or_default() += 1;
        }
    }

    /// The figures, for a measured time of `measured` and an objective of `slo`
    /// (`None`: every right answer is in time).
    pub fn figures(mut self, slo: Option<Nanos>, measured: Nanos) -> Figures {
        self.latencies.sort_unstable();
        self.lateness.sort_unstable();
        let in_slo = |latencies: &[Nanos]| {
            let in_time = latencies
                .iter()
                .filter(|latency| slo.is_none_or(|slo| **latency <= slo));
            in_time.count() as u64
        };
        let rejections = self.rejections.values();
        let mut refusals: Vec<Nanos> = rejections.flat_map(|took| &took.due).copied().collect();
        refusals.sort_unstable();
        let rejected_by = self.rejections.into_iter().map(|(label, mut took)| {
            took.due.sort_unstable();
            took.sent.sort_unstable();
            let figures = RejectedFigures {
                count: took.due.len() as u64,
                due_ms: Percentiles::of(&took.due),
                sent_ms: Percentiles::of(&took.sent),
            };
            (label, figures)
        });
        let seconds = self.seconds.iter();
        let seconds = seconds.map(|second| SecondFigures {
            requests: second.scheduled,
            in_time: in_slo(&second.latencies),
            rejected: second.rejected,
        });
        let answered = self.latencies.len() as u64;
        let in_time = slo.map_or(answered, |slo| {
            self.latencies.partition_point(|latency| *latency <= slo) as u64
        });
        let ended = answered + self.rejected + self.failed + self.wrong + self.unsent;
        Figures {
            requests: self.scheduled,
            in_time,
            late: answered - in_time,
            rejected: self.rejected,
            failed: self.failed,
            wrong: self.wrong,
            unsent: self.unsent,
            unanswered: self.scheduled.saturating_sub(ended),
            goodput_rps: per_second(in_time, measured),
            attainment: ratio(in_time, self.scheduled),
            latency_ms: Percentiles::of(&self.latencies),
            latency_curve: distribution(&self.latencies),
            lateness_ms: Percentiles::of(&self.lateness),
            mean_batch: ratio(self.batch_sum, self.batch_count),
            seconds: seconds.collect(),
            rejected_by: rejected_by.collect(),
            rejected_ms: Percentiles::of(&refusals),
            refusals,
            errors: self.errors,
        }
    }
}

/// The figures of one model, or of all together.
///
/// `requests = in_time + late + rejected + failed + wrong + unsent + unanswered`, and
/// all but `in_time` are misses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests that came due in the measured time.
    pub requests: u64,
    /// Right answers within the objective.
    pub in_time: u64,
    /// Right answers after the objective.
    pub late: u64,
    /// Refused by the server (HTTP 429, 503, 504; gRPC RESOURCE_EXHAUSTED, UNAVAILABLE,
    /// DEADLINE_EXCEEDED).
    pub rejected: u64,
    /// Any other error.
    pub failed: u64,
    /// Answers that are not the expected ones.
    pub wrong: u64,
    /// Not sent, as the limit of outstanding requests was reached.
    pub unsent: u64,
    /// Sent, with no answer by the end of the wait after the run.
    pub unanswered: u64,
    /// `in_time` per second of measured time.
    pub goodput_rps: f64,
    /// `in_time / requests`; absent without requests.
    pub attainment: Option<f64>,
    /// Milliseconds from the scheduled send time to the reply, over right answers.
    pub latency_ms: Option<Percentiles>,
    /// Points of the latencies' distribution: a part of the right answers, and the
    /// milliseconds that this part took at most. Rising; empty in a total.
    #[serde(default)]
    pub latency_curve: Vec<(f64, f64)>,
    /// Milliseconds from the scheduled to the actual send time: the client's own delay,
    /// contained in `latency_ms`.
    pub lateness_ms: Option<Percentiles>,
    /// Mean over right answers of the batch each ran in; absent where the server does
    /// not say.
    pub mean_batch: Option<f64>,
    /// Rejected requests by the server's word for the reason (HTTP header and gRPC metadata
    /// `fugato-error`), or by the protocol's status where it has none.
    #[serde(default)]
    pub rejected_by: BTreeMap<String, RejectedFigures>,
    /// Milliseconds from the scheduled send time to the whole refusal, over all rejected
    /// requests.
    pub rejected_ms: Option<Percentiles>,
    /// What `rejected_ms` is of, rising.
    #[serde(skip)]
    refusals: Vec<Nanos>,
    /// By second of the measured time, by when requests came due.
    #[serde(default)]
    pub seconds: Vec<SecondFigures>,
    /// The first few error texts and their counts.
    #[serde(default)]
    pub errors: BTreeMap<String, u64>,
}

/// The requests that were refused for one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RejectedFigures {
    /// How many.
    pub count: u64,
    /// Milliseconds from the scheduled send time to the whole refusal; absent in a total.
    pub due_ms: Option<Percentiles>,
    /// As `due_ms`, from the actual send time: without the client's own lateness.
    pub sent_ms: Option<Percentiles>,
}

/// The requests that came due in one second of the measured time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondFigures {
    /// All of them.
    pub requests: u64,
    /// Right answers within the objective.
    pub in_time: u64,
    /// Refused by the server.
    pub rejected: u64,
}

impl Figures {
    /// The sums of several models' figures. Percentiles do not add up and are absent, but
    /// for `rejected_ms`.
    pub fn total<'a>(models: impl IntoIterator<Item = &'a Self>, measured: Nanos) -> Self {
        let mut total = Recorder::default().figures(None, measured);
        for model in models {
            total.requests += model.requests;
            total.in_time += model.in_time;
            total.late += model.late;
            total.rejected += model.rejected;
            total.failed += model.failed;
            total.wrong += model.wrong;
            total.unsent += model.unsent;
            total.unanswered += model.unanswered;
            total.refusals.extend(&model.refusals);
            for (label, figures) in &model.rejected_by {
                let sum = total.rejected_by.entry(label.clone()).or_default();
                sum.count += figures.count;
            }
            let seconds = total.seconds.len().max(model.seconds.len());
            total.seconds.resize(seconds, SecondFigures::default());
            for (sum, second) in total.seconds.iter_mut().zip(&model.seconds) {
                sum.requests += second.requests;
                sum.in_time += second.in_time;
                sum.rejected += second.rejected;
            }
        }
        total.refusals.sort_unstable();
        total.rejected_ms = Percentiles::of(&total.refusals);
        total.goodput_rps = per_second(total.in_time, measured);
        total.attainment = ratio(total.in_time, total.requests);
        total
    }
}

/// Exact percentiles by the nearest-rank method: the p-th is the smallest sample that
/// at least p % of all samples do not exceed. In milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The 99.9th percentile.
    pub p999: f64,
    /// The largest sample.
    pub max: f64,
}

impl Percentiles {
    /// The percentiles of ascending samples; `None` without samples.
    pub fn of(sorted: &[Nanos]) -> Option<Self> {
        let max = sorted.last()?.as_millis_f64();
        let sum: f64 = sorted.iter().map(|sample| sample.as_millis_f64()).sum();
        let at = |per_mille: usize| {
            let rank = (sorted.len() * per_mille).div_ceil(1_000);
            sorted[rank.max(1) - 1].as_millis_f64()
        };
        Some(Self {
            mean: sum / sorted.len() as f64,
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max,
        })
    }
}

/// Parts of a distribution that a curve through it is drawn by, in per mille.
fn curve_parts() -> impl Iterator<Item = usize> {
    // Every 2 %, and the tail where objectives are missed.
    (0..49)
        .map(|step| step * 20)
        .chain([970, 980, 985, 990, 995, 999, 1_000])
}

/// Points of the distribution of rising samples; each part's value is its nearest rank.
fn distribution(sorted: &[Nanos]) -> Vec<(f64, f64)> {
    let at = |per_mille: usize| {
        let rank = (sorted.len() * per_mille).div_ceil(1_000).max(1);
        let sample = sorted.get(rank - 1)?;
        Some((per_mille as f64 / 1e3, sample.as_millis_f64()))
    };
    curve_parts().filter_map(at).collect()
}

fn per_second(count: u64, time: Nanos) -> f64 {
    if time == Nanos::ZERO {
        0.0
    } else {
        count as f64 / time.as_secs_f64()
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = Nanos::from_millis(1_000);

    #[test]
    fn percentiles_are_nearest_ranks() {
        let samples: Vec<Nanos> = (1..=1_000).map(Nanos::from_millis).collect();
        let found = Percentiles::of(&samples).expect("samples");
        let expected = Percentiles {
            mean: 500.5,
            p50: 500.0,
            p90: 900.0,
            p99: 990.0,
            p999: 999.0,
            max: 1_000.0,
        };
        assert_eq!(found, expected);
        let one = Percentiles::of(&[Nanos::from_millis(7)]).expect("a sample");
        assert_eq!((one.p50, one.p999, one.max), (7.0, 7.0, 7.0));
        // Of two samples the median is the first, every higher one the second.
        let two = Percentiles::of(&samples[..2]).expect("samples");
        assert_eq!((two.p50, two.p90, two.p999), (1.0, 2.0, 2.0));
        assert_eq!(Percentiles::of(&[]), None);
    }

    #[test]
    fn every_request_is_counted_once_and_all_but_in_time_are_misses() {
        let mut recorder = Recorder::default();
        for _ in 0..10 {
            recorder.scheduled(SECOND);
        }
        let end = |recorder: &mut Recorder, outcome, millis| {
            let late = Nanos::from_micros(50);
            recorder.ended(outcome, SECOND, late, Nanos::from_millis(millis));
        };
        let answered = |batch| Outcome::Answered { batch: Some(batch) };
        end(&mut recorder, answered(1), 10);
        end(&mut recorder, answered(4), 25);
        end(&mut recorder, answered(4), 26);
        let why = "busy".to_owned();
        for millis in [1, 3] {
            let (label, why) = ("queue_full".to_owned(), why.clone());
            end(&mut recorder, Outcome::Rejected { label, why }, millis);
        }
        let why = "reset".to_owned();
        end(&mut recorder, Outcome::Failed { why }, 1);
        let what = "off".to_owned();
        end(&mut recorder, Outcome::Wrong { what }, 1);
        recorder.unsent();
        let figures = recorder.figures(Some(Nanos::from_millis(25)), SECOND.times(2));
        assert_eq!((figures.in_time, figures.late), (2, 1));
        assert_eq!((figures.rejected, figures.failed, figures.wrong), (2, 1, 1));
        assert_eq!((figures.unsent, figures.unanswered), (1, 2));
        assert_eq!(figures.attainment, Some(0.2));
        assert!((figures.goodput_rps - 1.0).abs() < 1e-12);
        assert_eq!(figures.mean_batch, Some(3.0));
        let curve = &figures.latency_curve;
        assert_eq!(
            (curve[0], curve[curve.len() - 1]),
            ((0.0, 10.0), (1.0, 26.0))
        );
        assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        assert_eq!(figures.errors["busy"], 2);
        let full = figures.rejected_by["queue_full"];
        let (due, sent) = full.due_ms.zip(full.sent_ms).expect("two were rejected");
        assert_eq!(
            (full.count, due.p50, due.max, sent.max),
            (2, 1.0, 3.0, 2.95)
        );
        let second = SecondFigures {
            requests: 10,
            in_time: 2,
            rejected: 2,
        };
        assert_eq!(figures.seconds, [SecondFigures::default(), second]);
        let total = Figures::total([&figures, &figures], SECOND);
        let refused = total.rejected_ms.expect("four were rejected");
        assert_eq!((refused.p50, refused.max), (1.0, 3.0), "of both together");
        assert_eq!((total.requests, total.in_time), (20, 4));
        assert_eq!(total.attainment, Some(0.2));
    }

    #[test]
    fn nothing_scheduled_is_no_attainment() {
        let figures = Recorder::default().figures(None, SECOND);
        assert_eq!(figures.attainment, None);
        assert_eq!(figures.latency_ms, None);
    }
}
