//! Measures what each model of a repository can use: the loop around
//! [`Survey`](fugato_core::profile::Survey) and the device.
//!
//! [`Run`] owns both; [`files`] keeps its results, [`table`] tells people of them.

mod beside;
mod changeovers;
pub mod files;
mod legs;
mod subject;
pub mod table;

pub use legs::Whole;

use crate::engine::Workbench;
use files::{Earlier, SampledModel};
use fugato_core::Nanos;
use fugato_core::profile::{Beside, ModelProfile, PointKey, Profile, SCHEMA};
use fugato_device::Device;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use subject::Subject;

/// What to measure, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Batch sizes, rising. A model is measured at those up to its `max_batch_size`.
    pub batches: Vec<u32>,
    /// Shares in slices; `None` for all that the device has partitions of.
    pub shares: Option<Vec<u16>>,
    /// The time for measuring all models together, from [`Run::new`]'s `begun` on.
    pub budget: Nanos,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// Latency objectives by model, in place of configured ones.
    pub slos: BTreeMap<String, Nanos>,
    /// Rates of arrival by model, in items per second.
    pub rates: BTreeMap<String, f64>,
}

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The device has no partition of that size.
    #[error(
        "the device has no partition of {found} slices\n\nhint: give `--shares` some of \
         {expected:?}, or `all`"
    )]
    Share {
        /// The share asked for.
        found: u16,
        /// Those there are.
        expected: Vec<u16>,
    },
    /// A model takes none of the batch sizes.
    #[error(
        "model `{model}` runs at most {max_batch} items at once, so none of the batch sizes \
         {batches:?} can be measured"
    )]
    Batches {
        /// The model.
        model: String,
        /// Its limit.
        max_batch: u32,
        /// The sizes asked for.
        batches: Vec<u32>,
    },
    /// What was measured earlier is of something else.
    #[error(transparent)]
    Earlier(#[from] files::EarlierError),
}

/// How measuring ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing is left that is worth its time.
    Complete,
    /// The budget is spent.
    BudgetSpent,
    /// Somebody said stop.
    Stopped,
}

/// Where measuring stands.
#[derive(Clone, Debug)]
pub struct Status<'a> {
    /// The model of the next visit.
    pub model: &'a str,
    /// The legs that it is cut into there; none where it is as it is.
    pub legs: Option<u16>,
    /// The point of it.
    pub point: PointKey,
    /// Points of all models that have had all their visits.
    pub covered: usize,
    /// Points of all models.
    pub points: usize,
    /// Time spent.
    pub spent: Nanos,
    /// Time left: until all points have had their visits, or, where they have and
    /// decisions are still open, what is left of the budget.
    pub left: Nanos,
}

/// The measuring of one repository's models on one device.
pub struct Run {
    options: Options,
    bench: Workbench,
    begun: Instant,
    subjects: Vec<Subject>,
    /// What an earlier run found of models that are not in this one.
    others: Vec<ModelProfile>,
    /// The times behind them.
    other_samples: Vec<SampledModel>,
    /// See [`Profile::launch_s`].
    launch_s: Option<f64>,
}

impl Run {
    /// Plans the measuring of the models on `bench`, going on from what was found earlier.
    /// The budget counts from `begun`.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(
        mut bench: Workbench,
        options: Options,
        earlier: Option<Earlier>,
        begun: Instant,
    ) -> Result<Self, PlanError> {
        let shares = shares(&bench, options.shares.as_deref())?;
        if let Some(earlier) = &earlier {
            earlier.check(&bench)?;
        }
        let models = std::mem::take(&mut bench.models);
        let mut subjects = Vec::with_capacity(models.len());
        for model in models {
            subjects.push(Subject::new(model, &options, &shares, &bench)?);
        }
        let (mut others, mut other_samples) = (Vec::new(), Vec::new());
        let launch_s = earlier.as_ref().and_then(|known| known.profile.launch_s);
        if let Some(earlier) = earlier {
            for subject in &mut subjects {
                subject.resume(&earlier, &options);
            }
            other_samples.extend_from_slice(earlier.samples());
            others = earlier.profile.models;
            others.retain(|known| !subjects.iter().any(|subject| subject.replaces(known)));
            other_samples.retain(|times: &SampledModel| {
                let mut others = others.iter();
                others.any(|known| (&known.name, &known.hash) == (&times.name, &times.hash))
            });
        }
        Ok(Self {
            options,
            bench,
            begun,
            subjects,
            others,
            other_samples,
            launch_s,
        })
    }

    /// The bench with its models, for another run.
    pub fn into_bench(self) -> Workbench {
        for subject in &self.subjects {
            subject.give_up(self.bench.profiler.device());
        }
        let models = self.subjects.into_iter().map(|subject| subject.model);
        Workbench {
            models: models.collect(),
            ..self.bench
        }
    }

    /// Batch sizes that were asked for and that a model does not take: its name, its
    /// limit, the sizes.
    pub fn left_out(&self) -> impl Iterator<Item = (&str, u32, Vec<u32>)> {
        self.subjects.iter().filter_map(move |subject| {
            let max_batch = subject.model.max_batch;
            let mut above = self.options.batches.clone();
            above.retain(|&batch| batch > max_batch);
            let left_out = (subject.model.name.as_str(), max_batch, above);
            (!left_out.2.is_empty()).then_some(left_out)
        })
    }

    /// Models whose legs were asked for and were not measured.
    pub fn left_whole(&self) -> impl Iterator<Item = (&str, Whole)> {
        self.subjects.iter().filter_map(|subject| {
            let why = subject.left_whole()?;
            Some((subject.model.name.as_str(), why))
        })
    }

    /// Makes visits until nothing is left to measure, the budget is spent, or `stopped`.
    /// `tell` is called before each visit, and may keep what was found so far.
    pub fn measure(
        &mut self,
        stopped: impl Fn() -> bool,
        mut tell: impl FnMut(&Self, &Status<'_>),
    ) -> End {
        for index in 0..self.subjects.len() {
            if stopped() {
                return End::Stopped;
            }
            self.subjects[index].choose_item(&mut self.bench.profiler);
        }
        let mut are_known = false;
        loop {
            if stopped() {
                return End::Stopped;
            }
            // Before points are looked at once more, so that the budget has room for them.
            let mut whole = self.subjects.iter();
            if !are_known && whole.all(|subject| subject.survey.is_covered()) {
                are_known = true;
                let ended = self.measure_changeovers(&stopped);
                let ended = ended.or_else(|| self.measure_beside(&stopped));
                if let Some(end) = ended.or_else(|| self.cut(&stopped)) {
                    return end;
                }
            }
            let left = self.options.budget.saturating_sub(self.spent());
            let mut wanted = Vec::new();
            for (index, subject) in self.subjects.iter_mut().enumerate() {
                wanted.extend(subject.next().map(|next| (index, None, next)));
                let legs = subject.next_legs();
                wanted.extend(legs.map(|(legs, next)| (index, Some(legs), next)));
            }
            if wanted.is_empty() {
                return End::Complete;
            }
            wanted.retain(|(_, _, next)| next.expected.is_none_or(|expected| expected <= left));
            // A round of one model follows another's, so that points that are compared are
            // close in time and the rounds far apart.
            let first = wanted
                .iter()
                .min_by_key(|(index, _, next)| (next.visits, *index));
            let Some(&(index, legs, next)) = first.filter(|_| left > Nanos::default()) else {
                return End::BudgetSpent;
            };
            tell(self, &self.status(index, legs, next.point));
            let (subject, profiler) = (&mut self.subjects[index], &mut self.bench.profiler);
            match legs {
                None => subject.visit(profiler, &next, &stopped),
                Some(_) => subject.visit_legs(profiler, &next, &stopped),
            }
        }
    }

    /// Cuts the models whose legs are to be measured. `None` where all are.
    fn cut(&mut self, stopped: &impl Fn() -> bool) -> Option<End> {
        for subject in self
            .subjects
            .iter_mut()
            .filter(|subject| subject.is_uncut())
        {
            if stopped() {
                return Some(End::Stopped);
            }
            if self.begun.elapsed() >= self.options.budget.into() {
                return Some(End::BudgetSpent);
            }
            subject.cut(&self.bench);
        }
        None
    }

    fn spent(&self) -> Nanos {
        self.begun.elapsed().into()
    }

    fn status(&self, index: usize, legs: Option<u16>, point: PointKey) -> Status<'_> {
        let surveys = || self.subjects.iter().flat_map(Subject::surveys);
        let points: usize = surveys().map(|survey| survey.points()).sum();
        let uncovered: usize = surveys().map(|survey| survey.uncovered()).sum();
        let budget = self.options.budget.saturating_sub(self.spent());
        let left = surveys().fold(Nanos::default(), |sum, survey| sum + survey.left());
        Status {
            model: &self.subjects[index].model.name,
            legs,
            point,
            covered: points - uncovered,
            points,
            spent: self.spent(),
            left: if uncovered == 0 {
                budget
            } else {
                left.min(budget)
            },
        }
    }

    /// Points that have not had all their visits; those of legs count by themselves.
    pub fn uncovered(&self) -> usize {
        let surveys = self.subjects.iter().flat_map(Subject::surveys);
        surveys.map(|survey| survey.uncovered()).sum()
    }

    /// Whether nothing is known of any model, from this run or an earlier one.
    pub fn is_empty(&self) -> bool {
        let mut own = self.subjects.iter();
        self.others.is_empty() && own.all(|subject| subject.survey.grid().is_empty())
    }

    /// Concludes from what was measured; the models by name and version.
    pub fn profile(&self) -> Profile {
        let own = self.subjects.iter().map(|subject| subject.concluded());
        let measured = own.filter(|model| !model.grid.is_empty());
        let mut models: Vec<_> = measured.chain(self.others.iter().cloned()).collect();
        models.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        forget_strangers(&mut models);
        let mut profile = Profile {
            schema: SCHEMA.to_owned(),
            device: self.bench.device.clone(),
            runtime: self.bench.runtime.clone(),
            synthetic: false,
            launch_s: self.launch_s,
            models,
        };
        profile.conclude_interference();
        profile
    }

    /// The times that [`Run::profile`] rests on.
    pub fn samples(&self) -> files::Samples {
        let own = self.subjects.iter().map(Subject::samples);
        files::Samples {
            schema: files::SAMPLES_SCHEMA.to_owned(),
            device: self.bench.device.clone(),
            runtime: self.bench.runtime.clone(),
            models: own.chain(self.other_samples.iter().cloned()).collect(),
        }
    }
}

/// Takes out what models were measured beside that are not there: of other content since, or
/// removed.
fn forget_strangers(models: &mut [ModelProfile]) {
    let keys = models.iter();
    let keys = keys.map(|model| (model.name.clone(), model.hash.clone()));
    let keys: BTreeSet<(String, String)> = keys.collect();
    for model in models {
        let is_there = |other: &Beside| keys.contains(&(other.model.clone(), other.hash.clone()));
        model.beside.retain(is_there);
    }
}

/// The shares to measure, rising.
fn shares(bench: &Workbench, wanted: Option<&[u16]>) -> Result<Vec<u16>, PlanError> {
    let partitions = &bench.profiler.device().spec().partitions;
    let all: BTreeSet<u16> = partitions.iter().map(|part| part.share().0).collect();
    let Some(wanted) = wanted else {
        return Ok(all.into_iter().collect());
    };
    if let Some(&found) = wanted.iter().find(|share| !all.contains(share)) {
        return Err(PlanError::Share {
            found,
            expected: all.into_iter().collect(),
        });
    }
    let wanted: BTreeSet<u16> = wanted.iter().copied().collect();
    Ok(wanted.into_iter().collect())
}

fn median(mut times: Vec<Nanos>) -> Option<Nanos> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}
