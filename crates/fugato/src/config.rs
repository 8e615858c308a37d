//! Configuration: raw, resolved, with the origin of each value.
//!
//! A value comes from the first of these that has it: a flag, an environment variable
//! `FUGATO_*`, the configuration file, the default. Each source is read into a
//! [`RawConfig`]; [`Config::resolve`] joins them into a [`Config`].
//!
//! **Invariant:** a [`Config`] has been checked: whoever holds one need not check again.
//! Start reading at [`schema`](self), the list of settings, re-exported here.

mod error;
mod origin;
mod read;
mod reference;
mod schema;
mod units;

pub use error::{ConfigError, TomlError};
pub use origin::{Origin, Origins, Shown};
pub use read::{FileConfig, from_environment, read_file};
pub use reference::reference;
pub use schema::{
    ClipperConfig, CudnnSearch, DeviceConfig, DeviceKind, DstackConfig, FugatoConfig, GsliceConfig,
    LogConfig, LogFormat, ModelConfig, ModelControlMode, ModelDevice, ModelStoreConfig, PlanLanes,
    PoliciesConfig, Policy, Precision, ProfileConfig, RawClipper, RawConfig, RawDevice, RawDstack,
    RawFugato, RawGslice, RawLog, RawModel, RawModelStore, RawPolicies, RawProfile, RawRuntime,
    RawScheduler, RawServer, RawTelemetry, RawTemporal, RawUncontrolled, RuntimeConfig, SETTINGS,
    SchedulerConfig, ServerConfig, Setting, Supervise, TelemetryConfig, TemporalConfig,
    UncontrolledConfig,
};
pub use units::{ByteSize, Cores, Span, UnitError};

use fugato_core::Share;
use fugato_core::device::ATOMS_MAX;
use fugato_core::policy::FugatoParts;
use fugato_core::sched::PolicySpec;
use origin::{Layer, LayerKind};
use std::collections::BTreeMap;
use std::env;
use std::net::IpAddr;
use std::path::PathBuf;

/// The least and the largest latency objective: none is met in less than a microsecond, and
/// none of hours needs a scheduler.
pub const SLO_RANGE: (Span, Span) = (Span::from_micros(1), Span::from_millis(3_600_000));

/// The least and the largest worth of a model.
pub const WEIGHT_RANGE: (f64, f64) = (1e-6, 1e6);

/// The configuration of one process.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The listening server.
    pub server: ServerConfig,
    /// The device that runs the models.
    pub device: DeviceConfig,
    /// The scheduler.
    pub scheduler: SchedulerConfig,
    /// The settings of each policy; see [`Config::policy_spec`].
    pub policy: PoliciesConfig,
    /// What holds for a model without a section of its own; see [`Config::model`].
    pub defaults: ModelConfig,
    /// The file the sections of models came from, where there is one.
    pub file: Option<PathBuf>,
    /// The models with a section of their own, resolved; see [`Config::model`].
    pub models: BTreeMap<String, ModelConfig>,
    /// What those sections say; see [`Config::model_with`].
    sections: BTreeMap<String, RawModel>,
    /// The store of optimised models.
    pub model_store: ModelStoreConfig,
    /// Latency profiles.
    pub profile: ProfileConfig,
    /// ONNX Runtime.
    pub runtime: RuntimeConfig,
    /// Log lines.
    pub log: LogConfig,
    /// `[telemetry]`.
    pub telemetry: TelemetryConfig,
    /// Where each value came from.
    pub origins: Origins,
}

/// The sources of a configuration.
#[derive(Debug, Default)]
pub struct Sources {
    /// What the flags say.
    pub flags: RawConfig,
    /// What the environment says; see [`from_environment`].
    pub environment: RawConfig,
    /// What the file says; see [`read_file`].
    pub file: Option<FileConfig>,
}

impl Config {
    /// Joins the sources and checks the result.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] for a value out of its range, with where it came from.
    pub fn resolve(sources: &Sources) -> Result<Self, ConfigError> {
        let mut origins = Origins::default();
        let (empty, no_file) = (RawConfig::default(), PathBuf::new());
        let (file, path) = sources
            .file
            .as_ref()
            .map_or((&empty, &no_file), |file| (&file.raw, &file.path));
        let file_kind = LayerKind::File(path.clone());
        macro_rules! section {
            ($($section:ident).+: $type:ty) => {
                <$type>::resolve(
                    &[$(stringify!($section)),+].join("."),
                    &[
                        Layer {
                            kind: &LayerKind::Flags,
                            raw: &sources.flags.$($section).+,
                        },
                        Layer {
                            kind: &LayerKind::Environment,
                            raw: &sources.environment.$($section).+,
                        },
                        Layer {
                            kind: &file_kind,
                            raw: &file.$($section).+,
                        },
                    ],
                    &<$type>::default(),
                    &mut origins,
                )
            };
        }
        let defaults = section!(defaults: ModelConfig);
        let mut config = Self {
            server: section!(server: ServerConfig),
            device: section!(device: DeviceConfig),
            scheduler: section!(scheduler: SchedulerConfig),
            policy: PoliciesConfig {
                temporal: section!(policy.temporal: TemporalConfig),
                uncontrolled: section!(policy.uncontrolled: UncontrolledConfig),
                clipper: section!(policy.clipper: ClipperConfig),
                gslice: section!(policy.gslice: GsliceConfig),
                dstack: section!(policy.dstack: DstackConfig),
                fugato: section!(policy.fugato: FugatoConfig),
            },
            model_store: section!(model_store: ModelStoreConfig),
            profile: section!(profile: ProfileConfig),
            runtime: section!(runtime: RuntimeConfig),
            log: section!(log: LogConfig),
            telemetry: section!(telemetry: TelemetryConfig),
            file: sources.file.as_ref().map(|file| file.path.clone()),
            models: BTreeMap::new(),
            sections: file.model.clone(),
            defaults: defaults.clone(),
            origins: Origins::default(),
        };
        for (name, raw) in &file.model {
            let layer = Layer {
                kind: &file_kind,
                raw,
            };
            let prefix = format!("model.{name}");
            let model = ModelConfig::resolve(&prefix, &[layer], &defaults, &mut origins);
            config.models.insert(name.clone(), model);
        }
        if config.model_store.dir.is_none()
            && let Some(dir) = default_store_dir()
        {
            origins.note_default("model_store.dir", &dir);
            config.model_store.dir = Some(dir);
        }
        config.origins = origins;
        config.check()?;
        Ok(config)
    }

    /// A policy with its settings.
    pub fn policy_spec(&self, policy: Policy) -> PolicySpec {
        match policy {
            Policy::Fifo => PolicySpec::Fifo,
            Policy::Edf => PolicySpec::Edf,
            Policy::EdfLegs => PolicySpec::EdfLegs,
            Policy::Uncontrolled => PolicySpec::Uncontrolled {
                lanes: self.policy.uncontrolled.lanes,
                share: self.policy.uncontrolled.share.map(Share),
            },
            Policy::Temporal => PolicySpec::Temporal {
                cycle: self.policy.temporal.cycle.map(Span::nanos),
            },
            Policy::Clipper => PolicySpec::Clipper {
                target_percent: self.policy.clipper.target_percent,
            },
            Policy::Nexus => PolicySpec::Nexus,
            Policy::Gslice => PolicySpec::Gslice {
                lanes: self.policy.gslice.lanes,
                target_percent: self.policy.gslice.target_percent,
            },
            Policy::MaxThroughput => PolicySpec::MaxThroughput,
            Policy::MaxMin => PolicySpec::MaxMin,
            Policy::Dstack => PolicySpec::Dstack {
                point: self.policy.dstack.point,
                margin: Share(self.policy.dstack.margin),
                dynamic: self.policy.dstack.dynamic,
            },
            Policy::Fugato => {
                let FugatoConfig {
                    preempt,
                    leg_shares,
                    widen,
                    dequeue,
                    work_interval,
                    best_batch,
                    give_up,
                    niceness,
                    unsplit,
                    leave_room,
                } = self.policy.fugato;
                PolicySpec::Fugato(FugatoParts {
                    preempt,
                    leg_shares,
                    widen,
                    dequeue,
                    work_interval,
                    best_batch,
                    give_up,
                    niceness,
                    unsplit,
                    leave_room,
                })
            }
        }
    }

    /// Whether this process is to be a supervisor, where an NVIDIA device is likely to be used
    /// or not.
    pub fn supervised(&self, gpu_likely: bool) -> bool {
        match self.server.supervise {
            Supervise::On => true,
            Supervise::Auto => gpu_likely,
            Supervise::Off => false,
        }
    }

    /// Checks that the server may listen on `address`, which it was handed.
    ///
    /// # Errors
    /// [`ConfigError::Open`]: others reach it, and it lets everybody in.
    pub fn check_handed(&self, address: IpAddr) -> Result<(), ConfigError> {
        self.check_closed(address, || Origin::Handed)
    }

    /// The settings of the model `name`.
    pub fn model(&self, name: &str) -> &ModelConfig {
        self.models.get(name).unwrap_or(&self.defaults)
    }

    /// The settings of the model `name`, whose own configuration asks for `asked`: weaker
    /// than its section here, stronger than `[defaults]`.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] for a value out of its range, with where it came from.
    pub fn model_with(&self, name: &str, asked: &RawModel) -> Result<ModelConfig, ConfigError> {
        let file_kind = LayerKind::File(self.file.clone().unwrap_or_default());
        let nothing = RawModel::default();
        let section = self.sections.get(name).unwrap_or(&nothing);
        let layers = [(&file_kind, section), (&LayerKind::Model, asked)];
        let layers = layers.map(|(kind, raw)| Layer { kind, raw });
        let prefix = format!("model.{name}");
        let mut origins = Origins::default();
        let model = ModelConfig::resolve(&prefix, &layers, &self.defaults, &mut origins);
        let mut whole = self.clone();
        whole.origins.extend(origins);
        whole.check_model(&prefix, &model)?;
        Ok(model)
    }

    /// Checks that each section for a model is for one of `known`, the names in the
    /// repository: a misspelt one would leave its model without an objective in silence.
    ///
    /// # Errors
    /// [`ConfigError::UnknownModel`], for the first section that is not.
    pub fn check_models(&self, known: &[&str]) -> Result<(), ConfigError> {
        let unknown = self
            .models
            .keys()
            .find(|name| !known.contains(&name.as_str()));
        let Some(name) = unknown else {
            return Ok(());
        };
        let alike = known
            .iter()
            .min_by_key(|known| (read::edit_distance(name, known), **known));
        Err(ConfigError::UnknownModel {
            name: name.clone(),
            path: self.file.clone().unwrap_or_default(),
            nearest: alike.map(|known| (*known).to_owned()),
        })
    }

    /// Checks what types alone do not.
    fn check(&self) -> Result<(), ConfigError> {
        let server = &self.server;
        let ports = [
            ("server.http_port", server.http_port),
            ("server.grpc_port", server.grpc_port),
            ("server.metrics_port", server.metrics_port),
        ];
        for (index, (path, port)) in ports.iter().enumerate() {
            let taken = ports[..index].iter().find(|(_, other)| other == port);
            if let Some((other, _)) = taken.filter(|_| *port != 0) {
                return Err(self.bad(path, port, &format!("another port than {other}'s")));
            }
        }
        let body = server.max_body_bytes;
        // gRPC frames carry their length in 32 bits.
        self.within(
            "server.max_body_bytes",
            body,
            ByteSize(1 << 10),
            ByteSize(u64::from(u32::MAX)),
        )?;
        self.within("server.max_connections", server.max_connections, 1, 65_536)?;
        self.within(
            "server.shared_memory_regions_max",
            server.shared_memory_regions_max,
            1,
            65_536,
        )?;
        let held = server.max_held_bytes;
        self.within(
            "server.max_held_bytes",
            held,
            ByteSize(1 << 10),
            ByteSize(1 << 50),
        )?;
        let poll = server.repository_poll_secs;
        self.within("server.repository_poll_secs", poll, 1, 86_400)?;
        if !server.load_model.is_empty() && server.model_control_mode != ModelControlMode::Explicit
        {
            let found = format!("{:?}", server.load_model);
            let expected = "empty unless server.model_control_mode is `explicit`";
            return Err(self.bad("server.load_model", &found, expected));
        }
        self.check_safety()?;
        let device = &self.device;
        self.within("device.lanes", device.lanes, 1, 64)?;
        self.within("device.niceness", device.niceness, 0, 19)?;
        self.within(
            "device.niceness_urgent",
            device.niceness_urgent,
            0,
            device.niceness,
        )?;
        let spin = device.spin;
        self.within(
            "device.spin",
            spin,
            Span::default(),
            Span::from_millis(1_000),
        )?;
        let (least, most) = (Span::from_millis(100), Span::from_millis(3_600_000));
        self.within("device.gpu_hang_after", device.gpu_hang_after, least, most)?;
        self.within("device.gpu_hang_times", device.gpu_hang_times, 2, 1_000_000)?;
        self.within("device.gpu", device.gpu, 0, 1_023)?;
        let quantile = self.scheduler.admission_quantile;
        self.within("scheduler.admission_quantile", quantile, 0.5, 0.999)?;
        let scheduler = &self.scheduler;
        let lead = scheduler.commit_lead;
        self.within(
            "scheduler.commit_lead",
            lead,
            Span::default(),
            Span::from_millis(1_000),
        )?;
        let count = scheduler.queue_count_max;
        self.within("scheduler.queue_count_max", count, 1, 1 << 24)?;
        let bytes = scheduler.queue_bytes_max;
        self.within(
            "scheduler.queue_bytes_max",
            bytes,
            ByteSize(1),
            ByteSize(1 << 44),
        )?;
        self.check_policies()?;
        let legs = self.telemetry.timeline_legs;
        self.within("telemetry.timeline_legs", legs, 1, 1 << 20)?;
        let share = self.profile.online_share;
        self.within("profile.online_share", share, 0.0, 0.5)?;
        self.check_model("defaults", &self.defaults)?;
        for (name, model) in &self.models {
            self.check_model(&format!("model.{name}"), model)?;
        }
        Ok(())
    }

    fn check_policies(&self) -> Result<(), ConfigError> {
        let policy = &self.policy;
        self.within(
            "policy.uncontrolled.lanes",
            policy.uncontrolled.lanes,
            1,
            64,
        )?;
        if let Some(share) = policy.uncontrolled.share {
            self.within("policy.uncontrolled.share", share, 1, ATOMS_MAX)?;
        }
        if let Some(cycle) = policy.temporal.cycle {
            let (least, most) = SLO_RANGE;
            self.within("policy.temporal.cycle", cycle, least, most)?;
        }
        self.within("policy.dstack.margin", policy.dstack.margin, 0, ATOMS_MAX)?;
        let percent = policy.clipper.target_percent;
        self.within("policy.clipper.target_percent", percent, 1, 100)?;
        let percent = policy.gslice.target_percent;
        self.within("policy.gslice.target_percent", percent, 1, 100)?;
        self.within("policy.gslice.lanes", policy.gslice.lanes, 1, 64)
    }

    /// Checks the limits on clients, and that a server that can be reached from outside is
    /// closed to strangers.
    fn check_safety(&self) -> Result<(), ConfigError> {
        let server = &self.server;
        let (headers, least, most) = (server.max_header_bytes, ByteSize::kib(1), ByteSize::mib(1));
        self.within("server.max_header_bytes", headers, least, most)?;
        for (path, limit) in [
            ("server.header_timeout", server.header_timeout),
            ("server.stall_timeout", server.stall_timeout),
            ("server.idle_timeout", server.idle_timeout),
            ("server.ping_interval", server.ping_interval),
        ] {
            let (least, most) = (Span::from_millis(1), Span::from_millis(86_400_000));
            self.within(path, limit, least, most)?;
        }
        let files = [
            ("server.tls_cert", &server.tls_cert),
            ("server.tls_key", &server.tls_key),
        ];
        if let [(missing, None), (given, Some(_))] | [(given, Some(_)), (missing, None)] = files {
            return Err(ConfigError::HalfSet { given, missing });
        }
        self.check_closed(server.host, || self.origins.origin("server.host"))
    }

    /// Checks that nobody is let in from other machines by mistake.
    fn check_closed(
        &self,
        host: IpAddr,
        origin: impl FnOnce() -> Origin,
    ) -> Result<(), ConfigError> {
        let server = &self.server;
        let lacks_tls = server.tls_cert.is_none();
        let lacks_token = server.auth_token_file.is_none();
        if host.is_loopback() || server.insecure || !(lacks_tls || lacks_token) {
            return Ok(());
        }
        Err(ConfigError::Open {
            host,
            origin: origin(),
            lacks_tls,
            lacks_token,
        })
    }

    fn check_model(&self, section: &str, model: &ModelConfig) -> Result<(), ConfigError> {
        let path = |key: &str| {
            let path = format!("{section}.{key}");
            // What a model inherits is at fault where it was set.
            match self.origins.iter().any(|(known, _)| known == path) {
                true => path,
                false => format!("defaults.{key}"),
            }
        };
        let (least, most) = WEIGHT_RANGE;
        self.within(&path("weight"), model.weight, least, most)?;
        self.within(&path("max_batch_size"), model.max_batch_size, 1, 65_536)?;
        self.within(&path("slots"), model.slots, 1, 64)?;
        self.within(&path("queue_count_max"), model.queue_count_max, 1, 1 << 20)?;
        let bytes_max = ByteSize(1 << 40);
        self.within(
            &path("queue_bytes_max"),
            model.queue_bytes_max,
            ByteSize(1),
            bytes_max,
        )?;
        self.within(&path("instances"), model.instances, 1, 64)?;
        let preferred = &model.preferred_batch_sizes;
        let rising = preferred.windows(2).all(|pair| pair[0] < pair[1]);
        let fits = |size: &u32| (1..=model.max_batch_size).contains(size);
        if !rising || !preferred.iter().all(fits) {
            let expected = format!(
                "rising sizes from 1 to max_batch_size ({})",
                model.max_batch_size
            );
            let found = format!("{preferred:?}");
            return Err(self.bad(&path("preferred_batch_sizes"), &found, &expected));
        }
        if let Some(slo) = model.slo {
            let (least, most) = SLO_RANGE;
            self.within(&path("slo"), slo, least, most)?;
        }
        if let Some(legs) = model.legs.filter(|&legs| legs > Span::default()) {
            // Below that, dispatching a leg costs more than a tenth of it.
            let (least, most) = (Span::from_micros(100), Span::from_millis(10_000));
            self.within(&path("legs"), legs, least, most)?;
        }
        Ok(())
    }

    fn within<T: PartialOrd + std::fmt::Display + Copy>(
        &self,
        path: &str,
        value: T,
        low: T,
        high: T,
    ) -> Result<(), ConfigError> {
        // A number that compares with nothing (NaN) is out of range too.
        if value >= low && value <= high {
            return Ok(());
        }
        Err(self.bad(path, &value, &format!("{low} to {high}")))
    }

    fn bad(&self, path: &str, found: &impl std::fmt::Display, expected: &str) -> ConfigError {
        ConfigError::BadValue {
            key: path.to_owned(),
            origin: self.origins.origin(path),
            found: found.to_string(),
            expected: expected.to_owned(),
        }
    }
}

/// `fugato/models` in the user's cache folder, as the XDG base directory specification
/// names it; `None` where the environment names no home.
fn default_store_dir() -> Option<PathBuf> {
    let absolute = |name: &str| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("fugato").join("models"))
}

#[cfg(test)]
pub(crate) mod tests;
