//! Why a model could not be loaded.

use super::halving::HalfError;
use super::operators;
use super::part::CutError;
use super::wire::WireError;
use crate::capi::OrtError;
#[cfg(feature = "cuda")]
use crate::tensor::ElementType;
use fugato_core::graph::GraphError;
use ort::ErrorCode;
use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("model `{}` cannot be loaded", path.display())]
pub struct LoadError {
    path: PathBuf,
    #[source]
    cause: LoadCause,
}

/// The sorts of [`LoadError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadErrorKind {
    /// The model file is missing or unreadable.
    File,
    /// The file is not a valid ONNX model (corrupt, truncated, or wrong in itself).
    InvalidModel,
    /// An operator, opset or element type that the runtime has no kernel for, at all or on that
    /// device.
    UnsupportedOperator,
    /// An external weight file is missing, too short, or outside of the model's folder.
    ExternalData,
    /// An input or output that the protocol cannot carry, or the device not hold.
    UnsupportedInterface,
    /// What was asked of the model does not fit it.
    Options,
    /// The store's folder cannot be written or read.
    Store,
    /// The runtime failed in another way.
    Runtime,
    /// The device has not the memory for it.
    DeviceMemory,
    /// The device cannot hold it, for another reason.
    Device,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadCause {
    #[error("its file cannot be read")]
    File(#[source] io::Error),
    #[error("it is not a valid ONNX model")]
    Wire(#[from] WireErrorSource),
    #[error("it has no graph; expected an ONNX model, found {bytes} bytes without one")]
    NoGraph { bytes: u64 },
    #[error("ONNX Runtime refused it as invalid")]
    Invalid(#[source] OrtError),
    #[error("ONNX Runtime refused it as invalid: {fault}")]
    Malformed {
        fault: Box<GraphError>,
        #[source]
        refused: OrtError,
    },
    #[error("it needs an operator or opset that ONNX Runtime lacks")]
    Unsupported(#[source] OrtError),
    #[error("its external data `{location}` cannot be read")]
    ExternalFile {
        location: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "tensor `{tensor}` is at bytes {start}..{end} of external data `{location}`, which has \
         {bytes} bytes; hint: was the file copied whole?"
    )]
    ExternalRange {
        tensor: String,
        location: String,
        start: u64,
        end: u64,
        bytes: u64,
    },
    #[error("its external data `{location}` is outside of its folder")]
    ExternalEscapes { location: String },
    #[error("its external data cannot be used")]
    External(#[source] OrtError),
    #[error("{direction} `{name}` is {found}; expected a tensor")]
    NotATensor {
        direction: &'static str,
        name: String,
        found: &'static str,
    },
    #[error(
        "{direction} `{name}` has an element type that the Open Inference Protocol cannot carry"
    )]
    ElementType {
        direction: &'static str,
        name: String,
    },
    #[error("it cannot run batches of {max_batch}: {reason}")]
    NotBatchable { max_batch: u32, reason: String },
    #[error("{what} must be at least 1")]
    Zero { what: &'static str },
    #[error("the device has no partition {0}")]
    NoSuchPartition(u16),
    #[error("the model id is in use; unload it first")]
    IdInUse,
    #[error("the model store's `{}` cannot be {action}", path.display())]
    Store {
        path: PathBuf,
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the graph that ONNX Runtime made of it cannot be used")]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Cut(#[from] CutError),
    #[error("it cannot be converted to half precision")]
    Half(#[source] Box<HalfError>),
    #[error("ONNX Runtime failed")]
    Runtime(#[source] OrtError),
    #[cfg(feature = "cuda")]
    #[error(
        "{direction} `{name}` is {element} of shape {}; an NVIDIA device needs a type of fixed \
         size and a fixed shape, the batch excepted",
        shown(shape)
    )]
    NotFixed {
        direction: &'static str,
        name: String,
        shape: Vec<Option<u64>>,
        element: ElementType,
    },
    #[cfg(feature = "cuda")]
    #[error("the device has not the memory for it: {detail}")]
    DeviceMemory { detail: String },
    #[cfg(feature = "cuda")]
    #[error("the device cannot run it: {detail}")]
    DeviceRefuses { detail: String },
    #[cfg(feature = "cuda")]
    #[error("the device cannot hold it: {detail}")]
    Device { detail: String },
    #[cfg(feature = "cuda")]
    #[error("the device is lost to this process: {detail}")]
    DeviceLost { detail: String },
}

/// A shape with `?` for what varies.
#[cfg(feature = "cuda")]
fn shown(shape: &[Option<u64>]) -> String {
    let dim = |dim: &Option<u64>| dim.map_or("?".to_owned(), |dim| dim.to_string());
    let dims: Vec<_> = shape.iter().map(dim).collect();
    format!("[{}]", dims.join(", "))
}

/// Hides the wire module's error type from the crate's interface.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct WireErrorSource(#[from] WireError);

impl From<HalfError> for LoadCause {
    fn from(error: HalfError) -> Self {
        Self::Half(Box::new(error))
    }
}

impl From<WireError> for LoadCause {
    fn from(error: WireError) -> Self {
        Self::Wire(WireErrorSource(error))
    }
}

impl LoadCause {
    pub(crate) fn of(self, path: &Path) -> LoadError {
        LoadError {
            path: path.to_owned(),
            cause: self,
        }
    }

    /// The same, where the runtime refused the file at `path` as invalid, with the operators at
    /// fault where that can be seen in its graph.
    pub(super) fn with_fault(self, path: &Path) -> Self {
        let Self::Invalid(refused) = self else {
            return self;
        };
        let model = fugato_onnx::read_model(path).ok();
        match model.and_then(|model| operators::fault(&model)) {
            Some(fault) => Self::Malformed {
                fault: Box::new(fault),
                refused,
            },
            None => Self::Invalid(refused),
        }
    }

    /// Sorts an error that the runtime gave when loading a model. Codes alone do not
    /// tell (an unknown operator and a type error are both `INVALID_GRAPH`), so the
    /// runtime's own phrases are looked for; the texts are those of 1.31.
    pub(crate) fn from_runtime(error: OrtError) -> Self {
        const EXTERNAL: [&str; 2] = ["xternal data", "External initializer"];
        let message = error.message();
        let says = |phrases: &[&str]| phrases.iter().any(|&phrase| message.contains(phrase));
        if lacks_operator(&error) {
            Self::Unsupported(error)
        } else if says(&EXTERNAL) {
            Self::External(error)
        } else if message.contains("is an invalid model")
            || matches!(
                error.code(),
                ErrorCode::InvalidProtobuf
                    | ErrorCode::InvalidGraph
                    | ErrorCode::InvalidArgument
                    | ErrorCode::NoModel
            )
            || message.starts_with("Load model from")
        {
            Self::Invalid(error)
        } else {
            Self::Runtime(error)
        }
    }
}

/// Whether an error says that there is no kernel for an operator, opset or type.
pub(crate) fn lacks_operator(error: &OrtError) -> bool {
    const UNSUPPORTED: [&str; 6] = [
        "No Op registered",
        "No opset import",
        "is not a registered function/op",
        "Could not find an implementation",
        "support for models stamped with",
        "No Schema registered",
    ];
    let message = error.message();
    error.code() == ErrorCode::NotImplemented
        || UNSUPPORTED.iter().any(|&phrase| message.contains(phrase))
}

impl LoadError {
    /// The model's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> LoadErrorKind {
        match &self.cause {
            LoadCause::File(_) => LoadErrorKind::File,
            LoadCause::Wire(_)
            | LoadCause::NoGraph { .. }
            | LoadCause::Invalid(_)
            | LoadCause::Malformed { .. } => LoadErrorKind::InvalidModel,
            LoadCause::Unsupported(_) => LoadErrorKind::UnsupportedOperator,
            #[cfg(feature = "cuda")]
            LoadCause::DeviceRefuses { .. } => LoadErrorKind::UnsupportedOperator,
            LoadCause::ExternalFile { .. }
            | LoadCause::ExternalRange { .. }
            | LoadCause::ExternalEscapes { .. }
            | LoadCause::External(_) => LoadErrorKind::ExternalData,
            LoadCause::NotATensor { .. } | LoadCause::ElementType { .. } => {
                LoadErrorKind::UnsupportedInterface
            }
            LoadCause::NotBatchable { .. }
            | LoadCause::Zero { .. }
            | LoadCause::NoSuchPartition(_)
            | LoadCause::IdInUse
            | LoadCause::Cut(_)
            | LoadCause::Half(_) => LoadErrorKind::Options,
            LoadCause::Graph(_) => LoadErrorKind::InvalidModel,
            LoadCause::Store { .. } => LoadErrorKind::Store,
            LoadCause::Runtime(_) => LoadErrorKind::Runtime,
            #[cfg(feature = "cuda")]
            LoadCause::NotFixed { .. } => LoadErrorKind::UnsupportedInterface,
            #[cfg(feature = "cuda")]
            LoadCause::DeviceMemory { .. } => LoadErrorKind::DeviceMemory,
            #[cfg(feature = "cuda")]
            LoadCause::Device { .. } | LoadCause::DeviceLost { .. } => LoadErrorKind::Device,
        }
    }

    /// The whole chain of causes as one line, for a reply or a log.
    pub fn report(&self) -> String {
        let mut report = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            report.push_str(": ");
            report.push_str(&error.to_string());
            cause = error.source();
        }
        report
    }
}
