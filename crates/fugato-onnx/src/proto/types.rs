//! Types of values: tensors, sequences, maps, optionals, and shapes.

/// The type of a value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypeProto {
    /// Which sort of type.
    #[prost(oneof = "type_proto::Value", tags = "1, 4, 5, 9, 8, 7")]
    pub value: Option<type_proto::Value>,
    /// What the value stands for, such as an image.
    #[prost(string, optional, tag = "6")]
    pub denotation: Option<String>,
}

/// The sorts of [`TypeProto`].
pub mod type_proto {
    /// Which sort of type.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Value {
        /// A dense tensor.
        #[prost(message, tag = "1")]
        TensorType(super::TensorType),
        /// A sequence.
        #[prost(message, tag = "4")]
        SequenceType(super::SequenceType),
        /// A map.
        #[prost(message, tag = "5")]
        MapType(super::MapType),
        /// A value or nothing.
        #[prost(message, tag = "9")]
        OptionalType(super::OptionalType),
        /// A sparse tensor.
        #[prost(message, tag = "8")]
        SparseTensorType(super::SparseTensorType),
        /// A type known by name only.
        #[prost(message, tag = "7")]
        OpaqueType(super::OpaqueType),
    }
}

/// A dense tensor type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorType {
    /// Element type, a [`super::DataType`] by number.
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    /// Shape; absent when even the rank is unknown.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A sequence type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SequenceType {
    /// Type of the elements.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<TypeProto>>,
}

/// A map type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MapType {
    /// Type of the keys, a [`super::DataType`] by number.
    #[prost(int32, optional, tag = "1")]
    pub key_type: Option<i32>,
    /// Type of the values.
    #[prost(message, optional, boxed, tag = "2")]
    pub value_type: Option<Box<TypeProto>>,
}

/// An optional type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OptionalType {
    /// Type of the value, if there is one.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<TypeProto>>,
}

/// A sparse tensor type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SparseTensorType {
    /// Element type, a [`super::DataType`] by number.
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    /// Shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A type known by name only.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct OpaqueType {
    /// Domain of the name.
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    /// Name.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
}

/// A shape.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TensorShapeProto {
    /// The dimensions, outermost first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<tensor_shape_proto::Dimension>,
}

/// The parts of [`TensorShapeProto`].
pub mod tensor_shape_proto {
    /// One dimension of a shape.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Dimension {
        /// Its size or symbol; absent when unknown.
        #[prost(oneof = "dimension::Value", tags = "1, 2")]
        pub value: Option<dimension::Value>,
        /// What the dimension stands for, such as channels.
        #[prost(string, optional, tag = "3")]
        pub denotation: Option<String>,
    }

    /// The parts of [`Dimension`].
    pub mod dimension {
        /// A size, or a symbol for one.
        #[derive(Clone, PartialEq, Eq, prost::Oneof)]
        pub enum Value {
            /// Known size.
            #[prost(int64, tag = "1")]
            DimValue(i64),
            /// Symbol; equal symbols are equal sizes.
            #[prost(string, tag = "2")]
            DimParam(String),
        }
    }
}
