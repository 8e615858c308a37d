//! Writing a reply: JSON, then the outputs asked for as binary data, which are sent as the
//! slices they are.

use super::body::Parts;
use super::elements::{self, push_json_string};
use super::encoding::{Coding, compress};
use super::request::BinaryOutputs;
use crate::api::output_bytes;
use crate::error::InferError;
use crate::server::budget::Hold;
use crate::server::outputs::{OutputData, Reply, Written};
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use std::fmt::Write as _;
use std::sync::Arc;

/// Bytes of JSON to start with: the reply of a model with two or three outputs.
const JSON_BYTES: usize = 384;

/// Bytes of the tensors that [`write()`] will write as JSON or compress.
pub(super) fn worked_bytes(reply: &Reply, binary: &BinaryOutputs, coding: Option<Coding>) -> usize {
    let outputs = reply.outputs.iter().enumerate();
    let json = outputs.filter(|&(position, _)| coding.is_some() || !binary.at(position));
    json.map(|(_, output)| output.data.byte_size()).sum()
}

/// Writes a reply; `hold` counts its bytes until they are sent.
///
/// # Errors
/// An output that its format cannot carry.
pub(super) fn write(
    reply: Reply,
    binary: &BinaryOutputs,
    coding: Option<Coding>,
    hold: &Arc<Hold>,
) -> Result<Response, InferError> {
    let info = reply.model;
    let mut text = String::with_capacity(JSON_BYTES);
    let mut parts = Vec::with_capacity(1 + reply.outputs.len());
    parts.push(Bytes::new());
    text.push('{');
    if !reply.id.is_empty() {
        member(&mut text, "id", &reply.id);
        text.push(',');
    }
    member(&mut text, "model_name", &info.name);
    text.push(',');
    member(&mut text, "model_version", &info.version);
    // How many items the request's task had, its own included.
    let _ = write!(
        text,
        ",\"parameters\":{{\"batch_size\":{}}},\"outputs\":[",
        reply.batch
    );
    let mut any_binary = false;
    for (position, output) in reply.outputs.into_iter().enumerate() {
        let spec = &info.outputs[output.index];
        text.push_str(if position > 0 { ",{" } else { "{" });
        member(&mut text, "name", &spec.name);
        text.push_str(",\"datatype\":\"");
        text.push_str(output.element.oip_name());
        text.push_str("\",\"shape\":");
        elements::push_shape(&mut text, &output.shape);
        text.push(',');
        let data = match output.data {
            OutputData::Here(data) => data,
            OutputData::Region(written) => {
                push_region(&mut text, &written);
                continue;
            }
        };
        if binary.at(position) {
            let raw = output_bytes(&info, spec, data)?;
            let _ = write!(
                text,
                "\"parameters\":{{\"binary_data_size\":{}}}}}",
                raw.len()
            );
            parts.push(raw);
            any_binary = true;
        } else {
            text.push_str("\"data\":");
            elements::write(&mut text, &info, spec, output.element, &data)?;
            text.push('}');
        }
    }
    text.push_str("]}");
    let json_length = text.len();
    parts[0] = text.into();
    if let Some(coding) = coding {
        parts = vec![compress(coding, &parts)?];
    }
    hold.answer(parts.iter().map(Bytes::len).sum());
    let parts = parts.into_iter().map(|part| hold.until_sent(part));
    let mut response = response(parts.collect(), any_binary.then_some(json_length));
    if let Some(coding) = coding {
        let name = HeaderValue::from_static(coding.name());
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, name);
    }
    Ok(response)
}

/// The end of an output that is in shared memory. Triton's C++ client looks for a size of
/// binary data wherever an output has parameters; none follow for this one.
fn push_region(text: &mut String, written: &Written) {
    text.push_str("\"parameters\":{\"binary_data_size\":0,");
    member(text, "shared_memory_region", written.target.region());
    let _ = write!(text, ",\"shared_memory_byte_size\":{}", written.byte_size);
    if written.target.offset() > 0 {
        let offset = written.target.offset();
        let _ = write!(text, ",\"shared_memory_offset\":{offset}");
    }
    text.push_str("}}");
}

fn member(text: &mut String, name: &str, value: &str) {
    push_json_string(text, name);
    text.push(':');
    push_json_string(text, value);
}

/// `json_length` is there where binary data follows the JSON.
fn response(parts: Vec<Bytes>, json_length: Option<usize>) -> Response {
    let mut response = Response::new(Body::new(Parts::new(parts)));
    let headers = response.headers_mut();
    let content_type = if let Some(json_length) = json_length {
        headers.insert(super::HEADER_LENGTH, json_length.into());
        "application/octet-stream"
    } else {
        "application/json"
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
