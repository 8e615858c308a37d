//! Graphs for the tests of planners, and what all plans of them must satisfy.

use fugato_core::graph::{Graph, Operator, Segments, Tensor};
use fugato_core::plan::{CostModel, Stage};
use fugato_core::{BatchSize, Nanos, Share, TensorIndex};
use proptest::prelude::*;

/// A device of 8 slices where operators of these graphs fill from a part of one to all.
pub(crate) const DEVICE: CostModel = CostModel {
    flops_per_slice: 1e9,
    bytes_per_slice: 1e9,
    grain_bytes: 1_000.0,
    launch_s: 5e-6,
    sync_s: 1e-7,
    lane_slices: Share(u16::MAX),
    lanes: 4,
    fork_s: 4e-6,
};
pub(crate) const SHARE: Share = Share(8);
pub(crate) const BATCH: BatchSize = BatchSize(1);

/// What an operator of a random graph is.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Those before it that it reads, in parts of all before it.
    pub(crate) reads: Vec<prop::sample::Index>,
    pub(crate) bytes: u64,
    pub(crate) flops: u64,
}

/// From 1 to `count` operators, each of which reads up to `reads` others.
pub(crate) fn nodes(count: usize, reads: usize) -> impl Strategy<Value = Vec<Node>> {
    let picks = prop::collection::vec(any::<prop::sample::Index>(), 0..=reads);
    let node = (picks, 0_u64..10_000, 0_u64..200_000).prop_map(|(reads, bytes, flops)| Node {
        reads,
        bytes,
        flops,
    });
    prop::collection::vec(node, 1..=count)
}

pub(crate) fn graph(nodes: &[Node]) -> Graph {
    let written = |(place, node): (usize, &Node)| {
        let reads = node.reads.iter().filter(|_| place > 0);
        let reads = reads.map(|pick| pick.index(place)).collect();
        (reads, node.bytes, node.flops)
    };
    let written: Vec<_> = nodes.iter().enumerate().map(written).collect();
    graph_of(&written)
}

/// Operators, each with those before it that it reads, its bytes and its operations.
pub(crate) fn graph_of(nodes: &[(Vec<usize>, u64, u64)]) -> Graph {
    let tensor = |(place, &(_, bytes, _)): (usize, &(Vec<usize>, u64, u64))| Tensor {
        name: place.to_string(),
        bytes,
        per_item: true,
        ..Tensor::default()
    };
    let operator = |(place, (reads, _, flops)): (usize, &(Vec<usize>, u64, u64))| Operator {
        op_type: "Test".to_owned(),
        inputs: reads.iter().map(|&read| TensorIndex::at(read)).collect(),
        outputs: vec![TensorIndex::at(place)],
        flops: *flops,
        ..Operator::default()
    };
    let operators = nodes.iter().enumerate().map(operator).collect();
    let tensors = nodes.iter().enumerate().map(tensor).collect();
    Graph::new(tensors, operators, vec![], vec![]).expect("operators read earlier ones")
}

pub(crate) fn total(stages: &[Stage]) -> Nanos {
    let times = stages.iter().map(|stage| stage.predicted);
    times.fold(Nanos::ZERO, |sum, time| sum + time)
}

/// By segment: the set of those that it waits for.
pub(crate) fn waits(segments: &Segments) -> Vec<u32> {
    let set = |index| {
        let before = segments.predecessors(index).iter();
        before.fold(0, |set, before| set | 1 << before.0)
    };
    segments.indices().map(set).collect()
}
