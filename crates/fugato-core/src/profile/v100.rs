//! The built-in profile set `v100-dstack`: the models of D-STACK's table on its device.
//!
//! **Synthetic**: no V100 was measured. Each model is the paper's own synthetic kernel
//! list, its widest kernel chosen so that the knee at batch 16 (by the tolerance of 5 %)
//! is the table's share, its unit of time so that the latency there is the table's. The
//! table's (batch, share) stands beside the optima as [`ModelProfile::published`]: under
//! the paper's own rule `latency <= SLO / 2` two of its rows are infeasible.

use super::analyse::{AnalysisOptions, conclude, knee_at};
use super::file::{DeviceKey, Fit, FitRange, GridPoint, ModelProfile, Profile, Published, SCHEMA};
use super::parallelism::KernelList;

/// Streaming multiprocessors of a V100.
const SLICES: u16 = 80;

/// The batch of every row of the table.
const BATCH: u32 = 16;

/// The batches that the paper measures.
const BATCHES: [u32; 7] = [1, 2, 4, 8, 10, 12, 16];

/// Kernels per model, and serial time as a fraction of one operation's: those of the
/// paper's synthetic run (`t_p` = 40, `t_np` = 10).
const KERNELS: u16 = 50;
const LAUNCH: f64 = 0.25;

/// Images that the paper's load generator sends, per second.
const ARRIVAL_RATE: f64 = 1920.0;

struct Row {
    name: &'static str,
    knee_percent: u16,
    slo_s: f64,
    runtime_s: f64,
}

const fn row(name: &'static str, knee_percent: u16, slo_ms: u16, runtime_ms: u16) -> Row {
    Row {
        name,
        knee_percent,
        slo_s: slo_ms as f64 / 1e3,
        runtime_s: runtime_ms as f64 / 1e3,
    }
}

/// The table: model, knee in per cent of the device, SLO and runtime in milliseconds.
const TABLE: [Row; 8] = [
    row("mobilenet", 20, 25, 10),
    row("alexnet", 30, 25, 8),
    row("bert", 30, 25, 9),
    row("resnet18", 30, 25, 12),
    row("resnet50", 40, 50, 28),
    row("inception", 40, 50, 25),
    row("vgg19", 50, 100, 55),
    row("resnext50", 50, 100, 40),
];

/// The profile set `v100-dstack`, flagged synthetic.
///
/// # Source
/// D-STACK's table of models on a V100, as recalled by readers of the paper and not
/// checked against it.
///
/// # Cost
/// Some thousand evaluations of 50 kernels: milliseconds.
#[must_use]
pub fn v100_dstack() -> Profile {
    Profile {
        schema: SCHEMA.to_owned(),
        device: DeviceKey {
            kind: "v100".to_owned(),
            name: "Tesla V100".to_owned(),
            slices: SLICES,
        },
        runtime: "D-STACK's equations".to_owned(),
        synthetic: true,
        models: TABLE.iter().map(model).collect(),
    }
}

fn model(row: &Row) -> ModelProfile {
    let share = SLICES * row.knee_percent / 100;
    let kernels = kernels(share, row.runtime_s);
    let mut model = ModelProfile::new(row.name, format!("synthetic:{}", row.name), BATCH);
    model.slo_s = Some(row.slo_s);
    model.arrival_rate = Some(ARRIVAL_RATE);
    model.published = Some(Published {
        source: "D-STACK, table of models on a V100".to_owned(),
        batch: BATCH,
        share,
        latency_s: row.runtime_s,
    });
    model.grid = BATCHES
        .iter()
        .flat_map(|&batch| (1..=SLICES).map(move |share| (batch, share)))
        .map(|(batch, share)| point(&kernels, batch, share))
        .collect();
    model.fit = Some(Fit {
        model: kernels,
        // The paper counts bandwidth in proportion to the share: neighbours cost nothing.
        contention: Some(0.0),
        range: FitRange {
            batch_min: 1,
            batch_max: BATCH,
            share_min: 1,
            share_max: SLICES,
        },
        median_error: 0.0,
        worst_error: 0.0,
        held_out: None,
        points: Vec::new(),
    });
    conclude(&mut model, &options());
    model
}

/// The defaults, with exact points.
const fn options() -> AnalysisOptions {
    let mut options = AnalysisOptions::new(SLICES);
    options.interval_floor = 0.0;
    options
}

/// The kernels whose knee at [`BATCH`] is `share` and whose latency there is `runtime_s`.
fn kernels(share: u16, runtime_s: f64) -> KernelList {
    let list = |first: u16, op_s: f64| {
        let width = f64::from(first) / f64::from(BATCH);
        KernelList::falling(width, KERNELS, op_s, LAUNCH * op_s)
    };
    // The knee is never above the operations of the first kernel, and rises with them.
    let first = (share..=SLICES)
        .find(|&first| knee(&list(first, 1.0)) == Some(share))
        .unwrap_or(SLICES);
    let units = list(first, 1.0).latency_s(f64::from(BATCH), f64::from(share));
    list(first, runtime_s / units)
}

fn knee(kernels: &KernelList) -> Option<u16> {
    let mut model = ModelProfile::new("knee", "synthetic", BATCH);
    model.grid = (1..=SLICES)
        .map(|share| point(kernels, BATCH, share))
        .collect();
    knee_at(&model, BATCH, &options()).knee.tolerance
}

fn point(kernels: &KernelList, batch: u32, share: u16) -> GridPoint {
    let latency_s = kernels.latency_s(f64::from(batch), f64::from(share));
    GridPoint {
        batch,
        share,
        neighbours: 0,
        median_s: Some(latency_s),
        p95_s: Some(latency_s),
        low_s: Some(latency_s),
        high_s: Some(latency_s),
        repeats: 1,
        failed: None,
    }
}
