//! The importer: what planners are told of a model's optimised graph.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Bench, batched, branching, floats, model, node};
use fugato_core::graph::Graph;
use fugato_device::{Indivisible, ModelGraph};
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{AttributeProto, ValueInfoProto};
use fugato_onnx::{DataType, ModelProto, TensorProto};
use std::sync::Arc;

fn graph_of(model: &ModelProto) -> Arc<ModelGraph> {
    Bench::new().prepare(model).graph().unwrap()
}

fn types(graph: &Graph) -> Vec<&str> {
    let operators = graph.operators().iter();
    operators
        .map(|operator| operator.op_type.as_str())
        .collect()
}

fn float(name: &str, dims: Vec<Dimension>) -> ValueInfoProto {
    ValueInfoProto::tensor(name, DataType::Float, dims)
}

#[test]
fn a_convolution_net_has_shapes_and_operations() {
    for name in ["squeezenet1_1", "googlenet", "resnet18"] {
        let zoo = fugato_zoo::find(name).unwrap();
        let found = graph_of(&zoo.build(1));
        assert_eq!(found.indivisible(), None);
        assert_eq!(found.unsized_tensors().count(), 0, "{name}");
        assert_eq!(found.uncounted_operators(), [], "{name}");
        let graph = found.graph();
        let flops: u64 = graph
            .operators()
            .iter()
            .map(|operator| operator.flops)
            .sum();
        // Blocked layouts pad channels, and poolings count too, so a little more than two
        // for each multiply-add.
        let ratio = flops as f64 / (2 * zoo.multiply_adds()) as f64;
        assert!((0.99..1.15).contains(&ratio), "{name}: {ratio}");
        let weights: u64 = graph.operators().iter().map(|o| o.weight_bytes).sum();
        let ratio = weights as f64 / (4 * zoo.parameters()) as f64;
        assert!((0.98..1.15).contains(&ratio), "{name}: {ratio}");
        let input = graph.tensor(graph.inputs()[0]);
        assert_eq!((input.bytes, input.per_item), (4 * 3 * 224 * 224, true));
        for (place, tensor) in graph.tensors().iter().enumerate() {
            assert_eq!(tensor.uncut, None, "{place}: {}", tensor.name);
            assert_eq!(tensor.per_item, !tensor.weight, "{}", tensor.name);
        }
    }
}

#[test]
fn forks_and_joins_are_where_segments_end() {
    let found = graph_of(&fugato_zoo::find("squeezenet1_1").unwrap().build(1));
    let segments = found.segments();
    // Each of 8 fire modules: squeeze, two branches, and the concatenation, which the
    // next squeeze (or the classifier) follows in a chain; the stem is in the first one.
    assert_eq!(segments.count(), 1 + 8 * 3);
    let operators: usize = segments.all().iter().map(|s| s.operators.len()).sum();
    assert_eq!(operators, found.graph().operators().len());
}

#[test]
fn a_dimension_that_varies_is_said_to() {
    let found = graph_of(&fugato_zoo::find("bert-tiny").unwrap().build(1));
    assert!(found.unsized_tensors().count() > 30);
    assert!(!found.uncounted_operators().is_empty());
    assert_eq!(found.indivisible(), None);
    let tensor = found.unsized_tensors().next().unwrap();
    assert_eq!(found.graph().tensor(tensor).bytes, 0);
    assert_eq!(found.graph().tensor(tensor).uncut, None);
}

#[test]
fn what_subgraphs_capture_is_read_by_their_operator() {
    let found = graph_of(&branching());
    assert_eq!(found.indivisible(), None);
    let graph = found.graph();
    let branch = types(graph).iter().position(|&op| op == "If").unwrap();
    let reads = graph.operators()[branch].inputs.iter();
    let mut reads: Vec<_> = reads.map(|&t| graph.tensor(t).name.as_str()).collect();
    reads.sort_unstable();
    assert!(reads.contains(&"a"), "{reads:?}");
    assert_eq!(reads.len(), 3, "{reads:?}");
    assert_eq!(found.uncounted_operators().len(), 1);
}

#[test]
fn sequences_stay_within_a_segment() {
    let found = graph_of(&model(
        vec![
            node("Relu", &["x"], &["a"]),
            node("SplitToSequence", &["a"], &["parts"]).with([AttributeProto::int("axis", 1)]),
            node("Exp", &["a"], &["e"]),
            node("ConcatFromSequence", &["parts"], &["c"]).with([AttributeProto::int("axis", 1)]),
            node("Add", &["c", "e"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![],
    ));
    let graph = found.graph();
    let uncut = graph.tensors().iter().find(|tensor| tensor.uncut.is_some());
    let uncut = uncut.expect("a sequence is no tensor");
    assert_eq!(uncut.name, "parts");
    let reason = uncut.uncut.as_deref().unwrap();
    assert!(reason.contains("not a tensor"), "{reason}");
    let whole = found.segments();
    let holds = |op: &str| {
        let place = types(graph).iter().position(|&found| found == op).unwrap();
        let mut all = whole.all().iter();
        all.position(|segment| segment.operators.iter().any(|o| o.place() == place))
    };
    assert_eq!(holds("SplitToSequence"), holds("ConcatFromSequence"));
    assert_ne!(holds("SplitToSequence"), holds("Exp"));
}

#[test]
fn a_model_whose_output_nobody_computes_stays_whole() {
    let found = graph_of(&model(
        vec![node("Relu", &["x"], &["a"]), node("Exp", &["x"], &["b"])],
        vec![batched("x", DataType::Float, &[4])],
        vec![
            batched("a", DataType::Float, &[4]),
            batched("b", DataType::Float, &[4]),
            float("c", vec![Dimension::size(2)]),
        ],
        vec![TensorProto::from_f32s("c", &[2], &floats(1, 2))],
    ));
    let reason = found.indivisible().unwrap();
    assert_eq!(
        *reason,
        Indivisible::OutputNotComputed {
            output: "c".to_owned()
        }
    );
    assert_eq!(
        reason.to_string(),
        "output `c` is not computed by any operator"
    );
    assert_eq!(found.segments().count(), 1);
}

#[test]
fn an_input_used_twice_and_an_output_in_between_are_forks() {
    let found = graph_of(&model(
        vec![
            node("Mul", &["x", "x"], &["squares"]),
            node("Relu", &["squares"], &["y"]),
            node("Sigmoid", &["x"], &["z"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![
            batched("squares", DataType::Float, &[4]),
            batched("y", DataType::Float, &[4]),
            batched("z", DataType::Float, &[4]),
        ],
        vec![],
    ));
    assert_eq!(found.indivisible(), None);
    let segments = found.segments();
    let outputs: usize = segments.all().iter().map(|s| s.outputs.len()).sum();
    assert_eq!(outputs, 3);
    assert_eq!(found.graph().outputs().len(), 3);
}
