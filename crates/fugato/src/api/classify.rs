//! Outputs as classes: the best elements of each row with their index and label, in place
//! of the tensor (Triton's classification extension).

use super::{InferReply, ModelInfo, ReplyOutput, RequestedOutput};
use crate::error::{Fault, InferError};
use bytes::Bytes;
use fugato_device::{ElementType, TensorData};
use half::{bf16, f16};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The most classes of one output. Each takes some 50 bytes in memory where an element took
/// 1 to 8, so without a bound a reply could be many times what was planned for it.
const CLASSES_MAX: u64 = 1 << 20;

/// Turns the outputs of a reply that were asked for as classes into them. `requested` is
/// what the request asked for, empty for every output as it is.
///
/// For each row of the batch (the whole output, of a model without a batch dimension) there
/// are as many strings `value:index` or `value:index:label` as asked for, or as the row has
/// elements where those are fewer; best first, the smaller index first among equals, NaN
/// after every number. Floats have six digits after the point.
///
/// # Errors
/// `InvalidValue` for outputs that are not numbers, and for too many classes.
///
/// # Source
/// Triton's extension_classification.md; its server leaves the order of equals and NaN open
/// and refuses FP16 and BF16, which are taken here.
pub(crate) fn classify(
    reply: &mut InferReply,
    requested: &[RequestedOutput],
) -> Result<(), InferError> {
    for (output, wanted) in reply.outputs.iter_mut().zip(requested) {
        if wanted.classes > 0 {
            replace(&reply.model, output, wanted)?;
        }
    }
    Ok(())
}

fn replace(
    info: &ModelInfo,
    output: &mut ReplyOutput,
    wanted: &RequestedOutput,
) -> Result<(), InferError> {
    let refuse = |of: String, expected| -> InferError {
        Fault::Parameter {
            object: format!("output `{}`", wanted.name),
            name: "classification",
            found: format!("{} {of}", wanted.classes),
            expected,
        }
        .into()
    };
    let numbers = "classes of an output of numbers";
    let (TensorData::Raw(raw), Some(width)) = (&output.data, output.element.size()) else {
        return Err(refuse(format!("of {}", output.element), numbers));
    };
    if output.element == ElementType::Bool {
        return Err(refuse("of BOOL".to_owned(), numbers));
    }
    let batched = info.max_batch_size > 0 && !output.shape.is_empty();
    let rows = if batched { output.shape[0] } else { 1 };
    let row: u64 = output.shape.iter().skip(usize::from(batched)).product();
    let classes = row.min(u64::from(wanted.classes));
    if rows.saturating_mul(classes) > CLASSES_MAX {
        let of = format!("for each of {rows} rows");
        return Err(refuse(of, "at most 1048576 classes in all"));
    }
    let labels = info.labels.get(output.index).and_then(Option::as_deref);
    let mut strings = Vec::new();
    // A row without elements has no classes, and takes no bytes.
    let row_bytes = usize::try_from(row).map_or(usize::MAX, |row| row.saturating_mul(width));
    for row in raw.chunks(row_bytes.max(1)) {
        push_best(&mut strings, output.element, row, classes, labels);
    }
    output.shape = if batched {
        vec![rows, classes]
    } else {
        vec![classes]
    };
    output.element = ElementType::Bytes;
    output.data = TensorData::Strings(strings);
    Ok(())
}

/// Adds the best `classes` of one row.
fn push_best(
    strings: &mut Vec<Bytes>,
    element: ElementType,
    row: &[u8],
    classes: u64,
    labels: Option<&[String]>,
) {
    let classes = usize::try_from(classes).unwrap_or(usize::MAX);
    let mut push = |index: usize, value: String| {
        let label = labels.and_then(|labels| labels.get(index));
        let text = match label.filter(|label| !label.is_empty()) {
            Some(label) => format!("{value}:{index}:{label}"),
            None => format!("{value}:{index}"),
        };
        strings.push(text.into());
    };
    match element {
        ElementType::Int8 => signed(row, classes, i8::from_le_bytes, &mut push),
        ElementType::Int16 => signed(row, classes, i16::from_le_bytes, &mut push),
        ElementType::Int32 => signed(row, classes, i32::from_le_bytes, &mut push),
        ElementType::Int64 => signed(row, classes, i64::from_le_bytes, &mut push),
        ElementType::Uint8 => unsigned(row, classes, u8::from_le_bytes, &mut push),
        ElementType::Uint16 => unsigned(row, classes, u16::from_le_bytes, &mut push),
        ElementType::Uint32 => unsigned(row, classes, u32::from_le_bytes, &mut push),
        ElementType::Uint64 => unsigned(row, classes, u64::from_le_bytes, &mut push),
        ElementType::Fp16 => float(row, classes, f16::from_le_bytes, &mut push),
        ElementType::Bf16 => float(row, classes, bf16::from_le_bytes, &mut push),
        ElementType::Fp32 => float(row, classes, f32::from_le_bytes, &mut push),
        ElementType::Fp64 => float(row, classes, f64::from_le_bytes, &mut push),
        // The caller has refused them.
        ElementType::Bool | ElementType::Bytes => {}
    }
}

type Push<'a> = &'a mut dyn FnMut(usize, String);

fn signed<const N: usize, T: Into<i64>>(
    row: &[u8],
    classes: usize,
    value: fn([u8; N]) -> T,
    push: Push<'_>,
) {
    let key = |bytes| Into::<i64>::into(value(bytes)).cast_unsigned() ^ (1 << 63);
    best(
        row,
        classes,
        key,
        |bytes| value(bytes).into().to_string(),
        push,
    );
}

fn unsigned<const N: usize, T: Into<u64>>(
    row: &[u8],
    classes: usize,
    value: fn([u8; N]) -> T,
    push: Push<'_>,
) {
    let key = |bytes| value(bytes).into();
    best(
        row,
        classes,
        key,
        |bytes| value(bytes).into().to_string(),
        push,
    );
}

fn float<const N: usize, T: Into<f64>>(
    row: &[u8],
    classes: usize,
    value: fn([u8; N]) -> T,
    push: Push<'_>,
) {
    let text = |bytes| {
        let value: f64 = value(bytes).into();
        if value.is_nan() {
            "nan".to_owned()
        } else {
            format!("{value:.6}")
        }
    };
    best(
        row,
        classes,
        |bytes| float_key(value(bytes).into()),
        text,
        push,
    );
}

/// Numbers rise with their keys, the zeros are equal, and NaN is below every number.
fn float_key(value: f64) -> u64 {
    if value.is_nan() {
        return 0;
    }
    // Adding a zero turns -0.0 into 0.0.
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 {
        !bits
    } else {
        bits | (1 << 63)
    }
}

/// Pushes the best elements of a row, best first.
///
/// # Cost
/// O(row x log classes), and memory for the classes only.
fn best<const N: usize>(
    row: &[u8],
    classes: usize,
    key: impl Fn([u8; N]) -> u64,
    text: impl Fn([u8; N]) -> String,
    push: Push<'_>,
) {
    let (values, _) = row.as_chunks::<N>();
    // The worst of those kept is on top.
    let mut kept = BinaryHeap::new();
    for (index, &bytes) in values.iter().enumerate() {
        let ranked = (key(bytes), Reverse(index));
        if kept.len() < classes {
            kept.push(Reverse(ranked));
        } else if kept.peek().is_some_and(|worst| ranked > worst.0) {
            kept.pop();
            kept.push(Reverse(ranked));
        }
    }
    for Reverse((_, Reverse(index))) in kept.into_sorted_vec() {
        push(index, text(values[index]));
    }
}

#[cfg(test)]
mod tests;
