//! Measures what a leg costs beside its model: an identity model of one float, at batch
//! 1, from the call of `start` to hearing that it finished; on one core, on all, and in
//! plain ONNX Runtime called directly.
//!
//! ```text
//! cargo run --release -p fugato-device --example overhead [LEGS]
//! ```

#![allow(clippy::print_stdout, reason = "it prints its result")]

mod common;

use anyhow::{Context, Result};
use common::{Leg, Runner, one_item, runtime};
use fugato_core::{ModelId, PartitionId};
use fugato_device::reference::PlainSession;
use fugato_device::{CpuOptions, Device, LoadOptions, ModelStore};
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{OperatorSetIdProto, ValueInfoProto};
use fugato_onnx::{DataType, ExternalPolicy, GraphProto, ModelProto, NodeProto};
use serde_json::{Value, json};
use std::sync::Arc;

/// Legs run before measuring: enough for caches, pools and the first page faults.
const WARM_UP: usize = 1000;

fn identity() -> ModelProto {
    let value = |name: &str| {
        let dims = vec![Dimension::symbol("batch"), Dimension::size(1)];
        ValueInfoProto::tensor(name, DataType::Float, dims)
    };
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("identity".to_owned()),
            node: vec![NodeProto::new("identity", "Identity", &["x"], &["y"])],
            input: vec![value("x")],
            output: vec![value("y")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// Median and 99th percentile in microseconds.
fn spread(mut nanos: Vec<u64>) -> Value {
    nanos.sort_unstable();
    let at = |part: usize| nanos[(nanos.len() - 1) * part / 100] as f64 / 1e3;
    json!({ "p50_us": at(50), "p99_us": at(99) })
}

fn measure(runner: &mut Runner, partition: PartitionId, legs: usize) -> Result<Value> {
    let spec = &runner.device.spec().partitions[usize::from(partition.0)];
    let cores = spec.share().0;
    let specs = [fugato_device::TensorSpec {
        name: "x".to_owned(),
        element: fugato_device::ElementType::Fp32,
        shape: vec![None, Some(1)],
        symbols: vec![None, None],
    }];
    let inputs: Arc<[_]> = one_item(&specs, 1).into();
    let mut run = || runner.run(ModelId(1), partition, &inputs);
    for _ in 0..WARM_UP {
        run()?;
    }
    let legs = (0..legs).map(|_| run()).collect::<Result<Vec<Leg>>>()?;
    let of = |part: fn(&Leg) -> u64| spread(legs.iter().map(part).collect());
    Ok(json!({
        "cores": cores,
        "start_to_finished": of(|leg| leg.to_finished),
        "start_to_started": of(|leg| leg.to_started),
        "input": of(|leg| leg.split.input.as_nanos()),
        "infer": of(|leg| leg.split.infer.as_nanos()),
        "output": of(|leg| leg.split.output.as_nanos()),
    }))
}

fn main() -> Result<()> {
    let legs = std::env::args()
        .nth(1)
        .map_or(Ok(20_000), |legs| legs.parse())?;
    let runtime = runtime()?;
    let scratch = tempfile::tempdir()?;
    let path = scratch.path().join("identity.onnx");
    fugato_onnx::save_model(&identity(), &path, ExternalPolicy::Never)?;
    let stored = ModelStore::open(&runtime, scratch.path().join("store"))?.prepare(&path)?;
    let mut runner = Runner::new(CpuOptions::default())?;
    runner
        .device
        .load(ModelId(1), &stored, &LoadOptions::default())?;
    let partitions = &runner.device.spec().partitions;
    let single = partitions.iter().find(|partition| partition.share().0 == 1);
    let single = single.context("no partition of one core")?.id;
    let devices = [single, PartitionId(0)]
        .into_iter()
        .map(|partition| measure(&mut runner, partition, legs))
        .collect::<Result<Vec<_>>>()?;
    let mut plain = PlainSession::load(&runtime, &path, 1)?;
    let inputs = one_item(plain.inputs(), 1);
    let clock = fugato_device::MonotonicClock::start();
    let mut times = Vec::with_capacity(legs);
    for run in 0..WARM_UP + legs {
        let begun = clock.now();
        plain.run(&inputs)?;
        if run >= WARM_UP {
            times.push((clock.now() - begun).as_nanos());
        }
    }
    let report = json!({ "legs": legs, "device": devices, "plain_run": spread(times) });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
