//! Whether answers are the same.

/// The largest difference over the largest value.
pub(super) fn apart(found: &[f32], expected: &[f32]) -> anyhow::Result<f64> {
    let largest = expected
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    anyhow::ensure!(
        largest > 0.0 && largest.is_finite(),
        "the answers are {largest}"
    );
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let most = differences.fold(0.0, f32::max);
    anyhow::ensure!(
        found.iter().chain(expected).all(|value| value.is_finite()),
        "an answer is not a number"
    );
    Ok(f64::from(most / largest))
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn answers_of_zeroes_or_not_numbers_are_no_match() {
        assert_eq!(apart(&[1.0, 2.0], &[1.0, 4.0]).expect("numbers"), 0.5);
        assert!(apart(&[0.0], &[0.0]).is_err());
        assert!(apart(&[f32::NAN, 1.0], &[1.0, 1.0]).is_err());
        assert!(apart(&[1.0, 1.0], &[f32::NAN, 1.0]).is_err());
    }
}
