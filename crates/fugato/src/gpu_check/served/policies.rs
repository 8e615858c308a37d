//! Which load the policies hold on the papers' mixes, and what the simulator says of it on the
//! profile that was measured before.

mod told;

use super::load::{self, Narrowed, Probe, Served};
use super::stage::{Host, OnStage, Place, Stage, items, named};
use crate::gpu_check::report::{Answer, Budget};
use crate::simulation::{self, Contender};
use anyhow::Context;
use fugato_core::capacity::{Capacity, Largest, LargestSettings};
use fugato_core::device::DeviceSpec;
use fugato_core::profile::{ModelProfile, PointKey, Profile};
use fugato_core::sched::{DeadlineMode, DynamicBatching, ModelSpec, PolicySpec, QueueLimits};
use fugato_core::sim::{Overheads, Scenario, SimOptions};
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{BatchSize, DeviceId, LaneId, Nanos, SlotIndex};
use fugato_device::{Device, LoadOptions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;
use told::answer;

/// The part of the requests that has to be answered in time.
const WANTED: f64 = 0.99;

/// A model's objective in its latency alone on the device, at its knee.
const OBJECTIVE: f64 = 3.0;

/// Sets of buffers of a model, as a server gives.
const SLOTS: u16 = 2;

/// Runs of a batch in a place until it is captured: two eager ones, and the one that is.
const WARM_UPS: usize = 3;

/// The part of the time that is left that bringing a mix up may take: what is not measured then
/// says nothing of the policies.
const READYING: f64 = 0.5;

/// The time that is simulated: longer than what is measured, since it costs next to nothing.
const SIMULATED: Nanos = Nanos::from_millis(5_000);

/// Different requests that a model gets in turn.
const ITEMS: u32 = 4;

/// The policy that the others are held against.
pub(super) const BASELINE: &str = "uncontrolled";

/// The one that has to hold as much as it.
pub(super) const OURS: &str = "fugato";

/// A mix by the names of the zoo.
#[derive(Clone, Debug)]
pub(super) struct MixPlan {
    pub(super) name: String,
    pub(super) models: Vec<String>,
}

/// What is tried.
pub(super) struct Plan {
    /// Of the device and its models.
    pub(super) profile: Profile,
    /// In the order they are tried.
    pub(super) mixes: Vec<MixPlan>,
    /// In the order they are tried.
    pub(super) policies: Vec<String>,
    /// How a load is searched, in what would fill the device.
    pub(super) search: LargestSettings,
    /// Of one run, after a warm-up of a quarter of it.
    pub(super) duration: Nanos,
}

/// The names that the zoo has for the models of the built-in mixes; a mix with any other has
/// none that stands for it.
pub(super) fn in_zoo(name: &str) -> Option<&'static str> {
    Some(match name {
        "mobilenet" => "mobilenet_v2",
        "alexnet" => "alexnet",
        "bert" => "bert-base",
        "resnet18" => "resnet18",
        "resnet50" => "resnet50",
        "inception" => "inception_v3",
        "vgg19" => "vgg19",
        "resnext50" => "resnext50_32x4d",
        _ => return None,
    })
}

/// The built-in mixes of these names, as far as models of the zoo stand for theirs.
pub(super) fn mixes(names: &[&str]) -> Vec<MixPlan> {
    let found = names.iter().filter_map(|&name| {
        let mix = fugato_core::mix::Mix::named(name)?;
        let models = mix.models.iter().map(|model| in_zoo(model));
        Some(MixPlan {
            name: mix.name.to_owned(),
            models: models
                .map(|name| name.map(str::to_owned))
                .collect::<Option<_>>()?,
        })
    });
    found.collect()
}

/// What a policy held of one mix.
struct Held {
    policy: String,
    measured: Capacity,
    probes: Vec<Value>,
    /// Whether the search came to its end.
    is_settled: bool,
    error: Option<String>,
}

/// What came of a mix.
struct MixFound {
    name: String,
    workload: Value,
    /// Requests per second at a load of one.
    rate: f64,
    held: Vec<Held>,
    simulated: BTreeMap<String, Option<f64>>,
    simulation_error: Option<String>,
}

/// A mix that was not tried.
struct LeftOut {
    why: String,
    /// Not for want of time: it cannot be tried.
    is_fault: bool,
}

/// A model of the mix that the profile lacks, as where its part of the check ran out of time.
fn unmeasured<'m>(mix: &'m MixPlan, profile: &Profile) -> Option<&'m str> {
    let known = |name: &str| profile.models.iter().any(|model| model.name == name);
    let mut models = mix.models.iter();
    models.find(|name| !known(name)).map(String::as_str)
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let shares: Vec<u16> = plan
        .profile
        .models
        .iter()
        .flat_map(|model| model.grid.iter().map(|point| point.share))
        .collect();
    let device = Arc::new(Narrowed::new(&stage.device, &shares));
    let mut loaded: BTreeMap<String, OnStage> = BTreeMap::new();
    let mut found: Vec<MixFound> = Vec::new();
    let mut left_out = Vec::new();
    for mix in &plan.mixes {
        if budget.is_spent() {
            break;
        }
        if let Some(name) = unmeasured(mix, &plan.profile) {
            left_out.push(LeftOut {
                why: format!("{}: `{name}` is not in the profile", mix.name),
                is_fault: false,
            });
            continue;
        }
        let until = Instant::now() + budget.left().mul_f64(READYING);
        let ready = ready(stage, &device, (mix, &plan.profile), &mut loaded, until);
        stage.listen();
        let served = match ready {
            Ok(Some(served)) => served,
            Ok(None) => {
                left_out.push(unready(mix));
                continue;
            }
            Err(error) => {
                left_out.push(LeftOut {
                    why: format!("{}: {error:#}", mix.name),
                    is_fault: true,
                });
                continue;
            }
        };
        let workload = workload(&served, &plan.profile, plan.duration)?;
        found.push(MixFound {
            name: mix.name.clone(),
            workload: workload.models().iter().map(describe).collect(),
            rate: rate(&workload),
            held: Vec::new(),
            simulated: BTreeMap::new(),
            simulation_error: None,
        });
        for policy in &plan.policies {
            if budget.is_spent() {
                break;
            }
            let held = hold(stage, &device, plan, (policy, &workload, &served), budget);
            if let Some(mix) = found.last_mut() {
                mix.held.push(held);
            }
            budget.keep(answer(&found, &left_out, plan, device.spec()))?;
        }
        if let Some(mix) = found.last_mut() {
            match simulate(plan, device.spec(), &workload) {
                Ok(simulated) => mix.simulated = simulated,
                Err(error) => mix.simulation_error = Some(format!("{error:#}")),
            }
        }
        budget.keep(answer(&found, &left_out, plan, device.spec()))?;
    }
    stage.listen();
    Ok(answer(&found, &left_out, plan, device.spec()))
}

/// A mix that was not ready in time.
fn unready(mix: &MixPlan) -> LeftOut {
    let part = READYING * 100.0;
    LeftOut {
        why: format!(
            "{}: its models were not ready after {part:.0} % of the time that was left; `--time` \
             gives it more",
            mix.name
        ),
        is_fault: false,
    }
}

/// The models of a mix, loaded and run in every place that a policy may choose; `None` where
/// the time did not suffice.
fn ready<D: Host>(
    stage: &mut Stage<D>,
    device: &Arc<Narrowed<D>>,
    (mix, profile): (&MixPlan, &Profile),
    loaded: &mut BTreeMap<String, OnStage>,
    until: Instant,
) -> anyhow::Result<Option<Vec<Served>>> {
    stage.listen();
    let mut served = Vec::new();
    for name in &mix.models {
        let known = profile.models.iter().find(|model| model.name == *name);
        let known = known.with_context(|| format!("`{name}` is not in the profile"))?;
        let max_batch = known.grid.iter().map(|point| point.batch).max();
        let max_batch = max_batch.unwrap_or(1).min(known.max_batch).max(1);
        let zoo = named(name)?;
        let items = items(zoo, ITEMS)?;
        if !loaded.contains_key(name) {
            if Instant::now() >= until {
                return Ok(None);
            }
            let options = LoadOptions {
                max_batch,
                slots: SLOTS,
                ..LoadOptions::default()
            };
            let model = stage.load(zoo, &options)?;
            let hash = &model.stored.info().hash;
            anyhow::ensure!(
                *hash == known.hash,
                "the profile is of another `{name}`: {}, expected {hash}",
                known.hash
            );
            loaded.insert(name.clone(), model);
        }
        let model = &loaded[name];
        let batches: Vec<u32> = known.grid.iter().map(|point| point.batch).collect();
        if !warm(stage, device, (model, &batches, mix.models.len()), until)? {
            return Ok(None);
        }
        let mut own = known.clone();
        own.slo_s = Some(objective(known)?.as_secs_f64());
        served.push(Served {
            spec: ModelSpec {
                id: model.id,
                name: name.clone(),
                slo: Some(objective(known)?),
                weight: 1.0,
                max_batch: BatchSize(max_batch),
                slots: SLOTS,
                legs: 1,
                devices: vec![DeviceId(0)],
                limits: QueueLimits {
                    requests: 16_384,
                    bytes: 2 << 30,
                },
                batching: DynamicBatching::default(),
            },
            profile: own,
            items,
        });
    }
    Ok(Some(served))
}

/// Runs a model in each partition, and in as many lanes of the whole as there are models, with
/// each of the batches: what only a first run does is done by then. `false` where the time did
/// not suffice.
fn warm<D: Host>(
    stage: &mut Stage<D>,
    device: &Arc<Narrowed<D>>,
    (model, batches, lanes): (&OnStage, &[u32], usize),
    until: Instant,
) -> anyhow::Result<bool> {
    let whole = &device.spec().partitions[0];
    let lanes = (1..lanes.min(whole.lanes.len())).filter_map(|lane| u16::try_from(lane).ok());
    let others = lanes.map(|lane| (device.own()[0], LaneId(lane)));
    let partitions = device.own().iter();
    let places: Vec<_> = partitions
        .map(|&partition| (partition, LaneId(0)))
        .chain(others)
        .collect();
    let mut batches = batches.to_vec();
    batches.sort_unstable();
    batches.dedup();
    let all = items(model.zoo, batches.last().copied().unwrap_or(1))?;
    for (partition, lane) in places {
        for &batch in &batches {
            if Instant::now() >= until {
                return Ok(false);
            }
            for slot in (0..SLOTS).map(SlotIndex) {
                let place = Place {
                    partition,
                    lane,
                    slot,
                };
                for _ in 0..WARM_UPS {
                    stage.run(model, place, &all[..batch as usize])?;
                }
            }
        }
    }
    Ok(true)
}

/// A model's objective: a multiple of what it takes alone at its knee.
fn objective(model: &ModelProfile) -> anyhow::Result<Nanos> {
    let at = model.knee_batch.zip(model.knee.tolerance);
    let times = at.and_then(|(batch, share)| {
        let alone = PointKey {
            batch,
            share,
            neighbours: 0,
        };
        model.point(alone)?.times()
    });
    let times = times.with_context(|| format!("the profile has no knee of `{}`", model.name))?;
    Ok(Nanos::from_secs_f64(OBJECTIVE * times.median_s))
}

/// At a load of one each model gets the same part of the device and would fill it if it ran at
/// its best point: the least device time per request that its profile knows.
fn workload(served: &[Served], profile: &Profile, duration: Nanos) -> anyhow::Result<Workload> {
    let slices = f64::from(profile.device.slices);
    let loads = served.iter().map(|model| {
        let name = &model.spec.name;
        let known = profile.models.iter().find(|known| known.name == *name);
        let best = known.and_then(|known| known.optima.work.point());
        let best = best.with_context(|| format!("the profile has no best point of `{name}`"))?;
        let each = best.latency_s * f64::from(best.granted) / f64::from(best.batch);
        let rate = slices / each / served.len() as f64;
        let slo = model.spec.slo.context("every model has an objective")?;
        Ok(ModelLoad {
            max_batch_size: Some(model.spec.max_batch),
            ..ModelLoad::new(name, slo, ArrivalProcess::Poisson { rate })
        })
    });
    let loads = loads.collect::<anyhow::Result<_>>()?;
    let warmup = Nanos::new(duration.as_nanos() / 4);
    Ok(Workload::new(duration, warmup, None, loads)?)
}

fn rate(workload: &Workload) -> f64 {
    let models = workload.models().iter();
    models
        .map(|load| load.arrivals.mean_rate(workload.end()))
        .sum()
}

fn describe(load: &ModelLoad) -> Value {
    json!({
        "model": load.name,
        "slo_ms": load.slo.as_millis_f64(),
        "rate_at_load_one": load.arrivals.mean_rate(Nanos::from_millis(1_000)),
        "max_batch": load.max_batch_size.map(|batch| batch.0),
    })
}

/// A policy by its name, with as many lanes as models where it takes lanes.
fn policy(name: &str, models: usize) -> anyhow::Result<PolicySpec> {
    let spec = PolicySpec::named(name).with_context(|| format!("there is no policy `{name}`"))?;
    let lanes = u16::try_from(models).unwrap_or(u16::MAX);
    Ok(if let PolicySpec::Uncontrolled { share, .. } = spec {
        PolicySpec::Uncontrolled { lanes, share }
    } else {
        spec
    })
}

/// Searches the largest load that a policy holds.
fn hold<D: Host>(
    stage: &Stage<D>,
    device: &Arc<Narrowed<D>>,
    plan: &Plan,
    (name, workload, served): (&str, &Workload, &[Served]),
    budget: &Budget<'_>,
) -> Held {
    let mut held = Held {
        policy: name.to_owned(),
        measured: Capacity::default(),
        probes: Vec::new(),
        is_settled: false,
        error: None,
    };
    let mut search = || -> anyhow::Result<()> {
        let policy = policy(name, served.len())?;
        policy.check(device.spec())?;
        let probe = |load: f64| {
            let workload = workload.scaled(load)?;
            let probe = Probe {
                policy: &policy,
                workload: &workload,
                models: served,
                seed: 1,
            };
            load::run(stage, device, &probe)
        };
        let mut search = Largest::new(plan.search)?;
        // Lanes that this policy uses and no other run for the first time here.
        probe(plan.search.start)?;
        while let Some(load) = search.next_probe() {
            if budget.is_spent() {
                held.measured = search.found();
                return Ok(());
            }
            let tally = probe(load)?;
            search.record(tally.holds(WANTED));
            held.measured = search.found();
            held.probes.push(json!({
                "load": load,
                "attainment": tally.attainment(),
                "fault": tally.fault,
                "models": tally.models.iter().map(|model| json!({
                    "requests": model.requests,
                    "in_time": model.in_time,
                    "refused": model.refused,
                    "failed": model.failed,
                    "p50_ms": quantile(&model.latencies, 0.5),
                    "p99_ms": quantile(&model.latencies, 0.99),
                })).collect::<Vec<_>>(),
            }));
        }
        held.is_settled = true;
        Ok(())
    };
    held.error = search().err().map(|error| format!("{error:#}"));
    held
}

/// Milliseconds, by nearest rank.
fn quantile(times: &[Nanos], quantile: f64) -> Option<f64> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = (quantile * times.len() as f64).ceil() as usize;
    let time = times.get(rank.clamp(1, times.len().max(1)) - 1)?;
    Some(time.as_millis_f64())
}

/// The largest load that the simulator says each policy holds, and `ideal`.
fn simulate(
    plan: &Plan,
    device: &DeviceSpec,
    workload: &Workload,
) -> anyhow::Result<BTreeMap<String, Option<f64>>> {
    let models = workload.models().len();
    let contender = |name: &String| -> anyhow::Result<Contender> {
        Ok(Contender::Policy {
            spec: policy(name, models)?,
            label: name.clone(),
        })
    };
    let mut profile = plan.profile.clone();
    for load in workload.models() {
        let known = profile
            .models
            .iter_mut()
            .find(|model| model.name == load.name);
        if let Some(known) = known {
            known.slo_s = Some(load.slo.as_secs_f64());
        }
    }
    let overheads = Overheads {
        launch: profile.launch_s.map_or(Nanos::ZERO, Nanos::from_secs_f64),
        ..Overheads::NONE
    };
    let options = SimOptions {
        overheads,
        slots: SLOTS,
        ..SimOptions::default()
    };
    let workload = workload
        .clone()
        .lasting(SIMULATED, Nanos::from_millis(500))?;
    let scenario = Scenario::new(&profile, workload, device.clone(), options)?;
    let policies = plan.policies.iter().map(contender);
    let mut simulated = simulation::Plan {
        profile,
        scenario,
        workload: "as measured".to_owned(),
        scale: 1.0,
        instances: 1,
        devices: 1,
        policies: policies.collect::<anyhow::Result<_>>()?,
        deadlines: DeadlineMode::Enforce,
        seed: 1,
    };
    let mut held = BTreeMap::new();
    let mut search = |plan: &simulation::Plan| -> anyhow::Result<()> {
        let found = simulation::find_capacity(plan, WANTED, NonZeroU32::MIN)?;
        let found = found.policies.into_iter();
        held.extend(found.map(|one| (one.policy, one.multiple.map(|multiple| multiple.mean))));
        Ok(())
    };
    search(&simulated)?;
    // `ideal` needs fitted kernels, which a grid of few points may not give.
    simulated.policies = vec![Contender::Ideal];
    if let Err(error) = search(&simulated) {
        tracing::debug!(%error, "`ideal` is not simulated");
        held.insert(Contender::Ideal.name().to_owned(), None);
    }
    Ok(held)
}

#[cfg(test)]
mod tests;
