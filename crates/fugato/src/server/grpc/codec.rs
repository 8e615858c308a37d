//! Protobuf on the wire, with two differences from tonic's own codec: a reply's buffer is
//! sized before it is written, so that an output is copied once, and a message that cannot
//! be decoded is the client's fault, not the server's.

use crate::error::{Fault, InferError};
use crate::server::proto::ModelInferRequest;
use bytes::Buf;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use std::any::TypeId;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Bytes that a call's buffers start with: most calls that carry no tensor fit.
const START_BYTES: usize = 1024;

/// A yield threshold, which matters for streams of messages only; tonic's own default.
const YIELD_BYTES: usize = 32 * 1024;

/// The most fields at the top of a message. An empty input takes 2 bytes on the wire and
/// hundreds in memory, so without a bound a message within its size limit could take more
/// than a hundred times that. A real request has a few fields for each tensor.
const FIELDS_MAX: usize = 1 << 16;

/// The most entries of the typed lists of one message that are strings (or that come one
/// by one, unpacked). An empty string takes 2 bytes on the wire and 32 in memory; more of
/// them travel raw.
const ENTRIES_MAX: usize = 1 << 20;

/// The fields of an inference request whose own fields are counted: inputs and outputs.
const TENSORS: [u32; 2] = [5, 6];

/// The field of an input that holds its typed lists.
const CONTENTS: u32 = 5;

/// The codec of calls that send `T` and receive `U`.
#[derive(Clone, Debug)]
pub(crate) struct ProtobufCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ProtobufCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ProtobufCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Outgoing<T>;
    type Decoder = Incoming<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Outgoing(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Incoming(PhantomData)
    }
}

/// Writes messages.
#[derive(Debug)]
pub(crate) struct Outgoing<T>(PhantomData<T>);

impl<T: Message> Encoder for Outgoing<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer)
            .map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(START_BYTES, YIELD_BYTES)
    }
}

/// Reads messages.
#[derive(Debug)]
pub(crate) struct Incoming<U>(PhantomData<U>);

impl<U: Message + Default + 'static> Decoder for Incoming<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        Ok(Some(decode(buffer)?))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(START_BYTES, YIELD_BYTES)
    }
}

/// Decodes a message that is in one piece.
///
/// # Errors
/// It is malformed, or takes much more memory than it has bytes.
pub(super) fn decode<U: Message + Default + 'static>(message: impl Buf) -> Result<U, InferError> {
    // Other messages have other fields, raw tensors among them, under these numbers.
    let request = TypeId::of::<U>() == TypeId::of::<ModelInferRequest>();
    let tensors: &[u32] = if request { &TENSORS } else { &[] };
    if !has_few_fields(message.chunk(), tensors) {
        let detail = format!("more than {FIELDS_MAX} fields or {ENTRIES_MAX} typed entries");
        return Err(Fault::Message { detail }.into());
    }
    U::decode(message).map_err(|error| {
        let detail = error.to_string();
        Fault::Message { detail }.into()
    })
}

/// Whether a message has at most [`FIELDS_MAX`] fields, those of fields `tensors` included, and
/// [`ENTRIES_MAX`] entries in their typed lists. What is packed or raw is skipped, and what
/// is malformed is left to the decoder.
fn has_few_fields(message: &[u8], tensors: &[u32]) -> bool {
    let (mut fields, mut entries) = (FIELDS_MAX, ENTRIES_MAX);
    count(message, &mut fields, |number, tensor, fields| {
        !tensors.contains(&number)
            || count(tensor, fields, |number, contents, _| {
                number != CONTENTS || count(contents, &mut entries, |_, _, _| true)
            })
    })
}

/// Takes the fields of a message off `left`, asking `inside` of each that has a length;
/// whether there were enough.
fn count(
    mut message: &[u8],
    left: &mut usize,
    mut inside: impl FnMut(u32, &[u8], &mut usize) -> bool,
) -> bool {
    while !message.is_empty() {
        let Some(fewer) = left.checked_sub(1) else {
            return false;
        };
        *left = fewer;
        let key = decode_key(&mut message);
        let length = match key {
            Ok((_, WireType::Varint)) => decode_varint(&mut message).map(|_| 0),
            Ok((_, WireType::SixtyFourBit)) => Ok(8),
            Ok((_, WireType::ThirtyTwoBit)) => Ok(4),
            Ok((_, WireType::LengthDelimited)) => decode_varint(&mut message),
            // Groups: the protocol has none, and the decoder refuses them.
            Ok((_, WireType::StartGroup | WireType::EndGroup)) | Err(_) => return true,
        };
        let rest = length.ok().and_then(|length| usize::try_from(length).ok());
        let Some((content, rest)) = rest.and_then(|length| message.split_at_checked(length)) else {
            return true;
        };
        if let Ok((number, WireType::LengthDelimited)) = key
            && !inside(number, content, left)
        {
            return false;
        }
        message = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::proto::model_infer_request::InferInputTensor;

    fn fits(message: &[u8]) -> bool {
        has_few_fields(message, &TENSORS)
    }

    #[test]
    fn a_message_of_very_many_fields_is_told_apart() {
        let message = |inputs| ModelInferRequest {
            model_name: "m".to_owned(),
            inputs: vec![InferInputTensor::default(); inputs],
            raw_input_contents: vec![vec![0; 100_000].into()],
            ..Default::default()
        };
        assert!(fits(&message(1000).encode_to_vec()));
        assert!(fits(&message(FIELDS_MAX - 2).encode_to_vec()));
        assert!(!fits(&message(FIELDS_MAX - 1).encode_to_vec()));
        let typed = |strings| {
            let mut message = message(1);
            let contents = crate::server::proto::InferTensorContents {
                bytes_contents: vec![bytes::Bytes::new(); strings],
                ..Default::default()
            };
            message.inputs[0].contents = Some(contents);
            message.encode_to_vec()
        };
        assert!(fits(&typed(ENTRIES_MAX)));
        assert!(!fits(&typed(ENTRIES_MAX + 1)));
        let mut nested = message(1);
        nested.inputs[0].parameters = (0..FIELDS_MAX)
            .map(|name| (name.to_string(), Default::default()))
            .collect();
        assert!(!fits(&nested.encode_to_vec()));
        assert!(fits(b"\x0b\xff"), "malformed is the decoder's to name");
    }
}
