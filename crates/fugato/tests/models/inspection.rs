//! What `fugato model inspect` says of where a model can be cut, and of its batch.

use crate::onnx::{
    batched, branching, divided, fixed, gathering, looping, model, node, optional, scalar,
    scanning, sequence,
};
use crate::{on, said};
use fugato_onnx::proto::ValueInfoProto;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::{DataType, ModelProto, TensorProto};

/// The rows of the table: a label, which the rows that follow may leave out, and what it says.
fn rows(model: &ModelProto, flags: &[&str]) -> Vec<(String, String)> {
    let output = on(model, &[&["model", "inspect"], flags].concat());
    assert!(output.status.success(), "{}", said(&output));
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    let row = |line: &str| {
        let (label, value) = line.split_at(15);
        (label.trim_end().to_owned(), value.trim_start().to_owned())
    };
    table.lines().map(row).collect()
}

/// What the rows of a label say.
fn of<'a>(rows: &'a [(String, String)], label: &str) -> Vec<&'a str> {
    let rows = rows.iter().filter(|(found, _)| found == label);
    rows.map(|(_, value)| value.as_str()).collect()
}

/// `op` of the rows `x`, as `y`.
fn unary(op: &str, x: ValueInfoProto, y: ValueInfoProto) -> ModelProto {
    model(vec![node(op, &["x"], &["y"])], vec![x], vec![y], vec![])
}

fn varying(name: &str, dim: Dimension) -> ValueInfoProto {
    ValueInfoProto::tensor(name, DataType::Float, vec![dim, Dimension::size(4)])
}

#[test]
fn an_operator_is_not_cut_inside_where_it_has_a_graph() {
    for (model, named) in [
        (branching(), "operator `If_b` (`If`)"),
        (looping(), "operator `Loop_b` (`Loop`)"),
        (scanning(), "operator `Scan_last` (`Scan`)"),
        (gathering(), "operator `Loop_all` (`Loop`)"),
    ] {
        let rows = rows(&model, &["--legs"]);
        let expected = format!("{named}: a graph of its own");
        assert_eq!(of(&rows, "not cut inside"), [expected]);
        assert_eq!(of(&rows, "one piece"), [""; 0]);
    }
}

#[test]
fn a_model_is_not_cut_at_what_is_no_tensor() {
    for (model, values, segments) in [
        // The split, the concatenation and the exponential are a chain, the negation another.
        (divided(), &["parts"][..], "2 of 4 operators"),
        (optional(), &["o"], "3 of 5 operators"),
        (gathering(), &["none", "all"], "3 of 6 operators"),
    ] {
        let rows = rows(&model, &["--legs"]);
        let reason = "it is not a tensor, or ONNX Runtime cannot tell its type";
        let expected = values.iter().map(|value| format!("`{value}`: {reason}"));
        let expected: Vec<String> = expected.collect();
        assert_eq!(of(&rows, "not cut at"), expected);
        assert_eq!(of(&rows, "segments"), [segments]);
        assert_eq!(of(&rows, "one segment"), [""; 0]);
    }
}

#[test]
fn a_model_stays_in_one_piece_where_an_output_is_not_computed() {
    let constant = model(
        vec![node("Relu", &["x"], &["a"]), node("Exp", &["x"], &["b"])],
        vec![batched("x", DataType::Float, &[4])],
        vec![
            batched("a", DataType::Float, &[4]),
            batched("b", DataType::Float, &[4]),
            fixed("c", &[2]),
        ],
        vec![TensorProto::from_f32s("c", &[2], &[1.0, 2.0])],
    );
    let rows = rows(&constant, &["--legs"]);
    let reason = "output `c` is not computed by any operator";
    assert_eq!(of(&rows, "one piece"), [reason]);
    assert_eq!(of(&rows, "segments"), ["1 of 2 operators"]);
}

#[test]
fn a_chain_is_one_segment_and_its_long_operators_are_named() {
    // Each of 2.1e8 floating-point operations, 2.1 ms at the speed that is assumed.
    let names: Vec<String> = (0..=13).map(|place| format!("v{place}")).collect();
    let link = |place: usize| node("MatMul", &[&names[place], "w"], &[&names[place + 1]]);
    let rows_of = |name: &str| batched(name, DataType::Float, &[256, 640]);
    let weights: Vec<f32> = (0..640 * 640).map(|at| (at as f32).sin() / 64.0).collect();
    let chain = model(
        (0..13).map(link).collect(),
        vec![rows_of("v0")],
        vec![rows_of("v13")],
        vec![TensorProto::from_f32s("w", &[640, 640], &weights)],
    );
    let rows = rows(&chain, &["--legs"]);
    let reason = "it neither forks nor joins; plans cut its chain after so many operations";
    assert_eq!(of(&rows, "one segment"), [reason]);
    assert_eq!(of(&rows, "segments"), ["1 of 13 operators"]);
    let counted = "13 operators over 2.00 ms (ESTIMATED at 100 GFLOP/s, one item on one core; \
                   --time measures)";
    assert_eq!(of(&rows, "above a leg"), [counted]);
    let named = of(&rows, "");
    assert_eq!(named.len(), 13);
    assert_eq!(named[0], "2.10 ms operator `MatMul_v1` (`MatMul`)");
    assert_eq!(named[12], "1 more: `--format json` has all");
}

#[test]
fn what_no_shape_tells_is_measured_or_said_to_be_unknown() {
    let estimated = rows(&looping(), &["--legs"]);
    let unknown = "1 operators, whose shapes do not tell their work";
    assert_eq!(of(&estimated, "not estimated"), [unknown]);
    let timed = rows(&looping(), &["--time"]);
    assert_eq!(of(&timed, "not estimated"), [""; 0]);
    let [counted] = of(&timed, "above a leg")[..] else {
        panic!("one row of {timed:?}");
    };
    assert!(
        counted.ends_with("over 2.00 ms (measured, one item on one core)"),
        "{counted}"
    );
}

#[test]
fn a_model_that_is_not_batchable_says_why() {
    let x = || batched("x", DataType::Float, &[4]);
    let y = || batched("y", DataType::Float, &[4]);
    let relu = |x, y| unary("Relu", x, y);
    let unranked = || {
        let mut y = y();
        let tensor = y.tensor_type_mut().expect("it is a tensor");
        tensor.shape = None;
        y
    };
    let source = model(
        vec![node("RandomNormal", &[], &["y"])],
        vec![],
        vec![y()],
        vec![],
    );
    let cases = [
        (relu(x(), y()), "yes"),
        (source, "no: it has no input"),
        (
            unary("ReduceMax", x(), scalar("y", DataType::Float)),
            "no: output `y` is a scalar",
        ),
        (
            relu(fixed("x", &[1, 4]), y()),
            "no: input `x` has a fixed first dimension (1)",
        ),
        (
            relu(x(), varying("y", Dimension::symbol("n"))),
            "no: output `y` calls its first dimension `n`, while input `x` calls its first \
             dimension `batch`",
        ),
        (
            relu(x(), varying("y", Dimension::default())),
            "no: output `y` does not name its first dimension, while input `x` calls its first \
             dimension `batch`",
        ),
        (relu(x(), unranked()), "no: `y` has a shape of unknown rank"),
        (
            unary("SequenceConstruct", x(), sequence("y")),
            "no: `y` has a shape of unknown rank",
        ),
    ];
    for (model, expected) in cases {
        assert_eq!(of(&rows(&model, &[]), "batchable"), [expected]);
    }
}
