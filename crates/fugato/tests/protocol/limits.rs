//! What clients that are slow, silent or greedy get.

use super::client::{Connection, bare, post};
use super::double::{options, serve_with, soon};
use super::grpc::{channel, client, floats};
use fugato::api::{NAME_MAX_BYTES, RANK_MAX, TENSORS_MAX};
use fugato::server::ServerOptions;
use fugato::server::proto::ServerLiveRequest;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Request;

const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(3600);

/// What the server sends until it closes the connection.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset ends a connection, too.
    let _ = soon(stream.read_to_end(&mut all)).await;
    all
}

async fn connect(at: Option<SocketAddr>) -> TcpStream {
    TcpStream::connect(at.expect("the port is served"))
        .await
        .expect("it listens")
}

#[tokio::test]
async fn large_heads_are_refused() {
    let served = serve_with(options()).await;
    let head = |headers: &str| {
        format!("GET /v2/health/live HTTP/1.1\r\nhost: test\r\n{headers}\r\n").into_bytes()
    };
    let long = |size: usize| format!("x: {}\r\n", "y".repeat(size));
    let many = |count: usize| -> String { (0..count).map(|n| format!("x{n}: y\r\n")).collect() };
    for (headers, status) in [
        (long(15 << 10), 200),
        (long(17 << 10), 431),
        (many(90), 200),
        (many(101), 431),
    ] {
        let mut connection = Connection::open(served.at.http).await;
        let reply = soon(connection.exchange(&head(&headers))).await;
        assert_eq!(reply.status, status, "{} bytes", headers.len());
    }
    let mut grpc = client(&served).await;
    for (size, good) in [(15 << 10, true), (17 << 10, false)] {
        let mut request = Request::new(ServerLiveRequest {});
        let value = "y".repeat(size).parse().expect("ASCII");
        request.metadata_mut().insert("x", value);
        let found = soon(grpc.server_live(request)).await;
        assert_eq!(found.is_ok(), good, "{size} bytes: {found:?}");
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut() {
    let served = serve_with(ServerOptions {
        header_timeout: SHORT,
        idle_timeout: LONG,
        ..options()
    })
    .await;
    // Also on a connection that was good before.
    for first in [false, true] {
        let mut stream = connect(served.at.http).await;
        if first {
            let request = bare("GET", "/v2/health/live");
            stream.write_all(&request).await.expect("it reads");
            let mut line = [0; 15];
            stream.read_exact(&mut line).await.expect("a reply");
            assert_eq!(&line, b"HTTP/1.1 200 OK");
        }
        let (mut reader, mut writer) = stream.into_split();
        let dripping = tokio::spawn(async move {
            // Each byte is progress, and there are enough of them for a day.
            let mut ticks = tokio::time::interval(SHORT / 10);
            let head = b"GET /v2 HTTP/1.1\r\nx: "
                .iter()
                .chain(std::iter::repeat(&b'y'));
            for byte in head {
                ticks.tick().await;
                if writer.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
        let mut rest = Vec::new();
        let _ = soon(reader.read_to_end(&mut rest)).await;
        soon(dripping).await.expect("no panic");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let mut served = serve_with(ServerOptions {
        idle_timeout: SHORT,
        ..options()
    })
    .await;
    let (http, metrics) = (served.at.http, served.at.metrics);
    let grpc_at = served.at.grpc;
    let mut busy = Connection::open(http).await;
    let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#;
    let held = post("/v2/models/held/infer", json, None);
    busy.send(&held).await;
    let mut grpc = client(&served).await;
    let calling = tokio::spawn(async move { grpc.model_infer(floats("held", &[1.0])).await });
    for _ in 0..2 {
        soon(served.events.began.recv()).await.expect("it begins");
    }
    // Idle ones that were opened later are closed, so the busy ones had time to be.
    for at in [http, metrics, grpc_at, http] {
        until_closed(&mut connect(at).await).await;
    }
    served.double.gate.add_permits(2);
    let reply = soon(busy.reply()).await.expect("a reply");
    assert_eq!(reply.status, 200, "{reply:?}");
    soon(calling).await.expect("no panic").expect("a reply");
    assert!(soon(busy.reply()).await.is_none(), "it is idle at last");
}

#[tokio::test]
async fn silent_connections_make_room_for_others() {
    let served = serve_with(ServerOptions {
        max_connections: 1,
        header_timeout: SHORT,
        idle_timeout: LONG,
        ..options()
    })
    .await;
    let mut silent = connect(served.at.http).await;
    let mut other = Connection::open(served.at.http).await;
    let reply = soon(other.exchange(&bare("GET", "/v2/health/live"))).await;
    assert_eq!(reply.status, 200);
    assert!(until_closed(&mut silent).await.is_empty());

    let mut silent = connect(served.at.grpc).await;
    let other = soon(channel(&served)).await;
    let mut other =
        fugato::server::proto::grpc_inference_service_client::GrpcInferenceServiceClient::new(
            other,
        );
    soon(other.server_live(ServerLiveRequest {}))
        .await
        .expect("there is room");
    until_closed(&mut silent).await;
}

/// How every HTTP/2 client begins: the preface, and settings that say nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn an_http2_client_that_gives_no_sign_of_life_is_cut() {
    let served = serve_with(ServerOptions {
        ping_interval: SHORT,
        idle_timeout: LONG,
        ..options()
    })
    .await;
    let mut stream = connect(served.at.grpc).await;
    stream.write_all(PREFACE).await.expect("it reads");
    let said = until_closed(&mut stream).await;
    // A PING: 8 bytes, type 6, no flags, stream 0.
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0];
    assert!(said.windows(9).any(|nine| nine == ping), "{said:?}");
}

#[tokio::test]
async fn a_client_that_resets_what_it_opens_is_cut() {
    let served = serve_with(options()).await;
    let stream = connect(served.at.grpc).await;
    let mut frames = PREFACE.to_vec();
    for stream in (1u32..).step_by(2).take(100_000) {
        // HEADERS that end: `:method: POST`, `:scheme: http`, `:path: /`; then RST_STREAM.
        frames.extend([0, 0, 3, 1, 4]);
        frames.extend(stream.to_be_bytes());
        frames.extend([0x83, 0x86, 0x84]);
        frames.extend([0, 0, 4, 3, 0]);
        frames.extend(stream.to_be_bytes());
        frames.extend(8u32.to_be_bytes());
    }
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move { writer.write_all(&frames).await });
    let mut said = Vec::new();
    let _ = soon(reader.read_to_end(&mut said)).await;
    let written = soon(writing).await.expect("no panic");
    // GOAWAY with ENHANCE_YOUR_CALM, unless the reset of the connection overtook it.
    let calm = said.windows(4).any(|code| code == [0, 0, 0, 11]);
    assert!(calm || written.is_err(), "{} bytes", said.len());
}

#[tokio::test]
async fn long_names_and_long_lists_are_too_large() {
    let served = serve_with(options()).await;
    let mut grpc = client(&served).await;
    let good = floats("identity", &[1.0]);
    let long = "n".repeat(NAME_MAX_BYTES + 1);
    let mut requests = vec![good.clone(); 6];
    requests[0].model_name.clone_from(&long);
    requests[1].id.clone_from(&long);
    requests[2].inputs[0].name.clone_from(&long);
    requests[3].inputs = vec![good.inputs[0].clone(); TENSORS_MAX + 1];
    requests[3].raw_input_contents = vec![good.raw_input_contents[0].clone(); TENSORS_MAX + 1];
    requests[4].inputs[0].shape = vec![1; RANK_MAX + 1];
    requests[5].model_version.clone_from(&long);
    for (case, request) in requests.into_iter().enumerate() {
        let status = grpc.model_infer(request).await.expect_err("too large");
        let label = status.metadata().get("fugato-error");
        assert_eq!(label.expect("a label"), "too_large", "{case}: {status}");
        assert!(status.message().len() < 256, "{case}: {status}");
    }
    let mut request = good;
    request.id = "n".repeat(NAME_MAX_BYTES);
    let reply = grpc.model_infer(request).await.expect("it fits");
    assert_eq!(reply.into_inner().id.len(), NAME_MAX_BYTES);

    let outputs = vec![r#"{"name":"y"}"#; TENSORS_MAX + 1].join(",");
    let json = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}}],"outputs":[{outputs}]}}"#
    );
    let mut connection = Connection::open(served.at.http).await;
    let request = post("/v2/models/identity/infer", &json, None);
    let reply = soon(connection.exchange(&request)).await;
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (413, "too_large")
    );
    // What is echoed is cut.
    let path = format!("/v2/models/{}", "n".repeat(10_000));
    let reply = soon(connection.exchange(&bare("GET", &path))).await;
    assert_eq!(reply.status, 404);
    assert!(reply.body.len() < 5000, "{} bytes", reply.body.len());
}
