//! What happens on one connection: requests in flight, and parts of replies that the client
//! has not taken yet.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The largest piece of a reply that is handed to HTTP/2 at once, in bytes: the largest frame
/// that clients take by default. A stream's client must take one in every `stall_timeout`.
const PIECE_BYTES: usize = 16 << 10;

/// Counts what is in flight on one connection.
#[derive(Clone, Default)]
pub(super) struct Activity(Arc<Mutex<State>>);

struct State {
    in_flight: usize,
    /// Requests that began since the connection did.
    begun: u64,
    idle_since: Instant,
    /// The streams with pieces of a reply that are not sent, by number.
    unsent: BTreeMap<u64, Unsent>,
    next_stream: u64,
}

/// The pieces of one stream that are handed over and not sent.
struct Unsent {
    count: usize,
    /// When the first was handed over, or the last one before these was sent.
    since: Instant,
}

impl Default for State {
    fn default() -> Self {
        Self {
            in_flight: 0,
            begun: 0,
            idle_since: Instant::now(),
            unsent: BTreeMap::new(),
            next_stream: 0,
        }
    }
}

impl Activity {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that is in flight until the token is dropped.
    pub(super) fn begin(&self) -> InFlight {
        let mut state = self.state();
        state.in_flight += 1;
        state.begun += 1;
        InFlight(self.clone())
    }

    /// Another token for a request that is in flight already.
    fn also(&self) -> InFlight {
        self.state().in_flight += 1;
        InFlight(self.clone())
    }

    /// How many requests began so far, where none is in flight.
    pub(super) fn between_requests(&self) -> Option<u64> {
        let state = self.state();
        (state.in_flight == 0).then_some(state.begun)
    }

    /// How long no request has been in flight; zero while one is.
    pub(super) fn idle_for(&self) -> Duration {
        let state = self.state();
        match state.in_flight {
            0 => state.idle_since.elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// How long some stream's client has taken nothing of what was handed over for it; zero
    /// where nothing waits. O(streams), and asked for every few seconds.
    pub(super) fn untaken_for(&self) -> Duration {
        let state = self.state();
        let waits = state.unsent.values().map(|unsent| unsent.since.elapsed());
        waits.max().unwrap_or_default()
    }

    fn next_stream(&self) -> u64 {
        let mut state = self.state();
        state.next_stream += 1;
        state.next_stream
    }

    /// The same piece, which counts as unsent until it is dropped.
    fn hand_over(&self, stream: u64, piece: Bytes) -> Bytes {
        let none = || Unsent {
            count: 0,
            since: Instant::now(),
        };
        let mut state = self.state();
        state.unsent.entry(stream).or_insert_with(none).count += 1;
        drop(state);
        Bytes::from_owner(Piece {
            bytes: piece,
            stream,
            activity: self.clone(),
        })
    }

    fn sent(&self, stream: u64) {
        let mut state = self.state();
        let Some(unsent) = state.unsent.get_mut(&stream) else {
            return;
        };
        unsent.count -= 1;
        unsent.since = Instant::now();
        if unsent.count == 0 {
            state.unsent.remove(&stream);
        }
    }
}

/// A request in flight.
pub(super) struct InFlight(Activity);

impl Clone for InFlight {
    fn clone(&self) -> Self {
        self.0.also()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            state.idle_since = Instant::now();
        }
    }
}

/// A piece of a reply on its way to the client.
struct Piece {
    bytes: Bytes,
    stream: u64,
    activity: Activity,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.activity.sent(self.stream);
    }
}

/// A body that keeps its request in flight.
pub(super) struct Watched<B> {
    body: B,
    in_flight: InFlight,
    /// For HTTP/2, which takes whole frames of a body whether the client does or not: what
    /// is not handed over yet of the last one.
    pieces: Option<Pieces>,
}

struct Pieces {
    stream: u64,
    rest: Bytes,
}

impl<B> Watched<B> {
    /// Passes frames on as they are.
    pub(super) fn whole(body: B, in_flight: InFlight) -> Self {
        Self {
            body,
            in_flight,
            pieces: None,
        }
    }

    /// Passes frames on in pieces, each of which the client must take in time.
    pub(super) fn in_pieces(body: B, in_flight: InFlight) -> Self {
        let pieces = Pieces {
            stream: in_flight.0.next_stream(),
            rest: Bytes::new(),
        };
        Self {
            body,
            in_flight,
            pieces: Some(pieces),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(Pieces { stream, rest }) = &mut this.pieces else {
            return Pin::new(&mut this.body).poll_frame(context);
        };
        if rest.is_empty() {
            match std::task::ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => *rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE_BYTES));
        let piece = this.in_flight.0.hand_over(*stream, piece);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.pieces.as_ref().map(|pieces| &pieces.rest);
        rest.is_none_or(Bytes::is_empty) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.pieces {
            Some(pieces) if !pieces.rest.is_empty() => SizeHint::default(),
            _ => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full};

    #[tokio::test(start_paused = true)]
    async fn a_stream_counts_as_stuck_while_no_piece_of_it_is_taken() {
        const SECOND: Duration = Duration::from_secs(1);
        let activity = Activity::default();
        let all = Bytes::from(vec![7; 2 * PIECE_BYTES + 1]);
        let mut body = Watched::in_pieces(Full::new(all), activity.begin());
        let whole = body.size_hint().exact();
        assert_eq!(whole, Some(2 * PIECE_BYTES as u64 + 1));
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.expect("no error");
            pieces.push(frame.into_data().expect("data"));
        }
        let sizes: Vec<usize> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [PIECE_BYTES, PIECE_BYTES, 1]);
        assert!(body.is_end_stream());
        for piece in pieces {
            tokio::time::advance(SECOND).await;
            assert_eq!(activity.untaken_for(), SECOND);
            drop(piece);
            assert_eq!(activity.untaken_for(), Duration::ZERO);
        }
        assert_eq!(activity.idle_for(), Duration::ZERO);
        drop(body);
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.idle_for(), SECOND);
        assert_eq!(activity.between_requests(), Some(1));
    }
}
