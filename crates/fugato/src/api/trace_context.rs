//! W3C trace context: which trace of the client's a request is part of.

/// The header (gRPC: metadata) `traceparent`, read.
///
/// Source: W3C Trace Context, level 1, section 3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, never 0.
    pub trace_id: u128,
    /// The client's span, which ours are children of; never 0.
    pub parent_id: u64,
    /// Whether the client records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads `traceparent`. What does not follow the rules is `None`, as if it were not
    /// there: the specification has no error.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, parent, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = hex(version, 2)?;
        // Later versions may add parts; the first has none more.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let context = Self {
            trace_id: hex(trace, 32)?,
            parent_id: u64::try_from(hex(parent, 16)?).ok()?,
            sampled: hex(flags, 2)? & 1 == 1,
        };
        (context.trace_id != 0 && context.parent_id != 0).then_some(context)
    }
}

/// Exactly `digits` lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let fits = text.len() == digits && text.bytes().all(lower);
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_strictly() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let expected = TraceContext {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            parent_id: 0x00f0_67aa_0ba9_02b7,
            sampled: true,
        };
        assert_eq!(TraceContext::parse(good), Some(expected));
        let later = good.replacen("00", "01", 1) + "-more";
        assert_eq!(TraceContext::parse(&later), Some(expected));
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }
}
