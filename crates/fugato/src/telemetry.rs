//! Metrics and logs. Every metric is made here, with its help text;
//! `docs/reference/metrics.md` lists them.

mod logs;
mod metrics;
mod statistics;

pub use logs::{LogError, init_logs};
pub use metrics::{DriverMetrics, ModelGauges, ModelMetrics, RequestTimes, Telemetry};
