//! Inputs that nobody sent: warm-up samples, zeros, random values.

use crate::api::{InferRequest, ModelInfo, NamedInput, ValidRequest, validate};
use crate::error::InferError;
use crate::modelconfig::{WarmUp, WarmUpData, WarmUpInput};
use crate::repository::resolve_below;
use bytes::Bytes;
use fugato_core::Timestamp;
use fugato_device::{ElementType, RequestInputs, TensorData, TensorSpec};
use half::{bf16, f16};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// The folder of files that warm-up samples name, in the model's folder, as in Triton.
const FOLDER: &str = "warmup";

/// Seed of random samples, so that a model that fails on one fails on it again.
const SEED: u64 = 0;

/// The end of random whole numbers: any vocabulary has so many words.
const WHOLE_END: u8 = 128;

/// The longest file of one sample's input, in bytes, and the most bytes that a sample is
/// made up of: what the largest request may have.
const SAMPLE_BYTES_MAX: u64 = 1 << 30;

/// The inputs of a warm-up sample, whose files are in the model's `folder`.
///
/// # Errors
/// Why they cannot be made.
pub(super) fn from_warm_up(
    sample: &WarmUp,
    info: &ModelInfo,
    folder: &Path,
) -> Result<Vec<NamedInput>, String> {
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
        WarmUpData::Random => Ok(random_data(input.element, count, (SEED, WHOLE_END))),
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

/// Floats from 0 to 1, whole numbers below `end`, strings of digits.
fn random_data(element: ElementType, count: usize, (seed, end): (u64, u8)) -> TensorData {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut raw: Vec<u8> = Vec::new();
    for _ in 0..count {
        let float: f32 = rng.random();
        let whole: u8 = rng.random_range(0..end.max(1));
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
pub(super) fn zeros(info: &ModelInfo) -> Option<Vec<NamedInput>> {
    one_row(info, |input, count| zero_data(input.element, count))
}

/// One row of random values for every input, as [`zeros`] gives one of zeros.
pub(super) fn random(info: &ModelInfo) -> Option<Vec<NamedInput>> {
    one_row(info, |input, count| {
        random_data(input.element, count, (SEED, WHOLE_END))
    })
}

/// As [`random`], drawn by `seed` anew for each input, with whole numbers of an input below
/// what `end` says of it.
pub(super) fn drawn(
    info: &ModelInfo,
    seed: u64,
    end: impl Fn(&TensorSpec) -> u8,
) -> Option<Vec<NamedInput>> {
    let place = |input: &TensorSpec| {
        let place = info.inputs.iter().position(|one| one.name == input.name);
        place.map_or(0, |place| place as u64)
    };
    one_row(info, |input, count| {
        // A stream of its own for each input of each draw.
        let seed = seed << 16 | place(input);
        random_data(input.element, count, (seed, end(input)))
    })
}

/// The largest end of random whole numbers that is tried for an input, and the others.
pub(super) fn ends(input: &TensorSpec) -> &'static [u8] {
    // A mask says which places count: other numbers than these two mean nothing.
    match input.name.contains("mask") {
        true => &[2, 1],
        false => &[WHOLE_END, 2, 1],
    }
}

/// The inputs as a device takes them.
///
/// # Errors
/// Where they are no request to the model.
pub(super) fn one_item(
    info: &ModelInfo,
    inputs: Vec<NamedInput>,
) -> Result<RequestInputs, InferError> {
    let request = request(info, inputs, Timestamp::ZERO);
    let ValidRequest { inputs, items, .. } = validate(info, request)?;
    Ok(RequestInputs { items, inputs })
}

/// A request that no client sent.
pub(super) fn request(
    info: &ModelInfo,
    inputs: Vec<NamedInput>,
    arrived: Timestamp,
) -> InferRequest {
    InferRequest {
        model: info.name.clone(),
        version: None,
        id: String::new(),
        inputs,
        outputs: Vec::new(),
        arrived,
        deadline: None,
        queue_timeout: None,
        priority: 0,
        trace: None,
    }
}

fn one_row(
    info: &ModelInfo,
    data: impl Fn(&TensorSpec, usize) -> TensorData,
) -> Option<Vec<NamedInput>> {
    let one = |input: &TensorSpec| {
        let batch = usize::from(info.max_batch_size > 0);
        let rows = std::iter::repeat_n(Some(1), batch);
        let shape: Vec<u64> = rows
            .chain(input.shape.iter().skip(batch).copied())
            .collect::<Option<_>>()?;
        let count = usize::try_from(shape.iter().product::<u64>()).ok()?;
        Some(NamedInput {
            name: input.name.clone(),
            element: input.element,
            shape,
            data: data(input, count).into(),
        })
    };
    info.inputs.iter().map(one).collect()
}
