//! The standard health check.

use super::calls::Calls;
use crate::api::InferenceService;
use crate::error::{Fault, InferError};
use crate::server::proto::health::health_check_response::ServingStatus;
use crate::server::proto::health::health_server::Health;
use crate::server::proto::health::{HealthCheckRequest, HealthCheckResponse};

use futures_util::stream::unfold;

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

/// How often a watcher's status is looked at, and so how late it may learn of a change. An
/// orchestrator that polls does so every few seconds.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// Watchers at once, so that their timers cost nothing that shows.
pub(super) const WATCHERS_MAX: usize = 256;

/// Whether `service` is one that this server has.
fn is_known(service: &str) -> bool {
    matches!(service, "" | "inference.GRPCInferenceService")
}

fn status(service: &impl InferenceService) -> ServingStatus {
    if service.ready() {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

/// What a watcher was told last, and what it takes to tell it the next.
struct Watcher<S> {
    service: Arc<S>,
    known: bool,
    stop: CancellationToken,
    told: Option<ServingStatus>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl<S: InferenceService> Watcher<S> {
    /// The next change; at the end of the server, that it does not serve, then the end.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            let stopped = self.stop.is_cancelled();
            let found = match (self.known, stopped) {
                // A service that is not there may come: the protocol keeps the call open.
                (false, _) => ServingStatus::ServiceUnknown,
                (true, true) => ServingStatus::NotServing,
                (true, false) => status(&*self.service),
            };
            if self.told.replace(found) != Some(found) {
                let status = found.into();
                return Some((Ok(HealthCheckResponse { status }), self));
            }
            if stopped {
                self.ended = true;
                return Some((Err(InferError::from(Fault::Draining).into()), self));
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
        }
    }
}

#[tonic::async_trait]
impl<S: InferenceService> Health for Calls<S> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !is_known(&service) {
            // The health protocol asks for this code.
            return Err(Status::not_found(format!("no service `{service}`")));
        }
        Ok(Response::new(HealthCheckResponse {
            status: status(&*self.service).into(),
        }))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<BoxStream<HealthCheckResponse>>, Status> {
        let Ok(place) = Arc::clone(&self.watchers).try_acquire_owned() else {
            let text = format!("{WATCHERS_MAX} watchers are there already");
            return Err(Status::resource_exhausted(text));
        };
        let watcher = Watcher {
            service: Arc::clone(&self.service),
            known: is_known(&request.into_inner().service),
            stop: self.stop.clone(),
            told: None,
            ended: false,
            _place: place,
        };
        Ok(Response::new(Box::pin(unfold(watcher, Watcher::next))))
    }
}
