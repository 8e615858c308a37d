//! What the headers say of a body: its type and its compression, both ways.

use crate::error::{Fault, InferError};
use crate::server::budget::Hold;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use std::io::{self, Read as _, Write as _};

/// The most that deflate makes of one byte; the format has no shorter code.
pub(super) const RATIO_MAX: usize = 1032;

/// Bytes that are decompressed before they are counted.
const PIECE: usize = 64 << 10;

/// A compression of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// `gzip`.
    Gzip,
    /// `deflate`, which is the zlib format.
    Deflate,
}

impl Coding {
    /// The name in headers.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Gzip, Self::Deflate]
            .into_iter()
            .find(|coding| name.eq_ignore_ascii_case(coding.name()))
    }
}

/// How the body of a request is compressed, if it is.
///
/// # Errors
/// `UnsupportedMediaType` for other codings, and for more than one.
pub(super) fn content_coding(headers: &HeaderMap) -> Result<Option<Coding>, InferError> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    match Coding::from_name(text) {
        _ if values.next().is_some() => Err(unsupported("content-encoding", "several", CODINGS)),
        Some(coding) => Ok(Some(coding)),
        None if text.eq_ignore_ascii_case("identity") => Ok(None),
        None => {
            let found = String::from_utf8_lossy(value.as_bytes());
            Err(unsupported("content-encoding", &found, CODINGS))
        }
    }
}

const CODINGS: &str = "one of gzip, deflate, identity";

/// Refuses a body that says that it is something else than JSON. What common clients say
/// of JSON when they were told nothing is taken, too.
///
/// # Errors
/// `UnsupportedMediaType`.
pub(super) fn check_json_type(headers: &HeaderMap) -> Result<(), InferError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let known = [
        "",
        "application/json",
        "application/octet-stream",
        // curl's and browsers' own choices.
        "application/x-www-form-urlencoded",
        "text/plain",
    ];
    if known.contains(&&*essence) || essence.ends_with("+json") {
        return Ok(());
    }
    let expected = "application/json, or application/octet-stream where binary data follows";
    Err(unsupported("content-type", &text, expected))
}

fn unsupported(header: &'static str, found: &str, expected: &'static str) -> InferError {
    Fault::MediaType {
        header,
        found: found.to_owned(),
        expected,
    }
    .into()
}

/// Decompresses a body; every piece is counted in `hold` before the next is made.
///
/// # Errors
/// `TooLarge` past `limit` bytes, `QueueFull`, and `InvalidRequest` for what does not
/// decompress or has more behind it.
pub(super) fn decompress(
    coding: Coding,
    body: &[u8],
    limit: usize,
    hold: &Hold,
) -> Result<Bytes, InferError> {
    let malformed = |error: io::Error| -> InferError {
        Fault::Body {
            detail: format!("it is not {}: {error}", coding.name()),
        }
        .into()
    };
    let mut gzip;
    let mut zlib;
    let decoder: &mut dyn io::Read = match coding {
        Coding::Gzip => {
            gzip = MultiGzDecoder::new(body);
            &mut gzip
        }
        Coding::Deflate => {
            zlib = ZlibWhole(ZlibDecoder::new(body));
            &mut zlib
        }
    };
    let mut whole = Vec::new();
    loop {
        let piece = decoder.take(PIECE as u64).read_to_end(&mut whole);
        let piece = piece.map_err(malformed)?;
        if piece == 0 {
            return Ok(whole.into());
        }
        if whole.len() > limit {
            return Err(Fault::TooLarge {
                found: format!("more (from {} compressed)", body.len()),
                limit: limit as u64,
            }
            .into());
        }
        hold.take(piece)?;
    }
}

/// One zlib stream that must be all there is, as it is with gzip.
struct ZlibWhole<'a>(ZlibDecoder<&'a [u8]>);

impl io::Read for ZlibWhole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        if read == 0 && !buffer.is_empty() && !self.0.get_ref().is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes follow its end",
            ));
        }
        Ok(read)
    }
}

/// The compression that the client likes best, the first of equals; `None` for none.
pub(super) fn accepted(headers: &HeaderMap) -> Option<Coding> {
    let mut best = None;
    let mut best_weight = 0.0;
    for value in headers.get_all(header::ACCEPT_ENCODING) {
        for entry in value.to_str().unwrap_or_default().split(',') {
            let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let weight = parameters.trim().strip_prefix("q=");
            let weight: f32 = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            let coding = Coding::from_name(name.trim());
            if coding.is_some() && weight > best_weight {
                (best, best_weight) = (coding, weight);
            }
        }
    }
    best
}

/// Compresses the parts of a reply into one.
///
/// # Errors
/// None that memory can give; they are handed on rather than hidden.
pub(super) fn compress(coding: Coding, parts: &[Bytes]) -> Result<Bytes, InferError> {
    let written = match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let written = parts.iter().try_for_each(|part| encoder.write_all(part));
            written.and_then(|()| encoder.finish())
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            let written = parts.iter().try_for_each(|part| encoder.write_all(part));
            written.and_then(|()| encoder.finish())
        }
    };
    let failed = |error: io::Error| InferError::internal("HTTP server", error.to_string());
    written.map(Bytes::from).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::server::budget::Budget;

    #[test]
    fn bombs_end_at_the_limit_of_bytes_and_of_the_server() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let zeros = Bytes::from(vec![0; 8 << 20]);
            let bomb = compress(coding, std::slice::from_ref(&zeros)).expect("memory");
            assert!(bomb.len() < 64 << 10, "{} bytes", bomb.len());
            let open = |limit, held: usize, other: usize| {
                let budget = Budget::new(held);
                let rival = budget.hold();
                rival.take(other).expect("alone");
                decompress(coding, &bomb, limit, &budget.hold())
            };
            assert_eq!(open(8 << 20, 1, 0).expect("it fits"), zeros);
            let kind = |found: Result<Bytes, InferError>| found.expect_err("a bomb").kind();
            assert_eq!(kind(open(1 << 20, usize::MAX, 0)), ErrorKind::TooLarge);
            assert_eq!(kind(open(8 << 20, 1 << 20, 9)), ErrorKind::QueueFull);
            for bad in [&bomb[..bomb.len() - 5], b"no", &[&bomb, &b"x"[..]].concat()] {
                let found = decompress(coding, bad, 9 << 20, &Budget::new(1).hold());
                assert_eq!(kind(found), ErrorKind::InvalidRequest);
            }
        }
    }

    #[test]
    fn the_client_chooses_the_compression() {
        let cases = [
            ("gzip", Some(Coding::Gzip)),
            ("deflate", Some(Coding::Deflate)),
            ("gzip, deflate, br", Some(Coding::Gzip)),
            ("gzip;q=0.5, deflate;q=0.8", Some(Coding::Deflate)),
            ("gzip;q=0", None),
            ("br, identity", None),
            ("", None),
        ];
        for (value, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, value.parse().expect("a header"));
            assert_eq!(accepted(&headers), expected, "{value}");
        }
    }
}
