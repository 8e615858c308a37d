//! Inputs of a model, drawn at random.

use super::PlanBenchError;
use crate::api::ModelInfo;
use crate::engine::sample::{drawn, one_item};
use fugato_core::BatchSize;
use fugato_device::{Batching, RequestInputs, StoredModel, TensorSpec};

/// How inputs are drawn at random.
pub(super) struct Draw {
    pub(super) info: ModelInfo,
    /// By input: whole numbers are below it.
    pub(super) ends: Vec<u8>,
}

impl Draw {
    /// A request of one item.
    pub(super) fn item(&self, seed: u64) -> Result<RequestInputs, PlanBenchError> {
        let info = &self.info;
        let end = |input: &TensorSpec| {
            let place = info.inputs.iter().position(|one| one.name == input.name);
            place.map_or(1, |place| self.ends[place])
        };
        let inputs = drawn(info, seed, end).ok_or_else(|| {
            let batch = usize::from(info.max_batch_size > 0);
            let mut varying = info.inputs.iter();
            let input = varying.find(|input| input.shape.iter().skip(batch).any(Option::is_none));
            PlanBenchError::NoTypicalInput {
                input: input.map(|input| input.name.clone()).unwrap_or_default(),
            }
        })?;
        Ok(one_item(info, inputs)?)
    }
}

/// The model as requests to it are checked.
pub(super) fn model_info(
    stored: &StoredModel,
    batch: BatchSize,
    dim: Option<u64>,
) -> Result<ModelInfo, PlanBenchError> {
    let found = stored.info();
    let max_batch_size = match &found.batching {
        Batching::Batchable => batch.0,
        Batching::Single { reason } if batch.0 > 1 => {
            return Err(PlanBenchError::Batch {
                found: batch,
                reason: reason.clone(),
            });
        }
        Batching::Single { .. } => 0,
    };
    let mut inputs = found.inputs.clone();
    for input in &mut inputs {
        let fixed = input.shape.iter_mut().skip(usize::from(max_batch_size > 0));
        fixed.for_each(|size| *size = size.or(dim));
    }
    Ok(ModelInfo {
        name: "model".to_owned(),
        version: "1".to_owned(),
        inputs,
        outputs: found.outputs.clone(),
        max_batch_size,
        versions: vec!["1".to_owned()],
        labels: Vec::new(),
    })
}
