//! The protocol over gRPC, tensors as raw contents.

use super::{
    Call, CallError, ERROR_LABEL, InputFrom, OutputTo, Outputs, Reply, ReplyFault, Tensor,
    TensorSpec, described, output, spec, wire,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use fugato_core::Nanos;
use prost::Message;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use wire::infer_parameter::ParameterChoice;

/// HTTP/2 receive windows: replies of a megabyte must not wait for window updates.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

#[derive(Clone, Debug)]
pub(super) struct GrpcClient {
    channels: Vec<Channel>,
    next: Arc<AtomicUsize>,
}

/// An encoded `ModelInferRequest`.
#[derive(Clone, Debug)]
pub(super) struct PreparedGrpc(Bytes);

/// A request's outputs, encoded: a message may be sent in pieces, which its reader joins.
pub(super) fn outputs(outputs: &[OutputTo<'_>]) -> Bytes {
    let outputs = outputs.iter();
    let outputs = outputs.map(
        |output| wire::model_infer_request::InferRequestedOutputTensor {
            name: output.name.to_owned(),
            parameters: region_parameters(output.region, output.offset, output.size),
        },
    );
    let request = wire::ModelInferRequest {
        outputs: outputs.collect(),
        ..Default::default()
    };
    request.encode_to_vec().into()
}

fn region_parameters(
    region: &str,
    offset: u64,
    size: u64,
) -> BTreeMap<String, wire::InferParameter> {
    let region = wire::InferParameter {
        parameter_choice: Some(ParameterChoice::StringParam(region.to_owned())),
    };
    [
        ("shared_memory_region", region),
        ("shared_memory_offset", number(offset)),
        ("shared_memory_byte_size", number(size)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn number(value: u64) -> wire::InferParameter {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    wire::InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(value)),
    }
}

impl PreparedGrpc {
    pub(super) fn new(
        model: &str,
        inputs: &[Tensor],
        from: &[InputFrom<'_>],
        slo: Option<Nanos>,
    ) -> Self {
        let tensors = inputs.iter().zip(from);
        let request = wire::ModelInferRequest {
            model_name: model.to_owned(),
            parameters: slo
                .map(|slo| ("slo_us".to_owned(), number(slo.as_nanos() / 1_000)))
                .into_iter()
                .collect(),
            inputs: tensors
                .clone()
                .map(
                    |(input, from)| wire::model_infer_request::InferInputTensor {
                        name: input.name.clone(),
                        datatype: input.element.oip_name().to_owned(),
                        shape: input
                            .shape
                            .iter()
                            .map(|size| i64::try_from(*size).unwrap_or(i64::MAX))
                            .collect(),
                        parameters: match *from {
                            InputFrom::Request => BTreeMap::new(),
                            InputFrom::Region {
                                region,
                                offset,
                                size,
                            } => region_parameters(region, offset, size),
                        },
                    },
                )
                .collect(),
            outputs: Vec::new(),
            raw_input_contents: tensors
                .filter(|(_, from)| matches!(from, InputFrom::Request))
                .map(|(input, _)| input.data.clone())
                .collect(),
        };
        Self(request.encode_to_vec().into())
    }
}

impl GrpcClient {
    pub(super) fn new(
        authority: &str,
        connections: usize,
    ) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        Ok(Self {
            channels: (0..connections).map(|_| endpoint.connect_lazy()).collect(),
            next: Arc::default(),
        })
    }

    pub(super) async fn inputs(&self, model: &str) -> Result<Vec<TensorSpec>, Call> {
        let request = wire::ModelMetadataRequest {
            name: model.to_owned(),
            ..Default::default()
        };
        let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelMetadata");
        let reply: wire::ModelMetadataResponse =
            self.call(path, request.encode_to_vec().into()).await?;
        let inputs = reply.inputs.into_iter();
        inputs
            .map(|input| Ok(spec(input.name, &input.datatype, &input.shape)?))
            .collect()
    }

    pub(super) async fn infer(
        &self,
        request: &PreparedGrpc,
        to: Option<&Bytes>,
        outputs: Outputs,
    ) -> Result<Reply, Call> {
        let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
        let message = match to {
            None => request.0.clone(),
            Some(to) => {
                let mut message = BytesMut::with_capacity(request.0.len() + to.len());
                message.put_slice(&request.0);
                message.put_slice(to);
                message.freeze()
            }
        };
        let reply = self.call(path, message).await?;
        Ok(read_reply(reply, outputs)?)
    }

    pub(super) async fn register(&self, region: &str, key: &str, size: u64) -> Result<(), Call> {
        let request = wire::SystemSharedMemoryRegisterRequest {
            name: region.to_owned(),
            key: key.to_owned(),
            offset: 0,
            byte_size: size,
        };
        let path = "/inference.GRPCInferenceService/SystemSharedMemoryRegister";
        let path = PathAndQuery::from_static(path);
        let reply: wire::Empty = self.call(path, request.encode_to_vec().into()).await?;
        let wire::Empty {} = reply;
        Ok(())
    }

    pub(super) async fn unregister(&self, region: &str) -> Result<(), Call> {
        let request = wire::SystemSharedMemoryUnregisterRequest {
            name: region.to_owned(),
        };
        let path = "/inference.GRPCInferenceService/SystemSharedMemoryUnregister";
        let path = PathAndQuery::from_static(path);
        let reply: wire::Empty = self.call(path, request.encode_to_vec().into()).await?;
        let wire::Empty {} = reply;
        Ok(())
    }

    async fn call<Response>(&self, path: PathAndQuery, request: Bytes) -> Result<Response, Call>
    where
        Response: Message + Default + Send + 'static,
    {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        let mut client =
            Grpc::new(self.channels[index].clone()).max_decoding_message_size(usize::MAX);
        client.ready().await?;
        let codec = EncodedCodec(PhantomData);
        let response = client.unary(Request::new(request), path, codec).await;
        response.map(tonic::Response::into_inner).map_err(failed)
    }
}

/// A status with a source was made here, by a broken connection; the others came from
/// the server.
fn failed(status: Status) -> Call {
    if status.source().is_some() {
        return Call::from(status);
    }
    let (name, message) = (format!("{:?}", status.code()), status.message().to_owned());
    let rejected = [
        Code::ResourceExhausted,
        Code::Unavailable,
        Code::DeadlineExceeded,
    ];
    Call::Other(if rejected.contains(&status.code()) {
        let label = status.metadata().get(ERROR_LABEL);
        CallError::Rejected {
            status: name,
            label: label.and_then(|label| Some(label.to_str().ok()?.to_owned())),
            message,
        }
    } else {
        CallError::Status {
            status: name,
            message,
        }
    })
}

fn read_reply(reply: wire::ModelInferResponse, outputs: Outputs) -> Result<Reply, ReplyFault> {
    let batch = reply.parameters.get("batch_size");
    let batch = batch.and_then(|value| match value.parameter_choice {
        Some(ParameterChoice::Int64Param(size)) => u32::try_from(size).ok(),
        Some(ParameterChoice::Uint64Param(size)) => u32::try_from(size).ok(),
        Some(
            ParameterChoice::BoolParam(_)
            | ParameterChoice::StringParam(_)
            | ParameterChoice::DoubleParam(_),
        )
        | None => None,
    });
    let mut read = Reply {
        outputs: Vec::new(),
        batch,
    };
    if outputs == Outputs::Drop {
        return Ok(read);
    }
    let mut contents = reply.raw_output_contents.into_iter();
    for tensor in reply.outputs {
        if tensor.parameters.contains_key("shared_memory_region") {
            let tensor = described(tensor.name, &tensor.datatype, &tensor.shape, Bytes::new())?;
            read.outputs.push(tensor);
            continue;
        }
        let Some(data) = contents.next() else {
            return Err(ReplyFault::NoRawData { name: tensor.name });
        };
        let tensor = output(tensor.name, &tensor.datatype, &tensor.shape, data)?;
        read.outputs.push(tensor);
    }
    Ok(read)
}

/// Sends messages that are already encoded, so that a request sent many times is encoded
/// once.
struct EncodedCodec<Response>(PhantomData<Response>);

impl<Response: Message + Default + Send + 'static> Codec for EncodedCodec<Response> {
    type Encode = Bytes;
    type Decode = Response;
    type Encoder = EncodedBytes;
    type Decoder = MessageDecoder<Response>;

    fn encoder(&mut self) -> EncodedBytes {
        EncodedBytes
    }

    fn decoder(&mut self) -> MessageDecoder<Response> {
        MessageDecoder(PhantomData)
    }
}

struct EncodedBytes;

impl Encoder for EncodedBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // At once, or the buffer would grow to the message's size by doubling.
        buffer.reserve(item.len());
        buffer.put(item);
        Ok(())
    }
}

struct MessageDecoder<Response>(PhantomData<Response>);

impl<Response: Message + Default> Decoder for MessageDecoder<Response> {
    type Item = Response;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Response>, Status> {
        let message = Response::decode(buffer);
        let message = message.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(message))
    }
}
