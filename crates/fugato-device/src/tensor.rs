//! Tensors as they cross the seam between server and device.

use crate::shared::SharedSlice;
use bytes::Bytes;
use std::fmt;

/// The element types of the Open Inference Protocol, with ONNX's counterpart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementType {
    /// `BOOL`: one byte, 0 or 1.
    Bool,
    /// `UINT8`.
    Uint8,
    /// `UINT16`.
    Uint16,
    /// `UINT32`.
    Uint32,
    /// `UINT64`.
    Uint64,
    /// `INT8`.
    Int8,
    /// `INT16`.
    Int16,
    /// `INT32`.
    Int32,
    /// `INT64`.
    Int64,
    /// `FP16`: IEEE binary16.
    Fp16,
    /// `BF16`: the upper half of binary32.
    Bf16,
    /// `FP32`.
    Fp32,
    /// `FP64`.
    Fp64,
    /// `BYTES`: strings of any bytes (ONNX `string`).
    Bytes,
}

impl ElementType {
    /// Every element type.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// Bytes per element; `None` for [`ElementType::Bytes`], whose elements vary.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// The name in the Open Inference Protocol: `FP32`, `BYTES`.
    pub const fn oip_name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The type of that protocol name; `None` where there is none.
    pub fn from_oip_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|element| element.oip_name() == name)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.oip_name())
    }
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the model.
    pub name: String,
    /// Its element type.
    pub element: ElementType,
    /// Its shape, batch dimension included; `None` is a dimension that varies.
    pub shape: Vec<Option<u64>>,
    /// The model's symbol of each dimension (`"batch"`), where it has one.
    pub symbols: Vec<Option<String>>,
}

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorData {
    /// Row-major, little-endian, of the size that type and shape say.
    Raw(Bytes),
    /// One string of any bytes per element, row-major.
    Strings(Vec<Bytes>),
}

impl TensorData {
    /// Bytes of payload (for strings, their contents without length prefixes).
    pub fn byte_size(&self) -> usize {
        match self {
            Self::Raw(bytes) => bytes.len(),
            Self::Strings(strings) => strings.iter().map(Bytes::len).sum(),
        }
    }
}

/// Where the elements of an input are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputData {
    /// In this process's memory.
    Here(TensorData),
    /// In a client's shared memory, row-major and little-endian; never strings.
    Shared(SharedSlice),
}

impl InputData {
    /// Bytes of payload (for strings, their contents without length prefixes).
    pub fn byte_size(&self) -> usize {
        match self {
            Self::Here(data) => data.byte_size(),
            Self::Shared(slice) => slice.length,
        }
    }
}

impl From<TensorData> for InputData {
    fn from(data: TensorData) -> Self {
        Self::Here(data)
    }
}

/// A request's value for one input of its model, checked by the server against the
/// model's [`TensorSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputTensor {
    /// The full shape, batch dimension included.
    pub shape: Vec<u64>,
    /// The elements.
    pub data: InputData,
}

/// One request's part of one output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputTensor {
    /// The full shape, batch dimension included (the request's own rows).
    pub shape: Vec<u64>,
    /// The elements; `Raw` bytes share the device's output buffer without a copy.
    pub data: TensorData,
}
