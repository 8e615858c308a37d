//! `fugato zoo light`.

use super::in_place;
use crate::cli::Outcome;
use anyhow::bail;
use fugato_zoo::light::{LightWritten, list, write_repository};
use std::io::Write;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Example:
  fugato zoo light --models site-packages/onnx/backend/test/data/light --out light

The package ships nine classifiers without weights. This gives them seeded weights and a
dynamic batch, as a model repository.";

/// What `fugato zoo light` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder with the files light_*.onnx
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub models: PathBuf,
    /// Folder of the model repository; made where it is not there
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub out: PathBuf,
    /// Model to write, such as light_resnet50, several times for several [default: all]
    #[arg(long = "model", value_name = "NAME")]
    pub names: Vec<String>,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Writes the models, saying on standard error what was done.
///
/// # Errors
/// Where a name is unknown, or a file cannot be read, is no light model, or cannot be
/// written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut paths = list(&args.models)?;
    for name in &args.names {
        if !paths
            .iter()
            .any(|path| path.file_stem() == Some(name.as_ref()))
        {
            bail!(
                "folder `{}` has no light model `{name}`",
                args.models.display()
            );
        }
    }
    if !args.names.is_empty() {
        let wanted = |path: &PathBuf| {
            let stem = path.file_stem();
            args.names.iter().any(|name| stem == Some(name.as_ref()))
        };
        paths.retain(wanted);
    }
    let mut unheard = Ok(());
    let mut progress = |written: &LightWritten| {
        if unheard.is_ok() {
            let line = in_place(written.outcome, &written.path);
            unheard = writeln!(std::io::stderr(), "{line}");
        }
    };
    write_repository(&paths, &args.out, args.seed, &mut progress)?;
    unheard?;
    Ok(Outcome::Success)
}
