//! Segments: a graph cut at its forks and joins.

use super::Graph;
use crate::id::{OperatorIndex, SegmentIndex, TensorIndex};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Operators that run in order and are never placed apart: a chain with no fork or join
/// inside, or more where the graph says that tensors may not be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its operators, rising: the order they run in.
    pub operators: Vec<OperatorIndex>,
    /// What it reads from elsewhere, weights left out; rising.
    pub inputs: Vec<TensorIndex>,
    /// What others read of it, or the graph answers; rising.
    pub outputs: Vec<TensorIndex>,
    /// Floating-point operations at batch 1.
    pub flops: u64,
    /// Bytes at batch 1 that its operators read and write, weights left out.
    pub bytes: u64,
    /// Bytes of the weights that its operators read.
    pub weight_bytes: u64,
}

/// The segments of a graph, and which of them wait for which.
///
/// **Invariant:** they stand in a topological order, and each operator is in one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    segments: Vec<Segment>,
    predecessors: Vec<Vec<SegmentIndex>>,
    successors: Vec<Vec<SegmentIndex>>,
}

impl Segments {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.segments.len()
    }

    /// The segments, in a topological order.
    #[must_use]
    pub fn all(&self) -> &[Segment] {
        &self.segments
    }

    /// The indices of the segments, rising: a topological order.
    pub fn indices(&self) -> impl DoubleEndedIterator<Item = SegmentIndex> + ExactSizeIterator {
        (0..self.segments.len()).map(SegmentIndex::at)
    }

    /// A segment.
    ///
    /// # Panics
    /// Where the index is not of these.
    #[must_use]
    pub fn segment(&self, index: SegmentIndex) -> &Segment {
        &self.segments[index.place()]
    }

    /// The segments that one reads results of, rising.
    ///
    /// # Panics
    /// Where the index is not of these.
    #[must_use]
    pub fn predecessors(&self, index: SegmentIndex) -> &[SegmentIndex] {
        &self.predecessors[index.place()]
    }

    /// The segments that read results of one, rising.
    ///
    /// # Panics
    /// Where the index is not of these.
    #[must_use]
    pub fn successors(&self, index: SegmentIndex) -> &[SegmentIndex] {
        &self.successors[index.place()]
    }
}

impl Graph {
    /// Cuts the graph at its forks and joins: an operator is in the segment of the one
    /// before it where that is the only one it waits for, and it the only one that waits
    /// for that. The users of a tensor that may not be cut stay together, with what lies
    /// between them.
    ///
    /// # Cost
    /// O(n log n) in operators and edges; no recursion.
    #[must_use]
    pub fn segments(&self) -> Segments {
        self.segments_from(u64::MAX)
    }

    /// As [`Graph::segments`], with chains cut further: a segment ends where it has this many
    /// floating-point operations at batch 1, and the operators after it begin another. So a
    /// model without forks has legs too.
    ///
    /// # Cost
    /// O(n log n) in operators and edges; no recursion.
    #[must_use]
    pub fn segments_from(&self, flops: u64) -> Segments {
        self.chains(flops, &[])
    }

    /// As [`Graph::segments_from`], with operators that can be stacked cut from what follows
    /// them: each is a segment of its own, apart from those that tensors hold together, and so is
    /// what joins them ([`Graph::join_of`]).
    ///
    /// # Cost
    /// O(n log n) in operators and edges; no recursion.
    #[must_use]
    pub fn segments_to_stack(&self, flops: u64) -> Segments {
        self.chains(flops, &self.ends_to_stack())
    }

    /// Chains that end at forks, joins, and these operators.
    fn chains(&self, flops: u64, ends: &[OperatorIndex]) -> Segments {
        let mut is_end = vec![false; self.operators().len()];
        for end in ends {
            is_end[end.place()] = true;
        }
        let mut sets = self.uncut();
        let mut chained: Vec<u64> = self.operators().iter().map(|one| one.flops).collect();
        // Counted once: asked anew for each of the readers of one operator it is quadratic.
        let successors = self.operator_indices().map(|from| self.successors(from));
        let forks: Vec<bool> = successors.map(|nexts| nexts.len() > 1).collect();
        for operator in self.operator_indices() {
            if let [only] = self.predecessors(operator)[..]
                && !forks[only.place()]
                && chained[only.place()] < flops
                && !is_end[only.place()]
            {
                let before = chained[only.place()];
                chained[operator.place()] = before.saturating_add(chained[operator.place()]);
                sets.join(only, operator);
            }
        }
        self.segments_of(&sets.labels())
    }

    /// Each operator a segment of its own, apart from those that tensors hold together: the
    /// operators of IOS, between which there are more barriers, and more choices.
    #[must_use]
    pub fn apart(&self) -> Segments {
        self.segments_from(0)
    }

    /// The whole graph as one segment (none where it has no operators).
    #[must_use]
    pub fn whole(&self) -> Segments {
        self.segments_of(&vec![0; self.operators().len()])
    }

    /// The operators that tensors hold together.
    fn uncut(&self) -> Sets {
        let mut sets = Sets::new(self.operators().len());
        for (place, tensor) in self.tensors().iter().enumerate() {
            if tensor.uncut.is_none() || tensor.weight {
                continue;
            }
            let tensor = TensorIndex::at(place);
            let readers = self.consumers(tensor).iter().copied();
            let mut users = self.producer(tensor).into_iter().chain(readers);
            if let Some(first) = users.next() {
                users.for_each(|user| sets.join(first, user));
            }
        }
        sets
    }

    fn operator_indices(&self) -> impl Iterator<Item = OperatorIndex> + use<> {
        (0..self.operators().len()).map(OperatorIndex::at)
    }

    /// The segments of a labelling of the operators; labels in a circle become one segment.
    pub(super) fn segments_of(&self, labels: &[usize]) -> Segments {
        let count = labels.iter().max().map_or(0, |&most| most + 1);
        let joined = components(&self.edges(labels, count));
        let labels: Vec<usize> = labels.iter().map(|&label| joined[label]).collect();
        let count = labels.iter().max().map_or(0, |&most| most + 1);
        let places = topological(&labels, &self.edges(&labels, count));
        let labels: Vec<usize> = labels.iter().map(|&label| places[label]).collect();
        let edges = self.edges(&labels, count);

        let mut operators = vec![Vec::new(); count];
        for (operator, &label) in self.operator_indices().zip(&labels) {
            operators[label].push(operator);
        }
        let mut answers = vec![false; self.tensors().len()];
        for output in self.outputs() {
            answers[output.place()] = true;
        }
        let segments = operators
            .into_iter()
            .map(|operators| self.segment(operators, &labels, &answers))
            .collect();
        let mut predecessors = vec![Vec::new(); count];
        for (from, nexts) in edges.iter().enumerate() {
            for &to in nexts {
                predecessors[to].push(SegmentIndex::at(from));
            }
        }
        let indices = |nexts: Vec<usize>| nexts.into_iter().map(SegmentIndex::at).collect();
        Segments {
            segments,
            predecessors,
            successors: edges.into_iter().map(indices).collect(),
        }
    }

    /// By label: the other labels that read its results, rising, each once.
    fn edges(&self, labels: &[usize], count: usize) -> Vec<Vec<usize>> {
        let mut edges = vec![Vec::new(); count];
        for operator in self.operator_indices() {
            let from = labels[operator.place()];
            let nexts = self.successors(operator).into_iter();
            let nexts = nexts.map(|next| labels[next.place()]);
            edges[from].extend(nexts.filter(|&to| to != from));
        }
        for nexts in &mut edges {
            nexts.sort_unstable();
            nexts.dedup();
        }
        edges
    }

    /// The segment of operators of one label; `answers` says which tensors the graph answers.
    fn segment(
        &self,
        operators: Vec<OperatorIndex>,
        labels: &[usize],
        answers: &[bool],
    ) -> Segment {
        let within = |user: OperatorIndex| labels[user.place()] == labels[operators[0].place()];
        let mut segment = Segment {
            operators: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            flops: 0,
            bytes: 0,
            weight_bytes: 0,
        };
        for &index in &operators {
            let operator = self.operator(index);
            segment.flops = segment.flops.saturating_add(operator.flops);
            segment.weight_bytes = segment.weight_bytes.saturating_add(operator.weight_bytes);
            for &input in &operator.inputs {
                let tensor = self.tensor(input);
                if tensor.weight {
                    continue;
                }
                segment.bytes = segment.bytes.saturating_add(tensor.bytes);
                if !self.producer(input).is_some_and(within) {
                    segment.inputs.push(input);
                }
            }
            for &output in &operator.outputs {
                segment.bytes = segment.bytes.saturating_add(self.tensor(output).bytes);
                let mut users = self.consumers(output).iter();
                if answers[output.place()] || !users.all(|&user| within(user)) {
                    segment.outputs.push(output);
                }
            }
        }
        segment.inputs.sort_unstable();
        segment.inputs.dedup();
        segment.outputs.sort_unstable();
        segment.operators = operators;
        segment
    }
}

/// Sets of operators that are joined (union-find).
struct Sets(Vec<usize>);

impl Sets {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    /// The smallest member of the set, with the way there halved.
    fn find(&mut self, mut member: usize) -> usize {
        while self.0[member] != member {
            self.0[member] = self.0[self.0[member]];
            member = self.0[member];
        }
        member
    }

    fn join(&mut self, one: OperatorIndex, other: OperatorIndex) {
        let (one, other) = (self.find(one.place()), self.find(other.place()));
        self.0[one.max(other)] = one.min(other);
    }

    /// By member: the number of its set, from 0.
    fn labels(mut self) -> Vec<usize> {
        let mut numbers = vec![None; self.0.len()];
        let mut count = 0;
        (0..self.0.len())
            .map(|member| {
                let root = self.find(member);
                *numbers[root].get_or_insert_with(|| {
                    count += 1;
                    count - 1
                })
            })
            .collect()
    }
}

/// The strongly connected components: by node, the number of its component.
///
/// # Source
/// Tarjan's algorithm, with its recursion as a stack of (node, next edge).
fn components(edges: &[Vec<usize>]) -> Vec<usize> {
    let mut found = Components {
        order: vec![None; edges.len()],
        low: vec![0; edges.len()],
        label: vec![None; edges.len()],
        open: Vec::new(),
        visited: 0,
        count: 0,
    };
    for root in 0..edges.len() {
        if found.order[root].is_none() {
            found.visit(root, edges);
        }
    }
    let labels = found.label.into_iter();
    labels
        .map(|label| label.expect("every node was visited"))
        .collect()
}

struct Components {
    order: Vec<Option<usize>>,
    low: Vec<usize>,
    label: Vec<Option<usize>>,
    open: Vec<usize>,
    visited: usize,
    count: usize,
}

impl Components {
    fn enter(&mut self, node: usize, stack: &mut Vec<(usize, usize)>) {
        self.order[node] = Some(self.visited);
        self.low[node] = self.visited;
        self.visited += 1;
        self.open.push(node);
        stack.push((node, 0));
    }

    fn visit(&mut self, root: usize, edges: &[Vec<usize>]) {
        let mut stack = Vec::new();
        self.enter(root, &mut stack);
        while let Some((node, edge)) = stack.last_mut() {
            let node = *node;
            if let Some(&next) = edges[node].get(*edge) {
                *edge += 1;
                match (self.order[next], self.label[next]) {
                    (None, _) => self.enter(next, &mut stack),
                    (Some(order), None) => self.low[node] = self.low[node].min(order),
                    (Some(_), Some(_)) => {}
                }
                continue;
            }
            stack.pop();
            if let Some(&(parent, _)) = stack.last() {
                self.low[parent] = self.low[parent].min(self.low[node]);
            }
            if self.order[node] == Some(self.low[node]) {
                while let Some(member) = self.open.pop() {
                    self.label[member] = Some(self.count);
                    if member == node {
                        break;
                    }
                }
                self.count += 1;
            }
        }
    }
}

/// By label of a graph without circles: its place in a topological order; of those ready,
/// the label of the earliest operator first.
fn topological(labels: &[usize], edges: &[Vec<usize>]) -> Vec<usize> {
    let mut first = vec![usize::MAX; edges.len()];
    for (operator, &label) in labels.iter().enumerate() {
        first[label] = first[label].min(operator);
    }
    let mut waits = vec![0_usize; edges.len()];
    edges.iter().flatten().for_each(|&to| waits[to] += 1);
    let ready = (0..edges.len()).filter(|&label| waits[label] == 0);
    let mut ready: BinaryHeap<_> = ready.map(|label| Reverse((first[label], label))).collect();
    let mut places = vec![0; edges.len()];
    let mut count = 0;
    while let Some(Reverse((_, label))) = ready.pop() {
        places[label] = count;
        count += 1;
        for &next in &edges[label] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.push(Reverse((first[next], next)));
            }
        }
    }
    assert_eq!(count, edges.len(), "components leave no circle");
    places
}
