//! The importer: a stored model's optimised graph as operators and tensors.
//!
//! Start at [`ModelGraph`], which holds the core's [`Graph`] for planners and the ONNX
//! graph that [`super::part`] cuts. Operator `i` of the one is node `i` of the other.

mod fault;
mod flops;
mod shape;

pub(super) use fault::fault;
pub(crate) use shape::Size;

use super::info::ModelInfo;
use super::stack;
use fugato_core::graph::{Graph, GraphError, Operator, Segments, Tensor};
use fugato_core::{OperatorIndex, TensorIndex};
use fugato_onnx::proto::ValueInfoProto;
use fugato_onnx::{GraphProto, ModelProto, NodeProto};
use shape::TensorType;
use std::collections::{BTreeMap, BTreeSet};

/// A stored model's operators, as ONNX Runtime left them after optimising.
pub struct ModelGraph {
    graph: Graph,
    model: ModelProto,
    /// By tensor; `None` for what is not a tensor, or of a type that is not known.
    types: Vec<Option<TensorType>>,
    indivisible: Option<Indivisible>,
    uncounted: Vec<OperatorIndex>,
}

/// Why a model cannot be cut at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Indivisible {
    /// An output is a constant or an input, so no operator gives it.
    #[error("output `{output}` is not computed by any operator")]
    OutputNotComputed {
        /// The output.
        output: String,
    },
}

/// Why two operators cannot be cut apart at the tensor between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Uncuttable {
    #[error("it is not a tensor, or ONNX Runtime cannot tell its type")]
    NotATensor,
}

impl ModelGraph {
    /// Reads the optimised graph of a model that the runtime has accepted.
    pub(crate) fn import(model: ModelProto, info: &ModelInfo) -> Result<Self, GraphError> {
        let empty = GraphProto::default();
        let onnx = model.graph.as_ref().unwrap_or(&empty);
        let importer = Importer::new(onnx, shape::batch_symbol(info));
        let (graph, types, uncounted) = importer.build(onnx, &BTreeSet::new())?;
        let uncomputed = graph
            .outputs()
            .iter()
            .find(|&&output| graph.producer(output).is_none());
        let uncomputed = uncomputed.map(|&output| Indivisible::OutputNotComputed {
            output: graph.tensor(output).name.clone(),
        });
        Ok(Self {
            indivisible: uncomputed,
            graph,
            model,
            types,
            uncounted,
        })
    }

    /// The operators and tensors.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The smallest pieces that a plan can place: those of the graph, or one where the
    /// model is [`ModelGraph::indivisible`].
    pub fn segments(&self) -> Segments {
        match self.indivisible {
            Some(_) => self.graph.whole(),
            None => self.graph.segments(),
        }
    }

    /// As [`ModelGraph::segments`], with chains cut where a segment has so many floating-point
    /// operations: [`Graph::segments_from`].
    pub fn segments_from(&self, flops: u64) -> Segments {
        match self.indivisible {
            Some(_) => self.graph.whole(),
            None => self.graph.segments_from(flops),
        }
    }

    /// As [`ModelGraph::segments_from`], with operators that can be stacked cut from what
    /// follows them: [`Graph::segments_to_stack`].
    pub fn segments_to_stack(&self, flops: u64) -> Segments {
        match self.indivisible {
            Some(_) => self.graph.whole(),
            None => self.graph.segments_to_stack(flops),
        }
    }

    /// Why the model stays in one piece, if it must.
    pub fn indivisible(&self) -> Option<&Indivisible> {
        self.indivisible.as_ref()
    }

    /// Tensors between operators whose bytes at batch 1 are not known (and stand as 0),
    /// since a dimension other than the batch varies.
    pub fn unsized_tensors(&self) -> impl Iterator<Item = TensorIndex> {
        let operators = self.graph.operators().iter();
        let written = operators.flat_map(|operator| operator.outputs.iter().copied());
        written.filter(|&tensor| self.size(tensor).is_none())
    }

    /// Operators whose floating-point operations are not known (and stand as 0).
    pub fn uncounted_operators(&self) -> &[OperatorIndex] {
        &self.uncounted
    }

    pub(super) fn model(&self) -> &ModelProto {
        &self.model
    }

    /// The nodes and weights; operator `i` is node `i`.
    pub(super) fn onnx(&self) -> Option<&GraphProto> {
        self.model.graph.as_ref()
    }

    /// A tensor as a file describes it; `None` where its type is not known.
    pub(super) fn value_info(&self, tensor: TensorIndex) -> Option<ValueInfoProto> {
        let name = &self.graph.tensor(tensor).name;
        let found = self.types[tensor.place()].as_ref()?;
        Some(found.value_info(name))
    }

    /// Whether a tensor is the sum that its operator adds to a convolution, so that the
    /// result may be written over it (which spares the operator a copy).
    pub(crate) fn is_summand(&self, operator: OperatorIndex, tensor: TensorIndex) -> bool {
        let node = self.onnx().and_then(|onnx| onnx.node.get(operator.place()));
        let fused = node.filter(|node| match node.domain() {
            "com.microsoft.nchwc" => node.op_type() == "Conv",
            "com.microsoft" => node.op_type() == "FusedConv",
            _ => false,
        });
        let name = &self.graph.tensor(tensor).name;
        // Inputs: data, filter, bias, sum.
        fused.is_some_and(|node| {
            let mut places = (0..).zip(&node.input).filter(|(_, input)| *input == name);
            places.next().is_some_and(|(place, _)| place == 3) && places.next().is_none()
        })
    }

    /// The shape and bytes of a tensor at any batch, where nothing but the batch varies.
    pub(crate) fn size(&self, tensor: TensorIndex) -> Option<Size> {
        self.types[tensor.place()].as_ref()?.size()
    }
}

/// A graph, the types of its tensors, and its operators of unknown work.
type Built = (Graph, Vec<Option<TensorType>>, Vec<OperatorIndex>);

/// The tensors and types gathered so far.
struct Importer {
    tensors: Vec<Tensor>,
    types: Vec<Option<TensorType>>,
    by_name: BTreeMap<String, TensorIndex>,
    /// The types that the file gives, until their tensors are met.
    described: BTreeMap<String, TensorType>,
    uncounted: Vec<OperatorIndex>,
    operators: usize,
}

impl Importer {
    fn new(onnx: &GraphProto, batch: Option<String>) -> Self {
        let described = onnx.input.iter().chain(&onnx.output);
        let described = described.chain(&onnx.value_info).filter_map(|value| {
            let found = TensorType::read(value.tensor_type()?, batch.as_deref())?;
            Some((value.name().to_owned(), found))
        });
        let mut importer = Self {
            described: described.collect(),
            tensors: Vec::new(),
            types: Vec::new(),
            by_name: BTreeMap::new(),
            uncounted: Vec::new(),
            operators: 0,
        };
        for name in weight_names(onnx) {
            // The file lists weights as inputs too where it is of the format's first years.
            importer.described.remove(name);
        }
        for tensor in &onnx.initializer {
            importer.weight(tensor.name(), TensorType::of_weight(tensor));
        }
        for sparse in &onnx.sparse_initializer {
            if let Some(values) = &sparse.values {
                importer.weight(values.name(), TensorType::of_sparse(sparse));
            }
        }
        importer
    }

    /// The graph, which reads the values of `outer` from around it; what is known of its
    /// tensors, and the operators whose operations are not known.
    fn build(mut self, onnx: &GraphProto, outer: &BTreeSet<&str>) -> Result<Built, GraphError> {
        let mut inputs = self.inputs(&onnx.input);
        inputs.extend(outer.iter().map(|name| self.tensor(name)));
        let nodes = onnx.node.iter();
        let operators = nodes.map(|node| self.operator(node)).collect();
        let outputs = onnx.output.iter();
        let outputs = outputs.map(|port| self.tensor(port.name())).collect();
        let graph = Graph::new(self.tensors, operators, inputs, outputs)?;
        Ok((graph, self.types, self.uncounted))
    }

    fn weight(&mut self, name: &str, found: Option<TensorType>) {
        let bytes = found.as_ref().and_then(TensorType::size);
        self.tensors.push(Tensor {
            name: name.to_owned(),
            bytes: bytes.map_or(0, |size| size.row_bytes),
            weight: true,
            ..Tensor::default()
        });
        self.types.push(found);
        self.by_name
            .insert(name.to_owned(), TensorIndex::at(self.tensors.len() - 1));
    }

    /// The tensor of a name, made where it is met for the first time.
    fn tensor(&mut self, name: &str) -> TensorIndex {
        if let Some(&known) = self.by_name.get(name) {
            return known;
        }
        let found = self.described.remove(name);
        let size = found.as_ref().and_then(TensorType::size);
        self.tensors.push(Tensor {
            name: name.to_owned(),
            bytes: size.as_ref().map_or(0, |size| size.row_bytes),
            per_item: size.is_some_and(|size| size.per_item),
            weight: false,
            uncut: found.is_none().then(|| Uncuttable::NotATensor.to_string()),
        });
        self.types.push(found);
        let index = TensorIndex::at(self.tensors.len() - 1);
        self.by_name.insert(name.to_owned(), index);
        index
    }

    /// The tensors of the model's inputs or outputs; weights among the inputs are left
    /// out, since nobody gives them.
    fn inputs(&mut self, ports: &[ValueInfoProto]) -> Vec<TensorIndex> {
        let found = ports.iter().map(|port| self.tensor(port.name()));
        let found: Vec<_> = found.collect();
        let is_given = |index: &TensorIndex| !self.tensors[index.place()].weight;
        found.into_iter().filter(is_given).collect()
    }

    fn operator(&mut self, node: &NodeProto) -> Operator {
        let named = node.input.iter().map(String::as_str);
        let named = named.filter(|name| !name.is_empty());
        let inputs: Vec<_> = named
            .chain(captured(node))
            .map(|name| self.tensor(name))
            .collect();
        let outputs = node.output.iter().filter(|name| !name.is_empty());
        let outputs = outputs.map(|name| self.tensor(name)).collect();
        let flops = flops::of(node, &|name| {
            let index = self.by_name.get(name)?;
            self.types[index.place()].as_ref()?.dims_at_one()
        });
        if flops.is_none() {
            self.uncounted.push(OperatorIndex::at(self.operators));
        }
        self.operators += 1;
        let stacks = stack::stacks(node, &|name| {
            let index = self.by_name.get(name)?.place();
            let weight = self.tensors[index].weight.then_some(index)?;
            self.types[weight].as_ref()?.dims_at_one()
        });
        let mut weights: Vec<_> = inputs.clone();
        weights.sort_unstable();
        weights.dedup();
        let weights = weights.iter().map(|weight| &self.tensors[weight.place()]);
        let weights = weights.filter(|tensor| tensor.weight);
        Operator {
            name: node.name().to_owned(),
            op_type: node.op_type().to_owned(),
            weight_bytes: weights.map(|tensor| tensor.bytes).sum(),
            inputs,
            outputs,
            flops: flops.unwrap_or(0),
            stacks,
            joins: stack::joins(node),
        }
    }
}

/// The names a node reads beside its inputs: those its subgraphs take from around them.
pub(super) fn captured(node: &NodeProto) -> BTreeSet<&str> {
    let mut captured = BTreeSet::new();
    for graph in subgraphs(node) {
        capture(graph, &mut captured);
    }
    captured
}

fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute
        .iter()
        .flat_map(|attribute| attribute.g.as_deref().into_iter().chain(&attribute.graphs))
}

fn capture<'a>(graph: &'a GraphProto, captured: &mut BTreeSet<&'a str>) {
    let own = defined(graph);
    let mut read = BTreeSet::new();
    for node in &graph.node {
        read.extend(node.input.iter().map(String::as_str));
        for inner in subgraphs(node) {
            capture(inner, &mut read);
        }
    }
    read.extend(graph.output.iter().map(|output| output.name()));
    let outer = read.into_iter().filter(|name| !name.is_empty());
    captured.extend(outer.filter(|name| !own.contains(name)));
}

/// The names that a graph gives a value itself.
fn defined(graph: &GraphProto) -> BTreeSet<&str> {
    let inputs = graph.input.iter().map(|input| input.name());
    let written = graph.node.iter().flat_map(|node| &node.output);
    let weights = weight_names(graph);
    inputs
        .chain(written.map(String::as_str))
        .chain(weights)
        .collect()
}

/// The names of a graph's weights, sparse ones too.
fn weight_names(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let sparse = graph.sparse_initializer.iter();
    let sparse = sparse.filter_map(|sparse| Some(sparse.values.as_ref()?.name()));
    let dense = graph.initializer.iter().map(|tensor| tensor.name());
    dense.chain(sparse)
}
