//! HTTP: every error is typed, worded, and leaves the connection usable. What is wrong with a
//! body that could be read is for `bodies` to test.

use super::client::{Connection, bare, post};
use super::double::{options, serve, serve_with, soon};
use super::grpc::{client, floats};
use super::http::counting;
use fugato::error::ErrorKind;
use fugato::server::ServerOptions;

const IDENTITY: &str = "/v2/models/identity/infer";

#[tokio::test]
async fn models_urls_methods_and_headers() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let cases: [(&str, &str, u16, &str); 14] = [
        ("GET", "/", 404, "no URL `/`"),
        ("GET", "/v2/models", 404, "no URL `/v2/models`"),
        ("GET", "/v3/health/live", 404, "no URL"),
        (
            "POST",
            "/v2/health/live",
            405,
            "URL `/v2/health/live` takes GET, found POST",
        ),
        ("GET", IDENTITY, 405, "takes POST, found GET"),
        (
            "DELETE",
            "/v2/logging",
            405,
            "takes GET or POST, found DELETE",
        ),
        (
            "GET",
            "/v2/models/nope",
            404,
            "no model `nope` in the repository",
        ),
        ("GET", "/v2/models/nope/ready", 404, "no model `nope`"),
        (
            "GET",
            "/v2/models/identity/versions/7",
            404,
            "model `identity` has no version `7`, it has `1`",
        ),
        (
            "GET",
            "/v2/models/broken/ready",
            503,
            "model `broken` is not ready: operator `Nope` is unknown",
        ),
        (
            "GET",
            "/v2/models/broken/config",
            503,
            "model `broken` is not ready",
        ),
        (
            "GET",
            "/v2/models/..%2F..%2Fetc",
            404,
            "no model `../../etc`",
        ),
        ("GET", "/v2/models/%ff", 400, "the URL cannot be read"),
        (
            "POST",
            "/v2/models/%ff/infer",
            400,
            "the URL cannot be read",
        ),
    ];
    for (method, path, status, message) in cases {
        let reply = connection.exchange(&bare(method, path)).await;
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        assert!(reply.error().contains(message), "{path}: {}", reply.error());
    }
    let headers = [
        (
            "inference-header-content-length: x",
            400,
            "header `inference-header-content-length` is `x`",
        ),
        (
            "inference-header-content-length: -1",
            400,
            "is `-1`, expected the number of bytes",
        ),
        (
            "inference-header-content-length: 9",
            400,
            "is `9`, expected at most the body's 2 bytes",
        ),
        (
            "inference-header-content-length: 0",
            400,
            "has shape [1, 0], expected every dimension",
        ),
        ("content-encoding: gzip", 400, "it is not gzip"),
        ("content-encoding: deflate", 400, "it is not deflate"),
        (
            "content-encoding: br",
            415,
            "header `content-encoding` is `br`, expected one of gzip, deflate, identity",
        ),
        ("content-encoding: gzip, gzip", 415, "is `gzip, gzip`"),
        (
            "content-type: multipart/form-data; boundary=x",
            415,
            "header `content-type` is `multipart/form-data; boundary=x`, expected",
        ),
        ("content-type: text/html", 415, "is `text/html`"),
    ];
    for (header, status, message) in headers {
        let request = format!(
            "POST {IDENTITY} HTTP/1.1\r\nhost: test\r\n{header}\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        let mut connection = Connection::open(served.at.http).await;
        let reply = connection.exchange(request.as_bytes()).await;
        assert_eq!(reply.status, status, "{header}: {reply:?}");
        assert!(
            reply.error().contains(message),
            "{header}: {}",
            reply.error()
        );
    }
}

#[tokio::test]
async fn oversized_bodies_are_refused_before_and_while_reading() {
    let served = serve_with(ServerOptions {
        max_body_bytes: 1000,
        ..options()
    })
    .await;
    let mut connection = Connection::open(served.at.http).await;
    let declared = format!("POST {IDENTITY} HTTP/1.1\r\nhost: t\r\ncontent-length: 1001\r\n\r\n");
    let reply = connection.exchange(declared.as_bytes()).await;
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (413, "too_large")
    );
    assert!(
        reply
            .error()
            .contains("has 1001 bytes, expected at most 1000")
    );

    let mut connection = Connection::open(served.at.http).await;
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001));
    let request =
        format!("POST {IDENTITY} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
    let reply = connection.exchange(request.as_bytes()).await;
    assert_eq!(reply.status, 413, "{reply:?}");

    // A client that reads only after it has sent everything gets its reply, too.
    let mut connection = Connection::open(served.at.http).await;
    let body = "x".repeat(1500);
    let sent = format!("POST {IDENTITY} HTTP/1.1\r\nhost: t\r\ncontent-length: 1500\r\n\r\n{body}");
    for _ in 0..2 {
        let reply = connection.exchange(sent.as_bytes()).await;
        assert_eq!(reply.status, 413, "{reply:?}");
    }

    let mut connection = Connection::open(served.at.http).await;
    let at_limit = format!(
        "POST {IDENTITY} HTTP/1.1\r\nhost: t\r\ncontent-length: 1000\r\n\r\n{}",
        "x".repeat(1000)
    );
    let reply = connection.exchange(at_limit.as_bytes()).await;
    assert_eq!(reply.status, 400, "it was read and is no JSON");
}

#[tokio::test]
async fn requests_of_both_protocols_share_a_bound_on_bytes() {
    let mut served = serve_with(ServerOptions {
        max_held_bytes: 1000,
        ..options()
    })
    .await;
    let mut grpc = client(&served).await;
    let mut holding = grpc.clone();
    let held = tokio::spawn(async move { holding.model_infer(floats("held", &[1.0; 200])).await });
    soon(served.events.began.recv()).await.expect("it begins");

    let mut connection = Connection::open(served.at.http).await;
    let (request, payload) = counting(100);
    let reply = connection.exchange(&request).await;
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (503, "queue_full")
    );
    assert!(
        reply.error().contains("of 1000 bytes of requests"),
        "{reply:?}"
    );
    let refused = grpc.model_infer(floats("identity", &[1.0; 100])).await;
    let status = refused.expect_err("the server is full");
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
    assert!(
        status.message().contains("of 1000 bytes of requests"),
        "{status}"
    );

    served.double.gate.add_permits(1);
    soon(held).await.expect("no panic").expect("its reply");
    let reply = connection.exchange(&request).await;
    assert!(reply.body.ends_with(&payload), "{reply:?}");
    let refused = served
        .double
        .refused
        .lock()
        .expect("no test panics with the lock");
    assert_eq!(*refused, [ErrorKind::QueueFull; 2]);
}

#[tokio::test]
async fn a_panic_fails_its_request_and_no_other() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#;
    let reply = connection
        .exchange(&post("/v2/models/panics/infer", json, None))
        .await;
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (500, "internal")
    );
    let mut grpc = client(&served).await;
    let refused = grpc.model_infer(floats("panics", &[1.0])).await;
    assert_eq!(
        refused.expect_err("it panics").code(),
        tonic::Code::Internal
    );
    let (request, payload) = counting(3);
    let reply = connection.exchange(&request).await;
    assert!(reply.body.ends_with(&payload), "the connection still works");
    let refused = served
        .double
        .refused
        .lock()
        .expect("no test panics with the lock");
    assert_eq!(*refused, [ErrorKind::Internal; 2]);
}
