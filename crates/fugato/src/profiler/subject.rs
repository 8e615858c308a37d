//! One model that is being measured.

use super::files::{Earlier, PointSamples, SampledModel};
use super::{Options, PlanError};
use crate::engine::{BenchModel, Workbench};
use fugato_core::PartitionId;
use fugato_core::device::DeviceSpec;
use fugato_core::profile::{
    AnalysisOptions, Changeover, ModelProfile, PointKey, Survey, SurveyOptions, Wanted, analyse,
    conclude,
};
use fugato_device::{AnyDevice, Device, Profiler, RequestInputs, Visit, Walk, partitions_beside};
use std::collections::BTreeMap;

pub(super) struct Subject {
    pub(super) model: BenchModel,
    pub(super) survey: Survey,
    /// What every batch is made up of.
    item: RequestInputs,
    /// The smallest batch.
    batch: u32,
    places: BTreeMap<u16, Place>,
    /// The profile without its grid and what is concluded from it.
    blank: ModelProfile,
    analysis: AnalysisOptions,
    /// The round that was wanted when conclusions were last drawn.
    judged: Option<Option<u32>>,
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
        Ok(Self {
            survey: Survey::new(&batches, shares, spec.slices.0, survey),
            item: item.expect("a model is only loaded with an item to try"),
            batch: batches[0],
            places: places.collect(),
            blank,
            analysis: AnalysisOptions::new(spec.slices.0),
            judged: None,
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
        let samples = earlier.samples_of(known);
        for point in known.grid.iter().filter(|point| point.failed.is_none()) {
            let times = samples.iter().find(|sampled| sampled.key() == point.key());
            match times {
                Some(sampled) => self.survey.resume(point.key(), sampled.visits_ns.clone()),
                None => self.survey.keep(point.clone()),
            }
        }
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
        let PointKey {
            batch,
            share,
            neighbours,
        } = wanted.point;
        let Some(place) = self.places.get(&share) else {
            return self
                .survey
                .fail(wanted.point, "the device has no such partition");
        };
        let busy = match neighbours {
            0 => Vec::new(),
            _ => place.beside.clone(),
        };
        let visit = Visit {
            model: self.model.id,
            item: self.item.clone(),
            batch,
            partition: place.partition,
            busy,
            neighbour: None,
            warm_up: wanted.warm_up,
            legs: wanted.legs,
        };
        match profiler.visit(&visit, || !stopped()) {
            Ok(legs) => self.survey.record(wanted.point, &legs),
            Err(error) => self.survey.fail(wanted.point, error.to_string()),
        }
    }

    /// What was measured, and what follows from it.
    pub(super) fn concluded(&self) -> ModelProfile {
        let mut model = self.measured();
        analyse(&mut model, &self.analysis);
        model
    }

    fn measured(&self) -> ModelProfile {
        let mut model = self.blank.clone();
        model.grid = self.survey.grid();
        model.sparse = !self.survey.is_covered();
        model
    }

    pub(super) fn samples(&self) -> SampledModel {
        let points = self.survey.visits().map(|(key, visits)| PointSamples {
            batch: key.batch,
            share: key.share,
            neighbours: key.neighbours,
            visits_ns: visits.to_vec(),
        });
        SampledModel {
            name: self.model.name.clone(),
            hash: self.model.hash.clone(),
            points: points.collect(),
        }
    }
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
