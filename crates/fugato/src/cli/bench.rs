//! `fugato bench`.

use super::{Outcome, places};
use crate::bench::capacity::{self, Hunt, Probe};
use crate::bench::client::ServerUrl;
use crate::bench::regions::SharedMemory;
use crate::bench::report::{Loop, Report};
use crate::bench::{Bench, BenchError, read_workload, run as run_bench};
use crate::provenance::Provenance;
use crate::report::{Run, page};
use anyhow::{Context, bail};
use clap::ValueHint;
use fugato_core::Nanos;
use fugato_core::capacity::LargestSettings;
use fugato_core::workload::{ArrivalProcess, DurationError, ModelLoad, Workload, parse_duration};
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher as _;
use std::io::Write;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "\
Examples:
  fugato bench --url grpc://127.0.0.1:8001 --model resnet18 --rate 20 --slo 100ms
  fugato bench --url grpc://127.0.0.1:8001 --url http://127.0.0.1:8000 \\
      --workload examples/demo.toml --expect expected --assert-attainment 0.99
  fugato bench --url http://127.0.0.1:8000 --model bert-tiny --concurrency 4
  fugato bench --workload examples/demo.toml --find-capacity --attainment 0.99 --seeds 5

Open loop, unless --concurrency is given: requests are sent when the workload says,
whatever the server does, and latency counts from then. Exit code 1: an answer was
wrong, the asserted attainment was missed, no load was held, or the run was
interrupted.";

/// Time measured where neither the workload nor a flag says one.
const DEFAULT_DURATION: Nanos = Nanos::from_millis(10_000);

/// Warm-up where neither the workload nor a flag says one: connections are made and the
/// server's estimates settle.
const DEFAULT_WARMUP: Nanos = Nanos::from_millis(2_000);

/// What `fugato bench` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("load").required(true).args(["workload", "model"])))]
pub struct Args {
    /// Server address, grpc://HOST:PORT or http://HOST:PORT; with several, requests of
    /// each model take turns over them
    #[arg(
        long = "url",
        value_name = "URL",
        default_value = "grpc://127.0.0.1:8001"
    )]
    pub urls: Vec<ServerUrl>,
    /// Workload file: models, objectives, arrivals, time
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub workload: Option<PathBuf>,
    /// Multiplies the rates of the workload
    #[arg(long, value_name = "FACTOR", requires = "workload")]
    pub scale: Option<f64>,
    /// One model, instead of a workload file
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Open loop: Poisson arrivals of this many requests per second
    #[arg(long, value_name = "RATE", requires = "model")]
    pub rate: Option<f64>,
    /// Closed loop: requests kept outstanding per model. Says what the server can do,
    /// not what latency a load that does not wait would see
    #[arg(long, value_name = "COUNT", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..))]
    pub concurrency: Option<u32>,
    /// Objective of --model; without one every right answer is in time
    #[arg(long, value_name = "DURATION", requires = "model", value_parser = duration)]
    pub slo: Option<Nanos>,
    /// Time measured [default: the workload's, or 10s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Nanos>,
    /// Time of load before the measurement [default: the workload's, or 2s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub warmup: Option<Nanos>,
    /// Seed of arrivals and random inputs [default: the workload's, or drawn and printed]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    /// Check answers against the expectation files of this folder (`fugato model expect`)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub expect: Option<PathBuf>,
    /// Tell the server each request's objective (parameter `slo_us`)
    #[arg(long)]
    pub send_slo: bool,
    /// Put inputs and outputs into shared memory (the server is on this machine): files
    /// under /dev/shm, registered at the server and removed at the end
    #[arg(long, value_name = "KIND", default_value = "none")]
    pub shared_memory: SharedMemory,
    /// Requests of one model that may be unanswered at once; more are not sent and count
    /// as missed. Over HTTP each has its own connection
    #[arg(long, value_name = "COUNT", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_outstanding: u32,
    /// Wait for replies after the last request
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain: Nanos,
    /// Measure the CPU time of the server's process too (on this machine)
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Threads of the load generator, beside the one that paces it
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: u16,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// Write the report to this file as well, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Write a page with tables and charts to this file as well
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "find_capacity")]
    pub report: Option<PathBuf>,
    /// Search the largest multiple of the workload's rates that the server holds: run at
    /// 1x (or --scale), at doubled or halved rates until one multiple is held and one is
    /// not, and then between them
    #[arg(long, requires = "attainment", conflicts_with_all = ["concurrency", "assert_attainment"])]
    pub find_capacity: bool,
    /// With --find-capacity: what counts as held, over all requests; each model must reach
    /// the smaller of this and 0.95
    #[arg(long, value_name = "FRACTION", requires = "find_capacity", value_parser = fraction)]
    pub attainment: Option<f64>,
    /// With --find-capacity: searches, each with the next seed
    #[arg(long, value_name = "COUNT", default_value_t = 3, requires = "find_capacity", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub seeds: u32,
    /// With --find-capacity: end where the multiple that is not held is at most this part
    /// above the one that is
    #[arg(long, value_name = "FRACTION", default_value_t = 0.02, requires = "find_capacity", value_parser = fraction)]
    pub tolerance: f64,
    /// With --find-capacity: rest between two runs
    #[arg(long, value_name = "DURATION", default_value = "1s", requires = "find_capacity", value_parser = duration)]
    pub pause: Nanos,
    /// Fail where attainment is below this over all requests, or below the smaller of
    /// this and 0.95 for any model
    #[arg(long, value_name = "FRACTION", value_parser = fraction)]
    pub assert_attainment: Option<f64>,
}

/// How the report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs; `schema` numbers its layout.
    Json,
    /// One line per model.
    Csv,
}

fn duration(text: &str) -> Result<Nanos, DurationError> {
    parse_duration(text)
}

fn fraction(text: &str) -> Result<f64, String> {
    let value: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is not a number"))?;
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{value} is not a fraction, expected 0 to 1"))
    }
}

/// Makes the run and prints its report.
///
/// # Errors
/// Where the run cannot be made or its report cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let bench = resolve(args)?;
    for path in [&args.out, &args.report].into_iter().flatten() {
        places::try_file(path)?;
    }
    if args.find_capacity {
        return find_capacity(args, bench);
    }
    let report = match on_runtime(args, async |stop| Ok(run_bench(&bench, stop).await))? {
        Err(interrupted @ BenchError::Interrupted) => {
            writeln!(std::io::stderr(), "failed: {interrupted}")?;
            return Ok(Outcome::CheckFailed);
        }
        report => report?,
    };
    let text = match args.format {
        Format::Table => report.table(),
        Format::Json => report.json() + "\n",
        Format::Csv => report.csv(),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if args.format != Format::Table {
        for warning in &report.warnings {
            writeln!(std::io::stderr(), "warning: {warning}")?;
        }
    }
    if let Some(path) = &args.out {
        fs::write(path, report.json() + "\n")
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    if let Some(path) = &args.report {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let page = page(&[Run::measured(stem, report.clone())]);
        fs::write(path, page).with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    outcome(args, &report)
}

/// Runs `work` on a runtime of its own; SIGINT and SIGTERM cancel the token it gets.
fn on_runtime<T>(
    args: &Args,
    work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(args.threads.into()).enable_all();
    let runtime = runtime.build().context("cannot start the load generator")?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let interrupt = stop.clone();
        let mut terminate = signal(SignalKind::terminate()).context("cannot hear SIGTERM")?;
        tokio::spawn(async move {
            let interrupted = tokio::select! {
                interrupted = tokio::signal::ctrl_c() => interrupted.is_ok(),
                _ = terminate.recv() => true,
            };
            if interrupted {
                interrupt.cancel();
            }
        });
        work(stop).await
    });
    // Requests that were never answered must not hold the process.
    runtime.shutdown_background();
    result
}

/// Searches the largest load held and prints what was found.
fn find_capacity(args: &Args, bench: Bench) -> anyhow::Result<Outcome> {
    if args.format == Format::Csv {
        bail!("capacity is not written as CSV; hint: `--format json`");
    }
    let settings = LargestSettings {
        start: args.scale.unwrap_or(1.0),
        tolerance: args.tolerance,
        ..LargestSettings::default()
    };
    let hunt = Hunt {
        bench,
        attainment: args.attainment.context("no attainment is given")?,
        settings,
        seeds: args.seeds,
        pause: args.pause.into(),
    };
    let report = on_runtime(args, async |stop| {
        let progress = |probe: &Probe| {
            // Progress that nobody can read is no reason to end a search.
            let _ = writeln!(std::io::stderr(), "{}", probe.line());
        };
        Ok(capacity::find(&hunt, stop, progress).await?)
    })?;
    let text = match args.format {
        Format::Table | Format::Csv => report.table(),
        Format::Json => report.json() + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if let Some(path) = &args.out {
        fs::write(path, report.json() + "\n")
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    if report.interrupted || report.factor.is_none() {
        writeln!(std::io::stderr(), "failed: {}", report.answer())?;
        return Ok(Outcome::CheckFailed);
    }
    Ok(Outcome::Success)
}

fn outcome(args: &Args, report: &Report) -> anyhow::Result<Outcome> {
    let mut failed = Vec::new();
    if report.total.wrong > 0 {
        failed.push(format!("{} answers were wrong", report.total.wrong));
    }
    if report.interrupted {
        failed.push("the run was interrupted".to_owned());
    }
    if let Some(wanted) = args
        .assert_attainment
        .filter(|wanted| !report.attains(*wanted))
    {
        let found = report.total.attainment.unwrap_or(0.0) * 100.0;
        failed.push(format!(
            "attainment is {found:.2} % over all requests, asserted {:.2} % (and 95 % of each model)",
            wanted * 100.0
        ));
    }
    for failure in &failed {
        writeln!(std::io::stderr(), "failed: {failure}")?;
    }
    Ok(if failed.is_empty() {
        Outcome::Success
    } else {
        Outcome::CheckFailed
    })
}

/// The run that was asked for.
fn resolve(args: &Args) -> anyhow::Result<Bench> {
    let mut workload = match (&args.workload, &args.model) {
        (Some(path), _) => {
            let workload = read_workload(path)?;
            if workload.is_saturated() {
                bail!(
                    "workload `{}` has saturated arrivals, which only `fugato simulate` can send\n\n\
                     hint: `--concurrency` keeps a number of requests open",
                    path.display()
                );
            }
            match args.scale {
                // The search for capacity begins there.
                Some(factor) if !args.find_capacity => workload.scaled(factor)?,
                _ => workload,
            }
        }
        (None, Some(model)) => single(args, model)?,
        (None, None) => bail!("neither a workload nor a model is given"),
    };
    if args.duration.is_some() || args.warmup.is_some() {
        let duration = args.duration.unwrap_or(workload.duration());
        let warmup = args.warmup.unwrap_or(workload.warmup());
        workload = workload.lasting(duration, warmup)?;
    }
    // The one place where a seed is drawn; the report prints it.
    let seed = args.seed.or(workload.seed());
    Ok(Bench {
        urls: args.urls.clone(),
        seed: seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32),
        workload,
        pacing: match args.concurrency {
            Some(concurrency) => Loop::Closed { concurrency },
            None => Loop::Open,
        },
        expect: args.expect.clone(),
        send_slo: args.send_slo,
        shared_memory: args.shared_memory,
        max_outstanding: args.max_outstanding,
        drain: args.drain.into(),
        server_pid: args.server_pid,
        provenance: Some(Provenance::of_this_process()),
    })
}

fn single(args: &Args, model: &str) -> anyhow::Result<Workload> {
    let rate = match (args.rate, args.concurrency) {
        (Some(rate), _) => rate,
        // Closed loop sends after each reply; its arrivals are never drawn.
        (None, Some(_)) => 1.0,
        (None, None) => bail!(
            "model `{model}` has neither a rate nor a concurrency\n\nhint: `--rate 10` for open \
             loop, `--concurrency 1` for closed loop"
        ),
    };
    let slo = args.slo.unwrap_or(Nanos::MAX);
    let load = ModelLoad::new(model, slo, ArrivalProcess::Poisson { rate });
    Ok(Workload::new(
        DEFAULT_DURATION,
        DEFAULT_WARMUP,
        None,
        vec![load],
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn parse(args: &[&str]) -> Result<Bench, String> {
        let args = ["fugato", "bench"].iter().chain(args);
        let cli = Cli::try_parse_from(args).map_err(|error| error.to_string())?;
        let Command::Bench(args) = cli.command else {
            return Err("another command".to_owned());
        };
        resolve(&args).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn one_model_is_a_workload() {
        let open = parse(&[
            "--model", "m", "--rate", "5", "--slo", "25ms", "--seed", "7",
        ]);
        let open = open.expect("valid");
        assert_eq!((open.pacing, open.seed), (Loop::Open, 7));
        assert_eq!(open.workload.models()[0].slo, Nanos::from_millis(25));
        assert_eq!(open.workload.end(), Nanos::from_millis(12_000));
        let closed = parse(&["--model", "m", "--concurrency", "4", "--duration", "1s"]);
        let closed = closed.expect("valid");
        assert_eq!(closed.pacing, Loop::Closed { concurrency: 4 });
        assert_eq!(closed.workload.end(), Nanos::from_millis(3_000));
    }

    #[test]
    fn what_says_no_load_is_refused() {
        for (args, part) in [
            (&["--rate", "5"] as &[&str], "required"),
            (&["--model", "m"], "neither a rate nor a concurrency"),
            (&["--model", "m", "--rate", "0"], "not valid"),
            (
                &["--model", "m", "--rate", "5", "--concurrency", "1"],
                "cannot be used",
            ),
            (&["--model", "m", "--concurrency", "0"], "0 is not in"),
            (
                &["--model", "m", "--rate", "1", "--url", "127.0.0.1:1"],
                "hint",
            ),
            (&["--model", "m", "--rate", "1", "--duration", "5"], "unit"),
            (
                &["--model", "m", "--rate", "1", "--assert-attainment", "99"],
                "0 to 1",
            ),
            (&["--model", "m", "--workload", "w.toml"], "cannot be used"),
            (
                &["--model", "m", "--rate", "1", "--find-capacity"],
                "--attainment",
            ),
            (
                &["--model", "m", "--rate", "1", "--seeds", "2"],
                "--find-capacity",
            ),
            (&["--workload", "none.toml"], "cannot read `none.toml`"),
        ] {
            let error = parse(args).expect_err(part);
            assert!(error.contains(part), "{args:?} gave {error:?}");
        }
    }
}
