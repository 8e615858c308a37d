//! What share of the device models can use: the measuring of `fugato profile`, model by model.

use super::legs;
use super::stage::{Stage, item, median, micros};
use crate::engine::{BenchModel, LegsWanted, Workbench};
use crate::gpu_check::report::{Answer, Budget, Verdict};
use crate::profiler::files::{self, Earlier};
use crate::profiler::{Options, Run, Whole};
use anyhow::Context;
use fugato_core::device::DeviceSpec;
use fugato_core::profile::{ModelProfile, PointKey, Profile};
use fugato_core::{Nanos, PartitionId};
use fugato_device::{
    AnyDevice, Device, LoadOptions, Precision, Profiler, Walk, Walked, partitions_beside,
    slots_beside,
};
use fugato_zoo::ZooModel;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The part of the time in which models are measured one by one; in the rest all are looked at
/// together, for what a run costs after one of another model.
const ONE_BY_ONE: f64 = 0.85;

/// The part of that which the first models have, where there are others; what they leave of it
/// is the others'.
const FIRST: f64 = 0.8;

/// Runs that are looked at by both clocks.
const WALKS: usize = 7;

/// The version of every model of the zoo in a repository.
const VERSION: &str = "1";

/// What is measured.
pub(super) struct Plan {
    /// In the order they are measured.
    pub(super) models: Vec<&'static ZooModel>,
    /// So many of them have to be measured for an answer; the others are as time remains.
    pub(super) first: usize,
    /// Rising.
    pub(super) batches: Vec<u32>,
    /// In slices.
    pub(super) shares: Vec<u16>,
    /// What a profile calls the runtime.
    pub(super) runtime: String,
    /// Where the profile is written.
    pub(super) out: PathBuf,
    /// The legs that models are cut into, whose times are what is asked then.
    pub(super) legs: Option<Legs>,
}

/// Legs to measure.
pub(super) struct Legs {
    /// The longest.
    pub(super) longest: Nanos,
    /// The profile of the whole models that is gone on from.
    pub(super) from: PathBuf,
}

impl Plan {
    /// The time for the model of this place, of `all` the time, of which so much is left.
    fn part(&self, (all, left): (Duration, Duration), index: usize) -> Duration {
        let divided =
            |time: Duration, count: usize| time / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
        let (first, count) = (self.first.min(self.models.len()), self.models.len());
        let equal = divided(left, count - index);
        if index >= first || first == count {
            return equal;
        }
        let others = all.mul_f64(1.0 - FIRST);
        divided(left.saturating_sub(others), first - index).max(equal)
    }
}

/// Shares that tell a knee at a small cost: each takes a session of every model, and others for
/// its neighbours. The whole, and what there is next to three quarters, a half and a quarter.
pub(super) fn shares(spec: &DeviceSpec) -> Vec<u16> {
    let all: BTreeSet<u16> = spec.partitions.iter().map(|part| part.share().0).collect();
    let near = |quarters: u16| {
        let wanted = spec.slices.0 * quarters;
        all.iter()
            .copied()
            .min_by_key(|share| (share * 4).abs_diff(wanted))
    };
    let chosen: BTreeSet<u16> = (1..=4).filter_map(near).collect();
    chosen.into_iter().collect()
}

pub(super) fn run(
    stage: &mut Stage<AnyDevice>,
    plan: &Plan,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    // What an earlier check measured is gone on from nowhere: it may be of another version.
    for path in [plan.out.clone(), files::samples_path(&plan.out)] {
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
    }
    let mut whole = None;
    if let Some(Legs { from, .. }) = &plan.legs {
        std::fs::copy(from, &plan.out)?;
        std::fs::copy(files::samples_path(from), files::samples_path(&plan.out))?;
        whole = read(from)?;
    }
    // Legs are measured of models that are known as they are.
    let is_known = |zoo: &ZooModel| {
        let whole = whole.as_ref();
        whole.is_none_or(|whole| whole.models.iter().any(|known| known.name == zoo.name))
    };
    let mut bench = workbench(stage, plan);
    let begun = Instant::now();
    let one_by_one = budget.left().mul_f64(ONE_BY_ONE);
    let mut loaded = Vec::new();
    let mut faults = Vec::new();
    let mut clocks = Vec::new();
    let mut tried = 0;
    for (index, zoo) in plan.models.iter().enumerate() {
        let left = one_by_one.saturating_sub(begun.elapsed());
        if left == Duration::ZERO {
            break;
        }
        if !is_known(zoo) {
            continue;
        }
        let time = plan.part((one_by_one, left), index);
        tried += 1;
        let id = match load(stage, zoo, plan) {
            Ok(model) => {
                let id = model.id;
                bench.models = vec![model];
                id
            }
            Err(error) => {
                faults.push(format!("{}: {error:#}", zoo.name));
                continue;
            }
        };
        bench = match measure(bench, plan, (time, budget), &mut faults) {
            Ok(bench) => bench,
            Err(error) => {
                faults.push(format!("{}: {error:#}", zoo.name));
                stage.device.unload(id);
                workbench(stage, plan)
            }
        };
        if !budget.is_spent() {
            clocks.extend(Clocks::of(&mut bench, zoo.name, plan));
        }
        if plan.legs.is_none() && index < plan.first {
            // It is served with others, of which something is asked at the end.
            loaded.append(&mut bench.models);
        } else {
            take_down(stage, &mut bench.models);
        }
        let profile = read(&plan.out)?;
        let so_far = answer(profile.as_ref(), plan, tried, &faults);
        budget.keep(by_both_clocks(so_far, &clocks))?;
    }
    if loaded.len() > 1 && !budget.is_spent() {
        // What runs cost after those of others, and beside them, is of use where models are served
        // together.
        bench.models = loaded;
        bench = measure(bench, plan, (budget.left(), budget), &mut faults)?;
        loaded = std::mem::take(&mut bench.models);
    }
    take_down(stage, &mut loaded);
    stage.listen();
    let whole = answer(read(&plan.out)?.as_ref(), plan, tried, &faults);
    Ok(by_both_clocks(whole, &clocks))
}

fn workbench(stage: &Stage<AnyDevice>, plan: &Plan) -> Workbench {
    Workbench {
        profiler: Profiler::new(stage.device.clone(), stage.router.queue()),
        device: stage.key(),
        runtime: plan.runtime.clone(),
        models: Vec::new(),
        refused: Vec::new(),
        config: None,
    }
}

/// Takes models off the device.
fn take_down(stage: &Stage<AnyDevice>, models: &mut Vec<BenchModel>) {
    for model in models.drain(..) {
        stage.device.unload(model.id);
    }
}

fn load(
    stage: &mut Stage<AnyDevice>,
    zoo: &'static ZooModel,
    plan: &Plan,
) -> anyhow::Result<BenchModel> {
    let spec = stage.device.spec();
    let measured = spec.partitions.iter();
    let measured = measured.filter(|partition| plan.shares.contains(&partition.share().0));
    let beside = measured.map(|partition| partitions_beside(spec, partition.id).len());
    let max_batch = plan.batches.last().copied().unwrap_or(1);
    let options = LoadOptions {
        max_batch,
        slots: slots_beside(beside.max().unwrap_or(0)),
        ..LoadOptions::default()
    };
    let model = stage.load(zoo, &options)?;
    Ok(BenchModel {
        id: model.id,
        name: zoo.name.to_owned(),
        version: VERSION.to_owned(),
        hash: model.stored.info().hash.clone(),
        precision: Precision::Fp32,
        max_batch,
        slo: None,
        items: vec![item(zoo, 0)?],
        legs: match &plan.legs {
            None => LegsWanted::None,
            Some(legs) => LegsWanted::Longest(legs.longest),
        },
        stored: model.stored,
        options,
    })
}

/// Measures the models on the bench for so long, and writes what is known of all.
fn measure(
    bench: Workbench,
    plan: &Plan,
    (time, budget): (Duration, &Budget<'_>),
    faults: &mut Vec<String>,
) -> anyhow::Result<Workbench> {
    let options = Options {
        batches: plan.batches.clone(),
        shares: Some(plan.shares.clone()),
        budget: time.into(),
        seed: 0,
        slos: BTreeMap::new(),
        rates: BTreeMap::new(),
    };
    let earlier = Earlier::read(&plan.out)?;
    let mut run = Run::new(bench, options, earlier, Instant::now())?;
    run.measure(|| budget.is_spent(), |_, _| {});
    for (model, why) in run.left_whole() {
        let reason = match why {
            Whole::Indivisible => "it is too short for two, or cannot be cut".to_owned(),
            Whole::Elsewhere(reason) | Whole::Failed(reason) => reason,
        };
        faults.push(format!("legs of {model}: {reason}"));
    }
    files::keep(&run, &plan.out)?;
    Ok(run.into_bench())
}

/// The profile that was written, if there is one.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<Profile>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let profile = serde_json::from_str(&text);
    profile
        .map(Some)
        .with_context(|| format!("`{}` is no profile", path.display()))
}

fn answer(profile: Option<&Profile>, plan: &Plan, tried: usize, faults: &[String]) -> Answer {
    let models = profile.map_or(&[][..], |profile| &profile.models);
    if plan.legs.is_some() {
        return legs::answer(models, plan, faults);
    }
    let failed = models.iter().flat_map(|model| {
        let points = model.grid.iter();
        points.filter_map(|point| {
            let reason = point.failed.as_ref()?;
            Some(format!("{} at {}: {reason}", model.name, point.key()))
        })
    });
    let faults = faults.iter().cloned().chain(failed);
    let slices = profile.map_or(0, |profile| profile.device.slices);
    let least = plan.batches.first().copied().unwrap_or(1);
    // Those that decide: of the others a knee is no news, and what they lack no fault of the mixes.
    let decides = |name: &str| {
        let mut first = plan.models.iter().take(plan.first);
        first.any(|zoo| zoo.name == name)
    };
    let (faults, besides): (Vec<String>, Vec<String>) =
        faults.partition(|fault| decides(blamed(fault)));
    let below = models
        .iter()
        .filter(|model| decides(&model.name))
        .any(|model| knee_at(model, least).is_some_and(|knee| knee < slices));
    let is_measured = |zoo: &ZooModel| models.iter().any(|model| model.name == zoo.name);
    let missing = plan.models.iter().enumerate();
    let missing: Vec<_> = missing.filter(|(_, zoo)| !is_measured(zoo)).collect();
    let is_whole = missing.iter().all(|&(place, _)| place >= plan.first);
    let has_failed = |name: &str| {
        let mut all = faults.iter().chain(&besides);
        all.any(|fault| blamed(fault) == name)
    };
    let missing = missing.iter().map(|(_, zoo)| zoo.name);
    let missing: Vec<&str> = missing.filter(|name| !has_failed(name)).collect();
    let not_reached = match missing.as_slice() {
        [] => String::new(),
        names => format!("; not reached: {}", names.join(", ")),
    };
    let besides_told = match besides.as_slice() {
        [] => String::new(),
        faults => format!("; beyond the mixes: {}", faults.join("; ")),
    };
    let slowed = models.iter().flat_map(|model| &model.beside);
    let slowed = slowed.map(|beside| beside.beside_s / beside.alone_s);
    let slowed = slowed.reduce(f64::max).map_or_else(String::new, |most| {
        format!("; beside others at most {most:.2} times as long")
    });
    Answer {
        verdict: match (faults.is_empty(), is_whole, below) {
            (false, ..) | (_, true, false) => Verdict::Fails,
            (_, true, true) => Verdict::Holds,
            (_, false, _) => Verdict::Unknown,
        },
        words: match faults.as_slice() {
            [] => format!(
                "{} of {} models; knees at batch {least} and the largest, of {slices} slices: \
                 {}{slowed}{besides_told}{not_reached}",
                models.len(),
                plan.models.len(),
                models.iter().map(knees).collect::<Vec<_>>().join(", ")
            ),
            faults => format!(
                "of {tried} models: {}{besides_told}{not_reached}",
                faults.join("; ")
            ),
        },
        facts: json!({
            "profile": plan.out.file_name().map(|name| name.to_string_lossy()),
            "batches": plan.batches,
            "shares": plan.shares,
            "slices": slices,
            "launch_s": profile.and_then(|profile| profile.launch_s),
            "not_reached": missing,
            "failed_beyond_the_mixes": besides,
            "models": models.iter().map(facts).collect::<Vec<_>>(),
        }),
    }
}

/// The model that a fault is of, which its words begin with.
fn blamed(fault: &str) -> &str {
    let name = fault.split_once(':').map_or(fault, |(name, _)| name);
    // A point that failed is named behind it.
    name.split_once(' ').map_or(name, |(name, _)| name)
}

/// What runs of a model take by both clocks: medians of runs on the whole device at its smallest
/// batch.
struct Clocks {
    model: &'static str,
    batch: u32,
    /// By the device's own events, which profiles have; none where it has no such.
    on_device: Option<Nanos>,
    /// From the start of the run to its end, as the scheduler is told.
    by_host: Nanos,
}

impl Clocks {
    /// Of the model on the bench; none where it does not run.
    fn of(bench: &mut Workbench, name: &'static str, plan: &Plan) -> Option<Self> {
        let model = bench.models.first()?;
        let walk = Walk {
            model: model.id,
            item: model.items.first()?.clone(),
            batch: plan.batches.first().copied().unwrap_or(1),
            partition: PartitionId(0),
            legs: 1,
        };
        let walked = (0..WALKS).map(|_| bench.profiler.walk(&walk));
        let walked: Vec<Walked> = walked.collect::<Result<_, _>>().ok()?;
        let on_device = walked.iter().map(|walked| walked.on_device);
        Some(Self {
            model: name,
            batch: walk.batch,
            on_device: on_device.collect::<Option<_>>().map(median),
            by_host: median(walked.iter().map(|walked| walked.whole).collect()),
        })
    }
}

/// The answer with what runs take by both clocks.
fn by_both_clocks(mut answer: Answer, clocks: &[Clocks]) -> Answer {
    let added = clocks.iter().filter_map(|of| {
        let on_device = of.on_device?;
        Some(of.by_host.saturating_sub(on_device))
    });
    let added: Vec<Nanos> = added.collect();
    if !added.is_empty() {
        let added = micros(median(added));
        answer.words = format!("{}; the host adds {added:.0} us to a run", answer.words);
    }
    answer.facts["clocks"] = clocks
        .iter()
        .map(|of| {
            json!({
                "model": of.model,
                "batch": of.batch,
                "on_device_us": of.on_device.map(micros),
                "by_host_us": micros(of.by_host),
            })
        })
        .collect();
    answer
}

/// The smallest share that is enough at a batch.
fn knee_at(model: &ModelProfile, batch: u32) -> Option<u16> {
    let mut knees = model.knees.iter();
    knees.find(|knee| knee.batch == batch)?.knee.tolerance
}

fn knees(model: &ModelProfile) -> String {
    let knee = |knee: Option<u16>| knee.map_or_else(|| "?".to_owned(), |knee| knee.to_string());
    let least = model.grid.iter().map(|point| point.batch).min();
    format!(
        "{} {} and {}",
        model.name,
        knee(least.and_then(|least| knee_at(model, least))),
        knee(model.knee.tolerance)
    )
}

fn facts(model: &ModelProfile) -> Value {
    let work = model.optima.work.point();
    json!({
        "model": model.name,
        "knees": model.knees,
        "best_batch": work.map(|point| point.batch),
        "best_share": work.map(|point| point.share),
        "changeovers": model.changeovers,
        "beside": model.beside,
        "interference": model.interference,
        "beside_others": model.grid.iter().filter_map(|point| {
            let alone = model.point(PointKey { neighbours: 0, ..point.key() })?.times()?;
            let beside = point.times().filter(|_| point.neighbours > 0)?;
            Some(json!({
                "batch": point.batch,
                "share": point.share,
                "alone_us": alone.median_s * 1e6,
                "times_as_long": beside.median_s / alone.median_s,
            }))
        }).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
