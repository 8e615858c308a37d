//! What is wrong with a graph.

use crate::id::TensorIndex;

/// Why operators and tensors make no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Two tensors have one name.
    #[error("graph has two tensors named `{name}`: {first} and {second}")]
    SameName {
        /// The name.
        name: String,
        /// The first tensor.
        first: TensorIndex,
        /// The second tensor.
        second: TensorIndex,
    },
    /// An index is past the list of tensors.
    #[error("{user} of the graph uses {tensor}, expected one below {tensors}")]
    NoSuchTensor {
        /// The operator, or the graph's inputs or outputs.
        user: String,
        /// The index.
        tensor: TensorIndex,
        /// How many tensors there are.
        tensors: usize,
    },
    /// A tensor comes from two places.
    #[error(
        "tensor `{tensor}` of the graph comes from {first} and from {second}, expected one source"
    )]
    TwoSources {
        /// The tensor.
        tensor: String,
        /// Its first source.
        first: String,
        /// Its second source.
        second: String,
    },
    /// A tensor that is read comes from nowhere.
    #[error(
        "tensor `{tensor}`, read by {user} of the graph, comes from no operator, input or weight"
    )]
    NoSource {
        /// The tensor.
        tensor: String,
        /// The first that reads it: an operator, or the graph's outputs.
        user: String,
    },
    /// Operators wait for each other.
    #[error("graph has a circle: {}", circle(operators))]
    Circle {
        /// The operators, each waited for by the next, and the last by the first.
        operators: Vec<String>,
    },
}

/// The names of a circle; a long one is cut short, the first name said again at the end.
fn circle(operators: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut names: Vec<&str> = operators.iter().take(SHOWN).map(String::as_str).collect();
    let more = format!("{} more", operators.len().saturating_sub(SHOWN));
    if operators.len() > SHOWN {
        names.push(&more);
    }
    names.extend(operators.first().map(String::as_str));
    names.join(" -> ")
}
