//! A survey that is stopped before its end: by a signal, or by its budget.

use crate::bench::{Bench, adder, slow, stderr};
use fugato_core::profile::{PointKey, Profile};
use std::collections::BTreeMap;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What tests wait for takes seconds; this long only where something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until what is at `--out` is no longer `before`.
fn wait_until_kept(bench: &Bench, before: Option<&[u8]>, child: &mut Child) {
    let patience = Instant::now() + PATIENCE;
    while std::fs::read(bench.out()).ok().as_deref() == before {
        let ended = child.try_wait().expect("the child can be asked");
        assert_eq!(ended, None, "it ended before it was interrupted");
        assert!(Instant::now() < patience, "nothing is kept");
        std::thread::yield_now();
    }
}

fn interrupt(child: Child, signal: &str) -> Output {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &id]).status();
    assert!(sent.expect("kill runs").success());
    child.wait_with_output().expect("it ends")
}

fn repeats(profile: &Profile) -> BTreeMap<PointKey, u32> {
    let points = profile.models.iter().flat_map(|model| &model.grid);
    points.map(|point| (point.key(), point.repeats)).collect()
}

#[test]
fn what_is_interrupted_is_kept_and_gone_on_from() {
    let bench = Bench::new();
    bench.put("slow", &slow());
    let arguments = ["--batches", "1,2,4,8,16", "--budget", "10min"];
    let mut known = BTreeMap::new();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("INT", 130)] {
        let mut command = bench.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let before = std::fs::read(bench.out()).ok();
        let mut child = command.spawn().expect("the binary runs");
        wait_until_kept(&bench, before.as_deref(), &mut child);
        let output = interrupt(child, signal);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let message = stderr(&output);
        assert!(
            message.contains("interrupted; what was measured is in"),
            "{message}"
        );
        assert!(
            message.contains("run the same command again to go on"),
            "{message}"
        );
        let found = repeats(&bench.profile());
        let kept = |(key, legs): (&PointKey, &u32)| found.get(key).is_some_and(|now| now >= legs);
        assert!(known.iter().all(kept), "{known:?} then {found:?}");
        assert!(
            found.values().sum::<u32>() > known.values().sum(),
            "it went on"
        );
        known = found;
    }
}

#[test]
fn a_budget_that_is_too_small_says_so_and_how_to_go_on() {
    let bench = Bench::new();
    bench.put("slow", &slow());
    let output = bench.run(&["--budget", "1s"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(
        message.contains("the budget of 1s was spent before"),
        "{message}"
    );
    // On a busy machine loading may take as long.
    let expected = match bench.out().exists() {
        true => "run the same command again",
        false => "nothing was measured",
    };
    assert!(message.contains(expected), "{message}");
}

#[test]
fn where_nothing_was_measured_no_file_is_promised() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    let charts = bench.0.path().join("charts");
    let plots = charts.to_str().expect("UTF-8");
    let output = bench.run(&["--budget", "1ns", "--plots", plots]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(message.ends_with("; nothing was measured\n"), "{message}");
    assert!(!bench.out().exists());
}
