//! Models that are no graph, or one of wrong types: the operator at fault is named.

use crate::onnx::{batched, inside, model, node, scalar};
use crate::{on, said};
use fugato_onnx::proto::AttributeProto;
use fugato_onnx::{DataType, GraphProto, ModelProto, NodeProto, TensorProto};

/// A model of rows of 4, `x` to `y`.
fn of(nodes: Vec<NodeProto>) -> ModelProto {
    model(
        nodes,
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![TensorProto::from_f32s("w", &[3, 4], &[0.5; 12])],
    )
}

/// Both commands refuse the model, and say this.
fn are_told(model: &ModelProto, expected: &str) {
    for arguments in [
        &["model", "inspect", "--legs"][..],
        &["plan", "--device", "cpu"],
    ] {
        let output = on(model, arguments);
        let error = said(&output);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(output.stdout.is_empty(), "{error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn operators_in_a_circle_are_named() {
    let circle = of(vec![
        node("Add", &["x", "c"], &["a"]),
        node("Relu", &["a"], &["b"]),
        node("Exp", &["b"], &["c"]),
        node("Neg", &["c"], &["y"]),
    ]);
    are_told(
        &circle,
        "ONNX Runtime refused it as invalid: graph has a circle: operator `Add_a` (`Add`) -> \
         operator `Relu_b` (`Relu`) -> operator `Exp_c` (`Exp`) -> operator `Add_a` (`Add`)",
    );
    are_told(
        &of(vec![node("Add", &["x", "y"], &["y"])]),
        "graph has a circle: operator `Add_y` (`Add`) -> operator `Add_y` (`Add`)",
    );
}

#[test]
fn a_circle_within_an_operator_is_named() {
    let branch = |node: Vec<NodeProto>, output: &str| GraphProto {
        name: Some(output.to_owned()),
        node,
        output: vec![batched(output, DataType::Float, &[4])],
        ..GraphProto::default()
    };
    let circle = vec![
        node("Add", &["x", "u"], &["t"]),
        node("Exp", &["t"], &["u"]),
    ];
    let branches = [
        inside("then_branch", branch(circle, "t")),
        inside(
            "else_branch",
            branch(vec![node("Neg", &["x"], &["v"])], "v"),
        ),
    ];
    let mut inner = of(vec![node("If", &["condition"], &["y"]).with(branches)]);
    let graph = inner.graph.as_mut().expect("it has one");
    graph.input.push(scalar("condition", DataType::Bool));
    are_told(
        &inner,
        "graph has a circle: operator `Add_t` (`Add`) -> operator `Exp_u` (`Exp`)",
    );
}

#[test]
fn a_value_from_nowhere_or_from_two_places_names_its_operators() {
    are_told(
        &of(vec![node("Relu", &["nowhere"], &["y"])]),
        "tensor `nowhere`, read by operator `Relu_y` (`Relu`) of the graph, comes from no \
         operator, input or weight",
    );
    are_told(
        &of(vec![
            node("Relu", &["x"], &["y"]),
            node("Exp", &["x"], &["y"]),
        ]),
        "tensor `y` of the graph comes from operator `Relu_y` (`Relu`) and from operator `Exp_y` \
         (`Exp`), expected one source",
    );
    are_told(
        &of(vec![node("Relu", &["x"], &["a"])]),
        "tensor `y`, read by the outputs of the graph, comes from no operator, input or weight",
    );
}

#[test]
fn operators_of_wrong_types_and_shapes_are_named() {
    let whole = AttributeProto::int("to", i64::from(DataType::Int64 as i32));
    are_told(
        &of(vec![
            node("Cast", &["x"], &["i"]).with([whole]),
            node("Add", &["x", "i"], &["y"]),
        ]),
        "bound to different types (tensor(float) and tensor(int64) in node (Add_y)",
    );
    are_told(&of(vec![node("MatMul", &["x", "w"], &["y"])]), "MatMul_y");
    let mut odd = of(vec![node("Relu", &["x"], &["y"])]);
    let graph = odd.graph.as_mut().expect("it has one");
    graph.output = vec![batched("y", DataType::Int64, &[4])];
    are_told(&odd, "of node (Relu_y) does not match expected type");
}
