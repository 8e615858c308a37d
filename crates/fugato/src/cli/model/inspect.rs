//! `fugato model inspect`: what a model file says about itself.

mod legs;
mod read;

use crate::cli::{Outcome, ReportFormat, SettingArgs};
use crate::config::DeviceKind;
use crate::engine::{ImportedModel, PlanBench};
use crate::repository::MODEL_FILE;
use anyhow::{Context, bail};
use clap::ValueHint;
use fugato_core::{BatchSize, Share};
use fugato_onnx::ModelProto;
use legs::Legs;
use read::{Inspection, TensorInfo};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  fugato model inspect --model models/resnet18/1/model.onnx
  fugato model inspect --model models/resnet18 --format json
  fugato model inspect --model models/vgg19 --legs
  fugato model inspect --model models/bert-base --time --dim 128

`--legs` has ONNX Runtime optimise the model, and says where it can be cut: into how many
segments, what is never cut and why, and which operators are longer than 2 ms.";

/// What `fugato model inspect` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model file, or a model's folder in a repository (its latest version)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// Say where it can be cut into legs; operators' times are estimated
    #[arg(long)]
    pub legs: bool,
    /// As --legs, with each operator timed, one item on one core
    #[arg(long)]
    pub time: bool,
    /// With --time: size of input dimensions that may have any, past the batch
    #[arg(long, value_name = "SIZE", requires = "time", value_parser = clap::value_parser!(u64).range(1..))]
    pub dim: Option<u64>,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ReportFormat,
    /// Folder of optimised models and shared weights [default: in the user's cache]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model_store: Option<PathBuf>,
    /// Shared library of ONNX Runtime, or its folder [default: searched for]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub onnxruntime: Option<PathBuf>,
}

/// Reads the model and prints what it holds.
///
/// # Errors
/// Where there is no such model, or it is not ONNX.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = model_file(&args.model)?;
    let mut inspection = Inspection::read(&path)?;
    inspection.legs = legs(args, &path)?;
    let text = print(&inspection, args.format)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Outcome::Success)
}

/// Where the model can be cut, if that was asked.
fn legs(args: &Args, path: &Path) -> anyhow::Result<Option<Legs>> {
    if !(args.legs || args.time) {
        return Ok(None);
    }
    let settings = SettingArgs {
        model_store: args.model_store.clone(),
        onnxruntime: args.onnxruntime.clone(),
        // What is told is of one core.
        device: Some(DeviceKind::Cpu),
        ..SettingArgs::default()
    };
    let config = settings.resolve()?;
    Ok(Some(match args.time {
        false => Legs::of(&ImportedModel::read(&config, path)?),
        true => {
            let one = (Share(1), BatchSize(1));
            Legs::timed(&mut PlanBench::open(&config, path, one, args.dim)?)?
        }
    }))
}

/// What is printed of a model that was read from `path`, in both formats.
///
/// # Errors
/// Where its tensors are malformed.
pub(crate) fn facts(model: ModelProto, path: &Path) -> anyhow::Result<[String; 2]> {
    let inspection = Inspection::of(model, path)?;
    Ok([
        print(&inspection, ReportFormat::Table)?,
        print(&inspection, ReportFormat::Json)?,
    ])
}

fn print(inspection: &Inspection, format: ReportFormat) -> anyhow::Result<String> {
    Ok(match format {
        ReportFormat::Table => to_table(inspection),
        ReportFormat::Json => serde_json::to_string_pretty(inspection)? + "\n",
    })
}

/// The model file that `path` means: itself, the one in it, or its latest version's.
pub(crate) fn model_file(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let direct = path.join(MODEL_FILE);
    if direct.is_file() {
        return Ok(direct);
    }
    let entries =
        fs::read_dir(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let latest = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .max();
    match latest {
        Some(version) => Ok(path.join(version.to_string()).join(MODEL_FILE)),
        None => bail!(
            "`{}` holds neither `{MODEL_FILE}` nor a version folder\n\nhint: name a model file, \
             or one model's folder of a repository",
            path.display()
        ),
    }
}

fn to_table(inspection: &Inspection) -> String {
    let mut rows = vec![
        ("file", inspection.file.display().to_string()),
        ("producer", inspection.producer.clone()),
        ("ir version", inspection.ir_version.to_string()),
    ];
    for (domain, version) in &inspection.opsets {
        rows.push(("opset", format!("{domain} {version}")));
    }
    for (label, tensors) in [
        ("input", &inspection.inputs),
        ("output", &inspection.outputs),
    ] {
        rows.extend(tensors.iter().map(|tensor| (label, describe(tensor))));
    }
    rows.push((
        "batchable",
        match &inspection.not_batchable {
            None => "yes".to_owned(),
            Some(reason) => format!("no: {reason}"),
        },
    ));
    let mib = inspection.weight_bytes as f64 / f64::from(1 << 20);
    let weights = format!("{} values, {mib:.1} MiB", inspection.weight_values);
    rows.push(("weights", weights));
    for external in &inspection.external {
        let found = match external.size_bytes {
            Some(size) => format!("{size} bytes"),
            None => "MISSING".to_owned(),
        };
        rows.push((
            "external data",
            format!("{} ({found})", external.location.display()),
        ));
    }
    for (operator, count) in &inspection.operators {
        rows.push(("operators", format!("{count:>5} {operator}")));
    }
    rows.extend(inspection.legs.iter().flat_map(Legs::rows));
    rows.iter()
        .map(|(label, value)| format!("{label:<15} {value}\n"))
        .collect()
}

fn describe(tensor: &TensorInfo) -> String {
    let shape = tensor.shape.as_ref().map_or_else(
        || "of unknown rank".to_owned(),
        |dims| {
            let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
            format!("[{}]", dims.join(", "))
        },
    );
    format!("{} {} {shape}", tensor.name, tensor.element)
}
