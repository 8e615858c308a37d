//! Which device models run on: what was asked for, and what is there.
//!
//! An NVIDIA device needs the driver, the build of ONNX Runtime that has the CUDA provider, and
//! the vendor's libraries. [`choose`] looks for all of them before any is used, so that `auto`
//! takes the CPU where one is missing and `cuda` says which.

use crate::config::{Config, DeviceKind};
#[cfg(feature = "cuda")]
use crate::runtime::Library;
use crate::runtime::{self, FindGpuError, Surroundings};
#[cfg(feature = "cuda")]
use fugato_device::cuda::{CudaLibraries, Found, LibrariesError, NoDriver, find};
use std::path::Path;

/// The device to use.
#[derive(Debug)]
pub enum Accelerator {
    /// The CPU.
    Cpu,
    /// An NVIDIA device.
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaParts>),
}

/// What an NVIDIA device needs, found and loaded.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub struct CudaParts {
    /// The device.
    pub found: Found,
    /// ONNX Runtime, of the build with the CUDA provider.
    pub runtime: Library,
    /// The vendor's libraries.
    pub libraries: CudaLibraries,
}

/// Why no NVIDIA device can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoCuda {
    /// This program was built without them.
    #[error("this program was built without the feature `cuda`")]
    NotBuilt,
    /// There is no driver, it is too old, or it has no such device.
    #[cfg(feature = "cuda")]
    #[error("{0}{hint}", hint = way_out(.0))]
    Driver(NoDriver),
    /// There is no ONNX Runtime for it.
    #[error(transparent)]
    Runtime(#[from] FindGpuError),
    /// Libraries of the vendor are missing, do not load, or do not go with each other.
    #[cfg(feature = "cuda")]
    #[error(
        "{0}\n\nhint: install CUDA 13 and cuDNN 9{package}, or name a folder that has them with \
         `device.gpu_libraries`",
        package = package(.0)
    )]
    Libraries(LibrariesError),
}

#[cfg(feature = "cuda")]
impl From<NoDriver> for NoCuda {
    fn from(reason: NoDriver) -> Self {
        Self::Driver(reason)
    }
}

/// Numbers of errors with which a driver starts on no device though there is one.
#[cfg(feature = "cuda")]
mod unready {
    /// `CUDA_ERROR_SYSTEM_NOT_READY`.
    pub(super) const FABRIC: u32 = 802;
    /// `CUDA_ERROR_SYSTEM_DRIVER_MISMATCH`.
    pub(super) const MISMATCH: u32 = 803;
    /// `CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE`.
    pub(super) const COMPATIBILITY: u32 = 804;
}

/// What to do about a driver, where that is known.
#[cfg(feature = "cuda")]
fn way_out(reason: &NoDriver) -> String {
    let hint = if let NoDriver::Refused(error) = reason {
        match error.code {
            unready::FABRIC => {
                "devices with NVSwitch need `nvidia-fabricmanager` of the driver's version, running"
            }
            unready::MISMATCH => {
                "the driver's library and its module are of two versions: restart the machine, or \
                 load the module anew"
            }
            unready::COMPATIBILITY => {
                "the compatibility library (`cuda-compat`) does not run on this device: take it away, \
                 or install NVIDIA's driver 580 or later"
            }
            _ => return String::new(),
        }
    } else if matches!(reason, NoDriver::Old { .. }) {
        "install NVIDIA's driver 580 or later"
    } else {
        return String::new();
    };
    format!("\n\nhint: {hint}")
}

/// Which package it may be where a library does not go with the others.
#[cfg(feature = "cuda")]
fn package(error: &LibrariesError) -> &'static str {
    match matches!(error, LibrariesError::Unfit(_)) {
        true => " for CUDA 13 (in Python `nvidia-cudnn-cu13`, without `-cu12`)",
        false => "",
    }
}

impl NoCuda {
    /// What is missing, as one line.
    pub fn reason(&self) -> String {
        let text = self.to_string();
        let (reason, _) = text.split_once("\n\nhint: ").unwrap_or((&text, ""));
        reason.lines().collect::<Vec<_>>().join(" ")
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let text = self.to_string();
        let (_, hint) = text.split_once("\n\nhint: ")?;
        Some(hint.to_owned())
    }

    /// Whether there is a device, which only lacks something to be used.
    pub fn is_repairable(&self) -> bool {
        match self {
            Self::NotBuilt => false,
            #[cfg(feature = "cuda")]
            Self::Driver(reason) => !way_out(reason).is_empty(),
            Self::Runtime(_) => true,
            #[cfg(feature = "cuda")]
            Self::Libraries(_) => true,
        }
    }
}

/// Chooses the device that the configuration asks for.
///
/// # Errors
/// Where it asks for an NVIDIA device and none can be used.
pub fn choose(config: &Config) -> Result<Accelerator, NoCuda> {
    match config.device.kind {
        DeviceKind::Cpu => Ok(Accelerator::Cpu),
        DeviceKind::Cuda => look(config),
        DeviceKind::Auto => Ok(look(config).unwrap_or_else(|missing| {
            let why = missing.reason();
            match missing.is_repairable() {
                true => {
                    let hint = missing.hint();
                    tracing::warn!(why, hint, "no NVIDIA device is used; models run on the CPU");
                }
                false => tracing::info!(why, "no NVIDIA device is used; models run on the CPU"),
            }
            Accelerator::Cpu
        })),
    }
}

/// Looks for an NVIDIA device and loads what it needs.
///
/// # Errors
/// What is missing, the first thing that is.
#[cfg(feature = "cuda")]
pub fn look(config: &Config) -> Result<Accelerator, NoCuda> {
    let found = find(config.device.gpu)?;
    let given = config.runtime.onnxruntime.as_deref();
    let runtime = runtime::find_gpu(given, &Surroundings::of_process())?;
    let folders: Vec<_> = config.device.gpu_libraries.iter().cloned().collect();
    let libraries = CudaLibraries::load(&folders).map_err(NoCuda::Libraries)?;
    for library in &libraries.refused {
        tracing::warn!(%library, "models that need a library of CUDA fail for want of it");
    }
    Ok(Accelerator::Cuda(Box::new(CudaParts {
        found,
        runtime,
        libraries,
    })))
}

/// Looks for an NVIDIA device.
///
/// # Errors
/// Always: this program was built without them.
#[cfg(not(feature = "cuda"))]
pub fn look(_config: &Config) -> Result<Accelerator, NoCuda> {
    Err(NoCuda::NotBuilt)
}

/// Whether an NVIDIA device is likely to be used, by the files that are there: nothing is
/// loaded, since who asks is a supervisor.
pub fn is_likely(config: &Config) -> bool {
    match config.device.kind {
        DeviceKind::Cpu => false,
        DeviceKind::Cuda => true,
        DeviceKind::Auto if cfg!(feature = "cuda") => {
            let given = config.runtime.onnxruntime.as_deref();
            has_driver(Path::new("/"))
                && runtime::find_gpu(given, &Surroundings::of_process()).is_ok()
        }
        DeviceKind::Auto => false,
    }
}

/// Whether the kernel's half of the driver is there.
fn has_driver(root: &Path) -> bool {
    // The last is what Windows offers to its Linux.
    let places = ["proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg"];
    places.iter().any(|place| root.join(place).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    #[cfg(feature = "cuda")]
    use fugato_device::cuda::{CudaError, LibrariesMissing, LibrariesUnfit, Unfit};

    fn config(kind: DeviceKind) -> Config {
        let mut sources = Sources::default();
        sources.flags.device.kind = Some(kind);
        Config::resolve(&sources).expect("the defaults are right")
    }

    #[test]
    fn auto_takes_what_is_there_and_cuda_says_what_is_missing() {
        assert!(matches!(
            choose(&config(DeviceKind::Cpu)),
            Ok(Accelerator::Cpu)
        ));
        // Machines differ, but `auto` and `cuda` must agree.
        let asked = choose(&config(DeviceKind::Cuda));
        let auto = choose(&config(DeviceKind::Auto)).expect("the CPU is always there");
        match asked {
            Ok(_) => assert!(!matches!(auto, Accelerator::Cpu)),
            Err(missing) => {
                assert!(matches!(auto, Accelerator::Cpu));
                assert!(!missing.reason().is_empty() && !missing.reason().contains('\n'));
            }
        }
    }

    #[test]
    fn what_is_missing_comes_with_a_way_out() {
        let looked_at = vec!["lib/libonnxruntime.so".into()];
        let missing = NoCuda::from(FindGpuError::from(runtime::FindError { looked_at }));
        assert!(missing.is_repairable());
        assert!(missing.hint().expect("a hint").contains("make runtime-gpu"));
        assert!(
            missing.reason().contains("lib/libonnxruntime.so"),
            "{}",
            missing.reason()
        );
        assert!(!NoCuda::NotBuilt.is_repairable());
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn each_missing_part_is_named() {
        let old = NoCuda::from(NoDriver::Old {
            found: 12_020,
            least: 13_000,
        });
        assert!(old.is_repairable() && old.reason().contains("CUDA 12.2, expected at least 13.0"));
        assert!(old.hint().expect("a hint").contains("driver 580"));
        let none = NoCuda::from(NoDriver::Library);
        assert!(!none.is_repairable() && none.reason().contains("libcuda.so.1"));
        let libraries = LibrariesMissing {
            missing: vec!["libcudnn.so.9"],
            instead: vec![("libcudnn.so.8".to_owned(), None)],
            looked_in: Vec::new(),
            refused: Vec::new(),
        };
        let libraries = NoCuda::Libraries(libraries.into());
        assert!(
            libraries.reason().starts_with("libcudnn.so.9 not found"),
            "{}",
            libraries.reason()
        );
        assert!(libraries.reason().ends_with("there is `libcudnn.so.8`"));
        assert!(libraries.hint().expect("a hint").contains("cuDNN 9"));
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn a_library_for_another_cuda_is_named_with_the_right_one() {
        let unfit = NoCuda::Libraries(LibrariesError::from(LibrariesUnfit(vec![Unfit {
            library: "libcudnn.so.9",
            folder: Some("/env/nvidia/cudnn/lib".into()),
            found: "built for CUDA 12.9".to_owned(),
            expected: "one for CUDA 13".to_owned(),
        }])));
        assert!(unfit.is_repairable());
        assert_eq!(
            unfit.reason(),
            "`libcudnn.so.9` in /env/nvidia/cudnn/lib is built for CUDA 12.9, expected one for CUDA 13"
        );
        assert!(unfit.hint().expect("a hint").contains("nvidia-cudnn-cu13"));
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn a_driver_that_does_not_start_is_told_from_a_machine_without_a_device() {
        let refused = |code| {
            NoCuda::from(NoDriver::Refused(CudaError {
                call: "cuInit",
                code,
                name: "CUDA_ERROR".to_owned(),
                meaning: "an error".to_owned(),
            }))
        };
        for (code, hint) in [
            (802, "nvidia-fabricmanager"),
            (803, "two versions"),
            (804, "cuda-compat"),
        ] {
            let refused = refused(code);
            assert!(refused.is_repairable(), "{code}");
            assert!(refused.hint().expect("a hint").contains(hint), "{code}");
            assert!(refused.reason().contains("cuInit failed"), "{code}");
        }
        // No device.
        assert!(!refused(100).is_repairable() && refused(100).hint().is_none());
    }

    #[test]
    fn a_supervisor_goes_by_files() {
        assert!(is_likely(&config(DeviceKind::Cuda)));
        assert!(!is_likely(&config(DeviceKind::Cpu)));
        let root = tempfile::tempdir().expect("a folder");
        assert!(!has_driver(root.path()));
        std::fs::create_dir_all(root.path().join("dev")).expect("a folder");
        std::fs::write(root.path().join("dev/nvidiactl"), "").expect("a file");
        assert!(has_driver(root.path()));
    }
}
