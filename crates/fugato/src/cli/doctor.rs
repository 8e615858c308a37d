//! `fugato doctor`.

mod machine;
#[cfg(feature = "cuda")]
mod operators;
#[cfg(all(test, feature = "cuda"))]
mod tests;

use super::{Outcome, ReportFormat, SettingArgs};
#[cfg(feature = "cuda")]
use crate::accelerator::CudaParts;
use crate::accelerator::{self, Accelerator, NoCuda};
#[cfg(feature = "cuda")]
use crate::config::ModelDevice;
use crate::config::{Config, Cores, DeviceKind};
use crate::modelconfig;
#[cfg(feature = "cuda")]
use crate::plan_lanes::{self, Machine};
use crate::repository::{self, ModelEntry};
use crate::runtime::{self, Surroundings};
use fugato_device::Runtime;
use serde::Serialize;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  fugato doctor
  fugato doctor --model-repository models --format json

Exit code 1: `fugato serve` with the same flags would not start.";

/// What `fugato doctor` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ReportFormat,
    /// The flags that `fugato serve` would get.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// As wanted.
    Ok,
    /// It works, with something else than was wanted; `instead` says what.
    Degraded,
    /// The server would not start.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    /// What will be used instead, or what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    instead: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            instead: None,
        }
    }

    fn degraded(name: &'static str, found: impl Into<String>, instead: impl Into<String>) -> Self {
        Self {
            status: Status::Degraded,
            instead: Some(instead.into()),
            ..Self::ok(name, found)
        }
    }

    fn failed(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            status: Status::Failed,
            instead: Some(hint.into()),
            ..Self::ok(name, found)
        }
    }
}

/// Looks at the machine and prints what was found.
///
/// # Errors
/// Where the configuration cannot be resolved or standard output written.
pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let config = args.settings.resolve()?;
    let checks = examine(&config);
    let text = match args.format {
        ReportFormat::Table => to_table(&checks),
        ReportFormat::Json => to_json(&checks)?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    let failed = checks.iter().any(|check| check.status == Status::Failed);
    Ok(match failed {
        true => Outcome::CheckFailed,
        false => Outcome::Success,
    })
}

fn examine(config: &Config) -> Vec<Check> {
    let Devices {
        device,
        gpu,
        plan_lanes,
        library,
    } = devices(config);
    let mut checks = vec![onnxruntime(config, library.as_deref()), device, gpu];
    checks.extend(plan_lanes);
    checks.extend([cores(config), memory(), model_store(config)]);
    let ports = [
        ("http port", config.server.http_port),
        ("grpc port", config.server.grpc_port),
        ("metrics port", config.server.metrics_port),
    ];
    checks.extend(ports.map(|(name, port)| {
        let address = SocketAddr::new(config.server.host, port);
        self::port(name, address)
    }));
    let repository = config.server.model_repository.as_deref();
    checks.extend(repository.map(|path| model_repository(path, config)));
    #[cfg(feature = "cuda")]
    if library.is_some() {
        checks.extend(repository.and_then(|path| operators::check(path, config)));
    }
    checks
}

fn onnxruntime(config: &Config, of_gpu: Option<&Path>) -> Check {
    const NAME: &str = "onnxruntime";
    let given = of_gpu.or(config.runtime.onnxruntime.as_deref());
    let library = match runtime::find(given, &Surroundings::of_process()) {
        Ok(library) => library,
        Err(error) => {
            return Check::failed(
                NAME,
                format!("not found in {} places", error.looked_at.len()),
                "run `make runtime`, or name the library with `--onnxruntime`",
            );
        }
    };
    let path = library.path.display();
    match Runtime::load(&library.path) {
        Ok(loaded) => Check::ok(
            NAME,
            format!("{} at {path} ({})", loaded.version(), library.place),
        ),
        Err(error) => Check::failed(
            NAME,
            format!("{path} ({}) cannot be used: {error}", library.place),
            "run `make clean-runtime runtime`, or name another with `--onnxruntime`",
        ),
    }
}

/// What was found of devices.
struct Devices {
    /// The device that models run on.
    device: Check,
    /// The NVIDIA device that was looked for.
    gpu: Check,
    /// Whether groups of plans run side by side on it.
    plan_lanes: Option<Check>,
    /// The ONNX Runtime that it needs.
    library: Option<PathBuf>,
}

fn devices(config: &Config) -> Devices {
    let without = |device, gpu| Devices {
        device,
        gpu,
        plan_lanes: None,
        library: None,
    };
    let name = machine::cpu_name().unwrap_or_else(|| "a CPU of unknown name".to_owned());
    let cpu = Check::ok(DEVICE, format!("cpu: {name}"));
    if config.device.kind == DeviceKind::Cpu {
        return without(cpu, Check::ok(GPU, "not looked for, as configured"));
    }
    let missing = match accelerator::look(config) {
        #[cfg(feature = "cuda")]
        Ok(Accelerator::Cuda(parts)) => {
            let refused = of_refused(config.defaults.device);
            let device = Check::ok(DEVICE, format!("cuda: {}; {refused}", parts.found.name));
            return Devices {
                device,
                gpu: gpu(&parts),
                plan_lanes: plan_lanes(config, &parts),
                library: Some(parts.runtime.path.clone()),
            };
        }
        Ok(Accelerator::Cpu) => return without(cpu, Check::ok(GPU, "none")),
        Err(missing) => missing,
    };
    let (device, gpu) = unusable(config.device.kind, &missing, cpu);
    without(device, gpu)
}

/// What is said of the device and of the NVIDIA device where that cannot be used.
fn unusable(wanted: DeviceKind, missing: &NoCuda, cpu: Check) -> (Check, Check) {
    let (reason, hint) = (missing.reason(), missing.hint());
    if wanted == DeviceKind::Cuda {
        let hint = hint.unwrap_or_else(|| "use `--device auto` or `--device cpu`".to_owned());
        let device = Check::failed(DEVICE, "cuda: it cannot be used", "see `gpu`");
        return (device, Check::failed(GPU, reason, hint));
    }
    let gpu = match missing.is_repairable() {
        true => {
            let hint = hint.map_or(String::new(), |hint| format!("; to use it, {hint}"));
            Check::degraded(GPU, reason, format!("models run on the CPU{hint}"))
        }
        false => Check::ok(GPU, format!("none: {reason}")),
    };
    (cpu, gpu)
}

/// Whether groups of plans run side by side; `None` where the runtime cannot be loaded, which
/// another check says.
#[cfg(feature = "cuda")]
fn plan_lanes(config: &Config, parts: &CudaParts) -> Option<Check> {
    let runtime = Runtime::load(&parts.runtime.path).ok()?;
    let runtime = Some(runtime.profile_key());
    let machine = Machine::of(&parts.found, runtime, parts.libraries.versions());
    let store = config.model_store.dir.as_deref();
    let decision = plan_lanes::decide(config.device.plan_lanes, &machine, store);
    let found = match decision.on {
        true => "groups at once run side by side",
        false => "groups at once run one after the other",
    };
    Some(Check::ok(
        "plan lanes",
        format!("{found}: {}", decision.why),
    ))
}

/// The name of the check of the device that models run on.
const DEVICE: &str = "device";

/// The name of the check of an NVIDIA device.
const GPU: &str = "gpu";

/// What becomes of models that an NVIDIA device refuses; only loading them tells which.
#[cfg(feature = "cuda")]
fn of_refused(default: ModelDevice) -> &'static str {
    match default {
        ModelDevice::Server => {
            "a model that it refuses is not ready, unless `device` of its settings is `auto`"
        }
        ModelDevice::Auto => "a model that it refuses runs on the CPU",
        ModelDevice::Cpu => {
            "models run on the CPU, unless `device` of their settings says otherwise"
        }
    }
}

/// What an NVIDIA device that can be used is like.
#[cfg(feature = "cuda")]
fn gpu(parts: &CudaParts) -> Check {
    let libraries = parts.libraries.loaded.len();
    let versions = parts.libraries.versions();
    let versions = versions.map_or_else(String::new, |versions| format!(" ({versions})"));
    let found = format!(
        "{}; ONNX Runtime at {} ({}), {libraries} libraries of CUDA{versions}",
        parts.found,
        parts.runtime.path.display(),
        parts.runtime.place
    );
    let refused = parts.libraries.refused.iter().map(ToString::to_string);
    let found = std::iter::once(found).chain(refused);
    let found = found.collect::<Vec<_>>().join("; ");
    match parts.found.undivided() {
        None => Check::ok(GPU, found),
        Some(why) => Check::degraded(
            GPU,
            format!("{found}; {why}"),
            "models share it in time only",
        ),
    }
}

fn cores(config: &Config) -> Check {
    let allowed = machine::allowed_cores();
    let wanted = match (&config.device.cores, &allowed) {
        (Cores::These(wanted), Ok(Cores::These(allowed))) => {
            let missing = wanted.iter().find(|core| !allowed.contains(core));
            if let Some(missing) = missing {
                return Check::failed(
                    "cores",
                    format!("core {missing} of `device.cores` is not allowed to this process"),
                    format!("name cores of {}", Cores::These(allowed.clone())),
                );
            }
            Cores::These(wanted.clone())
        }
        (_, Ok(allowed)) => allowed.clone(),
        (wanted, Err(error)) => {
            let found = format!("the cores of this process cannot be read: {error}");
            return Check::failed("cores", found, format!("`device.cores` is {wanted}"));
        }
    };
    let count = match &wanted {
        Cores::These(cores) => cores.len(),
        Cores::Auto => 0,
    };
    match machine::cpu_quota() {
        Some(quota) if quota < count as f64 => Check::degraded(
            "cores",
            format!("{wanted} ({count}), of whose time a control group allows {quota:.1} cores'"),
            format!("{count} lanes' worth of partitions will share that quota"),
        ),
        _ => Check::ok("cores", format!("{wanted} ({count})")),
    }
}

fn memory() -> Check {
    match machine::memory() {
        Some(memory) => Check::ok("memory", memory.to_string()),
        None => Check::degraded(
            "memory",
            "/proc/meminfo cannot be read",
            "models are loaded without knowing whether they fit",
        ),
    }
}

fn model_store(config: &Config) -> Check {
    const NAME: &str = "model store";
    let Some(dir) = &config.model_store.dir else {
        let found = "no folder: neither XDG_CACHE_HOME nor HOME is set";
        return Check::failed(NAME, found, "name one with `--model-store`");
    };
    match machine::probe_folder(dir) {
        Ok(()) => Check::ok(NAME, format!("{} can be written", dir.display())),
        Err(error) => Check::failed(
            NAME,
            format!("{} cannot be written: {error}", dir.display()),
            "name another folder with `--model-store`",
        ),
    }
}

fn port(name: &'static str, address: SocketAddr) -> Check {
    match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => Check::ok(name, format!("{address}: any free port")),
        Ok(_) => Check::ok(name, format!("{address} is free")),
        Err(error) => Check::failed(
            name,
            format!("{address} cannot be taken: {error}"),
            "choose another port; 0 takes any free one",
        ),
    }
}

/// The files of a model's versions that are served, or why it cannot be, as far as its folder and
/// its own configuration tell.
fn model_files(model: &ModelEntry) -> Result<Vec<PathBuf>, String> {
    let text = |fault: &dyn std::error::Error| fault.to_string();
    let folder = model.folder.as_ref().map_err(|fault| text(&**fault))?;
    let Some(own) = &folder.config else {
        let latest = model.latest().map_err(|fault| text(&*fault))?;
        return Ok(vec![latest]);
    };
    let at_fault = |error: &dyn std::error::Error| format!("{}: {error}", model.name);
    let asked = modelconfig::parse_text(own).map_err(|error| at_fault(&error))?;
    let wanted = modelconfig::interpret(&model.name, &asked).map_err(|error| at_fault(&error))?;
    let chosen = wanted.versions.choose(&folder.versions);
    let file = |version: u64| {
        let file = folder.model_file(version, &wanted.model_file);
        file.map_err(|fault| text(&fault))
    };
    chosen.serve.into_iter().map(file).collect()
}

fn model_repository(path: &Path, config: &Config) -> Check {
    const NAME: &str = "model repository";
    let repository = match repository::scan(path) {
        Ok(repository) => repository,
        Err(error) => {
            let source = error.source.to_string();
            return Check::failed(
                NAME,
                format!("{error}: {source}"),
                "name an existing folder",
            );
        }
    };
    if let Err(error) = config.check_models(&repository.names()) {
        let text = error.to_string();
        let (found, hint) = text.split_once("\n\nhint: ").unwrap_or((&text, ""));
        return Check::failed(NAME, found, hint);
    }
    let faults: Vec<String> = repository
        .models
        .iter()
        .filter_map(|model| model_files(model).err())
        .map(|fault| fault.lines().next().unwrap_or("").to_owned())
        .collect();
    let found = format!("{}: {} models", path.display(), repository.models.len());
    match faults.is_empty() {
        true => Check::ok(NAME, found),
        false => Check::degraded(
            NAME,
            found,
            format!(
                "{} of them will not be ready: {}",
                faults.len(),
                faults.join("; ")
            ),
        ),
    }
}

fn to_table(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Degraded => "degraded",
            Status::Failed => "FAILED",
        };
        text.push_str(&format!("{:<17} {status:<9} {}\n", check.name, check.found));
        if let Some(instead) = &check.instead {
            text.push_str(&format!("{:<17} {:<9} -> {instead}\n", "", ""));
        }
    }
    text
}

fn to_json(checks: &[Check]) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        schema: u32,
        version: &'static str,
        checks: &'a [Check],
    }
    serde_json::to_string_pretty(&Report {
        schema: 1,
        version: env!("CARGO_PKG_VERSION"),
        checks,
    })
    .map(|text| text + "\n")
}
