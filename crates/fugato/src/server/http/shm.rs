//! The URLs of shared memory.

use super::{App, Refusal, json, json_body};
use crate::api::InferenceService;
use crate::error::{Fault, InferError};
use crate::shm::{RegionStatus, RegisterRegion};
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;

/// Adds the URLs of shared memory that are answered.
pub(super) fn add<S: InferenceService>(router: Router<App<S>>) -> Router<App<S>> {
    const SYSTEM: &str = "/v2/systemsharedmemory";
    const CUDA: &str = "/v2/cudasharedmemory";
    let path = |root: &str, rest: &str| format!("{root}{rest}");
    router
        .route(&path(SYSTEM, "/status"), get(status_of_all::<S>))
        .route(&path(SYSTEM, "/region/{name}/status"), get(status::<S>))
        .route(
            &path(SYSTEM, "/region/{name}/register"),
            post(register::<S>),
        )
        .route(&path(SYSTEM, "/unregister"), post(unregister_all::<S>))
        .route(
            &path(SYSTEM, "/region/{name}/unregister"),
            post(unregister::<S>),
        )
        // Nothing can be registered on the CPU, and clients that use system shared memory
        // begin by unregistering all of both.
        .route(&path(CUDA, "/status"), get(no_regions))
        .route(&path(CUDA, "/unregister"), post(nothing_to_do))
        .route(
            &path(CUDA, "/region/{name}/unregister"),
            post(nothing_to_do),
        )
}

#[derive(Serialize)]
struct RegionJson<'a> {
    name: &'a str,
    key: &'a str,
    offset: u64,
    byte_size: u64,
}

fn region_list(regions: &[RegionStatus]) -> Response {
    let regions = regions.iter().map(|region| RegionJson {
        name: &region.name,
        key: &region.key,
        offset: region.offset,
        byte_size: region.byte_size,
    });
    json(&regions.collect::<Vec<_>>())
}

type RegionName = Result<Path<String>, PathRejection>;

fn name(params: RegionName) -> Result<String, InferError> {
    match params {
        Ok(Path(name)) => Ok(name),
        Err(rejection) => Err(Fault::Path {
            problem: rejection.body_text(),
        }
        .into()),
    }
}

async fn status_of_all<S: InferenceService>(
    State(app): State<App<S>>,
) -> Result<Response, Refusal> {
    Ok(region_list(&app.service.regions().status(None)?))
}

async fn status<S: InferenceService>(
    State(app): State<App<S>>,
    params: RegionName,
) -> Result<Response, Refusal> {
    let name = name(params)?;
    Ok(region_list(&app.service.regions().status(Some(&name))?))
}

async fn register<S: InferenceService>(
    State(app): State<App<S>>,
    params: RegionName,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let name = name(params)?;
    let hold = app.budget.hold();
    let body = json_body(&app, request, &hold).await?;
    let region = RegisterRegion::from_json(name, &body)?;
    app.service.regions().register(&region)?;
    Ok(StatusCode::OK)
}

async fn unregister_all<S: InferenceService>(
    State(app): State<App<S>>,
) -> Result<StatusCode, Refusal> {
    app.service.regions().unregister(None)?;
    Ok(StatusCode::OK)
}

async fn unregister<S: InferenceService>(
    State(app): State<App<S>>,
    params: RegionName,
) -> Result<StatusCode, Refusal> {
    let name = name(params)?;
    app.service.regions().unregister(Some(&name))?;
    Ok(StatusCode::OK)
}

async fn no_regions() -> Response {
    region_list(&[])
}

async fn nothing_to_do() -> StatusCode {
    StatusCode::OK
}
