//! The devices of a server: the one that it runs models on, and the CPU beside it where that one
//! is no CPU.
//!
//! **Invariant:** a loaded model is on one device from its first task to its last. It moves by
//! being loaded anew.

use crate::config::ModelDevice;
use fugato_core::device::DeviceSpec;
use fugato_core::profile::DeviceKey;
use fugato_core::{DeviceId, ModelId};
use fugato_device::{
    AnyDevice, Device, DeviceMetrics, LoadError, LoadErrorKind, LoadOptions, Loaded, ModelStore,
    StoredModel,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The device that a server runs models on.
pub(super) const MAIN: DeviceId = DeviceId(0);

/// The CPU beside it, where it is another.
pub(super) const BESIDE: DeviceId = DeviceId(1);

/// A device that models are loaded on.
pub(super) trait Host: Device + 'static {
    fn load(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError>;
    fn unload(&self, id: ModelId) -> bool;
    fn profile_key(&self) -> DeviceKey;
    fn metrics(&self) -> DeviceMetrics;
    fn set_layered(&self, layered: bool);
    fn is_cpu(&self) -> bool;
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

    fn profile_key(&self) -> DeviceKey {
        self.profile_key()
    }

    fn metrics(&self) -> DeviceMetrics {
        self.metrics()
    }

    fn set_layered(&self, layered: bool) {
        self.set_layered(layered);
    }

    fn is_cpu(&self) -> bool {
        self.is_cpu()
    }
}

/// A device, and what models are loaded from for it.
pub(super) struct Site {
    pub(super) device: Arc<dyn Host>,
    pub(super) store: ModelStore,
}

impl Site {
    pub(super) fn id(&self) -> DeviceId {
        self.device.spec().id
    }

    /// What people call the device.
    pub(super) fn name(&self) -> &str {
        &self.device.spec().name
    }
}

/// What there is beside the device that a server runs models on.
pub(super) enum Beside {
    /// Nothing: that device is the CPU itself.
    Nothing,
    /// The CPU.
    Cpu(Site),
    /// The CPU, which cannot be used, and why.
    Unusable(String),
}

/// The devices of a server.
pub(super) struct Devices {
    main: Site,
    beside: Beside,
    /// Whether the scheduler knows the one beside: it is told with the first model there, so
    /// that a server without such models is one of a single device.
    is_known: Mutex<bool>,
}

/// Where a model is to be tried: on the first, and on the second where that refuses it.
pub(super) type Order<'a> = (&'a Site, Option<&'a Site>);

impl Devices {
    pub(super) fn new(main: Site, beside: Beside) -> Self {
        Self {
            main,
            beside,
            is_known: Mutex::default(),
        }
    }

    /// The device that the server runs models on.
    pub(super) fn main(&self) -> &Site {
        &self.main
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Site> {
        let beside = match &self.beside {
            Beside::Cpu(site) => Some(site),
            Beside::Nothing | Beside::Unusable(_) => None,
        };
        [&self.main].into_iter().chain(beside)
    }

    /// Those that the scheduler knows.
    pub(super) fn known(&self) -> impl Iterator<Item = &Site> {
        let beside = *self.is_known();
        self.all().filter(move |site| site.id() == MAIN || beside)
    }

    /// One of them.
    pub(super) fn get(&self, id: DeviceId) -> &Site {
        let found = self.all().find(|site| site.id() == id);
        found.unwrap_or_else(|| panic!("the server has no {id}"))
    }

    /// As a driver has them.
    pub(super) fn by_id(&self) -> BTreeMap<DeviceId, Arc<dyn Device>> {
        let device = |site: &Site| Arc::clone(&site.device) as Arc<dyn Device>;
        self.all().map(|site| (site.id(), device(site))).collect()
    }

    /// Where a model that wants such a device is to be tried.
    ///
    /// # Errors
    /// Why the CPU, which it wants, cannot be used.
    pub(super) fn order(&self, wanted: ModelDevice) -> Result<Order<'_>, &str> {
        match (wanted, &self.beside) {
            (ModelDevice::Server, _) | (_, Beside::Nothing) => Ok((&self.main, None)),
            (ModelDevice::Auto, Beside::Cpu(site)) => Ok((&self.main, Some(site))),
            (ModelDevice::Auto, Beside::Unusable(_)) => Ok((&self.main, None)),
            (ModelDevice::Cpu, Beside::Cpu(site)) => Ok((site, None)),
            (ModelDevice::Cpu, Beside::Unusable(reason)) => Err(reason),
        }
    }

    /// Why the CPU beside cannot be used, where it cannot.
    pub(super) fn why_no_cpu(&self) -> Option<&str> {
        match &self.beside {
            Beside::Unusable(reason) => Some(reason),
            Beside::Nothing | Beside::Cpu(_) => None,
        }
    }

    /// Notes that a model comes to a device, of which the scheduler is told before that where
    /// nobody has.
    pub(super) fn settle(&self, id: DeviceId, tell: impl FnOnce(&DeviceSpec)) {
        let mut is_known = self.is_known();
        if id != MAIN && !*is_known {
            tell(self.get(id).device.spec());
            *is_known = true;
        }
    }

    fn is_known(&self) -> MutexGuard<'_, bool> {
        self.is_known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unloads a model, wherever it is.
    pub(super) fn unload(&self, id: ModelId) {
        for site in self.all() {
            site.device.unload(id);
        }
    }
}

/// Whether a device refuses a model for what the model is: another device may run it, and this one
/// would refuse it tomorrow too. Not for want of memory, which others give back, and after
/// which a slow answer would come in place of a reason.
pub(super) fn is_refusal(error: &LoadError) -> bool {
    matches!(
        error.kind(),
        LoadErrorKind::UnsupportedOperator | LoadErrorKind::UnsupportedInterface
    )
}
