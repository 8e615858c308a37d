//! The profiles of the models that are served: given by the user, or measured while
//! serving and kept for the next start.
//!
//! A profile that was given is the user's word: one of another device, runtime or model
//! file is an error. One that was kept is only a saving: where it does not fit, it is
//! measured anew.

use crate::config::{Config, ModelConfig, ModelControlMode, ModelDevice};
use crate::modelconfig::{interpret, parse_text};
use crate::repository;
use fugato_core::profile::{
    AnalysisOptions, DeviceKey, GridPoint, Knee, ModelProfile, Profile, ProfileError, SCHEMA,
    analyse,
};
use fugato_core::{DeviceId, ModelId, Nanos};
use fugato_device::RequestInputs;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The longest profile that is read, in bytes: far over a thousand models.
const PROFILE_BYTES_MAX: u64 = 64 << 20;

/// Why a profile that was given cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileFileError {
    /// The file cannot be read.
    #[error("profile `{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no profile.
    #[error("`{}` is no profile", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It is malformed, or of another device or runtime.
    #[error("profile `{}` cannot be used here", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<ProfileError>,
    },
}

/// The profiles of one server.
#[derive(Debug)]
pub(super) struct Profiles {
    runtime: String,
    /// By device, the server's first.
    kept: BTreeMap<DeviceId, Kept>,
    /// The models that are loaded. Never held for long.
    models: RwLock<BTreeMap<ModelId, Model>>,
}

/// What is known of the models on one device.
#[derive(Debug)]
struct Kept {
    device: DeviceKey,
    /// What the user gave.
    given: Option<Profile>,
    /// Where what is measured is kept.
    save: Option<PathBuf>,
    /// What was measured while serving, by this process or one before. Held while it is
    /// written, so never on the driver's thread.
    saved: Mutex<Profile>,
}

/// A loaded model version.
#[derive(Debug)]
struct Model {
    device: DeviceId,
    /// A profile of it without points.
    blank: ModelProfile,
    /// One row of inputs to measure it with.
    sample: Option<RequestInputs>,
    /// What the scheduler has of it.
    in_force: Option<ModelProfile>,
}

impl Profiles {
    /// What a profile calls the runtime.
    pub(super) fn runtime(&self) -> &str {
        &self.runtime
    }

    /// Reads the profile that was given and those that were kept, for each of these devices,
    /// the server's first. The one that was given may be of another than the server's where a
    /// model may be there.
    ///
    /// # Errors
    /// Where the one that was given cannot be used for any of them.
    pub(super) fn open(
        config: &Config,
        devices: Vec<(DeviceId, DeviceKey)>,
        runtime: String,
    ) -> Result<Self, ProfileFileError> {
        let mut given = None;
        if let Some(path) = &config.profile.file {
            let beside = usize::from(may_be_beside(config));
            let mut fits = devices.iter().take(1 + beside).map(|(id, device)| {
                let found = read(path, device, &runtime)?;
                Ok((*id, found))
            });
            // What is said where it fits none is what the server's own device says.
            let first = fits.next();
            let fit =
                first.map(|first| first.or_else(|error| fits.find_map(Result::ok).ok_or(error)));
            given = fit.transpose()?;
            if let (Some((of, profile)), Some((main, _))) = (&given, devices.first())
                && of != main
            {
                let device = profile.device.to_string();
                tracing::warn!(
                    device,
                    "the given profile is of the CPU beside; models on the server's own device are \
                     measured while serving"
                );
            }
        }
        let mut kept = BTreeMap::new();
        for (place, (id, device)) in devices.into_iter().enumerate() {
            let own = config.profile.save.clone().filter(|_| place == 0);
            let given = given.as_ref().filter(|(of, _)| *of == id);
            let given = given.map(|(_, profile)| profile.clone());
            kept.insert(id, Kept::open((config, own), (device, given), &runtime));
        }
        Ok(Self {
            runtime,
            kept,
            models: RwLock::default(),
        })
    }

    fn kept(&self, device: DeviceId) -> &Kept {
        let kept = self.kept.get(&device);
        kept.unwrap_or_else(|| panic!("{device} is none of the server's"))
    }

    /// The profile of the model that `blank` is a profile of without points; `None` where
    /// it must be measured.
    ///
    /// # Errors
    /// Where the user gave a profile of that name, made of another file or in another precision.
    pub(super) fn find(
        &self,
        device: DeviceId,
        blank: &ModelProfile,
    ) -> Result<Option<ModelProfile>, ProfileError> {
        let (name, hash) = (&blank.name, &blank.hash);
        if let Some(given) = &self.kept(device).given {
            if let Some(found) = given.model(name, &blank.key())? {
                return Ok(Some(found.clone()));
            }
            let version = blank.version.as_deref().unwrap_or_default();
            tracing::warn!(
                model = name,
                version,
                "the given profile has no such model; it is measured while serving"
            );
        }
        Ok(self.find_saved(device, hash))
    }

    /// What was measured while serving of a model of that content.
    pub(super) fn find_saved(&self, device: DeviceId, hash: &str) -> Option<ModelProfile> {
        let saved = self.kept(device).saved();
        let found = saved.models.iter().find(|known| known.hash == hash);
        found.cloned()
    }

    /// Takes a model in that is about to be loaded on a device; `blank` is a profile of it
    /// without points.
    pub(super) fn enter(
        &self,
        (id, device): (ModelId, DeviceId),
        blank: ModelProfile,
        in_force: Option<ModelProfile>,
        sample: Option<RequestInputs>,
    ) {
        let model = Model {
            device,
            blank,
            sample,
            in_force,
        };
        self.models_mut().insert(id, model);
    }

    /// Draws later conclusions about a model for another objective.
    pub(super) fn aim(&self, id: ModelId, slo: Option<Nanos>) {
        if let Some(model) = self.models_mut().get_mut(&id) {
            model.blank.slo_s = slo.map(Nanos::as_secs_f64);
        }
    }

    pub(super) fn forget(&self, id: ModelId) {
        self.models_mut().remove(&id);
    }

    /// One row of inputs to measure a model with.
    pub(super) fn sample(&self, id: ModelId) -> Option<RequestInputs> {
        self.models().get(&id)?.sample.clone()
    }

    /// The name and version of a model.
    pub(super) fn name(&self, id: ModelId) -> Option<(String, String)> {
        let models = self.models();
        let blank = &models.get(&id)?.blank;
        Some((
            blank.name.clone(),
            blank.version.clone().unwrap_or_default(),
        ))
    }

    /// A profile of the device that a model is on, with that model alone, or without it where
    /// it has none. `None` where the model was taken out.
    pub(super) fn report(&self, id: ModelId) -> Option<Profile> {
        let models = self.models();
        let model = models.get(&id)?;
        let mut report = empty(&self.kept(model.device).device, &self.runtime);
        report.models.extend(model.in_force.clone());
        Some(report)
    }

    /// The knees of a model, and the number of points with a time.
    pub(super) fn knees(&self, id: ModelId) -> Option<(Knee, u64)> {
        let models = self.models();
        let profile = models.get(&id)?.in_force.as_ref()?;
        let timed = profile.grid.iter().filter(|point| point.times().is_some());
        Some((profile.knee, timed.count() as u64))
    }

    /// Draws the conclusions from what was measured of a model while serving, `done` or not,
    /// and keeps it; `None` where the model was taken out meanwhile. Takes milliseconds, and
    /// writes a file.
    pub(super) fn measured(
        &self,
        id: ModelId,
        grid: Vec<GridPoint>,
        done: bool,
    ) -> Option<ModelProfile> {
        let of = |model: &Model| {
            let mut profile = model.blank.clone();
            // They are of the model, whatever its times have become.
            if let Some(known) = &model.in_force {
                profile.beside.clone_from(&known.beside);
                profile.interference = known.interference;
            }
            (profile, model.device)
        };
        let known = self.models().get(&id).map(of);
        let (mut profile, device) = known?;
        let kept = self.kept(device);
        profile.sparse = true;
        profile.unfinished = !done;
        profile.grid = grid;
        analyse(&mut profile, &AnalysisOptions::new(kept.device.slices));
        if let Some(model) = self.models_mut().get_mut(&id) {
            model.in_force = Some(profile.clone());
        }
        let mut saved = kept.saved();
        let same =
            |known: &ModelProfile| known.name == profile.name && known.version == profile.version;
        saved.models.retain(|known| !same(known));
        saved.models.push(profile.clone());
        if let Some(path) = &kept.save
            && let Err(error) = write(path, &saved)
        {
            let path = path.display();
            tracing::warn!(%path, %error, "what was measured cannot be kept for the next start");
        }
        Some(profile)
    }

    fn models(&self) -> RwLockReadGuard<'_, BTreeMap<ModelId, Model>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn models_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<ModelId, Model>> {
        self.models.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Reads what was kept of a device: in `own`, or in the model store.
    fn open(
        (config, own): (&Config, Option<PathBuf>),
        (device, given): (DeviceKey, Option<Profile>),
        runtime: &str,
    ) -> Self {
        let stored = || {
            let folder = config.model_store.dir.as_ref()?;
            Some(folder.join(format!("profile-{}-{}.json", device.kind, device.slices)))
        };
        let save = own.or_else(stored);
        let save = save.filter(|_| config.profile.online_share > 0.0);
        let saved = save
            .as_deref()
            .and_then(|path| match read(path, &device, runtime) {
                Ok(saved) => Some(saved),
                Err(ProfileFileError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    None
                }
                Err(error) => {
                    let reason = super::found::with_cause(&error);
                    tracing::warn!(reason, "what was measured before is measured anew");
                    None
                }
            });
        let saved = saved.unwrap_or_else(|| empty(&device, runtime));
        Self {
            device,
            given,
            save,
            saved: Mutex::new(saved),
        }
    }

    fn saved(&self) -> MutexGuard<'_, Profile> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether any model may be on another device than the server's: by the server's configuration,
/// by its own, or because there may come models that nobody knows yet.
fn may_be_beside(config: &Config) -> bool {
    let mut all = config.models.values().chain([&config.defaults]);
    all.any(is_elsewhere)
        || match config.server.model_control_mode {
            ModelControlMode::None => any_asks(config),
            ModelControlMode::Poll | ModelControlMode::Explicit => true,
        }
}

fn is_elsewhere(model: &ModelConfig) -> bool {
    match model.device {
        ModelDevice::Auto | ModelDevice::Cpu => true,
        ModelDevice::Server => false,
    }
}

/// Whether a model of the repository says so in its own configuration. One that cannot be read
/// says nothing, and its model is not served.
fn any_asks(config: &Config) -> bool {
    let root = config.server.model_repository.as_deref();
    let repository = root.and_then(|root| repository::scan(root).ok());
    let models = repository.into_iter().flat_map(|found| found.models);
    let mut folders = models.filter_map(|model| model.folder.ok());
    folders.any(|folder| {
        let asked = folder.config.as_deref().map(parse_text);
        let wanted = asked.and_then(|asked| interpret(&folder.name, &asked.ok()?).ok());
        let model = wanted.and_then(|own| config.model_with(&folder.name, &own.settings).ok());
        model.as_ref().is_some_and(is_elsewhere)
    })
}

fn empty(device: &DeviceKey, runtime: &str) -> Profile {
    Profile {
        schema: SCHEMA.to_owned(),
        device: device.clone(),
        runtime: runtime.to_owned(),
        synthetic: false,
        launch_s: None,
        models: Vec::new(),
    }
}

/// Reads a profile of this device and runtime.
fn read(path: &Path, device: &DeviceKey, runtime: &str) -> Result<Profile, ProfileFileError> {
    let fail = |source| ProfileFileError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::metadata(path).map_err(fail)?.len();
    if bytes > PROFILE_BYTES_MAX {
        let found = format!("it has {bytes} bytes, more than {PROFILE_BYTES_MAX}");
        return Err(fail(io::Error::other(found)));
    }
    let text = fs::read(path).map_err(fail)?;
    let parsed = serde_json::from_slice::<Profile>(&text);
    let profile = parsed.map_err(|source| ProfileFileError::Parse {
        path: path.to_owned(),
        source,
    })?;
    let checked = profile
        .check()
        .and_then(|()| profile.matches(device, runtime));
    checked.map_err(|source| ProfileFileError::Unfit {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok(profile)
}

/// Writes a profile in one step: whoever reads it meanwhile sees the old one or the new.
fn write(path: &Path, profile: &Profile) -> io::Result<()> {
    let text = serde_json::to_string_pretty(profile)?;
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    fs::write(&partial, text)?;
    fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawConfig, Sources, read_file};

    fn key(kind: &str) -> DeviceKey {
        DeviceKey {
            kind: kind.to_owned(),
            name: format!("a {kind}"),
            slices: 2,
        }
    }

    #[test]
    fn a_profile_of_the_cpu_beside_is_taken_where_a_model_may_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let (profile, toml) = (folder.path().join("p.json"), folder.path().join("f.toml"));
        write(&profile, &empty(&key("cpu"), "runtime")).unwrap();
        for (sections, fits) in [
            ("", false),
            ("[defaults]\ndevice = \"server\"\n", false),
            ("[model.m]\nslots = 3\n", false),
            ("[defaults]\ndevice = \"auto\"\n", true),
            ("[model.m]\ndevice = \"auto\"\n[model.n]\n", true),
            ("[model.m]\n[model.n]\ndevice = \"cpu\"\n", true),
        ] {
            fs::write(&toml, sections).unwrap();
            let mut flags = RawConfig::default();
            flags.profile.file = Some(profile.clone());
            flags.model_store.dir = Some(folder.path().to_owned());
            let config = Config::resolve(&Sources {
                flags,
                environment: RawConfig::default(),
                file: Some(read_file(&toml).unwrap()),
            });
            let (main, cpu) = ((DeviceId(0), key("cuda")), (DeviceId(1), key("cpu")));
            let opened = Profiles::open(&config.unwrap(), vec![main, cpu], "runtime".to_owned());
            match opened {
                Ok(opened) => {
                    assert!(fits, "{sections}");
                    assert!(opened.kept(DeviceId(0)).given.is_none());
                    assert!(opened.kept(DeviceId(1)).given.is_some());
                }
                Err(ProfileFileError::Unfit { source, .. }) => {
                    assert!(!fits, "{sections}");
                    let error = source.to_string();
                    assert!(error.contains("a cuda"), "{error}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn models_say_so_in_configurations_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (profile, toml) = (folder.path().join("p.json"), folder.path().join("f.toml"));
        write(&profile, &empty(&key("cpu"), "runtime")).unwrap();
        let root = folder.path().join("models");
        fs::create_dir_all(root.join("m/1")).unwrap();
        fs::write(root.join("m/1/model.onnx"), "").unwrap();
        const CPU: &str = "instance_group { kind: KIND_CPU }\n";
        const AUTO: &str =
            "parameters { key: \"fugato.device\" value { string_value: \"auto\" } }\n";
        for (own, settings, fits) in [
            (None, "", false),
            (Some("max_batch_size: 2\n"), "", false),
            (Some(CPU), "", true),
            (Some(AUTO), "", true),
            // The server's own word is the stronger.
            (Some(CPU), "[model.m]\ndevice = \"server\"\n", false),
            (Some("no such field: 1\n"), "", false),
            (None, "[server]\nmodel_control_mode = \"explicit\"\n", true),
            (None, "[server]\nmodel_control_mode = \"poll\"\n", true),
        ] {
            let place = root.join("m/config.pbtxt");
            match own {
                Some(own) => fs::write(&place, own).unwrap(),
                None if place.exists() => fs::remove_file(&place).unwrap(),
                None => {}
            }
            fs::write(&toml, settings).unwrap();
            let mut flags = RawConfig::default();
            flags.profile.file = Some(profile.clone());
            flags.model_store.dir = Some(folder.path().to_owned());
            flags.server.model_repository = Some(root.clone());
            let config = Config::resolve(&Sources {
                flags,
                environment: RawConfig::default(),
                file: Some(read_file(&toml).unwrap()),
            });
            let (main, cpu) = ((DeviceId(0), key("cuda")), (DeviceId(1), key("cpu")));
            let opened = Profiles::open(&config.unwrap(), vec![main, cpu], "runtime".to_owned());
            assert_eq!(opened.is_ok(), fits, "{own:?} {settings}");
        }
    }
}
