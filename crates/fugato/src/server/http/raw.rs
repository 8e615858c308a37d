//! Requests without JSON (`Inference-Header-Content-Length: 0`): the body is the one input
//! of the model, and every output is asked for as binary data.

use super::HEADER_LENGTH;
use super::request::{BinaryOutputs, ReadRequest};
use crate::api::{ModelInfo, NamedInput, RequestParameters};
use crate::error::{Fault, InferError};
use bytes::Bytes;
use fugato_device::TensorData;

/// The request that a body means to a model. The batch is 1; one dimension that varies is
/// worked out from the length of the body.
///
/// # Errors
/// `InvalidRequest` where the model has several inputs, or the shape cannot be worked out.
pub(super) fn read(info: &ModelInfo, body: Bytes) -> Result<ReadRequest, InferError> {
    let refuse = |why: String| -> InferError {
        Fault::Header {
            header: HEADER_LENGTH,
            found: "0".to_owned(),
            expected: format!("the number of bytes of JSON, since {why}"),
        }
        .into()
    };
    let [spec] = &*info.inputs else {
        let count = info.inputs.len();
        return Err(refuse(format!("model `{}` has {count} inputs", info.name)));
    };
    let mut shape: Vec<u64> = spec.shape.iter().map(|dim| dim.unwrap_or(1)).collect();
    let first = usize::from(info.max_batch_size > 0);
    let varies = |&axis: &usize| spec.shape[axis].is_none();
    let free: Vec<usize> = (first..shape.len()).filter(varies).collect();
    let elements = shape
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let data = match (spec.element.size(), &*free) {
        (Some(_), []) => TensorData::Raw(body),
        (Some(width), &[axis]) => {
            let bytes = elements.and_then(|elements| elements.checked_mul(width as u64));
            // What is left over is a wrong number of bytes, which validation names.
            let length = bytes.and_then(|bytes| (body.len() as u64).checked_div(bytes));
            shape[axis] = length.unwrap_or(0);
            TensorData::Raw(body)
        }
        (None, []) if elements == Some(1) => TensorData::Strings(vec![body]),
        (Some(_) | None, _) => {
            let why = format!("the shape of input `{}` does not follow", spec.name);
            return Err(refuse(why));
        }
    };
    Ok(ReadRequest {
        id: String::new(),
        inputs: vec![NamedInput {
            name: spec.name.clone(),
            element: spec.element,
            shape,
            data: data.into(),
        }],
        outputs: Vec::new(),
        binary: BinaryOutputs::All(true),
        parameters: RequestParameters::default(),
    })
}
