//! What both protocols say about the server and its models.

use crate::api::{ModelState, ModelStatus};
use crate::error::for_clients;

/// The server's name in its metadata.
pub(super) const SERVER_NAME: &str = "fugato";

/// The server's version in its metadata.
pub(super) const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The extensions of the protocol that work in full.
pub(super) const EXTENSIONS: [&str; 11] = [
    "binary_tensor_data",
    "classification",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
    "trace",
];

/// A model's shape as the protocol writes it: -1 is a dimension that varies.
pub(crate) fn wire_shape(shape: &[Option<u64>]) -> Vec<i64> {
    shape
        .iter()
        .map(|dim| dim.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)))
        .collect()
}

/// The state of a model as the repository index names it.
pub(super) const fn state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Loading => "LOADING",
        ModelState::Ready => "READY",
        ModelState::Unavailable => "UNAVAILABLE",
        ModelState::Unloading => "UNLOADING",
    }
}

/// The repository index: every model version, or only the ready ones. Reasons are as clients
/// may see them.
pub(super) fn index(models: Vec<ModelStatus>, ready_only: bool) -> Vec<ModelStatus> {
    models
        .into_iter()
        .filter(|model| !ready_only || model.state == ModelState::Ready)
        .map(|model| ModelStatus {
            reason: for_clients(&model.reason),
            ..model
        })
        .collect()
}
