//! Short constructors for messages.

use crate::proto::tensor_shape_proto::{Dimension, dimension};
use crate::proto::{
    AttributeProto, AttributeType, DataType, NodeProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TensorType, TypeProto, ValueInfoProto, type_proto,
};
use bytes::Bytes;

impl TensorProto {
    /// Makes a tensor from little-endian bytes; sizes are checked when it is read.
    pub fn from_bytes(
        name: impl Into<String>,
        data_type: DataType,
        dims: &[i64],
        bytes: Bytes,
    ) -> Self {
        Self {
            name: Some(name.into()),
            data_type: Some(data_type as i32),
            dims: dims.to_vec(),
            raw_data: Some(bytes),
            ..Self::default()
        }
    }

    /// Makes a float tensor.
    pub fn from_f32s(name: impl Into<String>, dims: &[i64], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::from_bytes(name, DataType::Float, dims, bytes)
    }

    /// Makes an int64 tensor.
    pub fn from_i64s(name: impl Into<String>, dims: &[i64], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::from_bytes(name, DataType::Int64, dims, bytes)
    }
}

impl NodeProto {
    /// Makes a node of ONNX's own domain.
    pub fn new(name: &str, op_type: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            name: Some(name.to_owned()),
            op_type: Some(op_type.to_owned()),
            input: strings(inputs),
            output: strings(outputs),
            ..Self::default()
        }
    }

    /// Adds attributes.
    #[must_use]
    pub fn with(mut self, attributes: impl IntoIterator<Item = AttributeProto>) -> Self {
        self.attribute.extend(attributes);
        self
    }

    /// Finds an attribute by name.
    pub fn find_attribute(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute
            .iter()
            .find(|attribute| attribute.name() == name)
    }
}

impl AttributeProto {
    /// Makes an integer attribute.
    pub fn int(name: &str, value: i64) -> Self {
        Self {
            i: Some(value),
            ..Self::of_type(name, AttributeType::Int)
        }
    }

    /// Makes an attribute of integers.
    pub fn ints(name: &str, values: &[i64]) -> Self {
        Self {
            ints: values.to_vec(),
            ..Self::of_type(name, AttributeType::Ints)
        }
    }

    /// Makes a float attribute.
    pub fn float(name: &str, value: f32) -> Self {
        Self {
            f: Some(value),
            ..Self::of_type(name, AttributeType::Float)
        }
    }

    fn of_type(name: &str, r#type: AttributeType) -> Self {
        Self {
            name: Some(name.to_owned()),
            r#type: Some(r#type as i32),
            ..Self::default()
        }
    }
}

impl Dimension {
    /// Makes a dimension of known size.
    pub const fn size(size: i64) -> Self {
        Self {
            value: Some(dimension::Value::DimValue(size)),
            denotation: None,
        }
    }

    /// Makes a dimension known by a symbol.
    pub fn symbol(symbol: impl Into<String>) -> Self {
        Self {
            value: Some(dimension::Value::DimParam(symbol.into())),
            denotation: None,
        }
    }

    /// Gives the size, where it is known.
    pub fn known_size(&self) -> Option<i64> {
        match &self.value {
            Some(dimension::Value::DimValue(size)) => Some(*size),
            Some(dimension::Value::DimParam(_)) | None => None,
        }
    }
}

impl ValueInfoProto {
    /// Makes the description of a tensor value.
    pub fn tensor(name: impl Into<String>, data_type: DataType, dims: Vec<Dimension>) -> Self {
        let tensor = TensorType {
            elem_type: Some(data_type as i32),
            shape: Some(TensorShapeProto { dim: dims }),
        };
        Self {
            name: Some(name.into()),
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(tensor)),
                denotation: None,
            }),
            ..Self::default()
        }
    }

    /// Gives the tensor type, unless the value is of another sort.
    pub fn tensor_type(&self) -> Option<&TensorType> {
        if let type_proto::Value::TensorType(tensor) = self.r#type.as_ref()?.value.as_ref()? {
            Some(tensor)
        } else {
            None
        }
    }

    /// Gives the tensor type for changing, unless the value is of another sort.
    pub fn tensor_type_mut(&mut self) -> Option<&mut TensorType> {
        if let type_proto::Value::TensorType(tensor) = self.r#type.as_mut()?.value.as_mut()? {
            Some(tensor)
        } else {
            None
        }
    }
}

impl StringStringEntryProto {
    /// Makes an entry.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            key: Some(key.into()),
            value: Some(value.into()),
        }
    }
}
