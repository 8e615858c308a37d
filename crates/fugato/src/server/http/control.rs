//! Loading and unloading of models, and settings: what operators change over HTTP.

use super::request::{Parameter, Parameters};
use super::{App, ModelParams, Refusal, json, json_body, model_path, parse};
use crate::api::{InferenceService, LoadFile, LoadRequest, LogSetting, LogSettings, TraceSettings};
use crate::error::{Fault, InferError};
use crate::server::budget::Hold;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The body of an order to load or unload; an empty one has no parameters.
#[derive(Default, Deserialize)]
struct Order<'a> {
    #[serde(borrow, default)]
    parameters: Parameters<'a>,
}

fn order<'a>(body: &'a [u8], what: &'static str) -> Result<Order<'a>, InferError> {
    if body.is_empty() {
        return Ok(Order::default());
    }
    parse(body, what)
}

/// Loads a model, or loads it anew.
pub(super) async fn load<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let model = model_path(params)?.name;
    let hold = app.budget.hold();
    let body = json_body(&app, request, &hold).await?;
    let own = Arc::clone(&hold);
    let read = move || read_load(model, &body, &own);
    let request = app.large.run(body_bytes(&hold), read).await??;
    app.service.load(request).await?;
    Ok(StatusCode::OK)
}

/// What has been read so far, to judge how long working on it takes.
fn body_bytes(hold: &Hold) -> usize {
    usize::try_from(hold.held()).unwrap_or(usize::MAX)
}

fn read_load(model: String, body: &[u8], hold: &Hold) -> Result<LoadRequest, InferError> {
    let order = order(body, "an order to load a model")?;
    let mut request = LoadRequest {
        name: model,
        ..LoadRequest::default()
    };
    for (name, value) in order.parameters.0 {
        let (path, Parameter::Text(text)) = (name.strip_prefix("file:"), &value) else {
            let expected = "a string";
            return Err(wrong("load", &request.name, &name, &value, expected));
        };
        match path {
            Some(path) => {
                hold.take(text.len() / 4 * 3)?;
                let content = STANDARD.decode(text.as_bytes());
                let content = content.map_err(|_| {
                    let expected = "a string of base64";
                    wrong("load", &request.name, &name, &value, expected)
                })?;
                request.files.push(LoadFile {
                    path: path.to_owned(),
                    content: Bytes::from(content),
                });
            }
            None if name == "config" => request.config = Some(text.clone().into_owned()),
            None => {
                let expected = "`config`, or `file:` and a path";
                return Err(wrong("load", &request.name, &name, &value, expected));
            }
        }
    }
    Ok(request)
}

fn wrong(
    what: &'static str,
    model: &str,
    name: &str,
    found: &Parameter<'_>,
    expected: &'static str,
) -> InferError {
    let found = match found {
        Parameter::Bool(_) => "a boolean",
        Parameter::Integer(_) | Parameter::Double(_) => "a number",
        Parameter::Text(_) => "a string",
    };
    Fault::ControlParameter {
        what,
        model: model.to_owned(),
        name: name.to_owned(),
        found,
        expected,
    }
    .into()
}

/// Takes a model out. What depends on it stays: there are no ensembles.
pub(super) async fn unload<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let model = model_path(params)?.name;
    let hold = app.budget.hold();
    let body = json_body(&app, request, &hold).await?;
    let order = order(&body, "an order to unload a model")?;
    for (name, value) in &order.parameters.0 {
        let expected = match (&**name, value) {
            ("unload_dependents", Parameter::Bool(_)) => continue,
            ("unload_dependents", _) => "a boolean",
            _ => "`unload_dependents`",
        };
        return Err(wrong("unload", &model, name, value, expected).into());
    }
    app.service.unload(&model).await?;
    Ok(StatusCode::OK)
}

/// One value or several.
#[derive(Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "a setting is neither a string, a list of strings nor null"
)]
enum Values {
    One(String),
    Many(Vec<String>),
}

/// Trace settings as Triton writes them: the level is a list, the others are single.
fn trace_reply(settings: TraceSettings) -> Response {
    let settings = settings.into_iter().map(|(name, mut values)| {
        let single = values.len() == 1 && name != "trace_level";
        let values = match values.pop() {
            Some(value) if single => Values::One(value),
            last => {
                values.extend(last);
                Values::Many(values)
            }
        };
        (name, values)
    });
    json(&settings.collect::<BTreeMap<String, Values>>())
}

/// The trace settings of the server.
pub(super) async fn traces<S: InferenceService>(
    State(app): State<App<S>>,
) -> Result<Response, Refusal> {
    Ok(trace_reply(app.service.trace_settings(None)?))
}

/// The trace settings of a model; every version has the same.
pub(super) async fn model_traces<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
) -> Result<Response, Refusal> {
    let path = model_path(params)?;
    app.service.model(&path.name, path.version.as_deref())?;
    Ok(trace_reply(app.service.trace_settings(Some(&path.name))?))
}

/// Changes the trace settings of the server.
pub(super) async fn set_traces<S: InferenceService>(
    State(app): State<App<S>>,
    request: Request,
) -> Result<Response, Refusal> {
    let update = trace_update(&app, request).await?;
    Ok(trace_reply(
        app.service.update_trace_settings(None, update)?,
    ))
}

/// Changes the trace settings of a model.
pub(super) async fn set_model_traces<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
    request: Request,
) -> Result<Response, Refusal> {
    let path = model_path(params)?;
    app.service.model(&path.name, path.version.as_deref())?;
    let update = trace_update(&app, request).await?;
    let settings = app
        .service
        .update_trace_settings(Some(&path.name), update)?;
    Ok(trace_reply(settings))
}

/// The changes of trace settings; `null` takes back what was set.
async fn trace_update<S: InferenceService>(
    app: &App<S>,
    request: Request,
) -> Result<BTreeMap<String, Option<Vec<String>>>, InferError> {
    let hold = app.budget.hold();
    let body = json_body(app, request, &hold).await?;
    if body.is_empty() {
        return Ok(BTreeMap::new());
    }
    let update: BTreeMap<String, Option<Values>> = parse(&body, "a change of trace settings")?;
    let values = |values| match values {
        Values::One(value) => vec![value],
        Values::Many(values) => values,
    };
    let update = update.into_iter();
    Ok(update.map(|(name, to)| (name, to.map(values))).collect())
}

/// A log setting in JSON.
#[derive(Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "a setting is neither a boolean, a whole number from 0, a string nor null"
)]
enum LogValue {
    Switch(bool),
    Level(u32),
    Text(String),
}

fn log_reply(settings: LogSettings) -> Response {
    let settings = settings.into_iter().map(|(name, setting)| {
        let value = match setting {
            LogSetting::Switch(on) => LogValue::Switch(on),
            LogSetting::Level(level) => LogValue::Level(level),
            LogSetting::Text(text) => LogValue::Text(text),
        };
        (name, value)
    });
    json(&settings.collect::<BTreeMap<String, LogValue>>())
}

/// The log settings.
pub(super) async fn logs<S: InferenceService>(State(app): State<App<S>>) -> Response {
    log_reply(app.service.log_settings())
}

/// Changes log settings; `null` leaves one as it is.
pub(super) async fn set_logs<S: InferenceService>(
    State(app): State<App<S>>,
    request: Request,
) -> Result<Response, Refusal> {
    let hold = app.budget.hold();
    let body = json_body(&app, request, &hold).await?;
    let update: BTreeMap<String, Option<LogValue>> = if body.is_empty() {
        BTreeMap::new()
    } else {
        parse(&body, "a change of log settings")?
    };
    let update = update.into_iter().filter_map(|(name, value)| {
        let setting = match value? {
            LogValue::Switch(on) => LogSetting::Switch(on),
            LogValue::Level(level) => LogSetting::Level(level),
            LogValue::Text(text) => LogSetting::Text(text),
        };
        Some((name, setting))
    });
    Ok(log_reply(
        app.service.update_log_settings(update.collect())?,
    ))
}
