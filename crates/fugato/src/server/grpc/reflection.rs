//! gRPC server reflection, so that tools know the calls without our `.proto` files.

use super::Reply;
use crate::server::proto;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tonic::codegen::Service as _;
use tonic_reflection::server::Builder;

type Answer = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;
type Call = dyn Fn(hyper::Request<Incoming>) -> Answer + Send + Sync;

/// The largest question: a name, with room to spare.
const QUESTION_BYTES: usize = 64 << 10;

/// Both versions of the service; tools ask for either.
#[derive(Clone)]
pub(super) struct Reflection {
    v1: Arc<Call>,
    v1alpha: Arc<Call>,
}

impl Reflection {
    /// Describes every service of `proto/`, and itself.
    pub(super) fn new() -> Self {
        let builder =
            || Builder::configure().register_encoded_file_descriptor_set(proto::DESCRIPTORS);
        let sound = "the descriptors are made by our build, and a test reads them";
        let v1 = builder().build_v1().expect(sound);
        let v1 = v1.max_decoding_message_size(QUESTION_BYTES);
        let v1alpha = builder().build_v1alpha().expect(sound);
        let v1alpha = v1alpha.max_decoding_message_size(QUESTION_BYTES);
        Self {
            v1: Arc::new(move |request| v1.clone().call(request)),
            v1alpha: Arc::new(move |request| v1alpha.clone().call(request)),
        }
    }

    /// Answers a call of either version, which its path names.
    pub(super) fn call(&self, request: hyper::Request<Incoming>) -> Answer {
        if request
            .uri()
            .path()
            .starts_with("/grpc.reflection.v1alpha.")
        {
            (self.v1alpha)(request)
        } else {
            (self.v1)(request)
        }
    }
}
