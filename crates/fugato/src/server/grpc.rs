//! The gRPC side: every call of Triton's `GRPCInferenceService`, and the health check.

use super::budget::{Budget, Hold};
use super::{ServerOptions, proto};
use crate::api::InferenceService;
use crate::error::{Fault, InferError};
use bytes::{BufMut as _, Bytes, BytesMut};
use calls::{Call, Calls, trace_context};
use compression::Encoding;
use fugato_device::MonotonicClock;
use http_body_util::{BodyExt as _, Full};
use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use inbound::{ACCEPT_ENCODING, ENCODING, ENCODINGS, Metered};
use messages::{Bounds, Message, Messages, PREFIX_BYTES};
use proto::grpc_inference_service_server::GrpcInferenceServiceServer;
use proto::health::health_server::HealthServer;
use reflection::Reflection;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use stream::{Replies, StreamOptions};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::codegen::Service as _;

mod admin;
mod calls;
pub(crate) mod codec;
mod compression;
mod contents;
mod convert;
pub(super) mod fuzz;
mod health;
mod inbound;
mod messages;
mod reflection;
mod shm;
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
    "SystemSharedMemoryStatus" true,
    "SystemSharedMemoryRegister" true,
    "SystemSharedMemoryUnregister" true,
    "CudaSharedMemoryStatus" true,
    "CudaSharedMemoryRegister" false,
    "CudaSharedMemoryUnregister" true,
    "TraceSetting" true,
    "LogSettings" true,
];

/// The one call that is a stream both ways.
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

const HEALTH_RPCS: [Rpc; 2] = rpcs!["grpc.health.v1.Health": "Check" true, "Watch" true];

const REFLECTION_RPCS: [Rpc; 2] = [
    Rpc {
        path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        done: true,
    },
    Rpc {
        path: "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        done: true,
    },
];

/// Every call: of `GRPCInferenceService`, of the health check, of reflection.
pub const RPCS: [&[Rpc]; 3] = [&INFERENCE_RPCS, &HEALTH_RPCS, &REFLECTION_RPCS];

/// The service of one gRPC port.
pub(super) struct GrpcService<S> {
    inference: GrpcInferenceServiceServer<Calls<S>>,
    health: HealthServer<Calls<S>>,
    reflection: Reflection,
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
            reflection: self.reflection.clone(),
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
        let calls = Arc::new(Calls::new(Arc::clone(&service), stop.clone()));
        Self {
            inference: GrpcInferenceServiceServer::from_arc(Arc::clone(&calls))
                .max_decoding_message_size(options.max_body_bytes)
                // A reply is as large as the model makes it.
                .max_encoding_message_size(usize::MAX)
                // Where the client asks for it: see `reply_as_asked`.
                .send_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Deflate),
            health: HealthServer::from_arc(calls),
            reflection: Reflection::new(),
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

type Reply = hyper::Response<tonic::body::Body>;

impl<S: InferenceService> hyper::service::Service<hyper::Request<Incoming>> for GrpcService<S> {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        let known = RPCS.into_iter().flatten();
        if !known.into_iter().any(|rpc| rpc.path == path && rpc.done) {
            let what = format!("gRPC call `{path}`");
            let status = Status::from(InferError::from(Fault::Unimplemented { what }));
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let encoding = match inbound::check(&request) {
            Ok(encoding) => encoding,
            Err((status, error)) => {
                let mut reply: Reply = self.refuse(error).into_http();
                *reply.status_mut() = status;
                reply.headers_mut().insert(ACCEPT_ENCODING, ENCODINGS);
                return Box::pin(std::future::ready(Ok(reply)));
            }
        };
        if path == STREAM {
            return Box::pin(std::future::ready(Ok(self.stream(request, encoding))));
        }
        if path.starts_with("/grpc.reflection.") {
            return self.reflection.call(request);
        }
        if path.starts_with("/grpc.health.v1.Health/") {
            return self.health.clone().call(request);
        }
        Box::pin(self.clone().one_message(request, encoding))
    }
}

impl<S: InferenceService> GrpcService<S> {
    /// Begins a stream, whose messages do not go through tonic: each has its own share of
    /// the budget, until its own reply is sent.
    fn stream(&self, request: hyper::Request<Incoming>, encoding: Option<Encoding>) -> Reply {
        let headers = request.headers();
        let options = StreamOptions {
            trace: trace_context(headers),
            errors_end_it: headers
                .get("triton_grpc_error")
                .is_some_and(|value| value == "true"),
        };
        let messages = self.messages(request.into_body(), encoding);
        let service = Arc::clone(&self.service);
        let replies = Replies::new(service, messages, self.stop.clone(), options);
        let mut reply = Reply::new(tonic::body::Body::new(replies));
        let content = HeaderValue::from_static("application/grpc");
        reply.headers_mut().insert(CONTENT_TYPE, content);
        reply.headers_mut().insert(ACCEPT_ENCODING, ENCODINGS);
        reply
    }

    fn messages(&self, body: Incoming, encoding: Option<Encoding>) -> Messages {
        Messages::new(body, encoding, self.bounds.clone(), self.clock)
    }

    /// Answers a call with one message each way. One that is compressed is inflated here,
    /// where its size counts; tonic would not know the budget.
    async fn one_message(
        self,
        mut request: hyper::Request<Incoming>,
        encoding: Option<Encoding>,
    ) -> Result<Reply, Infallible> {
        let arrived = self.clock.now();
        reply_as_asked(request.headers_mut(), encoding);
        let mut inference = self.inference.clone();
        let (reply, hold) = if encoding.is_some() {
            let (mut head, body) = request.into_parts();
            let mut messages = self.messages(body, encoding);
            let (body, hold) = match one(&mut messages).await {
                Ok(message) => message,
                Err(error) => return Ok(self.refuse(error).into_http()),
            };
            let hold_of_call = Arc::clone(&hold);
            head.extensions.insert(Call {
                arrived,
                hold: hold_of_call,
            });
            head.headers.remove(ENCODING);
            let request = hyper::Request::from_parts(head, Full::new(body));
            (inference.call(request).await?, hold)
        } else {
            let hold = self.bounds.budget.hold();
            request.extensions_mut().insert(Call {
                arrived,
                hold: Arc::clone(&hold),
            });
            let Bounds {
                message_bytes,
                stall,
                ..
            } = self.bounds;
            let metered = |body| {
                let (hold, service) = (Arc::clone(&hold), Arc::clone(&self.service));
                Metered::new(body, stall, message_bytes, hold, service)
            };
            (inference.call(request.map(metered)).await?, hold)
        };
        Ok(reply.map(|body| until_sent(body, hold)))
    }

    /// Counts a call that did not get to be one.
    fn refuse(&self, error: InferError) -> Status {
        self.service.refused(error.kind());
        error.into()
    }
}

/// The one message of a call, with the prefix of one that is not compressed.
async fn one(messages: &mut Messages) -> Result<(Bytes, Arc<Hold>), InferError> {
    let missing = || {
        let detail = "no message came".to_owned();
        InferError::from(Fault::Body { detail })
    };
    let Message { bytes, hold, .. } = messages.next().await?.ok_or_else(missing)??;
    if messages.next().await?.is_some() {
        return Err(inbound::second());
    }
    // Another copy, since the prefix goes before it.
    hold.take(bytes.len())?;
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + bytes.len());
    framed.put_u8(0);
    // Within the limit of messages, whose length came in as many bits.
    framed.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    framed.put(bytes);
    Ok((framed.freeze(), hold))
}

/// Leaves tonic one way to compress the reply: the request's own, where the client reads it.
/// Clients name what they can read in every call; only one that compresses has asked.
fn reply_as_asked(headers: &mut HeaderMap, encoding: Option<Encoding>) {
    let accepted = headers.remove(ACCEPT_ENCODING);
    let accepted = accepted.as_ref().and_then(|value| value.to_str().ok());
    let Some(name) = encoding.map(Encoding::name) else {
        return;
    };
    if accepted.is_some_and(|list| list.split(',').any(|one| one.trim() == name)) {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(name));
    }
}

/// The same body, whose parts keep `hold` until they are sent.
fn until_sent(body: tonic::body::Body, hold: Arc<Hold>) -> tonic::body::Body {
    tonic::body::Body::new(
        body.map_frame(move |frame| frame.map_data(|part| hold.until_sent(part))),
    )
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
