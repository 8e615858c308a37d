//! A model's operators without running it.

use super::open;
use super::plan_bench::PlanBenchError;
use crate::config::Config;
use fugato_device::ModelGraph;
use std::path::Path;
use std::sync::Arc;

/// A model as ONNX Runtime has optimised it.
pub struct ImportedModel {
    graph: Arc<ModelGraph>,
}

impl ImportedModel {
    /// Brings the model at `model` into the store that is configured, and reads its graph.
    ///
    /// # Errors
    /// Where the runtime or the store cannot be had, or it is no model.
    pub fn read(config: &Config, model: &Path) -> Result<Self, PlanBenchError> {
        let (_, store) = open::cpu_store(config)?;
        let graph = store.prepare(model)?.graph()?;
        Ok(Self { graph })
    }

    /// Its operators.
    pub fn graph(&self) -> &ModelGraph {
        &self.graph
    }
}
