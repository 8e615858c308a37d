//! `fugato zoo`.

pub mod light;
pub mod list;
pub mod write;

use super::Outcome;

/// What `fugato zoo` was asked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `fugato zoo`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the models with their sizes, costs and inputs
    List(list::Args),
    /// Write models as a model repository, with seeded weights
    Write(write::Args),
    /// Give weights to the light models of the Python package onnx
    Light(light::Args),
}

/// Runs a command of `fugato zoo`.
///
/// # Errors
/// Where a name is unknown, or a file cannot be read or written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::List(args) => list::run(args),
        Command::Write(args) => write::run(args),
        Command::Light(args) => light::run(args),
    }
}

/// What is printed on standard error for one model that is in place.
fn in_place(outcome: fugato_zoo::Outcome, path: &std::path::Path) -> String {
    let done = match outcome {
        fugato_zoo::Outcome::Written => "wrote",
        fugato_zoo::Outcome::Kept => "kept",
    };
    format!("{done:<5} {}", path.display())
}
