//! System shared memory: the regions that clients registered, and ranges of them.
//!
//! A region is a file directly under one folder (`/dev/shm`), which client and server both
//! open. Inputs are read from it into the batch, outputs are written to it; the request and
//! its reply carry names and sizes only.
//!
//! **Invariant:** a client's file is read and written by calls that fail (`pread`,
//! `pwrite`) and never mapped: whatever a client does to its file, it gets an error.
//!
//! **Invariant:** a key names a plain file directly under the folder; no key leads out of
//! it. A region that is unregistered stays open for the requests that named it before.

mod open;
mod register;
mod target;

pub use register::RegisterRegion;
pub use target::RegionTarget;

use crate::error::{Fault, InferError};
use fugato_device::SharedSlice;
use open::OpenFile;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// Bytes of a region's name, and of a key: what a file name may have.
const NAME_BYTES_MAX: usize = 255;

/// Where shared memory is, and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMemoryOptions {
    /// The folder that keys name files of.
    pub folder: PathBuf,
    /// The most regions registered at once; each is an open file.
    pub regions_max: usize,
    /// The most bytes of one input, since the server copies it.
    pub input_bytes_max: u64,
}

impl Default for SharedMemoryOptions {
    fn default() -> Self {
        Self {
            // Where `shm_open` puts its files on Linux.
            folder: "/dev/shm".into(),
            // Under the usual limit of 1,024 open files, with room for connections.
            regions_max: 512,
            // As a message's default limit.
            input_bytes_max: 64 << 20,
        }
    }
}

/// The regions of one server; clones share them.
#[derive(Clone, Debug)]
pub struct SharedMemory {
    options: Option<Arc<SharedMemoryOptions>>,
    regions: Arc<RwLock<BTreeMap<String, Arc<Region>>>>,
}

/// A registered region.
#[derive(Debug)]
struct Region {
    name: Arc<str>,
    key: String,
    offset: u64,
    byte_size: u64,
    file: OpenFile,
}

/// What a client may ask about a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionStatus {
    /// The client's name for it.
    pub name: String,
    /// The name of its file, as the client gave it.
    pub key: String,
    /// Where it begins in its file, in bytes.
    pub offset: u64,
    /// Its size in bytes.
    pub byte_size: u64,
}

/// A range of a region, as a request names it and not yet looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionRange<'a> {
    /// The region.
    pub region: &'a str,
    /// Where the range begins in the region, in bytes.
    pub offset: u64,
    /// Its size in bytes.
    pub byte_size: u64,
}

impl Region {
    fn status(&self) -> RegionStatus {
        RegionStatus {
            name: self.name.to_string(),
            key: self.key.clone(),
            offset: self.offset,
            byte_size: self.byte_size,
        }
    }
}

impl SharedMemory {
    /// No regions yet.
    pub fn new(options: SharedMemoryOptions) -> Self {
        Self {
            options: Some(Arc::new(options)),
            regions: Arc::default(),
        }
    }

    /// Shared memory that is switched off: every call is answered unimplemented, by name.
    pub fn off() -> Self {
        Self {
            options: None,
            regions: Arc::default(),
        }
    }

    fn options(&self) -> Result<&SharedMemoryOptions, InferError> {
        self.options.as_deref().ok_or_else(|| {
            InferError::unimplemented("system shared memory (`server.shared_memory` is off)")
        })
    }

    /// Registers a region; a name can be registered once.
    ///
    /// # Errors
    /// `RegionExists`; `InvalidRegion` where the names, the range or the file will not do,
    /// or no further region may be registered.
    pub fn register(&self, region: &RegisterRegion) -> Result<(), InferError> {
        let options = self.options()?;
        region.check()?;
        if let Some(known) = self.find(&region.name) {
            return Err(exists(&known));
        }
        let file = OpenFile::open(&options.folder, region)?;
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = regions.get(&region.name) {
            return Err(exists(known));
        }
        if regions.len() >= options.regions_max {
            return Err(Fault::InvalidRegion {
                region: region.name.clone(),
                found: format!("would be the {}th", regions.len() + 1),
                expected: format!(
                    "at most {} (`server.shared_memory_regions_max`)",
                    options.regions_max
                ),
            }
            .into());
        }
        let registered = Region {
            name: region.name.as_str().into(),
            key: region.key.clone(),
            offset: region.offset,
            byte_size: region.byte_size,
            file,
        };
        regions.insert(region.name.clone(), Arc::new(registered));
        Ok(())
    }

    /// Forgets a region, or all of them; a name that is not registered is nothing to do,
    /// as in Triton. Requests that named a region before still have it.
    ///
    /// # Errors
    /// `Unimplemented` where shared memory is off.
    pub fn unregister(&self, name: Option<&str>) -> Result<(), InferError> {
        self.options()?;
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        match name {
            Some(name) => {
                regions.remove(name);
            }
            None => regions.clear(),
        }
        Ok(())
    }

    /// One region, or all of them by name.
    ///
    /// # Errors
    /// `UnknownRegion`; `Unimplemented` where shared memory is off.
    pub fn status(&self, name: Option<&str>) -> Result<Vec<RegionStatus>, InferError> {
        self.options()?;
        if let Some(name) = name {
            return Ok(vec![self.known(name)?.status()]);
        }
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        Ok(regions.values().map(|region| region.status()).collect())
    }

    /// The range that an input is in.
    ///
    /// # Errors
    /// `UnknownRegion`; `InvalidRegion` where the range is not in the region; `TooLarge`.
    pub fn input(&self, range: RegionRange<'_>) -> Result<SharedSlice, InferError> {
        let region = self.range(range)?;
        let limit = self.options()?.input_bytes_max;
        let length = usize::try_from(range.byte_size).ok();
        let Some(length) = length.filter(|_| range.byte_size <= limit) else {
            return Err(Fault::TooLarge {
                found: range.byte_size.to_string(),
                limit,
            }
            .into());
        };
        Ok(SharedSlice {
            position: region.offset + range.offset,
            length,
            offset: range.offset,
            region: Arc::clone(&region.name),
            file: region.file.share(),
        })
    }

    /// The range that an output goes to.
    ///
    /// # Errors
    /// `UnknownRegion`; `InvalidRegion` where the range is not in the region.
    pub fn target(&self, range: RegionRange<'_>) -> Result<RegionTarget, InferError> {
        let region = self.range(range)?;
        Ok(RegionTarget::new(region, range.offset, range.byte_size))
    }

    /// The region of a range that lies within it.
    fn range(&self, range: RegionRange<'_>) -> Result<Arc<Region>, InferError> {
        self.options()?;
        let region = self.known(range.region)?;
        let end = range.offset.checked_add(range.byte_size);
        if range.byte_size > 0 && end.is_some_and(|end| end <= region.byte_size) {
            return Ok(region);
        }
        Err(Fault::InvalidRegion {
            region: range.region.to_owned(),
            found: format!(
                "was asked for {} bytes from {}",
                range.byte_size, range.offset
            ),
            expected: format!("a range of at least 1 within its {}", region.byte_size),
        }
        .into())
    }

    fn find(&self, name: &str) -> Option<Arc<Region>> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions.get(name).map(Arc::clone)
    }

    fn known(&self, name: &str) -> Result<Arc<Region>, InferError> {
        self.find(name).ok_or_else(|| {
            Fault::UnknownRegion {
                region: register::shortened(name).to_owned(),
            }
            .into()
        })
    }
}

fn exists(known: &Region) -> InferError {
    Fault::RegionExists {
        region: known.name.to_string(),
        found: format!(
            "{} bytes from {} of key `{}`",
            known.byte_size, known.offset, known.key
        ),
    }
    .into()
}

#[cfg(test)]
mod tests;
