//! Tensor elements in JSON, both ways.
//!
//! The JSON of a tensor's `data` has been checked for syntax when the request was parsed,
//! so reading it is a walk over its tokens. Numbers are parsed from their own text, not
//! through a double: 64-bit integers stay exact and floats are rounded once.

use crate::api::ModelInfo;
use crate::error::{Fault, InferError};
use bytes::Bytes;
use fugato_device::{ElementType, TensorData, TensorSpec};
use half::{bf16, f16};
use std::fmt::{Display, Write as _};
use std::str::FromStr;

/// Reads `data`, an array that is flat or nested as the shape says.
///
/// # Errors
/// `InvalidRequest` where the nesting is neither; `InvalidValue` where an element is not
/// one of its type.
pub(super) fn read(
    model: &str,
    input: &str,
    element: ElementType,
    shape: &[u64],
    data: &str,
) -> Result<TensorData, InferError> {
    let mut reader = Reader {
        at: At {
            model,
            input,
            element,
        },
        shape,
        counts: Vec::new(),
        leaf_depth: None,
        elements: Elements::new(element),
    };
    reader.walk(data)?;
    Ok(reader.elements.finish())
}

/// The most bytes that [`read`] makes of `data`: every element but the last has a comma
/// after it, and strings (which may hold commas, and then are fewer) also take their text.
pub(super) fn memory_bound(element: ElementType, data: &str) -> usize {
    let elements = 1 + data.bytes().filter(|&byte| byte == b',').count();
    match element.size() {
        Some(size) => elements * size,
        None => elements * size_of::<Bytes>() + data.len(),
    }
}

/// Where elements belong, for messages.
struct At<'a> {
    model: &'a str,
    input: &'a str,
    element: ElementType,
}

impl At<'_> {
    fn nesting(&self, found: &str) -> InferError {
        Fault::Payload {
            model: self.model.to_owned(),
            input: self.input.to_owned(),
            found: found.to_owned(),
            expected: "an array that is flat or nested as its shape".to_owned(),
        }
        .into()
    }

    fn element(&self, index: usize, found: &str, expected: String) -> InferError {
        Fault::Element {
            model: self.model.to_owned(),
            input: self.input.to_owned(),
            index,
            found: shorten(found),
            expected,
        }
        .into()
    }
}

/// The start of a token, for messages.
fn shorten(token: &str) -> String {
    const SHOWN: usize = 40;
    match token.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}..", &token[..end]),
        None => token.to_owned(),
    }
}

struct Reader<'a> {
    at: At<'a>,
    shape: &'a [u64],
    /// Members seen of each open array, outermost first.
    counts: Vec<u64>,
    /// How many arrays the elements are in; every element must agree.
    leaf_depth: Option<usize>,
    elements: Elements,
}

impl Reader<'_> {
    fn walk(&mut self, data: &str) -> Result<(), InferError> {
        let mut rest = data.trim_start();
        if !rest.starts_with('[') {
            return Err(self.at.nesting(&format!("as {}", shorten(rest))));
        }
        loop {
            rest = rest.trim_start_matches([' ', '\t', '\r', '\n', ',']);
            match rest.as_bytes().first() {
                Some(b'[') => {
                    self.open()?;
                    rest = &rest[1..];
                }
                Some(b']') => {
                    self.close()?;
                    rest = &rest[1..];
                    if self.counts.is_empty() {
                        return Ok(());
                    }
                }
                Some(b'{') | None => return Err(self.at.nesting("as an object")),
                Some(_) => {
                    let (token, after) = split_token(rest);
                    self.leaf(token)?;
                    rest = after;
                }
            }
        }
    }

    fn open(&mut self) -> Result<(), InferError> {
        let depth = self.counts.len() + 1;
        if depth > self.shape.len().max(1) || self.leaf_depth.is_some_and(|leaf| depth > leaf) {
            return Err(self.at.nesting("nested deeper than its shape"));
        }
        self.counts.push(0);
        Ok(())
    }

    fn close(&mut self) -> Result<(), InferError> {
        let depth = self.counts.len();
        let count = self.counts.pop().unwrap_or(0);
        let flat = depth == 1 && self.leaf_depth.is_none_or(|leaf| leaf == 1);
        if !flat && self.shape.get(depth - 1) != Some(&count) {
            let found = format!("with {count} members at depth {depth}");
            return Err(self.at.nesting(&found));
        }
        if let Some(parent) = self.counts.last_mut() {
            *parent += 1;
        }
        Ok(())
    }

    fn leaf(&mut self, token: &str) -> Result<(), InferError> {
        let depth = self.counts.len();
        let nested = depth > 1 && depth != self.shape.len();
        if nested || *self.leaf_depth.get_or_insert(depth) != depth {
            return Err(self.at.nesting("nested unevenly"));
        }
        if let Some(count) = self.counts.last_mut() {
            *count += 1;
        }
        self.elements.push(&self.at, token)
    }
}

/// The first scalar of valid JSON, and what follows it.
fn split_token(text: &str) -> (&str, &str) {
    let bytes = text.as_bytes();
    let end = if bytes.first() == Some(&b'"') {
        let mut escaped = false;
        let quote = bytes.iter().skip(1).position(|&byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        quote.map_or(text.len(), |inner| inner + 2)
    } else {
        let delimiter = |byte: &u8| matches!(byte, b',' | b']' | b' ' | b'\t' | b'\r' | b'\n');
        bytes.iter().position(delimiter).unwrap_or(text.len())
    };
    text.split_at(end)
}

/// The elements read so far.
enum Elements {
    Raw(Vec<u8>),
    Strings(Vec<Bytes>),
}

impl Elements {
    fn new(element: ElementType) -> Self {
        match element.size() {
            Some(_) => Self::Raw(Vec::new()),
            None => Self::Strings(Vec::new()),
        }
    }

    fn finish(self) -> TensorData {
        match self {
            Self::Raw(raw) => TensorData::Raw(raw.into()),
            Self::Strings(strings) => TensorData::Strings(strings),
        }
    }

    fn push(&mut self, at: &At<'_>, token: &str) -> Result<(), InferError> {
        let raw = match self {
            Self::Raw(raw) => raw,
            Self::Strings(strings) => {
                let string: String = serde_json::from_str(token)
                    .map_err(|_| at.element(strings.len(), token, "a BYTES string".to_owned()))?;
                strings.push(string.into());
                return Ok(());
            }
        };
        match at.element {
            ElementType::Bool => match token {
                "true" => raw.push(1),
                "false" => raw.push(0),
                _ => return Err(at.element(raw.len(), token, "true or false".to_owned())),
            },
            ElementType::Int8 => integer(raw, at, token, i8::to_le_bytes, i8::MIN, i8::MAX)?,
            ElementType::Int16 => integer(raw, at, token, i16::to_le_bytes, i16::MIN, i16::MAX)?,
            ElementType::Int32 => integer(raw, at, token, i32::to_le_bytes, i32::MIN, i32::MAX)?,
            ElementType::Int64 => integer(raw, at, token, i64::to_le_bytes, i64::MIN, i64::MAX)?,
            ElementType::Uint8 => integer(raw, at, token, u8::to_le_bytes, 0, u8::MAX)?,
            ElementType::Uint16 => integer(raw, at, token, u16::to_le_bytes, 0, u16::MAX)?,
            ElementType::Uint32 => integer(raw, at, token, u32::to_le_bytes, 0, u32::MAX)?,
            ElementType::Uint64 => integer(raw, at, token, u64::to_le_bytes, 0, u64::MAX)?,
            ElementType::Fp32 => float(raw, at, token, f32::to_le_bytes, f32::is_finite)?,
            ElementType::Fp64 => float(raw, at, token, f64::to_le_bytes, f64::is_finite)?,
            ElementType::Fp16 => float(raw, at, token, f16::to_le_bytes, |v| v.is_finite())?,
            ElementType::Bf16 => float(raw, at, token, bf16::to_le_bytes, |v| v.is_finite())?,
            ElementType::Bytes => return Err(at.nesting("as numbers")),
        }
        Ok(())
    }
}

fn integer<T: FromStr + Display, const N: usize>(
    raw: &mut Vec<u8>,
    at: &At<'_>,
    token: &str,
    to_bytes: fn(T) -> [u8; N],
    least: T,
    most: T,
) -> Result<(), InferError> {
    let value = token.parse().map_err(|_| {
        let expected = format!("a whole number from {least} to {most} ({})", at.element);
        at.element(raw.len() / N, token, expected)
    })?;
    raw.extend_from_slice(&to_bytes(value));
    Ok(())
}

fn float<T: FromStr + Copy, const N: usize>(
    raw: &mut Vec<u8>,
    at: &At<'_>,
    token: &str,
    to_bytes: fn(T) -> [u8; N],
    is_finite: fn(T) -> bool,
) -> Result<(), InferError> {
    // JSON's own words (true, null) and strings are not numbers; Rust would read "inf".
    let number = token.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    match token.parse() {
        Ok(value) if number && is_finite(value) => {
            raw.extend_from_slice(&to_bytes(value));
            Ok(())
        }
        _ => {
            let expected = format!("a number within the range of {}", at.element);
            Err(at.element(raw.len() / N, token, expected))
        }
    }
}

/// Writes the elements of an output as a flat JSON array.
///
/// # Errors
/// `InvalidValue` for what JSON cannot carry: NaN, the infinities, and strings that are
/// not UTF-8. Binary data carries them all.
pub(super) fn write(
    text: &mut String,
    info: &ModelInfo,
    spec: &TensorSpec,
    element: ElementType,
    data: &TensorData,
) -> Result<(), InferError> {
    let refuse = |index: usize, found: String| -> InferError {
        Fault::OutputElement {
            model: info.name.clone(),
            output: spec.name.clone(),
            index,
            found,
            expected: "a value that JSON can carry\nhint: ask for the output with parameter \
                       `binary_data` true",
        }
        .into()
    };
    text.push('[');
    let written = match data {
        TensorData::Raw(raw) => write_raw(text, element, raw),
        TensorData::Strings(strings) => write_strings(text, strings),
    };
    written.map_err(|(index, found)| refuse(index, found))?;
    text.push(']');
    Ok(())
}

type Unwritable = (usize, String);

fn write_raw(text: &mut String, element: ElementType, raw: &[u8]) -> Result<(), Unwritable> {
    match element {
        ElementType::Bool => each(text, raw, |[byte]: [u8; 1]| byte != 0),
        ElementType::Int8 => each(text, raw, i8::from_le_bytes),
        ElementType::Int16 => each(text, raw, i16::from_le_bytes),
        ElementType::Int32 => each(text, raw, i32::from_le_bytes),
        ElementType::Int64 => each(text, raw, i64::from_le_bytes),
        ElementType::Uint8 => each(text, raw, u8::from_le_bytes),
        ElementType::Uint16 => each(text, raw, u16::from_le_bytes),
        ElementType::Uint32 => each(text, raw, u32::from_le_bytes),
        ElementType::Uint64 => each(text, raw, u64::from_le_bytes),
        ElementType::Fp16 => {
            return each_float(text, raw, |bytes| f16::from_le_bytes(bytes).to_f64());
        }
        ElementType::Bf16 => {
            return each_float(text, raw, |bytes| bf16::from_le_bytes(bytes).to_f64());
        }
        ElementType::Fp32 => return each_float(text, raw, f32::from_le_bytes),
        ElementType::Fp64 => return each_float(text, raw, f64::from_le_bytes),
        ElementType::Bytes => return Err((0, "serialised strings".to_owned())),
    }
    Ok(())
}

fn each<const N: usize, T: Display>(text: &mut String, raw: &[u8], value: fn([u8; N]) -> T) {
    let (values, _) = raw.as_chunks::<N>();
    for (index, &bytes) in values.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{}", value(bytes));
    }
}

/// Floats print with as many digits as bring the same value back, and an exponent where
/// that is shorter.
fn each_float<const N: usize, T: Copy + std::fmt::Debug + Into<f64>>(
    text: &mut String,
    raw: &[u8],
    value: fn([u8; N]) -> T,
) -> Result<(), Unwritable> {
    let (values, _) = raw.as_chunks::<N>();
    for (index, &bytes) in values.iter().enumerate() {
        let value = value(bytes);
        let wide: f64 = value.into();
        if !wide.is_finite() {
            return Err((index, format!("{wide}")));
        }
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{value:?}");
    }
    Ok(())
}

fn write_strings(text: &mut String, strings: &[Bytes]) -> Result<(), Unwritable> {
    for (index, string) in strings.iter().enumerate() {
        let string = std::str::from_utf8(string)
            .map_err(|_| (index, "a string that is not UTF-8".to_owned()))?;
        if index > 0 {
            text.push(',');
        }
        push_json_string(text, string);
    }
    Ok(())
}

/// Writes a shape as a JSON array.
pub(super) fn push_shape(text: &mut String, shape: &[u64]) {
    text.push('[');
    for (axis, dim) in shape.iter().enumerate() {
        let comma = if axis > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{dim}");
    }
    text.push(']');
}

/// Writes a JSON string, quotes and escapes included.
pub(super) fn push_json_string(text: &mut String, string: &str) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            control if control < ' ' => {
                let _ = write!(text, "\\u{:04x}", u32::from(control));
            }
            plain => text.push(plain),
        }
    }
    text.push('"');
}
