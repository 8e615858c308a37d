//! The plan of a model that is served: which legs its tasks run in.

use super::devices::Site;
use super::load::VersionOrder;
use super::open;
use super::plan_bench::{Parts, PlanBench};
use super::workbench::items;
use crate::api::ModelInfo;
use crate::config::{Config, ModelConfig, Precision};
use crate::planning;
use fugato_core::device::DeviceSpec;
use fugato_core::graph::Segments;
use fugato_core::plan::{Plan, PlanError, PlanKey};
use fugato_core::profile::{DeviceKey, ModelProfile};
use fugato_core::{BatchSize, Nanos, Share};
use fugato_device::{Cuts, LoadError, ModelGraph, RequestInputs, StoredModel};
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
    pub(super) plan: Plan,
}

/// What plans are for here.
pub(super) struct Here<'a> {
    /// The device, as plans and profiles call it.
    pub(super) device: DeviceKey,
    pub(super) spec: &'a DeviceSpec,
    /// The runtime, as they call it.
    pub(super) runtime: &'a str,
}

impl Planned {
    /// Whether its legs one after the other take less than the model in one go. Where all groups
    /// run one after the other they do not; where some run at once or are merged, unless they were
    /// timed and did not either.
    pub(super) fn is_faster_than_unsplit(&self) -> bool {
        let timed = self.plan.timed;
        !self.cuts.is_in_turn() && timed.is_none_or(|timed| timed.legs < timed.unsplit)
    }

    pub(super) fn of(plan: Plan, segments: &Segments) -> Self {
        Self {
            cuts: Cuts::of(&plan, segments),
            plan,
        }
    }

    /// The profile with a surface for each of the `legs` that the model was loaded with: those that
    /// were measured of legs that are cut alike, or that came without saying how they are cut;
    /// else each leg has the part of all times that the plan says.
    pub(super) fn profile(&self, profile: ModelProfile, legs: u16) -> ModelProfile {
        let legs = usize::from(legs);
        if legs != self.plan.legs.len() {
            return profile.whole();
        }
        let fits = match profile.leg_plan.as_deref() {
            Some(known) => known.plan.cuts_alike(&self.plan),
            None => profile.legs.len() == legs,
        };
        if fits {
            return profile;
        }
        let parts = self.plan.legs.iter().map(|leg| leg.predicted.as_secs_f64());
        profile.cut(&parts.collect::<Vec<_>>())
    }
}

impl<'a> Here<'a> {
    pub(super) fn at(site: &'a Site, runtime: &'a str) -> Self {
        Self {
            device: site.device.profile_key(),
            spec: site.device.spec(),
            runtime,
        }
    }
}

/// The segments that a plan places.
fn segments_of(plan: &Plan, graph: &ModelGraph) -> Segments {
    match (plan.segment_flops, plan.stackable_apart) {
        (flops, true) => graph.segments_to_stack(flops.unwrap_or(u64::MAX)),
        (Some(flops), false) => graph.segments_from(flops),
        (None, false) => graph.segments(),
    }
}

/// A plan of the model as the device takes it.
///
/// # Errors
/// Where it is none.
pub(super) fn of_plan(plan: &Plan, stored: &StoredModel) -> Result<Planned, String> {
    let graph = stored.graph().map_err(|error| error.report())?;
    let segments = segments_of(plan, &graph);
    plan.check(&segments).map_err(|error| error.to_string())?;
    Ok(Planned::of(plan.clone(), &segments))
}

/// How a plan of the model cuts it, for whoever checks a device.
///
/// # Errors
/// Where it is no plan of the model.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn cuts_of(plan: &Plan, stored: &StoredModel) -> Result<Cuts, String> {
    of_plan(plan, stored).map(|planned| planned.cuts)
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
/// are right for any, and as long as planned at its own. But they are such as tasks may run at:
/// a batch of at most `max_batch` items, and a share of a partition.
pub(super) fn read(
    settings: &ModelConfig,
    (stored, max_batch): (&StoredModel, BatchSize),
    here: &Here<'_>,
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
        device: here.device.clone(),
        runtime: here.runtime.to_owned(),
        share: plan.key.share,
        batch: plan.key.batch,
    };
    plan.matches(&key).map_err(other)?;
    if plan.key.batch > max_batch {
        return Err(other(PlanError::BatchMax {
            found: plan.key.batch,
            max: max_batch,
        }));
    }
    let partitions = &here.spec.partitions;
    if !partitions.iter().any(|part| part.share() == plan.key.share) {
        return Err(other(PlanError::Share {
            found: plan.key.share,
            expected: here.spec.slices,
        }));
    }
    let graph = stored.graph()?;
    let segments = segments_of(&plan, &graph);
    plan.check(&segments).map_err(other)?;
    Ok(Some(Planned::of(plan, &segments)))
}

/// Cuts models as they are loaded, one at a time: two would measure each other.
pub(super) struct Cutter(Mutex<()>);

impl Cutter {
    pub(super) fn new() -> Self {
        Self(Mutex::new(()))
    }

    /// Legs of at most so long for a version that has no plan. Where its profile has measured
    /// such legs, it is cut as they are. On a CPU its parts are timed, on a device of their own
    /// over the same cores; elsewhere that would take the device from others, and the time of the
    /// whole model in its profile is divided. A model that cannot be cut or timed is served in one
    /// leg, and a warning says why.
    pub(super) fn cut(
        &self,
        order: &VersionOrder,
        (info, stored, profile): (&ModelInfo, &StoredModel, Option<&ModelProfile>),
        (config, site, runtime): (&Config, &Site, &str),
    ) -> Option<Planned> {
        let settings = &order.settings.model;
        let longest = settings.legs.map(|legs| legs.nanos());
        let longest = longest.filter(|&longest| longest > Nanos::ZERO)?;
        let model = order.name.as_str();
        if let Some(measured) = measured(model, (stored, profile), longest) {
            return Some(measured);
        }
        let legs = if site.device.is_cpu() {
            let items = items(info, &order.settings, &order.folder);
            let _alone = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            items.and_then(|items| timed((stored, items), (config, runtime), longest))
        } else {
            let here = Here::at(site, runtime);
            divided((stored, profile), &here, longest).and_then(|legs| {
                let flags = flags(settings);
                legs.ok_or_else(|| {
                    format!(
                        "`legs` on this device goes by the model's profile, and it has none yet; it \
                         is cut when it is loaded with one, measured while serving or by `fugato \
                         profile{flags}`, or follows a `plan`, which `fugato plan{flags} --out` makes"
                    )
                })
            })
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
        Some(Planned::of(plan, &segments))
    }
}

/// The legs that the model's profile has measured, where they were cut to be no longer than that.
fn measured(
    model: &str,
    (stored, profile): (&StoredModel, Option<&ModelProfile>),
    longest: Nanos,
) -> Option<Planned> {
    let legs = profile?.leg_plan.as_deref()?;
    if legs.longest != Some(longest) {
        let measured = legs
            .longest
            .map_or_else(|| "those of a plan".to_owned(), |legs| legs.to_string());
        tracing::info!(
            model,
            measured,
            wanted = %longest,
            "the legs that the model's profile has are others"
        );
        return None;
    }
    let planned = of_plan(&legs.plan, stored);
    let planned = planned.inspect_err(|reason| {
        tracing::warn!(
            model,
            reason,
            "the model is cut anew, not as its profile has it"
        );
    });
    let planned = planned.ok()?;
    let legs = planned.plan.legs.len();
    tracing::info!(model, legs, "the model is cut as its profile has it");
    Some(planned)
}

/// Legs of at most so long by what the parts of a model take, on a CPU device of their own: one
/// item, on one core.
///
/// # Errors
/// Where the model cannot be run, with the reason.
pub(super) fn timed(
    (stored, items): (&StoredModel, Vec<RequestInputs>),
    (config, runtime): (&Config, &str),
    longest: Nanos,
) -> Result<(Plan, Segments), String> {
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

/// Legs by what a model's profile says that all of it takes, at its largest batch. `None`: it says
/// nothing.
///
/// # Errors
/// Where the model cannot be cut, with the reason.
pub(super) fn divided(
    (stored, profile): (&StoredModel, Option<&ModelProfile>),
    here: &Here<'_>,
    longest: Nanos,
) -> Result<Option<(Plan, Segments)>, String> {
    let Some(((batch, share), whole)) = profile.and_then(longest_run) else {
        return Ok(None);
    };
    let key = PlanKey {
        model: stored.info().hash.clone(),
        device: here.device.clone(),
        runtime: here.runtime.to_owned(),
        share,
        batch,
    };
    let graph = stored.graph().map_err(|error| error.report())?;
    let legs = planning::legs_by_whole(&graph, key, whole, longest);
    legs.map(Some).map_err(|error| error.to_string())
}

/// What the largest batch of a profile takes in the largest share, alone.
fn longest_run(profile: &ModelProfile) -> Option<((BatchSize, Share), Nanos)> {
    let alone = profile.grid.iter().filter(|point| point.neighbours == 0);
    let timed = alone.filter_map(|point| Some((point, point.times()?)));
    let (point, times) = timed.max_by_key(|(point, _)| (point.share, point.batch))?;
    let at = (BatchSize(point.batch), Share(point.share));
    Some((at, Nanos::from_secs_f64(times.median_s)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::OperatorIndex;
    use fugato_core::SegmentIndex;
    use fugato_core::plan::{CostBasis, Group, LegLimits, Stage, Timed};
    use fugato_core::profile::{LegPlan, v100_dstack};

    /// A plan of two legs, the second three times as long.
    fn planned(model: &ModelProfile) -> Planned {
        let key = PlanKey {
            model: model.hash.clone(),
            device: v100_dstack().device,
            runtime: v100_dstack().runtime,
            share: Share(1),
            batch: BatchSize(1),
        };
        let stage = |(segment, millis)| Stage {
            groups: vec![Group::from(vec![SegmentIndex(segment)])],
            merged: false,
            predicted: Nanos::from_millis(millis),
        };
        let limits = LegLimits {
            min: Nanos::from_millis(1),
            max: Nanos::from_millis(1),
        };
        let stages = [(0, 1), (1, 3)].map(stage).to_vec();
        Planned {
            cuts: Cuts::default(),
            plan: Plan::new(key, "sequential", CostBasis::Measured, stages, limits),
        }
    }

    #[test]
    fn a_plan_of_groups_at_once_is_faster_unless_it_was_timed_and_is_not() {
        let mut planned = planned(&v100_dstack().models[0]);
        assert!(
            !planned.is_faster_than_unsplit(),
            "it does the same in parts"
        );
        planned.cuts = Cuts::new(vec![vec![vec![
            vec![OperatorIndex::at(0)],
            vec![OperatorIndex::at(1)],
        ]]]);
        assert!(planned.is_faster_than_unsplit(), "why else at once");
        for (legs, is_faster) in [(9, true), (10, false), (11, false)] {
            planned.plan.timed = Some(Timed {
                legs: Nanos::from_millis(legs),
                unsplit: Nanos::from_millis(10),
            });
            assert_eq!(planned.is_faster_than_unsplit(), is_faster, "{legs} ms");
        }
    }

    /// How many times as long as the first leg the second is.
    fn ratio(profile: &ModelProfile) -> f64 {
        let time = |leg: usize| profile.legs[leg].grid[0].median_s.expect("measured");
        time(1) / time(0)
    }

    #[test]
    fn a_profile_keeps_the_legs_that_it_measured_of_the_same_cut() {
        let model = v100_dstack().models[0].clone();
        let planned = planned(&model);
        let mut measured = model.cut(&[1.0, 7.0]);
        measured.leg_plan = Some(Box::new(LegPlan {
            longest: None,
            plan: planned.plan.clone(),
        }));
        let kept = planned.profile(measured.clone(), 2);
        assert_eq!(kept, measured);
        assert!((ratio(&kept) - 7.0).abs() < 1e-9);

        // Cut otherwise, each leg has the part that the plan says.
        let mut other = measured.clone();
        other
            .leg_plan
            .as_mut()
            .expect("it is there")
            .plan
            .segment_flops = Some(1);
        let divided = planned.profile(other, 2);
        assert_eq!(divided.leg_plan, None);
        assert!((ratio(&divided) - 3.0).abs() < 1e-9);
        let divided = planned.profile(model.clone(), 2);
        assert!((ratio(&divided) - 3.0).abs() < 1e-9);

        // Legs without a plan count where there are as many.
        let given = model.cut(&[1.0, 5.0]);
        assert_eq!(planned.profile(given.clone(), 2), given);
        let three = planned.profile(model.cut(&[1.0, 1.0, 1.0]), 2);
        assert_eq!(three.legs.len(), 2);

        // A part did not run by itself, and the model was loaded as it is.
        assert_eq!(planned.profile(measured, 1), model.whole());
    }
}
