//! For what models are optimised, before a device has them: a target, and this processor.

use ort::sys::GraphOptimizationLevel;

/// For what models are optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The CPU of this machine, as far as ONNX Runtime can.
    Cpu,
    /// Any device: what no provider is needed for. A device's sessions do the rest.
    Any,
}

impl Target {
    /// What entries for it are known by.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Any => "any",
        }
    }

    pub(super) fn level(self) -> GraphOptimizationLevel {
        match self {
            Self::Cpu => GraphOptimizationLevel::ORT_ENABLE_ALL,
            // Higher levels depend on where operators run, and leave operators behind that
            // only the CPU has.
            Self::Any => GraphOptimizationLevel::ORT_ENABLE_BASIC,
        }
    }
}

/// The vector extensions of this processor that the runtime chooses kernels and weight
/// layouts by.
pub(super) fn instruction_set() -> String {
    let mut found = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => {
                $(if std::is_x86_feature_detected!($name) { found.push($name); })*
            };
        }
        detect!(
            "sse4.1",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "avxvnni",
            "avx512f",
            "avx512bw",
            "avx512dq",
            "avx512vl",
            "avx512vnni",
            "avx512bf16",
            "avx512fp16"
        );
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => {
                $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name); })*
            };
        }
        detect!("neon", "dotprod", "fp16", "i8mm", "bf16", "sve", "sve2");
    }
    found.join("+")
}
