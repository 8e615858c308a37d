//! HTTP: every error is typed, worded, and leaves the connection usable.

use super::client::{Connection, bare, post};
use super::double::{options, serve, serve_with, soon};
use super::grpc::{client, floats};
use super::http::counting;
use fugato::error::ErrorKind;
use fugato::server::ServerOptions;

const IDENTITY: &str = "/v2/models/identity/infer";

/// A request's JSON and binary part, and the status, label and message they get.
type Case = (
    &'static str,
    Option<&'static [u8]>,
    u16,
    &'static str,
    &'static str,
);

const CASES: &[Case] = &[
    (
        "{",
        None,
        400,
        "invalid_request",
        "the request body is not the JSON of an inference request: EOF",
    ),
    (
        "",
        None,
        400,
        "invalid_request",
        "the request body is not the JSON",
    ),
    (
        r#"{"id":1,"inputs":[]}"#,
        None,
        400,
        "invalid_request",
        "invalid type: integer `1`, expected a",
    ),
    (
        r#"{"inputs":[],"inputs":[]}"#,
        None,
        400,
        "invalid_request",
        "duplicate field `inputs`",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"shape":[2,1],"data":[1]}]}"#,
        None,
        400,
        "invalid_request",
        "duplicate field `shape`",
    ),
    (
        r#"{"parameters":{"slo_us":NaN},"inputs":[]}"#,
        None,
        400,
        "invalid_request",
        "not the JSON",
    ),
    (
        r#"{"parameters":{"timeout":1e400},"inputs":[]}"#,
        None,
        400,
        "invalid_request",
        "number out of range",
    ),
    (
        r#"{"id":"1"}"#,
        None,
        400,
        "invalid_request",
        "missing field `inputs`",
    ),
    (
        r#"{"inputs":[]}"#,
        None,
        400,
        "missing_input",
        "the request lacks input `x` of model `identity`, which takes `x`",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP31","shape":[1,1],"data":[1]}]}"#,
        None,
        400,
        "invalid_type",
        "input `x` of model `identity` has type `FP31`, expected one of BOOL, UINT8",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"INT8","shape":[1,1],"data":[1]}]}"#,
        None,
        400,
        "invalid_type",
        "has type INT8, expected FP32",
    ),
    (
        r#"{"inputs":[{"name":"z","datatype":"FP32","shape":[1,1],"data":[1]}]}"#,
        None,
        400,
        "unknown_input",
        "model `identity` has no input `z`, it has `x`",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,1],"data":[1]}]}"#,
        None,
        400,
        "invalid_shape",
        "has shape [-1, 1], expected every dimension",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[0,1],"data":[]}]}"#,
        None,
        400,
        "invalid_shape",
        "has shape [0, 1], expected every dimension",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1.5,1],"data":[1]}]}"#,
        None,
        400,
        "invalid_request",
        "floating point `1.5`, expected i64",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}"#,
        None,
        400,
        "invalid_shape",
        "has shape [1], expected [?, ?]",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[9,1],"data":[1,2,3,4,5,6,7,8,9]}]}"#,
        None,
        400,
        "invalid_shape",
        "a batch of 9, expected at most max_batch_size = 8",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[8,4611686018427387904],"data":[1]}]}"#,
        None,
        400,
        "invalid_shape",
        "do not fit in memory",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[1,2]}]}"#,
        None,
        400,
        "invalid_byte_count",
        "has 8 bytes, expected 12 for FP32 of shape [1, 3]",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[[1],[2]]}]}"#,
        None,
        400,
        "invalid_request",
        "has its data with 1 members at depth 2, expected an array that is flat or nested as its shape",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,[2]]}]}"#,
        None,
        400,
        "invalid_request",
        "nested deeper",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[2,1],"data":[[1],2]}]}"#,
        None,
        400,
        "invalid_request",
        "nested unevenly",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[[[1,2]]]}]}"#,
        None,
        400,
        "invalid_request",
        "nested deeper",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":1}]}"#,
        None,
        400,
        "invalid_request",
        "has its data as 1, expected an array",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[{"a":1}]}]}"#,
        None,
        400,
        "invalid_request",
        "as an object",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":["1"]}]}"#,
        None,
        400,
        "invalid_value",
        r#"element 0 of input `x` of model `identity` is "1", expected a number"#,
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1e39]}]}"#,
        None,
        400,
        "invalid_value",
        "is 1e39, expected a number within the range of FP32",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[NaN]}]}"#,
        None,
        400,
        "invalid_request",
        "not the JSON",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1]}]}"#,
        None,
        400,
        "invalid_request",
        "has its data nowhere, expected `data`, parameter `binary_data_size`, or shared memory",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]},{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#,
        None,
        400,
        "duplicate_name",
        "input `x` of model `identity` is named twice",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}],"outputs":[{"name":"q"}]}"#,
        None,
        400,
        "unknown_output",
        "model `identity` has no output `q`, it has `y`",
    ),
    (
        r#"{"parameters":{"slo_us":"5"},"inputs":[]}"#,
        None,
        400,
        "invalid_value",
        "parameter `slo_us` of the request is `5`, expected a whole number of microseconds above 0",
    ),
    (
        r#"{"parameters":{"slo_us":[5]},"inputs":[]}"#,
        None,
        400,
        "invalid_request",
        "expected a string, a number or a boolean",
    ),
    (
        r#"{"parameters":{"sequence_id":5},"inputs":[]}"#,
        None,
        501,
        "unimplemented",
        "parameter `sequence_id` (the sequence extension) is not implemented",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{"shared_memory_region":"r"}}]}"#,
        None,
        400,
        "invalid_value",
        "parameter `shared_memory_byte_size` of input `x` is missing",
    ),
    (
        r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":-3}}]}"#,
        None,
        400,
        "invalid_value",
        "parameter `classification` of output `y` is -3, expected a whole number of classes",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{"binary_data_size":4}}]}"#,
        Some(b"abc"),
        400,
        "invalid_request",
        "the binary part of the request has 3 bytes, its inputs say at least 4",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{"binary_data_size":4}}]}"#,
        Some(b"abcde"),
        400,
        "invalid_request",
        "the binary part of the request has 5 bytes, its inputs say 4",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{"binary_data_size":4}}]}"#,
        None,
        400,
        "invalid_request",
        "the binary part of the request has 0 bytes, its inputs say at least 4",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{"binary_data_size":18446744073709551615}}]}"#,
        Some(b"abcd"),
        400,
        "invalid_request",
        "its inputs say at least 18446744073709551615",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{"binary_data_size":-4}}]}"#,
        Some(b"abcd"),
        400,
        "invalid_value",
        "parameter `binary_data_size` of input `x` is -4, expected a whole number of bytes",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":4}}]}"#,
        Some(b"abcd"),
        400,
        "invalid_byte_count",
        "has 4 bytes, expected 8",
    ),
    (
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1],"parameters":{"binary_data_size":4}}]}"#,
        Some(b"abcd"),
        400,
        "invalid_request",
        "in `data` and in the binary part",
    ),
];

#[tokio::test]
async fn every_bad_body_is_named() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    for &(json, binary, status, label, message) in CASES {
        let reply = connection.exchange(&post(IDENTITY, json, binary)).await;
        let found = (reply.status, reply.header("fugato-error"));
        assert_eq!(found, (status, label), "{json}: {}", reply.error());
        assert!(reply.error().contains(message), "{json}: {}", reply.error());
    }
    let (request, payload) = counting(3);
    let reply = connection.exchange(&request).await;
    assert!(reply.body.ends_with(&payload), "the connection still works");
    // What the service itself refused is the service's to count.
    let refused = served
        .double
        .refused
        .lock()
        .expect("no test panics with the lock");
    let unread = CASES
        .iter()
        .filter(|case| matches!(case.3, "invalid_request" | "unimplemented"));
    assert!(refused.len() >= unread.count(), "{refused:?}");
}

#[tokio::test]
async fn json_refuses_numbers_that_their_type_cannot_hold() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let cases = [
        ("UINT8", "256"),
        ("UINT8", "-1"),
        ("INT8", "128"),
        ("INT32", "1.0"),
        ("INT64", "9223372036854775808"),
        ("UINT64", "18446744073709551616"),
        ("FP16", "65520"),
        ("BF16", "1e39"),
        ("FP64", "1e400"),
        ("BOOL", "1"),
        ("BYTES", "1"),
        ("INT32", "null"),
        ("FP64", "true"),
    ];
    for (element, value) in cases {
        let json = format!(
            r#"{{"inputs":[{{"name":"in_{element}","datatype":"{element}","shape":[1,2],
                "data":[{value},{value}]}}]}}"#
        );
        let request = post("/v2/models/types/infer", &json, None);
        let reply = connection.exchange(&request).await;
        assert_eq!(reply.header("fugato-error"), "invalid_value", "{json}");
        let start = format!("element 0 of input `in_{element}` of model `types` is {value}, ");
        assert!(reply.error().starts_with(&start), "{}", reply.error());
    }
}

#[tokio::test]
async fn json_replies_refuse_what_json_cannot_carry() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let body = |parameters: &str| {
        format!(
            r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}}],
                "outputs":[{{"name":"y"{parameters}}}]}}"#
        )
    };
    let request = post("/v2/models/odd/infer", &body(""), None);
    let reply = connection.exchange(&request).await;
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (400, "invalid_value")
    );
    assert!(
        reply
            .error()
            .contains("element 0 of output `y` of model `odd` is NaN")
    );
    let binary = body(r#","parameters":{"binary_data":true}"#);
    let reply = connection
        .exchange(&post("/v2/models/odd/infer", &binary, None))
        .await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.ends_with(&f32::NAN.to_le_bytes()));
}

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
