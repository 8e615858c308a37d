//! What ONNX Runtime's CUDA provider is told, and what of a model it cannot capture.

use super::backend::SessionOptions;
use crate::device::ConvolutionSearch;
use crate::store::{Part, StoredModel};
use fugato_core::OperatorIndex;
use std::ffi::CStr;

/// ONNX Runtime's name of what runs operators on the device.
pub(super) const PROVIDER: &str = "CUDAExecutionProvider";

/// Operators that read back from the device, or from memory of the host that is gone later, as
/// they run: a graph would repeat what they found at its capture.
const NOT_CAPTURED: [&str; 13] = [
    "NonZero",
    "Compress",
    "NonMaxSuppression",
    "Unique",
    "GatherND",
    "If",
    "Loop",
    "Scan",
    "SequenceMap",
    "SparseAttention",
    "RemovePadding",
    "MatMulBnb4",
    "PagedAttention",
];

/// What ONNX Runtime's CUDA provider is told of a session, but for its device.
pub(super) fn provider_settings(
    SessionOptions { tuning, graphs }: SessionOptions,
) -> [(&'static CStr, &'static CStr); 6] {
    let flag = |is_on| if is_on { c"1" } else { c"0" };
    [
        (c"enable_cuda_graph", flag(graphs)),
        // Another strategy takes up to twice of what is needed, for each session.
        (c"arena_extend_strategy", c"kSameAsRequested"),
        // It clears memory on a stream of its own, which a graph would leave out.
        (c"fuse_conv_bias", c"0"),
        (
            c"cudnn_conv_algo_search",
            match tuning.convolutions {
                ConvolutionSearch::Heuristic => c"HEURISTIC",
                ConvolutionSearch::Exhaustive => c"EXHAUSTIVE",
                ConvolutionSearch::Fallback => c"DEFAULT",
            },
        ),
        (c"use_tf32", flag(tuning.tf32)),
        (c"prefer_nhwc", flag(tuning.nhwc)),
    ]
}

/// An operator of the model, or of its part, whose runs cannot be captured.
pub(super) fn not_captured(model: &StoredModel, part: Option<&Part>) -> Option<String> {
    // A graph that cannot be read as operators has subgraphs, or the runtime will say.
    let graph = model.graph().ok()?;
    let operators = graph.graph().operators().iter().enumerate();
    let operators = operators.filter(|&(place, _)| {
        part.is_none_or(|part| part.operators.contains(&OperatorIndex::at(place)))
    });
    let mut kinds = operators.map(|(_, operator)| operator.op_type.as_str());
    kinds
        .find(|kind| NOT_CAPTURED.contains(kind))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::GpuTuning;

    #[test]
    fn the_provider_is_told_what_is_chosen_by_model() {
        let of = |tuning, graphs| provider_settings(SessionOptions { tuning, graphs });
        let say = |settings: [(&CStr, &CStr); 6]| {
            let said = settings.map(|(name, value)| format!("{name:?}={value:?}"));
            said.join(" ").replace('"', "")
        };
        let exact = say(of(GpuTuning::default(), true));
        assert_eq!(
            exact,
            "enable_cuda_graph=1 arena_extend_strategy=kSameAsRequested fuse_conv_bias=0 \
             cudnn_conv_algo_search=HEURISTIC use_tf32=0 prefer_nhwc=0"
        );
        let fast = GpuTuning {
            tf32: true,
            nhwc: true,
            convolutions: ConvolutionSearch::Exhaustive,
            ..GpuTuning::default()
        };
        let fast = say(of(fast, false));
        assert!(
            fast.starts_with("enable_cuda_graph=0 ")
                && fast.ends_with("cudnn_conv_algo_search=EXHAUSTIVE use_tf32=1 prefer_nhwc=1"),
            "{fast}"
        );
        let careful = GpuTuning {
            convolutions: ConvolutionSearch::Fallback,
            ..GpuTuning::default()
        };
        assert!(say(of(careful, true)).contains("cudnn_conv_algo_search=DEFAULT"));
    }
}
