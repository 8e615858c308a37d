//! Integer time: [`Timestamp`] (a point) and [`Nanos`] (a length), both in nanoseconds.
//!
//! **Invariant:** nothing here reads a clock. A timestamp counts from an epoch that the
//! driver chooses (its own start); two timestamps compare only within one driver's life.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// A point in time, in nanoseconds since the driver's epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

/// A length of time, in nanoseconds; never negative.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(u64);

impl Timestamp {
    /// The driver's epoch.
    pub const ZERO: Self = Self(0);
    /// The last point that can be named (584 years after the epoch).
    pub const MAX: Self = Self(u64::MAX);

    /// The point `nanos` nanoseconds after the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero where `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// The point `length` before `self`, or the epoch where that would be before it.
    pub const fn before(self, length: Nanos) -> Self {
        Self(self.0.saturating_sub(length.0))
    }
}

impl Nanos {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// The longest length that can be named.
    pub const MAX: Self = Self(u64::MAX);

    /// A length of `nanos` nanoseconds.
    pub const fn new(nanos: u64) -> Self {
        Self(nanos)
    }

    /// A length of `micros` microseconds (saturating).
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// A length of `millis` milliseconds (saturating).
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// A length of `secs` seconds, rounded to the nanosecond; negative and NaN give zero,
    /// lengths past the range give [`Nanos::MAX`].
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "float to integer casts saturate, which is the documented result"
    )]
    pub fn from_secs_f64(secs: f64) -> Self {
        Self((secs * 1e9).round() as u64)
    }

    /// The length in whole nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The length in seconds, to the precision of a double.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The length in milliseconds, to the precision of a double.
    pub fn as_millis_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// `self - other`, or zero where `other` is longer.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `self * factor`, saturating.
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// `self * numerator / denominator`, computed without overflow, saturating.
    ///
    /// # Panics
    /// Where `denominator` is zero.
    pub fn scaled(self, numerator: u64, denominator: u64) -> Self {
        assert!(denominator != 0, "scaled by {numerator}/0");
        let wide = u128::from(self.0) * u128::from(numerator) / u128::from(denominator);
        Self(u64::try_from(wide).unwrap_or(u64::MAX))
    }
}

impl Add<Nanos> for Timestamp {
    type Output = Self;
    /// Saturates at [`Timestamp::MAX`].
    fn add(self, length: Nanos) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

impl Add for Nanos {
    type Output = Self;
    /// Saturates at [`Nanos::MAX`].
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Timestamp {
    type Output = Nanos;
    /// As [`Timestamp::since`]: zero where the right side is later.
    fn sub(self, earlier: Self) -> Nanos {
        self.since(earlier)
    }
}

impl From<std::time::Duration> for Nanos {
    /// Saturates at [`Nanos::MAX`].
    fn from(duration: std::time::Duration) -> Self {
        Self(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Nanos> for std::time::Duration {
    fn from(length: Nanos) -> Self {
        Self::from_nanos(length.0)
    }
}

impl fmt::Display for Nanos {
    /// Three significant places in the largest fitting unit: `12.5 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0 as f64;
        if self.0 < 1_000 {
            write!(f, "{} ns", self.0)
        } else if self.0 < 1_000_000 {
            write!(f, "{:.1} us", nanos / 1e3)
        } else if self.0 < 1_000_000_000 {
            write!(f, "{:.2} ms", nanos / 1e6)
        } else {
            write!(f, "{:.3} s", nanos / 1e9)
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}", Nanos(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_never_go_negative() {
        let (early, late) = (Timestamp::from_nanos(3), Timestamp::from_nanos(10));
        assert_eq!(late - early, Nanos::new(7));
        assert_eq!(early - late, Nanos::ZERO);
        assert_eq!(early.before(Nanos::new(5)), Timestamp::ZERO);
        assert_eq!(Timestamp::MAX + Nanos::new(1), Timestamp::MAX);
    }

    #[test]
    fn seconds_convert_both_ways() {
        assert_eq!(Nanos::from_secs_f64(0.025), Nanos::from_millis(25));
        assert_eq!(Nanos::from_secs_f64(-1.0), Nanos::ZERO);
        assert_eq!(Nanos::from_secs_f64(f64::NAN), Nanos::ZERO);
        assert_eq!(Nanos::from_secs_f64(f64::INFINITY), Nanos::MAX);
        assert_eq!(Nanos::MAX.scaled(1, 2), Nanos::new(u64::MAX / 2));
    }

    #[test]
    fn lengths_print_in_a_fitting_unit() {
        let cases = [
            (7, "7 ns"),
            (1_500, "1.5 us"),
            (12_500_000, "12.50 ms"),
            (2_000_000_000, "2.000 s"),
        ];
        for (nanos, expected) in cases {
            assert_eq!(Nanos::new(nanos).to_string(), expected);
        }
    }
}
