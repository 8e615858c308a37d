//! `fugato completions`.

use super::{Cli, Outcome};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;

const EXAMPLES: &str = "\
Examples:
  fugato completions bash > ~/.local/share/bash-completion/completions/fugato
  fugato completions zsh > ~/.zfunc/_fugato
  fugato completions fish > ~/.config/fish/completions/fugato.fish";

/// What `fugato completions` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    pub shell: Shell,
}

/// Writes the script to standard output.
///
/// # Errors
/// Where standard output cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    // Made in memory first, since the generator panics where its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fugato", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Outcome::Success)
}
