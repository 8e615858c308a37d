//! What all parts run: models of one recipe, over random inputs.

use fugato_device::ElementType;
use fugato_zoo::{InputValues, Recipe, TYPICAL_SEQUENCE};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// How the models are made. Texts have a fixed number of tokens, since an NVIDIA device places
/// tensors before it runs.
pub(super) const RECIPE: Recipe = Recipe {
    seed: 1,
    sequence: Some(TYPICAL_SEQUENCE),
};

/// Appends an element that makes sense for an input.
pub(super) fn push(
    bytes: &mut Vec<u8>,
    element: ElementType,
    values: InputValues,
    rng: &mut ChaCha8Rng,
) -> anyhow::Result<()> {
    match (element, values) {
        // Uniform, with the mean and variance of normalised images.
        (ElementType::Fp32, InputValues::Normal) => {
            let bound = 3.0_f32.sqrt();
            bytes.extend(rng.random_range(-bound..bound).to_le_bytes());
        }
        (ElementType::Int64, InputValues::Below { end }) => {
            bytes.extend(rng.random_range(0..end).to_le_bytes());
        }
        (ElementType::Int64, InputValues::One) => bytes.extend(1_i64.to_le_bytes()),
        (ElementType::Fp32, InputValues::One) => bytes.extend(1.0_f32.to_le_bytes()),
        (element, values) => anyhow::bail!("no inputs of type {element} and values {values:?}"),
    }
    Ok(())
}

/// How a device calls the elements of an input of the zoo.
pub(super) fn element(data_type: fugato_onnx::DataType) -> anyhow::Result<ElementType> {
    if data_type == fugato_onnx::DataType::Float {
        Ok(ElementType::Fp32)
    } else if data_type == fugato_onnx::DataType::Int64 {
        Ok(ElementType::Int64)
    } else {
        anyhow::bail!("no inputs of type {data_type:?}")
    }
}
