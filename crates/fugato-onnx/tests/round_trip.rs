//! Models survive decoding, encoding and moving their weights to another file.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use bytes::Bytes;
use fugato_onnx::proto::{
    AttributeProto, AttributeType, FunctionProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto, TensorAnnotation, TrainingInfoProto, ValueInfoProto,
    tensor_shape_proto::Dimension,
};
use fugato_onnx::{
    DataType, ExternalDataError, ExternalPolicy, GraphProto, ModelProto, NodeProto, ReadError,
    TensorProto, WriteError, decode_model, load_external_data, read_metadata, read_model,
    save_model, write_model,
};
use prost::Message;

fn small_model() -> ModelProto {
    let big: Vec<f32> = (0..512).map(|i| i as f32).collect();
    let graph = GraphProto {
        name: Some("g".to_owned()),
        node: vec![
            NodeProto::new("mul", "Mul", &["x", "w"], &["m"]),
            NodeProto::new("add", "Add", &["m", "b"], &["y"])
                .with([AttributeProto::ints("unused", &[1, -2])]),
        ],
        initializer: vec![
            TensorProto::from_f32s("b", &[1], &[0.5]),
            TensorProto::from_f32s("w", &[512], &big),
            TensorProto::from_f32s("w2", &[512], &big),
            TensorProto {
                name: Some("typed".to_owned()),
                data_type: Some(DataType::Float as i32),
                dims: vec![300],
                float_data: vec![2.0; 300],
                ..TensorProto::default()
            },
        ],
        input: vec![ValueInfoProto::tensor(
            "x",
            DataType::Float,
            vec![Dimension::symbol("batch"), Dimension::size(512)],
        )],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        metadata_props: vec![StringStringEntryProto::new("key", "value")],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// A model with something in the fields that are rare.
fn rare_model() -> ModelProto {
    let mut model = small_model();
    let inner = model.graph.clone().unwrap();
    let sparse = SparseTensorProto {
        values: Some(TensorProto::from_f32s("s", &[1], &[3.0])),
        indices: Some(TensorProto::from_i64s("i", &[1], &[4])),
        dims: vec![9],
    };
    let graph = model.graph.as_mut().unwrap();
    graph.sparse_initializer = vec![sparse];
    graph.quantization_annotation = vec![TensorAnnotation {
        tensor_name: Some("w".to_owned()),
        quant_parameter_tensor_names: vec![StringStringEntryProto::new("SCALE_TENSOR", "s")],
    }];
    graph.node[0].overload = Some("o".to_owned());
    graph.node[0].attribute.push(AttributeProto {
        name: Some("body".to_owned()),
        r#type: Some(AttributeType::Graph as i32),
        g: Some(Box::new(inner.clone())),
        ..AttributeProto::default()
    });
    model.training_info = vec![TrainingInfoProto {
        algorithm: Some(inner),
        ..TrainingInfoProto::default()
    }];
    model.functions = vec![FunctionProto {
        name: Some("f".to_owned()),
        attribute_proto: vec![AttributeProto::float("alpha", 0.0)],
        ..FunctionProto::default()
    }];
    model
}

#[test]
fn written_models_decode_to_the_same_message() {
    for model in [small_model(), rare_model()] {
        let mut streamed = Vec::new();
        write_model(&model, &mut streamed).unwrap();
        assert_eq!(streamed.len(), model.encoded_len());
        assert_eq!(decode_model(streamed.into()).unwrap(), model);
    }
}

#[test]
fn zero_and_absent_stay_apart() {
    let attribute = AttributeProto::int("axis", 0);
    let bytes = attribute.encode_to_vec();
    let again = AttributeProto::decode(Bytes::from(bytes)).unwrap();
    assert_eq!(again.i, Some(0));
    assert_eq!(again.f, None);
}

#[test]
fn external_weights_come_back_aligned_and_equal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let model = small_model();
    save_model(&model, &path, ExternalPolicy::Always("weights.bin")).unwrap();

    let mut split = read_model(&path).unwrap();
    let graph = split.graph.as_ref().unwrap();
    assert!(!graph.find_initializer("b").unwrap().is_external(), "small");
    let places: Vec<u64> = ["w", "w2", "typed"]
        .iter()
        .map(|name| graph.find_initializer(name).unwrap())
        .map(|tensor| tensor.external().unwrap().unwrap().offset)
        .collect();
    assert_eq!(places, [0, 2048, 4096]);
    assert!(matches!(
        graph.find_initializer("w").unwrap().to_bytes(),
        Err(fugato_onnx::TensorError::External { .. })
    ));

    load_external_data(&mut split, folder.path()).unwrap();
    let values = |model: &ModelProto| -> Vec<Bytes> {
        let graph = model.graph.as_ref().unwrap();
        graph.initializers().map(|one| one.unwrap().bytes).collect()
    };
    assert_eq!(values(&split), values(&model));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "no temporary file stays: {left:?}");
}

fn external(location: &str, offset: &str, length: &str) -> ModelProto {
    let mut model = small_model();
    let tensor = &mut model.graph.as_mut().unwrap().initializer[1];
    tensor.raw_data = None;
    tensor.data_location = Some(1);
    tensor.external_data = vec![
        StringStringEntryProto::new("location", location),
        StringStringEntryProto::new("offset", offset),
        StringStringEntryProto::new("length", length),
    ];
    model
}

#[test]
fn external_data_cannot_leave_the_folder_or_lie_about_its_size() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(outer.path().join("secret"), [0; 4096]).unwrap();
    std::fs::write(folder.join("short"), [0; 2047]).unwrap();
    let load = |location: &str, offset: &str, length: &str| {
        load_external_data(&mut external(location, offset, length), &folder).unwrap_err()
    };
    let absolute = outer.path().join("secret");
    for escape in [
        "../secret",
        "a/../../secret",
        "..\\secret",
        absolute.to_str().unwrap(),
    ] {
        let error = load(escape, "0", "2048");
        assert!(
            matches!(error, ExternalDataError::Escapes { .. }),
            "{escape}: {error}"
        );
    }
    assert!(matches!(
        load("", "0", "2048"),
        ExternalDataError::NoLocation { .. }
    ));
    assert!(matches!(
        load("short", "-1", "2048"),
        ExternalDataError::Number { .. }
    ));
    assert!(matches!(
        load("short", "0", "99999999999999"),
        ExternalDataError::Length { expected: 2048, .. }
    ));
    assert!(matches!(
        load("short", "0", "2048"),
        ExternalDataError::Truncated { size: 2047, .. }
    ));
    assert!(matches!(
        load("short", "18446744073709551615", "2048"),
        ExternalDataError::Truncated { .. }
    ));
    assert!(matches!(
        load("missing", "0", "2048"),
        ExternalDataError::Io { .. }
    ));
}

#[test]
fn bad_files_are_refused_by_kind() {
    let mut good = Vec::new();
    write_model(&small_model(), &mut good).unwrap();
    assert!(matches!(decode_model(Bytes::new()), Err(ReadError::Empty)));
    for cut in [good.len() - 1, good.len() / 2, 40] {
        let error = decode_model(Bytes::copy_from_slice(&good[..cut])).unwrap_err();
        assert!(
            matches!(error, ReadError::Truncated { .. }),
            "{cut}: {error:?}"
        );
    }
    for other in [&b"<html>not a model</html>"[..], &[0xff; 64], &[0x00; 64]] {
        let error = decode_model(Bytes::copy_from_slice(other)).unwrap_err();
        assert!(matches!(error, ReadError::NotProtobuf { .. }), "{error:?}");
    }
    let no_graph = ModelProto {
        graph: None,
        ..small_model()
    };
    assert!(matches!(
        decode_model(no_graph.encode_to_vec().into()),
        Err(ReadError::NoGraph)
    ));
    let missing = read_model(std::path::Path::new("/nonexistent/model.onnx"));
    assert!(matches!(missing, Err(ReadError::Io { .. })));
}

#[test]
fn metadata_is_read_without_the_graph() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    save_model(&small_model(), &path, ExternalPolicy::Never).unwrap();
    assert_eq!(read_metadata(&path).unwrap(), small_model().metadata_props);

    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = read_metadata(&path).unwrap_err();
    assert!(matches!(error, ReadError::CutField { .. }), "{error:?}");
    std::fs::write(&path, [0xff; 32]).unwrap();
    let error = read_metadata(&path).unwrap_err();
    assert!(matches!(error, ReadError::CutField { .. }), "{error:?}");
    std::fs::write(&path, []).unwrap();
    assert!(matches!(read_metadata(&path), Err(ReadError::Empty)));
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    save_model(&small_model(), &path, ExternalPolicy::Never).unwrap();
    let mut broken = small_model();
    broken.graph.as_mut().unwrap().initializer[2].raw_data = Some(Bytes::from_static(b"x"));
    let error = save_model(&broken, &path, ExternalPolicy::Always("w.bin")).unwrap_err();
    assert!(matches!(error, WriteError::Tensor(_)), "{error}");
    assert_eq!(read_model(&path).unwrap(), small_model());
    let error = save_model(&broken, &path, ExternalPolicy::Always("../w.bin")).unwrap_err();
    assert!(matches!(error, WriteError::ExternalName { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
