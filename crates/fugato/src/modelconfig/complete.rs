//! The configuration that clients are told: what its owner wrote, completed by what is
//! served.

use super::{BACKEND, data_type};
use crate::api::{ModelInfo, PLATFORM};
use crate::repository::MODEL_FILE;
use crate::server::metadata::wire_shape;
use crate::server::proto;
use fugato_device::TensorSpec;
use proto::model_config::SchedulingChoice;
use proto::model_version_policy::{Latest, PolicyChoice};

/// The configuration of a model as it is served: `config` (of `config.pbtxt`, where the
/// model has one) with everything filled in that Triton fills in. The batch size and the
/// tensors are those that requests are checked against, whatever `config` leaves out. Groups are
/// of the kind that was asked, wherever the model runs: clients send the answer back, with a change,
/// and where the model runs is then as open as before.
pub fn complete(config: Option<&proto::ModelConfig>, info: &ModelInfo) -> proto::ModelConfig {
    let mut full = config.cloned().unwrap_or_default();
    full.name.clone_from(&info.name);
    fill(&mut full.platform, PLATFORM);
    fill(&mut full.backend, BACKEND);
    fill(&mut full.default_model_filename, MODEL_FILE);
    full.max_batch_size = i32::try_from(info.max_batch_size).unwrap_or(i32::MAX);
    let skip = usize::from(info.max_batch_size > 0);
    full.input = info
        .inputs
        .iter()
        .map(|spec| input(&full.input, spec, skip))
        .collect();
    full.output = info
        .outputs
        .iter()
        .map(|spec| output(&full.output, spec, skip))
        .collect();
    full.version_policy
        .get_or_insert_default()
        .policy_choice
        .get_or_insert(PolicyChoice::Latest(Latest { num_versions: 1 }));
    if info.max_batch_size > 1 {
        full.scheduling_choice
            .get_or_insert_with(|| SchedulingChoice::DynamicBatching(Default::default()));
    }
    if full.instance_group.is_empty() {
        full.instance_group.push(proto::ModelInstanceGroup {
            name: info.name.clone(),
            ..Default::default()
        });
    }
    for (index, group) in full.instance_group.iter_mut().enumerate() {
        fill(&mut group.name, &format!("{}_{index}", info.name));
        group.count = group.count.max(1);
    }
    full
}

fn fill(field: &mut String, value: &str) {
    if field.is_empty() {
        value.clone_into(field);
    }
}

fn dims(spec: &TensorSpec, skip: usize) -> Vec<i64> {
    wire_shape(spec.shape.get(skip..).unwrap_or_default())
}

fn input(declared: &[proto::ModelInput], spec: &TensorSpec, skip: usize) -> proto::ModelInput {
    let own = declared.iter().find(|input| input.name == spec.name);
    proto::ModelInput {
        name: spec.name.clone(),
        data_type: data_type(spec.element).into(),
        dims: dims(spec, skip),
        ..own.cloned().unwrap_or_default()
    }
}

fn output(declared: &[proto::ModelOutput], spec: &TensorSpec, skip: usize) -> proto::ModelOutput {
    let own = declared.iter().find(|output| output.name == spec.name);
    proto::ModelOutput {
        name: spec.name.clone(),
        data_type: data_type(spec.element).into(),
        dims: dims(spec, skip),
        ..own.cloned().unwrap_or_default()
    }
}
