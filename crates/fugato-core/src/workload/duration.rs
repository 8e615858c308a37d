//! Lengths of time as people write them: `25ms`, `1m30s`, `200us`.

use crate::Nanos;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// Why a text is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// The text has no number where one must stand.
    #[error("duration `{text}` has no number at `{rest}`; hint: write `25ms`, `1m30s` or `1.5s`")]
    NoNumber {
        /// The whole text.
        text: String,
        /// From where it could not be read.
        rest: String,
    },
    /// A number is followed by no unit, or by an unknown one.
    #[error(
        "duration `{text}` has unit `{unit}`, expected one of ns, us, ms, s, m, h; hint: write `25ms`"
    )]
    Unit {
        /// The whole text.
        text: String,
        /// What stands where a unit is expected.
        unit: String,
    },
    /// The length passes what nanoseconds in 64 bits hold (584 years).
    #[error("duration `{text}` is longer than 584 years")]
    TooLong {
        /// The whole text.
        text: String,
    },
}

/// The length that `text` says: numbers, each with a unit (ns, us, ms, s, m or min, h), which a
/// space may stand before, summed. Digits below one nanosecond are dropped.
///
/// # Errors
/// [`DurationError`], for a missing or unknown unit, a missing number, or a sum past 584 years.
pub fn parse_duration(text: &str) -> Result<Nanos, DurationError> {
    let too_long = || DurationError::TooLong {
        text: text.to_owned(),
    };
    let mut rest = text.trim();
    let mut total: u128 = 0;
    loop {
        let (number, after) = split_where(rest, |c| !c.is_ascii_digit() && c != '.');
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || number.ends_with('.') {
            return Err(DurationError::NoNumber {
                text: text.to_owned(),
                rest: rest.to_owned(),
            });
        }
        let (unit, after) = split_where(after.trim_start(), |c| {
            c.is_ascii_digit() || c.is_whitespace()
        });
        let scale = unit_nanos(unit).ok_or_else(|| DurationError::Unit {
            text: text.to_owned(),
            unit: unit.to_owned(),
        })?;
        // Twenty digits pass the range by themselves; more could overflow the product.
        if whole.len() > 20 {
            return Err(too_long());
        }
        let whole: u128 = whole.parse().map_err(|_| too_long())?;
        let fraction = &fraction[..fraction.len().min(15)];
        let digits: u128 = fraction.parse().unwrap_or(0);
        total += whole * scale;
        total += digits * scale / fraction.chars().fold(1, |power, _| power * 10);
        rest = after.trim_start();
        if rest.is_empty() {
            break;
        }
    }
    u64::try_from(total).map(Nanos::new).map_err(|_| too_long())
}

/// `text` cut before the first character for which `stop` holds.
fn split_where(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// For `#[serde(deserialize_with)]`: a length written as text.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Nanos, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(D::Error::custom)
}

/// As [`deserialize`], for a key that may be absent (with `#[serde(default)]`).
pub(super) fn deserialize_some<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Nanos>, D::Error> {
    deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_lengths_are_read() {
        let cases = [
            ("25ms", 25_000_000),
            ("1m30s", 90_000_000_000),
            ("200us", 200_000),
            ("1.5s", 1_500_000_000),
            (" 1h 2ns ", 3_600_000_000_002),
            ("250 us", 250_000),
            ("2min", 120_000_000_000),
            ("0s", 0),
            ("0.1234567899us", 123),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text), Ok(Nanos::new(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_length_is_refused_with_its_part() {
        for text in ["", "ms", "-1s", "1..2s", "1.s", ".5s", "5s ms"] {
            let error = parse_duration(text);
            assert!(
                matches!(error, Err(DurationError::NoNumber { .. })),
                "{text}: {error:?}"
            );
        }
        for text in ["25", "3parsecs", "25 minutes", "1S", "1 2s"] {
            let error = parse_duration(text);
            assert!(
                matches!(error, Err(DurationError::Unit { .. })),
                "{text}: {error:?}"
            );
        }
        for text in ["600000000h", "99999999999999999999999s"] {
            let error = parse_duration(text);
            assert!(
                matches!(error, Err(DurationError::TooLong { .. })),
                "{text}: {error:?}"
            );
        }
    }
}
