//! The gRPC side: every call of Triton's `GRPCInferenceService`, and the health check.

use super::budget::{Budget, Hold};
use super::stall::Stall;
use super::{ServerOptions, metadata, proto, run};
use crate::api::{InferenceService, PLATFORM, string_handle_bytes};
use crate::error::{ErrorKind, Fault, InferError};
use bytes::Bytes;
use fugato_core::{Nanos, Timestamp};
use fugato_device::{MonotonicClock, TensorSpec};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use prost::Message as _;
use proto::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use proto::health::health_check_response::ServingStatus;
use proto::health::health_server::{Health, HealthServer};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tonic::codegen::Service as _;
use tonic::{Code, Request, Response, Status};

pub(crate) mod codec;
mod contents;
mod convert;

/// One call of the protocol and whether this server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rpc {
    /// Its path on the wire: `/inference.GRPCInferenceService/ModelInfer`.
    pub path: &'static str,
    /// Whether it is answered; `false` is answered UNIMPLEMENTED, by name.
    pub done: bool,
}

macro_rules! rpcs {
    ($service:literal: $($name:literal $done:literal),* $(,)?) => {
        [$( Rpc { path: concat!("/", $service, "/", $name), done: $done } ),*]
    };
}

const INFERENCE_RPCS: [Rpc; 20] = rpcs![
    "inference.GRPCInferenceService":
    "ServerLive" true,
    "ServerReady" true,
    "ModelReady" true,
    "ServerMetadata" true,
    "ModelMetadata" true,
    "ModelInfer" true,
    "ModelStreamInfer" false,
    "ModelConfig" true,
    "ModelStatistics" false,
    "RepositoryIndex" true,
    "RepositoryModelLoad" false,
    "RepositoryModelUnload" false,
    "SystemSharedMemoryStatus" false,
    "SystemSharedMemoryRegister" false,
    "SystemSharedMemoryUnregister" false,
    "CudaSharedMemoryStatus" false,
    "CudaSharedMemoryRegister" false,
    "CudaSharedMemoryUnregister" false,
    "TraceSetting" false,
    "LogSettings" false,
];

const HEALTH_RPCS: [Rpc; 2] = rpcs!["grpc.health.v1.Health": "Check" true, "Watch" false];

/// Every call of the protocol: of `GRPCInferenceService`, then of the health check.
pub const RPCS: [&[Rpc]; 2] = [&INFERENCE_RPCS, &HEALTH_RPCS];

/// When the call's headers were read.
#[derive(Clone, Copy)]
struct Arrived(Timestamp);

/// The service of one gRPC port.
pub(super) struct GrpcService<S> {
    inference: GrpcInferenceServiceServer<Calls<S>>,
    health: HealthServer<Calls<S>>,
    service: Arc<S>,
    clock: MonotonicClock,
    max_body_bytes: usize,
    stall_timeout: Duration,
    budget: Arc<Budget>,
}

impl<S> Clone for GrpcService<S> {
    fn clone(&self) -> Self {
        Self {
            inference: self.inference.clone(),
            health: self.health.clone(),
            service: Arc::clone(&self.service),
            clock: self.clock,
            max_body_bytes: self.max_body_bytes,
            stall_timeout: self.stall_timeout,
            budget: Arc::clone(&self.budget),
        }
    }
}

impl<S: InferenceService> GrpcService<S> {
    /// Serves `service`.
    pub(super) fn new(service: Arc<S>, options: &ServerOptions, budget: Arc<Budget>) -> Self {
        let clock = service.clock();
        let calls = Arc::new(Calls {
            service: Arc::clone(&service),
            clock,
        });
        Self {
            inference: GrpcInferenceServiceServer::from_arc(Arc::clone(&calls))
                .max_decoding_message_size(options.max_body_bytes)
                // A reply is as large as the model makes it.
                .max_encoding_message_size(usize::MAX),
            health: HealthServer::from_arc(calls),
            service,
            clock,
            max_body_bytes: options.max_body_bytes,
            stall_timeout: options.stall_timeout,
            budget,
        }
    }
}

/// A request's body, whose bytes count against the server's budget.
struct Metered<S> {
    body: Incoming,
    stall: Stall,
    stall_timeout: Duration,
    hold: Arc<Hold>,
    service: Arc<S>,
}

impl<S: InferenceService> hyper::body::Body for Metered<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let Some(frame) = ready!(self.stall.poll(frame, context)) else {
            return Poll::Ready(Some(Err(self.stalled())));
        };
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|error| Status::from_error(error.into()))?;
            if let Some(data) = frame.data_ref() {
                let taken = self.hold.take(data.len());
                taken.inspect_err(|error| self.service.refused(error.kind()))?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<S: InferenceService> Metered<S> {
    fn stalled(&self) -> Status {
        let detail = format!("nothing of it came for {:?}", self.stall_timeout);
        let error = InferError::from(Fault::Body { detail });
        self.service.refused(error.kind());
        error.into()
    }
}

type Reply = hyper::Response<tonic::body::Body>;

impl<S: InferenceService> hyper::service::Service<hyper::Request<Incoming>> for GrpcService<S> {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        let known = RPCS.into_iter().flatten();
        if !known.into_iter().any(|rpc| rpc.path == path && rpc.done) {
            let what = format!("gRPC call `{path}`");
            let status = Status::from(InferError::from(Fault::Unimplemented { what }));
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        if path.starts_with("/grpc.health.v1.Health/") {
            return self.health.clone().call(request);
        }
        request.extensions_mut().insert(Arrived(self.clock.now()));
        let hold = self.budget.hold();
        request.extensions_mut().insert(Arc::clone(&hold));
        let metered = request.map(|body| Metered {
            body,
            stall: Stall::new(self.stall_timeout),
            stall_timeout: self.stall_timeout,
            hold: Arc::clone(&hold),
            service: Arc::clone(&self.service),
        });
        let reply = self.inference.clone().call(metered);
        let (service, limit) = (Arc::clone(&self.service), self.max_body_bytes);
        Box::pin(async move {
            let reply = reply.await?;
            if !refused_for_size(&reply) {
                return Ok(reply.map(|body| until_sent(body, hold)));
            }
            let error = too_large(limit);
            service.refused(error.kind());
            Ok(Status::from(error).into_http())
        })
    }
}

/// The same body, whose parts keep `hold` until they are sent.
fn until_sent(body: tonic::body::Body, hold: Arc<Hold>) -> tonic::body::Body {
    tonic::body::Body::new(
        body.map_frame(move |frame| frame.map_data(|part| hold.until_sent(part))),
    )
}

/// Whether tonic refused the message for its size, which it alone answers OUT_OF_RANGE.
fn refused_for_size(reply: &Reply) -> bool {
    let code = reply.headers().get("grpc-status");
    code.is_some_and(|code| Code::from_bytes(code.as_bytes()) == Code::OutOfRange)
}

fn too_large(limit: usize) -> InferError {
    Fault::TooLarge {
        found: "more".to_owned(),
        limit: limit as u64,
    }
    .into()
}

/// The calls themselves.
struct Calls<S> {
    service: Arc<S>,
    clock: MonotonicClock,
}

impl<S: InferenceService> Calls<S> {
    /// Counts a call that did not reach the service, or whose reply cannot be sent.
    fn refuse(&self, error: InferError) -> Status {
        self.service.refused(error.kind());
        error.into()
    }
}

#[tonic::async_trait]
impl<S: InferenceService> GrpcInferenceService for Calls<S> {
    async fn server_live(
        &self,
        _: Request<proto::ServerLiveRequest>,
    ) -> Result<Response<proto::ServerLiveResponse>, Status> {
        let live = self.service.live();
        Ok(Response::new(proto::ServerLiveResponse { live }))
    }

    async fn server_ready(
        &self,
        _: Request<proto::ServerReadyRequest>,
    ) -> Result<Response<proto::ServerReadyResponse>, Status> {
        let ready = self.service.ready();
        Ok(Response::new(proto::ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<proto::ModelReadyRequest>,
    ) -> Result<Response<proto::ModelReadyResponse>, Status> {
        let proto::ModelReadyRequest { name, version } = request.into_inner();
        let ready = match self.service.model(&name, some_version(&version)) {
            Ok(_) => true,
            // The question is whether it is ready, and the answer is no.
            Err(error) if is_not_ready(error.kind()) => false,
            Err(error) => return Err(error.into()),
        };
        Ok(Response::new(proto::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<proto::ServerMetadataRequest>,
    ) -> Result<Response<proto::ServerMetadataResponse>, Status> {
        Ok(Response::new(proto::ServerMetadataResponse {
            name: metadata::SERVER_NAME.to_owned(),
            version: metadata::SERVER_VERSION.to_owned(),
            extensions: metadata::EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<proto::ModelMetadataRequest>,
    ) -> Result<Response<proto::ModelMetadataResponse>, Status> {
        let proto::ModelMetadataRequest { name, version } = request.into_inner();
        let info = self.service.model(&name, some_version(&version))?;
        let tensors = |specs: &[TensorSpec]| specs.iter().map(tensor_metadata).collect();
        Ok(Response::new(proto::ModelMetadataResponse {
            name: info.name.clone(),
            versions: info.versions.clone(),
            platform: PLATFORM.to_owned(),
            inputs: tensors(&info.inputs),
            outputs: tensors(&info.outputs),
        }))
    }

    async fn model_config(
        &self,
        request: Request<proto::ModelConfigRequest>,
    ) -> Result<Response<proto::ModelConfigResponse>, Status> {
        let proto::ModelConfigRequest { name, version } = request.into_inner();
        let config = self.service.config(&name, some_version(&version))?;
        Ok(Response::new(proto::ModelConfigResponse {
            config: Some(config.as_ref().clone()),
        }))
    }

    async fn repository_index(
        &self,
        request: Request<proto::RepositoryIndexRequest>,
    ) -> Result<Response<proto::RepositoryIndexResponse>, Status> {
        let models = metadata::index(self.service.models(), request.into_inner().ready);
        let models = models
            .into_iter()
            .map(|model| proto::repository_index_response::ModelIndex {
                name: model.name,
                version: model.version,
                state: metadata::state_name(model.state).to_owned(),
                reason: model.reason,
            })
            .collect();
        Ok(Response::new(proto::RepositoryIndexResponse { models }))
    }

    async fn model_infer(
        &self,
        request: Request<proto::ModelInferRequest>,
    ) -> Result<Response<proto::ModelInferResponse>, Status> {
        let arrived = match request.extensions().get::<Arrived>() {
            Some(&Arrived(at)) => at,
            None => self.clock.now(),
        };
        let hold = request.extensions().get::<Arc<Hold>>().cloned();
        let timeout = match request.metadata().get("grpc-timeout") {
            Some(value) => {
                let timeout = grpc_timeout(value.as_encoded_bytes());
                Some(timeout.map_err(|error| self.refuse(error))?)
            }
            None => None,
        };
        let request = request.into_inner();
        if let Some(hold) = &hold {
            let decoded = hold.take(convert::decoded_bytes(&request));
            decoded.map_err(|error| self.refuse(error))?;
        }
        let request =
            convert::request(request, arrived, timeout).map_err(|error| self.refuse(error))?;
        if let Some(hold) = &hold {
            let strings = hold.take(string_handle_bytes(&request.inputs));
            strings.map_err(|error| self.refuse(error))?;
        }
        let reply = run(&*self.service, request).await?;
        let reply = convert::reply(reply).map_err(|error| self.refuse(error))?;
        if let Some(hold) = hold {
            hold.answer(reply.encoded_len());
        }
        Ok(Response::new(reply))
    }
}

#[tonic::async_trait]
impl<S: InferenceService> Health for Calls<S> {
    async fn check(
        &self,
        request: Request<proto::health::HealthCheckRequest>,
    ) -> Result<Response<proto::health::HealthCheckResponse>, Status> {
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
        Ok(Response::new(proto::health::HealthCheckResponse {
            status: status.into(),
        }))
    }
}

impl From<InferError> for Status {
    fn from(error: InferError) -> Self {
        let facts = error.kind().facts();
        let mut status = Self::new(facts.grpc_code, error.to_string());
        if let Ok(label) = facts.label.parse() {
            status.metadata_mut().insert(ERROR_METADATA, label);
        }
        status
    }
}

/// The metadata (and HTTP header) that carries an error's label, which is finer than
/// either protocol's code.
pub(super) const ERROR_METADATA: &str = "fugato-error";

fn is_not_ready(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnknownModel | ErrorKind::UnknownVersion | ErrorKind::ModelNotReady
    )
}

fn some_version(version: &str) -> Option<&str> {
    (!version.is_empty()).then_some(version)
}

fn tensor_metadata(spec: &TensorSpec) -> proto::model_metadata_response::TensorMetadata {
    proto::model_metadata_response::TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.element.oip_name().to_owned(),
        shape: metadata::wire_shape(&spec.shape),
    }
}

/// The `grpc-timeout` header: up to 8 digits and a unit.
fn grpc_timeout(value: &[u8]) -> Result<Nanos, InferError> {
    let parse = || {
        let (unit, digits) = value.split_last()?;
        if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(match unit {
            b'H' => Nanos::from_millis(3_600_000).times(amount),
            b'M' => Nanos::from_millis(60_000).times(amount),
            b'S' => Nanos::from_millis(1_000).times(amount),
            b'm' => Nanos::from_millis(amount),
            b'u' => Nanos::from_micros(amount),
            b'n' => Nanos::new(amount),
            _ => return None,
        })
    };
    parse().ok_or_else(|| {
        Fault::Header {
            header: "grpc-timeout",
            found: String::from_utf8_lossy(value).into_owned(),
            expected: "up to 8 digits and one of H, M, S, m, u, n".to_owned(),
        }
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_strictly() {
        let cases: [(&[u8], Option<u64>); 9] = [
            (b"20m", Some(20_000_000)),
            (b"1S", Some(1_000_000_000)),
            (b"2M", Some(120_000_000_000)),
            (b"99999999H", Some(u64::MAX)),
            (b"7n", Some(7)),
            (b"", None),
            (b"m", None),
            (b"123456789u", None),
            (b"+5m", None),
        ];
        for (text, expected) in cases {
            let found = grpc_timeout(text).ok().map(Nanos::as_nanos);
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(text));
        }
    }
}
