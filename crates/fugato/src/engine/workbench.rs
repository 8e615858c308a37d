//! A device with the models of a repository on it, as the server would run them, and
//! nobody to serve: what measuring needs.

use super::found::{Found, with_cause};
use super::load::{LoadPlan, precision};
use super::planned::{self, Here, Planned};
use super::sample::{from_warm_up, one_item, random, zeros};
use super::serve::ServeError;
use super::settings::Settings;
use super::{ModelInfo, open};
use crate::api::NamedInput;
use crate::config::{self, Config, ModelConfig, ModelDevice};
use crate::repository::{self, ModelEntry, Repository};
use fugato_core::plan::Plan;
use fugato_core::profile::{DeviceKey, LegPlan, ModelKey, ModelProfile};
use fugato_core::{BatchSize, ModelId, Nanos};
use fugato_device::{
    AnyDevice, Cuts, Device, LoadOptions, ModelStore, Precision, Profiler, RequestInputs,
    StoredModel, partitions_beside, slots_beside,
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
    /// What a further CPU device is opened by, to time the parts of models that are cut on it;
    /// none: their parts are reckoned.
    pub config: Option<Box<Config>>,
}

/// A model version on the device.
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
    /// What it was loaded from, and how.
    pub stored: StoredModel,
    /// See `stored`.
    pub options: LoadOptions,
    /// Its legs that are to be measured.
    pub legs: LegsWanted,
}

/// Which legs of a model are measured, beside the whole of it.
#[derive(Clone, Debug)]
pub enum LegsWanted {
    /// None.
    None,
    /// Of at most so long, cut as the server cuts them.
    Longest(Nanos),
    /// Those of the plan that the model is served by.
    Planned(Box<Plan>),
    /// None, since that plan is of another device, as this says.
    Elsewhere(String),
    /// None, since that plan cannot be used, for this reason.
    Unfit(String),
}

/// A model that is cut into legs, beside itself as it is.
pub struct CutModel {
    /// What the device calls it.
    pub id: ModelId,
    /// How it is cut.
    pub plan: LegPlan,
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
    /// that the server would serve of the models found: as each is configured, or all otherwise.
    ///
    /// # Errors
    /// As a server's start. A model that cannot be loaded is only noted.
    pub fn open(config: &Config, found: &Repository, all: ForAll) -> Result<Self, ServeError> {
        let opened = open::store(config)?;
        let profiler = opened.profiler(config)?;
        let open::Opened { ort, store, .. } = opened;
        let mut bench = Self {
            device: profiler.device().profile_key(),
            runtime: ort.profile_key(),
            profiler,
            models: Vec::new(),
            refused: Vec::new(),
            config: Some(Box::new(config.clone())),
        };
        for entry in &found.models {
            if let Err(reason) = bench.load(config, (&store, all), entry) {
                bench.refused.push((entry.name.clone(), reason));
            }
        }
        Ok(bench)
    }

    fn load(
        &mut self,
        config: &Config,
        (store, asked): (&ModelStore, ForAll),
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
        let precision = precision(asked.precision.unwrap_or(found.settings.model.precision));
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
            let legs = self.legs(
                &found.settings.model,
                (&stored, BatchSize(options.max_batch)),
                asked.legs,
            );
            self.models.push(BenchModel {
                id,
                name: info.name.clone(),
                version: info.version.clone(),
                hash: stored.info().hash.clone(),
                precision,
                max_batch: options.max_batch,
                slo: found.settings.model.slo.map(|slo| slo.nanos()),
                items,
                stored,
                options,
                legs,
            });
        }
        Ok(())
    }

    /// The legs that the server would serve the model in, or for a model without a plan those
    /// that are asked for; none where no time is asked for.
    fn legs(
        &self,
        settings: &ModelConfig,
        (stored, max_batch): (&StoredModel, BatchSize),
        asked: Option<Nanos>,
    ) -> LegsWanted {
        if asked == Some(Nanos::ZERO) {
            return LegsWanted::None;
        }
        let device = self.profiler.device();
        let here = Here {
            device: self.device.clone(),
            spec: device.spec(),
            runtime: &self.runtime,
        };
        match planned::read(settings, (stored, max_batch), &here) {
            Ok(Some(planned)) => LegsWanted::Planned(Box::new(planned.plan)),
            Ok(None) => {
                let configured = settings.legs.map(|legs| legs.nanos());
                let longest = asked
                    .or(configured)
                    .filter(|&longest| longest > Nanos::ZERO);
                longest.map_or(LegsWanted::None, LegsWanted::Longest)
            }
            Err(error) if error.of_device().is_some() => LegsWanted::Elsewhere(error.to_string()),
            Err(error) => LegsWanted::Unfit(error.to_string()),
        }
    }

    /// Cuts a model into legs and loads it beside itself, in one slot: as `known` where that is a
    /// plan of such legs, else by what its parts take on a CPU, or by its `profile` elsewhere.
    /// `None`: it is too short for two legs, or cannot be cut.
    ///
    /// # Errors
    /// Where its parts cannot be timed, or do not run by themselves, with the reason.
    pub fn cut(
        &self,
        model: &BenchModel,
        profile: &ModelProfile,
        known: Option<&LegPlan>,
    ) -> Result<Option<CutModel>, String> {
        let longest = match &model.legs {
            LegsWanted::None => return Ok(None),
            LegsWanted::Elsewhere(reason) | LegsWanted::Unfit(reason) => {
                return Err(reason.clone());
            }
            LegsWanted::Longest(longest) => Some(*longest),
            LegsWanted::Planned(_) => None,
        };
        let known = known.and_then(|known| {
            let planned = planned::of_plan(&known.plan, &model.stored);
            let planned = planned.inspect_err(|reason| {
                let model = &model.name;
                tracing::warn!(model, reason, "the model is cut anew, not as it was before");
            });
            planned.ok()
        });
        let planned = match (known, &model.legs) {
            (Some(known), _) => known,
            (None, LegsWanted::Planned(plan)) => planned::of_plan(plan, &model.stored)?,
            (None, _) => self.cut_anew(model, profile, longest.unwrap_or_default())?,
        };
        let count = planned.plan.legs.len();
        if count < 2 {
            return Ok(None);
        }
        let id = self.load_cut(model, planned.cuts, count)?;
        let plan = planned.plan;
        Ok(Some(CutModel {
            id,
            plan: LegPlan { longest, plan },
        }))
    }

    fn cut_anew(
        &self,
        model: &BenchModel,
        profile: &ModelProfile,
        longest: Nanos,
    ) -> Result<Planned, String> {
        let device = self.profiler.device();
        let (plan, segments) = match self.config.as_deref().filter(|_| device.is_cpu()) {
            Some(config) => {
                let of = (&model.stored, model.items.clone());
                planned::timed(of, (config, &self.runtime), longest)?
            }
            None => {
                let here = Here {
                    device: self.device.clone(),
                    spec: device.spec(),
                    runtime: &self.runtime,
                };
                let divided = planned::divided((&model.stored, Some(profile)), &here, longest)?;
                divided.ok_or("no run of the whole model is timed")?
            }
        };
        Ok(Planned::of(plan, &segments))
    }

    fn load_cut(&self, model: &BenchModel, cuts: Cuts, count: usize) -> Result<ModelId, String> {
        let device = self.profiler.device();
        // From the other end than those of the models as they are.
        let id = ModelId(u32::MAX - model.id.0);
        let options = LoadOptions {
            slots: 1,
            cuts: Some(cuts),
            ..model.options.clone()
        };
        let loaded = device.load(id, &model.stored, &options);
        let loaded = loaded.map_err(|error| error.report())?;
        model.stored.give_pages_back();
        if usize::from(loaded.legs) != count {
            device.unload(id);
            return Err("a part of it does not run by itself".to_owned());
        }
        Ok(id)
    }
}

/// How all models are measured, whatever each is configured to.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForAll {
    /// The precision they compute in.
    pub precision: Option<config::Precision>,
    /// The longest leg that those without a plan are cut into; zero: none is cut, whatever plan it
    /// has.
    pub legs: Option<Nanos>,
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
