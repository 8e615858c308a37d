//! How a model is served: what all sources say of it, joined.

use crate::config::{Config, ModelConfig};
use crate::repository::VersionPolicy;

/// How a model is served. Equal settings serve equal content alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) model: ModelConfig,
    /// Whether the owner vouches for this very model that every first dimension is the
    /// batch.
    pub(super) vouched: bool,
    /// Which versions are served.
    pub(super) versions: VersionPolicy,
}

impl Settings {
    /// The settings of the model `name`.
    pub(super) fn of(name: &str, config: &Config) -> Self {
        let own = format!("model.{name}.max_batch_size");
        Self {
            model: config.model(name).clone(),
            vouched: config.origins.iter().any(|(path, _)| path == own),
            versions: VersionPolicy::default(),
        }
    }

    /// Whether the owner vouches for the model `info`: by setting the batch size of this
    /// very model, or by `assume_batchable`, which leaves models alone that cannot have
    /// one.
    pub(super) fn vouches_for(&self, info: &fugato_device::ModelInfo) -> bool {
        let mut specs = info.inputs.iter().chain(&info.outputs);
        let may_batch =
            !info.inputs.is_empty() && specs.all(|spec| spec.shape.first() == Some(&None));
        self.model.max_batch_size > 1
            && (self.vouched || (self.model.assume_batchable && may_batch))
    }
}
