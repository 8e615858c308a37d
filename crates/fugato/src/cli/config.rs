//! `fugato config`.

use super::{Outcome, SettingArgs};
use crate::config::{Config, SETTINGS, Shown};
use serde::Serialize;
use std::io::Write;

const EXAMPLES: &str = "\
Examples:
  fugato config show
  fugato config show --config fugato.toml --policy fifo --format json";

/// What `fugato config` was asked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `fugato config`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print each setting, its value and where the value came from
    Show(ShowArgs),
}

/// What `fugato config show` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ShowArgs {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "toml")]
    pub format: ShowFormat,
    /// The flags that `fugato serve` would get.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// How `fugato config show` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ShowFormat {
    /// A configuration file with comments.
    Toml,
    /// For programs.
    Json,
}

/// Runs a command of `fugato config`.
///
/// # Errors
/// Where a source of the configuration cannot be read or a value is wrong.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let Command::Show(show) = &args.command;
    let config = show.settings.resolve()?;
    let text = match show.format {
        ShowFormat::Toml => to_toml(&config),
        ShowFormat::Json => to_json(&config)?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(Outcome::Success)
}

/// The configuration as a file that says the same, with the origins as comments.
fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    let models = config.models.keys().map(|name| format!("model.{name}"));
    let sections = SETTINGS.iter().map(|(section, _)| (*section).to_owned());
    for section in sections.chain(models) {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("[{}]\n", quoted(&section)));
        for (path, shown) in config.origins.iter() {
            let of_section = path.rsplit_once('.').filter(|(of, _)| *of == section);
            if let Some((_, key)) = of_section {
                text.push_str(&line(key, shown));
            }
        }
    }
    text
}

fn line(key: &str, shown: &Shown) -> String {
    match &shown.value {
        Some(value) => format!("{:<44}  # {}\n", format!("{key} = {value}"), shown.origin),
        None => format!("{:<44}  # not set\n", format!("# {key} =")),
    }
}

/// A section's header; a model's name may hold a dot, so it is quoted.
fn quoted(section: &str) -> String {
    match section.strip_prefix("model.") {
        Some(name) => format!("model.\"{name}\""),
        None => section.to_owned(),
    }
}

fn to_json(config: &Config) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Entry<'a> {
        key: &'a str,
        #[serde(flatten)]
        shown: &'a Shown,
    }
    #[derive(Serialize)]
    struct Report<'a> {
        schema: u32,
        settings: Vec<Entry<'a>>,
    }
    let entries = config.origins.iter();
    let report = Report {
        schema: 1,
        settings: entries.map(|(key, shown)| Entry { key, shown }).collect(),
    };
    serde_json::to_string_pretty(&report).map(|text| text + "\n")
}
