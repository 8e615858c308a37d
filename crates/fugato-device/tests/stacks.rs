//! Convolutions of one tensor that run as one: the answers are those of the model in one piece.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::zoo::item;
use common::{Bench, Rig, as_f32, assert_close, request};
use fugato_core::graph::Segments;
use fugato_core::plan::{Group, Stage};
use fugato_core::{ModelId, Nanos, SegmentIndex};
use fugato_device::{Cuts, LoadErrorKind, LoadOptions};
use std::collections::BTreeMap;

/// Each list of segments as one merged stage, and the others in their order.
fn merged(segments: &Segments, lists: &[Vec<SegmentIndex>]) -> Vec<Stage> {
    let lists = lists.iter();
    let by_member: BTreeMap<SegmentIndex, &Vec<SegmentIndex>> = lists
        .flat_map(|list| list.iter().map(move |&member| (member, list)))
        .collect();
    let stage = |index: SegmentIndex| {
        let list = by_member.get(&index);
        let members = list.map_or_else(|| vec![index], |list| list.to_vec());
        // The first member stands for all.
        (members[0] == index).then(|| Stage {
            merged: members.len() > 1,
            groups: vec![Group::from(members)],
            predicted: Nanos::ZERO,
        })
    };
    segments.indices().filter_map(stage).collect()
}

/// A model of the zoo with all that can be one made one, against itself in one piece.
fn compare(name: &str, expected_lists: usize) {
    let zoo = fugato_zoo::find(name).unwrap();
    let bench = Bench::new();
    let stored = bench.prepare(&zoo.build(1));
    let rig = Rig::new();
    rig.load(1, &stored, 2);
    let graph = stored.graph().unwrap();
    let segments = graph.segments_to_stack(100_000_000);
    let lists = graph.graph().stacks(&segments);
    assert_eq!(lists.len(), expected_lists, "{lists:?}");
    let stages = merged(&segments, &lists);
    let cuts = Cuts::stage_by_stage(&stages, &segments);
    let legs = u16::try_from(stages.len()).unwrap();
    let options = LoadOptions {
        max_batch: 2,
        cuts: Some(cuts),
        ..LoadOptions::default()
    };
    let loaded = rig.device.load(ModelId(2), &stored, &options);
    assert_eq!(loaded.unwrap().legs, legs, "no part fell back");
    for batch in [1, 2] {
        let items = || (0..batch).map(|seed| request(1, item(zoo, seed)));
        let expected = rig.run(1, items().collect()).unwrap();
        let found = rig.run_legs(2, legs, items().collect()).unwrap();
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert_eq!(found.shape, expected.shape);
            assert_close(&as_f32(found), &as_f32(expected), 1e-5);
        }
    }
}

#[test]
fn googlenet() {
    // Three convolutions of 1x1 in each of nine modules.
    compare("googlenet", 9);
}

#[test]
fn inception() {
    compare("inception_v3", 10);
}

#[test]
fn operators_that_are_not_alike_are_refused_by_name() {
    let zoo = fugato_zoo::find("squeezenet1_1").unwrap();
    let bench = Bench::new();
    let stored = bench.prepare(&zoo.build(1));
    let graph = stored.graph().unwrap();
    let segments = graph.segments_to_stack(100_000_000);
    // Of 1x1 and of 3x3: not one operator.
    assert!(graph.graph().stacks(&segments).is_empty());
    let all: Vec<SegmentIndex> = segments.indices().collect();
    let forked = all
        .iter()
        .find(|&&index| segments.successors(index).len() > 1);
    let pair = segments.successors(*forked.unwrap())[..2].to_vec();
    let cuts = Cuts::stage_by_stage(&merged(&segments, &[pair]), &segments);
    let options = LoadOptions {
        cuts: Some(cuts),
        ..LoadOptions::default()
    };
    let rig = Rig::new();
    let refused = rig.device.load(ModelId(1), &stored, &options).unwrap_err();
    assert_eq!(refused.kind(), LoadErrorKind::Options);
    assert!(
        refused.report().contains("cannot be merged with"),
        "{}",
        refused.report()
    );
}
