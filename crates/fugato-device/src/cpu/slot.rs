//! A slot: the input buffers in which the requests of a task are written side by side,
//! and what its legs leave for each other.

use super::course::{Course, Kept};
use super::model::SessionKey;
use super::output::OutputBuffer;
use crate::capi::{Binding, OrtError, Value, onnx_of};
use crate::device::RequestInputs;
use crate::shared::{InputFault, SharedSlice};
use crate::tensor::{ElementType, InputData, InputTensor, TensorData, TensorSpec};
use fugato_core::{LegIndex, TaskId};
use memmap2::MmapMut;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Values kept per input buffer. A model with fixed shapes needs one per batch size; one
/// whose shapes vary could make one per request, so beyond this all are made anew.
const VALUES_MAX: usize = 256;

/// The buffers of one task in flight.
pub(super) struct Slot {
    /// One per input of the model.
    pub(super) inputs: Vec<InputBuffer>,
    /// By part: the bindings to its sessions that have run this slot.
    pub(super) bindings: Vec<Vec<Bound>>,
    /// What parts leave for later ones.
    pub(super) kept: KeptBuffers,
    /// By output of the model: what is there of it already.
    pub(super) outputs: Vec<Option<Held>>,
    /// The task between its legs.
    pub(super) flight: Option<Flight>,
}

/// A part's session, with what it reads and writes in this slot.
pub(super) struct Bound {
    pub(super) key: SessionKey,
    pub(super) binding: Binding,
    /// The rows that it is bound for, where all of it is in the slot's places: those stay
    /// where they are, so the same batch runs again as it is bound.
    pub(super) rows: Option<u32>,
}

/// A task that has begun and not ended.
///
/// One that is given up between legs stays here until it is let go of; the places of the
/// slot's own memory stay for its next task.
pub(super) struct Flight {
    pub(super) task: TaskId,
    /// The leg that comes next.
    pub(super) next: LegIndex,
    /// Items of the batch.
    pub(super) rows: u32,
    /// Items of each request.
    pub(super) items: Vec<u32>,
    /// Requests whose inputs could not be had, by place in the batch.
    pub(super) faults: Vec<(usize, InputFault)>,
}

/// An output of the model.
pub(super) enum Held {
    Pooled(OutputBuffer),
    /// In memory of the runtime's own.
    Allocated(Value),
}

impl Slot {
    pub(super) fn new(inputs: usize, outputs: usize, course: &Course) -> Self {
        let mut slot = Self {
            inputs: Vec::new(),
            bindings: Vec::new(),
            kept: KeptBuffers::new(course),
            outputs: Vec::new(),
            flight: None,
        };
        slot.inputs.resize_with(inputs, Default::default);
        slot.bindings
            .resize_with(course.parts.len(), Default::default);
        slot.outputs.resize_with(outputs, Default::default);
        slot
    }
}

/// The tensors between parts.
pub(super) struct KeptBuffers {
    /// By kept tensor: the values over its place, by rows; or the one that the runtime
    /// allocated.
    values: Vec<HashMap<u32, Value>>,
    allocated: Vec<Option<Value>>,
    memory: Option<MmapMut>,
    memory_size: usize,
}

impl KeptBuffers {
    fn new(course: &Course) -> Self {
        let count = course.kept.len();
        Self {
            values: (0..count).map(|_| HashMap::new()).collect(),
            allocated: (0..count).map(|_| None).collect(),
            memory: None,
            memory_size: course.memory_size,
        }
    }

    /// Lets go of what the runtime had allocated.
    pub(super) fn let_go(&mut self) {
        self.allocated.fill_with(|| None);
    }

    /// Makes the memory where there is none yet.
    pub(super) fn prepare(&mut self) -> std::io::Result<()> {
        if self.memory.is_none() && self.memory_size > 0 {
            self.memory = Some(MmapMut::map_anon(self.memory_size)?);
        }
        Ok(())
    }

    /// The value over the place of a tensor; `None` where it has none.
    pub(super) fn placed(
        &mut self,
        number: usize,
        kept: &Kept,
        rows: u32,
    ) -> Result<Option<&Value>, OrtError> {
        let (Some(place), Some(memory)) = (&kept.place, &mut self.memory) else {
            return Ok(None);
        };
        let value = match self.values[number].entry(rows) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let byte_size = place.byte_size(rows);
                let data = memory[place.offset..place.offset + byte_size].as_mut_ptr();
                let dims = place.dims(rows);
                // SAFETY: the memory is as long as this, which owns the values and is
                // dropped with them; a binding over it runs only while the slot is locked.
                let value = unsafe { Value::over(data, byte_size, &dims, place.element)? };
                vacant.insert(value)
            }
        };
        Ok(Some(value))
    }

    /// The tensor, which an earlier part has left.
    pub(super) fn left(
        &mut self,
        number: usize,
        kept: &Kept,
        rows: u32,
    ) -> Result<Option<&Value>, OrtError> {
        match kept.place {
            Some(_) => self.placed(number, kept, rows),
            None => Ok(self.allocated[number].as_ref()),
        }
    }

    /// Keeps a value that the runtime allocated.
    pub(super) fn keep(&mut self, number: usize, value: Value) {
        self.allocated[number] = Some(value);
    }

    /// Lets go of the values that the runtime allocated and no stage after this reads.
    pub(super) fn release(&mut self, kept: &[Kept], stage: usize) {
        for (value, kept) in self.allocated.iter_mut().zip(kept) {
            if kept.last_stage <= stage {
                *value = None;
            }
        }
    }
}

/// The memory of one input, and the values made over it so far, by shape.
#[derive(Default)]
pub(super) struct InputBuffer {
    values: HashMap<Vec<i64>, Value>,
    memory: Option<MmapMut>,
    current: Current,
}

/// The batch that an input holds.
#[derive(Default)]
enum Current {
    #[default]
    None,
    /// The value of these dimensions.
    Dims(Vec<i64>),
    /// Strings, which the runtime keeps.
    Strings(Value),
}

/// Why requests cannot be put into a batch.
#[derive(Debug, thiserror::Error)]
pub(super) enum GatherError {
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
pub(super) struct Column<'a> {
    pub(super) spec: &'a TensorSpec,
    pub(super) index: usize,
    pub(super) requests: &'a [RequestInputs],
    pub(super) batched: bool,
    /// Bytes to make room for where more will be needed later.
    pub(super) reserve: usize,
}

impl Column<'_> {
    fn tensors(&self) -> impl Iterator<Item = (usize, u32, &InputTensor)> {
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
    fn shape(&self) -> Result<Vec<i64>, GatherError> {
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
pub(super) struct Gathered {
    /// Bytes copied, those of failed requests included.
    pub(super) bytes_copied: u64,
    /// Requests without their elements, by place in the batch; their rows are zeros.
    pub(super) faults: Vec<(usize, InputFault)>,
}

impl InputBuffer {
    /// Writes the requests' tensors side by side.
    pub(super) fn gather(&mut self, column: &Column<'_>) -> Result<Gathered, GatherError> {
        let dims = column.shape()?;
        let Some(_) = column.spec.element.size() else {
            let (value, gathered) = gather_strings(column, &dims)?;
            self.current = Current::Strings(value);
            return Ok(gathered);
        };
        let total = column
            .tensors()
            .map(|(.., tensor)| tensor.data.byte_size())
            .sum();
        self.reserve(column, total)?;
        let mut faults = Vec::new();
        let mut rest = self.memory.as_deref_mut().unwrap_or_default();
        for (number, _, tensor) in column.tensors() {
            let (place, after) = rest.split_at_mut(tensor.data.byte_size());
            rest = after;
            match &tensor.data {
                InputData::Here(TensorData::Raw(bytes)) => place.copy_from_slice(bytes),
                InputData::Shared(slice) => {
                    if let Err(fault) = column.read_shared(slice, place) {
                        place.fill(0);
                        faults.push((number, fault));
                    }
                }
                InputData::Here(TensorData::Strings(_)) => {
                    unreachable!("the column's shape was checked against its type")
                }
            }
        }
        self.make_value(column.spec.element, dims, total)?;
        Ok(Gathered {
            bytes_copied: total as u64,
            faults,
        })
    }

    /// Makes room for `total` bytes.
    fn reserve(&mut self, column: &Column<'_>, total: usize) -> Result<(), GatherError> {
        let held = self.memory.as_ref().map_or(0, |memory| memory.len());
        if total > held {
            // Values over the old memory must not outlive it.
            self.values.clear();
            let room = MmapMut::map_anon(total.max(column.reserve));
            self.memory = Some(room.map_err(|source| GatherError::Memory {
                input: column.spec.name.clone(),
                source,
            })?);
        }
        Ok(())
    }

    /// What the requests' tensors were written to.
    pub(super) fn value(&self) -> Option<&Value> {
        match &self.current {
            Current::None => None,
            Current::Dims(dims) => self.values.get(dims),
            Current::Strings(value) => Some(value),
        }
    }

    fn make_value(
        &mut self,
        element: ElementType,
        dims: Vec<i64>,
        total: usize,
    ) -> Result<(), OrtError> {
        if self.values.len() >= VALUES_MAX && !self.values.contains_key(&dims) {
            self.values.clear();
        }
        if !self.values.contains_key(&dims) {
            // A tensor of no elements has no memory, but the runtime wants an address.
            let data = match &mut self.memory {
                Some(memory) => memory.as_mut_ptr(),
                None => std::ptr::NonNull::<u128>::dangling().as_ptr().cast(),
            };
            // SAFETY: `total` bytes from `data` are this buffer's memory, which is
            // replaced only after its values are dropped; a binding that still names a
            // dropped value is given another before it runs.
            let value = unsafe { Value::over(data, total, &dims, onnx_of(element))? };
            self.values.insert(dims.clone(), value);
        }
        self.current = Current::Dims(dims);
        Ok(())
    }

    /// Whether `data` points into this buffer.
    pub(super) fn contains(&self, data: &[u8]) -> bool {
        let range = self.memory.as_ref().map(|memory| memory.as_ptr_range());
        !data.is_empty() && range.is_some_and(|range| range.contains(&data.as_ptr()))
    }
}

fn gather_strings(column: &Column<'_>, dims: &[i64]) -> Result<(Value, Gathered), GatherError> {
    let strings = column
        .tensors()
        .flat_map(|(.., tensor)| match &tensor.data {
            InputData::Here(TensorData::Strings(strings)) => strings.iter(),
            InputData::Here(TensorData::Raw(_)) | InputData::Shared(_) => [].iter(),
        });
    let value = Value::strings(dims, strings)?;
    let bytes = column.tensors().map(|(.., tensor)| tensor.data.byte_size());
    let gathered = Gathered {
        bytes_copied: bytes.sum::<usize>() as u64,
        faults: Vec::new(),
    };
    Ok((value, gathered))
}
