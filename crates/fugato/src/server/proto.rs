//! The wire types of gRPC, generated from `proto/`.
#![allow(
    missing_docs,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    clippy::missing_const_for_fn,
    unused_qualifications,
    unreachable_pub,
    reason = "generated code"
)]

tonic::include_proto!("inference");

/// The standard gRPC health check.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// Every message and service of `proto/`, as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
