//! Reading the body of an inference request: JSON, then, where a header says so, the
//! binary data of the inputs in order.

use super::elements;
use crate::api::{
    NamedInput, ParameterValue, RegionParameters, RequestParameters, RequestedOutput, boolean,
    classes,
};
use crate::error::{Fault, InferError, ShapeText};
use crate::server::budget::Hold;
use crate::shm::{RegionRange, SharedMemory};
use bytes::Bytes;
use fugato_device::{ElementType, InputData, TensorData};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// A request as its body says it.
pub(super) struct ReadRequest {
    /// The client's name for it.
    pub(super) id: String,
    /// The inputs, in the client's order.
    pub(super) inputs: Vec<NamedInput>,
    /// The outputs asked for; empty asks for all.
    pub(super) outputs: Vec<RequestedOutput>,
    /// Which outputs to send as binary data.
    pub(super) binary: BinaryOutputs,
    /// The parameters of the whole request.
    pub(super) parameters: RequestParameters,
}

/// Which outputs to send as binary data.
pub(super) enum BinaryOutputs {
    /// Every output, or none.
    All(bool),
    /// One answer for each output asked for.
    Each(Vec<bool>),
}

impl BinaryOutputs {
    /// The answer for the output at `position` of the reply.
    pub(super) fn at(&self, position: usize) -> bool {
        match self {
            Self::All(binary) => *binary,
            Self::Each(each) => each.get(position).copied().unwrap_or(false),
        }
    }
}

#[derive(Deserialize)]
struct RequestJson<'a> {
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Parameters<'a>,
    #[serde(borrow)]
    inputs: Vec<InputJson<'a>>,
    #[serde(borrow, default)]
    outputs: Vec<OutputJson<'a>>,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Parameters<'a>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OutputJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Parameters<'a>,
}

/// A JSON object of parameters, in its own order.
#[derive(Default)]
pub(super) struct Parameters<'a>(pub(super) Vec<(Cow<'a, str>, Parameter<'a>)>);

/// The value of one.
pub(super) enum Parameter<'a> {
    Bool(bool),
    Integer(i128),
    Double(f64),
    Text(Cow<'a, str>),
}

impl Parameter<'_> {
    fn value(&self) -> ParameterValue<'_> {
        match self {
            Self::Bool(value) => ParameterValue::Bool(*value),
            Self::Integer(value) => ParameterValue::Integer(*value),
            Self::Double(value) => ParameterValue::Double(*value),
            Self::Text(value) => ParameterValue::Text(value),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Parameters<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Parameters<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of parameters")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    entries.push((name, map.next_value()?));
                }
                Ok(Parameters(entries))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A key that is borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Parameter<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl<'de> Visitor<'de> for Scalar {
            type Value = Parameter<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number or a boolean")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Parameter::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Parameter::Integer(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(Parameter::Integer(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                Ok(Parameter::Double(value))
            }

            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Parameter::Text(Cow::Borrowed(value)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(Parameter::Text(Cow::Owned(value.to_owned())))
            }
        }
        deserializer.deserialize_any(Scalar)
    }
}

/// Reads a request body whose first `header_length` bytes are JSON (all of them where
/// there is none). Binary data stays slices of the body; elements of JSON are counted in
/// `hold` before they are read.
///
/// # Errors
/// What the body itself gets wrong, and `QueueFull`; the model is not looked at.
pub(super) fn read(
    model: &str,
    body: Bytes,
    header_length: Option<usize>,
    hold: &Hold,
    regions: &SharedMemory,
) -> Result<ReadRequest, InferError> {
    let json_length = header_length.unwrap_or(body.len());
    if json_length > body.len() {
        return Err(Fault::Header {
            header: super::HEADER_LENGTH,
            found: json_length.to_string(),
            expected: format!("at most the body's {} bytes", body.len()),
        }
        .into());
    }
    let json: RequestJson<'_> = serde_json::from_slice(&body[..json_length]).map_err(|error| {
        InferError::from(Fault::Json {
            what: "an inference request",
            detail: error.to_string(),
        })
    })?;
    let mut parameters = RequestParameters::default();
    for (name, value) in &json.parameters.0 {
        parameters.set(name, value.value())?;
    }
    let mut binary = Binary {
        data: body.slice(json_length..),
        used: 0,
    };
    let mut inputs = Vec::with_capacity(json.inputs.len());
    for input in &json.inputs {
        inputs.push(binary.input(model, input, hold, regions)?);
    }
    binary.is_used_up()?;
    let (outputs, binary) = requested_outputs(json.outputs, parameters.binary_outputs, regions)?;
    Ok(ReadRequest {
        outputs,
        binary,
        id: json.id.into_owned(),
        inputs,
        parameters,
    })
}

/// The outputs asked for, and which of them as binary data; `default` is what the request
/// says of them all.
fn requested_outputs(
    outputs: Vec<OutputJson<'_>>,
    default: bool,
    regions: &SharedMemory,
) -> Result<(Vec<RequestedOutput>, BinaryOutputs), InferError> {
    if outputs.is_empty() {
        return Ok((Vec::new(), BinaryOutputs::All(default)));
    }
    let mut each = Vec::with_capacity(outputs.len());
    let mut requested = Vec::with_capacity(outputs.len());
    for output in outputs {
        let mut binary = default;
        let mut wanted = 0;
        let mut region = RegionParameters::default();
        for (name, value) in &output.parameters.0 {
            region.set("output", &output.name, name, value.value())?;
            match &**name {
                "binary_data" => {
                    let object = || format!("output `{}`", output.name);
                    binary = boolean(object, "binary_data", value.value())?;
                }
                "classification" => wanted = classes(&output.name, value.value())?,
                _ => {}
            }
        }
        each.push(binary);
        let range = region.range("output", &output.name)?;
        requested.push(RequestedOutput {
            classes: wanted,
            region: range.map(|range| regions.target(range)).transpose()?,
            name: output.name.into_owned(),
        });
    }
    Ok((requested, BinaryOutputs::Each(each)))
}

/// The binary part of a body, taken input by input.
struct Binary {
    data: Bytes,
    used: u64,
}

impl Binary {
    fn input(
        &mut self,
        model: &str,
        input: &InputJson<'_>,
        hold: &Hold,
        regions: &SharedMemory,
    ) -> Result<NamedInput, InferError> {
        let element = ElementType::from_oip_name(&input.datatype).ok_or_else(|| {
            InferError::from(Fault::TypeName {
                model: model.to_owned(),
                input: input.name.clone().into_owned(),
                found: input.datatype.clone().into_owned(),
            })
        })?;
        let shape: Vec<u64> = input
            .shape
            .iter()
            .map(|&dim| u64::try_from(dim))
            .collect::<Result<_, _>>()
            .map_err(|_| {
                InferError::from(Fault::Dimension {
                    model: model.to_owned(),
                    input: input.name.clone().into_owned(),
                    found: ShapeText::signed(&input.shape),
                })
            })?;
        let data = match (place(input)?, input.data) {
            (Place::Binary(size), None) => TensorData::Raw(self.take(size)?).into(),
            (Place::Region(range), None) => InputData::Shared(regions.input(range)?),
            (Place::Json, Some(data)) => {
                let data = data.get();
                hold.take(elements::memory_bound(element, data))?;
                elements::read(model, &input.name, element, &shape, data)?.into()
            }
            (place, _) => {
                let found = match place {
                    Place::Binary(_) => "in `data` and in the binary part",
                    Place::Region(_) => "in `data` and in shared memory",
                    Place::Json => "nowhere",
                };
                return Err(misplaced(model, input, found));
            }
        };
        Ok(NamedInput {
            name: input.name.clone().into_owned(),
            element,
            shape,
            data,
        })
    }

    fn take(&mut self, size: u64) -> Result<Bytes, InferError> {
        match usize::try_from(size) {
            Ok(length) if length <= self.data.len() => {
                self.used += size;
                Ok(self.data.split_to(length))
            }
            _ => Err(Fault::BinarySize {
                found: self.used + self.data.len() as u64,
                expected: format!("at least {}", self.used.saturating_add(size)),
            }
            .into()),
        }
    }

    fn is_used_up(&self) -> Result<(), InferError> {
        if self.data.is_empty() {
            return Ok(());
        }
        Err(Fault::BinarySize {
            found: self.used + self.data.len() as u64,
            expected: self.used.to_string(),
        }
        .into())
    }
}

/// Where an input's parameters say that its data are.
enum Place<'a> {
    /// In `data`.
    Json,
    /// In the binary part: so many bytes of it.
    Binary(u64),
    /// In shared memory.
    Region(RegionRange<'a>),
}

fn place<'a>(input: &'a InputJson<'_>) -> Result<Place<'a>, InferError> {
    let mut size = None;
    let mut region = RegionParameters::default();
    for (name, parameter) in &input.parameters.0 {
        let value = parameter.value();
        region.set("input", &input.name, name, value)?;
        if name != "binary_data_size" {
            continue;
        }
        let number = match *parameter {
            Parameter::Integer(number) => u64::try_from(number).ok(),
            Parameter::Bool(_) | Parameter::Double(_) | Parameter::Text(_) => None,
        };
        size = Some(number.ok_or_else(|| Fault::Parameter {
            object: format!("input `{}`", input.name),
            name: "binary_data_size",
            found: value.to_string(),
            expected: "a whole number of bytes",
        })?);
    }
    match (size, region.range("input", &input.name)?) {
        (None, None) => Ok(Place::Json),
        (Some(size), None) => Ok(Place::Binary(size)),
        (None, Some(range)) => Ok(Place::Region(range)),
        (Some(_), Some(_)) => Err(Fault::Parameter {
            object: format!("input `{}`", input.name),
            name: "binary_data_size",
            found: "beside `shared_memory_region`".to_owned(),
            expected: "one of them",
        }
        .into()),
    }
}

fn misplaced(model: &str, input: &InputJson<'_>, found: &str) -> InferError {
    Fault::Payload {
        model: model.to_owned(),
        input: input.name.clone().into_owned(),
        found: found.to_owned(),
        expected: "`data`, parameter `binary_data_size`, or shared memory".to_owned(),
    }
    .into()
}
