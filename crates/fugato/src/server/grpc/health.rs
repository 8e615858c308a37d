//! The standard health check.

use super::calls::Calls;
use crate::api::InferenceService;
use crate::server::proto::health::health_check_response::ServingStatus;
use crate::server::proto::health::health_server::Health;
use crate::server::proto::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

#[tonic::async_trait]
impl<S: InferenceService> Health for Calls<S> {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !matches!(service.as_str(), "" | "inference.GRPCInferenceService") {
            // The health protocol asks for this code.
            return Err(Status::not_found(format!("no service `{service}`")));
        }
        let status = if self.service.ready() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }
}
