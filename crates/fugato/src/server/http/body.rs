//! Bodies: one contiguous request body within the limit, and replies of several parts that
//! are sent as they are.

use crate::error::{Fault, InferError};
use crate::server::budget::Hold;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long a refused body may still arrive. A client that is cut while it sends may never
/// see the reply that says why.
const LINGER: Duration = Duration::from_secs(2);

/// How a body is read.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The most bytes of it.
    pub(super) bytes: usize,
    /// The longest wait for the next piece.
    pub(super) stall: Duration,
}

/// Reads a whole body into `hold`. One that came in a single piece is not copied; one of
/// several is gathered once.
///
/// # Errors
/// `TooLarge` as soon as the declared or the received length passes its
/// limit, `QueueFull` where the server holds too much, and `InvalidRequest` where the body
/// ends early or nothing of it comes for too long.
pub(super) async fn read(
    request: Request,
    limits: Limits,
    hold: &Hold,
) -> Result<Bytes, InferError> {
    let mut body = request.into_body();
    let whole = gather(&mut body, limits, hold).await;
    if whole.is_err() {
        linger(body, limits.bytes);
    }
    whole
}

/// Takes what still comes of a body that is refused, for a moment and up to `limit` bytes.
pub(in crate::server) fn linger(body: Body, limit: usize) {
    if !body.is_end_stream() {
        tokio::spawn(tokio::time::timeout(LINGER, discard(body, limit)));
    }
}

async fn gather(body: &mut Body, limits: Limits, hold: &Hold) -> Result<Bytes, InferError> {
    let limit = limits.bytes;
    let declared = body.size_hint().exact();
    if let Some(declared) = declared
        && declared > limit as u64
    {
        return Err(too_large(declared.to_string(), limit));
    }
    let mut whole = BytesMut::new();
    while let Some(piece) = next_soon(body, limits.stall).await? {
        if whole.len() + piece.len() > limit {
            return Err(too_large("more".to_owned(), limit));
        }
        hold.take(piece.len())?;
        if whole.is_empty() {
            if body.is_end_stream() {
                return Ok(piece);
            }
            // The declared length is within the limit, so reserving it is safe.
            let expected = declared.and_then(|length| usize::try_from(length).ok());
            whole.reserve(expected.unwrap_or(piece.len()));
        }
        whole.put(piece);
    }
    Ok(whole.freeze())
}

/// Reads on for at most another `limit` bytes and keeps nothing.
async fn discard(mut body: Body, limit: usize) {
    let mut seen = 0;
    while let Ok(Some(piece)) = next(&mut body).await {
        seen += piece.len();
        if seen > limit {
            return;
        }
    }
}

/// The next piece, for which it waits for at most `stall`.
async fn next_soon(body: &mut Body, stall: Duration) -> Result<Option<Bytes>, InferError> {
    let next = tokio::time::timeout(stall, next(body)).await;
    next.map_err(|_| Fault::Body {
        detail: format!("nothing of it came for {stall:?}"),
    })?
}

/// The next piece of data; trailers say nothing in this protocol.
async fn next(body: &mut Body) -> Result<Option<Bytes>, InferError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::Body {
            detail: error.to_string(),
        })?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn too_large(found: String, limit: usize) -> InferError {
    Fault::TooLarge {
        found,
        limit: limit as u64,
    }
    .into()
}

/// A body of known parts, each sent without being copied.
pub(super) struct Parts {
    parts: std::vec::IntoIter<Bytes>,
    left: u64,
}

impl Parts {
    /// A body of these parts, in order.
    pub(super) fn new(mut parts: Vec<Bytes>) -> Self {
        parts.retain(|part| !part.is_empty());
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self {
            parts: parts.into_iter(),
            left,
        }
    }
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.parts.next();
        if let Some(part) = &part {
            self.left -= part.len() as u64;
        }
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
