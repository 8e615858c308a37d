//! Between gRPC's messages and what operators ask: statistics, loading, settings.

use crate::api::{
    BatchStatistics, Counted, LoadFile, LoadRequest, LogSetting, LogSettings, ModelStatistics,
    TraceSettings,
};
use crate::error::{Fault, InferError};
use crate::server::proto;
use proto::model_repository_parameter::ParameterChoice;
use std::collections::BTreeMap;

/// Refuses a call that names one of several repositories: there is one here.
///
/// # Errors
/// [`ErrorKind::Unimplemented`](crate::error::ErrorKind::Unimplemented), as Triton answers.
pub(super) fn refuse_repository(name: &str) -> Result<(), InferError> {
    if name.is_empty() {
        return Ok(());
    }
    let what = format!("`repository_name` (found `{name}`)");
    Err(Fault::Unimplemented { what }.into())
}

/// The statistics of one model version.
pub(super) fn statistics(from: ModelStatistics) -> proto::ModelStatistics {
    proto::ModelStatistics {
        name: from.name,
        version: from.version,
        last_inference: from.last_inference_ms,
        inference_count: from.inference_count,
        execution_count: from.execution_count,
        inference_stats: Some(proto::InferStatistics {
            success: duration(from.success),
            fail: duration(from.fail),
            queue: duration(from.queue),
            compute_input: duration(from.compute_input),
            compute_infer: duration(from.compute_infer),
            compute_output: duration(from.compute_output),
            // There is no response cache: neither hits nor misses.
            cache_hit: duration(Counted::default()),
            cache_miss: duration(Counted::default()),
        }),
        batch_stats: from.batches.into_iter().map(batch).collect(),
        memory_usage: Vec::new(),
        // Of decoupled models only.
        response_stats: BTreeMap::new(),
    }
}

fn batch(from: BatchStatistics) -> proto::InferBatchStatistics {
    proto::InferBatchStatistics {
        batch_size: from.batch_size,
        compute_input: duration(from.compute_input),
        compute_infer: duration(from.compute_infer),
        compute_output: duration(from.compute_output),
    }
}

fn duration(from: Counted) -> Option<proto::StatisticDuration> {
    Some(proto::StatisticDuration {
        count: from.count,
        ns: from.total.as_nanos(),
    })
}

/// The order that a call to load carries.
///
/// # Errors
/// A repository's name, a parameter that loading does not know, or one of a wrong type.
pub(super) fn load(wire: proto::RepositoryModelLoadRequest) -> Result<LoadRequest, InferError> {
    refuse_repository(&wire.repository_name)?;
    let mut order = LoadRequest {
        name: wire.model_name,
        ..LoadRequest::default()
    };
    for (name, parameter) in wire.parameters {
        let (path, value) = (name.strip_prefix("file:"), parameter.parameter_choice);
        match (path, value) {
            (Some(path), Some(ParameterChoice::BytesParam(content))) => {
                order.files.push(LoadFile {
                    path: path.to_owned(),
                    content,
                });
            }
            (None, Some(ParameterChoice::StringParam(config))) if name == "config" => {
                order.config = Some(config);
            }
            (path, value) => {
                let expected = match (path, name.as_str()) {
                    (Some(_), _) => "bytes_param, the file's bytes",
                    (None, "config") => "string_param, the configuration as JSON",
                    (None, _) => "`config`, or `file:` and a path",
                };
                return Err(wrong("load", &order.name, name, value.as_ref(), expected));
            }
        }
    }
    Ok(order)
}

/// The model that a call to unload names. What depends on it stays: there are no ensembles.
///
/// # Errors
/// As [`load`].
pub(super) fn unload(wire: proto::RepositoryModelUnloadRequest) -> Result<String, InferError> {
    refuse_repository(&wire.repository_name)?;
    for (name, parameter) in wire.parameters {
        let value = parameter.parameter_choice;
        let expected = match (name.as_str(), &value) {
            ("unload_dependents", Some(ParameterChoice::BoolParam(_))) => continue,
            ("unload_dependents", _) => "bool_param",
            _ => "`unload_dependents`",
        };
        let model = &wire.model_name;
        return Err(wrong("unload", model, name, value.as_ref(), expected));
    }
    Ok(wire.model_name)
}

fn wrong(
    what: &'static str,
    model: &str,
    name: String,
    found: Option<&ParameterChoice>,
    expected: &'static str,
) -> InferError {
    let found = match found {
        Some(ParameterChoice::BoolParam(_)) => "bool_param",
        Some(ParameterChoice::Int64Param(_)) => "int64_param",
        Some(ParameterChoice::StringParam(_)) => "string_param",
        Some(ParameterChoice::BytesParam(_)) => "bytes_param",
        None => "nothing",
    };
    Fault::ControlParameter {
        what,
        model: model.to_owned(),
        name,
        found,
        expected,
    }
    .into()
}

/// The model (empty: the server) and the changes of its trace settings; a setting without
/// values is taken back.
pub(super) fn trace_update(
    wire: proto::TraceSettingRequest,
) -> (String, BTreeMap<String, Option<Vec<String>>>) {
    let update = wire.settings.into_iter().map(|(name, setting)| {
        let values = Some(setting.value).filter(|values| !values.is_empty());
        (name, values)
    });
    (wire.model_name, update.collect())
}

/// Trace settings on the wire.
pub(super) fn trace_reply(settings: TraceSettings) -> proto::TraceSettingResponse {
    let settings = settings.into_iter().map(|(name, value)| {
        let value = proto::trace_setting_response::SettingValue { value };
        (name, value)
    });
    proto::TraceSettingResponse {
        settings: settings.collect(),
    }
}

/// The changes of log settings.
///
/// # Errors
/// A setting without a value.
pub(super) fn log_update(wire: proto::LogSettingsRequest) -> Result<LogSettings, InferError> {
    use proto::log_settings_request::setting_value::ParameterChoice;
    let update = wire.settings.into_iter().map(|(name, value)| {
        let value = match value.parameter_choice {
            Some(ParameterChoice::BoolParam(on)) => LogSetting::Switch(on),
            Some(ParameterChoice::Uint32Param(level)) => LogSetting::Level(level),
            Some(ParameterChoice::StringParam(text)) => LogSetting::Text(text),
            None => return Err(Fault::LogSetting { name }.into()),
        };
        Ok((name, value))
    });
    update.collect()
}

/// Log settings on the wire.
pub(super) fn log_reply(settings: LogSettings) -> proto::LogSettingsResponse {
    use proto::log_settings_response::{SettingValue, setting_value::ParameterChoice};
    let settings = settings.into_iter().map(|(name, setting)| {
        let choice = match setting {
            LogSetting::Switch(on) => ParameterChoice::BoolParam(on),
            LogSetting::Level(level) => ParameterChoice::Uint32Param(level),
            LogSetting::Text(text) => ParameterChoice::StringParam(text),
        };
        let value = SettingValue {
            parameter_choice: Some(choice),
        };
        (name, value)
    });
    proto::LogSettingsResponse {
        settings: settings.collect(),
    }
}
