//! The flags that set configuration values, and the sources joined with them.

use crate::config::{
    Config, DeviceKind, LogFormat, ModelControlMode, Policy, RawConfig, Sources, Supervise,
    from_environment, read_file,
};
use clap::ValueHint;
use std::net::IpAddr;
use std::path::PathBuf;

/// Flags that set what the configuration file and `FUGATO_*` variables can set too. A flag
/// is stronger than a variable, a variable than the file.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Settings")]
pub struct SettingArgs {
    /// Configuration file; docs/reference/config.md lists its keys
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(env = "FUGATO_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,

    /// Folder of models, each at NAME/VERSION/model.onnx
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model_repository: Option<PathBuf>,

    /// Who loads and unloads models: nobody after the start, the server when it sees
    /// changes in the repository, or clients [default: none]
    #[arg(long, value_name = "MODE")]
    pub model_control_mode: Option<ModelControlMode>,

    /// Mode `poll`: seconds between two looks at the repository [default: 15]
    #[arg(long, value_name = "SECONDS")]
    pub repository_poll_secs: Option<u32>,

    /// Mode `explicit`: load this model at the start (may be repeated); `*` loads all
    #[arg(long, value_name = "NAME")]
    pub load_model: Vec<String>,

    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", value_hint = ValueHint::Hostname)]
    pub host: Option<IpAddr>,

    /// Port of HTTP, 0 for any free one [default: 8000]
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,

    /// Port of gRPC, 0 for any free one [default: 8001]
    #[arg(long, value_name = "PORT")]
    pub grpc_port: Option<u16>,

    /// Port of Prometheus metrics, 0 for any free one [default: 8002]
    #[arg(long, value_name = "PORT")]
    pub metrics_port: Option<u16>,

    /// Certificate to speak TLS with on every port, PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub tls_key: Option<PathBuf>,

    /// File of the tokens that clients must have, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub auth_token_file: Option<PathBuf>,

    /// Serve other machines without TLS and tokens
    #[arg(long)]
    pub insecure: bool,

    /// Hold the listening sockets in a process of their own, and start another server where
    /// one ends abnormally [default: auto, which is on with an NVIDIA device]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "on")]
    pub supervise: Option<Supervise>,

    /// Scheduling policy [default: edf]
    #[arg(long, value_name = "NAME")]
    pub policy: Option<Policy>,

    /// Device that runs the models [default: auto]
    #[arg(long, value_name = "KIND")]
    pub device: Option<DeviceKind>,

    /// Folder of optimised models and shared weights [default: in the user's cache]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model_store: Option<PathBuf>,

    /// Profile of the models, as `fugato profile` writes it [default: they are measured
    /// while serving]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub profile: Option<PathBuf>,

    /// Shared library of ONNX Runtime, or its folder [default: searched for]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub onnxruntime: Option<PathBuf>,

    /// File to record the scheduler's inputs into, for `fugato replay`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub record: Option<PathBuf>,

    /// File that keeps a trace of the legs that ran last, for Perfetto
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub timeline: Option<PathBuf>,

    /// File to write once serving: JSON with the addresses of http, grpc and metrics
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ready_file: Option<PathBuf>,

    /// Form of log lines [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Which log lines: a level or directives [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl SettingArgs {
    /// Reads the environment and the file, and joins them with the flags.
    ///
    /// # Errors
    /// Where a source cannot be read or a value is wrong; the message says which and where.
    pub fn resolve(&self) -> anyhow::Result<Config> {
        let file = match &self.config {
            Some(path) => Some(read_file(path)?),
            None => None,
        };
        let environment = from_environment(|name| std::env::var_os(name))?;
        Ok(Config::resolve(&Sources {
            flags: self.raw(),
            environment,
            file,
        })?)
    }

    /// The flags as a source of the configuration.
    fn raw(&self) -> RawConfig {
        let flags = self.clone();
        let mut raw = RawConfig::default();
        raw.server.host = flags.host;
        raw.server.http_port = flags.http_port;
        raw.server.grpc_port = flags.grpc_port;
        raw.server.metrics_port = flags.metrics_port;
        raw.server.tls_cert = flags.tls_cert;
        raw.server.tls_key = flags.tls_key;
        raw.server.auth_token_file = flags.auth_token_file;
        raw.server.insecure = flags.insecure.then_some(true);
        raw.server.model_repository = flags.model_repository;
        raw.server.model_control_mode = flags.model_control_mode;
        raw.server.repository_poll_secs = flags.repository_poll_secs;
        raw.server.load_model = (!flags.load_model.is_empty()).then_some(flags.load_model);
        raw.server.supervise = flags.supervise;
        raw.server.record = flags.record;
        raw.server.ready_file = flags.ready_file;
        raw.scheduler.policy = flags.policy;
        raw.telemetry.timeline = flags.timeline;
        raw.device.kind = flags.device;
        raw.model_store.dir = flags.model_store;
        raw.profile.file = flags.profile;
        raw.runtime.onnxruntime = flags.onnxruntime;
        raw.log.format = flags.log_format;
        raw.log.level = flags.log_level;
        raw
    }
}
