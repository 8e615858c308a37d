//! Tensors as the client holds them, random inputs, and the comparison of answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fugato_core::workload::ModelLoad;
use fugato_device::{ElementType, TensorData, TensorSpec};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The size given to a dimension that varies, past the batch dimension, where nothing
/// else says one.
pub const DEFAULT_DIMENSION: u64 = 16;

/// The exclusive bound of random integers where nothing else says one. Zeros and ones are
/// valid as token ids, token types and masks alike.
pub const DEFAULT_INTEGER_BOUND: u32 = 2;

/// A named tensor in the protocol's raw form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name of the input or output.
    pub name: String,
    /// The element type.
    pub element: ElementType,
    /// The shape, batch dimension included.
    pub shape: Vec<u64>,
    /// The elements: row-major, little-endian; each of `BYTES` after its length as four
    /// little-endian bytes.
    pub data: Bytes,
}

/// A tensor as an expectation file spells it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorFile {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    /// [`Tensor::data`] in base64.
    data: String,
}

/// Why a tensor of an expectation file, or of a reply, is not one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// A type the protocol does not know.
    #[error("tensor `{name}` has datatype `{found}`, which the protocol does not have")]
    Datatype {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// Data that is not base64.
    #[error("data of tensor `{name}` is not base64")]
    Base64 {
        /// The tensor.
        name: String,
        /// What is wrong.
        source: base64::DecodeError,
    },
    /// A number of bytes that does not follow from type and shape.
    #[error("tensor `{name}` of {element} {shape:?} has {found} bytes, expected {expected}")]
    ByteCount {
        /// The tensor.
        name: String,
        /// Its type.
        element: ElementType,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// Strings whose lengths do not add up, or of another number than the shape says.
    #[error("tensor `{name}` of BYTES {shape:?} is cut short or holds another number of strings")]
    Strings {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A shape given in the workload that the model does not take.
    #[error("shape {found:?} for input `{name}` does not fit the model's {expected}")]
    Shape {
        /// The input.
        name: String,
        /// The shape of the workload, batch dimension in front where there is one.
        found: Vec<u64>,
        /// The model's, with `?` for what varies.
        expected: String,
    },
    /// Several items asked of a model without a batch dimension.
    #[error("input `{name}` has no batch dimension, so `batch` must be 1, found {batch}")]
    Unbatched {
        /// The input.
        name: String,
        /// The number of items asked for.
        batch: u32,
    },
    /// The workload has settings for an input the model does not have.
    #[error("the model has no input `{name}`; it has {inputs}")]
    UnknownInput {
        /// The name in the workload.
        name: String,
        /// The model's inputs.
        inputs: String,
    },
}

impl Tensor {
    /// The bytes that follow from type and shape; `None` for strings, and past the range.
    pub fn byte_size(&self) -> Option<u64> {
        let size = self.element.size()? as u64;
        self.shape.iter().try_fold(size, |n, d| n.checked_mul(*d))
    }

    /// Checks that the bytes follow from type and shape.
    ///
    /// # Errors
    /// [`TensorError::ByteCount`] or [`TensorError::Strings`].
    pub fn check(&self) -> Result<(), TensorError> {
        let count = self.shape.iter().try_fold(1_u64, |n, d| n.checked_mul(*d));
        match self.element.size() {
            Some(size) => {
                let expected = count.and_then(|count| count.checked_mul(size as u64));
                let found = self.data.len() as u64;
                if expected == Some(found) {
                    return Ok(());
                }
                Err(TensorError::ByteCount {
                    name: self.name.clone(),
                    element: self.element,
                    shape: self.shape.clone(),
                    found,
                    expected: expected.unwrap_or(u64::MAX),
                })
            }
            None if string_count(&self.data) == count => Ok(()),
            None => Err(TensorError::Strings {
                name: self.name.clone(),
                shape: self.shape.clone(),
            }),
        }
    }

    /// A tensor of a device's data.
    pub fn of(name: String, element: ElementType, shape: Vec<u64>, data: TensorData) -> Self {
        let data = match data {
            TensorData::Raw(data) => data,
            TensorData::Strings(strings) => {
                let mut data = Vec::new();
                for string in strings {
                    let length = u32::try_from(string.len()).expect("strings are under 4 GiB");
                    data.extend(length.to_le_bytes());
                    data.extend_from_slice(&string);
                }
                data.into()
            }
        };
        Self {
            name,
            element,
            shape,
            data,
        }
    }

    /// The elements as a device takes them.
    ///
    /// # Errors
    /// As [`Tensor::check`].
    pub fn to_data(&self) -> Result<TensorData, TensorError> {
        self.check()?;
        if self.element != ElementType::Bytes {
            return Ok(TensorData::Raw(self.data.clone()));
        }
        let (mut rest, mut strings) = (self.data.clone(), Vec::new());
        while let Some((length, _)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let _ = rest.split_to(4);
            strings.push(rest.split_to(length));
        }
        Ok(TensorData::Strings(strings))
    }

    pub(super) fn to_file(&self) -> TensorFile {
        TensorFile {
            name: self.name.clone(),
            datatype: self.element.oip_name().to_owned(),
            shape: self.shape.clone(),
            data: STANDARD.encode(&self.data),
        }
    }

    pub(super) fn from_file(file: TensorFile) -> Result<Self, TensorError> {
        let TensorFile {
            name,
            datatype,
            shape,
            data,
        } = file;
        let element = ElementType::from_oip_name(&datatype);
        let element = element.ok_or_else(|| TensorError::Datatype {
            name: name.clone(),
            found: datatype,
        })?;
        let data = STANDARD
            .decode(data)
            .map_err(|source| TensorError::Base64 {
                name: name.clone(),
                source,
            })?;
        let tensor = Self {
            name,
            element,
            shape,
            data: data.into(),
        };
        tensor.check().map(|()| tensor)
    }
}

/// The number of length-prefixed strings in `data`; `None` where the lengths lie.
fn string_count(data: &[u8]) -> Option<u64> {
    let (mut rest, mut count) = (data, 0);
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        rest = after.get(length..)?;
        count += 1;
    }
    Some(count)
}

/// How random inputs are shaped.
#[derive(Clone, Debug)]
pub struct InputSettings {
    /// Items of a request.
    pub batch: u32,
    /// By input, the shape of one item, the batch dimension left out.
    pub shapes: BTreeMap<String, Vec<u64>>,
    /// By symbol of the model (`"sequence"`), the size of a dimension that varies.
    pub dimensions: BTreeMap<String, u64>,
    /// By input, the exclusive bound of integers.
    pub integers: BTreeMap<String, u32>,
}

impl InputSettings {
    /// The settings of a workload's model.
    pub fn of(load: &ModelLoad) -> Self {
        Self {
            batch: load.batch.0,
            shapes: load.shapes.clone(),
            dimensions: BTreeMap::new(),
            integers: load.integers.clone(),
        }
    }

    /// Random inputs for a model: floats uniform in [-1, 1), integers uniform from 0 to
    /// their bound, booleans and strings at random.
    ///
    /// # Errors
    /// [`TensorError`] where a setting names no input or does not fit the model.
    pub fn random_inputs(
        &self,
        specs: &[TensorSpec],
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<Tensor>, TensorError> {
        for name in self.shapes.keys().chain(self.integers.keys()) {
            if !specs.iter().any(|spec| spec.name == *name) {
                let inputs: Vec<String> = specs.iter().map(|s| format!("`{}`", s.name)).collect();
                return Err(TensorError::UnknownInput {
                    name: name.clone(),
                    inputs: inputs.join(", "),
                });
            }
        }
        let mut inputs = Vec::with_capacity(specs.len());
        for spec in specs {
            let shape = self.shape(spec)?;
            let bound = self.integers.get(&spec.name).copied();
            let count: u64 = shape.iter().product();
            inputs.push(Tensor {
                name: spec.name.clone(),
                element: spec.element,
                shape,
                data: random_data(
                    spec.element,
                    count,
                    bound.unwrap_or(DEFAULT_INTEGER_BOUND),
                    rng,
                ),
            });
        }
        Ok(inputs)
    }

    fn shape(&self, spec: &TensorSpec) -> Result<Vec<u64>, TensorError> {
        let batched = spec.shape.first() == Some(&None);
        if !batched && self.batch != 1 {
            return Err(TensorError::Unbatched {
                name: spec.name.clone(),
                batch: self.batch,
            });
        }
        let Some(item) = self.shapes.get(&spec.name) else {
            let dimensions = spec.shape.iter().enumerate();
            return Ok(dimensions
                .map(|(index, size)| match size {
                    Some(size) => *size,
                    None if index == 0 => u64::from(self.batch),
                    None => self.symbol_size(spec, index),
                })
                .collect());
        };
        let mut shape = Vec::with_capacity(item.len() + 1);
        if batched {
            shape.push(u64::from(self.batch));
        }
        shape.extend(item);
        let fits = shape.len() == spec.shape.len()
            && shape
                .iter()
                .zip(&spec.shape)
                .all(|(given, wanted)| wanted.is_none_or(|wanted| wanted == *given));
        if fits {
            return Ok(shape);
        }
        let sizes = spec.shape.iter();
        let sizes: Vec<String> = sizes
            .map(|size| size.map_or_else(|| "?".to_owned(), |size| size.to_string()))
            .collect();
        Err(TensorError::Shape {
            name: spec.name.clone(),
            found: shape,
            expected: format!("[{}]", sizes.join(", ")),
        })
    }

    fn symbol_size(&self, spec: &TensorSpec, index: usize) -> u64 {
        let symbol = spec.symbols.get(index).and_then(Option::as_ref);
        let size = symbol.and_then(|symbol| self.dimensions.get(symbol));
        size.copied().unwrap_or(DEFAULT_DIMENSION)
    }
}

fn random_data(element: ElementType, count: u64, bound: u32, rng: &mut ChaCha8Rng) -> Bytes {
    let mut data = Vec::new();
    for _ in 0..count {
        match element {
            ElementType::Fp16 => {
                let value = half::f16::from_f32(rng.random_range(-1.0..1.0));
                data.extend(value.to_le_bytes());
            }
            ElementType::Bf16 => {
                let value = half::bf16::from_f32(rng.random_range(-1.0..1.0));
                data.extend(value.to_le_bytes());
            }
            ElementType::Fp32 => data.extend(rng.random_range(-1.0_f32..1.0).to_le_bytes()),
            ElementType::Fp64 => data.extend(rng.random_range(-1.0_f64..1.0).to_le_bytes()),
            ElementType::Bool => data.push(u8::from(rng.random::<bool>())),
            ElementType::Bytes => {
                data.extend(8_u32.to_le_bytes());
                data.extend((0..8).map(|_| rng.random_range(b'a'..=b'z')));
            }
            ElementType::Uint8
            | ElementType::Uint16
            | ElementType::Uint32
            | ElementType::Uint64
            | ElementType::Int8
            | ElementType::Int16
            | ElementType::Int32
            | ElementType::Int64 => {
                // Little-endian, so the low bytes of the widest form are the value; the
                // bound is cut to what one byte of a signed type holds where it must be.
                let size = element.size().unwrap_or(8);
                let bound = if size == 1 { bound.min(128) } else { bound };
                let bound = if size == 2 { bound.min(32_768) } else { bound };
                let value = u64::from(rng.random_range(0..bound));
                data.extend(&value.to_le_bytes()[..size]);
            }
        }
    }
    data.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn random_inputs_fill_their_shapes_and_repeat() {
        let settings = InputSettings {
            batch: 2,
            shapes: BTreeMap::from([("ids".to_owned(), vec![5])]),
            dimensions: BTreeMap::from([("length".to_owned(), 3)]),
            integers: BTreeMap::from([("ids".to_owned(), 1_000)]),
        };
        for element in ElementType::ALL {
            let spec = |name: &str, symbol: Option<&str>| TensorSpec {
                name: name.to_owned(),
                element,
                shape: vec![None, None],
                symbols: vec![Some("batch".to_owned()), symbol.map(str::to_owned)],
            };
            let specs = [
                spec("ids", None),
                spec("b", Some("length")),
                spec("c", None),
            ];
            let draw = || {
                let mut rng = ChaCha8Rng::seed_from_u64(1);
                settings.random_inputs(&specs, &mut rng).expect("valid")
            };
            let inputs = draw();
            let shapes: Vec<&[u64]> = inputs.iter().map(|input| input.shape.as_slice()).collect();
            assert_eq!(shapes, [[2, 5], [2, 3], [2, DEFAULT_DIMENSION]]);
            for input in &inputs {
                input.check().expect("bytes follow from the shape");
                let file = serde_json::to_string(&input.to_file()).expect("plain data");
                let file = serde_json::from_str(&file).expect("own format");
                assert_eq!(Tensor::from_file(file).expect("valid"), *input);
                let data = input.to_data().expect("valid");
                let again = Tensor::of(input.name.clone(), element, input.shape.clone(), data);
                assert_eq!(again, *input);
            }
            assert_eq!(inputs, draw());
        }
    }

    #[test]
    fn settings_that_do_not_fit_are_refused() {
        let spec = TensorSpec {
            name: "x".to_owned(),
            element: ElementType::Fp32,
            shape: vec![Some(1), Some(3)],
            symbols: vec![None, None],
        };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut draw = |batch, shapes: &[(&str, Vec<u64>)]| {
            let shapes = shapes.iter();
            let settings = InputSettings {
                batch,
                shapes: shapes
                    .map(|(name, shape)| ((*name).to_owned(), shape.clone()))
                    .collect(),
                dimensions: BTreeMap::new(),
                integers: BTreeMap::new(),
            };
            settings.random_inputs(std::slice::from_ref(&spec), &mut rng)
        };
        assert!(draw(1, &[("x", vec![1, 3])]).is_ok());
        assert!(matches!(draw(2, &[]), Err(TensorError::Unbatched { .. })));
        assert!(matches!(
            draw(1, &[("x", vec![3])]),
            Err(TensorError::Shape { .. })
        ));
        assert!(matches!(
            draw(1, &[("y", vec![3])]),
            Err(TensorError::UnknownInput { .. })
        ));
    }
}
