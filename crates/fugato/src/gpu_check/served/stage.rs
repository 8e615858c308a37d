//! A device with models of the zoo on it, and whoever hears of its events at the time.

use crate::config::{Config, ConfigError, DeviceKind, PlanLanes, Sources};
use crate::driver::Mailbox;
use crate::engine::{OpenDevice, open_device};
use crate::gpu_check::Setup;
use crate::gpu_check::inputs::{RECIPE, push};
use anyhow::Context;
use bytes::Bytes;
use fugato_core::device::DeviceSpec;
use fugato_core::profile::DeviceKey;
use fugato_core::sched::Start;
use fugato_core::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, Nanos, PartitionId, SlotIndex, TaskId,
    Timestamp,
};
use fugato_device::{
    AnyDevice, Device, DeviceEvent, DeviceMetrics, EventSink, InputTensor, LegWork, LoadError,
    LoadOptions, Loaded, ModelStore, MonotonicClock, OutputTensor, Precision, RequestInputs,
    RunError, RunSplit, StoredModel, TensorData,
};
use fugato_zoo::ZooModel;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Silence after which a device is taken to have lost a leg.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long after a leg a device may say that it is lost.
const LOST: Duration = Duration::from_secs(1);

/// A device that models are loaded onto.
pub(super) trait Host: Device + 'static {
    fn load(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError>;
    fn unload(&self, id: ModelId) -> bool;
    fn set_layered(&self, layered: bool);
    fn metrics(&self) -> DeviceMetrics;
}

impl Host for AnyDevice {
    fn load(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError> {
        self.load(id, stored, options)
    }

    fn unload(&self, id: ModelId) -> bool {
        self.unload(id)
    }

    fn set_layered(&self, layered: bool) {
        self.set_layered(layered);
    }

    fn metrics(&self) -> DeviceMetrics {
        self.metrics()
    }
}

/// Who hears of a device's events.
#[derive(Clone, Default)]
pub(super) struct Router(Arc<Mutex<Listener>>);

#[derive(Default)]
enum Listener {
    #[default]
    Nobody,
    Queue(Sender<DeviceEvent>),
    Driver(Arc<Mailbox>),
}

impl Router {
    fn sink(&self) -> EventSink {
        let router = self.clone();
        Arc::new(move |event| {
            let listener = router.0.lock().unwrap_or_else(PoisonError::into_inner);
            match &*listener {
                Listener::Nobody => {}
                Listener::Queue(queue) => {
                    // Whoever listened may have gone.
                    let _ = queue.send(event);
                }
                Listener::Driver(mailbox) => mailbox.device(event),
            }
        })
    }

    fn set(&self, listener: Listener) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = listener;
    }

    /// Sends all events from now on to a queue.
    pub(super) fn queue(&self) -> Receiver<DeviceEvent> {
        let (sender, events) = channel();
        self.set(Listener::Queue(sender));
        events
    }

    /// Sends all events from now on to a driver.
    pub(super) fn drive(&self, mailbox: Arc<Mailbox>) {
        self.set(Listener::Driver(mailbox));
    }
}

/// A device, and what models are loaded from.
pub(super) struct Stage<D> {
    pub(super) device: Arc<D>,
    pub(super) router: Router,
    pub(super) clock: MonotonicClock,
    store: ModelStore,
    /// Where models are written.
    folder: PathBuf,
    events: Receiver<DeviceEvent>,
    next_model: u32,
    next_task: u64,
}

/// A model on the device.
pub(super) struct OnStage {
    pub(super) id: ModelId,
    pub(super) zoo: &'static ZooModel,
    pub(super) stored: StoredModel,
    pub(super) loaded: Loaded,
}

/// A leg that ended.
pub(super) struct Ran {
    pub(super) started: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) split: RunSplit,
    /// By item, then by output.
    pub(super) outputs: Vec<Vec<OutputTensor>>,
}

/// A task that went through all its legs.
pub(super) struct Through {
    /// Of all its runs, by the device's clock.
    pub(super) runs: Nanos,
    /// From the start of the first leg to the end of the last.
    pub(super) took: Nanos,
    /// By item, then by output.
    pub(super) outputs: Vec<Vec<OutputTensor>>,
}

impl Ran {
    pub(super) fn took(&self) -> Nanos {
        self.ended - self.started
    }
}

/// Where and on what a leg runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) partition: PartitionId,
    pub(super) lane: LaneId,
    pub(super) slot: SlotIndex,
}

impl Place {
    /// The first lane of a partition, which is the one that policies use.
    pub(super) fn of(partition: PartitionId) -> Self {
        Self {
            partition,
            lane: LaneId(0),
            slot: SlotIndex(0),
        }
    }
}

/// The configuration of a check: the server's own, but for what was asked for.
fn config(setup: &Setup, kind: DeviceKind) -> Result<Config, ConfigError> {
    Config::resolve(&sources(setup, kind))
}

/// What it comes from.
pub(super) fn sources(setup: &Setup, kind: DeviceKind) -> Sources {
    let mut sources = Sources::default();
    let flags = &mut sources.flags;
    flags.device.kind = Some(kind);
    flags.device.gpu = Some(setup.device);
    // Whether they may is what is to be found out; models say which way they are run.
    flags.device.plan_lanes = Some(PlanLanes::On);
    flags.device.gpu_libraries = setup.libraries.first().cloned();
    flags.runtime.onnxruntime = Some(setup.onnxruntime.clone());
    flags.model_store.dir = Some(store(setup, kind == DeviceKind::Cpu));
    sources
}

/// Where models are stored.
pub(super) fn store(setup: &Setup, for_cpu: bool) -> PathBuf {
    setup.models.join(match for_cpu {
        true => ".store-cpu",
        false => ".store",
    })
}

impl Stage<AnyDevice> {
    /// The device of that kind, as the server would open it; and what a profile calls its
    /// runtime.
    pub(super) fn open(setup: &Setup, kind: DeviceKind) -> anyhow::Result<(Self, String)> {
        let (clock, router) = (MonotonicClock::start(), Router::default());
        let opened = open_device(&config(setup, kind)?, clock, router.sink())?;
        let OpenDevice { device, ort, store } = opened;
        let stage = Self::new(device, (router, clock), store, &setup.models);
        Ok((stage, ort.profile_key()))
    }

    /// What a profile calls the device.
    pub(super) fn key(&self) -> DeviceKey {
        self.device.profile_key()
    }
}

impl<D: Host> Stage<D> {
    /// A device whose events `router` has.
    pub(super) fn new(
        device: D,
        (router, clock): (Router, MonotonicClock),
        store: ModelStore,
        folder: &Path,
    ) -> Self {
        Self {
            device: Arc::new(device),
            events: router.queue(),
            router,
            clock,
            store,
            folder: folder.to_owned(),
            next_model: 0,
            next_task: 0,
        }
    }

    /// The same with another device around this one.
    #[cfg(test)]
    pub(super) fn within<E: Host>(self, wrap: impl FnOnce(Arc<D>) -> E) -> Stage<E> {
        Stage {
            device: Arc::new(wrap(self.device)),
            router: self.router,
            clock: self.clock,
            store: self.store,
            folder: self.folder,
            events: self.events,
            next_model: self.next_model,
            next_task: self.next_task,
        }
    }

    /// Hears of the device's events again, after somebody else did.
    pub(super) fn listen(&mut self) {
        self.events = self.router.queue();
    }

    /// A model of the zoo, written where it is not there yet and optimised.
    pub(super) fn prepare(&self, zoo: &'static ZooModel) -> anyhow::Result<StoredModel> {
        self.prepare_in(zoo, Precision::Fp32)
    }

    fn prepare_in(
        &self,
        zoo: &'static ZooModel,
        precision: Precision,
    ) -> anyhow::Result<StoredModel> {
        let mut quiet = |_: fugato_zoo::Progress<'_>| {};
        let written = fugato_zoo::write_repository(&self.folder, &[zoo.name], RECIPE, &mut quiet)?;
        let written = written.into_iter().next();
        let path = written.context("one model was asked for")?.path;
        self.store.prepare_in(path, precision).map_err(told)
    }

    /// Loads a model.
    pub(super) fn load(
        &mut self,
        zoo: &'static ZooModel,
        options: &LoadOptions,
    ) -> anyhow::Result<OnStage> {
        self.load_in(zoo, Precision::Fp32, options)
    }

    /// Loads a model in a precision.
    pub(super) fn load_in(
        &mut self,
        zoo: &'static ZooModel,
        precision: Precision,
        options: &LoadOptions,
    ) -> anyhow::Result<OnStage> {
        let stored = self.prepare_in(zoo, precision)?;
        let (id, loaded) = self.load_stored(&stored, options)?;
        stored.give_pages_back();
        Ok(OnStage {
            id,
            zoo,
            stored,
            loaded,
        })
    }

    fn load_stored(
        &mut self,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> anyhow::Result<(ModelId, Loaded)> {
        let id = ModelId(self.next_model);
        self.next_model += 1;
        let loaded = self.device.load(id, stored, options).map_err(told)?;
        Ok((id, loaded))
    }

    /// Why a model is not loaded; `None` where it was, after which it is gone again.
    pub(super) fn refusal(
        &mut self,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Option<LoadError> {
        let id = ModelId(self.next_model);
        self.next_model += 1;
        let refused = self.device.load(id, stored, options).err();
        if refused.is_none() {
            self.device.unload(id);
        }
        refused
    }

    pub(super) fn unload(&self, model: &OnStage) {
        self.device.unload(model.id);
    }

    /// Starts a leg.
    pub(super) fn start(
        &mut self,
        model: &OnStage,
        place: Place,
        requests: &[RequestInputs],
    ) -> TaskId {
        let task = TaskId(self.next_task);
        self.next_task += 1;
        self.start_leg(model, (task, LegIndex(0)), place, requests);
        task
    }

    fn start_leg(
        &self,
        model: &OnStage,
        (task, leg): (TaskId, LegIndex),
        place: Place,
        requests: &[RequestInputs],
    ) {
        let rows = requests.iter().map(|request| request.items).sum();
        self.device.start(LegWork {
            start: Start {
                device: DeviceId(0),
                task,
                model: model.id,
                leg,
                partition: place.partition,
                lane: place.lane,
                slot: place.slot,
                batch: BatchSize(rows),
                unsplit: false,
                not_before: Timestamp::ZERO,
                requests: Vec::new(),
            },
            requests: match leg.0 {
                0 => requests.to_vec(),
                _ => Vec::new(),
            },
        });
    }

    /// Runs a task to its end on a device that does nothing else, each leg when the one before
    /// has ended. They take turns among the places.
    pub(super) fn run_through(
        &mut self,
        model: &OnStage,
        places: &[Place],
        requests: &[RequestInputs],
    ) -> anyhow::Result<Through> {
        let mut places = places.iter().cycle();
        let mut place = || places.next().copied().context("a task runs somewhere");
        let task = self.start(model, place()?, requests);
        let mut last = self.end_of(task)?;
        let (begun, mut runs) = (last.started, last.split.infer);
        for leg in 1..model.loaded.legs {
            self.start_leg(model, (task, LegIndex(leg)), place()?, requests);
            last = self.end_of(task)?;
            runs += last.split.infer;
        }
        Ok(Through {
            runs,
            took: last.ended - begun,
            outputs: last.outputs,
        })
    }

    /// Waits for the end of a leg; what others report in between is dropped.
    pub(super) fn end_of(&self, task: TaskId) -> anyhow::Result<Ran> {
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let event = event.context("the device reported no end of a leg")?;
            if let DeviceEvent::Finished {
                task: ended_task,
                started,
                ended,
                split,
                result,
                ..
            } = event
                && ended_task == task
            {
                let outputs = result?.requests.into_iter().collect::<Result<_, _>>()?;
                return Ok(Ran {
                    started,
                    ended,
                    split,
                    outputs,
                });
            }
        }
    }

    /// Runs a leg on a device that may be lost: how it failed, if it did, and whether the device
    /// has said that it is lost.
    pub(super) fn fate(
        &mut self,
        model: &OnStage,
        place: Place,
        requests: &[RequestInputs],
    ) -> anyhow::Result<(Option<RunError>, bool)> {
        let task = self.start(model, place, requests);
        let (mut ended, mut lost) = (None, false);
        while ended.is_none() || !lost {
            let patience = match ended {
                None => PATIENCE,
                Some(_) => LOST,
            };
            match self.events.recv_timeout(patience) {
                Ok(DeviceEvent::Lost { .. }) => lost = true,
                Ok(DeviceEvent::Finished {
                    task: of, result, ..
                }) if of == task => ended = Some(result.err()),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let ended = ended.context("the device reported no end of a leg")?;
        Ok((ended, lost))
    }

    /// Runs a leg on a device that does nothing else.
    pub(super) fn run(
        &mut self,
        model: &OnStage,
        place: Place,
        requests: &[RequestInputs],
    ) -> anyhow::Result<Ran> {
        let task = self.start(model, place, requests);
        self.end_of(task)
    }
}

/// An error of loading in the words that the server has for it.
fn told(error: LoadError) -> anyhow::Error {
    anyhow::anyhow!("{}", error.report())
}

/// One item of random inputs, drawn by `seed`.
pub(super) fn item(zoo: &ZooModel, seed: u64) -> anyhow::Result<RequestInputs> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sequence = RECIPE.sequence.unwrap_or(fugato_zoo::TYPICAL_SEQUENCE);
    let mut inputs = Vec::new();
    for input in zoo.inputs() {
        let dims = input.port.dims.iter();
        let shape: Vec<u64> = dims.map(|dim| dim.at(1, sequence)).collect();
        let element = crate::gpu_check::inputs::element(input.port.data_type)?;
        let mut bytes = Vec::new();
        for _ in 0..shape.iter().product::<u64>() {
            push(&mut bytes, element, input.values, &mut rng)?;
        }
        let data = TensorData::Raw(Bytes::from(bytes)).into();
        inputs.push(InputTensor { shape, data });
    }
    Ok(RequestInputs {
        items: 1,
        inputs: inputs.into(),
    })
}

/// So many items, each drawn by a seed of its own.
pub(super) fn items(zoo: &ZooModel, count: u32) -> anyhow::Result<Vec<RequestInputs>> {
    (0..u64::from(count)).map(|seed| item(zoo, seed)).collect()
}

/// The model of the zoo of that name.
pub(super) fn named(name: &str) -> anyhow::Result<&'static ZooModel> {
    fugato_zoo::find(name).with_context(|| format!("the zoo has no model `{name}`"))
}

/// Two partitions of half of the device, or the largest that do not overlap.
pub(super) fn halves(spec: &DeviceSpec) -> Option<(PartitionId, PartitionId)> {
    let parts = spec.partitions.iter().filter(|part| part.id.0 > 0);
    let pairs = parts.clone().flat_map(|here| {
        let others = parts.clone().filter(|there| there.id > here.id);
        others.map(move |there| (here, there))
    });
    let disjoint = pairs.filter(|(here, there)| !here.atoms.overlaps(there.atoms));
    disjoint
        .max_by_key(|(here, there)| here.share().min(there.share()))
        .map(|(here, there)| (here.id, there.id))
}

/// The median of times; of none, zero.
pub(super) fn median(mut times: Vec<Nanos>) -> Nanos {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Microseconds, to a tenth.
pub(super) fn micros(time: Nanos) -> f64 {
    (time.as_nanos() as f64 / 100.0).round() / 10.0
}
