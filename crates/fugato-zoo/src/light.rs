//! Weights for the light models of the PyPI package `onnx`.
//!
//! The package ships nine classifiers (`onnx/backend/test/data/light/*.onnx`) whose
//! larger weights are `ConstantOfShape` nodes: real graphs of other exporters, without
//! the size. [`materialise`] puts seeded weights in their places and makes the batch
//! dimension dynamic, so that their answers mean something.
//!
//! Small weights are still the trained ones in those files. They are seeded as well:
//! trained statistics with random filters (running variances down to 1e-14 are among
//! them) would scale activations by many orders of magnitude.

use crate::weights::{TensorSeed, fill};
use crate::{STAMP_KEY, ZOO_VERSION};
use fugato_onnx::proto::StringStringEntryProto;
use fugato_onnx::{DataType, GraphProto, ModelProto, NodeProto, TensorError, TensorProto};
use std::collections::{HashMap, HashSet};

mod batch;
mod repository;
mod roles;

pub use repository::{LightRepositoryError, LightWritten, list, write_repository};

/// First version of the file format in which an initializer need not be an input.
const IR_VERSION_MIN: i64 = 4;

/// Why a model cannot be given weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LightError {
    /// The model has no graph.
    #[error("model has no graph")]
    NoGraph,
    /// No weight of the model is a `ConstantOfShape` node of known shape.
    #[error("model has no ConstantOfShape weights, so it is not a light model")]
    NotLight,
    /// A constant of the model is malformed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Nothing reads a weight, so nothing says how it is to be scaled.
    #[error("weight `{weight}` is read by no operator that computes")]
    Unread {
        /// Name of the weight.
        weight: String,
    },
    /// A weight is used in a way that says nothing about its scale.
    #[error("weight `{weight}` is input {slot} of operator {op_type}, for which no scale is known")]
    UnknownRole {
        /// Name of the weight.
        weight: String,
        /// Which input of the operator, counted from 0.
        slot: usize,
        /// The operator.
        op_type: String,
    },
    /// The batch dimension is fixed to a size other than 1.
    #[error("`{value}` has batch size {found}, expected 1 or a dynamic one")]
    FixedBatch {
        /// Name of the input, output or node.
        value: String,
        /// Size found.
        found: i64,
    },
}

/// Gives a light model seeded weights and a dynamic batch dimension named `batch`.
///
/// Initializers are taken off the list of inputs, where old versions of the format had
/// them; everything else is kept.
///
/// # Errors
/// Every kind of [`LightError`].
pub fn materialise(model: &ModelProto, seed: u64) -> Result<ModelProto, LightError> {
    let mut model = model.clone();
    let graph = model.graph.as_mut().ok_or(LightError::NoGraph)?;
    let constants = integer_constants(graph)?;
    let weights = find_weights(graph, &constants)?;
    let planned = roles::plan(graph, &weights)?;

    let produced: HashSet<&str> = weights.iter().map(|weight| weight.name.as_str()).collect();
    let named = graph.name().to_owned();
    graph
        .node
        .retain(|node| !(node.op_type() == "ConstantOfShape" && produced.contains(output(node))));
    graph
        .initializer
        .retain(|tensor| !produced.contains(tensor.name()));
    for (weight, init) in weights.iter().zip(planned) {
        let seed = TensorSeed::new(seed, &named, &weight.name);
        let dims: Vec<u64> = weight.dims.iter().map(|&dim| dim as u64).collect();
        let bytes = fill(seed, &dims, init);
        let name = weight.name.clone();
        let tensor = TensorProto::from_bytes(name, DataType::Float, &weight.dims, bytes);
        graph.initializer.push(tensor);
    }
    batch::make_dynamic(graph, &constants)?;
    drop_unread(graph, &constants);
    let initialised: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
    graph
        .input
        .retain(|port| !initialised.contains(port.name()));

    model.ir_version = Some(model.ir_version().max(IR_VERSION_MIN));
    let entry = StringStringEntryProto::new(STAMP_KEY, stamp(&named, seed));
    model.metadata_props.push(entry);
    Ok(model)
}

/// Says what a materialised file holds: equal stamps, equal content.
fn stamp(graph: &str, seed: u64) -> String {
    format!("light graph={graph} version={ZOO_VERSION} seed={seed}")
}

/// A weight to be seeded.
struct Weight {
    name: String,
    dims: Vec<i64>,
}

fn output(node: &NodeProto) -> &str {
    node.output.first().map_or("", String::as_str)
}

/// Values of the int64 constants of a graph, by name.
type IntegerConstants = HashMap<String, Vec<i64>>;

fn integer_constants(graph: &GraphProto) -> Result<IntegerConstants, TensorError> {
    let mut constants = HashMap::new();
    let nodes = graph
        .node
        .iter()
        .filter(|node| node.op_type() == "Constant");
    let tensors = nodes.filter_map(|node| {
        let tensor = node.find_attribute("value")?.t.as_ref()?;
        Some((output(node), tensor))
    });
    let initializers = graph
        .initializer
        .iter()
        .map(|tensor| (tensor.name(), tensor));
    for (name, tensor) in tensors.chain(initializers) {
        if tensor.element_type()? == DataType::Int64 {
            constants.insert(name.to_owned(), tensor.to_i64s()?);
        }
    }
    Ok(constants)
}

/// Lists the float `ConstantOfShape` nodes of known shape and the trained leftovers: the
/// float initializers that an operator reads.
fn find_weights(
    graph: &GraphProto,
    constants: &IntegerConstants,
) -> Result<Vec<Weight>, LightError> {
    let mut weights = Vec::new();
    for node in &graph.node {
        let value = node
            .find_attribute("value")
            .and_then(|value| value.t.as_ref());
        let is_float = match value {
            Some(tensor) => tensor.element_type()? == DataType::Float,
            None => true,
        };
        let shape = node.input.first().and_then(|name| constants.get(name));
        if let (true, "ConstantOfShape", Some(dims)) = (is_float, node.op_type(), shape) {
            let weight = Weight {
                name: output(node).to_owned(),
                dims: dims.clone(),
            };
            check_shape(&weight)?;
            weights.push(weight);
        }
    }
    if weights.is_empty() {
        return Err(LightError::NotLight);
    }
    let inputs = graph.node.iter().flat_map(|node| &node.input);
    let read: HashSet<&str> = inputs.map(String::as_str).collect();
    for tensor in &graph.initializer {
        if tensor.element_type()? == DataType::Float && read.contains(tensor.name()) {
            weights.push(Weight {
                name: tensor.name().to_owned(),
                dims: tensor.dims.clone(),
            });
        }
    }
    Ok(weights)
}

/// Refuses shapes that are negative or larger than memory before anything is filled.
fn check_shape(weight: &Weight) -> Result<(), TensorError> {
    let tensor = TensorProto {
        name: Some(weight.name.clone()),
        data_type: Some(DataType::Float as i32),
        dims: weight.dims.clone(),
        ..TensorProto::default()
    };
    tensor.byte_size().map(drop)
}

/// Takes out the integer constants nothing reads once their readers are gone.
fn drop_unread(graph: &mut GraphProto, constants: &IntegerConstants) {
    let read: HashSet<String> = graph
        .node
        .iter()
        .flat_map(|node| node.input.clone())
        .collect();
    let unread = |name: &str| constants.contains_key(name) && !read.contains(name);
    graph.input.retain(|port| !unread(port.name()));
    graph.initializer.retain(|tensor| !unread(tensor.name()));
    graph
        .node
        .retain(|node| node.op_type() != "Constant" || !unread(output(node)));
}

#[cfg(test)]
mod tests;
