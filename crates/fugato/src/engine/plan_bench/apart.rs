//! Cuts that time parts of a model by themselves, and join what lies between them.

use fugato_core::graph::{Segments, Stack};
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
/// joins it.
pub(super) fn stacked_ways(segments: &Segments, stacks: &[Stack]) -> Vec<Vec<Stage>> {
    let members = stacks.iter().map(|stack| stack.members.clone());
    let joined = stacks.iter().filter_map(|stack| {
        let members = stack.members.iter().copied();
        Some(members.chain([stack.join?]).collect())
    });
    let ways: [Vec<Vec<SegmentIndex>>; 2] = [members.collect(), joined.collect()];
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
