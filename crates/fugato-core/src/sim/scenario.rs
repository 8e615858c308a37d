//! A scenario: a profile, a workload, a device and a policy; and its simulation.

use super::device::{Overheads, SimDevice, Used};
use super::profiled::{ProfiledService, ServiceTable};
use super::tally::Tally;
use super::traffic::{Traffic, model_id};
use super::world::World;
use crate::device::{ATOMS_MAX, DeviceSpec};
use crate::id::{BatchSize, Share};
use crate::profile::{DeviceKey, ModelProfile, Profile};
use crate::sched::{DynamicBatching, Input, ModelSpec, QueueLimits, Scheduler, SchedulerConfig};
use crate::time::{Nanos, Timestamp};
use crate::timeline::Timeline;
use crate::workload::{ModelLoad, Workload};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How long after its end a run waits for requests that came in its measured time, in
/// objectives of the slowest model: what has not ended then is late, whatever it does.
const DRAIN_OBJECTIVES: u64 = 10;

/// How a device is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimOptions {
    /// What the device costs beside the legs.
    pub overheads: Overheads,
    /// Whether service times vary as the profile's do; a synthetic profile's do not.
    pub noise: bool,
    /// Tasks that a model may have in flight.
    pub slots: u16,
    /// Legs that the timeline keeps, the last ones; 0 for no timeline.
    pub timeline: usize,
}

impl Default for SimOptions {
    /// No overheads, noise where the profile has some, two slots as the server gives.
    fn default() -> Self {
        Self {
            overheads: Overheads::NONE,
            noise: true,
            slots: 2,
            timeline: 0,
        }
    }
}

/// One device with its workload, ready to be simulated under any policy, seed by seed.
#[derive(Clone, Debug)]
pub struct Scenario {
    device: DeviceSpec,
    workload: Workload,
    options: SimOptions,
    models: Vec<Hosted>,
}

#[derive(Clone, Debug)]
struct Hosted {
    profile: Arc<ModelProfile>,
    /// Of the whole model.
    table: Arc<ServiceTable>,
    /// By leg; of a model that runs whole, the table above.
    legs: Arc<[ServiceTable]>,
    /// Whether its device could run it in one go besides, as a server has it.
    unsplit: bool,
    max_batch: BatchSize,
    /// Settings of the dynamic batcher.
    batching: DynamicBatching,
}

/// Why a scenario cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The workload asks for a model that the profile lacks.
    #[error("model `{model}` of the workload is not in the profile, which has {known}")]
    NotProfiled {
        /// The model.
        model: String,
        /// The profile's models.
        known: String,
    },
    /// A device has no slices, or more than can be simulated.
    #[error("a device of {found} slices cannot be simulated, expected 1 to {ATOMS_MAX}")]
    Slices {
        /// What was asked.
        found: u16,
    },
    /// Requests of a model are larger than its largest batch.
    #[error("requests of model `{model}` bring {items} items, its largest batch is {max}")]
    Items {
        /// The model.
        model: String,
        /// Items of each request.
        items: u32,
        /// The largest batch.
        max: u32,
    },
    /// The profile has no times of the batches that the workload asks for.
    #[error(
        "the profile has no times of model `{model}` for batches of 1 to {max}, only to {known}\n\
         hint: `max_batch_size = {known}` in the workload, or a profile of larger batches"
    )]
    NoTimesSoLarge {
        /// The model.
        model: String,
        /// The largest batch asked for.
        max: u32,
        /// The largest one that it has times of.
        known: u32,
    },
    /// The profile has no times of a model.
    #[error("the profile has no times of model `{model}`, not even of one item")]
    NoTimes {
        /// The model.
        model: String,
    },
}

impl Scenario {
    /// The workload on one device, whose models the profile must have.
    ///
    /// # Errors
    /// [`ScenarioError`], with the model at fault.
    pub fn new(
        profile: &Profile,
        workload: Workload,
        device: DeviceSpec,
        options: SimOptions,
    ) -> Result<Self, ScenarioError> {
        let slices = device.slices;
        if !(1..=ATOMS_MAX).contains(&slices.0) {
            return Err(ScenarioError::Slices { found: slices.0 });
        }
        let models = workload.models().iter();
        let models = models.map(|load| Hosted::new(profile, load, slices));
        let options = SimOptions {
            noise: options.noise && !profile.synthetic,
            ..options
        };
        Ok(Self {
            models: models.collect::<Result<_, _>>()?,
            device,
            workload,
            options,
        })
    }

    /// The same models under another load on the same device.
    ///
    /// # Panics
    /// Where the workload's models are others.
    #[must_use]
    pub fn with_workload(mut self, workload: Workload) -> Self {
        let names = |workload: &Workload| -> Vec<String> {
            let models = workload.models().iter();
            models.map(|model| model.name.clone()).collect()
        };
        assert_eq!(names(&self.workload), names(&workload), "other models");
        self.workload = workload;
        self
    }

    /// Sets how the dynamic batcher of `uncontrolled` treats each model.
    #[must_use]
    pub fn with_batching(mut self, batching: &DynamicBatching) -> Self {
        for model in &mut self.models {
            model.batching = batching.clone();
        }
        self
    }

    /// The workload.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The device.
    pub fn device(&self) -> &DeviceSpec {
        &self.device
    }

    /// How the device is simulated; without noise where the profile has none.
    pub fn options(&self) -> &SimOptions {
        &self.options
    }

    /// The largest batch of each model, in the order of the workload.
    pub fn max_batches(&self) -> impl Iterator<Item = BatchSize> {
        self.models.iter().map(|model| model.max_batch)
    }

    /// The shortest median time in which the device runs one request of each model, alone and in
    /// the best share that it has, in the order of the workload.
    pub fn fastest(&self) -> impl Iterator<Item = Nanos> {
        let partitions = self.device.partitions.iter();
        let shares: BTreeSet<Share> = partitions.map(|partition| partition.share()).collect();
        let models = self.models.iter().zip(self.workload.models());
        models.map(move |(model, load)| {
            let best = |table: &ServiceTable| {
                let times = shares.iter();
                let times = times.map(|&share| table.service(load.batch, share).alone);
                times.min().unwrap_or(Nanos::MAX)
            };
            let in_legs = model.legs.iter().map(best);
            let in_legs = in_legs.fold(Nanos::ZERO, |sum, leg| sum + leg);
            match model.unsplit {
                true => in_legs.min(best(&model.table)),
                false => in_legs,
            }
        })
    }

    /// Some of the models, with their load, on a device of as many slices.
    ///
    /// # Panics
    /// Where the device has another number of slices, or the workload other models.
    pub(super) fn part(&self, models: &[usize], workload: Workload, device: DeviceSpec) -> Self {
        assert_eq!(
            device.slices, self.device.slices,
            "a device of another size"
        );
        let models: Vec<Hosted> = models
            .iter()
            .map(|&model| self.models[model].clone())
            .collect();
        let loads = workload.models().iter().map(|load| &load.name);
        assert!(
            loads.eq(models.iter().map(|model| &model.profile.name)),
            "other models"
        );
        Self {
            device,
            workload,
            options: self.options,
            models,
        }
    }

    /// The profiles and tables of the models.
    pub(super) fn hosted(&self) -> impl Iterator<Item = (&ModelProfile, &ServiceTable)> {
        let models = self.models.iter();
        models.map(|model| (&*model.profile, &*model.table))
    }

    /// Runs it under the policy of `config`.
    pub fn run(&self, config: SchedulerConfig, seed: u64) -> Simulated {
        self.simulation(config, seed).run()
    }

    /// The simulation at its beginning.
    pub fn simulation(&self, mut config: SchedulerConfig, seed: u64) -> Simulation {
        let options = &self.options;
        let tables = self.models.iter().map(|model| model.legs.clone());
        let partitions = self.device.partitions.iter();
        let atoms = partitions.map(|partition| partition.atoms).collect();
        let wholes = self.models.iter().map(|model| Arc::clone(&model.table));
        let mut service =
            ProfiledService::new(tables.collect(), atoms).with_wholes(wholes.collect());
        if options.noise {
            service = service.with_noise(seed);
        }
        let fill: Vec<u64> = self.fills().collect();
        let mut traffic = Traffic::new(&self.workload, seed, &fill);
        traffic.setup.extend(self.setup());
        if options.timeline > 0 {
            let mut timeline = Timeline::new(options.timeline);
            timeline.add_device(&self.device);
            traffic.timeline = Some(timeline);
            // A delivery's decisions are polled before the next one.
            config.decisions = config.decisions.max(1 << 16);
        }
        // Nobody asks for explanations.
        config.explanations = 0;
        config.limits.requests = config.limits.requests.max(2 * fill.iter().sum::<u64>());
        let device = SimDevice::with_overheads(self.device.clone(), options.overheads);
        let scheduler = Scheduler::new(config);
        Simulation {
            world: World::with(scheduler, vec![device], Box::new(service), traffic),
            workload: self.workload.clone(),
            slices: self.device.slices,
        }
    }

    /// Requests of each model that are open at all times where it is saturated: a batch
    /// for each slot, and one that waits.
    fn fills(&self) -> impl Iterator<Item = u64> {
        let batches = u64::from(self.options.slots) + 1;
        let models = self.models.iter().zip(self.workload.models());
        models.map(move |(model, load)| {
            let requests = u64::from(model.max_batch.0.div_ceil(load.batch.0));
            requests * batches
        })
    }

    /// The inputs that make the models known.
    fn setup(&self) -> impl Iterator<Item = Input> {
        let models = self.models.iter().zip(self.workload.models()).enumerate();
        models.flat_map(|(index, (model, load))| {
            let added = Input::ModelAdded(self.spec(index, model, load));
            let profile = Box::new((*model.profile).clone());
            let model = model_id(index);
            [added, Input::ProfileGiven { model, profile }]
        })
    }

    fn spec(&self, index: usize, model: &Hosted, load: &ModelLoad) -> ModelSpec {
        ModelSpec {
            id: model_id(index),
            name: load.name.clone(),
            slo: Some(load.slo),
            weight: load.weight,
            max_batch: model.max_batch,
            slots: self.options.slots,
            legs: u16::try_from(model.legs.len()).unwrap_or(u16::MAX),
            unsplit: model.unsplit,
            devices: vec![self.device.id],
            limits: QueueLimits {
                requests: 16_384,
                bytes: 1,
            },
            batching: model.batching.clone(),
        }
    }
}

impl Hosted {
    fn new(profile: &Profile, load: &ModelLoad, slices: Share) -> Result<Self, ScenarioError> {
        let name = || load.name.clone();
        let found = profile.models.iter().find(|model| model.name == load.name);
        let model = found.ok_or_else(|| {
            let known: Vec<String> = profile
                .models
                .iter()
                .map(|model| format!("`{}`", model.name))
                .collect();
            ScenarioError::NotProfiled {
                model: name(),
                known: known.join(", "),
            }
        })?;
        let whole = model.max_batch;
        let asked = load.max_batch_size.map(|asked| asked.0.min(whole));
        let (table, legs) = tables(
            model,
            (Share(profile.device.slices), slices),
            asked.unwrap_or(whole),
        )
        .ok_or_else(|| ScenarioError::NoTimes { model: name() })?;
        let max = table.max_batch();
        if let Some(asked) = asked.filter(|asked| *asked > max.0) {
            return Err(ScenarioError::NoTimesSoLarge {
                model: name(),
                max: asked,
                known: max.0,
            });
        }
        if load.batch > max {
            return Err(ScenarioError::Items {
                model: name(),
                items: load.batch.0,
                max: max.0,
            });
        }
        let unsplit = runs_unsplit(&profile.device, model);
        let mut profile = model.clone();
        profile.slo_s = Some(load.slo.as_secs_f64());
        Ok(Self {
            profile: Arc::new(profile),
            table: Arc::new(table),
            legs: legs.into(),
            unsplit,
            max_batch: max,
            batching: DynamicBatching::default(),
        })
    }
}

/// Whether a server runs tasks of the model in one go too: on a CPU, where its plan runs one group
/// after the other; legs without a plan are assumed to.
fn runs_unsplit(device: &DeviceKey, model: &ModelProfile) -> bool {
    let plan = model.leg_plan.as_deref().map(|known| &known.plan);
    let in_turn = |plan: &crate::plan::Plan| {
        let mut stages = plan.stages.iter();
        stages.all(|stage| stage.groups.len() == 1 && !stage.merged)
    };
    device.kind == "cpu" && plan.is_none_or(in_turn)
}

/// The tables of a model and of its legs up to the largest batch, of at most `most` items,
/// that the profile has the times of.
fn tables(
    model: &ModelProfile,
    (profiled, slices): (Share, Share),
    most: u32,
) -> Option<(ServiceTable, Vec<ServiceTable>)> {
    let mut batches: Vec<u32> = model.grid.iter().map(|point| point.batch).collect();
    batches.retain(|batch| *batch < most);
    batches.push(most);
    batches.sort_unstable();
    batches.dedup();
    batches.into_iter().rev().find_map(|batch| {
        let table =
            |model: &ModelProfile| ServiceTable::new(model, profiled, slices, BatchSize(batch));
        let whole = table(model)?;
        let legs = model.each_leg();
        let legs = legs.map(|leg| Some(table(&leg)?.of_leg(&whole)));
        let legs = legs.collect::<Option<_>>()?;
        Some((whole, legs))
    })
}

/// A simulation that can be stepped through.
#[derive(Debug)]
pub struct Simulation {
    world: World<Traffic>,
    workload: Workload,
    slices: Share,
}

/// What a simulation gave.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// What was counted.
    pub tally: Tally,
    /// The last legs that ran, where a timeline was asked for.
    pub timeline: Option<Timeline>,
}

impl Simulation {
    /// Runs to the end of the workload, and until the requests that came before it have
    /// ended.
    pub fn run(mut self) -> Simulated {
        let begin = Timestamp::ZERO + self.workload.warmup();
        let end = Timestamp::ZERO + self.workload.end();
        self.world.run_before(begin);
        let before = self.used(begin);
        self.world.run_before(end);
        let after = self.used(end);
        let slowest = self.workload.models().iter().map(|model| model.slo).max();
        let grace = slowest.unwrap_or(Nanos::ZERO).times(DRAIN_OBJECTIVES);
        while self.world.effects_mut().is_open()
            && self.world.next_at().is_some_and(|at| at <= end + grace)
        {
            self.world.step();
        }
        let (actions, action_hash) = {
            let scheduler = self.world.scheduler();
            (scheduler.action_count(), scheduler.action_hash())
        };
        let (mut models, timeline) = self.world.into_outside().into_tallies();
        for ((model, after), before) in models.iter_mut().zip(after).zip(before) {
            model.used = after.minus(before);
        }
        let window = self.workload.duration();
        let tally = Tally {
            window,
            device_time: u128::from(window.as_nanos()) * u128::from(self.slices.0),
            models,
            actions,
            action_hash,
        };
        Simulated { tally, timeline }
    }

    /// What each model has had by `now`.
    fn used(&mut self, now: Timestamp) -> Vec<Used> {
        let mut total = vec![Used::default(); self.workload.models().len()];
        for device in self.world.devices_mut() {
            for (model, used) in device.used(now) {
                let total = &mut total[model.0 as usize];
                *total = total.plus(*used);
            }
        }
        total
    }
}
