//! What registers a region, and its check without looking at any file.

use super::NAME_BYTES_MAX;
use crate::error::{Fault, InferError};
use serde::Deserialize;

/// A wish to register a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterRegion {
    /// The client's name for it.
    pub name: String,
    /// The name of its file: a POSIX shared-memory name, with or without its leading `/`.
    pub key: String,
    /// Where it begins in its file, in bytes.
    pub offset: u64,
    /// Its size in bytes.
    pub byte_size: u64,
}

/// The body of a request to register.
#[derive(Deserialize)]
struct RegisterJson {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

impl RegisterRegion {
    /// Reads the JSON body of a request to register `name`.
    ///
    /// # Errors
    /// `InvalidRequest` where it is not that; nothing it says is checked yet.
    pub fn from_json(name: String, body: &[u8]) -> Result<Self, InferError> {
        let json: RegisterJson = serde_json::from_slice(body).map_err(|error| Fault::Json {
            what: "a request to register shared memory",
            detail: error.to_string(),
        })?;
        Ok(Self {
            name,
            key: json.key,
            offset: json.offset,
            byte_size: json.byte_size,
        })
    }

    /// Checks names and range.
    pub(super) fn check(&self) -> Result<(), InferError> {
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Err(self.wrong(
                format!("has a name of {} bytes", self.name.len()),
                format!("1 to {NAME_BYTES_MAX}"),
            ));
        }
        self.file_name()?;
        match self.end() {
            Some(_) if self.byte_size > 0 => Ok(()),
            _ => Err(self.wrong(
                format!("has {} bytes from {}", self.byte_size, self.offset),
                "at least 1, and an end that can be counted".to_owned(),
            )),
        }
    }

    /// The file's name, which is no path.
    pub(super) fn file_name(&self) -> Result<&str, InferError> {
        let name = self.key.strip_prefix('/').unwrap_or(&self.key);
        let plain = !matches!(name, "" | "." | "..")
            && name.len() <= NAME_BYTES_MAX
            && !name.contains(['/', '\0']);
        if plain {
            return Ok(name);
        }
        Err(self.wrong(
            format!("has key {:?}", shortened(&self.key)),
            format!("the name of a file, of 1 to {NAME_BYTES_MAX} bytes without `/`"),
        ))
    }

    /// The end in the file, where it can be counted.
    pub(super) fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.byte_size)
    }

    pub(super) fn wrong(&self, found: String, expected: String) -> InferError {
        Fault::InvalidRegion {
            region: shortened(&self.name).to_owned(),
            found,
            expected,
        }
        .into()
    }
}

/// What a message shows of a name that may be too long to show.
pub(super) fn shortened(name: &str) -> &str {
    let end = name.floor_char_boundary(name.len().min(NAME_BYTES_MAX));
    &name[..end]
}
