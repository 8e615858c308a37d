//! Runs simulations: every policy on the same requests, devices side by side on threads.
//!
//! The simulation itself is [`fugato_core::sim`], which starts no threads.

mod missed;

pub use missed::{Missed, Worst, notes, overload_note};

use crate::policies::{self, SettingError};
use fugato_core::Nanos;
use fugato_core::capacity::{Capacity, Fewest, Largest, LargestSettings, Spread, holds};
use fugato_core::profile::Profile;
use fugato_core::sched::{DeadlineMode, PolicySpec, SchedulerConfig};
use fugato_core::sim::{
    Fleet, IdealError, IdealOptions, ModelSetup, PolicyReport, Report, SCHEMA, Scenario, Setup,
    Simulated, Tally, ideal_offered,
};
use fugato_core::workload::{ArrivalProcess, Workload, WorkloadError};
use serde::Serialize;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The schema of [`CapacityReport`].
pub const CAPACITY_SCHEMA: &str = "fugato.capacity/1";

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The profile, of the simulated number of slices.
    pub profile: Profile,
    /// The workload on one device.
    pub scenario: Scenario,
    /// The workload's name, for people.
    pub workload: String,
    /// The factor that the workload's rates were multiplied by.
    pub scale: f64,
    /// Instances of a model under `uncontrolled`.
    pub instances: u16,
    /// Devices.
    pub devices: u32,
    /// The policies, in the order of the report.
    pub policies: Vec<Contender>,
    /// What deadlines do.
    pub deadlines: DeadlineMode,
    /// The seed of arrivals and noise.
    pub seed: u64,
}

/// What decides.
#[derive(Clone, Debug, PartialEq)]
pub enum Contender {
    /// A policy, run by the scheduler.
    Policy {
        /// With its settings.
        spec: PolicySpec,
        /// As it was asked for: its name, and the settings that were named.
        label: String,
    },
    /// The ideal scheduler at kernel grain, on one device.
    Ideal,
}

impl Contender {
    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Policy { label, .. } => label,
            Self::Ideal => "ideal",
        }
    }

    /// The contender of a name, with settings as [`policies::parse`] reads them.
    ///
    /// # Errors
    /// [`ContenderError`], naming what is wrong.
    pub fn parse(text: &str) -> Result<Self, ContenderError> {
        if text == "ideal" {
            return Ok(Self::Ideal);
        }
        let spec = match policies::parse(text) {
            Ok(spec) => spec,
            Err(SettingError::UnknownPolicy { found }) => {
                return Err(ContenderError::Unknown { found });
            }
            Err(error) => return Err(ContenderError::Setting(error)),
        };
        let label = text.to_owned();
        Ok(Self::Policy { spec, label })
    }
}

/// Why nothing decides so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ContenderError {
    /// Nothing has the name.
    #[error("policy is `{found}`, expected one of {}, ideal", PolicySpec::NAMES.join(", "))]
    Unknown {
        /// What was given.
        found: String,
    },
    /// The policy cannot be set so.
    #[error(transparent)]
    Setting(SettingError),
}

/// Why a plan cannot be simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A part of the workload is not valid.
    #[error("the workload cannot be divided over the devices")]
    Workload(#[from] WorkloadError),
    /// The ideal scheduler lacks something.
    #[error("policy `ideal` cannot be simulated")]
    Ideal(#[from] IdealError),
    /// Zero devices.
    #[error("a simulation on 0 devices, expected at least 1")]
    NoDevice,
    /// `ideal` on several devices.
    #[error("policy `ideal` has one device, and {found} were asked for; hint: leave it out")]
    IdealDevices {
        /// How many.
        found: u32,
    },
}

/// What a plan gave.
#[derive(Debug)]
pub struct Ran {
    /// The report of all policies.
    pub report: Report,
    /// The runs of each policy, a world each; none of `ideal`.
    pub runs: Vec<Vec<Simulated>>,
}

/// Runs every policy of a plan.
///
/// # Errors
/// [`PlanError`].
pub fn simulate(plan: &Plan) -> Result<Ran, PlanError> {
    let fleet = fleet(plan, plan.scenario.workload(), plan.devices)?;
    let ideal = ideal_if_asked(plan)?;
    let worlds = fleet.worlds();
    let specs: Vec<&PolicySpec> = plan.policies.iter().filter_map(spec).collect();
    let mut runs = in_parallel(specs.len() * worlds, |job| {
        fleet.run(job % worlds, config(plan, specs[job / worlds]), plan.seed)
    });
    let mut policies = Vec::new();
    let mut by_policy = Vec::new();
    for contender in &plan.policies {
        if *contender == Contender::Ideal {
            policies.extend(ideal.clone());
            by_policy.push(Vec::new());
            continue;
        }
        let own: Vec<Simulated> = runs.drain(..worlds).collect();
        let total = fleet.total(own.iter().map(|run| &run.tally));
        policies.push(PolicyReport::new(
            contender.name(),
            plan.scenario.workload(),
            &total,
        ));
        by_policy.push(own);
    }
    Ok(Ran {
        report: Report {
            schema: SCHEMA.to_owned(),
            seed: plan.seed,
            profile: format!("{}: {}", plan.profile.device.kind, plan.profile.device.name),
            synthetic: plan.profile.synthetic,
            devices: plan.devices,
            slices: plan.scenario.device().slices.0,
            duration_s: plan.scenario.workload().duration().as_secs_f64(),
            setup: setup(plan),
            notes: notes(plan).into_iter().chain(overload_note(plan)).collect(),
            policies,
        },
        runs: by_policy,
    })
}

fn setup(plan: &Plan) -> Setup {
    let (workload, options) = (plan.scenario.workload(), plan.scenario.options());
    let micros = |time: Nanos| time.as_nanos() as f64 / 1e3;
    let loads = workload.models().iter().zip(plan.scenario.max_batches());
    let loads = loads.map(|(load, max_batch)| ModelSetup {
        name: load.name.clone(),
        slo_ms: load.slo.as_millis_f64(),
        rate: (load.arrivals != ArrivalProcess::Saturated)
            .then(|| load.arrivals.mean_rate(workload.end())),
        items: load.batch.0,
        max_batch: max_batch.0,
    });
    Setup {
        workload: plan.workload.clone(),
        scale: plan.scale,
        warmup_s: workload.warmup().as_secs_f64(),
        deadlines: plan.deadlines,
        slots: options.slots,
        instances: plan.instances,
        launch_us: micros(options.overheads.launch),
        boundary_us: micros(options.overheads.boundary),
        noise: options.noise,
        loads: loads.collect(),
    }
}

fn spec(contender: &Contender) -> Option<&PolicySpec> {
    match contender {
        Contender::Policy { spec, .. } => Some(spec),
        Contender::Ideal => None,
    }
}

fn config(plan: &Plan, policy: &PolicySpec) -> SchedulerConfig {
    SchedulerConfig {
        policy: policy.clone(),
        deadlines: plan.deadlines,
        ..SchedulerConfig::default()
    }
}

fn fleet(plan: &Plan, workload: &Workload, devices: u32) -> Result<Fleet, PlanError> {
    if devices == 0 {
        return Err(PlanError::NoDevice);
    }
    if devices > 1 && plan.policies.contains(&Contender::Ideal) {
        return Err(PlanError::IdealDevices { found: devices });
    }
    let scenario = plan.scenario.clone().with_workload(workload.clone());
    Ok(Fleet::new(&scenario, devices)?)
}

/// What `ideal` gives where it is asked for. It comes first: what it cannot simulate must not
/// cost the runs of the others.
fn ideal_if_asked(plan: &Plan) -> Result<Option<PolicyReport>, PlanError> {
    let asked = plan.policies.contains(&Contender::Ideal);
    asked
        .then(|| ideal(plan, plan.scenario.workload()))
        .transpose()
}

fn ideal(plan: &Plan, workload: &Workload) -> Result<PolicyReport, PlanError> {
    let options = IdealOptions {
        in_flight: plan.scenario.options().slots,
        ..IdealOptions::new(plan.scenario.device().slices)
    };
    let report = ideal_offered(&plan.profile, workload, options, plan.seed)?;
    Ok(PolicyReport::from(&report))
}

/// The largest multiples of a workload that policies hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CapacityReport {
    /// Always [`CAPACITY_SCHEMA`].
    pub schema: &'static str,
    /// The first seed; the others follow it.
    pub seed: u64,
    /// Seeds.
    pub seeds: u32,
    /// The attainment that counts as held, over all requests; of each model, the smaller of it
    /// and 0.95.
    pub attainment: f64,
    /// Simulated devices.
    pub devices: u32,
    /// What is to be known of the workload.
    pub notes: Vec<String>,
    /// What each policy holds.
    pub policies: Vec<HeldLoad>,
}

/// What one policy holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldLoad {
    /// The policy.
    pub policy: String,
    /// The largest multiple held, over the seeds; absent where some seed's smallest was not.
    pub multiple: Option<Spread>,
    /// Requests per second at the mean multiple.
    pub rate: Option<f64>,
    /// Seed by seed: the largest multiple held, and the smallest that was not.
    pub seeds: Vec<Capacity>,
    /// The smallest multiple tried, of the seed that missed it by most; absent where every seed
    /// holds some.
    pub missed: Option<Missed>,
}

/// Searches the largest multiple of the workload that each policy holds, for `seeds` seeds from
/// the plan's on.
///
/// # Errors
/// [`PlanError`]; a workload without rates among them.
pub fn find_capacity(
    plan: &Plan,
    wanted: f64,
    seeds: NonZeroU32,
) -> Result<CapacityReport, PlanError> {
    // What cannot be is said before the work.
    fleet(plan, plan.scenario.workload(), plan.devices)?;
    ideal_if_asked(plan)?;
    let seeds = seeds.get();
    let count = plan.policies.len() * seeds as usize;
    let found = in_parallel(count, |job| {
        let contender = &plan.policies[job / seeds as usize];
        let seed = plan.seed.wrapping_add((job % seeds as usize) as u64);
        largest(plan, contender, wanted, seed)
    });
    let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
    let rate = total_rate(plan);
    let policies = plan.policies.iter().zip(found.chunks(seeds as usize));
    Ok(CapacityReport {
        schema: CAPACITY_SCHEMA,
        seed: plan.seed,
        seeds,
        attainment: wanted,
        devices: plan.devices,
        notes: notes(plan).into_iter().chain(overload_note(plan)).collect(),
        policies: policies
            .map(|(contender, seeds)| {
                let missed = Missed::least(seeds.iter().filter_map(|(_, missed)| missed.as_ref()));
                let seeds: Vec<Capacity> = seeds.iter().map(|&(found, _)| found).collect();
                let held: Option<Vec<f64>> = seeds.iter().map(|seed| seed.holds).collect();
                let multiple = held.and_then(|held| Spread::of(&held));
                HeldLoad {
                    policy: contender.name().to_owned(),
                    rate: multiple.map(|multiple| multiple.mean * rate),
                    multiple,
                    seeds,
                    missed,
                }
            })
            .collect(),
    })
}

/// The largest multiple with one seed; where none is held, the smallest that was tried.
fn largest(
    plan: &Plan,
    contender: &Contender,
    wanted: f64,
    seed: u64,
) -> Result<(Capacity, Option<Missed>), PlanError> {
    let settings = LargestSettings::default();
    let Ok(mut search) = Largest::new(settings) else {
        panic!("the default settings of a search are not valid: {settings:?}");
    };
    let mut missed = None;
    while let Some(factor) = search.next_probe() {
        let workload = plan.scenario.workload().scaled(factor)?;
        let report = alone(plan, contender, &workload, plan.devices, seed)?;
        search.record(is_held(&report, wanted));
        // While none holds, each probe is smaller than the one before.
        missed = Some(Missed::new(&report, seed, factor, plan.devices));
    }
    let found = search.found();
    Ok((found, missed.filter(|_| found.holds.is_none())))
}

/// The fewest devices that hold a workload under one policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DevicesNeeded {
    /// The policy.
    pub policy: String,
    /// The fewest devices that hold the workload with every seed; `None` where some seed
    /// needs more than were tried.
    pub devices: Option<u32>,
    /// The fewest devices by seed.
    pub seeds: Vec<Option<u32>>,
    /// The most devices tried, of the seed that missed by most on them; absent where every seed
    /// has enough.
    pub missed: Option<Missed>,
}

/// The fewest devices on which each policy holds the workload, up to `most`, for `seeds` seeds
/// from the plan's on.
///
/// # Errors
/// [`PlanError`].
pub fn find_devices(
    plan: &Plan,
    wanted: f64,
    most: u32,
    seeds: NonZeroU32,
) -> Result<Vec<DevicesNeeded>, PlanError> {
    fleet(plan, plan.scenario.workload(), most)?;
    ideal_if_asked(plan)?;
    let seeds = seeds.get() as usize;
    let found = in_parallel(plan.policies.len() * seeds, |job| {
        let contender = &plan.policies[job / seeds];
        let seed = plan.seed.wrapping_add((job % seeds) as u64);
        let mut search = Fewest::new(most);
        let mut missed = None;
        while let Some(devices) = search.next_probe() {
            let workload = plan.scenario.workload();
            let report = alone(plan, contender, workload, devices, seed)?;
            search.record(is_held(&report, wanted));
            // While none holds, each probe has more devices than the one before.
            missed = Some(Missed::new(&report, seed, 1.0, devices));
        }
        let found = search.found();
        Ok((found, missed.filter(|_| found.is_none())))
    });
    let found = found.into_iter().collect::<Result<Vec<_>, PlanError>>()?;
    let policies = plan.policies.iter().zip(found.chunks(seeds));
    let needed = policies.map(|(contender, seeds)| {
        let found = seeds.iter().map(|&(found, _)| found);
        DevicesNeeded {
            policy: contender.name().to_owned(),
            devices: found
                .clone()
                .try_fold(0, |most, seed| Some(seed?.max(most))),
            seeds: found.collect(),
            missed: Missed::least(seeds.iter().filter_map(|(_, missed)| missed.as_ref())),
        }
    });
    Ok(needed.collect())
}

fn is_held(report: &PolicyReport, wanted: f64) -> bool {
    let models = report.models.iter().map(|model| model.attainment);
    holds(wanted, report.attainment, models)
}

/// One policy under one load, on this thread.
fn alone(
    plan: &Plan,
    contender: &Contender,
    workload: &Workload,
    devices: u32,
    seed: u64,
) -> Result<PolicyReport, PlanError> {
    let fleet = fleet(plan, workload, devices)?;
    let Contender::Policy { spec, label } = contender else {
        let plan = Plan {
            seed,
            ..plan.clone()
        };
        return ideal(&plan, workload);
    };
    let runs: Vec<Tally> = (0..fleet.worlds())
        .map(|world| fleet.run(world, config(plan, spec), seed).tally)
        .collect();
    Ok(PolicyReport::new(label, workload, &fleet.total(&runs)))
}

/// What policies do with multiples of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep {
    /// The multiples, rising.
    pub multiples: Vec<f64>,
    /// Requests per second at a multiple of one.
    pub rate: f64,
    /// `reports[policy][multiple][seed]`, in the order of the plan.
    pub reports: Vec<Vec<Vec<PolicyReport>>>,
}

/// Runs every policy at each multiple of the workload, for `seeds` seeds from the plan's on.
///
/// # Errors
/// [`PlanError`]; a workload without rates among them.
pub fn sweep(plan: &Plan, multiples: &[f64], seeds: NonZeroU32) -> Result<Sweep, PlanError> {
    let seeds = seeds.get() as usize;
    let each = multiples.len() * seeds;
    let reports = in_parallel(plan.policies.len() * each, |job| {
        let (contender, rest) = (&plan.policies[job / each], job % each);
        let workload = plan.scenario.workload().scaled(multiples[rest / seeds])?;
        let seed = plan.seed.wrapping_add((rest % seeds) as u64);
        alone(plan, contender, &workload, plan.devices, seed)
    });
    let reports = reports.into_iter().collect::<Result<Vec<_>, _>>()?;
    let of_policies = reports.chunks(each.max(1));
    Ok(Sweep {
        multiples: multiples.to_vec(),
        rate: total_rate(plan),
        reports: of_policies
            .map(|policy| policy.chunks(seeds).map(<[_]>::to_vec).collect())
            .collect(),
    })
}

/// Requests per second of all models, on average.
fn total_rate(plan: &Plan) -> f64 {
    let workload = plan.scenario.workload();
    let rates = workload.models().iter();
    rates
        .map(|load| load.arrivals.mean_rate(workload.end()))
        .sum()
}

/// What the workload asks for against what there is, both in devices' slices at the models'
/// knees; `None` where it fits, or is saturated and would take whatever there is.
#[must_use]
pub fn overload(plan: &Plan) -> Option<(f64, f64)> {
    let (asked, have) = (plan.scenario.demand(), f64::from(plan.devices));
    let open = !plan.scenario.workload().is_saturated();
    (open && asked > have).then_some((asked, have))
}

/// Does the jobs 0 to `count` on as many threads as the machine has cores; results in order.
fn in_parallel<T: Send>(count: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..cores.min(count) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let result = job(index);
                    let mut done = done.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    done.push((index, result));
                }
            });
        }
    });
    let mut done = done
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_by_key(|&(index, _)| index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A workload for another time.
///
/// # Errors
/// As [`Workload::lasting`].
pub fn lasting(
    workload: Workload,
    duration: Option<Nanos>,
    warmup: Option<Nanos>,
) -> Result<Workload, WorkloadError> {
    let duration = duration.unwrap_or(workload.duration());
    let warmup = warmup.unwrap_or(workload.warmup());
    workload.lasting(duration, warmup)
}
