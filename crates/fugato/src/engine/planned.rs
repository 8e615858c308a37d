//! The plan of a model that is served: which legs its tasks run in.

use super::runner::Runner;
use fugato_core::plan::{Plan, PlanError, PlanKey};
use fugato_core::profile::ModelProfile;
use fugato_device::{Cuts, Device, LoadError, StoredModel};
use std::path::Path;

/// The largest plan that is read, in bytes: a thousand segments take a tenth of it.
const BYTES_MAX: u64 = 16 << 20;

/// Why a plan cannot be used. Clients are told too, so it names the file without its folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanFileError {
    #[error("plan `{file}` cannot be read: {reason}")]
    Read { file: String, reason: String },
    #[error("{error} (`{file}`)\n\nhint: make it anew with `fugato plan --out`")]
    Other {
        file: String,
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
    /// The profile with a surface for each of the `legs` that the model was loaded with. One
    /// that has legs keeps them.
    pub(super) fn profile(&self, profile: ModelProfile, legs: u16) -> ModelProfile {
        match usize::from(legs) == self.parts.len() && profile.legs.is_empty() {
            true => profile.cut(&self.parts),
            false => profile,
        }
    }
}

/// Reads the plan at `path` and checks that it is of this model, runtime and device.
///
/// The batch and the share that it was made for need not be those that tasks run at: its legs
/// are right for any, and as long as planned at its own.
pub(super) fn read(
    path: Option<&Path>,
    stored: &StoredModel,
    runner: &Runner,
) -> Result<Option<Planned>, PlanFileError> {
    let Some(path) = path else {
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
        error: Box::new(error),
    };
    let key = PlanKey {
        model: stored.info().hash.clone(),
        device: runner.device.profile_key(),
        runtime: runner.profiles.runtime().to_owned(),
        share: plan.key.share,
        batch: plan.key.batch,
    };
    plan.matches(&key).map_err(other)?;
    let partitions = &runner.device.spec().partitions;
    if !partitions.iter().any(|part| part.share() == plan.key.share) {
        return Err(other(PlanError::Share {
            found: plan.key.share,
            expected: runner.device.spec().slices,
        }));
    }
    let graph = stored.graph()?;
    let segments = match plan.segment_flops {
        Some(flops) => graph.segments_from(flops),
        None => graph.segments(),
    };
    plan.check(&segments).map_err(other)?;
    let parts = plan.legs.iter().map(|leg| leg.predicted.as_secs_f64());
    Ok(Some(Planned {
        cuts: Cuts::of(&plan, &segments),
        parts: parts.collect(),
    }))
}
