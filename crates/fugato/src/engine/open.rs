//! Opening what models run on, as the configuration says: ONNX Runtime, the model store,
//! the device. The server and `fugato profile` do so alike.

use super::devices::{BESIDE, Beside, Devices, MAIN, Site};
use super::found::with_cause;
use super::serve::ServeError;
use crate::accelerator::{self, Accelerator};
use crate::config::{Config, Cores};
#[cfg(feature = "cuda")]
use crate::plan_lanes::{self, Machine};
use crate::runtime::{self, Surroundings};
use fugato_core::DeviceId;
use fugato_core::policy::{CapacityRule, capacity_of};
use fugato_core::sched::PolicySpec;
use fugato_device::{
    AnyDevice, CpuDevice, CpuError, CpuOptions, DeviceEvent, EventSink, ModelStore, MonotonicClock,
    Profiler, Runtime,
};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// What models are loaded from and run by.
pub(super) struct Opened {
    pub(super) accelerator: Accelerator,
    pub(super) ort: Arc<Runtime>,
    pub(super) store: ModelStore,
    /// What they are loaded from for the CPU, where the device is another.
    cpu_store: Option<ModelStore>,
}

/// Chooses the device, loads the ONNX Runtime that it needs and opens the model store.
pub(super) fn store(config: &Config) -> Result<Opened, ServeError> {
    let accelerator = accelerator::choose(config)?;
    match &accelerator {
        Accelerator::Cpu => {
            let (ort, store) = cpu_store(config)?;
            Ok(Opened {
                accelerator,
                ort,
                store,
                cpu_store: None,
            })
        }
        #[cfg(feature = "cuda")]
        Accelerator::Cuda(parts) => {
            let (ort, store) = store_of(config, &parts.runtime.path)?;
            Ok(Opened {
                store: store.clone().for_any_device(),
                accelerator,
                ort,
                cpu_store: Some(store),
            })
        }
    }
}

/// As [`store`], for the CPU.
pub(super) fn cpu_store(config: &Config) -> Result<(Arc<Runtime>, ModelStore), ServeError> {
    let library = runtime::find(
        config.runtime.onnxruntime.as_deref(),
        &Surroundings::of_process(),
    )?;
    store_of(config, &library.path)
}

fn store_of(config: &Config, library: &Path) -> Result<(Arc<Runtime>, ModelStore), ServeError> {
    let ort = Runtime::load(library)?;
    tracing::info!(version = ort.version(), path = %library.display(), "ONNX Runtime loaded");
    let folder = config.model_store.dir.clone().ok_or(ServeError::NoStore)?;
    let store = ModelStore::open(&ort, folder).map_err(ServeError::Store)?;
    Ok((ort, store))
}

/// A device as the server has it, for whoever checks it.
#[cfg(any(feature = "cuda", test))]
pub(crate) struct OpenDevice {
    pub(crate) device: AnyDevice,
    pub(crate) ort: Arc<Runtime>,
    pub(crate) store: ModelStore,
}

/// Opens the device that the configuration describes, and what models are loaded from.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn open_device(
    config: &Config,
    clock: MonotonicClock,
    sink: EventSink,
) -> Result<OpenDevice, ServeError> {
    let opened = store(config)?;
    let device = opened.device(config, clock, sink)?;
    let Opened { ort, store, .. } = opened;
    Ok(OpenDevice { device, ort, store })
}

impl Opened {
    /// Makes the device, which reports to `sink`.
    pub(super) fn device(
        &self,
        config: &Config,
        clock: MonotonicClock,
        sink: EventSink,
    ) -> Result<AnyDevice, ServeError> {
        match &self.accelerator {
            Accelerator::Cpu => Ok(AnyDevice::Cpu(cpu(MAIN, config, clock, sink)?)),
            #[cfg(feature = "cuda")]
            Accelerator::Cuda(parts) => {
                let machine = Machine::of(
                    &parts.found,
                    Some(self.ort.profile_key()),
                    parts.libraries.versions(),
                );
                let store = config.model_store.dir.as_deref();
                let lanes = plan_lanes::decide(config.device.plan_lanes, &machine, store);
                let options = fugato_device::cuda::CudaOptions {
                    ordinal: config.device.gpu,
                    lanes: config.device.lanes,
                    hang_least: config.device.gpu_hang_after.nanos(),
                    hang_times: config.device.gpu_hang_times.into(),
                    side_by_side: lanes.on,
                };
                tracing::info!(
                    device = %parts.found,
                    plan_lanes = lanes.on,
                    reason = lanes.why,
                    "models run on an NVIDIA device"
                );
                let device =
                    fugato_device::cuda::CudaDevice::open(MAIN, &options, &self.ort, clock, sink);
                let device = device.map_err(accelerator::NoCuda::from)?;
                Ok(AnyDevice::Cuda(Box::new(device)))
            }
        }
    }

    /// Makes the devices of a server, which report to `sink`: the CPU beside it too, where the
    /// device is another.
    pub(super) fn devices(
        &self,
        config: &Config,
        clock: MonotonicClock,
        sink: &EventSink,
    ) -> Result<Devices, ServeError> {
        let main = Site {
            device: Arc::new(self.device(config, clock, Arc::clone(sink))?),
            store: self.store.clone(),
        };
        let beside = match &self.cpu_store {
            None => Beside::Nothing,
            Some(store) => beside(config, clock, sink, store),
        };
        Ok(Devices::new(main, beside))
    }

    /// Makes the device for measurements, which alone start legs on it.
    pub(super) fn profiler(&self, config: &Config) -> Result<Profiler<AnyDevice>, ServeError> {
        let (sink, events) = listener();
        let device = self.device(config, MonotonicClock::start(), sink)?;
        Ok(Profiler::new(Arc::new(device), events))
    }
}

/// Makes the CPU into a device beside another one. It has no thread before its first model.
pub(super) fn beside(
    config: &Config,
    clock: MonotonicClock,
    sink: &EventSink,
    store: &ModelStore,
) -> Beside {
    match cpu(BESIDE, config, clock, Arc::clone(sink)) {
        Ok(device) => Beside::Cpu(Site {
            device: Arc::new(AnyDevice::Cpu(device)),
            store: store.clone(),
        }),
        // A server without models for it is none the worse.
        Err(error) => Beside::Unusable(with_cause(&error)),
    }
}

/// Makes the CPU into a device, which reports to `sink`.
pub(super) fn cpu(
    id: DeviceId,
    config: &Config,
    clock: MonotonicClock,
    sink: EventSink,
) -> Result<CpuDevice, CpuError> {
    let cores = match &config.device.cores {
        Cores::Auto => Vec::new(),
        Cores::These(cores) => cores.iter().copied().map(usize::from).collect(),
    };
    let options = CpuOptions {
        cores,
        lanes: config.device.lanes,
        niceness_normal: config.device.niceness,
        niceness_urgent: config.device.niceness_urgent,
        layered: is_layered(&config.policy_spec(config.scheduler.policy)),
        spin: config.device.spin.nanos(),
    };
    CpuDevice::new(id, options, clock, sink)
}

/// Whether a policy starts urgent legs over running ones.
pub(super) fn is_layered(policy: &PolicySpec) -> bool {
    capacity_of(policy) == CapacityRule::Layered
}

/// Makes the CPU into a device for measurements, beside one that serves.
pub(super) fn cpu_profiler(config: &Config) -> Result<Profiler<AnyDevice>, CpuError> {
    let (sink, events) = listener();
    let device = AnyDevice::Cpu(cpu(MAIN, config, MonotonicClock::start(), sink)?);
    Ok(Profiler::new(Arc::new(device), events))
}

fn listener() -> (EventSink, Receiver<DeviceEvent>) {
    let (sender, events) = channel();
    let sender = Mutex::new(sender);
    let sink = Arc::new(move |event| {
        let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
        // The receiver goes with the profiler, and with it whoever wants to know.
        let _ = sender.send(event);
    });
    (sink, events)
}
