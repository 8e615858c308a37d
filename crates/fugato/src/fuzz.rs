//! What fuzzing calls: one function for each kind of bytes that strangers send.
//!
//! Each takes any bytes, reads them with the very functions that the server uses, and
//! panics where a promise is broken: an answer that its own reader does not read back, a
//! size that does not follow from its shape, an error that blames the server for what the
//! client sent. The targets of `fuzz/` and the test that replays their corpora both call
//! these.
//!
//! **Invariant:** nothing here serves; what is tested is in the modules called.

mod service;
mod shm;

pub use crate::server::fuzz::{grpc_infer, http_infer};
pub use shm::shared_memory;

pub(crate) use service::{Fixture, with_fixture};

use crate::cli::model::inspect;
use crate::modelconfig::{check, complete, interpret, parse_json, parse_text, to_json};
use crate::server::proto;
use bytes::Bytes;
use fugato_onnx::{DataType, ModelProto, TensorProto};
use prost::Message as _;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path};

/// A `config.pbtxt`, or the JSON that a client sends in its place: reads it in both
/// languages, understands it, completes it, and reads back what clients are told.
///
/// # Panics
/// Where a configuration that was read does not survive being written, or one that was
/// accepted cannot be completed.
pub fn model_config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let read = [parse_text(text), parse_json(text)];
    for config in read.iter().flatten() {
        written_config_is_read_back(config);
        let model = match config.name.as_str() {
            "" => "m",
            name => name,
        };
        let Ok(wanted) = interpret(model, config) else {
            continue;
        };
        with_fixture(|fixture| {
            let info = &fixture.info;
            let _ = check(&wanted, &info.inputs, &info.outputs);
            let narrowed = wanted.narrowed_inputs(&info.inputs);
            assert_eq!(narrowed.len(), info.inputs.len());
            written_config_is_read_back(&complete(Some(config), info));
        });
        if let Some(batching) = &wanted.dynamic_batching {
            for level in [0, 1, batching.priority_levels, u64::MAX] {
                batching.policy(level);
            }
            assert!(batching.preferred_sizes.is_sorted(), "{batching:?}");
        }
    }
}

fn written_config_is_read_back(config: &proto::ModelConfig) {
    let json = to_json(config);
    let again = parse_json(&json).unwrap_or_else(|error| panic!("{error} of {json}"));
    // As bytes, since NaN does not equal itself.
    assert_eq!(again.encode_to_vec(), config.encode_to_vec(), "{json}");
}

/// An ONNX model: decodes it, reads its metadata, inspects it as `fugato model inspect`
/// does, loads what it says is beside it, takes its tensors' values and writes it.
///
/// # Panics
/// Where external data would be read outside the model's folder, a tensor's values are not
/// of the size it says, or a written model is not read back.
pub fn onnx_reader(data: &[u8]) {
    with_fixture(|fixture| {
        let path = fixture.folder.path().join("model.onnx");
        write(&path, data).expect("the folder for fuzzing can be written");
        let _ = fugato_onnx::read_metadata(&path);
        let Ok(mut model) = fugato_onnx::decode_model(Bytes::copy_from_slice(data)) else {
            return;
        };
        let _ = inspect::facts(model.clone(), &path);
        let checked = fugato_onnx::visit_tensors_mut(&mut model, &mut |tensor| {
            external_data_is_inside(tensor);
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(()) = checked;
        let _ = fugato_onnx::load_external_data(&mut model, fixture.folder.path());
        let checked = fugato_onnx::visit_tensors_mut(&mut model, &mut |tensor| {
            values_are_of_the_size_said(tensor);
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(()) = checked;
        written_model_is_read_back(&model);
    });
}

/// Writes over a file that is there. Emptied first, it would be sent to the disk at once by
/// some file systems, which makes fuzzing a hundred times slower.
fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    file.write_all_at(data, 0)?;
    file.set_len(data.len() as u64)
}

fn external_data_is_inside(tensor: &TensorProto) {
    let Ok(Some(external)) = tensor.external() else {
        return;
    };
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    let location = Path::new(&external.location);
    assert!(location.components().all(inside), "{location:?}");
}

fn values_are_of_the_size_said(tensor: &TensorProto) {
    if let Ok(bytes) = tensor.to_bytes()
        && tensor.element_type().is_ok_and(|of| of != DataType::String)
    {
        let size = tensor.byte_size().expect("its values were taken");
        assert_eq!(bytes.len() as u64, size, "{:?}", tensor.name());
    }
    let count = tensor.element_count();
    for taken in [
        tensor.to_f32s().map(|values| values.len()),
        tensor.to_i64s().map(|values| values.len()),
    ]
    .into_iter()
    .flatten()
    {
        let count = count.as_ref().expect("its values were taken");
        assert_eq!(taken as u64, *count, "{:?}", tensor.name());
    }
}

fn written_model_is_read_back(model: &ModelProto) {
    let mut written = Vec::new();
    fugato_onnx::write_model(model, &mut written).expect("memory grows");
    let again = fugato_onnx::decode_model(written.into()).expect("it was written from a model");
    assert_eq!(again.encode_to_vec(), model.encode_to_vec());
}
