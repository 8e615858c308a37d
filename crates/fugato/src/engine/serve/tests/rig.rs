//! A server on two devices, of which the first refuses models by name.

use super::model::{self, Repository};
use super::told::Told;
use crate::config::{Config, RawConfig, Sources, read_file};
use crate::driver::Mailbox;
use crate::engine::devices::{Beside, Devices, Host, MAIN, Site};
use crate::engine::open;
use crate::engine::serve::{Given, Opened, Running, ServeError};
use fugato_core::ModelId;
use fugato_core::device::DeviceSpec;
use fugato_core::profile::DeviceKey;
use fugato_device::{
    AnyDevice, Device, DeviceMetrics, LeftBehind, LegWork, LoadError, LoadOptions, Loaded,
    ModelStore, RevokeLeg, StoredModel,
};
use fugato_onnx::{ExternalPolicy, ModelProto, save_model};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How a device refuses a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// For what it is.
    Lacking,
    /// For another reason, which says nothing of the model.
    Busy,
}

/// Who refuses what, by name.
pub(super) type Refusals = Arc<Mutex<BTreeMap<String, Refusal>>>;

/// A device that refuses models.
struct Picky {
    device: AnyDevice,
    /// The device's, by another name.
    spec: DeviceSpec,
    refusals: Refusals,
    /// A model that nothing runs, and where it is looked at.
    odd: (ModelStore, PathBuf),
}

impl Device for Picky {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn start(&self, work: LegWork) {
        self.device.start(work);
    }

    fn revoke(&self, leg: &RevokeLeg) {
        self.device.revoke(leg);
    }

    fn let_go(&self, place: &LeftBehind) {
        self.device.let_go(place);
    }
}

impl Host for Picky {
    fn load(
        &self,
        id: ModelId,
        stored: &StoredModel,
        options: &LoadOptions,
    ) -> Result<Loaded, LoadError> {
        let name = stored.origin().ancestors().nth(2).and_then(Path::file_name);
        let name = name.unwrap_or_default().to_string_lossy().into_owned();
        let refusal = self.refusals.lock().unwrap().get(&name).copied();
        let mut options = options.clone();
        match refusal {
            None => {}
            Some(Refusal::Lacking) => {
                let (store, path) = &self.odd;
                return Err(store.prepare(path).map(drop).expect_err("nothing runs it"));
            }
            Some(Refusal::Busy) => options.slots = 0,
        }
        self.device.load(id, stored, &options)
    }

    fn unload(&self, id: ModelId) -> bool {
        self.device.unload(id)
    }

    fn profile_key(&self) -> DeviceKey {
        DeviceKey {
            kind: "picky".to_owned(),
            ..self.device.profile_key()
        }
    }

    fn metrics(&self) -> DeviceMetrics {
        self.device.metrics()
    }

    fn set_layered(&self, layered: bool) {
        self.device.set_layered(layered);
    }

    fn is_cpu(&self) -> bool {
        false
    }
}

/// Writes a model with an operator that nobody has.
fn write_odd(path: &Path) {
    let plain = path.with_extension("plain");
    std::fs::write(&plain, model::adder_bytes(1.0)).unwrap();
    let mut odd: ModelProto = fugato_onnx::read_model(&plain).unwrap();
    let graph = odd.graph.as_mut().unwrap();
    graph.node[0].op_type = Some("Odd".to_owned());
    save_model(&odd, path, ExternalPolicy::Never).unwrap();
}

/// A server with two devices, and what is known of it.
pub(super) struct Rig {
    running: Running,
    told: Told,
    /// What it writes.
    _folder: tempfile::TempDir,
}

/// What a rig is made of.
pub(super) struct Parts<'a> {
    pub(super) repository: &'a Repository,
    /// Sections of its configuration.
    pub(super) toml: &'a str,
    pub(super) refused: &'a [(&'a str, Refusal)],
    /// Why the CPU beside cannot be used, where it cannot.
    pub(super) no_cpu: Option<&'a str>,
}

impl Rig {
    pub(super) async fn start(
        repository: &Repository,
        toml: &str,
        refused: &[(&str, Refusal)],
    ) -> Self {
        Self::of(Parts {
            repository,
            toml,
            refused,
            no_cpu: None,
        })
        .await
    }

    pub(super) async fn of(parts: Parts<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = configured(folder.path(), &parts);
        let refused = parts.refused.iter();
        let refusals: BTreeMap<_, _> = refused
            .map(|(name, refusal)| ((*name).to_owned(), *refusal))
            .collect();
        let refusals: Refusals = Arc::new(Mutex::new(refusals));
        let odd = folder.path().join("odd.onnx");
        write_odd(&odd);
        let (own, mut heard) = (Arc::clone(&refusals), None);
        let running = Running::start(config, Given::default(), |config, clock, sink| {
            heard = Some(Arc::clone(sink));
            let (ort, store) = open::cpu_store(config)?;
            let device = open::cpu(MAIN, config, clock, Arc::clone(sink))?;
            let device = AnyDevice::Cpu(device);
            let spec = DeviceSpec {
                name: format!("picky: {}", device.spec().name),
                ..device.spec().clone()
            };
            let main = Site {
                device: Arc::new(Picky {
                    device,
                    spec,
                    refusals: own,
                    odd: (store.clone(), odd),
                }),
                store: store.clone().for_any_device(),
            };
            let beside = match parts.no_cpu {
                None => open::beside(config, clock, sink, &store),
                Some(reason) => Beside::Unusable(reason.to_owned()),
            };
            Ok(Opened {
                devices: Devices::new(main, beside),
                runtime: ort.profile_key(),
            })
        });
        let running = running.await.expect("it can be served");
        let addresses = running.server.addresses();
        let told = Told {
            http: addresses.http.unwrap(),
            metrics: addresses.metrics.unwrap(),
            refusals,
            sink: heard.unwrap(),
            store: folder.path().join("store"),
            stop: running.orphaned.clone(),
        };
        Self {
            running,
            told,
            _folder: folder,
        }
    }

    pub(super) fn mailbox(&self) -> Arc<Mailbox> {
        Arc::clone(&self.running.mailbox)
    }

    /// Serves while `script` runs, then drains; gives what the server ended with.
    pub(super) async fn run<F: Future<Output = ()>>(
        self,
        script: impl FnOnce(Told) -> F,
    ) -> Result<(), ServeError> {
        let told = self.told.clone();
        let stop = told.stop.clone();
        let script = async {
            told.until_ready().await;
            script(told).await;
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(self.running.run(), script);
        ended
    }
}

/// The configuration of a server that keeps its files in `folder`.
pub(super) fn configured(folder: &Path, parts: &Parts<'_>) -> Config {
    let path = folder.join("fugato.toml");
    let common = "[server]\nmodel_control_mode = \"explicit\"\nload_model = [\"*\"]\n\
                  http_port = 0\ngrpc_port = 0\nmetrics_port = 0\n";
    std::fs::write(&path, format!("{common}{}", parts.toml)).unwrap();
    let mut flags = RawConfig::default();
    flags.server.model_repository = Some(parts.repository.path().to_owned());
    flags.model_store.dir = Some(folder.join("store"));
    let sources = Sources {
        flags,
        environment: RawConfig::default(),
        file: Some(read_file(&path).unwrap()),
    };
    Config::resolve(&sources).unwrap()
}

/// Measuring leaves the counts of legs alone.
pub(super) const QUIET: &str = "[profile]\nonline_share = 0.0\n";
