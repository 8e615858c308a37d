//! What is counted of each model version: Triton's statistics extension, and Triton's
//! metrics, which are the same numbers.

use super::metrics::{ModelLabels, RequestTimes};
use crate::api::{BatchStatistics, Counted, ModelStatistics};
use crate::error::ErrorKind;
use fugato_core::Nanos;
use fugato_device::RunSplit;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Why requests fail, in Triton's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Rejected,
    Canceled,
    Backend,
    Other,
}

impl Reason {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Rejected, "REJECTED"),
        (Self::Canceled, "CANCELED"),
        (Self::Backend, "BACKEND"),
        (Self::Other, "OTHER"),
    ];

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a new kind is OTHER until it is one of these"
    )]
    const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::QueueFull
            | ErrorKind::DeadlineUnreachable
            | ErrorKind::NoRoom
            | ErrorKind::DeadlineDoomed
            | ErrorKind::QueueTimeout
            | ErrorKind::DeadlineExceeded
            | ErrorKind::Draining => Self::Rejected,
            ErrorKind::Cancelled => Self::Canceled,
            ErrorKind::RunRefused | ErrorKind::RunFailed | ErrorKind::DeviceLost => Self::Backend,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct BatchCounts {
    executions: u64,
    split: RunSplit,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    last_inference_ms: u64,
    items: u64,
    executions: u64,
    success: Counted,
    fail: Counted,
    cancel: Counted,
    queue: Nanos,
    split: RunSplit,
    failures: [u64; Reason::ALL.len()],
    waiting: u64,
    batches: BTreeMap<u32, BatchCounts>,
}

impl Counted {
    fn add(&mut self, time: Nanos) {
        self.count += 1;
        self.total += time;
    }
}

fn add(sum: &mut RunSplit, split: &RunSplit) {
    sum.input += split.input;
    sum.infer += split.infer;
    sum.output += split.output;
}

/// The counts of one model version.
#[derive(Debug, Default)]
pub(super) struct ModelCounts(Mutex<Counts>);

impl ModelCounts {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that ended with a reply.
    pub(super) fn replied(&self, times: &RequestTimes) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut counts = self.lock();
        counts.success.add(times.total);
        counts.queue += times.queue;
        add(&mut counts.split, &times.split);
        // A clock before 1970 has no answer.
        counts.last_inference_ms =
            now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    }

    /// Counts a request that ended without one, `after` its arrival.
    pub(super) fn failed(&self, kind: ErrorKind, after: Nanos) {
        let reason = Reason::of(kind);
        let mut counts = self.lock();
        counts.failures[reason as usize] += 1;
        if reason == Reason::Canceled {
            counts.cancel.add(after);
        } else {
            counts.fail.add(after);
        }
    }

    /// Counts a task that ended well.
    pub(super) fn executed(&self, batch: u32, split: &RunSplit) {
        let mut counts = self.lock();
        counts.items += u64::from(batch);
        counts.executions += 1;
        let of_size = counts.batches.entry(batch).or_default();
        of_size.executions += 1;
        add(&mut of_size.split, split);
    }

    /// Notes how many requests wait now.
    pub(super) fn waits(&self, waiting: u64) {
        self.lock().waiting = waiting;
    }

    /// The counts as the statistics extension has them.
    pub(super) fn statistics(&self, name: &str, version: &str) -> ModelStatistics {
        let counts = self.lock().clone();
        let of_success = |total| Counted {
            count: counts.success.count,
            total,
        };
        let batches = counts.batches.iter().map(|(&batch_size, of_size)| {
            let of = |total| Counted {
                count: of_size.executions,
                total,
            };
            BatchStatistics {
                batch_size: batch_size.into(),
                compute_input: of(of_size.split.input),
                compute_infer: of(of_size.split.infer),
                compute_output: of(of_size.split.output),
            }
        });
        ModelStatistics {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference_ms: counts.last_inference_ms,
            inference_count: counts.items,
            execution_count: counts.executions,
            success: counts.success,
            fail: counts.fail,
            cancel: counts.cancel,
            queue: of_success(counts.queue),
            compute_input: of_success(counts.split.input),
            compute_infer: of_success(counts.split.infer),
            compute_output: of_success(counts.split.output),
            batches: batches.collect(),
        }
    }
}

/// The counts of all model versions, shown as Triton's metrics.
#[derive(Clone, Debug, Default)]
pub(super) struct AllCounts(Arc<Mutex<BTreeMap<ModelLabels, Arc<ModelCounts>>>>);

impl AllCounts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ModelLabels, Arc<ModelCounts>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts of one model version, from zero where there are none yet.
    pub(super) fn of(&self, labels: &ModelLabels) -> Arc<ModelCounts> {
        Arc::clone(self.lock().entry(labels.clone()).or_default())
    }

    /// Lets go of the counts of a version that is not served any more.
    pub(super) fn forget(&self, labels: &ModelLabels) {
        self.lock().remove(labels);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    model: String,
    version: String,
    reason: &'static str,
}

/// One of Triton's metrics: its name, what it says, and how it is read off.
type Metric = (&'static str, &'static str, fn(&Counts) -> u64);

fn micros(time: Nanos) -> u64 {
    time.as_nanos() / 1_000
}

/// Triton's metrics that have one value for each model version.
const METRICS: [Metric; 9] = [
    (
        "nv_inference_request_success",
        "Requests that ended well",
        |counts| counts.success.count,
    ),
    (
        "nv_inference_count",
        "Items (rows) that ended well",
        |counts| counts.items,
    ),
    (
        "nv_inference_exec_count",
        "Tasks that ended well",
        |counts| counts.executions,
    ),
    (
        "nv_inference_request_duration_us",
        "Time of requests that ended well, from arrival to reply, in all",
        |counts| micros(counts.success.total),
    ),
    (
        "nv_inference_queue_duration_us",
        "Time of those requests in the queue, in all",
        |counts| micros(counts.queue),
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Time of those requests while inputs were copied, in all",
        |counts| micros(counts.split.input),
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Time of those requests while the model ran, in all",
        |counts| micros(counts.split.infer),
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Time of those requests while outputs were divided, in all",
        |counts| micros(counts.split.output),
    ),
    (
        "nv_inference_pending_request_count",
        "Requests in the queue now",
        |counts| counts.waiting,
    ),
];

const FAILURES: &str = "nv_inference_request_failure";

impl Collector for AllCounts {
    /// All of them are of type `unknown`: OpenMetrics wants counters to end in `_total`,
    /// and Triton's names do not.
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let models: Vec<(ModelLabels, Counts)> = {
            let models = self.lock();
            let snapshot = models
                .iter()
                .map(|(labels, counts)| (labels.clone(), counts.lock().clone()));
            snapshot.collect()
        };
        for (name, help, read) in METRICS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Unknown)?;
            for (labels, counts) in &models {
                metric.encode_family(labels)?.encode_gauge(&read(counts))?;
            }
        }
        let help = "Requests that ended without a reply, by reason";
        let mut metric = encoder.encode_descriptor(FAILURES, help, None, MetricType::Unknown)?;
        for (labels, counts) in &models {
            for (reason, name) in Reason::ALL {
                let labels = FailureLabels {
                    model: labels.model.clone(),
                    version: labels.version.clone(),
                    reason: name,
                };
                let count = counts.failures[reason as usize];
                metric.encode_family(&labels)?.encode_gauge(&count)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(input: u64, infer: u64, output: u64) -> RunSplit {
        RunSplit {
            input: Nanos::from_micros(input),
            infer: Nanos::from_micros(infer),
            output: Nanos::from_micros(output),
            on_device: None,
        }
    }

    #[test]
    fn requests_and_tasks_are_counted_apart() {
        let counts = ModelCounts::default();
        counts.executed(3, &split(1, 10, 2));
        for total in [20, 30] {
            counts.replied(&RequestTimes {
                total: Nanos::from_micros(total),
                queue: Nanos::from_micros(5),
                split: split(1, 10, 2),
            });
        }
        counts.failed(ErrorKind::QueueFull, Nanos::from_micros(7));
        counts.failed(ErrorKind::Cancelled, Nanos::from_micros(8));
        let statistics = counts.statistics("m", "1");
        assert_eq!(statistics.inference_count, 3);
        assert_eq!(statistics.execution_count, 1);
        let counted = |count, micros| Counted {
            count,
            total: Nanos::from_micros(micros),
        };
        assert_eq!(statistics.success, counted(2, 50));
        assert_eq!(statistics.queue, counted(2, 10));
        assert_eq!(statistics.compute_infer, counted(2, 20));
        assert_eq!(statistics.fail, counted(1, 7));
        assert_eq!(statistics.cancel, counted(1, 8));
        assert!(statistics.last_inference_ms > 1_600_000_000_000);
        let [batch] = statistics.batches[..] else {
            panic!("one batch size ran: {:?}", statistics.batches)
        };
        assert_eq!((batch.batch_size, batch.compute_infer), (3, counted(1, 10)));
    }
}
