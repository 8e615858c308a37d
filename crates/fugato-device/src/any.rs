//! Any kind of device behind one type, for those who load models and start legs alike on all.

use crate::cpu::CpuDevice;
#[cfg(feature = "cuda")]
use crate::cuda::CudaDevice;
use crate::device::{Device, DeviceMetrics, LeftBehind, LegWork, LoadOptions, Loaded, RevokeLeg};
use crate::store::{LoadError, StoredModel};
use fugato_core::ModelId;
use fugato_core::device::DeviceSpec;
use fugato_core::profile::DeviceKey;

/// A device.
pub enum AnyDevice {
    /// The CPU.
    Cpu(CpuDevice),
    /// An NVIDIA device.
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaDevice>),
}

/// Does the same with each kind of device.
macro_rules! each {
    ($self:expr, $device:ident => $done:expr) => {
        match $self {
            Self::Cpu($device) => $done,
            #[cfg(feature = "cuda")]
            Self::Cuda($device) => $done,
        }
    };
}

impl AnyDevice {
    /// Loads a model under `id`.
    ///
    /// # Errors
    /// As the device's own `load` does.
    pub fn load(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError> {
        each!(self, device => device.load(id, stored, options))
    }

    /// Unloads a model; says whether it was loaded.
    pub fn unload(&self, id: ModelId) -> bool {
        each!(self, device => device.unload(id))
    }

    /// What a latency profile of this device is known by.
    pub fn profile_key(&self) -> DeviceKey {
        each!(self, device => device.profile_key())
    }

    /// What the device has counted since it was made.
    pub fn metrics(&self) -> DeviceMetrics {
        each!(self, device => device.metrics())
    }

    /// Says whether urgent legs are going to be started over running ones. A device without
    /// urgent lanes has nothing to do.
    pub fn set_layered(&self, layered: bool) {
        match self {
            Self::Cpu(device) => device.set_layered(layered),
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => {}
        }
    }

    /// Whether it is the CPU, of which there may be another device for measurements beside one
    /// that serves.
    pub fn is_cpu(&self) -> bool {
        matches!(self, Self::Cpu(_))
    }
}

impl Device for AnyDevice {
    fn spec(&self) -> &DeviceSpec {
        each!(self, device => device.spec())
    }

    fn start(&self, work: LegWork) {
        each!(self, device => device.start(work));
    }

    fn revoke(&self, start: &RevokeLeg) {
        each!(self, device => device.revoke(start));
    }

    fn let_go(&self, place: &LeftBehind) {
        each!(self, device => device.let_go(place));
    }
}
