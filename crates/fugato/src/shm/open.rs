//! Opening the file of a region.

use super::register::RegisterRegion;
use crate::error::InferError;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

/// A client's file, open for reading and writing.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: Arc<File>,
    /// Device and inode: two regions may be of one file.
    identity: (u64, u64),
}

impl OpenFile {
    /// Opens the file that a region names, which must hold all of the region.
    ///
    /// # Errors
    /// `InvalidRegion`, with what the operating system says, or what the file is.
    pub(super) fn open(folder: &Path, region: &RegisterRegion) -> Result<Self, InferError> {
        let path = folder.join(region.file_name()?);
        let refused = |error: &io::Error| {
            let found = match error.raw_os_error() {
                Some(libc::ELOOP) => "is a link".to_owned(),
                _ => format!("cannot be opened ({error})"),
            };
            let expected = format!("key {:?} to be a file of {}", region.key, folder.display());
            region.wrong(found, expected)
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            // No link leads out of the folder, and no pipe or device keeps us waiting.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| refused(&error))?;
        let metadata = file.metadata().map_err(|error| refused(&error))?;
        if !metadata.is_file() {
            return Err(region.wrong(
                "is no plain file".to_owned(),
                format!("key {:?} to be one", region.key),
            ));
        }
        if region.end().is_none_or(|end| end > metadata.len()) {
            return Err(region.wrong(
                format!("has {} bytes from {}", region.byte_size, region.offset),
                format!("a range within the {} bytes of its file", metadata.len()),
            ));
        }
        Ok(Self {
            file: Arc::new(file),
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The file, kept open by whoever holds it.
    pub(super) fn share(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Whether both are the same file, however they were named.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}
