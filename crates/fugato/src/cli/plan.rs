//! `fugato plan`.

mod in_flight;
mod progress;
mod show;

use super::places::try_file;
use super::{Outcome, ReportFormat, SettingArgs};
use crate::config::{Config, DeviceKind, Origin, Precision, Shown, Span};
use crate::engine::PlanBench;
use crate::planning::{self, Planned, Wanted};
use crate::telemetry::init_logs;
use anyhow::Context;
use clap::ValueHint;
use fugato_core::plan::{AnyPlanner, CostBasis, LegLimits};
use fugato_core::{BatchSize, Share};
use progress::Progress;
use std::io::Write;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  fugato plan --model models/resnet50/1/model.onnx
  fugato plan --model models/inception_v3 --planner sequential,list,ios --check
  fugato plan --model models/vgg19 --leg-min 5ms --cost-max 10% --out vgg19.plan.json
  fugato plan --model models/bert-base --dim 128
  fugato plan --model models/nasnet_a_large --share 2 --planner list,ios --ios-r 1 --ios-s 3
  fugato plan --model models/inception_v3 --share 2 --planner list,ios --in-flight 4

Each segment is timed on the device, and kept for the next time. Groups stay side by side where
that is measured to be faster than one after the other on all cores; legs are joined until the
plan costs no more than `--cost-max` over the model as it is, which in the end it is. That is
measured at `--batch` and at one item, on `--share` and the device's least and most slices.

On an NVIDIA device groups run one after the other, unless `device.plan_lanes` is on.

`--in-flight` plans what is left of several tasks of the model as one graph. What that takes is
computed from the times of segments and never run: no device here runs stages of several tasks.

Exit code 1: an answer of a plan differs from the model's by more than 1e-5 of the largest (the
output is named), or a part of the model does not run by itself.";

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
    /// Planners, in the order of the report: sequential, greedy, list, ios, ios-merge
    #[arg(
        long = "planner",
        value_name = "NAME,..",
        value_delimiter = ',',
        default_value = "sequential"
    )]
    pub planners: Vec<AnyPlanner>,
    /// Most segments of a group that `ios` and `ios-merge` look at, `r` of IOS [default: 3]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub ios_r: Option<u16>,
    /// Most groups of a stage that `ios` and `ios-merge` look at, `s` of IOS [default: 8]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub ios_s: Option<u16>,
    /// Least time of a leg: stages are joined until they take so long
    #[arg(long, value_name = "TIME", default_value = "500us")]
    pub leg_min: Span,
    /// What a leg should take at most: of a longer one the plan says in how many parts of its
    /// batch it would take no longer [default: 2ms, or `--leg-min` where that is longer]
    #[arg(long, value_name = "TIME")]
    pub leg_max: Option<Span>,
    /// What a plan may cost over the model as it is; legs are joined until it costs no more
    #[arg(long, value_name = "PERCENT", default_value = "3%", value_parser = percent)]
    pub cost_max: f64,
    /// Where planners have the times of stages from
    #[arg(long, value_name = "FROM", default_value = "measured")]
    pub costs: Costs,
    /// Time segments anew that were timed before
    #[arg(long)]
    pub fresh: bool,
    /// Tasks that a time is the median of
    #[arg(long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Compare the answers with those of the model as it is, on several random inputs
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
    /// Tasks of the model, evenly apart in their legs, to plan together as one graph: what that
    /// would gain over one after the other, computed
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=16))]
    #[arg(conflicts_with_all = ["cost_max", "check", "out", "gantt", "dot"])]
    pub in_flight: Option<u16>,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ReportFormat,
    /// Configuration file; docs/reference/config.md lists its keys
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(env = "FUGATO_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Device to plan on [default: auto]
    #[arg(long, value_name = "KIND")]
    pub device: Option<DeviceKind>,
    /// Precision to plan the model in [default: as models have it: `defaults.precision`]
    #[arg(long, value_name = "PRECISION")]
    pub precision: Option<Precision>,
    /// Folder of optimised models and shared weights [default: in the user's cache]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model_store: Option<PathBuf>,
    /// Shared library of ONNX Runtime, or its folder [default: searched for]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub onnxruntime: Option<PathBuf>,
}

/// Where planners have the times of stages from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Costs {
    /// Each segment is run on the device; what groups at once take is computed from that
    Measured,
    /// Operations per second of the whole model; no segment is run
    Modelled,
}

/// Reads `3%` or `3` as 0.03.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=1_000.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("expected a percentage from 0% to 1000%, such as `3%`".to_owned()),
    }
}

/// Plans the model, and prints and writes what was asked for.
///
/// # Errors
/// Where the model cannot be run as asked, or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let (planners, legs) = (planners(args)?, leg_limits(args)?);
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
        planners,
        legs,
        cost_max: args.cost_max,
        costs: match args.costs {
            Costs::Measured => CostBasis::Measured,
            Costs::Modelled => CostBasis::Modelled,
        },
        rounds: usize::from(args.rounds),
        check: args.check,
    };
    if args.fresh {
        bench.forget_times();
    }
    let progress = Progress::new();
    if let Some(tasks) = args.in_flight {
        let tell = &mut |step| progress.show(&step);
        let planned = planning::in_flight(&mut bench, &wanted, tasks, tell);
        progress.clear();
        in_flight::print(&planned?, args.format)?;
        return Ok(Outcome::Success);
    }
    let planned = planning::plan(&mut bench, &wanted, &mut |step| progress.show(&step));
    progress.clear();
    let (report, segments) = planned?;
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
    let faults: Vec<String> = report.plans.iter().filter_map(fault).collect();
    for fault in &faults {
        writeln!(std::io::stderr(), "{fault}")?;
    }
    Ok(match faults.is_empty() {
        true => Outcome::Success,
        false => Outcome::CheckFailed,
    })
}

/// How long legs should be.
fn leg_limits(args: &Args) -> anyhow::Result<LegLimits> {
    let min = args.leg_min.nanos();
    let max = match args.leg_max {
        Some(max) if max.nanos() < min => anyhow::bail!(
            "`--leg-max` is {max}, expected at least `--leg-min`, which is {}",
            args.leg_min
        ),
        Some(max) => max.nanos(),
        None => LegLimits::default().max.max(min),
    };
    Ok(LegLimits { min, max })
}

/// The planners, `ios` within the limits that were given.
fn planners(args: &Args) -> anyhow::Result<Vec<AnyPlanner>> {
    let mut planners = args.planners.clone();
    let mut any = false;
    for planner in &mut planners {
        if let AnyPlanner::Ios(ios) = planner {
            any = true;
            let given = |count: Option<u16>, default| count.map_or(default, usize::from);
            ios.group_segments_max = given(args.ios_r, ios.group_segments_max);
            ios.groups_max = given(args.ios_s, ios.groups_max);
        }
    }
    for (flag, given) in [("--ios-r", args.ios_r), ("--ios-s", args.ios_s)] {
        if given.is_some() && !any {
            anyhow::bail!(
                "`{flag}` limits the planners `ios` and `ios-merge`, and `--planner` has \
                 neither\n\nhint: add one, as in `--planner list,ios`"
            );
        }
    }
    Ok(planners)
}

/// Why a plan is not as good as the model, if it is not.
fn fault(planned: &Planned) -> Option<String> {
    let planner = &planned.plan.planner;
    if planned.fell_back {
        return Some(format!(
            "{planner}: a part of the model does not run by itself; the model runs as it is"
        ));
    }
    let output = planned.farthest_output.as_ref()?;
    match planned.difference {
        Some(found) if found <= DIFFERENCE_MAX => None,
        Some(found) => Some(format!(
            "{planner}: output `{output}` differs by {found:.1e} of its largest value, expected \
             at most {DIFFERENCE_MAX:.0e}"
        )),
        None => Some(format!(
            "{planner}: output `{output}` is another one than the model's by itself"
        )),
    }
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
        device: args.device,
        ..SettingArgs::default()
    };
    let mut config = settings.resolve()?;
    config.defaults.precision = args.precision.unwrap_or(config.defaults.precision);
    let own =
        |(path, shown): (&str, &Shown)| path == "log.level" && shown.origin != Origin::Default;
    if !config.origins.iter().any(own) {
        config.log.level = "warn".to_owned();
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::{CommandFactory, Parser};
    use fugato_core::Nanos;
    use fugato_core::plan::{Ios, Plan, PlanKey};
    use fugato_core::profile::DeviceKey;

    #[test]
    fn percentages_are_parts() {
        assert_eq!(percent("3%"), Ok(0.03));
        assert_eq!(percent("12.5"), Ok(0.125));
        for wrong in ["", "-1%", "3 percent", "nan", "1001%"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    /// `fugato plan` with these flags.
    fn args_of(flags: &[&str]) -> Result<Args, String> {
        let line = [&["fugato", "plan", "--model", "m"], flags].concat();
        let cli = Cli::try_parse_from(line).map_err(|error| error.to_string())?;
        let Command::Plan(args) = cli.command else {
            panic!("it is `fugato plan`");
        };
        Ok(args)
    }

    /// The planners of `fugato plan` with these flags.
    fn planners_of(flags: &[&str]) -> Result<Vec<AnyPlanner>, String> {
        planners(&args_of(flags)?).map_err(|error| error.to_string())
    }

    #[test]
    fn legs_are_limited_as_the_flags_say() {
        let of = |flags: &[&str]| {
            let limits = leg_limits(&args_of(flags)?).map_err(|error| error.to_string())?;
            Ok::<_, String>((limits.min, limits.max))
        };
        let (us, ms) = (Nanos::from_micros, Nanos::from_millis);
        assert_eq!(of(&[]), Ok((us(500), ms(2))));
        assert_eq!(of(&["--leg-max", "700us"]), Ok((us(500), us(700))));
        assert_eq!(of(&["--leg-min", "5ms"]), Ok((ms(5), ms(5))));
        let both = ["--leg-min", "2ms", "--leg-max"];
        assert_eq!(of(&[&both[..], &["2ms"]].concat()), Ok((ms(2), ms(2))));
        let refused = of(&[&both[..], &["1ms"]].concat()).expect_err("too short");
        assert_eq!(
            refused,
            "`--leg-max` is 1ms, expected at least `--leg-min`, which is 2ms"
        );
    }

    #[test]
    fn ios_is_limited_as_its_flags_say() {
        let ios = |r, s, merge| {
            AnyPlanner::Ios(Ios {
                group_segments_max: r,
                groups_max: s,
                merge,
                ..Ios::default()
            })
        };
        let both = ["--planner", "ios,ios-merge"];
        let of = |limits: &[&str]| planners_of(&[&both, limits].concat());
        assert_eq!(of(&[]), Ok(vec![ios(3, 8, false), ios(3, 8, true)]));
        let limited = of(&["--ios-r", "1", "--ios-s", "2"]);
        assert_eq!(limited, Ok(vec![ios(1, 2, false), ios(1, 2, true)]));
        assert_eq!(
            of(&["--ios-s", "9"]).map(|all| all[0]),
            Ok(ios(3, 9, false))
        );
        for flag in ["--ios-r", "--ios-s"] {
            for wrong in ["0", "-1", "65536", "all"] {
                let refused = of(&[&format!("{flag}={wrong}")]).expect_err(wrong);
                let named = format!("invalid value '{wrong}' for '{flag} <COUNT>'");
                assert!(refused.contains(&named), "{refused}");
            }
            let refused = planners_of(&["--planner", "greedy,list", flag, "2"]).expect_err(flag);
            assert!(refused.contains(&format!("`{flag}` limits")), "{refused}");
        }
    }

    #[test]
    fn the_help_tells_the_limits_of_ios() {
        let mut command = Cli::command();
        let plan = command.find_subcommand_mut("plan").expect("it is there");
        let help = |id: &str| {
            let flag = plan.get_arguments().find(|flag| flag.get_id() == id);
            flag.and_then(clap::Arg::get_help).map(ToString::to_string)
        };
        let ios = Ios::default();
        for (id, limit) in [("ios_r", ios.group_segments_max), ("ios_s", ios.groups_max)] {
            let help = help(id).unwrap_or_default();
            assert!(help.ends_with(&format!("[default: {limit}]")), "{help}");
        }
    }

    #[test]
    fn a_fault_names_the_output_and_how_far_it_is_off() {
        let key = PlanKey {
            model: "abc".to_owned(),
            device: DeviceKey {
                kind: "cpu".to_owned(),
                name: "a CPU".to_owned(),
                slices: 2,
            },
            runtime: "onnxruntime 1".to_owned(),
            share: Share(1),
            batch: BatchSize(1),
        };
        let good = Planned {
            plan: Plan::new(
                key,
                "list",
                CostBasis::Measured,
                vec![],
                LegLimits::default(),
            ),
            prunings: None,
            planned_in: Nanos::ZERO,
            reckoned: Nanos::ZERO,
            merged_planned: 0,
            merged: 0,
            at_once_planned: 0,
            at_once: 0,
            measured: Nanos::ZERO,
            stages: Vec::new(),
            elsewhere: Vec::new(),
            over_sequential: None,
            over_unsplit: 1.0,
            unsplit: false,
            difference: None,
            farthest_output: None,
            fell_back: false,
        };
        assert_eq!(fault(&good), None, "answers were not compared");
        let of = |difference| {
            fault(&Planned {
                difference,
                farthest_output: Some("logits".to_owned()),
                ..good.clone()
            })
        };
        assert_eq!(of(Some(0.0)), None);
        assert_eq!(of(Some(1e-5)), None, "as far off as it may be");
        let differs =
            "list: output `logits` differs by 2.0e-5 of its largest value, expected at most 1e-5";
        assert_eq!(of(Some(2e-5)).as_deref(), Some(differs));
        let another = "list: output `logits` is another one than the model's by itself";
        assert_eq!(of(None).as_deref(), Some(another));
        let fell = Planned {
            fell_back: true,
            ..good.clone()
        };
        let whole = "list: a part of the model does not run by itself; the model runs as it is";
        assert_eq!(fault(&fell).as_deref(), Some(whole));
    }
}
