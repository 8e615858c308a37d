//! The mixes: their models on the device, and their requests.

use super::{AllLoaded, Loaded, OBJECTIVE, SLOTS};
use crate::engine::cuts_of;
use crate::gpu_check::served::load::{Narrowed, Served};
use crate::gpu_check::served::stage::{Host, OnStage, Place, Stage, items, named};
use anyhow::Context;
use fugato_core::profile::{LegPlan, ModelProfile, PointKey, Profile};
use fugato_core::sched::{DynamicBatching, ModelSpec, QueueLimits};
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{BatchSize, DeviceId, LaneId, Nanos, SlotIndex};
use fugato_device::{Device, GpuTuning, LoadOptions, Urgency};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Runs of a batch in a place until it is captured: two eager ones, and the one that is.
const WARM_UPS: usize = 3;

/// Different requests that a model gets in turn.
const ITEMS: u32 = 4;

/// A mix by the names of the zoo.
#[derive(Clone, Debug)]
pub(in crate::gpu_check::served) struct MixPlan {
    pub(in crate::gpu_check::served) name: String,
    pub(in crate::gpu_check::served) models: Vec<String>,
}

/// The names that the zoo has for the models of the built-in mixes; a mix with any other has
/// none that stands for it.
fn in_zoo(name: &str) -> Option<&'static str> {
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
pub(in crate::gpu_check::served) fn mixes(names: &[&str]) -> Vec<MixPlan> {
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

/// A model of the mix that the profile lacks, as where its part of the check ran out of time.
pub(super) fn unmeasured<'m>(mix: &'m MixPlan, profile: &Profile) -> Option<&'m str> {
    let known = |name: &str| profile.models.iter().any(|model| model.name == name);
    let mut models = mix.models.iter();
    models.find(|name| !known(name)).map(String::as_str)
}

/// A model as a profile has it with its legs, and the plan of these, where they were measured of
/// the same model.
pub(super) fn legs_of<'p>(
    legs: &'p Profile,
    known: &ModelProfile,
) -> Option<(&'p ModelProfile, &'p LegPlan)> {
    let mut models = legs.models.iter();
    let model = models.find(|model| model.name == known.name && model.hash == known.hash)?;
    Some((model, model.leg_plan.as_deref()?))
}

/// The models of a mix, loaded and run in every place that a policy may choose, those that the
/// profile of legs has a plan of cut so; `None` where the time did not suffice.
pub(super) fn bring_up<D: Host>(
    stage: &mut Stage<D>,
    device: &Arc<Narrowed<D>>,
    (names, (profile, legs)): (&[String], (&Profile, Option<&Profile>)),
    loaded: &mut AllLoaded,
    until: Instant,
) -> anyhow::Result<Option<Vec<Served>>> {
    stage.listen();
    let mut served = Vec::new();
    for name in names {
        let known = profile.models.iter().find(|model| model.name == *name);
        let known = known.with_context(|| format!("`{name}` is not in the profile"))?;
        let cut = legs.and_then(|legs| legs_of(legs, known));
        let key = (name.clone(), cut.is_some());
        if !loaded.contains_key(&key) {
            if Instant::now() >= until {
                return Ok(None);
            }
            let model = load(stage, known, cut)?;
            loaded.insert(key.clone(), Loaded { model, lanes: 0 });
        }
        let of_mix = loaded.get_mut(&key).context("it was loaded")?;
        let batches: Vec<u32> = known.grid.iter().map(|point| point.batch).collect();
        if of_mix.lanes < names.len() {
            if !warm(stage, device, (&of_mix.model, &batches, names.len()), until)? {
                return Ok(None);
            }
            of_mix.lanes = names.len();
        }
        served.push(of_profile(&of_mix.model, known, cut)?);
    }
    Ok(Some(served))
}

/// Loads a model of the profile for batches as large as it was measured at.
fn load<D: Host>(
    stage: &mut Stage<D>,
    known: &ModelProfile,
    cut: Option<(&ModelProfile, &LegPlan)>,
) -> anyhow::Result<OnStage> {
    let (name, zoo) = (&known.name, named(&known.name)?);
    let cuts = match cut {
        Some((_, legs)) => {
            let cuts = cuts_of(&legs.plan, &stage.prepare(zoo)?);
            Some(cuts.map_err(|reason| anyhow::anyhow!("legs of `{name}`: {reason}"))?)
        }
        None => None,
    };
    let options = LoadOptions {
        max_batch: max_batch(known),
        slots: SLOTS,
        cuts,
        // As a server has it; only under `uncontrolled` does it make a difference.
        gpu: GpuTuning {
            urgency: Urgency::of_slo(Some(objective(known)?)),
            ..GpuTuning::default()
        },
        ..LoadOptions::default()
    };
    let model = stage.load(zoo, &options)?;
    let hash = &model.stored.info().hash;
    anyhow::ensure!(
        *hash == known.hash,
        "the profile is of another `{name}`: {}, expected {hash}",
        known.hash
    );
    Ok(model)
}

fn max_batch(known: &ModelProfile) -> u32 {
    let largest = known.grid.iter().map(|point| point.batch).max();
    largest.unwrap_or(1).min(known.max_batch).max(1)
}

/// A model of the profile as the scheduler has it. The objective is that of the model as it is,
/// cut or not.
fn of_profile(
    model: &OnStage,
    known: &ModelProfile,
    cut: Option<(&ModelProfile, &LegPlan)>,
) -> anyhow::Result<Served> {
    let (slo, legs) = (objective(known)?, model.loaded.legs);
    // Where a part did not run by itself, the model is served as it is.
    let cut = cut.filter(|(of_legs, _)| of_legs.legs.len() == usize::from(legs));
    let mut profile = cut.map_or(known, |(of_legs, _)| of_legs).clone();
    profile.slo_s = Some(slo.as_secs_f64());
    Ok(Served {
        spec: ModelSpec {
            id: model.id,
            name: known.name.clone(),
            slo: Some(slo),
            weight: 1.0,
            max_batch: BatchSize(max_batch(known)),
            slots: SLOTS,
            legs,
            unsplit: false,
            devices: vec![DeviceId(0)],
            limits: QueueLimits {
                requests: 16_384,
                bytes: 2 << 30,
            },
            batching: DynamicBatching::default(),
        },
        profile,
        items: items(model.zoo, ITEMS)?,
    })
}

/// Runs a model in each partition, and in as many lanes of the whole as there are models, with
/// each of the batches, through all its legs: what only a first run does is done by then. `false`
/// where the time did not suffice.
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
                    stage.run_through(model, &[place], &all[..batch as usize])?;
                }
            }
        }
    }
    Ok(true)
}

/// A model's objective: a multiple of what it takes alone at its knee.
pub(super) fn objective(model: &ModelProfile) -> anyhow::Result<Nanos> {
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
pub(super) fn workload(
    served: &[Served],
    profile: &Profile,
    duration: Nanos,
) -> anyhow::Result<Workload> {
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

pub(super) fn rate(workload: &Workload) -> f64 {
    let models = workload.models().iter();
    models
        .map(|load| load.arrivals.mean_rate(workload.end()))
        .sum()
}

pub(super) fn describe(load: &ModelLoad) -> Value {
    json!({
        "model": load.name,
        "slo_ms": load.slo.as_millis_f64(),
        "rate_at_load_one": load.arrivals.mean_rate(Nanos::from_millis(1_000)),
        "max_batch": load.max_batch_size.map(|batch| batch.0),
    })
}
