//! Sessions, their options and their bindings.

mod placed;

use super::value::tensor_shape;
use super::{Memory, OrtError, Value, check, default_allocator, element_of};
use crate::runtime::Runtime;
use crate::tensor::ElementType;
use ort::sys::{self, ONNXType};
use std::ffi::{CStr, CString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;

/// The settings of a session to be made.
pub(crate) struct Options(NonNull<sys::OrtSessionOptions>);

impl Options {
    /// Settings for a session that runs its operators in order with `threads` threads,
    /// the calling one counted.
    pub(crate) fn new(threads: u16, level: sys::GraphOptimizationLevel) -> Result<Self, OrtError> {
        let api = ort::api();
        let mut options = null_mut();
        // SAFETY: `options` is a valid place for the answer, then a valid handle.
        unsafe {
            check((api.CreateSessionOptions)(&mut options))?;
            let new = Self(NonNull::new(options).expect("a call that succeeded gives options"));
            check((api.SetSessionExecutionMode)(
                options,
                sys::ExecutionMode::ORT_SEQUENTIAL,
            ))?;
            check((api.SetIntraOpNumThreads)(options, i32::from(threads)))?;
            check((api.SetInterOpNumThreads)(options, 1))?;
            check((api.SetSessionGraphOptimizationLevel)(options, level))?;
            Ok(new)
        }
    }

    /// Sets a configuration entry.
    pub(crate) fn entry(&mut self, key: &CStr, value: &CStr) -> Result<(), OrtError> {
        // SAFETY: the runtime copies both strings.
        check(unsafe {
            (ort::api().AddSessionConfigEntry)(self.0.as_ptr(), key.as_ptr(), value.as_ptr())
        })
    }

    /// Has the runtime log only errors of this session.
    pub(crate) fn log_only_errors(&mut self) -> Result<(), OrtError> {
        const ERROR: i32 = sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR as i32;
        // SAFETY: takes a number only.
        check(unsafe { (ort::api().SetSessionLogSeverityLevel)(self.0.as_ptr(), ERROR) })
    }

    /// Has the optimised graph written to `path` when the session is made.
    pub(crate) fn save_optimised(&mut self, path: &Path) -> Result<(), OrtError> {
        let path = c_path(path)?;
        // SAFETY: the runtime copies the path.
        check(unsafe { (ort::api().SetOptimizedModelFilePath)(self.0.as_ptr(), path.as_ptr()) })
    }

    /// Replaces the initializer `name` by `value`, which the session uses in place.
    ///
    /// # Safety
    /// `value` and its memory must outlive every session made with these options.
    pub(crate) unsafe fn initializer(&mut self, name: &str, value: &Value) -> Result<(), OrtError> {
        let name = c_string(name)?;
        // SAFETY: the runtime copies the name and keeps the value's address, which lives
        // long enough by this function's contract.
        check(unsafe { (ort::api().AddInitializer)(self.0.as_ptr(), name.as_ptr(), value.ptr()) })
    }
}

#[cfg(feature = "cuda")]
impl Options {
    /// Has the session run on an NVIDIA device, on `stream`, with the provider's settings in
    /// `settings`.
    ///
    /// # Safety
    /// `stream` must be a stream of the driver that outlives every session made with these
    /// options.
    pub(crate) unsafe fn cuda(
        &mut self,
        stream: *mut std::ffi::c_void,
        settings: &[(&CStr, &CStr)],
    ) -> Result<(), OrtError> {
        let api = ort::api();
        let keys: Vec<_> = settings.iter().map(|(key, _)| key.as_ptr()).collect();
        let values: Vec<_> = settings.iter().map(|(_, value)| value.as_ptr()).collect();
        let mut provider = null_mut();
        // SAFETY: keys and values are as many and end with zeroes; the runtime copies them. The
        // provider's settings are released below, and copied by the session options before.
        unsafe {
            check((api.CreateCUDAProviderOptions)(&mut provider))?;
            let set = || {
                check((api.UpdateCUDAProviderOptions)(
                    provider,
                    keys.as_ptr(),
                    values.as_ptr(),
                    keys.len(),
                ))?;
                let key = c"user_compute_stream".as_ptr();
                check((api.UpdateCUDAProviderOptionsWithValue)(
                    provider, key, stream,
                ))?;
                check((api.SessionOptionsAppendExecutionProvider_CUDA_V2)(
                    self.0.as_ptr(),
                    provider,
                ))
            };
            let done = set();
            (api.ReleaseCUDAProviderOptions)(provider);
            done
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: owned, and released only here.
        unsafe { (ort::api().ReleaseSessionOptions)(self.0.as_ptr()) }
    }
}

/// Weights in the form the kernels like, shared by the sessions of one model.
pub(crate) struct Prepacked(NonNull<sys::OrtPrepackedWeightsContainer>);

// SAFETY: the container locks itself; sessions may be made over it from any thread.
unsafe impl Send for Prepacked {}
// SAFETY: as above.
unsafe impl Sync for Prepacked {}

impl Prepacked {
    pub(crate) fn new() -> Result<Self, OrtError> {
        let mut container = null_mut();
        // SAFETY: `container` is a valid place for the answer.
        check(unsafe { (ort::api().CreatePrepackedWeightsContainer)(&mut container) })?;
        let container = NonNull::new(container).expect("a call that succeeded gives a container");
        Ok(Self(container))
    }
}

impl Drop for Prepacked {
    fn drop(&mut self) {
        // SAFETY: owned, released only here, and sessions over it hold it alive.
        unsafe { (ort::api().ReleasePrepackedWeightsContainer)(self.0.as_ptr()) }
    }
}

/// What sort of value an input or output of a model is.
#[derive(Debug)]
pub(crate) enum TypeInfo {
    Tensor {
        /// `None` where the protocol has no such element type.
        element: Option<ElementType>,
        /// The element type as `TensorProto.DataType` numbers it.
        number: i32,
        /// Whether the number of dimensions is known; `dims` is empty where it is not.
        is_ranked: bool,
        /// -1: varies.
        dims: Vec<i64>,
        symbols: Vec<Option<String>>,
    },
    /// A sequence, map, optional or sparse tensor.
    Other(&'static str),
}

/// A loaded model.
pub(crate) struct Session {
    session: NonNull<sys::OrtSession>,
    /// What the session borrows; dropped after it.
    _keep: Option<Arc<dyn Send + Sync>>,
    /// The environment must outlive its sessions.
    _runtime: Arc<Runtime>,
}

// SAFETY: the C API documents `Run` as callable from many threads at once, the getters
// only read, and a session is bound to no thread.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

impl Session {
    /// Loads the model at `path`. `keep` is held until the session is gone.
    ///
    /// # Safety
    /// What `options` borrows (initializers) must be kept alive by `keep`; so must
    /// `prepacked`.
    pub(crate) unsafe fn load(
        runtime: &Arc<Runtime>,
        path: &Path,
        options: &Options,
        prepacked: Option<&Prepacked>,
        keep: Option<Arc<dyn Send + Sync>>,
    ) -> Result<Self, OrtError> {
        let api = ort::api();
        let environment = runtime.environment();
        let path = c_path(path)?;
        let mut session = null_mut();
        // SAFETY: all handles are alive; the rest is this function's contract.
        check(unsafe {
            match prepacked {
                Some(prepacked) => (api.CreateSessionWithPrepackedWeightsContainer)(
                    environment,
                    path.as_ptr(),
                    options.0.as_ptr(),
                    prepacked.0.as_ptr(),
                    &mut session,
                ),
                None => (api.CreateSession)(
                    environment,
                    path.as_ptr(),
                    options.0.as_ptr(),
                    &mut session,
                ),
            }
        })?;
        Ok(Self {
            session: NonNull::new(session).expect("a call that succeeded gives a session"),
            _keep: keep,
            _runtime: Arc::clone(runtime),
        })
    }

    /// Names and types of the inputs, in the model's order.
    pub(crate) fn inputs(&self) -> Result<Vec<(String, TypeInfo)>, OrtError> {
        let api = ort::api();
        let mut count = 0;
        // SAFETY: the session is alive.
        check(unsafe { (api.SessionGetInputCount)(self.session.as_ptr(), &mut count) })?;
        (0..count)
            .map(|index| {
                // SAFETY: the session is alive and the index within its inputs; the name
                // and type are handed over to us.
                unsafe {
                    let allocator = default_allocator()?;
                    let (mut name, mut info) = (null_mut(), null_mut());
                    let session = self.session.as_ptr();
                    check((api.SessionGetInputName)(
                        session, index, allocator, &mut name,
                    ))?;
                    let name = take_string(name)?;
                    check((api.SessionGetInputTypeInfo)(session, index, &mut info))?;
                    Ok((name, take_type(info)?))
                }
            })
            .collect()
    }

    /// Names and types of the outputs, in the model's order.
    pub(crate) fn outputs(&self) -> Result<Vec<(String, TypeInfo)>, OrtError> {
        let api = ort::api();
        let mut count = 0;
        // SAFETY: the session is alive.
        check(unsafe { (api.SessionGetOutputCount)(self.session.as_ptr(), &mut count) })?;
        (0..count)
            .map(|index| {
                // SAFETY: as for the inputs.
                unsafe {
                    let allocator = default_allocator()?;
                    let (mut name, mut info) = (null_mut(), null_mut());
                    let session = self.session.as_ptr();
                    check((api.SessionGetOutputName)(
                        session, index, allocator, &mut name,
                    ))?;
                    let name = take_string(name)?;
                    check((api.SessionGetOutputTypeInfo)(session, index, &mut info))?;
                    Ok((name, take_type(info)?))
                }
            })
            .collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: owned, and released only here; bindings over it hold it alive.
        unsafe { (ort::api().ReleaseSession)(self.session.as_ptr()) }
    }
}

/// Inputs and outputs bound to a session, for one run at a time.
pub(crate) struct Binding {
    binding: NonNull<sys::OrtIoBinding>,
    memory: Memory,
    session: Arc<Session>,
}

// SAFETY: a binding is bound to no thread; using it takes `&mut`.
unsafe impl Send for Binding {}

impl Binding {
    pub(crate) fn new(session: &Arc<Session>) -> Result<Self, OrtError> {
        let memory = Memory::new()?;
        let mut binding = null_mut();
        // SAFETY: the session is alive, and held by the binding.
        check(unsafe { (ort::api().CreateIoBinding)(session.session.as_ptr(), &mut binding) })?;
        Ok(Self {
            binding: NonNull::new(binding).expect("a call that succeeded gives a binding"),
            memory,
            session: Arc::clone(session),
        })
    }

    /// Binds an input. The binding holds a reference to the value, not to its memory.
    pub(crate) fn input(&mut self, name: &CStr, value: &Value) -> Result<(), OrtError> {
        // SAFETY: both handles are alive; the runtime copies the name.
        check(unsafe { (ort::api().BindInput)(self.binding.as_ptr(), name.as_ptr(), value.ptr()) })
    }

    /// Binds an output to memory of ours.
    pub(crate) fn output(&mut self, name: &CStr, value: &Value) -> Result<(), OrtError> {
        // SAFETY: as for an input.
        check(unsafe { (ort::api().BindOutput)(self.binding.as_ptr(), name.as_ptr(), value.ptr()) })
    }

    /// Has the runtime allocate an output.
    pub(crate) fn output_allocated(&mut self, name: &CStr) -> Result<(), OrtError> {
        // SAFETY: as for an input; the runtime copies the memory description.
        check(unsafe {
            (ort::api().BindOutputToDevice)(self.binding.as_ptr(), name.as_ptr(), self.memory.0)
        })
    }

    /// Runs the model over what is bound.
    ///
    /// # Safety
    /// The memory of every bound value must be valid and, for outputs, touched by nobody
    /// else until this returns.
    pub(crate) unsafe fn run(&mut self) -> Result<(), OrtError> {
        // SAFETY: the handles are alive, null run options mean the defaults, and the
        // memory is valid by this function's contract.
        check(unsafe {
            (ort::api().RunWithBinding)(
                self.session.session.as_ptr(),
                null(),
                self.binding.as_ptr(),
            )
        })
    }

    /// As [`run`](Self::run), with settings for this run.
    ///
    /// # Safety
    /// As for `run`; where the settings have the device not waited for, until its work is done.
    #[cfg(feature = "cuda")]
    pub(crate) unsafe fn run_with(&mut self, options: &RunOptions) -> Result<(), OrtError> {
        // SAFETY: the handles are alive; the rest is this function's contract.
        check(unsafe {
            (ort::api().RunWithBinding)(
                self.session.session.as_ptr(),
                options.0.as_ptr(),
                self.binding.as_ptr(),
            )
        })
    }

    /// The output values of the last run, in the order they were bound.
    pub(crate) fn outputs(&self) -> Result<Vec<Value>, OrtError> {
        let api = ort::api();
        let allocator = default_allocator()?;
        let (mut values, mut count) = (null_mut(), 0);
        // SAFETY: the binding is alive; the array and the values in it become ours, and
        // the array is freed by the allocator that made it.
        unsafe {
            check((api.GetBoundOutputValues)(
                self.binding.as_ptr(),
                allocator,
                &mut values,
                &mut count,
            ))?;
            if values.is_null() {
                return Ok(Vec::new());
            }
            let owned = (0..count).map(|index| Value::owned(*values.add(index)));
            let owned = owned.collect();
            check((api.AllocatorFree)(allocator, values.cast()))?;
            Ok(owned)
        }
    }

    /// Lets go of every bound value.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the binding is alive.
        unsafe {
            (ort::api().ClearBoundInputs)(self.binding.as_ptr());
            (ort::api().ClearBoundOutputs)(self.binding.as_ptr());
        }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: owned, and released only here, before the session it holds.
        unsafe { (ort::api().ReleaseIoBinding)(self.binding.as_ptr()) }
    }
}

/// The settings of a run.
#[cfg(feature = "cuda")]
pub(crate) struct RunOptions(NonNull<sys::OrtRunOptions>);

// SAFETY: settings are bound to no thread, and only read after they were made.
#[cfg(feature = "cuda")]
unsafe impl Send for RunOptions {}

#[cfg(feature = "cuda")]
impl RunOptions {
    pub(crate) fn new(entries: &[(&CStr, &CStr)]) -> Result<Self, OrtError> {
        let api = ort::api();
        let mut options = null_mut();
        // SAFETY: `options` is a valid place for the answer, then a valid handle; the runtime
        // copies the strings.
        unsafe {
            check((api.CreateRunOptions)(&mut options))?;
            let new = Self(NonNull::new(options).expect("a call that succeeded gives options"));
            for (key, value) in entries {
                check((api.AddRunConfigEntry)(
                    options,
                    key.as_ptr(),
                    value.as_ptr(),
                ))?;
            }
            Ok(new)
        }
    }
}

#[cfg(feature = "cuda")]
impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: owned, and released only here.
        unsafe { (ort::api().ReleaseRunOptions)(self.0.as_ptr()) }
    }
}

fn c_string(text: &str) -> Result<CString, OrtError> {
    CString::new(text).map_err(|_| OrtError::new(format!("`{text}` contains a NUL byte")))
}

fn c_path(path: &Path) -> Result<CString, OrtError> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| OrtError::new(format!("path `{}` contains a NUL byte", path.display())))
}

/// Copies and frees a string that the API allocated with the default allocator.
///
/// # Safety
/// `text` must be such a string.
unsafe fn take_string(text: *mut c_char) -> Result<String, OrtError> {
    // SAFETY: NUL-terminated by contract.
    let owned = unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned();
    let allocator = default_allocator()?;
    // SAFETY: allocated by this allocator, freed once.
    check(unsafe { (ort::api().AllocatorFree)(allocator, text.cast()) })?;
    Ok(owned)
}

/// Reads and releases a type.
///
/// # Safety
/// `info` must be valid and the caller's.
unsafe fn take_type(info: *mut sys::OrtTypeInfo) -> Result<TypeInfo, OrtError> {
    // SAFETY: valid by contract.
    let read = unsafe { read_type(info) };
    // SAFETY: ours by contract, released once.
    unsafe { (ort::api().ReleaseTypeInfo)(info) };
    read
}

/// # Safety
/// `info` must be valid.
unsafe fn read_type(info: *const sys::OrtTypeInfo) -> Result<TypeInfo, OrtError> {
    let api = ort::api();
    let mut kind = ONNXType::ONNX_TYPE_UNKNOWN;
    // SAFETY: `info` is valid by contract.
    check(unsafe { (api.GetOnnxTypeFromTypeInfo)(info, &mut kind) })?;
    match kind {
        ONNXType::ONNX_TYPE_TENSOR => {}
        ONNXType::ONNX_TYPE_SEQUENCE => return Ok(TypeInfo::Other("a sequence")),
        ONNXType::ONNX_TYPE_MAP => return Ok(TypeInfo::Other("a map")),
        ONNXType::ONNX_TYPE_SPARSETENSOR => return Ok(TypeInfo::Other("a sparse tensor")),
        ONNXType::ONNX_TYPE_OPTIONAL => return Ok(TypeInfo::Other("an optional")),
        ONNXType::ONNX_TYPE_OPAQUE | ONNXType::ONNX_TYPE_UNKNOWN => {
            return Ok(TypeInfo::Other("of an opaque type"));
        }
    }
    let mut tensor = null();
    // SAFETY: `info` is valid; the description is part of it and lives as long.
    unsafe {
        check((api.CastTypeInfoToTensorInfo)(info, &mut tensor))?;
        let (onnx, dims) = tensor_shape(tensor)?;
        let mut names = vec![null::<c_char>(); dims.len()];
        check((api.GetSymbolicDimensions)(
            tensor,
            names.as_mut_ptr(),
            names.len(),
        ))?;
        let symbols = names.iter().map(|&name| {
            let name = (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy());
            name.filter(|name| !name.is_empty())
                .map(|name| name.into_owned())
        });
        Ok(TypeInfo::Tensor {
            element: element_of(onnx),
            number: onnx as i32,
            is_ranked: (api.TensorTypeAndShape_HasShape)(tensor),
            symbols: symbols.collect(),
            dims,
        })
    }
}
