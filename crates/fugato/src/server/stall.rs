//! Clients that stop: a limit on the time without progress, and a connection whose writes
//! and heads of requests are under it.

use super::activity::Activity;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// The time since something last moved, while somebody waits for it.
pub(super) struct Stall {
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Nobody waits yet.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            waiting: None,
        }
    }

    /// Passes `poll` on; ready with `None` where it was pending for the whole limit. The
    /// timer exists only while it is pending.
    pub(super) fn poll<T>(&mut self, poll: Poll<T>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if let Poll::Ready(moved) = poll {
            self.waiting = None;
            return Poll::Ready(Some(moved));
        }
        let limit = self.limit;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(None)
    }
}

/// A connection that fails with `TimedOut` where its peer takes nothing for too long, or
/// takes too long to send the head of a request.
pub(super) struct Patient<C> {
    connection: C,
    writes: Stall,
    heads: Option<Heads>,
}

/// The limit on the time from the first byte of a request to its head's end. HTTP/1 only:
/// the streams of HTTP/2 share one connection.
struct Heads {
    limit: Duration,
    activity: Activity,
    /// The request that is awaited, by the number of those before it, and its time.
    waiting: Option<(u64, Pin<Box<Sleep>>)>,
}

impl Heads {
    /// Notes that bytes came, or that none did; ready where the head is late.
    fn poll(&mut self, came: bool, context: &mut Context<'_>) -> Poll<()> {
        let Some(number) = self.activity.between_requests() else {
            self.waiting = None;
            return Poll::Pending;
        };
        if self.waiting.as_ref().is_some_and(|(of, _)| *of != number) {
            self.waiting = None;
        }
        if came && self.waiting.is_none() {
            let limit = Box::pin(tokio::time::sleep(self.limit));
            self.waiting = Some((number, limit));
        }
        match &mut self.waiting {
            Some((_, limit)) => limit.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<C> Patient<C> {
    /// Waits for at most `limit` at a time.
    pub(super) fn new(connection: C, limit: Duration) -> Self {
        Self {
            connection,
            writes: Stall::new(limit),
            heads: None,
        }
    }

    /// Waits for at most `limit` for the rest of a request's head.
    pub(super) fn limit_heads(&mut self, limit: Duration, activity: Activity) {
        self.heads = Some(Heads {
            limit,
            activity,
            waiting: None,
        });
    }

    fn within<T>(
        &mut self,
        poll: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        let moved = ready!(self.writes.poll(poll, context));
        Poll::Ready(moved.unwrap_or_else(|| {
            let limit = self.writes.limit;
            let problem = format!("the client took nothing for {limit:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, problem))
        }))
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Patient<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.connection).poll_read(context, buffer);
        let came = buffer.filled().len() > before;
        if let Some(heads) = &mut self.heads
            && heads.poll(came, context).is_ready()
        {
            let problem = format!("the head of a request took over {:?}", heads.limit);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, problem)));
        }
        poll
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Patient<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.connection).poll_write(context, bytes);
        self.within(poll, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.connection).poll_write_vectored(context, slices);
        self.within(poll, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes bytes before the peer does; flushing is where they wait.
        let poll = Pin::new(&mut self.connection).poll_flush(context);
        self.within(poll, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_cut_and_a_slow_one_is_not() {
        let (mut peer, ours) = tokio::io::duplex(10);
        let mut ours = Patient::new(ours, LIMIT);
        let slow = async {
            for _ in 0..9 {
                tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
                peer.read_exact(&mut [0; 10]).await.expect("ten come");
            }
            peer
        };
        let (written, _peer) = tokio::join!(ours.write_all(&[0; 100]), slow);
        written.expect("a byte moved within every 30 s");
        let started = tokio::time::Instant::now();
        let error = ours.write_all(&[0]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "the client took nothing for 30s");
        assert!(started.elapsed() >= LIMIT);
    }
}
