//! HTTP: loading, settings, compression, and bodies without JSON.

use super::client::{Connection, Reply, post};
use super::double::{Served, options, serve, serve_with, soon};
use super::http::counting;
use flate2::Compression;
use flate2::read::{GzDecoder, GzEncoder, ZlibDecoder, ZlibEncoder};
use fugato::api::{LoadFile, LoadRequest, TraceContext};
use fugato::error::ErrorKind;
use fugato::server::ServerOptions;
use serde_json::{Value, json};
use std::io::Read as _;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const IDENTITY: &str = "/v2/models/identity/infer";

/// What the double has seen so far.
fn seen<T: Clone>(what: &Mutex<T>) -> T {
    what.lock().expect("no test panics with the lock").clone()
}

async fn send(served: &Served, path: &str, body: &str) -> Reply {
    let mut connection = Connection::open(served.at.http).await;
    connection.exchange(&post(path, body, None)).await
}

#[tokio::test]
async fn models_are_loaded_with_their_files_and_unloaded() {
    let served = serve().await;
    let body = r#"{"parameters":{"config":"{}","file:1/model.onnx":"AAEC/w=="}}"#;
    for body in [body, ""] {
        let reply = send(&served, "/v2/repository/models/new/load", body).await;
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{reply:?}");
    }
    let expected = LoadRequest {
        name: "new".to_owned(),
        config: Some("{}".to_owned()),
        files: vec![LoadFile {
            path: "1/model.onnx".to_owned(),
            content: vec![0, 1, 2, 255].into(),
        }],
    };
    let bare = LoadRequest {
        name: "new".to_owned(),
        ..LoadRequest::default()
    };
    let loads = seen(&served.double.loads);
    assert_eq!(loads, [expected, bare]);
    let body = r#"{"parameters":{"unload_dependents":false}}"#;
    let reply = send(&served, "/v2/repository/models/identity/unload", body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let unloads = seen(&served.double.unloads);
    assert_eq!(unloads, ["identity"]);

    let cases = [
        ("forbidden/load", "", 403, "control_disabled"),
        ("broken/load", "", 400, "load_failed"),
        ("nope/unload", "", 404, "unknown_model"),
        ("a/load", "[", 400, "invalid_request"),
        (
            "a/load",
            r#"{"parameters":{"file:x":"no base64"}}"#,
            400,
            "invalid_value",
        ),
        (
            "a/load",
            r#"{"parameters":{"config":1}}"#,
            400,
            "invalid_value",
        ),
        (
            "a/load",
            r#"{"parameters":{"other":"1"}}"#,
            400,
            "invalid_value",
        ),
        (
            "identity/unload",
            r#"{"parameters":{"unload_dependents":1}}"#,
            400,
            "invalid_value",
        ),
    ];
    for (path, body, status, label) in cases {
        let path = format!("/v2/repository/models/{path}");
        let reply = send(&served, &path, body).await;
        let found = (reply.status, reply.header("fugato-error"));
        assert_eq!(found, (status, label), "{path} {body}: {reply:?}");
    }
}

#[tokio::test]
async fn settings_are_changed_and_taken_back() {
    let served = serve().await;
    for path in ["/v2/trace/setting", "/v2/models/identity/trace/setting"] {
        let body = r#"{"trace_level":["TIMESTAMPS"],"trace_rate":"7"}"#;
        let expected = json!({"trace_level": ["TIMESTAMPS"], "trace_rate": "7"});
        assert_eq!(send(&served, path, body).await.json(), expected);
        let expected = json!({"trace_level": ["TIMESTAMPS"]});
        let cleared = send(&served, path, r#"{"trace_rate":null}"#).await;
        assert_eq!(cleared.json(), expected);
        let reply = send(&served, path, r#"{"trace_rate":{}}"#).await;
        assert_eq!(
            (reply.status, reply.header("fugato-error")),
            (400, "invalid_request")
        );
    }
    let reply = send(&served, "/v2/models/nope/trace/setting", "{}").await;
    assert_eq!(reply.status, 404);
    let body = r#"{"log_info":false,"log_verbose_level":2,"log_format":null}"#;
    let expected = json!({"log_info": false, "log_verbose_level": 2, "log_format": "default"});
    assert_eq!(send(&served, "/v2/logging", body).await.json(), expected);
    let reply = send(&served, "/v2/logging", r#"{"log_verbose_level":-1}"#).await;
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (400, "invalid_request")
    );
    assert!(
        reply.error().contains("a whole number from 0"),
        "{}",
        reply.error()
    );
    let reply = send(&served, "/v2/trace/setting", r#"{"trace_rate":7}"#).await;
    assert!(
        reply.error().contains("neither a string"),
        "{}",
        reply.error()
    );
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = GzEncoder::new(data, Compression::fast());
    encoder.read_to_end(&mut out).expect("memory");
    out
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = ZlibEncoder::new(data, Compression::fast());
    encoder.read_to_end(&mut out).expect("memory");
    out
}

fn with_headers(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {IDENTITY} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn bodies_are_compressed_both_ways() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let (request, payload) = counting(10_000);
    let head = request
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    let body = &request[head + 4..];
    let json = body.len() - payload.len();
    for (name, compressed) in [("gzip", gzip(body)), ("deflate", zlib(body))] {
        let headers = format!(
            "content-encoding: {name}\r\naccept-encoding: {name}\r\n\
             inference-header-content-length: {json}\r\n"
        );
        let reply = connection
            .exchange(&with_headers(&headers, &compressed))
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("content-encoding"), name);
        let mut whole = Vec::new();
        let read = if name == "gzip" {
            GzDecoder::new(&*reply.body).read_to_end(&mut whole)
        } else {
            ZlibDecoder::new(&*reply.body).read_to_end(&mut whole)
        };
        read.expect("it decompresses");
        let length: usize = reply
            .header("inference-header-content-length")
            .parse()
            .expect("a number");
        let json: Value = serde_json::from_slice(&whole[..length]).expect("JSON");
        assert_eq!(json["model_name"], "identity");
        assert_eq!(whole[length..], payload);
    }
}

#[tokio::test]
async fn a_bomb_is_cut_at_the_limit_of_bodies() {
    let served = serve_with(ServerOptions {
        max_body_bytes: 1 << 20,
        ..options()
    })
    .await;
    let mut connection = Connection::open(served.at.http).await;
    let zeros = vec![b' '; 64 << 20];
    for (name, bomb) in [("gzip", gzip(&zeros)), ("deflate", zlib(&zeros))] {
        let headers = format!("content-encoding: {name}\r\n");
        let reply = connection.exchange(&with_headers(&headers, &bomb)).await;
        let found = (reply.status, reply.header("fugato-error"));
        assert_eq!(found, (413, "too_large"), "{reply:?}");
    }
}

#[tokio::test]
async fn a_body_without_json_is_the_input() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    let headers =
        format!("inference-header-content-length: 0\r\ncontent-type: image/raw\r\n{trace}");
    let payload = [1.5f32, 2.5, 3.5].map(f32::to_le_bytes).concat();
    let reply = connection.exchange(&with_headers(&headers, &payload)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let head: usize = reply
        .header("inference-header-content-length")
        .parse()
        .expect("the reply is binary");
    let json: Value = serde_json::from_slice(&reply.body[..head]).expect("JSON");
    assert_eq!(json["outputs"][0]["shape"], json!([1, 3]));
    assert_eq!(reply.body[head..], payload);
    let expected = TraceContext {
        trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
        parent_id: 0x00f0_67aa_0ba9_02b7,
        sampled: true,
    };
    assert_eq!(served.double.last().trace, Some(expected));

    let reply = connection
        .exchange(&with_headers(&headers, &payload[..7]))
        .await;
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (400, "invalid_byte_count")
    );
    let several = String::from_utf8(with_headers(&headers, b"")).expect("text");
    let several = several.replace("identity", "types");
    let reply = connection.exchange(several.as_bytes()).await;
    assert!(
        reply.error().contains("model `types` has 14 inputs"),
        "{reply:?}"
    );
}

#[tokio::test]
async fn bodies_that_end_early_or_are_no_text_are_refused() {
    let served = serve().await;
    // More declared than sent, a chunk cut short, and no end of chunks; the client then
    // closes its half and still reads.
    let head = format!("POST {IDENTITY} HTTP/1.1\r\nhost: test\r\n");
    for rest in [
        "content-length: 9\r\n\r\n{}",
        "transfer-encoding: chunked\r\n\r\n9\r\n{}",
        "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ] {
        let at = served.at.http.expect("HTTP is served");
        let mut stream = tokio::net::TcpStream::connect(at)
            .await
            .expect("it listens");
        let request = format!("{head}{rest}");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        stream
            .shutdown()
            .await
            .expect("half of the connection ends");
        let mut reply = String::new();
        soon(stream.read_to_string(&mut reply))
            .await
            .expect("it closes the other half");
        // Where the server answers at all, it is with the fault.
        let answered = reply.starts_with("HTTP/1.1 400") && reply.contains("ended early");
        assert!(reply.is_empty() || answered, "{rest}: {reply}");
    }
    let refused = seen(&served.double.refused);
    assert_eq!(refused, [ErrorKind::InvalidRequest; 3]);

    let mut connection = Connection::open(served.at.http).await;
    let body = b"{\"id\":\"\xff\",\"inputs\":[]}";
    let reply = connection.exchange(&with_headers("", body)).await;
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (400, "invalid_request")
    );
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_goes_on_is_told_so() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#;
    let path = "/v2/models/%69dentity/versions/1/infer?a=b";
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    connection.send(head.as_bytes()).await;
    let told = soon(connection.reply()).await.expect("it is told");
    assert_eq!(told.status, 100);
    let reply = connection.exchange(body.as_bytes()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}
