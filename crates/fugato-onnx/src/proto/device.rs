//! Multi-device configurations of a model (IR version 11 and later).

/// A set of devices a model may run on.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeviceConfigurationProto {
    /// Name of the configuration.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Number of devices.
    #[prost(int32, optional, tag = "2")]
    pub num_devices: Option<i32>,
    /// Names of the devices.
    #[prost(string, repeated, tag = "3")]
    pub device: Vec<String>,
}

/// Where one node runs under one configuration.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeDeviceConfigurationProto {
    /// Name of the configuration.
    #[prost(string, optional, tag = "1")]
    pub configuration_id: Option<String>,
    /// How the node's tensors are split.
    #[prost(message, repeated, tag = "2")]
    pub sharding_spec: Vec<ShardingSpecProto>,
    /// Stage of the pipeline the node belongs to.
    #[prost(int32, optional, tag = "3")]
    pub pipeline_stage: Option<i32>,
}

/// How one tensor is split over devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardingSpecProto {
    /// Name of the tensor.
    #[prost(string, optional, tag = "1")]
    pub tensor_name: Option<String>,
    /// Devices or device groups, by number.
    #[prost(int64, repeated, packed = "false", tag = "2")]
    pub device: Vec<i64>,
    /// Members of the device groups.
    #[prost(message, repeated, tag = "3")]
    pub index_to_device_group_map: Vec<IntIntListEntryProto>,
    /// The dimensions that are split.
    #[prost(message, repeated, tag = "4")]
    pub sharded_dim: Vec<ShardedDimProto>,
}

/// An integer and a list of integers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct IntIntListEntryProto {
    /// Key.
    #[prost(int64, optional, tag = "1")]
    pub key: Option<i64>,
    /// Values.
    #[prost(int64, repeated, packed = "false", tag = "2")]
    pub value: Vec<i64>,
}

/// How one dimension is split.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardedDimProto {
    /// The dimension, counted from 0.
    #[prost(int64, optional, tag = "1")]
    pub axis: Option<i64>,
    /// How it is split.
    #[prost(message, repeated, tag = "2")]
    pub simple_sharding: Vec<SimpleShardedDimProto>,
}

/// A dimension and the number of its parts.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SimpleShardedDimProto {
    /// Size or symbol of the dimension.
    #[prost(oneof = "simple_sharded_dim_proto::Dim", tags = "1, 2")]
    pub dim: Option<simple_sharded_dim_proto::Dim>,
    /// Number of parts.
    #[prost(int64, optional, tag = "3")]
    pub num_shards: Option<i64>,
}

/// The parts of [`SimpleShardedDimProto`].
pub mod simple_sharded_dim_proto {
    /// A size, or a symbol for one.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Dim {
        /// Known size.
        #[prost(int64, tag = "1")]
        DimValue(i64),
        /// Symbol.
        #[prost(string, tag = "2")]
        DimParam(String),
    }
}
