//! Statistics of models, as Triton's statistics extension writes them.

use super::{App, ModelParams, Refusal, json, model_path};
use crate::api::{BatchStatistics, Counted, InferenceService, ModelStatistics};
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

#[derive(Serialize)]
struct Statistics<'a> {
    model_stats: Vec<ModelStat<'a>>,
}

#[derive(Serialize)]
struct ModelStat<'a> {
    name: &'a str,
    version: &'a str,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: InferenceStats,
    batch_stats: Vec<BatchStat>,
}

#[derive(Serialize)]
struct InferenceStats {
    success: Duration,
    fail: Duration,
    queue: Duration,
    compute_input: Duration,
    compute_infer: Duration,
    compute_output: Duration,
    /// There is no response cache: the two are always zero, for clients that expect them.
    cache_hit: Duration,
    cache_miss: Duration,
}

#[derive(Serialize)]
struct BatchStat {
    batch_size: u64,
    compute_input: Duration,
    compute_infer: Duration,
    compute_output: Duration,
}

#[derive(Default, Serialize)]
struct Duration {
    count: u64,
    ns: u64,
}

impl From<Counted> for Duration {
    fn from(counted: Counted) -> Self {
        Self {
            count: counted.count,
            ns: counted.total.as_nanos(),
        }
    }
}

impl<'a> From<&'a ModelStatistics> for ModelStat<'a> {
    fn from(model: &'a ModelStatistics) -> Self {
        Self {
            name: &model.name,
            version: &model.version,
            last_inference: model.last_inference_ms,
            inference_count: model.inference_count,
            execution_count: model.execution_count,
            inference_stats: InferenceStats {
                success: model.success.into(),
                fail: model.fail.into(),
                queue: model.queue.into(),
                compute_input: model.compute_input.into(),
                compute_infer: model.compute_infer.into(),
                compute_output: model.compute_output.into(),
                cache_hit: Duration::default(),
                cache_miss: Duration::default(),
            },
            batch_stats: model.batches.iter().map(BatchStat::from).collect(),
        }
    }
}

impl From<&BatchStatistics> for BatchStat {
    fn from(batch: &BatchStatistics) -> Self {
        Self {
            batch_size: batch.batch_size,
            compute_input: batch.compute_input.into(),
            compute_infer: batch.compute_infer.into(),
            compute_output: batch.compute_output.into(),
        }
    }
}

fn reply(statistics: &[ModelStatistics]) -> Response {
    json(&Statistics {
        model_stats: statistics.iter().map(ModelStat::from).collect(),
    })
}

/// Of every model.
pub(super) async fn all<S: InferenceService>(
    State(app): State<App<S>>,
) -> Result<Response, Refusal> {
    Ok(reply(&app.service.statistics(None, None)?))
}

/// Of one model, or of one version of it.
pub(super) async fn of_model<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
) -> Result<Response, Refusal> {
    let path = model_path(params)?;
    let version = path.version.as_deref();
    Ok(reply(&app.service.statistics(Some(&path.name), version)?))
}
