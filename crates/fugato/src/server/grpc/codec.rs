//! Protobuf on the wire, with two differences from tonic's own codec: a reply's buffer is
//! sized before it is written, so that an output is copied once, and a message that cannot
//! be decoded is the client's fault, not the server's.

use bytes::Buf as _;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
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

impl<U: Message + Default> Decoder for Incoming<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if !has_few_fields(buffer.chunk()) {
            return Err(Status::invalid_argument(format!(
                "malformed message: more than {FIELDS_MAX} fields"
            )));
        }
        U::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("malformed message: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(START_BYTES, YIELD_BYTES)
    }
}

/// Whether a message has at most [`FIELDS_MAX`] fields at its top. Contents are skipped;
/// what is malformed is left to the decoder.
fn has_few_fields(mut message: &[u8]) -> bool {
    for _ in 0..FIELDS_MAX {
        if message.is_empty() {
            return true;
        }
        let length = match decode_key(&mut message) {
            Ok((_, WireType::Varint)) => decode_varint(&mut message).map(|_| 0),
            Ok((_, WireType::SixtyFourBit)) => Ok(8),
            Ok((_, WireType::ThirtyTwoBit)) => Ok(4),
            Ok((_, WireType::LengthDelimited)) => decode_varint(&mut message),
            // Groups: the protocol has none, and the decoder refuses them.
            Ok((_, WireType::StartGroup | WireType::EndGroup)) | Err(_) => return true,
        };
        let rest = length.ok().and_then(|length| usize::try_from(length).ok());
        match rest.and_then(|length| message.get(length..)) {
            Some(rest) => message = rest,
            None => return true,
        }
    }
    message.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::proto::ModelInferRequest;
    use crate::server::proto::model_infer_request::InferInputTensor;

    #[test]
    fn a_message_of_very_many_fields_is_told_apart() {
        let message = |inputs| ModelInferRequest {
            model_name: "m".to_owned(),
            inputs: vec![InferInputTensor::default(); inputs],
            raw_input_contents: vec![vec![0; 100_000].into()],
            ..Default::default()
        };
        assert!(has_few_fields(&message(1000).encode_to_vec()));
        assert!(has_few_fields(&message(FIELDS_MAX - 2).encode_to_vec()));
        assert!(!has_few_fields(&message(FIELDS_MAX - 1).encode_to_vec()));
        assert!(
            has_few_fields(b"\x0b\xff"),
            "malformed is the decoder's to name"
        );
    }
}
