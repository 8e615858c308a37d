//! Models that tell which file they came from: `output = input + k`.

use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{OperatorSetIdProto, ValueInfoProto};
use fugato_onnx::{
    DataType, ExternalPolicy, GraphProto, ModelProto, NodeProto, TensorProto, save_model,
};
use std::path::{Path, PathBuf};

/// A model that adds `k` to each element.
fn adder(k: f32) -> ModelProto {
    let value = |name: &str| {
        let dims = vec![Dimension::symbol("batch"), Dimension::size(1)];
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
            node: vec![NodeProto::new("add", "Add", &["input", "k"], &["output"])],
            initializer: vec![TensorProto::from_f32s("k", &[1], &[k])],
            input: vec![value("input")],
            output: vec![value("output")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// The bytes of a model that adds `k`.
pub(crate) fn adder_bytes(k: f32) -> Vec<u8> {
    bytes_of(&adder(k))
}

fn bytes_of(model: &ModelProto) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("model.onnx");
    save_model(model, &path, ExternalPolicy::Never).expect("a model can be written");
    std::fs::read(path).expect("it was written")
}

/// The bytes of a model that adds `k`, and takes milliseconds over it.
fn worker_bytes(k: f32) -> Vec<u8> {
    const WIDTH: usize = 512;
    const STEPS: usize = 60;
    let size = i64::try_from(WIDTH).expect("it is small");
    let mut model = adder(k);
    let graph = model.graph.as_mut().expect("the adder has one");
    let weights = |name: &str, rows: i64, columns: i64| {
        let zeros = vec![0.0; usize::try_from(rows * columns).expect("it is small")];
        TensorProto::from_f32s(name, &[rows, columns], &zeros)
    };
    graph.initializer.push(weights("widen", 1, size));
    graph.initializer.push(weights("turn", size, size));
    graph.initializer.push(weights("narrow", size, 1));
    // A product of zeros, which the runtime cannot know before it has seen the input.
    let mut product = "wide".to_owned();
    let widened = NodeProto::new("widen", "MatMul", &["sum", "widen"], &[&product]);
    graph.node[0].output = vec!["sum".to_owned()];
    graph.node.push(widened);
    for step in 0..STEPS {
        let next = format!("turned{step}");
        let turned = NodeProto::new(&next, "MatMul", &[&product, "turn"], &[&next]);
        graph.node.push(turned);
        product = next;
    }
    let narrowed = NodeProto::new("narrow", "MatMul", &[&product, "narrow"], &["zero"]);
    let total = NodeProto::new("total", "Add", &["sum", "zero"], &["output"]);
    graph.node.extend([narrowed, total]);
    bytes_of(&model)
}

/// A repository of a test's own.
pub(crate) struct Repository(tempfile::TempDir);

impl Repository {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder can be made"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Puts a file in its place in one step, as one should where a server looks on.
    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().expect("below the repository")).expect("folders");
        let partial = path.with_extension("partial");
        std::fs::write(&partial, content).expect("a file can be written");
        std::fs::rename(&partial, &path).expect("it can be renamed");
    }

    pub(crate) fn put_adder(&self, model: &str, version: u64, k: f32) {
        self.put(&format!("{model}/{version}/model.onnx"), &adder_bytes(k));
    }

    /// As [`Self::put_adder`], of a model that takes milliseconds.
    pub(crate) fn put_worker(&self, model: &str, version: u64, k: f32) {
        self.put(&format!("{model}/{version}/model.onnx"), &worker_bytes(k));
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn remove(&self, model: &str) {
        // Out of sight in one step, then removed.
        let aside = self.file(&format!(".{model}"));
        std::fs::rename(self.file(model), &aside).expect("it can be renamed");
        std::fs::remove_dir_all(aside).expect("it can be removed");
    }
}
