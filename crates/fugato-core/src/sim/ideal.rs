//! `ideal`: the scheduler that real ones are compared with. It exists in simulation only.
//!
//! A model is its list of kernels ([`KernelList`]). A task in flight is at one of them.
//! The slices are divided anew whenever a kernel ends or a task begins: kernels are
//! preempted and resized at once and for nothing, slices may be divided, and no work is
//! lost between kernels. It starts no whole legs, so it is no [`Policy`](crate::policy).
//!
//! | here | what |
//! |---|---|
//! | demand of a kernel | the fewest whole slices at which it is fastest |
//! | time of a kernel at `s` slices | [`Kernel::latency_s`](crate::profile::Kernel::latency_s), its serial part included; below one slice, that of one slice in proportion |
//! | task | up to the model's batch; at most [`IdealOptions::in_flight`] of a model at once |
//!
//! **Why it bounds others.** A policy holds one share for a whole run. Here a kernel never
//! holds more than its demand, no slice idles while a kernel could use it, and a kernel that
//! gets `1/n` of the slices runs at `1/n` of its full speed or faster (without fork-join
//! cost, the time falls less than in proportion). So a set of tasks ends no later than one
//! after the other on the whole device, under any [`Division`]; and under
//! [`Division::MaxMin`] no model is slower than on a static share of `1/n`. Tests hold it to
//! both. It is *near* a bound and not above every schedule in every figure: it does not look
//! ahead, and a sum over unequal models can be raised by serving one of them less. How far
//! it is from what *no* schedule can do [`headroom()`] says: at most 1 % in all models at once on
//! the paper's mixes, where the two divisions agree within 2 %.
//!
//! **Invariant:** integer time; the slices given never exceed the device's.
//!
//! # Source
//! D-STACK's comparison with "an ideal scheduler that can allocate the right GPU percentage
//! for every DNN kernel". Ours differs: the paper does not say how kernels that do not fit
//! are divided; here it is a choice ([`Division`]).

mod engine;
mod figures;
mod headroom;
#[cfg(test)]
mod tests;

pub use figures::{IdealModelReport, IdealReport};
pub use headroom::headroom;

use crate::id::Share;
use crate::profile::{KernelList, ModelProfile, Optimum, Profile};
use crate::time::{Nanos, Timestamp};
use crate::workload::{ArrivalProcess, ModelLoad, Workload};
use engine::{Engine, Window};

/// How slices are divided among kernels that do not all fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Division {
    /// Equal parts; what a kernel cannot use goes to the others. The default: its shares of
    /// device time are those that a fair policy is held to.
    #[default]
    MaxMin,
    /// Each its demand, in order of deadline, as far as the slices go. Models of short
    /// objectives run at full speed, those of long ones on what is left.
    EarliestDeadline,
}

/// What the ideal scheduler runs on, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdealOptions {
    /// Slices of the device.
    pub slices: Share,
    /// How they are divided.
    pub division: Division,
    /// Most tasks of one model at once: the number of slots of the policies compared with.
    /// D-STACK runs one.
    pub in_flight: u16,
}

impl IdealOptions {
    /// One task of each model at once, divided by the default.
    #[must_use]
    pub fn new(slices: Share) -> Self {
        Self {
            slices,
            division: Division::default(),
            in_flight: 1,
        }
    }
}

/// A model as the ideal scheduler runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct IdealModel {
    /// Its name.
    pub name: String,
    /// Its kernels, in the order they run.
    pub kernels: KernelList,
    /// The most items of a task.
    pub batch: u32,
    /// The knee at that batch, in slices: what its device time is weighted by, to compare.
    pub knee: Share,
    /// The objective of a request.
    pub slo: Nanos,
}

/// Why a model cannot be run by the ideal scheduler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdealError {
    /// The profile has no such model.
    #[error("the profile has no model `{model}`")]
    UnknownModel {
        /// The model.
        model: String,
    },
    /// What the ideal scheduler needs of a model is not in its profile.
    #[error("model `{model}` has no {missing} in the profile; hint: {hint}")]
    Missing {
        /// The model.
        model: String,
        /// What is not there.
        missing: &'static str,
        /// How to get it.
        hint: &'static str,
    },
    /// A task of the model would take less than a nanosecond.
    #[error("the kernels of model `{model}` take no time")]
    NoTime {
        /// The model.
        model: String,
    },
    /// A number that must be at least 1 is 0.
    #[error("{parameter} is 0, expected at least 1")]
    Zero {
        /// Which number.
        parameter: &'static str,
    },
}

impl IdealModel {
    /// The model of this name of a profile: at its published batch, else the one of most
    /// efficacy, else the one its knee was taken at; under `slo`, else its own objective.
    ///
    /// # Errors
    /// [`IdealError::UnknownModel`]; [`IdealError::Missing`] where the profile has no
    /// fitted kernels, no knee or no objective.
    pub fn of(profile: &Profile, name: &str, slo: Option<Nanos>) -> Result<Self, IdealError> {
        let model = profile.models.iter().find(|model| model.name == name);
        let model = model.ok_or_else(|| IdealError::UnknownModel {
            model: name.to_owned(),
        })?;
        let missing = |missing, hint| IdealError::Missing {
            model: name.to_owned(),
            missing,
            hint,
        };
        let measure = "profile it at more batches and shares";
        let fit = model.fit.as_ref();
        let fit = fit.ok_or_else(|| missing("fitted kernels", measure))?;
        let batch = batch(model).ok_or_else(|| missing("batch", measure))?;
        let knee = knee(model, batch).ok_or_else(|| missing("knee", measure))?;
        let slo = slo.or(model.slo_s.map(Nanos::from_secs_f64));
        let slo = slo.ok_or_else(|| missing("SLO", "profile it with `--slo`"))?;
        Ok(Self {
            name: name.to_owned(),
            kernels: fit.model.clone(),
            batch,
            knee: Share(knee),
            slo,
        })
    }
}

fn batch(model: &ModelProfile) -> Option<u32> {
    if let Some(published) = &model.published {
        return Some(published.batch);
    }
    if let Optimum::At(point) = &model.optima.efficacy {
        return Some(point.batch);
    }
    model.knee_batch
}

/// The knee at the largest batch with a known one that is not above `batch`.
fn knee(model: &ModelProfile, batch: u32) -> Option<u16> {
    let known = model.knees.iter().filter(|at| at.batch <= batch);
    let known = known.filter_map(|at| Some((at.batch, at.knee.tolerance?)));
    let at = known.max_by_key(|(batch, _)| *batch).map(|(_, knee)| knee);
    at.or(model.knee.tolerance)
}

/// Runs `models` for `duration`, each with full batches always waiting.
///
/// A request counts as received when its task begins.
///
/// # Errors
/// [`IdealError::Zero`], [`IdealError::NoTime`].
///
/// # Cost
/// O(tasks in flight x log of them) per kernel.
pub fn ideal_saturated(
    models: &[IdealModel],
    options: IdealOptions,
    duration: Nanos,
) -> Result<IdealReport, IdealError> {
    let window = Window {
        from: Timestamp::ZERO,
        until: Timestamp::ZERO + duration,
    };
    let mut engine = Engine::new(models, options, window, vec![true; models.len()])?;
    engine.run(&vec![1; models.len()], std::iter::empty());
    Ok(engine.into_report())
}

/// Runs the requests of `workload`, drawn from `seed`, on the models of `profile`.
///
/// Requests wait in order of arrival for a place in flight; a task takes as many as end by
/// the first one's deadline if it gets the whole device. A request that could not even
/// alone is rejected, and so is one that would make a full batch smaller. The objective and the largest batch are the workload's. Figures leave
/// its warm-up out; what was received before the end is run to its end. A saturated model
/// always has a full batch waiting, as in [`ideal_saturated`].
///
/// # Errors
/// Those of [`IdealModel::of`] and [`ideal_saturated`].
///
/// # Cost
/// As [`ideal_saturated`].
pub fn ideal_offered(
    profile: &Profile,
    workload: &Workload,
    options: IdealOptions,
    seed: u64,
) -> Result<IdealReport, IdealError> {
    let mut models = Vec::new();
    for load in workload.models() {
        let mut model = IdealModel::of(profile, &load.name, Some(load.slo))?;
        if let Some(most) = load.max_batch_size {
            model.batch = model.batch.min(most.0);
        }
        models.push(model);
    }
    let window = Window {
        from: Timestamp::ZERO + workload.warmup(),
        until: Timestamp::ZERO + workload.end(),
    };
    let items: Vec<u32> = workload.models().iter().map(|load| load.batch.0).collect();
    let full = |load: &ModelLoad| load.arrivals == ArrivalProcess::Saturated;
    let saturated = workload.models().iter().map(full).collect();
    let mut engine = Engine::new(&models, options, window, saturated)?;
    engine.run(&items, workload.arrivals(seed));
    Ok(engine.into_report())
}
