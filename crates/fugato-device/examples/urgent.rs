//! Measures what an urgent leg gets beside a long one on the same core, by the classes that their
//! threads are in: one model all the time on the normal lane of one core, another one now and
//! then on its urgent lane.
//!
//! ```text
//! cargo run --release -p fugato-device --example urgent -- LONG.onnx SHORT.onnx [RUNS]
//! ```

#![allow(clippy::print_stdout, reason = "it prints its result")]

mod common;

use anyhow::{Context, Result};
use common::{Runner, one_item, runtime};
use fugato_core::device::LaneClass;
use fugato_core::{LaneId, ModelId};
use fugato_device::{CpuOptions, Device, LoadOptions, ModelStore};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Niceness of normal and urgent lanes, and whether normal ones have the slices of what may be suspended.
const CLASSES: [(i32, i32, bool); 7] = [
    (15, 15, true),
    (15, 10, true),
    (19, 10, true),
    (19, 5, true),
    (15, 0, false),
    (15, 0, true),
    (19, 0, true),
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let long = arguments.next().context("expected two model files")?;
    let short = arguments.next().context("expected two model files")?;
    let runs = arguments.next().map_or(Ok(200), |runs| runs.parse())?;
    let runtime = runtime()?;
    let scratch = tempfile::tempdir()?;
    let store = ModelStore::open(&runtime, scratch.path())?;
    let (long, short) = (store.prepare(long)?, store.prepare(short)?);
    let inputs =
        |model: &fugato_device::StoredModel| Arc::from(one_item(&model.info().inputs, 128));
    let (below, above) = (inputs(&long), inputs(&short));
    let mut rows = Vec::new();
    for (niceness_normal, niceness_urgent, layered) in CLASSES {
        let mut runner = Runner::new(CpuOptions {
            niceness_normal,
            niceness_urgent,
            layered,
            ..CpuOptions::default()
        })?;
        let mut partitions = runner.device.spec().partitions.iter();
        let single = partitions.find(|partition| partition.share().0 == 1);
        let single = single.context("no partition of one core")?.clone();
        let mut lanes = (0..).zip(&single.lanes);
        let urgent = lanes.find(|&(_, &class)| class == LaneClass::Urgent);
        let (lane, _) = urgent.context("no urgent lane")?;
        let options = LoadOptions {
            warm: vec![single.id],
            ..LoadOptions::default()
        };
        runner.device.load(ModelId(1), &long, &options)?;
        runner.device.load(ModelId(2), &short, &options)?;
        let mut alone = Vec::new();
        for _ in 0..runs / 4 {
            alone.push(runner.run(ModelId(2), single.id, &above)?.to_finished);
        }
        let mut undisturbed = Vec::new();
        for _ in 0..10 {
            undisturbed.push(runner.run(ModelId(1), single.id, &below)?.to_finished);
        }
        // Drawn, so that the short runs meet the long ones anywhere.
        let mut state = 1_u64;
        let apart = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            Duration::from_micros(5_000 + (state >> 33) % 20_000)
        };
        let (above, below) = runner.run_over(
            ((ModelId(1), &below), LaneId(lane)),
            ((ModelId(2), &above), runs),
            single.id,
            apart,
        )?;
        let at = |times: &[u64], part: usize| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times[(times.len() - 1) * part / 100] as f64 / 1e6
        };
        rows.push(json!({
            "niceness": [niceness_normal, niceness_urgent],
            "layered": layered,
            "short_alone_p50_ms": at(&alone, 50),
            "short_alone_p99_ms": at(&alone, 99),
            "short_p50_ms": at(&above, 50),
            "short_p90_ms": at(&above, 90),
            "short_p99_ms": at(&above, 99),
            "long_alone_p50_ms": at(&undisturbed, 50),
            "long_p50_ms": at(&below, 50),
        }));
    }
    println!("{}", serde_json::to_string_pretty(&rows)?);
    Ok(())
}
