//! A model's operators and tensors, and the [`Segments`] that it can be cut into; and what
//! is left of several tasks in flight as one such graph, [`Merged`].
//!
//! **Invariant:** the operators of a [`Graph`] stand in a topological order, every tensor
//! comes from one place (an operator, an input of the graph, or a weight), and every index
//! is within its list. Everything that plans rests on it.
//!
//! Nothing here knows ONNX: an importer fills in tensors and operators, with their bytes
//! and floating-point operations at batch 1.

mod cut;
mod error;
mod merge;
mod stack;

pub use cut::{Segment, Segments};
pub use error::GraphError;
pub use merge::{InFlight, MergeError, Merged, Origin};
pub use stack::{Span, Stack, Stacks, Window};

use crate::id::{BatchSize, OperatorIndex, TensorIndex};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A tensor: what operators pass on, or a weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tensor {
    /// Its name, unique in the graph.
    pub name: String,
    /// Bytes at batch 1.
    pub bytes: u64,
    /// Whether its bytes grow with the batch.
    pub per_item: bool,
    /// Whether it is a weight: known before the model runs, and of no operator.
    pub weight: bool,
    /// Why the tensor may not pass from one segment to another (its type is a sequence,
    /// say); its producer and its consumers then stay in one segment. `None` where it may.
    pub uncut: Option<String>,
}

impl Tensor {
    /// Bytes at this batch, saturating.
    #[must_use]
    pub fn bytes_at(&self, batch: BatchSize) -> u64 {
        let items = if self.per_item { batch.0 } else { 1 };
        self.bytes.saturating_mul(u64::from(items))
    }
}

/// An operator: a node of the graph that the runtime executes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// Its name; empty names are allowed, and errors then say its place.
    pub name: String,
    /// Its type: `Conv`.
    pub op_type: String,
    /// What it reads, weights included. A tensor may stand here more than once.
    pub inputs: Vec<TensorIndex>,
    /// What it writes.
    pub outputs: Vec<TensorIndex>,
    /// Floating-point operations at batch 1, a multiply-add counted as two.
    pub flops: u64,
    /// Bytes of the weights it reads.
    pub weight_bytes: u64,
    /// With what others it can be **stacked**: where they read the same tensor first, and weights
    /// besides, one operator with the weights of all gives what all give. `None` where with none.
    pub stacks: Option<Stacks>,
    /// Whether what it gives is what it reads, one after the other along the axis along which
    /// operators are stacked; then it need not run after one that stands for all it reads.
    pub joins: bool,
}

/// The operators of a model, checked.
#[derive(Clone, Debug)]
pub struct Graph {
    tensors: Vec<Tensor>,
    operators: Vec<Operator>,
    inputs: Vec<TensorIndex>,
    outputs: Vec<TensorIndex>,
    /// By tensor: the operator that writes it.
    producers: Vec<Option<OperatorIndex>>,
    /// By tensor: the operators that read it, rising, each once.
    consumers: Vec<Vec<OperatorIndex>>,
}

impl Graph {
    /// Checks the parts of a graph and puts its operators in a topological order: of those
    /// that are ready, the one that was given first. Operators given in such an order keep
    /// their places.
    ///
    /// # Errors
    /// The first fault found: a name that two tensors have, an index past its list, a
    /// tensor with two sources (two operators, or an operator and the graph's inputs or
    /// weights), one that is read and has no source, and operators in a circle. Each names
    /// the operator, and the tensor.
    ///
    /// # Cost
    /// O(n log n) in operators, tensors and uses.
    pub fn new(
        tensors: Vec<Tensor>,
        operators: Vec<Operator>,
        inputs: Vec<TensorIndex>,
        outputs: Vec<TensorIndex>,
    ) -> Result<Self, GraphError> {
        unique_names(&tensors)?;
        let mut graph = Self {
            producers: vec![None; tensors.len()],
            consumers: vec![Vec::new(); tensors.len()],
            tensors,
            operators,
            inputs,
            outputs,
        };
        graph.check_indices()?;
        graph.find_producers()?;
        graph.check_sources()?;
        graph.sort()?;
        graph.find_producers()?;
        graph.find_consumers();
        Ok(graph)
    }

    /// The tensors.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The operators, in a topological order.
    #[must_use]
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// What the model is given, in its order; no weights.
    #[must_use]
    pub fn inputs(&self) -> &[TensorIndex] {
        &self.inputs
    }

    /// What the model answers, in its order.
    #[must_use]
    pub fn outputs(&self) -> &[TensorIndex] {
        &self.outputs
    }

    /// A tensor.
    ///
    /// # Panics
    /// Where the index is not of this graph.
    #[must_use]
    pub fn tensor(&self, index: TensorIndex) -> &Tensor {
        &self.tensors[index.place()]
    }

    /// An operator.
    ///
    /// # Panics
    /// Where the index is not of this graph.
    #[must_use]
    pub fn operator(&self, index: OperatorIndex) -> &Operator {
        &self.operators[index.place()]
    }

    /// The operator that writes a tensor; `None` for weights and the graph's inputs.
    ///
    /// # Panics
    /// Where the index is not of this graph.
    #[must_use]
    pub fn producer(&self, tensor: TensorIndex) -> Option<OperatorIndex> {
        self.producers[tensor.place()]
    }

    /// The operators that read a tensor, rising, each once.
    ///
    /// # Panics
    /// Where the index is not of this graph.
    #[must_use]
    pub fn consumers(&self, tensor: TensorIndex) -> &[OperatorIndex] {
        &self.consumers[tensor.place()]
    }

    /// The operators whose results an operator reads, rising, each once.
    ///
    /// # Panics
    /// Where the index is not of this graph.
    #[must_use]
    pub fn predecessors(&self, operator: OperatorIndex) -> Vec<OperatorIndex> {
        let inputs = self.operator(operator).inputs.iter();
        let mut found: Vec<_> = inputs.filter_map(|&tensor| self.producer(tensor)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The operators that read a result of an operator, rising, each once.
    ///
    /// # Panics
    /// Where the index is not of this graph.
    #[must_use]
    pub fn successors(&self, operator: OperatorIndex) -> Vec<OperatorIndex> {
        let outputs = self.operator(operator).outputs.iter();
        let mut found: Vec<_> = outputs
            .flat_map(|&tensor| self.consumers(tensor))
            .copied()
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// An operator as messages name it: its name, or its place and type.
    #[must_use]
    pub fn label(&self, operator: OperatorIndex) -> String {
        label(&self.operators, operator.place())
    }

    fn check_indices(&self) -> Result<(), GraphError> {
        let tensors = self.tensors.len();
        for (place, operator) in self.operators.iter().enumerate() {
            let uses = operator.inputs.iter().chain(&operator.outputs);
            if let Some(&tensor) = uses.into_iter().find(|tensor| tensor.place() >= tensors) {
                return Err(GraphError::NoSuchTensor {
                    user: label(&self.operators, place),
                    tensor,
                    tensors,
                });
            }
        }
        for (user, list) in [("the inputs", &self.inputs), ("the outputs", &self.outputs)] {
            if let Some(&tensor) = list.iter().find(|tensor| tensor.place() >= tensors) {
                return Err(GraphError::NoSuchTensor {
                    user: user.to_owned(),
                    tensor,
                    tensors,
                });
            }
        }
        Ok(())
    }

    fn find_producers(&mut self) -> Result<(), GraphError> {
        self.producers.fill(None);
        for (place, operator) in self.operators.iter().enumerate() {
            for &tensor in &operator.outputs {
                let producer = &mut self.producers[tensor.place()];
                if let Some(first) = producer.replace(OperatorIndex::at(place)) {
                    return Err(GraphError::TwoSources {
                        tensor: self.tensors[tensor.place()].name.clone(),
                        first: label(&self.operators, first.place()),
                        second: label(&self.operators, place),
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether each tensor that is used has one source.
    fn check_sources(&self) -> Result<(), GraphError> {
        let mut given = vec![None; self.tensors.len()];
        for (place, tensor) in self.tensors.iter().enumerate() {
            given[place] = tensor.weight.then_some("the weights");
        }
        let two = |tensor: TensorIndex, first: &str, second: String| GraphError::TwoSources {
            tensor: self.tensors[tensor.place()].name.clone(),
            first: first.to_owned(),
            second,
        };
        for &input in &self.inputs {
            if let Some(first) = given[input.place()].replace("the inputs") {
                return Err(two(input, first, "the inputs".to_owned()));
            }
        }
        for (place, producer) in self.producers.iter().enumerate() {
            if let (Some(source), Some(operator)) = (given[place], producer) {
                let operator = label(&self.operators, operator.place());
                return Err(two(TensorIndex::at(place), source, operator));
            }
        }
        let has_source = |tensor: TensorIndex| {
            given[tensor.place()].is_some() || self.producers[tensor.place()].is_some()
        };
        let none = |tensor: TensorIndex, user: String| GraphError::NoSource {
            tensor: self.tensors[tensor.place()].name.clone(),
            user,
        };
        for (place, operator) in self.operators.iter().enumerate() {
            if let Some(&tensor) = operator.inputs.iter().find(|&&input| !has_source(input)) {
                return Err(none(tensor, label(&self.operators, place)));
            }
        }
        match self.outputs.iter().find(|&&output| !has_source(output)) {
            Some(&tensor) => Err(none(tensor, "the outputs".to_owned())),
            None => Ok(()),
        }
    }

    /// Kahn's algorithm, the smallest index first.
    fn sort(&mut self) -> Result<(), GraphError> {
        self.find_consumers();
        let count = self.operators.len();
        let places = (0..count).map(OperatorIndex::at);
        let mut waits: Vec<usize> = places.map(|index| self.predecessors(index).len()).collect();
        let ready = (0..count).filter(|&place| waits[place] == 0);
        let mut ready: BinaryHeap<Reverse<usize>> = ready.map(Reverse).collect();
        let mut order = Vec::with_capacity(count);
        while let Some(Reverse(place)) = ready.pop() {
            order.push(place);
            for next in self.successors(OperatorIndex::at(place)) {
                waits[next.place()] -= 1;
                if waits[next.place()] == 0 {
                    ready.push(Reverse(next.place()));
                }
            }
        }
        if order.len() < count {
            return Err(self.circle(&waits));
        }
        let mut operators: Vec<_> = std::mem::take(&mut self.operators)
            .into_iter()
            .map(Some)
            .collect();
        let taken = order.into_iter().map(|place| operators[place].take());
        self.operators = taken.flatten().collect();
        Ok(())
    }

    /// Names the operators of one circle: whoever still waits has a predecessor that does.
    fn circle(&self, waits: &[usize]) -> GraphError {
        let waiting = |place: &usize| waits[*place] > 0;
        let mut path: Vec<usize> = Vec::new();
        let mut seen_at = vec![None; waits.len()];
        let mut next = (0..waits.len()).find(waiting);
        while let Some(place) = next {
            if let Some(start) = seen_at[place].replace(path.len()) {
                path.drain(..start);
                break;
            }
            path.push(place);
            let before = self.predecessors(OperatorIndex::at(place));
            next = before.iter().map(|index| index.place()).find(waiting);
        }
        path.reverse();
        let earliest = path.iter().enumerate().min_by_key(|(_, place)| **place);
        let earliest = earliest.map_or(0, |(at, _)| at);
        path.rotate_left(earliest);
        let names = path.iter().map(|&place| label(&self.operators, place));
        GraphError::Circle {
            operators: names.collect(),
        }
    }

    fn find_consumers(&mut self) {
        self.consumers.iter_mut().for_each(Vec::clear);
        for (place, operator) in self.operators.iter().enumerate() {
            for &tensor in &operator.inputs {
                let consumers = &mut self.consumers[tensor.place()];
                // Places rise, so a second use by the same operator is the last entry.
                if consumers.last() != Some(&OperatorIndex::at(place)) {
                    consumers.push(OperatorIndex::at(place));
                }
            }
        }
    }
}

fn unique_names(tensors: &[Tensor]) -> Result<(), GraphError> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, tensor) in tensors.iter().enumerate() {
        if let Some(first) = seen.insert(&tensor.name, place) {
            return Err(GraphError::SameName {
                name: tensor.name.clone(),
                first: TensorIndex::at(first),
                second: TensorIndex::at(place),
            });
        }
    }
    Ok(())
}

fn label(operators: &[Operator], place: usize) -> String {
    let Operator { name, op_type, .. } = &operators[place];
    if name.is_empty() {
        format!("operator {place} (`{op_type}`)")
    } else {
        format!("operator `{name}` (`{op_type}`)")
    }
}

#[cfg(test)]
mod tests;
