//! `fugato profile`.

mod progress;
pub mod show;

use super::{Outcome, ReportFormat, SettingArgs};
use crate::config::{Config, DeviceKind, Origin, Precision, Shown, Span};
use crate::engine::{ForAll, Workbench};
use crate::profiler::files::{self, Earlier};
use crate::profiler::{End, Options, Run, Status, Whole, table};
use crate::telemetry::init_logs;
use anyhow::{Context, bail};
use clap::ValueHint;
use progress::Progress;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

const EXAMPLES: &str = "\
Examples:
  fugato profile --model-repository models
  fugato profile --model-repository models --model resnet50 --batches 1,8 --budget 20s
  fugato profile --model-repository models --slo resnet50=50ms --rate resnet50=100 \\
      --out profiles/this-machine.json --format json
  fugato profile --model-repository models --precision fp16 --out profile-fp16.json
  fugato profile --model-repository models --legs 2ms --budget 5m
  fugato profile show profile.json --plots charts

Every (batch, share) is timed alone and with all other slices busy, a few runs at a time,
round after round; then only where a knee or an optimum is open. A file already there is
gone on from. Ctrl-C keeps what was measured.

Legs are timed when the whole models are, at the same points: each model is cut, loaded beside
itself, and the times of its legs go into the profile once all points were visited. A server
given the profile cuts a model with the same `legs` setting alike, and knows them from the start.

Exit code 1: some points were not reached, or some models or their legs could not be loaded;
130: it was interrupted.";

/// When what was measured so far is first kept, and how long after each time it is kept
/// again: a crash loses little, and writing takes little.
const KEEP_FIRST: Duration = Duration::from_secs(1);
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// The largest batch that can be asked for, in items: far above what models take.
const BATCH_MAX: u32 = 65_536;

/// What `fugato profile` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do instead of measuring.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Folder of models, each at NAME/VERSION/model.onnx
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model_repository: Option<PathBuf>,
    /// Model to profile, several times for several [default: all]
    #[arg(long = "model", value_name = "NAME")]
    pub models: Vec<String>,
    /// Batch sizes, as far as a model's max_batch_size allows
    #[arg(
        long,
        value_name = "N,..",
        value_delimiter = ',',
        default_value = "1,2,4,8,16",
        value_parser = parse_batch
    )]
    pub batches: Vec<u32>,
    /// Shares in slices (cores), or `all` that the device has partitions of
    #[arg(long, value_name = "N,..", default_value = "all", value_parser = parse_shares)]
    pub shares: Shares,
    /// Time to spend on all models together, loading included
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_budget)]
    pub budget: Span,
    /// A model's latency objective, such as resnet50=50ms [default: as configured]
    #[arg(long = "slo", value_name = "MODEL=TIME", value_parser = parse_slo)]
    pub slos: Vec<(String, Span)>,
    /// A model's rate of arrival in items per second, such as resnet50=100: how long a batch
    /// takes to assemble [default: no time]
    #[arg(long = "rate", value_name = "MODEL=RATE", value_parser = parse_rate)]
    pub rates: Vec<(String, f64)>,
    /// Seed of the intervals' bootstrap
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// File to write the profile into, and to go on from
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "profile.json")]
    pub out: PathBuf,
    /// Folder to draw charts into, as SVG
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub plots: Option<PathBuf>,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ReportFormat,
    /// Configuration file; docs/reference/config.md lists its keys
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(env = "FUGATO_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Device to measure [default: auto]
    #[arg(long, value_name = "KIND")]
    pub device: Option<DeviceKind>,
    /// Precision to measure all models in [default: as each is configured]
    #[arg(long, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    /// Measure also the legs that each model is cut into, as a server with this `legs` setting cuts
    /// it; `0s` for none. A model with a `plan` is cut as that says [default: as configured]
    #[arg(long, value_name = "TIME")]
    pub legs: Option<Span>,
    /// Folder of optimised models and shared weights [default: in the user's cache]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model_store: Option<PathBuf>,
    /// Shared library of ONNX Runtime, or its folder [default: searched for]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub onnxruntime: Option<PathBuf>,
}

/// The commands of `fugato profile`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print or draw a profile without measuring
    Show(show::Args),
}

/// Which shares to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shares {
    /// All that the device has partitions of.
    All,
    /// These, in slices.
    These(Vec<u16>),
}

fn parse_batch(text: &str) -> Result<u32, String> {
    let batch = text.trim().parse().ok();
    let batch = batch.filter(|batch| (1..=BATCH_MAX).contains(batch));
    batch.ok_or_else(|| format!("expected numbers of items up to {BATCH_MAX}, such as `1,2,4`"))
}

fn parse_budget(text: &str) -> Result<Span, String> {
    let budget: Span = text.parse().map_err(|error| format!("{error}"))?;
    match budget.nanos().as_nanos() {
        0 => Err("in no time nothing can be measured, expected such as `60s`".to_owned()),
        _ => Ok(budget),
    }
}

fn parse_shares(text: &str) -> Result<Shares, String> {
    if text == "all" {
        return Ok(Shares::All);
    }
    let share = |share: &str| share.trim().parse().ok().filter(|&share: &u16| share > 0);
    let shares: Option<Vec<u16>> = text.split(',').map(share).collect();
    let shares = shares.ok_or("expected numbers of slices, such as `1,2`, or `all`")?;
    Ok(Shares::These(shares))
}

fn parse_slo(text: &str) -> Result<(String, Span), String> {
    let (model, slo) = split(text, "resnet50=50ms")?;
    let slo: Span = slo.parse().map_err(|error| format!("{error}"))?;
    match slo.nanos().as_nanos() {
        0 => Err("an objective of no time cannot be met".to_owned()),
        _ => Ok((model, slo)),
    }
}

fn parse_rate(text: &str) -> Result<(String, f64), String> {
    let (model, rate) = split(text, "resnet50=100")?;
    let number = rate.parse().ok();
    let number = number.filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    let number = number.ok_or_else(|| format!("`{rate}` is no rate, expected more than 0"))?;
    Ok((model, number))
}

fn split<'a>(text: &'a str, example: &str) -> Result<(String, &'a str), String> {
    let parts = text.split_once('=').filter(|(model, _)| !model.is_empty());
    let (model, value) = parts.ok_or_else(|| format!("expected such as `{example}`"))?;
    Ok((model.to_owned(), value))
}

/// Measures, writes the profile and prints it.
///
/// # Errors
/// Where the flags or the configuration are wrong, what is at `--out` is of something
/// else, or the profile or the charts cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    if let Some(Command::Show(args)) = &args.command {
        return show::run(args);
    }
    let begun = Instant::now();
    let config = resolve(args)?;
    init_logs(&config.log)?;
    let stop = Arc::new(AtomicI32::new(0));
    listen(Arc::clone(&stop))?;
    let earlier = Earlier::read(&args.out)?;
    let mut found = Workbench::find(&config)?;
    check_names(args, &found.names())?;
    if !args.models.is_empty() {
        found
            .models
            .retain(|entry| args.models.contains(&entry.name));
    }
    check_places(args)?;
    let all = ForAll {
        precision: args.precision,
        legs: args.legs.map(Span::nanos),
    };
    let bench = Workbench::open(&config, &found, all)?;
    check_loaded(&bench)?;
    let mut stderr = std::io::stderr();
    for (model, reason) in &bench.refused {
        writeln!(
            stderr,
            "warning: model `{model}` cannot be profiled: {reason}"
        )?;
    }
    let refused = bench.refused.len();
    let mut run = Run::new(bench, options(args), earlier, begun)?;
    for (model, max_batch, above) in run.left_out() {
        writeln!(
            stderr,
            "note: model `{model}` runs at most {max_batch} items at once, so {above:?} is \
             left out"
        )?;
    }
    let (end, kept) = measure(&mut run, &args.out, &stop);
    let profile = run.profile();
    let text = match args.format {
        ReportFormat::Table => table::of(&profile),
        ReportFormat::Json => files::to_json(&profile)?,
    };
    // Printed even where it cannot be kept: it took minutes to measure.
    let printed = std::io::stdout().write_all(text.as_bytes());
    kept?;
    printed?;
    if let Some(folder) = args.plots.as_ref().filter(|_| !run.is_empty()) {
        show::draw(&profile, folder)?;
    }
    finish(args, &run, end, refused, stop.load(Ordering::Acquire))
}

/// The configuration, with logs of warnings only unless a source says otherwise: a progress
/// bar is no place for them.
fn resolve(args: &Args) -> anyhow::Result<Config> {
    let settings = SettingArgs {
        config: args.config.clone(),
        model_repository: args.model_repository.clone(),
        device: args.device,
        model_store: args.model_store.clone(),
        onnxruntime: args.onnxruntime.clone(),
        ..SettingArgs::default()
    };
    let mut config = settings.resolve()?;
    if config.server.model_repository.is_none() {
        bail!(
            "no model repository is given\n\nhint: name its folder with `--model-repository`, \
             or write one with `fugato zoo write`"
        );
    }
    let own =
        |(path, shown): (&str, &Shown)| path == "log.level" && shown.origin != Origin::Default;
    if !config.origins.iter().any(own) {
        config.log.level = "warn".to_owned();
    }
    Ok(config)
}

fn options(args: &Args) -> Options {
    let mut batches = args.batches.clone();
    batches.sort_unstable();
    batches.dedup();
    let slos = args
        .slos
        .iter()
        .map(|(model, slo)| (model.clone(), slo.nanos()));
    Options {
        batches,
        shares: match &args.shares {
            Shares::All => None,
            Shares::These(shares) => Some(shares.clone()),
        },
        budget: args.budget.nanos(),
        seed: args.seed,
        slos: slos.collect::<BTreeMap<_, _>>(),
        rates: args.rates.iter().cloned().collect(),
    }
}

/// Checks that every name in a flag is that of a model of the repository, and of one that
/// is to be profiled.
fn check_names(args: &Args, known: &[&str]) -> anyhow::Result<()> {
    let slos = args.slos.iter().map(|(name, _)| ("--slo", name));
    let rates = args.rates.iter().map(|(name, _)| ("--rate", name));
    let models = args.models.iter().map(|name| ("--model", name));
    for (flag, name) in models.chain(slos).chain(rates) {
        if !known.contains(&name.as_str()) {
            let known = known.join(", ");
            bail!("`{flag}` names `{name}`, the models of the repository are: {known}");
        }
        if !args.models.is_empty() && !args.models.contains(name) {
            bail!("`{flag}` names `{name}`, which `--model` leaves out");
        }
    }
    Ok(())
}

/// Tries the places that are written to in the end: measuring takes minutes.
fn check_places(args: &Args) -> anyhow::Result<()> {
    let out = &args.out;
    let tried = files::try_place(out);
    tried.with_context(|| format!("`--out`: cannot write `{}`", out.display()))?;
    let Some(folder) = &args.plots else {
        return Ok(());
    };
    let tried = std::fs::create_dir_all(folder);
    let tried = tried.and_then(|()| files::try_place(&folder.join("overview.svg")));
    tried.with_context(|| format!("`--plots`: cannot write into `{}`", folder.display()))
}

/// Checks that there is a model to measure.
fn check_loaded(bench: &Workbench) -> anyhow::Result<()> {
    if bench.models.is_empty() && bench.refused.is_empty() {
        bail!("the model repository has no models");
    }
    if bench.models.is_empty() {
        let reasons = bench
            .refused
            .iter()
            .map(|(name, reason)| format!("`{name}`: {reason}"));
        let reasons: Vec<String> = reasons.collect();
        bail!("no model can be profiled: {}", reasons.join("; "));
    }
    Ok(())
}

/// Measures, keeping what was found now and then and at the end.
fn measure(run: &mut Run, out: &Path, stop: &AtomicI32) -> (End, anyhow::Result<()>) {
    let progress = Progress::new();
    let mut due = Instant::now() + KEEP_FIRST;
    let tell = |run: &Run, status: &Status<'_>| {
        progress.show(status);
        if Instant::now() >= due {
            if let Err(error) = files::keep(run, out).map_err(anyhow::Error::from) {
                // It is tried again, and for the last time at the end.
                tracing::warn!(error = format!("{error:#}"), "nothing is kept yet");
            }
            due = Instant::now() + KEEP_EVERY;
        }
    };
    let end = run.measure(|| stop.load(Ordering::Acquire) != 0, tell);
    progress.clear();
    (end, files::keep(run, out).map_err(anyhow::Error::from))
}

/// Says on standard error what is left to do, and how.
fn finish(
    args: &Args,
    run: &Run,
    end: End,
    refused: usize,
    signal: i32,
) -> anyhow::Result<Outcome> {
    let (uncovered, out) = (run.uncovered(), args.out.display());
    let kept = if run.is_empty() {
        "nothing was measured".to_owned()
    } else {
        format!("what was measured is in `{out}`: run the same command again to go on from there")
    };
    let mut stderr = std::io::stderr();
    let mut failed = refused > 0;
    for (model, why) in run.left_whole() {
        match why {
            Whole::Indivisible => writeln!(
                stderr,
                "note: model `{model}` is too short for two legs, or cannot be cut"
            )?,
            Whole::Elsewhere(reason) => writeln!(
                stderr,
                "note: legs of model `{model}` are not measured here: {reason}"
            )?,
            Whole::Failed(reason) => {
                failed = true;
                writeln!(
                    stderr,
                    "warning: legs of model `{model}` are not measured: {reason}"
                )?;
            }
        }
    }
    if end == End::Stopped {
        writeln!(stderr, "interrupted; {kept}")?;
        return Ok(Outcome::Interrupted { signal });
    }
    if uncovered > 0 {
        writeln!(
            stderr,
            "the budget of {} was spent before {uncovered} points had been measured often \
             enough; {kept}",
            args.budget
        )?;
        return Ok(Outcome::CheckFailed);
    }
    writeln!(stderr, "written to `{out}`")?;
    Ok(match failed {
        false => Outcome::Success,
        true => Outcome::CheckFailed,
    })
}

/// Notes the first SIGINT or SIGTERM in `stop`; the second one ends the process at once.
fn listen(stop: Arc<AtomicI32>) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_io().build().context("cannot hear signals")?;
    // Made before the thread, so that none is missed.
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt()).context("cannot hear SIGINT")?,
            signal(SignalKind::terminate()).context("cannot hear SIGTERM")?,
        )
    };
    let heard = move || {
        runtime.block_on(async {
            loop {
                let number = tokio::select! {
                    _ = interrupt.recv() => SignalKind::interrupt(),
                    _ = terminate.recv() => SignalKind::terminate(),
                };
                let number = number.as_raw_value();
                if stop.swap(number, Ordering::AcqRel) != 0 {
                    std::process::exit(128 + number);
                }
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(heard)
        .context("cannot hear signals")?;
    Ok(())
}
