//! A model in half precision: its floats of 32 bits become ones of 16, where an operator can
//! take them.
//!
//! A tensor `t` of floats keeps its name in 32 bits and is called `t:half` in 16; where
//! somebody needs the one and somebody gives the other, a cast stands between. So inputs,
//! outputs and what subgraphs read from around them stay as they are, and an operator that
//! is left alone finds what it read before. Which operators are left alone is what the
//! converters in common use leave alone, and besides all that change types themselves.

use super::operators::captured;
use fugato_core::profile::Precision;
use fugato_onnx::proto::{AttributeProto, ValueInfoProto};
use fugato_onnx::{DataType, ExternalDataError, ModelProto, NodeProto, TensorError, TensorProto};
use fugato_onnx::{GraphProto, load_external_data};
use half::f16;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a model of this content is known by in a precision. Raise the number when the conversion
/// changes.
pub(super) fn hash_in(precision: Precision, content: &str) -> String {
    match precision {
        Precision::Fp32 => content.to_owned(),
        Precision::Fp16 => {
            let of = format!("fp16 2\n{content}");
            blake3::hash(of.as_bytes()).to_hex().to_string()
        }
    }
}

/// Why a model cannot be converted to half precision.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HalfError {
    /// The type of a tensor is not known, or it is none.
    #[error(
        "{operator} reads or gives `{tensor}`, which is not a tensor or of a type that ONNX Runtime \
         cannot tell; hint: serve the model with `precision = \"fp32\"`"
    )]
    UnknownType {
        /// The operator, as messages name it.
        operator: String,
        /// What it reads or gives.
        tensor: String,
    },
    /// A weight cannot be read from the file beside the model.
    #[error(transparent)]
    External(#[from] ExternalDataError),
    /// A weight's bytes are not what its shape asks for.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// A converted model.
pub(super) struct Halved {
    /// Its weights within it.
    pub(super) model: ModelProto,
    /// Constants that were beyond the range of half precision, and are at [`FAR`].
    pub(super) clipped: usize,
}

/// Where constants beyond the range of half precision are put, below zero or above it. They are
/// masks, of which several may be added and must stay finite. Source: `max_finite_val` of
/// `onnxconverter-common`, which puts all there that is farther; what is in the range stays here.
const FAR: f32 = 1e4;

/// What a tensor is called in half precision.
const SUFFIX: &str = ":half";

/// Operators of ONNX's own that are left alone: those that the common converters leave
/// (`onnxconverter-common`), those that name the type of what they give, and those whose
/// floats are parameters of integers.
const LEFT_ALONE: [&str; 47] = [
    "Bernoulli",
    "BlackmanWindow",
    "Cast",
    "CastLike",
    "Celu",
    "Constant",
    "ConstantOfShape",
    "ConvInteger",
    "CumSum",
    "DFT",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "EyeLike",
    "HammingWindow",
    "HannWindow",
    "If",
    "ImageDecoder",
    "IsInf",
    "Loop",
    "MatMulInteger",
    "Max",
    "MelWeightMatrix",
    "Min",
    "Multinomial",
    "NonMaxSuppression",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
    "RegexFullMatch",
    "Resize",
    "ReverseSequence",
    "RoiAlign",
    "STFT",
    "Scan",
    "SequenceMap",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
    "TopK",
    "Unique",
    "Upsample",
];

/// Operators of the runtime's own that take half precision.
const OF_THE_RUNTIME: [&str; 5] = ["BiasGelu", "FastGelu", "FusedMatMul", "Gelu", "QuickGelu"];

/// Normalisations: what they give besides their result stays in 32 bits.
const NORMALISATIONS: [&str; 3] = [
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "BatchNormalization",
];

/// Converts a model in the store, which says the types of all its values and has its weights
/// in `folder`.
pub(super) fn halve(mut model: ModelProto, folder: &Path) -> Result<Halved, HalfError> {
    load_external_data(&mut model, folder)?;
    let Some(graph) = model.graph.take() else {
        return Ok(Halved { model, clipped: 0 });
    };
    let halver = Halver::of(&graph)?;
    let (graph, clipped) = halver.convert(graph)?;
    model.graph = Some(graph);
    Ok(Halved { model, clipped })
}

/// Which operators are converted, and who needs a tensor in which precision.
struct Halver {
    /// By node.
    is_half: Vec<bool>,
    floats: BTreeSet<String>,
    needed_half: BTreeSet<String>,
    needed_full: BTreeSet<String>,
    /// What converted operators give.
    given_half: BTreeSet<String>,
}

impl Halver {
    fn of(graph: &GraphProto) -> Result<Self, HalfError> {
        let types = types(graph);
        let is = |name: &str, wanted: DataType| types.get(name) == Some(&Some(wanted));
        let mut halver = Self {
            is_half: Vec::with_capacity(graph.node.len()),
            floats: types
                .keys()
                .filter(|name| is(name, DataType::Float))
                .cloned()
                .collect(),
            needed_half: BTreeSet::new(),
            needed_full: BTreeSet::new(),
            given_half: BTreeSet::new(),
        };
        let outputs = graph.output.iter();
        halver
            .needed_full
            .extend(outputs.map(|port| port.name().to_owned()));
        for node in &graph.node {
            let is_half = halver.takes_half(node);
            if is_half {
                halver.check(node, &types)?;
            }
            let read = node
                .input
                .iter()
                .filter(|name| halver.floats.contains(*name));
            match is_half {
                true => halver.needed_half.extend(read.cloned()),
                false => halver.needed_full.extend(read.cloned()),
            }
            let inside = captured(node).into_iter().map(str::to_owned);
            halver.needed_full.extend(inside);
            if is_half {
                let given = node.output.iter();
                let given = given.filter(|name| halver.floats.contains(*name));
                halver.given_half.extend(given.cloned());
            }
            halver.is_half.push(is_half);
        }
        Ok(halver)
    }

    /// Whether an operator has floats, and can have halves in their place.
    fn takes_half(&self, node: &NodeProto) -> bool {
        let op = node.op_type();
        let is_known = match node.domain() {
            "" | "ai.onnx" => !LEFT_ALONE.contains(&op),
            "com.microsoft" => OF_THE_RUNTIME.contains(&op),
            _ => false,
        };
        let mut attributes = node.attribute.iter();
        let has_inner = attributes.any(|one| one.g.is_some() || !one.graphs.is_empty());
        let more = node.output.iter().skip(1);
        let gives_more =
            NORMALISATIONS.contains(&op) && more.into_iter().any(|name| !name.is_empty());
        let mut values = node.input.iter().chain(&node.output);
        is_known && !has_inner && !gives_more && values.any(|name| self.floats.contains(name))
    }

    fn check(&self, node: &NodeProto, types: &Types) -> Result<(), HalfError> {
        let mut values = node.input.iter().chain(&node.output);
        let unknown = values
            .find(|name| !name.is_empty() && types.get(name.as_str()).copied().flatten().is_none());
        match unknown {
            None => Ok(()),
            Some(tensor) => Err(HalfError::UnknownType {
                operator: match node.name() {
                    "" => format!("an operator `{}`", node.op_type()),
                    name => format!("operator `{name}` ({})", node.op_type()),
                },
                tensor: tensor.clone(),
            }),
        }
    }

    fn convert(&self, mut graph: GraphProto) -> Result<(GraphProto, usize), HalfError> {
        let mut clipped = 0;
        let mut initializers = Vec::with_capacity(graph.initializer.len());
        let mut weights = BTreeSet::new();
        for tensor in std::mem::take(&mut graph.initializer) {
            let name = tensor.name().to_owned();
            let wanted = self.needed_half.contains(&name);
            if wanted {
                initializers.push(half_of(&tensor, &mut clipped)?);
                weights.insert(name.clone());
            }
            if !wanted || self.needed_full.contains(&name) {
                initializers.push(tensor);
            } else {
                // The file lists weights as inputs too where it is of the format's first years.
                graph.input.retain(|port| port.name() != name);
            }
        }
        graph.initializer = initializers;
        let nodes = std::mem::take(&mut graph.node);
        // What no operator gives is there in 32 bits before any of them.
        let given: BTreeSet<&String> = nodes.iter().flat_map(|node| &node.output).collect();
        let outer = self.needed_half.iter();
        let outer = outer.filter(|name| !given.contains(name) && !weights.contains(*name));
        graph.node = outer.map(|name| to_half(name)).collect();
        for (node, &is_half) in nodes.iter().zip(&self.is_half) {
            graph.node.push(match is_half {
                true => self.renamed(node),
                false => node.clone(),
            });
            let floats = node.output.iter();
            for name in floats.filter(|name| self.floats.contains(*name)) {
                if is_half && self.needed_full.contains(name) {
                    graph
                        .node
                        .push(cast(&half_name(name), name, DataType::Float));
                } else if !is_half && self.needed_half.contains(name) {
                    let constant = half_constant(node, &mut clipped)?;
                    graph.node.push(constant.unwrap_or_else(|| to_half(name)));
                }
            }
        }
        self.describe(&mut graph);
        Ok((graph, clipped))
    }

    fn renamed(&self, node: &NodeProto) -> NodeProto {
        let rename = |names: &[String]| {
            let names = names.iter();
            names
                .map(|name| match self.floats.contains(name) {
                    true => half_name(name),
                    false => name.clone(),
                })
                .collect()
        };
        NodeProto {
            input: rename(&node.input),
            output: rename(&node.output),
            ..node.clone()
        }
    }

    /// Says the types of the values that are there after the conversion.
    fn describe(&self, graph: &mut GraphProto) {
        let known = graph.value_info.iter();
        let known = known.chain(&graph.input).chain(&graph.output);
        let halves = known.filter(|value| {
            let name = value.name();
            self.needed_half.contains(name) || self.given_half.contains(name)
        });
        let halves: Vec<ValueInfoProto> = halves.map(half_value).collect();
        graph.value_info.retain(|value| {
            let name = value.name();
            !self.given_half.contains(name) || self.needed_full.contains(name)
        });
        graph.value_info.extend(halves);
    }
}

type Types = BTreeMap<String, Option<DataType>>;

/// The element types of the main graph's values; `None` for what is no tensor.
fn types(graph: &GraphProto) -> Types {
    let described = graph.value_info.iter().chain(&graph.input);
    let described = described.chain(&graph.output).map(|value| {
        let number = value.tensor_type().and_then(|tensor| tensor.elem_type);
        let found = number.and_then(|number| DataType::try_from(number).ok());
        (value.name().to_owned(), found)
    });
    let weights = graph.initializer.iter();
    let weights = weights.map(|tensor| (tensor.name().to_owned(), tensor.element_type().ok()));
    let sparse = graph.sparse_initializer.iter();
    let sparse = sparse.filter_map(|sparse| sparse.values.as_ref());
    let sparse = sparse.map(|tensor| (tensor.name().to_owned(), tensor.element_type().ok()));
    described.chain(weights).chain(sparse).collect()
}

fn half_name(name: &str) -> String {
    format!("{name}{SUFFIX}")
}

fn half_value(value: &ValueInfoProto) -> ValueInfoProto {
    let mut value = value.clone();
    value.name = Some(half_name(value.name()));
    if let Some(tensor) = value.tensor_type_mut() {
        tensor.elem_type = Some(DataType::Float16 as i32);
    }
    value
}

fn to_half(name: &str) -> NodeProto {
    cast(name, &half_name(name), DataType::Float16)
}

fn cast(from: &str, to: &str, wanted: DataType) -> NodeProto {
    let name = format!("fugato:cast:{to}");
    NodeProto::new(&name, "Cast", &[from], &[to]).with([AttributeProto::int("to", wanted as i64)])
}

/// An operator that gives a constant, giving it in half precision; `None` for any other.
fn half_constant(node: &NodeProto, clipped: &mut usize) -> Result<Option<NodeProto>, TensorError> {
    let is_constant = matches!(node.domain(), "" | "ai.onnx")
        && matches!(node.op_type(), "Constant" | "ConstantOfShape");
    let value = node.attribute.iter().find_map(|one| {
        let tensor = one.t.as_ref().filter(|_| one.name() == "value")?;
        Some((one, tensor))
    });
    let Some((attribute, tensor)) = value.filter(|_| is_constant) else {
        return Ok(None);
    };
    let attribute = AttributeProto {
        t: Some(half_of(tensor, clipped)?),
        ..attribute.clone()
    };
    // By its output: many models name no operator, and no two may have one name.
    let name = node.output.first().map_or("", String::as_str);
    Ok(Some(NodeProto {
        name: Some(format!("fugato:constant:{}", half_name(name))),
        output: node.output.iter().map(|name| half_name(name)).collect(),
        attribute: vec![attribute],
        ..node.clone()
    }))
}

/// A weight in half precision. Counts values beyond its range, which are put to [`FAR`];
/// infinities stay. What is too small to be told from zero is made the least that is not: a
/// denominator stays one.
fn half_of(tensor: &TensorProto, clipped: &mut usize) -> Result<TensorProto, TensorError> {
    let mut halve = |value: f32| {
        let near = f16::from_f32(value);
        if near.is_infinite() && value.is_finite() {
            *clipped += 1;
            return f16::from_f32(FAR.copysign(value));
        }
        match near.to_f32() == 0.0 && value != 0.0 {
            true => f16::MIN_POSITIVE_SUBNORMAL.copysign(near),
            false => near,
        }
    };
    let values = tensor.to_f32s()?;
    let bytes = values
        .iter()
        .flat_map(|&value| halve(value).to_le_bytes())
        .collect();
    let name = half_name(tensor.name());
    Ok(TensorProto::from_bytes(
        name,
        DataType::Float16,
        &tensor.dims,
        bytes,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_to_the_range_of_halves() {
        let tensor = TensorProto::from_f32s(
            "w",
            &[8],
            &[
                1.0,
                -0.1,
                1e9,
                -70_000.0,
                65_519.0,
                f32::NEG_INFINITY,
                1e-12,
                -0.0,
            ],
        );
        let mut clipped = 0;
        let half = half_of(&tensor, &mut clipped).unwrap();
        assert_eq!((half.name(), clipped), ("w:half", 2));
        let bytes = half.to_bytes().unwrap();
        let (words, _) = bytes.as_chunks::<2>();
        let values: Vec<f32> = words
            .iter()
            .map(|&word| f16::from_le_bytes(word).to_f32())
            .collect();
        let least = f16::MIN_POSITIVE_SUBNORMAL.to_f32();
        let expected = [
            1.0,
            f16::from_f32(-0.1).to_f32(),
            1e4,
            -1e4,
            65_504.0,
            f32::NEG_INFINITY,
            least,
            0.0,
        ];
        assert_eq!(values, expected);
    }

    #[test]
    fn constants_that_are_operators_keep_to_the_range_of_halves() {
        let value = |tensor| AttributeProto {
            name: Some("value".to_owned()),
            t: Some(tensor),
            ..AttributeProto::default()
        };
        let masks = TensorProto::from_f32s("v", &[1], &[-1e9]);
        for op in ["Constant", "ConstantOfShape"] {
            let node = NodeProto::new("c", op, &["shape"], &["y"]).with([value(masks.clone())]);
            let mut clipped = 0;
            let half = half_constant(&node, &mut clipped).unwrap().unwrap();
            // Another operator that has no name itself gets another.
            assert_eq!(half.name(), "fugato:constant:y:half");
            assert_eq!((half.output, clipped), (vec!["y:half".to_owned()], 1));
            assert_eq!(half.input, ["shape"]);
            let tensor = half.attribute[0].t.as_ref().unwrap();
            assert_eq!(tensor.element_type().unwrap(), DataType::Float16);
            assert_eq!(
                tensor.to_bytes().unwrap()[..],
                f16::from_f32(-1e4).to_le_bytes()
            );
        }
        let other = NodeProto::new("c", "Range", &["a", "b", "c"], &["y"]);
        assert!(half_constant(&other, &mut 0).unwrap().is_none());
    }

    #[test]
    fn lists_are_in_order() {
        assert!(LEFT_ALONE.is_sorted() && OF_THE_RUNTIME.is_sorted());
    }
}
