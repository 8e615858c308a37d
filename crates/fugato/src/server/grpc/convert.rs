//! Between gRPC's messages and the protocol-independent request and reply.

use super::calls::Origin;
use super::contents;
use crate::api::{
    InferReply, InferRequest, NamedInput, ParameterValue, RequestParameters, RequestedOutput,
    classes, output_bytes, refuse_tensor_parameter,
};
use crate::error::{Fault, InferError, ShapeText};
use crate::server::proto;
use bytes::Bytes;
use fugato_device::{ElementType, TensorData};
use proto::infer_parameter::ParameterChoice;
use proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use proto::model_infer_response::InferOutputTensor;
use std::collections::BTreeMap;

/// Bytes that the typed lists of a request took in memory when they were decoded, which is
/// up to sixteen times what they were on the wire.
pub(super) fn decoded_bytes(wire: &proto::ModelInferRequest) -> usize {
    let contents = wire
        .inputs
        .iter()
        .filter_map(|input| input.contents.as_ref());
    contents.map(contents::decoded_bytes).sum()
}

/// Reads a request; payloads stay slices of the message.
///
/// # Errors
/// What the message itself gets wrong; the model is not looked at.
pub(super) fn request(
    wire: proto::ModelInferRequest,
    origin: Origin,
) -> Result<InferRequest, InferError> {
    let mut parameters = RequestParameters::default();
    for (name, value) in &wire.parameters {
        if let Some(value) = parameter(value) {
            parameters.set(name, value)?;
        }
    }
    Ok(InferRequest {
        inputs: inputs(&wire.model_name, wire.inputs, wire.raw_input_contents)?,
        model: wire.model_name,
        version: Some(wire.model_version).filter(|version| !version.is_empty()),
        id: wire.id,
        outputs: wire
            .outputs
            .into_iter()
            .map(requested_output)
            .collect::<Result<_, _>>()?,
        arrived: origin.arrived,
        deadline: parameters.deadline(origin.arrived, origin.timeout),
        queue_timeout: parameters.queue_timeout,
        priority: parameters.priority,
        trace: origin.trace,
    })
}

fn requested_output(output: InferRequestedOutputTensor) -> Result<RequestedOutput, InferError> {
    refuse("output", &output.name, &output.parameters)?;
    let wanted = output.parameters.get("classification").and_then(parameter);
    Ok(RequestedOutput {
        classes: wanted.map_or(Ok(0), |value| classes(&output.name, value))?,
        name: output.name,
    })
}

fn inputs(
    model: &str,
    inputs: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
) -> Result<Vec<NamedInput>, InferError> {
    for input in &inputs {
        refuse("input", &input.name, &input.parameters)?;
    }
    if raw.is_empty() {
        return inputs
            .into_iter()
            .map(|input| typed_input(model, input))
            .collect();
    }
    if raw.len() != inputs.len() {
        return Err(Fault::RawCount {
            model: model.to_owned(),
            found: raw.len(),
            inputs: inputs.len(),
        }
        .into());
    }
    inputs
        .into_iter()
        .zip(raw)
        .map(|(input, raw)| raw_input(model, input, raw))
        .collect()
}

fn raw_input(model: &str, input: InferInputTensor, raw: Bytes) -> Result<NamedInput, InferError> {
    if input.contents.is_some() {
        return Err(Fault::Payload {
            model: model.to_owned(),
            input: input.name,
            found: "in `contents` and in `raw_input_contents`".to_owned(),
            expected: "one of them".to_owned(),
        }
        .into());
    }
    Ok(NamedInput {
        element: element(model, &input)?,
        shape: shape(model, &input)?,
        name: input.name,
        data: TensorData::Raw(raw),
    })
}

fn typed_input(model: &str, mut input: InferInputTensor) -> Result<NamedInput, InferError> {
    let element = element(model, &input)?;
    let shape = shape(model, &input)?;
    let Some(contents) = input.contents.take() else {
        return Err(Fault::Payload {
            model: model.to_owned(),
            input: input.name,
            found: "nowhere".to_owned(),
            expected: "it in `contents` or in `raw_input_contents`".to_owned(),
        }
        .into());
    };
    Ok(NamedInput {
        data: contents::tensor_data(model, &input.name, element, contents)?,
        name: input.name,
        element,
        shape,
    })
}

fn element(model: &str, input: &InferInputTensor) -> Result<ElementType, InferError> {
    ElementType::from_oip_name(&input.datatype).ok_or_else(|| {
        Fault::TypeName {
            model: model.to_owned(),
            input: input.name.clone(),
            found: input.datatype.clone(),
        }
        .into()
    })
}

fn shape(model: &str, input: &InferInputTensor) -> Result<Vec<u64>, InferError> {
    input
        .shape
        .iter()
        .map(|&dim| u64::try_from(dim))
        .collect::<Result<_, _>>()
        .map_err(|_| {
            Fault::Dimension {
                model: model.to_owned(),
                input: input.name.clone(),
                found: ShapeText::signed(&input.shape),
            }
            .into()
        })
}

fn refuse(
    what: &str,
    name: &str,
    parameters: &BTreeMap<String, proto::InferParameter>,
) -> Result<(), InferError> {
    let mut names = parameters.keys();
    names.try_for_each(|parameter| refuse_tensor_parameter(what, name, parameter))
}

fn parameter(wire: &proto::InferParameter) -> Option<ParameterValue<'_>> {
    Some(match wire.parameter_choice.as_ref()? {
        ParameterChoice::BoolParam(value) => ParameterValue::Bool(*value),
        ParameterChoice::Int64Param(value) => ParameterValue::Integer((*value).into()),
        ParameterChoice::Uint64Param(value) => ParameterValue::Integer((*value).into()),
        ParameterChoice::DoubleParam(value) => ParameterValue::Double(*value),
        ParameterChoice::StringParam(value) => ParameterValue::Text(value),
    })
}

/// Writes a reply; outputs are shared, and copied once where the message is encoded.
///
/// # Errors
/// A string output that the wire format cannot carry.
pub(super) fn reply(reply: InferReply) -> Result<proto::ModelInferResponse, InferError> {
    let mut outputs = Vec::with_capacity(reply.outputs.len());
    let mut raw_output_contents = Vec::with_capacity(reply.outputs.len());
    for output in reply.outputs {
        let spec = &reply.model.outputs[output.index];
        outputs.push(InferOutputTensor {
            name: spec.name.clone(),
            datatype: output.element.oip_name().to_owned(),
            shape: output
                .shape
                .iter()
                .map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX))
                .collect(),
            parameters: BTreeMap::new(),
            contents: None,
        });
        raw_output_contents.push(output_bytes(&reply.model, spec, output.data)?);
    }
    // How many items the request's task had, its own included.
    let batch_size = proto::InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(reply.batch.into())),
    };
    Ok(proto::ModelInferResponse {
        model_name: reply.model.name.clone(),
        model_version: reply.model.version.clone(),
        id: reply.id,
        parameters: BTreeMap::from([("batch_size".to_owned(), batch_size)]),
        outputs,
        raw_output_contents,
    })
}
