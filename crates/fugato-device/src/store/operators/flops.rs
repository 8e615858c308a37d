//! Floating-point operations of an operator at batch 1, a multiply-add counted as two.
//!
//! What counts is the arithmetic that grows with the tensors: the multiply-adds of
//! convolutions and products, the window of a pooling, one operation for each element
//! that another operator writes. Biases, activations and sums that are fused into a
//! convolution or product are not counted; copies are free.

use fugato_onnx::NodeProto;

/// Operators that move or describe elements and compute nothing.
const MOVES: [&str; 29] = [
    "Cast",
    "Compress",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "NonZero",
    "OneHot",
    "Pad",
    "Range",
    "ReorderInput",
    "ReorderOutput",
    "Reshape",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Size",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
];

/// Operators whose arithmetic the shapes of their inputs and outputs do not tell, or
/// that this module does not know by heart.
const UNKNOWN: [&str; 16] = [
    "Attention",
    "DFT",
    "DeformConv",
    "Einsum",
    "GRU",
    "GroupQueryAttention",
    "If",
    "LSTM",
    "Loop",
    "MatMulNBits",
    "MultiHeadAttention",
    "QAttention",
    "RNN",
    "Scan",
    "SequenceMap",
    "STFT",
];

/// The operations of a node; `None` where a shape that they depend on, or the operator
/// itself, is not known. `dims` gives the dimensions of a tensor at batch 1.
pub(super) fn of(node: &NodeProto, dims: &dyn Fn(&str) -> Option<Vec<u64>>) -> Option<u64> {
    let input = |place: usize| dims(node.input.get(place)?);
    let written = || product(&dims(node.output.first()?)?);
    let op = node.op_type();
    if MOVES.contains(&op) || op.starts_with("Unsqueeze") {
        return Some(0);
    }
    if UNKNOWN.contains(&op) {
        return None;
    }
    match op {
        "Conv" | "FusedConv" | "NhwcFusedConv" | "ConvInteger" => {
            multiply_adds(written()?, per_output(&input(1)?)?)
        }
        "QLinearConv" => multiply_adds(written()?, per_output(&input(3)?)?),
        "ConvTranspose" => multiply_adds(product(&input(0)?)?, per_output(&input(1)?)?),
        "MatMul" | "FusedMatMul" | "Gemm" | "FusedGemm" | "MatMulInteger" | "QLinearMatMul" => {
            let dims = input(0)?;
            let is_transposed = is_set(node, "transA");
            let from_end = if is_transposed && dims.len() > 1 {
                2
            } else {
                1
            };
            multiply_adds(written()?, *dims.get(dims.len().checked_sub(from_end)?)?)
        }
        "MaxPool" | "AveragePool" | "LpPool" => {
            let window = node.find_attribute("kernel_shape")?.ints.iter();
            let window: Vec<u64> = window
                .map(|&size| u64::try_from(size).ok())
                .collect::<Option<_>>()?;
            written()?.checked_mul(product(&window)?)
        }
        "GlobalAveragePool" | "GlobalMaxPool" => product(&input(0)?),
        op if op.starts_with("Reduce") || op.starts_with("Arg") => product(&input(0)?),
        _ => written(),
    }
}

/// Multiply-adds for each output of a convolution: the filter without its first axis.
fn per_output(filter: &[u64]) -> Option<u64> {
    product(filter.get(1..)?)
}

fn multiply_adds(outputs: u64, each: u64) -> Option<u64> {
    outputs.checked_mul(each)?.checked_mul(2)
}

fn product(dims: &[u64]) -> Option<u64> {
    dims.iter()
        .try_fold(1_u64, |product, &dim| product.checked_mul(dim))
}

fn is_set(node: &NodeProto, attribute: &str) -> bool {
    let found = node.find_attribute(attribute);
    found.is_some_and(|attribute| attribute.i.unwrap_or(0) != 0)
}
