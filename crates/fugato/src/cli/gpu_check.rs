//! `fugato gpu-check`.

use super::places::try_folder;
use super::{Outcome, SettingArgs};
use crate::config::Span;
use crate::gpu_check::{
    Job, Part, Report, Setup, TIME, Trial, Verdict, find_device, origin, run_parts, try_part,
};
#[cfg(feature = "cuda")]
use crate::plan_lanes::{Checked, Machine};
use crate::profiler::files;
use crate::runtime::{self, Surroundings};
use anyhow::Context;
use clap::ValueHint;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  fugato gpu-check --out gpu
  fugato gpu-check --out gpu --only capture,overlap
  fugato gpu-check --out gpu --only knees,policies --time 6m

Each part runs in a process of its own, and writes its report as it goes. All together take less
than eight minutes. `knees` writes `profile.json` into the folder, which `legs` and `policies` need
and `fugato simulate --profile` takes. ONNX Runtime has to be a build with the CUDA provider
(`make runtime-gpu`).

Exit code 1: a part failed or could not be tried to its end. Exit code 2: there is no device.";

/// How much of its time a part measures, so that it comes to its end before it is stopped.
const OWN_TIME: f64 = 0.9;

/// What `fugato gpu-check` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder for the reports; made if it is not there
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Only these parts, by commas
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub only: Vec<Part>,
    /// Time for the parts together, each with a part of it [default: 470s, or as much of it as
    /// the parts have]
    #[arg(long, value_name = "TIME")]
    pub time: Option<Span>,
    /// The device's number
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub device: u32,
    /// Shared library of ONNX Runtime, or its folder [default: searched for]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub onnxruntime: Option<PathBuf>,
    /// Folder with libraries of CUDA and cuDNN, looked in first; may be repeated
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub libraries: Vec<PathBuf>,
    /// Folder for the models that are run, which are kept there [default: for this run only]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub models: Option<PathBuf>,
    /// Model store that keeps whether groups of plans may run side by side here, once `capture`,
    /// `overlap` and `plans` have told [default: in the user's cache]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model_store: Option<PathBuf>,
    /// Try this part in this process
    #[arg(long, hide = true)]
    pub part: Option<Part>,
    /// How long it has
    #[arg(long, hide = true, default_value_t = TIME.as_secs())]
    pub seconds: u64,
}

/// Tries the parts and says what they found.
///
/// # Errors
/// Where there is no device, or nothing could be tried.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    if let Some(part) = args.part {
        return run_here(part, args);
    }
    let found = find_device(args.device).context("there is no NVIDIA device to check")?;
    let library = runtime::find_gpu(args.onnxruntime.as_deref(), &Surroundings::of_process())?;
    let settings = SettingArgs {
        model_store: args.model_store.clone(),
        ..SettingArgs::default()
    };
    // What the store is for is no reason not to check.
    let store = match settings.resolve() {
        Ok(config) => config.model_store.dir,
        Err(error) => {
            let error = format!("{error:#}");
            writeln!(
                std::io::stderr(),
                "warning: there is no model store: {error}"
            )?;
            None
        }
    };
    try_folder(&args.out)?;
    let scratch = tempfile::tempdir()?;
    let parts = match args.only.is_empty() {
        true => Part::ALL.to_vec(),
        false => args.only.clone(),
    };
    let limits = parts.iter().map(|part| part.limit()).sum();
    let job = Job {
        program: vec![std::env::current_exe()?, "gpu-check".into()],
        time: args.time.map_or(limits, |time| time.nanos().into()),
        parts,
        setup: Setup {
            onnxruntime: library.path,
            libraries: args.libraries.clone(),
            models: args
                .models
                .clone()
                .unwrap_or_else(|| scratch.path().to_owned()),
            device: args.device,
            out: args.out.clone(),
        },
        origin: found,
    };
    writeln!(std::io::stderr(), "{}", job.origin.device)?;
    let reports = run_parts(&job, |report| {
        Ok(writeln!(std::io::stderr(), "{}", line(report))?)
    })?;
    let page = crate::gpu_check::summary(&job.origin, &reports);
    std::io::stdout().write_all(page.as_bytes())?;
    match keep(args.device, &reports, store.as_deref()) {
        Ok(None) => {}
        Ok(Some(kept)) => writeln!(std::io::stderr(), "{kept}")?,
        Err(error) => writeln!(
            std::io::stderr(),
            "warning: what was found of groups side by side is not kept: {error:#}"
        )?,
    }
    let all = reports
        .iter()
        .all(|report| report.verdict == Verdict::Holds);
    Ok(match all {
        true => Outcome::Success,
        false => Outcome::CheckFailed,
    })
}

/// Keeps in the model store what the reports say of groups side by side; says what, if anything.
#[cfg(feature = "cuda")]
fn keep(device: u32, reports: &[Report], store: Option<&Path>) -> anyhow::Result<Option<String>> {
    // Where that part was not tried, or broke off, only a failure of another can be kept.
    let plans = reports
        .iter()
        .find(|report| report.part == Part::Plans.name());
    let fact = |name: &str| Some(plans?.facts.get(name)?.as_str()?.to_owned());
    let found = fugato_device::cuda::find(device)?;
    let machine = Machine::of(&found, fact("runtime"), fact("libraries"));
    let Some(checked) = Checked::of(machine, reports) else {
        return Ok(None);
    };
    Ok(Some(match store {
        Some(store) => checked.settle(store)?,
        None => "There is no model store to keep it in".to_owned(),
    }))
}

#[cfg(not(feature = "cuda"))]
fn keep(_: u32, _: &[Report], _: Option<&Path>) -> anyhow::Result<Option<String>> {
    Ok(None)
}

fn line(report: &Report) -> String {
    let answer = match report.verdict {
        Verdict::Holds => "yes",
        Verdict::Fails => "no",
        Verdict::Unknown => "unknown",
    };
    format!("{} {answer}: {}", report.question, report.words)
}

/// The process of one part. Its report is written whatever it finds; where it cannot be tried,
/// the process that started it says so.
fn run_here(part: Part, args: &Args) -> anyhow::Result<Outcome> {
    let setup = Setup {
        onnxruntime: args
            .onnxruntime
            .clone()
            .context("`--part` needs `--onnxruntime`")?,
        libraries: args.libraries.clone(),
        models: args.models.clone().context("`--part` needs `--models`")?,
        device: args.device,
        out: args.out.clone(),
    };
    let path = args.out.join(format!("{}.json", part.name()));
    let begun = Instant::now();
    let origin = origin(&setup)?;
    let write = |report: &Report| {
        let report = Report {
            seconds: begun.elapsed().as_secs_f64(),
            origin: Some(origin.clone()),
            ..report.clone()
        };
        write(&path, &report)
    };
    let trial = Trial {
        until: begun + Duration::from_secs(args.seconds).mul_f64(OWN_TIME),
        keep: &mut |report| write(report),
    };
    let report = try_part(part, &setup, trial)?;
    write(&report)?;
    Ok(match report.verdict {
        Verdict::Holds => Outcome::Success,
        Verdict::Fails | Verdict::Unknown => Outcome::CheckFailed,
    })
}

fn write(path: &Path, report: &Report) -> anyhow::Result<()> {
    // In one step, since whoever stops this process reads it.
    files::write_whole(path, &files::to_json(report)?)
        .with_context(|| format!("cannot write `{}`", path.display()))
}
