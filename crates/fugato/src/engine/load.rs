//! Loading one version of a model: from its file through the store onto the device, and
//! into the scheduler.

mod tuning;

use super::devices::{Site, is_refusal};
use super::planned::{self, Cutter, Here, PlanFileError, Planned};
use super::runner::Runner;
use super::sample;
use super::served::{Gate, ServedModel, ShapeClasses};
use super::settings::Settings;
use super::warm::{self, WarmUpError};
use crate::api::ModelInfo;
use crate::config::{self, Config, ModelDevice};
use crate::modelconfig::{self, ModelConfigError};
use crate::telemetry::ModelMetrics;
use fugato_core::profile::{ModelProfile, ProfileError};
use fugato_core::sched::{DynamicBatching, Input, ModelSpec, QueueLimits};
use fugato_core::{BatchSize, DeviceId, ModelId};
use fugato_device::{
    Batches, Batching, LoadError, LoadOptions, Precision, StoredModel, TensorSpec,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Semaphore;
use tuning::{tuning, with_streams_of};

/// Versions that are loaded at once: one reads and hashes while the other optimises.
const LOADS_AT_ONCE: usize = 2;

/// What is counted of a version on the device, and whose it is.
#[derive(Clone)]
pub(super) struct CountedModel {
    pub(super) name: String,
    pub(super) number: u64,
    pub(super) metrics: ModelMetrics,
    /// Whether it has been warmed up: runs before are no client's.
    pub(super) warm: Arc<AtomicBool>,
}

/// The versions on the device by id, for the driver's thread.
pub(super) type ModelsById = Arc<RwLock<HashMap<ModelId, CountedModel>>>;

/// Loads versions of models.
pub(super) struct Loader {
    runner: Arc<Runner>,
    config: Arc<Config>,
    cutter: Cutter,
    next: AtomicU32,
    by_id: ModelsById,
    at_once: Semaphore,
}

/// A version to load.
#[derive(Clone)]
pub(super) struct VersionOrder {
    pub(super) name: String,
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// The model's folder, which files of its configuration are relative to.
    pub(super) folder: PathBuf,
    pub(super) settings: Arc<Settings>,
    /// The same version as it is served, which is kept where nothing differs.
    pub(super) served: Option<Arc<ServedModel>>,
}

/// A version that can be served.
pub(super) enum LoadedVersion {
    /// It was served before.
    Kept(Arc<ServedModel>),
    /// It is on the device and in the scheduler, and nobody knows of it.
    New(Arc<ServedModel>),
}

/// Why a version cannot be served.
#[derive(Debug, thiserror::Error)]
pub(super) enum VersionError {
    #[error("{}", .0.report())]
    Load(#[from] LoadError),
    #[error("{}", refused(.0, .1))]
    Refused(Box<LoadError>, Otherwise),
    #[error("the CPU cannot be used: {0}")]
    NoCpu(String),
    #[error(transparent)]
    Config(#[from] ModelConfigError),
    #[error(transparent)]
    Plan(#[from] PlanFileError),
    #[error(transparent)]
    WarmUp(#[from] WarmUpError),
    #[error(transparent)]
    Profile(ProfileError),
    #[error(
        "{error}; hint: `fugato profile --precision {expected}` measures it so, into a file of its own"
    )]
    ProfilePrecision {
        error: Box<ProfileError>,
        expected: Precision,
    },
    #[error("loading it panicked: {0}")]
    Panicked(String),
    #[error("the server is stopping")]
    Stopping,
}

/// What there is to say of the CPU where another device refuses a version.
#[derive(Debug)]
pub(super) enum Otherwise {
    /// Nothing: it cannot be used, and nobody asked for it.
    Untold,
    /// The settings could allow it.
    Advised,
    /// Why it does not run the version either.
    Failed(Box<VersionError>),
}

impl Loader {
    pub(super) fn new(runner: Arc<Runner>, config: Arc<Config>, by_id: ModelsById) -> Self {
        Self {
            runner,
            config,
            cutter: Cutter::new(),
            next: AtomicU32::new(0),
            by_id,
            at_once: Semaphore::new(LOADS_AT_ONCE),
        }
    }

    /// Loads a version and runs it a few times, or finds that it is served as ordered.
    pub(super) async fn load(
        self: Arc<Self>,
        order: VersionOrder,
    ) -> Result<LoadedVersion, VersionError> {
        let permit = self.at_once.acquire().await;
        let _permit = permit.map_err(|_| VersionError::Stopping)?;
        let (loader, ordered) = (Arc::clone(&self), order.clone());
        let loaded = tokio::task::spawn_blocking(move || loader.bring_up(&ordered)).await;
        let brought = loaded.map_err(|panic| VersionError::Panicked(panic.to_string()))??;
        let (stored, served) = match brought {
            (_, LoadedVersion::Kept(served)) => return Ok(LoadedVersion::Kept(served)),
            (stored, LoadedVersion::New(served)) => (stored, served),
        };
        if let Err(error) = warm::up(&self.runner, &served, &order.folder).await {
            self.runner.retire(&served);
            return Err(error.into());
        }
        self.count_from_now(served.id);
        if !self.runner.is_live() {
            return Err(VersionError::Stopping);
        }
        let device = self.runner.devices.get(served.device).name().to_owned();
        log_loaded(&order, &stored, &device);
        Ok(LoadedVersion::New(served))
    }

    /// Puts a version on the device that it is for, or on the one beside where that refuses it
    /// and the settings say so.
    fn bring_up(&self, order: &VersionOrder) -> Result<(StoredModel, LoadedVersion), VersionError> {
        let wanted = order.settings.model.device;
        let sites = self.runner.devices.order(wanted);
        let (first, second) = sites.map_err(|reason| VersionError::NoCpu(reason.to_owned()))?;
        match (self.bring_up_on(first, order), second) {
            (Err(VersionError::Refused(error, _)), Some(second)) => {
                match self.bring_up_on(second, order) {
                    Ok(brought) => {
                        let reason = error.report();
                        tracing::warn!(
                            model = order.name,
                            version = order.number,
                            refused_by = first.name(),
                            reason,
                            "the device refuses the model, which runs on the CPU, as its settings \
                             allow"
                        );
                        Ok(brought)
                    }
                    Err(other) => {
                        let other = Otherwise::Failed(Box::new(other));
                        Err(VersionError::Refused(error, other))
                    }
                }
            }
            (Err(VersionError::Refused(error, _)), None) => {
                let other = match (wanted, self.runner.devices.why_no_cpu()) {
                    (_, None) => Otherwise::Advised,
                    (ModelDevice::Auto, Some(reason)) => {
                        Otherwise::Failed(Box::new(VersionError::NoCpu(reason.to_owned())))
                    }
                    (ModelDevice::Server | ModelDevice::Cpu, Some(_)) => Otherwise::Untold,
                };
                Err(VersionError::Refused(error, other))
            }
            (brought, _) => brought,
        }
    }

    fn bring_up_on(
        &self,
        site: &Site,
        order: &VersionOrder,
    ) -> Result<(StoredModel, LoadedVersion), VersionError> {
        let precision = precision(order.settings.model.precision);
        let stored = site.store.prepare_in(&order.path, precision)?;
        let as_ordered = |served: &&Arc<ServedModel>| {
            served.content == stored.info().hash && served.settings == order.settings
        };
        if let Some(served) = order.served.as_ref().filter(as_ordered) {
            return Ok((stored, LoadedVersion::Kept(Arc::clone(served))));
        }
        let served = self.put_on_device(site, order, &stored)?;
        Ok((stored, LoadedVersion::New(served)))
    }

    /// Makes the model's sessions and tells the scheduler.
    fn put_on_device(
        &self,
        site: &Site,
        order: &VersionOrder,
        stored: &StoredModel,
    ) -> Result<Arc<ServedModel>, VersionError> {
        let VersionOrder { name, settings, .. } = order;
        let LoadPlan { info, options } = LoadPlan::of(name, order.number, settings, stored)?;
        let id = ModelId(self.next.fetch_add(1, Ordering::Relaxed));
        let max_batch = BatchSize(options.max_batch);
        let (planned, left_out) = self.plan(site, order, (stored, max_batch))?;
        let profile = self.enter_profile((id, site.id()), &info, settings, stored)?;
        let planned = planned.or_else(|| {
            let on = (&*self.config, site, self.runner.profiles.runtime());
            let of = (&*info, stored, profile.as_ref());
            self.cutter.cut(order, of, on)
        });
        let options = LoadOptions {
            cuts: planned.as_ref().map(|planned| planned.cuts.clone()),
            unsplit: planned
                .as_ref()
                .is_some_and(|planned| settings.model.unsplit && !planned.is_faster_than_unsplit()),
            finds_ways: true,
            gpu: with_streams_of(&self.config.device, options.gpu),
            ..options
        };
        let loaded = site.device.load(id, stored, &options);
        let loaded = loaded.inspect_err(|_| self.runner.profiles.forget(id));
        let loaded = loaded.map_err(|error| match is_refusal(&error) && !site.device.is_cpu() {
            true => VersionError::Refused(Box::new(error), Otherwise::Untold),
            false => VersionError::Load(error),
        })?;
        warn_of_place(site, order, left_out.as_ref());
        let profile = match &planned {
            Some(planned) => profile.map(|profile| planned.profile(profile, loaded.legs)),
            None => profile,
        };
        let version = info.version.clone();
        let metrics = self.runner.telemetry.model(name, &version);
        let counted = CountedModel {
            name: name.clone(),
            number: order.number,
            metrics: metrics.clone(),
            warm: Arc::default(),
        };
        self.by_id
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, counted);
        let spec = ModelSpec {
            legs: loaded.legs,
            unsplit: loaded.unsplit,
            ..model_spec((id, site.id()), &info, settings, &options)
        };
        let runner = &self.runner;
        let mailbox = &runner.mailbox;
        runner.devices.settle(site.id(), |device| {
            tracing::info!(device = device.name, "models run on the CPU too");
            runner.timeline.add_device(device);
            mailbox.control(Input::DeviceAdded(device.clone()));
        });
        // What a client changed before holds for the new version too.
        let live = runner.live.of(name);
        let in_force = live.spec(&settings.model, spec.clone());
        runner.profiles.aim(id, in_force.slo);
        runner.timeline.name(id, name, &version);
        mailbox.control(Input::ModelAdded(in_force));
        if let Some(profile) = profile.map(Box::new) {
            mailbox.control(Input::ProfileGiven { model: id, profile });
        }
        Ok(Arc::new(ServedModel {
            id,
            number: order.number,
            device: site.id(),
            shapes: ShapeClasses::new(&info),
            info,
            metrics,
            content: stored.info().hash.clone(),
            spec,
            settings: Arc::clone(settings),
            gate: Gate::default(),
        }))
    }

    /// The plan of a version, where it has one. Where it may be on either device, a plan that is for
    /// the other one is left out, and the second says that.
    fn plan(
        &self,
        site: &Site,
        order: &VersionOrder,
        (stored, max_batch): (&StoredModel, BatchSize),
    ) -> Result<(Option<Planned>, Option<PlanFileError>), PlanFileError> {
        let (runner, settings) = (&self.runner, &order.settings.model);
        let here = Here::at(site, runner.profiles.runtime());
        let planned = planned::read(settings, (stored, max_batch), &here);
        let is_other = |error: &PlanFileError| {
            let device = error.of_device();
            let mut others = runner.devices.all();
            settings.device == ModelDevice::Auto
                && others.any(|other| Some(&other.device.profile_key()) == device)
        };
        match planned {
            Err(error) if is_other(&error) => Ok((None, Some(error))),
            planned => planned.map(|planned| (planned, None)),
        }
    }

    /// Finds the model's profile. One of that name of another file, or in another precision, is
    /// an error at the start; a file that is put in its place later is served, and measured.
    fn enter_profile(
        &self,
        (id, device): (ModelId, DeviceId),
        info: &ModelInfo,
        settings: &Settings,
        stored: &StoredModel,
    ) -> Result<Option<ModelProfile>, ProfileError> {
        let (runner, hash) = (&self.runner, &stored.info().hash);
        let mut blank = ModelProfile::new(&info.name, hash, info.max_batch_size.max(1));
        blank.version = Some(info.version.clone());
        blank.precision = precision(settings.model.precision);
        blank.slo_s = settings.model.slo.map(|slo| slo.nanos().as_secs_f64());
        let profile = match runner.profiles.find(device, &blank) {
            Err(error) if runner.loaded.load(Ordering::Acquire) => {
                tracing::warn!(model = info.name, %error, "it is measured while serving");
                runner.profiles.find_saved(device, hash)
            }
            found => found?,
        };
        let inputs = sample::random(info);
        let sample = inputs.and_then(|inputs| sample::one_item(info, inputs).ok());
        let profiles = &runner.profiles;
        profiles.enter((id, device), blank, profile.clone(), sample);
        Ok(profile)
    }

    fn count_from_now(&self, id: ModelId) {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counted) = by_id.get(&id) {
            counted.warm.store(true, Ordering::Release);
        }
    }

    /// Gives the memory of a drained version back; gives what was counted of it. Frees
    /// gigabytes, so it may take a while.
    pub(super) fn take_down(&self, id: ModelId) -> Option<CountedModel> {
        self.runner.devices.unload(id);
        self.runner.profiles.forget(id);
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        by_id.remove(&id)
    }
}

impl From<ProfileError> for VersionError {
    fn from(error: ProfileError) -> Self {
        if let ProfileError::Precision { expected, .. } = error {
            let error = Box::new(error);
            return Self::ProfilePrecision { error, expected };
        }
        Self::Profile(error)
    }
}

/// How a version is put on a device, and what is told of it.
pub(super) struct LoadPlan {
    pub(super) info: Arc<ModelInfo>,
    pub(super) options: LoadOptions,
}

impl LoadPlan {
    /// Joins what the model says of itself with how it is to be served.
    ///
    /// # Errors
    /// Where its configuration is of another model.
    pub(super) fn of(
        name: &str,
        number: u64,
        settings: &Settings,
        stored: &StoredModel,
    ) -> Result<Self, ModelConfigError> {
        let (found, config) = (stored.info(), &settings.model);
        let mut inputs = found.inputs.clone();
        if let Some(wanted) = settings.wanted() {
            for notice in modelconfig::check(wanted, &inputs, &found.outputs)? {
                let (field, reason) = (&notice.path, &notice.reason);
                tracing::warn!(
                    model = name,
                    field,
                    reason,
                    "config.pbtxt is not followed here"
                );
            }
            inputs = wanted.narrowed_inputs(&inputs);
        }
        let batches = settings.batches(found);
        let batchable = is_batchable(name, &found.batching, batches);
        let max_batch = if batchable { config.max_batch_size } else { 1 };
        let version = number.to_string();
        let info = ModelInfo {
            name: name.to_owned(),
            version: version.clone(),
            inputs,
            labels: labels(settings, &found.outputs),
            outputs: found.outputs.clone(),
            max_batch_size: if batchable { max_batch } else { 0 },
            versions: vec![version],
        };
        let options = LoadOptions {
            max_batch,
            slots: config.slots.max(config.instances),
            batches,
            gpu: tuning(config),
            ..LoadOptions::default()
        };
        Ok(Self {
            info: Arc::new(info),
            options,
        })
    }
}

/// A precision as the model store calls it.
pub(super) fn precision(configured: config::Precision) -> Precision {
    match configured {
        config::Precision::Fp32 => Precision::Fp32,
        config::Precision::Fp16 => Precision::Fp16,
    }
}

/// Whether requests to the model share runs.
fn is_batchable(name: &str, found: &Batching, batches: Batches) -> bool {
    match (found, batches) {
        (_, Batches::Never) => false,
        (Batching::Batchable, Batches::AsFound | Batches::Vouched) => true,
        (Batching::Single { reason }, Batches::Vouched) => {
            tracing::warn!(
                model = name,
                reason,
                "requests share runs of the model, since its owner vouches that they can"
            );
            true
        }
        (Batching::Single { reason }, Batches::AsFound) => {
            tracing::info!(
                model = name,
                reason,
                "the model is run one request at a time"
            );
            false
        }
    }
}

/// The class names of each output; empty where no output has any.
fn labels(settings: &Settings, outputs: &[TensorSpec]) -> Vec<Option<Arc<[String]>>> {
    if settings.labels.is_empty() {
        return Vec::new();
    }
    let of = |spec: &TensorSpec| {
        let known = settings.labels.iter().find(|(name, _)| *name == spec.name);
        known.map(|(_, labels)| Arc::clone(labels))
    };
    outputs.iter().map(of).collect()
}

/// The model as the scheduler sees it.
fn model_spec(
    (id, device): (ModelId, DeviceId),
    info: &ModelInfo,
    settings: &Settings,
    options: &LoadOptions,
) -> ModelSpec {
    let config = &settings.model;
    let preferred = config.preferred_batch_sizes.iter().copied();
    ModelSpec {
        id,
        name: format!("{}/{}", info.name, info.version),
        slo: config.slo.map(|slo| slo.nanos()),
        weight: config.weight,
        max_batch: BatchSize(options.max_batch),
        slots: options.slots,
        legs: 1,
        unsplit: false,
        devices: vec![device],
        limits: QueueLimits {
            requests: settings.queue_count_max(),
            bytes: config.queue_bytes_max.0,
        },
        batching: DynamicBatching {
            instances: config.instances,
            preferred: preferred.map(BatchSize).collect(),
            max_queue_delay: config.max_queue_delay.nanos(),
        },
    }
}

/// What is said of a version that a device refuses, and that was tried on another or not.
fn refused(error: &LoadError, other: &Otherwise) -> String {
    let report = error.report();
    match other {
        Otherwise::Untold => report,
        Otherwise::Advised => format!(
            "{report}; hint: `device = \"auto\"` in the model's settings lets it run on the CPU"
        ),
        Otherwise::Failed(other) => format!("{report}; on the CPU: {other}"),
    }
}

/// Says what was asked of a version and is not so where it was loaded.
fn warn_of_place(site: &Site, order: &VersionOrder, left_out: Option<&PlanFileError>) {
    let model = &order.name;
    if let Some(error) = left_out {
        let device = site.name();
        tracing::warn!(model, device, %error, "the model runs without its plan there");
    }
    let wanted = order.settings.wanted();
    let untrue = wanted.filter(|_| site.device.is_cpu());
    for notice in untrue.iter().flat_map(|wanted| &wanted.cpu_notices) {
        let (field, reason) = (&notice.path, &notice.reason);
        tracing::warn!(model, field, reason, "config.pbtxt is not followed here");
    }
}

fn log_loaded(order: &VersionOrder, stored: &StoredModel, device: &str) {
    tracing::info!(
        model = order.name,
        version = order.number,
        device,
        weight_bytes = stored.info().weight_bytes,
        from_store = stored.was_cached(),
        "model loaded"
    );
}
