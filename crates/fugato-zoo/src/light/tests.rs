#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use super::*;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{AttributeProto, ValueInfoProto};

/// A small light model: convolution, normalisation with one trained leftover, a residual
/// sum, a reshape that fixes the batch to 1, and a classifier whose weight is reshaped.
fn light_model() -> ModelProto {
    let shapes: [(&str, &[i64]); 6] = [
        ("w_shape", &[8, 3, 3, 3]),
        ("scale_shape", &[8]),
        ("bias_shape", &[8]),
        ("mean_shape", &[8]),
        ("flat", &[1, 32]),
        ("fc_shape", &[5, 32, 1]),
    ];
    let mut initializer: Vec<TensorProto> = shapes
        .iter()
        .map(|(name, dims)| TensorProto::from_i64s(*name, &[dims.len() as i64], dims))
        .collect();
    initializer.push(TensorProto::from_i64s("fc_flat", &[2], &[5, 32]));
    initializer.push(TensorProto::from_f32s("var", &[8], &[1e-14; 8]));
    initializer.push(TensorProto::from_f32s("unread", &[1], &[0.0]));
    let filled =
        |name: &str, shape: &str| NodeProto::new(name, "ConstantOfShape", &[shape], &[name]);
    let image = |name: &str, channels| {
        let dims = [1, channels, 4, 4].map(Dimension::size).to_vec();
        ValueInfoProto::tensor(name, DataType::Float, dims)
    };
    let node = vec![
        filled("w", "w_shape"),
        filled("scale", "scale_shape"),
        filled("bias", "bias_shape"),
        filled("mean", "mean_shape"),
        filled("fc_raw", "fc_shape"),
        NodeProto::new("conv", "Conv", &["x", "w"], &["c"]),
        NodeProto::new("relu", "Relu", &["c"], &["r"]),
        NodeProto::new(
            "bn",
            "BatchNormalization",
            &["r", "scale", "bias", "mean", "var"],
            &["n"],
        ),
        NodeProto::new("sum", "Sum", &["n", "r"], &["s"]),
        NodeProto::new("reshape", "Reshape", &["s", "flat"], &["f"]),
        NodeProto::new("fc_reshape", "Reshape", &["fc_raw", "fc_flat"], &["fc"]),
        NodeProto::new("gemm", "Gemm", &["f", "fc"], &["y"])
            .with([AttributeProto::int("transB", 1)]),
    ];
    let mut input = vec![image("x", 3)];
    // The old format lists initializers as inputs, too.
    input.extend(initializer.iter().map(|tensor| {
        let dims = tensor
            .dims
            .iter()
            .map(|&dim| Dimension::size(dim))
            .collect();
        ValueInfoProto::tensor(tensor.name(), tensor.element_type().unwrap(), dims)
    }));
    let graph = GraphProto {
        name: Some("light".to_owned()),
        node,
        initializer,
        input,
        output: vec![ValueInfoProto::tensor(
            "y",
            DataType::Float,
            [1, 5].map(Dimension::size).to_vec(),
        )],
        value_info: vec![image("s", 8)],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: Some(3),
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn values(graph: &GraphProto, name: &str) -> Vec<f32> {
    graph.find_initializer(name).unwrap().to_f32s().unwrap()
}

#[test]
fn weights_take_the_scale_their_role_asks_for() {
    let graph = materialise(&light_model(), 0).unwrap().graph.unwrap();
    let std =
        |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
    let filters = values(&graph, "w");
    assert!((std(&filters) - 27_f32.sqrt().recip()).abs() < 0.04);
    for filter in filters.chunks(27) {
        assert!(
            filter.iter().sum::<f32>().abs() < 1e-5,
            "filters sum to zero"
        );
    }
    let variances = values(&graph, "var");
    let expected = RELU_VARIANCE;
    for variance in variances {
        let range = expected * 0.79..expected * 1.21;
        assert!(
            range.contains(&variance),
            "the leftover of 1e-14 is replaced: {variance}"
        );
    }
    for scale in values(&graph, "scale") {
        assert!(
            (0.39..0.61).contains(&scale),
            "a residual branch's end: {scale}"
        );
    }
    assert_eq!(
        values(&graph, "fc_raw").len(),
        5 * 32,
        "seen through its reshape"
    );
    assert_eq!(
        values(&graph, "unread"),
        [0.0],
        "what nothing reads is kept"
    );
}

/// Variance of `max(x, 0)` for a unit normal `x`.
const RELU_VARIANCE: f32 = 0.340_8;

#[test]
fn the_batch_becomes_dynamic_and_other_shapes_stay() {
    let graph = materialise(&light_model(), 0).unwrap().graph.unwrap();
    let names: Vec<&str> = graph.input.iter().map(|port| port.name()).collect();
    assert_eq!(names, ["x"]);
    for port in graph
        .input
        .iter()
        .chain(&graph.output)
        .chain(&graph.value_info)
    {
        let shape = port.tensor_type().unwrap().shape.as_ref().unwrap();
        assert_eq!(shape.dim[0], Dimension::symbol("batch"), "{}", port.name());
        assert!(shape.dim[1].known_size().is_some());
    }
    let target = |node: &str| {
        let node = graph
            .node
            .iter()
            .find(|other| other.name() == node)
            .unwrap();
        graph
            .find_initializer(&node.input[1])
            .unwrap()
            .to_i64s()
            .unwrap()
    };
    assert_eq!(target("reshape"), [0, 32]);
    assert_eq!(target("fc_reshape"), [5, 32], "a weight has no batch");
    for gone in ["w_shape", "flat"] {
        assert!(
            graph.find_initializer(gone).is_none(),
            "{gone} has no reader"
        );
    }
    assert!(
        graph
            .node
            .iter()
            .all(|node| node.op_type() != "ConstantOfShape")
    );
}

#[test]
fn the_same_seed_gives_the_same_model() {
    let light = light_model();
    assert_eq!(
        materialise(&light, 4).unwrap(),
        materialise(&light, 4).unwrap()
    );
    assert_ne!(
        materialise(&light, 4).unwrap(),
        materialise(&light, 5).unwrap()
    );
}

#[test]
fn models_that_cannot_be_materialised_are_refused() {
    let materialised = materialise(&light_model(), 0).unwrap();
    assert!(matches!(
        materialise(&materialised, 0),
        Err(LightError::NotLight)
    ));

    let mut odd = light_model();
    odd.graph.as_mut().unwrap().node[5].op_type = Some("Pow".to_owned());
    assert!(matches!(
        materialise(&odd, 0),
        Err(LightError::UnknownRole { slot: 1, op_type, .. }) if op_type == "Pow"
    ));

    let mut unread = light_model();
    let node = NodeProto::new("idle", "ConstantOfShape", &["w_shape"], &["idle"]);
    unread.graph.as_mut().unwrap().node.insert(0, node);
    assert!(matches!(
        materialise(&unread, 0),
        Err(LightError::Unread { weight }) if weight == "idle"
    ));

    let mut negative = light_model();
    let shape = TensorProto::from_i64s("w_shape", &[2], &[-8, 3]);
    negative.graph.as_mut().unwrap().initializer[0] = shape;
    assert!(matches!(
        materialise(&negative, 0),
        Err(LightError::Tensor(_))
    ));

    let mut fixed = light_model();
    let dims = [2, 5].map(Dimension::size).to_vec();
    let output = ValueInfoProto::tensor("y", DataType::Float, dims);
    fixed.graph.as_mut().unwrap().output = vec![output];
    assert!(matches!(
        materialise(&fixed, 0),
        Err(LightError::FixedBatch { found: 2, .. })
    ));
}
