//! Why a model cannot be planned.

use crate::engine::serve::ServeError;
use crate::error::InferError;
use fugato_core::plan::PlanError;
use fugato_core::{BatchSize, Share};
use fugato_device::{LoadError, VisitError};

/// Why a model cannot be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanBenchError {
    /// ONNX Runtime, the store or the device cannot be had.
    #[error(transparent)]
    Open(#[from] ServeError),
    /// The model cannot be loaded.
    #[error("{}", .0.report())]
    Load(#[from] LoadError),
    /// The device has no partition of that size.
    #[error("there is no partition of {found}, the device has them of {have} slices")]
    Share {
        /// What was asked for.
        found: Share,
        /// What there is.
        have: String,
    },
    /// The model cannot run such a batch.
    #[error("the model cannot run a {found}: {reason}")]
    Batch {
        /// What was asked for.
        found: BatchSize,
        /// Why not.
        reason: String,
    },
    /// No input can be made up.
    #[error(
        "input `{input}` has a dimension of any size, so that no input is typical\n\nhint: \
         give one with `--dim`"
    )]
    NoTypicalInput {
        /// The input.
        input: String,
    },
    /// A made-up input is not one of the model.
    #[error("no input of the model can be made up")]
    Input(#[from] InferError),
    /// The model does not run.
    #[error("the model does not run: {0}")]
    Run(#[from] VisitError),
    /// Segments have no times.
    #[error("a part of the model does not run by itself, so that tasks cannot be in flight at it")]
    Apart,
    /// The plan is of another model, device, share or batch.
    #[error(transparent)]
    Plan(Box<PlanError>),
}

impl From<PlanError> for PlanBenchError {
    fn from(error: PlanError) -> Self {
        Self::Plan(Box::new(error))
    }
}
