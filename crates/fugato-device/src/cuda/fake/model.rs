//! What the fake device runs: operators that each give one more than the sum of what they read.

use crate::store::{Batching, ModelGraph, ModelInfo, Part};
use crate::tensor::{ElementType, TensorSpec};
use fugato_core::Nanos;
use fugato_core::OperatorIndex;
use fugato_onnx::proto::ValueInfoProto;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::{DataType, GraphProto, ModelProto, NodeProto};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// What the fake knows of a model.
#[derive(Clone)]
pub(in super::super) struct FakeModel(pub(in super::super) Arc<FakeFacts>);

pub(in super::super) struct FakeFacts {
    pub(in super::super) info: ModelInfo,
    pub(in super::super) path: PathBuf,
    pub(in super::super) graph: Arc<ModelGraph>,
    /// Where its parts are written.
    pub(in super::super) folder: TempDir,
    /// Bytes that each session takes.
    pub(in super::super) session_bytes: usize,
    /// A run, of the model or of a part.
    pub(in super::super) takes: Nanos,
    /// Whether its last operator has control flow, so that no session of it whose runs are
    /// captured comes about.
    pub(in super::super) branches: bool,
    /// What gives these runs on the host, so that no session of it whose runs are captured comes
    /// about.
    pub(in super::super) on_host: &'static [&'static str],
    /// What gives these computes shapes, and runs on the host too, captured or not.
    pub(in super::super) shapes: &'static [&'static str],
    /// Whether captures break off.
    pub(in super::super) breaks_captures: bool,
    /// What graphs of ours get wrong.
    pub(in super::super) spoils: Spoils,
    /// What no part may compute, only the whole model.
    pub(in super::super) not_alone: Option<&'static str>,
}

/// What a graph may get wrong that its runs alone do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Spoils {
    Nothing,
    /// It reads what was read as it was captured.
    Inputs,
    /// It writes nothing.
    Outputs,
    /// What gives this writes nothing.
    Group(&'static str),
    /// Nothing in it waits for anything.
    Order,
    /// It writes nothing once its sessions have run other batches.
    OtherBatches,
    /// A part that gives only this gives something else, by itself too.
    Part(&'static str),
}

/// An operator: what it gives, and what it reads.
pub(in super::super) type Adds = (&'static str, &'static [&'static str]);

/// A model `name` of one operator, of rows of `row` bytes.
pub(in super::super) fn model(name: &str, row: u64) -> FakeFacts {
    graph(name, row, &[("y", &["x"])], &["y"])
}

/// A model that reads `x`, of rows of `row` bytes throughout. Of tensors whose names begin with
/// `~` the file does not say so.
pub(in super::super) fn graph(
    name: &str,
    row: u64,
    operators: &[Adds],
    outputs: &[&str],
) -> FakeFacts {
    let spec = |name: &str| TensorSpec {
        name: name.to_owned(),
        element: ElementType::Uint8,
        shape: vec![None, Some(row)],
        symbols: vec![Some("batch".to_owned()), None],
    };
    let value = |name: &str| {
        let width = match name.starts_with('~') {
            true => Dimension::default(),
            false => Dimension::size(row as i64),
        };
        let dims = [Dimension::symbol("batch"), width];
        ValueInfoProto::tensor(name, DataType::Uint8, dims.into())
    };
    let node = |(output, inputs): &Adds| NodeProto::new(output, "Adds", inputs, &[output]);
    let inner = operators.iter().map(|(output, _)| *output);
    let proto = ModelProto {
        graph: Some(GraphProto {
            node: operators.iter().map(node).collect(),
            input: vec![value("x")],
            output: outputs.iter().map(|output| value(output)).collect(),
            value_info: inner
                .filter(|name| !outputs.contains(name))
                .map(value)
                .collect(),
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    let info = ModelInfo {
        inputs: vec![spec("x")],
        outputs: outputs.iter().map(|output| spec(output)).collect(),
        batching: Batching::Batchable,
        weight_bytes: 1_000,
        hash: name.to_owned(),
        ir_version: 9,
        producer: String::new(),
        producer_version: String::new(),
        opsets: Vec::new(),
        custom: BTreeMap::new(),
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("entry")).unwrap();
    FakeFacts {
        graph: Arc::new(ModelGraph::import(proto, &info).unwrap()),
        info,
        path: PathBuf::from(format!("{name}.onnx")),
        folder,
        session_bytes: 500,
        takes: Nanos::from_micros(100),
        branches: false,
        on_host: &[],
        shapes: &[],
        breaks_captures: false,
        spoils: Spoils::Nothing,
        not_alone: None,
    }
}

/// A model, or a part of one.
#[derive(Clone)]
pub(super) struct FakePart {
    pub(super) model: FakeModel,
    operators: BTreeSet<OperatorIndex>,
    is_whole: bool,
}

impl FakePart {
    pub(super) fn of((model, part): (&FakeModel, Option<&Part>)) -> Self {
        let count = model.0.graph.graph().operators().len();
        let all = || (0..count).map(OperatorIndex::at).collect();
        Self {
            model: model.clone(),
            operators: part.map_or_else(all, |part| part.operators.clone()),
            is_whole: part.is_none(),
        }
    }

    /// What it is called in the log: the model's file, and what a part of it gives.
    pub(super) fn name(&self) -> String {
        let path = self.model.0.path.display();
        match self.is_whole {
            true => path.to_string(),
            false => format!("{path}:{}", self.gives().collect::<Vec<_>>().join("+")),
        }
    }

    fn gives(&self) -> impl Iterator<Item = &str> {
        let graph = self.model.0.graph.graph();
        let operators = self.operators.iter().map(|&index| graph.operator(index));
        operators.map(|operator| operator.name.as_str())
    }

    pub(super) fn can_load(&self) -> bool {
        let forbidden = self.model.0.not_alone;
        self.is_whole || !self.gives().any(|given| Some(given) == forbidden)
    }

    /// Whether it holds the operator with control flow.
    pub(super) fn branches(&self) -> bool {
        let last = self.model.0.graph.graph().operators().len() - 1;
        self.model.0.branches && self.operators.contains(&OperatorIndex::at(last))
    }

    /// The kinds of its operators that run on the host: each is of one of its own.
    pub(super) fn on_host(&self) -> BTreeMap<String, usize> {
        let FakeFacts {
            on_host, shapes, ..
        } = &*self.model.0;
        let is_there = |given: &&str| on_host.contains(given) || shapes.contains(given);
        let gives = self.gives().filter(is_there);
        gives.map(|given| (format!("Adds-{given}"), 1)).collect()
    }

    /// Whether something of it forbids captures by where it runs.
    pub(super) fn needs_host(&self) -> bool {
        let host = self.model.0.on_host;
        self.gives().any(|given| host.contains(&given))
    }

    /// Computes what it gives, among the tensors by name.
    pub(super) fn run(&self, tensors: &mut BTreeMap<String, Vec<u8>>) {
        let graph = self.model.0.graph.graph();
        for operator in self.operators.iter().map(|&index| graph.operator(index)) {
            let mut sum: Option<Vec<u8>> = None;
            for &input in &operator.inputs {
                let read = &tensors[&graph.tensor(input).name];
                let before = sum.unwrap_or_else(|| vec![1; read.len()]);
                let added = before.iter().zip(read).map(|(a, b)| a.wrapping_add(*b));
                sum = Some(added.collect());
            }
            tensors.insert(operator.name.clone(), sum.unwrap());
        }
    }
}
