//! Metrics, logs and traces. Every metric is made here, with its help text;
//! `docs/reference/metrics.md` lists them.

mod gpu;
mod logs;
mod metrics;
mod profiles;
mod statistics;
mod trace_settings;
mod traces;

pub use logs::{LogError, init_logs, log_settings, update_log_settings};
pub use metrics::{DriverMetrics, ModelGauges, ModelMetrics, RequestTimes, Telemetry};
pub use traces::{TraceExportError, TraceOptions, TracedRequest, Traces};
