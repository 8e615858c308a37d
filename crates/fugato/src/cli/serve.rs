//! `fugato serve`.

use super::{Outcome, SettingArgs};
use crate::engine::serve;
use crate::telemetry::init_logs;
use anyhow::bail;

const EXAMPLES: &str = "\
Examples:
  fugato serve --model-repository models
  fugato serve --model-repository models --config fugato.toml --policy uncontrolled
  fugato serve --model-repository models --http-port 0 --grpc-port 0 --metrics-port 0 \\
      --ready-file ready.json

SIGTERM and SIGINT stop it: accepted requests get their replies first.";

/// What `fugato serve` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The flags.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// Serves until it is told to stop.
///
/// # Errors
/// Where the configuration is wrong or the server cannot start.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let config = args.settings.resolve()?;
    if config.server.model_repository.is_none() {
        bail!(
            "no model repository is given\n\nhint: name its folder with `--model-repository`, \
             or write one with `fugato zoo write`"
        );
    }
    init_logs(&config.log)?;
    serve(config)?;
    Ok(Outcome::Success)
}
