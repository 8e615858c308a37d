//! Who is let in: tokens, and TLS.

use super::client::{Connection, bare, post};
use super::double::{Served, options, serve_with, soon};
use super::grpc::{channel, client, floats};
use super::http::counting;
use base64::Engine as _;
use fugato::error::ErrorKind;
use fugato::server::proto::health::HealthCheckRequest;
use fugato::server::proto::health::health_client::HealthClient;
use fugato::server::proto::{ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest};
use fugato::server::{HTTP_ROUTES, ServerOptions, Tls, TlsError, Tokens};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::{Code, Request};

const TOKEN: &str = "correct-horse-battery-staple";

/// A server that lets in who has [`TOKEN`] or another one.
async fn closed() -> Served {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let path = scratch.path().join("tokens");
    fs::write(
        &path,
        format!("# ours\n{TOKEN}\nanother-token-0123456789\n"),
    )
    .expect("a file");
    let tokens = Tokens::read(&path).expect("two tokens");
    serve_with(ServerOptions {
        tokens: Some(tokens),
        ..options()
    })
    .await
}

/// `request` with one more header.
fn with_header(request: &[u8], header: &str) -> Vec<u8> {
    let first_line = request.windows(2).position(|two| two == b"\r\n");
    let (line, rest) = request.split_at(first_line.expect("a request line") + 2);
    [line, header.as_bytes(), b"\r\n", rest].concat()
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

#[tokio::test]
async fn every_url_but_health_needs_a_token() {
    let served = closed().await;
    let mut connection = Connection::open(served.at.http).await;
    let mut refused = 0;
    for route in HTTP_ROUTES {
        let path = route.path.replace("{name}", "identity");
        let path = path.replace("{version}", "1").replace("{repository}", "r");
        let request = bare(route.method, &path);
        let reply = connection.exchange(&request).await;
        if path.starts_with("/v2/health/") {
            assert_eq!(reply.status, 200, "{path}");
            continue;
        }
        assert_eq!(
            (reply.status, reply.header("fugato-error")),
            (401, "unauthenticated"),
            "{path}"
        );
        assert_eq!(reply.header("www-authenticate"), "Bearer");
        refused += 1;
        let wrong = with_header(&request, &bearer("correct-horse-battery-staplf"));
        assert_eq!(connection.exchange(&wrong).await.status, 401, "{path}");
        refused += 1;
        let right = with_header(&request, &bearer(TOKEN));
        assert_ne!(connection.exchange(&right).await.status, 401, "{path}");
    }
    // What is not there is not told to strangers either.
    for path in ["/v3", "/v2/health/live/", "/v2/health/../models/identity"] {
        assert_eq!(connection.exchange(&bare("GET", path)).await.status, 401);
        refused += 1;
    }
    let counted = served.double.refused.lock().expect("no test panics");
    let unauthenticated = |kind: &&ErrorKind| **kind == ErrorKind::Unauthenticated;
    assert_eq!(counted.iter().filter(unauthenticated).count(), refused);
}

#[tokio::test]
async fn a_refused_body_does_not_hide_the_reason() {
    let served = closed().await;
    let mut connection = Connection::open(served.at.http).await;
    let body = "x".repeat(300 << 10);
    let request = post("/v2/models/identity/infer", &body, None);
    assert_eq!(soon(connection.exchange(&request)).await.status, 401);
    // All of it was read, so the connection is at the next request.
    let (request, payload) = counting(10);
    let request = with_header(&request, &bearer("another-token-0123456789"));
    let reply = soon(connection.exchange(&request)).await;
    assert!(reply.body.ends_with(&payload), "{reply:?}");
}

#[tokio::test]
async fn the_metrics_need_a_token() {
    let served = closed().await;
    let mut connection = Connection::open(served.at.metrics).await;
    let request = bare("GET", "/metrics");
    assert_eq!(connection.exchange(&request).await.status, 401);
    let request = with_header(&request, &bearer(TOKEN));
    assert_eq!(connection.exchange(&request).await.status, 200);
}

#[tokio::test]
async fn every_call_but_health_needs_a_token() {
    let served = closed().await;
    let mut grpc = client(&served).await;
    let status = grpc.model_infer(floats("identity", &[1.0])).await;
    let status = status.expect_err("no token");
    assert_eq!(status.code(), Code::Unauthenticated);
    let label = status.metadata().get("fugato-error");
    assert_eq!(label.expect("a label"), "unauthenticated");
    let status = grpc.server_metadata(ServerMetadataRequest {}).await;
    assert_eq!(status.expect_err("no token").code(), Code::Unauthenticated);
    for (token, expected) in [(TOKEN, None), ("wrong", Some(Code::Unauthenticated))] {
        let mut request = Request::new(floats("identity", &[1.0]));
        let value = format!("Bearer {token}").parse().expect("ASCII");
        request.metadata_mut().insert("authorization", value);
        let found = grpc.model_infer(request).await;
        assert_eq!(found.err().map(|status| status.code()), expected);
    }
    grpc.server_live(ServerLiveRequest {}).await.expect("open");
    grpc.server_ready(ServerReadyRequest {})
        .await
        .expect("open");
    let mut health = HealthClient::new(channel(&served).await);
    let request = HealthCheckRequest::default();
    health.check(request).await.expect("open");
}

/// A certificate for `localhost` in a folder, and what a client needs to trust it.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    der: CertificateDer<'static>,
    _folder: TempDir,
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n")
}

fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a scratch folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    Identity {
        certificate: write("cert.pem", pem("CERTIFICATE", made.cert.der())),
        key: write(
            "key.pem",
            pem("PRIVATE KEY", &made.signing_key.serialize_der()),
        ),
        der: made.cert.der().clone(),
        _folder: folder,
    }
}

async fn encrypted(identity: &Identity) -> Served {
    let tls = Tls::read(&identity.certificate, &identity.key).expect("they belong together");
    serve_with(ServerOptions {
        tls: Some(tls),
        header_timeout: Duration::from_millis(500),
        ..options()
    })
    .await
}

/// A client that trusts `identity` and speaks `protocol`.
async fn shake_hands(
    identity: &Identity,
    at: Option<SocketAddr>,
    protocol: &[u8],
) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.der.clone()).expect("a certificate");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(at.expect("the port is served"))
        .await
        .expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector
        .connect(name, stream)
        .await
        .expect("a known server");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
    stream
}

#[tokio::test]
async fn every_port_speaks_tls() {
    let identity = identity();
    let served = encrypted(&identity).await;
    // One that says nothing holds nobody up, and is cut.
    let mut silent = TcpStream::connect(served.at.http.expect("served"))
        .await
        .expect("it listens");
    let (request, payload) = counting(1 << 20);
    let stream = shake_hands(&identity, served.at.http, b"http/1.1").await;
    let mut connection = Connection::over(stream);
    for _ in 0..2 {
        let reply = soon(connection.exchange(&request)).await;
        assert_eq!(reply.status, 200);
        assert!(reply.body.ends_with(&payload));
    }
    let stream = shake_hands(&identity, served.at.metrics, b"http/1.1").await;
    let mut connection = Connection::over(stream);
    let reply = connection.exchange(&bare("GET", "/metrics")).await;
    assert_eq!(reply.status, 200);

    let stream = shake_hands(&identity, served.at.grpc, b"h2").await;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("it speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let path = "/inference.GRPCInferenceService/ServerLive";
    let request = hyper::Request::post(format!("https://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(bytes::Bytes::from_static(&[0; 5])))
        .expect("a request");
    let reply = soon(sender.send_request(request)).await.expect("a reply");
    let body = soon(reply.into_body().collect()).await.expect("a body");
    let status = body
        .trailers()
        .and_then(|trailers| trailers.get("grpc-status"));
    assert_eq!(status.expect("a status"), "0");
    connection.abort();

    let mut nothing = Vec::new();
    let read = soon(silent.read_to_end(&mut nothing)).await;
    assert!(read.is_err() || nothing.is_empty(), "{nothing:?}");
}

#[tokio::test]
async fn plain_text_is_not_answered_where_tls_is_spoken() {
    let identity = identity();
    let served = encrypted(&identity).await;
    let mut plain = TcpStream::connect(served.at.http.expect("served"))
        .await
        .expect("it listens");
    plain
        .write_all(&bare("GET", "/v2/health/live"))
        .await
        .expect("it reads");
    let mut answer = Vec::new();
    // An alert at most; a reset where the rest of the request was not read.
    let _ = soon(plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

#[test]
fn wrong_certificates_are_named() {
    let (ours, other) = (identity(), identity());
    let missing = PathBuf::from("no/such.pem");
    Tls::read(&ours.certificate, &ours.key).expect("they belong together");
    let fails = |certificate: &PathBuf, key: &PathBuf| {
        let error = Tls::read(certificate, key).expect_err("they do not");
        (error.to_string(), error)
    };
    let (text, error) = fails(&missing, &ours.key);
    assert!(text.contains("certificate `no/such.pem`"), "{text}");
    assert!(matches!(error, TlsError::Unreadable { .. }), "{error:?}");
    let (text, _) = fails(&ours.certificate, &missing);
    assert!(text.contains("private key `no/such.pem`"), "{text}");
    for (certificate, key) in [
        (&ours.key, &ours.key),
        (&ours.certificate, &ours.certificate),
    ] {
        let (text, error) = fails(certificate, key);
        assert!(matches!(error, TlsError::Malformed { .. }), "{text}");
    }
    let (text, error) = fails(&ours.certificate, &other.key);
    assert!(matches!(error, TlsError::Mismatched { .. }), "{text}");
    assert!(text.contains("cert.pem") && text.contains("key.pem"));
}
