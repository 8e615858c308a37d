//! What ONNX Runtime's words say of a failure; they are those of 1.31.

use super::backend::FaultKind;
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
    // cuBLAS and cuDNN are not initialised where the memory for their own state is taken.
    const NO_MEMORY: [&str; 7] = [
        "Failed to allocate memory",
        "is smaller than requested bytes",
        "bad_alloc",
        "out of memory",
        "ALLOC_FAILED",
        "ALLOCATION_FAILED",
        "NOT_INITIALIZED",
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
            Some(FaultKind::OutOfMemory),
            false,
        ),
        (
            "Exception during initialization: CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED",
            false,
            Some(FaultKind::OutOfMemory),
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
}
