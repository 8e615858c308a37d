//! What a model says about itself.

use super::error::LoadCause;
use super::wire::Header;
use crate::capi::{Session, TypeInfo};
use crate::tensor::{ElementType, TensorSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a model file says about itself, as its author wrote it (before optimisation).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its inputs, in the model's order.
    #[serde(with = "specs")]
    pub inputs: Vec<TensorSpec>,
    /// Its outputs, in the model's order.
    #[serde(with = "specs")]
    pub outputs: Vec<TensorSpec>,
    /// Whether requests may share a run.
    pub batching: Batching,
    /// Bytes of its weights: every tensor in the file and its external data.
    pub weight_bytes: u64,
    /// The content hash of the file and its external data (BLAKE3, hexadecimal).
    pub hash: String,
    /// The version of the ONNX file format.
    pub ir_version: u64,
    /// The tool that wrote it; may be empty.
    pub producer: String,
    /// That tool's version; may be empty.
    pub producer_version: String,
    /// The operator sets it uses: domain (empty for ONNX's own) and version.
    pub opsets: Vec<(String, u64)>,
    /// The author's own key-value pairs.
    pub custom: BTreeMap<String, String>,
}

/// Whether the rows of several requests may be put side by side in one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batching {
    /// The first dimension of every input and output is the batch, and its rows do not
    /// depend on each other as far as running the model shows.
    Batchable,
    /// One request per run.
    Single {
        /// Why, for people: ``input `mask` has a fixed first dimension (1)``.
        reason: String,
    },
}

impl Batching {
    /// Whether requests may share a run.
    pub fn is_batchable(&self) -> bool {
        matches!(self, Self::Batchable)
    }

    /// Decides from the interface: every first dimension varies, and those that have a
    /// symbol have the same one (a file that names none at all counts as one name).
    pub fn of(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Self {
        match Self::obstacle(inputs, outputs) {
            Some(reason) => Self::Single { reason },
            None => Self::Batchable,
        }
    }

    fn obstacle(inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Option<String> {
        if let Some(reason) = fixed_first_dimension(inputs, outputs) {
            return Some(reason);
        }
        let name = |symbol: &Option<String>| match symbol {
            Some(symbol) => format!("calls its first dimension `{symbol}`"),
            None => "does not name its first dimension".to_owned(),
        };
        let mut all = labelled(inputs, outputs);
        let (first_label, first) = all.next()?;
        let (label, other) = all.find(|(_, spec)| spec.symbols[0] != first.symbols[0])?;
        Some(format!(
            "{label} `{}` {}, while {first_label} `{}` {}",
            other.name,
            name(&other.symbols[0]),
            first.name,
            name(&first.symbols[0]),
        ))
    }
}

/// Inputs then outputs, each with the word for it.
fn labelled<'a>(
    inputs: &'a [TensorSpec],
    outputs: &'a [TensorSpec],
) -> impl Iterator<Item = (&'static str, &'a TensorSpec)> {
    let inputs = inputs.iter().map(|spec| ("input", spec));
    inputs.chain(outputs.iter().map(|spec| ("output", spec)))
}

/// Why no first dimension can be a batch whatever its name, if so.
pub(crate) fn fixed_first_dimension(
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
) -> Option<String> {
    if inputs.is_empty() {
        return Some("it has no input".to_owned());
    }
    labelled(inputs, outputs).find_map(|(label, spec)| match spec.shape.first() {
        None => Some(format!("{label} `{}` is a scalar", spec.name)),
        Some(Some(fixed)) => Some(format!(
            "{label} `{}` has a fixed first dimension ({fixed})",
            spec.name
        )),
        Some(None) => None,
    })
}

impl ModelInfo {
    /// Reads the interface off a session of the original model.
    pub(super) fn read(
        session: &Session,
        header: Header,
        weight_bytes: u64,
        hash: String,
    ) -> Result<Self, LoadCause> {
        let inputs = session.inputs().map_err(LoadCause::Runtime)?;
        let outputs = session.outputs().map_err(LoadCause::Runtime)?;
        let inputs = tensors("input", inputs)?;
        let outputs = tensors("output", outputs)?;
        Ok(Self {
            batching: Batching::of(&inputs, &outputs),
            inputs,
            outputs,
            weight_bytes,
            hash,
            ir_version: header.ir_version,
            producer: header.producer,
            producer_version: header.producer_version,
            opsets: header.opsets,
            custom: header.custom,
        })
    }
}

/// The specs of inputs or outputs, all of which must be tensors.
pub(crate) fn tensors(
    direction: &'static str,
    values: Vec<(String, TypeInfo)>,
) -> Result<Vec<TensorSpec>, LoadCause> {
    let spec = |(name, info)| match info {
        TypeInfo::Other(found) => Err(LoadCause::NotATensor {
            direction,
            name,
            found,
        }),
        TypeInfo::Tensor { element: None, .. } => Err(LoadCause::ElementType { direction, name }),
        TypeInfo::Tensor {
            element: Some(element),
            dims,
            symbols,
            ..
        } => Ok(TensorSpec {
            name,
            element,
            shape: dims.iter().map(|&dim| u64::try_from(dim).ok()).collect(),
            symbols,
        }),
    };
    values.into_iter().map(spec).collect()
}

/// Tensor specs in the store's own files, element types by their protocol names.
mod specs {
    use super::{ElementType, TensorSpec};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Spec {
        name: String,
        element: String,
        shape: Vec<Option<u64>>,
        symbols: Vec<Option<String>>,
    }

    pub(super) fn serialize<S: Serializer>(
        specs: &[TensorSpec],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(specs.iter().map(|spec| Spec {
            name: spec.name.clone(),
            element: spec.element.oip_name().to_owned(),
            shape: spec.shape.clone(),
            symbols: spec.symbols.clone(),
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<TensorSpec>, D::Error> {
        let specs = Vec::<Spec>::deserialize(deserializer)?;
        let parse = |spec: Spec| {
            let element = ElementType::from_oip_name(&spec.element)
                .ok_or_else(|| D::Error::custom(format!("element type `{}`", spec.element)))?;
            Ok(TensorSpec {
                name: spec.name,
                element,
                shape: spec.shape,
                symbols: spec.symbols,
            })
        };
        specs.into_iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, first: Option<u64>, symbol: Option<&str>) -> TensorSpec {
        TensorSpec {
            name: name.to_owned(),
            element: ElementType::Fp32,
            shape: vec![first, Some(4)],
            symbols: vec![symbol.map(str::to_owned), None],
        }
    }

    #[test]
    fn batching_needs_one_varying_first_dimension() {
        let x = spec("x", None, Some("batch"));
        let cases = [
            (spec("y", None, Some("batch")), None),
            (
                spec("y", None, Some("n")),
                Some(
                    "output `y` calls its first dimension `n`, while input `x` calls its first dimension `batch`",
                ),
            ),
            (
                spec("y", None, None),
                Some(
                    "output `y` does not name its first dimension, while input `x` calls its first dimension `batch`",
                ),
            ),
            (
                spec("y", Some(1), None),
                Some("output `y` has a fixed first dimension (1)"),
            ),
        ];
        for (y, expected) in cases {
            let found = Batching::of(std::slice::from_ref(&x), &[y]);
            let expected = match expected {
                None => Batching::Batchable,
                Some(reason) => Batching::Single {
                    reason: reason.to_owned(),
                },
            };
            assert_eq!(found, expected);
        }
        let unnamed = Batching::of(&[spec("x", None, None)], &[spec("y", None, None)]);
        assert!(unnamed.is_batchable());
        assert!(!Batching::of(&[], &[spec("y", None, None)]).is_batchable());
    }
}
