//! A bench: models to measure, and the binary that measures them.

use fugato_core::profile::Profile;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{OperatorSetIdProto, ValueInfoProto};
use fugato_onnx::{
    DataType, ExternalPolicy, GraphProto, ModelProto, NodeProto, TensorProto, save_model,
};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A repository, a store and a place for profiles, gone at the end of the test.
pub(crate) struct Bench(pub(crate) tempfile::TempDir);

impl Bench {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch folder"))
    }

    pub(crate) fn put(&self, name: &str, model: &ModelProto) {
        self.put_version(name, "1", model);
    }

    pub(crate) fn put_version(&self, name: &str, version: &str, model: &ModelProto) {
        let folder = self.0.path().join("models").join(name).join(version);
        std::fs::create_dir_all(&folder).expect("folders");
        save_model(model, &folder.join("model.onnx"), ExternalPolicy::Never).expect("written");
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.0.path().join("out/profile.json")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.command_to(&self.out(), arguments)
    }

    pub(crate) fn command_to(&self, out: &Path, arguments: &[&str]) -> Command {
        std::fs::create_dir_all(self.0.path().join("out")).expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fugato"));
        command.arg("profile").arg("--model-repository");
        command.arg(self.0.path().join("models"));
        command
            .arg("--model-store")
            .arg(self.0.path().join("store"));
        command.arg("--out").arg(out).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    pub(crate) fn profile(&self) -> Profile {
        read(&self.out())
    }
}

pub(crate) fn read(path: &Path) -> Profile {
    let text = std::fs::read_to_string(path).expect("a profile was written");
    let profile: Profile = serde_json::from_str(&text).expect("in the schema");
    profile.check().expect("fit to be used");
    profile
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn model(nodes: Vec<NodeProto>, width: i64, initializer: Vec<TensorProto>) -> ModelProto {
    let value = |name: &str| {
        let dims = vec![Dimension::symbol("batch"), Dimension::size(width)];
        ValueInfoProto::tensor(name, DataType::Float, dims)
    };
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("graph".to_owned()),
            node: nodes,
            initializer,
            input: vec![value("x")],
            output: vec![value("y")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// `y = x + k`, microseconds long.
pub(crate) fn adder(k: f32) -> ModelProto {
    let add = NodeProto::new("add", "Add", &["x", "k"], &["y"]);
    model(vec![add], 1, vec![TensorProto::from_f32s("k", &[1], &[k])])
}

/// `y = x + table[batch - 1]`: only batches up to the table's five rows can be run.
pub(crate) fn up_to_five() -> ModelProto {
    let ints = |name: &str, values: &[i64]| TensorProto::from_i64s(name, &[1], values);
    let node =
        |op: &str, inputs: &[&str], output: &str| NodeProto::new(output, op, inputs, &[output]);
    let nodes = vec![
        node("Shape", &["x"], "shape"),
        node("Gather", &["shape", "zero"], "batch"),
        node("Sub", &["batch", "one"], "row"),
        node("Gather", &["table", "row"], "addend"),
        node("Add", &["x", "addend"], "y"),
    ];
    let table = TensorProto::from_f32s("table", &[5], &[0.0; 5]);
    model(nodes, 1, vec![ints("zero", &[0]), ints("one", &[1]), table])
}

/// Fifty products with one matrix of 4 MB: milliseconds an item, on any machine.
pub(crate) fn slow() -> ModelProto {
    const WIDTH: i64 = 1024;
    const PRODUCTS: usize = 50;
    let value = |index: usize| match index {
        0 => "x".to_owned(),
        PRODUCTS => "y".to_owned(),
        index => format!("h{index}"),
    };
    let nodes = (0..PRODUCTS).map(|index| {
        let (from, to) = (value(index), value(index + 1));
        NodeProto::new(&format!("n{index}"), "MatMul", &[&from, "w"], &[&to])
    });
    let weights: Vec<f32> = (0..WIDTH * WIDTH).map(|i| (i % 7) as f32 * 1e-4).collect();
    let w = TensorProto::from_f32s("w", &[WIDTH, WIDTH], &weights);
    model(nodes.collect(), WIDTH, vec![w])
}
