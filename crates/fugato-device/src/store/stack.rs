//! Convolutions of one tensor as one: their filters and biases stacked along the output
//! channels, and what it gives split among what they gave, or kept whole where that is only
//! joined again.
//!
//! Each output channel is the same sum as before. Filters of several sizes are padded with zeros to
//! one that holds them all, where they lie as ONNX has them: the sums then have terms that are zero,
//! unless the data is not finite. The channels of ONNX Runtime's blocked convolutions
//! (`com.microsoft.nchwc`) come in whole blocks, the first axis of their filters is that of blocks,
//! and so those of one size stack as plain ones do; the places of a filter lie elsewhere, and so
//! they are not padded.
//!
//! The stacked weights are in the part's own file: a copy of those that the model has.

use fugato_core::graph::{Span, Stacks, Window};
use fugato_onnx::proto::AttributeProto;
use fugato_onnx::{DataType, ExternalDataError, ModelProto, NodeProto, TensorError, TensorProto};
use fugato_onnx::{GraphProto, load_external_data};
use std::collections::BTreeMap;
use std::path::Path;

const FILTER: &str = "fugato:stacked:filter";
const BIAS: &str = "fugato:stacked:bias";
const OUTPUT: &str = "fugato:stacked:output";
const SIZES: &str = "fugato:stacked:sizes";

const NCHWC: &str = "com.microsoft.nchwc";
const KERNEL: &str = "kernel_shape";
const PADS: &str = "pads";

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

/// With what others an operator can be stacked that read the same data; `None` where with none.
/// `weight` gives the dimensions of a weight.
pub(super) fn stacks(
    node: &NodeProto,
    weight: &dyn Fn(&str) -> Option<Vec<u64>>,
) -> Option<Stacks> {
    let is_convolution = match node.domain() {
        "" | "ai.onnx" | NCHWC => node.op_type() == "Conv",
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
    let (channels, kernel) = filter.get(1..)?.split_first()?;
    let (domain, op) = (node.domain(), node.op_type());
    let attributes = |but: &[&str]| {
        let attributes = node.attribute.iter();
        let mut said: Vec<&AttributeProto> = attributes
            .filter(|attribute| !but.contains(&attribute.name()))
            .collect();
        said.sort_unstable_by_key(|attribute| attribute.name().to_owned());
        format!("{said:?}")
    };
    let alike = match window(node, kernel) {
        Some((_, grown)) => format!(
            "{domain}/{op} {channels} {bias} grows by {grown:?} {}",
            attributes(&[KERNEL, PADS])
        ),
        // One channel's filter is part of it: kernels must be of one size.
        None => format!(
            "{domain}/{op} {channels} {kernel:?} {bias} {}",
            attributes(&[])
        ),
    };
    let window = window(node, kernel).map_or_else(Window::default, |(window, _)| window);
    is_stackable.then_some(Stacks { alike, window })
}

/// The window of a convolution whose filter can be padded, and by how much an axis grows where
/// the stride is 1, which padding must leave as it is. `None` where only equal ones stack.
fn window(node: &NodeProto, kernel: &[u64]) -> Option<(Window, Vec<i64>)> {
    let said = |name: &str, default: i64, count: usize| match node.find_attribute(name) {
        Some(attribute) => (attribute.ints.len() == count).then(|| attribute.ints.clone()),
        None => Some(vec![default; count]),
    };
    let axes = kernel.len();
    let is_padded_by_rule = node
        .find_attribute("auto_pad")
        .is_some_and(|rule| rule.s.as_deref().is_some_and(|rule| rule != b"NOTSET"));
    let is_dense = said("dilations", 1, axes)?.iter().all(|&step| step == 1);
    if node.domain() == NCHWC || is_padded_by_rule || !is_dense {
        return None;
    }
    let pads = said(PADS, 0, 2 * axes)?;
    let (begins, ends) = pads.split_at(axes);
    let mut spans = Vec::with_capacity(axes);
    let mut grown = Vec::with_capacity(axes);
    for ((&size, &begin), &end) in kernel.iter().zip(begins).zip(ends) {
        let pads = begin.min(end)..=begin.max(end);
        // What is padded by more than its filter reads nothing but zeros somewhere.
        let usual = 0..=i64::try_from(size).ok()?;
        if size == 0 || !usual.contains(pads.start()) || !usual.contains(pads.end()) {
            return None;
        }
        let before = u64::try_from(begin).ok()?;
        grown.push(begin + end - usual.end());
        spans.push(Span { before, size });
    }
    Some((Window(spans), grown))
}

/// Whether an operator puts what it reads one after the other along the channels.
pub(super) fn joins(node: &NodeProto) -> bool {
    let axis = node.find_attribute("axis").and_then(|axis| axis.i);
    matches!(node.domain(), "" | "ai.onnx") && node.op_type() == "Concat" && axis == Some(1)
}

/// Makes the convolutions of a part into one; they are all that it has and can be stacked, or
/// besides them it has what joins all that they give.
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
    let (nodes, whole) = in_order(nodes);
    let Some(first) = nodes.first() else {
        return Ok(());
    };
    let weights = std::mem::take(&mut graph.initializer);
    let weights: BTreeMap<&str, &TensorProto> = weights
        .iter()
        .map(|weight| (weight.name(), weight))
        .collect();
    let kernel = |node: &NodeProto| -> Vec<u64> {
        let filter = node
            .input
            .get(1)
            .and_then(|name| weights.get(name.as_str()));
        let sizes = filter
            .and_then(|filter| filter.dims.get(2..))
            .unwrap_or(&[]);
        let sizes = sizes.iter().map(|&size| u64::try_from(size).unwrap_or(0));
        sizes.collect()
    };
    let windows = nodes
        .iter()
        .map(|node| Some(window(node, &kernel(node))?.0));
    let windows = windows.collect::<Option<Vec<Window>>>().unwrap_or_default();
    let joined = windows
        .iter()
        .cloned()
        .reduce(|one, other| one.joined(&other));
    // Equal ones stay as they are.
    let joined = joined.filter(|joined| windows.iter().any(|one| one != joined));
    let paddings = joined.as_ref().map(|joined| (joined, &windows[..]));
    let (filter, sizes) = stacked(FILTER, &nodes, (1, &weights), paddings)?;
    let has_bias = first.input.get(2).is_some_and(|bias| !bias.is_empty());
    let mut convolution = NodeProto {
        input: vec![first.input[0].clone(), FILTER.to_owned()],
        output: vec![whole.clone().unwrap_or_else(|| OUTPUT.to_owned())],
        ..first.clone()
    };
    if let Some(joined) = &joined {
        pad_to(&mut convolution, &kernel(first), joined);
    }
    graph.initializer.push(filter);
    if has_bias {
        let (bias, _) = stacked(BIAS, &nodes, (2, &weights), None)?;
        graph.initializer.push(bias);
        convolution.input.push(BIAS.to_owned());
    }
    let outputs = nodes.iter().flat_map(|node| &node.output);
    let outputs: Vec<&str> = outputs.map(String::as_str).collect();
    graph.node = match whole {
        Some(_) => vec![convolution],
        None => {
            let split = split(graph, (opset, &sizes), &outputs);
            vec![convolution, split]
        }
    };
    if joined.is_some() || graph.node.len() == 1 {
        // They describe tensors that are not there any more.
        graph.value_info.clear();
    }
    Ok(())
}

/// The convolutions of a part, in the order in which what they give is joined; and the name of
/// that where it is.
fn in_order(nodes: Vec<NodeProto>) -> (Vec<NodeProto>, Option<String>) {
    let (joins, convolutions): (Vec<_>, Vec<_>) = nodes.into_iter().partition(joins);
    // In their order, so that the last one gives all.
    let Some(last) = joins.last().and_then(|last| last.output.first()) else {
        return (convolutions, None);
    };
    let mut order: Vec<&str> = vec![last];
    for join in joins.iter().rev() {
        let output = join.output.first().map(String::as_str);
        if let Some(place) = order.iter().position(|&name| Some(name) == output) {
            order.splice(place..=place, join.input.iter().map(String::as_str));
        }
    }
    let place = |node: &NodeProto| {
        let output = node.output.first().map(String::as_str);
        order.iter().position(|&name| Some(name) == output)
    };
    let mut ordered = convolutions;
    ordered.sort_by_key(place);
    (ordered, Some(last.clone()))
}

/// Gives a convolution, whose kernel is this, the kernel and padding of a window that holds its own.
fn pad_to(node: &mut NodeProto, kernel: &[u64], window: &Window) {
    let Some((_, grown)) = self::window(node, kernel) else {
        return;
    };
    let sizes: Vec<i64> = window.0.iter().map(|span| int(span.size)).collect();
    let begins = window.0.iter().map(|span| int(span.before));
    let ends = window.0.iter().zip(&grown);
    let ends = ends.map(|(span, grown)| grown + int(span.size) - int(span.before));
    let pads: Vec<i64> = begins.chain(ends).collect();
    node.attribute
        .retain(|attribute| ![KERNEL, PADS].contains(&attribute.name()));
    node.attribute.push(AttributeProto::ints(KERNEL, &sizes));
    node.attribute.push(AttributeProto::ints(PADS, &pads));
}

/// Filters of a window in a larger one, with zeros around them; `None` where the bytes are not of so
/// many filters.
fn padded(bytes: &[u8], filters: usize, (own, window): (&Window, &Window)) -> Option<Vec<u8>> {
    let count = |window: &Window| usize::try_from(window.places()).ok();
    let (places, places_after) = (count(own)?, count(window)?);
    let size = bytes.len().checked_div(filters * places)?;
    if size * filters * places != bytes.len() {
        return None;
    }
    // By place of the smaller window: the one in the larger.
    let mut moved = vec![0_usize];
    for (own, window) in own.0.iter().zip(&window.0) {
        let first = usize::try_from(window.before.checked_sub(own.before)?).ok()?;
        let (from, to) = (
            usize::try_from(own.size).ok()?,
            usize::try_from(window.size).ok()?,
        );
        let along = |&place: &usize| (0..from).map(move |at| place * to + first + at);
        moved = moved.iter().flat_map(along).collect();
    }
    let mut found = vec![0; filters * places_after * size];
    for (place, value) in bytes.chunks_exact(size.max(1)).enumerate() {
        let (filter, own) = (place / places, place % places);
        let to = (filter * places_after + moved.get(own)?) * size;
        found.get_mut(to..to + size)?.copy_from_slice(value);
    }
    Some(found)
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
/// there. Filters are padded to the first of these windows, from those of the others.
fn stacked(
    name: &str,
    nodes: &[NodeProto],
    (place, weights): (usize, &BTreeMap<&str, &TensorProto>),
    windows: Option<(&Window, &[Window])>,
) -> Result<(TensorProto, Vec<i64>), StackError> {
    let mut bytes = Vec::new();
    let mut lengths = Vec::with_capacity(nodes.len());
    let mut alike: Option<(DataType, Vec<i64>)> = None;
    for (index, node) in nodes.iter().enumerate() {
        let weight = node.input.get(place).map_or("", String::as_str);
        let (operator, weight_name) = (node.name().to_owned(), weight.to_owned());
        let Some(&tensor) = weights.get(weight) else {
            return Err(StackError::NoWeight {
                operator,
                weight: weight_name,
            });
        };
        let unlike = || StackError::Shape {
            operator: operator.clone(),
            weight: weight_name.clone(),
        };
        let element = tensor.element_type()?;
        let (&length, rest) = tensor.dims.split_first().ok_or_else(unlike)?;
        let (mut rest, mut own) = (rest.to_vec(), tensor.to_bytes()?.to_vec());
        if let Some((window, windows)) = windows {
            let channels = rest.first().copied().ok_or_else(unlike)?;
            let filters = usize::try_from(length.saturating_mul(channels));
            let filters = filters.map_err(|_| unlike())?;
            let one = windows.get(index).ok_or_else(unlike)?;
            own = padded(&own, filters, (one, window)).ok_or_else(unlike)?;
            let sizes = window.0.iter().map(|span| int(span.size));
            rest = std::iter::once(channels).chain(sizes).collect();
        }
        if alike
            .as_ref()
            .is_some_and(|alike| *alike != (element, rest.clone()))
        {
            return Err(unlike());
        }
        alike = Some((element, rest));
        lengths.push(length);
        bytes.extend_from_slice(&own);
    }
    let (element, rest) = alike.unwrap_or((DataType::Float, Vec::new()));
    let mut dims = vec![lengths.iter().sum()];
    dims.extend(rest);
    Ok((
        TensorProto::from_bytes(name, element, &dims, bytes.into()),
        lengths,
    ))
}

fn int(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
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

    /// One of 1 x 1 and one of 1 x 3, padded by one place at both ends of the second axis.
    fn of_two_sizes() -> ModelProto {
        let mut file = file(17);
        let graph = file.graph.get_or_insert_default();
        let values: Vec<f32> = (0..9).map(|at| 100.0 + at as f32).collect();
        graph.initializer[1] = TensorProto::from_f32s("fb", &[1, 3, 1, 3], &values);
        let pads = AttributeProto::ints(PADS, &[0, 1, 0, 1]);
        graph.node[1].attribute.push(pads);
        file
    }

    #[test]
    fn smaller_filters_are_padded() {
        let mut file = of_two_sizes();
        stack(&mut file, Path::new("")).unwrap();
        let graph = file.graph.unwrap();
        let ints = |name: &str| graph.node[0].find_attribute(name).unwrap().ints.clone();
        assert_eq!((ints(KERNEL), ints(PADS)), (vec![1, 3], vec![0, 1, 0, 1]));
        let filter = &graph.initializer[0];
        assert_eq!(filter.dims, [3, 3, 1, 3]);
        let values = filter.to_f32s().unwrap();
        let first = [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0, 0.0];
        assert_eq!(values[..9], first);
        assert_eq!(
            values[18..],
            [
                100.0, 101.0, 102.0, 103.0, 104.0, 105.0, 106.0, 107.0, 108.0
            ]
        );
    }

    #[test]
    fn what_is_only_joined_is_not_split() {
        let mut file = of_two_sizes();
        let join = |name: &str, inputs: &[&str]| {
            let axis = AttributeProto::int("axis", 1);
            NodeProto::new(name, "Concat", inputs, &[name]).with([axis])
        };
        let graph = file.graph.get_or_insert_default();
        graph.node.push(join("inner", &["b_out"]));
        graph.node.push(join("all", &["inner", "a_out"]));
        stack(&mut file, Path::new("")).unwrap();
        let graph = file.graph.unwrap();
        let [convolution] = &graph.node[..] else {
            panic!("one convolution");
        };
        assert_eq!(convolution.output, ["all"]);
        let weight = |place: usize| graph.initializer[place].to_f32s().unwrap();
        assert_eq!(
            weight(0)[..2],
            [100.0, 101.0],
            "in the order in which they are joined"
        );
        assert_eq!(weight(1), [60.0, 50.0, 51.0]);
    }

    #[test]
    fn only_concatenations_of_channels_join() {
        let concat = |axis| {
            NodeProto::new("c", "Concat", &["a", "b"], &["c"])
                .with([AttributeProto::int("axis", axis)])
        };
        assert!(joins(&concat(1)));
        assert!(!joins(&concat(2)));
        assert!(!joins(&NodeProto::new("c", "Sum", &["a", "b"], &["c"])));
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
        let of = |node: &NodeProto| Some(stacks(node, &dims)?.alike);
        let one = convolution("a", "one", "bias");
        assert!(of(&one).is_some());
        assert_eq!(of(&one), of(&convolution("b", "other", "bias")));
        assert_eq!(of(&one), of(&convolution("c", "more", "bias")));
        let wide = convolution("d", "wide", "bias");
        assert_ne!(of(&one), of(&wide), "without padding it gives less");
        let around = |node: &NodeProto| {
            let pads = AttributeProto::ints(PADS, &[1, 1, 1, 1]);
            node.clone().with([pads])
        };
        assert_eq!(of(&one), of(&around(&wide)));
        assert_ne!(of(&one), of(&around(&one)), "it gives more");
        let rule = |node: &NodeProto, rule: &'static str| {
            let said = AttributeProto {
                s: Some(rule.into()),
                ..AttributeProto::int("auto_pad", 0)
            };
            node.clone().with([said])
        };
        let by_rule = [&one, &wide].map(|node| of(&rule(node, "SAME_UPPER")));
        assert_ne!(by_rule[0], by_rule[1], "only equal ones");
        let said = [&one, &around(&wide)].map(|node| of(&rule(node, "NOTSET")));
        assert_eq!(said[0], said[1]);
        let steps = AttributeProto::ints("dilations", &[2, 2]);
        let sparse = [&one, &around(&wide)].map(|node| of(&node.clone().with([steps.clone()])));
        assert_ne!(sparse[0], sparse[1], "only equal ones");
        let far = |begin, end| {
            let pads = AttributeProto::ints(PADS, &[begin, begin, end, end]);
            stacks(&one.clone().with([pads]), &dims).map(|stacks| stacks.window)
        };
        assert_eq!(far(i64::MAX, i64::MAX), Some(Window::default()));
        assert_eq!(
            far(9, -9),
            Some(Window::default()),
            "it has a window of one size"
        );
        assert_ne!(far(1, 1), Some(Window::default()));
        let blocked = [&one, &around(&wide)].map(|node| NodeProto {
            domain: Some(NCHWC.to_owned()),
            ..node.clone()
        });
        assert_ne!(of(&blocked[0]), of(&blocked[1]), "only equal ones");
        assert_eq!(of(&blocked[0]), of(&blocked[0].clone()));
        assert_ne!(of(&one), of(&convolution("e", "other", "")), "no bias");
        assert_eq!(of(&convolution("f", "computed", "bias")), None);
        let grouped = convolution("g", "one", "bias").with([AttributeProto::int("group", 2)]);
        assert_eq!(of(&grouped), None);
        let mut summing = one;
        summing.input.push("sum".to_owned());
        assert_eq!(of(&summing), None);
    }
}
