//! `fugato report`.

use super::Outcome;
use crate::report::{Run, page};
use anyhow::Context;
use clap::ValueHint;
use std::fs;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  fugato report run.json --out run.html
  fugato report before.json after.json --out compared.html

The page is one file without scripts that asks nothing from anywhere. Of several runs, the
first is what the others are compared with; simulated and measured runs stand apart.";

/// What `fugato report` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Runs, as `fugato bench --out` and `fugato simulate --format json` write them
    #[arg(value_name = "RUN.json", required = true, value_hint = ValueHint::FilePath)]
    pub runs: Vec<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "PAGE.html", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
}

/// Reads the runs and writes their page.
///
/// # Errors
/// Where a file cannot be read, is not a run, or the page cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut runs = Vec::with_capacity(args.runs.len());
    for path in &args.runs {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        runs.push(Run::from_json(label(path, &args.runs), &text)?);
    }
    fs::write(&args.out, page(&runs))
        .with_context(|| format!("cannot write `{}`", args.out.display()))?;
    Ok(Outcome::Success)
}

/// A run's name on the page: its file's, or its whole path where others are called so too.
fn label(path: &Path, all: &[PathBuf]) -> String {
    let alike = all
        .iter()
        .filter(|other| other.file_stem() == path.file_stem());
    match path.file_stem() {
        Some(stem) if alike.count() == 1 => stem.to_string_lossy().into_owned(),
        _ => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_told_apart_by_their_paths_where_their_names_are_alike() {
        let all = ["a/run.json", "b/run.json", "c/other.json"].map(PathBuf::from);
        assert_eq!(label(&all[0], &all), "a/run.json");
        assert_eq!(label(&all[2], &all), "other");
    }

    #[test]
    fn a_file_that_is_no_run_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.json");
        fs::write(&path, "{\"schema\":\"other\"}").expect("written");
        let out = dir.path().join("page.html");
        let args = Args {
            runs: vec![path],
            out: out.clone(),
        };
        let error = run(&args).expect_err("not a run").to_string();
        assert!(error.contains("run `x` has schema `other`"), "{error}");
        assert!(!out.exists());
    }
}
