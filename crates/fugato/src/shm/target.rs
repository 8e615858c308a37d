//! A range of a region that an output goes to.

use super::Region;
use crate::error::{Fault, InferError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// A range of a region that an output goes to.
#[derive(Clone, Debug)]
pub struct RegionTarget {
    region: Arc<Region>,
    offset: u64,
    byte_size: u64,
}

impl PartialEq for RegionTarget {
    /// Whether both are the same range of the same registration.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.region, &other.region)
            && (self.offset, self.byte_size) == (other.offset, other.byte_size)
    }
}

impl Eq for RegionTarget {}

impl RegionTarget {
    pub(super) fn new(region: Arc<Region>, offset: u64, byte_size: u64) -> Self {
        Self {
            region,
            offset,
            byte_size,
        }
    }

    /// The client's name of the region.
    pub fn region(&self) -> &Arc<str> {
        &self.region.name
    }

    /// Where the range begins in the region, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The size of the range in bytes.
    pub fn byte_size(&self) -> u64 {
        self.byte_size
    }

    fn position(&self) -> u64 {
        self.region.offset + self.offset
    }

    /// Whether the two have a byte in common, however their regions are named.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.region.file.same(&other.region.file)
            && self.position() < other.position() + other.byte_size
            && other.position() < self.position() + self.byte_size
    }

    /// Writes an output to the start of the range. A client's file is never made longer.
    ///
    /// # Errors
    /// `RegionShort` where the client's file ends before `bytes` would; `InvalidRegion`
    /// where it cannot be written.
    ///
    /// # Panics
    /// Where `bytes` are more than the range has: a bug of the caller.
    pub fn write(&self, bytes: &[u8]) -> Result<(), InferError> {
        let count = bytes.len() as u64;
        assert!(count <= self.byte_size, "{count} bytes for {self:?}");
        let file = self.region.file.file();
        let length = file.metadata().map_err(|error| self.unwritable(&error))?;
        let room = length.len().saturating_sub(self.position());
        if room < count {
            return Err(Fault::RegionShort {
                region: self.region.name.to_string(),
                offset: self.offset,
                found: room,
                expected: count,
            }
            .into());
        }
        let written = file.write_all_at(bytes, self.position());
        written.map_err(|error| self.unwritable(&error))
    }

    fn unwritable(&self, error: &io::Error) -> InferError {
        Fault::InvalidRegion {
            region: self.region.name.to_string(),
            found: format!("cannot be written ({error})"),
            expected: "memory that can".to_owned(),
        }
        .into()
    }
}
