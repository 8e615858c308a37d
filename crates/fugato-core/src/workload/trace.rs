//! Recorded arrivals: rows of (time, model, count).

use crate::Nanos;

/// The largest count of one row; more would be a mistake in the units.
pub const MAX_TRACE_COUNT: u64 = 10_000_000;

/// One row of a trace: `count` requests for `model` at `at` after the trace's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceRow {
    /// Time since the start of the trace.
    pub at: Nanos,
    /// The model's name in the trace.
    pub model: String,
    /// Requests of this row, at most [`MAX_TRACE_COUNT`].
    pub count: u64,
}

/// Why a trace could not be read. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The first line is not the header.
    #[error("line 1 of the trace is `{found}`, expected the header `time,model,count`")]
    Header {
        /// The line.
        found: String,
    },
    /// A row has another number of fields than three.
    #[error("line {line} of the trace has {found} fields, expected 3: time,model,count")]
    Fields {
        /// The line.
        line: usize,
        /// The number of its fields.
        found: usize,
    },
    /// A time is not a number of seconds that is finite and not negative.
    #[error("line {line} of the trace has time `{found}`, expected seconds, finite and >= 0")]
    Time {
        /// The line.
        line: usize,
        /// The field.
        found: String,
    },
    /// A count is not a whole number in range.
    #[error(
        "line {line} of the trace has count `{found}`, expected a whole number up to {MAX_TRACE_COUNT}"
    )]
    Count {
        /// The line.
        line: usize,
        /// The field.
        found: String,
    },
}

/// The rows of a CSV text with the header `time,model,count`; times are in seconds
/// since the trace's start, in any order. Empty lines and lines that start with `#` are
/// passed over. Names hold no commas and no quotes have a meaning.
///
/// # Errors
/// [`TraceError`], with the line, for a missing header or a field out of its range.
pub fn parse_trace(text: &str) -> Result<Vec<TraceRow>, TraceError> {
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let header = lines.next().map_or("", |(_, line)| line);
    if header
        .split(',')
        .map(str::trim)
        .ne(["time", "model", "count"])
    {
        return Err(TraceError::Header {
            found: header.to_owned(),
        });
    }
    lines.map(|(line, text)| parse_row(line, text)).collect()
}

fn parse_row(line: usize, text: &str) -> Result<TraceRow, TraceError> {
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let &[time, model, count] = fields.as_slice() else {
        return Err(TraceError::Fields {
            line,
            found: fields.len(),
        });
    };
    let seconds = time
        .parse::<f64>()
        .ok()
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
        .ok_or_else(|| TraceError::Time {
            line,
            found: time.to_owned(),
        })?;
    let count = count
        .parse::<u64>()
        .ok()
        .filter(|count| *count <= MAX_TRACE_COUNT)
        .ok_or_else(|| TraceError::Count {
            line,
            found: count.to_owned(),
        })?;
    Ok(TraceRow {
        at: Nanos::from_secs_f64(seconds),
        model: model.to_owned(),
        count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_past_comments() {
        let rows = parse_trace("time,model,count\n# night\n0.5, a ,2\n\n1,b,0\n").expect("valid");
        let expected = [("a", 500, 2), ("b", 1_000, 0)].map(|(model, millis, count)| TraceRow {
            at: Nanos::from_millis(millis),
            model: model.to_owned(),
            count,
        });
        assert_eq!(rows, expected);
    }

    #[test]
    fn errors_name_the_line() {
        let cases = [
            ("", "line 1 of the trace is ``"),
            ("1,a,2\n", "expected the header"),
            (
                "time,model,count\n1,a\n",
                "line 2 of the trace has 2 fields",
            ),
            ("time,model,count\nNaN,a,1\n", "time `NaN`"),
            ("time,model,count\n-1,a,1\n", "time `-1`"),
            ("time,model,count\n1,a,-1\n", "count `-1`"),
            ("time,model,count\n1,a,99999999999\n", "count `99999999999`"),
        ];
        for (text, part) in cases {
            let error = parse_trace(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text:?} gave {error:?}");
        }
    }
}
