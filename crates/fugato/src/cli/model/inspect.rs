//! `fugato model inspect`: what a model file says about itself.

mod read;

use crate::cli::{Outcome, ReportFormat};
use crate::repository::MODEL_FILE;
use anyhow::{Context, bail};
use clap::ValueHint;
use fugato_onnx::ModelProto;
use read::{Inspection, TensorInfo};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  fugato model inspect --model models/resnet18/1/model.onnx
  fugato model inspect --model models/resnet18 --format json";

/// What `fugato model inspect` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model file, or a model's folder in a repository (its latest version)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ReportFormat,
}

/// Reads the model and prints what it holds.
///
/// # Errors
/// Where there is no such model, or it is not ONNX.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = model_file(&args.model)?;
    let text = print(&Inspection::read(&path)?, args.format)?;
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Outcome::Success)
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
    rows.iter()
        .map(|(label, value)| format!("{label:<14} {value}\n"))
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
