//! The models that the tests serve.

use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{AttributeProto, OperatorSetIdProto, ValueInfoProto};
use fugato_onnx::{
    DataType, ExternalPolicy, GraphProto, ModelProto, NodeProto, TensorProto, save_model,
};
use fugato_zoo::{Recipe, write_repository};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Models and store shared by the tests, made once.
pub(crate) fn fixtures() -> &'static Path {
    static FIXTURES: OnceLock<PathBuf> = OnceLock::new();
    FIXTURES.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("serve");
        let names = ["identity", "resnet18", "squeezenet1_1"];
        write_repository(&root.join("models"), &names, Recipe::seeded(1), &mut |_| {})
            .expect("the zoo can be written");
        for (name, bytes) in [("broken", &b"this is no model"[..]), ("empty", &b""[..])] {
            let folder = root.join("models").join(name).join("1");
            std::fs::create_dir_all(&folder).expect("a folder can be made");
            std::fs::write(folder.join("model.onnx"), bytes).expect("a file can be written");
        }
        for name in ["mixing", "vouched"] {
            let folder = root.join("models").join(name).join("1");
            std::fs::create_dir_all(&folder).expect("a folder can be made");
            let path = folder.join("model.onnx");
            save_model(&softmax_over_the_batch(), &path, ExternalPolicy::Never)
                .expect("a model can be written");
        }
        let folder = root.join("models").join("forked").join("1");
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        save_model(&forked(), &folder.join("model.onnx"), ExternalPolicy::Never)
            .expect("a model can be written");
        root
    })
}

/// Two like convolutions of one input, the second with a bias of ones; their outputs side by
/// side.
fn forked() -> ModelProto {
    let value = |name: &str, channels: i64| {
        let sizes = [channels, 4, 4].map(Dimension::size);
        let dims = std::iter::once(Dimension::symbol("batch")).chain(sizes);
        ValueInfoProto::tensor(name, DataType::Float, dims.collect())
    };
    let convolution = |name: &str| {
        let (filter, bias) = (format!("{name}_filter"), format!("{name}_bias"));
        NodeProto::new(name, "Conv", &["input", &filter, &bias], &[name])
    };
    let concat = NodeProto::new("concat", "Concat", &["one", "other"], &["output"]);
    let filter = |name: &str, step: f32| {
        let values: Vec<f32> = (0..32 * 32).map(|at| (at as f32 * step).sin()).collect();
        TensorProto::from_f32s(name, &[32, 32, 1, 1], &values)
    };
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("graph".to_owned()),
            node: vec![
                convolution("one"),
                convolution("other"),
                concat.with([AttributeProto::int("axis", 1)]),
            ],
            input: vec![value("input", 32)],
            output: vec![value("output", 64)],
            initializer: vec![
                filter("one_filter", 0.7),
                filter("other_filter", 1.3),
                TensorProto::from_f32s("one_bias", &[32], &[0.0; 32]),
                TensorProto::from_f32s("other_bias", &[32], &[1.0; 32]),
            ],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// A model whose rows depend on each other, though its first dimensions share a name.
fn softmax_over_the_batch() -> ModelProto {
    let value = |name: &str| {
        let dims = vec![Dimension::symbol("batch"), Dimension::size(1)];
        ValueInfoProto::tensor(name, DataType::Float, dims)
    };
    let softmax = NodeProto::new("softmax", "Softmax", &["input"], &["output"]);
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("graph".to_owned()),
            node: vec![softmax.with([AttributeProto::int("axis", 0)])],
            input: vec![value("input")],
            output: vec![value("output")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}
