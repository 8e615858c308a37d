//! Built-in profile sets: computed from kernel lists, not measured.
//!
//! **Synthetic**: a publication states of each model a share that is enough and a latency
//! there. The widest kernel of the model's list is chosen so that the knee at the set's
//! batch (by the tolerance of 5 %) is that share, the unit of time so that the latency is
//! that latency. What is stated stands beside the optima as [`ModelProfile::published`].

mod convnet;
mod v100;

use super::analyse::{AnalysisOptions, conclude, knee_at};
use super::file::{DeviceKey, Fit, FitRange, GridPoint, ModelProfile, Profile, Published, SCHEMA};
use super::parallelism::KernelList;

pub use convnet::convnet_mix;
pub use v100::v100_dstack;

/// The names of the built-in sets.
pub const BUILT_IN: [&str; 2] = ["v100-dstack", "convnet"];

/// The built-in set of this name; `None` for a name not in [`BUILT_IN`].
#[must_use]
pub fn built_in(name: &str) -> Option<Profile> {
    match name {
        "v100-dstack" => Some(v100_dstack()),
        "convnet" => Some(convnet_mix()),
        _ => None,
    }
}

/// Streaming multiprocessors of a V100, the device of every set.
const SLICES: u16 = 80;

/// The batch that every set states its models at.
const BATCH: u32 = 16;

/// The batches that the paper measures.
const BATCHES: [u32; 7] = [1, 2, 4, 8, 10, 12, 16];

/// Images that the paper's load generator sends, per second.
const ARRIVAL_RATE: f64 = 1920.0;

/// What is stated of a model.
struct Row {
    name: &'static str,
    knee_percent: u16,
    slo_s: f64,
    runtime_s: f64,
}

/// A row of a knee in per cent of the device, SLO and runtime in milliseconds.
const fn row(name: &'static str, knee_percent: u16, slo_ms: u16, runtime_ms: u16) -> Row {
    Row {
        name,
        knee_percent,
        slo_s: slo_ms as f64 / 1e3,
        runtime_s: runtime_ms as f64 / 1e3,
    }
}

/// A set of models of one shape of kernel list.
struct Set {
    runtime: &'static str,
    source: &'static str,
    rows: &'static [Row],
    /// The list whose widest kernel has so many operations per item, each of so many
    /// seconds.
    list: fn(width: f64, op_s: f64) -> KernelList,
}

impl Set {
    /// The profile of the set, flagged synthetic.
    fn profile(&self) -> Profile {
        Profile {
            schema: SCHEMA.to_owned(),
            device: DeviceKey {
                kind: "v100".to_owned(),
                name: "Tesla V100".to_owned(),
                slices: SLICES,
            },
            runtime: self.runtime.to_owned(),
            synthetic: true,
            launch_s: None,
            models: self.rows.iter().map(|row| self.model(row)).collect(),
        }
    }

    fn model(&self, row: &Row) -> ModelProfile {
        let share = SLICES * row.knee_percent / 100;
        let kernels = self.kernels(share, row.runtime_s);
        let mut model = ModelProfile::new(row.name, format!("synthetic:{}", row.name), BATCH);
        model.slo_s = Some(row.slo_s);
        model.arrival_rate = Some(ARRIVAL_RATE);
        model.published = Some(Published {
            source: self.source.to_owned(),
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

    /// The kernels whose knee at [`BATCH`] is `share` and whose latency there is `runtime_s`.
    fn kernels(&self, share: u16, runtime_s: f64) -> KernelList {
        let list = |first: u16, op_s: f64| {
            let width = f64::from(first) / f64::from(BATCH);
            (self.list)(width, op_s)
        };
        // The knee is never above the operations of the first kernel, and rises with them.
        let first = (share..=SLICES)
            .find(|&first| knee(&list(first, 1.0)) == Some(share))
            .unwrap_or(SLICES);
        let units = list(first, 1.0).latency_s(f64::from(BATCH), f64::from(share));
        list(first, runtime_s / units)
    }
}

/// The defaults, with exact points.
const fn options() -> AnalysisOptions {
    let mut options = AnalysisOptions::new(SLICES);
    options.interval_floor = 0.0;
    options
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
