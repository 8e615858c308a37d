//! The gRPC side: every call of Triton's `GRPCInferenceService`, and the health check.

use super::budget::{Budget, Hold};
use super::stall::Stall;
use super::{ServerOptions, proto};
use crate::api::InferenceService;
use crate::error::{Fault, InferError};
use bytes::Bytes;
use calls::{Call, Calls, trace_context};
use fugato_device::MonotonicClock;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use messages::{Bounds, Messages, stalled};
use proto::grpc_inference_service_server::GrpcInferenceServiceServer;
use proto::health::health_server::HealthServer;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use stream::{Replies, StreamOptions};
use tokio_util::sync::CancellationToken;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

mod admin;
mod calls;
pub(crate) mod codec;
mod contents;
mod convert;
mod health;
mod messages;
mod stream;
mod timeout;

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
    "ModelStreamInfer" true,
    "ModelConfig" true,
    "ModelStatistics" true,
    "RepositoryIndex" true,
    "RepositoryModelLoad" true,
    "RepositoryModelUnload" true,
    "SystemSharedMemoryStatus" false,
    "SystemSharedMemoryRegister" false,
    "SystemSharedMemoryUnregister" false,
    "CudaSharedMemoryStatus" false,
    "CudaSharedMemoryRegister" false,
    "CudaSharedMemoryUnregister" false,
    "TraceSetting" true,
    "LogSettings" true,
];

/// The one call that is a stream both ways.
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

const HEALTH_RPCS: [Rpc; 2] = rpcs!["grpc.health.v1.Health": "Check" true, "Watch" false];

/// Every call of the protocol: of `GRPCInferenceService`, then of the health check.
pub const RPCS: [&[Rpc]; 2] = [&INFERENCE_RPCS, &HEALTH_RPCS];

/// The service of one gRPC port.
pub(super) struct GrpcService<S> {
    inference: GrpcInferenceServiceServer<Calls<S>>,
    health: HealthServer<Calls<S>>,
    service: Arc<S>,
    clock: MonotonicClock,
    bounds: Bounds,
    stop: CancellationToken,
}

impl<S> Clone for GrpcService<S> {
    fn clone(&self) -> Self {
        Self {
            inference: self.inference.clone(),
            health: self.health.clone(),
            service: Arc::clone(&self.service),
            clock: self.clock,
            bounds: self.bounds.clone(),
            stop: self.stop.clone(),
        }
    }
}

impl<S: InferenceService> GrpcService<S> {
    /// Serves `service`; at `stop`, streams take no more requests.
    pub(super) fn new(
        service: Arc<S>,
        options: &ServerOptions,
        budget: Arc<Budget>,
        stop: CancellationToken,
    ) -> Self {
        let clock = service.clock();
        let calls = Arc::new(Calls::new(Arc::clone(&service)));
        Self {
            inference: GrpcInferenceServiceServer::from_arc(Arc::clone(&calls))
                .max_decoding_message_size(options.max_body_bytes)
                // A reply is as large as the model makes it.
                .max_encoding_message_size(usize::MAX),
            health: HealthServer::from_arc(calls),
            service,
            clock,
            bounds: Bounds {
                message_bytes: options.max_body_bytes,
                stall: options.stall_timeout,
                budget,
            },
            stop,
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
        let error = stalled(self.stall_timeout);
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
        if path == STREAM {
            return Box::pin(std::future::ready(Ok(self.stream(request))));
        }
        let hold = self.bounds.budget.hold();
        request.extensions_mut().insert(Call {
            arrived: self.clock.now(),
            hold: Arc::clone(&hold),
        });
        let metered = request.map(|body| Metered {
            body,
            stall: Stall::new(self.bounds.stall),
            stall_timeout: self.bounds.stall,
            hold: Arc::clone(&hold),
            service: Arc::clone(&self.service),
        });
        let reply = self.inference.clone().call(metered);
        let (service, limit) = (Arc::clone(&self.service), self.bounds.message_bytes);
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

impl<S: InferenceService> GrpcService<S> {
    /// Begins a stream, whose messages do not go through tonic: each has its own share of
    /// the budget, until its own reply is sent.
    fn stream(&self, request: hyper::Request<Incoming>) -> Reply {
        let headers = request.headers();
        let options = StreamOptions {
            trace: trace_context(headers),
            errors_end_it: headers
                .get("triton_grpc_error")
                .is_some_and(|value| value == "true"),
        };
        let messages = Messages::new(request.into_body(), self.bounds.clone(), self.clock);
        let service = Arc::clone(&self.service);
        let replies = Replies::new(service, messages, self.stop.clone(), options);
        let mut reply = Reply::new(tonic::body::Body::new(replies));
        let content = HeaderValue::from_static("application/grpc");
        reply.headers_mut().insert(CONTENT_TYPE, content);
        reply
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
