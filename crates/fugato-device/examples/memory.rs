//! Measures the memory of a model with a one-thread and an all-cores session, after 20
//! runs at batch 1 of each: proportional set size of the whole process, against the bound
//! of 1.15 x weights + stated activations + 80 MB.
//!
//! ```text
//! cargo run --release -p fugato-device --example memory -- MODEL.onnx
//!     [--naive]             two plain ONNX Runtime sessions instead, for comparison
//!     [--activations MB]    what the model's activations are stated to need (default 0)
//!     [--vary N]            size of dimensions that vary past the batch (default 128)
//!     [--store DIR]         the model store (default: a new one, so the model is optimised)
//! ```

#![allow(clippy::print_stdout, reason = "it prints its result")]

mod common;

use anyhow::{Context, Result};
use common::{Runner, one_item, runtime};
use fugato_core::{ModelId, PartitionId};
use fugato_device::reference::PlainSession;
use fugato_device::{CpuOptions, Device, LoadOptions, ModelStore};
use std::path::PathBuf;
use std::sync::Arc;

const RUNS: usize = 20;
const MB: f64 = 1e6;

struct Arguments {
    model: PathBuf,
    naive: bool,
    activations_mb: f64,
    vary: u64,
    store: Option<PathBuf>,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        model: PathBuf::new(),
        naive: false,
        activations_mb: 0.0,
        vary: 128,
        store: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || {
            given
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--naive" => parsed.naive = true,
            "--activations" => parsed.activations_mb = value()?.parse()?,
            "--vary" => parsed.vary = value()?.parse()?,
            "--store" => parsed.store = Some(value()?.into()),
            path => parsed.model = path.into(),
        }
    }
    Ok(parsed)
}

/// The process's proportional set size, in bytes.
fn pss() -> Result<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes
        .context("smaps_rollup has no Pss")?
        .parse::<u64>()?
        * 1024)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let runtime = runtime()?;
    let before = pss()?;
    let cores = std::thread::available_parallelism()?.get();
    let (weights, after, sessions) = match arguments.naive {
        true => naive(&runtime, &arguments, u16::try_from(cores)?)?,
        false => shared(&runtime, &arguments)?,
    };
    let bound = 1.15 * weights as f64 + arguments.activations_mb * MB + 80.0 * MB;
    let report = serde_json::json!({
        "model": arguments.model,
        "sessions": sessions,
        "runs_per_session": RUNS,
        "weights_mb": weights as f64 / MB,
        "activations_mb": arguments.activations_mb,
        "pss_before_mb": before as f64 / MB,
        "pss_after_mb": after as f64 / MB,
        "pss_over_weights": after as f64 / weights as f64,
        "bound_mb": bound / MB,
        "holds": after as f64 <= bound,
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// The device's way: both sessions over the store's weights.
fn shared(
    runtime: &Arc<fugato_device::Runtime>,
    arguments: &Arguments,
) -> Result<(u64, u64, Vec<String>)> {
    let scratch = tempfile::tempdir()?;
    let folder = arguments
        .store
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    let store = ModelStore::open(runtime, folder)?;
    let stored = store.prepare(&arguments.model)?;
    let mut runner = Runner::new(CpuOptions::default())?;
    let spec = runner.device.spec().clone();
    let single = spec
        .partitions
        .iter()
        .find(|partition| partition.share().0 == 1);
    let single = single.context("no partition of one core")?.id;
    let warm = vec![PartitionId(0), single];
    let options = LoadOptions {
        warm: warm.clone(),
        ..LoadOptions::default()
    };
    runner.device.load(ModelId(1), &stored, &options)?;
    let inputs: Arc<[_]> = one_item(&stored.info().inputs, arguments.vary).into();
    for _ in 0..RUNS {
        for &partition in &warm {
            runner.run(ModelId(1), partition, &inputs)?;
        }
    }
    let sessions = warm.iter().map(|id| {
        let share = spec.partitions[usize::from(id.0)].share();
        format!("{} threads, shared weights", share.0)
    });
    Ok((stored.info().weight_bytes, pss()?, sessions.collect()))
}

/// What a program gets that makes two plain sessions.
fn naive(
    runtime: &Arc<fugato_device::Runtime>,
    arguments: &Arguments,
    cores: u16,
) -> Result<(u64, u64, Vec<String>)> {
    let threads = [1, cores];
    let mut sessions = Vec::new();
    for threads in threads {
        sessions.push(PlainSession::load(runtime, &arguments.model, threads)?);
    }
    let inputs = one_item(sessions[0].inputs(), arguments.vary);
    for _ in 0..RUNS {
        for session in &mut sessions {
            session.run(&inputs)?;
        }
    }
    let after = pss()?;
    drop(sessions);
    // Only to learn the weights' size, after the measurement.
    let scratch = tempfile::tempdir()?;
    let stored = ModelStore::open(runtime, scratch.path())?.prepare(&arguments.model)?;
    let names = threads
        .iter()
        .map(|threads| format!("{threads} threads, plain"));
    Ok((stored.info().weight_bytes, after, names.collect()))
}
