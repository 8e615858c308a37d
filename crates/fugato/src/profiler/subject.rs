//! One model that is being measured.

use super::beside::BesideVisit;
use super::files::{Earlier, PointSamples, SampledModel};
use super::legs::{EarlierLegs, LegSurveys, Legs, Whole};
use super::{Options, PlanError, median};
use crate::engine::{BenchModel, LegsWanted, Workbench};
use fugato_core::device::DeviceSpec;
use fugato_core::profile::{
    AnalysisOptions, Beside, Changeover, LegPlan, ModelProfile, PointKey, Survey, SurveyOptions,
    Wanted, analyse, conclude,
};
use fugato_core::{Nanos, PartitionId};
use fugato_device::{
    AnyDevice, Device, Neighbour, Profiler, RequestInputs, Visit, Walk, partitions_beside,
};
use std::collections::BTreeMap;

/// Why a point cannot be visited.
const NO_PARTITION: &str = "the device has no such partition";

pub(super) struct Subject {
    pub(super) model: BenchModel,
    pub(super) survey: Survey,
    /// The same, of which nothing was visited.
    unvisited: Survey,
    /// What every batch is made up of.
    item: RequestInputs,
    /// The smallest batch.
    batch: u32,
    places: BTreeMap<u16, Place>,
    /// The profile without its grid and what is concluded from it.
    blank: ModelProfile,
    /// What timed runs took longer by the host's clock than by the device's.
    by_host: Vec<Nanos>,
    analysis: AnalysisOptions,
    /// The round that was wanted when conclusions were last drawn.
    judged: Option<Option<u32>>,
    legs: Legs,
    earlier_legs: Option<EarlierLegs>,
}

/// Where legs of one share run.
struct Place {
    partition: PartitionId,
    /// What is busy where neighbours are to be.
    beside: Vec<PartitionId>,
}

impl Subject {
    pub(super) fn new(
        model: BenchModel,
        options: &Options,
        shares: &[u16],
        bench: &Workbench,
    ) -> Result<Self, PlanError> {
        let mut batches = options.batches.clone();
        batches.retain(|&batch| batch <= model.max_batch);
        if batches.is_empty() {
            return Err(PlanError::Batches {
                model: model.name,
                max_batch: model.max_batch,
                batches: options.batches.clone(),
            });
        }
        let spec = bench.profiler.device().spec();
        let places = shares.iter().map(|&share| (share, Place::of(spec, share)));
        let slo = options.slos.get(&model.name).copied().or(model.slo);
        let mut blank = ModelProfile::new(&model.name, &model.hash, model.max_batch);
        blank.version = Some(model.version.clone());
        blank.precision = model.precision;
        blank.slo_s = slo.map(|slo| slo.as_secs_f64());
        blank.arrival_rate = options.rates.get(&model.name).copied();
        let survey = SurveyOptions {
            seed: options.seed,
            ..SurveyOptions::default()
        };
        let item = model.items.first().cloned();
        let legs = match &model.legs {
            LegsWanted::None => Legs::Unwanted,
            LegsWanted::Longest(_) | LegsWanted::Planned(_) => Legs::Uncut,
            LegsWanted::Elsewhere(reason) => Legs::Left(Whole::Elsewhere(reason.clone())),
            LegsWanted::Unfit(reason) => Legs::Left(Whole::Failed(reason.clone())),
        };
        let unvisited = Survey::new(&batches, shares, spec.slices.0, survey);
        Ok(Self {
            survey: unvisited.clone(),
            unvisited,
            item: item.expect("a model is only loaded with an item to try"),
            batch: batches[0],
            places: places.collect(),
            blank,
            by_host: Vec::new(),
            analysis: AnalysisOptions::new(spec.slices.0),
            judged: None,
            legs,
            earlier_legs: None,
            model,
        })
    }

    /// Whether it is the model of that name and content.
    pub(super) fn is(&self, name: &str, hash: &str) -> bool {
        (name, hash) == (&self.model.name, &self.model.hash)
    }

    /// Whether what was found earlier is of this model: of its content, under whatever
    /// version, or of its version with other content.
    pub(super) fn replaces(&self, known: &ModelProfile) -> bool {
        let named = known.name == self.model.name;
        named
            && (known.hash == self.model.hash
                || known.version.as_ref() == Some(&self.model.version))
    }

    /// Goes on from what was found earlier: from its times where they are there, else its
    /// points count as done. What failed is tried again.
    pub(super) fn resume(&mut self, earlier: &Earlier, options: &Options) {
        let mut known = earlier.profile.models.iter();
        let Some(known) = known.find(|known| self.is(&known.name, &known.hash)) else {
            return;
        };
        if self.blank.slo_s.is_none() {
            self.blank.slo_s = known.slo_s;
        }
        if !options.rates.contains_key(&self.model.name) {
            self.blank.arrival_rate = known.arrival_rate;
        }
        self.blank.changeovers.clone_from(&known.changeovers);
        self.blank.host_s = known.host_s;
        self.blank.beside.clone_from(&known.beside);
        let sampled = earlier.samples_of(known);
        let samples = sampled.map_or(&[][..], |sampled| &sampled.points);
        for point in known.grid.iter().filter(|point| point.failed.is_none()) {
            let times = samples.iter().find(|sampled| sampled.key() == point.key());
            match times {
                Some(sampled) => self.survey.resume(point.key(), sampled.visits_ns.clone()),
                None => self.survey.keep(point.clone()),
            }
        }
        let legs = sampled.and_then(|sampled| sampled.legs.as_deref());
        self.earlier_legs = EarlierLegs::of(known, legs);
    }

    /// Whether legs that are cut so are those that are to be measured.
    fn is_wanted(&self, plan: &LegPlan) -> bool {
        match &self.model.legs {
            LegsWanted::Longest(longest) => plan.longest == Some(*longest),
            LegsWanted::Planned(wanted) => plan.plan.cuts_alike(wanted),
            LegsWanted::None | LegsWanted::Elsewhere(_) | LegsWanted::Unfit(_) => false,
        }
    }

    /// Whether it is yet to be cut.
    pub(super) fn is_uncut(&self) -> bool {
        matches!(self.legs, Legs::Uncut)
    }

    /// Cuts the model, whose legs are wanted, and loads it so.
    pub(super) fn cut(&mut self, bench: &Workbench) {
        let earlier = self.earlier_legs.as_ref();
        let known = earlier.and_then(|earlier| earlier.plan(|plan| self.is_wanted(plan)));
        self.legs = match bench.cut(&self.model, &self.measured(), known) {
            Ok(Some(cut)) => {
                let max_batch = self.model.max_batch;
                let surveys = LegSurveys::new(cut, &self.unvisited, max_batch, earlier);
                Legs::Cut(Box::new(surveys))
            }
            Ok(None) => Legs::Left(Whole::Indivisible),
            Err(reason) => Legs::Left(Whole::Failed(reason)),
        };
        self.take_down(bench.profiler.device());
    }

    /// Takes the cut model off the device where nothing is left to visit of it.
    fn take_down(&mut self, device: &AnyDevice) {
        if let Legs::Cut(cut) = &mut self.legs
            && let Some(id) = cut.give_up()
        {
            device.unload(id);
        }
    }

    /// The same whatever is left to visit.
    pub(super) fn give_up(&self, device: &AnyDevice) {
        if let Legs::Cut(cut) = &self.legs
            && let Some((id, _)) = cut.on_device()
        {
            device.unload(id);
        }
    }

    /// Why its legs were asked for and not measured.
    pub(super) fn left_whole(&self) -> Option<Whole> {
        match &self.legs {
            Legs::Left(why) => Some(why.clone()),
            Legs::Cut(cut) => cut.fault().map(Whole::Failed),
            Legs::Unwanted | Legs::Uncut => None,
        }
    }

    /// The surveys of the model and of its legs, as far as there are any.
    pub(super) fn surveys(&self) -> impl Iterator<Item = &Survey> {
        let legs = match &self.legs {
            Legs::Cut(cut) => Some(cut.survey()),
            // As many points as it will have.
            Legs::Uncut => Some(&self.unvisited),
            Legs::Unwanted | Legs::Left(_) => None,
        };
        std::iter::once(&self.survey).chain(legs)
    }

    /// The next visit of its legs, and how many there are.
    pub(super) fn next_legs(&self) -> Option<(u16, Wanted)> {
        let Legs::Cut(cut) = &self.legs else {
            return None;
        };
        let (_, legs) = cut.on_device()?;
        cut.next().map(|next| (legs, next))
    }

    /// A run of its smallest batch.
    pub(super) fn run(&self) -> Walk {
        Walk {
            model: self.model.id,
            item: self.item.clone(),
            batch: self.batch,
            partition: PartitionId(0),
            legs: 1,
        }
    }

    /// Where it runs, by share.
    pub(super) fn partitions(&self) -> Vec<(u16, PartitionId)> {
        let places = self.places.iter();
        places
            .map(|(&share, place)| (share, place.partition))
            .collect()
    }

    /// Whether it could be run anywhere.
    pub(super) fn is_measured(&self) -> bool {
        let grid = self.survey.grid();
        grid.iter().any(|point| point.times().is_some())
    }

    pub(super) fn changeovers(&self) -> &[Changeover] {
        &self.blank.changeovers
    }

    pub(super) fn set_changeovers(&mut self, found: Vec<Changeover>) {
        self.blank.changeovers = found;
    }

    /// It as a neighbour of others, in its smallest batch.
    pub(super) fn neighbour(&self) -> Neighbour {
        Neighbour {
            model: self.model.id,
            item: self.item.clone(),
            batch: self.batch,
        }
    }

    /// How it is measured beside others: at each share that has partitions beside it.
    pub(super) fn beside_visits(&self) -> Vec<BesideVisit> {
        let places = self.places.iter();
        let places = places.filter(|(_, place)| !place.beside.is_empty());
        let visits = places.map(|(&share, place)| BesideVisit {
            share,
            neighbours: self.analysis.slices.saturating_sub(share),
            alone: Visit {
                model: self.model.id,
                item: self.item.clone(),
                batch: self.batch,
                partition: place.partition,
                busy: Vec::new(),
                neighbour: None,
                warm_up: 0,
                legs: 0,
            },
            busy: place.beside.clone(),
        });
        visits.collect()
    }

    /// Whether it was measured beside another model at a share.
    pub(super) fn is_known_beside(&self, other: &Self, share: u16) -> bool {
        let place = (self.batch, share, other.batch);
        self.blank.beside.iter().any(|known| {
            other.is(&known.model, &known.hash)
                && (known.batch, known.share, known.neighbour_batch) == place
        })
    }

    /// Notes what it cost to run beside others.
    pub(super) fn add_beside(&mut self, found: Vec<Beside>) {
        self.blank.beside.extend(found);
    }

    /// Takes the first item that the model runs at all; where it runs none, the survey
    /// will say why at every point.
    pub(super) fn choose_item(&mut self, profiler: &mut Profiler<AnyDevice>) {
        for item in &self.model.items {
            self.item = item.clone();
            let visit = Visit {
                model: self.model.id,
                item: item.clone(),
                batch: item.items,
                partition: PartitionId(0),
                busy: Vec::new(),
                neighbour: None,
                warm_up: 0,
                legs: 1,
            };
            match profiler.visit(&visit, || true) {
                Ok(_) => return,
                Err(error) => {
                    let model = &self.model.name;
                    tracing::debug!(model, %error, "an item to measure with was refused");
                }
            }
        }
    }

    /// The next visit. At the end of a round conclusions are drawn, and the survey looks
    /// on where they are open.
    pub(super) fn next(&mut self) -> Option<Wanted> {
        let next = self.survey.next();
        let round = next.map(|next| next.visits);
        if !self.survey.is_covered() || self.judged == Some(round) {
            return next;
        }
        // Without a fit, which fills in points but settles none.
        let mut concluded = self.measured();
        conclude(&mut concluded, &self.analysis);
        self.survey.focus(&concluded);
        let next = self.survey.next();
        self.judged = Some(next.map(|next| next.visits));
        next
    }

    /// Makes a visit; what it finds, or why it fails, goes into the survey.
    pub(super) fn visit(
        &mut self,
        profiler: &mut Profiler<AnyDevice>,
        wanted: &Wanted,
        stopped: impl Fn() -> bool,
    ) {
        let Some(visit) = self.visit_of(wanted) else {
            return self.survey.fail(wanted.point, NO_PARTITION);
        };
        match profiler.visit(&visit, || !stopped()) {
            Ok(legs) => {
                let both = profiler.by_host().iter().zip(&legs);
                let longer = both.map(|(&by_host, &leg)| by_host.saturating_sub(leg));
                self.by_host.extend(longer);
                self.survey.record(wanted.point, &legs);
            }
            Err(error) => self.survey.fail(wanted.point, error.to_string()),
        }
    }

    /// As [`visit`](Self::visit), of the model that is cut into legs, beside the model as it is.
    pub(super) fn visit_legs(
        &mut self,
        profiler: &mut Profiler<AnyDevice>,
        wanted: &Wanted,
        stopped: impl Fn() -> bool,
    ) {
        let visit = self.visit_of(wanted);
        let Legs::Cut(cut) = &mut self.legs else {
            return;
        };
        let Some((id, legs)) = cut.on_device() else {
            return;
        };
        match visit {
            None => cut.fail(wanted.point, NO_PARTITION),
            Some(whole) => {
                let visit = Visit {
                    model: id,
                    neighbour: Some(Neighbour {
                        model: whole.model,
                        item: whole.item.clone(),
                        batch: 1,
                    }),
                    ..whole
                };
                match profiler.visit_legs(&visit, legs, || !stopped()) {
                    Ok(tasks) => cut.record(wanted.point, &tasks),
                    Err(error) => cut.fail(wanted.point, &error.to_string()),
                }
            }
        }
        self.take_down(profiler.device());
    }

    /// The visit of the model as it is; `None` where the device has no such partition.
    fn visit_of(&self, wanted: &Wanted) -> Option<Visit> {
        let PointKey {
            batch,
            share,
            neighbours,
        } = wanted.point;
        let place = self.places.get(&share)?;
        Some(Visit {
            model: self.model.id,
            item: self.item.clone(),
            batch,
            partition: place.partition,
            busy: match neighbours {
                0 => Vec::new(),
                _ => place.beside.clone(),
            },
            neighbour: None,
            warm_up: wanted.warm_up,
            legs: wanted.legs,
        })
    }

    /// What was measured, and what follows from it.
    pub(super) fn concluded(&self) -> ModelProfile {
        let mut model = self.measured();
        analyse(&mut model, &self.analysis);
        let found = match &self.legs {
            Legs::Cut(cut) => cut.concluded(&self.analysis),
            Legs::Unwanted | Legs::Uncut | Legs::Left(_) => None,
        };
        let earlier = self.earlier_legs.as_ref();
        let earlier = earlier.and_then(|earlier| earlier.known.as_ref());
        if let Some((legs, plan)) = found.or(earlier.map(|(legs, plan)| (legs.as_slice(), plan))) {
            model.legs = legs.to_vec();
            model.leg_plan = Some(Box::new(plan.clone()));
        }
        model
    }

    fn measured(&self) -> ModelProfile {
        let mut model = self.blank.clone();
        model.grid = self.survey.grid();
        model.sparse = !self.survey.is_covered();
        if !self.by_host.is_empty() {
            model.host_s = host_s(&self.by_host);
        }
        model
    }

    pub(super) fn samples(&self) -> SampledModel {
        let found = match &self.legs {
            Legs::Cut(cut) => cut.samples(),
            Legs::Unwanted | Legs::Uncut | Legs::Left(_) => None,
        };
        let earlier = self.earlier_legs.as_ref();
        let legs = found.or_else(|| earlier.and_then(|earlier| earlier.samples.clone()));
        SampledModel {
            name: self.model.name.clone(),
            hash: self.model.hash.clone(),
            points: PointSamples::of(&self.survey),
            legs: legs.map(Box::new),
        }
    }
}

/// What runs took longer by the host's clock, in seconds; none where both clocks are one, by which
/// no run takes longer.
fn host_s(longer: &[Nanos]) -> Option<f64> {
    let longer = median(longer.to_vec())?;
    (longer > Nanos::ZERO).then(|| longer.as_secs_f64())
}

impl Place {
    fn of(spec: &DeviceSpec, share: u16) -> Self {
        let mut partitions = spec.partitions.iter();
        let partition = partitions.find(|partition| partition.share().0 == share);
        let partition = partition.map_or(PartitionId(0), |partition| partition.id);
        Self {
            partition,
            beside: partitions_beside(spec, partition),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_with_its_own_clock_has_times_that_the_host_adds() {
        let micros = |times: &[u64]| {
            host_s(
                &times
                    .iter()
                    .copied()
                    .map(Nanos::from_micros)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(micros(&[]), None);
        assert_eq!(micros(&[0, 0, 0]), None);
        assert_eq!(micros(&[30, 0, 20]), Some(20e-6));
    }
}
