//! What the operating system says about the machine. Linux only; elsewhere unknown.

use crate::config::{Cores, UnitError};
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// The cores of this process cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum CoresError {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("/proc/self/status has no Cpus_allowed_list")]
    NoLine,
    #[error(transparent)]
    Malformed(#[from] UnitError),
}

/// The logical processors that this process may run on.
pub(super) fn allowed_cores() -> Result<Cores, CoresError> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = value_of(&status, "Cpus_allowed_list:").ok_or(CoresError::NoLine)?;
    Ok(line.parse()?)
}

/// The processor's name.
pub(super) fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// How many cores' time the control group of this process allows, where it limits it.
pub(super) fn cpu_quota() -> Option<f64> {
    let text = fs::read_to_string("/sys/fs/cgroup/cpu.max").ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then_some(quota / period)
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    total: u64,
    available: u64,
    /// The control group's limit, where it has one.
    limit: Option<u64>,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let (available, total) = (gib(self.available), gib(self.total));
        write!(f, "{available:.1} GiB available of {total:.1} GiB")?;
        match self.limit {
            Some(limit) => write!(f, ", limited to {:.1} GiB", gib(limit)),
            None => Ok(()),
        }
    }
}

/// The machine's memory.
pub(super) fn memory() -> Option<Memory> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes = |name| -> Option<u64> {
        let value = value_of(&text, name)?;
        value.split_whitespace().next()?.parse().ok()
    };
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    Some(Memory {
        total: kibibytes("MemTotal:")? * 1024,
        available: kibibytes("MemAvailable:")? * 1024,
        limit: limit.and_then(|limit| limit.trim().parse().ok()),
    })
}

/// Whether a file can be made in `dir`, or in the nearest folder above it that exists.
/// Leaves nothing behind.
pub(super) fn probe_folder(dir: &Path) -> io::Result<()> {
    let existing = dir
        .ancestors()
        .find(|folder| folder.exists())
        .ok_or(io::ErrorKind::NotFound)?;
    let probe = existing.join(format!(".fugato-probe-{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&probe)?;
    let written = file.write_all(b"x");
    fs::remove_file(&probe)?;
    written
}

fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_made_is_found_out() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        probe_folder(&scratch.path().join("not/yet/there")).expect("it could be made");
        let file = scratch.path().join("file");
        fs::write(&file, b"x").expect("a file");
        probe_folder(&file.join("below")).expect_err("a file has no entries");
        let left: Vec<_> = fs::read_dir(scratch.path()).expect("listed").collect();
        assert_eq!(left.len(), 1, "only `file` is left");
    }

    #[test]
    fn this_machine_tells_its_cores_and_memory() {
        assert!(matches!(allowed_cores(), Ok(Cores::These(cores)) if !cores.is_empty()));
        let memory = memory().expect("/proc/meminfo");
        assert!(memory.available <= memory.total && memory.total > 0);
    }
}
