//! `fugato replay`.

use super::Outcome;
use anyhow::bail;
use clap::ValueHint;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  fugato serve --model-repository models --record run.jsonl
  fugato replay run.jsonl

Exit code 1: the actions differ from the recorded ones.";

/// What `fugato replay` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Recording made by `fugato serve --record`
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub recording: PathBuf,
}

/// Replays the recording and compares the hashes of the actions.
///
/// # Errors
/// Where the recording cannot be read.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    bail!(
        "this build has no driver to replay `{}` with",
        args.recording.display()
    )
}
