//! `fugato zoo list`.

use crate::cli::{Outcome, ReportFormat};
use fugato_zoo::{Dim, TYPICAL_SEQUENCE, ZooModel, ZooPort, models};
use serde::Serialize;
use std::io::Write;

const EXAMPLES: &str = "\
Examples:
  fugato zoo list
  fugato zoo list --format json";

/// What `fugato zoo list` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ReportFormat,
}

/// Prints the models.
///
/// # Errors
/// Where standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let text = match args.format {
        ReportFormat::Table => to_table(),
        ReportFormat::Json => to_json()?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Outcome::Success)
}

fn to_table() -> String {
    let mut text = format!(
        "{:<18} {:>11} {:>14}  {:<24} {}\n",
        "MODEL", "PARAMETERS", "MULTIPLY-ADDS", "INPUT", "DESCRIPTION"
    );
    for model in models() {
        let inputs = model.inputs();
        let shape = inputs.first().map_or_else(String::new, |input| {
            let dims: Vec<String> = input.port.dims.iter().map(dim).collect();
            format!("[{}]", dims.join(", "))
        });
        text.push_str(&format!(
            "{:<18} {:>11} {:>12.2} G  {shape:<24} {}\n",
            model.name,
            model.parameters(),
            model.multiply_adds() as f64 / 1e9,
            model.description,
        ));
    }
    text.push_str(&format!(
        "\nMultiply-adds of one item; text models at {TYPICAL_SEQUENCE} tokens.\n"
    ));
    text
}

fn dim(dim: &Dim) -> String {
    match dim {
        Dim::Batch => "batch".to_owned(),
        Dim::Sequence => "sequence".to_owned(),
        Dim::Size(size) => size.to_string(),
    }
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    /// Tokens that text models are counted at.
    typical_sequence: u64,
    models: Vec<Model>,
}

#[derive(Serialize)]
struct Model {
    name: &'static str,
    description: &'static str,
    parameters: u64,
    multiply_adds: u64,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

#[derive(Serialize)]
struct Port {
    name: String,
    data_type: String,
    dims: Vec<Size>,
}

/// A dimension: a number, or the name of a dynamic one.
#[derive(Serialize)]
#[serde(untagged)]
enum Size {
    Known(u64),
    Dynamic(String),
}

fn to_json() -> serde_json::Result<String> {
    let report = Report {
        schema: 1,
        typical_sequence: TYPICAL_SEQUENCE,
        models: models().iter().map(model).collect(),
    };
    serde_json::to_string_pretty(&report).map(|text| text + "\n")
}

fn model(model: &ZooModel) -> Model {
    Model {
        name: model.name,
        description: model.description,
        parameters: model.parameters(),
        multiply_adds: model.multiply_adds(),
        inputs: model
            .inputs()
            .iter()
            .map(|input| port(&input.port))
            .collect(),
        outputs: model.outputs().iter().map(port).collect(),
    }
}

fn port(port: &ZooPort) -> Port {
    Port {
        name: port.name.clone(),
        data_type: format!("{:?}", port.data_type).to_lowercase(),
        dims: port
            .dims
            .iter()
            .map(|one| match one {
                Dim::Size(size) => Size::Known(*size),
                Dim::Batch | Dim::Sequence => Size::Dynamic(dim(one)),
            })
            .collect(),
    }
}
