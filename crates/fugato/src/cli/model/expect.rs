//! `fugato model expect`: what the models of a repository answer by themselves.

use crate::bench::expect::write_cases;
use crate::bench::golden::make_cases;
use crate::bench::tensor::InputSettings;
use crate::cli::Outcome;
use crate::repository::{ModelEntry, scan};
use crate::runtime::{Surroundings, find};
use anyhow::{Context, bail};
use clap::ValueHint;
use fugato_device::Runtime;
use fugato_device::reference::PlainSession;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

const EXAMPLES: &str = "\
Examples:
  fugato model expect --model-repository models --out expected
  fugato model expect --model-repository models --out expected --model bert-tiny \\
      --dimension sequence=128 --integers input_ids=30522

Each original model file runs in plain ONNX Runtime, by itself, on random inputs of one
item. `fugato bench --expect` sends the same inputs and compares.";

/// What `fugato model expect` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of models, each at NAME/VERSION/model.onnx
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model_repository: PathBuf,
    /// Folder for the expectation files, one per model
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Only this model (may be repeated) [default: all, their latest versions]
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<String>,
    /// Inputs per model
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Seed of the inputs
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Size of a dimension that varies, by its name in the model [default: 16]
    #[arg(long = "dimension", value_name = "NAME=SIZE")]
    pub dimensions: Vec<Setting<u64>>,
    /// Exclusive bound of the random integers of an input [default: 2]
    #[arg(long, value_name = "INPUT=BOUND")]
    pub integers: Vec<Setting<u32>>,
    /// ONNX Runtime's library, or its folder [default: searched for]
    #[arg(long, value_name = "PATH", env = "FUGATO_ONNXRUNTIME", value_hint = ValueHint::AnyPath)]
    pub onnxruntime: Option<PathBuf>,
}

/// A name with a number above 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    name: String,
    value: T,
}

impl<T: FromStr + Default + PartialEq> FromStr for Setting<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.rsplit_once('=').and_then(|(name, value)| {
            let value = value.parse().ok().filter(|value| *value != T::default())?;
            (!name.is_empty()).then(|| Self {
                name: name.to_owned(),
                value,
            })
        });
        parsed.ok_or_else(|| format!("`{text}` is not NAME=NUMBER with a number above 0"))
    }
}

/// Runs the models and writes their answers.
///
/// # Errors
/// Where a model cannot be read or run, or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let repository = scan(&args.model_repository)?;
    let entries = chosen(&args.models, &repository.models)?;
    let library = find(args.onnxruntime.as_deref(), &Surroundings::of_process())?;
    let runtime = Runtime::load(&library.path)?;
    for entry in entries {
        let path = write(args, &runtime, entry)
            .with_context(|| format!("cannot write what model `{}` answers", entry.name))?;
        writeln!(std::io::stdout(), "{}", path.display())?;
    }
    Ok(Outcome::Success)
}

/// The models asked for; all, where none are named.
fn chosen<'a>(names: &[String], models: &'a [ModelEntry]) -> anyhow::Result<Vec<&'a ModelEntry>> {
    if models.is_empty() {
        bail!("the repository holds no model");
    }
    if names.is_empty() {
        return Ok(models.iter().collect());
    }
    let chosen = names.iter().map(|name| {
        let model = models.iter().find(|model| model.name == *name);
        model.with_context(|| format!("the repository holds no model `{name}`"))
    });
    chosen.collect()
}

fn write(args: &Args, runtime: &Arc<Runtime>, entry: &ModelEntry) -> anyhow::Result<PathBuf> {
    let path = entry.latest()?;
    // One thread: more would change nothing but the order of sums.
    let mut session = PlainSession::load(runtime, &path, 1)?;
    let has = |input: &str| session.inputs().iter().any(|spec| spec.name == input);
    let settings = InputSettings {
        batch: 1,
        shapes: Default::default(),
        dimensions: pairs(&args.dimensions).collect(),
        // A bound is for the models that have such an input.
        integers: pairs(&args.integers)
            .filter(|(name, _)| has(name))
            .collect(),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let cases = make_cases(&mut session, &settings, args.count, &mut rng)?;
    Ok(write_cases(&args.out, &entry.name, &cases)?)
}

fn pairs<T: Clone>(settings: &[Setting<T>]) -> impl Iterator<Item = (String, T)> {
    let settings = settings.iter();
    settings.map(|setting| (setting.name.clone(), setting.value.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_names_with_numbers() {
        let setting: Setting<u32> = "input=ids=7".parse().expect("valid");
        assert_eq!((setting.name.as_str(), setting.value), ("input=ids", 7));
        for text in ["7", "=7", "a=", "a=0", "a=-1", "a=b"] {
            assert!(text.parse::<Setting<u32>>().is_err(), "{text}");
        }
    }
}
