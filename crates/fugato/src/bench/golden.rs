//! Making expectations: the original model in plain ONNX Runtime, at batch 1.

use super::expect::Case;
use super::tensor::{InputSettings, Tensor, TensorError};
use fugato_device::reference::{PlainRunError, PlainSession};
use fugato_device::{InputTensor, TensorSpec};
use rand_chacha::ChaCha8Rng;

/// Why expectations could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// Random inputs could not be made.
    #[error("cannot make inputs")]
    Inputs(#[source] TensorError),
    /// The model failed on them.
    #[error("the model failed on random inputs; hint: bound its integers with `--integers`")]
    Run(#[source] PlainRunError),
}

/// Runs `session` on `count` sets of random inputs of one item each.
///
/// # Errors
/// [`GoldenError`].
pub fn make_cases(
    session: &mut PlainSession,
    settings: &InputSettings,
    count: u32,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Case>, GoldenError> {
    let inputs: Vec<TensorSpec> = session.inputs().to_vec();
    let outputs: Vec<TensorSpec> = session.outputs().to_vec();
    let cases = (0..count).map(|_| {
        let tensors = settings.random_inputs(&inputs, rng);
        let tensors = tensors.map_err(GoldenError::Inputs)?;
        let values = tensors.iter().map(|tensor| {
            Ok(InputTensor {
                shape: tensor.shape.clone(),
                data: tensor.to_data()?.into(),
            })
        });
        let values = values.collect::<Result<Vec<_>, TensorError>>();
        let found = session.run(&values.map_err(GoldenError::Inputs)?);
        let found = found.map_err(GoldenError::Run)?.into_iter();
        let found = outputs.iter().zip(found).map(|(spec, value)| {
            Tensor::of(spec.name.clone(), spec.element, value.shape, value.data)
        });
        Ok(Case {
            inputs: tensors,
            outputs: found.collect(),
        })
    });
    cases.collect()
}
