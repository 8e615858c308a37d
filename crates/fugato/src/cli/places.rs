//! Places that a command will write to, tried before it begins: minutes of work must not be
//! lost to a folder that is not there.

use anyhow::Context;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

/// Tries to write a file, which stays as it is: one that is not there is not there after.
///
/// # Errors
/// Why it cannot be written, with its name.
pub(super) fn try_file(path: &Path) -> anyhow::Result<()> {
    let tried = || -> io::Result<()> {
        let new = !path.try_exists()?;
        // Neither are its contents lost, nor does a pipe wait for its reader.
        if new || path.is_file() {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
        }
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if new {
            fs::remove_file(path)?;
        }
        Ok(())
    };
    tried().with_context(|| format!("cannot write `{}`", path.display()))
}

/// Makes a folder, and tries to write into it.
///
/// # Errors
/// As [`try_file`].
pub(super) fn try_folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make `{}`", path.display()))?;
    tempfile::tempfile_in(path)
        .map(drop)
        .with_context(|| format!("cannot write into `{}`", path.display()))
}
