//! Protobuf on the wire, with two differences from tonic's own codec: a reply's buffer is
//! sized before it is written, so that an output is copied once, and a message that cannot
//! be decoded is the client's fault, not the server's.

use prost::Message;
use std::marker::PhantomData;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Bytes that a call's buffers start with: most calls that carry no tensor fit.
const START_BYTES: usize = 1024;

/// A yield threshold, which matters for streams of messages only; tonic's own default.
const YIELD_BYTES: usize = 32 * 1024;

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
        U::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("malformed message: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(START_BYTES, YIELD_BYTES)
    }
}
