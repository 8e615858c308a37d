//! A device with one model on it, to make plans on: what its segments take, what a plan
//! takes, and whether a plan gives the answers of the model as it is.

use super::open;
use super::sample::{one_item, random, zeros};
use super::serve::ServeError;
use crate::api::ModelInfo;
use crate::config::Config;
use crate::error::InferError;
use fugato_core::device::DeviceSpec;
use fugato_core::graph::Segments;
use fugato_core::plan::{Plan, PlanError, PlanKey};
use fugato_core::{BatchSize, ModelId, Nanos, PartitionId, Share};
use fugato_device::{
    Batching, CpuDevice, Cuts, Device, ElementType, LoadError, LoadOptions, ModelGraph,
    OutputTensor, Profiler, RequestInputs, StoredModel, TensorData, VisitError, Walk, Walked,
};
use std::path::Path;
use std::sync::Arc;

/// Tasks that run before times count.
const WARM_UP: usize = 2;

/// A device with one model on it.
pub struct PlanBench {
    profiler: Profiler<CpuDevice>,
    stored: StoredModel,
    graph: Arc<ModelGraph>,
    item: RequestInputs,
    partition: PartitionId,
    key: PlanKey,
    next: u32,
}

/// What a cut model took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The median time of each leg: one where a part did not work by itself, and the model
    /// was loaded as it is.
    pub legs: Vec<Nanos>,
    /// The median time from the start of the first leg to the end of the last.
    pub whole: Nanos,
}

/// Why a model cannot be planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanBenchError {
    /// ONNX Runtime, the store or the device cannot be had.
    #[error(transparent)]
    Open(#[from] ServeError),
    /// The model cannot be loaded.
    #[error("{}", .0.report())]
    Load(#[from] LoadError),
    /// The device has no partition of that size.
    #[error("there is no partition of {found}, the device has them of {have} slices")]
    Share {
        /// What was asked for.
        found: Share,
        /// What there is.
        have: String,
    },
    /// The model cannot run such a batch.
    #[error("the model cannot run a {found}: {reason}")]
    Batch {
        /// What was asked for.
        found: BatchSize,
        /// Why not.
        reason: String,
    },
    /// No input can be made up.
    #[error(
        "input `{input}` has a dimension of any size, so that no input is typical\n\nhint: \
         give one with `--dim`"
    )]
    NoTypicalInput {
        /// The input.
        input: String,
    },
    /// A made-up input is not one of the model.
    #[error("no input of the model can be made up")]
    Input(#[from] InferError),
    /// The model does not run.
    #[error("the model does not run: {0}")]
    Run(#[from] VisitError),
    /// The plan is of another model, device, share or batch.
    #[error(transparent)]
    Plan(Box<PlanError>),
}

impl From<PlanError> for PlanBenchError {
    fn from(error: PlanError) -> Self {
        Self::Plan(Box::new(error))
    }
}

impl PlanBench {
    /// Opens the device that the configuration describes, and the model at `model` for tasks
    /// of so many items on a partition of so many slices. Input dimensions past the batch that
    /// may have any size get `dim`.
    ///
    /// # Errors
    /// [`PlanBenchError`].
    pub fn open(
        config: &Config,
        model: &Path,
        (share, batch): (Share, BatchSize),
        dim: Option<u64>,
    ) -> Result<Self, PlanBenchError> {
        let (runtime, store) = open::store(config)?;
        let profiler = open::profiler(config).map_err(ServeError::from)?;
        let device = profiler.device();
        let partition = partition_of(device.spec(), share)?;
        let stored = store.prepare(model)?;
        let info = model_info(&stored, batch, dim)?;
        let graph = stored.graph()?;
        let key = PlanKey {
            model: stored.info().hash.clone(),
            device: device.profile_key(),
            runtime: runtime.profile_key(),
            share,
            batch,
        };
        let mut bench = Self {
            profiler,
            item: RequestInputs {
                items: 1,
                inputs: Arc::from([]),
            },
            stored,
            graph,
            partition,
            key,
            next: 0,
        };
        bench.choose_item(&info)?;
        Ok(bench)
    }

    /// Takes the first made-up request that the model runs: it may refuse random values.
    fn choose_item(&mut self, info: &ModelInfo) -> Result<(), PlanBenchError> {
        let candidates = [random(info), zeros(info)];
        let mut refused = None;
        for inputs in candidates.into_iter().flatten() {
            self.item = one_item(info, inputs)?;
            match self.answer(None) {
                Ok(_) => return Ok(()),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| {
            let batch = usize::from(info.max_batch_size > 0);
            let varying = info.inputs.iter();
            let mut varying =
                varying.filter(|input| input.shape.iter().skip(batch).any(Option::is_none));
            let input = varying.next().map(|input| input.name.clone());
            PlanBenchError::NoTypicalInput {
                input: input.unwrap_or_default(),
            }
        }))
    }

    /// The model's operators.
    pub fn graph(&self) -> &ModelGraph {
        &self.graph
    }

    /// What plans made here are for.
    pub fn key(&self) -> &PlanKey {
        &self.key
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
        self.time_on(self.partition, ways, rounds)
    }

    /// As [`PlanBench::time`], on one slice: what a group of several at once has.
    ///
    /// # Errors
    /// Where it cannot be loaded or run, or there is no such partition.
    pub fn time_on_one(
        &mut self,
        ways: &[Option<Cuts>],
        rounds: usize,
    ) -> Result<Vec<Timing>, PlanBenchError> {
        let one = partition_of(self.profiler.device().spec(), Share(1))?;
        self.time_on(one, ways, rounds)
    }

    fn time_on(
        &mut self,
        partition: PartitionId,
        ways: &[Option<Cuts>],
        rounds: usize,
    ) -> Result<Vec<Timing>, PlanBenchError> {
        let mut loaded = Vec::with_capacity(ways.len());
        let timed = self.load_and_time(partition, ways, rounds.max(1), &mut loaded);
        for walk in &loaded {
            self.profiler.device().unload(walk.model);
        }
        timed
    }

    fn load_and_time(
        &mut self,
        partition: PartitionId,
        ways: &[Option<Cuts>],
        rounds: usize,
        loaded: &mut Vec<Walk>,
    ) -> Result<Vec<Timing>, PlanBenchError> {
        for cuts in ways {
            loaded.push(self.load(partition, cuts.clone())?);
        }
        let mut walked: Vec<Vec<Walked>> = ways.iter().map(|_| Vec::new()).collect();
        for round in 0..WARM_UP + rounds {
            for (walk, walked) in loaded.iter().zip(&mut walked) {
                let one = self.profiler.walk(walk)?;
                if round >= WARM_UP {
                    walked.push(one);
                }
            }
        }
        let timing = |(walk, walked): (&Walk, &Vec<Walked>)| {
            let leg = |leg| median(walked.iter().map(|walked| walked.legs[leg]));
            Timing {
                legs: (0..usize::from(walk.legs)).map(leg).collect(),
                whole: median(walked.iter().map(|walked| walked.whole)),
            }
        };
        Ok(loaded.iter().zip(&walked).map(timing).collect())
    }

    /// The largest difference between an answer of the model as it is and of the plan, over
    /// the largest answer: `max|a-b| / max|b|`, the worst output. `None` for outputs that are
    /// not floats and differ.
    ///
    /// # Errors
    /// Where the plan is not of this model, or either cannot be run.
    pub fn difference(
        &mut self,
        plan: &Plan,
        segments: &Segments,
    ) -> Result<Option<f64>, PlanBenchError> {
        plan.matches(&self.key)?;
        plan.check(segments)?;
        let whole = self.answer(None)?;
        let planned = self.answer(Some(Cuts::of(plan, segments)))?;
        let pairs = whole.outputs.requests.iter().zip(&planned.outputs.requests);
        let mut worst = 0.0_f64;
        for (whole, planned) in pairs {
            let (Ok(whole), Ok(planned)) = (whole, planned) else {
                return Ok(None);
            };
            let elements = self
                .stored
                .info()
                .outputs
                .iter()
                .map(|output| output.element);
            for (element, (one, other)) in elements.zip(planned.iter().zip(whole)) {
                match differ(element, one, other) {
                    Some(found) => worst = worst.max(found),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(worst))
    }

    /// Loads the model cut that way: the task that goes through it.
    fn load(&mut self, partition: PartitionId, cuts: Option<Cuts>) -> Result<Walk, PlanBenchError> {
        let id = ModelId(self.next);
        self.next += 1;
        let options = LoadOptions {
            max_batch: self.key.batch.0,
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
            batch: self.key.batch.0,
            partition,
            legs: loaded.legs,
        })
    }

    /// Runs one task of the model cut that way.
    fn answer(&mut self, cuts: Option<Cuts>) -> Result<Walked, PlanBenchError> {
        let walk = self.load(self.partition, cuts)?;
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

/// The model as requests to it are checked.
fn model_info(
    stored: &StoredModel,
    batch: BatchSize,
    dim: Option<u64>,
) -> Result<ModelInfo, PlanBenchError> {
    let found = stored.info();
    let max_batch_size = match &found.batching {
        Batching::Batchable => batch.0,
        Batching::Single { reason } if batch.0 > 1 => {
            return Err(PlanBenchError::Batch {
                found: batch,
                reason: reason.clone(),
            });
        }
        Batching::Single { .. } => 0,
    };
    let mut inputs = found.inputs.clone();
    for input in &mut inputs {
        let fixed = input.shape.iter_mut().skip(usize::from(max_batch_size > 0));
        fixed.for_each(|size| *size = size.or(dim));
    }
    Ok(ModelInfo {
        name: "model".to_owned(),
        version: "1".to_owned(),
        inputs,
        outputs: found.outputs.clone(),
        max_batch_size,
        versions: vec!["1".to_owned()],
        labels: Vec::new(),
    })
}

fn median(times: impl Iterator<Item = Nanos>) -> Nanos {
    let mut times: Vec<Nanos> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// `max|a-b| / max|b|` of two tensors: 0 where they are equal byte for byte; `None` where
/// they differ and are not finite 32-bit floats.
fn differ(element: ElementType, one: &OutputTensor, other: &OutputTensor) -> Option<f64> {
    if one == other {
        return Some(0.0);
    }
    let (TensorData::Raw(one_raw), TensorData::Raw(other_raw)) = (&one.data, &other.data) else {
        return None;
    };
    if element != ElementType::Fp32 || one.shape != other.shape {
        return None;
    }
    let (one, other) = (floats(one_raw), floats(other_raw));
    let most = other
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    let apart = one
        .iter()
        .zip(&other)
        .map(|(one, other)| (one - other).abs());
    let apart = apart.fold(0.0_f64, f64::max);
    let finite = one.iter().chain(&other).all(|value| value.is_finite());
    finite.then(|| apart / most.max(f64::MIN_POSITIVE))
}

fn floats(raw: &[u8]) -> Vec<f64> {
    let (chunks, _) = raw.as_chunks();
    chunks
        .iter()
        .map(|&chunk| f64::from(f32::from_le_bytes(chunk)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32]) -> OutputTensor {
        let raw: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        OutputTensor {
            shape: vec![values.len() as u64],
            data: TensorData::Raw(raw.into()),
        }
    }

    #[test]
    fn differences_are_of_the_largest_answer() {
        let differ =
            |one: &[f32], other: &[f32]| differ(ElementType::Fp32, &tensor(one), &tensor(other));
        assert_eq!(differ(&[1.0, f32::NAN], &[1.0, f32::NAN]), Some(0.0));
        assert_eq!(differ(&[1.0, 2.0], &[1.0, 4.0]), Some(0.5));
        assert_eq!(differ(&[1.0, f32::NAN], &[1.0, 2.0]), None);
        assert_eq!(differ(&[1.0], &[1.0, 2.0]), None, "another shape");
    }
}
