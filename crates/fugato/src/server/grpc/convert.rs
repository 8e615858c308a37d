//! Between gRPC's messages and the protocol-independent request and reply.

use super::calls::Origin;
use super::contents;
use crate::api::{
    InferRequest, NamedInput, ParameterValue, RegionParameters, RequestParameters, RequestedOutput,
    classes, output_bytes,
};
use crate::error::{Fault, InferError, ShapeText};
use crate::server::outputs::{OutputData, Reply, Written};
use crate::server::proto;
use crate::shm::{RegionRange, SharedMemory};
use bytes::Bytes;
use fugato_device::{ElementType, InputData, SharedSlice, TensorData};
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
    regions: &SharedMemory,
) -> Result<InferRequest, InferError> {
    let mut parameters = RequestParameters::default();
    for (name, value) in &wire.parameters {
        if let Some(value) = parameter(value) {
            parameters.set(name, value)?;
        }
    }
    Ok(InferRequest {
        inputs: inputs(
            &wire.model_name,
            wire.inputs,
            wire.raw_input_contents,
            regions,
        )?,
        model: wire.model_name,
        version: Some(wire.model_version).filter(|version| !version.is_empty()),
        id: wire.id,
        outputs: wire
            .outputs
            .into_iter()
            .map(|output| requested_output(output, regions))
            .collect::<Result<_, _>>()?,
        arrived: origin.arrived,
        deadline: parameters.deadline(origin.arrived, origin.timeout),
        queue_timeout: parameters.queue_timeout,
        priority: parameters.priority,
        trace: origin.trace,
    })
}

fn requested_output(
    output: InferRequestedOutputTensor,
    regions: &SharedMemory,
) -> Result<RequestedOutput, InferError> {
    let wanted = output.parameters.get("classification").and_then(parameter);
    let range = region("output", &output.name, &output.parameters)?;
    Ok(RequestedOutput {
        classes: wanted.map_or(Ok(0), |value| classes(&output.name, value))?,
        region: range.map(|range| regions.target(range)).transpose()?,
        name: output.name,
    })
}

fn inputs(
    model: &str,
    inputs: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
    regions: &SharedMemory,
) -> Result<Vec<NamedInput>, InferError> {
    let (is_raw, found) = (!raw.is_empty(), raw.len());
    let (mut raw, mut sent) = (raw.into_iter(), 0);
    let mut named = Vec::with_capacity(inputs.len());
    for input in inputs {
        if let Some(slice) = shared_input(&input, regions)? {
            named.push(region_input(model, input, slice)?);
            continue;
        }
        sent += 1;
        named.push(match raw.next() {
            Some(raw) => raw_input(model, input, raw)?,
            // Counted below; typed contents beside raw ones have no place.
            None if is_raw => continue,
            None => typed_input(model, input)?,
        });
    }
    if is_raw && found != sent {
        return Err(Fault::RawCount {
            model: model.to_owned(),
            found,
            inputs: sent,
        }
        .into());
    }
    Ok(named)
}

/// The range of shared memory that an input names, where it names one.
fn shared_input(
    input: &InferInputTensor,
    regions: &SharedMemory,
) -> Result<Option<SharedSlice>, InferError> {
    match region("input", &input.name, &input.parameters)? {
        Some(range) => regions.input(range).map(Some),
        None => Ok(None),
    }
}

fn region_input(
    model: &str,
    input: InferInputTensor,
    slice: SharedSlice,
) -> Result<NamedInput, InferError> {
    if input.contents.is_some() {
        return Err(Fault::Payload {
            model: model.to_owned(),
            input: input.name,
            found: "in `contents` and in shared memory".to_owned(),
            expected: "one of them".to_owned(),
        }
        .into());
    }
    Ok(NamedInput {
        element: element(model, &input)?,
        shape: shape(model, &input)?,
        name: input.name,
        data: InputData::Shared(slice),
    })
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
        data: TensorData::Raw(raw).into(),
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
        data: contents::tensor_data(model, &input.name, element, contents)?.into(),
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

/// The range of shared memory that a tensor's parameters name.
fn region<'p>(
    what: &str,
    name: &str,
    parameters: &'p BTreeMap<String, proto::InferParameter>,
) -> Result<Option<RegionRange<'p>>, InferError> {
    let mut region = RegionParameters::default();
    for (parameter_name, value) in parameters {
        if let Some(value) = parameter(value) {
            region.set(what, name, parameter_name, value)?;
        }
    }
    region.range(what, name)
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
pub(super) fn reply(reply: Reply) -> Result<proto::ModelInferResponse, InferError> {
    let mut outputs = Vec::with_capacity(reply.outputs.len());
    let mut raw_output_contents = Vec::with_capacity(reply.outputs.len());
    for output in reply.outputs {
        let spec = &reply.model.outputs[output.index];
        // One entry for each output, and an empty one for what is not sent, as in Triton.
        let (raw, parameters) = match output.data {
            OutputData::Here(data) => (output_bytes(&reply.model, spec, data)?, BTreeMap::new()),
            OutputData::Region(written) => (Bytes::new(), written_parameters(&written)),
        };
        outputs.push(InferOutputTensor {
            name: spec.name.clone(),
            datatype: output.element.oip_name().to_owned(),
            shape: output
                .shape
                .iter()
                .map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX))
                .collect(),
            parameters,
            contents: None,
        });
        raw_output_contents.push(raw);
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

/// What a reply says of an output in shared memory.
fn written_parameters(written: &Written) -> BTreeMap<String, proto::InferParameter> {
    let text = |value: &str| ParameterChoice::StringParam(value.to_owned());
    let number = |value| ParameterChoice::Int64Param(i64::try_from(value).unwrap_or(i64::MAX));
    let mut parameters = vec![
        ("shared_memory_region", text(written.target.region())),
        ("shared_memory_byte_size", number(written.byte_size)),
    ];
    if written.target.offset() > 0 {
        parameters.push(("shared_memory_offset", number(written.target.offset())));
    }
    let parameters = parameters.into_iter().map(|(name, choice)| {
        let parameter = proto::InferParameter {
            parameter_choice: Some(choice),
        };
        (name.to_owned(), parameter)
    });
    parameters.collect()
}
