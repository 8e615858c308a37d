//! The `grpc-timeout` header.

use crate::error::{Fault, InferError};
use fugato_core::Nanos;

/// The `grpc-timeout` header: up to 8 digits and a unit.
pub(super) fn grpc_timeout(value: &[u8]) -> Result<Nanos, InferError> {
    let parse = || {
        let (unit, digits) = value.split_last()?;
        if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(match unit {
            b'H' => Nanos::from_millis(3_600_000).times(amount),
            b'M' => Nanos::from_millis(60_000).times(amount),
            b'S' => Nanos::from_millis(1_000).times(amount),
            b'm' => Nanos::from_millis(amount),
            b'u' => Nanos::from_micros(amount),
            b'n' => Nanos::new(amount),
            _ => return None,
        })
    };
    parse().ok_or_else(|| {
        Fault::Header {
            header: "grpc-timeout",
            found: String::from_utf8_lossy(value).into_owned(),
            expected: "up to 8 digits and one of H, M, S, m, u, n".to_owned(),
        }
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_strictly() {
        let cases: [(&[u8], Option<u64>); 9] = [
            (b"20m", Some(20_000_000)),
            (b"1S", Some(1_000_000_000)),
            (b"2M", Some(120_000_000_000)),
            (b"99999999H", Some(u64::MAX)),
            (b"7n", Some(7)),
            (b"", None),
            (b"m", None),
            (b"123456789u", None),
            (b"+5m", None),
        ];
        for (text, expected) in cases {
            let found = grpc_timeout(text).ok().map(Nanos::as_nanos);
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(text));
        }
    }
}
