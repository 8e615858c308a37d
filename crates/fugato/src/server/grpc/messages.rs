//! The messages of a request's body, taken one after another.
//!
//! Each message has its own share of the budget, so that a stream holds what its requests
//! in flight hold, however long it lasts. What is not asked for stays in the window of
//! HTTP/2, which is how a client is slowed down.

use super::compression::{Encoding, inflate};
use super::inbound::check_flag;
use crate::error::{ErrorKind, Fault, InferError};
use crate::server::budget::{Budget, Hold};
use bytes::{Bytes, BytesMut};
use fugato_core::Timestamp;
use fugato_device::MonotonicClock;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;

/// Bytes before each message: whether it is compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// Bytes that a message has room for before more of it came: what it says of its length is
/// not believed past this.
const TRUSTED_BYTES: usize = 1 << 20;

/// A message as it came, not decoded.
pub(super) struct Message {
    /// Its bytes.
    pub(super) bytes: Bytes,
    /// Its share of the budget.
    pub(super) hold: Arc<Hold>,
    /// When its first byte was read.
    pub(super) arrived: Timestamp,
}

/// What bounds the messages of one body.
#[derive(Clone)]
pub(super) struct Bounds {
    /// The largest message, in bytes.
    pub(super) message_bytes: usize,
    /// How long a client may send nothing of a message that it began.
    pub(super) stall: Duration,
    /// What all messages share.
    pub(super) budget: Arc<Budget>,
}

/// The body of a request, read message by message.
pub(super) struct Messages {
    body: Incoming,
    /// What came and was not read yet.
    frame: Bytes,
    encoding: Option<Encoding>,
    bounds: Bounds,
    clock: MonotonicClock,
}

impl Messages {
    /// Nothing was read yet; messages may be compressed in the one way.
    pub(super) fn new(
        body: Incoming,
        encoding: Option<Encoding>,
        bounds: Bounds,
        clock: MonotonicClock,
    ) -> Self {
        Self {
            body,
            frame: Bytes::new(),
            encoding,
            bounds,
            clock,
        }
    }

    /// The next message, or `None` at the end. An inner error is of one message, which was
    /// passed over for want of room; the next can be asked for.
    ///
    /// # Errors
    /// The body is cut or stalls inside a message, or a message is too large. No message
    /// can be read after that.
    pub(super) async fn next(&mut self) -> Result<Option<Result<Message, InferError>>, InferError> {
        // A client may be silent between messages for as long as it likes.
        if self.frame.is_empty() && !self.more().await? {
            return Ok(None);
        }
        let arrived = self.clock.now();
        let (flag, length) = self.prefix().await?;
        let encoding = self.encoding.filter(|_| flag != 0);
        check_flag(flag, self.encoding)?;
        if length > self.bounds.message_bytes {
            return Err(too_large(length, self.bounds.message_bytes));
        }
        let mut share = Share::Given(self.bounds.budget.hold());
        let bytes = self.take(length, &mut share).await?.freeze();
        let hold = match share {
            Share::Given(hold) => hold,
            Share::Refused(error) => return Ok(Some(Err(error))),
        };
        let limit = self.bounds.message_bytes;
        let bytes = match encoding {
            None => bytes,
            Some(encoding) => match inflate(encoding, &bytes, limit, &hold).await {
                Ok(inflated) => inflated,
                Err(error) if error.kind() == ErrorKind::QueueFull => return Ok(Some(Err(error))),
                Err(error) => return Err(error),
            },
        };
        Ok(Some(Ok(Message {
            bytes,
            hold,
            arrived,
        })))
    }

    /// Reads what comes before a message: its compression flag, and its length.
    async fn prefix(&mut self) -> Result<(u8, usize), InferError> {
        let mut prefix = [0; PREFIX_BYTES];
        let mut read = 0;
        while read < PREFIX_BYTES {
            let part = self.part(PREFIX_BYTES - read, PREFIX_BYTES).await?;
            prefix[read..][..part.len()].copy_from_slice(&part);
            read += part.len();
        }
        let [flag, length @ ..] = prefix;
        Ok((flag, u32::from_be_bytes(length) as usize))
    }

    /// Reads a message of `length` bytes; without keeping them where the budget refuses
    /// them.
    async fn take(&mut self, length: usize, share: &mut Share) -> Result<BytesMut, InferError> {
        let mut taken = BytesMut::with_capacity(length.min(TRUSTED_BYTES));
        let mut left = length;
        while left > 0 {
            let part = self.part(left, length).await?;
            left -= part.len();
            if let Share::Given(hold) = share {
                match hold.take(part.len()) {
                    Ok(()) => {
                        if taken.len() + part.len() > taken.capacity() {
                            taken.reserve(part.len() + left);
                        }
                        taken.extend_from_slice(&part);
                    }
                    Err(error) => {
                        taken = BytesMut::new();
                        *share = Share::Refused(error);
                    }
                }
            }
        }
        Ok(taken)
    }

    /// At most `left` bytes, all that is left of the `whole`.
    async fn part(&mut self, left: usize, whole: usize) -> Result<Bytes, InferError> {
        if self.frame.is_empty() && !self.some_more().await? {
            let detail = format!("{left} bytes of {whole} were missing");
            return Err(Fault::Body { detail }.into());
        }
        Ok(self.frame.split_to(left.min(self.frame.len())))
    }

    /// Waits for the rest of a message, within the time that a client may be silent.
    async fn some_more(&mut self) -> Result<bool, InferError> {
        let stall = self.bounds.stall;
        match tokio::time::timeout(stall, self.more()).await {
            Ok(more) => more,
            Err(_) => Err(stalled(stall)),
        }
    }

    /// Waits for bytes; `false` at the end of the body.
    async fn more(&mut self) -> Result<bool, InferError> {
        loop {
            match self.body.frame().await {
                None => return Ok(false),
                Some(Err(error)) => {
                    let detail = error.to_string();
                    return Err(Fault::Body { detail }.into());
                }
                // Trailers mean nothing in a request.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => {
                        self.frame = data;
                        return Ok(true);
                    }
                    Ok(_) | Err(_) => {}
                },
            }
        }
    }
}

/// Whether the budget still takes the bytes of a message.
enum Share {
    Given(Arc<Hold>),
    Refused(InferError),
}

/// A message longer than `limit` bytes.
pub(super) fn too_large(found: usize, limit: usize) -> InferError {
    Fault::TooLarge {
        found: found.to_string(),
        limit: limit as u64,
    }
    .into()
}

/// A body of which nothing came for so long.
pub(super) fn stalled(limit: Duration) -> InferError {
    let detail = format!("nothing of it came for {limit:?}");
    Fault::Body { detail }.into()
}
