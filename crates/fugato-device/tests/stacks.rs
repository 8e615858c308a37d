//! Convolutions of one tensor that run as one: the answers are those of the model in one piece.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::zoo::item;
use common::{
    Bench, Rig, as_f32, assert_close, batched, f32_bytes, floats, model, node, raw, request,
};
use fugato_core::graph::{Segments, Stack};
use fugato_core::plan::{Group, Stage};
use fugato_core::{ModelId, Nanos, SegmentIndex};
use fugato_device::{Cuts, InputTensor, LoadErrorKind, LoadOptions};
use fugato_onnx::proto::AttributeProto;
use fugato_onnx::{DataType, ModelProto, TensorProto};
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

/// A model with all that can be one made one, against itself in one piece; what joins outputs
/// is part of it where `with_join` says so. Gives the number of merged stages, and of legs.
fn compare(
    model: &ModelProto,
    item: impl Fn(u64) -> Vec<InputTensor>,
    with_join: bool,
) -> (usize, usize) {
    let bench = Bench::new();
    let stored = bench.prepare(model);
    let rig = Rig::new();
    rig.load(1, &stored, 2);
    let graph = stored.graph().unwrap();
    let segments = graph.segments_to_stack(100_000_000);
    let stacks = graph.graph().stacks(&segments).into_iter();
    let list = |stack: Stack| {
        let join = stack.join.filter(|_| with_join);
        stack.members.into_iter().chain(join).collect()
    };
    let lists: Vec<Vec<SegmentIndex>> = stacks.map(list).collect();
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
        let items = || (0..batch).map(|seed| request(1, item(seed)));
        let expected = rig.run(1, items().collect()).unwrap();
        let found = rig.run_legs(2, legs, items().collect()).unwrap();
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert_eq!(found.shape, expected.shape);
            assert_close(&as_f32(found), &as_f32(expected), 1e-5);
        }
    }
    (lists.len(), stages.len())
}

/// As [`compare`], of a model of the zoo.
fn compare_zoo(name: &str, expected_lists: usize) {
    let zoo = fugato_zoo::find(name).unwrap();
    let (lists, _) = compare(&zoo.build(1), |seed| item(zoo, seed), false);
    assert_eq!(lists, expected_lists);
}

/// A convolution: its filter's sizes, and the padding before and after along each axis.
struct Conv {
    name: &'static str,
    sizes: [i64; 2],
    pads: [i64; 4],
}

/// Convolutions of one tensor that has a further axis of length 1, so that the runtime keeps ONNX's
/// layout, with a stride of 2 along the second one; each of its own size. What they give is joined, in
/// another order than theirs, and convolved.
fn fire() -> ModelProto {
    let convolutions = [
        Conv {
            name: "point",
            sizes: [1, 1],
            pads: [0; 4],
        },
        Conv {
            name: "wide",
            sizes: [1, 5],
            pads: [0, 2, 0, 2],
        },
        Conv {
            name: "high",
            sizes: [3, 1],
            pads: [1, 0, 1, 0],
        },
        Conv {
            name: "late",
            sizes: [2, 2],
            pads: [0, 1, 1, 0],
        },
    ];
    let weight = |name: &str, dims: &[i64], seed| {
        let count = usize::try_from(dims.iter().product::<i64>()).unwrap();
        TensorProto::from_f32s(name, dims, &floats(seed, count))
    };
    let (mut nodes, mut weights) = (Vec::new(), Vec::new());
    for (seed, conv) in (1..).zip(&convolutions) {
        let name = conv.name;
        let [filter, bias, sums, output] =
            ["filter", "bias", "sums", "out"].map(|part| format!("{name}_{part}"));
        let channels = 2 + i64::try_from(seed).unwrap();
        let [height, width] = conv.sizes;
        weights.push(weight(&filter, &[channels, 5, height, width, 1], seed));
        weights.push(weight(&bias, &[channels], 10 + seed));
        let [top, left, bottom, right] = conv.pads;
        let attributes = [
            AttributeProto::ints("kernel_shape", &[height, width, 1]),
            AttributeProto::ints("pads", &[top, left, 0, bottom, right, 0]),
            AttributeProto::ints("strides", &[1, 2, 1]),
        ];
        nodes.push(node("Conv", &["x", &filter, &bias], &[&sums]).with(attributes));
        nodes.push(node("Relu", &[&sums], &[&output]));
    }
    let joined = ["late_out", "point_out", "high_out", "wide_out"];
    let concat = node("Concat", &joined, &["all"]);
    nodes.push(concat.with([AttributeProto::int("axis", 1)]));
    weights.push(weight("last", &[2, 18, 1, 1, 1], 20));
    nodes.push(node("Conv", &["all", "last"], &["y"]));
    let (x, y) = (&[5, 7, 9, 1], &[2, 7, 5, 1]);
    model(
        nodes,
        vec![batched("x", DataType::Float, x)],
        vec![batched("y", DataType::Float, y)],
        weights,
    )
}

fn fire_item(seed: u64) -> Vec<InputTensor> {
    vec![raw(&[1, 5, 7, 9, 1], f32_bytes(&floats(seed, 5 * 7 * 9)))]
}

#[test]
fn filters_of_several_sizes() {
    // The four, what joins them, and what follows.
    assert_eq!(compare(&fire(), fire_item, false), (1, 3));
}

#[test]
fn filters_of_several_sizes_whose_outputs_are_joined() {
    assert_eq!(compare(&fire(), fire_item, true), (1, 2));
}

#[test]
fn some_of_a_list_with_what_joins_all_are_refused_by_name() {
    let bench = Bench::new();
    let stored = bench.prepare(&fire());
    let graph = stored.graph().unwrap();
    let segments = graph.segments_to_stack(100_000_000);
    let stack = graph.graph().stacks(&segments).remove(0);
    let some = stack.members[1..].iter().copied().chain(stack.join);
    let stages = merged(&segments, &[some.collect()]);
    // The first one has run, so that nothing but the merging is wrong.
    let options = LoadOptions {
        cuts: Some(Cuts::stage_by_stage(&stages, &segments)),
        ..LoadOptions::default()
    };
    let refused = Rig::new().device.load(ModelId(1), &stored, &options);
    let report = refused.unwrap_err().report();
    assert!(report.contains("cannot be merged with"), "{report}");
}

#[test]
fn googlenet() {
    // Three convolutions of 1x1 in each of nine modules.
    compare_zoo("googlenet", 9);
}

#[test]
fn inception() {
    compare_zoo("inception_v3", 10);
}

#[test]
fn operators_that_are_not_alike_are_refused_by_name() {
    let zoo = fugato_zoo::find("squeezenet1_1").unwrap();
    let bench = Bench::new();
    let stored = bench.prepare(&zoo.build(1));
    let graph = stored.graph().unwrap();
    let segments = graph.segments_to_stack(100_000_000);
    // Of 1x1 and of 3x3, whose filters lie in blocks: not one operator.
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
