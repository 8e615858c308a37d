//! ONNX Runtime's C API behind owned types.
//!
//! The safe half of crate `ort` cannot share initializers over mapped memory, cannot bind
//! an input without copying it, and takes `&mut` for a run that the C API allows from
//! many threads; this module holds just the calls that Fugato makes.
//!
//! **Invariant:** every handle is released once, by its owner's `Drop`, and a handle that
//! borrows memory states in its constructor's safety section who keeps that memory.

mod session;
mod value;

#[cfg(feature = "cuda")]
pub(crate) use session::RunOptions;
pub(crate) use session::{Binding, Options, Prepacked, Session, TypeInfo};
pub(crate) use value::{Value, ValueShape};

use crate::tensor::ElementType;
use ort::AsPointer;
use ort::sys::{self, ONNXTensorElementDataType as Onnx, OrtStatusPtr};

/// An error of the runtime: code and message.
pub(crate) type OrtError = ort::Error;

/// Takes a status over: `Err` where it is not null.
fn check(status: OrtStatusPtr) -> Result<(), OrtError> {
    // SAFETY: every caller passes the status that a call of the API has just returned,
    // and passes it on to nobody else.
    unsafe { OrtError::result_from_status(status) }
}

/// Silences messages below warnings: `ort` makes environments with a logger verbose.
pub(crate) fn log_warnings_only(
    environment: &ort::environment::Environment,
) -> Result<(), OrtError> {
    let level = sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
    // SAFETY: the environment lives through the call.
    check(unsafe { (ort::api().UpdateEnvWithCustomLogLevel)(environment.ptr().cast_mut(), level) })
}

/// Bytes that the pool of [`register_arena`] takes at first: of addresses, not of memory,
/// which comes with the first touch. One range for all makes sessions that take turns use
/// the same, warm memory (DenseNet-121 in 63 parts: 2.6 % over the model in one piece,
/// against 5.4 % where each size gets a range of its own); what does not fit gets more.
const ARENA_BYTES: usize = 64 << 20;

/// Makes a pool of CPU memory that belongs to the environment. It keeps what it has, which
/// is the most that its sessions needed at once.
pub(crate) fn register_arena(environment: &ort::environment::Environment) -> Result<(), OrtError> {
    let api = ort::api();
    let keys = [
        c"initial_chunk_size_bytes".as_ptr(),
        // 0: each further range is twice as large as the last.
        c"arena_extend_strategy".as_ptr(),
    ];
    let values = [ARENA_BYTES, 0];
    let memory = Memory::of(sys::OrtAllocatorType::OrtArenaAllocator)?;
    let mut settings = std::ptr::null_mut();
    // SAFETY: keys and values are of the length given; the settings are released below,
    // and the environment, which lives, copies them and the memory description.
    unsafe {
        check((api.CreateArenaCfgV2)(
            keys.as_ptr(),
            values.as_ptr(),
            keys.len(),
            &mut settings,
        ))?;
        let registered =
            (api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), memory.0, settings);
        (api.ReleaseArenaCfg)(settings);
        check(registered)
    }
}

/// ONNX's element type, where the Open Inference Protocol has it.
pub(crate) fn element_of(onnx: Onnx) -> Option<ElementType> {
    let mut known = ElementType::ALL.into_iter();
    known.find(|&element| onnx_of(element) == onnx)
}

/// The element type as ONNX numbers it.
pub(crate) fn onnx_of(element: ElementType) -> Onnx {
    match element {
        ElementType::Bool => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        ElementType::Uint8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        ElementType::Uint16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        ElementType::Uint32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        ElementType::Uint64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        ElementType::Int8 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        ElementType::Int16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        ElementType::Int32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        ElementType::Int64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        ElementType::Fp16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        ElementType::Bf16 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        ElementType::Fp32 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        ElementType::Fp64 => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        ElementType::Bytes => Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    }
}

/// Maps one of `TensorProto.DataType`'s numbers, which equal the C API's.
pub(crate) fn onnx_of_number(number: i32) -> Option<Onnx> {
    let fixed = ElementType::ALL
        .into_iter()
        .filter(|element| element.size().is_some());
    fixed.map(onnx_of).find(|onnx| *onnx as i32 == number)
}

/// A kind of memory, as the API describes it.
struct Memory(*mut sys::OrtMemoryInfo);

impl Memory {
    fn new() -> Result<Self, OrtError> {
        Self::of(sys::OrtAllocatorType::OrtDeviceAllocator)
    }

    /// The memory of an NVIDIA device.
    #[cfg(feature = "cuda")]
    fn of_cuda(device: i32) -> Result<Self, OrtError> {
        let mut info = std::ptr::null_mut();
        // SAFETY: `info` is a valid place for the answer; the name is copied.
        check(unsafe {
            (ort::api().CreateMemoryInfo)(
                c"Cuda".as_ptr(),
                sys::OrtAllocatorType::OrtDeviceAllocator,
                device,
                sys::OrtMemType::OrtMemTypeDefault,
                &mut info,
            )
        })?;
        Ok(Self(info))
    }

    fn of(allocator: sys::OrtAllocatorType) -> Result<Self, OrtError> {
        let mut info = std::ptr::null_mut();
        // SAFETY: `info` is a valid place for the answer.
        check(unsafe {
            (ort::api().CreateCpuMemoryInfo)(
                allocator,
                sys::OrtMemType::OrtMemTypeDefault,
                &mut info,
            )
        })?;
        Ok(Self(info))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: created by the API and released only here.
        unsafe { (ort::api().ReleaseMemoryInfo)(self.0) }
    }
}

/// The process's default allocator, which the API owns.
fn default_allocator() -> Result<*mut sys::OrtAllocator, OrtError> {
    let mut allocator = std::ptr::null_mut();
    // SAFETY: `allocator` is a valid place for the answer.
    check(unsafe { (ort::api().GetAllocatorWithDefaultOptions)(&mut allocator) })?;
    Ok(allocator)
}
