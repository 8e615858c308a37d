//! Spans of requests: one for the request, one for its wait, one for each leg it ran in.
//!
//! They are made when the request has ended, from what was decided about it, so that a
//! request pays nothing for being traced while it runs.

use super::trace_settings::{Mode, Sampling};
use crate::api::{TraceContext, TraceSettings};
use crate::driver::Course;
use crate::error::InferError;
use crate::timeline::leg_name;
use fugato_core::Timestamp;
use fugato_device::MonotonicClock;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _,
    TraceFlags, TraceId, TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("cannot export traces to `{endpoint}`, expected the URL of an OTLP collector's gRPC port")]
pub struct TraceExportError {
    /// Where to.
    pub endpoint: String,
    /// Why.
    pub source: opentelemetry_otlp::ExporterBuildError,
}

/// Where and what to trace at first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceOptions {
    /// The collector's gRPC URL; `None` writes spans to the log.
    pub endpoint: Option<String>,
    /// Whether requests are traced before a client changes that.
    pub on: bool,
    /// Of requests without a trace of their client, one in this many is traced.
    pub rate: u64,
}

/// A request that ended, to be told as spans.
#[derive(Clone, Copy, Debug)]
pub struct TracedRequest<'a> {
    /// The model.
    pub model: &'a str,
    /// The version.
    pub version: &'a str,
    /// The client's name for the request.
    pub id: &'a str,
    /// The client's trace.
    pub context: Option<TraceContext>,
    /// When its first byte came.
    pub arrived: Timestamp,
    /// When its reply was handed to the protocol.
    pub ended: Timestamp,
    /// The label and text of its error; `None` where it got its reply.
    pub error: Option<(&'static str, &'a str)>,
    /// What was decided about it.
    pub course: &'a Course,
}

/// Makes spans of requests.
#[derive(Debug)]
pub struct Traces {
    sampling: Sampling,
    /// What the clock's zero is in the time of day.
    zero: SystemTime,
    export: Option<(SdkTracerProvider, SdkTracer)>,
}

impl Traces {
    /// Traces nothing and exports nothing until a client asks for it.
    pub fn off(clock: MonotonicClock) -> Self {
        Self::with_export(clock, &TraceOptions::default(), None)
    }

    /// Traces as told. Must be called inside a Tokio runtime, which carries the export.
    ///
    /// # Errors
    /// [`TraceExportError`]: the endpoint is no URL. Whether a collector is there shows
    /// only when spans are sent; then the log says so, and requests go on.
    pub fn new(clock: MonotonicClock, options: &TraceOptions) -> Result<Self, TraceExportError> {
        let Some(endpoint) = &options.endpoint else {
            return Ok(Self::with_export(clock, options, None));
        };
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build();
        let exporter = exporter.map_err(|source| TraceExportError {
            endpoint: endpoint.clone(),
            source,
        })?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            // What is traced was decided before.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(Resource::builder().with_service_name("fugato").build())
            .build();
        let tracer = provider.tracer("fugato");
        Ok(Self::with_export(clock, options, Some((provider, tracer))))
    }

    fn with_export(
        clock: MonotonicClock,
        options: &TraceOptions,
        export: Option<(SdkTracerProvider, SdkTracer)>,
    ) -> Self {
        let mode = match export {
            Some(_) => Mode::OpenTelemetry,
            None => Mode::Log,
        };
        let running: Duration = (clock.now() - Timestamp::ZERO).into();
        Self {
            sampling: Sampling::new(mode, options.on, options.rate),
            zero: SystemTime::now() - running,
            export,
        }
    }

    /// Whether a request to `model` is to be traced.
    pub fn wants(&self, model: &str, context: Option<&TraceContext>) -> bool {
        self.sampling.samples(model, context)
    }

    /// The settings of a model, or of the server.
    pub fn settings(&self, model: Option<&str>) -> TraceSettings {
        self.sampling.get(model)
    }

    /// Changes settings, all of them or none.
    ///
    /// # Errors
    /// A setting that there is not, or that cannot be set so.
    pub fn update(
        &self,
        model: Option<&str>,
        update: BTreeMap<String, Option<Vec<String>>>,
    ) -> Result<(), InferError> {
        self.sampling.update(model, update)
    }

    /// Makes the spans of a request that has ended.
    pub fn tell(&self, request: &TracedRequest<'_>) {
        match &self.export {
            Some((_, tracer)) => self.export(tracer, request),
            None => log(request),
        }
    }

    fn at(&self, at: Timestamp) -> SystemTime {
        self.zero + Duration::from(at - Timestamp::ZERO)
    }

    fn export(&self, tracer: &SdkTracer, request: &TracedRequest<'_>) {
        let parent = request.context.map_or_else(Context::new, |context| {
            Context::new().with_remote_span_context(SpanContext::new(
                TraceId::from(context.trace_id),
                SpanId::from(context.parent_id),
                TraceFlags::SAMPLED,
                true,
                TraceState::NONE,
            ))
        });
        let mut attributes = vec![
            KeyValue::new("fugato.model", request.model.to_owned()),
            KeyValue::new("fugato.version", request.version.to_owned()),
        ];
        if !request.id.is_empty() {
            attributes.push(KeyValue::new("fugato.request_id", request.id.to_owned()));
        }
        if let Some((label, _)) = request.error {
            attributes.push(KeyValue::new("error.type", label));
        }
        let mut span = tracer.build_with_context(
            SpanBuilder::from_name("infer")
                .with_kind(SpanKind::Server)
                .with_start_time(self.at(request.arrived))
                .with_attributes(attributes),
            &parent,
        );
        if let Some((_, text)) = request.error {
            span.set_status(Status::error(text.to_owned()));
        }
        let inside = Context::new().with_remote_span_context(span.span_context().clone());
        for child in children(request) {
            let mut span = tracer.build_with_context(
                SpanBuilder::from_name(child.name)
                    .with_start_time(self.at(child.start))
                    .with_attributes(child.attributes),
                &inside,
            );
            span.end_with_timestamp(self.at(child.end));
        }
        span.end_with_timestamp(self.at(request.ended));
    }

    /// Sends what has not been sent. Blocks for at most a few seconds.
    pub fn flush(&self) {
        if let Some((provider, _)) = &self.export
            && let Err(error) = provider.shutdown_with_timeout(EXPORT_TIMEOUT)
        {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

/// How long one export may take: a collector that is slower is as good as away.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// A span inside a request's.
struct Child {
    name: String,
    start: Timestamp,
    end: Timestamp,
    attributes: Vec<KeyValue>,
}

/// The wait and the legs of a request. A request that never ran waited until it ended.
fn children(request: &TracedRequest<'_>) -> Vec<Child> {
    let ran = request.course.legs.iter();
    let ran = ran.filter_map(|leg| leg.ran.map(|(start, end)| (leg, start, end)));
    let mut legs: Vec<Child> = ran
        .map(|(leg, start, end)| {
            let mut attributes = vec![
                KeyValue::new("fugato.task", number(leg.task.0)),
                KeyValue::new("fugato.device", i64::from(leg.device.0)),
                KeyValue::new("fugato.partition", i64::from(leg.partition.0)),
                KeyValue::new("fugato.lane", i64::from(leg.lane.0)),
                KeyValue::new("fugato.batch_size", i64::from(leg.batch.0)),
                KeyValue::new("fugato.unsplit", leg.unsplit),
                KeyValue::new("fugato.committed_ahead", leg.ahead),
            ];
            if let Some(predicted) = leg.predicted {
                let micros = number(predicted.as_nanos() / 1_000);
                attributes.push(KeyValue::new("fugato.predicted_us", micros));
            }
            Child {
                name: leg_name(leg.leg, leg.unsplit),
                start,
                end,
                attributes,
            }
        })
        .collect();
    let waited = Child {
        name: "queue".to_owned(),
        start: request.arrived,
        end: legs.first().map_or(request.ended, |leg| leg.start),
        attributes: Vec::new(),
    };
    legs.insert(0, waited);
    legs
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// One line for each span: where no collector is configured.
fn log(request: &TracedRequest<'_>) {
    let TracedRequest {
        model,
        version,
        id,
        context,
        ..
    } = request;
    let trace_id = context.map(|context| format!("{:032x}", context.trace_id));
    let micros = |at: Timestamp| (at - request.arrived).as_nanos() / 1_000;
    let outcome = request.error.map_or("ok", |(label, _)| label);
    let all = ("infer".to_owned(), request.arrived, request.ended);
    let parts = children(request);
    let parts = parts
        .into_iter()
        .map(|child| (child.name, child.start, child.end));
    for (span, start, end) in [all].into_iter().chain(parts) {
        tracing::info!(
            target: "fugato::trace",
            model,
            version,
            id,
            trace_id,
            span,
            outcome,
            start_us = micros(start),
            end_us = micros(end),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::LegCourse;
    use fugato_core::{BatchSize, DeviceId, LaneId, LegIndex, PartitionId, TaskId};

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_nanos(1_000 * micros)
    }

    /// A leg of task 1 that ran from `from` to `to`, in microseconds.
    fn leg(number: u16, unsplit: bool, (from, to): (u64, u64)) -> LegCourse {
        LegCourse {
            task: TaskId(1),
            leg: LegIndex(number),
            unsplit,
            device: DeviceId(0),
            partition: PartitionId(0),
            lane: LaneId(0),
            batch: BatchSize(1),
            issued: at(from),
            ahead: false,
            predicted: None,
            ran: Some((at(from), at(to))),
        }
    }

    fn spans(legs: Vec<LegCourse>) -> Vec<String> {
        let course = Course {
            accepted: None,
            legs,
        };
        let request = TracedRequest {
            model: "m",
            version: "1",
            id: "",
            context: None,
            arrived: at(0),
            ended: at(100),
            error: None,
            course: &course,
        };
        children(&request)
            .into_iter()
            .map(|span| span.name)
            .collect()
    }

    #[test]
    fn a_task_has_a_span_for_each_leg_or_one_in_one_go() {
        let legs = vec![leg(0, false, (10, 20)), leg(1, false, (20, 40))];
        assert_eq!(spans(legs), ["queue", "leg 0", "leg 1"]);
        // As the scheduler has it: with the number of its last leg.
        let unsplit = vec![leg(1, true, (10, 35))];
        assert_eq!(spans(unsplit), ["queue", "in one go"]);
    }
}
