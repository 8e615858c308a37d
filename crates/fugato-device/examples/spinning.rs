//! Measures whether the threads of a session should spin while their lane runs: a model
//! at batch 1 on one core, and on all cores without and with spinning, in turn.
//!
//! ```text
//! cargo run --release -p fugato-device --example spinning -- MODEL.onnx [RUNS] [VARY]
//! ```

#![allow(clippy::print_stdout, reason = "it prints its result")]

mod common;

use anyhow::{Context, Result};
use common::{Runner, one_item, runtime};
use fugato_core::{ModelId, PartitionId};
use fugato_device::{CpuOptions, Device, LoadOptions, ModelStore};
use serde_json::json;
use std::sync::Arc;

/// Runs of one kind before the next kind's turn: short, so that the machine's other work
/// meets all kinds alike.
const TURN: usize = 5;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("expected a model file")?;
    let runs = arguments.next().map_or(Ok(100), |runs| runs.parse())?;
    let vary = arguments.next().map_or(Ok(128), |vary| vary.parse())?;
    let runtime = runtime()?;
    let scratch = tempfile::tempdir()?;
    let stored = ModelStore::open(&runtime, scratch.path())?.prepare(path)?;
    let inputs: Arc<[_]> = one_item(&stored.info().inputs, vary).into();
    let mut rigs = Vec::new();
    for spinning in [false, true] {
        let runner = Runner::new(CpuOptions {
            spinning,
            ..CpuOptions::default()
        })?;
        runner
            .device
            .load(ModelId(1), &stored, &LoadOptions::default())?;
        rigs.push(runner);
    }
    let partitions = &rigs[0].device.spec().partitions;
    let single = partitions.iter().find(|partition| partition.share().0 == 1);
    let single = single.context("no partition of one core")?.id;
    let kinds = [
        ("one core", 0, single),
        ("all cores, waiting", 0, PartitionId(0)),
        ("all cores, spinning", 1, PartitionId(0)),
    ];
    let mut times = kinds.map(|_| Vec::with_capacity(runs));
    while times[0].len() < runs {
        for (&(_, rig, partition), times) in kinds.iter().zip(&mut times) {
            for _ in 0..TURN {
                let leg = rigs[rig].run(ModelId(1), partition, &inputs)?;
                times.push(leg.split.infer.as_nanos());
            }
        }
    }
    let rows = kinds.iter().zip(times).map(|((kind, ..), mut times)| {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100] as f64 / 1e6;
        json!({ "kind": kind, "p25_ms": at(25), "p50_ms": at(50), "p90_ms": at(90) })
    });
    println!(
        "{}",
        serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?
    );
    Ok(())
}
