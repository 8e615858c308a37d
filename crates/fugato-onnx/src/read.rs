//! Reading models.

use crate::proto::{ModelProto, StringStringEntryProto};
use bytes::Bytes;
use prost::Message;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Why a model cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error("cannot read model file `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file has no bytes.
    #[error("model is empty (0 bytes)")]
    Empty,
    /// The bytes end inside a message.
    #[error(
        "model of {size} bytes ends inside a message\n\nhint: the file may be cut short; copy it again"
    )]
    Truncated {
        /// How many bytes there are.
        size: usize,
        /// What the decoder said.
        source: prost::DecodeError,
    },
    /// The bytes are not an ONNX protobuf message.
    #[error("model of {size} bytes is not an ONNX protobuf message")]
    NotProtobuf {
        /// How many bytes there are.
        size: usize,
        /// What the decoder said.
        source: prost::DecodeError,
    },
    /// A field at the top of the file runs past its end, or is of no known sort.
    #[error("model of {size} bytes has a malformed or cut field at byte {at}")]
    CutField {
        /// How many bytes there are.
        size: u64,
        /// Where the field's content should begin.
        at: u64,
    },
    /// The message has no graph.
    #[error(
        "model has no graph\n\nhint: is the file an ONNX model, and not a tensor or a list of weights?"
    )]
    NoGraph,
}

/// Reads a model from a file. External data stays where it is: see
/// [`crate::load_external_data`].
///
/// # Errors
/// Every kind of [`ReadError`].
pub fn read_model(path: &Path) -> Result<ModelProto, ReadError> {
    let bytes = std::fs::read(path).map_err(|source| ReadError::Io {
        path: path.to_owned(),
        source,
    })?;
    decode_model(bytes.into())
}

/// Decodes a model. Its raw data are slices of `bytes`, not copies, so `bytes` lives as
/// long as any of them.
///
/// # Errors
/// Every kind of [`ReadError`] but `Io`.
pub fn decode_model(bytes: Bytes) -> Result<ModelProto, ReadError> {
    let size = bytes.len();
    if size == 0 {
        return Err(ReadError::Empty);
    }
    let truncated = last_field_is_cut(&bytes);
    let model = ModelProto::decode(bytes).map_err(|source| {
        if truncated {
            ReadError::Truncated { size, source }
        } else {
            ReadError::NotProtobuf { size, source }
        }
    })?;
    if model.graph.is_none() {
        return Err(ReadError::NoGraph);
    }
    Ok(model)
}

/// Says whether the top-level fields are well formed but the last runs past the end: a
/// cut file, as opposed to bytes of another sort. prost's error does not tell the two
/// apart.
fn last_field_is_cut(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut fields = 0;
    while !rest.is_empty() {
        let Some(key) = varint(&mut rest) else {
            return fields > 0;
        };
        // No field of a model has a number above 26.
        if !(1..=26).contains(&(key >> 3)) {
            return false;
        }
        let length = match key & 7 {
            0 => varint(&mut rest).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut rest),
            5 => Some(4),
            _ => return false,
        };
        match length.and_then(|length| usize::try_from(length).ok()) {
            Some(length) if length <= rest.len() => rest = &rest[length..],
            _ => return fields > 0,
        }
        fields += 1;
    }
    false
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Number of `ModelProto.metadata_props` in the format.
const METADATA_FIELD: u64 = 14;

/// Longest top-level field that is read for its content, in bytes; metadata entries are
/// short texts.
const METADATA_BYTES_MAX: u64 = 1 << 20;

/// Reads the metadata of a model file and nothing else: the graph is passed over,
/// whatever its size. The file's fields must reach exactly to its end.
///
/// # Errors
/// [`ReadError::Io`]; [`ReadError::Empty`]; [`ReadError::CutField`] where the file ends
/// inside a field; [`ReadError::NotProtobuf`] where a metadata entry is malformed.
pub fn read_metadata(path: &Path) -> Result<Vec<StringStringEntryProto>, ReadError> {
    let io = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let size = file.get_ref().metadata().map_err(io)?.len();
    if size == 0 {
        return Err(ReadError::Empty);
    }
    let cut = |at| ReadError::CutField { size, at };
    let mut metadata = Vec::new();
    let mut at = 0;
    while at < size {
        let key = read_varint(&mut file, &mut at)
            .map_err(io)?
            .ok_or(cut(at))?;
        let length = match key & 7 {
            0 => read_varint(&mut file, &mut at).map_err(io)?.map(|_| 0),
            1 => Some(8),
            2 => read_varint(&mut file, &mut at).map_err(io)?,
            5 => Some(4),
            _ => None,
        };
        let length = length
            .filter(|&length| length <= size - at)
            .ok_or(cut(at))?;
        if key >> 3 == METADATA_FIELD && length <= METADATA_BYTES_MAX {
            let mut entry = vec![0; length as usize];
            file.read_exact(&mut entry).map_err(io)?;
            let entry = StringStringEntryProto::decode(entry.as_slice());
            metadata.push(entry.map_err(|source| ReadError::NotProtobuf {
                size: size as usize,
                source,
            })?);
        } else {
            file.seek_relative(length as i64).map_err(io)?;
        }
        at += length;
    }
    Ok(metadata)
}

/// Reads a varint and counts its bytes; `None` where the file ends or it is too long.
fn read_varint(file: &mut impl Read, at: &mut u64) -> std::io::Result<Option<u64>> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        if file.read(&mut byte)? == 0 {
            return Ok(None);
        }
        *at += 1;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return Ok(Some(value));
        }
    }
    Ok(None)
}
