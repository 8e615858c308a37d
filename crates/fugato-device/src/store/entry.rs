//! One entry of the store on disk: a folder whose files are written once and never changed.
//!
//! ```text
//! <store>/<key>/entry.json    the hash of the rest of this file, a newline, an [`Entry`]
//!               model.onnx    the optimised graph, with the types of its inner values
//!               weights.bin   its initializers, each at a multiple of 64 bytes
//!               part-<hash>.onnx   some of the operators, where a plan cut the model;
//!                             added later, named by its content
//!         .draft-<random>/    an entry that is being written
//!         .draft-<random>.lock    locked while its writer lives
//! ```

use super::error::LoadCause;
use super::info::ModelInfo;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::collections::hash_map::RandomState;
use std::fs::{File, TryLockError};
use std::hash::BuildHasher;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

/// Raise it when the layout or content of an entry changes: older entries are then not
/// found (the key contains it) and models are optimised anew.
pub(super) const FORMAT: u32 = 3;

pub(super) const MODEL: &str = "model.onnx";
pub(super) const WEIGHTS: &str = "weights.bin";
const ENTRY: &str = "entry.json";

/// What `entry.json` holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) info: ModelInfo,
    pub(super) initializers: Vec<Initializer>,
    model: Digest,
    weights: Digest,
}

/// A weight in `weights.bin` that sessions share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Initializer {
    pub(super) name: String,
    /// `TensorProto.DataType`.
    pub(super) data_type: i32,
    pub(super) dims: Vec<i64>,
    pub(super) offset: u64,
    pub(super) length: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Digest {
    bytes: u64,
    blake3: String,
}

impl Digest {
    fn of(content: &[u8]) -> Self {
        Self {
            bytes: content.len() as u64,
            blake3: blake3::hash(content).to_hex().to_string(),
        }
    }
}

/// Maps a file that nobody changes in place; `None` where it is empty.
pub(super) fn map(path: &Path) -> io::Result<Option<Mmap>> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the mapping is read-only. Files of the store are written under another
    // name and never changed after; a user's model file is mapped only while it is
    // hashed and scanned. Someone who truncates a mapped file makes us stop with SIGBUS,
    // as with any program that maps files.
    unsafe { Mmap::map(&file) }.map(Some)
}

/// An entry that was read back and found whole.
pub(super) struct Opened {
    pub(super) entry: Entry,
    pub(super) folder: PathBuf,
    pub(super) weights: Option<Mmap>,
}

/// Reads the entry in `folder` and checks every byte of it. `None` where there is none,
/// or what is there is damaged.
pub(super) fn open(folder: &Path) -> Option<Opened> {
    let described = std::fs::read_to_string(folder.join(ENTRY)).ok()?;
    let opened = verify(folder, &described);
    if opened.is_none() {
        tracing::warn!(
            folder = %folder.display(),
            "an entry of the model store is damaged; the model is optimised anew"
        );
    }
    opened
}

fn verify(folder: &Path, described: &str) -> Option<Opened> {
    let (digest, json) = described.split_once('\n')?;
    if blake3::hash(json.as_bytes()).to_hex().as_str() != digest {
        return None;
    }
    let entry: Entry = serde_json::from_str(json).ok()?;
    let content = |name| map(&folder.join(name)).ok();
    let (model, weights) = (content(MODEL)?, content(WEIGHTS)?);
    let holds = |mapped: &Option<Mmap>, expected: &Digest| {
        Digest::of(mapped.as_deref().unwrap_or_default()) == *expected
    };
    let bytes = entry.weights.bytes;
    let within = |initializer: &Initializer| {
        let end = initializer.offset.checked_add(initializer.length);
        end.is_some_and(|end| end <= bytes)
    };
    let whole = holds(&model, &entry.model)
        && holds(&weights, &entry.weights)
        && entry.initializers.iter().all(within);
    whole.then(|| Opened {
        entry,
        folder: folder.to_owned(),
        weights,
    })
}

/// What the names of drafts begin with.
const DRAFT: &str = ".draft-";
/// What the name of a draft's lock file has after that of the draft.
const LOCK: &str = ".lock";

/// A folder under construction; removed where it was not published.
///
/// A lock on the file beside it tells every process that shares the store, in whatever
/// container, that its maker lives. **Invariant:** the lock file is there before the
/// folder and until after it, so a folder without one belongs to nobody.
pub(super) struct Draft {
    folder: PathBuf,
    lock: PathBuf,
    /// Holds the lock; the operating system lets go of it when the process dies.
    _held: File,
}

impl Draft {
    /// Makes an empty folder of a name nobody else uses.
    pub(super) fn new(store: &Path) -> io::Result<Self> {
        loop {
            // Its keys are random and differ from call to call.
            let number = RandomState::new().hash_one(process::id());
            let folder = store.join(format!("{DRAFT}{number:016x}"));
            let lock = store.join(format!("{DRAFT}{number:016x}{LOCK}"));
            let Some(held) = hold(&lock)? else { continue };
            let draft = Self {
                folder,
                lock,
                _held: held,
            };
            std::fs::create_dir(&draft.folder)?;
            return Ok(draft);
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes `entry.json` over the two files that are in the draft already.
    pub(super) fn describe(
        &self,
        info: ModelInfo,
        initializers: Vec<Initializer>,
    ) -> Result<(), LoadCause> {
        let digest = |name: &str| -> io::Result<Digest> {
            let mapped = map(&self.path(name))?;
            Ok(Digest::of(mapped.as_deref().unwrap_or_default()))
        };
        let failed = |source| LoadCause::Store {
            path: self.path(ENTRY),
            action: "written",
            source,
        };
        let entry = Entry {
            info,
            initializers,
            model: digest(MODEL).map_err(failed)?,
            weights: digest(WEIGHTS).map_err(failed)?,
        };
        let json = serde_json::to_string(&entry).map_err(|error| failed(error.into()))?;
        let write = || -> io::Result<()> {
            let mut file = File::create(self.path(ENTRY))?;
            writeln!(file, "{}", blake3::hash(json.as_bytes()).to_hex())?;
            file.write_all(json.as_bytes())
        };
        write().map_err(failed)
    }

    /// Moves the draft to its place and opens it there. Where another process was first
    /// its entry is used; where a damaged entry is in the way it is taken away.
    pub(super) fn publish(self, store: &Path, key: &str) -> Result<Opened, LoadCause> {
        let place = store.join(key);
        let failed = |source| LoadCause::Store {
            path: place.clone(),
            action: "written",
            source,
        };
        // Twice, since another process may put its entry where we removed a damaged one.
        for _ in 0..2 {
            match std::fs::rename(&self.folder, &place) {
                Ok(()) => break,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
                    ) => {}
                Err(error) => return Err(failed(error)),
            }
            if let Some(opened) = open(&place) {
                return Ok(opened);
            }
            let damaged = Self::new(store).map_err(failed)?;
            match std::fs::rename(&place, damaged.path("damaged")) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        open(&place).ok_or_else(|| {
            failed(io::Error::new(
                ErrorKind::InvalidData,
                "what was written does not read back whole",
            ))
        })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // The folder is gone already where it was published; what cannot be removed costs
        // disk space and nothing else, and is swept up when the store is next opened.
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_file(&self.lock);
    }
}

/// Makes the lock file and locks it. `None` where the name is taken, or someone who
/// sweeps found the file before it was locked.
fn hold(lock: &Path) -> io::Result<Option<File>> {
    let held = match File::create_new(lock) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(None),
        made => made?,
    };
    match held.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        // On a file system without locks nobody can take this one, and nothing is swept.
        Err(TryLockError::Error(error)) => {
            tracing::debug!(%error, lock = %lock.display(), "a draft cannot be locked");
        }
    }
    let there = match std::fs::metadata(lock) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let is_ours = there.ino() == held.metadata()?.ino();
    Ok(is_ours.then_some(held))
}

/// Removes drafts whose makers are dead. Others may sweep, draft and publish meanwhile;
/// a draft that cannot be removed is left, since it only costs disk space.
///
/// # Errors
/// Where the store's folder cannot be read.
pub(super) fn sweep(store: &Path) -> io::Result<()> {
    for found in std::fs::read_dir(store)? {
        let swept = found.and_then(|found| match found.file_name().to_str() {
            Some(name) if name.starts_with(DRAFT) => sweep_one(store, name),
            _ => Ok(()),
        });
        match swept {
            Err(error) if error.kind() != ErrorKind::NotFound => tracing::warn!(
                %error,
                store = %store.display(),
                "what a dead process left in the model store could not be removed"
            ),
            // Whoever took it away first did the same.
            _ => {}
        }
    }
    Ok(())
}

/// Removes the draft that the folder or lock file `name` belongs to, unless it is held.
fn sweep_one(store: &Path, name: &str) -> io::Result<()> {
    let draft = name.strip_suffix(LOCK).unwrap_or(name);
    let (folder, lock) = (store.join(draft), store.join(format!("{draft}{LOCK}")));
    let absent = |error: &io::Error| error.kind() == ErrorKind::NotFound;
    let taken = match File::open(&lock) {
        Err(error) if absent(&error) => None,
        opened => Some(opened?),
    };
    match taken.as_ref().map(File::try_lock) {
        Some(Err(TryLockError::WouldBlock)) => return Ok(()),
        Some(Err(TryLockError::Error(error))) => return Err(error),
        Some(Ok(())) | None => {}
    }
    match std::fs::remove_dir_all(&folder) {
        Err(error) if !absent(&error) => return Err(error),
        _ => {}
    }
    match taken {
        Some(_) => std::fs::remove_file(&lock),
        None => Ok(()),
    }
}
