//! The metrics, as Prometheus reads them.

use super::gpu::GpuMetrics;
use super::profiles::ProfileMetrics;
use super::statistics::{AllCounts, ModelCounts};
use crate::api::ModelStatistics;
use crate::error::ErrorKind;
use fugato_core::profile::Knee;
use fugato_core::sched::ProfileStatus;
use fugato_core::{DeviceId, Nanos};
use fugato_device::{DeviceMetrics, RunSplit};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub(super) type FloatGauge = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(super) struct ModelLabels {
    pub(super) model: String,
    pub(super) version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct DeviceLabels {
    pub(super) device: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlaceLabels {
    model: String,
    version: String,
    device: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    model: String,
    version: String,
    outcome: &'static str,
}

/// Makes histograms of one family, all with the same buckets.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    first: f64,
    factor: f64,
    count: u16,
}

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(self.first, self.factor, self.count))
    }
}

/// 50 us to 26 s in steps of the square root of 2: fine enough to read a 99th percentile
/// within 41 %, few enough to scrape per model.
const REQUEST_SECONDS: Buckets = Buckets {
    first: 50e-6,
    factor: std::f64::consts::SQRT_2,
    count: 39,
};
/// 0.25 us to 0.5 s: a decision takes microseconds, a descheduled driver milliseconds.
const DRIVER_SECONDS: Buckets = Buckets {
    first: 0.25e-6,
    factor: std::f64::consts::SQRT_2,
    count: 43,
};
/// 1 to 1,024 items.
const BATCH_ITEMS: Buckets = Buckets {
    first: 1.0,
    factor: 2.0,
    count: 11,
};

/// The most devices of a server: the one that models run on, and the CPU beside it.
const DEVICES_MAX: u16 = 2;

type Histograms = Family<ModelLabels, Histogram, Buckets>;

/// All metrics of one process.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    requests: Family<OutcomeLabels, Counter>,
    seconds: [Histograms; 5],
    batch_items: Histograms,
    executions: Family<ModelLabels, Counter>,
    waiting: Family<ModelLabels, Gauge>,
    in_flight: Family<ModelLabels, Gauge>,
    held_bytes: Family<ModelLabels, Gauge>,
    prediction_error: Family<ModelLabels, FloatGauge>,
    profiles: ProfileMetrics,
    counts: AllCounts,
    driver: Arc<DriverMetrics>,
    places: Family<PlaceLabels, Gauge>,
    device_legs: Family<DeviceLabels, Counter>,
    device_legs_at_once: Family<DeviceLabels, Counter>,
    device_bytes: Family<DeviceLabels, Counter>,
    device_bytes_out: Family<DeviceLabels, Counter>,
    gpu: GpuMetrics,
    worker_restarts: Counter,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// Metrics that have counted nothing.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let histograms = |buckets| Histograms::new_with_constructor(buckets);
        let telemetry = Self {
            requests: Family::default(),
            seconds: std::array::from_fn(|_| histograms(REQUEST_SECONDS)),
            batch_items: histograms(BATCH_ITEMS),
            executions: Family::default(),
            waiting: Family::default(),
            in_flight: Family::default(),
            held_bytes: Family::default(),
            prediction_error: Family::default(),
            profiles: ProfileMetrics::default(),
            counts: AllCounts::default(),
            driver: Arc::new(DriverMetrics::new()),
            places: Family::default(),
            device_legs: Family::default(),
            device_legs_at_once: Family::default(),
            device_bytes: Family::default(),
            device_bytes_out: Family::default(),
            gpu: GpuMetrics::default(),
            worker_restarts: Counter::default(),
            registry: Registry::default(),
        };
        telemetry.register(registry.sub_registry_with_prefix("fugato"));
        registry.register_collector(Box::new(telemetry.counts.clone()));
        Self {
            registry,
            ..telemetry
        }
    }

    fn register(&self, registry: &mut Registry) {
        let [total, queue, input, infer, output] = &self.seconds;
        registry.register(
            "requests",
            "Requests that ended, by outcome: ok, or the label of the error kind",
            self.requests.clone(),
        );
        registry.register(
            "request_seconds",
            "Time from a request's first byte until its reply was handed to the protocol, of requests that ended ok",
            total.clone(),
        );
        registry.register(
            "request_queue_seconds",
            "Time from a request's first byte until a lane took its task up, of requests that ended ok",
            queue.clone(),
        );
        registry.register(
            "task_input_seconds",
            "Time of a task spent copying its requests into the slot's buffers",
            input.clone(),
        );
        registry.register(
            "task_infer_seconds",
            "Time of a task spent running the model",
            infer.clone(),
        );
        registry.register(
            "task_output_seconds",
            "Time of a task spent dividing its outputs among its requests",
            output.clone(),
        );
        registry.register(
            "batch_items",
            "Items in the batch of a task that ended well",
            self.batch_items.clone(),
        );
        registry.register(
            "executions",
            "Tasks that ended well",
            self.executions.clone(),
        );
        registry.register(
            "requests_waiting",
            "Requests in the model's queue",
            self.waiting.clone(),
        );
        registry.register(
            "tasks_in_flight",
            "Tasks of the model that are committed or running",
            self.in_flight.clone(),
        );
        registry.register(
            "request_held_bytes",
            "Bytes of the model's requests that have not ended",
            self.held_bytes.clone(),
        );
        registry.register(
            "prediction_error_ratio",
            "Median of |predicted - measured| / measured over the model's last 64 legs",
            self.prediction_error.clone(),
        );
        self.profiles.register(registry);
        registry.register(
            "driver_reaction_seconds",
            "Time from the oldest event at hand being put into the driver's mailbox until the decisions it led to \
             were carried out",
            self.driver.reaction.clone(),
        );
        registry.register(
            "driver_decision_seconds",
            "Time the driver took to hand in the events at hand and to carry out what was decided, per event",
            self.driver.decision.clone(),
        );
        registry.register(
            "driver_events",
            "Events handed to the scheduler",
            self.driver.events.clone(),
        );
        registry.register(
            "model_device",
            "1 for the device that the model runs on",
            self.places.clone(),
        );
        registry.register(
            "device_legs",
            "Legs that the device ended, well or badly",
            self.device_legs.clone(),
        );
        registry.register(
            "device_legs_at_once",
            "Legs of which groups ran side by side; on an NVIDIA device, that it was given so, in one graph",
            self.device_legs_at_once.clone(),
        );
        registry.register(
            "device_copied_in_bytes",
            "Bytes of requests that were copied into slot buffers",
            self.device_bytes.clone(),
        );
        registry.register(
            "device_copied_out_bytes",
            "Bytes of results that the device copied: strings, and outputs that are inputs",
            self.device_bytes_out.clone(),
        );
        self.gpu.register(registry);
        registry.register(
            "worker_restarts",
            "Workers that the supervisor started before this one, after others that ended abnormally",
            self.worker_restarts.clone(),
        );
    }

    /// Notes how many workers a supervisor started before this one.
    pub fn restarted(&self, times: u64) {
        self.worker_restarts.inc_by(times);
    }

    /// What the driver thread counts.
    pub fn driver(&self) -> Arc<DriverMetrics> {
        Arc::clone(&self.driver)
    }

    /// What is counted of one model version.
    pub fn model(&self, model: &str, version: &str) -> ModelMetrics {
        let labels = ModelLabels {
            model: model.to_owned(),
            version: version.to_owned(),
        };
        let [total, queue, input, infer, output] = self
            .seconds
            .each_ref()
            .map(|family| family.get_or_create_owned(&labels));
        let outcome = OutcomeLabels {
            model: model.to_owned(),
            version: version.to_owned(),
            outcome: "ok",
        };
        ModelMetrics {
            ok: self.requests.get_or_create_owned(&outcome),
            total,
            queue,
            input,
            infer,
            output,
            batch_items: self.batch_items.get_or_create_owned(&labels),
            executions: self.executions.get_or_create_owned(&labels),
            counts: self.counts.of(&labels),
            labels,
        }
    }

    /// Lets go of what was counted of a model version that is not served any more.
    pub fn forget(&self, model: &ModelMetrics) {
        let labels = &model.labels;
        for family in self.seconds.iter().chain([&self.batch_items]) {
            family.remove(labels);
        }
        self.executions.remove(labels);
        for (_, labels) in places(labels) {
            self.places.remove(&labels);
        }
        for family in [&self.waiting, &self.in_flight, &self.held_bytes] {
            family.remove(labels);
        }
        self.prediction_error.remove(labels);
        self.profiles.forget(labels);
        let outcomes = ErrorKind::ALL.iter().map(|kind| kind.facts().label);
        for outcome in outcomes.chain(["ok"]) {
            self.requests.remove(&OutcomeLabels {
                model: labels.model.clone(),
                version: labels.version.clone(),
                outcome,
            });
        }
        self.counts.forget(labels);
    }

    /// Counts a request that ended without a reply, by the label of its error.
    pub fn failed(&self, model: &str, version: &str, label: &'static str) {
        let labels = OutcomeLabels {
            model: model.to_owned(),
            version: version.to_owned(),
            outcome: label,
        };
        self.requests.get_or_create(&labels).inc();
    }

    /// Shows what the scheduler says of a model now.
    pub fn show(&self, model: &ModelMetrics, gauges: &ModelGauges) {
        let labels = &model.labels;
        let wide = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        model.counts.waits(gauges.waiting);
        self.waiting.get_or_create(labels).set(wide(gauges.waiting));
        self.in_flight
            .get_or_create(labels)
            .set(wide(u64::from(gauges.in_flight)));
        self.held_bytes
            .get_or_create(labels)
            .set(wide(gauges.held_bytes));
        if let Some(error) = gauges.prediction_error {
            self.prediction_error.get_or_create(labels).set(error);
        }
    }

    /// Shows what is known of a model's profile now, with its knees and its points.
    pub fn show_profile(
        &self,
        model: &ModelMetrics,
        status: &ProfileStatus,
        known: Option<(Knee, u64)>,
    ) {
        self.profiles.show(&model.labels, status, known);
    }

    /// Shows on which device a model runs.
    pub fn show_place(&self, model: &ModelMetrics, DeviceId(device): DeviceId) {
        for (other, labels) in places(&model.labels) {
            if other == device {
                self.places.get_or_create(&labels).set(1);
            } else {
                self.places.remove(&labels);
            }
        }
    }

    /// The Prometheus text of all metrics, with what each device has counted itself.
    pub fn encode(&self, devices: &[(DeviceId, DeviceMetrics)]) -> String {
        for (id, device) in devices {
            let labels = DeviceLabels { device: id.0 };
            for (family, count) in [
                (&self.device_legs, device.legs),
                (&self.device_legs_at_once, device.legs_at_once),
                (&self.device_bytes, device.bytes_copied_in),
                (&self.device_bytes_out, device.bytes_copied_out),
            ] {
                let counter = family.get_or_create(&labels);
                counter
                    .inner()
                    .store(count, std::sync::atomic::Ordering::Relaxed);
            }
            self.gpu.show(*id, &device.gpu.unwrap_or_default());
        }
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing into a string does not fail");
        text
    }
}

/// The places that a model may have, by device.
fn places(model: &ModelLabels) -> impl Iterator<Item = (u16, PlaceLabels)> {
    (0..DEVICES_MAX).map(|device| {
        let ModelLabels { model, version } = model.clone();
        let labels = PlaceLabels {
            model,
            version,
            device,
        };
        (device, labels)
    })
}

/// What the scheduler says of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelGauges {
    /// Requests that wait.
    pub waiting: u64,
    /// Tasks committed or running.
    pub in_flight: u16,
    /// Bytes of requests that have not ended.
    pub held_bytes: u64,
    /// Median relative error of the last predictions.
    pub prediction_error: Option<f64>,
}

/// The times of one request.
#[derive(Clone, Copy, Debug)]
pub struct RequestTimes {
    /// From its first byte to its reply.
    pub total: Nanos,
    /// From its first byte to the start of its task.
    pub queue: Nanos,
    /// The parts of its task.
    pub split: RunSplit,
}

/// Metrics of one model version, looked up once.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    labels: ModelLabels,
    ok: Counter,
    total: Histogram,
    queue: Histogram,
    input: Histogram,
    infer: Histogram,
    output: Histogram,
    batch_items: Histogram,
    executions: Counter,
    counts: Arc<ModelCounts>,
}

impl ModelMetrics {
    /// Counts a request that ended with a reply.
    pub fn replied(&self, times: &RequestTimes) {
        self.ok.inc();
        self.total.observe(times.total.as_secs_f64());
        self.queue.observe(times.queue.as_secs_f64());
        self.counts.replied(times);
    }

    /// Counts a request that ended without a reply `after` its arrival, for the statistics.
    pub fn failed(&self, kind: ErrorKind, after: Nanos) {
        self.counts.failed(kind, after);
    }

    /// What has been counted, as Triton's statistics extension has it.
    pub fn statistics(&self) -> ModelStatistics {
        let ModelLabels { model, version } = &self.labels;
        self.counts.statistics(model, version)
    }

    /// Counts a task that ended well.
    pub fn executed(&self, batch: u32, split: &RunSplit) {
        self.counts.executed(batch, split);
        self.executions.inc();
        self.batch_items.observe(f64::from(batch));
        self.input.observe(split.input.as_secs_f64());
        self.infer.observe(split.infer.as_secs_f64());
        self.output.observe(split.output.as_secs_f64());
    }
}

/// What the driver thread counts.
#[derive(Debug)]
pub struct DriverMetrics {
    reaction: Histogram,
    decision: Histogram,
    events: Counter,
}

impl DriverMetrics {
    fn new() -> Self {
        Self {
            reaction: DRIVER_SECONDS.new_metric(),
            decision: DRIVER_SECONDS.new_metric(),
            events: Counter::default(),
        }
    }

    /// Counts one round: the number of events handed in, how long handing them in and
    /// carrying out the decisions took, and the age of the oldest event when all was done.
    pub fn decided(&self, events: usize, took: Nanos, oldest: Option<Nanos>) {
        self.events.inc_by(events as u64);
        self.decision
            .observe(took.as_secs_f64() / events.max(1) as f64);
        if let Some(oldest) = oldest {
            self.reaction.observe(oldest.as_secs_f64());
        }
    }
}

impl Default for DriverMetrics {
    fn default() -> Self {
        Self::new()
    }
}
