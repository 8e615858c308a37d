//! Tasks in flight as one graph: what is left of each, side by side.
//!
//! Planners take a graph, and know nothing of tasks. Several tasks of one model, or of
//! several, that have each come some way are a graph too: the one of the operators that are
//! left, in parts that do not wait for each other. What is planned on it is led back to
//! tasks and their segments by [`Merged::origin`].
//!
//! # Source
//! TOP (Lin et al., TPDS 2025): original graphs mislead where tasks have come different
//! ways, and plans of one model leave out that several of its tasks are in flight. How TOP
//! joins them is not public; this is the plain reading. It has no barrier between tasks, and
//! nothing of what has run.

use super::{Graph, Operator, Segments, Tensor};
use crate::id::{BatchSize, OperatorIndex, SegmentIndex, TaskId, TensorIndex};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// A task in flight.
#[derive(Clone, Copy, Debug)]
pub struct InFlight<'a> {
    /// What the origins of segments, and errors, call it.
    pub task: TaskId,
    /// Its model.
    pub graph: &'a Graph,
    /// The segments that the model was cut into.
    pub segments: &'a Segments,
    /// Its items.
    pub batch: BatchSize,
    /// The segments that have run, in any order: each with all that it waits for.
    pub done: &'a [SegmentIndex],
}

/// What a segment of a merged graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The task.
    pub task: TaskId,
    /// The segment of its model.
    pub segment: SegmentIndex,
}

/// What is left of tasks in flight, as one graph.
///
/// Each task's batch is in the tensors and operations of its part, because batches of tasks
/// differ; costs are therefore asked for at a batch of 1.
///
/// **Invariant:** a segment of the merged graph is a segment of one task, whole, and waits for
/// the same segments as there, without those that have run.
#[derive(Clone, Debug)]
pub struct Merged {
    graph: Graph,
    segments: Segments,
    /// By segment of the merged graph.
    origins: Vec<Origin>,
    /// By operator of the merged graph: its segment there, and what it is in its own graph.
    operators: Vec<(SegmentIndex, OperatorIndex)>,
}

/// Why tasks have no merged graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// Two tasks have one name.
    #[error("{task} is twice among the tasks in flight, expected once")]
    SameTask {
        /// The name.
        task: TaskId,
    },
    /// A segment that is said to have run is not of the model.
    #[error("{task} is said to have run {segment}, its model has {count} segments")]
    NoSuchSegment {
        /// The task.
        task: TaskId,
        /// The segment.
        segment: SegmentIndex,
        /// How many there are.
        count: usize,
    },
    /// A segment is said to have run before one that it reads results of.
    #[error(
        "{task} is said to have run {segment} and not {waits_for}, which it waits for, expected \
         all that a segment waits for among those that have run"
    )]
    Gap {
        /// The task.
        task: TaskId,
        /// The segment.
        segment: SegmentIndex,
        /// The one that has not run.
        waits_for: SegmentIndex,
    },
}

impl Merged {
    /// Joins what is left of these tasks. A task of which nothing is left adds nothing.
    ///
    /// Segments stand in an order in which all tasks come to their ends together: of those
    /// next in their tasks, the one before which the smallest part of what is left of its
    /// task's operations stands. A planner that cuts the graph into pieces so has some of
    /// every task in each piece.
    ///
    /// # Errors
    /// Where two tasks have one name, or what is said to have run cannot be all that has.
    ///
    /// # Panics
    /// Where segments are not of their graph.
    ///
    /// # Cost
    /// O(n log n) in the operators and edges that are left.
    pub fn of(tasks: &[InFlight<'_>]) -> Result<Self, MergeError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = tasks.iter().find(|task| !names.insert(task.task)) {
            return Err(MergeError::SameTask { task: twice.task });
        }
        let left: Vec<Vec<SegmentIndex>> = tasks.iter().map(left).collect::<Result<_, _>>()?;
        let mut parts = Parts::default();
        let mut copies: Vec<Copies<'_>> = tasks.iter().map(Copies::new).collect();
        for (place, segment) in side_by_side(tasks, &left) {
            copies[place].add(segment, &mut parts);
        }
        let Parts {
            tensors,
            operators,
            inputs,
            outputs,
            origins,
            origins_of_operators,
            labels,
        } = parts;
        let graph = Graph::new(tensors, operators, inputs, outputs)
            .expect("parts of checked graphs, in order, under names of their own");
        let segments = graph.segments_of(&labels);
        assert_eq!(
            segments.count(),
            origins.len(),
            "segments that do not wait for themselves stay as they are"
        );
        Ok(Self {
            graph,
            segments,
            origins,
            operators: origins_of_operators,
        })
    }

    /// The operators that are left.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The segments that are left, as planners take them.
    #[must_use]
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// By segment: the task and segment that it is.
    #[must_use]
    pub fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// The task and segment that a segment is.
    ///
    /// # Panics
    /// Where the segment is not of these.
    #[must_use]
    pub fn origin(&self, segment: SegmentIndex) -> Origin {
        self.origins[segment.place()]
    }

    /// The task and segment that an operator is of, and which operator of the task's graph it
    /// is.
    ///
    /// # Panics
    /// Where the operator is not of this graph.
    #[must_use]
    pub fn origin_of_operator(&self, operator: OperatorIndex) -> (Origin, OperatorIndex) {
        let (segment, original) = self.operators[operator.place()];
        (self.origin(segment), original)
    }
}

/// The segments of a task that have not run, rising.
fn left(task: &InFlight<'_>) -> Result<Vec<SegmentIndex>, MergeError> {
    let count = task.segments.count();
    let mut has_run = vec![false; count];
    for &segment in task.done {
        match has_run.get_mut(segment.place()) {
            Some(has_run) => *has_run = true,
            None => {
                return Err(MergeError::NoSuchSegment {
                    task: task.task,
                    segment,
                    count,
                });
            }
        }
    }
    for &segment in task.done {
        let before = task.segments.predecessors(segment).iter();
        if let Some(&waits_for) = before.into_iter().find(|before| !has_run[before.place()]) {
            return Err(MergeError::Gap {
                task: task.task,
                segment,
                waits_for,
            });
        }
    }
    let indices = task.segments.indices();
    Ok(indices.filter(|index| !has_run[index.place()]).collect())
}

/// What is left of all tasks in one order: the place of the task, and its segment. A task's
/// own segments keep their order.
fn side_by_side(tasks: &[InFlight<'_>], left: &[Vec<SegmentIndex>]) -> Vec<(usize, SegmentIndex)> {
    // One more than its operations: a segment of which they are not known counts too.
    let work = |task: &InFlight<'_>, segment: SegmentIndex| {
        let flops = task.segments.segment(segment).flops;
        flops.saturating_add(1)
    };
    let all: Vec<u64> = tasks
        .iter()
        .zip(left)
        .map(|(task, left)| left.iter().map(|&segment| work(task, segment)))
        .map(|works| works.fold(0, u64::saturating_add))
        .collect();
    let mut next: BinaryHeap<Reverse<Next>> = (0..tasks.len())
        .filter(|&place| !left[place].is_empty())
        .map(|place| {
            Reverse(Next {
                before: 0,
                all: all[place],
                place,
                segment: 0,
            })
        })
        .collect();
    let mut order = Vec::with_capacity(left.iter().map(Vec::len).sum());
    while let Some(Reverse(now)) = next.pop() {
        let segment = left[now.place][now.segment];
        order.push((now.place, segment));
        if now.segment + 1 < left[now.place].len() {
            let before = now.before.saturating_add(work(&tasks[now.place], segment));
            next.push(Reverse(Next {
                before,
                segment: now.segment + 1,
                ..now
            }));
        }
    }
    order
}

/// A task's next segment, in the order of the part of its operations before it; of equal
/// ones the task that was given first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    before: u64,
    all: u64,
    place: usize,
    /// Its place among those left.
    segment: usize,
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let part = |one: &Self, of: &Self| u128::from(one.before) * u128::from(of.all);
        let parts = part(self, other).cmp(&part(other, self));
        parts.then_with(|| (self.place, self.segment).cmp(&(other.place, other.segment)))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A graph as it grows.
#[derive(Default)]
struct Parts {
    tensors: Vec<Tensor>,
    operators: Vec<Operator>,
    inputs: Vec<TensorIndex>,
    outputs: Vec<TensorIndex>,
    origins: Vec<Origin>,
    origins_of_operators: Vec<(SegmentIndex, OperatorIndex)>,
    /// By operator: its segment.
    labels: Vec<usize>,
}

/// What of a task is in the merged graph.
struct Copies<'a> {
    task: &'a InFlight<'a>,
    /// By tensor of the task: the one that it became.
    tensors: BTreeMap<TensorIndex, TensorIndex>,
    /// What the task answers.
    answers: BTreeSet<TensorIndex>,
}

impl<'a> Copies<'a> {
    fn new(task: &'a InFlight<'a>) -> Self {
        Self {
            task,
            tensors: BTreeMap::new(),
            answers: task.graph.outputs().iter().copied().collect(),
        }
    }

    /// Adds a segment of the task. All that it waits for is there already, or has run.
    fn add(&mut self, segment: SegmentIndex, parts: &mut Parts) {
        let InFlight { task, batch, .. } = *self.task;
        let label = parts.origins.len();
        parts.origins.push(Origin { task, segment });
        for &index in &self.task.segments.segment(segment).operators {
            let operator = self.task.graph.operator(index);
            let inputs = operator.inputs.iter();
            let inputs = inputs.map(|&input| self.read(input, parts)).collect();
            let outputs = operator.outputs.iter();
            let outputs = outputs.map(|&output| self.written(output, parts)).collect();
            parts.operators.push(Operator {
                name: match operator.name.as_str() {
                    "" => String::new(),
                    name => format!("{task}/{name}"),
                },
                op_type: operator.op_type.clone(),
                inputs,
                outputs,
                flops: operator.flops.saturating_mul(u64::from(batch.0)),
                weight_bytes: operator.weight_bytes,
                stacks: operator.stacks.clone(),
                joins: operator.joins,
            });
            let own = SegmentIndex::at(label);
            parts.origins_of_operators.push((own, index));
            parts.labels.push(label);
        }
    }

    /// What an operator reads: a weight, what is there already, or what the merged graph is
    /// given because the task was, or has it already.
    fn read(&mut self, tensor: TensorIndex, parts: &mut Parts) -> TensorIndex {
        if let Some(&known) = self.tensors.get(&tensor) {
            return known;
        }
        let copy = self.copy(tensor, parts);
        if !self.task.graph.tensor(tensor).weight {
            parts.inputs.push(copy);
        }
        copy
    }

    fn written(&mut self, tensor: TensorIndex, parts: &mut Parts) -> TensorIndex {
        let copy = self.copy(tensor, parts);
        if self.answers.contains(&tensor) {
            parts.outputs.push(copy);
        }
        copy
    }

    fn copy(&mut self, tensor: TensorIndex, parts: &mut Parts) -> TensorIndex {
        let InFlight { task, batch, .. } = *self.task;
        let found = self.task.graph.tensor(tensor);
        let copy = TensorIndex::at(parts.tensors.len());
        parts.tensors.push(Tensor {
            name: format!("{task}/{}", found.name),
            bytes: found.bytes_at(batch),
            per_item: false,
            weight: found.weight,
            uncut: found.uncut.clone(),
        });
        self.tensors.insert(tensor, copy);
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A graph of a fork and a join: 0 -> {1, 2} -> 3 and a chain 3 -> 4; each reads a weight.
    fn diamond() -> Graph {
        let tensor = |name: &str, weight: bool| Tensor {
            name: name.to_owned(),
            bytes: 10,
            per_item: !weight,
            weight,
            uncut: None,
        };
        let names = ["in", "a", "b", "c", "d", "e"];
        let mut tensors: Vec<Tensor> = names.iter().map(|name| tensor(name, false)).collect();
        tensors.push(tensor("w", true));
        let operator = |name: &str, reads: &[u32], writes: u32| Operator {
            name: name.to_owned(),
            op_type: "Test".to_owned(),
            inputs: reads
                .iter()
                .chain(&[6])
                .map(|&at| TensorIndex(at))
                .collect(),
            outputs: vec![TensorIndex(writes)],
            flops: 100,
            weight_bytes: 10,
            stacks: None,
            joins: false,
        };
        let operators = vec![
            operator("A", &[0], 1),
            operator("B", &[1], 2),
            operator("C", &[1], 3),
            operator("D", &[2, 3], 4),
            operator("E", &[4], 5),
        ];
        let (inputs, outputs) = (vec![TensorIndex(0)], vec![TensorIndex(5)]);
        Graph::new(tensors, operators, inputs, outputs).unwrap()
    }

    fn in_flight<'a>(
        task: u64,
        (graph, segments): (&'a Graph, &'a Segments),
        done: &'a [SegmentIndex],
    ) -> InFlight<'a> {
        InFlight {
            task: TaskId(task),
            graph,
            segments,
            batch: BatchSize(3),
            done,
        }
    }

    #[test]
    fn what_is_left_of_each_task_stands_side_by_side() {
        let graph = diamond();
        let segments = graph.segments();
        assert_eq!(segments.count(), 4, "A, B, C, and D with E");
        let half = [SegmentIndex(0), SegmentIndex(1)];
        let tasks = [
            in_flight(7, (&graph, &segments), &[]),
            in_flight(9, (&graph, &segments), &half),
        ];
        let merged = Merged::of(&tasks).unwrap();
        let origin = |origin: &Origin| (origin.task.0, origin.segment.0);
        let origins: Vec<_> = merged.origins().iter().map(origin).collect();
        // A fifth, two fifths and three fifths before them; nothing and a third.
        let expected = [(7, 0), (9, 2), (7, 1), (9, 3), (7, 2), (7, 3)];
        assert_eq!(origins, expected);
        // What had a fork before it, or a joint after, is no longer chain than it was.
        let last = merged.segments().segment(SegmentIndex(3));
        assert_eq!(last.operators.len(), 2);
        assert_eq!(
            merged.segments().predecessors(SegmentIndex(3)),
            [SegmentIndex(1)]
        );
        let name = |&tensor: &TensorIndex| merged.graph().tensor(tensor).name.clone();
        let inputs: Vec<_> = merged.graph().inputs().iter().map(name).collect();
        assert_eq!(inputs, ["task 7/in", "task 9/a", "task 9/b"]);
        let outputs: Vec<_> = merged.graph().outputs().iter().map(name).collect();
        assert_eq!(outputs, ["task 9/e", "task 7/e"]);
        // The batch is in the bytes and the operations; weights are read once.
        assert_eq!((last.flops, last.weight_bytes), (600, 20));
        assert_eq!(last.bytes, 30 * 5);
    }

    #[test]
    fn a_task_that_is_done_adds_nothing() {
        let graph = diamond();
        let segments = graph.segments();
        let all: Vec<SegmentIndex> = segments.indices().collect();
        let merged = Merged::of(&[in_flight(1, (&graph, &segments), &all)]).unwrap();
        assert_eq!(merged.segments().count(), 0);
        assert!(merged.graph().operators().is_empty());
    }

    #[test]
    fn what_cannot_have_run_is_refused_by_name() {
        let graph = diamond();
        let segments = graph.segments();
        let refused = |tasks: &[InFlight<'_>]| Merged::of(tasks).unwrap_err().to_string();
        let fresh = in_flight(1, (&graph, &segments), &[]);
        assert_eq!(
            refused(&[fresh, fresh]),
            "task 1 is twice among the tasks in flight, expected once"
        );
        let missing = [SegmentIndex(4)];
        assert_eq!(
            refused(&[in_flight(1, (&graph, &segments), &missing)]),
            "task 1 is said to have run segment 4, its model has 4 segments"
        );
        let gap = [SegmentIndex(0), SegmentIndex(3)];
        let said = refused(&[in_flight(2, (&graph, &segments), &gap)]);
        assert!(
            said.starts_with("task 2 is said to have run segment 3 and not segment 1, which"),
            "{said}"
        );
    }
}
