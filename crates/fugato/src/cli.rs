//! The command line.
//!
//! Each command is a module with its `Args`, which only say what was asked, and a `run`,
//! which does it. Data goes to standard output, everything else to standard error.

pub mod bench;
mod columns;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod gpu_check;
pub mod model;
mod places;
pub mod plan;
pub mod profile;
pub mod reference;
pub mod replay;
pub mod report;
pub mod serve;
mod settings;
pub mod simulate;
pub mod zoo;

pub use settings::SettingArgs;

use crate::engine::ServeError;
use crate::supervisor::DEVICE_LOST;
use clap::{Parser, Subcommand};

/// Serves many deep-learning models from one accelerator.
#[derive(Debug, Parser)]
#[command(
    name = "fugato",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the models of a repository over HTTP and gRPC
    Serve(serve::Args),
    /// Feed a recording to the scheduler again and compare its actions
    Replay(replay::Args),
    /// Send a load to a server, measure it, and check the answers
    Bench(bench::Args),
    /// Show runs as a page, or compare several
    Report(report::Args),
    /// Measure what share of the device each model can use
    Profile(profile::Args),
    /// Divide a model into stages and legs, and time them
    Plan(plan::Args),
    /// Run the scheduler on simulated devices, under any policy
    Simulate(simulate::Args),
    /// Look at models, and write what they should answer
    Model(model::Args),
    /// List and write the models of the papers
    Zoo(zoo::Args),
    /// Look at the configuration
    Config(config::Args),
    /// Say what was found on this machine, and what will be used instead of what was not
    Doctor(doctor::Args),
    /// Try on an NVIDIA device what Fugato builds on, and write down what holds
    GpuCheck(gpu_check::Args),
    /// Write a completion script for a shell
    Completions(completions::Args),
}

/// How a command that did its work ended; the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well: 0.
    Success,
    /// The work was done and a check it made failed: 1.
    CheckFailed,
    /// A signal ended the work early, and what was done is kept: 128 and the signal's
    /// number.
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
    /// A process that was started ended otherwise than well, and has said why: its code.
    Passed {
        /// The code.
        code: u8,
    },
}

/// The exit code of a command that could not do its work: 75 where a device was lost that a
/// new process may have, otherwise 2.
pub fn failure_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(ServeError::DeviceLost { .. }) => DEVICE_LOST,
        _ => 2,
    }
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportFormat {
    /// For people.
    Table,
    /// For programs; `schema` numbers its layout.
    Json,
}

/// Runs the command that was asked for.
///
/// # Errors
/// Whatever kept the command from doing its work.
pub fn run(cli: Cli) -> anyhow::Result<Outcome> {
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Zoo(args) => zoo::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::GpuCheck(args) => gpu_check::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_has_an_exit_code_of_its_own() {
        let detail = "the bus is gone".to_owned();
        let lost = anyhow::Error::from(ServeError::DeviceLost { detail });
        assert_eq!(failure_code(&lost), 75);
        assert_eq!(failure_code(&ServeError::NoRepository.into()), 2);
    }
}
