//! A network under construction: nodes, parameters, shapes and multiply-adds.
//!
//! Weights are made only by [`Network::to_model`]; until then a parameter is a shape
//! and a rule, so that counting VGG-19's parameters costs microseconds.
//!
//! **Scale.** Each [`Value`] carries the standard deviation its elements are expected to
//! have. Linear layers divide by it, so that every layer's output has about unit
//! variance, however deep the net and however many branches were added.
//!
//! # Source
//! The analytic tracking of variance follows normaliser-free nets (Brock, De, Smith:
//! "Characterizing signal propagation to close the performance gap in unnormalized
//! ResNets", 2021). Ours tracks it through all layers to set weights, and has no
//! normaliser to replace: batch normalisation gets the statistics that follow from it.

use crate::weights::{Init, TensorSeed, fill};
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{
    AttributeProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto,
};
use fugato_onnx::{DataType, GraphProto, ModelProto, NodeProto, TensorProto};

mod ops;
mod rearrange;
mod text;

pub(crate) use ops::{
    AROUND_SPREAD, BRANCH_SCALE, BatchNorm, Conv, Padding, Pool, RELU_STD, SHIFT,
};

/// Operator set of the models: the first with LayerNormalization.
const OPSET: i64 = 17;

/// File format version that belongs to the operator set.
const IR_VERSION: i64 = 8;

/// One dimension of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// The number of items in a batch: symbol `batch`.
    Batch,
    /// The number of tokens of each item: symbol `sequence`.
    Sequence,
    /// A known size.
    Size(u64),
}

impl Dim {
    /// Gives the size for a batch and a sequence length.
    pub const fn at(self, batch: u64, sequence: u64) -> u64 {
        match self {
            Self::Batch => batch,
            Self::Sequence => sequence,
            Self::Size(size) => size,
        }
    }

    fn to_onnx(self) -> Dimension {
        match self {
            Self::Batch => Dimension::symbol("batch"),
            Self::Sequence => Dimension::symbol("sequence"),
            Self::Size(size) => Dimension::size(size as i64),
        }
    }
}

/// A value of the network.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// Name in the graph.
    pub(crate) name: String,
    /// Shape.
    pub(crate) dims: Vec<Dim>,
    /// Expected standard deviation of the elements.
    pub(crate) std: f32,
    /// Whether most elements are at least zero, so that a further ReLU changes little.
    rectified: bool,
}

impl Value {
    /// Gives a dimension that must have a known size.
    ///
    /// # Panics
    /// Where the dimension is a symbol: an error in a model's builder.
    fn size(&self, axis: usize) -> u64 {
        match self.dims[axis] {
            Dim::Size(size) => size,
            symbol @ (Dim::Batch | Dim::Sequence) => {
                panic!(
                    "axis {axis} of `{}` is {symbol:?}, expected a size",
                    self.name
                )
            }
        }
    }
}

/// A tensor of weights to be made.
#[derive(Clone, Debug)]
struct Param {
    name: String,
    dims: Vec<u64>,
    init: Init,
    /// False for running statistics, which no optimiser updates.
    trainable: bool,
}

/// A typed input or output of a network.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    pub(crate) dims: Vec<Dim>,
}

/// A network under construction.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    name: String,
    nodes: Vec<NodeProto>,
    params: Vec<Param>,
    constants: Vec<TensorProto>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// Factors of each node's multiply-adds.
    multiply_adds: Vec<Vec<Dim>>,
}

impl Network {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            nodes: Vec::new(),
            params: Vec::new(),
            constants: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            multiply_adds: Vec::new(),
        }
    }

    /// Adds an input whose elements are expected to have unit variance.
    pub(crate) fn input(&mut self, name: &str, data_type: DataType, dims: &[Dim]) -> Value {
        self.inputs.push(Port {
            name: name.to_owned(),
            data_type,
            dims: dims.to_vec(),
        });
        Value {
            name: name.to_owned(),
            dims: dims.to_vec(),
            std: 1.0,
            rectified: false,
        }
    }

    /// Makes a float value an output, under a name of its own.
    pub(crate) fn output(&mut self, name: &str, value: &Value) {
        // The node that made the value takes the output's name, and so do its readers.
        for node in &mut self.nodes {
            for place in node.input.iter_mut().chain(&mut node.output) {
                if *place == value.name {
                    name.clone_into(place);
                }
            }
        }
        self.outputs.push(Port {
            name: name.to_owned(),
            data_type: DataType::Float,
            dims: value.dims.clone(),
        });
    }

    /// Adds a trainable parameter and gives its name back.
    fn param(&mut self, name: String, dims: &[u64], init: Init) -> String {
        self.any_param(name, dims, init, true)
    }

    fn any_param(&mut self, name: String, dims: &[u64], init: Init, trainable: bool) -> String {
        self.params.push(Param {
            name: name.clone(),
            dims: dims.to_vec(),
            init,
            trainable,
        });
        name
    }

    /// Adds a constant, unless one of its name is there already (they are shared).
    fn constant(&mut self, tensor: TensorProto) -> String {
        let name = tensor.name().to_owned();
        if !self.constants.iter().any(|other| other.name() == name) {
            self.constants.push(tensor);
        }
        name
    }

    /// Adds a node with one output, which is named after the node.
    fn node(
        &mut self,
        name: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
        dims: Vec<Dim>,
    ) -> Value {
        let output = format!("{name}.out");
        let node = NodeProto::new(name, op_type, inputs, &[&output]).with(attributes);
        self.nodes.push(node);
        Value {
            name: output,
            dims,
            std: 1.0,
            rectified: false,
        }
    }

    fn count_multiply_adds(&mut self, factors: Vec<Dim>) {
        self.multiply_adds.push(factors);
    }

    /// Counts the trainable parameters.
    pub(crate) fn parameters(&self) -> u64 {
        let trainable = self.params.iter().filter(|param| param.trainable);
        trainable
            .map(|param| param.dims.iter().product::<u64>())
            .sum()
    }

    /// Counts the multiply-adds of convolutions and matrix products.
    pub(crate) fn multiply_adds(&self, batch: u64, sequence: u64) -> u64 {
        let product = |factors: &Vec<Dim>| -> u64 {
            factors.iter().map(|dim| dim.at(batch, sequence)).product()
        };
        self.multiply_adds.iter().map(product).sum()
    }

    /// Whether an input is a text of any number of tokens.
    pub(crate) fn takes_text(&self) -> bool {
        let mut dims = self.inputs.iter().flat_map(|port| &port.dims);
        dims.any(|&dim| dim == Dim::Sequence)
    }

    /// Lets inputs and outputs say that texts have so many tokens.
    pub(crate) fn fix_sequence(&mut self, tokens: u64) {
        let ports = self.inputs.iter_mut().chain(&mut self.outputs);
        for dim in ports.flat_map(|port| &mut port.dims) {
            if *dim == Dim::Sequence {
                *dim = Dim::Size(tokens);
            }
        }
    }

    pub(crate) fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    pub(crate) fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Makes the weights and gives the whole model.
    pub(crate) fn to_model(&self, seed: u64, metadata: Vec<StringStringEntryProto>) -> ModelProto {
        let weights = self.params.iter().map(|param| {
            let dims: Vec<i64> = param.dims.iter().map(|&dim| dim as i64).collect();
            let seed = TensorSeed::new(seed, &self.name, &param.name);
            let bytes = fill(seed, &param.dims, param.init);
            TensorProto::from_bytes(param.name.clone(), DataType::Float, &dims, bytes)
        });
        self.with_weights(weights, metadata)
    }

    fn with_weights(
        &self,
        weights: impl Iterator<Item = TensorProto>,
        metadata: Vec<StringStringEntryProto>,
    ) -> ModelProto {
        let ports = |ports: &[Port]| -> Vec<ValueInfoProto> {
            let describe = |port: &Port| {
                let dims = port.dims.iter().map(|dim| dim.to_onnx()).collect();
                ValueInfoProto::tensor(port.name.clone(), port.data_type, dims)
            };
            ports.iter().map(describe).collect()
        };
        let graph = GraphProto {
            name: Some(self.name.clone()),
            node: self.nodes.clone(),
            initializer: weights.chain(self.constants.iter().cloned()).collect(),
            input: ports(&self.inputs),
            output: ports(&self.outputs),
            ..GraphProto::default()
        };
        ModelProto {
            ir_version: Some(IR_VERSION),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
            producer_name: Some(env!("CARGO_PKG_NAME").to_owned()),
            producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            metadata_props: metadata,
            graph: Some(graph),
            ..ModelProto::default()
        }
    }
}

#[cfg(test)]
mod tests;
