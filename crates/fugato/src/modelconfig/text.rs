//! The configuration as text: protobuf's text format and its JSON, both by descriptor.

use super::ModelConfigError;
use crate::server::proto;
use miette::Diagnostic;
use prost::Message;
use prost_reflect::text_format::ParseError;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use std::borrow::Cow;
use std::sync::LazyLock;

/// The longest configuration that is read, in bytes. The largest one seen in public is
/// under 64 KiB; the bound keeps a mistaken file from being held in memory.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// The deepest nesting that is read. The schema itself allows 7 levels; only the parser's
/// stack has to fit more.
pub const CONFIG_DEPTH_MAX: usize = 32;

/// The descriptor of `ModelConfig`.
pub(super) fn descriptor() -> MessageDescriptor {
    static DESCRIPTOR: LazyLock<MessageDescriptor> = LazyLock::new(|| {
        DescriptorPool::decode(proto::DESCRIPTORS)
            .expect("the build script wrote a valid descriptor set")
            .get_message_by_name("inference.ModelConfig")
            .expect("model_config.proto has it")
    });
    DESCRIPTOR.clone()
}

/// The configuration as a message whose fields can be walked.
pub(super) fn reflect(config: &proto::ModelConfig) -> DynamicMessage {
    DynamicMessage::decode(descriptor(), config.encode_to_vec().as_slice())
        .expect("a message decodes by its own descriptor")
}

/// Reads a configuration in protobuf's text format, the one of `config.pbtxt`.
///
/// # Errors
/// Longer than [`CONFIG_BYTES_MAX`], deeper than [`CONFIG_DEPTH_MAX`], or no such text;
/// with line, column, field and what was expected.
pub fn parse_text(text: &str) -> Result<proto::ModelConfig, ModelConfigError> {
    within_limit(text)?;
    // The parser recurses on `{`, and its syntax for `Any` does so without end.
    if let Some(offset) = too_deep(text) {
        let (line, column) = position(text, offset);
        return Err(ModelConfigError::TooDeep { line, column });
    }
    let (with_colons, added) = add_colons(text);
    let message = DynamicMessage::parse_text_format(descriptor(), &with_colons)
        .map_err(|error| text_error(text, &added, &error))?;
    transcode(&message)
}

/// Reads a configuration in JSON, as a client sends it to load a model: field names as in
/// the text format or in lowerCamelCase, enums by name or number, 64-bit integers as
/// numbers or strings.
///
/// # Errors
/// Longer than [`CONFIG_BYTES_MAX`], or no such JSON; with line and column.
pub fn parse_json(text: &str) -> Result<proto::ModelConfig, ModelConfigError> {
    within_limit(text)?;
    // Nesting is bounded by the JSON reader itself, at 128 levels.
    let mut reader = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(descriptor(), &mut reader)
        .and_then(|message| reader.end().map(|()| message))
        .map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let full = error.to_string();
            let place = format!(" at line {line} column {column}");
            ModelConfigError::Json {
                line,
                column,
                problem: full.strip_suffix(&place).unwrap_or(&full).to_owned(),
            }
        })?;
    transcode(&message)
}

/// The configuration in JSON, as Triton answers it over HTTP: field names as in the text
/// format, enums by name, 64-bit integers as numbers, and every scalar and list present
/// even where it has its default; messages only where they are set.
pub fn to_json(config: &proto::ModelConfig) -> String {
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .skip_default_fields(false);
    let mut json = Vec::new();
    reflect(config)
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)
        .expect("keys are strings and the memory grows");
    String::from_utf8(json).expect("JSON is UTF-8")
}

fn within_limit(text: &str) -> Result<(), ModelConfigError> {
    if text.len() > CONFIG_BYTES_MAX {
        return Err(ModelConfigError::TooLong { found: text.len() });
    }
    Ok(())
}

fn transcode(message: &DynamicMessage) -> Result<proto::ModelConfig, ModelConfigError> {
    Ok(message
        .transcode_to()
        .expect("the generated type is of the same descriptor"))
}

/// Puts a colon between a field's name and the `[` of a list of messages, as in
/// `input [ { .. } ]`: the format lets it be left out there, most configurations do, and the
/// parser wants it. Gives the text and where, in it, the colons are.
fn add_colons(text: &str) -> (Cow<'_, str>, Vec<usize>) {
    let mut name_is_before = false;
    let mut places = Vec::new();
    for (offset, token) in Tokens::new(text) {
        if name_is_before && matches!(token, Token::OpenList) {
            places.push(offset);
        }
        name_is_before = matches!(token, Token::Word(_));
    }
    if places.is_empty() {
        return (Cow::Borrowed(text), places);
    }
    let mut full = String::with_capacity(text.len() + places.len());
    let mut done = 0;
    for place in &mut places {
        full.push_str(&text[done..*place]);
        done = *place;
        *place = full.len();
        full.push(':');
    }
    full.push_str(&text[done..]);
    (Cow::Owned(full), places)
}

/// What the parser of the text format found, with its place; `added` are the places of
/// colons that only the parser saw.
fn text_error(text: &str, added: &[usize], error: &ParseError) -> ModelConfigError {
    let offset = error
        .labels()
        .and_then(|mut labels| labels.next())
        .map_or(text.len(), |label| {
            let seen = label.offset();
            seen - added.partition_point(|place| *place < seen)
        });
    let (line, column) = position(text, offset);
    ModelConfigError::Text {
        line,
        column,
        field: field_at(text, offset),
        problem: error.to_string(),
    }
}

/// Line and column, both from 1, of a byte offset; the column counts characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count();
    let start = before.iter().rposition(|byte| *byte == b'\n');
    let start = start.map_or(0, |newline| newline + 1);
    // Bytes 0b10xxxxxx continue a character.
    let column = before[start..].iter().filter(|byte| **byte & 0xC0 != 0x80);
    (line + 1, column.count() + 1)
}

/// Where nesting first exceeds [`CONFIG_DEPTH_MAX`].
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, token) in Tokens::new(text) {
        match token {
            Token::Open => depth += 1,
            Token::Close => depth = depth.saturating_sub(1),
            Token::Word(_) | Token::Colon | Token::OpenList | Token::Other => {}
        }
        if depth > CONFIG_DEPTH_MAX {
            return Some(offset);
        }
    }
    None
}

/// The field that is being read at a byte offset: `dynamic_batching.preferred_batch_size`.
fn field_at(text: &str, offset: usize) -> String {
    let mut outer: Vec<&str> = Vec::new();
    let (mut word, mut field) = ("", "");
    // A word there is a value after these, and else the name of the next field.
    let before = text.get(..offset).unwrap_or(text);
    let is_value = before.trim_end().ends_with([':', '[', ',']);
    for (at, token) in Tokens::new(text) {
        if at > offset {
            break;
        }
        match token {
            Token::Word(found) if at == offset && (field.is_empty() || !is_value) => field = found,
            Token::Word(found) => word = found,
            Token::Colon => field = word,
            // The colon before a list of messages may be left out.
            Token::OpenList if field.is_empty() => field = word,
            Token::Open if at < offset => {
                outer.push(word);
                (word, field) = ("", "");
            }
            Token::Close if at < offset => {
                // The next message of a list has the same name.
                (word, field) = (outer.pop().unwrap_or_default(), "");
            }
            Token::Open | Token::Close | Token::OpenList | Token::Other => {}
        }
    }
    outer.push(field);
    outer.retain(|name| !name.is_empty());
    outer.join(".")
}

/// What of the text format matters for nesting and fields.
enum Token<'a> {
    Word(&'a str),
    Colon,
    /// `{` or `<`.
    Open,
    /// `}` or `>`.
    Close,
    /// `[`.
    OpenList,
    /// A string, or one character of anything else.
    Other,
}

/// The tokens of a text with their byte offsets; white space and comments are skipped.
struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The number of bytes from `self.at` on that satisfy `belongs`.
    fn run(&self, belongs: impl Fn(u8) -> bool) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        rest.iter().take_while(|byte| belongs(**byte)).count()
    }

    /// Moves past a string whose opening quote is at `self.at`.
    fn skip_string(&mut self, quote: u8) {
        let bytes = self.text.as_bytes();
        self.at += 1;
        while let Some(&byte) = bytes.get(self.at) {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == quote {
                return;
            }
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (usize, Token<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            let start = self.at;
            let token = match byte {
                b'#' => {
                    self.at += self.run(|byte| byte != b'\n');
                    continue;
                }
                b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                    self.at += self.run(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                    return Some((start, Token::Word(&self.text[start..self.at])));
                }
                b'"' | b'\'' => {
                    self.skip_string(byte);
                    return Some((start, Token::Other));
                }
                b'{' | b'<' => Token::Open,
                b'}' | b'>' => Token::Close,
                b':' => Token::Colon,
                b'[' => Token::OpenList,
                _ => Token::Other,
            };
            self.at += 1;
            if !byte.is_ascii_whitespace() && byte != 0x0B {
                return Some((start, token));
            }
        }
        None
    }
}
