//! gRPC: what works, and its errors.

use super::double::{Served, options, serve, serve_with};
use bytes::Bytes;
use fugato::server::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use fugato::server::proto::health::health_client::HealthClient;
use fugato::server::proto::infer_parameter::ParameterChoice;
use fugato::server::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use fugato::server::proto::{
    InferParameter, InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelReadyRequest, RepositoryIndexRequest, ServerLiveRequest,
    ServerMetadataRequest, ServerReadyRequest, health,
};
use fugato::server::{RPCS, ServerOptions};
use fugato_core::Nanos;
use fugato_device::ElementType;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

pub(crate) type Client = GrpcInferenceServiceClient<Channel>;
pub(crate) type Reply = ModelInferResponse;

pub(crate) async fn channel(served: &Served) -> Channel {
    let at = served.at.grpc.expect("gRPC is served");
    Channel::from_shared(format!("http://{at}"))
        .expect("an address")
        .connect()
        .await
        .expect("it listens")
}

pub(crate) async fn client(served: &Served) -> Client {
    GrpcInferenceServiceClient::new(channel(served).await).max_decoding_message_size(usize::MAX)
}

fn input(name: &str, element: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: element.to_owned(),
        shape: shape.to_vec(),
        ..Default::default()
    }
}

fn int(value: i64) -> InferParameter {
    InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(value)),
    }
}

/// A request with one row of floats.
pub(crate) fn floats(model: &str, values: &[f32]) -> ModelInferRequest {
    let columns = i64::try_from(values.len()).expect("a row is short");
    let raw: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![input("x", "FP32", &[1, columns])],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    }
}

#[tokio::test]
async fn health_metadata_and_index() {
    let served = serve().await;
    let mut grpc = client(&served).await;
    let live = grpc.server_live(ServerLiveRequest {}).await.expect("live");
    assert!(live.into_inner().live);
    let ready = grpc
        .server_ready(ServerReadyRequest {})
        .await
        .expect("ready");
    assert!(ready.into_inner().ready);
    for (name, expected) in [("identity", true), ("broken", false), ("nope", false)] {
        let name = name.to_owned();
        let request = ModelReadyRequest {
            name,
            version: String::new(),
        };
        let ready = grpc.model_ready(request).await.expect("an answer");
        assert_eq!(ready.into_inner().ready, expected);
    }
    let server = grpc
        .server_metadata(ServerMetadataRequest {})
        .await
        .expect("metadata");
    assert_eq!(server.into_inner().name, "fugato");
    let model = ModelMetadataRequest {
        name: "identity".to_owned(),
        version: "1".to_owned(),
    };
    let model = grpc
        .model_metadata(model)
        .await
        .expect("metadata")
        .into_inner();
    assert_eq!(model.platform, "onnxruntime_onnx");
    assert_eq!(model.inputs[0].shape, [-1, -1]);
    let config = ModelConfigRequest {
        name: "identity".to_owned(),
        version: String::new(),
    };
    let config = grpc
        .model_config(config)
        .await
        .expect("a config")
        .into_inner();
    assert_eq!(config.config.expect("set").max_batch_size, 8);
    let index = RepositoryIndexRequest::default();
    let index = grpc
        .repository_index(index)
        .await
        .expect("an index")
        .into_inner();
    let broken = index.models.iter().find(|model| model.name == "broken");
    assert_eq!(
        broken.expect("it is listed").reason,
        "operator `Nope` is unknown"
    );

    let mut health = HealthClient::new(channel(&served).await);
    let check = health::HealthCheckRequest::default();
    let status = health.check(check).await.expect("a status").into_inner();
    assert_eq!(
        status.status(),
        health::health_check_response::ServingStatus::Serving
    );
}

#[tokio::test]
async fn every_type_goes_through_raw_contents_unchanged() {
    let served = serve().await;
    let raw: Vec<Bytes> = ElementType::ALL
        .into_iter()
        .map(|element| match element.size() {
            Some(size) => (0..2 * size).map(|byte| (byte % 2) as u8).collect(),
            None => Bytes::from_static(b"\x02\0\0\0\xff\xfe\0\0\0\0"),
        })
        .collect();
    let request = ModelInferRequest {
        model_name: "types".to_owned(),
        id: "seven".to_owned(),
        inputs: ElementType::ALL
            .map(|e| input(&format!("in_{e}"), e.oip_name(), &[1, 2]))
            .to_vec(),
        raw_input_contents: raw.clone(),
        ..Default::default()
    };
    let mut grpc = client(&served).await;
    let reply = grpc
        .model_infer(request.clone())
        .await
        .expect("a reply")
        .into_inner();
    assert_eq!(
        (reply.id.as_str(), reply.model_version.as_str()),
        ("seven", "1")
    );
    let batch_size = &reply.parameters["batch_size"].parameter_choice;
    assert_eq!(*batch_size, Some(ParameterChoice::Int64Param(1)));
    assert_eq!(reply.raw_output_contents, raw);

    let names = ["out_BYTES", "out_BOOL"];
    let outputs = names.map(|name| InferRequestedOutputTensor {
        name: name.to_owned(),
        ..Default::default()
    });
    let request = ModelInferRequest {
        outputs: outputs.to_vec(),
        ..request
    };
    let reply = grpc
        .model_infer(request)
        .await
        .expect("a reply")
        .into_inner();
    let found: Vec<&str> = reply
        .outputs
        .iter()
        .map(|output| output.name.as_str())
        .collect();
    assert_eq!(found, names, "in the order asked for");
    assert_eq!(reply.raw_output_contents, [raw[13].clone(), raw[0].clone()]);
}

#[tokio::test]
async fn typed_contents_say_the_same_as_raw_ones() {
    let served = serve().await;
    let contents = |element: ElementType| {
        let mut contents = InferTensorContents::default();
        match element {
            ElementType::Bool => contents.bool_contents = vec![true, false],
            ElementType::Int8 | ElementType::Int16 | ElementType::Int32 => {
                contents.int_contents = vec![-3, 100];
            }
            ElementType::Int64 => contents.int64_contents = vec![i64::MIN, 7],
            ElementType::Uint8 | ElementType::Uint16 | ElementType::Uint32 => {
                contents.uint_contents = vec![3, 200];
            }
            ElementType::Uint64 => contents.uint64_contents = vec![u64::MAX, 7],
            ElementType::Fp32 => contents.fp32_contents = vec![1.5, f32::NAN],
            ElementType::Fp64 => contents.fp64_contents = vec![1.5, f64::INFINITY],
            ElementType::Bytes => contents.bytes_contents = vec!["a".into(), "".into()],
            ElementType::Fp16 | ElementType::Bf16 => return None,
        }
        Some(contents)
    };
    let inputs = ElementType::ALL.map(|element| InferInputTensor {
        contents: contents(element),
        ..input(&format!("in_{element}"), element.oip_name(), &[1, 2])
    });
    let mut request = ModelInferRequest {
        model_name: "types".to_owned(),
        inputs: inputs.to_vec(),
        ..Default::default()
    };
    let mut grpc = client(&served).await;
    let error = grpc
        .model_infer(request.clone())
        .await
        .expect_err("FP16 has no contents");
    assert_eq!(error.code(), Code::InvalidArgument);
    let expected = "input `in_FP16` of model `types` has its data nowhere, expected it in \
                    `contents` or in `raw_input_contents`";
    assert_eq!(error.message(), expected);
    // A model without the two types that only go raw does not exist here; each other
    // type's bytes are checked through the error of the first missing input instead.
    request.inputs.retain(|input| input.contents.is_some());
    let error = grpc
        .model_infer(request)
        .await
        .expect_err("two inputs are missing");
    assert!(
        error
            .message()
            .starts_with("the request lacks input `in_FP16`"),
        "{error}"
    );

    let mut request = floats("identity", &[]);
    request.raw_input_contents.clear();
    request.inputs = vec![InferInputTensor {
        contents: contents(ElementType::Fp32),
        ..input("x", "FP32", &[1, 2])
    }];
    let reply = grpc
        .model_infer(request)
        .await
        .expect("a reply")
        .into_inner();
    let expected = [1.5f32.to_le_bytes(), f32::NAN.to_le_bytes()].concat();
    assert_eq!(reply.raw_output_contents, [expected]);
}

#[tokio::test]
async fn the_earliest_deadline_counts() {
    let served = serve().await;
    let mut grpc = client(&served).await;
    let ask = |slo_us: i64, timeout: Duration| {
        let mut message = floats("identity", &[1.0]);
        message.parameters.insert("slo_us".to_owned(), int(slo_us));
        message.parameters.insert("timeout".to_owned(), int(9));
        message.parameters.insert("priority".to_owned(), int(2));
        let mut request = tonic::Request::new(message);
        request.set_timeout(timeout);
        request
    };
    for (slo_us, timeout, expected) in [
        (2_000_000, Duration::from_secs(9), 2_000_000),
        (9_000_000, Duration::from_secs(3), 3_000_000),
    ] {
        grpc.model_infer(ask(slo_us, timeout))
            .await
            .expect("a reply");
        let seen = served.double.last();
        assert_eq!(seen.left, Some(Nanos::from_micros(expected)));
        assert_eq!(seen.queue_timeout, Some(Nanos::from_micros(9)));
        assert_eq!((seen.priority, seen.version), (2, None));
    }
}

async fn refused(grpc: &mut Client, request: ModelInferRequest) -> Status {
    grpc.model_infer(request).await.expect_err("it is refused")
}

#[tokio::test]
async fn every_bad_message_is_named() {
    let served = serve().await;
    let mut grpc = client(&served).await;
    let good = || floats("identity", &[1.0]);
    let change = |change: fn(&mut ModelInferRequest)| {
        let mut request = good();
        change(&mut request);
        request
    };
    let cases: Vec<(ModelInferRequest, Code, &str, &str)> = vec![
        (
            floats("nope", &[1.0]),
            Code::NotFound,
            "unknown_model",
            "no model `nope`",
        ),
        (
            change(|r| r.model_version = "9".to_owned()),
            Code::NotFound,
            "unknown_version",
            "model `identity` has no version `9`, it has `1`",
        ),
        (
            floats("broken", &[1.0]),
            Code::Unavailable,
            "model_not_ready",
            "model `broken` is not ready: operator `Nope` is unknown",
        ),
        (
            change(|r| r.raw_input_contents.push(Bytes::new())),
            Code::InvalidArgument,
            "invalid_request",
            "2 raw contents for the 1 inputs of a request to model `identity`, expected one for",
        ),
        (
            change(|r| r.inputs[0].contents = Some(InferTensorContents::default())),
            Code::InvalidArgument,
            "invalid_request",
            "has its data in `contents` and in `raw_input_contents`, expected one of them",
        ),
        (
            change(|r| r.raw_input_contents.clear()),
            Code::InvalidArgument,
            "invalid_request",
            "has its data nowhere",
        ),
        (
            change(|r| r.raw_input_contents[0] = Bytes::from_static(b"abc")),
            Code::InvalidArgument,
            "invalid_byte_count",
            "has 3 bytes, expected 4 for FP32 of shape [1, 1]",
        ),
        (
            change(|r| r.inputs[0].shape = vec![1, -1]),
            Code::InvalidArgument,
            "invalid_shape",
            "has shape [1, -1], expected every dimension",
        ),
        (
            change(|r| r.inputs[0].datatype = "float".to_owned()),
            Code::InvalidArgument,
            "invalid_type",
            "has type `float`, expected one of",
        ),
        (
            change(|r| r.inputs[0].name = "z".to_owned()),
            Code::InvalidArgument,
            "unknown_input",
            "model `identity` has no input `z`",
        ),
        (
            change(|r| r.outputs = vec![InferRequestedOutputTensor::default()]),
            Code::InvalidArgument,
            "unknown_output",
            "model `identity` has no output ``",
        ),
        (
            change(|r| drop(r.parameters.insert("slo_us".to_owned(), int(-5)))),
            Code::InvalidArgument,
            "invalid_value",
            "parameter `slo_us` of the request is -5",
        ),
        (
            change(|r| {
                let name = "shared_memory_region".to_owned();
                r.inputs[0].parameters.insert(name, int(1));
            }),
            Code::InvalidArgument,
            "invalid_value",
            "parameter `shared_memory_region` of input `x`",
        ),
    ];
    for (request, code, label, message) in cases {
        let status = refused(&mut grpc, request).await;
        assert_eq!(status.code(), code, "{status}");
        let found = status.metadata().get("fugato-error").expect("a label");
        assert_eq!(found, label, "{status}");
        assert!(status.message().contains(message), "{status}");
    }
    let mut late = tonic::Request::new(good());
    let nonsense = "soon".parse().expect("ASCII");
    late.metadata_mut().insert("grpc-timeout", nonsense);
    let status = grpc.model_infer(late).await.expect_err("no time");
    assert!(
        status.message().contains("header `grpc-timeout` is `soon`"),
        "{status}"
    );
}

#[tokio::test]
async fn messages_have_a_limit_and_are_read_up_to_it() {
    let served = serve_with(ServerOptions {
        max_body_bytes: 9 << 20,
        ..options()
    })
    .await;
    let mut grpc = client(&served).await;
    // Over tonic's own limit of 4 MiB, both ways.
    let large = vec![0.5; 2 << 20];
    let reply = grpc
        .model_infer(floats("identity", &large))
        .await
        .expect("a reply");
    assert_eq!(reply.into_inner().raw_output_contents[0].len(), 8 << 20);
    let status = refused(&mut grpc, floats("identity", &vec![0.5; 3 << 20])).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(
        status.message().contains("expected at most 9437184"),
        "{status}"
    );
    let reply = grpc.model_infer(floats("identity", &[1.0])).await;
    reply.expect("the connection still works");
}

#[tokio::test]
async fn what_is_not_done_is_unimplemented_by_name() {
    let served = serve().await;
    let channel = channel(&served).await;
    let mut calls: Vec<&str> = RPCS
        .into_iter()
        .flatten()
        .filter(|rpc| !rpc.done)
        .map(|rpc| rpc.path)
        .collect();
    calls.push("/inference.GRPCInferenceService/Nonsense");
    for path in calls {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.expect("connected");
        let codec: tonic_prost::ProstCodec<ServerLiveRequest, ServerLiveRequest> =
            tonic_prost::ProstCodec::default();
        let request = tonic::Request::new(ServerLiveRequest {});
        let path_and_query = path.parse().expect("a path");
        let status = grpc
            .unary(request, path_and_query, codec)
            .await
            .expect_err("it is not there");
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
        let expected = format!("gRPC call `{path}` is not implemented by this server");
        assert_eq!(status.message(), expected);
    }
}
