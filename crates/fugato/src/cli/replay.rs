//! `fugato replay`.

use super::Outcome;
use crate::driver::replay;
use clap::ValueHint;
use fugato_core::driver::RecordingFooter;
use std::io::Write;
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
    let replayed = replay(&args.recording)?;
    let mut out = std::io::stdout().lock();
    let RecordingFooter {
        actions,
        action_hash,
    } = replayed.footer;
    writeln!(out, "inputs   {}", replayed.inputs)?;
    writeln!(out, "actions  {actions}")?;
    writeln!(out, "hash     {action_hash:016x}")?;
    match replayed.recorded {
        None => writeln!(
            out,
            "recorded unknown: the recording was cut off before its end"
        )?,
        Some(recorded) if replayed.agrees() => {
            writeln!(out, "recorded {:016x}, the same", recorded.action_hash)?
        }
        Some(recorded) => {
            writeln!(
                out,
                "recorded {:016x} after {} actions, DIFFERENT",
                recorded.action_hash, recorded.actions
            )?;
        }
    }
    Ok(if replayed.agrees() {
        Outcome::Success
    } else {
        Outcome::CheckFailed
    })
}
