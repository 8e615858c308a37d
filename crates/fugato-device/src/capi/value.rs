//! Tensors of the runtime.

use super::{Memory, OrtError, check, default_allocator, element_of, onnx_of};
use crate::tensor::ElementType;
use bytes::Bytes;
use ort::sys::{self, ONNXTensorElementDataType as Onnx, ONNXType};
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

/// A tensor of the runtime, over its own memory or over ours.
pub(crate) struct Value(NonNull<sys::OrtValue>);

// SAFETY: an `OrtValue` is bound to no thread; `&Value` only reads it.
unsafe impl Send for Value {}
// SAFETY: as above.
unsafe impl Sync for Value {}

/// Element type and shape of a [`Value`].
#[derive(Debug)]
pub(crate) struct ValueShape {
    /// `None` where the protocol has no such type, or the value is no tensor.
    pub(crate) element: Option<ElementType>,
    pub(crate) dims: Vec<i64>,
}

impl ValueShape {
    /// The number of elements: the product of the dimensions, 1 for a scalar.
    pub(crate) fn elements(&self) -> usize {
        let dims = self.dims.iter();
        dims.map(|&dim| usize::try_from(dim).unwrap_or(0)).product()
    }
}

impl Value {
    /// A tensor over memory that the caller owns.
    ///
    /// # Safety
    /// `data .. data + byte_size` must stay valid until the value and every session and
    /// binding that was given it are dropped; writable where it is bound as an output.
    pub(crate) unsafe fn over(
        data: *mut u8,
        byte_size: usize,
        dims: &[i64],
        onnx: Onnx,
    ) -> Result<Self, OrtError> {
        // SAFETY: this function's contract.
        unsafe { Self::within(&Memory::new()?, data, byte_size, dims, onnx) }
    }

    /// A tensor over memory of an NVIDIA device, by its number and the memory's address there.
    ///
    /// # Safety
    /// As for [`over`](Self::over), of the device's memory.
    #[cfg(feature = "cuda")]
    pub(crate) unsafe fn over_cuda(
        device: i32,
        address: u64,
        byte_size: usize,
        dims: &[i64],
        onnx: Onnx,
    ) -> Result<Self, OrtError> {
        let data = address as *mut u8;
        // SAFETY: this function's contract.
        unsafe { Self::within(&Memory::of_cuda(device)?, data, byte_size, dims, onnx) }
    }

    /// # Safety
    /// As for [`over`](Self::over), of memory as it is described.
    unsafe fn within(
        memory: &Memory,
        data: *mut u8,
        byte_size: usize,
        dims: &[i64],
        onnx: Onnx,
    ) -> Result<Self, OrtError> {
        let mut value = null_mut();
        // SAFETY: the range is valid by this function's contract; the runtime copies
        // shape and memory description.
        check(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.0,
                data.cast::<c_void>(),
                byte_size,
                dims.as_ptr(),
                dims.len(),
                onnx,
                &mut value,
            )
        })?;
        Ok(Self::owned(value))
    }

    /// A tensor in the runtime's own memory, holding one string of any bytes per element.
    pub(crate) fn strings<'a>(
        dims: &[i64],
        strings: impl Iterator<Item = &'a Bytes>,
    ) -> Result<Self, OrtError> {
        let allocator = default_allocator()?;
        let mut value = null_mut();
        // SAFETY: the default allocator lives as long as the library.
        check(unsafe {
            (ort::api().CreateTensorAsOrtValue)(
                allocator,
                dims.as_ptr(),
                dims.len(),
                onnx_of(ElementType::Bytes),
                &mut value,
            )
        })?;
        let value = Self::owned(value);
        for (index, string) in strings.enumerate() {
            let mut buffer = null_mut();
            // SAFETY: the runtime refuses an index past the tensor's end; the buffer it
            // gives has room for `string.len()` bytes and is not used past this loop turn.
            unsafe {
                check((ort::api().GetResizedStringTensorElementBuffer)(
                    value.ptr(),
                    index,
                    string.len(),
                    &mut buffer,
                ))?;
                buffer
                    .cast::<u8>()
                    .copy_from_nonoverlapping(string.as_ptr(), string.len());
            }
        }
        Ok(value)
    }

    /// Takes over a value that the API has handed out.
    pub(super) fn owned(value: *mut sys::OrtValue) -> Self {
        Self(NonNull::new(value).expect("a call that succeeded gives a value"))
    }

    pub(super) fn ptr(&self) -> *mut sys::OrtValue {
        self.0.as_ptr()
    }

    /// Element type and shape.
    pub(crate) fn shape(&self) -> Result<ValueShape, OrtError> {
        let mut kind = ONNXType::ONNX_TYPE_UNKNOWN;
        // SAFETY: the value is alive and `kind` a valid place for the answer.
        check(unsafe { (ort::api().GetValueType)(self.ptr(), &mut kind) })?;
        if kind != ONNXType::ONNX_TYPE_TENSOR {
            return Ok(ValueShape {
                element: None,
                dims: Vec::new(),
            });
        }
        let mut info = null_mut();
        // SAFETY: as above; `info` is released below.
        check(unsafe { (ort::api().GetTensorTypeAndShape)(self.ptr(), &mut info) })?;
        // SAFETY: `info` was given by the call above.
        let shape = unsafe { tensor_shape(info) };
        // SAFETY: ours to release, once.
        unsafe { (ort::api().ReleaseTensorTypeAndShapeInfo)(info) };
        let (onnx, dims) = shape?;
        Ok(ValueShape {
            element: element_of(onnx),
            dims,
        })
    }

    /// The bytes of a tensor of fixed-size elements.
    pub(crate) fn raw(&self, shape: &ValueShape) -> Result<&[u8], OrtError> {
        let size = shape.element.and_then(ElementType::size);
        let byte_size = shape.elements() * size.expect("asked only of fixed-size elements");
        if byte_size == 0 {
            return Ok(&[]);
        }
        let mut data = null_mut();
        // SAFETY: the value is an alive tensor.
        check(unsafe { (ort::api().GetTensorMutableData)(self.ptr(), &mut data) })?;
        // SAFETY: the runtime has filled `byte_size` bytes there, which live as long as
        // the value and which nobody writes while it is borrowed.
        Ok(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), byte_size) })
    }

    /// The strings of a tensor of strings, all in one allocation.
    pub(crate) fn read_strings(&self, shape: &ValueShape) -> Result<Vec<Bytes>, OrtError> {
        let count = shape.elements();
        if count == 0 {
            return Ok(Vec::new());
        }
        let api = ort::api();
        let mut length = 0;
        // SAFETY: the value is an alive tensor of strings.
        check(unsafe { (api.GetStringTensorDataLength)(self.ptr(), &mut length) })?;
        let mut content = vec![0_u8; length];
        let mut offsets = vec![0_usize; count];
        // SAFETY: both buffers are of the lengths given.
        check(unsafe {
            (api.GetStringTensorContent)(
                self.ptr(),
                content.as_mut_ptr().cast::<c_void>(),
                length,
                offsets.as_mut_ptr(),
                count,
            )
        })?;
        let content = Bytes::from(content);
        let ends = offsets.iter().skip(1).copied().chain([length]);
        let strings = offsets.iter().zip(ends);
        Ok(strings
            .map(|(&start, end)| content.slice(start..end))
            .collect())
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: owned, and released only here.
        unsafe { (ort::api().ReleaseValue)(self.ptr()) }
    }
}

/// Element type and dimensions of a type-and-shape description (-1: varies).
///
/// # Safety
/// `info` must be valid.
pub(super) unsafe fn tensor_shape(
    info: *const sys::OrtTensorTypeAndShapeInfo,
) -> Result<(Onnx, Vec<i64>), OrtError> {
    let api = ort::api();
    let mut onnx = Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    let mut rank = 0;
    // SAFETY: `info` is valid by contract; each answer has a valid place of its size.
    unsafe {
        check((api.GetTensorElementType)(info, &mut onnx))?;
        check((api.GetDimensionsCount)(info, &mut rank))?;
        let mut dims = vec![0_i64; rank];
        check((api.GetDimensions)(info, dims.as_mut_ptr(), rank))?;
        Ok((onnx, dims))
    }
}
