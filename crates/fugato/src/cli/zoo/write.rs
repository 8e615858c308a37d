//! `fugato zoo write`.

use super::in_place;
use crate::cli::Outcome;
use fugato_zoo::{Progress, Recipe, SEQUENCE_MAX, models, write_repository};
use std::io::Write;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  fugato zoo write --out models
  fugato zoo write --out models --model resnet18 --model bert-tiny --seed 7
  fugato zoo write --out models --model bert-base --sequence 128

A file already there with the same model, zoo version, seed and sequence is kept.";

/// What `fugato zoo write` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of the model repository; made where it is not there
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub out: PathBuf,
    /// Model to write, several times for several [default: all]
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<String>,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Tokens of text models, as NVIDIA devices need them fixed [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=SEQUENCE_MAX))]
    pub sequence: Option<u64>,
}

/// Writes the models, saying on standard error what was done.
///
/// # Errors
/// Where a name is unknown or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut names: Vec<&str> = args.models.iter().map(String::as_str).collect();
    if names.is_empty() {
        names = models().iter().map(|model| model.name).collect();
    }
    let mut unheard = Ok(());
    let mut progress = |step: Progress<'_>| {
        let line = match step {
            Progress::Start(model) => {
                format!("make  {} ({} parameters)", model.name, model.parameters())
            }
            Progress::Done(written) => in_place(written.outcome, &written.path),
        };
        if unheard.is_ok() {
            unheard = writeln!(std::io::stderr(), "{line}");
        }
    };
    let recipe = Recipe {
        seed: args.seed,
        sequence: args.sequence,
    };
    write_repository(&args.out, &names, recipe, &mut progress)?;
    unheard?;
    Ok(Outcome::Success)
}
