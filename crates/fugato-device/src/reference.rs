//! Plain ONNX Runtime, as a program that embeds it would use it: the original model,
//! default optimisation, default memory. Tests compare results with it, benchmarks
//! measure against it; the server never serves with it.

use crate::capi::{Binding, Options, OrtError, Session, Value, onnx_of};
use crate::runtime::Runtime;
use crate::store::{LoadCause, LoadError, model_tensors};
use crate::tensor::{InputData, InputTensor, OutputTensor, TensorData, TensorSpec};
use bytes::Bytes;
use ort::sys::GraphOptimizationLevel;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;

/// A model in a session of its own.
pub struct PlainSession {
    binding: Binding,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
}

/// Why a run failed: the runtime's own words.
#[derive(Debug, thiserror::Error)]
#[error("the model could not be run: {detail}")]
pub struct PlainRunError {
    detail: String,
}

impl From<OrtError> for PlainRunError {
    fn from(error: OrtError) -> Self {
        Self {
            detail: error.message().to_owned(),
        }
    }
}

impl PlainSession {
    /// Loads the model at `path` with `threads` threads, the caller's counted.
    ///
    /// # Errors
    /// As the runtime fails, sorted by [`LoadError::kind`].
    pub fn load(
        runtime: &Arc<Runtime>,
        path: impl AsRef<Path>,
        threads: u16,
    ) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let load = || -> Result<Self, LoadCause> {
            let failed = LoadCause::from_runtime;
            let level = GraphOptimizationLevel::ORT_ENABLE_ALL;
            let mut options = Options::new(threads, level).map_err(failed)?;
            options.note_places().map_err(failed)?;
            // SAFETY: nothing is borrowed by these options.
            let session = unsafe { Session::load(runtime, path, &options, None, None) };
            Self::over(session.map_err(failed)?)
        };
        load().map_err(|cause| cause.of(path))
    }

    /// Runs a session that was made elsewhere.
    pub(crate) fn over(session: Session) -> Result<Self, LoadCause> {
        let failed = LoadCause::from_runtime;
        let session = Arc::new(session);
        Ok(Self {
            inputs: model_tensors("input", session.inputs().map_err(failed)?)?,
            outputs: model_tensors("output", session.outputs().map_err(failed)?)?,
            binding: Binding::new(&session).map_err(failed)?,
        })
    }

    /// Which provider of the runtime runs what: by its name the kinds of operators, with their
    /// domain where that is not ONNX's own, and how many there are.
    ///
    /// # Errors
    /// As the runtime fails.
    pub fn placed(&self) -> Result<BTreeMap<String, BTreeMap<String, usize>>, PlainRunError> {
        Ok(self.binding.placed()?)
    }

    /// The model's inputs, in its order.
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    /// The model's outputs, in its order.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// Runs the model once: one tensor per input, in the model's order.
    ///
    /// # Errors
    /// As the runtime fails.
    pub fn run(&mut self, inputs: &[InputTensor]) -> Result<Vec<OutputTensor>, PlainRunError> {
        let mut aligned = Vec::new();
        let mut values = Vec::with_capacity(inputs.len());
        for (spec, tensor) in self.inputs.iter().zip(inputs) {
            values.push(input_value(spec, tensor, &mut aligned)?);
            let name = c_name(spec);
            self.binding.input(&name, &values[values.len() - 1])?;
        }
        for spec in &self.outputs {
            self.binding.output_allocated(&c_name(spec))?;
        }
        // SAFETY: the inputs' bytes are borrowed or in `aligned` until the end of this
        // function; outputs are the runtime's own.
        let ran = unsafe { self.binding.run() };
        let outputs = ran.and_then(|()| self.binding.outputs());
        self.binding.clear();
        let outputs = outputs?.into_iter().map(|value| {
            let shape = value.shape()?;
            let dims = shape.dims.iter().map(|dim| dim.cast_unsigned()).collect();
            let fixed = shape
                .element
                .is_some_and(|element| element.size().is_some());
            let data = match fixed {
                // Copied, since an input may be handed over as an output.
                true => TensorData::Raw(Bytes::copy_from_slice(value.raw(&shape)?)),
                false => TensorData::Strings(value.read_strings(&shape)?),
            };
            Ok(OutputTensor { shape: dims, data })
        });
        outputs.collect()
    }
}

fn c_name(spec: &TensorSpec) -> CString {
    CString::new(spec.name.as_str()).expect("the runtime gave it as a NUL-terminated string")
}

/// A value over `tensor`'s bytes, or over a copy in `aligned` where they lie askew.
fn input_value(
    spec: &TensorSpec,
    tensor: &InputTensor,
    aligned: &mut Vec<Vec<u64>>,
) -> Result<Value, PlainRunError> {
    let dims: Vec<i64> = tensor.shape.iter().map(|dim| dim.cast_signed()).collect();
    let elements = tensor.shape.iter().product::<u64>();
    let (bytes, size) = match (&tensor.data, spec.element.size()) {
        (InputData::Here(TensorData::Strings(strings)), None)
            if strings.len() as u64 == elements =>
        {
            return Ok(Value::strings(&dims, strings.iter())?);
        }
        (InputData::Here(TensorData::Raw(bytes)), Some(size))
            if bytes.len() as u64 == elements * size as u64 =>
        {
            (bytes, size)
        }
        _ => {
            return Err(PlainRunError {
                detail: format!("input `{}` has not the elements its shape says", spec.name),
            });
        }
    };
    let mut data = bytes.as_ptr();
    if bytes.is_empty() || data.align_offset(size) != 0 {
        let mut copy = vec![0_u64; bytes.len().div_ceil(8).max(1)];
        for (word, chunk) in copy.iter_mut().zip(bytes.chunks(8)) {
            let mut filled = [0; 8];
            filled[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(filled);
        }
        data = copy.as_ptr().cast();
        aligned.push(copy);
    }
    // SAFETY: the bytes are borrowed for the whole run, or in `aligned`, which the caller
    // keeps as long; an input is only read.
    let value = unsafe { Value::over(data.cast_mut(), bytes.len(), &dims, onnx_of(spec.element)) };
    Ok(value?)
}
