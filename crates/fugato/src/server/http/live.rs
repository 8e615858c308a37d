//! Fugato's own: how the scheduler decides, and what models are to reach, read and changed.

use super::{App, ModelParams, Refusal, json, json_body, model_path, parse};
use crate::api::{Change, InferenceService, ModelUpdate, SchedulerUpdate};
use crate::config::Span;
use crate::error::{Fault, InferError};
use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value};

/// How the scheduler decides.
pub(super) async fn scheduler<S: InferenceService>(
    State(app): State<App<S>>,
) -> Result<Response, Refusal> {
    Ok(json(&app.service.scheduler().await?))
}

/// Changes how the scheduler decides.
pub(super) async fn set_scheduler<S: InferenceService>(
    State(app): State<App<S>>,
    request: Request,
) -> Result<Response, Refusal> {
    let body = object(&app, request, "a change of the scheduler").await?;
    let update = scheduler_update(body)?;
    Ok(json(&app.service.update_scheduler(update).await?))
}

/// The settings of a model.
pub(super) async fn model<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
) -> Result<Response, Refusal> {
    let path = model_path(params)?;
    Ok(json(&app.service.model_settings(&path.name)?))
}

/// Changes settings of a model.
pub(super) async fn set_model<S: InferenceService>(
    State(app): State<App<S>>,
    params: ModelParams,
    request: Request,
) -> Result<Response, Refusal> {
    let path = model_path(params)?;
    let body = object(&app, request, "a change of a model's settings").await?;
    let update = model_update(&path.name, body)?;
    let settings = app.service.update_model_settings(&path.name, update);
    Ok(json(&settings.await?))
}

/// The JSON object in a body; an empty body is an empty one.
async fn object<S: InferenceService>(
    app: &App<S>,
    request: Request,
    what: &'static str,
) -> Result<Map<String, Value>, InferError> {
    let hold = app.budget.hold();
    let body = json_body(app, request, &hold).await?;
    match body.is_empty() {
        true => Ok(Map::new()),
        false => parse(&body, what),
    }
}

fn scheduler_update(body: Map<String, Value>) -> Result<SchedulerUpdate, InferError> {
    let mut update = SchedulerUpdate::default();
    for (name, value) in body {
        match (&*name, value) {
            ("policy", Value::String(policy)) => update.policy = Some(policy),
            ("policy", value) => return Err(wrong(&name, &value, "the name of a policy")),
            ("settings", Value::Object(settings)) => update.settings = settings,
            ("settings", value) => return Err(wrong(&name, &value, "an object of settings")),
            ("deadlines", value) => {
                let mode = serde_json::from_value(value.clone());
                let mode = mode.map_err(|_| wrong(&name, &value, "`enforce` or `observe`"))?;
                update.deadlines = Some(mode);
            }
            _ => {
                let known = ["policy", "settings", "deadlines"];
                return Err(unknown("the scheduler".to_owned(), name, &known));
            }
        }
    }
    Ok(update)
}

fn model_update(model: &str, body: Map<String, Value>) -> Result<ModelUpdate, InferError> {
    const SLO: &str = "a length of time with its unit such as `25ms`, `none` for no objective, or \
                       null for the configuration's";
    const WEIGHT: &str = "a number, or null for the configuration's";
    let mut update = ModelUpdate::default();
    for (name, value) in body {
        match (&*name, &value) {
            ("slo", Value::Null) => update.slo = Change::TakeBack,
            ("slo", Value::String(text)) if text == "none" => update.slo = Change::Set(None),
            ("slo", Value::String(text)) => {
                let span: Span = text.parse().map_err(|_| wrong(&name, &value, SLO))?;
                update.slo = Change::Set(Some(span));
            }
            ("slo", value) => return Err(wrong(&name, value, SLO)),
            ("weight", Value::Null) => update.weight = Change::TakeBack,
            ("weight", value) => {
                let number = value.as_f64().ok_or_else(|| wrong(&name, value, WEIGHT))?;
                update.weight = Change::Set(number);
            }
            _ => {
                let object = format!("model `{model}`");
                return Err(unknown(object, name, &["slo", "weight"]));
            }
        }
    }
    Ok(update)
}

fn wrong(name: &str, found: &Value, expected: &str) -> InferError {
    Fault::Setting {
        name: name.to_owned(),
        found: format!("`{found}`"),
        expected: expected.to_owned(),
    }
    .into()
}

fn unknown(object: String, name: String, known: &[&str]) -> InferError {
    Fault::UnknownSetting {
        object,
        name,
        expected: known.iter().map(|&name| name.to_owned()).collect(),
    }
    .into()
}
