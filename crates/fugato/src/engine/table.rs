//! Which versions of which models are served, and why others are not.
//!
//! **Invariant:** the versions of a model change in one step ([`Table::switch`]): a request
//! finds all of the old ones or all of the new ones.

use super::served::ServedModel;
use crate::api::{ModelInfo, ModelState, ModelStatus};
use crate::error::InferError;
use fugato_core::ModelId;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What the index says of a version that was taken out.
const UNLOADED: &str = "unloaded";

/// The models of a server by name.
#[derive(Default)]
pub(super) struct Table {
    models: RwLock<BTreeMap<String, Entry>>,
}

/// The versions of one model.
#[derive(Default)]
struct Entry {
    versions: BTreeMap<u64, Slot>,
    /// Why no version could be looked at; empty where one could.
    fault: String,
}

/// One version.
enum Slot {
    Loading,
    Ready(Ready),
    Unavailable(String),
    /// Accepted requests run to their end.
    Unloading {
        id: ModelId,
        /// Whether the repository has it no more, so that nothing is left to list.
        gone: bool,
    },
}

#[derive(Clone)]
struct Ready {
    served: Arc<ServedModel>,
    /// As `served.info`, with the versions that are ready beside it.
    info: Arc<ModelInfo>,
}

impl Entry {
    fn ready(&self) -> impl DoubleEndedIterator<Item = (u64, &Ready)> {
        self.versions
            .iter()
            .filter_map(|(&version, slot)| match slot {
                Slot::Ready(ready) => Some((version, ready)),
                Slot::Loading | Slot::Unavailable(_) | Slot::Unloading { .. } => None,
            })
    }

    /// Why the model, or one version of it, takes no requests.
    fn reason(&self, version: Option<u64>) -> String {
        let slot = match version {
            Some(version) => self.versions.get(&version),
            None => self.versions.values().next_back(),
        };
        match slot {
            Some(slot) => slot.status().1.to_owned(),
            None => self.fault.clone(),
        }
    }

    /// Tells every ready version of the others.
    fn tell_versions(&mut self) {
        let versions: Vec<String> = self.ready().map(|(number, _)| number.to_string()).collect();
        for slot in self.versions.values_mut() {
            if let Slot::Ready(ready) = slot
                && ready.info.versions != versions
            {
                ready.info = Arc::new(ModelInfo {
                    versions: versions.clone(),
                    ..ModelInfo::clone(&ready.served.info)
                });
            }
        }
    }
}

impl Slot {
    fn status(&self) -> (ModelState, &str) {
        match self {
            Self::Loading => (ModelState::Loading, "it is being loaded"),
            Self::Ready(_) => (ModelState::Ready, ""),
            Self::Unavailable(reason) => (ModelState::Unavailable, reason),
            Self::Unloading { .. } => (ModelState::Unloading, "it is being unloaded"),
        }
    }
}

/// The number that a client's text of a version names: as it is listed, so not `01`.
fn number(version: &str) -> Option<u64> {
    let number = version.parse().ok()?;
    (u64::to_string(&number) == version).then_some(number)
}

impl Table {
    /// Notes a model that none of is loaded, because of `reason`.
    pub(super) fn list(&self, name: &str, reason: &str) {
        let mut models = self.write();
        let entry = models.entry(name.to_owned()).or_default();
        entry.fault = reason.to_owned();
        entry
            .versions
            .retain(|_, slot| matches!(slot, Slot::Ready(_) | Slot::Unloading { .. }));
    }

    /// As [`Self::list`], for a model that was not loaded on purpose.
    pub(super) fn list_unloaded(&self, name: &str) {
        self.list(name, UNLOADED);
    }

    /// Notes versions that are being loaded; those that are ready stay so.
    pub(super) fn announce(&self, name: &str, versions: impl Iterator<Item = u64>) {
        let mut models = self.write();
        let entry = models.entry(name.to_owned()).or_default();
        entry.fault.clear();
        for version in versions {
            let slot = entry.versions.entry(version).or_insert(Slot::Loading);
            if !matches!(slot, Slot::Ready(_)) {
                *slot = Slot::Loading;
            }
        }
    }

    /// Notes why versions are not served; those that are ready stay so.
    pub(super) fn refuse(&self, name: &str, reasons: Vec<(u64, String)>) {
        let mut models = self.write();
        let entry = models.entry(name.to_owned()).or_default();
        for (version, reason) in reasons {
            let slot = entry.versions.entry(version).or_insert(Slot::Loading);
            if !matches!(slot, Slot::Ready(_)) {
                *slot = Slot::Unavailable(reason);
            }
        }
    }

    /// Puts `served` in place of all that was served of the model, in one step, and gives
    /// what was served before and is not among it.
    pub(super) fn switch(
        &self,
        name: &str,
        served: Vec<Arc<ServedModel>>,
    ) -> Vec<Arc<ServedModel>> {
        let mut models = self.write();
        let entry = models.entry(name.to_owned()).or_default();
        entry.fault.clear();
        let old = entry.take_ready(false);
        entry
            .versions
            .retain(|_, slot| matches!(slot, Slot::Unloading { .. }));
        let keeps = |old: &ServedModel| served.iter().any(|served| served.id == old.id);
        let retired: Vec<_> = old.into_iter().filter(|old| !keeps(old)).collect();
        for served in served {
            let info = Arc::clone(&served.info);
            let ready = Ready { served, info };
            entry
                .versions
                .insert(ready.served.number, Slot::Ready(ready));
        }
        entry.tell_versions();
        retired
    }

    /// Takes a model out and gives what was served of it; `None` where it is unknown.
    /// Where it is `gone` from the repository, nothing stays listed once it has drained.
    pub(super) fn clear(&self, name: &str, gone: bool) -> Option<Vec<Arc<ServedModel>>> {
        let mut models = self.write();
        let entry = models.get_mut(name)?;
        let old = entry.take_ready(gone);
        let drains = |slot: &Slot| matches!(slot, Slot::Unloading { .. });
        entry.versions.retain(|_, slot| drains(slot));
        entry.fault = UNLOADED.to_owned();
        if gone && entry.versions.is_empty() {
            models.remove(name);
        }
        Some(old)
    }

    /// Notes that a version that was taken out has drained; gives its name and number.
    pub(super) fn drained(&self, id: ModelId) {
        let mut models = self.write();
        let is_it = |slot: &Slot| matches!(slot, Slot::Unloading { id: found, .. } if *found == id);
        let found = models.iter().find_map(|(name, entry)| {
            let version = entry.versions.iter().find(|(_, slot)| is_it(slot))?;
            Some((name.clone(), *version.0))
        });
        let Some((name, version)) = found else { return };
        let Some(entry) = models.get_mut(&name) else {
            return;
        };
        let slot = entry.versions.remove(&version);
        if !matches!(slot, Some(Slot::Unloading { gone: true, .. })) {
            let unavailable = Slot::Unavailable(UNLOADED.to_owned());
            entry.versions.insert(version, unavailable);
        } else if entry.versions.is_empty() {
            models.remove(&name);
        }
    }

    /// The version that a request for `version`, or for any, gets: the highest that is
    /// ready where it names none, as in Triton.
    pub(super) fn served(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<Arc<ServedModel>, InferError> {
        self.find(name, version, |ready| Arc::clone(&ready.served))
    }

    /// What clients may know of that version.
    pub(super) fn info(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<Arc<ModelInfo>, InferError> {
        self.find(name, version, |ready| Arc::clone(&ready.info))
    }

    fn find<T>(
        &self,
        name: &str,
        version: Option<&str>,
        part: impl FnOnce(&Ready) -> T,
    ) -> Result<T, InferError> {
        let models = self.read();
        let entry = models
            .get(name)
            .ok_or_else(|| InferError::unknown_model(name))?;
        let Some(version) = version else {
            let highest = entry.ready().next_back();
            return highest
                .map(|(_, ready)| part(ready))
                .ok_or_else(|| InferError::model_not_ready(name, entry.reason(None)));
        };
        let number = number(version);
        match number.and_then(|number| entry.versions.get(&number)) {
            Some(Slot::Ready(ready)) => Ok(part(ready)),
            None if !entry.versions.is_empty() => {
                let known = entry.versions.keys().map(u64::to_string).collect();
                Err(InferError::unknown_version(name, version, known))
            }
            Some(Slot::Loading | Slot::Unavailable(_) | Slot::Unloading { .. }) | None => {
                Err(InferError::model_not_ready(name, entry.reason(number)))
            }
        }
    }

    /// All that is served of a model, rising by version.
    pub(super) fn all_of(&self, name: &str) -> Vec<Arc<ServedModel>> {
        let models = self.read();
        let ready = models.get(name).into_iter().flat_map(Entry::ready);
        ready.map(|(_, ready)| Arc::clone(&ready.served)).collect()
    }

    /// All that is served.
    pub(super) fn all(&self) -> Vec<Arc<ServedModel>> {
        let models = self.read();
        let ready = models.values().flat_map(Entry::ready);
        ready.map(|(_, ready)| Arc::clone(&ready.served)).collect()
    }

    /// Whether the model is listed.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.read().contains_key(name)
    }

    /// Whether a version is served or loading.
    pub(super) fn is_up(&self, name: &str, version: u64) -> bool {
        let models = self.read();
        let slot = models
            .get(name)
            .and_then(|entry| entry.versions.get(&version));
        matches!(slot, Some(Slot::Loading | Slot::Ready(_)))
    }

    /// Every version, by name and number; a model without one has one line.
    pub(super) fn statuses(&self) -> Vec<ModelStatus> {
        let models = self.read();
        let mut statuses = Vec::with_capacity(models.len());
        for (name, entry) in &*models {
            let status = |version: String, (state, reason): (ModelState, &str)| ModelStatus {
                name: name.clone(),
                version,
                state,
                reason: reason.to_owned(),
            };
            if entry.versions.is_empty() {
                let state = (ModelState::Unavailable, entry.fault.as_str());
                statuses.push(status(String::new(), state));
            }
            let versions = entry.versions.iter();
            statuses
                .extend(versions.map(|(number, slot)| status(number.to_string(), slot.status())));
        }
        statuses
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Entry>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Entry>> {
        self.models.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Marks what is ready as being unloaded, and gives it.
    fn take_ready(&mut self, gone: bool) -> Vec<Arc<ServedModel>> {
        let mut taken = Vec::new();
        for slot in self.versions.values_mut() {
            match slot {
                Slot::Ready(ready) => {
                    let served = Arc::clone(&ready.served);
                    *slot = Slot::Unloading {
                        id: served.id,
                        gone,
                    };
                    taken.push(served);
                }
                // It may have been there still when it was taken out.
                Slot::Unloading { gone: known, .. } => *known |= gone,
                Slot::Loading | Slot::Unavailable(_) => {}
            }
        }
        taken
    }
}
