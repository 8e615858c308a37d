//! The CPU as a device: slices are cores, lanes are pinned threads, legs are sessions of
//! ONNX Runtime.
//!
//! Lanes run at a lower priority than the server's threads (niceness 0), in two classes:
//! where an urgent and a normal lane want the same core, the operating system gives it to
//! the urgent one, even inside an operator.

mod crew;
mod lane;
mod leg;
mod model;
mod output;
mod slot;
mod ways;
mod worker;

use crate::batch::Failed;
use crate::clock::MonotonicClock;
use crate::device::{
    Device, DeviceEvent, DeviceMetrics, EventSink, LeftBehind, LegWork, LoadOptions, Loaded,
    RevokeLeg,
};
use crate::os;
use crate::store::{Cuts, LoadCause, LoadError, StoredModel};
use fugato_core::device::{AtomSet, DeviceSpec, LaneClass};
use fugato_core::profile::DeviceKey;
use fugato_core::{DeviceId, LaneId, ModelId, Nanos, PartitionId, Share};
use lane::Lane;
use model::{LoadedModel, Ride, SessionKey};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use worker::CpuWorker;

/// How the CPU is made into a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuOptions {
    /// The cores to use, as the operating system numbers them; atom `i` is `cores[i]`.
    /// Empty: every core this process may run on.
    pub cores: Vec<usize>,
    /// Normal lanes of each partition, for policies that oversubscribe the device.
    pub lanes: u16,
    /// Niceness of normal lanes (higher yields more), 0 to 19, beyond that of the thread that makes
    /// the device; 19 at most.
    pub niceness_normal: i32,
    /// Niceness of urgent lanes, likewise.
    pub niceness_urgent: i32,
    /// Whether urgent legs are going to be started over running ones, which then have shorter
    /// slices. [`CpuDevice::set_layered`] changes it.
    pub layered: bool,
    /// How long a thread of a session of several waits for the others by spinning before
    /// it sleeps, while their lane runs; zero for not at all.
    pub spin: Nanos,
}

impl Default for CpuOptions {
    fn default() -> Self {
        Self {
            cores: Vec::new(),
            // As many instances as a person would give one device of a few cores.
            lanes: 8,
            // 15 steps of niceness are a weight of about 30 to 1 in Linux's fair scheduler, for
            // the server's threads and for urgent legs. With 5 steps, 3 to 1, a suspended leg has
            // its part of the core back within a few milliseconds.
            niceness_normal: 15,
            niceness_urgent: 0,
            layered: false,
            // Most waits between operators are shorter, and a thread whose partner lost its
            // core to something else soon sleeps. On two idle cores 20 us give what endless
            // spinning gives (SqueezeNet: 1.64 ms against 2.16 ms without); on busy ones
            // they cost nothing measurable, where endless spinning doubles ResNet-50's time
            // (`examples/spinning.rs`, bench/runs/2026-11-21-x86_64-2cpu-spin).
            spin: Nanos::from_micros(20),
        }
    }
}

/// Why the CPU cannot be a device.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The operating system does not tell this process's cores.
    #[error("the cores of this process cannot be read")]
    Affinity(#[source] io::Error),
    /// A core that the process may not run on, or named twice.
    #[error("core {core} is {found}; this process may run on {allowed:?}")]
    Core {
        /// The core.
        core: usize,
        /// What is wrong with it.
        found: &'static str,
        /// What would be right.
        allowed: Vec<usize>,
    },
    /// More cores than a device may have atoms.
    #[error("{found} cores are more than a device can have ({max}); hint: name fewer")]
    TooManyCores {
        /// Cores given.
        found: usize,
        /// The most.
        max: u16,
    },
    /// A setting out of its range.
    #[error("{name} is {found}, expected {expected}")]
    Option {
        /// The setting.
        name: &'static str,
        /// Its value.
        found: i64,
        /// Its range.
        expected: &'static str,
    },
}

/// The CPU.
pub struct CpuDevice {
    shared: Arc<Shared>,
    /// `lanes[partition][lane]`, as in the spec.
    lanes: Vec<Vec<Lane>>,
}

/// What lanes and their device share.
struct Shared {
    spec: DeviceSpec,
    cores: Vec<usize>,
    /// That of the process.
    niceness: i32,
    options: CpuOptions,
    clock: MonotonicClock,
    sink: EventSink,
    layered: AtomicBool,
    models: RwLock<HashMap<ModelId, Arc<LoadedModel>>>,
    legs: AtomicU64,
    legs_at_once: AtomicU64,
    bytes_copied_in: AtomicU64,
    bytes_copied_out: AtomicU64,
}

/// Where a leg runs: the cores, and the class of the lane.
///
/// Of several cores, each thread of a session has one of its own, and the first is for the lane's
/// thread. Left to choose, the system wakes a thread that has slept where it last ran, often
/// beside the lane's, and a core stays empty for the length of a leg
/// (bench/runs/2026-11-23-x86_64-2cpu-cut-3).
#[derive(Clone, Debug)]
struct Place {
    atoms: AtomSet,
    cores: Vec<usize>,
    /// Whether the lane's thread stays on the first core. It does on the first lane of its class;
    /// further ones, whose legs run at the same time, go where there is room.
    is_seated: bool,
    class: LaneClass,
    niceness: i32,
    slice: os::Slice,
}

impl Place {
    fn threads(&self) -> u16 {
        self.atoms.count()
    }

    fn session_key(&self) -> SessionKey {
        (self.threads() > 1).then_some((self.atoms, self.class))
    }

    /// Confines the calling thread to this place.
    fn enter(&self) {
        self.sit();
        if let Err(error) = os::yield_to_others(self.niceness, self.slice) {
            let niceness = self.niceness;
            tracing::warn!(%error, niceness, "a lane's thread keeps the niceness that it has");
        }
    }

    fn sit(&self) {
        let cores = match self.is_seated {
            true => &self.cores[..1],
            false => &self.cores,
        };
        if let Err(error) = os::pin(cores) {
            tracing::warn!(%error, ?cores, "a lane's thread runs unpinned");
        }
    }

    /// Makes something that has threads of its own on the calling thread, which meanwhile may run
    /// on all cores of this place: making a session takes long, and one of its threads that is refused its core
    /// has those of the thread that made it.
    fn make<T>(&self, make: impl FnOnce() -> T) -> T {
        if !self.is_seated || self.cores.len() < 2 {
            return make();
        }
        if let Err(error) = os::pin(&self.cores) {
            tracing::debug!(%error, cores = ?self.cores, "a lane's thread stays where it is");
        }
        let made = make();
        self.sit();
        made
    }
}

impl CpuDevice {
    /// Makes the CPU into a device. Threads start when their lanes are first used.
    ///
    /// # Errors
    /// Where the options name a core this process may not use, or are out of range.
    pub fn new(
        id: DeviceId,
        options: CpuOptions,
        clock: MonotonicClock,
        sink: EventSink,
    ) -> Result<Self, CpuError> {
        let cores = resolve_cores(&options)?;
        let layered = AtomicBool::new(options.layered);
        let slices = Share(u16::try_from(cores.len()).expect("checked against the most"));
        let mut lanes = vec![LaneClass::Normal; usize::from(options.lanes)];
        lanes.push(LaneClass::Urgent);
        let name = format!("cpu: {} x {}", slices.0, os::processor_name());
        let spec = DeviceSpec::nested(id, name, slices, &lanes, &lanes);
        let lanes = spec.partitions.iter().map(|partition| {
            let lane = |_: &LaneClass| Lane::new(clock, Arc::clone(&sink));
            partition.lanes.iter().map(lane).collect()
        });
        Ok(Self {
            lanes: lanes.collect(),
            shared: Arc::new(Shared {
                spec,
                cores,
                niceness: os::niceness(),
                options,
                clock,
                sink,
                layered,
                models: RwLock::default(),
                legs: AtomicU64::new(0),
                legs_at_once: AtomicU64::new(0),
                bytes_copied_in: AtomicU64::new(0),
                bytes_copied_out: AtomicU64::new(0),
            }),
        })
    }

    /// Says whether urgent legs are going to be started over running ones
    /// ([`CpuOptions::layered`]). Lanes heed it from their next leg on; threads of sessions
    /// of several keep the slices that they were made with.
    pub fn set_layered(&self, layered: bool) {
        self.shared.layered.store(layered, Ordering::Relaxed);
    }

    /// Loads a model under `id` and makes its sessions for the partitions to be warm.
    ///
    /// Where a part of a cut model does not load or run by itself, the model is loaded as
    /// it is, and a warning says so; [`Loaded::legs`] is then 1.
    ///
    /// # Errors
    /// [`crate::LoadErrorKind::Options`] where the options do not fit the model or the
    /// device, else as the runtime fails.
    pub fn load(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError> {
        let failed = |cause: LoadCause| cause.of(stored.origin());
        let cut = match &options.cuts {
            // What is cut nowhere is the model as it is.
            Some(cuts) if cuts.is_whole(stored.graph()?.graph().operators().len()) => None,
            Some(cuts) => self.load_cut(id, stored, options, cuts).map_err(failed)?,
            None => None,
        };
        let model = match cut {
            Some(model) => model,
            None => self.load_whole(id, stored, options).map_err(failed)?,
        };
        let legs = u16::try_from(model.legs()).expect("a model of more legs is refused");
        let unsplit = model.course.unsplit.is_some();
        let mut models = self
            .shared
            .models
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match models.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => Err(failed(LoadCause::IdInUse)),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(model);
                Ok(Loaded {
                    legs,
                    unsplit,
                    legs_at_once: 0,
                })
            }
        }
    }

    fn load_whole(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Result<Arc<LoadedModel>, LoadCause> {
        let spin = self.shared.options.spin;
        let model = Arc::new(LoadedModel::new(stored, options, None, spin)?);
        for &partition in &options.warm {
            let warmed = self.warm(id, &model, partition)?;
            if let Err((kind, detail)) = warmed {
                tracing::debug!(model = %id, ?kind, detail, "a model refused to run over zeros");
            }
        }
        Ok(model)
    }

    /// `None` where a part does not load, or does not run where the whole model does.
    fn load_cut(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
        cuts: &Cuts,
    ) -> Result<Option<Arc<LoadedModel>>, LoadCause> {
        let spin = self.shared.options.spin;
        let model = Arc::new(LoadedModel::new(stored, options, Some(cuts), spin)?);
        let whole = |why: &dyn std::fmt::Display| {
            tracing::warn!(
                model = %stored.origin().display(),
                %why,
                "a part of the model does not work by itself; the model is not cut"
            );
            Ok(None)
        };
        // Somewhere at least, so that a part that does not load is known before a task is
        // at it.
        let anywhere = [PartitionId(0)];
        let warm = match options.warm.is_empty() {
            true => &anywhere[..],
            false => &options.warm,
        };
        for &partition in warm {
            let detail = match self.warm(id, &model, partition) {
                Ok(Ok(())) => continue,
                Ok(Err((_, detail))) => detail,
                Err(LoadCause::NoSuchPartition(partition)) => {
                    return Err(LoadCause::NoSuchPartition(partition));
                }
                Err(cause) => return whole(&cause.of(stored.origin()).report()),
            };
            // A model may refuse zeros as a whole too.
            let uncut = Arc::new(LoadedModel::new(stored, options, None, spin)?);
            if self.warm(id, &uncut, partition)?.is_ok() {
                return whole(&detail);
            }
        }
        Ok(Some(model))
    }

    /// Makes the sessions of a partition and runs the model once over zeros; gives what
    /// came of the run.
    fn warm(
        &self,
        id: ModelId,
        model: &Arc<LoadedModel>,
        partition: PartitionId,
    ) -> Result<Result<(), Failed>, LoadCause> {
        let place = self.shared.place(partition, LaneClass::Normal);
        let place = place.ok_or(LoadCause::NoSuchPartition(partition.0))?;
        warm(id, model, place, self.shared.clock)
    }

    /// Unloads a model; says whether it was loaded. Running legs finish, later ones fail
    /// as [`crate::RunErrorKind::ModelNotLoaded`], and its memory is freed with its last leg.
    pub fn unload(&self, id: ModelId) -> bool {
        let mut models = self
            .shared
            .models
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let unloaded = models.remove(&id);
        drop(models);
        let was_loaded = unloaded.is_some();
        drop(unloaded);
        os::trim_heap();
        was_loaded
    }

    /// What a latency profile of this device is known by.
    pub fn profile_key(&self) -> DeviceKey {
        DeviceKey {
            kind: "cpu".to_owned(),
            name: os::processor_name(),
            slices: self.shared.spec.slices.0,
        }
    }

    /// What the device has counted since it was made.
    pub fn metrics(&self) -> DeviceMetrics {
        DeviceMetrics {
            legs: self.shared.legs.load(Ordering::Relaxed),
            legs_at_once: self.shared.legs_at_once.load(Ordering::Relaxed),
            legs_captured: 0,
            bytes_copied_in: self.shared.bytes_copied_in.load(Ordering::Relaxed),
            bytes_copied_out: self.shared.bytes_copied_out.load(Ordering::Relaxed),
            gpu: None,
        }
    }

    fn lane(&self, partition: PartitionId, lane: LaneId) -> &Lane {
        let found = self.lanes.get(usize::from(partition.0));
        let found = found.and_then(|lanes| lanes.get(usize::from(lane.0)));
        found.unwrap_or_else(|| panic!("the device has no {lane} of {partition}"))
    }
}

/// Makes the sessions of `place`, and runs them once, on a thread like that of its lanes,
/// so that the sessions' own threads inherit the right cores and niceness.
fn warm(
    id: ModelId,
    model: &Arc<LoadedModel>,
    place: Place,
    clock: MonotonicClock,
) -> Result<Result<(), Failed>, LoadCause> {
    let model = Arc::clone(model);
    let thread = std::thread::Builder::new()
        .name("fugato-load".to_owned())
        .spawn(move || {
            place.enter();
            let unsplit = model.course.unsplit.map(|_| Ride::Unsplit);
            let mut rides = (0..model.legs()).map(Ride::Leg).chain(unsplit);
            rides.try_for_each(|ride| model.make_ready(ride, &place))?;
            Ok(model.warm_up(id, &place, &clock))
        });
    let failed = |detail: String| LoadCause::Runtime(ort::Error::new(detail));
    let thread = thread.map_err(|error| failed(format!("no thread to load on: {error}")))?;
    let made = thread.join();
    let made = made.unwrap_or_else(|_| Err(ort::Error::new("the loading thread panicked")));
    made.map_err(LoadCause::from_runtime)
}

/// The cores to use, checked.
fn resolve_cores(options: &CpuOptions) -> Result<Vec<usize>, CpuError> {
    let allowed = os::affinity().map_err(CpuError::Affinity)?;
    for (name, found) in [
        ("niceness_normal", options.niceness_normal),
        ("niceness_urgent", options.niceness_urgent),
    ] {
        if !(0..=19).contains(&found) {
            return Err(CpuError::Option {
                name,
                found: found.into(),
                expected: "0 to 19",
            });
        }
    }
    let cores = match options.cores.is_empty() {
        true => allowed.clone(),
        false => options.cores.clone(),
    };
    for (index, &core) in cores.iter().enumerate() {
        let found = if cores[..index].contains(&core) {
            "named twice"
        } else if !allowed.contains(&core) {
            "not available"
        } else {
            continue;
        };
        return Err(CpuError::Core {
            core,
            found,
            allowed,
        });
    }
    let max = fugato_core::device::ATOMS_MAX;
    match cores.len() > usize::from(max) {
        true => Err(CpuError::TooManyCores {
            found: cores.len(),
            max,
        }),
        false => Ok(cores),
    }
}

impl Shared {
    /// That of a class's first lane.
    fn place(&self, partition: PartitionId, class: LaneClass) -> Option<Place> {
        let atoms = self.spec.partitions.get(usize::from(partition.0))?.atoms;
        let beyond = match class {
            LaneClass::Normal => self.options.niceness_normal,
            LaneClass::Urgent => self.options.niceness_urgent,
        };
        Some(Place {
            atoms,
            cores: atoms
                .iter()
                .map(|atom| self.cores[usize::from(atom)])
                .collect(),
            is_seated: true,
            class,
            niceness: (self.niceness + beyond).min(19),
            slice: self.slice(class),
        })
    }

    fn slice(&self, class: LaneClass) -> os::Slice {
        match class {
            LaneClass::Urgent => os::Slice::Urgent,
            LaneClass::Normal if self.layered.load(Ordering::Relaxed) => os::Slice::Suspended,
            LaneClass::Normal => os::Slice::Long,
        }
    }

    fn model(&self, id: ModelId) -> Option<Arc<LoadedModel>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.get(&id).map(Arc::clone)
    }
}

impl Device for CpuDevice {
    fn spec(&self) -> &DeviceSpec {
        &self.shared.spec
    }

    fn start(&self, work: LegWork) {
        let (partition, lane) = (work.start.partition, work.start.lane);
        let place = self.lane(partition, lane);
        let lanes = &self.shared.spec.partitions[usize::from(partition.0)].lanes;
        let class = lanes[usize::from(lane.0)];
        // Linux shows 15 bytes of a thread's name.
        let name = format!("lane-{}.{}", partition.0, lane.0);
        place.start(work, &name, || {
            let place = self.shared.place(partition, class);
            let mut place = place.expect("the lane was found by this partition");
            let first = lanes.iter().position(|other| *other == class);
            place.is_seated = first == Some(usize::from(lane.0));
            Arc::new(CpuWorker::new(Arc::clone(&self.shared), place))
        });
    }

    fn revoke(&self, leg: &RevokeLeg) {
        if let Some(work) = self.lane(leg.partition, leg.lane).revoke(leg) {
            self.report_revoked(&work);
        }
    }

    fn let_go(&self, left: &LeftBehind) {
        let models = self.shared.models.read();
        let models = models.unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = models.get(&left.model) {
            model.let_go(left.task, left.slot);
        }
    }
}

impl CpuDevice {
    fn report_revoked(&self, work: &LegWork) {
        (self.shared.sink)(DeviceEvent::Revoked {
            device: work.start.device,
            task: work.start.task,
            leg: work.start.leg,
        });
    }
}

impl Drop for CpuDevice {
    /// Lets running legs finish, revokes committed ones and joins the threads.
    fn drop(&mut self) {
        let lanes = || self.lanes.iter().flatten();
        for work in lanes().flat_map(Lane::close) {
            self.report_revoked(&work);
        }
        lanes().for_each(Lane::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_no_more_urgent_than_the_thread_that_makes_the_device() {
        let made = std::thread::spawn(|| {
            os::yield_to_others(7, os::Slice::Long).expect("any thread may yield");
            let (clock, sink) = (MonotonicClock::start(), Arc::new(|_| ()));
            let device = CpuDevice::new(DeviceId(0), CpuOptions::default(), clock, sink);
            let device = device.expect("it has cores");
            [LaneClass::Urgent, LaneClass::Normal].map(|class| {
                let place = device.shared.place(PartitionId(0), class);
                place.expect("a device has a partition").niceness
            })
        });
        // 7 and 0, 7 and 15 of which 19 is the most.
        assert_eq!(made.join().expect("the thread ends"), [7, 19]);
    }
}
