//! gRPC: the health check that waits, and reflection.

use super::double::{serve, soon};
use super::grpc::channel;
use fugato::server::Drained;
use fugato::server::proto::health::health_check_response::ServingStatus;
use fugato::server::proto::health::health_client::HealthClient;
use fugato::server::proto::health::{HealthCheckRequest, HealthCheckResponse};
use std::sync::atomic::Ordering;
use tonic::{Code, Streaming};
use tonic_reflection::pb::{v1, v1alpha};

async fn told(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let message = soon(watch.message()).await.expect("no end");
    message.expect("a message").status()
}

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

#[tokio::test]
async fn watchers_are_told_of_changes() {
    let served = serve().await;
    let mut health = HealthClient::new(channel(&served).await);
    let watch = health.watch(about("")).await.expect("a stream");
    let mut watch = watch.into_inner();
    let other = health.watch(about("nope")).await.expect("it stays open");
    let mut other = other.into_inner();
    assert_eq!(told(&mut other).await, ServingStatus::ServiceUnknown);
    assert_eq!(told(&mut watch).await, ServingStatus::Serving);
    for (serving, expected) in [
        (false, ServingStatus::NotServing),
        (true, ServingStatus::Serving),
    ] {
        served.double.serving.store(serving, Ordering::Relaxed);
        assert_eq!(told(&mut watch).await, expected);
    }
    served.shutdown.cancel();
    assert_eq!(told(&mut watch).await, ServingStatus::NotServing);
    for watch in [&mut watch, &mut other] {
        let status = soon(watch.message()).await.expect_err("it ends");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    drop((health, watch, other));
    let drained = soon(served.server).await.expect("no panic");
    assert_eq!(drained, Drained { connections_cut: 0 });
}

#[tokio::test]
async fn watchers_have_a_bound_and_give_their_places_back() {
    let served = serve().await;
    let mut health = HealthClient::new(channel(&served).await);
    let mut watches = Vec::new();
    let status = loop {
        match health.watch(about("")).await {
            Ok(watch) => watches.push(watch.into_inner()),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), watches.len()),
        (Code::ResourceExhausted, 256)
    );
    health
        .check(about(""))
        .await
        .expect("a check needs no place");
    drop(watches);
    // Until the server has noticed.
    soon(async { while health.watch(about("")).await.is_err() {} }).await;
}

#[tokio::test]
async fn both_reflections_list_every_service() {
    let served = serve().await;
    let mut expected = vec![
        "grpc.health.v1.Health".to_owned(),
        "grpc.reflection.v1.ServerReflection".to_owned(),
        "inference.GRPCInferenceService".to_owned(),
    ];
    let channel = channel(&served).await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let ask = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(ask),
    };
    let stream = futures_util::stream::iter([request]);
    let reply = client
        .server_reflection_info(stream)
        .await
        .expect("a stream");
    let reply = soon(reply.into_inner().message()).await.expect("no error");
    let reply = reply.expect("a message").message_response;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = reply
    else {
        panic!("another reply: {reply:?}");
    };
    let mut found: Vec<String> = list.service.into_iter().map(|one| one.name).collect();
    found.sort();
    assert_eq!(found, expected);

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let symbol = "inference.GRPCInferenceService".to_owned();
    let ask = v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(ask),
    };
    let stream = futures_util::stream::iter([request]);
    let reply = client
        .server_reflection_info(stream)
        .await
        .expect("a stream");
    let reply = soon(reply.into_inner().message()).await.expect("no error");
    let reply = reply.expect("a message").message_response;
    let Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(files)) =
        reply
    else {
        panic!("another reply: {reply:?}");
    };
    let text = String::from_utf8_lossy(&files.file_descriptor_proto[0]).into_owned();
    expected.retain(|name| name.starts_with("inference"));
    assert!(text.contains("ModelStreamInfer"), "{expected:?}");
}
