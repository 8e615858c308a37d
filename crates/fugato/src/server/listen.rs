//! Accepting connections, and ending them.
//!
//! One loop per port; each connection is a task of one tracker, so that a drain can wait
//! for all of them. A drain asks every connection to finish what it has and cuts those
//! that outlast the limit.

use super::ServerOptions;
use super::activity::Activity;
use super::guard::{Door, GrpcGuard, HttpGuard};
use super::stall::Patient;
use crate::error::InferError;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use stream::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod stream;

/// Bytes of one stream that a gRPC client may send ahead: a batch of images flows without
/// waiting for window updates.
const STREAM_WINDOW: u32 = 16 << 20;

/// The same for a whole connection, and so the bound on what one connection can make the
/// server hold unread.
const CONNECTION_WINDOW: u32 = 64 << 20;

/// The largest HTTP/2 frame. Tensors come in a few large frames instead of 16 KiB ones;
/// HTTP/2 allows up to 16 MiB, which would let one stream hold up the others.
const FRAME_BYTES: u32 = 1 << 20;

/// Calls in flight on one gRPC connection; more wait in the client. Above any batch and
/// queue of one model, so that the queue, which can refuse, is what fills first.
const STREAMS: u32 = 4096;

/// What hyper may buffer of the replies of one gRPC stream before it waits for the client.
const SEND_BUFFER: usize = 1 << 20;

/// The HTTP/1 read buffer: a 600 KB tensor in two reads.
const READ_BUFFER: usize = 1 << 20;

/// The pause after `accept` failed for want of files or memory, which other connections
/// give back as they end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Streams that a client opened and reset before the server looked at them, and that are
/// remembered. A client that resets faster than it is served is cut: each reset stream
/// costs the server work that the limit on open ones does not count.
const RESET_STREAMS: usize = 256;

/// Streams that the server had to reset for a client's faults, before it cuts the client.
const FAULTY_STREAMS: usize = 1024;

/// The connections of some ports that start and stop together.
pub(super) struct Listening {
    tracker: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
    options: ServerOptions,
}

/// What bounds the life of one connection.
struct Life {
    stop: CancellationToken,
    cut: CancellationToken,
    places: Arc<Semaphore>,
    _place: OwnedSemaphorePermit,
    activity: Activity,
    header_timeout: Duration,
    idle_timeout: Duration,
    stall_timeout: Duration,
}

impl Listening {
    /// Listens to nothing yet; `stop` ends it.
    pub(super) fn new(options: &ServerOptions, stop: CancellationToken) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop,
            cut: CancellationToken::new(),
            options: options.clone(),
        }
    }

    /// Serves HTTP/1.1 to those whom `door` lets in.
    pub(super) fn http1<R>(&self, listener: TcpListener, router: Router, door: Arc<Door<R>>)
    where
        R: Fn(InferError, Request) -> hyper::Response<Body> + Send + Sync + 'static,
    {
        let mut builder = http1::Builder::new();
        builder
            // `Patient` limits the time of heads, and `Life` that of idle connections; this
            // would be one limit for both.
            .header_read_timeout(None)
            .max_header_size(self.options.max_header_bytes)
            .max_buf_size(READ_BUFFER.max(self.options.max_header_bytes));
        let header_timeout = self.options.header_timeout;
        self.accept(listener, "http/1.1", move |mut stream, life| {
            let activity = life.activity.clone();
            stream.limit_heads(header_timeout, activity.clone());
            let guard = HttpGuard {
                router: router.clone(),
                door: Arc::clone(&door),
                activity,
            };
            life.spend(
                "HTTP",
                builder.serve_connection(TokioIo::new(stream), guard),
            )
        });
    }

    /// Serves HTTP/2, for gRPC, to those whom `door` lets in.
    pub(super) fn http2<S, R>(&self, listener: TcpListener, service: S, door: Arc<Door<R>>)
    where
        S: hyper::service::Service<
                hyper::Request<Incoming>,
                Response = hyper::Response<tonic::body::Body>,
                Error = Infallible,
                Future: Send + 'static,
            > + Clone
            + Send
            + 'static,
        R: Fn(InferError) -> hyper::Response<tonic::body::Body> + Send + Sync + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let header_bytes = u32::try_from(self.options.max_header_bytes).unwrap_or(u32::MAX);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(RESET_STREAMS)
            .max_local_error_reset_streams(FAULTY_STREAMS)
            .max_header_list_size(header_bytes)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(self.options.ping_interval)
            .keep_alive_timeout(self.options.ping_interval);
        self.accept(listener, "h2", move |stream, life| {
            let guard = GrpcGuard {
                service: service.clone(),
                door: Arc::clone(&door),
                activity: life.activity.clone(),
            };
            life.spend(
                "gRPC",
                builder.serve_connection(TokioIo::new(stream), guard),
            )
        });
    }

    /// The loop of one port.
    fn accept<F, C>(&self, listener: TcpListener, protocol: &str, connect: F)
    where
        F: FnOnce(Patient<Stream>, Life) -> C + Clone + Send + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(self.options.max_connections));
        let (tracker, stop, cut) = (self.tracker.clone(), self.stop.clone(), self.cut.clone());
        let tls = self.options.tls.as_ref().map(|tls| tls.acceptor(protocol));
        let options = self.options.clone();
        let accepting = async move {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    return;
                };
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                if let Err(error) = stream.set_nodelay(true) {
                    // The client is gone already.
                    tracing::debug!(%error, "connection lost at once");
                    continue;
                }
                let life = Life {
                    stop: stop.clone(),
                    cut: cut.clone(),
                    places: Arc::clone(&places),
                    _place: place,
                    activity: Activity::default(),
                    header_timeout: options.header_timeout,
                    idle_timeout: options.idle_timeout,
                    stall_timeout: options.stall_timeout,
                };
                let (tls, connect) = (tls.clone(), connect.clone());
                tracker.spawn(async move {
                    if let Some(stream) = life.greet(stream, tls).await {
                        let stream = Patient::new(stream, life.stall_timeout);
                        connect(stream, life).await;
                    }
                });
            }
        };
        let stop = self.stop.clone();
        self.tracker
            .spawn(async move { stop.run_until_cancelled(accepting).await });
    }

    /// Waits for every connection to end, cuts those that outlast `limit`, and says how
    /// many those were.
    pub(super) async fn drain(self, limit: Duration) -> usize {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(limit, self.tracker.wait())
            .await
            .is_ok()
        {
            return 0;
        }
        let left = self.tracker.len();
        self.cut.cancel();
        self.tracker.wait().await;
        left
    }
}

impl Life {
    /// Shakes hands where TLS is spoken; `None` where the client does not, or takes too long.
    async fn greet(&self, stream: TcpStream, tls: Option<TlsAcceptor>) -> Option<Stream> {
        let Some(tls) = tls else {
            return Some(Stream::Plain(stream));
        };
        let shaken = tokio::time::timeout(self.header_timeout, tls.accept(stream));
        match self.stop.run_until_cancelled(shaken).await? {
            Ok(Ok(stream)) => Some(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS");
                None
            }
            Err(_) => {
                tracing::debug!("no TLS in time");
                None
            }
        }
    }

    /// Drives a connection to its end.
    async fn spend<C>(self, protocol: &'static str, connection: C)
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        let mut connection = pin!(connection);
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => return log_end(protocol, ended),
                () = self.cut.cancelled() => return,
                () = self.stuck() => {
                    let limit = self.stall_timeout;
                    tracing::debug!(protocol, ?limit, "cut a client that takes no reply");
                    return;
                }
                () = self.idle(), if !stopping => {}
                () = self.stop.cancelled(), if !stopping => {}
                // One that never said anything does not hear a farewell either.
                () = tokio::time::sleep(self.header_timeout), if stopping && self.never_asked() => {
                    return;
                }
            }
            stopping = true;
            let connection: Pin<&mut C> = connection.as_mut();
            connection.graceful_shutdown();
        }
    }

    fn never_asked(&self) -> bool {
        self.activity.between_requests() == Some(0)
    }

    /// Until no request has been in flight for too long. Where every place is taken, others
    /// wait for this one, and the limit is that of a head.
    async fn idle(&self) {
        loop {
            let limit = match self.places.available_permits() {
                0 => self.header_timeout.min(self.idle_timeout),
                _ => self.idle_timeout,
            };
            if self.activity.idle_for() >= limit {
                return;
            }
            tokio::time::sleep(self.header_timeout.min(self.idle_timeout)).await;
        }
    }

    /// Until a client has taken nothing of some reply for too long.
    async fn stuck(&self) {
        while self.activity.untaken_for() < self.stall_timeout {
            // Late by a fourth at most.
            tokio::time::sleep(self.stall_timeout / 4).await;
        }
    }
}

fn log_end(protocol: &'static str, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        // A client's doing: it went away or did not speak the protocol.
        tracing::debug!(protocol, %error, "connection ended early");
    }
}
