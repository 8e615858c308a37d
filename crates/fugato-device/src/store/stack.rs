//! Convolutions of one tensor as one: their filters and biases stacked along the output
//! channels, and what it gives split among what they gave.
//!
//! Each output channel is the same sum as before, so nothing else is computed. The channels
//! of ONNX Runtime's blocked convolutions (`com.microsoft.nchwc`) come in whole blocks, the
//! first axis of their filters is that of blocks, and so both stack as plain ones do.
//!
//! The stacked weights are in the part's own file: a copy of those that the model has.

use fugato_onnx::proto::AttributeProto;
use fugato_onnx::{DataType, ExternalDataError, ModelProto, NodeProto, TensorError, TensorProto};
use fugato_onnx::{GraphProto, load_external_data};
use std::collections::BTreeMap;
use std::path::Path;

const FILTER: &str = "fugato:stacked:filter";
const BIAS: &str = "fugato:stacked:bias";
const OUTPUT: &str = "fugato:stacked:output";
const SIZES: &str = "fugato:stacked:sizes";

/// From this opset on the sizes of a split are an input, and an attribute before.
const SIZES_ARE_INPUT_FROM: i64 = 13;

/// Why operators cannot be stacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StackError {
    /// A weight is not a dense initializer of the graph.
    #[error("`{weight}` of {operator} is no dense weight")]
    NoWeight {
        /// The operator.
        operator: String,
        /// What it reads.
        weight: String,
    },
    /// Filters or biases are not alike.
    #[error("`{weight}` of {operator} is not of the shape and type of those of the others")]
    Shape {
        /// The operator.
        operator: String,
        /// What it reads.
        weight: String,
    },
    /// The file names no version of ONNX's own operators.
    #[error("the model names no version of ONNX's operators, of which a split is needed")]
    NoOpset,
    /// A weight cannot be read from the file beside the model.
    #[error(transparent)]
    External(#[from] ExternalDataError),
    /// A weight's bytes are not what its shape asks for.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// What another operator must say too to be stacked with this one, where both read the same
/// data; `None` where it cannot be. `weight` gives the dimensions of a weight.
pub(super) fn key(node: &NodeProto, weight: &dyn Fn(&str) -> Option<Vec<u64>>) -> Option<String> {
    let is_convolution = match node.domain() {
        "" | "ai.onnx" | "com.microsoft.nchwc" => node.op_type() == "Conv",
        "com.microsoft" => node.op_type() == "FusedConv",
        _ => false,
    };
    let group = node.find_attribute("group");
    let is_whole = group.is_none_or(|group| group.i == Some(1));
    let named = |place: usize| node.input.get(place).filter(|name| !name.is_empty());
    let (data, filter, sum) = (named(0)?, weight(named(1)?)?, named(3));
    let bias = named(2)
        .map(|name| weight(name))
        .map_or(Some(0), |bias| Some(bias?.len()))?;
    let is_stackable = is_convolution
        && is_whole
        && sum.is_none()
        && weight(data).is_none()
        && filter.len() > 2
        && node.output.len() == 1;
    let mut attributes: Vec<&AttributeProto> = node.attribute.iter().collect();
    attributes.sort_unstable_by_key(|attribute| attribute.name().to_owned());
    // One channel's filter is part of it: kernels must be of one size.
    let shape = filter.get(1..)?;
    let (domain, op) = (node.domain(), node.op_type());
    is_stackable.then(|| format!("{domain}/{op} {shape:?} {bias} {attributes:?}"))
}

/// Makes the convolutions of a part, which are all that it has and are alike, into one.
///
/// # Errors
/// [`StackError`].
pub(super) fn stack(file: &mut ModelProto, folder: &Path) -> Result<(), StackError> {
    let mut opsets = file.opset_import.iter();
    let opset = opsets.find(|opset| matches!(opset.domain(), "" | "ai.onnx"));
    let opset = opset
        .map(|opset| opset.version())
        .ok_or(StackError::NoOpset)?;
    load_external_data(file, folder)?;
    let graph = file.graph.get_or_insert_default();
    let nodes = std::mem::take(&mut graph.node);
    let Some(first) = nodes.first() else {
        return Ok(());
    };
    let weights = std::mem::take(&mut graph.initializer);
    let weights: BTreeMap<&str, &TensorProto> = weights
        .iter()
        .map(|weight| (weight.name(), weight))
        .collect();
    let (filter, sizes) = stacked(FILTER, &nodes, (1, &weights))?;
    let has_bias = first.input.get(2).is_some_and(|bias| !bias.is_empty());
    let mut convolution = NodeProto {
        input: vec![first.input[0].clone(), FILTER.to_owned()],
        output: vec![OUTPUT.to_owned()],
        ..first.clone()
    };
    graph.initializer.push(filter);
    if has_bias {
        let (bias, _) = stacked(BIAS, &nodes, (2, &weights))?;
        graph.initializer.push(bias);
        convolution.input.push(BIAS.to_owned());
    }
    let outputs = nodes.iter().flat_map(|node| &node.output);
    let outputs: Vec<&str> = outputs.map(String::as_str).collect();
    let split = split(graph, (opset, &sizes), &outputs);
    graph.node = vec![convolution, split];
    Ok(())
}

/// The split of the stacked output along its channels.
fn split(graph: &mut GraphProto, (opset, sizes): (i64, &[i64]), outputs: &[&str]) -> NodeProto {
    let axis = AttributeProto::int("axis", 1);
    if opset < SIZES_ARE_INPUT_FROM {
        let sizes = AttributeProto::ints("split", sizes);
        return NodeProto::new("fugato:split", "Split", &[OUTPUT], outputs).with([axis, sizes]);
    }
    let count = [i64::try_from(sizes.len()).unwrap_or(i64::MAX)];
    graph
        .initializer
        .push(TensorProto::from_i64s(SIZES, &count, sizes));
    NodeProto::new("fugato:split", "Split", &[OUTPUT, SIZES], outputs).with([axis])
}

/// The weights that nodes read at a place, along their first axis; and the length of each
/// there.
fn stacked(
    name: &str,
    nodes: &[NodeProto],
    (place, weights): (usize, &BTreeMap<&str, &TensorProto>),
) -> Result<(TensorProto, Vec<i64>), StackError> {
    let mut bytes = Vec::new();
    let mut lengths = Vec::with_capacity(nodes.len());
    let mut alike: Option<(DataType, &[i64])> = None;
    for node in nodes {
        let weight = node.input.get(place).map_or("", String::as_str);
        let (operator, weight_name) = (node.name().to_owned(), weight.to_owned());
        let Some(&tensor) = weights.get(weight) else {
            return Err(StackError::NoWeight {
                operator,
                weight: weight_name,
            });
        };
        let element = tensor.element_type()?;
        let own = tensor.dims.split_first();
        let Some((&length, rest)) =
            own.filter(|(_, rest)| alike.is_none_or(|alike| alike == (element, *rest)))
        else {
            return Err(StackError::Shape {
                operator,
                weight: weight_name,
            });
        };
        alike = Some((element, rest));
        lengths.push(length);
        bytes.extend_from_slice(&tensor.to_bytes()?);
    }
    let (element, rest) = alike.unwrap_or((DataType::Float, &[]));
    let mut dims = vec![lengths.iter().sum()];
    dims.extend_from_slice(rest);
    Ok((
        TensorProto::from_bytes(name, element, &dims, bytes.into()),
        lengths,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_onnx::proto::OperatorSetIdProto;

    fn convolution(name: &str, filter: &str, bias: &str) -> NodeProto {
        let output = format!("{name}_out");
        NodeProto::new(name, "Conv", &["x", filter, bias], &[&output])
            .with([AttributeProto::ints("strides", &[1, 1])])
    }

    fn file(opset: i64) -> ModelProto {
        let weight = |name: &str, dims: &[i64], from: u8| {
            let count = dims.iter().product::<i64>();
            let values: Vec<f32> = (0..count).map(|at| f32::from(from) + at as f32).collect();
            TensorProto::from_f32s(name, dims, &values)
        };
        ModelProto {
            opset_import: vec![OperatorSetIdProto {
                domain: None,
                version: Some(opset),
            }],
            graph: Some(GraphProto {
                node: vec![
                    convolution("a", "fa", "bias_a"),
                    convolution("b", "fb", "bias_b"),
                ],
                initializer: vec![
                    weight("fa", &[2, 3, 1, 1], 0),
                    weight("fb", &[1, 3, 1, 1], 100),
                    weight("bias_a", &[2], 50),
                    weight("bias_b", &[1], 60),
                ],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn filters_and_biases_stand_one_after_the_other() {
        let mut file = file(17);
        stack(&mut file, Path::new("")).unwrap();
        let graph = file.graph.unwrap();
        let [convolution, split] = &graph.node[..] else {
            panic!("a convolution and a split");
        };
        assert_eq!(convolution.input, ["x", FILTER, BIAS]);
        assert_eq!(convolution.attribute[0].ints, [1, 1]);
        assert_eq!(split.input, [OUTPUT, SIZES]);
        assert_eq!(split.output, ["a_out", "b_out"]);
        let weight = |name: &str| {
            let found = graph
                .initializer
                .iter()
                .find(|weight| weight.name() == name);
            found.unwrap()
        };
        assert_eq!(weight(FILTER).dims, [3, 3, 1, 1]);
        let values = weight(FILTER).to_f32s().unwrap();
        assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 100.0, 101.0, 102.0]);
        assert_eq!(weight(BIAS).to_f32s().unwrap(), [50.0, 51.0, 60.0]);
        assert_eq!(weight(SIZES).to_i64s().unwrap(), [2, 1]);
    }

    #[test]
    fn older_splits_have_their_sizes_as_an_attribute() {
        let mut file = file(11);
        stack(&mut file, Path::new("")).unwrap();
        let graph = file.graph.unwrap();
        let split = &graph.node[1];
        assert_eq!(split.input, [OUTPUT]);
        assert_eq!(split.find_attribute("split").unwrap().ints, [2, 1]);
    }

    #[test]
    fn only_like_convolutions_have_one_key() {
        let dims = |name: &str| match name {
            "one" | "other" => Some(vec![8, 4, 1, 1]),
            "more" => Some(vec![16, 4, 1, 1]),
            "wide" => Some(vec![8, 4, 3, 3]),
            "bias" => Some(vec![8]),
            _ => None,
        };
        let of = |node: &NodeProto| key(node, &dims);
        let one = convolution("a", "one", "bias");
        assert!(of(&one).is_some());
        assert_eq!(of(&one), of(&convolution("b", "other", "bias")));
        assert_eq!(of(&one), of(&convolution("c", "more", "bias")));
        assert_ne!(of(&one), of(&convolution("d", "wide", "bias")));
        assert_ne!(of(&one), of(&convolution("e", "other", "")), "no bias");
        assert_eq!(of(&convolution("f", "computed", "bias")), None);
        let grouped = convolution("g", "one", "bias").with([AttributeProto::int("group", 2)]);
        assert_eq!(of(&grouped), None);
        let mut summing = one;
        summing.input.push("sum".to_owned());
        assert_eq!(of(&summing), None);
    }
}
