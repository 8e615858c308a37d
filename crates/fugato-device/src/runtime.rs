//! The ONNX Runtime library: found by the shell, loaded here, one per process.

use crate::capi::{self, OrtError};
use ort::AsPointer;
use std::ffi::{CStr, CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The loaded library and its environment.
#[derive(Debug)]
pub struct Runtime {
    environment: ort::environment::Environment,
    version: String,
    path: PathBuf,
    /// Whether the environment has the memory pool that parts of models share.
    arena: Mutex<bool>,
}

/// Why the library could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RuntimeError(#[from] Inner);

/// The sorts of [`RuntimeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuntimeErrorKind {
    /// There is no such file.
    Missing,
    /// The file is no ONNX Runtime library, or one that is too old.
    NotOnnxRuntime,
    /// The process has loaded another library already.
    AlreadyLoaded,
    /// The library refused to start.
    Start,
}

#[derive(Debug, thiserror::Error)]
enum Inner {
    #[error("no ONNX Runtime library at `{}`; hint: run `make runtime`", path.display())]
    Missing { path: PathBuf },
    #[error("`{}` is not a usable ONNX Runtime library: {detail}", path.display())]
    NotOnnxRuntime { path: PathBuf, detail: String },
    #[error(
        "ONNX Runtime is loaded from `{}` already, so `{}` cannot be loaded into this process",
        loaded.display(),
        path.display()
    )]
    AlreadyLoaded { loaded: PathBuf, path: PathBuf },
    #[error("ONNX Runtime at `{}` could not start", path.display())]
    Start { path: PathBuf, source: ort::Error },
}

impl RuntimeError {
    /// What sort of failure this is.
    pub fn kind(&self) -> RuntimeErrorKind {
        match self.0 {
            Inner::Missing { .. } => RuntimeErrorKind::Missing,
            Inner::NotOnnxRuntime { .. } => RuntimeErrorKind::NotOnnxRuntime,
            Inner::AlreadyLoaded { .. } => RuntimeErrorKind::AlreadyLoaded,
            Inner::Start { .. } => RuntimeErrorKind::Start,
        }
    }
}

/// The library of this process. ONNX Runtime allows one environment per process, and the
/// `ort` crate one library, so this cannot be anything but global.
static LOADED: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);

impl Runtime {
    /// Loads the library at `path`. A process holds one: loading the same path again
    /// gives the same runtime, and it stays for the life of the process.
    ///
    /// # Errors
    /// Where the file is missing, is not ONNX Runtime of at least the version this
    /// program is written for, or another one is loaded already.
    pub fn load(path: impl AsRef<Path>) -> Result<Arc<Self>, RuntimeError> {
        let given = path.as_ref();
        let path = given.canonicalize().map_err(|_| Inner::Missing {
            path: given.to_owned(),
        })?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = loaded.as_ref() {
            if runtime.path == path {
                return Ok(Arc::clone(runtime));
            }
            let loaded = runtime.path.clone();
            return Err(Inner::AlreadyLoaded { loaded, path }.into());
        }
        let builder = ort::init_from(&path).map_err(|error| Inner::NotOnnxRuntime {
            path: path.clone(),
            detail: error.to_string(),
        })?;
        let start = |source| Inner::Start {
            path: path.clone(),
            source,
        };
        let environment = builder
            .with_name("fugato")
            .with_telemetry(false)
            .with_logger(Arc::new(log))
            .build()
            .map_err(start)?;
        capi::log_warnings_only(&environment).map_err(start)?;
        let version = version(&path).ok_or_else(|| Inner::NotOnnxRuntime {
            path: path.clone(),
            detail: "it does not tell its version".to_owned(),
        })?;
        let runtime = Arc::new(Self {
            environment,
            version,
            path,
            arena: Mutex::new(false),
        });
        *loaded = Some(Arc::clone(&runtime));
        Ok(runtime)
    }

    /// The library's version: `1.31.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What a latency profile calls the runtime: `onnxruntime 1.31.1`.
    pub fn profile_key(&self) -> String {
        format!("onnxruntime {}", self.version)
    }

    /// The library's file, with links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The library's own words on how it was built.
    pub fn build_info(&self) -> &'static str {
        ort::info()
    }

    /// Makes the memory pool that sessions with `session.use_env_allocators` share, once.
    pub(crate) fn share_arena(&self) -> Result<(), OrtError> {
        let mut is_shared = self.arena.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_shared {
            capi::register_arena(&self.environment)?;
            *is_shared = true;
        }
        Ok(())
    }

    pub(crate) fn environment(&self) -> *const ort::sys::OrtEnv {
        self.environment.ptr()
    }
}

/// The version of the library at `path`, which must be loaded: `ort` does not tell it.
fn version(path: &Path) -> Option<String> {
    let path = CString::new(OsString::from(path).as_bytes()).ok()?;
    // SAFETY: RTLD_NOLOAD only finds what `ort` has loaded from this path, and `ort` has
    // called `OrtGetApiBase`, so the symbol has that signature; the base and its version
    // string are statics of a library that is never unloaded (`ort` keeps it open).
    unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        if library.is_null() {
            return None;
        }
        let symbol = libc::dlsym(library, c"OrtGetApiBase".as_ptr());
        let version = (!symbol.is_null()).then(|| {
            let base: unsafe extern "C" fn() -> *const ort::sys::OrtApiBase =
                std::mem::transmute(symbol);
            CStr::from_ptr(((*base()).GetVersionString)())
                .to_string_lossy()
                .into_owned()
        });
        libc::dlclose(library);
        version
    }
}

/// Passes the library's messages on to `tracing`. What the library calls an error also
/// comes back as the status of the call that failed, and is often a request's fault, so
/// here it is for debugging only.
fn log(level: ort::logging::LogLevel, category: &str, id: &str, location: &str, message: &str) {
    use ort::logging::LogLevel;
    match level {
        LogLevel::Fatal => {
            tracing::error!(target: "onnxruntime", category, id, location, "{message}");
        }
        LogLevel::Error | LogLevel::Warning | LogLevel::Info | LogLevel::Verbose => {
            tracing::debug!(target: "onnxruntime", category, id, location, ?level, "{message}");
        }
    }
}
