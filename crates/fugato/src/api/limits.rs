//! Limits on the parts of a request that no model needs more of.
//!
//! They bound what is said about a request (in errors, records and traces), not what it
//! holds: the server's budget does that. They are no settings, since no model comes near.

use super::InferRequest;
use crate::error::{Fault, InferError};

/// The most bytes of a name or of a request's id. Exporters make names of a few hundred.
pub const NAME_MAX_BYTES: usize = 1024;

/// The most inputs, and the most outputs, of one request. Models with a cache for each layer
/// have a few hundred.
pub const TENSORS_MAX: usize = 1024;

/// The most dimensions of an input: what numpy can make.
pub const RANK_MAX: usize = 64;

/// Checks the limits, before anything of the request is looked up.
///
/// # Errors
/// `TooLarge`, naming the part, its size and the limit.
pub(crate) fn check_limits(request: &InferRequest) -> Result<(), InferError> {
    name("the model's name", &request.model)?;
    name("the version", request.version.as_deref().unwrap_or(""))?;
    name("the request's id", &request.id)?;
    at_most("inputs", request.inputs.len(), TENSORS_MAX)?;
    at_most("outputs", request.outputs.len(), TENSORS_MAX)?;
    for input in &request.inputs {
        name("the name of an input", &input.name)?;
        at_most("dimensions of an input", input.shape.len(), RANK_MAX)?;
    }
    for output in &request.outputs {
        name("the name of an output", &output.name)?;
    }
    Ok(())
}

fn name(what: &'static str, name: &str) -> Result<(), InferError> {
    at_most_of(what, "bytes", name.len(), NAME_MAX_BYTES)
}

fn at_most(unit: &'static str, found: usize, limit: usize) -> Result<(), InferError> {
    at_most_of("the request", unit, found, limit)
}

fn at_most_of(
    what: &'static str,
    unit: &'static str,
    found: usize,
    limit: usize,
) -> Result<(), InferError> {
    if found <= limit {
        return Ok(());
    }
    Err(Fault::TooMany {
        what,
        unit,
        found,
        limit,
    }
    .into())
}
