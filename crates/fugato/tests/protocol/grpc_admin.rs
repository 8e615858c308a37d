//! gRPC: what operators ask.

use super::double::{Served, serve};
use super::grpc::{Client, client};
use fugato::api::{LoadFile, LoadRequest};
use fugato::server::proto::{
    self, ModelRepositoryParameter, ModelStatisticsRequest, RepositoryIndexRequest,
    RepositoryModelLoadRequest, RepositoryModelUnloadRequest, StatisticDuration,
    model_repository_parameter::ParameterChoice,
};
use std::collections::BTreeMap;
use tonic::{Code, Status};

async fn start() -> (Served, Client) {
    let served = serve().await;
    let client = client(&served).await;
    (served, client)
}

fn label(status: &Status) -> &str {
    let label = status.metadata().get("fugato-error");
    label.and_then(|label| label.to_str().ok()).unwrap_or("")
}

#[tokio::test]
async fn every_number_of_the_statistics_has_its_place() {
    let (_served, mut grpc) = start().await;
    let mut ask = async |name: &str, version: &str| {
        let request = ModelStatisticsRequest {
            name: name.to_owned(),
            version: version.to_owned(),
        };
        let reply = grpc.model_statistics(request).await;
        reply.map(|reply| reply.into_inner().model_stats)
    };
    let counted = |count| {
        Some(StatisticDuration {
            count,
            ns: count * 1_000,
        })
    };
    let none = Some(StatisticDuration::default());
    let expected = proto::ModelStatistics {
        name: "identity".to_owned(),
        version: "1".to_owned(),
        last_inference: 1,
        inference_count: 2,
        execution_count: 3,
        inference_stats: Some(proto::InferStatistics {
            success: counted(4),
            fail: counted(5),
            queue: counted(7),
            compute_input: counted(8),
            compute_infer: counted(9),
            compute_output: counted(10),
            cache_hit: none,
            cache_miss: none,
        }),
        batch_stats: vec![proto::InferBatchStatistics {
            batch_size: 11,
            compute_input: counted(12),
            compute_infer: counted(13),
            compute_output: counted(14),
        }],
        ..proto::ModelStatistics::default()
    };
    let one = ask("identity", "1").await.expect("statistics");
    assert_eq!(one, [expected]);
    let all = ask("", "").await.expect("statistics");
    assert_eq!(all.len(), 5, "every ready model");
    let status = ask("nope", "").await.expect_err("no such model");
    assert_eq!(
        (status.code(), label(&status)),
        (Code::NotFound, "unknown_model")
    );
    let status = ask("identity", "7").await.expect_err("no such version");
    assert_eq!(label(&status), "unknown_version");
}

fn parameters<const N: usize>(
    these: [(&str, ParameterChoice); N],
) -> BTreeMap<String, ModelRepositoryParameter> {
    let these = these.map(|(name, choice)| {
        let value = ModelRepositoryParameter {
            parameter_choice: Some(choice),
        };
        (name.to_owned(), value)
    });
    these.into()
}

fn text(text: &str) -> ParameterChoice {
    ParameterChoice::StringParam(text.to_owned())
}

#[tokio::test]
async fn models_are_loaded_with_what_the_call_carries() {
    let (served, mut grpc) = start().await;
    let file = ParameterChoice::BytesParam((&b"\x08\x07"[..]).into());
    let request = RepositoryModelLoadRequest {
        model_name: "new".to_owned(),
        parameters: parameters([("config", text("{}")), ("file:1/model.onnx", file)]),
        ..Default::default()
    };
    grpc.repository_model_load(request).await.expect("loaded");
    let plain = RepositoryModelLoadRequest {
        model_name: "plain".to_owned(),
        ..Default::default()
    };
    grpc.repository_model_load(plain).await.expect("loaded");
    let expected = [
        LoadRequest {
            name: "new".to_owned(),
            config: Some("{}".to_owned()),
            files: vec![LoadFile {
                path: "1/model.onnx".to_owned(),
                content: (&b"\x08\x07"[..]).into(),
            }],
        },
        LoadRequest {
            name: "plain".to_owned(),
            ..LoadRequest::default()
        },
    ];
    assert_eq!(*served.double.loads.lock().expect("unpoisoned"), expected);

    let unload = RepositoryModelUnloadRequest {
        model_name: "identity".to_owned(),
        parameters: parameters([("unload_dependents", ParameterChoice::BoolParam(true))]),
        ..Default::default()
    };
    grpc.repository_model_unload(unload)
        .await
        .expect("unloaded");
    let unloads = served.double.unloads.lock().expect("unpoisoned").clone();
    assert_eq!(unloads, ["identity"]);
}

#[tokio::test]
async fn bad_orders_are_named() {
    let (served, mut grpc) = start().await;
    let loads = [
        (
            "m",
            "other",
            parameters([]),
            Code::Unimplemented,
            "`repository_name` (found `other`)",
        ),
        (
            "forbidden",
            "",
            parameters([]),
            Code::PermissionDenied,
            "the double says so",
        ),
        (
            "broken",
            "",
            parameters([]),
            Code::FailedPrecondition,
            "model `broken` cannot be loaded",
        ),
        (
            "m",
            "",
            parameters([("config", ParameterChoice::BoolParam(true))]),
            Code::InvalidArgument,
            "parameter `config` of the order to load model `m` is bool_param, expected string_param",
        ),
        (
            "m",
            "",
            parameters([("file:1/model.onnx", text("abc"))]),
            Code::InvalidArgument,
            "parameter `file:1/model.onnx` of the order to load model `m` is string_param, \
             expected bytes_param",
        ),
        (
            "m",
            "",
            parameters([("cofnig", text("{}"))]),
            Code::InvalidArgument,
            "expected `config`, or `file:` and a path",
        ),
    ];
    for (model, repository, parameters, code, message) in loads {
        let request = RepositoryModelLoadRequest {
            repository_name: repository.to_owned(),
            model_name: model.to_owned(),
            parameters,
        };
        let status = grpc
            .repository_model_load(request)
            .await
            .expect_err(message);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(message), "{status}");
        assert!(!label(&status).is_empty(), "{status}");
    }
    let unloads = [
        (
            "m",
            "r",
            parameters([]),
            Code::Unimplemented,
            "`repository_name`",
        ),
        (
            "nope",
            "",
            parameters([]),
            Code::NotFound,
            "no model `nope`",
        ),
        (
            "identity",
            "",
            parameters([("unload_dependents", text("yes"))]),
            Code::InvalidArgument,
            "is string_param, expected bool_param",
        ),
        (
            "identity",
            "",
            parameters([("unload", text("yes"))]),
            Code::InvalidArgument,
            "expected `unload_dependents`",
        ),
    ];
    for (model, repository, parameters, code, message) in unloads {
        let request = RepositoryModelUnloadRequest {
            repository_name: repository.to_owned(),
            model_name: model.to_owned(),
            parameters,
        };
        let status = grpc
            .repository_model_unload(request)
            .await
            .expect_err(message);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(message), "{status}");
    }
    let index = RepositoryIndexRequest {
        repository_name: "r".to_owned(),
        ready: false,
    };
    let status = grpc.repository_index(index).await.expect_err("one only");
    assert_eq!(label(&status), "unimplemented");
    assert!(served.double.loads.lock().expect("unpoisoned").is_empty());
}

#[tokio::test]
async fn trace_settings_are_read_changed_and_taken_back() {
    use proto::trace_setting_request::SettingValue;
    let (_served, mut grpc) = start().await;
    let mut ask = async |model: &str, settings: &[(&str, &[&str])]| {
        let setting = |&(name, values): &(&str, &[&str])| {
            let value = values.iter().map(|&value| value.to_owned()).collect();
            (name.to_owned(), SettingValue { value })
        };
        let request = proto::TraceSettingRequest {
            settings: settings.iter().map(setting).collect(),
            model_name: model.to_owned(),
        };
        let reply = grpc.trace_setting(request).await?.into_inner().settings;
        let values = reply.into_iter().map(|(name, values)| (name, values.value));
        Ok::<Vec<_>, Status>(values.collect())
    };
    let both = [
        ("trace_rate", &["7"][..]),
        ("trace_level", &["TIMESTAMPS", "TENSORS"]),
    ];
    let all = [
        (
            "trace_level".to_owned(),
            vec!["TIMESTAMPS".to_owned(), "TENSORS".to_owned()],
        ),
        ("trace_rate".to_owned(), vec!["7".to_owned()]),
    ];
    assert_eq!(ask("", &both).await.expect("changed"), all);
    assert_eq!(ask("", &[]).await.expect("read"), all);
    assert_eq!(
        ask("identity", &[]).await.expect("read"),
        [],
        "a model's own"
    );
    let cleared = ask("", &[("trace_level", &[])]).await.expect("taken back");
    assert_eq!(cleared, all[1..]);
    let status = ask("nope", &[]).await.expect_err("no such model");
    assert_eq!(label(&status), "unknown_model");
}

#[tokio::test]
async fn log_settings_are_read_and_changed() {
    use proto::log_settings_request::{SettingValue, setting_value::ParameterChoice};
    use proto::log_settings_response::setting_value::ParameterChoice as Reply;
    let (_served, mut grpc) = start().await;
    let mut ask = async |settings: Vec<(&str, Option<ParameterChoice>)>| {
        let settings = settings
            .into_iter()
            .map(|(name, parameter_choice)| (name.to_owned(), SettingValue { parameter_choice }));
        let request = proto::LogSettingsRequest {
            settings: settings.collect(),
        };
        let reply = grpc.log_settings(request).await?.into_inner().settings;
        let values = reply
            .into_iter()
            .map(|(name, value)| (name, value.parameter_choice));
        Ok::<BTreeMap<_, _>, Status>(values.collect())
    };
    let before = ask(vec![]).await.expect("read");
    assert_eq!(before["log_info"], Some(Reply::BoolParam(true)));
    let after = ask(vec![
        ("log_info", Some(ParameterChoice::BoolParam(false))),
        ("log_verbose_level", Some(ParameterChoice::Uint32Param(2))),
        (
            "log_format",
            Some(ParameterChoice::StringParam("ISO8601".to_owned())),
        ),
    ]);
    let after = after.await.expect("changed");
    assert_eq!(after["log_info"], Some(Reply::BoolParam(false)));
    assert_eq!(after["log_verbose_level"], Some(Reply::Uint32Param(2)));
    let format = Reply::StringParam("ISO8601".to_owned());
    assert_eq!(after["log_format"], Some(format));
    let status = ask(vec![("log_info", None)]).await.expect_err("no value");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "log setting `log_info` has no value, expected one"
    );
}
