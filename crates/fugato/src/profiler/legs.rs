//! The legs of a model that is measured. Once all of its points were visited as it is, it is cut,
//! loaded beside itself, and its tasks are timed leg by leg at the same points.
//!
//! What is known of legs goes into the profile when all of their points were visited; until then
//! it is among the times beside it.

use super::files::{PointSamples, SampledLegs};
use crate::engine::CutModel;
use fugato_core::profile::{
    AnalysisOptions, GridPoint, LegPlan, LegProfile, ModelProfile, PointKey, Survey, Wanted,
};
use fugato_core::{ModelId, Nanos};
use std::cell::OnceCell;
use std::collections::BTreeSet;

/// What an earlier run found of a model's legs. It stays what is known of them until this run
/// knows more.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EarlierLegs {
    /// What its profile says, and of which plan.
    pub(super) known: Option<(Vec<LegProfile>, LegPlan)>,
    /// The times beside it, as far as they are there; of the same plan or of another one.
    pub(super) samples: Option<SampledLegs>,
}

/// What becomes of a model's legs in this run.
pub(super) enum Legs {
    /// They are not measured.
    Unwanted,
    /// The model is yet to be cut.
    Uncut,
    /// They are being measured, or were.
    Cut(Box<LegSurveys>),
    /// They are not measured, for this reason.
    Left(Whole),
}

/// Why legs of a model are not measured though they were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whole {
    /// It is too short for two, or nothing in it can be cut.
    Indivisible,
    /// The plan that it is served by is of another device, for which it is measured there.
    Elsewhere(String),
    /// It failed.
    Failed(String),
}

/// The surveys of a model that is cut.
pub(super) struct LegSurveys {
    /// What the device calls it; none once it is not needed any more.
    id: Option<ModelId>,
    plan: LegPlan,
    /// Of tasks, from the start of the first leg to the end of the last: says what is next.
    tasks: Survey,
    /// By leg.
    legs: Vec<Survey>,
    max_batch: u32,
    /// What follows, once all points were visited.
    concluded: OnceCell<Vec<LegProfile>>,
}

impl LegSurveys {
    /// Surveys of the same points as `blank`, which has seen none; they go on from what was
    /// found `earlier` of the same legs.
    pub(super) fn new(
        cut: CutModel,
        blank: &Survey,
        max_batch: u32,
        earlier: Option<&EarlierLegs>,
    ) -> Self {
        let CutModel { id, plan } = cut;
        let count = plan.plan.legs.len();
        let mut surveys = Self {
            id: Some(id),
            plan,
            tasks: blank.clone(),
            legs: vec![blank.clone(); count],
            max_batch,
            concluded: OnceCell::new(),
        };
        if let Some(earlier) = earlier {
            surveys.resume(earlier);
        }
        surveys
    }

    /// From the times where they are there; else points of the profile count as done. What failed
    /// is tried again, and what is of legs that are cut otherwise is left out.
    fn resume(&mut self, earlier: &EarlierLegs) {
        let count = self.legs.len();
        let mut visited = BTreeSet::new();
        let alike = |plan: &LegPlan| self.plan.plan.cuts_alike(&plan.plan);
        let samples = earlier.samples.as_ref();
        let samples = samples.filter(|samples| alike(&samples.plan));
        let known = earlier.known.as_ref().filter(|(_, plan)| alike(plan));
        let samples = samples.map_or(&[][..], |samples| &samples.legs);
        let known = known.map_or(&[][..], |(legs, _)| legs);
        for point in samples.first().into_iter().flatten() {
            let key = point.key();
            let legs = samples.iter().filter_map(|leg| {
                let point = leg.iter().find(|point| point.key() == key)?;
                Some(point.visits_ns.clone())
            });
            let legs: Vec<Vec<Vec<u64>>> = legs.collect();
            let Some(tasks) = sum(&legs).filter(|_| legs.len() == count) else {
                continue;
            };
            visited.insert(key);
            self.tasks.resume(key, tasks);
            for (survey, visits) in self.legs.iter_mut().zip(legs) {
                survey.resume(key, visits);
            }
        }
        for point in known.iter().take(1).flat_map(|leg| &leg.grid) {
            let key = point.key();
            let points = known.iter().filter_map(|leg| {
                let point = leg.grid.iter().find(|point| point.key() == key)?;
                point.times().map(|_| point.clone())
            });
            let points: Vec<GridPoint> = points.collect();
            if points.len() == count && !visited.contains(&key) {
                // Only that it is known counts of it.
                self.tasks.keep(point.clone());
                for (survey, point) in self.legs.iter_mut().zip(points) {
                    survey.keep(point);
                }
            }
        }
    }

    /// What the device calls the cut model, and how many legs it has; `None` where nothing is
    /// left to visit.
    pub(super) fn on_device(&self) -> Option<(ModelId, u16)> {
        let legs = u16::try_from(self.legs.len()).unwrap_or(u16::MAX);
        self.id.map(|id| (id, legs))
    }

    /// The cut model's identifier where it is not needed any more, once.
    pub(super) fn give_up(&mut self) -> Option<ModelId> {
        match self.tasks.is_covered() {
            true => self.id.take(),
            false => None,
        }
    }

    pub(super) fn next(&self) -> Option<Wanted> {
        self.tasks.next()
    }

    /// Takes in the times of a visit, by task and leg.
    pub(super) fn record(&mut self, point: PointKey, tasks: &[Vec<Nanos>]) {
        let sum = |legs: &Vec<Nanos>| legs.iter().fold(Nanos::ZERO, |sum, &leg| sum + leg);
        let sums: Vec<Nanos> = tasks.iter().map(sum).collect();
        self.tasks.record(point, &sums);
        for (leg, survey) in self.legs.iter_mut().enumerate() {
            let times: Vec<Nanos> = tasks
                .iter()
                .filter_map(|task| task.get(leg).copied())
                .collect();
            survey.record(point, &times);
        }
    }

    /// Takes in that the model cannot be run at a point.
    pub(super) fn fail(&mut self, point: PointKey, reason: &str) {
        self.tasks.fail(point, reason);
        for survey in &mut self.legs {
            survey.fail(point, reason);
        }
    }

    pub(super) fn survey(&self) -> &Survey {
        &self.tasks
    }

    /// The surfaces, once all points were visited; none where the model ran at none.
    pub(super) fn concluded(
        &self,
        analysis: &AnalysisOptions,
    ) -> Option<(&[LegProfile], &LegPlan)> {
        if !self.tasks.is_covered() {
            return None;
        }
        let concluded = self.concluded.get_or_init(|| {
            let grids: Vec<Vec<GridPoint>> = self.legs.iter().map(Survey::grid).collect();
            let is_timed = |grid: &Vec<GridPoint>| grid.iter().any(|point| point.times().is_some());
            if !grids.iter().all(is_timed) {
                return Vec::new();
            }
            let of = |grid| LegProfile::measured(grid, self.max_batch, analysis);
            grids.into_iter().map(of).collect()
        });
        (!concluded.is_empty()).then_some((concluded, &self.plan))
    }

    /// Why the cut model ran nowhere.
    pub(super) fn fault(&self) -> Option<String> {
        let grid = self.tasks.grid();
        let failed = grid.iter().all(|point| point.times().is_none());
        let reason = grid.iter().find_map(|point| point.failed.clone());
        reason.filter(|_| failed && self.tasks.is_covered())
    }

    pub(super) fn samples(&self) -> Option<SampledLegs> {
        let legs: Vec<Vec<PointSamples>> = self.legs.iter().map(PointSamples::of).collect();
        let any = legs.iter().any(|leg| !leg.is_empty());
        any.then(|| SampledLegs {
            plan: self.plan.clone(),
            legs,
        })
    }
}

impl EarlierLegs {
    /// What there is of a model in a profile and in the times beside it.
    pub(super) fn of(known: &ModelProfile, samples: Option<&SampledLegs>) -> Option<Self> {
        let plan = known.leg_plan.as_deref();
        let known = plan.map(|plan| (known.legs.clone(), plan.clone()));
        let samples = samples.cloned();
        (known.is_some() || samples.is_some()).then_some(Self { known, samples })
    }

    /// A plan of the legs that are wanted, that of the times first: they are the newer ones.
    pub(super) fn plan(&self, is_wanted: impl Fn(&LegPlan) -> bool) -> Option<&LegPlan> {
        let samples = self.samples.as_ref().map(|samples| &samples.plan);
        let known = self.known.as_ref().map(|(_, plan)| plan);
        samples
            .into_iter()
            .chain(known)
            .find(|&plan| is_wanted(plan))
    }
}

/// The times of tasks, from those of their legs by visit; `None` where legs have not as many.
fn sum(legs: &[Vec<Vec<u64>>]) -> Option<Vec<Vec<u64>>> {
    let (first, others) = legs.split_first()?;
    let mut sums = first.clone();
    for leg in others {
        let shape = |visits: &[Vec<u64>]| visits.iter().map(Vec::len).collect::<Vec<_>>();
        if shape(leg) != shape(&sums) {
            return None;
        }
        for (sum, time) in sums.iter_mut().flatten().zip(leg.iter().flatten()) {
            *sum = sum.saturating_add(*time);
        }
    }
    Some(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::plan::{CostBasis, Group, LegLimits, Plan, PlanKey, Stage};
    use fugato_core::profile::{DeviceKey, SurveyOptions};
    use fugato_core::{BatchSize, SegmentIndex, Share};

    const SLICES: u16 = 2;

    fn blank() -> Survey {
        Survey::new(&[1, 2], &[1, SLICES], SLICES, SurveyOptions::default())
    }

    fn cut() -> CutModel {
        let key = PlanKey {
            model: "abc".to_owned(),
            device: DeviceKey {
                kind: "cpu".to_owned(),
                name: "a CPU".to_owned(),
                slices: SLICES,
            },
            runtime: "onnxruntime 1".to_owned(),
            share: Share(1),
            batch: BatchSize(1),
        };
        let stage = |segment| Stage {
            groups: vec![Group::from(vec![SegmentIndex(segment)])],
            merged: false,
            predicted: Nanos::from_millis(2),
        };
        let limits = LegLimits {
            min: Nanos::from_millis(1),
            max: Nanos::from_millis(2),
        };
        let stages = vec![stage(0), stage(1)];
        CutModel {
            id: ModelId(9),
            plan: LegPlan {
                longest: Some(Nanos::from_millis(2)),
                plan: Plan::new(key, "sequential", CostBasis::Measured, stages, limits),
            },
        }
    }

    fn fresh() -> LegSurveys {
        LegSurveys::new(cut(), &blank(), 2, None)
    }

    /// Makes every visit that is wanted, and so many at most: leg 1 takes twice what leg 0 does.
    fn measure(surveys: &mut LegSurveys, most: usize) -> usize {
        let mut made = 0;
        while let Some(wanted) = surveys.next().filter(|_| made < most) {
            let PointKey { batch, share, .. } = wanted.point;
            let first = Nanos::from_millis(10 * u64::from(batch) / u64::from(share));
            let task = vec![first, first.times(2)];
            surveys.record(wanted.point, &vec![task; wanted.legs as usize]);
            made += 1;
        }
        made
    }

    fn found(surveys: &LegSurveys) -> (Vec<LegProfile>, LegPlan) {
        let analysis = AnalysisOptions::new(SLICES);
        let (legs, plan) = surveys.concluded(&analysis).expect("all is known");
        (legs.to_vec(), plan.clone())
    }

    #[test]
    fn each_leg_has_its_own_surface_once_all_points_were_visited() {
        let mut surveys = fresh();
        let all = blank().points() * 5;
        assert_eq!(measure(&mut surveys, all - 1), all - 1);
        let analysis = AnalysisOptions::new(SLICES);
        assert!(surveys.concluded(&analysis).is_none(), "a visit is left");
        assert_eq!(surveys.give_up(), None);
        assert_eq!(measure(&mut surveys, usize::MAX), 1);
        let (legs, plan) = found(&surveys);
        assert_eq!(plan, cut().plan);
        assert_eq!(legs.len(), 2);
        for (leg, times) in legs.iter().zip([1.0, 2.0]) {
            assert_eq!(leg.grid.len(), blank().points());
            for point in &leg.grid {
                let expected = times * 0.010 * f64::from(point.batch) / f64::from(point.share);
                let median = point.median_s.expect("measured");
                assert!((median - expected).abs() < 1e-9, "{point:?}");
            }
            assert!(!leg.assumed);
            assert_eq!(leg.knee.tolerance, Some(SLICES));
        }
        assert_eq!(surveys.give_up(), Some(ModelId(9)));
        assert_eq!(surveys.give_up(), None, "it is taken down once");
        assert_eq!(surveys.on_device(), None);
    }

    #[test]
    fn what_was_interrupted_is_gone_on_from() {
        let mut surveys = fresh();
        let all = blank().points() * 5;
        measure(&mut surveys, 7);
        let samples = surveys.samples().expect("seven visits");
        let known = ModelProfile::new("model", "abc", 2);
        let earlier = EarlierLegs::of(&known, Some(&samples)).expect("times are there");
        let mut further = LegSurveys::new(cut(), &blank(), 2, Some(&earlier));
        assert_eq!(further.samples(), Some(samples));
        assert_eq!(measure(&mut further, usize::MAX), all - 7);
        measure(&mut surveys, usize::MAX);
        assert_eq!(found(&surveys), found(&further));
    }

    #[test]
    fn a_profile_without_times_counts_as_measured_where_it_has_points() {
        let mut surveys = fresh();
        measure(&mut surveys, usize::MAX);
        let (legs, plan) = found(&surveys);
        let mut known = ModelProfile::new("model", "abc", 2);
        known.legs = legs;
        known.leg_plan = Some(Box::new(plan));
        known.legs[1].grid.retain(|point| point.batch == 1);
        let earlier = EarlierLegs::of(&known, None).expect("there are legs");
        let mut further = LegSurveys::new(cut(), &blank(), 2, Some(&earlier));
        let half = blank().points() / 2;
        assert_eq!(
            further.survey().uncovered(),
            half,
            "batch 2 of one leg is gone"
        );
        assert_eq!(measure(&mut further, usize::MAX), half * 5);
        assert_eq!(found(&further), found(&surveys));
    }

    #[test]
    fn times_that_do_not_belong_together_are_left_out() {
        let mut surveys = fresh();
        measure(&mut surveys, 7);
        let mut samples = surveys.samples().expect("seven visits");
        samples.legs[1][0].visits_ns[0].push(1);
        let known = ModelProfile::new("model", "abc", 2);
        let earlier = EarlierLegs::of(&known, Some(&samples)).expect("times are there");
        let further = LegSurveys::new(cut(), &blank(), 2, Some(&earlier));
        let known = |surveys: &LegSurveys| surveys.survey().visits().count();
        assert_eq!(known(&further), known(&surveys) - 1);
    }

    #[test]
    fn times_of_other_legs_are_left_out() {
        let mut surveys = fresh();
        measure(&mut surveys, usize::MAX);
        let (legs, plan) = found(&surveys);
        let mut known = ModelProfile::new("model", "abc", 2);
        known.legs = legs;
        known.leg_plan = Some(Box::new(plan));
        let earlier = EarlierLegs::of(&known, surveys.samples().as_ref());
        let mut other = cut();
        other.plan.plan.segment_flops = Some(1);
        let further = LegSurveys::new(other, &blank(), 2, earlier.as_ref());
        assert_eq!(further.samples(), None);
        assert_eq!(further.survey().uncovered(), blank().points());
        let wanted =
            |longest| move |plan: &LegPlan| plan.longest == Some(Nanos::from_millis(longest));
        let earlier = earlier.expect("there are legs");
        assert_eq!(earlier.plan(wanted(2)), Some(&cut().plan));
        assert_eq!(earlier.plan(wanted(3)), None);
    }

    #[test]
    fn a_cut_model_that_runs_nowhere_says_why() {
        let mut surveys = fresh();
        while let Some(wanted) = surveys.next() {
            assert_eq!(surveys.fault(), None);
            surveys.fail(wanted.point, "no memory");
        }
        assert_eq!(surveys.fault().as_deref(), Some("no memory"));
        assert!(surveys.concluded(&AnalysisOptions::new(SLICES)).is_none());
    }
}
