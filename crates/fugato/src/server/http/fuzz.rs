//! Fuzzing of HTTP's inference requests.

use super::encoding::{Coding, decompress};
use super::{HEADER_LENGTH, raw, reply, request};
use crate::api::{InferRequest, string_bytes};
use crate::error::{ErrorKind, InferError};
use crate::fuzz::{Fixture, with_fixture};
use crate::server::budget::Budget;
use crate::server::fuzz::answer;
use axum::response::Response;
use bytes::Bytes;
use fugato_core::Timestamp;
use futures_util::FutureExt as _;
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::sync::Arc;

/// The most bytes of a body, and of what it decompresses to.
const BODY_MAX: usize = 1 << 20;

/// What of a request is in its headers: how its body is compressed, and where its JSON
/// ends. It takes the first three bytes.
struct Head {
    coding: Option<Coding>,
    reply: Option<Coding>,
    header_length: Option<usize>,
}

impl Head {
    fn split(data: &[u8]) -> Option<(Self, &[u8])> {
        let (&[flags, low, high], body) = data.split_first_chunk()?;
        let coding = |bits| match bits & 3 {
            1 => Some(Coding::Gzip),
            2 => Some(Coding::Deflate),
            _ => None,
        };
        let head = Self {
            coding: coding(flags),
            reply: coding(flags >> 2),
            header_length: (flags & 16 != 0)
                .then_some(usize::from(u16::from_le_bytes([low, high]))),
        };
        Some((head, body))
    }
}

/// An HTTP inference request, three bytes of headers and a body: decompresses and reads it,
/// checks it against a model, answers it, and reads the reply back.
///
/// # Panics
/// Where an accepted request breaks a promise, or its reply is not what the protocol says.
pub fn http_infer(data: &[u8]) {
    let Some((head, body)) = Head::split(data) else {
        return;
    };
    with_fixture(|fixture| {
        let served = serve(fixture, &head, body);
        match served {
            Ok(response) => reply_is_well_formed(response, head.reply),
            Err(error) => assert_ne!(error.kind(), ErrorKind::Internal, "{error}"),
        }
    });
}

fn serve(fixture: &Fixture, head: &Head, body: &[u8]) -> Result<Response, InferError> {
    let hold = Budget::new(BODY_MAX).hold();
    hold.take(body.len())?;
    let body = match head.coding {
        Some(coding) => decompress(coding, body, BODY_MAX, &hold)?,
        None => Bytes::copy_from_slice(body),
    };
    let (info, read) = if head.header_length == Some(0) {
        (&fixture.single, raw::read(&fixture.single, body)?)
    } else {
        let regions = &fixture.regions;
        let read = request::read("m", body, head.header_length, &hold, regions)?;
        (&fixture.info, read)
    };
    hold.take(string_bytes(&read.inputs))?;
    let arrived = Timestamp::ZERO;
    let request = InferRequest {
        model: info.name.clone(),
        version: None,
        id: read.id,
        inputs: read.inputs,
        outputs: read.outputs,
        arrived,
        deadline: read.parameters.deadline(arrived, None),
        queue_timeout: read.parameters.queue_timeout,
        priority: read.parameters.priority,
        trace: None,
    };
    let answered = answer(info, request)?;
    reply::write(answered, &read.binary, head.reply, &Arc::clone(&hold))
}

/// JSON, as long as a header says where binary follows, whose tensors have the elements of
/// their shapes and whose binary sizes add up to what follows.
fn reply_is_well_formed(response: Response, coding: Option<Coding>) {
    let (head, body) = response.into_parts();
    let body = body.collect().now_or_never().expect("it is all there");
    let mut body = body.expect("reading memory cannot fail").to_bytes();
    if let Some(coding) = coding {
        let hold = Budget::new(BODY_MAX).hold();
        body = decompress(coding, &body, usize::MAX, &hold).expect("it was compressed here");
    }
    let length = head.headers.get(HEADER_LENGTH).map(|length| {
        let length = length.to_str().expect("a number is text");
        length.parse::<usize>().expect("it is a number")
    });
    let (json, binary) = body.split_at(length.unwrap_or(body.len()));
    let json: Value = serde_json::from_slice(json).expect("a reply is JSON");
    let mut sizes = 0;
    for output in json["outputs"].as_array().expect("a reply has outputs") {
        let shape = output["shape"].as_array().expect("an output has a shape");
        let dims = shape.iter().map(|dim| dim.as_u64().expect("it is a size"));
        let elements: u64 = dims.product();
        if let Some(data) = output["data"].as_array() {
            assert_eq!(data.len() as u64, elements, "{output}");
        }
        let size = &output["parameters"]["binary_data_size"];
        sizes += size.as_u64().unwrap_or(0);
    }
    assert_eq!(sizes, binary.len() as u64, "{json}");
}
