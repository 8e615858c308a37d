//! Whether a model keeps the rows of a batch apart, told by running it.
//!
//! The interface says only that the first dimension varies. A softmax over it, or a
//! reshape to one row inside, makes answers depend on who shares the run.

use crate::reference::PlainSession;
use crate::tensor::{ElementType, InputData, InputTensor, OutputTensor, TensorData, TensorSpec};
use bytes::Bytes;
use half::{bf16, f16};

/// Rows with an input larger than this are not tried, in bytes.
const ROW_BYTES_MAX: usize = 64 << 20;

/// Runs two rows that differ apart and together; tells why they cannot share runs, if so.
///
/// `None` also where nothing can be told: a dimension past the first varies, an input
/// holds strings, or the model refuses made-up values.
pub(super) fn obstacle(session: &mut PlainSession) -> Option<String> {
    let row = |number| -> Option<Vec<InputTensor>> {
        let inputs = session.inputs().iter();
        inputs.map(|spec| made_up_row(spec, number)).collect()
    };
    let rows = [row(0)?, row(1)?];
    let both: Vec<_> = rows[0].iter().zip(&rows[1]).map(side_by_side).collect();
    let mut run_apart = |row| match session.run(row) {
        Ok(outputs) => Some(outputs),
        Err(error) => {
            tracing::debug!(%error, "a model refused made-up values; its interface decides");
            None
        }
    };
    let apart = [run_apart(&rows[0])?, run_apart(&rows[1])?];
    let together = match session.run(&both) {
        Ok(outputs) => outputs,
        Err(error) => {
            return Some(format!(
                "it runs each of two rows and not both at once: {error}"
            ));
        }
    };
    let outputs = session.outputs().iter().zip(together);
    let mut outputs = outputs.zip(apart[0].iter().zip(&apart[1]));
    outputs.find_map(|((spec, together), apart)| difference(spec, &together, apart))
}

/// One row for an input: floats that differ from each other and from the other row's, and
/// as numbers (which may be indices) the row's own number.
fn made_up_row(spec: &TensorSpec, number: u8) -> Option<InputTensor> {
    let dims = spec.shape.get(1..)?.iter().copied();
    let shape: Vec<u64> = std::iter::once(Some(1))
        .chain(dims)
        .collect::<Option<_>>()?;
    let size = spec.element.size()?;
    let count = shape
        .iter()
        .try_fold(1_usize, |count, &dim| {
            count.checked_mul(usize::try_from(dim).ok()?)
        })
        .filter(|count| count.checked_mul(size).is_some_and(|n| n <= ROW_BYTES_MAX))?;
    let mut random = blake3::Hasher::new()
        .update(spec.name.as_bytes())
        .update(&[number])
        .finalize_xof();
    // Above 0 and up to 1, where roots and logarithms are defined.
    let mut float = || {
        let mut bytes = [0; 2];
        random.fill(&mut bytes);
        (f32::from(u16::from_le_bytes(bytes)) + 1.0) / 65_536.0
    };
    let mut data = Vec::with_capacity(count * size);
    for _ in 0..count {
        match spec.element {
            ElementType::Fp16 => data.extend(f16::from_f32(float()).to_le_bytes()),
            ElementType::Bf16 => data.extend(bf16::from_f32(float()).to_le_bytes()),
            ElementType::Fp32 => data.extend(float().to_le_bytes()),
            ElementType::Fp64 => data.extend(f64::from(float()).to_le_bytes()),
            ElementType::Bool
            | ElementType::Uint8
            | ElementType::Uint16
            | ElementType::Uint32
            | ElementType::Uint64
            | ElementType::Int8
            | ElementType::Int16
            | ElementType::Int32
            | ElementType::Int64
            | ElementType::Bytes => {
                data.push(number);
                data.resize(data.len() + size - 1, 0);
            }
        }
    }
    let data = TensorData::Raw(data.into());
    Some(InputTensor {
        shape,
        data: data.into(),
    })
}

fn side_by_side((first, second): (&InputTensor, &InputTensor)) -> InputTensor {
    let mut shape = first.shape.clone();
    shape[0] += second.shape[0];
    let (InputData::Here(first), InputData::Here(second)) = (&first.data, &second.data) else {
        unreachable!("both were made here")
    };
    InputTensor {
        shape,
        data: joined(first, second).into(),
    }
}

/// The elements of two tensors of one type, one after the other.
fn joined(first: &TensorData, second: &TensorData) -> TensorData {
    match (first, second) {
        (TensorData::Raw(first), TensorData::Raw(second)) => {
            TensorData::Raw(Bytes::from([first.as_ref(), second.as_ref()].concat()))
        }
        (TensorData::Strings(first), TensorData::Strings(second)) => {
            TensorData::Strings([first.as_slice(), second.as_slice()].concat())
        }
        _ => unreachable!("one input or output has one element type"),
    }
}

/// How an output of two rows together differs from those of each alone, if it does.
fn difference(
    spec: &TensorSpec,
    together: &OutputTensor,
    (first, second): (&OutputTensor, &OutputTensor),
) -> Option<String> {
    let name = &spec.name;
    let rest = |output: &OutputTensor, rows| match output.shape.split_first() {
        Some((&found, rest)) if found == rows => Some(rest.to_vec()),
        _ => None,
    };
    let row = rest(first, 1);
    if row.is_none() || rest(second, 1) != row || rest(together, 2) != row {
        return Some(format!(
            "output `{name}` has shapes {:?} and {:?} for two rows apart, and {:?} for both at \
             once",
            first.shape, second.shape, together.shape
        ));
    }
    let apart = joined(&first.data, &second.data);
    let (TensorData::Raw(together), TensorData::Raw(apart)) = (&together.data, &apart) else {
        let text = format!("output `{name}` of a row depends on the rows beside it");
        return (together.data != apart).then_some(text);
    };
    let (together, apart) = (
        numbers(spec.element, together),
        numbers(spec.element, apart),
    );
    let finite = apart.iter().map(|value| value.abs());
    let largest = finite.filter(|value| value.is_finite()).fold(0.0, f64::max);
    let slack = tolerance(spec.element) * largest;
    let pairs = together.iter().zip(&apart);
    let (with, alone) = pairs.into_iter().find(|&(with, alone)| {
        let equal = with == alone || (with.is_nan() && alone.is_nan());
        // Written so that a value which is no number on one side alone differs.
        let is_near = (with - alone).abs() <= slack;
        !equal && !is_near
    })?;
    Some(format!(
        "output `{name}` of a row depends on the rows beside it: a value is {with} with another \
         row and {alone} without"
    ))
}

/// What kernels that are chosen by the size of the batch may make of the same row,
/// relative to the output's largest value: many roundings of the type.
fn tolerance(element: ElementType) -> f64 {
    let coarse = [(ElementType::Fp16, 1e-2), (ElementType::Bf16, 8e-2)];
    let found = coarse.into_iter().find(|&(of, _)| of == element);
    found.map_or(1e-3, |(_, tolerance)| tolerance)
}

/// The elements of a type other than strings.
fn numbers(element: ElementType, bytes: &[u8]) -> Vec<f64> {
    fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|&chunk| number(chunk))
            .collect()
    }
    match element {
        ElementType::Bool | ElementType::Uint8 => each(bytes, |b| u8::from_le_bytes(b).into()),
        ElementType::Int8 => each(bytes, |b| i8::from_le_bytes(b).into()),
        ElementType::Uint16 => each(bytes, |b| u16::from_le_bytes(b).into()),
        ElementType::Int16 => each(bytes, |b| i16::from_le_bytes(b).into()),
        ElementType::Uint32 => each(bytes, |b| u32::from_le_bytes(b).into()),
        ElementType::Int32 => each(bytes, |b| i32::from_le_bytes(b).into()),
        // Past 2^53 these lose less than the tolerance.
        ElementType::Uint64 => each(bytes, |b| u64::from_le_bytes(b) as f64),
        ElementType::Int64 => each(bytes, |b| i64::from_le_bytes(b) as f64),
        ElementType::Fp16 => each(bytes, |b| f16::from_le_bytes(b).into()),
        ElementType::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).into()),
        ElementType::Fp32 => each(bytes, |b| f32::from_le_bytes(b).into()),
        ElementType::Fp64 => each(bytes, f64::from_le_bytes),
        ElementType::Bytes => Vec::new(),
    }
}
