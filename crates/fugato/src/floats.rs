//! Floats of any width, as bytes.

use fugato_device::ElementType;
use half::{bf16, f16};

/// The elements of a row-major, little-endian tensor of floats; `None` of another type.
pub(crate) fn floats(element: ElementType, raw: &[u8]) -> Option<Vec<f64>> {
    fn all<const N: usize>(raw: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        let (chunks, _) = raw.as_chunks();
        chunks.iter().map(|&chunk| value(chunk)).collect()
    }
    match element {
        ElementType::Fp32 => Some(all(raw, |one| f64::from(f32::from_le_bytes(one)))),
        ElementType::Fp64 => Some(all(raw, f64::from_le_bytes)),
        ElementType::Fp16 => Some(all(raw, |one| f64::from(f16::from_le_bytes(one)))),
        ElementType::Bf16 => Some(all(raw, |one| f64::from(bf16::from_le_bytes(one)))),
        ElementType::Bool
        | ElementType::Uint8
        | ElementType::Uint16
        | ElementType::Uint32
        | ElementType::Uint64
        | ElementType::Int8
        | ElementType::Int16
        | ElementType::Int32
        | ElementType::Int64
        | ElementType::Bytes => None,
    }
}
