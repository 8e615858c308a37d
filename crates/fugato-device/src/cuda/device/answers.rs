//! Inputs that graphs are tried with, and whether what they answer is the same.

use crate::tensor::ElementType;
use half::{bf16, f16};
use ort::sys::ONNXTensorElementDataType as Onnx;

/// The most that numbers of 32 or 64 bits may differ, of the largest: kernels of one plan that
/// add in no fixed order.
const SAME: f64 = 1e-5;

/// As [`SAME`], for floats of 16 bits: twice what rounding one of them changes.
const SAME_OF_HALVES: f64 = 2e-3;

/// As [`SAME`], for floats of 16 bits with the range of those of 32.
const SAME_OF_BRAIN_HALVES: f64 = 1.6e-2;

/// The most that numbers of any type may be apart, of the largest, where other kernels give
/// them, maybe in less precision: what is a wrong answer is farther off.
const NEAR: f64 = 5e-2;

/// As [`NEAR`], for floats of 16 bits with the range of those of 32.
const NEAR_OF_BRAIN_HALVES: f64 = 0.16;

/// Reads the numbers of a tensor.
type Read = fn(&[u8]) -> Vec<f64>;

/// Inputs that a model is tried with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    /// As memory is before anybody wrote there.
    Zeros,
    /// Floats all about from -1 to 1, and zeros for whole numbers, which may be numbers of rows
    /// of a table.
    First,
    /// Other such floats, and ones.
    Second,
}

impl Filling {
    /// Fills the memory of an input.
    pub(super) fn fill(self, element: ElementType, input: usize, bytes: &mut [u8]) {
        bytes.fill(0);
        let Some(size) = element.size() else { return };
        let seed = match self {
            Self::Zeros => return,
            Self::First => 1,
            Self::Second => 2,
        };
        for (place, element_bytes) in (0_u64..).zip(bytes.chunks_exact_mut(size)) {
            let number = spread((seed << 40) ^ ((input as u64) << 32) ^ place);
            match element {
                ElementType::Fp32 => element_bytes.copy_from_slice(&(number as f32).to_le_bytes()),
                ElementType::Fp64 => element_bytes.copy_from_slice(&number.to_le_bytes()),
                ElementType::Fp16 => {
                    element_bytes.copy_from_slice(&f16::from_f64(number).to_le_bytes());
                }
                ElementType::Bf16 => {
                    element_bytes.copy_from_slice(&bf16::from_f64(number).to_le_bytes());
                }
                ElementType::Bool
                | ElementType::Uint8
                | ElementType::Uint16
                | ElementType::Uint32
                | ElementType::Uint64
                | ElementType::Int8
                | ElementType::Int16
                | ElementType::Int32
                | ElementType::Int64 => element_bytes[0] = u8::from(self == Self::Second),
                ElementType::Bytes => {}
            }
        }
    }
}

/// A number from -1 to 1 that others near it in the count are nowhere near: the mixing steps of
/// SplitMix64.
fn spread(count: u64) -> f64 {
    (mixed(count) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

fn mixed(count: u64) -> u64 {
    let mut mixed = count.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Whether two answers are the same: floats to a small part of the largest, all else to the bit.
///
/// # Errors
/// What is apart, in words.
pub(super) fn apart(element: Onnx, found: &[u8], expected: &[u8]) -> Result<(), String> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever is no float is compared as it lies there"
    )]
    let floats: Option<(Read, f64)> = match element {
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT => Some((of_singles, SAME)),
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE => Some((of_doubles, SAME)),
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 => Some((of_halves, SAME_OF_HALVES)),
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 => {
            Some((of_brain_halves, SAME_OF_BRAIN_HALVES))
        }
        _ => None,
    };
    match floats {
        Some((numbers, most)) => within(most, &numbers(found), &numbers(expected)),
        None => to_the_bit(found, expected),
    }
}

/// Whether two answers of different kernels may be the same: numbers to a part of the largest.
///
/// # Errors
/// What is apart, in words.
pub(super) fn far_apart(element: Onnx, found: &[u8], expected: &[u8]) -> Result<(), String> {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever is no number is compared as it lies there"
    )]
    let numbers: Read = match element {
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT => of_singles,
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE => of_doubles,
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 => of_halves,
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 => {
            let (found, expected) = (of_brain_halves(found), of_brain_halves(expected));
            return within(NEAR_OF_BRAIN_HALVES, &found, &expected);
        }
        // Quantised, or counted.
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 => of_bytes,
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 => of_signed_bytes,
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 => of_words,
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 => of_long_words,
        _ => return to_the_bit(found, expected),
    };
    within(NEAR, &numbers(found), &numbers(expected))
}

/// What a place holds before anything is put there: no numbers where there is such a thing, else
/// bytes that no answer has.
pub(super) fn blank(element: Onnx, bytes: usize) -> Vec<u8> {
    let is_float = matches!(
        element,
        Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
            | Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE
            | Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16
            | Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16
    );
    match is_float {
        true => vec![0xFF; bytes],
        false => (0..bytes as u64).map(|place| mixed(place) as u8).collect(),
    }
}

fn to_the_bit(found: &[u8], expected: &[u8]) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err("it is not the same to the bit".to_owned()),
    }
}

/// Whether numbers are no more than `most` of the largest apart.
fn within(most: f64, found: &[f64], expected: &[f64]) -> Result<(), String> {
    let mut largest = 0.0_f64;
    let mut farthest = 0.0_f64;
    for (&found, &expected) in found.iter().zip(expected) {
        // What is no number tells nothing, and is what the place held before.
        if found != expected && !(found.is_finite() && expected.is_finite()) {
            return Err(format!("{found}, expected {expected}"));
        }
        if expected.is_finite() {
            largest = largest.max(expected.abs());
            farthest = farthest.max((found - expected).abs());
        }
    }
    match farthest <= most * largest {
        true => Ok(()),
        false => Err(format!(
            "{:.1e} of its largest value off, {most:.1e} at most",
            farthest / largest
        )),
    }
}

fn of_singles(bytes: &[u8]) -> Vec<f64> {
    let (words, _) = bytes.as_chunks::<4>();
    let numbers = words.iter().map(|&word| f32::from_le_bytes(word).into());
    numbers.collect()
}

fn of_doubles(bytes: &[u8]) -> Vec<f64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|&word| f64::from_le_bytes(word)).collect()
}

fn of_bytes(bytes: &[u8]) -> Vec<f64> {
    bytes.iter().copied().map(f64::from).collect()
}

fn of_signed_bytes(bytes: &[u8]) -> Vec<f64> {
    let signed = bytes.iter().map(|byte| byte.cast_signed());
    signed.map(f64::from).collect()
}

fn of_words(bytes: &[u8]) -> Vec<f64> {
    let (words, _) = bytes.as_chunks::<4>();
    let numbers = words.iter().map(|&word| i32::from_le_bytes(word));
    numbers.map(f64::from).collect()
}

fn of_long_words(bytes: &[u8]) -> Vec<f64> {
    let (words, _) = bytes.as_chunks::<8>();
    let numbers = words.iter().map(|&word| i64::from_le_bytes(word) as f64);
    numbers.collect()
}

fn of_halves(bytes: &[u8]) -> Vec<f64> {
    let (words, _) = bytes.as_chunks::<2>();
    let numbers = words.iter().map(|&word| f16::from_le_bytes(word).into());
    numbers.collect()
}

fn of_brain_halves(bytes: &[u8]) -> Vec<f64> {
    let (words, _) = bytes.as_chunks::<2>();
    let numbers = words.iter().map(|&word| bf16::from_le_bytes(word).into());
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn singles(numbers: &[f32]) -> Vec<u8> {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        bytes.collect()
    }

    const SINGLE: Onnx = Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

    #[test]
    fn floats_may_be_a_little_apart_and_nothing_else_may() {
        let expected = singles(&[100.0, 1.0, -0.5]);
        assert!(apart(SINGLE, &singles(&[100.0, 1.0009, -0.5]), &expected).is_ok());
        let off = apart(SINGLE, &singles(&[100.0, 1.01, -0.5]), &expected);
        assert!(off.unwrap_err().contains("1.0e-4 of its largest"));
        let whole = Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
        assert!(apart(whole, &[1, 0, 0, 0], &[1, 0, 0, 0]).is_ok());
        assert!(apart(whole, &[1, 0, 0, 0], &[2, 0, 0, 0]).is_err());
        let half = Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        let halves = |number: f32| f16::from_f32(number).to_le_bytes();
        assert!(apart(half, &halves(1.0), &halves(1.001)).is_ok());
        assert!(apart(half, &halves(1.0), &halves(1.01)).is_err());
    }

    #[test]
    fn what_was_not_written_is_no_answer() {
        let blank = [0xFF; 4];
        assert!(apart(SINGLE, &blank, &singles(&[1.0])).is_err());
        assert!(apart(SINGLE, &singles(&[1.0]), &singles(&[f32::INFINITY])).is_err());
        for number in [0.0_f32, 1.0, -2.0, 1e-30, 1e30] {
            let expected = singles(&[number]);
            let spoilt: Vec<u8> = expected.iter().map(|byte| !byte).collect();
            assert!(apart(SINGLE, &spoilt, &expected).is_err(), "{number}");
        }
        // All zeros have no part that may be off.
        assert!(apart(SINGLE, &singles(&[1e-9]), &singles(&[0.0])).is_err());
        assert!(apart(SINGLE, &singles(&[f32::NAN]), &singles(&[f32::NAN])).is_err());
        assert!(
            apart(
                SINGLE,
                &singles(&[f32::INFINITY]),
                &singles(&[f32::INFINITY])
            )
            .is_ok()
        );
    }

    #[test]
    fn other_kernels_may_give_what_is_somewhat_apart() {
        let expected = singles(&[100.0, 1.0, -0.5]);
        assert!(far_apart(SINGLE, &singles(&[97.0, 3.0, 0.5]), &expected).is_ok());
        assert!(far_apart(SINGLE, &singles(&[100.0, 1.0, 9.5]), &expected).is_err());
        assert!(far_apart(SINGLE, &singles(&[100.0, f32::NAN, 0.0]), &expected).is_err());
        let byte = Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        assert!(far_apart(byte, &[200, 9], &[201, 8]).is_ok());
        assert!(far_apart(byte, &[200, 9], &[201, 90]).is_err());
        let signed = Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
        assert!(far_apart(signed, &[0xFF, 100], &[0, 100]).is_ok());
        let long = Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
        let index = |index: i64| index.to_le_bytes();
        assert!(far_apart(long, &index(7), &index(7)).is_ok());
        assert!(far_apart(long, &index(7), &index(9)).is_err());
        let flag = Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
        assert!(far_apart(flag, &[1], &[0]).is_err());
    }

    #[test]
    fn a_blank_is_no_answer() {
        let whole = Onnx::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
        assert!(
            of_singles(&blank(SINGLE, 16))
                .iter()
                .all(|one| one.is_nan())
        );
        for expected in [[0; 16], [0xFF; 16], [1; 16]] {
            assert!(apart(whole, &blank(whole, 16), &expected).is_err());
        }
    }

    #[test]
    fn what_is_tried_differs_from_input_to_input_and_stays_in_range() {
        let filled = |filling: Filling, element, input| {
            let mut bytes = vec![9; 64];
            filling.fill(element, input, &mut bytes);
            bytes
        };
        let single = |filling, input| filled(filling, ElementType::Fp32, input);
        let all = [
            single(Filling::First, 0),
            single(Filling::First, 1),
            single(Filling::Second, 0),
        ];
        for (index, bytes) in all.iter().enumerate() {
            assert!(of_singles(bytes).iter().all(|number| number.abs() <= 1.0));
            assert!(!all[..index].contains(bytes));
        }
        assert_eq!(single(Filling::Zeros, 0), [0; 64]);
        let whole = |filling| filled(filling, ElementType::Int64, 0);
        assert_eq!(whole(Filling::First), [0; 64]);
        assert_eq!(whole(Filling::Second)[..9], [1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
