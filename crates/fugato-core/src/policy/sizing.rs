//! How large a model's batches are to be and how large its share, for policies that divide
//! the device.
//!
//! # Source
//! D-STACK's optimisation of batch and share (TCC 2024, section on efficacy), as
//! [`crate::profile::optima`] does it for a profile. Here it is done while serving: with the
//! objective in force and the arrivals of the last second, over the shares that the device
//! has, with what is known of latencies now. Ours differs in that, and where no point keeps
//! the constraints: then the fastest point is taken that keeps the looser one, or the
//! fastest of all, in place of no answer.

use crate::id::{BatchSize, DeviceId, ModelId, Share};
use crate::profile::Limits;
use crate::sched::View;
use crate::time::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A model that nothing is known of gets this part of the device, in percent (D-STACK's
/// nominal share).
const NOMINAL_PERCENT: u32 = 30;

/// Rates are told apart by quarters of a doubling: a finer step would size models anew for
/// the noise of a Poisson process.
const RATE_STEPS: f64 = 4.0;

/// What a model's batch and share are chosen by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperatingPoint {
    /// D-STACK's: the largest `batch / (latency^2 x share)`.
    #[default]
    Efficacy,
    /// The least slice-seconds per item, `share x latency / batch`.
    Work,
    /// The smallest share within the knee's tolerance of the best latency, at the largest
    /// batch within the objective.
    Knee,
    /// What a publication states of the model, where its profile has it; else efficacy.
    Published,
}

/// A model's batch and share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// The most items in a batch.
    pub batch: BatchSize,
    /// Slices to hold; the device has partitions of that share.
    pub share: Share,
    /// The median time of such a batch in that share, alone; `None` where nothing is known.
    pub run: Option<Nanos>,
}

/// Sizes models, and remembers it until their objective, their rate of arrivals or what is
/// known of them changes.
#[derive(Debug, Default)]
pub struct Sizer {
    point: OperatingPoint,
    known: BTreeMap<ModelId, (Basis, Sizing)>,
}

/// What a sizing rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    device: DeviceId,
    /// Which models and devices there are: a device may return with other partitions.
    configuration: u64,
    slo: Option<Nanos>,
    /// In [`RATE_STEPS`]; `None` before the first request.
    rate: Option<i64>,
    knowledge: u32,
}

impl Sizer {
    /// Sizes models by a point.
    pub fn new(point: OperatingPoint) -> Self {
        Self {
            point,
            known: BTreeMap::new(),
        }
    }

    /// A model's batch and share on a device.
    ///
    /// # Cost
    /// A look-up where nothing has changed; else the device's shares times about ten batches
    /// of predictions.
    pub fn size(&mut self, view: &View<'_>, device: DeviceId, model: ModelId) -> Sizing {
        let basis = basis(view, device, model);
        if let Some((known, sizing)) = self.known.get(&model)
            && *known == basis
        {
            return *sizing;
        }
        let sizing = size(view, device, model, self.point);
        self.known.insert(model, (basis, sizing));
        sizing
    }

    /// Whether a model would be looked up: a policy that has a budget sizes the others later.
    pub fn is_known(&self, view: &View<'_>, device: DeviceId, model: ModelId) -> bool {
        let known = self.known.get(&model);
        known.is_some_and(|(known, _)| *known == basis(view, device, model))
    }

    /// What was last found of a model, if nothing that it rests on has changed or not; the
    /// nominal share where it was never sized.
    ///
    /// # Cost
    /// A look-up.
    pub fn latest(&self, view: &View<'_>, device: DeviceId, model: ModelId) -> Sizing {
        match self.known.get(&model) {
            Some((_, sizing)) => *sizing,
            None => nominal(view, device, model),
        }
    }

    /// Forgets models that are gone.
    pub fn retain(&mut self, view: &View<'_>) {
        self.known.retain(|&model, _| view.knows(model));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the logarithm of a rate is a small number"
)]
fn basis(view: &View<'_>, device: DeviceId, model: ModelId) -> Basis {
    let rate = view.rate(model);
    Basis {
        device,
        configuration: view.configuration(),
        slo: view.slo(model),
        rate: (rate > 0.0).then(|| (rate.log2() * RATE_STEPS).round() as i64),
        knowledge: view.knowledge(model),
    }
}

/// A point of the latency surface that could be chosen.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    batch: BatchSize,
    share: Share,
    run: Nanos,
}

impl Candidate {
    fn sizing(self) -> Sizing {
        Sizing {
            batch: self.batch,
            share: self.share,
            run: Some(self.run),
        }
    }

    /// What is to be least.
    fn cost(self, point: OperatingPoint) -> f64 {
        let (batch, share) = (f64::from(self.batch.0), f64::from(self.share.0));
        let run = self.run.as_secs_f64();
        match point {
            OperatingPoint::Efficacy | OperatingPoint::Published => run * run * share / batch,
            OperatingPoint::Work | OperatingPoint::Knee => run * share / batch,
        }
    }
}

fn size(view: &View<'_>, device: DeviceId, model: ModelId, point: OperatingPoint) -> Sizing {
    if point == OperatingPoint::Published
        && let Some(published) = published(view, device, model)
    {
        return published;
    }
    let candidates = candidates(view, device, model);
    let rate = view.rate(model);
    let limits = Limits {
        slo_s: view.slo(model).map(Nanos::as_secs_f64),
        // A knee is a property of the model, whatever it is asked for.
        arrival_rate: (rate > 0.0 && point != OperatingPoint::Knee).then_some(rate),
        max_batch: view.max_batch(model).0,
        blocking_s: 0.0,
    };
    let excess = |candidate: &Candidate| {
        let broken = limits.violation(candidate.batch.0, candidate.run.as_secs_f64());
        broken.map_or(0.0, |broken| broken.shortfall_s)
    };
    let feasible = candidates
        .iter()
        .filter(|candidate| excess(candidate) <= 0.0);
    let best = match point {
        OperatingPoint::Knee => at_knee(view, model, feasible.copied().collect())
            .or_else(|| at_knee(view, model, candidates.clone())),
        OperatingPoint::Efficacy | OperatingPoint::Work | OperatingPoint::Published => feasible
            .copied()
            .min_by(|a, b| a.cost(point).total_cmp(&b.cost(point))),
    };
    let nearest = || {
        let nearest = candidates.iter().copied();
        nearest.min_by(|a, b| excess(a).total_cmp(&excess(b)))
    };
    best.or_else(nearest)
        .map_or_else(|| nominal(view, device, model), Candidate::sizing)
}

/// What is known of a model at the shares of the device.
fn candidates(view: &View<'_>, device: DeviceId, model: ModelId) -> Vec<Candidate> {
    let max = view.max_batch(model);
    let mut batches: Vec<BatchSize> = (0..32)
        .map(|power| BatchSize(1 << power))
        .take_while(|&batch| batch < max)
        .chain(
            view.facts(model)
                .into_iter()
                .flat_map(|facts| facts.batches.iter().copied()),
        )
        .chain([max])
        .filter(|&batch| batch <= max)
        .collect();
    batches.sort_unstable();
    batches.dedup();
    let places = view
        .shares(device)
        .flat_map(|share| batches.iter().map(move |&batch| (share, batch)));
    places
        .filter_map(|(share, batch)| {
            let run = view
                .predict_at(model, batch, (share, Share(0)), 0.5)?
                .measured()?;
            Some(Candidate { batch, share, run })
        })
        .collect()
}

/// The least share within a twentieth of the best latency, at the largest of the batches.
fn at_knee(view: &View<'_>, model: ModelId, mut feasible: Vec<Candidate>) -> Option<Candidate> {
    let batch = feasible.iter().map(|candidate| candidate.batch).max()?;
    feasible.retain(|candidate| candidate.batch == batch);
    let knee = view.facts(model).and_then(|facts| facts.knee.tolerance);
    let best = feasible.iter().map(|candidate| candidate.run).min()?;
    let within = best.scaled(21, 20);
    let known = feasible
        .iter()
        .find(|candidate| knee.is_some_and(|knee| candidate.share.0 >= knee));
    let found = feasible.iter().find(|candidate| candidate.run <= within);
    known.or(found).copied()
}

/// The published batch and share, in the smallest partition that holds it.
fn published(view: &View<'_>, device: DeviceId, model: ModelId) -> Option<Sizing> {
    let published = view.facts(model)?.published.as_ref()?;
    let batch = BatchSize(published.batch).min(view.max_batch(model));
    let share = view
        .shares(device)
        .find(|share| share.0 >= published.share)
        .unwrap_or_else(|| view.slices(device));
    let run = view.predict_at(model, batch, (share, Share(0)), 0.5);
    Some(Sizing {
        batch,
        share,
        run: run.map(|run| run.time),
    })
}

/// Of a model that nothing is known of.
fn nominal(view: &View<'_>, device: DeviceId, model: ModelId) -> Sizing {
    let slices = view.slices(device);
    let wanted = u32::from(slices.0) * NOMINAL_PERCENT;
    let share = view
        .shares(device)
        .find(|share| u32::from(share.0) * 100 >= wanted)
        .unwrap_or(slices);
    Sizing {
        batch: view.max_batch(model),
        share,
        run: None,
    }
}
