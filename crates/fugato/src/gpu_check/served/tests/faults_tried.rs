//! Faults over the CPU: a real supervised server whose worker is killed.

use super::super::faults;
use super::super::stage::named;
use super::{LONG, Ran, cpu, setup, within};
use crate::gpu_check::report::Verdict;
use std::path::Path;
use std::process::Command;

/// How a test's server is told its command line: what supervises starts its own words again,
/// which are those of a test.
const SERVER: &str = "CHECKED_SERVER";

/// No test: the server of one.
#[test]
fn the_server_of_another_test() {
    let Some(words) = std::env::var_os(SERVER) else {
        return;
    };
    let words = words.into_string().expect("a test's own");
    let words = ["fugato"].into_iter().chain(words.lines());
    let cli = <crate::cli::Cli as clap::Parser>::parse_from(words);
    crate::cli::run(cli).expect("it serves");
}

fn server_in_a_test(plan: &faults::Plan, ready: &Path) -> anyhow::Result<Command> {
    let words = faults::arguments(plan, "cpu", ready);
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let mut command = Command::new(std::env::current_exe()?);
    let name = concat!(module_path!(), "::the_server_of_another_test");
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    command
        .args([name, "--exact", "--nocapture"])
        .env(SERVER, words.join("\n"));
    Ok(command)
}

#[test]
fn a_server_whose_worker_is_killed_is_timed_until_all_its_models_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut stage, _) = cpu(folder.path());
    let model = |name| named(name).expect("in the zoo");
    let plan = faults::Plan {
        beside: model("bert-tiny"),
        refused: model("identity"),
        served: vec![model("identity"), model("bert-tiny")],
        server: server_in_a_test,
        setup: setup(folder.path()),
    };
    let mut fill = || Ok(Box::new(()) as Box<dyn std::any::Any>);
    let Ran { answer, kept } = within(LONG, |budget| {
        faults::run(&mut stage, &plan, (&mut fill, &mut || Ok(())), budget)
    });
    assert_eq!(kept.len(), 3, "after each trial");
    // Nothing fills a CPU's memory.
    assert_eq!(answer.verdict, Verdict::Fails, "{}", answer.words);
    assert!(
        answer.words.contains("a model was loaded"),
        "{}",
        answer.words
    );
    assert!(answer.words.contains("all 2 models"), "{}", answer.words);
    assert!(answer.words.contains("a leg ran on"), "{}", answer.words);
    let again = answer.facts["worker_killed"]["again_s"].as_array();
    let again = again.expect("the models");
    assert!(
        again
            .iter()
            .all(|model| model["seconds"].as_f64() > Some(0.0))
    );
}
