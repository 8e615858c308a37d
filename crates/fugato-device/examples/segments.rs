//! Measures what cutting costs: all segments of a model in sequence on one lane of one
//! core, and of all, against the model in one piece; each by turns, so that both see the same
//! machine.
//! And the gap between a leg and the next, which is committed meanwhile.
//!
//! ```text
//! cargo run --release -p fugato-device --example segments [ROUNDS [MODEL..]]
//! ```

#![allow(clippy::print_stdout, reason = "it prints its result")]

mod common;

use anyhow::{Context, Result};
use common::{Runner, one_item, runtime};
use fugato_core::{ModelId, PartitionId};
use fugato_device::{
    CpuOptions, Cuts, Device, InputTensor, LoadOptions, ModelGraph, ModelStore, StoredModel,
};
use fugato_onnx::ExternalPolicy;
use serde_json::{Value, json};
use std::sync::Arc;

/// The models that the limit of 2 % is stated for.
const MODELS: [&str; 3] = ["resnet50", "inception_v3", "densenet121"];

/// Rounds run before measuring: first page faults, and kernels that choose themselves.
const WARM_UP: usize = 5;

/// A model loaded whole and cut, by turns.
struct Pair<'a> {
    runner: Runner,
    partition: PartitionId,
    inputs: Arc<[InputTensor]>,
    stored: &'a StoredModel,
}

/// One task of the model `id`, all legs: nanoseconds of running it.
fn task(pair: &mut Pair<'_>, id: u32, legs: u16) -> Result<u64> {
    let (partition, inputs) = (pair.partition, &pair.inputs);
    let ran = pair.runner.run_legs(ModelId(id), legs, partition, inputs)?;
    Ok(ran.iter().map(|leg| leg.split.infer.as_nanos()).sum())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The cut model's time over the whole one's, in `rounds` turns each.
fn compare(pair: &mut Pair<'_>, cuts: Cuts, rounds: usize) -> Result<Value> {
    let id = ModelId(2);
    let options = LoadOptions {
        warm: vec![pair.partition],
        cuts: Some(cuts.clone()),
        ..LoadOptions::default()
    };
    let begun = pair.runner.clock.now();
    let legs = pair.runner.device.load(id, pair.stored, &options)?.legs;
    let load_ms = (pair.runner.clock.now() - begun).as_nanos() as f64 / 1e6;
    anyhow::ensure!(usize::from(legs) == cuts.legs(), "the model was not cut");
    let (mut whole, mut cut, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut gaps = [Vec::new(), Vec::new()];
    for round in 0..WARM_UP + rounds {
        // Who is first changes from round to round.
        let (one, other) = match round % 2 {
            0 => {
                let one = task(pair, 1, 1)?;
                (one, task(pair, 2, legs)?)
            }
            _ => {
                let other = task(pair, 2, legs)?;
                (task(pair, 1, 1)?, other)
            }
        };
        if round >= WARM_UP {
            whole.push(one as f64);
            cut.push(other as f64);
            ratios.push(other as f64 / one as f64);
            let (partition, inputs) = (pair.partition, &pair.inputs);
            for (awake, gaps) in [false, true].into_iter().zip(&mut gaps) {
                let task = (id, legs);
                let between = pair
                    .runner
                    .gaps_between_legs(task, partition, inputs, awake)?;
                gaps.extend(between.into_iter().map(|gap| gap as f64 / 1e3));
            }
        }
    }
    pair.runner.device.unload(id);
    let [asleep, awake] = gaps;
    Ok(json!({
        "legs": legs,
        "whole_ms": median(whole) / 1e6,
        "cut_ms": median(cut) / 1e6,
        "median_of_ratios": median(ratios),
        "gap_between_legs_us": (!asleep.is_empty()).then(|| median(asleep)),
        "gap_without_waking_us": (!awake.is_empty()).then(|| median(awake)),
        "load_ms": load_ms,
    }))
}

/// Legs of about equal work, of consecutive segments each.
fn even_legs(graph: &ModelGraph, legs: u64) -> Cuts {
    let segments = graph.segments();
    let total: u64 = segments.all().iter().map(|segment| segment.flops).sum();
    let mut parts = vec![Vec::new()];
    let mut sum = 0;
    for segment in segments.all() {
        if sum * legs >= total * parts.len() as u64 {
            parts.push(Vec::new());
        }
        let last = parts.len() - 1;
        parts[last].extend(segment.operators.iter().copied());
        sum += segment.flops;
    }
    Cuts::sequential(parts)
}

fn measure(name: &str, rounds: usize) -> Result<Value> {
    let runtime = runtime()?;
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("model.onnx");
    let zoo = fugato_zoo::find(name).with_context(|| format!("the zoo has no `{name}`"))?;
    fugato_onnx::save_model(&zoo.build(1), &path, ExternalPolicy::Never)?;
    let stored = ModelStore::open(&runtime, scratch.path().join("store"))?.prepare(&path)?;
    let graph = stored.graph()?;
    let segments = graph.segments();
    let mut report = json!({
        "model": name,
        "segments": segments.count(),
        "operators": graph.graph().operators().len(),
    });
    let runner = Runner::new(CpuOptions::default())?;
    let partitions = &runner.device.spec().partitions;
    let single = partitions.iter().find(|partition| partition.share().0 == 1);
    let single = single.context("no partition of one core")?.id;
    let mut pair = Pair {
        runner,
        partition: single,
        inputs: one_item(&stored.info().inputs, 1).into(),
        stored: &stored,
    };
    for (cores, partition) in [("one_core", single), ("all_cores", PartitionId(0))] {
        pair.partition = partition;
        report[cores] = at(&mut pair, &graph, rounds)?;
    }
    Ok(report)
}

/// What each way of cutting costs in the pair's partition.
fn at(pair: &mut Pair<'_>, graph: &ModelGraph, rounds: usize) -> Result<Value> {
    let options = LoadOptions {
        warm: vec![pair.partition],
        ..LoadOptions::default()
    };
    pair.runner.device.load(ModelId(1), pair.stored, &options)?;
    let segments = graph.segments();
    let all = Cuts::segment_by_segment(&segments);
    let apart = Cuts::sequential(segments.all().iter().map(|one| one.operators.clone()));
    let found = json!({
        "one_leg_of_all_segments": compare(pair, all, rounds)?,
        "a_leg_for_each_segment": compare(pair, apart, rounds)?,
        "eight_legs": compare(pair, even_legs(graph, 8), rounds)?,
    });
    pair.runner.device.unload(ModelId(1));
    Ok(found)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().map_or(Ok(100), |rounds| rounds.parse())?;
    let named: Vec<_> = arguments.collect();
    let models: Vec<&str> = match named.is_empty() {
        true => MODELS.to_vec(),
        false => named.iter().map(String::as_str).collect(),
    };
    let models = models.into_iter().map(|name| measure(name, rounds));
    let models = models.collect::<Result<Vec<_>>>()?;
    let report = json!({ "rounds": rounds, "models": models });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
