//! The driver library, and what its calls answer.

use cudarc::driver::sys::{self, CUresult};
use std::ffi::{CStr, c_char};
use std::ptr::null;
use std::sync::OnceLock;

/// A call of the driver that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed with {name} ({code}): {meaning}")]
pub struct CudaError {
    /// The driver's function.
    pub call: &'static str,
    /// The number of the error, a `CUresult`.
    pub code: u32,
    /// Its name, such as `CUDA_ERROR_OUT_OF_MEMORY`.
    pub name: String,
    /// The driver's own words.
    pub meaning: String,
}

/// Why there is no NVIDIA device to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoDriver {
    /// There is no driver library.
    #[error("no NVIDIA driver: `libcuda.so.1` was not found by the system's loader")]
    Library,
    /// The driver is too old for green contexts with streams of their own.
    #[error(
        "the NVIDIA driver is of CUDA {found}, expected at least {least}",
        found = version(*found),
        least = version(*least)
    )]
    Old {
        /// CUDA version, `1000 * major + 10 * minor`.
        found: i32,
        /// As `found`.
        least: i32,
    },
    /// The driver refused to start, or has no device.
    #[error(transparent)]
    Refused(#[from] CudaError),
    /// It has no device of that number.
    #[error("there is no NVIDIA device {ordinal}, the driver has {count}")]
    NoDevice {
        /// The device that was asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
}

/// The CUDA version of the libraries that ONNX Runtime is built for, which run on no driver that is
/// older. (`cuGreenCtxStreamCreate` is there since 12.5.)
const LEAST: i32 = 13_000;

/// The CUDA version in which green contexts say how they share the device's work queues.
pub(super) const WORK_QUEUES: i32 = 13_010;

fn version(number: i32) -> String {
    format!("{}.{}", number / 1_000, number % 1_000 / 10)
}

/// Proof that the driver's library is loaded and started.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    version: i32,
}

impl Driver {
    /// Finds the driver and starts it, once per process.
    ///
    /// # Errors
    /// Where there is none, it is too old, or it has no device.
    pub fn find() -> Result<Self, NoDriver> {
        static FOUND: OnceLock<Result<Driver, NoDriver>> = OnceLock::new();
        FOUND.get_or_init(Self::start).clone()
    }

    fn start() -> Result<Self, NoDriver> {
        // SAFETY: loads the driver's library, whose initialisers are the vendor's.
        if !unsafe { sys::is_culib_present() } {
            return Err(NoDriver::Library);
        }
        // SAFETY: the library is present, and starting it has no precondition.
        check("cuInit", unsafe { sys::cuInit(0) })?;
        let mut version = 0;
        // SAFETY: `version` is a valid place for the answer.
        check("cuDriverGetVersion", unsafe {
            sys::cuDriverGetVersion(&mut version)
        })?;
        match version < LEAST {
            true => Err(NoDriver::Old {
                found: version,
                least: LEAST,
            }),
            false => Ok(Self { version }),
        }
    }

    /// The newest CUDA version that the driver knows: `13.0`.
    pub fn version(self) -> String {
        version(self.version)
    }

    /// Whether it has what came with a CUDA version, `1000 * major + 10 * minor`.
    pub(super) fn has(self, version: i32) -> bool {
        self.version >= version
    }

    /// The driver's own version, such as `580.65.06`, where Linux has its module.
    pub fn build(self) -> Option<String> {
        let version = std::fs::read_to_string("/sys/module/nvidia/version").ok()?;
        Some(version.trim().to_owned())
    }

    /// The number of devices.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn devices(self) -> Result<u32, CudaError> {
        let mut count = 0;
        // SAFETY: the driver is started, and `count` a valid place for the answer.
        check("cuDeviceGetCount", unsafe {
            sys::cuDeviceGetCount(&mut count)
        })?;
        Ok(u32::try_from(count).unwrap_or(0))
    }
}

impl CudaError {
    /// Whether every further call of this process fails alike: the device's context is broken,
    /// and only a new process has another.
    ///
    /// Source: the CUDA driver API's description of `CUresult`, which says of these that the
    /// process must be terminated and started again, or that the device is gone.
    pub fn is_sticky(&self) -> bool {
        is_sticky(self.code)
    }
}

/// As [`CudaError::is_sticky`], of a number. The runtime's numbers, which ONNX Runtime gives,
/// are the same for these.
pub(super) fn is_sticky(code: u32) -> bool {
    matches!(
        code,
        // Deinitialized; ECC, NVLink and contained errors; addresses, timeouts, contexts that
        // are gone, assertions and traps of kernels; memory of tensor cores; MPS; unknown.
        4 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 806 | 810 | 911 | 999
    )
}

/// The number of a device without memory left.
pub(super) const OUT_OF_MEMORY: u32 = 2;

/// Whether a number is one of a capture that was broken off or refused.
pub(super) fn is_of_capture(code: u32) -> bool {
    matches!(code, 900..=908 | 918)
}

/// Makes the calling thread one whose calls neither break a capture of another thread nor are
/// refused because of it.
///
/// ONNX Runtime captures in the mode `GLOBAL`, in which allocations and the like of any other
/// thread break the capture off, unless that thread has said that it looks after itself.
pub(super) fn mind_own_captures() -> Result<(), CudaError> {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the mode is a valid place, for the new one and the old.
    check("cuThreadExchangeStreamCaptureMode", unsafe {
        sys::cuThreadExchangeStreamCaptureMode(&mut mode)
    })
}

/// Takes or gives back memory without regard to captures, of other threads or this one.
pub(super) fn beside_captures<T>(call: impl FnOnce() -> T) -> T {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: the mode is a valid place, for the new one and the old.
    let changed = check("cuThreadExchangeStreamCaptureMode", unsafe {
        sys::cuThreadExchangeStreamCaptureMode(&mut mode)
    });
    let done = call();
    if changed.is_ok() {
        // SAFETY: as above; `mode` is what the call before answered.
        end("cuThreadExchangeStreamCaptureMode", unsafe {
            sys::cuThreadExchangeStreamCaptureMode(&mut mode)
        });
    }
    done
}

/// Takes the answer of a call.
pub(super) fn check(call: &'static str, result: CUresult) -> Result<(), CudaError> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    Err(CudaError {
        call,
        code: result as u32,
        name: text(result, sys::cuGetErrorName),
        meaning: text(result, sys::cuGetErrorString),
    })
}

fn text(code: CUresult, ask: unsafe fn(CUresult, *mut *const c_char) -> CUresult) -> String {
    let mut text = null();
    // SAFETY: an error came from the driver, so it is loaded; `text` is a valid place for the
    // address of a static string, which is not read where the call fails.
    let text = unsafe {
        let is_known = ask(code, &mut text) == CUresult::CUDA_SUCCESS && !text.is_null();
        is_known.then(|| CStr::from_ptr(text))
    };
    text.map_or_else(
        || "unknown".to_owned(),
        |text| text.to_string_lossy().into_owned(),
    )
}

/// Ends a handle in a destructor, which can only report.
pub(super) fn end(call: &'static str, result: CUresult) {
    if let Err(error) = check(call, result) {
        tracing::warn!(%error, "a CUDA handle could not be released");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        let old = NoDriver::Old {
            found: 12_020,
            least: LEAST,
        };
        assert_eq!(
            old.to_string(),
            "the NVIDIA driver is of CUDA 12.2, expected at least 13.0"
        );
    }

    #[test]
    fn a_kernel_that_went_wrong_is_sticky_and_full_memory_is_not() {
        assert!([700, 714, 719, 999].into_iter().all(is_sticky));
        assert!(
            ![0, OUT_OF_MEMORY, 600, 701, 720, 900]
                .into_iter()
                .any(is_sticky)
        );
        assert!(is_of_capture(901) && !is_of_capture(700));
    }

    #[test]
    fn without_a_driver_the_answer_is_no_panic() {
        // On a machine with a driver it is found, on all others the reason is one of ours.
        match Driver::find() {
            Ok(driver) => assert!(!driver.version().is_empty()),
            Err(reason) => assert!(
                reason.to_string().contains("NVIDIA") || matches!(reason, NoDriver::Refused(_))
            ),
        }
    }
}
