//! Sockets that outlive their connections, so that a farewell reaches the client.
//!
//! A socket that is closed while bytes of its peer are unread, or still on their way, answers
//! them with a reset, and a reset makes the peer's system throw away what it had not read
//! yet: the last replies, and the farewell that says which requests nobody took. So where a
//! server stops, what clients still send is read, and thrown away, until they close.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// How long a client may take to close after the server's farewell. A client hears of it
/// within a round trip; one that keeps idle connections without looking at them never closes,
/// and a stop is not to wait for it.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are thrown away at a time.
const SCRAP: usize = 16 << 10;

/// The socket of a connection; it goes into its [`Remains`] when the connection is dropped.
pub(super) struct Socket {
    /// Present until it is dropped.
    stream: Option<TcpStream>,
    remains: Arc<Mutex<Option<TcpStream>>>,
}

/// Where a [`Socket`] goes.
pub(super) struct Remains(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    /// The socket for a connection, and where to find it afterwards.
    pub(super) fn new(stream: TcpStream) -> (Self, Remains) {
        let remains = Arc::default();
        let socket = Self {
            stream: Some(stream),
            remains: Arc::clone(&remains),
        };
        (socket, Remains(remains))
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        let stream = self.get_mut().stream.as_mut();
        Pin::new(stream.expect("it is there until it is dropped"))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Nothing that holds the lock can panic.
        *self.remains.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl Remains {
    /// Reads what the client still sends until it closes, for [`LINGER`] at most, and closes
    /// then. Does nothing where the connection still has its socket.
    pub(super) async fn linger(self) {
        let remains = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut stream) = remains else {
            return;
        };
        let closing = async {
            // Most were shut down by their connection already; one that is gone says so.
            stream.shutdown().await?;
            let mut scrap = vec![0; SCRAP];
            while stream.read(&mut scrap).await? > 0 {}
            io::Result::Ok(())
        };
        match tokio::time::timeout(LINGER, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a client did not wait for the farewell"),
            Err(_) => tracing::debug!("a client did not close after the farewell"),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(TcpStream::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}
