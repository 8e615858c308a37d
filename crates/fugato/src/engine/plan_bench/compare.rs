//! Whether two answers of a model are equal, as far as sums in another order can be.

use crate::floats::floats;
use fugato_core::Nanos;
use fugato_device::{ElementType, OutputTensor, TensorData};

/// How far the answers of a plan are from those of the model as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The output that is farthest off.
    pub output: String,
    /// `max|a-b| / max|b|` of that output; `None` where it cannot be said: other shapes,
    /// values that are not finite, or whole numbers that differ.
    pub found: Option<f64>,
}

impl Difference {
    /// The farther of two.
    pub(super) fn farther(self, other: Self) -> Self {
        let size = |one: &Self| one.found.unwrap_or(f64::INFINITY);
        if size(&other) > size(&self) {
            other
        } else {
            self
        }
    }
}

/// `max|a-b| / max|b|` of two tensors: 0 where they are equal byte for byte; `None` where
/// they differ and are not finite floats of one shape.
pub(super) fn differ(
    element: ElementType,
    one: &OutputTensor,
    other: &OutputTensor,
) -> Option<f64> {
    if one == other {
        return Some(0.0);
    }
    let (TensorData::Raw(one_raw), TensorData::Raw(other_raw)) = (&one.data, &other.data) else {
        return None;
    };
    if one.shape != other.shape {
        return None;
    }
    let (one, other) = (floats(element, one_raw)?, floats(element, other_raw)?);
    let most = other
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    let apart = one
        .iter()
        .zip(&other)
        .map(|(one, other)| (one - other).abs());
    let apart = apart.fold(0.0_f64, f64::max);
    let finite = one.iter().chain(&other).all(|value| value.is_finite());
    finite.then(|| apart / most.max(f64::MIN_POSITIVE))
}

/// The middle of times, the later of two; zero of none.
pub(super) fn median(times: impl Iterator<Item = Nanos>) -> Nanos {
    let mut times: Vec<Nanos> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> OutputTensor {
        let raw: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        OutputTensor {
            shape: vec![values.len() as u64],
            data: TensorData::Raw(raw.into()),
        }
    }

    #[test]
    fn differences_are_of_the_largest_answer() {
        let differ =
            |one: &[f32], other: &[f32]| differ(ElementType::Fp32, &tensor(one), &tensor(other));
        assert_eq!(differ(&[1.0, f32::NAN], &[1.0, f32::NAN]), Some(0.0));
        assert_eq!(differ(&[1.0, 2.0], &[1.0, 4.0]), Some(0.5));
        assert_eq!(differ(&[1.0, f32::NAN], &[1.0, 2.0]), None);
        assert_eq!(differ(&[1.0], &[1.0, 2.0]), None, "another shape");
    }

    #[test]
    fn whole_numbers_must_be_equal() {
        let differ = |other: &[f32]| differ(ElementType::Int32, &tensor(&[1.0]), &tensor(other));
        assert_eq!(differ(&[1.0]), Some(0.0));
        assert_eq!(differ(&[1.5]), None);
    }

    #[test]
    fn what_cannot_be_compared_is_farthest() {
        let of = |output: &str, found| Difference {
            output: output.to_owned(),
            found,
        };
        let farthest = of("a", Some(0.5)).farther(of("b", None));
        assert_eq!(farthest.output, "b");
        assert_eq!(farthest.farther(of("c", Some(9.0))).output, "b");
    }
}
