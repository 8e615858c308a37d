//! Measures how long the threads of a session should spin while their lane runs: a model
//! at batch 1 on one core, and on all cores with several spinning times, in turn.
//!
//! ```text
//! cargo run --release -p fugato-device --example spinning -- MODEL.onnx [RUNS] [VARY]
//! ```

#![allow(clippy::print_stdout, reason = "it prints its result")]

mod common;

use anyhow::{Context, Result};
use common::{Runner, one_item, runtime};
use fugato_core::{ModelId, Nanos, PartitionId};
use fugato_device::{CpuOptions, Device, LoadOptions, ModelStore};
use serde_json::json;
use std::sync::Arc;

/// Runs of one kind before the next kind's turn: short, so that the machine's other work
/// meets all kinds alike.
const TURN: usize = 5;

/// Spinning times compared; 0 is sleeping at once, 1 s is for ever.
const SPINS_US: [u64; 6] = [0, 10, 20, 50, 300, 1_000_000];

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
    for micros in SPINS_US {
        let runner = Runner::new(CpuOptions {
            spin: Nanos::from_micros(micros),
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
    let mut kinds = vec![("one core".to_owned(), 0, single)];
    kinds.extend((0..).zip(SPINS_US).map(|(rig, micros)| {
        (
            format!("all cores, spinning {micros} us"),
            rig,
            PartitionId(0),
        )
    }));
    let mut times = vec![Vec::with_capacity(runs); kinds.len()];
    while times[0].len() < runs {
        for ((_, rig, partition), times) in kinds.iter().zip(&mut times) {
            for _ in 0..TURN {
                let leg = rigs[*rig].run(ModelId(1), *partition, &inputs)?;
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
