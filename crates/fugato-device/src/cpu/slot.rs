//! A slot: the input buffers in which the requests of a task are written side by side,
//! and what its legs leave for each other.

use super::model::SessionKey;
use super::output::OutputBuffer;
use crate::batch::{Column, GatherError, Gathered};
use crate::capi::{Binding, OrtError, Value, onnx_of};
use crate::course::{Course, Kept};
use crate::flight::Flight;
use crate::tensor::{ElementType, InputData, TensorData};
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
        let memory = self.memory.as_deref_mut().unwrap_or_default();
        let gathered = column.write_into(memory);
        self.make_value(column.spec.element, dims, total)?;
        Ok(gathered)
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
