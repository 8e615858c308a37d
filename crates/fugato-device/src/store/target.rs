//! For what models are optimised, before a device has them.

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
