//! What ONNX Runtime's words say of a failure; they are those of 1.31.

use super::backend::{Fault, FaultKind};
use super::driver::{OUT_OF_MEMORY, is_of_capture, is_sticky};

pub(super) fn kind_of(code: u32) -> FaultKind {
    match code {
        OUT_OF_MEMORY => FaultKind::OutOfMemory,
        code if is_sticky(code) => FaultKind::Lost,
        code if is_of_capture(code) => FaultKind::Capture,
        _ => FaultKind::Other,
    }
}

/// What they say, if anything.
pub(super) fn kind_of_words(words: &str) -> Option<FaultKind> {
    const NUMBERED: &str = "CUDA failure ";
    const NO_MEMORY: [&str; 6] = [
        "Failed to allocate memory",
        "is smaller than requested bytes",
        "bad_alloc",
        "out of memory",
        "ALLOC_FAILED",
        "ALLOCATION_FAILED",
    ];
    const CAPTURE: [&str; 3] = ["capturing", "graph capture", "CUDA graph"];
    if let Some((_, rest)) = words.split_once(NUMBERED) {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        return digits.and_then(|digits| digits.parse().ok()).map(kind_of);
    }
    if says(words, &NO_MEMORY) {
        return Some(FaultKind::OutOfMemory);
    }
    says(words, &CAPTURE).then_some(FaultKind::Capture)
}

/// Free memory of the device, in bytes, with which cuBLAS and cuDNN find what their handles take:
/// some tens of MB each, and their kernels besides. With less, that is what they lacked.
const ROOM_FOR_HANDLES: u64 = 512 << 20;

/// What it means that cuBLAS or cuDNN say they are not initialised: the memory for a handle was
/// not there, or the library does not fit the driver or the rest of it. `None` where they do not
/// say so. `free`: bytes of the device's memory that are free, where that is known.
pub(super) fn uninitialised(words: &str, free: Option<u64>) -> Option<Fault> {
    if !words.contains("NOT_INITIALIZED") {
        return None;
    }
    let fault = |kind, why: &str| {
        Some(Fault {
            kind,
            detail: format!("{words}; {why}"),
        })
    };
    let Some(free) = free else {
        let why = "either its memory was not there, or the library does not fit this machine";
        return fault(FaultKind::Other, why);
    };
    let free_mib = free >> 20;
    match free < ROOM_FOR_HANDLES {
        true => {
            let why = format!("{free_mib} MiB of the device's memory are free, too few for it");
            fault(FaultKind::OutOfMemory, &why)
        }
        false => {
            let why = format!(
                "{free_mib} MiB of the device's memory are free, so the library may not fit the \
                 driver or the other libraries"
            );
            fault(FaultKind::Other, &why)
        }
    }
}

/// Whether a failure to make a session is about the model: no kernel for an operator, which
/// `lacks_operator` says, or one that refuses its attributes as it is made. What the device or a
/// library of it says is about neither, even where a kernel says it as it is made.
pub(super) fn is_refusal(words: &str, lacks_operator: bool) -> bool {
    const OF_THE_DEVICE: [&str; 12] = [
        "CUDA failure",
        "CUDNN failure",
        "CUDNN_FE failure",
        "CUBLAS failure",
        "CURAND failure",
        "CUFFT failure",
        "CUDNN_STATUS",
        "CUBLAS_STATUS",
        "cannot open shared object file",
        "oad library",
        "dlopen",
        "annot load symbol",
    ];
    let of_the_model = lacks_operator || words.contains("Exception during initialization");
    of_the_model && kind_of_words(words).is_none() && !says(words, &OF_THE_DEVICE)
}

fn says(words: &str, phrases: &[&str]) -> bool {
    phrases.iter().any(|&phrase| words.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of a failure to make a session; whether the runtime has no kernel; what they mean, and
    /// whether they refuse the model.
    const CASES: [(&str, bool, Option<FaultKind>, bool); 15] = [
        (
            "Could not find an implementation for Odd(1) node with name 'odd'",
            true,
            None,
            true,
        ),
        (
            "Exception during initialization: conv.h:52 auto_pad is not supported",
            false,
            None,
            true,
        ),
        ("the model is odd", false, None, false),
        (
            "Exception during initialization: CUDA failure 2: out of memory ; GPU=0",
            false,
            Some(FaultKind::OutOfMemory),
            false,
        ),
        (
            "Exception during initialization: CUDA failure 700: an illegal memory access",
            false,
            Some(FaultKind::Lost),
            false,
        ),
        (
            "Exception during initialization: CUDA failure 1: invalid argument ; GPU=0",
            false,
            Some(FaultKind::Other),
            false,
        ),
        (
            "Exception during initialization: CUDA failure unknown",
            false,
            None,
            false,
        ),
        (
            "Exception during initialization: CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
            false,
            Some(FaultKind::OutOfMemory),
            false,
        ),
        (
            "Exception during initialization: CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED",
            false,
            None,
            false,
        ),
        (
            "Exception during initialization: CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED",
            false,
            None,
            false,
        ),
        (
            "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            true,
            Some(FaultKind::OutOfMemory),
            false,
        ),
        (
            "Exception during initialization: CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR",
            false,
            None,
            false,
        ),
        (
            "Exception during initialization: CUBLAS failure 14: CUBLAS_STATUS_INTERNAL_ERROR",
            false,
            None,
            false,
        ),
        (
            "Exception during initialization: libcudnn_graph.so.9: cannot open shared object file",
            false,
            None,
            false,
        ),
        (
            "Exception during initialization: bfc_arena.cc Failed to allocate memory for requested \
             buffer of size 1048576",
            false,
            Some(FaultKind::OutOfMemory),
            false,
        ),
    ];

    #[test]
    fn what_the_device_lacks_now_is_no_refusal() {
        for (words, lacks_operator, kind, refuses) in CASES {
            assert_eq!(kind_of_words(words), kind, "{words}");
            assert_eq!(is_refusal(words, lacks_operator), refuses, "{words}");
        }
    }
    #[test]
    fn a_library_that_is_not_initialised_lacks_memory_or_is_broken() {
        let words = "CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED ; GPU=0";
        let told = |free| uninitialised(words, free).unwrap();
        for (free, kind, why) in [
            (Some(100 << 20), FaultKind::OutOfMemory, "100 MiB"),
            (Some(8 << 30), FaultKind::Other, "8192 MiB"),
            (Some(8 << 30), FaultKind::Other, "may not fit the driver"),
            (None, FaultKind::Other, "either its memory"),
        ] {
            let Fault {
                kind: found,
                detail,
            } = told(free);
            assert_eq!(found, kind, "{detail}");
            assert!(
                detail.starts_with(words) && detail.contains(why),
                "{detail}"
            );
        }
        assert_eq!(uninitialised("CUDNN_STATUS_INTERNAL_ERROR", None), None);
    }
}
