//! The HTTP and gRPC servers: wire types on one side, [`InferenceService`] on the other.
//!
//! [`Server::bind`] takes the ports, so that a taken port is known before anything else
//! starts; [`Server::serve`] serves until it is told to stop, and then drains. The two
//! protocols share requests, validation, errors and metadata; what differs is in
//! `http` and `grpc`. docs/reference/protocol.md lists every URL and call.
//!
//! **Invariant:** a client that goes away drops the future of its request.

use crate::api::{InferReply, InferRequest, InferenceService, check_limits, classify};
use crate::error::InferError;
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

mod activity;
mod auth;
mod budget;
pub(crate) mod fuzz;
pub(crate) mod grpc;
mod guard;
mod http;
mod listen;
pub(crate) mod metadata;
mod outputs;
pub mod proto;
mod sockets;
mod stall;
mod tls;

use budget::Budget;
use guard::{Door, open_grpc, open_http, open_none};
use listen::Listening;
use outputs::{Destinations, Reply};

pub use auth::{TOKEN_MAX_BYTES, TOKEN_MIN_BYTES, TOKENS_MAX, TokenFileError, Tokens};
pub use grpc::{RPCS, Rpc};
pub use http::{HTTP_ROUTES, HttpRoute};
pub use sockets::{Sockets, SocketsError};
pub use tls::{Tls, TlsError};

/// Where and within which limits to serve.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The address of HTTP; `None` does not serve it. Port 0 takes any free port.
    pub http: Option<SocketAddr>,
    /// The address of gRPC.
    pub grpc: Option<SocketAddr>,
    /// The address of the metrics (`GET /metrics`).
    pub metrics: Option<SocketAddr>,
    /// The largest request message of either protocol, in bytes.
    pub max_body_bytes: usize,
    /// Bytes of requests and replies of both protocols that may be in the server at once,
    /// from being read to being sent. Further requests are refused; one that is alone
    /// always fits.
    pub max_held_bytes: usize,
    /// How long a client may send nothing of a body that it began, or take nothing of what
    /// is sent to it, before it is cut.
    pub stall_timeout: Duration,
    /// How long the TLS handshake may take, and the head of an HTTP/1 request from its first
    /// byte. Connections that are idle for as long are closed where no place is free.
    pub header_timeout: Duration,
    /// How long a connection may have no request in flight before it is closed.
    pub idle_timeout: Duration,
    /// How long an HTTP/2 client may be silent before it is asked for a sign of life, and how
    /// long it then may take.
    pub ping_interval: Duration,
    /// The largest head of a request, in bytes.
    pub max_header_bytes: usize,
    /// The certificate to speak TLS with on every port; `None` speaks plain TCP.
    pub tls: Option<Tls>,
    /// The tokens that clients must have; `None` lets everybody in.
    pub tokens: Option<Tokens>,
    /// The most connections per port; further clients wait in the listen queue.
    pub max_connections: usize,
    /// How long requests that were accepted may still run after a stop is asked for.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        let loopback = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        Self {
            http: loopback(8000),
            grpc: loopback(8001),
            metrics: loopback(8002),
            // A batch of 100 images of 3 x 224 x 224 floats is 60 MB.
            max_body_bytes: 64 << 20,
            // Sixteen of the largest messages.
            max_held_bytes: 1 << 30,
            // A lost packet is sent again within seconds; a client that is silent for this
            // long is gone or means harm.
            stall_timeout: Duration::from_secs(30),
            // A head is one packet or two.
            header_timeout: Duration::from_secs(10),
            // Load balancers keep connections for up to 600 s and must be the ones to close.
            idle_timeout: Duration::from_secs(620),
            // A router that forgets idle connections does so after minutes.
            ping_interval: Duration::from_secs(30),
            // A few times what tokens, cookies and traces take; the default of HTTP/2.
            max_header_bytes: 16 << 10,
            // Well under the usual limit of open files, far over what one server feeds.
            max_connections: 4096,
            drain_timeout: Duration::from_secs(30),
            tls: None,
            tokens: None,
        }
    }
}

/// A port could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve {protocol} on {address}")]
pub struct BindError {
    /// `HTTP`, `gRPC` or `metrics`.
    pub protocol: &'static str,
    /// The address asked for.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// The addresses in use, with real ports in place of 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Of HTTP.
    pub http: Option<SocketAddr>,
    /// Of gRPC.
    pub grpc: Option<SocketAddr>,
    /// Of the metrics.
    pub metrics: Option<SocketAddr>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they outlasted the drain timeout; 0 where every
    /// accepted request got its reply.
    pub connections_cut: usize,
}

/// A server that has its ports and does not answer yet.
#[derive(Debug)]
pub struct Server {
    sockets: Sockets,
    options: ServerOptions,
}

impl Server {
    /// Takes the ports.
    ///
    /// # Errors
    /// [`BindError`], naming the first address that could not be taken.
    pub async fn bind(options: ServerOptions) -> Result<Self, BindError> {
        let sockets = Sockets::bind(&options).await?;
        Ok(Self::on(sockets, options))
    }

    /// A server on sockets that are open already; the addresses in `options` are not used.
    pub fn on(sockets: Sockets, options: ServerOptions) -> Self {
        Self { sockets, options }
    }

    /// The addresses taken.
    pub fn addresses(&self) -> Addresses {
        self.sockets.addresses()
    }

    /// Serves until `shutdown` is cancelled, then takes no more connections and requests,
    /// lets accepted requests finish within the drain timeout, and returns. Metrics are
    /// served to the end of the drain.
    ///
    /// # Errors
    /// Where the runtime cannot watch one of the sockets.
    pub async fn serve<S: InferenceService>(
        self,
        service: Arc<S>,
        shutdown: CancellationToken,
    ) -> io::Result<Drained> {
        let requests = Listening::new(&self.options, shutdown.clone());
        let metrics = Listening::new(&self.options, CancellationToken::new());
        let budget = Budget::new(self.options.max_held_bytes);
        let tokens = &self.options.tokens;
        let turn_away = |service: &Arc<S>| {
            let service = Arc::clone(service);
            move |error: InferError, request| {
                service.refused(error.kind());
                http::turn_away(error, request)
            }
        };
        if let Some(listener) = self.sockets.http {
            let listener = TcpListener::from_std(listener)?;
            let budget = Arc::clone(&budget);
            let router = http::router(Arc::clone(&service), &self.options, budget);
            let door = Door::new(tokens.clone(), open_http, turn_away(&service));
            requests.http1(listener, router, door);
        }
        if let Some(listener) = self.sockets.grpc {
            let listener = TcpListener::from_std(listener)?;
            let stop = shutdown.clone();
            let rpc = grpc::GrpcService::new(Arc::clone(&service), &self.options, budget, stop);
            let counting = Arc::clone(&service);
            let door = Door::new(tokens.clone(), open_grpc, move |error: InferError| {
                counting.refused(error.kind());
                tonic::Status::from(error).into_http()
            });
            requests.http2(listener, rpc, door);
        }
        if let Some(listener) = self.sockets.metrics {
            let listener = TcpListener::from_std(listener)?;
            let door = Door::new(tokens.clone(), open_none, turn_away(&service));
            metrics.http1(listener, http::metrics_router(service), door);
        }
        shutdown.cancelled().await;
        let connections_cut = requests.drain(self.options.drain_timeout).await;
        metrics.drain(METRICS_DRAIN).await;
        Ok(Drained { connections_cut })
    }
}

/// A scrape is one short reply; one that takes longer than this is stuck.
const METRICS_DRAIN: Duration = Duration::from_secs(1);

/// Runs a request and brings its outputs into the form, and to the place, asked for.
async fn run<S: InferenceService>(
    service: &S,
    mut request: InferRequest,
) -> Result<Reply, InferError> {
    let refused = |error: &InferError| service.refused(error.kind());
    check_limits(&request).inspect_err(refused)?;
    let destinations = Destinations::take(&mut request).inspect_err(refused)?;
    let any_classes = request.outputs.iter().any(|output| output.classes > 0);
    let requested = any_classes.then(|| request.outputs.clone());
    let mut reply = infer(service, request).await?;
    if let Some(requested) = requested {
        classify(&mut reply, &requested).inspect_err(refused)?;
    }
    destinations.deliver(reply).await.inspect_err(refused)
}

/// Runs a request. A panic of the service fails that request, is counted, and touches no
/// other.
async fn infer<S: InferenceService>(
    service: &S,
    request: InferRequest,
) -> Result<InferReply, InferError> {
    let mut infer = pin!(service.infer(request));
    poll_fn(|context| {
        // The future is not polled again after a panic, so what it left half-done inside
        // itself is not seen.
        let poll = AssertUnwindSafe(|| infer.as_mut().poll(context));
        catch_unwind(poll).unwrap_or_else(|_| {
            let error = InferError::internal("engine", "it panicked, the log says where");
            service.refused(error.kind());
            Poll::Ready(Err(error))
        })
    })
    .await
}
