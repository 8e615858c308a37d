//! Output buffers: pooled, handed to the replies without a copy, and taken back when the
//! last reply lets go.

use crate::capi::{OrtError, Value, ValueShape, onnx_of};
use crate::tensor::ElementType;
use bytes::Bytes;
use memmap2::MmapMut;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The buffers of one output whose shape is known once the batch is.
pub(super) struct OutputPool {
    element: ElementType,
    /// The shape of one row (of the whole output, for a model without a batch).
    row_dims: Vec<i64>,
    row_bytes: usize,
    /// Whether the batch stands before `row_dims`.
    batched: bool,
    rows_max: usize,
    /// At most `free_max` buffers that nobody uses.
    free: Mutex<Vec<OutputBuffer>>,
    free_max: usize,
}

/// A buffer for `rows_max` rows, with the values made over it so far, by rows.
pub(super) struct OutputBuffer {
    values: HashMap<u32, Value>,
    memory: MmapMut,
}

/// What an [`OutputPool`] is made from.
pub(super) struct OutputShape {
    pub(super) element: ElementType,
    pub(super) row_dims: Vec<i64>,
    pub(super) batched: bool,
    pub(super) max_batch: u32,
}

impl OutputPool {
    /// A pool that keeps `free_max` buffers; `None` where a row has no bytes or too many
    /// to count.
    pub(super) fn new(shape: OutputShape, free_max: usize) -> Option<Arc<Self>> {
        let size = shape.element.size()?;
        let row_bytes = shape.row_dims.iter().try_fold(size, |bytes, &dim| {
            bytes.checked_mul(usize::try_from(dim).ok()?)
        })?;
        let rows_max = match shape.batched {
            true => usize::try_from(shape.max_batch).ok()?,
            false => 1,
        };
        (row_bytes.checked_mul(rows_max)? > 0).then(|| {
            Arc::new(Self {
                element: shape.element,
                row_dims: shape.row_dims,
                row_bytes,
                batched: shape.batched,
                rows_max,
                free: Mutex::default(),
                free_max,
            })
        })
    }

    /// A buffer nobody else uses.
    pub(super) fn take(&self) -> std::io::Result<OutputBuffer> {
        let free = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        match free {
            Some(buffer) => Ok(buffer),
            None => Ok(OutputBuffer {
                values: HashMap::new(),
                memory: MmapMut::map_anon(self.row_bytes * self.rows_max)?,
            }),
        }
    }

    /// Takes back a buffer that nobody uses.
    pub(super) fn give(&self, buffer: OutputBuffer) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.free_max {
            free.push(buffer);
        }
    }

    /// The value over the first `rows` rows of `buffer`.
    pub(super) fn value<'b>(
        &self,
        buffer: &'b mut OutputBuffer,
        rows: u32,
    ) -> Result<&'b Value, OrtError> {
        if !buffer.values.contains_key(&rows) {
            let dims = self.dims(rows);
            let bytes = self.byte_size(rows);
            let data = buffer.memory[..bytes].as_mut_ptr();
            // SAFETY: the memory is as long as the buffer, which owns the value and drops
            // it first; bindings are given other values before they run again.
            let value = unsafe { Value::over(data, bytes, &dims, onnx_of(self.element))? };
            buffer.values.insert(rows, value);
        }
        Ok(&buffer.values[&rows])
    }

    pub(super) fn dims(&self, rows: u32) -> Vec<i64> {
        let batch = self.batched.then_some(i64::from(rows));
        batch
            .into_iter()
            .chain(self.row_dims.iter().copied())
            .collect()
    }

    fn byte_size(&self, rows: u32) -> usize {
        let rows = if self.batched { rows as usize } else { 1 };
        self.row_bytes * rows
    }

    /// The first `rows` rows of a buffer that has been written, as shared bytes; the
    /// buffer comes back to the pool when the last of them is dropped.
    pub(super) fn lease(self: &Arc<Self>, buffer: OutputBuffer, rows: u32) -> Bytes {
        Bytes::from_owner(Lease {
            byte_size: self.byte_size(rows),
            buffer: Some(buffer),
            pool: Arc::clone(self),
        })
    }
}

struct Lease {
    buffer: Option<OutputBuffer>,
    byte_size: usize,
    pool: Arc<OutputPool>,
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        let buffer = self.buffer.as_ref();
        let buffer = buffer.expect("a lease holds its buffer until it is dropped");
        &buffer.memory[..self.byte_size]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give(buffer);
        }
    }
}

/// The bytes of a value that the runtime allocated, kept alive by whoever holds them.
pub(super) fn value_bytes(value: Value, shape: ValueShape) -> Result<Bytes, OrtError> {
    // Asked once here so that the owner's `as_ref` cannot fail.
    value.raw(&shape)?;
    Ok(Bytes::from_owner(Allocated { value, shape }))
}

struct Allocated {
    value: Value,
    shape: ValueShape,
}

impl AsRef<[u8]> for Allocated {
    fn as_ref(&self) -> &[u8] {
        self.value
            .raw(&self.shape)
            .expect("it was read when the owner was made")
    }
}
