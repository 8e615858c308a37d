//! Writing models, without a second copy of the weights in memory.
//!
//! Protobuf allows the fields of a message in any order, so a model is written as its
//! small parts, encoded by prost, followed by the graph's initializers, whose raw data
//! go to the file straight from where they are.

use crate::proto::{DataLocation, GraphProto, ModelProto, StringStringEntryProto, TensorProto};
use crate::tensor::TensorError;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Largest protobuf message, in bytes; longer ones no reader accepts.
const MESSAGE_BYTES_MAX: u64 = i32::MAX as u64;

/// Alignment of tensors in an external file, in bytes: a cache line, and the widest
/// vector load.
const EXTERNAL_ALIGNMENT: u64 = 64;

/// Tensors below this size in bytes stay in the model file, as in the `onnx` package.
const EXTERNAL_BYTES_MIN: u64 = 1024;

const GRAPH_FIELD: u32 = 7;
const INITIALIZER_FIELD: u32 = 5;
const RAW_DATA_FIELD: u32 = 9;

/// Whether weights go to a file of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalPolicy<'a> {
    /// Never; a model too large for one message is an error.
    Never,
    /// Only where the model is too large for one message. Gives the file's name.
    IfTooLarge(&'a str),
    /// Always. Gives the file's name.
    Always(&'a str),
}

/// Why a model cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The model is larger than a protobuf message may be.
    #[error(
        "model needs {size} bytes, more than the {MESSAGE_BYTES_MAX} of a protobuf message\n\nhint: keep its weights in an external file"
    )]
    TooLarge {
        /// Bytes the message would have.
        size: u64,
    },
    /// The name of the external file is not a plain file name.
    #[error("external data file name `{name}` is not a plain file name")]
    ExternalName {
        /// The name given.
        name: String,
    },
    /// A tensor that should go to the external file is bad.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The file cannot be written.
    #[error("cannot write model file `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The stream cannot be written.
    #[error("cannot write model")]
    Stream(#[source] std::io::Error),
}

/// Writes a model as one protobuf message.
///
/// # Errors
/// [`WriteError::TooLarge`], [`WriteError::Stream`].
pub fn write_model(model: &ModelProto, out: &mut impl Write) -> Result<(), WriteError> {
    let size = model.encoded_len() as u64;
    if size > MESSAGE_BYTES_MAX {
        return Err(WriteError::TooLarge { size });
    }
    write_parts(model, out).map_err(WriteError::Stream)
}

/// Writes a model to a file: to a temporary name beside it first, then renamed, so that
/// no reader ever sees half a file. An external file is in place before its model is;
/// where both replace older ones, a reader in between sees the old model with the new
/// weights.
///
/// # Errors
/// Every kind of [`WriteError`] but `Stream`.
pub fn save_model(
    model: &ModelProto,
    path: &Path,
    policy: ExternalPolicy<'_>,
) -> Result<(), WriteError> {
    let too_large = model.encoded_len() as u64 > MESSAGE_BYTES_MAX;
    let external_name = match policy {
        ExternalPolicy::Always(name) => Some(name),
        ExternalPolicy::IfTooLarge(name) if too_large => Some(name),
        ExternalPolicy::IfTooLarge(_) | ExternalPolicy::Never => None,
    };
    let Some(name) = external_name else {
        return replace_file(path, |out| write_model(model, out));
    };
    if Path::new(name).file_name() != Some(name.as_ref()) || name.contains('\\') {
        return Err(WriteError::ExternalName {
            name: name.to_owned(),
        });
    }
    let mut split = model.clone();
    replace_file(&path.with_file_name(name), |out| {
        write_external(&mut split, name, out)
    })?;
    replace_file(path, |out| write_model(&split, out))
}

/// Writes the large initializers of `model` to `out` and leaves their places in it.
fn write_external(
    model: &mut ModelProto,
    name: &str,
    out: &mut impl Write,
) -> Result<(), WriteError> {
    let mut end = 0_u64;
    let tensors = model
        .graph
        .iter_mut()
        .flat_map(|graph| &mut graph.initializer);
    for tensor in tensors {
        if tensor.is_external()
            || tensor.element_type()?.bits().is_none()
            || tensor.byte_size()? < EXTERNAL_BYTES_MIN
        {
            continue;
        }
        let bytes = tensor.to_bytes()?;
        let offset = end.next_multiple_of(EXTERNAL_ALIGNMENT);
        let padding = [0_u8; EXTERNAL_ALIGNMENT as usize];
        out.write_all(&padding[..(offset - end) as usize])
            .and_then(|()| out.write_all(&bytes))
            .map_err(WriteError::Stream)?;
        end = offset + bytes.len() as u64;
        *tensor = TensorProto {
            name: tensor.name.take(),
            dims: std::mem::take(&mut tensor.dims),
            data_type: tensor.data_type,
            doc_string: tensor.doc_string.take(),
            metadata_props: std::mem::take(&mut tensor.metadata_props),
            data_location: Some(DataLocation::External as i32),
            external_data: vec![
                StringStringEntryProto::new("location", name),
                StringStringEntryProto::new("offset", offset.to_string()),
                StringStringEntryProto::new("length", bytes.len().to_string()),
            ],
            ..TensorProto::default()
        };
    }
    Ok(())
}

/// Writes a file under a temporary name in the same folder, then renames it.
fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let io = |source| WriteError::Io {
        path: path.to_owned(),
        source,
    };
    let written = File::create(&temporary).map_err(io).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.flush().map_err(io)?;
        fs::rename(&temporary, path).map_err(io)
    });
    written.map_err(|error| {
        // The first error is the one to report; a file that was never made is not there.
        let _ = fs::remove_file(&temporary);
        if let WriteError::Stream(source) = error {
            io(source)
        } else {
            error
        }
    })
}

fn write_parts(model: &ModelProto, out: &mut impl Write) -> std::io::Result<()> {
    let Some(graph) = &model.graph else {
        return out.write_all(&model.encode_to_vec());
    };
    let head = ModelProto {
        graph: None,
        ..model.clone()
    };
    out.write_all(&head.encode_to_vec())?;
    let rest = GraphProto {
        initializer: Vec::new(),
        ..graph.clone()
    };
    write_key(GRAPH_FIELD, graph.encoded_len(), out)?;
    out.write_all(&rest.encode_to_vec())?;
    for tensor in &graph.initializer {
        write_key(INITIALIZER_FIELD, tensor.encoded_len(), out)?;
        let Some(raw) = &tensor.raw_data else {
            out.write_all(&tensor.encode_to_vec())?;
            continue;
        };
        let small = TensorProto {
            raw_data: None,
            ..tensor.clone()
        };
        out.write_all(&small.encode_to_vec())?;
        write_key(RAW_DATA_FIELD, raw.len(), out)?;
        out.write_all(raw)?;
    }
    Ok(())
}

/// Writes the key and length of a length-delimited field.
fn write_key(field: u32, length: usize, out: &mut impl Write) -> std::io::Result<()> {
    let mut key = Vec::with_capacity(2 * encoded_len_varint(u64::MAX));
    encode_key(field, WireType::LengthDelimited, &mut key);
    encode_varint(length as u64, &mut key);
    out.write_all(&key)
}
