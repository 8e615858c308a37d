//! An NVIDIA device as others see it.

use super::device::{GpuDevice, HangLimit, Parts};
use super::driver::{CudaError, Driver, NoDriver};
use super::gpu::{Gpu, Partition};
use super::nvidia::Nvidia;
use super::nvml::Nvml;
use crate::clock::MonotonicClock;
use crate::device::{
    Device, DeviceMetrics, EventSink, GpuHealth, LeftBehind, LegWork, LoadOptions, Loaded,
    RevokeLeg,
};
use crate::runtime::Runtime;
use crate::store::{LoadError, StoredModel};
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::profile::DeviceKey;
use fugato_core::{DeviceId, ModelId, Nanos};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How an NVIDIA device is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// Its place among the devices that this process sees.
    pub ordinal: u32,
    /// Lanes of each partition.
    pub lanes: u16,
    /// A leg that has not ended after this time is taken to hang, and the device for lost.
    pub hang_least: Nanos,
    /// Unless the longest run seen of that model, batch and partition, so many times, is longer.
    pub hang_times: u64,
    /// Whether groups that a plan has at once run so, in one graph, where they can.
    pub side_by_side: bool,
}

/// An NVIDIA device: slices are groups of multiprocessors, partitions green contexts, lanes
/// streams of them, legs sessions of parts of a model.
///
/// None of its calls have been tried on a GPU by its authors; everything above the driver and
/// ONNX Runtime is tested without one.
pub struct CudaDevice {
    device: GpuDevice<Nvidia>,
    key: DeviceKey,
    nvml: Option<Nvml>,
    /// What it said last, and when.
    health: Mutex<Option<(Instant, GpuHealth)>>,
}

/// How long what the device said of itself counts: asking takes milliseconds, and it looks
/// itself no more often.
const HEALTH_AGE: Duration = Duration::from_secs(1);

impl CudaDevice {
    /// Makes a device of one that the driver has. The green contexts of all its partitions are
    /// made now, and live as long as the process.
    ///
    /// # Errors
    /// Where there is no driver, no such device, or the driver fails.
    pub fn open(
        id: DeviceId,
        options: &CudaOptions,
        runtime: &Arc<Runtime>,
        clock: MonotonicClock,
        sink: EventSink,
    ) -> Result<Self, NoDriver> {
        let gpu = Gpu::open(Driver::find()?, options.ordinal)?;
        let (layout, groups) = gpu.divide()?;
        let lanes = vec![LaneClass::Normal; usize::from(options.lanes)];
        let name = gpu.info().name.clone();
        let spec = layout.spec(id, format!("cuda: {name}"), &lanes, &lanes);
        let partition = |atoms| -> Result<_, CudaError> {
            Ok((atoms, Partition::of_atoms(&gpu, (&layout, &groups), atoms)?))
        };
        let partitions = spec.partitions.iter().map(|part| partition(part.atoms));
        let nvml = gpu.uuid().ok().and_then(Nvml::find);
        let key = DeviceKey {
            kind: "cuda".to_owned(),
            name,
            slices: spec.slices.0,
        };
        let parts = Parts {
            backend: Nvidia {
                partitions: partitions.collect::<Result<_, _>>()?,
                runtime: Arc::clone(runtime),
                gpu,
            },
            spec,
            clock: Arc::new(move || clock.now()),
            sink,
            hang: HangLimit {
                least: options.hang_least,
                times: options.hang_times,
            },
            side_by_side: options.side_by_side,
        };
        let device = GpuDevice::new(parts).watched();
        Ok(Self {
            device,
            key,
            nvml,
            health: Mutex::default(),
        })
    }

    /// Loads a model under `id`: its weights, once, and what its first tasks need.
    ///
    /// Where a part of a cut model does not work by itself the model is loaded in one piece, and
    /// a warning says so; [`Loaded::legs`] is then 1.
    ///
    /// # Errors
    /// [`crate::LoadErrorKind::DeviceMemory`] where it does not fit beside the others, which
    /// are none the worse for it; as the model, the options and the runtime are.
    pub fn load(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError> {
        self.device.load(id, stored, options)
    }

    /// Unloads a model; says whether it was loaded.
    pub fn unload(&self, id: ModelId) -> bool {
        self.device.unload(id)
    }

    /// What a latency profile of this device is known by.
    pub fn profile_key(&self) -> DeviceKey {
        self.key.clone()
    }

    /// What the device has counted since it was made, and what it said of itself within the
    /// last second. May take milliseconds.
    pub fn metrics(&self) -> DeviceMetrics {
        DeviceMetrics {
            gpu: self.health(),
            ..self.device.metrics()
        }
    }

    fn health(&self) -> Option<GpuHealth> {
        let nvml = self.nvml.as_ref()?;
        let mut known = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((at, health)) if at.elapsed() < HEALTH_AGE => Some(health),
            // A device that hangs might never answer.
            _ if self.device.is_lost() => None,
            _ => {
                let health = nvml.health();
                *known = Some((Instant::now(), health));
                Some(health)
            }
        }
    }
}

impl Device for CudaDevice {
    fn spec(&self) -> &DeviceSpec {
        self.device.spec()
    }

    fn start(&self, work: LegWork) {
        self.device.start(work);
    }

    fn revoke(&self, leg: &RevokeLeg) {
        self.device.revoke(leg);
    }

    fn let_go(&self, left: &LeftBehind) {
        self.device.let_go(left);
    }
}
