//! A part in a process of its own.

use super::{Origin, Part, Report, Setup, Verdict, summary};
use crate::supervisor::{QUEUES, QUEUES_MOST};
use anyhow::Context;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Which parts are tried, and where their reports go.
#[derive(Clone, Debug)]
pub struct Job {
    /// The program to start for each part, with its first words; the part's flags follow.
    pub program: Vec<PathBuf>,
    /// The parts, in order.
    pub parts: Vec<Part>,
    /// What they need.
    pub setup: Setup,
    /// The time for all of them, of which each has a part in proportion to [`Part::limit`], and
    /// what those before it have left of theirs.
    pub time: Duration,
    /// What stands above their reports, and in those of parts that did not come to say it.
    pub origin: Origin,
}

/// How much of what a part said last goes into the report of one that broke off.
const TAIL: usize = 2_000;

/// Tries the parts, one after the other. Writes `<part>.json` and `<part>.log` for each, and
/// `summary.md` anew after each.
///
/// # Errors
/// Where a process cannot be started, a file not written, or as `told` fails. A part that fails is in its report.
pub fn run_parts(
    job: &Job,
    mut told: impl FnMut(&Report) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Report>> {
    let mut reports = Vec::new();
    let all: Duration = job.parts.iter().map(|part| part.limit()).sum();
    let (begun, mut given) = (Instant::now(), Duration::ZERO);
    for &part in &job.parts {
        given += part.limit();
        let until = begun + job.time.mul_f64(given.as_secs_f64() / all.as_secs_f64());
        let report = run_part(job, part, until)?;
        told(&report)?;
        reports.push(report);
        let path = job.setup.out.join("summary.md");
        fs::write(&path, summary(&job.origin, &reports))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(reports)
}

fn run_part(job: &Job, part: Part, until: Instant) -> anyhow::Result<Report> {
    let file = |ending: &str| job.setup.out.join(format!("{}.{ending}", part.name()));
    let (result, log) = (file("json"), file("log"));
    // A report of an earlier run must not be taken for this one's.
    if result.exists() {
        fs::remove_file(&result)?;
    }
    let said = File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
    let begun = Instant::now();
    let limit = until.saturating_duration_since(begun);
    let mut command = Command::new(&job.program[0]);
    command
        .args(&job.program[1..])
        .args(["--part", part.name(), "--out"])
        .arg(&job.setup.out)
        .args(["--seconds", &limit.as_secs().to_string()])
        .args(["--onnxruntime".as_ref(), job.setup.onnxruntime.as_os_str()])
        .args(["--models".as_ref(), job.setup.models.as_os_str()])
        .args(["--device", &job.setup.device.to_string()])
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said);
    if std::env::var_os(QUEUES).is_none() {
        command.env(QUEUES, QUEUES_MOST);
    }
    for folder in &job.setup.libraries {
        command.arg("--libraries").arg(folder);
    }
    let child = command
        .spawn()
        .with_context(|| format!("cannot start `{}`", job.program[0].display()))?;
    let ended = wait(child, until)?;
    let seconds = begun.elapsed().as_secs_f64();
    let how = match ended {
        None => format!("it was stopped after {} s", limit.as_secs()),
        Some(status) => format!("it broke off ({status})"),
    };
    let report = match read(&result)? {
        Some(report) if ended.is_some_and(has_ended) => return Ok(report),
        // What it had found by then.
        Some(report) => Report {
            words: format!("{how}. {}", report.words),
            ..report
        },
        None => Report {
            seconds,
            origin: Some(job.origin.clone()),
            ..Report::new(part, Verdict::Unknown, format!("{how}. {}", tail(&log)?))
        },
    };
    fs::write(&result, serde_json::to_string_pretty(&report)?)?;
    Ok(report)
}

/// Whether a part came to its end, with whatever answer.
fn has_ended(status: ExitStatus) -> bool {
    matches!(status.code(), Some(0 | 1))
}

/// The part's own report, if it came to write one.
fn read(path: &Path) -> anyhow::Result<Option<Report>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path)?;
    let report = serde_json::from_str(&text);
    report
        .map(Some)
        .with_context(|| format!("`{}` is no report", path.display()))
}

/// Waits for a process, and kills one that takes too long: `None`.
fn wait(mut child: Child, until: Instant) -> anyhow::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The end of a log, on one line.
fn tail(path: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let from = bytes.len().saturating_sub(TAIL);
    let text = String::from_utf8_lossy(&bytes[from..]);
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job whose parts are a script instead of this program.
    fn job(folder: &Path, script: &str) -> Job {
        Job {
            program: ["sh", "-c", script, "part"].map(PathBuf::from).to_vec(),
            parts: vec![Part::Device, Part::Capture],
            setup: Setup {
                onnxruntime: PathBuf::from("ort.so"),
                libraries: Vec::new(),
                models: folder.join("models"),
                device: 0,
                out: folder.to_owned(),
            },
            time: Duration::from_secs(60),
            origin: Origin::of("a device of the driver's own name"),
        }
    }

    #[test]
    fn a_part_that_breaks_off_is_told_of_and_the_next_is_tried() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = "echo \"$2: no such luck\" >&2; kill -SEGV $$";
        let reports = run_parts(&job(folder.path(), script), |_| Ok(())).expect("reports");
        let names: Vec<_> = reports.iter().map(|report| report.part.as_str()).collect();
        assert_eq!(names, ["device", "capture"]);
        for report in &reports {
            assert_eq!(report.verdict, Verdict::Unknown);
            assert!(report.words.contains("broke off (signal: 11"), "{report:?}");
            assert!(report.words.contains("no such luck"), "{report:?}");
            let text = fs::read_to_string(folder.path().join(format!("{}.json", report.part)));
            let kept: Report = serde_json::from_str(&text.expect("a file")).expect("a report");
            let origin = kept.origin.expect("where it was tried");
            assert_eq!(origin.device, "a device of the driver's own name");
            assert_eq!(origin.fugato, env!("CARGO_PKG_VERSION"));
        }
        let page = fs::read_to_string(folder.path().join("summary.md")).expect("a page");
        assert!(page.contains("| capture | Do captured"), "{page}");
    }

    #[test]
    fn a_report_of_an_earlier_run_is_not_taken_for_this_ones() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = Report::new(Part::Device, Verdict::Holds, "then");
        let text = serde_json::to_string(&old).expect("JSON");
        fs::write(folder.path().join("device.json"), text).expect("a file");
        let reports = run_parts(&job(folder.path(), "exit 3"), |_| Ok(())).expect("reports");
        assert_eq!(reports[0].verdict, Verdict::Unknown);
        assert!(reports[0].words.contains("exit status: 3"), "{reports:?}");
    }

    #[test]
    fn what_was_kept_of_a_part_that_is_stopped_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let so_far = Report::new(Part::Capture, Verdict::Fails, "one of two deviates");
        let text = serde_json::to_string(&so_far).expect("JSON");
        fs::write(folder.path().join("kept"), text).expect("a file");
        // `$1` to `$4`: --part NAME --out FOLDER.
        let script = "cp \"$4/kept\" \"$4/$2.json\"; exec tail -f /dev/null";
        let job = Job {
            time: Duration::from_millis(400),
            parts: vec![Part::Capture],
            ..job(folder.path(), script)
        };
        let reports = run_parts(&job, |_| Ok(())).expect("reports");
        assert_eq!(reports[0].verdict, Verdict::Fails);
        let words = &reports[0].words;
        assert!(
            words.contains("stopped") && words.contains("one of two"),
            "{words}"
        );
        let page = fs::read_to_string(folder.path().join("summary.md")).expect("a page");
        assert!(page.contains("**no**: it was stopped"), "{page}");
        assert!(
            page.contains("a device of the driver's own name."),
            "{page}"
        );
        assert!(
            page.contains(&format!("| Fugato | {} |", env!("CARGO_PKG_VERSION"))),
            "{page}"
        );
        assert!(page.contains("| begun | 20"), "{page}");
    }

    #[test]
    fn a_part_has_what_those_before_it_left() {
        let folder = tempfile::tempdir().expect("a folder");
        // Of 60 s the first of two has 10 / 55, and the second has the rest.
        let script = "echo $5 $6 >\"$4/$2.seconds\"; exit 3";
        run_parts(&job(folder.path(), script), |_| Ok(())).expect("reports");
        let seconds = |part: &str| {
            let text = fs::read_to_string(folder.path().join(format!("{part}.seconds")));
            let text = text.expect("a file");
            let given = text.trim().strip_prefix("--seconds ").expect("the flag");
            given.parse::<u64>().expect("a number")
        };
        assert!((9..=10).contains(&seconds("device")));
        assert!(seconds("capture") >= 55);
    }
}
