//! Runs of a version before it takes requests.

use super::runner::Runner;
use super::served::ServedModel;
use crate::api::{InferRequest, ModelInfo, NamedInput};
use crate::error::{ErrorKind, InferError};
use crate::modelconfig::{WarmUp, WarmUpData, WarmUpInput};
use crate::repository::resolve_below;
use bytes::Bytes;
use fugato_device::{ElementType, TensorData};
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::Arc;

/// Runs of a new model before it takes requests: the first one sizes the runtime's
/// arenas and lays weights out, and the second teaches the scheduler its latency.
const RUNS: u32 = 3;

/// The folder of files that warm-up samples name, in the model's folder, as in Triton.
const FOLDER: &str = "warmup";

/// Seed of random samples, so that a model that fails on one fails on it again.
const SEED: u64 = 0;

/// The longest file of one sample's input, in bytes, and the most bytes that a sample is
/// made up of: what the largest request may have.
const SAMPLE_BYTES_MAX: u64 = 1 << 30;

/// Why a version failed its own warm-up.
#[derive(Debug, thiserror::Error)]
pub(super) enum WarmUpError {
    #[error("warm-up sample `{sample}` cannot be made: {reason}")]
    Sample { sample: String, reason: String },
    #[error("warm-up sample `{sample}` failed: {cause}")]
    Run { sample: String, cause: InferError },
}

/// Runs the model on zeros a few times, where its input shapes are known, then on the
/// samples that its configuration has in `folder`.
///
/// # Errors
/// Where the model fails on one of those samples. What the server was too busy for is only
/// noted.
pub(super) async fn up(
    runner: &Runner,
    served: &ServedModel,
    folder: &Path,
) -> Result<(), WarmUpError> {
    run_on_zeros(runner, served).await;
    let samples = served.settings.wanted().map(|wanted| &wanted.warm_ups);
    for sample in samples.into_iter().flatten() {
        let (own, info, folder) = (sample.clone(), Arc::clone(&served.info), folder.to_owned());
        // It may be of hundreds of megabytes, or in a file.
        let made = tokio::task::spawn_blocking(move || make(&own, &info, &folder)).await;
        let made = made.unwrap_or_else(|panic| Err(panic.to_string()));
        let inputs = made.map_err(|reason| WarmUpError::Sample {
            sample: sample.name.clone(),
            reason,
        })?;
        for _ in 0..sample.count {
            match run(runner, served, inputs.clone()).await {
                Ok(()) => {}
                Err(error) if is_load(error.kind()) => {
                    let (model, sample) = (&served.info.name, &sample.name);
                    tracing::warn!(model, sample, %error, "a warm-up sample was not run");
                    if runner.is_draining() {
                        return Ok(());
                    }
                    // What is full or draining now is so for the next run, too.
                    break;
                }
                Err(cause) => {
                    return Err(WarmUpError::Run {
                        sample: sample.name.clone(),
                        cause,
                    });
                }
            }
        }
    }
    Ok(())
}

/// Whether an error is about how busy the server is, not about the model.
fn is_load(kind: ErrorKind) -> bool {
    kind.facts().retryable || kind == ErrorKind::DeadlineExceeded
}

async fn run_on_zeros(runner: &Runner, served: &ServedModel) {
    let Some(inputs) = zeros(&served.info) else {
        return;
    };
    for _ in 0..RUNS {
        if let Err(error) = run(runner, served, inputs.clone()).await {
            // Zeros may be no valid input (an index, a length): its users' are.
            let model = &served.info.name;
            tracing::debug!(model, %error, "the run on zeros failed");
            return;
        }
    }
}

async fn run(
    runner: &Runner,
    served: &ServedModel,
    inputs: Vec<NamedInput>,
) -> Result<(), InferError> {
    let request = InferRequest {
        model: served.info.name.clone(),
        version: None,
        id: String::new(),
        inputs,
        outputs: Vec::new(),
        arrived: runner.clock.now(),
        deadline: None,
        queue_timeout: None,
        priority: 0,
        trace: None,
    };
    let accepted = runner.hand_in(served, request)?;
    runner.answer(served, accepted).await.map(drop)
}

/// The inputs of a sample.
fn make(sample: &WarmUp, info: &ModelInfo, folder: &Path) -> Result<Vec<NamedInput>, String> {
    let make_one = |input: &WarmUpInput| {
        let batch = (info.max_batch_size > 0).then_some(u64::from(sample.batch_size));
        let shape: Vec<u64> = batch
            .into_iter()
            .chain(input.dims.iter().copied())
            .collect();
        let count = shape.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
        let count = count.filter(|n| n.saturating_mul(8) <= SAMPLE_BYTES_MAX);
        let count = count.and_then(|count| usize::try_from(count).ok());
        let count = count.ok_or_else(|| format!("input `{}` is too large", input.name))?;
        Ok(NamedInput {
            name: input.name.clone(),
            element: input.element,
            shape,
            data: elements(input, count, folder)?.into(),
        })
    };
    sample.inputs.iter().map(make_one).collect()
}

fn elements(input: &WarmUpInput, count: usize, folder: &Path) -> Result<TensorData, String> {
    match &input.data {
        WarmUpData::Zero => Ok(zero_data(input.element, count)),
        WarmUpData::Random => Ok(random_data(input.element, count)),
        WarmUpData::File(file) => {
            // Below the model's folder, so that `warmup` itself is no link out of it.
            let below = format!("{FOLDER}/{file}");
            let path = resolve_below(folder, &below).map_err(|e| e.to_string())?;
            let failed = |error: std::io::Error| format!("`{file}` cannot be read: {error}");
            let bytes = std::fs::metadata(&path).map_err(failed)?.len();
            if bytes > SAMPLE_BYTES_MAX {
                return Err(format!(
                    "`{file}` has {bytes} bytes, more than {SAMPLE_BYTES_MAX}"
                ));
            }
            Ok(TensorData::Raw(
                std::fs::read(&path).map_err(failed)?.into(),
            ))
        }
    }
}

fn zero_data(element: ElementType, count: usize) -> TensorData {
    match element.size() {
        Some(size) => TensorData::Raw(Bytes::from(vec![0; count * size])),
        None => TensorData::Strings(vec![Bytes::new(); count]),
    }
}

/// Floats from 0 to 1, whole numbers from 0 to 127, strings of digits.
fn random_data(element: ElementType, count: usize) -> TensorData {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut raw: Vec<u8> = Vec::new();
    for _ in 0..count {
        let float: f32 = rng.random();
        let whole: u8 = rng.random_range(0..128);
        match element {
            ElementType::Bool => raw.push(whole & 1),
            ElementType::Fp16 => raw.extend(f16::from_f32(float).to_le_bytes()),
            ElementType::Bf16 => raw.extend(bf16::from_f32(float).to_le_bytes()),
            ElementType::Fp32 => raw.extend(float.to_le_bytes()),
            ElementType::Fp64 => raw.extend(f64::from(float).to_le_bytes()),
            ElementType::Bytes => raw.push(b'0' + whole % 10),
            ElementType::Uint8
            | ElementType::Uint16
            | ElementType::Uint32
            | ElementType::Uint64
            | ElementType::Int8
            | ElementType::Int16
            | ElementType::Int32
            | ElementType::Int64 => {
                raw.push(whole);
                let size = element.size().unwrap_or(1);
                raw.resize(raw.len() + size - 1, 0);
            }
        }
    }
    let raw = Bytes::from(raw);
    if element == ElementType::Bytes {
        let strings = (0..count).map(|index| raw.slice(index..index + 1));
        return TensorData::Strings(strings.collect());
    }
    TensorData::Raw(raw)
}

/// One row of zeros (or empty strings) for every input; `None` where a dimension past
/// the batch varies, so that no size is typical.
fn zeros(info: &ModelInfo) -> Option<Vec<NamedInput>> {
    let zero = |input: &fugato_device::TensorSpec| {
        let batch = usize::from(info.max_batch_size > 0);
        let rows = std::iter::repeat_n(Some(1), batch);
        let shape: Vec<u64> = rows
            .chain(input.shape.iter().skip(batch).copied())
            .collect::<Option<_>>()?;
        let count = usize::try_from(shape.iter().product::<u64>()).ok()?;
        let data = zero_data(input.element, count);
        Some(NamedInput {
            name: input.name.clone(),
            element: input.element,
            shape,
            data: data.into(),
        })
    };
    info.inputs.iter().map(zero).collect()
}
