//! `fugato simulate`.

mod files;
mod show;

use super::Outcome;
use crate::bench::{ReadError, read_workload};
use crate::config::Span;
use crate::simulation::{
    self, Contender, Plan, find_capacity, find_devices, notes, overload_note, simulate,
};
use anyhow::{Context, anyhow, bail};
use clap::ValueHint;
use fugato_core::device::ATOMS_MAX;
use fugato_core::mix::{MIXES, Mix};
use fugato_core::profile::{BUILT_IN, Division, ModelProfile, Profile, built_in};
use fugato_core::sched::{DeadlineMode, DynamicBatching};
use fugato_core::sim::{Overheads, Scenario, SimOptions, TimeSlicing, sim_device};
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{BatchSize, Nanos, Share};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// What counts as held unless told otherwise.
const ATTAINMENT: f64 = 0.99;

/// Seeds of a search unless told otherwise.
const SEEDS: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

const EXAMPLES: &str = "\
Examples:
  fugato simulate --workload c-4 --policy edf,uncontrolled --seed 1
  fugato simulate --workload arv --saturated --policy fifo,ideal --seed 1
  fugato simulate --workload c-2 --policy edf,dstack --find-capacity --seed 1
  fugato simulate --workload arv --saturated --policy temporal,dstack:point=published --timeline arv.json --plots pictures
  fugato simulate --workload c-7 --policy edf --slices 148 --devices 2 --format json --seed 1

Nothing runs but the scheduler: service times come from a profile, and every policy has the
same requests. Mixes built in, on built-in profiles: c-2, c-3, c-4, c-7, arv and convnet. Of
models of your own, `fugato profile` measures the profile (--profile FILE), and
docs/reference/workload.md says how a workload is written (--workload FILE).
docs/concepts/simulation.md says what is simulated and how true it is.";

/// Time from handing a leg to a free lane to its start where nobody measured it: a wake-up.
const LAUNCH: Nanos = Nanos::from_micros(20);

/// What `fugato simulate` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Profile of the models, or `v100-dstack` or `convnet` [default: the mix's]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub profile: Option<PathBuf>,
    /// Workload file, or a built-in mix: c-2, c-3, c-4, c-7, arv, convnet
    #[arg(long, value_name = "FILE|MIX", value_hint = ValueHint::FilePath)]
    pub workload: PathBuf,
    /// Policies to compare, each with settings if wished (`dstack:point=work:dynamic=false`), and
    /// `ideal`
    #[arg(
        long,
        value_name = "POLICY,..",
        value_delimiter = ',',
        required = true,
        value_parser = Contender::parse
    )]
    pub policy: Vec<Contender>,
    /// Keep every model's queue full, whatever the workload's rates
    #[arg(long)]
    pub saturated: bool,
    /// Factor on all rates
    #[arg(long, value_name = "FACTOR", conflicts_with = "saturated")]
    pub scale: Option<f64>,
    /// Measured time [default: the workload's; of a mix 10s]
    #[arg(long, value_name = "TIME")]
    pub duration: Option<Span>,
    /// Time before it that is not measured [default: the workload's; of a mix 1s]
    #[arg(long, value_name = "TIME")]
    pub warmup: Option<Span>,
    /// Equal devices, each with a scheduler of its own
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub devices: u32,
    /// Slices of each device [default: the profile's]
    #[arg(long, value_name = "COUNT")]
    pub slices: Option<u16>,
    /// Seed of arrivals and noise [default: the workload's, else drawn and printed]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What deadlines do [default: enforce; observe where saturated]
    #[arg(long, value_name = "MODE")]
    pub deadlines: Option<Deadlines>,
    /// Time from handing a leg to a free lane to its start [default: the profile's, else 20us]
    #[arg(long, value_name = "TIME")]
    pub launch: Option<Span>,
    /// Time from the end of a leg to the start of the one committed behind it
    #[arg(long, value_name = "TIME", default_value = "5us")]
    pub boundary: Span,
    /// How long a leg runs before another on the same slices has its turn
    #[arg(long, value_name = "TIME", default_value = "2ms")]
    pub quantum: Span,
    /// What each such turn costs
    #[arg(long, value_name = "TIME", default_value = "20us")]
    pub switch: Span,
    /// Cut models whose profile has no legs into ones no longer than this, at the largest batch of
    /// the workload or else of the profile, and at their knee. How they are cut is an assumption;
    /// `none`: run all models whole, those too whose profile has legs
    #[arg(long, value_name = "TIME", value_parser = parse_legs)]
    pub legs: Option<Legs>,
    /// Give every run its median time
    #[arg(long)]
    pub no_noise: bool,
    /// Tasks of a model in flight. Raise it where models use small shares of a large device: with
    /// two, no model ever has more than two batches running
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub slots: u16,
    /// Largest batch of every model, where the workload asks for no smaller one; 1 turns batching
    /// off, as `max_batch_size` does in a server [default: the workload's, else the profile's]
    #[arg(long, value_name = "ITEMS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_batch_size: Option<u32>,
    /// Instances of a model under `uncontrolled`
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub instances: u16,
    /// How long a request may wait for its batch to fill, under all policies but `fifo`, `edf`,
    /// `edf-legs`, `dstack` and `fugato`
    #[arg(long, value_name = "TIME", default_value = "0ms")]
    pub max_queue_delay: Span,
    /// Find the largest multiple of the workload that each policy holds
    #[arg(long, conflicts_with_all = ["saturated", "find_devices"])]
    pub find_capacity: bool,
    /// Find the fewest devices on which each policy holds the workload, up to this many
    #[arg(long, value_name = "MOST", conflicts_with = "saturated", value_parser = clap::value_parser!(u32).range(1..))]
    pub find_devices: Option<u32>,
    /// Attainment that counts as held, over all requests (of each model at least the smaller of
    /// this and 0.95), and is marked in pictures [default: 0.99]
    #[arg(long, value_name = "FRACTION", value_parser = fraction)]
    pub attainment: Option<f64>,
    /// Seeds to find the capacity or the devices for, from the seed on [default: 5]
    #[arg(long, value_name = "COUNT")]
    pub seeds: Option<NonZeroU32>,
    /// Where to write what ran, as a Chrome trace with a track per slice; of several policies one
    /// file each
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["find_capacity", "find_devices"])]
    pub timeline: Option<PathBuf>,
    /// Folder for pictures: what ran where per policy, and attainment and goodput against load
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath, conflicts_with_all = ["find_capacity", "find_devices"])]
    pub plots: Option<PathBuf>,
    /// Where to write the report as a page
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["find_capacity", "find_devices"])]
    pub report: Option<PathBuf>,
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// What deadlines do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Deadlines {
    /// What cannot end in time is refused or dropped.
    Enforce,
    /// Everything runs, late or not.
    Observe,
}

/// How the report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs; `schema` numbers its layout.
    Json,
    /// One line per policy and model.
    Csv,
}

fn fraction(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok();
    let value = value.filter(|value| *value > 0.0 && *value <= 1.0);
    value.ok_or_else(|| "expected a number above 0 and at most 1, such as 0.99".to_owned())
}

/// Simulates what was asked, and prints what it gave.
///
/// # Errors
/// Where profile, workload or settings cannot be; the message names what and why.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let plan = resolve(args)?;
    let attainment = args.attainment.unwrap_or(ATTAINMENT);
    let seeds = args.seeds.unwrap_or(SEEDS);
    let mut out = std::io::stdout();
    if args.find_capacity {
        let report = find_capacity(&plan, attainment, seeds)?;
        out.write_all(show::capacity(&report, &plan, args.format)?.as_bytes())?;
    } else if let Some(most) = args.find_devices {
        let found = find_devices(&plan, attainment, most, seeds)?;
        let text = show::devices(&found, &plan, args.format, (attainment, most))?;
        out.write_all(text.as_bytes())?;
    } else {
        files::try_places(args, &plan)?;
        let ran = simulate(&plan)?;
        // What was found is not lost with a file that cannot be written after all.
        out.write_all(show::report(&ran.report, args.format)?.as_bytes())?;
        out.flush()?;
        files::write(args, &plan, &ran)?;
    }
    let overload = overload_note(&plan).filter(|_| args.find_devices.is_none());
    for note in notes(&plan).into_iter().chain(overload) {
        writeln!(std::io::stderr(), "note: {note}")?;
    }
    Ok(Outcome::Success)
}

/// The plan that was asked for.
fn resolve(args: &Args) -> anyhow::Result<Plan> {
    refuse_unused(args)?;
    let mix = mix(&args.workload);
    let workload = workload(args, mix)?;
    let profile = match (&args.profile, mix) {
        (Some(path), _) => read_profile(path)?,
        (None, Some(mix)) => mix.profiles(),
        (None, None) => bail!(
            "workload `{}` needs a profile of its models\n\nhint: `--profile FILE`, or a built-in \
             one: {}",
            args.workload.display(),
            BUILT_IN.join(", ")
        ),
    };
    let slices = args.slices.unwrap_or(profile.device.slices);
    if !(1..=ATOMS_MAX).contains(&slices) {
        bail!("`--slices` is {slices}, expected 1 to {ATOMS_MAX}");
    }
    if args.timeline.is_some() && !args.policy.iter().any(|policy| *policy != Contender::Ideal) {
        bail!("`--timeline` has nothing to write: `ideal` runs kernels, not legs");
    }
    if args.devices == 0 {
        bail!("`--devices` is 0, expected at least 1");
    }
    let seed = args.seed.or(workload.seed());
    // The one place where a seed is drawn; every report prints it.
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
    let profile = cut(profile.resized(slices), args, &workload)?;
    let deadlines = match args.deadlines {
        Some(Deadlines::Enforce) => DeadlineMode::Enforce,
        Some(Deadlines::Observe) => DeadlineMode::Observe,
        None if workload.is_saturated() => DeadlineMode::Observe,
        None => DeadlineMode::Enforce,
    };
    let device = sim_device(&profile.device.kind, Share(slices));
    for contender in &args.policy {
        if let Contender::Policy { spec, label } = contender {
            spec.check(&device)
                .with_context(|| format!("policy `{label}` cannot run on this device"))?;
        }
    }
    let scenario = Scenario::new(&profile, workload, device, options(args, &profile))?;
    say_capped(&profile, &scenario)?;
    Ok(Plan {
        scenario: scenario.with_batching(&DynamicBatching {
            instances: args.instances,
            max_queue_delay: args.max_queue_delay.nanos(),
            ..DynamicBatching::default()
        }),
        profile,
        workload: args.workload.display().to_string(),
        scale: args.scale.unwrap_or(1.0),
        instances: args.instances,
        devices: args.devices,
        policies: args.policy.clone(),
        deadlines,
        seed,
    })
}

/// Refuses flags that would change nothing, and policies given twice.
fn refuse_unused(args: &Args) -> anyhow::Result<()> {
    let searches = args.find_capacity || args.find_devices.is_some();
    if args.seeds.is_some() && !searches {
        bail!("`--seeds` needs `--find-capacity` or `--find-devices`");
    }
    if args.attainment.is_some() && !searches && args.plots.is_none() {
        bail!("`--attainment` needs `--find-capacity`, `--find-devices` or `--plots`");
    }
    let mut policies = args.policy.iter().enumerate();
    let twice = policies.find(|(index, policy)| args.policy[..*index].contains(policy));
    if let Some((_, policy)) = twice {
        bail!("policy `{}` is there twice", policy.name());
    }
    Ok(())
}

/// Says to people which models run in smaller batches than they could, for want of times.
fn say_capped(profile: &Profile, scenario: &Scenario) -> anyhow::Result<()> {
    let loads = scenario.workload().models().iter();
    for (load, most) in loads.zip(scenario.max_batches()) {
        let model = profile.models.iter().find(|model| model.name == load.name);
        let whole = model.map_or(most.0, |model| model.max_batch);
        let asked = load
            .max_batch_size
            .map_or(whole, |asked| asked.0.min(whole));
        if most.0 < asked {
            writeln!(
                std::io::stderr(),
                "note: `{}` runs in batches of at most {}: the profile has no times of larger ones",
                load.name,
                most.0
            )?;
        }
    }
    Ok(())
}

/// The seed that assumed legs are drawn from: models are cut alike whatever arrives.
const CUT_SEED: u64 = 1;

/// The shortest leg that models are cut into: what a plan joins stages up to, by default.
const LEG_MIN: Nanos = Nanos::from_micros(500);

/// What models are cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legs {
    /// Nothing: they run whole.
    None,
    /// Legs of at most so long, where the profile has none.
    Longest(Nanos),
}

fn parse_legs(text: &str) -> Result<Legs, String> {
    if text == "none" {
        return Ok(Legs::None);
    }
    let longest: Span = text
        .parse()
        .map_err(|error| format!("{error}, or `none`"))?;
    Ok(Legs::Longest(longest.nanos()))
}

/// The profile with models cut as asked; says to people how many legs were made up.
fn cut(profile: Profile, args: &Args, workload: &Workload) -> anyhow::Result<Profile> {
    let leg_max = match args.legs {
        None => return Ok(profile),
        Some(Legs::None) => {
            let models = profile.models.iter().map(ModelProfile::whole).collect();
            return Ok(Profile { models, ..profile });
        }
        Some(Legs::Longest(leg_max)) => leg_max,
    };
    if leg_max < LEG_MIN {
        bail!("`--legs` is {leg_max}, expected at least {LEG_MIN}");
    }
    let seed = CUT_SEED;
    let load = |name: &str| workload.models().iter().find(|load| load.name == name);
    let most = |name: &str| load(name).and_then(|load| load.max_batch_size);
    let divided = profile.divided_within(Division { leg_max, seed }, most);
    let assumed = divided
        .models
        .iter()
        .filter(|model| load(&model.name).is_some() && model.legs.iter().any(|leg| leg.assumed));
    let assumed: Vec<String> = assumed
        .map(|model| format!("{} {}", model.name, model.legs.len()))
        .collect();
    if !assumed.is_empty() {
        writeln!(
            std::io::stderr(),
            "note: legs are an assumption, not a plan: {}",
            assumed.join(", ")
        )?;
    }
    Ok(divided)
}

fn options(args: &Args, profile: &Profile) -> SimOptions {
    let measured = profile.launch_s.map(Nanos::from_secs_f64);
    SimOptions {
        overheads: Overheads {
            launch: args.launch.map(Span::nanos).or(measured).unwrap_or(LAUNCH),
            boundary: args.boundary.nanos(),
            slicing: TimeSlicing {
                quantum: args.quantum.nanos(),
                switch: args.switch.nanos(),
                ..TimeSlicing::FREE
            },
        },
        noise: !args.no_noise,
        // As in the server: an instance is a task in flight.
        slots: args.slots.max(args.instances),
        timeline: if args.timeline.is_some() || args.plots.is_some() {
            files::LEGS_MAX
        } else {
            0
        },
    }
}

/// The built-in mix that a workload names, unless it is a path.
fn mix(workload: &Path) -> Option<&'static Mix> {
    workload.to_str().and_then(Mix::named)
}

fn workload(args: &Args, mix: Option<&Mix>) -> anyhow::Result<Workload> {
    let workload = match mix {
        Some(mix) => mix.rated()?,
        None => read_workload(&args.workload).map_err(|error| {
            let missing = matches!(&error, ReadError::Io { path, source }
                if *path == args.workload && source.kind() == ErrorKind::NotFound);
            let known: Vec<&str> = MIXES.iter().map(|mix| mix.name).collect();
            let (name, known) = (args.workload.display(), known.join(", "));
            match missing {
                true => anyhow!(error)
                    .context(format!("`{name}` is no built-in mix ({known}) and no file")),
                false => anyhow!(error),
            }
        })?,
    };
    let workload = match args.scale {
        Some(factor) => workload
            .scaled(factor)
            .context("`--scale` cannot be applied")?,
        None => workload,
    };
    let workload = match args.max_batch_size {
        Some(most) => workload
            .in_batches_of(BatchSize(most))
            .context("`--max-batch-size` cannot be applied")?,
        None => workload,
    };
    let span = |span: Option<Span>| span.map(Span::nanos);
    let workload = simulation::lasting(workload, span(args.duration), span(args.warmup))?;
    if args.saturated {
        return Ok(saturate(&workload)?);
    }
    if (args.find_capacity || args.find_devices.is_some()) && workload.is_saturated() {
        bail!("the workload has saturated arrivals, which have no multiple to hold");
    }
    Ok(workload)
}

fn saturate(workload: &Workload) -> Result<Workload, fugato_core::workload::WorkloadError> {
    let models = workload.models().iter();
    let models = models.map(|load| ModelLoad {
        arrivals: ArrivalProcess::Saturated,
        ..load.clone()
    });
    let (duration, warmup): (Nanos, Nanos) = (workload.duration(), workload.warmup());
    Workload::new(duration, warmup, workload.seed(), models.collect())
}

fn read_profile(path: &Path) -> anyhow::Result<Profile> {
    if let Some(profile) = path.to_str().and_then(built_in) {
        return Ok(profile);
    }
    let name = path.display();
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read `{name}`; the built-in profiles are {}",
            BUILT_IN.join(", ")
        )
    })?;
    let profile: Profile =
        serde_json::from_str(&text).with_context(|| format!("`{name}` is no profile"))?;
    let checked = profile.check();
    checked.with_context(|| format!("profile `{name}` cannot be used"))?;
    Ok(profile)
}
