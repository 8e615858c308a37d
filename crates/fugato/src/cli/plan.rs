//! `fugato plan`.

mod show;

use super::places::try_file;
use super::{Outcome, ReportFormat, SettingArgs};
use crate::config::{Config, Origin, Shown, Span};
use crate::engine::PlanBench;
use crate::planning::{self, Report, Wanted};
use crate::telemetry::init_logs;
use anyhow::Context;
use clap::ValueHint;
use fugato_core::plan::{AnyPlanner, LegLimits};
use fugato_core::{BatchSize, Share};
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  fugato plan --model models/resnet50/1/model.onnx
  fugato plan --model models/inception_v3 --planner sequential,list,ios --check
  fugato plan --model models/vgg19 --leg-min 5ms --out vgg19.plan.json
  fugato plan --model models/bert-base --dim 128

Each segment is timed on the device, then every plan as a whole and stage by stage. On the CPU
the groups of a stage run at once where the share has several cores, a thread each.

Exit code 1: an answer of a plan differs from the model's by more than 1e-5 of the largest, or a
part of the model does not run by itself.";

/// The most that an answer may differ, of the largest answer.
const DIFFERENCE_MAX: f64 = 1e-5;

/// What `fugato plan` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Model file, or a model's folder in a repository (its latest version)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    /// Slices (cores) that the plan runs in
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub share: u16,
    /// Items in the batch
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Size of input dimensions that may have any, past the batch
    #[arg(long, value_name = "SIZE", value_parser = clap::value_parser!(u64).range(1..))]
    pub dim: Option<u64>,
    /// Planners, in the order of the report: sequential, greedy, list, ios
    #[arg(
        long = "planner",
        value_name = "NAME,..",
        value_delimiter = ',',
        default_value = "sequential"
    )]
    pub planners: Vec<AnyPlanner>,
    /// Least time of a leg: stages are joined until they take so long
    #[arg(long, value_name = "TIME", default_value = "500us")]
    pub leg_min: Span,
    /// Tasks that a time is the median of
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Compare the answers with those of the model as it is
    #[arg(long)]
    pub check: bool,
    /// File to write the first planner's plan into
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// File for a picture of the first planner's stages, as SVG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub gantt: Option<PathBuf>,
    /// File for the segments of the first planner's stages, as Graphviz's DOT
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub dot: Option<PathBuf>,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ReportFormat,
    /// Configuration file; docs/reference/config.md lists its keys
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(env = "FUGATO_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Folder of optimised models and shared weights [default: in the user's cache]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model_store: Option<PathBuf>,
    /// Shared library of ONNX Runtime, or its folder [default: searched for]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub onnxruntime: Option<PathBuf>,
}

/// Plans the model, and prints and writes what was asked for.
///
/// # Errors
/// Where the model cannot be run as asked, or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let config = resolve(args)?;
    init_logs(&config.log)?;
    let places = [&args.out, &args.gantt, &args.dot];
    places
        .into_iter()
        .flatten()
        .try_for_each(|path| try_file(path))?;
    let model = super::model::inspect::model_file(&args.model)?;
    let (share, batch) = (Share(args.share), BatchSize(args.batch));
    let mut bench = PlanBench::open(&config, &model, (share, batch), args.dim)?;
    let wanted = Wanted {
        planners: args.planners.clone(),
        legs: LegLimits {
            min: args.leg_min.nanos(),
            ..LegLimits::default()
        },
        rounds: usize::from(args.rounds),
        check: args.check,
    };
    let (report, segments) = planning::plan(&mut bench, &wanted)?;
    if let Some(first) = report.plans.first() {
        let plan = &first.plan;
        let text = || serde_json::to_string_pretty(plan).map(|text| text + "\n");
        write(args.out.as_deref(), "--out", || Ok(text()?))?;
        write(args.gantt.as_deref(), "--gantt", || {
            Ok(crate::plots::stages(plan, &model.display().to_string()).svg)
        })?;
        write(args.dot.as_deref(), "--dot", || {
            Ok(show::dot(plan, &segments, bench.graph().graph()))
        })?;
    }
    let text = match args.format {
        ReportFormat::Table => show::table(&report, &segments, bench.graph().graph(), bench.key()),
        ReportFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(match holds(&report, args.check) {
        true => Outcome::Success,
        false => Outcome::CheckFailed,
    })
}

fn holds(report: &Report, check: bool) -> bool {
    report.plans.iter().all(|planned| {
        let near = planned
            .difference
            .is_some_and(|found| found <= DIFFERENCE_MAX);
        !planned.fell_back && (near || !check)
    })
}

fn write(
    path: Option<&Path>,
    flag: &str,
    text: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let Some(path) = path else {
        return Ok(());
    };
    let written = std::fs::write(path, text()?);
    written.with_context(|| format!("`{flag}`: cannot write `{}`", path.display()))
}

/// The configuration, with logs of warnings only unless a source says otherwise.
fn resolve(args: &Args) -> anyhow::Result<Config> {
    let settings = SettingArgs {
        config: args.config.clone(),
        model_store: args.model_store.clone(),
        onnxruntime: args.onnxruntime.clone(),
        ..SettingArgs::default()
    };
    let mut config = settings.resolve()?;
    let own =
        |(path, shown): (&str, &Shown)| path == "log.level" && shown.origin != Origin::Default;
    if !config.origins.iter().any(own) {
        config.log.level = "warn".to_owned();
    }
    Ok(config)
}
