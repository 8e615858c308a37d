//! `fugato serve`.

use super::{Outcome, SettingArgs};
use crate::accelerator::is_likely;
use crate::engine::{Given, serve};
use crate::server::Sockets;
use crate::supervisor::{Supervised, supervise};
use crate::telemetry::init_logs;
use anyhow::bail;

const EXAMPLES: &str = "\
Examples:
  fugato serve --model-repository models
  fugato serve --model-repository models --config fugato.toml --policy uncontrolled
  fugato serve --model-repository models --http-port 0 --grpc-port 0 --metrics-port 0 \\
      --ready-file ready.json

SIGTERM and SIGINT stop it: accepted requests get their replies first.

Exit codes: 0 it was told to stop; 2 it cannot start, or not end well; 75 the device is lost
to this process, and a new one may have it; 130 a second SIGINT ended it at once. With
`--supervise` that of the last server, or 128 and the number of the signal that ended it.";

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
    // Before anything starts a thread: they are taken out of the environment.
    let sockets = Sockets::inherited()?;
    let supervisor = Supervised::by_whom()?;
    init_logs(&config.log)?;
    if config.supervised(is_likely(&config)) && supervisor.is_none() {
        return Ok(match supervise(&config, sockets)? {
            0 => Outcome::Success,
            code => Outcome::Passed { code },
        });
    }
    serve(
        config,
        Given {
            sockets,
            supervisor,
        },
    )?;
    Ok(Outcome::Success)
}
