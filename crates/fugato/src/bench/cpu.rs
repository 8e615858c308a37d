//! CPU time of a process, from the proc file system.

use std::path::PathBuf;
use std::time::Duration;

/// Ticks per second of `/proc/<pid>/stat`. The kernel reports these at 100 Hz on every
/// architecture that ONNX Runtime is shipped for, whatever its own timer runs at.
const TICKS_PER_SECOND: u32 = 100;

/// A process to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// This one.
    Own,
    /// The one of this id.
    Id(u32),
}

/// User and system time that `process` has used, to 10 ms; `None` where the system does
/// not say (no proc file system, or no such process).
pub fn cpu_time(process: Process) -> Option<Duration> {
    let name = match process {
        Process::Own => "self".to_owned(),
        Process::Id(id) => id.to_string(),
    };
    let path: PathBuf = ["/proc", &name, "stat"].iter().collect();
    ticks(&std::fs::read_to_string(path).ok()?).map(|ticks| {
        Duration::from_millis(ticks.saturating_mul(1_000) / u64::from(TICKS_PER_SECOND))
    })
}

/// This process's niceness; `None` where the system does not say.
pub fn own_niceness() -> Option<i32> {
    niceness(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// Field 19 of a stat line, counted as in [`ticks`].
fn niceness(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(16)?.parse().ok()
}

/// Fields 14 and 15 (utime, stime) of a stat line. The second field, the name, may hold
/// spaces and brackets, so fields are counted from its last bracket.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_past_any_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 30 0 0 20 0 4 0 1 2 3";
        assert_eq!(ticks(stat), Some(280));
        let nice = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 30 0 0 30 10 4 0 1 2 3";
        assert_eq!((niceness(stat), niceness(nice)), (Some(0), Some(10)));
        assert_eq!(ticks("42 (a) S 1"), None);
    }
}
