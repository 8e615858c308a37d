//! `fugato model`.

pub mod expect;
pub mod inspect;

use super::Outcome;

/// What `fugato model` was asked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `fugato model`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say what a model file holds: interface, weights, operators
    Inspect(inspect::Args),
    /// Write what models answer by themselves, for `fugato bench --expect`
    Expect(expect::Args),
}

/// Runs a command of `fugato model`.
///
/// # Errors
/// Where the model cannot be read.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::Inspect(args) => inspect::run(args),
        Command::Expect(args) => expect::run(args),
    }
}
