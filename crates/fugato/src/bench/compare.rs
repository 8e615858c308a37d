//! Whether a reply is what was expected.

use super::tensor::Tensor;
use crate::floats::floats;
use fugato_device::ElementType;

/// Where an answer differs from what was expected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// An output is missing.
    #[error("output `{output}` is missing")]
    Missing {
        /// The output.
        output: String,
    },
    /// Another type or shape.
    #[error("output `{output}` is {found}, expected {expected}")]
    Kind {
        /// The output.
        output: String,
        /// Type and shape found.
        found: String,
        /// Type and shape expected.
        expected: String,
    },
    /// An element that must be equal is not.
    #[error("output `{output}` differs at byte {at}")]
    Unequal {
        /// The output.
        output: String,
        /// The first byte that differs.
        at: usize,
    },
    /// A float further off than the tolerance.
    #[error(
        "output `{output}` is off by {error:e} at element {at}, more than {tolerance:e} of its largest value {largest:e}"
    )]
    Off {
        /// The output.
        output: String,
        /// The element furthest off.
        at: usize,
        /// By how much.
        error: f64,
        /// The tolerance.
        tolerance: f64,
        /// The largest expected magnitude.
        largest: f64,
    },
}

/// Compares a reply with what was expected, output by output.
///
/// Floats may differ by `tolerance(type)` of the largest expected magnitude of their
/// output; infinities and NaN must stand at the same places. Everything else must be
/// equal. Outputs that were not expected are passed over.
///
/// # Errors
/// The first [`Mismatch`].
pub fn compare(found: &[Tensor], expected: &[Tensor]) -> Result<(), Mismatch> {
    for wanted in expected {
        let output = || wanted.name.clone();
        let tensor = found.iter().find(|tensor| tensor.name == wanted.name);
        let tensor = tensor.ok_or_else(|| Mismatch::Missing { output: output() })?;
        let kind = |tensor: &Tensor| format!("{} {:?}", tensor.element, tensor.shape);
        if (tensor.element, &tensor.shape) != (wanted.element, &wanted.shape)
            || (wanted.element.size().is_some() && tensor.data.len() != wanted.data.len())
        {
            return Err(Mismatch::Kind {
                output: output(),
                found: kind(tensor),
                expected: kind(wanted),
            });
        }
        let read = |tensor: &Tensor| floats(tensor.element, &tensor.data);
        if let (Some(tolerance), Some(found), Some(expected)) =
            (tolerance(wanted.element), read(tensor), read(wanted))
        {
            compare_floats(wanted, tolerance, &found, &expected)?;
        } else if tensor.data != wanted.data {
            let pairs = tensor.data.iter().zip(&wanted.data);
            let at = pairs.take_while(|(found, wanted)| found == wanted).count();
            return Err(Mismatch::Unequal {
                output: output(),
                at,
            });
        }
    }
    Ok(())
}

/// The error allowed over the largest expected magnitude; `None` for types that must be
/// equal. For the half-width types it is four units in the last place, as rounding alone
/// moves them by more than the 1e-4 of the others.
fn tolerance(element: ElementType) -> Option<f64> {
    match element {
        ElementType::Fp32 | ElementType::Fp64 => Some(1e-4),
        ElementType::Fp16 => Some(4.0 * 2_f64.powi(-11)),
        ElementType::Bf16 => Some(4.0 * 2_f64.powi(-8)),
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

fn compare_floats(
    wanted: &Tensor,
    tolerance: f64,
    found: &[f64],
    expected: &[f64],
) -> Result<(), Mismatch> {
    let finite = expected.iter().filter(|value| value.is_finite());
    let largest = finite.fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let errors = found.iter().zip(expected).map(|(found, expected)| {
        if found == expected || (found.is_nan() && expected.is_nan()) {
            0.0
        } else if found.is_finite() && expected.is_finite() {
            (found - expected).abs()
        } else {
            f64::INFINITY
        }
    });
    let worst = errors
        .enumerate()
        .max_by(|(_, left), (_, right)| left.total_cmp(right));
    match worst {
        Some((at, error)) if error > tolerance * largest => Err(Mismatch::Off {
            output: wanted.name.clone(),
            at,
            error,
            tolerance,
            largest,
        }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn fp32(values: &[f32]) -> Tensor {
        Tensor {
            name: "y".to_owned(),
            element: ElementType::Fp32,
            shape: vec![values.len() as u64],
            data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    #[test]
    fn floats_are_compared_against_their_largest_value() {
        let expected = [fp32(&[100.0, 0.0, f32::NAN, f32::INFINITY])];
        let near = [fp32(&[100.0, 0.009, f32::NAN, f32::INFINITY])];
        assert_eq!(compare(&near, &expected), Ok(()));
        let off = compare(&[fp32(&[100.0, 0.011, f32::NAN, f32::INFINITY])], &expected);
        assert!(matches!(off, Err(Mismatch::Off { at: 1, .. })), "{off:?}");
        let finite = compare(&[fp32(&[100.0, 0.0, 0.0, f32::INFINITY])], &expected);
        assert!(matches!(finite, Err(Mismatch::Off { at: 2, .. })));
        let flipped = compare(
            &[fp32(&[100.0, 0.0, f32::NAN, f32::NEG_INFINITY])],
            &expected,
        );
        assert!(matches!(flipped, Err(Mismatch::Off { at: 3, .. })));
    }

    #[test]
    fn other_types_must_be_equal() {
        let ints = |bytes: &'static [u8]| {
            [Tensor {
                name: "y".to_owned(),
                element: ElementType::Uint8,
                shape: vec![2],
                data: Bytes::from_static(bytes),
            }]
        };
        assert_eq!(compare(&ints(&[1, 2]), &ints(&[1, 2])), Ok(()));
        assert!(matches!(
            compare(&ints(&[1, 3]), &ints(&[1, 2])),
            Err(Mismatch::Unequal { at: 1, .. })
        ));
        assert!(matches!(
            compare(&[], &ints(&[1, 2])),
            Err(Mismatch::Missing { .. })
        ));
        assert!(matches!(
            compare(&[fp32(&[0.0, 0.0])], &ints(&[1, 2])),
            Err(Mismatch::Kind { .. })
        ));
    }
}
