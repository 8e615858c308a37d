//! Cuts that are refused, and models that are served whole all the same.

use crate::common::onnx::{divided, gathering, optional};
use crate::common::{
    Bench, Rig, as_f32, assert_close, batched, dense, logged, model, node, random_rows, request,
};
use crate::{apart, operator_by_operator, options};
use fugato_core::{ModelId, OperatorIndex};
use fugato_device::reference::PlainSession;
use fugato_device::{Cuts, Device, InputTensor, LoadErrorKind, LoadOptions, StoredModel};
use fugato_onnx::proto::AttributeProto;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::{DataType, ExternalPolicy, ModelProto};

fn refused(stored: &StoredModel, cuts: Cuts) -> String {
    let rig = Rig::new();
    let loaded = rig.device.load(ModelId(1), stored, &options(cuts, 1));
    let error = loaded.unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::Options);
    error.report()
}

#[test]
fn cuts_that_do_not_fit_are_refused_by_name() {
    let bench = Bench::new();
    let stored = bench.prepare(&dense(64));
    let graph = stored.graph().unwrap();
    let count = graph.graph().operators().len();
    assert!(count >= 2);
    let all = || (0..count).map(OperatorIndex::at);
    let label = |place| graph.graph().label(OperatorIndex::at(place));
    let backwards = Cuts::sequential(all().rev().map(|operator| vec![operator]));
    let report = refused(&stored, backwards);
    assert!(
        report.contains(&format!("{} runs before", label(count - 1))),
        "{report}"
    );
    let report = refused(&stored, Cuts::sequential([all().skip(1).collect()]));
    let expected = format!("{} is in 0 parts of the plan", label(0));
    assert!(report.contains(&expected), "{report}");
    let twice = [
        all().collect::<Vec<_>>(),
        vec![OperatorIndex::at(count - 1)],
    ];
    let report = refused(&stored, Cuts::sequential(twice));
    assert!(report.contains("is in 2 parts of the plan"), "{report}");
    let missing = [all().collect::<Vec<_>>(), vec![OperatorIndex::at(count)]];
    let report = refused(&stored, Cuts::sequential(missing));
    let expected = format!("the model has {count} operators, no operator {count}");
    assert!(report.contains(&expected), "{report}");
    let report = refused(&stored, Cuts::default());
    assert!(report.contains("the plan has 0 legs"), "{report}");
}

/// A model with a value that is no tensor: nobody may cut there, and segments do not, so that
/// the parts of the model run and answer as it does.
fn is_not_cut_at(model: &ModelProto, value: &str) {
    let bench = Bench::new();
    let stored = bench.prepare(model);
    let report = refused(&stored, operator_by_operator(&stored));
    let expected = format!("cannot be cut at `{value}`: it is not a tensor");
    assert!(report.contains(&expected), "{report}");
    // Its segments keep it inside.
    let rig = Rig::new();
    rig.load(1, &stored, 1);
    let cuts = apart(&stored);
    let legs = u16::try_from(cuts.legs()).unwrap();
    assert!(legs > 1);
    let loaded = rig.device.load(ModelId(2), &stored, &options(cuts, 1));
    assert_eq!(loaded.unwrap().legs, legs, "`{value}`");
    let work = || vec![request(1, vec![random_rows(1, 1, 4)])];
    let expected = rig.run(1, work()).unwrap();
    assert_eq!(rig.run_legs(2, legs, work()).unwrap(), expected);
}

#[test]
fn a_sequence_may_not_be_cut() {
    is_not_cut_at(&divided(), "parts");
}

#[test]
fn a_sequence_that_a_loop_fills_may_not_be_cut() {
    is_not_cut_at(&gathering(), "none");
}

#[test]
fn an_optional_value_may_not_be_cut() {
    is_not_cut_at(&optional(), "o");
}

#[test]
fn a_model_whose_parts_do_not_run_is_served_whole() {
    let bench = Bench::new();
    let chain = model(
        vec![
            node("Exp", &["x"], &["a"]),
            node("Tanh", &["a"], &["b"]),
            node("Neg", &["b"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[64])],
        vec![batched("y", DataType::Float, &[64])],
        vec![],
    );
    let stored = bench.prepare(&chain);
    // What the runtime said of a value between operators, made wrong.
    let path = stored.optimised_graph();
    let mut graph = fugato_onnx::read_model(path).unwrap();
    let values = &mut graph.graph.as_mut().unwrap().value_info;
    assert!(!values.is_empty());
    for value in values {
        let shape = value.tensor_type_mut().unwrap().shape.as_mut().unwrap();
        *shape.dim.last_mut().unwrap() = Dimension::size(32);
    }
    fugato_onnx::save_model(&graph, path, ExternalPolicy::Never).unwrap();
    let rig = Rig::new();
    let cuts = operator_by_operator(&stored);
    assert!(cuts.legs() > 1);
    let loaded = rig.device.load(ModelId(1), &stored, &options(cuts, 2));
    assert_eq!(loaded.unwrap().legs, 1);
    let input = random_rows(5, 2, 64);
    let found = rig.run(1, vec![request(2, vec![input.clone()])]).unwrap();
    let mut plain = PlainSession::load(&bench.runtime, stored.origin(), 1).unwrap();
    let expected = plain.run(&[input]).unwrap();
    assert_close(&as_f32(&found[0][0]), &as_f32(&expected[0]), 1e-5);
}

#[test]
fn a_model_whose_part_does_not_load_is_served_whole_and_says_so_once() {
    let bench = Bench::new();
    let turned = model(
        vec![
            node("Exp", &["x"], &["a"]),
            node("Transpose", &["a"], &["b"]).with([AttributeProto::ints("perm", &[0, 2, 1])]),
            node("Neg", &["b"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4, 8])],
        vec![batched("y", DataType::Float, &[8, 4])],
        vec![],
    );
    let stored = bench.prepare(&turned);
    // What the transposition reads, described with too few dimensions: with the operators
    // before it the runtime knows better, by itself it refuses the file.
    let path = stored.optimised_graph();
    let mut graph = fugato_onnx::read_model(path).unwrap();
    let values = &mut graph.graph.as_mut().unwrap().value_info;
    let read = values.iter_mut().find(|value| value.name() == "a").unwrap();
    let shape = read.tensor_type_mut().unwrap().shape.as_mut().unwrap();
    assert_eq!(shape.dim.pop(), Some(Dimension::size(8)));
    fugato_onnx::save_model(&graph, path, ExternalPolicy::Never).unwrap();
    let rig = Rig::new();
    let partitions = rig.device.spec().partitions.iter();
    let everywhere = LoadOptions {
        warm: partitions.map(|partition| partition.id).collect(),
        ..options(operator_by_operator(&stored), 2)
    };
    assert!(everywhere.warm.len() > 1);
    let (loaded, said) = logged(|| rig.device.load(ModelId(1), &stored, &everywhere));
    assert_eq!(loaded.unwrap().legs, 1);
    let input = random_rows(5, 2, 32);
    let input = InputTensor {
        shape: vec![2, 4, 8],
        ..input
    };
    let work = vec![request(2, vec![input.clone()])];
    let (found, said_later) = logged(|| rig.run(1, work).unwrap());
    let mut plain = PlainSession::load(&bench.runtime, stored.origin(), 1).unwrap();
    let expected = plain.run(&[input]).unwrap();
    assert_close(&as_f32(&found[0][0]), &as_f32(&expected[0]), 1e-5);
    let once = "a part of the model does not work by itself; the model is not cut";
    assert_eq!(said.matches(once).count(), 1, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let origin = stored.origin().display().to_string();
    assert!(
        said.contains(&origin) && said.contains("Transpose_b"),
        "{said}"
    );
    assert_eq!(said_later, "");
}
