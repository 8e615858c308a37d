//! `fugato profile show`.

use crate::cli::{Outcome, ReportFormat};
use crate::plots;
use crate::profiler::{files, table};
use anyhow::{Context, bail};
use clap::ValueHint;
use fugato_core::profile::{Profile, built_in};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  fugato profile show profile.json
  fugato profile show profile.json --model resnet50 --plots charts
  fugato profile show v100-dstack --plots charts
  fugato profile show convnet

Nothing is measured. Two sets on a V100 are built in, computed by D-STACK's equations and
not measured: `v100-dstack`, the models of its table, and `convnet`, three LeNet-like
networks of our making. A file of that name is ./v100-dstack.";

/// What `fugato profile show` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Profile to show, or `v100-dstack` or `convnet`
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub profile: PathBuf,
    /// Model to show, several times for several [default: all]
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<String>,
    /// Folder to draw charts into, as SVG
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub plots: Option<PathBuf>,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ReportFormat,
}

/// Prints a profile, and draws it where that was asked.
///
/// # Errors
/// Where there is no such profile or model, or the profile is malformed, or the charts
/// cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut profile = match args.profile.to_str().and_then(built_in) {
        Some(profile) => profile,
        None => read(&args.profile)?,
    };
    retain(&mut profile, &args.models)?;
    if let Some(folder) = &args.plots {
        draw(&profile, folder)?;
    }
    let text = match args.format {
        ReportFormat::Table => table::of(&profile),
        ReportFormat::Json => files::to_json(&profile)?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Outcome::Success)
}

/// Draws the charts, and says so on standard error.
///
/// # Errors
/// Those of [`plots::write`].
pub(super) fn draw(profile: &Profile, folder: &Path) -> anyhow::Result<()> {
    let written = plots::write(profile, folder)?;
    let (count, folder) = (written.len(), folder.display());
    writeln!(std::io::stderr(), "{count} charts written to `{folder}`")?;
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Profile> {
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{name}`"))?;
    let profile: Profile =
        serde_json::from_str(&text).with_context(|| format!("`{name}` is no profile"))?;
    let checked = profile.check();
    checked.with_context(|| format!("profile `{name}` cannot be used"))?;
    Ok(profile)
}

/// Keeps only the models asked for; all where none is named.
fn retain(profile: &mut Profile, names: &[String]) -> anyhow::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let models = &mut profile.models;
    if let Some(unknown) = names
        .iter()
        .find(|name| models.iter().all(|model| model.name != **name))
    {
        let known: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
        bail!(
            "`--model` names `{unknown}`, the models of the profile are: {}",
            known.join(", ")
        );
    }
    models.retain(|model| names.contains(&model.name));
    Ok(())
}
