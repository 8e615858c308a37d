//! A model in a session of ONNX Runtime whose work goes to one stream.

use super::driver::CudaError;
use super::graph::Graph;
use super::memory::{DeviceMemory, PinnedMemory};
use super::stream::{Stream, alone};
use crate::capi::{Binding, Options, OrtError, RunOptions, Session, TypeInfo, Value, onnx_of};
use crate::runtime::Runtime;
use crate::tensor::ElementType;
use ort::sys::GraphOptimizationLevel;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::Arc;

/// How a model is made ready for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaModelOptions {
    /// What every first dimension that varies is.
    pub batch: u32,
    /// What every other dimension that varies is.
    pub other: u32,
    /// Whether products of 32-bit floats may be rounded to 10 bits, as tensor cores do.
    pub tf32: bool,
    /// Whether convolutions run with channels last.
    pub nhwc: bool,
}

/// Why a model does not run on a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaModelError {
    /// The driver failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// ONNX Runtime failed.
    #[error("ONNX Runtime: {0}")]
    Runtime(String),
    /// An input or output cannot be in the device's memory.
    #[error("`{name}` is {found}, expected a tensor of numbers")]
    NotNumbers {
        /// The input or output.
        name: String,
        /// What it is.
        found: String,
    },
}

impl From<OrtError> for CudaModelError {
    fn from(error: OrtError) -> Self {
        Self::Runtime(error.message().to_owned())
    }
}

/// An input or output in memory of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name in the model.
    pub name: String,
    /// Its element type.
    pub element: ElementType,
    /// Its shape, batch dimension included.
    pub shape: Vec<u64>,
}

impl Port {
    /// Its size, in bytes.
    pub fn bytes(&self) -> usize {
        let elements: u64 = self.shape.iter().product();
        elements as usize * self.element.size().unwrap_or(0)
    }
}

/// What graphs of a model's runs use: memory of ours and of the session.
struct Held {
    memory: Vec<DeviceMemory>,
    _session: Arc<Session>,
    stream: Arc<Stream>,
}

/// A model on a stream, with fixed memory for its inputs and outputs.
///
/// To be made, warmed up and captured on one thread: the runtime keeps handles of the
/// vendor's libraries by session and thread. Runs of one model, eager or as graphs, must not
/// overlap: they use the same memory.
pub struct CudaModel {
    binding: Binding,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    held: Arc<Held>,
    waiting: RunOptions,
    enqueued: RunOptions,
}

impl CudaModel {
    /// Loads the model at `path`.
    ///
    /// The provider is told to allow graphs, and each run not to make one: so it neither
    /// enqueues calls of the host, nor waits for the device, and its work can be captured by
    /// [`capture`](Self::capture).
    ///
    /// # Errors
    /// Where the model has control flow, or operators that the device lacks; as the runtime
    /// and the driver fail.
    pub fn load(
        runtime: &Arc<Runtime>,
        path: &Path,
        stream: &Arc<Stream>,
        options: CudaModelOptions,
    ) -> Result<Self, CudaModelError> {
        let gpu = stream.partition().gpu();
        // Making a session waits for the device, which would break a capture.
        let _alone = alone();
        gpu.make_current()?;
        let device = gpu.info().ordinal;
        let session = Arc::new(session(runtime, path, stream, options)?);
        let inputs = ports(session.inputs()?, options)?;
        let outputs = ports(session.outputs()?, options)?;
        let mut binding = Binding::new(&session)?;
        let mut memory = Vec::new();
        for (index, port) in inputs.iter().chain(&outputs).enumerate() {
            let held = DeviceMemory::new(gpu, port.bytes())?;
            let dims: Vec<i64> = port.shape.iter().map(|dim| dim.cast_signed()).collect();
            let (address, bytes, onnx) = (held.address(), port.bytes(), onnx_of(port.element));
            // SAFETY: the memory is kept by `held` of the model, which has the binding.
            let value = unsafe { Value::over_cuda(device as i32, address, bytes, &dims, onnx) }?;
            let name = CString::new(port.name.as_str()).expect("names come from C strings");
            match index < inputs.len() {
                true => binding.input(&name, &value)?,
                false => binding.output(&name, &value)?,
            }
            memory.push(held);
        }
        const NO_GRAPH: (&CStr, &CStr) = (c"gpu_graph_id", c"-1");
        const NO_WAIT: (&CStr, &CStr) = (c"disable_synchronize_execution_providers", c"1");
        Ok(Self {
            binding,
            inputs,
            outputs,
            held: Arc::new(Held {
                memory,
                _session: session,
                stream: Arc::clone(stream),
            }),
            waiting: RunOptions::new(&[NO_GRAPH])?,
            enqueued: RunOptions::new(&[NO_GRAPH, NO_WAIT])?,
        })
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The stream of its runs.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.held.stream
    }

    /// Copies an input to the device, and waits until it is there.
    ///
    /// # Errors
    /// Where the driver fails.
    ///
    /// # Panics
    /// Where there is no such input, or it has another size.
    pub fn write(&mut self, input: usize, bytes: &[u8]) -> Result<(), CudaError> {
        assert_eq!(bytes.len(), self.inputs[input].bytes(), "the input's size");
        let stream = &self.held.stream;
        let mut staging = PinnedMemory::new(stream.partition().gpu(), bytes.len())?;
        staging.bytes_mut().copy_from_slice(bytes);
        self.held.memory[input].copy_from(&staging, stream)?;
        stream.synchronize()
    }

    /// Copies an output from the device, after what its stream has to do.
    ///
    /// # Errors
    /// Where the driver, or a run before, failed.
    ///
    /// # Panics
    /// Where there is no such output.
    pub fn read(&self, output: usize) -> Result<Vec<u8>, CudaError> {
        let stream = &self.held.stream;
        let bytes = self.outputs[output].bytes();
        let mut staging = PinnedMemory::new(stream.partition().gpu(), bytes)?;
        self.held.memory[self.inputs.len() + output].copy_to(&mut staging, stream)?;
        stream.synchronize()?;
        Ok(staging.bytes().to_vec())
    }

    /// Runs the model once and waits for it.
    ///
    /// # Errors
    /// As the runtime fails.
    pub fn run(&mut self) -> Result<(), CudaModelError> {
        // SAFETY: the memory that is bound is held, and nobody else reads it while `self` is
        // borrowed.
        Ok(unsafe { self.binding.run_with(&self.waiting) }?)
    }

    /// Enqueues one run, without waiting for it.
    ///
    /// # Errors
    /// As the runtime fails.
    pub fn enqueue(&mut self) -> Result<(), CudaModelError> {
        // SAFETY: as for `run`; copies from and to the memory are ordered by the stream.
        Ok(unsafe { self.binding.run_with(&self.enqueued) }?)
    }

    /// A graph of one run. The model must have run at least twice: what its runs need must
    /// have been allocated, and the plans of its convolutions made.
    ///
    /// # Errors
    /// Where the runtime does something that cannot be captured.
    pub fn capture(&mut self) -> Result<Graph, CudaModelError> {
        let stream = Arc::clone(&self.held.stream);
        let graph = stream.capture(|| self.enqueue())?;
        Ok(graph.keeping(self.holds()))
    }

    /// What has to live as long as graphs of its runs.
    pub fn holds(&self) -> Arc<dyn std::any::Any + Send + Sync> {
        Arc::clone(&self.held) as Arc<_>
    }
}

fn session(
    runtime: &Arc<Runtime>,
    path: &Path,
    stream: &Arc<Stream>,
    options: CudaModelOptions,
) -> Result<Session, CudaModelError> {
    const ON: &CStr = c"1";
    const OFF: &CStr = c"0";
    let flag = |is_on| if is_on { ON } else { OFF };
    let device = CString::new(stream.partition().gpu().info().ordinal.to_string())
        .expect("digits have no NUL byte");
    let settings = [
        (c"device_id", device.as_c_str()),
        // Without it, runs enqueue a call of the host, which a graph may not hold.
        (c"enable_cuda_graph", ON),
        // Another strategy takes up to twice of what is needed, for each session.
        (c"arena_extend_strategy", c"kSameAsRequested"),
        // It clears memory on a stream of its own, which a graph would leave out.
        (c"fuse_conv_bias", OFF),
        (c"cudnn_conv_algo_search", c"HEURISTIC"),
        (c"use_tf32", flag(options.tf32)),
        (c"prefer_nhwc", flag(options.nhwc)),
    ];
    let mut with = Options::new(1, GraphOptimizationLevel::ORT_ENABLE_ALL)?;
    // SAFETY: the stream lives as long as the session: whoever holds one holds the other.
    unsafe { with.cuda(stream.handle().cast(), &settings) }?;
    // SAFETY: the options borrow the stream only, which the session keeps.
    Ok(unsafe {
        Session::load(
            runtime,
            path,
            &with,
            None,
            Some(Arc::clone(stream) as Arc<_>),
        )
    }?)
}

fn ports(
    found: Vec<(String, TypeInfo)>,
    options: CudaModelOptions,
) -> Result<Vec<Port>, CudaModelError> {
    let port = |(name, info): (String, TypeInfo)| {
        let refuse = |found: &str| CudaModelError::NotNumbers {
            name: name.clone(),
            found: found.to_owned(),
        };
        let (element, dims) = match info {
            TypeInfo::Tensor { element, dims, .. } => (element, dims),
            TypeInfo::Other(found) => return Err(refuse(found)),
        };
        let element = element.ok_or_else(|| refuse("of an unknown element type"))?;
        if element.size().is_none() {
            return Err(refuse("a tensor of strings"));
        }
        let sizes = dims.iter().enumerate().map(|(index, &dim)| {
            u64::try_from(dim).unwrap_or(match index {
                0 => options.batch.into(),
                _ => options.other.into(),
            })
        });
        Ok(Port {
            shape: sizes.collect(),
            name,
            element,
        })
    };
    found.into_iter().map(port).collect()
}
