//! gRPC as bytes: compression, and calls that are not what they should be.

use super::double::{Served, options, serve, serve_with, soon};
use super::grpc::{client, floats};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use fugato::api::TraceContext;
use fugato::error::ErrorKind;
use fugato::server::ServerOptions;
use fugato::server::proto::{ModelInferResponse, ModelStreamInferResponse};
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use std::io::Write as _;
use tonic::codec::CompressionEncoding;

pub(super) const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

pub(super) struct Reply {
    status: StatusCode,
    /// Headers and trailers.
    fields: HeaderMap,
    body: Bytes,
}

impl Reply {
    pub(super) fn field(&self, name: &str) -> &str {
        let value = self.fields.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The messages of the body, each with its compression flag.
    fn messages(&self) -> Vec<(u8, Bytes)> {
        let (mut body, mut messages) = (self.body.clone(), Vec::new());
        while !body.is_empty() {
            let prefix = body.split_to(5);
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
            messages.push((prefix[0], body.split_to(length as usize)));
        }
        messages
    }
}

pub(super) async fn exchange(
    served: &Served,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Reply {
    let at = served.at.grpc.expect("gRPC is served");
    let stream = tokio::net::TcpStream::connect(at).await.expect("listens");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("it speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let mut request = hyper::Request::builder()
        .method(method)
        .uri(format!("http://{at}{path}"));
    for &(name, value) in headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    let reply = soon(sender.send_request(request)).await.expect("a reply");
    let (head, body) = reply.into_parts();
    let body = soon(body.collect()).await.expect("a body");
    let mut fields = head.headers;
    fields.extend(body.trailers().cloned().unwrap_or_default());
    connection.abort();
    Reply {
        status: head.status,
        fields,
        body: body.to_bytes(),
    }
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");

const GZIP: &[(&str, &str)] = &[("grpc-encoding", "gzip")];

pub(super) fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("it is short");
    [&[flag], &length.to_be_bytes()[..], message].concat()
}

fn good() -> Vec<u8> {
    floats("identity", &[1.5]).encode_to_vec()
}

pub(super) fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(message).expect("memory");
    encoder.finish().expect("memory")
}

fn zlib(message: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(message).expect("memory");
    encoder.finish().expect("memory")
}

#[tokio::test]
async fn every_bad_call_is_typed() {
    let served = serve_with(ServerOptions {
        max_body_bytes: 10_000,
        ..options()
    })
    .await;
    let whole = framed(0, &good());
    let cut = whole[..whole.len() - 1].to_vec();
    let bomb = framed(1, &gzip(&vec![0; 1 << 20]));
    let trailing = framed(1, &[gzip(&good()), b"more".to_vec()].concat());
    let malformed = [framed(0, &good()), framed(0, b"\x0a\xff")].concat();
    // Headers beside the content type, body, code, label, and text; of one message and of
    // a stream.
    type Case<'a> = (&'a [(&'a str, &'a str)], Vec<u8>, &'a str, &'a str, &'a str);
    let both: Vec<Case<'_>> = vec![
        (&[], cut, "3", "invalid_request", "1 bytes of"),
        (
            &[],
            vec![0, 0],
            "3",
            "invalid_request",
            "the request body ended early",
        ),
        (
            &[],
            framed(7, &good()),
            "3",
            "invalid_request",
            "compression flag is 7",
        ),
        (
            &[],
            framed(1, &gzip(&good())),
            "3",
            "invalid_request",
            "does not say how",
        ),
        (
            &[],
            framed(0, &[0; 10_001]),
            "8",
            "too_large",
            "has 10001 bytes",
        ),
        (
            &[],
            vec![0, 255, 255, 255, 255],
            "8",
            "too_large",
            "4294967295 bytes",
        ),
        (
            &[],
            framed(0, b"\x0a\xff"),
            "3",
            "invalid_request",
            "malformed message",
        ),
        (GZIP, bomb, "8", "too_large", "expected at most 10000"),
        (GZIP, trailing, "3", "invalid_request", "4 bytes follow"),
        (
            GZIP,
            framed(1, b"nonsense"),
            "3",
            "invalid_request",
            "cannot be inflated",
        ),
        (
            GZIP,
            framed(1, &gzip(&good())[..20]),
            "3",
            "invalid_request",
            "cannot be inflated",
        ),
        (
            &[("grpc-encoding", "br")],
            framed(1, &good()),
            "12",
            "unimplemented",
            "header `grpc-encoding: br` is not implemented",
        ),
    ];
    let one: Vec<Case<'_>> = vec![
        (&[], vec![], "3", "invalid_request", "no message came"),
        (GZIP, vec![], "3", "invalid_request", "no message came"),
        (
            &[],
            malformed.clone(),
            "3",
            "invalid_request",
            "more follows the one message",
        ),
    ];
    for (path, cases) in [(INFER, &both), (STREAM, &both), (INFER, &one)] {
        for (headers, body, code, label, text) in cases {
            let headers = [&[GRPC], *headers].concat();
            let reply = exchange(&served, "POST", path, &headers, body.clone()).await;
            let found = (reply.field("grpc-status"), reply.field("fugato-error"));
            let message = reply
                .field("grpc-message")
                .replace("%20", " ")
                .replace("%60", "`");
            assert_eq!(found, (*code, *label), "{path} {text}: {message}");
            assert!(message.contains(text), "{path} {text}: {message}");
            assert_eq!(reply.status, StatusCode::OK, "{path} {text}");
        }
    }
    // A stream gives its replies before it ends.
    let reply = exchange(&served, "POST", STREAM, &[GRPC], malformed).await;
    assert_eq!(
        (reply.messages().len(), reply.field("grpc-status")),
        (1, "3")
    );
    let refused = served.double.refused.lock().expect("unpoisoned").clone();
    let large = refused.iter().filter(|kind| **kind == ErrorKind::TooLarge);
    assert_eq!(large.count(), 6, "three over either call: {refused:?}");
}

#[tokio::test]
async fn what_is_not_grpc_is_told_so() {
    let served = serve().await;
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16, &'a str);
    let cases: [Case<'_>; 4] = [
        (
            "POST",
            &[("content-type", "application/json")],
            415,
            "invalid_request",
        ),
        (
            "POST",
            &[("content-type", "application/grpc+json")],
            415,
            "invalid_request",
        ),
        ("POST", &[], 415, "invalid_request"),
        ("GET", &[GRPC], 405, "method_not_allowed"),
    ];
    for (method, headers, status, label) in cases {
        for path in [INFER, STREAM, "/grpc.health.v1.Health/Check"] {
            let reply = exchange(&served, method, path, headers, framed(0, &good())).await;
            let found = (reply.status.as_u16(), reply.field("fugato-error"));
            assert_eq!(found, (status, label), "{method} {path} {headers:?}");
        }
    }
    let proto = [("content-type", "application/grpc+proto; charset=x")];
    let reply = exchange(&served, "POST", INFER, &proto, framed(0, &good())).await;
    assert_eq!(reply.field("grpc-status"), "0");
}

#[tokio::test]
async fn compressed_messages_are_read_and_answered_alike() {
    let served = serve().await;
    type Compress = fn(&[u8]) -> Vec<u8>;
    let compress: [(&str, Compress); 2] = [("gzip", gzip), ("deflate", zlib)];
    for (name, compress) in compress {
        let body = framed(1, &compress(&good()));
        let headers = [GRPC, ("grpc-encoding", name)];
        let reply = exchange(&served, "POST", INFER, &headers, body.clone()).await;
        let messages = reply.messages();
        assert_eq!(
            (messages[0].0, reply.field("grpc-encoding")),
            (0, ""),
            "nobody asked"
        );
        let message = ModelInferResponse::decode(messages[0].1.clone()).expect("a reply");
        assert_eq!(message.raw_output_contents[0], 1.5f32.to_le_bytes()[..]);

        let accepts = ("grpc-accept-encoding", "identity, deflate, gzip");
        let headers = [GRPC, ("grpc-encoding", name), accepts];
        let reply = exchange(&served, "POST", INFER, &headers, body.clone()).await;
        assert_eq!(
            (reply.messages()[0].0, reply.field("grpc-encoding")),
            (1, name)
        );
        // Every client says what it can read; that is no wish.
        let plain = framed(0, &good());
        let reply = exchange(&served, "POST", INFER, &[GRPC, accepts], plain.clone()).await;
        assert_eq!(
            (reply.messages()[0].0, reply.field("grpc-encoding")),
            (0, "")
        );

        let stream = [body, plain].concat();
        let reply = exchange(&served, "POST", STREAM, &headers, stream).await;
        assert_eq!(
            reply.messages().len(),
            2,
            "compressed or not, message by message"
        );
        for (flag, message) in reply.messages() {
            let message = ModelStreamInferResponse::decode(message).expect("a reply");
            assert_eq!((flag, message.error_message.as_str()), (0, ""));
        }
    }
    // A client of its own making, with a reply that is compressed and one that is too large.
    let grpc = client(&served).await;
    let mut grpc = grpc
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip);
    for (count, compressed) in [(1_000, true), (1 << 20, false)] {
        let reply = grpc
            .model_infer(floats("identity", &vec![0.5; count]))
            .await;
        let reply = reply.expect("a reply").into_inner();
        assert_eq!(
            reply.raw_output_contents[0].len(),
            4 * count,
            "{compressed}"
        );
    }
}

#[tokio::test]
async fn what_is_inflated_counts() {
    let mut served = serve_with(ServerOptions {
        max_held_bytes: 100_000,
        ..options()
    })
    .await;
    let mut grpc = client(&served).await;
    let held = tokio::spawn(async move { grpc.model_infer(floats("held", &[1.0])).await });
    soon(served.events.began.recv()).await.expect("it begins");
    let body = framed(
        1,
        &gzip(&floats("identity", &vec![0.0; 50_000]).encode_to_vec()),
    );
    assert!(body.len() < 10_000, "it is small on the wire");
    let headers = [GRPC, ("grpc-encoding", "gzip")];
    let reply = exchange(&served, "POST", INFER, &headers, body.clone()).await;
    let found = (reply.field("grpc-status"), reply.field("fugato-error"));
    assert_eq!(found, ("14", "queue_full"));
    // A stream passes over it and goes on.
    let stream = [body, framed(0, &good())].concat();
    let reply = exchange(&served, "POST", STREAM, &headers, stream).await;
    assert_eq!(reply.field("grpc-status"), "0");
    let errors: Vec<bool> = reply
        .messages()
        .into_iter()
        .map(|(_, message)| ModelStreamInferResponse::decode(message).expect("a reply"))
        .map(|reply| reply.error_message.contains("100000 bytes of requests"))
        .collect();
    assert_eq!(errors, [true, false]);
    served.double.gate.add_permits(1);
    soon(held).await.expect("no panic").expect("its reply");
}

#[tokio::test]
async fn the_clients_trace_reaches_the_service() {
    let served = serve().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let traced = [GRPC, ("traceparent", trace)];
    for path in [INFER, STREAM] {
        for (headers, expected) in [
            (&traced[..], TraceContext::parse(trace)),
            (&[GRPC, ("traceparent", "00-nonsense")], None),
            (&[GRPC], None),
        ] {
            let reply = exchange(&served, "POST", path, headers, framed(0, &good())).await;
            assert_eq!(reply.field("grpc-status"), "0");
            assert_eq!(served.double.last().trace, expected, "{path}");
        }
    }
}
