//! Parts of a stored model: some of its operators as a model of their own.
//!
//! A part is an ONNX file in the entry's folder, beside the weight file that its
//! initializers point into. Its name is the hash of its content, so a file under a name
//! is right whoever wrote it, and parts of different plans share the files of operators
//! they have in common. Parts go with the entry's folder.

use super::entry::Draft;
use super::error::LoadCause;
use super::operators::{ModelGraph, captured};
use super::stack::{StackError, stack};
use fugato_core::{OperatorIndex, TensorIndex};
use fugato_onnx::{GraphProto, ModelProto, write_model};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// The first version of the file format in which initializers need not be inputs too.
const IR_VERSION_MIN: i64 = 4;

/// Some operators of a model, as a file that the runtime loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    /// The operators it is made of.
    pub(crate) operators: BTreeSet<OperatorIndex>,
    /// What it reads, weights left out, in the file's order.
    pub(crate) inputs: Vec<TensorIndex>,
    /// What others read of it or the model answers, in the file's order.
    pub(crate) outputs: Vec<TensorIndex>,
    /// The weights it reads.
    pub(crate) weights: BTreeSet<String>,
}

/// Why operators cannot be made into a part.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CutError {
    /// The graph has no such operator.
    #[error("the model has {operators} operators, no {found}")]
    NoSuchOperator {
        /// The operator asked for.
        found: OperatorIndex,
        /// How many there are.
        operators: usize,
    },
    /// An operator is in two parts, or in none.
    #[error("{operator} is in {found} parts of the plan, expected one")]
    NotOnce {
        /// The operator, as messages name it.
        operator: String,
        /// How many parts it is in.
        found: usize,
    },
    /// A part reads what no part before it, and no input, gives.
    #[error("{operator} runs before what gives its input `{tensor}`")]
    TooEarly {
        /// The operator, as messages name it.
        operator: String,
        /// What it reads.
        tensor: String,
    },
    /// A tensor that must stay within a part.
    #[error("the model cannot be cut at `{tensor}`: {reason}")]
    Uncut {
        /// The tensor.
        tensor: String,
        /// Why not.
        reason: String,
    },
    /// No legs, or more than can be counted.
    #[error("the plan has {found} legs, expected 1 to {}", u16::MAX)]
    Legs {
        /// How many.
        found: usize,
    },
    /// Operators that are to be one are not alike.
    #[error(
        "{operator} cannot be merged with {other}: they do not read the same, or are not alike"
    )]
    NotAlike {
        /// An operator, as messages name it.
        operator: String,
        /// Another.
        other: String,
    },
    /// Operators that are alike cannot be made one.
    #[error("operators cannot be merged")]
    Stack(#[from] StackError),
    /// The model must stay in one piece.
    #[error("the model cannot be cut: {0}")]
    Indivisible(#[from] super::operators::Indivisible),
}

/// What a set of operators reads and gives.
pub(super) struct Border {
    operators: BTreeSet<OperatorIndex>,
    inputs: Vec<TensorIndex>,
    outputs: Vec<TensorIndex>,
    /// Whether its operators run as one.
    merged: bool,
}

impl Border {
    /// The border around operators of the model.
    ///
    /// # Errors
    /// [`CutError::Uncut`].
    pub(super) fn of(
        model: &ModelGraph,
        operators: impl IntoIterator<Item = OperatorIndex>,
    ) -> Result<Self, CutError> {
        let graph = model.graph();
        let operators: BTreeSet<_> = operators.into_iter().collect();
        let is_inside = |index: OperatorIndex| operators.contains(&index);
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for &index in &operators {
            let operator = graph.operator(index);
            for &input in &operator.inputs {
                let is_outer = graph.producer(input).is_none_or(|from| !is_inside(from));
                if is_outer && !graph.tensor(input).weight && !inputs.contains(&input) {
                    inputs.push(input);
                }
            }
            for &output in &operator.outputs {
                let mut consumers = graph.consumers(output).iter();
                if graph.outputs().contains(&output)
                    || consumers.any(|&consumer| !is_inside(consumer))
                {
                    outputs.push(output);
                }
            }
        }
        let is_port = |tensor: &TensorIndex| {
            graph.inputs().contains(tensor) || graph.outputs().contains(tensor)
        };
        for &tensor in inputs.iter().chain(&outputs) {
            let found = graph.tensor(tensor);
            if let (Some(reason), false) = (&found.uncut, is_port(&tensor)) {
                return Err(CutError::Uncut {
                    tensor: found.name.clone(),
                    reason: reason.clone(),
                });
            }
        }
        Ok(Self {
            operators,
            inputs,
            outputs,
            merged: false,
        })
    }

    /// The same, of operators that run as one.
    ///
    /// # Errors
    /// [`CutError::NotAlike`].
    pub(super) fn merged(self, model: &ModelGraph) -> Result<Self, CutError> {
        let graph = model.graph();
        let mut operators = self.operators.iter();
        let (Some(&first), Some(&last)) = (operators.next(), operators.next_back()) else {
            // One operator is as it is.
            return Ok(self);
        };
        let lists = graph.stackable();
        let list = lists.iter().find(|list| list.contains(&first));
        // All of them, and what joins what they give.
        let join = list.and_then(|list| graph.join_of(list));
        let with_join = list.into_iter().flatten().chain(join.iter().flatten());
        if join.is_some() && with_join.copied().collect::<BTreeSet<_>>() == self.operators {
            return Ok(Self {
                merged: true,
                ..self
            });
        }
        let is_alike = |index: &OperatorIndex| list.is_some_and(|list| list.contains(index));
        match self.operators.iter().find(|index| !is_alike(index)) {
            None => Ok(Self {
                merged: true,
                ..self
            }),
            Some(&other) => Err(CutError::NotAlike {
                operator: graph.label(first),
                other: graph.label(if other == first { last } else { other }),
            }),
        }
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = TensorIndex> {
        self.outputs.iter().copied()
    }

    /// Whether everything that is read from elsewhere is among what is `given`.
    pub(super) fn check_given(
        &self,
        model: &ModelGraph,
        given: &BTreeSet<TensorIndex>,
    ) -> Result<(), CutError> {
        let Some(&missing) = self.inputs.iter().find(|input| !given.contains(input)) else {
            return Ok(());
        };
        let graph = model.graph();
        let mut readers = self.operators.iter();
        let reader = readers.find(|&&index| graph.operator(index).inputs.contains(&missing));
        Err(CutError::TooEarly {
            operator: reader.map_or_else(String::new, |&index| graph.label(index)),
            tensor: graph.tensor(missing).name.clone(),
        })
    }
}

/// What the file of these operators is known by: its operators, the shapes between them, and
/// where its weights lie in the file beside it.
///
/// # Errors
/// [`CutError::Uncut`], and where the file cannot be written down.
pub(super) fn known_by(
    model: &ModelGraph,
    operators: impl IntoIterator<Item = OperatorIndex>,
) -> Result<String, LoadCause> {
    let border = Border::of(model, operators)?;
    let content = content_of(&file_of(model, &border).0);
    let content = content.map_err(|source| LoadCause::Store {
        path: PathBuf::new(),
        action: "described",
        source,
    })?;
    Ok(hash_of(&content))
}

fn content_of(file: &ModelProto) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    write_model(file, &mut content).map_err(io::Error::other)?;
    Ok(content)
}

fn hash_of(content: &[u8]) -> String {
    blake3::hash(content).to_hex()[..32].to_owned()
}

/// Writes parts into the entry's folder where they are not there yet. `None` for those
/// that give nothing anybody reads.
pub(super) fn write(
    entry: &Path,
    model: &ModelGraph,
    borders: &[Border],
) -> Result<Vec<Option<Part>>, LoadCause> {
    let failed = |source| LoadCause::Store {
        path: entry.to_owned(),
        action: "added to",
        source,
    };
    let mut draft = None;
    let mut parts = Vec::with_capacity(borders.len());
    for border in borders {
        if border.outputs.is_empty() {
            parts.push(None);
            continue;
        }
        let (mut file, mut weights) = file_of(model, border);
        if border.merged {
            stack(&mut file, entry).map_err(CutError::Stack)?;
            weights.clear();
        }
        let content = content_of(&file).map_err(failed)?;
        let path = entry.join(format!("part-{}.onnx", hash_of(&content)));
        if !holds(&path, &content) {
            let draft = match &draft {
                Some(draft) => draft,
                None => {
                    let store = entry.parent().unwrap_or(Path::new(""));
                    draft.insert(Draft::new(store).map_err(failed)?)
                }
            };
            // Written elsewhere first, so that no one ever loads half a file.
            let written = draft.path("part.onnx");
            std::fs::write(&written, &content).map_err(failed)?;
            std::fs::rename(&written, &path).map_err(failed)?;
        }
        parts.push(Some(Part {
            path,
            operators: border.operators.clone(),
            inputs: border.inputs.clone(),
            outputs: border.outputs.clone(),
            weights,
        }));
    }
    Ok(parts)
}

/// Whether the file is there, and whole.
fn holds(path: &Path, content: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|found| found == content)
}

/// The part as a model, and the weights it reads.
fn file_of(model: &ModelGraph, border: &Border) -> (ModelProto, BTreeSet<String>) {
    let whole = model.model();
    let empty = GraphProto::default();
    let onnx = model.onnx().unwrap_or(&empty);
    let nodes = border.operators.iter();
    let nodes: Vec<_> = nodes
        .map(|index| onnx.node[index.place()].clone())
        .collect();
    let mut read: BTreeSet<&str> = BTreeSet::new();
    for node in &nodes {
        read.extend(node.input.iter().map(String::as_str));
        read.extend(captured(node));
    }
    let initializer = onnx.initializer.iter();
    let initializer: Vec<_> = initializer
        .filter(|tensor| read.contains(tensor.name()))
        .cloned()
        .collect();
    let sparse = onnx.sparse_initializer.iter().filter(|sparse| {
        let values = sparse.values.as_ref();
        values.is_some_and(|values| read.contains(values.name()))
    });
    let weights = initializer.iter().map(|tensor| tensor.name().to_owned());
    let weights = weights.collect();
    let graph = model.graph();
    let ports = |tensors: &[TensorIndex]| {
        let ports = tensors.iter().map(|&tensor| {
            let name = &graph.tensor(tensor).name;
            let known = onnx.input.iter().chain(&onnx.output);
            // As the author described it, where that is so.
            let known = known.into_iter().find(|port| port.name() == name).cloned();
            known.or_else(|| model.value_info(tensor))
        });
        ports.flatten().collect()
    };
    let inner = border.operators.iter();
    let inner = inner.flat_map(|&index| graph.operator(index).outputs.iter());
    let inner = inner.filter(|tensor| !border.outputs.contains(tensor));
    let part = GraphProto {
        name: onnx.name.clone(),
        input: ports(&border.inputs),
        output: ports(&border.outputs),
        value_info: inner
            .filter_map(|&tensor| model.value_info(tensor))
            .collect(),
        sparse_initializer: sparse.cloned().collect(),
        node: nodes,
        initializer,
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: Some(whole.ir_version.unwrap_or(0).max(IR_VERSION_MIN)),
        opset_import: whole.opset_import.clone(),
        functions: whole.functions.clone(),
        graph: Some(part),
        ..ModelProto::default()
    };
    (model, weights)
}
