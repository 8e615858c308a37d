//! Opening what models run on, as the configuration says: ONNX Runtime, the model store,
//! the device. The server and `fugato profile` do so alike.

use super::load::DEVICE;
use super::serve::ServeError;
use crate::config::{Config, Cores};
use crate::runtime::{self, Surroundings};
use fugato_core::policy::{CapacityRule, capacity_of};
use fugato_core::sched::PolicySpec;
use fugato_device::{
    CpuDevice, CpuError, CpuOptions, EventSink, ModelStore, MonotonicClock, Profiler, Runtime,
};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

/// Loads ONNX Runtime and opens the model store.
pub(super) fn store(config: &Config) -> Result<(Arc<Runtime>, ModelStore), ServeError> {
    let library = runtime::find(
        config.runtime.onnxruntime.as_deref(),
        &Surroundings::of_process(),
    )?;
    let ort = Runtime::load(&library.path)?;
    tracing::info!(version = ort.version(), path = %library.path.display(), "ONNX Runtime loaded");
    let folder = config.model_store.dir.clone().ok_or(ServeError::NoStore)?;
    let store = ModelStore::open(&ort, folder).map_err(ServeError::Store)?;
    Ok((ort, store))
}

/// Makes the device, which reports to `sink`.
pub(super) fn device(
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
    CpuDevice::new(DEVICE, options, clock, sink)
}

/// Whether a policy starts urgent legs over running ones.
pub(super) fn is_layered(policy: &PolicySpec) -> bool {
    capacity_of(policy) == CapacityRule::Layered
}

/// Makes the device for measurements, which alone start legs on it.
pub(super) fn profiler(config: &Config) -> Result<Profiler<CpuDevice>, CpuError> {
    let (sender, events) = channel();
    let sender = Mutex::new(sender);
    let sink = Arc::new(move |event| {
        let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
        // The receiver goes with the profiler, and with it whoever wants to know.
        let _ = sender.send(event);
    });
    let device = device(config, MonotonicClock::start(), sink)?;
    Ok(Profiler::new(Arc::new(device), events))
}
