//! From the message to what it asks, field by field.

use super::wanted::{
    BatchLimit, DeclaredTensor, DynamicBatching, Notice, QueuePolicy, TimeoutAction, Wanted,
    WarmUp, WarmUpData, WarmUpInput,
};
use super::{BACKEND, ModelConfigError, element_type, fields};
use crate::api::PLATFORM;
use crate::config::{ModelDevice, RawModel, Span};
use crate::repository::{MODEL_FILE, VersionPolicy, check_relative};
use crate::server::proto;
use fugato_core::Nanos;
use fugato_device::ElementType;
use proto::model_config::SchedulingChoice;
use proto::model_input::Format;
use proto::model_instance_group::Kind;
use proto::model_version_policy::PolicyChoice;
use proto::model_warmup::input::InputDataType;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most items of a batch: the bound of the setting `max_batch_size`.
const BATCH_SIZE_MAX: u32 = 65_536;

/// Most executions at once: the bound of the setting `instances`.
const INSTANCES_MAX: u16 = 64;

/// Most runs of one warm-up sample: a model is not ready before they are done.
const WARM_UP_RUNS_MAX: u32 = 1_000;

/// Most requests waiting: the bound of the setting `queue_count_max`.
const QUEUE_COUNT_MAX: u32 = 1 << 20;

/// Most priority levels. Far over what is told apart by anyone; whoever goes through the
/// levels of a configuration must come to an end.
const PRIORITY_LEVELS_MAX: u64 = 1 << 16;

/// The start of the keys of `parameters` that are Fugato's.
const OWN_PREFIX: &str = "fugato.";

/// Settings of `[model.NAME]` that have a field of their own in the configuration.
const OWN_FIELDS: [(&str, &str); 4] = [
    ("max_batch_size", "max_batch_size"),
    ("instances", "instance_group[].count"),
    (
        "preferred_batch_sizes",
        "dynamic_batching.preferred_batch_size",
    ),
    (
        "max_queue_delay",
        "dynamic_batching.max_queue_delay_microseconds",
    ),
];

/// Turns the configuration of the model in folder `model` into what it asks.
///
/// # Errors
/// The name of another model, a field that is refused (see [`super::treatments`]), or a
/// value that a field cannot have.
pub fn interpret(model: &str, config: &proto::ModelConfig) -> Result<Wanted, ModelConfigError> {
    if !config.name.is_empty() && config.name != model {
        return Err(ModelConfigError::Name {
            found: config.name.clone(),
            expected: model.to_owned(),
        });
    }
    let reader = Reader { model };
    // Before all else, so that an ensemble is refused for being one, not for its platform.
    let mut notices = fields::scan(model, config)?;
    reader.engine(config)?;
    let batch = reader.batch(config)?;
    let inputs = reader.inputs(config)?;
    let outputs = reader.outputs(config)?;
    let dynamic_batching = match &config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(asked)) => {
            Some(reader.dynamic_batching(asked, batch)?)
        }
        // The other two were refused.
        Some(SchedulingChoice::SequenceBatching(_) | SchedulingChoice::EnsembleScheduling(_))
        | None => None,
    };
    let mut cpu_notices = Vec::new();
    let instances = reader.instances(&config.instance_group, &mut cpu_notices)?;
    let mut settings = reader.settings(&config.parameters, &mut notices)?;
    if is_for_cpu(&config.instance_group) {
        settings.device.get_or_insert(ModelDevice::Cpu);
    }
    if let BatchLimit::AtMost(size) = batch {
        settings.max_batch_size = Some(size);
    }
    settings.instances = instances;
    if let Some(batching) = &dynamic_batching {
        settings.preferred_batch_sizes = Some(batching.preferred_sizes.clone());
        settings.max_queue_delay = Some(Span(batching.queue_delay_max));
    }
    Ok(Wanted {
        model: model.to_owned(),
        batch,
        inputs,
        outputs,
        dynamic_batching,
        instances,
        versions: reader.versions(config.version_policy.as_ref())?,
        warm_ups: reader.warm_ups(&config.model_warmup, batch, &mut notices)?,
        model_file: reader.model_file(&config.default_model_filename)?,
        settings,
        notices,
        cpu_notices,
    })
}

/// Whether all groups that run anything are for the CPU. Where some are for another device the
/// model runs there alone: it is on one device at a time.
fn is_for_cpu(groups: &[proto::ModelInstanceGroup]) -> bool {
    let mut running = groups.iter().filter(|group| !group.passive).peekable();
    running.peek().is_some() && running.all(|group| group.kind() == Kind::Cpu)
}

/// Reads the fields of one model's configuration.
struct Reader<'a> {
    model: &'a str,
}

impl Reader<'_> {
    fn bad(
        &self,
        path: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> ModelConfigError {
        ModelConfigError::Value {
            model: self.model.to_owned(),
            path: path.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    /// Platform, backend and runtime: ONNX Runtime, or left open.
    fn engine(&self, config: &proto::ModelConfig) -> Result<(), ModelConfigError> {
        let only = [
            ("platform", &config.platform, PLATFORM),
            ("backend", &config.backend, BACKEND),
            ("runtime", &config.runtime, "libtriton_onnxruntime.so"),
        ];
        for (path, found, expected) in only {
            if !found.is_empty() && found != expected {
                let expected = format!("`{expected}` or nothing: Fugato runs ONNX models only");
                return Err(self.bad(path, format!("`{found}`"), expected));
            }
        }
        Ok(())
    }

    fn batch(&self, config: &proto::ModelConfig) -> Result<BatchLimit, ModelConfigError> {
        let size = config.max_batch_size;
        match u32::try_from(size) {
            Ok(0) if config.input.is_empty() || config.output.is_empty() => Ok(BatchLimit::Open),
            Ok(0) => Ok(BatchLimit::NoBatchDimension),
            Ok(size) if size <= BATCH_SIZE_MAX => Ok(BatchLimit::AtMost(size)),
            Ok(_) | Err(_) => Err(self.bad(
                "max_batch_size",
                size.to_string(),
                format!("0 to {BATCH_SIZE_MAX}"),
            )),
        }
    }

    fn inputs(&self, config: &proto::ModelConfig) -> Result<Vec<DeclaredTensor>, ModelConfigError> {
        let mut declared: Vec<DeclaredTensor> = Vec::new();
        for (index, input) in config.input.iter().enumerate() {
            let path = format!("input[{index}]");
            let tensor =
                self.tensor(&path, &input.name, input.data_type, &input.dims, &declared)?;
            match Format::try_from(input.format) {
                Ok(Format::None) => {}
                // Names for the dimensions of a picture; nothing is converted.
                Ok(Format::Nhwc | Format::Nchw) if input.dims.len() == 3 => {}
                Ok(Format::Nhwc | Format::Nchw) => {
                    let found = format!("of {} dimensions", input.dims.len());
                    let expected = "of 3 for this format";
                    return Err(self.bad(format!("{path}.dims"), found, expected));
                }
                Err(_) => return Err(self.unknown_value(format!("{path}.format"), input.format)),
            }
            declared.push(tensor);
        }
        Ok(declared)
    }

    fn outputs(
        &self,
        config: &proto::ModelConfig,
    ) -> Result<Vec<DeclaredTensor>, ModelConfigError> {
        let mut declared: Vec<DeclaredTensor> = Vec::new();
        for (index, output) in config.output.iter().enumerate() {
            let path = format!("output[{index}]");
            let (element, dims) = (output.data_type, &output.dims);
            let mut tensor = self.tensor(&path, &output.name, element, dims, &declared)?;
            if !output.label_filename.is_empty() {
                let path = format!("{path}.label_filename");
                tensor.label_file = Some(self.relative_file(&path, &output.label_filename)?);
            }
            declared.push(tensor);
        }
        Ok(declared)
    }

    fn tensor(
        &self,
        path: &str,
        name: &str,
        data_type: i32,
        dims: &[i64],
        before: &[DeclaredTensor],
    ) -> Result<DeclaredTensor, ModelConfigError> {
        let name_path = || format!("{path}.name");
        if name.is_empty() {
            return Err(self.bad(name_path(), "empty", "the name of a tensor"));
        }
        if before.iter().any(|tensor| tensor.name == name) {
            let found = format!("`{name}`, which is declared twice");
            return Err(self.bad(name_path(), found, "each tensor once"));
        }
        let element = match data_type {
            0 => None,
            number => Some(self.element(&format!("{path}.data_type"), number)?),
        };
        let mut sizes = Vec::with_capacity(dims.len());
        for dim in dims {
            sizes.push(match dim {
                -1 => None,
                1.. => dim.checked_abs().map(i64::unsigned_abs),
                _ => {
                    let expected = "-1 (varies) or at least 1 in every dimension";
                    return Err(self.bad(format!("{path}.dims"), format!("{dims:?}"), expected));
                }
            });
        }
        Ok(DeclaredTensor {
            name: name.to_owned(),
            element,
            dims: sizes,
            label_file: None,
        })
    }

    fn element(&self, path: &str, number: i32) -> Result<ElementType, ModelConfigError> {
        element_type(number).ok_or_else(|| self.unknown_value(path, number))
    }

    /// An enum's number that the schema does not have.
    fn unknown_value(&self, path: impl Into<String>, number: i32) -> ModelConfigError {
        self.bad(path, number.to_string(), "one of the schema's values")
    }

    fn dynamic_batching(
        &self,
        asked: &proto::ModelDynamicBatching,
        batch: BatchLimit,
    ) -> Result<DynamicBatching, ModelConfigError> {
        let levels = asked.priority_levels;
        let default_level = asked.default_priority_level;
        let path = |rest: &str| format!("dynamic_batching.{rest}");
        if levels > PRIORITY_LEVELS_MAX {
            return Err(self.bad(
                path("priority_levels"),
                levels.to_string(),
                format!("0 to {PRIORITY_LEVELS_MAX}"),
            ));
        }
        if levels > 0 && !(1..=levels).contains(&default_level) {
            return Err(self.bad(
                path("default_priority_level"),
                default_level.to_string(),
                format!("1 to priority_levels ({levels})"),
            ));
        }
        let default_policy = self.queue_policy(
            &path("default_queue_policy"),
            asked.default_queue_policy.as_ref(),
        )?;
        let mut policies = BTreeMap::new();
        for (level, policy) in &asked.priority_queue_policy {
            let path = path(&format!("priority_queue_policy[{level}]"));
            if !(1..=levels).contains(level) {
                let found = format!("for level {level}");
                let expected = format!("for a level from 1 to priority_levels ({levels})");
                return Err(self.bad(path, found, expected));
            }
            policies.insert(*level, self.queue_policy(&path, Some(policy))?);
        }
        let batching = DynamicBatching {
            preferred_sizes: self.preferred_sizes(&asked.preferred_batch_size, batch)?,
            queue_delay_max: self.micros(
                &path("max_queue_delay_microseconds"),
                asked.max_queue_delay_microseconds,
            )?,
            priority_levels: levels,
            default_priority_level: if levels == 0 { 0 } else { default_level },
            default_policy,
            policies,
        };
        Ok(batching)
    }

    fn preferred_sizes(
        &self,
        asked: &[i32],
        batch: BatchLimit,
    ) -> Result<Vec<u32>, ModelConfigError> {
        let most = match batch {
            BatchLimit::AtMost(size) => size,
            BatchLimit::NoBatchDimension => 1,
            BatchLimit::Open => BATCH_SIZE_MAX,
        };
        let mut sizes = Vec::with_capacity(asked.len());
        for size in asked {
            let fits = u32::try_from(*size)
                .ok()
                .filter(|size| (1..=most).contains(size));
            let Some(size) = fits else {
                return Err(self.bad(
                    "dynamic_batching.preferred_batch_size",
                    format!("{asked:?}"),
                    format!("sizes from 1 to max_batch_size ({most})"),
                ));
            };
            sizes.push(size);
        }
        sizes.sort_unstable();
        sizes.dedup();
        Ok(sizes)
    }

    fn queue_policy(
        &self,
        path: &str,
        asked: Option<&proto::ModelQueuePolicy>,
    ) -> Result<QueuePolicy, ModelConfigError> {
        use proto::model_queue_policy::TimeoutAction as Asked;
        let Some(asked) = asked else {
            return Ok(QueuePolicy::default());
        };
        let timeout_action = match Asked::try_from(asked.timeout_action) {
            Ok(Asked::Reject) => TimeoutAction::Reject,
            Ok(Asked::Delay) => TimeoutAction::Delay,
            Err(_) => {
                let path = format!("{path}.timeout_action");
                return Err(self.unknown_value(path, asked.timeout_action));
            }
        };
        if asked.max_queue_size > QUEUE_COUNT_MAX {
            return Err(self.bad(
                format!("{path}.max_queue_size"),
                asked.max_queue_size.to_string(),
                format!("0 (the model's own limit) to {QUEUE_COUNT_MAX}"),
            ));
        }
        let timeout = self.micros(
            &format!("{path}.default_timeout_microseconds"),
            asked.default_timeout_microseconds,
        )?;
        Ok(QueuePolicy {
            timeout_action,
            default_timeout: Some(timeout).filter(|timeout| timeout.as_nanos() > 0),
            allow_timeout_override: asked.allow_timeout_override,
            queue_size_max: Some(asked.max_queue_size).filter(|size| *size > 0),
        })
    }

    fn micros(&self, path: &str, micros: u64) -> Result<Nanos, ModelConfigError> {
        let nanos = micros.checked_mul(1_000).map(Nanos::new);
        nanos.ok_or_else(|| self.bad(path, micros.to_string(), "at most 18446744073709551"))
    }

    /// The executions at once of all groups that run anything. Groups for another device than the
    /// CPU are noted.
    fn instances(
        &self,
        groups: &[proto::ModelInstanceGroup],
        cpu_notices: &mut Vec<Notice>,
    ) -> Result<Option<u16>, ModelConfigError> {
        let mut total: u64 = 0;
        for (index, group) in groups.iter().enumerate() {
            let path = format!("instance_group[{index}]");
            let count = u64::try_from(group.count).map_err(|_| {
                self.bad(
                    format!("{path}.count"),
                    group.count.to_string(),
                    "at least 0",
                )
            })?;
            match Kind::try_from(group.kind) {
                Ok(Kind::Auto | Kind::Cpu | Kind::Model) => {}
                Ok(Kind::Gpu) => cpu_notices.push(Notice {
                    path: format!("{path}.kind"),
                    reason: "the model runs on the CPU".to_owned(),
                }),
                Err(_) => return Err(self.unknown_value(format!("{path}.kind"), group.kind)),
            }
            if !group.passive {
                total = total.saturating_add(count.max(1));
            }
        }
        if total > u64::from(INSTANCES_MAX) {
            let expected = format!("at most {INSTANCES_MAX} instances of all groups");
            return Err(self.bad("instance_group", format!("{total} instances"), expected));
        }
        Ok(u16::try_from(total).ok().filter(|total| *total > 0))
    }

    fn versions(
        &self,
        policy: Option<&proto::ModelVersionPolicy>,
    ) -> Result<VersionPolicy, ModelConfigError> {
        let choice = policy.and_then(|policy| policy.policy_choice.as_ref());
        Ok(match choice {
            None => VersionPolicy::Latest(1),
            Some(PolicyChoice::Latest(latest)) => VersionPolicy::Latest(latest.num_versions.max(1)),
            Some(PolicyChoice::All(_)) => VersionPolicy::All,
            Some(PolicyChoice::Specific(specific)) => {
                let asked = &specific.versions;
                let numbers = asked.iter().map(|version| match version {
                    1.. => Some(version.unsigned_abs()),
                    _ => None,
                });
                let mut versions: Vec<u64> = numbers.collect::<Option<_>>().ok_or_else(|| {
                    let path = "version_policy.specific.versions";
                    self.bad(path, format!("{asked:?}"), "versions of at least 1")
                })?;
                versions.sort_unstable();
                versions.dedup();
                VersionPolicy::Specific(versions)
            }
        })
    }

    fn warm_ups(
        &self,
        asked: &[proto::ModelWarmup],
        batch: BatchLimit,
        notices: &mut Vec<Notice>,
    ) -> Result<Vec<WarmUp>, ModelConfigError> {
        let most = match batch {
            BatchLimit::AtMost(size) => size,
            BatchLimit::NoBatchDimension => 1,
            BatchLimit::Open => BATCH_SIZE_MAX,
        };
        let mut warm_ups = Vec::new();
        for (index, sample) in asked.iter().enumerate() {
            let path = format!("model_warmup[{index}]");
            if sample.batch_size == 0 {
                notices.push(Notice {
                    path: format!("{path}.batch_size"),
                    reason: "a sample of batch size 0 is left out, as in Triton".to_owned(),
                });
                continue;
            }
            if sample.batch_size > most {
                return Err(self.bad(
                    format!("{path}.batch_size"),
                    sample.batch_size.to_string(),
                    format!("at most max_batch_size ({most})"),
                ));
            }
            if sample.count > WARM_UP_RUNS_MAX {
                return Err(self.bad(
                    format!("{path}.count"),
                    sample.count.to_string(),
                    format!("at most {WARM_UP_RUNS_MAX}"),
                ));
            }
            let inputs = sample.inputs.iter().map(|(name, input)| {
                self.warm_up_input(&format!("{path}.inputs[{name:?}]"), name, input)
            });
            warm_ups.push(WarmUp {
                name: sample.name.clone(),
                batch_size: sample.batch_size,
                count: sample.count.max(1),
                inputs: inputs.collect::<Result<_, _>>()?,
            });
        }
        Ok(warm_ups)
    }

    fn warm_up_input(
        &self,
        path: &str,
        name: &str,
        input: &proto::model_warmup::Input,
    ) -> Result<WarmUpInput, ModelConfigError> {
        let dims = input.dims.iter().map(|dim| u64::try_from(*dim).ok());
        let dims = dims.collect::<Option<Vec<u64>>>().ok_or_else(|| {
            let found = format!("{:?}", input.dims);
            self.bad(format!("{path}.dims"), found, "sizes of at least 0")
        })?;
        let data = match &input.input_data_type {
            Some(InputDataType::ZeroData(_)) => WarmUpData::Zero,
            Some(InputDataType::RandomData(_)) => WarmUpData::Random,
            Some(InputDataType::InputDataFile(file)) => {
                WarmUpData::File(self.relative_file(&format!("{path}.input_data_file"), file)?)
            }
            None => {
                let expected = "`zero_data`, `random_data` or `input_data_file`";
                return Err(self.bad(path, "without data", expected));
            }
        };
        Ok(WarmUpInput {
            name: name.to_owned(),
            element: self.element(&format!("{path}.data_type"), input.data_type)?,
            dims,
            data,
        })
    }

    fn model_file(&self, asked: &str) -> Result<String, ModelConfigError> {
        if asked.is_empty() {
            return Ok(MODEL_FILE.to_owned());
        }
        self.relative_file("default_model_filename", asked)
    }

    /// A name below the folder that it is relative to, as far as its text goes; symbolic
    /// links are for whoever opens it.
    fn relative_file(&self, path: &str, file: &str) -> Result<String, ModelConfigError> {
        check_relative(file)
            .map(|_| file.to_owned())
            .map_err(|error| {
                let found = format!("`{}`, which {}", error.name.escape_debug(), error.problem);
                self.bad(path, found, "a relative name such as `model.onnx`")
            })
    }

    /// Fugato's own settings; every other parameter is for backends that know it.
    fn settings(
        &self,
        parameters: &BTreeMap<String, proto::ModelParameter>,
        notices: &mut Vec<Notice>,
    ) -> Result<RawModel, ModelConfigError> {
        let mut table = toml::Table::new();
        for (name, parameter) in parameters {
            let path = format!("parameters[{name:?}]");
            let Some(key) = name.strip_prefix(OWN_PREFIX) else {
                notices.push(Notice {
                    path,
                    reason: "no parameter but those that start with `fugato.` means anything here"
                        .to_owned(),
                });
                continue;
            };
            if let Some((_, field)) = OWN_FIELDS.iter().find(|(own, _)| *own == key) {
                return Err(self.bad(path, "set", format!("the field `{field}` in its place")));
            }
            let text = &parameter.string_value;
            // As in fugato.toml; what is no TOML value there is a text, without its quotes.
            let value = text
                .parse::<toml::Value>()
                .unwrap_or_else(|_| toml::Value::String(text.clone()));
            let alone = toml::Table::from_iter([(key.to_owned(), value.clone())]);
            RawModel::deserialize(alone).map_err(|error| {
                let expected = error
                    .message()
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                self.bad(
                    path,
                    format!("`{text}`"),
                    format!("a setting of `[model.NAME]`: {expected}"),
                )
            })?;
            table.insert(key.to_owned(), value);
        }
        // Each was read alone before, so that a fault names its parameter.
        RawModel::deserialize(table)
            .map_err(|error| self.bad("parameters", "not readable", error.message().to_owned()))
    }
}
