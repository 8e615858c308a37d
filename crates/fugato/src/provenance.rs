//! How, where and when a figure was made.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What must stand beside a figure for others to make it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The program, without its folder, and its arguments.
    pub command: Vec<String>,
    /// The commit it was built from (`FUGATO_COMMIT` of the build), where that was said.
    pub commit: Option<String>,
    /// The processor and its number of logical ones that this process may use.
    pub machine: String,
    /// The operating system and its version.
    pub system: String,
    /// When it began, in seconds since 1970.
    pub started_unix_s: u64,
}

impl Provenance {
    /// That of this process, on the machine it runs on.
    pub fn of_this_process() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = cpu.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        let name = name.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let machine = match std::thread::available_parallelism() {
            Ok(count) => format!("{name}, {count} logical processors"),
            Err(_) => name,
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            command: command(std::env::args()),
            commit: option_env!("FUGATO_COMMIT")
                .filter(|commit| !commit.is_empty())
                .map(str::to_owned),
            machine,
            system: format!("{} {}", std::env::consts::OS, kernel.trim())
                .trim_end()
                .to_owned(),
            started_unix_s: since.map_or(0, |since| since.as_secs()),
        }
    }

    /// When it began, as `2026-11-21 11:30 UTC`.
    pub fn started(&self) -> String {
        let (days, rest) = (self.started_unix_s / 86_400, self.started_unix_s % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute) = (rest / 3_600, rest % 3_600 / 60);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
    }
}

fn command(mut arguments: impl Iterator<Item = String>) -> Vec<String> {
    let program = arguments.next().map(|path| {
        let name = Path::new(&path).file_name();
        name.map_or(path.clone(), |name| name.to_string_lossy().into_owned())
    });
    program.into_iter().chain(arguments).collect()
}

/// The date that lies this many days after 1 January 1970.
///
/// # Source
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`: years
/// begin in March, so that the leap day is the last. Ours has no dates before 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_795_260_600, "2026-11-21 11:30 UTC"),
        ] {
            let mut provenance = Provenance::of_this_process();
            provenance.started_unix_s = seconds;
            assert_eq!(provenance.started(), date);
        }
    }

    #[test]
    fn this_process_says_what_it_is() {
        let own = Provenance::of_this_process();
        let command = command(
            ["/x/fugato", "bench", "/y/w.toml"]
                .map(str::to_owned)
                .into_iter(),
        );
        assert_eq!(command, ["fugato", "bench", "/y/w.toml"]);
        assert!(!own.command.is_empty() && !own.machine.is_empty());
        assert!(own.started_unix_s > 1_700_000_000);
    }
}
