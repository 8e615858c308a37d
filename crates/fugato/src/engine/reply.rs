//! What the driver answers, as replies and errors.

use crate::api::{InferReply, ModelInfo, ReplyOutput};
use crate::driver::{ServeFailure, Served};
use crate::error::{InferError, QueueLimit};
use crate::telemetry::RequestTimes;
use fugato_core::sched::{DropReason, Rejection, Scope};
use fugato_core::{Nanos, Timestamp};
use fugato_device::RunErrorKind;
use std::sync::Arc;

/// The reply to a request that asked for `outputs`, in their order.
pub(super) fn reply(
    model: Arc<ModelInfo>,
    id: String,
    outputs: &[usize],
    served: Served,
) -> InferReply {
    let batch = served.batch;
    let mut tensors: Vec<Option<_>> = served.outputs.into_iter().map(Some).collect();
    let outputs = outputs
        .iter()
        .filter_map(|&index| {
            let tensor = tensors.get_mut(index)?.take()?;
            Some(ReplyOutput {
                index,
                element: model.outputs.get(index)?.element,
                shape: tensor.shape,
                data: tensor.data,
            })
        })
        .collect();
    InferReply {
        model,
        id,
        outputs,
        batch,
    }
}

/// The times of a request that was served and is answered `now`.
pub(super) fn times(now: Timestamp, received: Timestamp, served: &Served) -> RequestTimes {
    RequestTimes {
        total: now - received,
        queue: served.timing.started - received,
        split: served.timing.split,
    }
}

/// The error of a request to `model` that was not served.
pub(super) fn error(
    model: &str,
    now: Timestamp,
    received: Timestamp,
    timeout: Option<Nanos>,
    failure: ServeFailure,
) -> InferError {
    match failure {
        ServeFailure::Rejected(reason) => rejected(model, received, reason),
        ServeFailure::Dropped(DropReason::Expired { deadline }) => {
            InferError::deadline_exceeded(model, now - deadline)
        }
        ServeFailure::Dropped(DropReason::Doomed {
            deadline,
            predicted,
        }) => InferError::deadline_doomed(model, predicted - now, deadline - now),
        ServeFailure::Dropped(DropReason::QueueTimeout { .. }) => {
            InferError::queue_timeout(model, now - received, timeout.unwrap_or_default())
        }
        ServeFailure::Cancelled => InferError::cancelled(model),
        ServeFailure::Run(cause) => {
            // The client is told less. Its own fault may come at the rate of requests.
            if cause.kind == RunErrorKind::InvalidInput {
                tracing::debug!(model, detail = cause.detail, "a run was refused");
            } else {
                tracing::error!(model, detail = cause.detail, "a run failed");
            }
            InferError::run_failed(model, cause)
        }
        ServeFailure::Input(cause) => InferError::input_fault(model, cause),
        ServeFailure::DeviceLost(device) => InferError::device_lost(model, device),
    }
}

fn rejected(model: &str, received: Timestamp, reason: Rejection) -> InferError {
    match reason {
        Rejection::UnknownModel => InferError::unknown_model(model),
        Rejection::ModelStopping | Rejection::NoDevice => {
            InferError::model_not_ready(model, reason.to_string())
        }
        Rejection::Draining => InferError::draining(),
        Rejection::BatchTooLarge { .. } => {
            // The request was checked against the same limit before it was handed in.
            InferError::internal("admission", reason.to_string())
        }
        Rejection::QueueFull {
            scope,
            queued,
            limit,
        } => InferError::queue_full(whose(model, scope), QueueLimit::Requests, queued, 1, limit),
        Rejection::BytesFull {
            scope,
            held,
            request,
            limit,
        } => InferError::queue_full(whose(model, scope), QueueLimit::Bytes, held, request, limit),
        Rejection::DeadlineUnreachable {
            deadline,
            predicted,
            ..
        } => InferError::deadline_unreachable(model, predicted - received, deadline - received),
        Rejection::NoRoom { short, .. } => InferError::no_room(model, short),
    }
}

fn whose(model: &str, scope: Scope) -> String {
    match scope {
        Scope::Model => model.to_owned(),
        Scope::Total => "(all models)".to_owned(),
    }
}
