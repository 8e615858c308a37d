//! Models of unusual interfaces: shapes that vary, scalars, nothing at all, outputs that
//! are inputs; and requests that do not fit.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use bytes::Bytes;
use common::{
    Bench, Rig, as_f32, assert_close, batched, f32_bytes, floats, identity, model, node,
    random_rows, raw, request, strings,
};
use fugato_core::ModelId;
use fugato_device::reference::PlainSession;
use fugato_device::{
    Batches, Batching, InputTensor, LoadErrorKind, LoadOptions, OutputTensor, RunErrorKind,
    TensorData,
};
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{AttributeProto, AttributeType, GraphProto, ValueInfoProto};
use fugato_onnx::{DataType, ModelProto, TensorProto};

fn value(name: &str, dims: &[Option<i64>]) -> ValueInfoProto {
    let dims = dims.iter().enumerate().map(|(axis, dim)| match dim {
        Some(size) => Dimension::size(*size),
        None => Dimension::symbol(format!("d{axis}")),
    });
    ValueInfoProto::tensor(name, DataType::Float, dims.collect())
}

fn batching(bench: &Bench, model: &ModelProto) -> Batching {
    bench.prepare(model).info().batching.clone()
}

fn unary(op: &str, x: &[Option<i64>], y: &[Option<i64>]) -> ModelProto {
    model(
        vec![node(op, &["x"], &["y"])],
        vec![value("x", x)],
        vec![value("y", y)],
        vec![],
    )
}

fn tensor(shape: &[u64], seed: u64) -> InputTensor {
    let count = usize::try_from(shape.iter().product::<u64>()).unwrap();
    raw(shape, f32_bytes(&floats(seed, count)))
}

#[test]
fn dimensions_that_vary_run_in_any_size() {
    let bench = Bench::new();
    let varies = unary("Relu", &[None, None, Some(2)], &[None, None, Some(2)]);
    let path = bench.write("varies.onnx", &varies);
    let stored = bench.store.prepare(&path).unwrap();
    let mut plain = PlainSession::load(&bench.runtime, &path, 1).unwrap();
    let rig = Rig::new();
    rig.load(1, &stored, 4);
    // Growing, shrinking and empty: the slot's buffer is remade and reused.
    for (seed, length) in (0..).zip([3_u64, 1000, 1, 0, 50]) {
        let sent = [
            tensor(&[1, length, 2], seed),
            tensor(&[3, length, 2], seed + 100),
        ];
        let requests = vec![
            request(1, vec![sent[0].clone()]),
            request(3, vec![sent[1].clone()]),
        ];
        let found = rig.run(1, requests).unwrap();
        for (sent, found) in sent.iter().zip(&found) {
            let expected = plain.run(std::slice::from_ref(sent)).unwrap();
            assert_eq!(found[0], expected[0]);
        }
    }
    let unequal = vec![
        request(1, vec![tensor(&[1, 3, 2], 0)]),
        request(1, vec![tensor(&[1, 4, 2], 0)]),
    ];
    let error = rig.run(1, unequal).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::InvalidInput);
    assert!(
        error.detail.contains("request 1 has rows of shape [4, 2]"),
        "{}",
        error.detail
    );
}

#[test]
fn a_model_without_a_batch_runs_one_request_at_a_time() {
    let bench = Bench::new();
    let fixed = unary("Relu", &[Some(1), Some(4)], &[Some(1), Some(4)]);
    let stored = bench.prepare(&fixed);
    let Batching::Single { reason } = &stored.info().batching else {
        panic!("a fixed first dimension is no batch");
    };
    assert_eq!(reason, "input `x` has a fixed first dimension (1)");
    let rig = Rig::new();
    let options = LoadOptions {
        max_batch: 2,
        ..LoadOptions::default()
    };
    let error = rig.device.load(ModelId(1), &stored, &options).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::Options);
    assert!(error.report().contains(reason), "{}", error.report());
    rig.load(1, &stored, 1);
    let found = rig.run(
        1,
        vec![request(
            1,
            vec![raw(&[1, 4], f32_bytes(&[-1.0, 2.0, -3.0, 4.0]))],
        )],
    );
    assert_eq!(as_f32(&found.unwrap()[0][0]), [0.0, 2.0, 0.0, 4.0]);
    let wrong = rig
        .run(1, vec![request(1, vec![tensor(&[2, 4], 0)])])
        .unwrap_err();
    assert_eq!(wrong.kind, RunErrorKind::InvalidInput, "{}", wrong.detail);
}

#[test]
fn an_owner_may_vouch_for_the_batch() {
    let bench = Bench::new();
    let mut named = unary("Relu", &[None, Some(4)], &[None, Some(4)]);
    let output = &mut named.graph.as_mut().unwrap().output[0];
    *output = ValueInfoProto::tensor(
        "y",
        DataType::Float,
        vec![Dimension::symbol("other"), Dimension::size(4)],
    );
    let stored = bench.prepare(&named);
    assert!(!stored.info().batching.is_batchable());
    let rig = Rig::new();
    let options = LoadOptions {
        max_batch: 4,
        batches: Batches::Vouched,
        ..LoadOptions::default()
    };
    rig.device.load(ModelId(1), &stored, &options).unwrap();
    let requests = vec![
        request(1, vec![tensor(&[1, 4], 0)]),
        request(2, vec![tensor(&[2, 4], 1)]),
    ];
    let found = rig.run(1, requests).unwrap();
    assert_eq!(found[1][0].shape, [2, 4]);
    let fixed = bench.prepare(&unary("Relu", &[Some(1)], &[Some(1)]));
    let error = rig.device.load(ModelId(2), &fixed, &options).unwrap_err();
    assert!(
        error.report().contains("fixed first dimension"),
        "{}",
        error.report()
    );
}

#[test]
fn scalars_and_empty_tensors_work() {
    let bench = Bench::new();
    let rig = Rig::new();
    rig.load(1, &bench.prepare(&unary("Relu", &[], &[])), 1);
    let found = rig
        .run(1, vec![request(1, vec![raw(&[], f32_bytes(&[7.5]))])])
        .unwrap();
    assert_eq!(found[0][0].shape, [0_u64; 0]);
    assert_eq!(as_f32(&found[0][0]), [7.5]);
    rig.load(
        2,
        &bench.prepare(&unary("Relu", &[None, Some(0)], &[None, Some(0)])),
        4,
    );
    let found = rig
        .run(2, vec![request(3, vec![raw(&[3, 0], Bytes::new())])])
        .unwrap();
    assert_eq!(found[0][0].shape, [3, 0]);
    assert_eq!(found[0][0].data, TensorData::Raw(Bytes::new()));
    let empty_strings = identity(DataType::String, 0);
    rig.load(3, &bench.prepare(&empty_strings), 4);
    let found = rig
        .run(3, vec![request(2, vec![strings(&[2, 0], &[])])])
        .unwrap();
    assert_eq!(found[0][0].data, TensorData::Strings(vec![]));
}

#[test]
fn several_inputs_and_outputs_keep_their_order() {
    let bench = Bench::new();
    let sum_and_difference = model(
        vec![
            node("Add", &["a", "b"], &["sum"]),
            node("Sub", &["a", "b"], &["difference"]),
        ],
        vec![
            batched("b", DataType::Float, &[2]),
            batched("a", DataType::Float, &[2]),
        ],
        vec![
            batched("difference", DataType::Float, &[2]),
            batched("sum", DataType::Float, &[2]),
        ],
        vec![],
    );
    let rig = Rig::new();
    rig.load(1, &bench.prepare(&sum_and_difference), 2);
    let pair = |a: [f32; 2], b: [f32; 2]| {
        request(
            1,
            vec![raw(&[1, 2], f32_bytes(&b)), raw(&[1, 2], f32_bytes(&a))],
        )
    };
    let found = rig.run(
        1,
        vec![pair([1.0, 2.0], [10.0, 20.0]), pair([3.0, 4.0], [5.0, 7.0])],
    );
    let found: Vec<Vec<Vec<f32>>> = found
        .unwrap()
        .iter()
        .map(|one| one.iter().map(as_f32).collect())
        .collect();
    assert_eq!(found[0], [[-9.0, -18.0], [11.0, 22.0]]);
    assert_eq!(found[1], [[-2.0, -3.0], [8.0, 11.0]]);
}

/// The rows of an output that the runtime may hand over without having written it.
fn survives_the_next_run(rig: &Rig, id: u32, of: impl Fn(&[Vec<OutputTensor>]) -> Vec<f32>) {
    let run = |seed| {
        rig.run(id, vec![request(1, vec![random_rows(seed, 1, 4)])])
            .unwrap()
    };
    let first = run(1);
    let before = of(&first);
    let second = run(2);
    assert_eq!(
        of(&first),
        before,
        "the next run wrote over the outputs of this one"
    );
    drop(second);
}

#[test]
fn outputs_that_are_inputs_or_weights_are_copies() {
    let bench = Bench::new();
    let rig = Rig::new();
    let rows = |name| batched(name, DataType::Float, &[4]);
    let passed = model(
        vec![node("Relu", &["x"], &["y"])],
        vec![rows("x")],
        vec![rows("y"), rows("x")],
        vec![],
    );
    rig.load(1, &bench.prepare(&passed), 4);
    survives_the_next_run(&rig, 1, |found| as_f32(&found[0][1]));
    let input = random_rows(3, 1, 4);
    let found = rig.run(1, vec![request(1, vec![input.clone()])]).unwrap();
    assert_eq!(
        fugato_device::InputData::from(found[0][1].data.clone()),
        input.data
    );

    let weights: Vec<f32> = floats(9, 2048);
    let constant = model(
        vec![node("Relu", &["x"], &["y"])],
        vec![rows("x")],
        vec![
            rows("y"),
            ValueInfoProto::tensor("w", DataType::Float, vec![Dimension::size(2048)]),
        ],
        vec![TensorProto::from_f32s("w", &[2048], &weights)],
    );
    rig.load(2, &bench.prepare(&constant), 1);
    survives_the_next_run(&rig, 2, |found| as_f32(&found[0][0]));
    let found = rig.run(2, vec![request(1, vec![input])]).unwrap();
    assert_eq!(as_f32(&found[0][1]), weights);
}

#[test]
fn weights_inside_of_subgraphs_are_found() {
    let bench = Bench::new();
    let weights: Vec<f32> = floats(4, 64 * 64);
    let branch = |name: &str, scale: f32| {
        let scaled: Vec<f32> = weights.iter().map(|value| value * scale).collect();
        let weight = format!("{name}_w");
        let graph = GraphProto {
            name: Some(name.to_owned()),
            node: vec![node("MatMul", &["x", &weight], &[&format!("{name}_y")])],
            output: vec![batched(&format!("{name}_y"), DataType::Float, &[64])],
            initializer: vec![TensorProto::from_f32s(weight, &[64, 64], &scaled)],
            ..GraphProto::default()
        };
        AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(AttributeType::Graph as i32),
            g: Some(Box::new(graph)),
            ..AttributeProto::default()
        }
    };
    let choice = model(
        vec![
            node("If", &["c"], &["y"])
                .with([branch("then_branch", 1.0), branch("else_branch", -2.0)]),
        ],
        vec![
            ValueInfoProto::tensor("c", DataType::Bool, vec![]),
            batched("x", DataType::Float, &[64]),
        ],
        vec![batched("y", DataType::Float, &[64])],
        vec![],
    );
    let path = bench.write("choice.onnx", &choice);
    let stored = bench.store.prepare(&path).unwrap();
    assert_eq!(stored.info().weight_bytes, 2 * 64 * 64 * 4);
    let mut plain = PlainSession::load(&bench.runtime, &path, 1).unwrap();
    let rig = Rig::new();
    rig.load(1, &stored, 1);
    for condition in [0_u8, 1] {
        let inputs = vec![raw(&[], vec![condition]), random_rows(1, 1, 64)];
        let expected = plain.run(&inputs).unwrap();
        let found = rig.run(1, vec![request(1, inputs)]).unwrap();
        assert_close(&as_f32(&found[0][0]), &as_f32(&expected[0]), 1e-5);
    }
}

#[test]
fn an_output_that_loses_the_batch_cannot_be_divided() {
    let bench = Bench::new();
    // Says that `y` has one row per item, but gives the rows that are not zero.
    let lying = model(
        vec![
            node("ReduceMax", &["x"], &["most"]).with([
                AttributeProto::ints("axes", &[1]),
                AttributeProto::int("keepdims", 0),
            ]),
            node("Cast", &["most"], &["keep"]).with([AttributeProto::int("to", 9)]),
            node("Compress", &["x", "keep"], &["y"]).with([AttributeProto::int("axis", 0)]),
        ],
        vec![batched("x", DataType::Float, &[2])],
        vec![batched("y", DataType::Float, &[2])],
        vec![],
    );
    let rig = Rig::new();
    rig.load(1, &bench.prepare(&lying), 4);
    let rows = |values: &[f32]| request(2, vec![raw(&[2, 2], f32_bytes(values))]);
    let whole = rig.run(1, vec![rows(&[1.0, 2.0, 3.0, 4.0])]).unwrap();
    assert_eq!(as_f32(&whole[0][0]), [1.0, 2.0, 3.0, 4.0]);
    let error = rig.run(1, vec![rows(&[1.0, 2.0, 0.0, 0.0])]).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::OutputShape, "{}", error.detail);
    // The lane and the slot go on.
    assert!(rig.run(1, vec![rows(&[1.0, 2.0, 3.0, 4.0])]).is_ok());
}

#[test]
fn what_an_operator_refuses_is_the_requests_fault() {
    let bench = Bench::new();
    let lookup = model(
        vec![node("Gather", &["table", "i"], &["y"])],
        vec![ValueInfoProto::tensor(
            "i",
            DataType::Int64,
            vec![Dimension::symbol("batch")],
        )],
        vec![batched("y", DataType::Float, &[2])],
        vec![TensorProto::from_f32s(
            "table",
            &[3, 2],
            &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        )],
    );
    let rig = Rig::new();
    rig.load(1, &bench.prepare(&lookup), 2);
    let at = |index: i64| vec![request(1, vec![raw(&[1], index.to_le_bytes().to_vec())])];
    assert_eq!(as_f32(&rig.run(1, at(2)).unwrap()[0][0]), [4.0, 5.0]);
    let error = rig.run(1, at(3)).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::InvalidInput);
    assert!(
        error.detail.contains("out of data bounds"),
        "{}",
        error.detail
    );
}

#[test]
fn legs_that_do_not_fit_the_model_fail_by_kind() {
    let bench = Bench::new();
    let rig = Rig::new();
    rig.load(1, &bench.prepare(&identity(DataType::Float, 2)), 2);
    rig.load(2, &bench.prepare(&identity(DataType::Bool, 1)), 1);
    rig.load(3, &bench.prepare(&identity(DataType::String, 1)), 1);
    let cases = [
        (1, request(1, vec![]), "0 inputs, expected 1"),
        (
            1,
            request(1, vec![raw(&[1, 2], vec![0; 7])]),
            "has 7 bytes, expected 8",
        ),
        (
            1,
            request(1, vec![raw(&[1, 3], vec![0; 12])]),
            "invalid dimensions",
        ),
        (
            1,
            request(1, vec![raw(&[2, 2], vec![0; 16])]),
            "expected 1 rows",
        ),
        (1, request(0, vec![raw(&[0, 2], Bytes::new())]), "0 items"),
        (
            1,
            request(3, vec![raw(&[3, 2], vec![0; 24])]),
            "above the most, 2",
        ),
        (
            1,
            request(1, vec![raw(&[1, u64::MAX], vec![0; 8])]),
            "fewer elements",
        ),
        (
            1,
            request(1, vec![strings(&[1, 2], &[b"a", b"b"])]),
            "another type",
        ),
        (2, request(1, vec![raw(&[1, 1], vec![2])]), "has a byte 2"),
        (
            3,
            request(1, vec![strings(&[1, 1], &[b"a", b"b"])]),
            "has 2 strings, expected 1",
        ),
        (
            3,
            request(1, vec![raw(&[1, 1], vec![0; 4])]),
            "another type",
        ),
    ];
    for (model, request, expected) in cases {
        let error = rig.run(model, vec![request]).unwrap_err();
        assert_eq!(
            error.kind,
            RunErrorKind::InvalidInput,
            "{expected}: {}",
            error.detail
        );
        assert!(
            error.detail.contains(expected),
            "`{expected}` is not in `{}`",
            error.detail
        );
    }
    let error = rig.run(99, vec![request(1, vec![])]).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::ModelNotLoaded);
    assert!(rig.device.unload(ModelId(1)));
    assert!(!rig.device.unload(ModelId(1)));
    let error = rig
        .run(1, vec![request(1, vec![tensor(&[1, 2], 0)])])
        .unwrap_err();
    assert_eq!(error.kind, RunErrorKind::ModelNotLoaded);
}

#[test]
fn names_decide_the_batch() {
    let bench = Bench::new();
    assert_eq!(
        batching(&bench, &identity(DataType::Float, 2)),
        Batching::Batchable
    );
    let none = unary("Relu", &[], &[]);
    let Batching::Single { reason } = batching(&bench, &none) else {
        panic!("a scalar has no batch");
    };
    assert_eq!(reason, "input `x` is a scalar");
}

/// A softmax over `axis` of rows of one float.
fn softmax_of_one(axis: i64) -> ModelProto {
    model(
        vec![node("Softmax", &["x"], &["y"]).with([AttributeProto::int("axis", axis)])],
        vec![batched("x", DataType::Float, &[1])],
        vec![batched("y", DataType::Float, &[1])],
        vec![],
    )
}

#[test]
fn a_model_that_mixes_rows_runs_one_request_at_a_time() {
    let bench = Bench::new();
    let path = bench.write("mixing.onnx", &softmax_of_one(0));
    for is_cached in [false, true] {
        let stored = bench.store.prepare(&path).unwrap();
        assert_eq!(stored.was_cached(), is_cached);
        let Batching::Single { reason } = &stored.info().batching else {
            panic!("a softmax over the batch mixes rows");
        };
        assert!(reason.contains("output `y` of a row depends"), "{reason}");
    }
    let stored = bench.store.prepare(&path).unwrap();
    let rig = Rig::new();
    rig.load(1, &stored, 1);
    let row = |value| request(1, vec![raw(&[1, 1], f32_bytes(&[value]))]);
    let shared = rig.run(1, vec![row(1.0), row(2.0)]).unwrap_err();
    assert_eq!(shared.kind, RunErrorKind::InvalidInput, "{}", shared.detail);
    // The rows of one client are its own business.
    let pair = request(1, vec![raw(&[2, 1], f32_bytes(&[0.0, 0.0]))]);
    for (client, expected) in [
        (row(1.0), vec![1.0]),
        (pair, vec![0.5, 0.5]),
        (row(2.0), vec![1.0]),
    ] {
        let found = rig.run(1, vec![client]).unwrap();
        assert_eq!(as_f32(&found[0][0]), expected);
    }
    // Its owner may know better.
    let options = LoadOptions {
        max_batch: 2,
        batches: Batches::Vouched,
        ..LoadOptions::default()
    };
    rig.device.load(ModelId(2), &stored, &options).unwrap();
    assert!(rig.run(2, vec![row(1.0), row(1.0)]).is_ok());
}

#[test]
fn a_model_that_holds_one_row_inside_runs_one_request_at_a_time() {
    let bench = Bench::new();
    let reshaping = model(
        vec![
            node("Reshape", &["x", "shape"], &["one"]),
            node("Add", &["x", "one"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![TensorProto::from_i64s("shape", &[2], &[1, 4])],
    );
    let Batching::Single { reason } = batching(&bench, &reshaping) else {
        panic!("two rows do not fit");
    };
    assert!(reason.contains("not both at once"), "{reason}");
}

#[test]
fn models_that_keep_rows_apart_share_runs() {
    let bench = Bench::new();
    let elements = [
        DataType::Float,
        DataType::Double,
        DataType::Float16,
        DataType::Bfloat16,
        DataType::Int64,
        DataType::Uint8,
        DataType::Bool,
        DataType::String,
    ];
    for element in elements {
        let found = batching(&bench, &identity(element, 3));
        assert_eq!(found, Batching::Batchable, "{element:?}");
    }
    assert_eq!(batching(&bench, &softmax_of_one(1)), Batching::Batchable);
    // No number on either side is the same answer: the logarithm of what is below 0.
    let undefined = model(
        vec![node("Neg", &["x"], &["n"]), node("Log", &["n"], &["y"])],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![],
    );
    assert_eq!(batching(&bench, &undefined), Batching::Batchable);
    // An index past the table is refused; the interface decides then.
    let refusing = model(
        vec![node("Gather", &["table", "x"], &["y"])],
        vec![batched("x", DataType::Int64, &[1])],
        vec![batched("y", DataType::Float, &[1])],
        vec![TensorProto::from_f32s("table", &[1], &[0.5])],
    );
    assert_eq!(batching(&bench, &refusing), Batching::Batchable);
}

#[test]
fn each_byte_is_copied_in_once() {
    let bench = Bench::new();
    let rig = Rig::new();
    rig.load(1, &bench.prepare(&identity(DataType::Float, 100)), 4);
    let requests = vec![
        request(1, vec![random_rows(1, 1, 100)]),
        request(3, vec![random_rows(2, 3, 100)]),
    ];
    rig.run(1, requests).unwrap();
    let metrics = rig.device.metrics();
    assert_eq!(metrics.bytes_copied_in, 4 * 100 * 4);
    assert_eq!((metrics.bytes_copied_out, metrics.legs), (0, 1));
    rig.load(2, &bench.prepare(&identity(DataType::String, 1)), 1);
    rig.run(2, vec![request(1, vec![strings(&[1, 1], &[b"seven b"])])])
        .unwrap();
    let metrics = rig.device.metrics();
    assert_eq!(metrics.bytes_copied_in, 4 * 100 * 4 + 7);
    assert_eq!(metrics.bytes_copied_out, 7);
}
