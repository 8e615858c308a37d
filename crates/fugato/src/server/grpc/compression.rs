//! Compressed messages, read within the limits of messages that are not.

use super::messages::too_large;
use crate::error::{Fault, InferError};
use crate::server::budget::Hold;
use bytes::{Bytes, BytesMut};
use flate2::bufread::{GzDecoder, ZlibDecoder};
use std::io::Read;

/// Bytes inflated at a time.
const STEP_BYTES: usize = 64 << 10;

/// Bytes inflated between two looks at other work: 1 MiB takes some milliseconds.
const YIELD_BYTES: usize = 1 << 20;

/// How the messages of a call are compressed. gRPC's `deflate` is the zlib format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    /// As headers name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

/// Inflates a message of at most `limit` bytes, which count as they come out: a small
/// message that would become a huge one is given up where it passes a bound.
///
/// # Errors
/// What is no such message, or has more after it; one that is too large; one that the
/// budget has no room for.
pub(super) async fn inflate(
    encoding: Encoding,
    compressed: &[u8],
    limit: usize,
    hold: &Hold,
) -> Result<Bytes, InferError> {
    let (inflated, rest) = match encoding {
        Encoding::Gzip => {
            let mut from = GzDecoder::new(compressed);
            let inflated = read(&mut from, limit, hold).await?;
            (inflated, from.into_inner())
        }
        Encoding::Deflate => {
            let mut from = ZlibDecoder::new(compressed);
            let inflated = read(&mut from, limit, hold).await?;
            (inflated, from.into_inner())
        }
    };
    if !rest.is_empty() {
        let detail = format!("{} bytes follow what is compressed", rest.len());
        return Err(Fault::Message { detail }.into());
    }
    Ok(inflated)
}

async fn read(
    from: &mut (impl Read + Send),
    limit: usize,
    hold: &Hold,
) -> Result<Bytes, InferError> {
    let mut inflated = BytesMut::new();
    let mut since_yield = 0;
    loop {
        let filled = inflated.len();
        inflated.resize(filled + STEP_BYTES, 0);
        let count = match from.read(&mut inflated[filled..]) {
            Ok(count) => count,
            Err(error) => {
                let detail = format!("it cannot be inflated: {error}");
                return Err(Fault::Message { detail }.into());
            }
        };
        inflated.truncate(filled + count);
        if count == 0 {
            return Ok(inflated.freeze());
        }
        if inflated.len() > limit {
            return Err(too_large(inflated.len(), limit));
        }
        hold.take(count)?;
        since_yield += count;
        if since_yield >= YIELD_BYTES {
            since_yield = 0;
            tokio::task::yield_now().await;
        }
    }
}
