//! Operators that ONNX Runtime runs on the CPU only, as its own list of kernels has it.

/// Of ONNX's own domain: those with a kernel for the CPU, and none for NVIDIA devices whatever the
/// types of their tensors.
///
/// Source: `docs/OperatorKernels.md` of ONNX Runtime. A version may have kernels that the list has not,
/// so this is a hint; what a session says of itself is the truth.
const ON_HOST: [&str; 43] = [
    "Acos",
    "Acosh",
    "AffineGrid",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Bernoulli",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "BlackmanWindow",
    "Celu",
    "Col2Im",
    "ConvInteger",
    "Cosh",
    "DFT",
    "Det",
    "DynamicQuantizeLinear",
    "GlobalLpPool",
    "HammingWindow",
    "HannWindow",
    "Hardmax",
    "LpNormalization",
    "LpPool",
    "MaxUnpool",
    "MeanVarianceNormalization",
    "MelWeightMatrix",
    "Multinomial",
    "QLinearConv",
    "QLinearMatMul",
    "RegexFullMatch",
    "STFT",
    "Sinh",
    "SplitToSequence",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "Tan",
    "TfIdfVectorizer",
    "Unique",
];

/// The domain of classical models (trees, scalers, encoders), which has no kernel for NVIDIA
/// devices.
const CLASSICAL: &str = "ai.onnx.ml";

/// Whether an operator is known to have no kernel for NVIDIA devices, so that ONNX Runtime runs it
/// on the CPU. Whether one that is not known does is told by loading its model.
pub fn lacks_kernel(domain: &str, kind: &str) -> bool {
    match domain {
        "" | "ai.onnx" => ON_HOST.binary_search(&kind).is_ok(),
        domain => domain == CLASSICAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_on_the_cpu_only_is_known_by_domain_and_kind() {
        assert!(ON_HOST.is_sorted(), "it is searched");
        assert!(ON_HOST.iter().all(|kind| lacks_kernel("", kind)));
        assert!(lacks_kernel("", "Unique") && lacks_kernel("ai.onnx", "DFT"));
        assert!(lacks_kernel("ai.onnx.ml", "TreeEnsembleClassifier"));
        for kind in ["Conv", "MatMul", "Relu", "If", "NonZero", "MatMulInteger"] {
            assert!(!lacks_kernel("", kind), "{kind}");
        }
        assert!(
            !lacks_kernel("com.microsoft", "Tan"),
            "nothing is known of it"
        );
    }
}
