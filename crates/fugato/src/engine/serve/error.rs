//! Why a server cannot start, or did not end well.

use crate::accelerator::NoCuda;
use crate::config::ConfigError;
use crate::driver::RecordingError;
use crate::engine::profiles::ProfileFileError;
use crate::engine::timeline::TimelineFileError;
use crate::repository::ScanError;
use crate::runtime::FindError;
use crate::server::{BindError, TlsError, TokenFileError};
use crate::telemetry::TraceExportError;
use fugato_core::sched::PolicySettingError;
use fugato_device::{CpuError, LoadError, RuntimeError};
use std::io;
use std::path::PathBuf;

/// Why a server cannot start, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// No repository is configured.
    #[error("no model repository is given\n\nhint: name its folder with `--model-repository`")]
    NoRepository,
    /// No folder for the model store is configured and the environment names none.
    #[error("no folder for the model store: set `--model-store`, or HOME")]
    NoStore,
    /// The library was not found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The library cannot be used.
    #[error("ONNX Runtime cannot be used")]
    Runtime(#[from] RuntimeError),
    /// The repository cannot be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The configuration has a section for a model that is not in the repository.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The model store cannot be used.
    #[error("the model store cannot be used")]
    Store(#[source] LoadError),
    /// The CPU cannot be a device.
    #[error("the CPU cannot be used as configured")]
    Cpu(#[from] CpuError),
    /// There is no NVIDIA device to use.
    #[error("no NVIDIA device can be used")]
    Cuda(#[from] NoCuda),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// A port cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Traces cannot be exported.
    #[error(transparent)]
    Traces(#[from] TraceExportError),
    /// The recording cannot be written.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The timeline cannot be written.
    #[error(transparent)]
    Timeline(#[from] TimelineFileError),
    /// The profile that was given cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileFileError),
    /// The device is lost to this process. A new one may have it.
    #[error("the device is lost to this process: {detail}")]
    DeviceLost {
        /// What the device said.
        detail: String,
    },
    /// The policy's settings are not of this device.
    #[error(transparent)]
    Policy(#[from] PolicySettingError),
    /// The operating system refused something.
    #[error("{what} failed")]
    Io {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The ready file cannot be written.
    #[error("the ready file `{}` cannot be written", path.display())]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The operating system refused `what`.
pub(super) fn os(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::Io { what, source }
}
