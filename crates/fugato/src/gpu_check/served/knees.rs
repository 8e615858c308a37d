//! What share of the device models can use: the measuring of `fugato profile`, model by model.

use super::legs;
use super::stage::{Stage, item};
use crate::engine::{BenchModel, LegsWanted, Workbench};
use crate::gpu_check::report::{Answer, Budget, Verdict};
use crate::profiler::files::{self, Earlier};
use crate::profiler::{Options, Run, Whole};
use anyhow::Context;
use fugato_core::Nanos;
use fugato_core::device::DeviceSpec;
use fugato_core::profile::{ModelProfile, PointKey, Profile};
use fugato_device::{
    AnyDevice, Device, LoadOptions, Precision, Profiler, partitions_beside, slots_beside,
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
    let mut bench = Workbench {
        profiler: Profiler::new(stage.device.clone(), stage.router.queue()),
        device: stage.key(),
        runtime: plan.runtime.clone(),
        models: Vec::new(),
        refused: Vec::new(),
        config: None,
    };
    let begun = Instant::now();
    let one_by_one = budget.left().mul_f64(ONE_BY_ONE);
    let mut loaded = Vec::new();
    let mut faults = Vec::new();
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
        match load(stage, zoo, plan) {
            Ok(model) => bench.models = vec![model],
            Err(error) => {
                faults.push(format!("{}: {error:#}", zoo.name));
                continue;
            }
        }
        bench = measure(bench, plan, (time, budget), &mut faults)?;
        loaded.append(&mut bench.models);
        budget.keep(answer(read(&plan.out)?.as_ref(), plan, tried, &faults))?;
    }
    if plan.legs.is_none() && loaded.len() > 1 && !budget.is_spent() {
        // What runs cost after those of others is of use where models are served together.
        let first = &plan.models[..plan.first.min(plan.models.len())];
        loaded.retain(|model| first.iter().any(|zoo| zoo.name == model.name));
        bench.models = loaded;
        measure(bench, plan, (budget.left(), budget), &mut faults)?;
    }
    stage.listen();
    Ok(answer(read(&plan.out)?.as_ref(), plan, tried, &faults))
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
    let faults: Vec<String> = faults.iter().cloned().chain(failed).collect();
    let slices = profile.map_or(0, |profile| profile.device.slices);
    let least = plan.batches.first().copied().unwrap_or(1);
    // Those that decide: of the others a knee is no news, and what they lack no fault of the mixes.
    let decides = |name: &str| {
        let mut first = plan.models.iter().take(plan.first);
        first.any(|zoo| zoo.name == name)
    };
    let below = models
        .iter()
        .filter(|model| decides(&model.name))
        .any(|model| knee_at(model, least).is_some_and(|knee| knee < slices));
    let is_measured = |zoo: &ZooModel| models.iter().any(|model| model.name == zoo.name);
    let missing = plan.models.iter().enumerate();
    let missing: Vec<_> = missing.filter(|(_, zoo)| !is_measured(zoo)).collect();
    let is_whole = missing.iter().all(|&(place, _)| place >= plan.first);
    let has_failed = |name: &str| {
        let mut names = faults.iter().filter_map(|fault| fault.split_once(':'));
        names.any(|(of, _)| of == name)
    };
    let missing = missing.iter().map(|(_, zoo)| zoo.name);
    let missing: Vec<&str> = missing.filter(|name| !has_failed(name)).collect();
    let not_reached = match missing.as_slice() {
        [] => String::new(),
        names => format!("; not reached: {}", names.join(", ")),
    };
    Answer {
        verdict: match (faults.is_empty(), is_whole, below) {
            (false, ..) | (_, true, false) => Verdict::Fails,
            (_, true, true) => Verdict::Holds,
            (_, false, _) => Verdict::Unknown,
        },
        words: match faults.as_slice() {
            [] => format!(
                "{} of {} models; knees at batch {least} and the largest, of {slices} slices: \
                 {}{not_reached}",
                models.len(),
                plan.models.len(),
                models.iter().map(knees).collect::<Vec<_>>().join(", ")
            ),
            faults => format!("of {tried} models: {}{not_reached}", faults.join("; ")),
        },
        facts: json!({
            "profile": plan.out.file_name().map(|name| name.to_string_lossy()),
            "batches": plan.batches,
            "shares": plan.shares,
            "slices": slices,
            "launch_s": profile.and_then(|profile| profile.launch_s),
            "not_reached": missing,
            "models": models.iter().map(facts).collect::<Vec<_>>(),
        }),
    }
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
mod tests {
    use super::*;
    use fugato_core::profile::{BatchKnee, DeviceKey, GridPoint, Knee, SCHEMA};

    fn plan() -> Plan {
        let models = ["resnet18", "bert-tiny"].map(|name| fugato_zoo::find(name).expect("one"));
        Plan {
            models: models.to_vec(),
            first: 2,
            batches: vec![1, 8],
            shares: vec![4, 8],
            runtime: "onnxruntime 1".to_owned(),
            out: PathBuf::from("profile.json"),
            legs: None,
        }
    }

    fn profile(knees: &[(&str, u16)]) -> Profile {
        let model = |&(name, knee): &(&str, u16)| {
            let mut model = ModelProfile::new(name, name, 8);
            let knee = Knee {
                tolerance: Some(knee),
                ..Knee::default()
            };
            model.knees.push(BatchKnee {
                batch: 1,
                knee,
                undecided_by: Vec::new(),
            });
            model
        };
        Profile {
            schema: SCHEMA.to_owned(),
            device: DeviceKey {
                kind: "cuda".to_owned(),
                name: "a device".to_owned(),
                slices: 8,
            },
            runtime: "onnxruntime 1".to_owned(),
            synthetic: false,
            launch_s: None,
            models: knees.iter().map(model).collect(),
        }
    }

    #[test]
    fn a_knee_below_the_whole_of_any_model_is_enough_once_all_were_measured() {
        let verdict = |knees: &[(&str, u16)], faults: &[String]| {
            answer(Some(&profile(knees)), &plan(), 2, faults).verdict
        };
        assert_eq!(
            verdict(&[("resnet18", 8), ("bert-tiny", 4)], &[]),
            Verdict::Holds
        );
        assert_eq!(
            verdict(&[("resnet18", 8), ("bert-tiny", 8)], &[]),
            Verdict::Fails
        );
        assert_eq!(verdict(&[("bert-tiny", 4)], &[]), Verdict::Unknown);
        let fault = ["resnet18: no memory".to_owned()];
        assert_eq!(verdict(&[("bert-tiny", 4)], &fault), Verdict::Fails);
        assert_eq!(answer(None, &plan(), 0, &[]).verdict, Verdict::Unknown);
    }

    #[test]
    fn models_beyond_the_first_are_named_where_the_time_did_not_suffice() {
        let plan = Plan { first: 1, ..plan() };
        let found = answer(Some(&profile(&[("resnet18", 4)])), &plan, 1, &[]);
        assert_eq!(found.verdict, Verdict::Holds);
        assert!(
            found.words.ends_with("; not reached: bert-tiny"),
            "{}",
            found.words
        );
        assert_eq!(found.facts["not_reached"], json!(["bert-tiny"]));
        let other = answer(Some(&profile(&[("bert-tiny", 4)])), &plan, 1, &[]);
        assert_eq!(
            other.verdict,
            Verdict::Unknown,
            "the first was not measured"
        );
    }

    #[test]
    fn the_first_models_have_most_of_the_time_and_leave_some_to_the_others() {
        let seconds = |first, left, index| {
            let zoo = fugato_zoo::find("identity").expect("one");
            let plan = Plan {
                models: vec![zoo; 12],
                first,
                ..plan()
            };
            let of = Duration::from_secs;
            plan.part((of(100), of(left)), index).as_secs_f64()
        };
        let is = |found: f64, expected: f64| {
            assert!(
                (found - expected).abs() < 1e-6,
                "{found}, expected {expected}"
            );
        };
        // Four of twelve have 80 of 100 s, of which each has a part of what is left.
        is(seconds(4, 100, 0), 20.0);
        is(seconds(4, 50, 2), 15.0);
        // Those before it took too long: the others wait.
        is(seconds(4, 18, 3), 2.0);
        // What they left, and what is kept for them, is the others'.
        is(seconds(4, 24, 4), 3.0);
        is(seconds(4, 60, 11), 60.0);
        // Where all are first, all share all of it.
        is(seconds(12, 60, 0), 5.0);
    }

    #[test]
    fn a_point_that_failed_is_named() {
        let mut found = profile(&[("resnet18", 4), ("bert-tiny", 4)]);
        found.models[1].grid.push(GridPoint {
            batch: 8,
            share: 4,
            neighbours: 0,
            median_s: None,
            p95_s: None,
            low_s: None,
            high_s: None,
            repeats: 0,
            failed: Some("no memory".to_owned()),
        });
        let Answer { verdict, words, .. } = answer(Some(&found), &plan(), 2, &[]);
        assert_eq!(verdict, Verdict::Fails);
        assert!(
            words.contains("bert-tiny") && words.contains("no memory"),
            "{words}"
        );
    }

    #[test]
    fn shares_are_quarters_as_far_as_there_are_such() {
        use fugato_core::device::LaneClass;
        use fugato_core::{DeviceId, Share};
        let of = |slices| {
            let lanes = [LaneClass::Normal];
            shares(&DeviceSpec::nested(
                DeviceId(0),
                "a device",
                Share(slices),
                &lanes,
                &lanes,
            ))
        };
        assert_eq!(of(1), [1]);
        assert_eq!(of(2), [1, 2]);
        assert_eq!(of(16), [4, 8, 16]);
    }
}
