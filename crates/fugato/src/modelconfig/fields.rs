//! What Fugato does with each field of the configuration: the one table.
//!
//! The walk in [`scan`] and the reference page both read it. A field that is absent from
//! [`EXCEPTIONS`] is done; the fields of a message that is warned about or refused share its
//! fate.

use super::text::{descriptor, reflect};
use super::{ModelConfigError, Notice};
use crate::server::proto;
use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};

/// What is done with a field that a configuration sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It has the effect that it has in Triton.
    Done,
    /// It has no effect, which the log says; why.
    Warned(&'static str),
    /// The model is not loaded; why.
    Refused(&'static str),
}

use Treatment::{Refused, Warned};

const SEQUENCES: &str =
    "Fugato keeps no state between requests, so sequences would get other answers";
const RAGGED: &str = "Fugato batches along the first dimension only, so the model would get other inputs than it expects";
const RESHAPE: &str = "Fugato passes tensors in the shape that they have, so the model would get another shape than it expects";
const SHAPE_TENSORS: &str = "only TensorRT has shape tensors and non-linear formats, and Fugato runs ONNX Runtime; \
     as ordinary tensors they would be read wrongly";
const ONE_DEVICE: &str = "Fugato itself chooses where a model runs";
const LIMITER: &str =
    "the scheduler shares the device by deadlines and weights; `fugato.weight` sets a model's";
const NO_PINNED: &str = "tensors go from the request to the model without pinned buffers";

/// The fields that are not done, as `Message.field`, with the message's name below the
/// package.
const EXCEPTIONS: &[(&str, Treatment)] = &[
    ("ModelConfig.batch_input", Refused(RAGGED)),
    ("ModelConfig.batch_output", Refused(RAGGED)),
    ("ModelConfig.sequence_batching", Refused(SEQUENCES)),
    (
        "ModelConfig.ensemble_scheduling",
        Refused("Fugato runs single models; send the requests of the steps one after another"),
    ),
    (
        "ModelConfig.cc_model_filenames",
        Warned(
            "the CPU has no CUDA compute capability, so `default_model_filename` is used, as \
             Triton does there",
        ),
    ),
    (
        "ModelConfig.metric_tags",
        Warned("metrics have the labels `model` and `version` only"),
    ),
    (
        "ModelConfig.model_metrics",
        Warned("the buckets of Fugato's histograms are fixed"),
    ),
    (
        "ModelConfig.response_cache",
        Warned("there is no response cache: every request is run"),
    ),
    (
        "ModelConfig.model_repository_agents",
        Refused(
            "Fugato runs no repository agents, so the model would be served unchecked or \
             untransformed",
        ),
    ),
    (
        "ModelOperations.op_library_filename",
        Refused("Fugato loads no custom operator libraries"),
    ),
    (
        "ModelTransactionPolicy.decoupled",
        Refused("an ONNX model has one reply per request"),
    ),
    ("ModelInstanceGroup.rate_limiter", Warned(LIMITER)),
    ("ModelInstanceGroup.gpus", Warned(ONE_DEVICE)),
    ("ModelInstanceGroup.secondary_devices", Warned(ONE_DEVICE)),
    ("ModelInstanceGroup.host_policy", Warned(ONE_DEVICE)),
    (
        "ModelInstanceGroup.profile",
        Warned("only TensorRT has optimisation profiles"),
    ),
    (
        "ModelInstanceGroup.passive",
        Warned("the group is left out: nothing runs in a passive instance"),
    ),
    ("ModelInput.reshape", Refused(RESHAPE)),
    ("ModelInput.is_shape_tensor", Refused(SHAPE_TENSORS)),
    ("ModelInput.allow_ragged_batch", Refused(RAGGED)),
    (
        "ModelInput.optional",
        Warned("requests must carry every input; one without it is refused"),
    ),
    ("ModelInput.is_non_linear_format_io", Refused(SHAPE_TENSORS)),
    ("ModelOutput.reshape", Refused(RESHAPE)),
    ("ModelOutput.is_shape_tensor", Refused(SHAPE_TENSORS)),
    (
        "ModelOutput.is_non_linear_format_io",
        Refused(SHAPE_TENSORS),
    ),
    (
        "ModelOptimizationPolicy.graph",
        Warned("every graph is optimised in full, once, before it is stored"),
    ),
    ("ModelOptimizationPolicy.priority", Warned(LIMITER)),
    (
        "ModelOptimizationPolicy.cuda",
        Warned("the model runs on the CPU"),
    ),
    (
        "ModelOptimizationPolicy.execution_accelerators",
        Warned("ONNX Runtime's own CPU provider runs the model"),
    ),
    (
        "ModelOptimizationPolicy.input_pinned_memory",
        Warned(NO_PINNED),
    ),
    (
        "ModelOptimizationPolicy.output_pinned_memory",
        Warned(NO_PINNED),
    ),
    (
        "ModelOptimizationPolicy.gather_kernel_buffer_threshold",
        Warned("inputs are gathered by the CPU"),
    ),
    (
        "ModelOptimizationPolicy.eager_batching",
        Warned("a batch is filled while the one before it runs, always"),
    ),
    (
        "ModelDynamicBatching.preserve_ordering",
        Warned("a reply is sent when it is ready, also where an earlier request still runs"),
    ),
];

/// What is done with field `Message.field`.
fn treatment(message: &MessageDescriptor, field: &str) -> Treatment {
    let (owner, name) = (message.full_name(), field);
    let owner = owner.strip_prefix("inference.").unwrap_or(owner);
    EXCEPTIONS
        .iter()
        .find(|(key, _)| key.split_once('.') == Some((owner, name)))
        .map_or(Treatment::Done, |(_, treatment)| *treatment)
}

/// Every field of the configuration by its path, depth first in the order of the schema,
/// with what is done with it: `instance_group[].count`, `parameters{}.string_value`.
pub fn treatments() -> Vec<(String, Treatment)> {
    let mut found = Vec::new();
    list(&descriptor(), "", Treatment::Done, &mut found);
    found
}

/// Lists the fields of a message; `outer` is what is done with the message.
fn list(
    message: &MessageDescriptor,
    prefix: &str,
    outer: Treatment,
    found: &mut Vec<(String, Treatment)>,
) {
    for field in message.fields() {
        let own = match outer {
            Treatment::Done => treatment(message, field.name()),
            Warned(_) | Refused(_) => outer,
        };
        let plural = match (field.is_map(), field.is_list()) {
            (true, _) => "{}",
            (false, true) => "[]",
            (false, false) => "",
        };
        let path = format!("{prefix}{}{plural}", field.name());
        found.push((path.clone(), own));
        let mut kind = field.kind();
        if let (true, Kind::Message(entry)) = (field.is_map(), &kind) {
            kind = entry.map_entry_value_field().kind();
        }
        if let Kind::Message(inner) = kind {
            list(&inner, &format!("{path}."), own, found);
        }
    }
}

/// Goes through the fields that a configuration sets: what is warned about, or the first
/// that is refused.
pub(super) fn scan(
    model: &str,
    config: &proto::ModelConfig,
) -> Result<Vec<Notice>, ModelConfigError> {
    let mut notices = Vec::new();
    scan_message(model, &reflect(config), "", &mut notices)?;
    Ok(notices)
}

fn scan_message(
    model: &str,
    message: &DynamicMessage,
    prefix: &str,
    notices: &mut Vec<Notice>,
) -> Result<(), ModelConfigError> {
    let descriptor = message.descriptor();
    for (field, value) in message.fields() {
        let path = format!("{prefix}{}", field.name());
        match treatment(&descriptor, field.name()) {
            Treatment::Done => scan_value(model, value, &path, notices)?,
            Warned(reason) => notices.push(Notice {
                path,
                reason: reason.to_owned(),
            }),
            Refused(reason) => {
                return Err(ModelConfigError::Refused {
                    model: model.to_owned(),
                    path,
                    reason,
                });
            }
        }
    }
    Ok(())
}

fn scan_value(
    model: &str,
    value: &Value,
    path: &str,
    notices: &mut Vec<Notice>,
) -> Result<(), ModelConfigError> {
    if let Some(message) = value.as_message() {
        scan_message(model, message, &format!("{path}."), notices)?;
    } else if let Some(list) = value.as_list() {
        for (index, value) in list.iter().enumerate() {
            scan_value(model, value, &format!("{path}[{index}]"), notices)?;
        }
    } else if let Some(map) = value.as_map() {
        for (key, value) in map {
            let key = match key {
                MapKey::String(key) => format!("{key:?}"),
                MapKey::Bool(key) => key.to_string(),
                MapKey::I32(key) => key.to_string(),
                MapKey::I64(key) => key.to_string(),
                MapKey::U32(key) => key.to_string(),
                MapKey::U64(key) => key.to_string(),
            };
            scan_value(model, value, &format!("{path}[{key}]"), notices)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_exception_names_a_field_of_the_schema() {
        fn fields(message: &MessageDescriptor, found: &mut BTreeSet<String>) {
            for field in message.fields() {
                let owner = message.full_name().trim_start_matches("inference.");
                found.insert(format!("{owner}.{}", field.name()));
                if let Kind::Message(inner) = field.kind() {
                    fields(&inner, found);
                }
            }
        }
        let mut found = BTreeSet::new();
        fields(&descriptor(), &mut found);
        for (name, _) in EXCEPTIONS {
            assert!(found.contains(*name), "{name}");
        }
    }
}
