//! A device with one model on it, to make plans on: what its segments take, what a plan
//! takes, and whether a plan gives the answers of the model as it is.

mod apart;
mod compare;
mod draw;
mod error;
mod times;

pub use compare::Difference;
pub use error::PlanBenchError;

use super::load::precision;
use super::open;
use super::sample::ends;
use crate::api::ModelInfo;
use crate::config::Config;
use apart::{apart_from_the_rest, stacked_ways};
use compare::{differ, median};
use draw::{Draw, model_info};
use fugato_core::device::DeviceSpec;
use fugato_core::graph::Segments;
use fugato_core::plan::{Plan, PlanKey};
use fugato_core::{BatchSize, ModelId, Nanos, PartitionId, SegmentIndex, Share};
use fugato_device::{
    AnyDevice, Cuts, Device, LoadOptions, ModelGraph, Profiler, RequestInputs, StoredModel,
    TensorSpec, Walk, Walked,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use times::{TimesFile, WHOLE};

/// Tasks that run before times count.
const WARM_UP: usize = 2;

/// Further ones of several items in which a device finds out whether groups are faster at once:
/// of one item it does while it loads them.
const GROUPS_IN_TURNS: usize = 16;

/// Segments that are timed in one go, each a leg of its own; what was timed is then kept.
const TIMED_AT_ONCE: usize = 64;

/// Inputs that a plan's answers are compared on.
const DRAWS: u64 = 3;

/// A device with one model on it.
pub struct PlanBench {
    profiler: Profiler<AnyDevice>,
    stored: StoredModel,
    graph: Arc<ModelGraph>,
    /// What a task of one item is given.
    item: RequestInputs,
    /// How other inputs are drawn.
    draw: Option<Draw>,
    partition: PartitionId,
    key: PlanKey,
    /// Shares whose times on disk do not count: all is measured anew.
    stale: BTreeSet<Share>,
    next: u32,
}

/// What a bench is made of.
pub(super) struct Parts {
    pub(super) profiler: Profiler<AnyDevice>,
    pub(super) stored: StoredModel,
    /// As plans call the runtime.
    pub(super) runtime: String,
    pub(super) share: Share,
    pub(super) batch: BatchSize,
}

/// What a cut model took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The median time of each leg: one where a part did not work by itself, and the model
    /// was loaded as it is.
    pub legs: Vec<Nanos>,
    /// The least time of each leg: what it takes where nothing else is in its way.
    pub least: Vec<Nanos>,
    /// The median time from the start of the first leg to the end of the last.
    pub whole: Nanos,
}

impl PlanBench {
    /// Opens the device that the configuration describes, and the model at `model`, in the
    /// precision that models have by default there, for tasks of so many items on a partition of
    /// so many slices. Input dimensions past the batch that may have any size get `dim`.
    ///
    /// # Errors
    /// [`PlanBenchError`].
    pub fn open(
        config: &Config,
        model: &Path,
        (share, batch): (Share, BatchSize),
        dim: Option<u64>,
    ) -> Result<Self, PlanBenchError> {
        let opened = open::store(config)?;
        let profiler = opened.profiler(config)?;
        let precision = precision(config.defaults.precision);
        let stored = opened.store.prepare_in(model, precision)?;
        let info = model_info(&stored, batch, dim)?;
        let mut bench = Self::new(Parts {
            profiler,
            stored,
            runtime: opened.ort.profile_key(),
            share,
            batch,
        })?;
        bench.choose_inputs(info)?;
        Ok(bench)
    }

    /// A bench with the first of these requests of one item that the model runs.
    ///
    /// # Errors
    /// [`PlanBenchError`].
    pub(super) fn with(parts: Parts, items: Vec<RequestInputs>) -> Result<Self, PlanBenchError> {
        let mut bench = Self::new(parts)?;
        let mut refused = None;
        for item in items {
            match bench.try_item(item) {
                Ok(()) => return Ok(bench),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| PlanBenchError::NoTypicalInput {
            input: String::new(),
        }))
    }

    fn new(parts: Parts) -> Result<Self, PlanBenchError> {
        let Parts {
            profiler,
            stored,
            runtime,
            share,
            batch,
        } = parts;
        let device = profiler.device();
        let key = PlanKey {
            model: stored.info().hash.clone(),
            device: device.profile_key(),
            runtime,
            share,
            batch,
        };
        Ok(Self {
            partition: partition_of(device.spec(), share)?,
            graph: stored.graph()?,
            profiler,
            stored,
            item: RequestInputs {
                items: 1,
                inputs: Arc::from([]),
            },
            draw: None,
            key,
            stale: BTreeSet::new(),
            next: 0,
        })
    }

    /// Measures anew what was measured by others before.
    pub fn forget_times(&mut self) {
        let partitions = &self.profiler.device().spec().partitions;
        self.stale = partitions.iter().map(|part| part.share()).collect();
    }

    /// Finds random inputs that the model runs: it may refuse whole numbers that are too
    /// large, so each input gets the largest it takes where the others are zero.
    fn choose_inputs(&mut self, info: ModelInfo) -> Result<(), PlanBenchError> {
        let first = |input: &TensorSpec| ends(input).first().copied().unwrap_or(1);
        let largest = info.inputs.iter().map(first).collect();
        let mut draw = Draw {
            info,
            ends: largest,
        };
        if let Err(refused) = self.try_item(draw.item(0)?) {
            draw.ends.fill(1);
            self.try_item(draw.item(0)?).map_err(|_| refused)?;
            for place in 0..draw.ends.len() {
                let others = draw.ends.clone();
                for &end in ends(&draw.info.inputs[place]) {
                    draw.ends.clone_from(&others);
                    draw.ends[place] = end;
                    if self.try_item(draw.item(0)?).is_ok() {
                        break;
                    }
                }
            }
            self.try_item(draw.item(0)?)?;
        }
        self.draw = Some(draw);
        Ok(())
    }

    /// Takes a request of one item where the model runs it.
    fn try_item(&mut self, item: RequestInputs) -> Result<(), PlanBenchError> {
        self.item = item;
        self.answer(None).map(|_| ())
    }

    /// The model's operators.
    pub fn graph(&self) -> &ModelGraph {
        &self.graph
    }

    /// What plans made here are for.
    pub fn key(&self) -> &PlanKey {
        &self.key
    }

    /// Whether the parts of a leg are run one by one, and not as one.
    pub fn runs_parts_apart(&self) -> bool {
        self.profiler.device().is_cpu()
    }

    /// The median times of the model cut in each of these ways (`None`: as it is), over
    /// `rounds` tasks of each. They take turns, so that what else runs on the machine slows
    /// all of them.
    ///
    /// # Errors
    /// Where it cannot be loaded or run.
    pub fn time(
        &mut self,
        ways: &[Option<Cuts>],
        rounds: usize,
    ) -> Result<Vec<Timing>, PlanBenchError> {
        self.time_on((self.partition, self.key.batch), ways, rounds)
    }

    /// As [`PlanBench::time`], at another share and batch than the bench's.
    ///
    /// # Errors
    /// Where the device has no partition of the share, and as [`PlanBench::time`].
    pub fn time_at(
        &mut self,
        (share, batch): (Share, BatchSize),
        ways: &[Option<Cuts>],
        rounds: usize,
    ) -> Result<Vec<Timing>, PlanBenchError> {
        let partition = partition_of(self.profiler.device().spec(), share)?;
        self.time_on((partition, batch), ways, rounds)
    }

    /// Where a plan made here may cost more than it does here: the bench's share, the least and the
    /// most of the device, each at the bench's batch and at one item; without the bench's own.
    pub fn elsewhere(&self) -> Vec<(Share, BatchSize)> {
        let PlanKey { share, batch, .. } = self.key;
        let shares = self.profiler.device().spec().partitions.iter();
        let shares: BTreeSet<Share> = shares.map(|part| part.share()).collect();
        let ends = [shares.first(), shares.last()];
        let shares: BTreeSet<Share> = ends.into_iter().flatten().copied().chain([share]).collect();
        let batches = BTreeSet::from([BatchSize(1), batch]);
        let places = shares
            .iter()
            .flat_map(|&share| batches.iter().map(move |&batch| (share, batch)));
        places.filter(|&place| place != (share, batch)).collect()
    }

    /// The median time of the model as it is on the share; from the disk where it was
    /// measured before.
    ///
    /// # Errors
    /// Where it cannot be loaded or run.
    pub fn whole_time(&mut self, share: Share, rounds: usize) -> Result<Nanos, PlanBenchError> {
        let mut known = self.times_of(share);
        if let Some(known) = known.get(WHOLE) {
            return Ok(known);
        }
        let partition = partition_of(self.profiler.device().spec(), share)?;
        let timed = self.time_on((partition, self.key.batch), &[None], rounds)?;
        let whole = timed.first().map(|timed| timed.whole).unwrap_or_default();
        known.insert(WHOLE, whole);
        known.save();
        Ok(whole)
    }

    /// The least time of each segment by itself on the share, since it is kept and the machine
    /// may be busy just now; `None` where a segment does not run by itself. Times that were measured before are read from the disk, and those
    /// measured now kept there; `tell` hears how many are known.
    ///
    /// # Errors
    /// Where the model cannot be loaded or run.
    pub fn segment_times(
        &mut self,
        segments: &Segments,
        share: Share,
        rounds: usize,
        tell: &mut dyn FnMut(usize),
    ) -> Result<Option<Vec<Nanos>>, PlanBenchError> {
        let hashes = self.stored.segment_hashes(segments)?;
        let partition = partition_of(self.profiler.device().spec(), share)?;
        let mut known = self.times_of(share);
        loop {
            let missing = (0..hashes.len()).filter(|&place| known.get(&hashes[place]).is_none());
            let missing: Vec<usize> = missing.collect();
            tell(hashes.len() - missing.len());
            if missing.is_empty() {
                let times = hashes.iter().map(|hash| known.get(hash));
                return Ok(Some(times.map(Option::unwrap_or_default).collect()));
            }
            let now = &missing[..missing.len().min(TIMED_AT_ONCE)];
            let (cuts, legs) = apart_from_the_rest(segments, now);
            let count = cuts.legs();
            let timed = self.time_on((partition, self.key.batch), &[Some(cuts)], rounds)?;
            let Some(timed) = timed.first().filter(|timed| timed.legs.len() == count) else {
                // The model ran as it is, and what a segment takes is not known.
                return Ok(None);
            };
            for (&place, leg) in now.iter().zip(legs) {
                known.insert(&hashes[place], timed.least[leg]);
            }
            known.save();
        }
    }

    /// The least time of segments that can be one operator, as that, on the bench's share: by all
    /// that can be stacked, by these with what joins them, and by those of one window. None where a
    /// part does not run by itself.
    ///
    /// # Errors
    /// Where the model cannot be loaded or run.
    pub fn stack_times(
        &mut self,
        segments: &Segments,
        rounds: usize,
    ) -> Result<BTreeMap<Vec<SegmentIndex>, Nanos>, PlanBenchError> {
        let stacks = self.graph.graph().stacks(segments);
        if stacks.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ways = stacked_ways(self.graph.graph(), segments, &stacks);
        let cuts = ways.iter();
        let cuts = cuts.map(|stages| Some(Cuts::stage_by_stage(stages, segments)));
        let timed = self.time(&cuts.collect::<Vec<_>>(), rounds)?;
        let timed = timed.iter().zip(&ways);
        let timed = timed.filter(|(timed, stages)| timed.legs.len() == stages.len());
        let legs = timed.flat_map(|(timed, stages)| stages.iter().zip(&timed.least));
        let merged = legs.filter(|(stage, _)| stage.merged);
        Ok(merged
            .map(|(stage, &least)| (stage.segments().collect(), least))
            .collect())
    }

    /// What is known of the model at a share.
    fn times_of(&mut self, share: Share) -> TimesFile {
        let key = PlanKey {
            share,
            ..self.key.clone()
        };
        let shapes = self.item.inputs.iter().map(|input| input.shape.clone());
        let fresh = self.stale.remove(&share);
        TimesFile::open(self.stored.folder(), &key, shapes.collect(), fresh)
    }

    fn time_on(
        &mut self,
        place: (PartitionId, BatchSize),
        ways: &[Option<Cuts>],
        rounds: usize,
    ) -> Result<Vec<Timing>, PlanBenchError> {
        let mut loaded = Vec::with_capacity(ways.len());
        let timed = self.load_and_time(place, ways, rounds.max(1), &mut loaded);
        for walk in &loaded {
            self.profiler.device().unload(walk.model);
        }
        timed
    }

    fn load_and_time(
        &mut self,
        place: (PartitionId, BatchSize),
        ways: &[Option<Cuts>],
        rounds: usize,
        loaded: &mut Vec<Walk>,
    ) -> Result<Vec<Timing>, PlanBenchError> {
        for cuts in ways {
            loaded.push(self.load(place, cuts.clone())?);
        }
        let mut walked: Vec<Vec<Walked>> = ways.iter().map(|_| Vec::new()).collect();
        let of_groups = |cuts: &Option<Cuts>| cuts.as_ref().is_some_and(|cuts| !cuts.is_in_turn());
        let warm_up = match place.1 > BatchSize(1) && ways.iter().any(of_groups) {
            true => WARM_UP + GROUPS_IN_TURNS,
            false => WARM_UP,
        };
        for round in 0..warm_up + rounds {
            for (walk, walked) in loaded.iter().zip(&mut walked) {
                let one = self.profiler.walk(walk)?;
                if round >= warm_up {
                    walked.push(one);
                }
            }
        }
        let timing = |(walk, walked): (&Walk, &Vec<Walked>)| {
            let of = |leg| walked.iter().map(move |walked| walked.legs[leg]);
            let legs = 0..usize::from(walk.legs);
            Timing {
                least: legs
                    .clone()
                    .map(|leg| of(leg).min().unwrap_or_default())
                    .collect(),
                legs: legs.map(|leg| median(of(leg))).collect(),
                whole: median(walked.iter().map(|walked| walked.whole)),
            }
        };
        Ok(loaded.iter().zip(&walked).map(timing).collect())
    }

    /// The largest difference between an answer of the model as it is and of the plan, over
    /// several random inputs: the output that is farthest off.
    ///
    /// # Errors
    /// Where the plan is not of this model, or either cannot be run.
    pub fn difference(
        &mut self,
        plan: &Plan,
        segments: &Segments,
    ) -> Result<Difference, PlanBenchError> {
        plan.matches(&self.key)?;
        plan.check(segments)?;
        let typical = self.item.clone();
        let mut items = vec![typical.clone()];
        if let Some(draw) = &self.draw {
            let more = (1..DRAWS).map(|seed| draw.item(seed));
            items.extend(more.collect::<Result<Vec<_>, _>>()?);
        }
        let compared = self.farthest(items, &Cuts::of(plan, segments));
        self.item = typical;
        compared
    }

    /// The output that is farthest off over these inputs.
    fn farthest(
        &mut self,
        items: Vec<RequestInputs>,
        cuts: &Cuts,
    ) -> Result<Difference, PlanBenchError> {
        let mut farthest = Difference {
            output: String::new(),
            found: Some(0.0),
        };
        for item in items {
            self.item = item;
            let whole = self.answer(None)?.outputs.requests;
            let planned = self.answer(Some(cuts.clone()))?.outputs.requests;
            for (whole, planned) in whole.iter().zip(&planned) {
                let (Ok(whole), Ok(planned)) = (whole, planned) else {
                    unreachable!("inputs that were made up here are there");
                };
                let outputs = &self.stored.info().outputs;
                for (output, (one, other)) in outputs.iter().zip(planned.iter().zip(whole)) {
                    farthest = farthest.farther(Difference {
                        output: output.name.clone(),
                        found: differ(output.element, one, other),
                    });
                }
            }
        }
        Ok(farthest)
    }

    /// Loads the model cut that way: the task that goes through it.
    fn load(
        &mut self,
        (partition, BatchSize(batch)): (PartitionId, BatchSize),
        cuts: Option<Cuts>,
    ) -> Result<Walk, PlanBenchError> {
        let id = ModelId(self.next);
        self.next += 1;
        let options = LoadOptions {
            max_batch: batch,
            slots: 1,
            warm: vec![partition],
            cuts,
            ..LoadOptions::default()
        };
        let device = self.profiler.device();
        let loaded = device.load(id, &self.stored, &options)?;
        Ok(Walk {
            model: id,
            item: self.item.clone(),
            batch,
            partition,
            legs: loaded.legs,
        })
    }

    /// Runs one task of the model cut that way.
    fn answer(&mut self, cuts: Option<Cuts>) -> Result<Walked, PlanBenchError> {
        let walk = self.load((self.partition, self.key.batch), cuts)?;
        let walked = self.profiler.walk(&walk);
        self.profiler.device().unload(walk.model);
        Ok(walked?)
    }
}

fn partition_of(spec: &DeviceSpec, share: Share) -> Result<PartitionId, PlanBenchError> {
    let partitions = &spec.partitions;
    let found = partitions.iter().find(|part| part.share() == share);
    found.map(|part| part.id).ok_or_else(|| {
        let mut have: Vec<u16> = partitions.iter().map(|part| part.share().0).collect();
        have.sort_unstable();
        have.dedup();
        let have: Vec<String> = have.iter().map(u16::to_string).collect();
        PlanBenchError::Share {
            found: share,
            have: have.join(", "),
        }
    })
}
