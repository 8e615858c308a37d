//! Accepting connections, and ending them.
//!
//! One loop per port; each connection is a task of one tracker, so that a drain can wait
//! for all of them. A drain asks every connection to finish what it has and cuts those
//! that outlast the limit.

use super::ServerOptions;
use super::stall::Patient;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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

/// The connections of some ports that start and stop together.
pub(super) struct Listening {
    tracker: TaskTracker,
    stop: CancellationToken,
    cut: CancellationToken,
    max_connections: usize,
    stall_timeout: Duration,
}

/// What one connection needs to know.
struct Ending {
    stop: CancellationToken,
    cut: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Listening {
    /// Listens to nothing yet; `stop` ends it.
    pub(super) fn new(options: &ServerOptions, stop: CancellationToken) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop,
            cut: CancellationToken::new(),
            max_connections: options.max_connections,
            stall_timeout: options.stall_timeout,
        }
    }

    /// Serves HTTP/1.1.
    pub(super) fn http1(&self, listener: TcpListener, router: Router) {
        let mut builder = http1::Builder::new();
        // Clients keep connections open between requests for as long as they like; what
        // bounds idle ones is `max_connections`.
        builder.header_read_timeout(None).max_buf_size(READ_BUFFER);
        let service = TowerToHyperService::new(router);
        self.accept(listener, move |stream, ending| {
            let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
            async move {
                let mut connection = pin!(connection);
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = ending.cut.cancelled() => return,
                    () = ending.stop.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        tokio::select! {
                            ended = connection => ended,
                            () = ending.cut.cancelled() => return,
                        }
                    }
                };
                log_end("HTTP", ended);
            }
        });
    }

    /// Serves HTTP/2, for gRPC.
    pub(super) fn http2<S>(&self, listener: TcpListener, service: S)
    where
        S: hyper::service::Service<
                hyper::Request<Incoming>,
                Response = hyper::Response<tonic::body::Body>,
                Error = Infallible,
                Future: Send + 'static,
            > + Clone
            + Send
            + 'static,
    {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(SEND_BUFFER);
        self.accept(listener, move |stream, ending| {
            let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
            async move {
                let mut connection = pin!(connection);
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = ending.cut.cancelled() => return,
                    () = ending.stop.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        tokio::select! {
                            ended = connection => ended,
                            () = ending.cut.cancelled() => return,
                        }
                    }
                };
                log_end("gRPC", ended);
            }
        });
    }

    /// The loop of one port.
    fn accept<F, C>(&self, listener: TcpListener, connect: F)
    where
        F: Fn(Patient<TcpStream>, Ending) -> C + Send + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(self.max_connections));
        let (tracker, stop, cut) = (self.tracker.clone(), self.stop.clone(), self.cut.clone());
        let stall_timeout = self.stall_timeout;
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
                let ending = Ending {
                    stop: stop.clone(),
                    cut: cut.clone(),
                    _place: place,
                };
                let stream = Patient::new(stream, stall_timeout);
                tracker.spawn(connect(stream, ending));
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

fn log_end(protocol: &'static str, ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        // A client's doing: it went away or did not speak the protocol.
        tracing::debug!(protocol, %error, "connection ended early");
    }
}
