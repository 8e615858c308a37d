//! What both protocols say about the server and its models.

use super::proto;
use crate::api::{ModelInfo, ModelState, ModelStatus, PLATFORM};
use crate::error::for_clients;
use fugato_device::{ElementType, TensorSpec};

/// The server's name in its metadata.
pub(super) const SERVER_NAME: &str = "fugato";

/// The server's version in its metadata.
pub(super) const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The extensions of the protocol that work in full.
pub(super) const EXTENSIONS: [&str; 7] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
];

/// A model's shape as the protocol writes it: -1 is a dimension that varies.
pub(super) fn wire_shape(shape: &[Option<u64>]) -> Vec<i64> {
    shape
        .iter()
        .map(|dim| dim.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)))
        .collect()
}

/// The `ModelConfig` that describes how the model is served.
pub(crate) fn model_config(info: &ModelInfo) -> proto::ModelConfig {
    let skip = usize::from(info.max_batch_size > 0);
    let dims = |spec: &TensorSpec| wire_shape(spec.shape.get(skip..).unwrap_or_default());
    proto::ModelConfig {
        name: info.name.clone(),
        platform: PLATFORM.to_owned(),
        backend: "onnxruntime".to_owned(),
        max_batch_size: i32::try_from(info.max_batch_size).unwrap_or(i32::MAX),
        input: info
            .inputs
            .iter()
            .map(|spec| proto::ModelInput {
                name: spec.name.clone(),
                data_type: data_type(spec.element).into(),
                dims: dims(spec),
            })
            .collect(),
        output: info
            .outputs
            .iter()
            .map(|spec| proto::ModelOutput {
                name: spec.name.clone(),
                data_type: data_type(spec.element).into(),
                dims: dims(spec),
            })
            .collect(),
        default_model_filename: "model.onnx".to_owned(),
    }
}

/// The configuration's name of an element type.
pub(super) const fn data_type(element: ElementType) -> proto::DataType {
    match element {
        ElementType::Bool => proto::DataType::TypeBool,
        ElementType::Uint8 => proto::DataType::TypeUint8,
        ElementType::Uint16 => proto::DataType::TypeUint16,
        ElementType::Uint32 => proto::DataType::TypeUint32,
        ElementType::Uint64 => proto::DataType::TypeUint64,
        ElementType::Int8 => proto::DataType::TypeInt8,
        ElementType::Int16 => proto::DataType::TypeInt16,
        ElementType::Int32 => proto::DataType::TypeInt32,
        ElementType::Int64 => proto::DataType::TypeInt64,
        ElementType::Fp16 => proto::DataType::TypeFp16,
        ElementType::Bf16 => proto::DataType::TypeBf16,
        ElementType::Fp32 => proto::DataType::TypeFp32,
        ElementType::Fp64 => proto::DataType::TypeFp64,
        ElementType::Bytes => proto::DataType::TypeString,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_leaves_the_batch_dimension_out() {
        let spec = |shape: &[Option<u64>]| TensorSpec {
            name: "x".to_owned(),
            element: ElementType::Bytes,
            shape: shape.to_vec(),
            symbols: vec![None; shape.len()],
        };
        let mut info = ModelInfo {
            name: "m".to_owned(),
            version: "1".to_owned(),
            inputs: vec![spec(&[None, Some(3), None])],
            outputs: vec![spec(&[None])],
            max_batch_size: 8,
            versions: vec!["1".to_owned()],
            labels: Vec::new(),
        };
        let config = model_config(&info);
        assert_eq!(config.input[0].dims, [3, -1]);
        assert_eq!(config.input[0].data_type(), proto::DataType::TypeString);
        assert!(config.output[0].dims.is_empty());
        info.max_batch_size = 0;
        assert_eq!(model_config(&info).input[0].dims, [-1, 3, -1]);
    }
}
