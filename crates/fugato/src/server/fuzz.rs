//! Fuzzing of what the two protocols read: the answer that a request gets.

use super::outputs::{Destinations, Reply};
use crate::api::{
    InferReply, InferRequest, ModelInfo, ReplyOutput, ValidRequest, check_limits, classify,
    validate,
};
use crate::error::{ErrorKind, InferError};
use fugato_device::{InputData, TensorData, TensorSpec};
use futures_util::FutureExt as _;
use std::sync::Arc;

pub use super::grpc::fuzz::grpc_infer;
pub use super::http::fuzz::http_infer;

/// Answers a request as the server does, by a model whose outputs are its inputs. An input
/// that the request lacks is left out of the model, since no fuzzer finds fourteen at once.
///
/// # Errors
/// As the server's, and never its own fault.
pub(super) fn answer(info: &ModelInfo, request: InferRequest) -> Result<Reply, InferError> {
    let reply = echo(info, request);
    if let Err(error) = &reply {
        assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
    }
    reply
}

fn echo(info: &ModelInfo, mut request: InferRequest) -> Result<Reply, InferError> {
    check_limits(&request)?;
    let destinations = Destinations::take(&mut request)?;
    let requested = request.outputs.clone();
    let id = request.id.clone();
    let info = Arc::new(narrowed(info, &request));
    let valid = validate(&info, request)?;
    sizes_follow_from_shapes(&info, &valid);
    let mut outputs = Vec::with_capacity(valid.outputs.len());
    for &index in &valid.outputs {
        let input = &valid.inputs[index];
        let data = match &input.data {
            InputData::Here(data) => data.clone(),
            InputData::Shared(slice) => TensorData::Raw(
                slice
                    .read()
                    .expect("nobody makes the file of the regions shorter"),
            ),
        };
        outputs.push(ReplyOutput {
            index,
            element: info.outputs[index].element,
            shape: input.shape.clone(),
            data,
        });
    }
    let mut reply = InferReply {
        model: info,
        id,
        outputs,
        batch: valid.items,
    };
    classify(&mut reply, &requested)?;
    let delivered = destinations.deliver(reply).now_or_never();
    delivered.expect("outputs of a few bytes are written at once")
}

fn narrowed(info: &ModelInfo, request: &InferRequest) -> ModelInfo {
    let mut info = info.clone();
    let sent = |spec: &TensorSpec| request.inputs.iter().any(|input| input.name == spec.name);
    if info.inputs.iter().any(sent) {
        info.inputs.retain(sent);
        info.outputs.clone_from(&info.inputs);
    }
    info
}

fn sizes_follow_from_shapes(info: &ModelInfo, valid: &ValidRequest) {
    assert_eq!(valid.inputs.len(), info.inputs.len());
    for (input, spec) in valid.inputs.iter().zip(&info.inputs) {
        let elements: u64 = input.shape.iter().product();
        match (&input.data, spec.element.size()) {
            (InputData::Here(TensorData::Strings(strings)), None) => {
                assert_eq!(strings.len() as u64, elements, "{spec:?}");
            }
            (data, Some(size)) => {
                assert_eq!(data.byte_size() as u64, elements * size as u64, "{spec:?}");
            }
            (data, None) => panic!("strings as {data:?}"),
        }
        if info.max_batch_size > 0 {
            assert_eq!(input.shape[0], u64::from(valid.items), "{spec:?}");
            assert!(valid.items <= info.max_batch_size, "{}", valid.items);
        }
    }
}
