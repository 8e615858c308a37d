//! The plan of a model that is served: which legs its tasks run in.

use super::devices::Site;
use super::load::VersionOrder;
use super::open;
use super::plan_bench::{Parts, PlanBench};
use super::workbench::items;
use crate::api::ModelInfo;
use crate::config::{Config, ModelConfig, Precision};
use crate::planning;
use fugato_core::graph::Segments;
use fugato_core::plan::{Plan, PlanError, PlanKey};
use fugato_core::profile::{DeviceKey, ModelProfile};
use fugato_core::{BatchSize, Nanos, Share};
use fugato_device::{Cuts, LoadError, StoredModel};
use std::sync::{Mutex, PoisonError};

/// The largest plan that is read, in bytes: a thousand segments take a tenth of it.
const BYTES_MAX: u64 = 16 << 20;

/// Tasks that the time of a segment is the median of where a model is cut as it is loaded:
/// who waits is a person, and legs need not be exact.
const ROUNDS: usize = 5;

/// Why a plan cannot be used. Clients are told too, so it names the file without its folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanFileError {
    #[error("plan `{file}` cannot be read: {reason}")]
    Read { file: String, reason: String },
    #[error("{error} (`{file}`)\n\nhint: make it anew with `fugato plan{flags} --out`")]
    Other {
        file: String,
        /// What of the model's settings such a plan is told.
        flags: &'static str,
        #[source]
        error: Box<PlanError>,
    },
    #[error("{}", .0.report())]
    Model(#[from] LoadError),
}

/// A plan as the device takes it.
pub(super) struct Planned {
    pub(super) cuts: Cuts,
    /// By leg: its part of the task's time.
    parts: Vec<f64>,
}

impl Planned {
    fn of(plan: &Plan, segments: &Segments) -> Self {
        let parts = plan.legs.iter().map(|leg| leg.predicted.as_secs_f64());
        Self {
            cuts: Cuts::of(plan, segments),
            parts: parts.collect(),
        }
    }

    /// The profile with a surface for each of the `legs` that the model was loaded with. One
    /// that has legs keeps them.
    pub(super) fn profile(&self, profile: ModelProfile, legs: u16) -> ModelProfile {
        match usize::from(legs) == self.parts.len() && profile.legs.is_empty() {
            true => profile.cut(&self.parts),
            false => profile,
        }
    }
}

impl PlanFileError {
    /// The device that the plan was made for, where it is another.
    pub(super) fn of_device(&self) -> Option<&DeviceKey> {
        let Self::Other { error, .. } = self else {
            return None;
        };
        if let PlanError::Device { found, .. } = &**error {
            return Some(found);
        }
        None
    }
}

/// The flags that tell `fugato plan` of a model's settings.
fn flags(settings: &ModelConfig) -> &'static str {
    match settings.precision {
        Precision::Fp32 => "",
        Precision::Fp16 => " --precision fp16",
    }
}

/// Reads the plan that a model's settings name, if they do, and checks that it is of this model, runtime and device.
///
/// The batch and the share that it was made for need not be those that tasks run at: its legs
/// are right for any, and as long as planned at its own.
pub(super) fn read(
    settings: &ModelConfig,
    stored: &StoredModel,
    (site, runtime): (&Site, &str),
) -> Result<Option<Planned>, PlanFileError> {
    let Some(path) = settings.plan.as_deref() else {
        return Ok(None);
    };
    let file = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let unreadable = |reason: String| PlanFileError::Read {
        file: file.clone(),
        reason,
    };
    let bytes = std::fs::metadata(path)
        .map_err(|error| unreadable(error.to_string()))?
        .len();
    if bytes > BYTES_MAX {
        return Err(unreadable(format!(
            "it has {bytes} bytes, more than {BYTES_MAX}"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let plan: Plan = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    let other = |error| PlanFileError::Other {
        file: file.clone(),
        flags: flags(settings),
        error: Box::new(error),
    };
    let key = PlanKey {
        model: stored.info().hash.clone(),
        device: site.device.profile_key(),
        runtime: runtime.to_owned(),
        share: plan.key.share,
        batch: plan.key.batch,
    };
    plan.matches(&key).map_err(other)?;
    let spec = site.device.spec();
    let partitions = &spec.partitions;
    if !partitions.iter().any(|part| part.share() == plan.key.share) {
        return Err(other(PlanError::Share {
            found: plan.key.share,
            expected: spec.slices,
        }));
    }
    let graph = stored.graph()?;
    let segments = match (plan.segment_flops, plan.stackable_apart) {
        (flops, true) => graph.segments_to_stack(flops.unwrap_or(u64::MAX)),
        (Some(flops), false) => graph.segments_from(flops),
        (None, false) => graph.segments(),
    };
    plan.check(&segments).map_err(other)?;
    Ok(Some(Planned::of(&plan, &segments)))
}

/// Cuts models as they are loaded, one at a time: two would measure each other.
pub(super) struct Cutter(Mutex<()>);

impl Cutter {
    pub(super) fn new() -> Self {
        Self(Mutex::new(()))
    }

    /// Legs of at most so long for a version that has no plan. On a CPU its parts are timed, on a
    /// device of their own over the same cores; elsewhere that would take the device from others,
    /// and the time of the whole model in its profile is divided. A model that cannot be cut or
    /// timed is served in one leg, and a warning says why.
    pub(super) fn cut(
        &self,
        order: &VersionOrder,
        (info, stored, profile): (&ModelInfo, &StoredModel, Option<&ModelProfile>),
        (config, site, runtime): (&Config, &Site, &str),
    ) -> Option<Planned> {
        let longest = order.settings.model.legs.map(|legs| legs.nanos());
        let longest = longest.filter(|&longest| longest > Nanos::ZERO)?;
        let model = order.name.as_str();
        let legs = match site.device.is_cpu() {
            true => self.timed(order, (info, stored), (config, runtime), longest),
            false => divided(order, (stored, profile), (site, runtime), longest),
        };
        let (plan, segments) = legs
            .inspect_err(|reason| {
                tracing::warn!(model, reason, "the model is not cut; a task is one leg");
            })
            .ok()?;
        if plan.legs.len() < 2 {
            tracing::info!(model, "the model is too short, or cannot be cut, for legs");
            return None;
        }
        let longest = plan.legs.iter().map(|leg| leg.predicted).max();
        tracing::info!(
            model,
            legs = plan.legs.len(),
            longest = %longest.unwrap_or_default(),
            "the model is cut into legs"
        );
        Some(Planned::of(&plan, &segments))
    }

    fn timed(
        &self,
        order: &VersionOrder,
        (info, stored): (&ModelInfo, &StoredModel),
        (config, runtime): (&Config, &str),
        longest: Nanos,
    ) -> Result<(Plan, Segments), String> {
        let _alone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let items = items(info, &order.settings, &order.folder)?;
        let parts = Parts {
            profiler: open::cpu_profiler(config).map_err(|error| error.to_string())?,
            stored: stored.clone(),
            runtime: runtime.to_owned(),
            share: Share(1),
            batch: BatchSize(1),
        };
        let failed = |error: crate::engine::PlanBenchError| error.to_string();
        let mut bench = PlanBench::with(parts, items).map_err(failed)?;
        planning::legs(&mut bench, longest, ROUNDS).map_err(failed)
    }
}

/// Legs by what a model's profile says that all of it takes, at its largest batch.
fn divided(
    order: &VersionOrder,
    (stored, profile): (&StoredModel, Option<&ModelProfile>),
    (site, runtime): (&Site, &str),
    longest: Nanos,
) -> Result<(Plan, Segments), String> {
    let whole = profile.and_then(longest_run);
    let ((batch, share), whole) = whole.ok_or_else(|| {
        let flags = flags(&order.settings.model);
        format!(
            "`legs` on this device goes by the model's profile, and it has none yet; it is cut when \
             it is loaded with one, measured while serving or by `fugato profile{flags}`, or follows \
             a `plan`, which `fugato plan{flags} --out` makes"
        )
    })?;
    let key = PlanKey {
        model: stored.info().hash.clone(),
        device: site.device.profile_key(),
        runtime: runtime.to_owned(),
        share,
        batch,
    };
    let graph = stored.graph().map_err(|error| error.report())?;
    let legs = planning::legs_by_whole(&graph, key, whole, longest);
    legs.map_err(|error| error.to_string())
}

/// What the largest batch of a profile takes in the largest share, alone.
fn longest_run(profile: &ModelProfile) -> Option<((BatchSize, Share), Nanos)> {
    let alone = profile.grid.iter().filter(|point| point.neighbours == 0);
    let timed = alone.filter_map(|point| Some((point, point.times()?)));
    let (point, times) = timed.max_by_key(|(point, _)| (point.share, point.batch))?;
    let at = (BatchSize(point.batch), Share(point.share));
    Some((at, Nanos::from_secs_f64(times.median_s)))
}
