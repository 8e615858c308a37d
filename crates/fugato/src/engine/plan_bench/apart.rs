//! Cuts that time parts of a model by themselves, and join what lies between them.

use fugato_core::graph::{Graph, Segments, Stack};
use fugato_core::plan::{Group, Stage};
use fugato_core::{Nanos, OperatorIndex, SegmentIndex};
use fugato_device::Cuts;
use std::collections::BTreeMap;

/// Cuts in which each of these segments, which rise, is a leg by itself and what lies between
/// them is joined; and the leg of each.
pub(super) fn apart_from_the_rest(segments: &Segments, alone: &[usize]) -> (Cuts, Vec<usize>) {
    let mut legs: Vec<Vec<OperatorIndex>> = Vec::new();
    let mut places = Vec::with_capacity(alone.len());
    let mut joins = false;
    for (place, segment) in segments.all().iter().enumerate() {
        let is_alone = alone.contains(&place);
        match legs.last_mut() {
            Some(last) if joins && !is_alone => last.extend(&segment.operators),
            Some(_) | None => legs.push(segment.operators.clone()),
        }
        if is_alone {
            places.push(legs.len() - 1);
        }
        joins = !is_alone;
    }
    (Cuts::sequential(legs), places)
}

/// The stages of each way to merge: all that can be stacked, and besides, if some can, with what
/// joins it, and those of one window without the others.
pub(super) fn stacked_ways(
    graph: &Graph,
    segments: &Segments,
    stacks: &[Stack],
) -> Vec<Vec<Stage>> {
    let members = stacks.iter().map(|stack| stack.members.clone());
    let joined = stacks.iter().filter_map(|stack| {
        let members = stack.members.iter().copied();
        Some(members.chain([stack.join?]).collect())
    });
    let window = |&member: &SegmentIndex| {
        // It is a segment of its own.
        let operator = graph.operator(segments.segment(member).operators[0]);
        operator.stacks.as_ref().map(|stacks| &stacks.window)
    };
    let of_one_window = stacks.iter().flat_map(|stack| {
        let mut lists: Vec<Vec<SegmentIndex>> = Vec::new();
        for member in &stack.members {
            let list = lists
                .iter_mut()
                .find(|list| window(&list[0]) == window(member));
            match list {
                Some(list) => list.push(*member),
                None => lists.push(vec![*member]),
            }
        }
        lists.retain(|list| (2..stack.members.len()).contains(&list.len()));
        lists
    });
    let ways: [Vec<Vec<SegmentIndex>>; 3] =
        [members.collect(), joined.collect(), of_one_window.collect()];
    let ways = ways.iter().filter(|lists| !lists.is_empty());
    ways.map(|lists| stacks_apart(segments, lists)).collect()
}

/// Stages in which each of these lists is merged, and what lies between them is joined.
fn stacks_apart(segments: &Segments, stacks: &[Vec<SegmentIndex>]) -> Vec<Stage> {
    let mut lists = BTreeMap::new();
    for list in stacks {
        lists.extend(list.iter().map(|&member| (member, list)));
    }
    let mut stages: Vec<Stage> = Vec::new();
    for index in segments.indices() {
        match (lists.get(&index), stages.last_mut()) {
            // What its first member waits for is all that the others do.
            (Some(list), _) if list[0] == index => stages.push(Stage {
                groups: vec![Group::from(list.to_vec())],
                merged: true,
                predicted: Nanos::ZERO,
            }),
            (Some(_), _) => {}
            (None, Some(last)) if !last.merged => last.groups[0].segments.push(index),
            (None, _) => stages.push(Stage {
                groups: vec![Group::from(vec![index])],
                merged: false,
                predicted: Nanos::ZERO,
            }),
        }
    }
    stages
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::TensorIndex;
    use fugato_core::graph::{Operator, Span, Stacks, Tensor, Window};

    /// Operators that read one tensor and can be stacked, of windows of these sizes, and what
    /// joins what they give.
    fn joined(sizes: &[u64]) -> Graph {
        let count = u32::try_from(sizes.len()).unwrap();
        let operators = (1..).zip(sizes).map(|(output, &size)| Operator {
            inputs: vec![TensorIndex(0)],
            outputs: vec![TensorIndex(output)],
            stacks: Some(Stacks {
                alike: "the same".to_owned(),
                window: Window(vec![Span { before: 0, size }]),
            }),
            ..Operator::default()
        });
        let join = Operator {
            inputs: (1..=count).map(TensorIndex).collect(),
            outputs: vec![TensorIndex(count + 1)],
            joins: true,
            ..Operator::default()
        };
        let tensors = (0..count + 2).map(|place| Tensor {
            name: place.to_string(),
            ..Tensor::default()
        });
        let operators = operators.chain([join]).collect();
        Graph::new(tensors.collect(), operators, vec![TensorIndex(0)], vec![]).unwrap()
    }

    /// The merged stages of each way.
    fn merged(sizes: &[u64]) -> Vec<Vec<Vec<u32>>> {
        let graph = joined(sizes);
        let segments = graph.segments_to_stack(u64::MAX);
        let ways = stacked_ways(&graph, &segments, &graph.stacks(&segments));
        let way = |stages: &Vec<Stage>| {
            let places = |stage: &Stage| stage.segments().map(|index| index.0).collect();
            let merged = stages.iter().filter(|stage| stage.merged);
            merged.map(places).collect()
        };
        ways.iter().map(way).collect()
    }

    #[test]
    fn lists_are_merged_whole_joined_and_by_window() {
        let (all, joined) = (vec![vec![0, 1]], vec![vec![0, 1, 2]]);
        assert_eq!(merged(&[1, 3]), [all.clone(), joined.clone()]);
        assert_eq!(merged(&[3, 3]), [all, joined]);
        let ways = [
            vec![vec![0, 1, 2, 3, 4]],
            vec![vec![0, 1, 2, 3, 4, 5]],
            vec![vec![0, 2, 4], vec![1, 3]],
        ];
        assert_eq!(merged(&[1, 3, 1, 3, 1]), ways);
    }
}
