//! The HTTP side: every URL of Triton's protocol and extensions.
//!
//! [`HTTP_ROUTES`] is the table of them; a URL that is not done is answered 501 by name,
//! any other is 404, and every error is `{"error": ".."}`.

use super::budget::{Budget, Hold};
use super::{ServerOptions, metadata, run};
use crate::api::{InferRequest, InferenceService, ModelInfo, PLATFORM, TraceContext, string_bytes};
use crate::error::{Fault, InferError};
use crate::modelconfig::to_json;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use fugato_device::TensorSpec;
use http_error::Refusal;
use large::Large;
use request::BinaryOutputs;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

mod body;
mod control;
mod elements;
mod encoding;
pub(super) mod fuzz;
#[path = "http/error.rs"]
mod http_error;
mod large;
mod live;
mod raw;
mod reply;
mod request;
mod routes;
mod shm;
mod statistics;
mod timeline;

pub use routes::{HTTP_ROUTES, HttpRoute};

/// What every handler has.
struct App<S> {
    service: Arc<S>,
    limits: body::Limits,
    large: Large,
    budget: Arc<Budget>,
}

impl<S> Clone for App<S> {
    fn clone(&self) -> Self {
        Self {
            service: Arc::clone(&self.service),
            limits: self.limits,
            large: self.large.clone(),
            budget: Arc::clone(&self.budget),
        }
    }
}

/// The router of the HTTP port.
pub(super) fn router<S: InferenceService>(
    service: Arc<S>,
    options: &ServerOptions,
    budget: Arc<Budget>,
) -> Router {
    let app = App {
        service,
        limits: body::Limits {
            bytes: options.max_body_bytes,
            stall: options.stall_timeout,
        },
        large: Large::new(),
        budget,
    };
    let mut router = Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/health/live", get(live::<S>))
        .route("/v2/health/ready", get(ready::<S>))
        .route("/v2/repository/index", post(index::<S>))
        .route("/v2/models/stats", get(statistics::all::<S>))
        .route("/v2/models/{name}/explain/{id}", get(explain::<S>))
        .route(
            "/v2/scheduler",
            get(live::scheduler::<S>).post(live::set_scheduler::<S>),
        )
        .route("/v2/timeline", get(timeline::timeline::<S>))
        .route(
            "/v2/models/{name}/settings",
            get(live::model::<S>).post(live::set_model::<S>),
        )
        .route(
            "/v2/repository/models/{name}/load",
            post(control::load::<S>),
        )
        .route(
            "/v2/repository/models/{name}/unload",
            post(control::unload::<S>),
        )
        .route(
            "/v2/trace/setting",
            get(control::traces::<S>).post(control::set_traces::<S>),
        )
        .route(
            "/v2/logging",
            get(control::logs::<S>).post(control::set_logs::<S>),
        );
    for model in ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"] {
        router = router
            .route(model, get(model_metadata::<S>))
            .route(&format!("{model}/ready"), get(model_ready::<S>))
            .route(&format!("{model}/config"), get(model_config::<S>))
            .route(&format!("{model}/stats"), get(statistics::of_model::<S>))
            .route(&format!("{model}/profile"), get(profile::<S>))
            .route(&format!("{model}/infer"), post(infer::<S>))
            .route(
                &format!("{model}/trace/setting"),
                get(control::model_traces::<S>).post(control::set_model_traces::<S>),
            );
    }
    routes::add_unimplemented(shm::add(router))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

/// The router of the metrics port.
pub(super) fn metrics_router<S: InferenceService>(service: Arc<S>) -> Router {
    let metrics = async |State(service): State<Arc<S>>| {
        let text = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(header::CONTENT_TYPE, text)], service.metrics().await)
    };
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(service)
}

/// The reply to a request that is not let in, whose body is read on for a moment so that
/// its client sees it.
pub(super) fn turn_away(error: InferError, request: Request) -> Response {
    body::linger(request.into_body(), TURNED_AWAY_BYTES);
    Refusal::from(error).into_response()
}

/// What is read of the body of a request that is not let in.
const TURNED_AWAY_BYTES: usize = 1 << 20;

async fn not_found(request: Request) -> Refusal {
    let path = request.uri().path().to_owned();
    InferError::from(Fault::NotFound { path }).into()
}

async fn method_not_allowed(matched: Option<MatchedPath>, request: Request) -> Refusal {
    let pattern = matched.as_ref().map(MatchedPath::as_str);
    InferError::from(Fault::MethodNotAllowed {
        path: request.uri().path().to_owned(),
        method: request.method().to_string(),
        expected: pattern.map_or_else(String::new, routes::methods_of),
    })
    .into()
}

/// 200 where `good`, else 503; the protocol gives these replies no body.
fn health(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

async fn live<S: InferenceService>(State(app): State<App<S>>) -> StatusCode {
    health(app.service.live())
}

async fn ready<S: InferenceService>(State(app): State<App<S>>) -> StatusCode {
    health(app.service.ready())
}

#[derive(Serialize)]
struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: &'static [&'static str],
}

async fn server_metadata() -> Response {
    json(&ServerMetadata {
        name: metadata::SERVER_NAME,
        version: metadata::SERVER_VERSION,
        extensions: &metadata::EXTENSIONS,
    })
}

/// The model and version in a URL.
#[derive(Deserialize)]
struct ModelPath {
    name: String,
    version: Option<String>,
}

type ModelParams = Result<Path<ModelPath>, PathRejection>;

fn model_path(params: ModelParams) -> Result<ModelPath, InferError> {
    match params {
        Ok(Path(path)) => Ok(path),
        Err(rejection) => Err(Fault::Path {
            problem: rejection.body_text(),
        }
        .into()),
    }
}

fn find<S: InferenceService>(
    app: &App<S>,
    params: ModelParams,
) -> Result<Arc<ModelInfo>, InferError> {
    let path = model_path(params)?;
    app.service.model(&path.name, path.version.as_deref())
}

async fn model_ready<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
) -> Result<StatusCode, Refusal> {
    find(&app, params)?;
    Ok(StatusCode::OK)
}

/// Fugato's own: what was decided about one request.
async fn explain<S: InferenceService>(
    State(app): State<App<S>>,
    params: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Refusal> {
    let Path((name, id)) = params.map_err(|rejection| {
        let problem = rejection.body_text();
        InferError::from(Fault::Path { problem })
    })?;
    Ok(json(&app.service.explain(&name, &id).await?))
}

/// Fugato's own: what was measured of a model.
async fn profile<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
) -> Result<Response, Refusal> {
    let path = model_path(params)?;
    let report = app.service.profile(&path.name, path.version.as_deref());
    Ok(json(&report.await?))
}

#[derive(Serialize)]
struct ModelMetadata<'a> {
    name: &'a str,
    versions: &'a [String],
    platform: &'static str,
    inputs: Vec<TensorMetadata<'a>>,
    outputs: Vec<TensorMetadata<'a>>,
}

#[derive(Serialize)]
struct TensorMetadata<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<i64>,
}

impl<'a> From<&'a TensorSpec> for TensorMetadata<'a> {
    fn from(spec: &'a TensorSpec) -> Self {
        Self {
            name: &spec.name,
            datatype: spec.element.oip_name(),
            shape: metadata::wire_shape(&spec.shape),
        }
    }
}

async fn model_metadata<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
) -> Result<Response, Refusal> {
    let info = find(&app, params)?;
    Ok(json(&ModelMetadata {
        name: &info.name,
        versions: &info.versions,
        platform: PLATFORM,
        inputs: info.inputs.iter().map(TensorMetadata::from).collect(),
        outputs: info.outputs.iter().map(TensorMetadata::from).collect(),
    }))
}

async fn model_config<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
) -> Result<Response, Refusal> {
    let path = model_path(params)?;
    let config = app.service.config(&path.name, path.version.as_deref())?;
    Ok(json_text(to_json(&config)))
}

/// The body of an index request; an empty body asks for every model.
#[derive(Default, Deserialize)]
struct IndexRequest {
    #[serde(default)]
    ready: bool,
}

#[derive(Serialize)]
struct ModelIndex<'a> {
    name: &'a str,
    version: &'a str,
    state: &'static str,
    reason: &'a str,
}

async fn index<S: InferenceService>(
    State(app): State<App<S>>,
    request: Request,
) -> Result<Response, Refusal> {
    let hold = app.budget.hold();
    let body = json_body(&app, request, &hold).await?;
    let wanted: IndexRequest = if body.is_empty() {
        IndexRequest::default()
    } else {
        parse(&body, "a repository index request")?
    };
    let models = metadata::index(app.service.models(), wanted.ready);
    let index: Vec<ModelIndex<'_>> = models
        .iter()
        .map(|model| ModelIndex {
            name: &model.name,
            version: &model.version,
            state: metadata::state_name(model.state),
            reason: &model.reason,
        })
        .collect();
    Ok(json(&index))
}

async fn infer<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
    request: Request,
) -> Result<Response, Refusal> {
    let hold = app.budget.hold();
    let coding = encoding::accepted(request.headers());
    let (request, binary) = match read_infer(&app, params, request, &hold).await {
        Ok(read) => read,
        Err(error) => return Err(refuse(&app, error)),
    };
    let reply = run(&*app.service, request).await?;
    let bytes = reply::worked_bytes(&reply, &binary, coding);
    let write = move || reply::write(reply, &binary, coding, &hold);
    let written = app.large.run(bytes, write).await.flatten();
    written.map_err(|error| refuse(&app, error))
}

fn refuse<S: InferenceService>(app: &App<S>, error: InferError) -> Refusal {
    app.service.refused(error.kind());
    error.into()
}

async fn read_infer<S: InferenceService>(
    app: &App<S>,
    params: ModelParams,
    request: Request,
    hold: &Arc<Hold>,
) -> Result<(InferRequest, BinaryOutputs), InferError> {
    let arrived = app.service.clock().now();
    let path = model_path(params)?;
    let header_length = header_length(request.headers())?;
    let trace = trace_context(request.headers());
    let raw = header_length == Some(0);
    let body = if raw {
        body(app, request, hold).await?
    } else {
        json_body(app, request, hold).await?
    };
    // Before anything is built of what may not fit it.
    let info = app.service.model(&path.name, path.version.as_deref())?;
    let read = if raw {
        raw::read(&info, body)?
    } else {
        let json_bytes = header_length.unwrap_or(body.len());
        let (model, own) = (path.name.clone(), Arc::clone(hold));
        let regions = app.service.regions().clone();
        let read = move || request::read(&model, body, header_length, &own, &regions);
        app.large.run(json_bytes, read).await??
    };
    hold.take(string_bytes(&read.inputs))?;
    let request = InferRequest {
        model: path.name,
        version: path.version,
        id: read.id,
        inputs: read.inputs,
        outputs: read.outputs,
        arrived,
        deadline: read.parameters.deadline(arrived, None),
        queue_timeout: read.parameters.queue_timeout,
        priority: read.parameters.priority,
        trace,
    };
    Ok((request, read.binary))
}

/// The body of a request that must be JSON at its start.
async fn json_body<S: InferenceService>(
    app: &App<S>,
    request: Request,
    hold: &Arc<Hold>,
) -> Result<Bytes, InferError> {
    encoding::check_json_type(request.headers())?;
    body(app, request, hold).await
}

/// The body of a request, decompressed.
async fn body<S: InferenceService>(
    app: &App<S>,
    request: Request,
    hold: &Arc<Hold>,
) -> Result<Bytes, InferError> {
    let coding = encoding::content_coding(request.headers())?;
    let body = body::read(request, app.limits, hold).await?;
    let Some(coding) = coding else {
        return Ok(body);
    };
    let (limit, own) = (app.limits.bytes, Arc::clone(hold));
    let most = body.len().saturating_mul(encoding::RATIO_MAX);
    let open = move || encoding::decompress(coding, &body, limit, &own);
    app.large.run(most, open).await?
}

/// Reads a small body of JSON; `what` it should have been is for the message.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], what: &'static str) -> Result<T, InferError> {
    serde_json::from_slice(body).map_err(|error| {
        let detail = error.to_string();
        Fault::Json { what, detail }.into()
    })
}

/// The client's trace.
fn trace_context(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::parse(headers.get("traceparent")?.to_str().ok()?)
}

/// The header that says where the JSON of a request or reply ends and binary begins.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// Where the JSON of a (decompressed) request ends; `None` where all of it is JSON.
fn header_length(headers: &HeaderMap) -> Result<Option<usize>, InferError> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(None);
    };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| {
        Fault::Header {
            header: HEADER_LENGTH,
            found: lossy(value.as_bytes()),
            expected: "the number of bytes of JSON in the body".to_owned(),
        }
        .into()
    })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A JSON reply of our own types, which always serialise.
fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => json_text(text),
        Err(error) => {
            Refusal::from(InferError::internal("HTTP server", error.to_string())).into_response()
        }
    }
}

/// A reply whose body is JSON already.
fn json_text(text: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.into()).into_response()
}
