//! gRPC: many requests in one call.

use super::double::{Ended, Served, options, serve, serve_with, soon};
use super::grpc::{Client, client, floats};
use fugato::error::ErrorKind;
use fugato::server::proto::infer_parameter::ParameterChoice;
use fugato::server::proto::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use fugato::server::{Drained, ServerOptions};
use futures_util::Stream;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

/// A stream's requests, as a client that decides when to send each.
struct Requests(mpsc::UnboundedReceiver<ModelInferRequest>);

impl Stream for Requests {
    type Item = ModelInferRequest;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<ModelInferRequest>> {
        self.0.poll_recv(context)
    }
}

type Sender = mpsc::UnboundedSender<ModelInferRequest>;

async fn open(grpc: &mut Client) -> (Sender, Streaming<ModelStreamInferResponse>) {
    let (sender, requests) = mpsc::unbounded_channel();
    let stream = soon(grpc.model_stream_infer(Requests(requests))).await;
    (sender, stream.expect("a stream").into_inner())
}

async fn start() -> (Served, Client) {
    let served = serve().await;
    let client = client(&served).await;
    (served, client)
}

fn request(model: &str, id: &str) -> ModelInferRequest {
    ModelInferRequest {
        id: id.to_owned(),
        ..floats(model, &[1.5])
    }
}

/// The next message, as its error and its reply.
async fn next(
    stream: &mut Streaming<ModelStreamInferResponse>,
) -> Result<Option<(String, ModelInferResponse)>, Status> {
    let message = soon(stream.message()).await?;
    Ok(message.map(|message| {
        let reply = message.infer_response.expect("it names its request");
        (message.error_message, reply)
    }))
}

async fn expect(stream: &mut Streaming<ModelStreamInferResponse>, id: &str) {
    let (error, reply) = next(stream).await.expect("no end").expect("a message");
    assert_eq!((error.as_str(), reply.id.as_str()), ("", id));
    assert_eq!(reply.raw_output_contents[0], 1.5f32.to_le_bytes()[..]);
    let last = &reply.parameters["triton_final_response"].parameter_choice;
    assert_eq!(*last, Some(ParameterChoice::BoolParam(true)));
}

#[tokio::test]
async fn requests_run_at_once_and_replies_keep_their_order() {
    let (mut served, mut grpc) = start().await;
    let (sender, mut stream) = open(&mut grpc).await;
    for (model, id) in [
        ("held", "a"),
        ("identity", "b"),
        ("held", "c"),
        ("identity", "d"),
    ] {
        sender.send(request(model, id)).expect("it is open");
    }
    for _ in 0..4 {
        soon(served.events.began.recv())
            .await
            .expect("all run at once");
    }
    for _ in 0..2 {
        // Both of `identity`; the first request holds them up.
        assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Replied));
    }
    served.double.gate.add_permits(2);
    for id in ["a", "b", "c", "d"] {
        expect(&mut stream, id).await;
    }
    // A stream that is silent for a while goes on.
    sender.send(request("identity", "e")).expect("it is open");
    expect(&mut stream, "e").await;
    drop(sender);
    assert!(next(&mut stream).await.expect("it ends well").is_none());
}

#[tokio::test]
async fn errors_are_of_one_request() {
    let (served, mut grpc) = start().await;
    let (sender, mut stream) = open(&mut grpc).await;
    let cases = [
        ("nope", "no model `nope` in the repository", "unknown_model"),
        (
            "broken",
            "model `broken` is not ready: operator `Nope` is unknown",
            "model_not_ready",
        ),
        (
            "panics",
            "fault in the engine: it panicked, the log says where",
            "internal",
        ),
    ];
    for (model, message, label) in cases {
        sender.send(request(model, "bad")).expect("it is open");
        sender
            .send(request("identity", "good"))
            .expect("it is open");
        let (error, reply) = next(&mut stream).await.expect("no end").expect("a message");
        assert_eq!(error, message);
        assert_eq!(
            (reply.id.as_str(), reply.model_name.as_str()),
            ("bad", model)
        );
        assert!(reply.outputs.is_empty() && reply.raw_output_contents.is_empty());
        let found = &reply.parameters["fugato-error"].parameter_choice;
        assert_eq!(*found, Some(ParameterChoice::StringParam(label.to_owned())));
        expect(&mut stream, "good").await;
    }
    let refused = served.double.refused.lock().expect("unpoisoned").clone();
    assert_eq!(
        refused,
        [ErrorKind::Internal],
        "the others are the service's to count"
    );
}

#[tokio::test]
async fn a_client_may_ask_for_errors_to_end_the_stream() {
    let (mut served, mut grpc) = start().await;
    let (sender, requests) = mpsc::unbounded_channel();
    let mut call = tonic::Request::new(Requests(requests));
    let metadata = call.metadata_mut();
    metadata.insert("triton_grpc_error", "true".parse().expect("ASCII"));
    let stream = soon(grpc.model_stream_infer(call)).await.expect("a stream");
    let mut stream = stream.into_inner();
    for (model, id) in [("identity", "a"), ("nope", "b"), ("held", "c")] {
        sender.send(request(model, id)).expect("it is open");
    }
    expect(&mut stream, "a").await;
    let status = next(&mut stream).await.expect_err("it ends");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let label = status.metadata().get("fugato-error").expect("a label");
    assert_eq!(label, "unknown_model");
    // Those of `a` and, where it had begun, of `c`.
    assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Replied));
}

#[tokio::test]
async fn a_half_closed_stream_finishes_what_it_accepted() {
    let (mut served, mut grpc) = start().await;
    let (sender, mut stream) = open(&mut grpc).await;
    sender.send(request("held", "a")).expect("it is open");
    sender.send(request("held", "b")).expect("it is open");
    drop(sender);
    for _ in 0..2 {
        soon(served.events.began.recv()).await.expect("both run");
    }
    served.double.gate.add_permits(2);
    expect(&mut stream, "a").await;
    expect(&mut stream, "b").await;
    assert!(next(&mut stream).await.expect("it ends well").is_none());

    let (sender, mut empty) = open(&mut grpc).await;
    drop(sender);
    assert!(next(&mut empty).await.expect("it ends well").is_none());
}

#[tokio::test]
async fn a_cancelled_stream_drops_its_requests() {
    let (mut served, mut grpc) = start().await;
    let (sender, stream) = open(&mut grpc).await;
    for id in ["a", "b", "c"] {
        sender.send(request("held", id)).expect("it is open");
        soon(served.events.began.recv()).await.expect("it begins");
    }
    drop((sender, stream));
    for _ in 0..3 {
        assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Dropped));
    }
}

#[tokio::test]
async fn a_drain_answers_what_it_accepted_and_says_so() {
    let (mut served, mut grpc) = start().await;
    let (sender, mut stream) = open(&mut grpc).await;
    let (_idle, mut idle) = open(&mut grpc).await;
    sender.send(request("held", "a")).expect("it is open");
    soon(served.events.began.recv()).await.expect("it begins");
    served.shutdown.cancel();
    let draining = |status: Status| {
        let label = status.metadata().get("fugato-error").cloned();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(label.expect("a label"), "draining");
    };
    draining(next(&mut idle).await.expect_err("it ends"));
    served.double.gate.add_permits(1);
    expect(&mut stream, "a").await;
    draining(next(&mut stream).await.expect_err("it ends"));
    drop((grpc, sender, stream, idle));
    let drained = soon(served.server).await.expect("no panic");
    assert_eq!(drained, Drained { connections_cut: 0 });
}

#[tokio::test]
async fn a_stream_holds_what_is_in_flight_and_no_more() {
    let mut served = serve_with(ServerOptions {
        max_held_bytes: 1000,
        ..options()
    })
    .await;
    let mut grpc = client(&served).await;
    let (sender, mut stream) = open(&mut grpc).await;
    // Many times the budget, one after another.
    for _ in 0..20 {
        sender
            .send(floats("identity", &[0.5; 100]))
            .expect("it is open");
        let (error, _) = next(&mut stream).await.expect("no end").expect("a message");
        assert_eq!(error, "");
    }
    sender
        .send(floats("held", &[0.5; 150]))
        .expect("it is open");
    for _ in 0..21 {
        soon(served.events.began.recv()).await.expect("it begins");
    }
    sender
        .send(floats("identity", &[0.5; 100]))
        .expect("it is open");
    sender
        .send(request("identity", "small"))
        .expect("it is open");
    // The small one was read after the large one was refused.
    soon(served.events.began.recv()).await.expect("it begins");
    served.double.gate.add_permits(1);
    let (error, _) = next(&mut stream).await.expect("no end").expect("a message");
    assert_eq!(error, "");
    let (error, _) = next(&mut stream).await.expect("no end").expect("a message");
    assert!(error.contains("of 1000 bytes of requests"), "{error}");
    expect(&mut stream, "small").await;
}

#[tokio::test]
async fn what_is_no_request_ends_the_stream_after_the_replies() {
    let served = serve_with(ServerOptions {
        max_body_bytes: 1000,
        ..options()
    })
    .await;
    let mut grpc = client(&served).await;
    let (sender, mut stream) = open(&mut grpc).await;
    served.double.gate.add_permits(1);
    sender.send(request("held", "a")).expect("it is open");
    sender
        .send(floats("identity", &[0.5; 300]))
        .expect("it is open");
    expect(&mut stream, "a").await;
    let status = next(&mut stream).await.expect_err("it ends");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(
        status.message().contains("expected at most 1000"),
        "{status}"
    );
    let refused = served.double.refused.lock().expect("unpoisoned").clone();
    assert_eq!(refused, [ErrorKind::TooLarge]);
}
