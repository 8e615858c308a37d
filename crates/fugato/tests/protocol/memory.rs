//! What clients can make the server hold, and for how long.

use super::client::{Connection, post};
use super::double::{Ended, Served, options, serve_with, soon};
use super::grpc::{client, floats};
use super::http::counting;
use bytes::Bytes;
use fugato::server::ServerOptions;
use fugato::server::proto::InferTensorContents;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// More than the sockets of a connection hold.
const REPLY_FLOATS: usize = 4 << 20;

/// A server that is full with one reply of [`REPLY_FLOATS`].
async fn small() -> Served {
    serve_with(ServerOptions {
        max_held_bytes: 1 << 20,
        ..options()
    })
    .await
}

async fn is_full(connection: &mut Connection) -> bool {
    let (request, payload) = counting(10);
    let reply = connection.exchange(&request).await;
    if reply.status == 200 {
        assert!(reply.body.ends_with(&payload));
        return false;
    }
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (503, "queue_full")
    );
    true
}

/// Until the server has noticed that a client is gone.
async fn has_room(connection: &mut Connection) {
    while is_full(connection).await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_http_reply_counts_until_it_is_sent() {
    let mut served = small().await;
    let mut other = Connection::open(served.at.http).await;
    let mut slow = Connection::open(served.at.http).await;
    let (request, payload) = counting(REPLY_FLOATS);
    for reads in [true, false] {
        slow.send(&request).await;
        assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Replied));
        assert!(is_full(&mut other).await, "nobody reads the reply");
        if reads {
            let reply = soon(slow.reply()).await.expect("it is never refused");
            assert!(reply.body.ends_with(&payload));
            soon(has_room(&mut other)).await;
            // The small request that found room.
            soon(served.events.ended.recv()).await.expect("it ended");
        }
    }
    drop(slow);
    soon(has_room(&mut other)).await;
}

/// A message as gRPC frames it.
fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("it is short");
    [&[0], &length.to_be_bytes()[..], &message].concat().into()
}

#[tokio::test]
async fn a_grpc_reply_counts_until_it_is_sent() {
    let mut served = small().await;
    let mut other = Connection::open(served.at.http).await;
    let at = served.at.grpc.expect("gRPC is served");
    let stream = tokio::net::TcpStream::connect(at).await.expect("listens");
    // The client's window is 64 KiB, and it grows as the reply is read.
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .handshake(TokioIo::new(stream))
        .await
        .expect("it speaks HTTP/2");
    let connection = tokio::spawn(connection);
    for reads in [true, false] {
        let message = framed(&floats("identity", &vec![0.5; REPLY_FLOATS / 4]));
        let request = hyper::Request::post(format!(
            "http://{at}/inference.GRPCInferenceService/ModelInfer"
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(message))
        .expect("a request");
        let reply = soon(sender.send_request(request)).await.expect("a reply");
        assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Replied));
        assert!(is_full(&mut other).await, "nobody reads the reply");
        if reads {
            let body = soon(reply.into_body().collect()).await.expect("a body");
            assert!(body.to_bytes().len() > REPLY_FLOATS);
        } else {
            drop(reply);
        }
        soon(has_room(&mut other)).await;
        soon(served.events.ended.recv()).await.expect("it ended");
    }
    connection.abort();
}

#[tokio::test]
async fn a_grpc_reply_that_is_not_taken_is_given_up() {
    let mut served = serve_with(ServerOptions {
        max_held_bytes: 1 << 20,
        stall_timeout: Duration::from_millis(300),
        ..options()
    })
    .await;
    let mut other = Connection::open(served.at.http).await;
    let at = served.at.grpc.expect("gRPC is served");
    // Less than the window, which closes on it, and more.
    for (window, columns) in [(1, 1000), (65_535, REPLY_FLOATS)] {
        let stream = tokio::net::TcpStream::connect(at).await.expect("listens");
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .expect("it speaks HTTP/2");
        // The client reads its connection and answers pings all the while.
        let connection = tokio::spawn(connection);
        let message = framed(&floats("identity", &vec![0.5; columns]));
        let path = "/inference.GRPCInferenceService/ModelInfer";
        let request = hyper::Request::post(format!("http://{at}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(message))
            .expect("a request");
        let reply = soon(sender.send_request(request)).await.expect("a reply");
        assert_eq!(soon(served.events.ended.recv()).await, Some(Ended::Replied));
        if columns == REPLY_FLOATS {
            assert!(is_full(&mut other).await, "nobody reads the reply");
        }
        soon(connection).await.expect("no panic").ok();
        soon(has_room(&mut other)).await;
        soon(served.events.ended.recv()).await.expect("it ended");
        let body = soon(reply.into_body().collect()).await;
        body.expect_err("it was given up");
    }
}

/// A server that waits for a moment only.
async fn impatient() -> Served {
    serve_with(ServerOptions {
        stall_timeout: Duration::from_millis(20),
        ..options()
    })
    .await
}

#[tokio::test]
async fn an_http_body_that_stops_is_given_up() {
    let served = impatient().await;
    let mut connection = Connection::open(served.at.http).await;
    let (request, _) = counting(10);
    connection.send(&request[..request.len() - 1]).await;
    let reply = soon(connection.reply()).await.expect("a reply");
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (400, "invalid_request")
    );
    assert!(
        reply.error().contains("nothing of it came for 20ms"),
        "{reply:?}"
    );
}

/// A body that sends one piece and never ends.
struct Stops(Option<Bytes>);

impl Body for Stops {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Poll::Pending,
        }
    }
}

#[tokio::test]
async fn a_grpc_message_that_stops_is_given_up() {
    let served = impatient().await;
    let at = served.at.grpc.expect("gRPC is served");
    let stream = tokio::net::TcpStream::connect(at).await.expect("listens");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("it speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let message = framed(&floats("identity", &[0.5; 10]));
    let body = Stops(Some(message.slice(..message.len() - 1)));
    let path = "/inference.GRPCInferenceService/ModelInfer";
    let request = hyper::Request::post(format!("http://{at}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a request");
    let reply = soon(sender.send_request(request)).await.expect("a reply");
    let header = |name| reply.headers().get(name).map(|value| value.as_bytes());
    assert_eq!(header("grpc-status"), Some(&b"3"[..]), "{reply:?}");
    assert_eq!(header("fugato-error"), Some(&b"invalid_request"[..]));
    connection.abort();
}

#[tokio::test]
async fn what_elements_take_when_decoded_counts() {
    let mut served = serve_with(ServerOptions {
        max_held_bytes: 8000,
        ..options()
    })
    .await;
    let mut grpc = client(&served).await;
    let mut holding = grpc.clone();
    let held = tokio::spawn(async move { holding.model_infer(floats("held", &[1.0; 10])).await });
    soon(served.events.began.recv()).await.expect("it begins");

    // Each would take 2 to 4 bytes for a string on the wire.
    let strings = 1000;
    let json = format!(
        r#"{{"inputs":[{{"name":"in_BYTES","datatype":"BYTES","shape":[{strings}],"data":[{}]}}]}}"#,
        vec![r#""""#; strings].join(",")
    );
    let mut connection = Connection::open(served.at.http).await;
    let path = "/v2/models/types/infer";
    let reply = connection.exchange(&post(path, &json, None)).await;
    assert_eq!(reply.header("fugato-error"), "queue_full", "{reply:?}");

    let mut message = floats("types", &[]);
    message.inputs[0].datatype = "BYTES".to_owned();
    message.inputs[0].shape = vec![1000];
    message.raw_input_contents = vec![vec![0; 4 * strings].into()];
    let status = grpc.model_infer(message.clone()).await;
    let status = status.expect_err("raw strings have handles");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");

    message.raw_input_contents.clear();
    message.inputs[0].contents = Some(InferTensorContents {
        bytes_contents: vec![Bytes::new(); strings],
        ..Default::default()
    });
    let status = grpc.model_infer(message).await;
    let status = status.expect_err("typed strings have handles");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");

    served.double.gate.add_permits(1);
    soon(held).await.expect("no panic").expect("its reply");
}
