//! Accepting connections, and ending them.
//!
//! One loop per port; each connection is a task of one tracker, so that a drain can wait
//! for all of them. A drain first takes those who wait in the listen queue and closes it, so
//! that whoever comes later is refused instead of reset. Then it asks every connection to
//! finish what it has, and cuts those that outlast the limit.

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
use linger::Socket;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use stream::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod linger;
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

/// How long a stop waits for the first request of a client that has sent none: some round
/// trips. Many connect in order to ask at once, few without.
const NEWCOMER: Duration = Duration::from_millis(100);

/// Streams that a client opened and reset before the server looked at them, and that are
/// remembered. A client that resets faster than it is served is cut: each reset stream
/// costs the server work that the limit on open ones does not count.
const RESET_STREAMS: usize = 256;

/// Streams that the server had to reset for a client's faults, before it cuts the client.
const FAULTY_STREAMS: usize = 1024;

/// The connections of some ports that start and stop together.
pub(super) struct Listening {
    /// The loops of the ports.
    loops: TaskTracker,
    connections: TaskTracker,
    /// Sockets of connections that have ended, until their clients close too.
    lingering: TaskTracker,
    /// Ends the loops.
    stop: CancellationToken,
    /// Asks connections to end.
    farewell: CancellationToken,
    /// Ends what is left.
    cut: CancellationToken,
    options: ServerOptions,
}

/// The connections of one port.
struct Port<F> {
    connections: TaskTracker,
    lingering: TaskTracker,
    farewell: CancellationToken,
    cut: CancellationToken,
    places: Arc<Semaphore>,
    tls: Option<TlsAcceptor>,
    options: ServerOptions,
    /// Drives a connection to its end.
    connect: F,
}

/// What bounds the life of one connection.
struct Life {
    farewell: CancellationToken,
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
            loops: TaskTracker::new(),
            connections: TaskTracker::new(),
            lingering: TaskTracker::new(),
            stop,
            farewell: CancellationToken::new(),
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
        let port = Port {
            connections: self.connections.clone(),
            lingering: self.lingering.clone(),
            farewell: self.farewell.clone(),
            cut: self.cut.clone(),
            places: Arc::new(Semaphore::new(self.options.max_connections)),
            tls: self.options.tls.as_ref().map(|tls| tls.acceptor(protocol)),
            options: self.options.clone(),
            connect,
        };
        self.loops.spawn(port.accept(listener, self.stop.clone()));
    }

    /// Waits for every connection to end, cuts those that outlast `limit`, and says how
    /// many those were.
    pub(super) async fn drain(self, limit: Duration) -> usize {
        let end = Instant::now() + limit;
        self.stop.cancel();
        self.loops.close();
        self.loops.wait().await;
        self.farewell.cancel();
        self.connections.close();
        let ended = tokio::time::timeout_at(end, self.connections.wait()).await;
        let mut left = 0;
        if ended.is_err() {
            left = self.connections.len();
            self.cut.cancel();
            self.connections.wait().await;
        }
        self.lingering.close();
        let closed = tokio::time::timeout_at(end, self.lingering.wait()).await;
        if closed.is_err() {
            self.cut.cancel();
            self.lingering.wait().await;
        }
        left
    }
}

impl<F, C> Port<F>
where
    F: FnOnce(Patient<Stream>, Life) -> C + Clone + Send + 'static,
    C: Future<Output = ()> + Send + 'static,
{
    /// Takes clients as they come, and at `stop` those who have come already.
    async fn accept(self, listener: TcpListener, stop: CancellationToken) {
        let places = Arc::clone(&self.places);
        while let Some(came) = stop.run_until_cancelled(next(&places, &listener)).await {
            match came {
                Ok((stream, place)) => self.begin(stream, place),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Err(error) = self.accept_waiting(listener) {
            tracing::warn!(%error, "clients in the listen queue are reset");
        }
    }

    /// Takes those who wait in the listen queue and have a place, and closes the queue. They
    /// have connected, and closing the queue over their heads would reset them.
    fn accept_waiting(&self, listener: TcpListener) -> io::Result<()> {
        // What waits is asked of the system; the runtime hears of it a moment later.
        let listener = listener.into_std()?;
        for _ in 0..self.options.max_connections {
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                break;
            };
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    self.begin(TcpStream::from_std(stream)?, place);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lets a connection begin, in a task of its own.
    fn begin(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        if let Err(error) = stream.set_nodelay(true) {
            // The client is gone already.
            tracing::debug!(%error, "connection lost at once");
            return;
        }
        let life = Life {
            farewell: self.farewell.clone(),
            cut: self.cut.clone(),
            places: Arc::clone(&self.places),
            _place: place,
            activity: Activity::default(),
            header_timeout: self.options.header_timeout,
            idle_timeout: self.options.idle_timeout,
            stall_timeout: self.options.stall_timeout,
        };
        let (tls, connect) = (self.tls.clone(), self.connect.clone());
        let (farewell, cut) = (self.farewell.clone(), self.cut.clone());
        let lingering = self.lingering.clone();
        self.connections.spawn(async move {
            let (socket, remains) = Socket::new(stream);
            if let Some(stream) = life.greet(socket, tls).await {
                let stream = Patient::new(stream, life.stall_timeout);
                connect(stream, life).await;
            }
            if farewell.is_cancelled() {
                lingering.spawn(async move { cut.run_until_cancelled(remains.linger()).await });
            }
        });
    }
}

/// The next client, once there is a place for it.
async fn next(
    places: &Arc<Semaphore>,
    listener: &TcpListener,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.expect("nobody closes the semaphore");
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

impl Life {
    /// Shakes hands where TLS is spoken; `None` where the client does not, or takes too long.
    async fn greet(&self, socket: Socket, tls: Option<TlsAcceptor>) -> Option<Stream> {
        let Some(tls) = tls else {
            return Some(Stream::Plain(socket));
        };
        let shaken = tokio::time::timeout(self.header_timeout, tls.accept(socket));
        match self.farewell.run_until_cancelled(shaken).await? {
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
                () = self.dismissed(), if !stopping => {}
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

    /// Until the server stops. A client that has only just connected is about to ask, and would
    /// be cut before it did.
    async fn dismissed(&self) {
        self.farewell.cancelled().await;
        if self.never_asked() {
            tokio::time::sleep(NEWCOMER).await;
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
