//! Expectation files: inputs and the outputs they must give.
//!
//! `DIR/<model>.json` holds, for one model, cases of one item each. The outputs come from
//! the model run by itself, at batch 1, so that a server that batches is checked against
//! answers that no batch touched.

use super::tensor::{Tensor, TensorError, TensorFile};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// The schema of expectation files.
pub const EXPECT_SCHEMA: &str = "fugato.expect/1";

/// Inputs and the outputs they must give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// One tensor per input.
    pub inputs: Vec<Tensor>,
    /// One tensor per output that is checked.
    pub outputs: Vec<Tensor>,
}

/// Why an expectation file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpectError {
    /// The model's name cannot name a file.
    #[error("model name `{model}` cannot name an expectation file")]
    Name {
        /// The name.
        model: String,
    },
    /// The file could not be read or written.
    #[error("cannot access expectation file `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not of the format.
    #[error("expectation file `{}` is not valid", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// The file is of another schema, model, or has no cases.
    #[error("expectation file `{}` has {key} `{found}`, expected `{expected}`", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A tensor of the file is not valid.
    #[error("expectation file `{}` has a bad tensor", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: TensorError,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectFile {
    schema: String,
    model: String,
    cases: Vec<CaseFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    inputs: Vec<TensorFile>,
    outputs: Vec<TensorFile>,
}

/// The cases of `model` in `dir`; at least one.
///
/// # Errors
/// [`ExpectError`], with the file and what is wrong in it.
pub fn read_cases(dir: &Path, model: &str) -> Result<Vec<Case>, ExpectError> {
    let path = case_path(dir, model)?;
    let text = std::fs::read(&path).map_err(|source| ExpectError::Io {
        path: path.clone(),
        source,
    })?;
    let file: ExpectFile = serde_json::from_slice(&text).map_err(|source| ExpectError::Format {
        path: path.clone(),
        source,
    })?;
    let content = |key, found: &str, expected: &str| ExpectError::Content {
        path: path.clone(),
        key,
        found: found.to_owned(),
        expected: expected.to_owned(),
    };
    if file.schema != EXPECT_SCHEMA {
        return Err(content("schema", &file.schema, EXPECT_SCHEMA));
    }
    if file.model != model {
        return Err(content("model", &file.model, model));
    }
    if file.cases.is_empty() {
        return Err(content("cases", "[]", "at least one case"));
    }
    let tensors = |files: Vec<TensorFile>| -> Result<Vec<Tensor>, ExpectError> {
        let tensors = files.into_iter().map(Tensor::from_file);
        tensors
            .collect::<Result<_, _>>()
            .map_err(|source| ExpectError::Tensor {
                path: path.clone(),
                source,
            })
    };
    let cases = file.cases.into_iter().map(|case| {
        Ok(Case {
            inputs: tensors(case.inputs)?,
            outputs: tensors(case.outputs)?,
        })
    });
    cases.collect()
}

/// Writes the cases of `model` into `dir`, which is made where it does not exist.
///
/// # Errors
/// [`ExpectError::Name`] or [`ExpectError::Io`].
pub fn write_cases(dir: &Path, model: &str, cases: &[Case]) -> Result<PathBuf, ExpectError> {
    let path = case_path(dir, model)?;
    let tensors = |tensors: &[Tensor]| tensors.iter().map(Tensor::to_file).collect();
    let file = ExpectFile {
        schema: EXPECT_SCHEMA.to_owned(),
        model: model.to_owned(),
        cases: cases
            .iter()
            .map(|case| CaseFile {
                inputs: tensors(&case.inputs),
                outputs: tensors(&case.outputs),
            })
            .collect(),
    };
    let io = |source| ExpectError::Io {
        path: path.clone(),
        source,
    };
    let text = serde_json::to_vec(&file).map_err(|source| ExpectError::Format {
        path: path.clone(),
        source,
    })?;
    std::fs::create_dir_all(dir).map_err(io)?;
    std::fs::write(&path, text).map_err(io)?;
    Ok(path)
}

fn case_path(dir: &Path, model: &str) -> Result<PathBuf, ExpectError> {
    if model.is_empty() || model.starts_with('.') || model.contains(['/', '\\', '\0']) {
        return Err(ExpectError::Name {
            model: model.to_owned(),
        });
    }
    Ok(dir.join(format!("{model}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use fugato_device::ElementType;

    fn case() -> Case {
        Case {
            inputs: vec![Tensor {
                name: "text".to_owned(),
                element: ElementType::Bytes,
                shape: vec![1, 2],
                data: Bytes::from_static(b"\x01\0\0\0\xff\0\0\0\0"),
            }],
            outputs: vec![Tensor {
                name: "y".to_owned(),
                element: ElementType::Fp32,
                shape: vec![1],
                data: Bytes::from_static(&[0, 0, 128, 63]),
            }],
        }
    }

    #[test]
    fn cases_survive_the_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write_cases(dir.path(), "m", &[case(), case()]).expect("writable");
        let read = read_cases(dir.path(), "m").expect("own format");
        assert_eq!(read, [case(), case()]);
    }

    #[test]
    fn what_is_not_the_format_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = write_cases(dir.path(), "m", &[case()]).expect("writable");
        let text = std::fs::read_to_string(&path).expect("written");
        let edits = [
            ("expect/1", "expect/9", "schema"),
            ("\"m\"", "\"n\"", "model"),
            ("FP32", "FP33", "bad tensor"),
            ("AACAPw==", "AACA", "bad tensor"),
            ("AACAPw==", "!", "bad tensor"),
            ("\"cases\"", "\"caeses\"", "not valid"),
        ];
        for (from, to, part) in edits {
            std::fs::write(&path, text.replace(from, to)).expect("writable");
            let error = read_cases(dir.path(), "m").expect_err(to).to_string();
            assert!(error.contains(part), "{error}");
        }
        for name in ["../m", "", ".m", "a/b"] {
            assert!(matches!(
                read_cases(dir.path(), name),
                Err(ExpectError::Name { .. })
            ));
        }
        assert!(matches!(
            read_cases(dir.path(), "none"),
            Err(ExpectError::Io { .. })
        ));
    }
}
