//! The facts of a model, read from its protobuf messages; no runtime is needed.

use super::legs::Legs;
use anyhow::Context;
use fugato_device::{Batching, ElementType, TensorSpec};
use fugato_onnx::proto::tensor_shape_proto::{Dimension, dimension};
use fugato_onnx::proto::{DataType, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What a model file says about itself.
#[derive(Debug, Serialize)]
pub(super) struct Inspection {
    schema: u32,
    pub(super) file: PathBuf,
    pub(super) producer: String,
    pub(super) ir_version: i64,
    /// Domain (`ai.onnx` for ONNX's own) and version.
    pub(super) opsets: Vec<(String, i64)>,
    pub(super) inputs: Vec<TensorInfo>,
    pub(super) outputs: Vec<TensorInfo>,
    /// Why requests cannot share a run; `None` where they can.
    pub(super) not_batchable: Option<String>,
    /// Elements of all constants.
    pub(super) weight_values: u64,
    /// Bytes of all constants but strings, in the file and beside it.
    pub(super) weight_bytes: u64,
    pub(super) external: Vec<ExternalFile>,
    /// Operators by count, the most frequent first; those of subgraphs included.
    pub(super) operators: Vec<(String, usize)>,
    /// Where it can be cut, where that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) legs: Option<Legs>,
}

/// An input or output.
#[derive(Debug, Serialize)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    /// The element type by ONNX's name in lower case: `float`, `int64`.
    pub(super) element: String,
    /// `None` where the rank is unknown.
    pub(super) shape: Option<Vec<Dim>>,
}

/// A dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Dim {
    Size(i64),
    Symbol(String),
    Unknown(()),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(f, "{size}"),
            Self::Symbol(symbol) => f.write_str(symbol),
            Self::Unknown(()) => f.write_str("?"),
        }
    }
}

/// A file beside the model that holds weights.
#[derive(Debug, Serialize)]
pub(super) struct ExternalFile {
    /// Relative to the model's folder.
    pub(super) location: PathBuf,
    /// `None` where there is no such file.
    pub(super) size_bytes: Option<u64>,
}

impl Inspection {
    /// Reads the model at `path`.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        Self::of(fugato_onnx::read_model(path)?, path)
    }

    /// The facts of a model that was read from `path`.
    pub(super) fn of(mut model: ModelProto, path: &Path) -> anyhow::Result<Self> {
        let (weight_values, weight_bytes, external) = weights(&mut model, path)
            .with_context(|| format!("the weights of `{}` are malformed", path.display()))?;
        let mut operators = BTreeMap::new();
        if let Some(graph) = &model.graph {
            count_operators(&graph.node, &mut operators);
        }
        let mut operators: Vec<(String, usize)> = operators.into_iter().collect();
        operators.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(&right.0)));
        let graph = model.graph.as_ref();
        let inputs = graph.map_or_else(Vec::new, inputs);
        let outputs = graph.map_or_else(Vec::new, |graph| {
            graph.output.iter().map(TensorInfo::of).collect()
        });
        Ok(Self {
            schema: 1,
            file: path.to_owned(),
            producer: format!("{} {}", model.producer_name(), model.producer_version())
                .trim()
                .to_owned(),
            ir_version: model.ir_version(),
            opsets: opsets(&model),
            not_batchable: obstacle(&inputs, &outputs),
            inputs,
            outputs,
            weight_values,
            weight_bytes,
            external,
            operators,
            legs: None,
        })
    }
}

fn opsets(model: &ModelProto) -> Vec<(String, i64)> {
    let named = |domain: &str| match domain {
        "" => "ai.onnx".to_owned(),
        other => other.to_owned(),
    };
    let opsets = model.opset_import.iter();
    opsets
        .map(|opset| (named(opset.domain()), opset.version()))
        .collect()
}

/// The inputs that a request gives: up to IR version 3 a graph lists its constants too.
fn inputs(graph: &GraphProto) -> Vec<TensorInfo> {
    let constants: BTreeSet<&str> = graph
        .initializer
        .iter()
        .map(|tensor| tensor.name())
        .collect();
    let given = graph.input.iter();
    given
        .filter(|input| !constants.contains(input.name()))
        .map(TensorInfo::of)
        .collect()
}

impl TensorInfo {
    fn of(value: &ValueInfoProto) -> Self {
        let tensor = value.tensor_type();
        let element = tensor
            .and_then(|tensor| DataType::try_from(tensor.elem_type()).ok())
            .map_or_else(
                || "not a tensor".to_owned(),
                |element| format!("{element:?}").to_lowercase(),
            );
        let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
        Self {
            name: value.name().to_owned(),
            element,
            shape: shape.map(|shape| shape.dim.iter().map(Dim::of).collect()),
        }
    }
}

impl TensorInfo {
    /// As the server sees it; an error says why it cannot serve it.
    fn spec(&self) -> Result<TensorSpec, String> {
        let shape = self
            .shape
            .as_ref()
            .ok_or_else(|| format!("`{}` has a shape of unknown rank", self.name))?;
        let size = |dim: &Dim| match dim {
            Dim::Size(size) => u64::try_from(*size).ok(),
            Dim::Symbol(_) | Dim::Unknown(()) => None,
        };
        let symbol = |dim: &Dim| match dim {
            Dim::Symbol(symbol) => Some(symbol.clone()),
            Dim::Size(_) | Dim::Unknown(()) => None,
        };
        Ok(TensorSpec {
            name: self.name.clone(),
            // The rule looks at shapes only.
            element: ElementType::Fp32,
            shape: shape.iter().map(size).collect(),
            symbols: shape.iter().map(symbol).collect(),
        })
    }
}

impl Dim {
    fn of(dimension: &Dimension) -> Self {
        match &dimension.value {
            // A negative size is how some exporters write one that varies.
            Some(dimension::Value::DimValue(size)) if *size >= 0 => Self::Size(*size),
            Some(dimension::Value::DimParam(symbol)) if !symbol.is_empty() => {
                Self::Symbol(symbol.clone())
            }
            Some(_) | None => Self::Unknown(()),
        }
    }
}

/// Counts the constants; finds the files that hold them.
fn weights(model: &mut ModelProto, path: &Path) -> anyhow::Result<(u64, u64, Vec<ExternalFile>)> {
    let (mut values, mut bytes) = (0_u64, 0_u64);
    let mut locations = BTreeSet::new();
    fugato_onnx::visit_tensors_mut::<anyhow::Error>(model, &mut |tensor| {
        values = values.saturating_add(tensor.element_count()?);
        if tensor.element_type()? != DataType::String {
            bytes = bytes.saturating_add(tensor.byte_size()?);
        }
        locations.extend(tensor.external()?.map(|external| external.location));
        Ok(())
    })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = |location: PathBuf| ExternalFile {
        size_bytes: fs::metadata(folder.join(&location))
            .ok()
            .map(|found| found.len()),
        location,
    };
    Ok((values, bytes, locations.into_iter().map(file).collect()))
}

fn count_operators(nodes: &[NodeProto], counts: &mut BTreeMap<String, usize>) {
    for node in nodes {
        let name = match node.domain() {
            "" | "ai.onnx" => node.op_type().to_owned(),
            domain => format!("{domain}.{}", node.op_type()),
        };
        *counts.entry(name).or_default() += 1;
        for attribute in &node.attribute {
            for graph in attribute.g.as_deref().into_iter().chain(&attribute.graphs) {
                count_operators(&graph.node, counts);
            }
        }
    }
}

/// Why requests cannot share a run, by the rule that loading uses too; `None` where they
/// can.
fn obstacle(inputs: &[TensorInfo], outputs: &[TensorInfo]) -> Option<String> {
    let specs = |tensors: &[TensorInfo]| -> Result<Vec<TensorSpec>, String> {
        tensors.iter().map(TensorInfo::spec).collect()
    };
    match (specs(inputs), specs(outputs)) {
        (Ok(inputs), Ok(outputs)) => match Batching::of(&inputs, &outputs) {
            Batching::Batchable => None,
            Batching::Single { reason } => Some(reason),
        },
        (Err(reason), _) | (_, Err(reason)) => Some(reason),
    }
}
