//! Why a model's configuration cannot be used.

use super::text::{CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX};

/// Why a model's configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelConfigError {
    /// The text is longer than [`CONFIG_BYTES_MAX`].
    #[error("the model configuration has {found} bytes, at most {CONFIG_BYTES_MAX} are read")]
    TooLong {
        /// Bytes of the text.
        found: usize,
    },
    /// Messages within messages, deeper than [`CONFIG_DEPTH_MAX`].
    #[error(
        "line {line}, column {column}: nested deeper than {CONFIG_DEPTH_MAX} levels, which no model configuration is"
    )]
    TooDeep {
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// The text is no configuration in protobuf's text format.
    #[error("line {line}, column {column}{}: {problem}", at_field(.field))]
    Text {
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// The field that was read there; empty before the first one.
        field: String,
        /// What was found and what expected.
        problem: String,
    },
    /// The text is no configuration in JSON.
    #[error("line {line}, column {column}: {problem}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What was found and what expected.
        problem: String,
    },
    /// The configuration is for another model.
    #[error(
        "the configuration of model `{expected}` has name `{found}`, expected the name of its folder\n\nhint: remove `name`, or rename the folder"
    )]
    Name {
        /// The name in the configuration.
        found: String,
        /// The model's folder.
        expected: String,
    },
    /// It asks for something without which the answers would be other ones.
    #[error("the configuration of model `{model}` sets `{path}`, which is refused: {reason}")]
    Refused {
        /// The model.
        model: String,
        /// The field, from the configuration's top.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("`{path}` in the configuration of model `{model}` is {found}, expected {expected}")]
    Value {
        /// The model.
        model: String,
        /// The field, from the configuration's top.
        path: String,
        /// The value, as a person reads it.
        found: String,
        /// What is possible.
        expected: String,
    },
    /// A declared tensor is not in the model file, or the other way round.
    #[error(
        "the configuration of model `{model}` declares {declared}, but its model file has {actual}"
    )]
    Mismatch {
        /// The model.
        model: String,
        /// What the configuration says: ``input `x` of type FP32``.
        declared: String,
        /// What the file says.
        actual: String,
    },
}

/// `` at field `a.b` ``, or nothing.
fn at_field(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!(", at field `{field}`")
    }
}
