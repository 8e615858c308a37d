//! A device with the models of a repository on it, as the server would run them, and
//! nobody to serve: what measuring needs.

use super::found::{Found, with_cause};
use super::load::{LoadPlan, precision};
use super::sample::{from_warm_up, one_item, random, zeros};
use super::serve::ServeError;
use super::settings::Settings;
use super::{ModelInfo, open};
use crate::api::NamedInput;
use crate::config::{self, Config, ModelDevice};
use crate::repository::{self, ModelEntry, Repository};
use fugato_core::profile::{DeviceKey, ModelKey};
use fugato_core::{ModelId, Nanos};
use fugato_device::{
    AnyDevice, Device, LoadOptions, ModelStore, Precision, Profiler, RequestInputs,
    partitions_beside, slots_beside,
};
use std::path::Path;

/// A device with models on it.
pub struct Workbench {
    /// Makes visits on the device.
    pub profiler: Profiler<AnyDevice>,
    /// What a profile calls the device.
    pub device: DeviceKey,
    /// What a profile calls the runtime.
    pub runtime: String,
    /// The models, by name, then by version.
    pub models: Vec<BenchModel>,
    /// Models that cannot be loaded, and why.
    pub refused: Vec<(String, String)>,
}

/// A model version on the device.
#[derive(Debug)]
pub struct BenchModel {
    /// What the device calls it.
    pub id: ModelId,
    /// Its name in the repository.
    pub name: String,
    /// Its version in the repository.
    pub version: String,
    /// Its content hash, as the model store keys it.
    pub hash: String,
    /// The precision it computes in.
    pub precision: Precision,
    /// The most items of a batch, as the server would run it.
    pub max_batch: u32,
    /// Its latency objective, where it is configured.
    pub slo: Option<Nanos>,
    /// Requests of one item to try, the likeliest first: a model may refuse random values.
    pub items: Vec<RequestInputs>,
}

impl BenchModel {
    /// The version and the file that it is of.
    pub fn key(&self) -> ModelKey {
        ModelKey {
            version: Some(self.version.clone()),
            hash: self.hash.clone(),
            precision: self.precision,
        }
    }
}

impl Workbench {
    /// Finds the models of the repository that is configured; nothing is loaded.
    ///
    /// # Errors
    /// Where there is no such repository, or the configuration names a model that is not
    /// in it.
    pub fn find(config: &Config) -> Result<Repository, ServeError> {
        let folder = config.server.model_repository.as_deref();
        let found = repository::scan(folder.ok_or(ServeError::NoRepository)?)?;
        config.check_models(&found.names())?;
        Ok(found)
    }

    /// Opens the device that the configuration describes, and loads onto it the versions
    /// that the server would serve of the models found: each in the precision that it is
    /// configured with, or all in another.
    ///
    /// # Errors
    /// As a server's start. A model that cannot be loaded is only noted.
    pub fn open(
        config: &Config,
        found: &Repository,
        precision: Option<config::Precision>,
    ) -> Result<Self, ServeError> {
        let opened = open::store(config)?;
        let profiler = opened.profiler(config)?;
        let open::Opened { ort, store, .. } = opened;
        let mut bench = Self {
            device: profiler.device().profile_key(),
            runtime: ort.profile_key(),
            profiler,
            models: Vec::new(),
            refused: Vec::new(),
        };
        for entry in &found.models {
            if let Err(reason) = bench.load(config, (&store, precision), entry) {
                bench.refused.push((entry.name.clone(), reason));
            }
        }
        Ok(bench)
    }

    fn load(
        &mut self,
        config: &Config,
        (store, asked): (&ModelStore, Option<config::Precision>),
        entry: &ModelEntry,
    ) -> Result<(), String> {
        let folder = entry
            .folder
            .as_ref()
            .map_err(|fault| with_cause(&**fault))?;
        let found = Found::choose(&entry.name, config, folder, None, None)?;
        let is_for_cpu = found.settings.model.device == ModelDevice::Cpu;
        if is_for_cpu && !self.profiler.device().is_cpu() {
            return Err(
                "its settings put it on the CPU\n\nhint: measure it there, with `--device \
                        cpu`"
                    .to_owned(),
            );
        }
        let precision = precision(asked.unwrap_or(found.settings.model.precision));
        for (number, path) in &found.versions {
            let stored = store.prepare_in(path, precision);
            let stored = stored.map_err(|error| error.report())?;
            let LoadPlan { info, options } =
                LoadPlan::of(&entry.name, *number, &found.settings, &stored)
                    .map_err(|error| with_cause(&error))?;
            let items = items(&info, &found.settings, &found.folder)?;
            let id = ModelId(u32::try_from(self.models.len()).unwrap_or(u32::MAX));
            let device = self.profiler.device();
            let options = LoadOptions {
                slots: options.slots.max(slots(device)),
                ..options
            };
            let loaded = device.load(id, &stored, &options);
            loaded.map_err(|error| error.report())?;
            stored.give_pages_back();
            self.models.push(BenchModel {
                id,
                name: info.name.clone(),
                version: info.version.clone(),
                hash: stored.info().hash.clone(),
                precision,
                max_batch: options.max_batch,
                slo: found.settings.model.slo.map(|slo| slo.nanos()),
                items,
            });
        }
        Ok(())
    }
}

/// The sets of buffers that a model needs to fill every partition at once.
fn slots(device: &AnyDevice) -> u16 {
    let spec = device.spec();
    let partitions = spec.partitions.iter();
    let beside = partitions.map(|partition| partitions_beside(spec, partition.id).len());
    slots_beside(beside.max().unwrap_or(0))
}

/// Requests of one item: of the model's own warm-up samples, else of random values, else
/// of zeros.
pub(super) fn items(
    info: &ModelInfo,
    settings: &Settings,
    folder: &Path,
) -> Result<Vec<RequestInputs>, String> {
    let samples = settings.wanted().map(|wanted| wanted.warm_ups.as_slice());
    let own = samples
        .unwrap_or_default()
        .iter()
        .filter(|sample| sample.batch_size == 1);
    let mut candidates: Vec<Vec<NamedInput>> = Vec::new();
    for sample in own {
        let made = from_warm_up(sample, info, folder);
        candidates.push(made.map_err(|reason| {
            format!("warm-up sample `{}` cannot be made: {reason}", sample.name)
        })?);
    }
    candidates.extend(random(info));
    candidates.extend(zeros(info));
    if candidates.is_empty() {
        let varying = info.inputs.iter().find(|input| {
            let batch = usize::from(info.max_batch_size > 0);
            input.shape.iter().skip(batch).any(Option::is_none)
        });
        let name = varying.map_or("", |input| input.name.as_str());
        return Err(format!(
            "input `{name}` has a dimension of any size, so that no input is typical\n\nhint: \
             describe one in `model_warmup` of its config.pbtxt, with batch_size 1"
        ));
    }
    let requests = candidates.into_iter().map(|inputs| one_item(info, inputs));
    let requests: Result<Vec<RequestInputs>, _> = requests.collect();
    requests.map_err(|error| error.to_string())
}
