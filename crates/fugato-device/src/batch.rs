//! A batch: requests put side by side, and results divided among them again. All devices
//! that compute do so alike.

use crate::capi::OrtError;
use crate::device::{Batches, LegWork, RequestInputs, RunErrorKind, TaskOutputs};
use crate::shared::{InputFault, SharedSlice};
use crate::store::{Batching, LoadCause, ModelInfo, fixed_first_dimension};
use crate::tensor::{ElementType, InputData, InputTensor, OutputTensor, TensorData, TensorSpec};
use std::sync::Arc;

/// Why a leg failed.
pub(crate) type Failed = (RunErrorKind, String);

/// What a loaded model takes.
pub(crate) struct BatchLimits {
    pub(crate) legs: usize,
    /// Whether a task can run in one go besides.
    pub(crate) unsplit: bool,
    pub(crate) slots: usize,
    pub(crate) max_batch: u32,
    pub(crate) batched: bool,
    pub(crate) inputs: usize,
}

impl BatchLimits {
    /// Refuses a leg that is not of this shape.
    pub(crate) fn check(&self, work: &LegWork) -> Result<(), Failed> {
        let invalid = |detail| Err((RunErrorKind::InvalidInput, detail));
        let (start, requests) = (&work.start, &work.requests);
        let items: u64 = requests
            .iter()
            .map(|request| u64::from(request.items))
            .sum();
        let legs = self.legs;
        if usize::from(start.leg.0) >= legs {
            return invalid(format!(
                "the model's plan has {legs} legs, not a {}",
                start.leg
            ));
        }
        if usize::from(start.slot.0) >= self.slots {
            let slots = self.slots;
            return invalid(format!("the model has {slots} slots, not a {}", start.slot));
        }
        if start.unsplit && (!self.unsplit || usize::from(start.leg.0) + 1 != legs) {
            return invalid(format!(
                "a task was started in one go with {}, of a model of {legs} legs that {}",
                start.leg,
                if self.unsplit { "can" } else { "cannot" }
            ));
        }
        if start.leg.0 > 0 && !start.unsplit {
            return match requests.len() {
                0 => Ok(()),
                found => invalid(format!("{found} requests came with {}", start.leg)),
            };
        }
        if items != u64::from(start.batch.0) || items == 0 {
            let batch = start.batch;
            return invalid(format!("{items} items were given for a {batch}"));
        }
        if start.batch.0 > self.max_batch {
            let most = self.max_batch;
            return invalid(format!("{} is above the most, {most}", start.batch));
        }
        if !self.batched && requests.len() != 1 {
            return invalid("requests of this model cannot share a run".to_owned());
        }
        let inputs = self.inputs;
        match requests
            .iter()
            .find(|request| request.inputs.len() != inputs)
        {
            Some(request) => {
                let found = request.inputs.len();
                invalid(format!("a request has {found} inputs, expected {inputs}"))
            }
            None => Ok(()),
        }
    }
}

/// Whether requests of the model share runs under these options.
pub(crate) fn batched(
    info: &ModelInfo,
    max_batch: u32,
    batches: Batches,
) -> Result<bool, LoadCause> {
    let assume = batches == Batches::Vouched;
    match &info.batching {
        _ if batches == Batches::Never => match max_batch {
            1 => Ok(false),
            _ => Err(LoadCause::NotBatchable {
                max_batch,
                reason: "no first dimension is to be taken for a batch".to_owned(),
            }),
        },
        Batching::Batchable => Ok(true),
        Batching::Single { reason } if max_batch > 1 || assume => {
            let fixed = fixed_first_dimension(&info.inputs, &info.outputs);
            let reason = match (assume, fixed) {
                (true, None) => return Ok(true),
                (true, Some(fixed)) => fixed,
                (false, _) => reason.clone(),
            };
            Err(LoadCause::NotBatchable { max_batch, reason })
        }
        Batching::Single { .. } => Ok(false),
    }
}

/// Bytes of an input at the largest batch; 0 where its shape is not known.
pub(crate) fn full_bytes(spec: &TensorSpec, batched: bool, max_batch: u32) -> usize {
    let (batch, rest) = match batched {
        true => (u64::from(max_batch), &spec.shape[1..]),
        false => (1, &spec.shape[..]),
    };
    let size = spec.element.size().unwrap_or(0) as u64;
    let bytes = rest
        .iter()
        .try_fold(batch.checked_mul(size), |bytes, &dim| {
            Some(bytes.and_then(|bytes| bytes.checked_mul(dim?)))
        });
    let bytes = bytes.flatten().unwrap_or(0);
    usize::try_from(bytes).unwrap_or(0)
}

/// An item of zeros for each of `inputs`; `None` where a shape is not known.
pub(crate) fn zeros<'a>(
    inputs: impl Iterator<Item = &'a TensorSpec>,
    batched: bool,
) -> Option<Arc<[InputTensor]>> {
    let zeros = inputs.map(|spec| {
        let dims = spec.shape.iter().enumerate();
        let dims = dims.map(|(axis, &dim)| match (axis, batched) {
            (0, true) => Some(1),
            _ => dim,
        });
        let shape = dims.collect::<Option<Vec<u64>>>()?;
        let elements = shape.iter().product::<u64>();
        let bytes = usize::try_from(elements).ok()? * spec.element.size()?;
        let data = TensorData::Raw(vec![0; bytes].into());
        Some(InputTensor {
            shape,
            data: data.into(),
        })
    });
    zeros.collect()
}

/// Why requests cannot be put into a batch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatherError {
    #[error("input `{input}` of request {request} {found}, expected {expected}")]
    Mismatch {
        input: String,
        request: usize,
        found: String,
        expected: String,
    },
    #[error("memory for input `{input}`: {source}")]
    Memory {
        input: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Runtime(#[from] OrtError),
}

/// One input of all requests of a task.
pub(crate) struct Column<'a> {
    pub(crate) spec: &'a TensorSpec,
    pub(crate) index: usize,
    pub(crate) requests: &'a [RequestInputs],
    pub(crate) batched: bool,
    /// Bytes to make room for where more will be needed later.
    pub(crate) reserve: usize,
}

impl Column<'_> {
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (usize, u32, &InputTensor)> {
        let requests = self.requests.iter().enumerate();
        requests.map(|(number, request)| (number, request.items, &request.inputs[self.index]))
    }

    fn mismatch(&self, request: usize, found: String, expected: String) -> GatherError {
        GatherError::Mismatch {
            input: self.spec.name.clone(),
            request,
            found,
            expected,
        }
    }

    /// The shape of all requests together, after checking each of them.
    pub(crate) fn shape(&self) -> Result<Vec<i64>, GatherError> {
        let mut rows = 0_u64;
        let mut first: Option<&[u64]> = None;
        for (number, items, tensor) in self.tensors() {
            let rest = match self.batched {
                false => &tensor.shape[..],
                true if tensor.shape.first() == Some(&u64::from(items)) => &tensor.shape[1..],
                true => {
                    let found = format!("has shape {:?}", tensor.shape);
                    return Err(self.mismatch(number, found, format!("{items} rows")));
                }
            };
            if let Some(first) = first
                && first != rest
            {
                let found = format!("has rows of shape {rest:?}");
                let expected = format!("{first:?} as in request 0");
                return Err(self.mismatch(number, found, expected));
            }
            first = Some(rest);
            rows += u64::from(items);
            self.check_payload(number, tensor)?;
        }
        let batch = self.batched.then_some(rows);
        let dims = batch
            .into_iter()
            .chain(first.unwrap_or_default().iter().copied());
        let signed = |dim: u64| {
            i64::try_from(dim).map_err(|_| {
                self.mismatch(
                    0,
                    format!("has dimension {dim}"),
                    "a dimension that fits".into(),
                )
            })
        };
        dims.map(signed).collect()
    }

    /// Checks that the payload has just the elements that the shape says.
    fn check_payload(&self, number: usize, tensor: &InputTensor) -> Result<(), GatherError> {
        let elements = tensor.shape.iter().try_fold(1_usize, |product, &dim| {
            product.checked_mul(usize::try_from(dim).ok()?)
        });
        let byte_count = |size| elements.and_then(|elements| elements.checked_mul(size));
        let (found, expected, unit) = match (&tensor.data, self.spec.element.size()) {
            (InputData::Here(TensorData::Raw(bytes)), Some(size)) => {
                (bytes.len(), byte_count(size), "bytes")
            }
            (InputData::Shared(slice), Some(size)) => (slice.length, byte_count(size), "bytes"),
            (InputData::Here(TensorData::Strings(strings)), None) => {
                (strings.len(), elements, "strings")
            }
            (InputData::Here(TensorData::Raw(_)) | InputData::Shared(_), None)
            | (InputData::Here(TensorData::Strings(_)), Some(_)) => {
                let found = "has elements of another type".to_owned();
                return Err(self.mismatch(number, found, self.spec.element.to_string()));
            }
        };
        if expected != Some(found) {
            let expected = expected.map_or("fewer elements".to_owned(), |expected| {
                format!("{expected} for shape {:?}", tensor.shape)
            });
            return Err(self.mismatch(number, format!("has {found} {unit}"), expected));
        }
        if let (ElementType::Bool, InputData::Here(TensorData::Raw(bytes))) =
            (self.spec.element, &tensor.data)
            && let Some(other) = bytes.iter().find(|&&byte| byte > 1)
        {
            let expected = "0 or 1 for BOOL".to_owned();
            return Err(self.mismatch(number, format!("has a byte {other}"), expected));
        }
        Ok(())
    }

    /// Writes the tensors side by side into `memory`, which is large enough. The shape has
    /// been checked.
    pub(crate) fn write_into(&self, memory: &mut [u8]) -> Gathered {
        let mut gathered = Gathered::default();
        let mut rest = memory;
        for (number, _, tensor) in self.tensors() {
            let (place, after) = rest.split_at_mut(tensor.data.byte_size());
            rest = after;
            gathered.bytes_copied += place.len() as u64;
            match &tensor.data {
                InputData::Here(TensorData::Raw(bytes)) => place.copy_from_slice(bytes),
                InputData::Shared(slice) => {
                    if let Err(fault) = self.read_shared(slice, place) {
                        place.fill(0);
                        gathered.faults.push((number, fault));
                    }
                }
                InputData::Here(TensorData::Strings(_)) => {
                    unreachable!("the column's shape was checked against its type")
                }
            }
        }
        gathered
    }

    /// Reads a client's memory into the batch. What its type cannot have is looked for in
    /// the copy, since the client may write to its memory at any time.
    fn read_shared(&self, slice: &SharedSlice, place: &mut [u8]) -> Result<(), InputFault> {
        slice.read_into(place)?;
        if self.spec.element == ElementType::Bool
            && let Some(index) = place.iter().position(|&byte| byte > 1)
        {
            return Err(InputFault::Bool {
                input: self.spec.name.clone(),
                index,
                found: place[index],
            });
        }
        Ok(())
    }
}

/// What a gathering of one input came to.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Bytes copied, those of failed requests included.
    pub(crate) bytes_copied: u64,
    /// Requests without their elements, by place in the batch; their rows are zeros.
    pub(crate) faults: Vec<(usize, InputFault)>,
}

/// What a failed gathering is to the task.
pub(crate) fn gather_failure(error: GatherError) -> Failed {
    let kind = match &error {
        GatherError::Mismatch { .. } => RunErrorKind::InvalidInput,
        GatherError::Memory { .. } | GatherError::Runtime(_) => RunErrorKind::Runtime,
    };
    (kind, error.to_string())
}

/// The first fault of each request, where every request has one: there is nothing to run.
pub(crate) fn all_faulty(
    faults: &[(usize, InputFault)],
    requests: usize,
) -> Option<Vec<Result<Vec<OutputTensor>, InputFault>>> {
    if faults.is_empty() {
        return None;
    }
    let first = |request| {
        let mut of = faults.iter().filter(|(number, _)| *number == request);
        of.next().map(|(_, fault)| Err(fault.clone()))
    };
    (0..requests).map(first).collect()
}

/// Divides the outputs of a batch among its requests, of `items` each, and puts the first
/// fault of a request in the place of its outputs. No items: a model without a batch, run for
/// one request.
pub(crate) fn divide<'a>(
    items: Option<&[u32]>,
    (outputs, name): (Vec<OutputTensor>, impl Fn(usize) -> &'a str),
    faults: Vec<(usize, InputFault)>,
) -> Result<TaskOutputs, Failed> {
    let mut divided = match items {
        None => vec![Ok(outputs)],
        Some(items) => {
            let batch = items.iter().sum();
            for (number, output) in outputs.iter().enumerate() {
                if output.shape.first() != Some(&u64::from(batch)) {
                    let (name, shape) = (name(number), &output.shape);
                    let detail = format!(
                        "output `{name}` has shape {shape:?}, expected {batch} rows; hint: the \
                         model does not keep its batch dimension, so serve it with max_batch 1"
                    );
                    return Err((RunErrorKind::OutputShape, detail));
                }
            }
            let mut first = 0;
            let requests = items.iter().map(|&rows| {
                let part = outputs
                    .iter()
                    .map(|output| rows_of(output, first, rows, batch));
                let part = part.collect();
                first += rows;
                Ok(part)
            });
            requests.collect()
        }
    };
    // The first fault of a request is what its client sees.
    for (request, fault) in faults.into_iter().rev() {
        divided[request] = Err(fault);
    }
    Ok(TaskOutputs { requests: divided })
}

/// Rows `first .. first + rows` of an output of `batch` rows.
fn rows_of(output: &OutputTensor, first: u32, rows: u32, batch: u32) -> OutputTensor {
    let (first, rows, batch) = (first as usize, rows as usize, batch as usize);
    let mut shape = output.shape.clone();
    shape[0] = rows as u64;
    let data = match &output.data {
        TensorData::Raw(bytes) => {
            let row = bytes.len() / batch;
            TensorData::Raw(bytes.slice(first * row..(first + rows) * row))
        }
        TensorData::Strings(strings) => {
            let row = strings.len() / batch;
            TensorData::Strings(strings[first * row..(first + rows) * row].to_vec())
        }
    };
    OutputTensor { shape, data }
}
