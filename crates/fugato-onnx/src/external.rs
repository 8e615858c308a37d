//! Tensors whose values are in another file beside the model.
//!
//! **Invariant:** a location is a relative path of plain names. Absolute paths and `..`
//! are refused, so a model cannot read files outside its own folder. (A symbolic link
//! inside the folder is the owner's own doing and is followed.)

use crate::proto::{ModelProto, TensorProto};
use crate::tensor::TensorError;
use crate::visit::visit_tensors_mut;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Where a tensor's values lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalData {
    /// File, relative to the model's folder; plain names only.
    pub location: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Number of bytes, where the model gives it; else what shape and type ask for.
    pub length: Option<u64>,
}

/// Why a tensor's external data cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalDataError {
    /// The model names no file.
    #[error("tensor `{tensor}` is marked external but names no location")]
    NoLocation {
        /// Name of the tensor.
        tensor: String,
    },
    /// The location is absolute, or leaves the model's folder.
    #[error(
        "tensor `{tensor}` has the external location `{location}`, expected a relative path inside the model's folder"
    )]
    Escapes {
        /// Name of the tensor.
        tensor: String,
        /// The location found.
        location: String,
    },
    /// Offset or length is not a number of bytes.
    #[error("tensor `{tensor}` has external {key} `{value}`, expected a number of bytes")]
    Number {
        /// Name of the tensor.
        tensor: String,
        /// Which of the two.
        key: &'static str,
        /// What was found.
        value: String,
    },
    /// The length given is not what shape and type ask for.
    #[error(
        "tensor `{tensor}` has {found} bytes of external data, expected {expected} by its shape and type"
    )]
    Length {
        /// Name of the tensor.
        tensor: String,
        /// Bytes according to the model's `length`.
        found: u64,
        /// Bytes according to shape and type.
        expected: u64,
    },
    /// The file ends before the tensor does.
    #[error(
        "tensor `{tensor}` needs bytes {offset} to {end} of `{}`, which has {size}\n\nhint: the file may be cut short; copy it again", path.display()
    )]
    Truncated {
        /// Name of the tensor.
        tensor: String,
        /// The file.
        path: PathBuf,
        /// First byte needed.
        offset: u64,
        /// One past the last byte needed.
        end: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// The file cannot be read.
    #[error("cannot read external data file `{}` of tensor `{tensor}`", path.display())]
    Io {
        /// Name of the tensor.
        tensor: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Shape or type of the tensor is bad.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl ExternalData {
    /// Reads the location from a tensor marked external.
    pub(crate) fn of(tensor: &TensorProto) -> Result<Self, ExternalDataError> {
        let value = |key: &str| {
            tensor
                .external_data
                .iter()
                .find(|entry| entry.key() == key)
                .map(|entry| entry.value())
        };
        let number = |key: &'static str| {
            let parse = |text: &str| {
                text.parse::<u64>().map_err(|_| ExternalDataError::Number {
                    tensor: tensor.name().to_owned(),
                    key,
                    value: text.to_owned(),
                })
            };
            value(key).map(parse).transpose()
        };
        let location = value("location").filter(|location| !location.is_empty());
        let location = location.ok_or_else(|| ExternalDataError::NoLocation {
            tensor: tensor.name().to_owned(),
        })?;
        let inside = Path::new(location)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        // A backslash is a separator elsewhere; a name with one is a trick here.
        if !inside || location.contains(['\\', '\0']) {
            return Err(ExternalDataError::Escapes {
                tensor: tensor.name().to_owned(),
                location: location.to_owned(),
            });
        }
        Ok(Self {
            location: PathBuf::from(location),
            offset: number("offset")?.unwrap_or(0),
            length: number("length")?,
        })
    }
}

/// Reads the external data of every tensor of a model into the model.
///
/// `folder` is the folder of the model file. Nothing is read, and no memory taken,
/// before the file is known to be long enough.
///
/// # Errors
/// Every kind of [`ExternalDataError`]; the model may then be partly loaded.
pub fn load_external_data(model: &mut ModelProto, folder: &Path) -> Result<(), ExternalDataError> {
    let mut files = BTreeMap::new();
    visit_tensors_mut(model, &mut |tensor| {
        let Some(external) = tensor.external()? else {
            return Ok(());
        };
        let raw = read_tensor(tensor, &external, folder, &mut files)?;
        tensor.raw_data = Some(raw);
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    })
}

fn read_tensor(
    tensor: &TensorProto,
    external: &ExternalData,
    folder: &Path,
    files: &mut BTreeMap<PathBuf, File>,
) -> Result<Bytes, ExternalDataError> {
    let expected = tensor.byte_size()?;
    if let Some(found) = external.length.filter(|&length| length != expected) {
        return Err(ExternalDataError::Length {
            tensor: tensor.name().to_owned(),
            found,
            expected,
        });
    }
    let path = folder.join(&external.location);
    let io = |source| ExternalDataError::Io {
        tensor: tensor.name().to_owned(),
        path: path.clone(),
        source,
    };
    if !files.contains_key(&external.location) {
        let file = File::open(&path).map_err(io)?;
        files.insert(external.location.clone(), file);
    }
    let file = files.get_mut(&external.location).expect("inserted above");
    let size = file.metadata().map_err(io)?.len();
    let end = external.offset.checked_add(expected);
    if end.is_none_or(|end| end > size) {
        return Err(ExternalDataError::Truncated {
            tensor: tensor.name().to_owned(),
            path: path.clone(),
            offset: external.offset,
            end: end.unwrap_or(u64::MAX),
            size,
        });
    }
    file.seek(SeekFrom::Start(external.offset)).map_err(io)?;
    let mut bytes = vec![0_u8; expected as usize];
    file.read_exact(&mut bytes).map_err(io)?;
    Ok(bytes.into())
}
