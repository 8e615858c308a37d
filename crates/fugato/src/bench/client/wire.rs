//! The messages of the protocol that the load generator uses.
//!
//! Written out here, apart from the server's generated ones, so that the client stays an
//! independent reading of the protocol: a number wrong on one side fails the tests.

use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ModelMetadataRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ModelMetadataResponse {
    #[prost(message, repeated, tag = "4")]
    pub(super) inputs: Vec<model_metadata_response::TensorMetadata>,
}

pub(super) mod model_metadata_response {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct TensorMetadata {
        #[prost(string, tag = "1")]
        pub(in super::super) name: String,
        #[prost(string, tag = "2")]
        pub(in super::super) datatype: String,
        #[prost(int64, repeated, tag = "3")]
        pub(in super::super) shape: Vec<i64>,
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct InferParameter {
    #[prost(oneof = "infer_parameter::ParameterChoice", tags = "1, 2, 3, 4, 5")]
    pub(super) parameter_choice: Option<infer_parameter::ParameterChoice>,
}

pub(super) mod infer_parameter {
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[expect(clippy::enum_variant_names, reason = "the protocol's names")]
    pub(in super::super) enum ParameterChoice {
        #[prost(bool, tag = "1")]
        BoolParam(bool),
        #[prost(int64, tag = "2")]
        Int64Param(i64),
        #[prost(string, tag = "3")]
        StringParam(String),
        #[prost(double, tag = "4")]
        DoubleParam(f64),
        #[prost(uint64, tag = "5")]
        Uint64Param(u64),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ModelInferRequest {
    #[prost(string, tag = "1")]
    pub(super) model_name: String,
    #[prost(btree_map = "string, message", tag = "4")]
    pub(super) parameters: BTreeMap<String, InferParameter>,
    #[prost(message, repeated, tag = "5")]
    pub(super) inputs: Vec<model_infer_request::InferInputTensor>,
    #[prost(message, repeated, tag = "6")]
    pub(super) outputs: Vec<model_infer_request::InferRequestedOutputTensor>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub(super) raw_input_contents: Vec<Bytes>,
}

pub(super) mod model_infer_request {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct InferInputTensor {
        #[prost(string, tag = "1")]
        pub(in super::super) name: String,
        #[prost(string, tag = "2")]
        pub(in super::super) datatype: String,
        #[prost(int64, repeated, tag = "3")]
        pub(in super::super) shape: Vec<i64>,
        #[prost(btree_map = "string, message", tag = "4")]
        pub(in super::super) parameters: super::BTreeMap<String, super::InferParameter>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct InferRequestedOutputTensor {
        #[prost(string, tag = "1")]
        pub(in super::super) name: String,
        #[prost(btree_map = "string, message", tag = "2")]
        pub(in super::super) parameters: super::BTreeMap<String, super::InferParameter>,
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SystemSharedMemoryRegisterRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) key: String,
    #[prost(uint64, tag = "3")]
    pub(super) offset: u64,
    #[prost(uint64, tag = "4")]
    pub(super) byte_size: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SystemSharedMemoryUnregisterRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

/// A reply whose contents say nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ModelInferResponse {
    #[prost(btree_map = "string, message", tag = "4")]
    pub(super) parameters: BTreeMap<String, InferParameter>,
    #[prost(message, repeated, tag = "5")]
    pub(super) outputs: Vec<model_infer_response::InferOutputTensor>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(super) raw_output_contents: Vec<Bytes>,
}

pub(super) mod model_infer_response {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(in super::super) struct InferOutputTensor {
        #[prost(string, tag = "1")]
        pub(in super::super) name: String,
        #[prost(string, tag = "2")]
        pub(in super::super) datatype: String,
        #[prost(int64, repeated, tag = "3")]
        pub(in super::super) shape: Vec<i64>,
        #[prost(btree_map = "string, message", tag = "4")]
        pub(in super::super) parameters: super::BTreeMap<String, super::InferParameter>,
    }
}
