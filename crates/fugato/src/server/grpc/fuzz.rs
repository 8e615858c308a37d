//! Fuzzing of gRPC's inference requests.

use super::calls::Origin;
use super::{codec, convert};
use crate::api::string_bytes;
use crate::error::{ErrorKind, InferError};
use crate::fuzz::{Fixture, with_fixture};
use crate::server::budget::Budget;
use crate::server::fuzz::answer;
use crate::server::proto;
use fugato_core::Timestamp;
use prost::Message as _;

/// The bytes of a `ModelInferRequest`: decodes, converts and checks it, answers it, and
/// reads the reply back.
///
/// # Panics
/// Where an accepted request breaks a promise, or its reply does not decode to itself.
pub fn grpc_infer(data: &[u8]) {
    with_fixture(|fixture| {
        if let Err(error) = call(fixture, data) {
            assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
        }
    });
}

fn call(fixture: &Fixture, data: &[u8]) -> Result<(), InferError> {
    let hold = Budget::new(1 << 20).hold();
    let wire: proto::ModelInferRequest = codec::decode(data)?;
    hold.take(convert::decoded_bytes(&wire))?;
    let origin = Origin {
        arrived: Timestamp::ZERO,
        timeout: None,
        trace: None,
    };
    let request = convert::request(wire, origin, &fixture.regions)?;
    hold.take(string_bytes(&request.inputs))?;
    let reply = convert::reply(answer(&fixture.info, request)?)?;
    assert_eq!(reply.outputs.len(), reply.raw_output_contents.len());
    let bytes = reply.encode_to_vec();
    let again = proto::ModelInferResponse::decode(&*bytes).expect("it was written from one");
    assert_eq!(again, reply);
    Ok(())
}
