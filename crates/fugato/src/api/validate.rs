//! The check of a request against its model, the same for both protocols.

use super::{InferRequest, ModelInfo, NamedInput, RequestedOutput, ShapeSignature, ValidRequest};
use crate::error::{Fault, InferError, ShapeText};
use bytes::{Buf as _, Bytes};
use fugato_device::{ElementType, InputData, InputTensor, TensorData, TensorSpec};

/// Checks a request against its model and brings it into the model's order.
///
/// # Errors
/// The first fault found, naming the object, what was found and what was expected. Kinds:
/// `UnknownInput`, `MissingInput`, `DuplicateName`, `InvalidShape`, `InvalidType`,
/// `InvalidByteCount`, `InvalidValue`, `UnknownOutput`; for strings in shared memory also
/// `RegionShort` and `InvalidRegion`.
///
/// # Cost
/// O(inputs of the model) plus, for `BOOL` and `BYTES`, one pass over the data; payloads
/// are shared, never copied, but for strings in shared memory: a client may write to it
/// while they are taken apart.
pub fn validate(info: &ModelInfo, request: InferRequest) -> Result<ValidRequest, InferError> {
    let outputs = select_outputs(info, &request.outputs)?;
    let mut slots: Vec<Option<InputTensor>> = info.inputs.iter().map(|_| None).collect();
    let mut batch = None;
    for input in request.inputs {
        let (index, spec) = find_input(info, &input.name)?;
        if slots[index].is_some() {
            return Err(Fault::DuplicateName {
                model: info.name.clone(),
                what: "input",
                name: input.name,
            }
            .into());
        }
        let tensor = Check { info, spec }.tensor(input)?;
        agree_on_batch(info, &mut batch, index, &tensor)?;
        slots[index] = Some(tensor);
    }
    let inputs = slots
        .into_iter()
        .zip(&info.inputs)
        .map(|(slot, spec)| slot.ok_or_else(|| missing(info, spec)))
        .collect::<Result<Vec<_>, InferError>>()?;
    let items = batch.map_or(1, |(_, items)| items);
    Ok(ValidRequest {
        items: u32::try_from(items).unwrap_or(u32::MAX),
        bytes: inputs.iter().map(|input| held_bytes(&input.data)).sum(),
        shape: signature(info, &inputs),
        inputs: inputs.into(),
        outputs,
    })
}

fn find_input<'a>(info: &'a ModelInfo, name: &str) -> Result<(usize, &'a TensorSpec), InferError> {
    info.inputs
        .iter()
        .enumerate()
        .find(|(_, spec)| spec.name == name)
        .ok_or_else(|| {
            Fault::UnknownInput {
                model: info.name.clone(),
                input: name.to_owned(),
                expected: names(&info.inputs),
            }
            .into()
        })
}

fn missing(info: &ModelInfo, spec: &TensorSpec) -> InferError {
    Fault::MissingInput {
        model: info.name.clone(),
        input: spec.name.clone(),
        expected: names(&info.inputs),
    }
    .into()
}

fn names(specs: &[TensorSpec]) -> Vec<String> {
    specs.iter().map(|spec| spec.name.clone()).collect()
}

fn select_outputs(
    info: &ModelInfo,
    wanted: &[RequestedOutput],
) -> Result<Box<[usize]>, InferError> {
    if wanted.is_empty() {
        return Ok((0..info.outputs.len()).collect());
    }
    let mut selected = Vec::with_capacity(wanted.len());
    for RequestedOutput { name, .. } in wanted {
        let index = info
            .outputs
            .iter()
            .position(|spec| spec.name == *name)
            .ok_or_else(|| Fault::UnknownOutput {
                model: info.name.clone(),
                output: name.clone(),
                expected: names(&info.outputs),
            })?;
        if selected.contains(&index) {
            return Err(Fault::DuplicateName {
                model: info.name.clone(),
                what: "output",
                name: name.clone(),
            }
            .into());
        }
        selected.push(index);
    }
    Ok(selected.into())
}

/// Every input of a batching model brings the same number of rows; `batch` holds the index
/// and rows of the first input seen.
fn agree_on_batch(
    info: &ModelInfo,
    batch: &mut Option<(usize, u64)>,
    index: usize,
    tensor: &InputTensor,
) -> Result<(), InferError> {
    let rows = match tensor.shape.first() {
        Some(&rows) if info.max_batch_size > 0 => rows,
        _ => return Ok(()),
    };
    match *batch {
        None => *batch = Some((index, rows)),
        Some((_, expected)) if expected == rows => {}
        Some((first, expected)) => {
            return Err(Fault::BatchMismatch {
                model: info.name.clone(),
                input: info.inputs[index].name.clone(),
                first: info.inputs[first].name.clone(),
                found: rows,
                expected,
            }
            .into());
        }
    }
    Ok(())
}

/// The dimensions past the batch dimension of every input.
fn signature(info: &ModelInfo, inputs: &[InputTensor]) -> ShapeSignature {
    let skip = usize::from(info.max_batch_size > 0);
    let dims = inputs
        .iter()
        .flat_map(|input| input.shape.iter().skip(skip).copied());
    ShapeSignature(dims.collect())
}

/// Memory that an input holds: its payload, and for strings their handles. What is in a
/// client's memory takes none of the server's until it runs.
fn held_bytes(data: &InputData) -> u64 {
    let held = match data {
        InputData::Here(TensorData::Raw(raw)) => raw.len(),
        InputData::Here(TensorData::Strings(strings)) => {
            data.byte_size() + strings.len() * size_of::<Bytes>()
        }
        InputData::Shared(_) => 0,
    };
    held as u64
}

/// The check of one input.
struct Check<'a> {
    info: &'a ModelInfo,
    spec: &'a TensorSpec,
}

impl Check<'_> {
    fn tensor(&self, input: NamedInput) -> Result<InputTensor, InferError> {
        if input.element != self.spec.element {
            return Err(Fault::Type {
                model: self.model(),
                input: self.input(),
                found: input.element,
                expected: self.spec.element,
            }
            .into());
        }
        self.shape(&input.shape)?;
        let elements = self.element_count(&input.shape)?;
        let data = match (input.data, input.element.size()) {
            (InputData::Here(TensorData::Raw(raw)), Some(size)) => {
                self.byte_count(raw.len(), elements, size as u64, &input.shape)?;
                self.booleans(&raw)?;
                TensorData::Raw(raw).into()
            }
            (InputData::Shared(slice), Some(size)) => {
                self.byte_count(slice.length, elements, size as u64, &input.shape)?;
                InputData::Shared(slice)
            }
            (InputData::Here(TensorData::Raw(raw)), None) => {
                TensorData::Strings(self.strings(raw, elements, &input.shape)?).into()
            }
            (InputData::Shared(slice), None) => {
                let copy = slice.read();
                let raw = copy.map_err(|fault| InferError::input_fault(self.model(), fault))?;
                TensorData::Strings(self.strings(raw, elements, &input.shape)?).into()
            }
            (InputData::Here(TensorData::Strings(strings)), None) => {
                self.string_count(strings.len() as u64, elements, &input.shape)?;
                TensorData::Strings(strings).into()
            }
            (InputData::Here(TensorData::Strings(_)), Some(_)) => {
                return Err(Fault::Payload {
                    model: self.model(),
                    input: self.input(),
                    found: "as strings".to_owned(),
                    expected: self.spec.element.to_string(),
                }
                .into());
            }
        };
        Ok(InputTensor {
            shape: input.shape,
            data,
        })
    }

    /// Rank, fixed dimensions, no empty dimension, and the batch limit.
    fn shape(&self, shape: &[u64]) -> Result<(), InferError> {
        if shape
            .iter()
            .any(|&dim| i64::try_from(dim).is_err() || dim == 0)
        {
            return Err(Fault::Dimension {
                model: self.model(),
                input: self.input(),
                found: ShapeText::found(shape),
            }
            .into());
        }
        let fits = shape.len() == self.spec.shape.len()
            && shape
                .iter()
                .zip(&self.spec.shape)
                .all(|(&found, expected)| expected.is_none_or(|size| size == found));
        if !fits {
            return Err(Fault::Shape {
                model: self.model(),
                input: self.input(),
                found: ShapeText::found(shape),
                expected: ShapeText::declared(self.spec),
            }
            .into());
        }
        let limit = self.info.max_batch_size;
        match shape.first() {
            Some(&batch) if limit > 0 && batch > u64::from(limit) => Err(Fault::BatchTooLarge {
                model: self.model(),
                input: self.input(),
                found: ShapeText::found(shape),
                batch,
                limit,
            }
            .into()),
            _ => Ok(()),
        }
    }

    fn element_count(&self, shape: &[u64]) -> Result<u64, InferError> {
        // A byte count must also fit, so that sizes downstream cannot overflow.
        let width = self.spec.element.size().unwrap_or(1) as u64;
        shape
            .iter()
            .try_fold(1u64, |product, &dim| product.checked_mul(dim))
            .filter(|elements| {
                elements
                    .checked_mul(width)
                    .is_some_and(|bytes| isize::try_from(bytes).is_ok())
            })
            .ok_or_else(|| {
                Fault::ShapeOverflow {
                    model: self.model(),
                    input: self.input(),
                    found: ShapeText::found(shape),
                    element: self.spec.element,
                }
                .into()
            })
    }

    fn byte_count(
        &self,
        found: usize,
        elements: u64,
        size: u64,
        shape: &[u64],
    ) -> Result<(), InferError> {
        let expected = elements * size;
        if found as u64 != expected {
            return Err(Fault::ByteCount {
                model: self.model(),
                input: self.input(),
                found: found as u64,
                expected,
                element: self.spec.element,
                shape: ShapeText::found(shape),
            }
            .into());
        }
        Ok(())
    }

    fn booleans(&self, raw: &[u8]) -> Result<(), InferError> {
        if self.spec.element == ElementType::Bool
            && let Some(index) = raw.iter().position(|&byte| byte > 1)
        {
            return Err(Fault::Element {
                model: self.model(),
                input: self.input(),
                index,
                found: raw[index].to_string(),
                expected: "a BOOL of 0 or 1".to_owned(),
            }
            .into());
        }
        Ok(())
    }

    fn string_count(&self, found: u64, expected: u64, shape: &[u64]) -> Result<(), InferError> {
        if found == expected {
            return Ok(());
        }
        Err(Fault::ElementCount {
            model: self.model(),
            input: self.input(),
            found,
            expected,
            shape: ShapeText::found(shape),
        }
        .into())
    }

    /// Takes the serialised form of strings apart, sharing its bytes.
    fn strings(
        &self,
        mut raw: Bytes,
        expected: u64,
        shape: &[u64],
    ) -> Result<Vec<Bytes>, InferError> {
        // Every string takes at least its length, so the payload bounds the allocation.
        let bound = (raw.len() as u64 / 4).min(expected);
        let mut strings = Vec::with_capacity(usize::try_from(bound).unwrap_or(0));
        while !raw.is_empty() {
            if strings.len() as u64 == expected {
                // Counting on costs no more than the payload's own length.
                return self
                    .string_count(expected + 1, expected, shape)
                    .map(|()| strings);
            }
            let cut_short = |length: u64, left: usize| Fault::StringLength {
                model: self.model(),
                input: self.input(),
                index: strings.len(),
                length,
                left: left as u64,
            };
            if raw.len() < 4 {
                return Err(cut_short(4, raw.len()).into());
            }
            let length = raw.get_u32_le();
            if raw.len() < length as usize {
                return Err(cut_short(u64::from(length), raw.len()).into());
            }
            strings.push(raw.split_to(length as usize));
        }
        self.string_count(strings.len() as u64, expected, shape)?;
        Ok(strings)
    }

    fn model(&self) -> String {
        self.info.name.clone()
    }

    fn input(&self) -> String {
        self.spec.name.clone()
    }
}

#[cfg(test)]
mod tests;
