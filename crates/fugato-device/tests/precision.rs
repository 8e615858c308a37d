//! Models in half precision: their answers beside those in single precision, on the CPU, what
//! they are known by, and what cannot be converted.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::zoo::item;
use common::{
    Bench, Rig, as_f32, assert_close, batched, branching, dense, logged, model, node, random_rows,
    request,
};
use fugato_core::{ModelId, OperatorIndex};
use fugato_device::{
    Cuts, ElementType, LoadErrorKind, LoadOptions, ModelStore, Precision, StoredModel,
};
use fugato_onnx::proto::AttributeProto;
use fugato_onnx::{DataType, ModelProto, TensorProto};
use std::collections::BTreeSet;

/// What an answer in half precision may differ by, of the largest.
const TOLERANCE: f32 = 1e-2;

/// A store for every device, whose graphs are what an NVIDIA device gets.
fn for_any(bench: &Bench) -> ModelStore {
    bench.store.clone().for_any_device()
}

fn halved(bench: &Bench, model: &ModelProto) -> StoredModel {
    let path = bench.write("half.onnx", model);
    for_any(bench).prepare_in(path, Precision::Fp16).unwrap()
}

/// The element types of all initializers and values of the stored graph.
fn types_of(stored: &StoredModel) -> BTreeSet<i32> {
    let graph = fugato_onnx::read_model(stored.optimised_graph()).unwrap();
    let graph = graph.graph.unwrap();
    let values = graph.value_info.iter();
    let values = values.filter_map(|value| value.tensor_type()?.elem_type);
    let weights = graph
        .initializer
        .iter()
        .filter_map(|tensor| tensor.data_type);
    values.chain(weights).collect()
}

/// A model of the zoo in half precision, as an NVIDIA device and as the CPU get it, and in two
/// legs, against itself.
fn compare(name: &str, tolerance: f32) {
    let zoo = fugato_zoo::find(name).unwrap();
    let bench = Bench::new();
    let path = bench.write("model.onnx", &zoo.build(1));
    let single = bench.store.prepare(&path).unwrap();
    let any = for_any(&bench);
    let half = any.prepare_in(&path, Precision::Fp16).unwrap();
    let of_cpu = bench.store.prepare_in(&path, Precision::Fp16).unwrap();
    assert!(types_of(&half).contains(&(DataType::Float16 as i32)));
    assert!(half.info().weight_bytes < single.info().weight_bytes * 6 / 10);
    for stored in [&half, &of_cpu] {
        assert_eq!(stored.info().inputs, single.info().inputs);
        assert_eq!(stored.info().outputs, single.info().outputs);
        assert_eq!(stored.info().batching, single.info().batching);
        assert_ne!(stored.info().hash, single.info().hash);
    }
    assert_eq!(half.info().hash, of_cpu.info().hash);
    let rig = Rig::new();
    rig.load(1, &single, 2);
    rig.load(2, &half, 2);
    rig.load(3, &of_cpu, 2);
    let count = half.graph().unwrap().graph().operators().len();
    let parts = [0..count / 2, count / 2..count];
    let cuts = Cuts::sequential(parts.map(|part| part.map(OperatorIndex::at).collect()));
    let options = LoadOptions {
        max_batch: 2,
        cuts: Some(cuts),
        ..LoadOptions::default()
    };
    let loaded = rig.device.load(ModelId(4), &half, &options);
    assert_eq!(loaded.unwrap().legs, 2);
    let items = || (0..2).map(|seed| request(1, item(zoo, seed))).collect();
    let expected = rig.run(1, items()).unwrap();
    for (id, legs) in [(2, 1), (3, 1), (4, 2)] {
        let found = rig.run_legs(id, legs, items()).unwrap();
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert_eq!(found.shape, expected.shape);
            assert_close(&as_f32(found), &as_f32(expected), tolerance);
            assert_ne!(as_f32(found), as_f32(expected), "halves are not singles");
        }
    }
}

#[test]
fn squeezenet() {
    compare("squeezenet1_1", TOLERANCE);
}

#[test]
fn mobilenet() {
    compare("mobilenet_v2", TOLERANCE);
}

/// Roundings add up more over its many thin layers of random weights.
#[test]
fn shufflenet() {
    compare("shufflenet_v2_x1_0", 2.0 * TOLERANCE);
}

#[test]
fn bert_tiny() {
    compare("bert-tiny", TOLERANCE);
}

#[test]
fn a_precision_is_another_model_and_made_once() {
    let bench = Bench::new();
    let path = bench.write("dense.onnx", &dense(64));
    let single = bench.store.prepare(&path).unwrap();
    let half = bench.store.prepare_in(&path, Precision::Fp16).unwrap();
    assert!(!half.was_cached());
    assert!(
        bench
            .store
            .prepare_in(&path, Precision::Fp16)
            .unwrap()
            .was_cached()
    );
    let again = bench.store.prepare_in(&path, Precision::Fp32).unwrap();
    assert!(again.was_cached());
    assert_eq!(again.info(), single.info());
    assert_ne!(half.info().hash, single.info().hash);
    assert_eq!(half.info().hash.len(), single.info().hash.len());
    let any = for_any(&bench).prepare_in(&path, Precision::Fp16).unwrap();
    assert_eq!(any.shared_weights().1, single.shared_weights().1 / 2);
}

/// Runs a model in both precisions on rows of four.
fn both(model: &ModelProto) -> [Vec<f32>; 2] {
    let bench = Bench::new();
    let single = bench.prepare(model);
    let half = halved(&bench, model);
    let rig = Rig::new();
    rig.load(1, &single, 1);
    rig.load(2, &half, 1);
    [1, 2].map(|id| {
        let work = vec![request(1, vec![random_rows(3, 1, 4)])];
        as_f32(&rig.run(id, work).unwrap()[0][0])
    })
}

#[test]
fn numbers_out_of_range_are_clipped_and_counted() {
    let scaled = model(
        vec![
            node("Mul", &["x", "large"], &["m"]),
            node("Add", &["m", "mask"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![
            TensorProto::from_f32s("large", &[4], &[1e9, -1e9, 1.0, 2.0]),
            TensorProto::from_f32s("mask", &[4], &[0.0, 0.0, f32::NEG_INFINITY, 1.0]),
        ],
    );
    let bench = Bench::new();
    let (half, lines) = logged(|| halved(&bench, &scaled));
    assert!(lines.contains("constants=2"), "{lines}");
    assert!(lines.contains("range of half precision"), "{lines}");
    let rig = Rig::new();
    rig.load(1, &half, 1);
    let ones = common::raw(&[1, 4], common::f32_bytes(&[0.5; 4]));
    let found = rig.run(1, vec![request(1, vec![ones])]).unwrap();
    let expected = [5_000.0, -5_000.0, f32::NEG_INFINITY, 2.0];
    assert_eq!(as_f32(&found[0][0]), expected);
}

#[test]
fn masks_that_are_added_stay_finite() {
    let masked = model(
        vec![
            node("Mul", &["x", "causal"], &["c"]),
            node("Mul", &["x", "padding"], &["p"]),
            node("Add", &["c", "p"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![
            TensorProto::from_f32s("causal", &[4], &[0.0, -1e9, 0.0, f32::MIN]),
            TensorProto::from_f32s("padding", &[4], &[0.0, 0.0, -1e9, f32::MIN]),
        ],
    );
    let bench = Bench::new();
    let half = halved(&bench, &masked);
    let rig = Rig::new();
    rig.load(1, &half, 1);
    let ones = common::raw(&[1, 4], common::f32_bytes(&[1.0; 4]));
    let found = rig.run(1, vec![request(1, vec![ones])]).unwrap();
    assert_eq!(as_f32(&found[0][0]), [0.0, -1e4, -1e4, -2e4]);
}

#[test]
fn operators_that_are_left_alone_have_casts_around_them() {
    let mixed = model(
        vec![
            node("Exp", &["x"], &["e"]),
            // Whole numbers: 70,000 is beyond halves.
            node("Mul", &["e", "large"], &["m"]),
            node("Min", &["m", "most"], &["n"]),
            node("Mul", &["n", "small"], &["s"]),
            node("Cast", &["s"], &["i"]).with([AttributeProto::int("to", DataType::Int64 as i64)]),
            node("Cast", &["i"], &["f"]).with([AttributeProto::int("to", DataType::Float as i64)]),
            node("Add", &["f", "s"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![
            TensorProto::from_f32s("large", &[1], &[100.0]),
            TensorProto::from_f32s("most", &[1], &[200.0]),
            TensorProto::from_f32s("small", &[1], &[0.5]),
        ],
    );
    let [single, half] = both(&mixed);
    assert_close(&half, &single, TOLERANCE);
}

#[test]
fn subgraphs_read_what_they_read() {
    let [single, half] = both(&branching());
    assert_close(&half, &single, TOLERANCE);
}

#[test]
fn a_model_without_floats_of_32_bits_is_as_it_was() {
    let whole = model(
        vec![node("Add", &["x", "x"], &["y"])],
        vec![batched("x", DataType::Int64, &[4])],
        vec![batched("y", DataType::Int64, &[4])],
        vec![],
    );
    let bench = Bench::new();
    let half = halved(&bench, &whole);
    assert_eq!(half.info().inputs[0].element, ElementType::Int64);
    assert!(!types_of(&half).contains(&(DataType::Float16 as i32)));
}

#[test]
fn what_cannot_be_converted_is_named() {
    let sequence = model(
        vec![
            node("Relu", &["x"], &["r"]),
            node("SplitToSequence", &["r"], &["parts"]).with([AttributeProto::int("axis", 1)]),
            node("ConcatFromSequence", &["parts"], &["y"]).with([AttributeProto::int("axis", 1)]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![],
    );
    let bench = Bench::new();
    let path = bench.write("sequence.onnx", &sequence);
    for store in [bench.store.clone(), for_any(&bench)] {
        let Err(error) = store.prepare_in(&path, Precision::Fp16) else {
            panic!("a sequence was converted");
        };
        assert_eq!(error.kind(), LoadErrorKind::Options);
        let report = error.report();
        assert!(
            report.contains("operator `SplitToSequence_parts` (SplitToSequence)")
                && report.contains("`parts`"),
            "{report}"
        );
        // As it is, it is served.
        store.prepare(&path).unwrap();
    }
}
