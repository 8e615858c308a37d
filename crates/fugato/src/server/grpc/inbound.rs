//! What comes in: the checks of a call's headers, and bodies whose bytes count.

use super::compression::Encoding;
use super::messages::{PREFIX_BYTES, stalled, too_large};
use crate::api::InferenceService;
use crate::error::{Fault, InferError};
use crate::server::budget::Hold;
use crate::server::stall::Stall;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tonic::Status;

/// Names how the messages of a call are compressed.
pub(super) const ENCODING: &str = "grpc-encoding";

/// Names how a client can read replies.
pub(super) const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// What [`ACCEPT_ENCODING`] says of this server.
pub(super) const ENCODINGS: HeaderValue = HeaderValue::from_static("identity,deflate,gzip");

/// Reads how the messages of a call are compressed.
///
/// # Errors
/// The HTTP status and the error of a request that is not gRPC, or that is compressed in a
/// way that is not known here.
pub(super) fn check<B>(
    request: &hyper::Request<B>,
) -> Result<Option<Encoding>, (StatusCode, InferError)> {
    if request.method() != Method::POST {
        let error = Fault::MethodNotAllowed {
            path: request.uri().path().to_owned(),
            method: request.method().to_string(),
            expected: "POST".to_owned(),
        };
        return Err((StatusCode::METHOD_NOT_ALLOWED, error.into()));
    }
    let content = text(request.headers(), CONTENT_TYPE.as_str());
    let kind = content.split(';').next().unwrap_or_default().trim();
    if !matches!(kind, "application/grpc" | "application/grpc+proto") {
        let error = Fault::Header {
            header: "content-type",
            found: content,
            expected: "application/grpc".to_owned(),
        };
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, error.into()));
    }
    match request.headers().get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some(Encoding::Gzip)),
        Some(b"deflate") => Ok(Some(Encoding::Deflate)),
        Some(_) => {
            let found = text(request.headers(), ENCODING);
            let what = format!("header `{ENCODING}: {found}`");
            Err((StatusCode::OK, Fault::Unimplemented { what }.into()))
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).map(HeaderValue::as_bytes);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// The body of a call with one message, whose bytes count against the server's budget as
/// they pass.
pub(super) struct Metered<S> {
    body: Incoming,
    stall: Stall,
    stall_timeout: Duration,
    framing: Framing,
    hold: Arc<Hold>,
    service: Arc<S>,
    ended: bool,
}

impl<S> Metered<S> {
    /// Nothing came yet. A message may have `limit` bytes.
    pub(super) fn new(
        body: Incoming,
        stall_timeout: Duration,
        limit: usize,
        hold: Arc<Hold>,
        service: Arc<S>,
    ) -> Self {
        Self {
            body,
            stall: Stall::new(stall_timeout),
            stall_timeout,
            framing: Framing::new(limit),
            hold,
            service,
            ended: false,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Failed>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let Some(frame) = ready!(self.stall.poll(frame, context)) else {
            return Poll::Ready(Err(stalled(self.stall_timeout).into()));
        };
        Poll::Ready(match frame {
            None => self.framing.end().map(|()| None).map_err(Failed::Error),
            // A client that is gone; nothing to count.
            Some(Err(error)) => Err(Failed::Gone(Status::from_error(error.into()))),
            Some(Ok(frame)) => {
                let passed = frame.data_ref().map_or(Ok(()), |data| {
                    self.framing.pass(data)?;
                    self.hold.take(data.len())
                });
                passed.map(|()| Some(frame)).map_err(Failed::Error)
            }
        })
    }
}

enum Failed {
    Error(InferError),
    Gone(Status),
}

impl From<InferError> for Failed {
    fn from(error: InferError) -> Self {
        Self::Error(error)
    }
}

impl<S: InferenceService> Body for Metered<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = ready!(self.poll(context));
        self.ended = !matches!(polled, Ok(Some(_)));
        Poll::Ready(match polled {
            Ok(frame) => frame.map(Ok),
            Err(Failed::Gone(status)) => Some(Err(status)),
            Err(Failed::Error(error)) => {
                self.service.refused(error.kind());
                Some(Err(error.into()))
            }
        })
    }

    // The end is looked at, too: `is_end_stream` of the body itself would hide it.
    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// Follows one message as its bytes pass.
struct Framing {
    limit: usize,
    prefix: Vec<u8>,
    length: usize,
    left: usize,
}

impl Framing {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            prefix: Vec::with_capacity(PREFIX_BYTES),
            length: 0,
            left: 0,
        }
    }

    /// Takes note of bytes.
    ///
    /// # Errors
    /// A message that is too large or said to be compressed, or bytes after it.
    fn pass(&mut self, mut data: &[u8]) -> Result<(), InferError> {
        if self.prefix.len() < PREFIX_BYTES {
            let count = data.len().min(PREFIX_BYTES - self.prefix.len());
            let (prefix, rest) = data.split_at(count);
            self.prefix.extend_from_slice(prefix);
            let Ok([flag, length @ ..]) = <[u8; PREFIX_BYTES]>::try_from(&*self.prefix) else {
                return Ok(());
            };
            check_flag(flag, None)?;
            self.length = u32::from_be_bytes(length) as usize;
            if self.length > self.limit {
                return Err(too_large(self.length, self.limit));
            }
            (self.left, data) = (self.length, rest);
        }
        let Some(left) = self.left.checked_sub(data.len()) else {
            return Err(second());
        };
        self.left = left;
        Ok(())
    }

    /// # Errors
    /// The message did not come, or not all of it.
    fn end(&self) -> Result<(), InferError> {
        let detail = if self.prefix.is_empty() {
            "no message came".to_owned()
        } else if self.prefix.len() < PREFIX_BYTES {
            "inside the prefix of its message".to_owned()
        } else if self.left > 0 {
            format!("{} bytes of {} were missing", self.left, self.length)
        } else {
            return Ok(());
        };
        Err(Fault::Body { detail }.into())
    }
}

/// Whether a message is compressed.
///
/// # Errors
/// A flag that means nothing, or compression that the call's headers do not name.
pub(super) fn check_flag(flag: u8, encoding: Option<Encoding>) -> Result<bool, InferError> {
    let detail = match (flag, encoding) {
        (0, _) => return Ok(false),
        (1, Some(_)) => return Ok(true),
        (1, None) => format!("it is compressed, and header `{ENCODING}` does not say how"),
        _ => format!("its compression flag is {flag}, expected 0 or 1"),
    };
    Err(Fault::Message { detail }.into())
}

/// A second message in a call that takes one.
pub(super) fn second() -> InferError {
    let detail = "more follows the one message that this call takes".to_owned();
    Fault::Message { detail }.into()
}
