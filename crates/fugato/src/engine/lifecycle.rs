//! The life of models: loaded, loaded anew, unloaded, and by whom.
//!
//! **Invariant:** what happens to one model happens one after another ([`ModelLocks`]).
//! Versions of a model come up together or not at all: until all of them can run, and
//! where one cannot, what was served before still is.

use super::found::{Found, with_cause};
use super::load::{LoadedVersion, Loader, ModelsById, VersionError, VersionOrder};
use super::overrides::{self, Staged};
use super::runner::Runner;
use super::served::ServedModel;
use crate::api::LoadRequest;
use crate::config::{Config, ModelControlMode};
use crate::error::InferError;
use crate::repository::{self, Fingerprint, check_model_name};
use fugato_core::ModelId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

/// What became of the models of a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LoadCounts {
    /// Models that take requests.
    pub(super) loaded: usize,
    /// Models that cannot be served.
    pub(super) refused: usize,
}

/// Loads and unloads models. Clones are the same one.
#[derive(Clone)]
pub(super) struct Lifecycle(Arc<Shared>);

struct Shared {
    runner: Arc<Runner>,
    loader: Arc<Loader>,
    config: Arc<Config>,
    /// The repository's folder.
    root: PathBuf,
    locks: ModelLocks,
}

/// One lock for each model that something is being done to.
#[derive(Default)]
struct ModelLocks(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl ModelLocks {
    async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(name.to_owned()).or_default())
        };
        lock.lock_owned().await
    }
}

/// The models of the repository as they were last looked at, by name; `None` for one that
/// could not be.
pub(super) type Seen = BTreeMap<String, Option<Fingerprint>>;

impl Lifecycle {
    pub(super) fn new(
        runner: Arc<Runner>,
        config: Arc<Config>,
        by_id: ModelsById,
        root: PathBuf,
    ) -> Self {
        Self(Arc::new(Shared {
            loader: Arc::new(Loader::new(Arc::clone(&runner), Arc::clone(&config), by_id)),
            runner,
            config,
            root,
            locks: ModelLocks::default(),
        }))
    }

    /// Loads what is to be loaded at the start of the models that the repository has; one
    /// that cannot be loaded is noted as such and stops nothing. Returns when all are
    /// loaded or refused: how many of each. The server is ready from then on.
    pub(super) async fn load_first(&self, present: Vec<String>) -> LoadCounts {
        let wanted = &self.0.config.server.load_model;
        let explicit = self.0.config.server.model_control_mode == ModelControlMode::Explicit;
        let chosen = if !explicit || wanted.iter().any(|name| name == "*") {
            present
        } else {
            for name in present.iter().filter(|name| !wanted.contains(name)) {
                self.0.runner.table.list_unloaded(name);
            }
            wanted.clone()
        };
        let counts = self.load_all(chosen).await;
        let runner = &self.0.runner;
        runner.loaded.store(true, Ordering::Release);
        // Not before: loading takes the same cores, and would be measured with the models.
        for served in runner.table.all() {
            runner.want_profile(&served);
        }
        counts
    }

    async fn load_all(&self, names: Vec<String>) -> LoadCounts {
        let mut loads = JoinSet::new();
        for name in names {
            let lifecycle = self.clone();
            loads.spawn(async move {
                let _held = lifecycle.0.locks.lock(&name).await;
                match lifecycle.load_one(&name, None).await {
                    Err(Refusal::Unknown) => {
                        let reason = "the repository has no such model";
                        tracing::error!(model = name, reason, "the model is not served");
                        lifecycle.0.runner.table.list(&name, reason);
                        false
                    }
                    loaded => loaded.is_ok(),
                }
            });
        }
        let mut counts = LoadCounts::default();
        while let Some(loaded) = loads.join_next().await {
            match loaded {
                Ok(true) => counts.loaded += 1,
                Ok(false) => counts.refused += 1,
                Err(error) => {
                    tracing::error!(%error, "loading a model panicked");
                    counts.refused += 1;
                }
            }
        }
        counts
    }

    /// Loads a model for a client.
    pub(super) async fn load(&self, order: LoadRequest) -> Result<(), InferError> {
        self.check_control()?;
        let name = order.name.clone();
        check_model_name(&name)
            .map_err(|error| InferError::load_failed(&error.name, error.problem))?;
        if self.0.runner.is_draining() {
            return Err(InferError::draining());
        }
        let lifecycle = self.clone();
        // A task of its own: a client that goes away leaves no model half loaded.
        let loading = tokio::spawn(async move {
            let name = order.name.clone();
            let _held = lifecycle.0.locks.lock(&name).await;
            let overrides = (order.config.is_some() || !order.files.is_empty()).then_some(order);
            let loaded = lifecycle.load_one(&name, overrides).await;
            if loaded.is_err() {
                lifecycle.forget_stranger(&name);
            }
            loaded
        });
        match loading.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Refusal::Unknown)) => Err(InferError::unknown_model(name)),
            Ok(Err(Refusal::Because(reason))) => Err(InferError::load_failed(name, reason)),
            Err(panic) => Err(InferError::internal("loading of models", panic.to_string())),
        }
    }

    /// Unloads a model for a client.
    pub(super) async fn unload(&self, name: &str) -> Result<(), InferError> {
        self.check_control()?;
        let _held = self.0.locks.lock(name).await;
        let gone = !self.has_folder(name);
        if self.take_out(name, gone) {
            Ok(())
        } else {
            Err(InferError::unknown_model(name))
        }
    }

    pub(super) fn runner(&self) -> &Runner {
        &self.0.runner
    }

    pub(super) fn config(&self) -> &Config {
        &self.0.config
    }

    /// Keeps everything else from being done to a model.
    pub(super) async fn hold(&self, name: &str) -> OwnedMutexGuard<()> {
        self.0.locks.lock(name).await
    }

    /// Whether clients may change what is served, and how.
    pub(super) fn check_control(&self) -> Result<(), InferError> {
        let mode = match self.0.config.server.model_control_mode {
            ModelControlMode::Explicit => return Ok(()),
            ModelControlMode::None => "none",
            ModelControlMode::Poll => "poll",
        };
        Err(InferError::control_disabled(format!(
            "the server's model control mode is `{mode}`, expected `explicit`"
        )))
    }

    fn has_folder(&self, name: &str) -> bool {
        check_model_name(name).is_ok() && self.0.root.join(name).is_dir()
    }

    /// Lists no model that the repository has not and that is not served: its name is a
    /// client's.
    fn forget_stranger(&self, name: &str) {
        if !self.has_folder(name) && self.0.runner.table.all_of(name).is_empty() {
            self.take_out(name, true);
        }
    }

    /// Takes a model out; says whether it was known.
    fn take_out(&self, name: &str, gone: bool) -> bool {
        self.0.runner.live.forget(name);
        let Some(retired) = self.0.runner.table.clear(name, gone) else {
            return false;
        };
        for served in retired {
            self.retire(&served);
        }
        true
    }

    fn retire(&self, served: &ServedModel) {
        let (model, version) = (&served.info.name, &served.info.version);
        tracing::info!(model, version, "model unloading");
        self.0.runner.retire(served);
    }

    /// Loads a model, whose lock is held: from the repository, or as a client ordered.
    async fn load_one(&self, name: &str, order: Option<LoadRequest>) -> Result<(), Refusal> {
        let table = &self.0.runner.table;
        let found = match self.look(name, order).await {
            Ok(found) => found.ok_or(Refusal::Unknown)?,
            Err(reason) => {
                self.note_refused(name, None, &reason);
                table.list(name, &reason);
                return Err(Refusal::Because(reason));
            }
        };
        let numbers = found.versions.iter().map(|(number, _)| *number);
        table.announce(name, numbers);
        let (brought_up, failed) = self.bring_up(name, found).await;
        if !failed.is_empty() {
            for served in brought_up {
                if let LoadedVersion::New(served) = served {
                    self.retire(&served);
                }
            }
            let first = failed.first().map(|(_, reason)| reason.clone());
            table.refuse(name, failed);
            return Err(Refusal::Because(first.unwrap_or_default()));
        }
        let served = brought_up.into_iter().map(|version| match version {
            LoadedVersion::Kept(served) | LoadedVersion::New(served) => served,
        });
        for retired in table.switch(name, served.collect()) {
            self.retire(&retired);
        }
        // Those of the first loading are measured when it has ended.
        if self.0.runner.loaded.load(Ordering::Acquire) {
            for served in table.all_of(name) {
                self.0.runner.want_profile(&served);
            }
        }
        Ok(())
    }

    /// Brings the chosen versions up; gives those that run, and why others do not.
    async fn bring_up(&self, name: &str, found: Found) -> (Vec<LoadedVersion>, Vec<(u64, String)>) {
        let served = self.0.runner.table.all_of(name);
        let mut loads = JoinSet::new();
        let mut numbers = Vec::new();
        for (number, path) in found.versions {
            let order = VersionOrder {
                name: name.to_owned(),
                number,
                path,
                folder: found.folder.clone(),
                settings: Arc::clone(&found.settings),
                served: served.iter().find(|known| known.number == number).cloned(),
            };
            let loader = Arc::clone(&self.0.loader);
            let task = loads.spawn(loader.load(order));
            numbers.push((number, task.id()));
        }
        let (mut brought_up, mut failed) = (Vec::new(), Vec::new());
        while let Some(loaded) = loads.join_next_with_id().await {
            let (task, loaded) = match loaded {
                Ok((task, loaded)) => (task, loaded),
                Err(panic) => (panic.id(), Err(VersionError::Panicked(panic.to_string()))),
            };
            let number = numbers.iter().find(|(_, known)| *known == task);
            match (loaded, number) {
                (Ok(loaded), _) => brought_up.push(loaded),
                (Err(error), Some((number, _))) => failed.push((*number, error)),
                (Err(error), None) => unreachable!("a task that was not spawned: {error}"),
            }
        }
        if failed.is_empty() {
            return (brought_up, Vec::new());
        }
        let mut reasons: Vec<(u64, String)> = Vec::new();
        for (number, error) in failed {
            let reason = error.to_string();
            self.note_refused(name, Some(number), &reason);
            reasons.push((number, reason));
        }
        let together = "a version beside it cannot be served, and they come up together";
        for (number, _) in numbers {
            if !reasons.iter().any(|(known, _)| *known == number) {
                reasons.push((number, together.to_owned()));
            }
        }
        (brought_up, reasons)
    }

    fn note_refused(&self, name: &str, version: Option<u64>, reason: &str) {
        if self.0.runner.table.all_of(name).is_empty() {
            tracing::error!(model = name, version, reason, "the model is not served");
        } else {
            tracing::error!(
                model = name,
                version,
                reason,
                "the model cannot be loaded anew; what was loaded before is still served"
            );
        }
    }

    /// Finds what to load; `None` where there is no such model.
    async fn look(&self, name: &str, order: Option<LoadRequest>) -> Result<Option<Found>, String> {
        let (lifecycle, name) = (self.clone(), name.to_owned());
        let looked = tokio::task::spawn_blocking(move || lifecycle.look_now(&name, order));
        looked
            .await
            .unwrap_or_else(|panic| Err(format!("looking at it panicked: {panic}")))
    }

    fn look_now(&self, name: &str, order: Option<LoadRequest>) -> Result<Option<Found>, String> {
        let (config, files) = match order {
            Some(order) => (order.config, order.files),
            None => (None, Vec::new()),
        };
        let staged = match (&config, files) {
            (_, files) if files.is_empty() => None,
            (None, _) => {
                return Err(
                    "files in place of those of the repository need parameter `config` too"
                        .to_owned(),
                );
            }
            (Some(_), files) => Some(overrides::stage(name, &files).map_err(|e| e.to_string())?),
        };
        let root = staged.as_ref().map_or(self.0.root.as_path(), Staged::root);
        let folder = repository::scan_model(root, name).map_err(|fault| with_cause(&fault))?;
        let Some(folder) = folder else {
            return Ok(None);
        };
        Found::choose(name, &self.0.config, &folder, config.as_deref(), staged).map(Some)
    }

    /// Gives the memory of models back when they have drained; ends with the driver.
    pub(super) async fn free_drained(self, mut drained: UnboundedReceiver<ModelId>) {
        while let Some(id) = drained.recv().await {
            let lifecycle = self.clone();
            tokio::spawn(async move {
                let loader = Arc::clone(&lifecycle.0.loader);
                let freed = tokio::task::spawn_blocking(move || loader.take_down(id)).await;
                lifecycle.0.runner.table.drained(id);
                let Ok(Some(counted)) = freed else { return };
                let (name, number) = (&counted.name, counted.number);
                tracing::info!(model = name, version = number, "model unloaded");
                // Under the lock, so that it is not loaded anew meanwhile, with its counts.
                let _held = lifecycle.0.locks.lock(name).await;
                if !lifecycle.0.runner.table.is_up(name, number) {
                    lifecycle.0.runner.telemetry.forget(&counted.metrics);
                }
            });
        }
    }

    /// Looks at the repository again and again, and brings what is served in line with it.
    pub(super) async fn poll(&self, mut seen: Seen) -> ! {
        let interval = u64::from(self.0.config.server.repository_poll_secs);
        loop {
            tokio::time::sleep(Duration::from_secs(interval)).await;
            let root = self.0.root.clone();
            let looked = tokio::task::spawn_blocking(move || repository::fingerprints(&root));
            match looked.await {
                Ok(Ok(found)) => {
                    self.follow(&seen, &found).await;
                    seen = found;
                }
                Ok(Err(error)) => {
                    let reason = with_cause(&error);
                    tracing::error!(
                        reason,
                        "the repository cannot be looked at; nothing changes"
                    );
                }
                Err(panic) => tracing::error!(%panic, "looking at the repository panicked"),
            }
        }
    }

    /// Loads what differs in `found`, and unloads what it lacks.
    async fn follow(&self, seen: &Seen, found: &Seen) {
        for name in seen.keys().filter(|name| !found.contains_key(*name)) {
            let _held = self.0.locks.lock(name).await;
            self.take_out(name, true);
        }
        let differs = |name: &&String| seen.get(*name) != found.get(*name);
        let changed: Vec<String> = found.keys().filter(differs).cloned().collect();
        if !changed.is_empty() {
            self.load_all(changed).await;
        }
    }
}

/// Why a model was not loaded.
enum Refusal {
    /// There is none.
    Unknown,
    Because(String),
}
