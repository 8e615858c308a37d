//! Tiny models of ONNX's own operators, as files have them. The tests of the command line take
//! this file too, so it uses nothing of this crate.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use bytes::Bytes;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{
    AttributeProto, AttributeType, OperatorSetIdProto, SequenceType, TypeProto, ValueInfoProto,
    type_proto,
};
use fugato_onnx::{DataType, GraphProto, ModelProto, NodeProto, TensorProto};

/// A model of ONNX's own operators.
pub fn model(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
) -> ModelProto {
    ModelProto {
        ir_version: Some(9),
        producer_name: Some("tests".to_owned()),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("graph".to_owned()),
            node: nodes,
            input: inputs,
            output: outputs,
            initializer,
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// A tensor value whose first dimension is `batch`.
pub fn batched(name: &str, element: DataType, rest: &[i64]) -> ValueInfoProto {
    let rest = rest.iter().map(|&size| Dimension::size(size));
    let dims = std::iter::once(Dimension::symbol("batch")).chain(rest);
    ValueInfoProto::tensor(name, element, dims.collect())
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto::new(&format!("{op}_{}", outputs[0]), op, inputs, outputs)
}

/// A value of one element, without dimensions.
pub fn scalar(name: &str, element: DataType) -> ValueInfoProto {
    ValueInfoProto::tensor(name, element, Vec::new())
}

/// A tensor value whose dimensions are all known.
pub fn fixed(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dims = dims.iter().map(|&size| Dimension::size(size));
    ValueInfoProto::tensor(name, DataType::Float, dims.collect())
}

/// A sequence of tensors of rows of 4.
pub fn sequence(name: &str) -> ValueInfoProto {
    let element = batched("", DataType::Float, &[4]).r#type.map(Box::new);
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::SequenceType(SequenceType {
                elem_type: element,
            })),
            denotation: None,
        }),
        ..ValueInfoProto::default()
    }
}

/// An operator's attribute that is a graph.
pub fn inside(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        g: Some(Box::new(graph)),
        r#type: Some(AttributeType::Graph as i32),
        ..AttributeProto::default()
    }
}

/// A graph to be inside an operator.
fn graph(
    node: Vec<NodeProto>,
    input: Vec<ValueInfoProto>,
    output: Vec<ValueInfoProto>,
) -> GraphProto {
    GraphProto {
        name: Some("body".to_owned()),
        node,
        input,
        output,
        ..GraphProto::default()
    }
}

/// A sigmoid, to which an `If` adds or from which it takes a weight, as the largest input is
/// above 0 or not; its branches take both from around them.
pub fn branching() -> ModelProto {
    let branch = |name: &str, op: &str| GraphProto {
        name: Some(name.to_owned()),
        node: vec![node(op, &["a", "w"], &[name])],
        output: vec![batched(name, DataType::Float, &[4])],
        ..GraphProto::default()
    };
    model(
        vec![
            node("Sigmoid", &["x"], &["a"]),
            node("ReduceMax", &["x"], &["largest"]),
            node("Greater", &["largest", "zero"], &["many"]),
            node("Squeeze", &["many"], &["condition"]),
            node("If", &["condition"], &["b"]).with([
                inside("then_branch", branch("added", "Add")),
                inside("else_branch", branch("subtracted", "Sub")),
            ]),
            node("Tanh", &["b"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![
            TensorProto::from_f32s("zero", &[], &[0.0]),
            TensorProto::from_f32s("w", &[4], &[0.5; 4]),
        ],
    )
}

/// How often a loop goes round, and that it goes on.
fn thrice() -> [TensorProto; 2] {
    [
        TensorProto::from_i64s("three", &[], &[3]),
        TensorProto::from_bytes("yes", DataType::Bool, &[], Bytes::from_static(&[1])),
    ]
}

/// What a loop's graph is given before its values, and what it says first: whether to go on.
fn rounds() -> [ValueInfoProto; 3] {
    [
        scalar("round", DataType::Int64),
        scalar("on", DataType::Bool),
        scalar("still", DataType::Bool),
    ]
}

/// A sigmoid to which a `Loop` adds a weight three times, which its graph takes from around it.
pub fn looping() -> ModelProto {
    let [round, on, still] = rounds();
    let body = graph(
        vec![
            node("Identity", &["on"], &["still"]),
            node("Add", &["v", "w"], &["next"]),
        ],
        vec![round, on, batched("v", DataType::Float, &[4])],
        vec![still, batched("next", DataType::Float, &[4])],
    );
    let mut weights = thrice().to_vec();
    weights.push(TensorProto::from_f32s("w", &[4], &[0.5; 4]));
    model(
        vec![
            node("Sigmoid", &["x"], &["a"]),
            node("Loop", &["three", "yes", "a"], &["b"]).with([inside("body", body)]),
            node("Tanh", &["b"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        weights,
    )
}

/// The tangents of the sums of five rows' sigmoids so far, by a `Scan`, and the last sum.
pub fn scanning() -> ModelProto {
    let row = |name: &str| fixed(name, &[4]);
    let body = graph(
        vec![
            node("Add", &["sum", "row"], &["more"]),
            node("Identity", &["more"], &["so_far"]),
        ],
        vec![row("sum"), row("row")],
        vec![row("more"), row("so_far")],
    );
    let scan = node("Scan", &["zero", "a"], &["last", "b"]);
    model(
        vec![
            node("Sigmoid", &["x"], &["a"]),
            scan.with([
                inside("body", body),
                AttributeProto::int("num_scan_inputs", 1),
            ]),
            node("Tanh", &["b"], &["y"]),
        ],
        vec![fixed("x", &[5, 4])],
        vec![fixed("y", &[5, 4]), row("last")],
        vec![TensorProto::from_f32s("zero", &[4], &[0.0; 4])],
    )
}

/// A sigmoid, and what comes of it by way of the optional value `o`.
pub fn optional() -> ModelProto {
    model(
        vec![
            node("Sigmoid", &["x"], &["a"]),
            node("Optional", &["a"], &["o"]),
            node("OptionalGetElement", &["o"], &["e"]),
            node("Exp", &["e"], &["y"]),
            node("Neg", &["a"], &["z"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![
            batched("y", DataType::Float, &[4]),
            batched("z", DataType::Float, &[4]),
        ],
        vec![],
    )
}

/// `x` cut into the sequence `parts`, which is put together again.
pub fn divided() -> ModelProto {
    let axis = || [AttributeProto::int("axis", 1)];
    model(
        vec![
            node("SplitToSequence", &["x"], &["parts"]).with(axis()),
            node("ConcatFromSequence", &["parts"], &["c"]).with(axis()),
            node("Exp", &["c"], &["y"]),
            node("Neg", &["x"], &["z"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![
            batched("y", DataType::Float, &[4]),
            batched("z", DataType::Float, &[4]),
        ],
        vec![],
    )
}

/// A sigmoid three times side by side, gathered by a `Loop` in a sequence: `none` becomes `all`.
pub fn gathering() -> ModelProto {
    let [round, on, still] = rounds();
    let body = graph(
        vec![
            node("Identity", &["on"], &["still"]),
            node("SequenceInsert", &["some", "a"], &["more"]),
        ],
        vec![round, on, sequence("some")],
        vec![still, sequence("more")],
    );
    let empty = node("SequenceEmpty", &[], &["none"]);
    let float = i64::from(DataType::Float as i32);
    model(
        vec![
            node("Sigmoid", &["x"], &["a"]),
            empty.with([AttributeProto::int("dtype", float)]),
            node("Loop", &["three", "yes", "none"], &["all"]).with([inside("body", body)]),
            node("ConcatFromSequence", &["all"], &["c"]).with([AttributeProto::int("axis", 1)]),
            node("Exp", &["c"], &["y"]),
            node("Neg", &["a"], &["z"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![
            batched("y", DataType::Float, &[12]),
            batched("z", DataType::Float, &[4]),
        ],
        thrice().to_vec(),
    )
}
