//! The value types of the configuration: lengths of time, sizes, sets of cores.
//!
//! Each parses from the text a person writes (`25ms`, `64MiB`, `0-3,6`) and prints the
//! same way, so that a value shown by `fugato config show` can be pasted back.

use fugato_core::Nanos;
use fugato_core::workload::parse_duration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A text that does not denote a value of the expected type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found `{found}`, expected {expected}")]
pub struct UnitError {
    found: String,
    expected: &'static str,
}

/// A length of time as [`parse_duration`] reads it: `250us`, `25ms`, `1.5s`, `1m30s`, `2h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Nanos);

impl Span {
    const EXPECTED: &'static str =
        "a length of time with its unit, such as `25ms` (ns, us, ms, s, m, h)";
    /// Longest unit first, so that printing picks the largest one that divides evenly.
    const UNITS: [(&'static str, u64); 5] = [
        ("min", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];

    /// A span of `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Nanos::from_millis(millis))
    }

    /// A span of `micros` microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(Nanos::new(micros * 1_000))
    }

    /// The length as the core counts it.
    pub const fn nanos(self) -> Nanos {
        self.0
    }

    /// The length as the standard library counts it.
    pub fn duration(self) -> std::time::Duration {
        self.0.into()
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse_duration(text).map(Self).map_err(|_| UnitError {
            found: text.to_owned(),
            expected: Self::EXPECTED,
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let (unit, scale) = Self::UNITS
            .into_iter()
            .find(|(_, scale)| nanos != 0 && nanos.is_multiple_of(*scale))
            .unwrap_or(("s", 1_000_000_000));
        write!(f, "{}{unit}", nanos / scale)
    }
}

/// A number of bytes: `1048576`, `64KiB`, `256MiB`, `1GiB`, `10MB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const EXPECTED: &'static str =
        "a number of bytes, such as `64MiB` (B, KB, KiB, MB, MiB, GB, GiB)";
    const UNITS: [(&'static str, u64); 7] = [
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("KB", 1_000),
        ("B", 1),
    ];

    /// `count` kibibytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            found: text.to_owned(),
            expected: Self::EXPECTED,
        };
        let (number, unit) = split_number(text);
        let unit = if unit.is_empty() { "B" } else { unit };
        let (_, scale) = Self::UNITS
            .into_iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(error)?;
        scaled(number, scale).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = Self::UNITS
            .into_iter()
            .filter(|(name, _)| name.len() != 2)
            .find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

/// Which logical processors to use: `auto` (all that the process may run on) or a list
/// such as `0-3,6`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cores {
    /// All of the process's affinity mask.
    #[default]
    Auto,
    /// These, rising, without repeats, at least one.
    These(Vec<u16>),
}

impl Cores {
    const EXPECTED: &'static str = "`auto` or a list of logical processors such as `0-3,6`";
    /// Linux's own bound on logical processors (CONFIG_NR_CPUS of the largest builds).
    const PROCESSORS_MAX: u16 = 8192;
}

impl FromStr for Cores {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let error = || UnitError {
            found: text.to_owned(),
            expected: Self::EXPECTED,
        };
        let number = |text: &str| -> Result<u16, UnitError> {
            let value: u16 = text.trim().parse().map_err(|_| error())?;
            (value < Self::PROCESSORS_MAX)
                .then_some(value)
                .ok_or_else(error)
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(error());
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        cores.dedup();
        Ok(Self::These(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::These(cores) = self else {
            return f.write_str("auto");
        };
        let mut separator = "";
        for run in cores.chunk_by(|left, right| left + 1 == *right) {
            match run {
                [first, .., last] => write!(f, "{separator}{first}-{last}")?,
                [only] => write!(f, "{separator}{only}")?,
                [] => {}
            }
            separator = ",";
        }
        Ok(())
    }
}

/// Splits `25ms` into `25` and `ms`.
fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// `number * scale` as a whole number: exact for whole numbers, rounded for fractions;
/// `None` where it is no number or does not fit.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let value = number.parse::<f64>().ok()? * scale as f64;
    // 2^53: past it a double no longer tells neighbouring integers apart.
    (value.is_finite() && (0.0..9_007_199_254_740_992.0).contains(&value))
        .then(|| value.round() as u64)
}

macro_rules! serde_by_text {
    ($type:ty, $number:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(<$type>::EXPECTED)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_i64<E: de::Error>(self, number: i64) -> Result<$type, E> {
                        if !$number {
                            return Err(E::invalid_type(de::Unexpected::Signed(number), &self));
                        }
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

// A bare number is a size in bytes or one core, but never a length of time: its unit
// would be a guess.
serde_by_text!(Span, false);
serde_by_text!(ByteSize, true);
serde_by_text!(Cores, true);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_parse_and_print_alike() {
        let cases = [
            ("25ms", 25_000_000, "25ms"),
            ("1.5s", 1_500_000_000, "1500ms"),
            ("250 us", 250_000, "250us"),
            ("2min", 120_000_000_000, "2min"),
            ("5m", 300_000_000_000, "5min"),
            ("1h", 3_600_000_000_000, "60min"),
            ("1m30s", 90_000_000_000, "90s"),
            ("0s", 0, "0s"),
            ("7ns", 7, "7ns"),
        ];
        for (text, nanos, printed) in cases {
            let span: Span = text.parse().expect(text);
            assert_eq!(span.nanos(), Nanos::new(nanos), "{text}");
            assert_eq!(span.to_string(), printed);
        }
        for wrong in [
            "",
            "25",
            "ms",
            "-1ms",
            "1e3ms",
            "25 minutes",
            "99999999999999min",
            "1.2.3s",
        ] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_parse_and_print_alike() {
        let cases = [
            ("64MiB", 64 << 20, "64MiB"),
            ("1000", 1000, "1000B"),
            ("10MB", 10_000_000, "10000000B"),
            ("1.5GiB", 3 << 29, "1536MiB"),
            ("0", 0, "0B"),
        ];
        for (text, bytes, printed) in cases {
            let size: ByteSize = text.parse().expect(text);
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), printed);
            assert_eq!(printed.parse::<ByteSize>().expect(printed), size);
        }
        for wrong in ["", "MiB", "-1", "1 mib", "99999999999GiB", "NaN"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn cores_parse_and_print_alike() {
        let cases = [
            ("auto", "auto"),
            ("6,0-3,2", "0-3,6"),
            ("5", "5"),
            ("1,2", "1-2"),
        ];
        for (text, printed) in cases {
            let cores: Cores = text.parse().expect(text);
            assert_eq!(cores.to_string(), printed);
        }
        for wrong in ["", "3-1", "a", "1,,2", "-1", "70000", "0-65535"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_bare_number_is_no_length_of_time() {
        #[derive(Debug, Deserialize)]
        struct Raw {
            span: Option<Span>,
            size: Option<ByteSize>,
        }
        let error = toml::from_str::<Raw>("span = 25").expect_err("no unit");
        assert!(error.to_string().contains("with its unit"), "{error}");
        let raw: Raw = toml::from_str("span = \"1ms\"\nsize = 12").expect("both are fine");
        assert_eq!(raw.span, Some(Span::from_millis(1)));
        assert_eq!(raw.size, Some(ByteSize(12)));
    }
}
