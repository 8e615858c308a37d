//! Bad input of each kind, over both protocols: one row for each, with its HTTP status and
//! its gRPC code. What the messages say is for `bodies`, `errors`, `grpc` and `grpc_wire` to
//! test.

use super::client::{Connection, post};
use super::double::{Served, options, serve, serve_with, soon};
use super::grpc::floats;
use super::grpc_wire::{INFER as CALL, exchange, framed, gzip};
use fugato::api::InferenceService as _;
use fugato::error::ErrorKind;
use fugato::server::ServerOptions;
use fugato::server::proto::infer_parameter::ParameterChoice;
use fugato::server::proto::{InferParameter, InferTensorContents, ModelInferRequest};
use fugato::shm::RegisterRegion;
use prost::Message as _;
use std::fs;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const INFER: &str = "/v2/models/identity/infer";

/// The most bytes of a body here.
const BODY_MAX: usize = 10_000;

/// HTTP's status or gRPC's code, and the label of the error.
type Answer = (u16, &'static str);

/// A call of each protocol.
struct Row {
    kind: &'static str,
    http: Vec<u8>,
    /// Whether the client then closes its half of the connection.
    http_is_cut: bool,
    http_gets: Answer,
    /// Headers in place of the content type, and the body.
    grpc: (&'static [(&'static str, &'static str)], Vec<u8>),
    grpc_gets: Answer,
}

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc")];

/// A request with one input, as JSON says it.
fn json(kind: &'static str, input: &str, http_gets: Answer) -> Row {
    let body = format!(r#"{{"inputs":[{input}]}}"#);
    Row {
        kind,
        http: post(INFER, &body, None),
        http_is_cut: false,
        http_gets,
        grpc: (GRPC, Vec::new()),
        grpc_gets: (0, ""),
    }
}

impl Row {
    /// The same fault in a message.
    fn message(self, change: fn(&mut ModelInferRequest), grpc_gets: Answer) -> Self {
        let mut request = floats("identity", &[1.0]);
        change(&mut request);
        self.call(GRPC, framed(0, &request.encode_to_vec()), grpc_gets)
    }

    /// The same fault in what carries a message.
    fn call(
        self,
        headers: &'static [(&'static str, &'static str)],
        body: Vec<u8>,
        grpc_gets: Answer,
    ) -> Self {
        Self {
            grpc: (headers, body),
            grpc_gets,
            ..self
        }
    }

    /// Another request in place of the JSON.
    fn http(self, http: Vec<u8>) -> Self {
        Self { http, ..self }
    }
}

/// A request of a body and headers of its own.
fn with_headers(headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {INFER} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {length}");
    [head.as_bytes(), b"\r\n\r\n", body].concat()
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter {
        parameter_choice: Some(choice),
    }
}

fn tensors() -> Vec<Row> {
    const X: &str = r#"{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}"#;
    vec![
        json(
            "a wrong type where a tensor is told",
            r#"{"name":7,"datatype":"FP32","shape":[1,1],"data":[1]}"#,
            (400, "invalid_request"),
        )
        // Field 5, the inputs, as a number.
        .call(GRPC, framed(0, b"\x28\x07"), (3, "invalid_request")),
        json(
            "a type of elements that is not the model's",
            r#"{"name":"x","datatype":"INT8","shape":[1,1],"data":[1]}"#,
            (400, "invalid_type"),
        )
        .message(
            |request| request.inputs[0].datatype = "INT8".to_owned(),
            (3, "invalid_type"),
        ),
        json(
            "a shape whose product overflows",
            r#"{"name":"x","datatype":"FP32","shape":[8,4611686018427387904],"data":[1]}"#,
            (400, "invalid_shape"),
        )
        .message(
            |request| request.inputs[0].shape = vec![8, 1 << 62],
            (3, "invalid_shape"),
        ),
        json(
            "a negative size",
            r#"{"name":"x","datatype":"FP32","shape":[1,-1],"data":[1]}"#,
            (400, "invalid_shape"),
        )
        .message(
            |request| request.inputs[0].shape = vec![1, -1],
            (3, "invalid_shape"),
        ),
        json(
            "sizes that disagree",
            r#"{"name":"x","datatype":"FP32","shape":[1,2],"data":[1]}"#,
            (400, "invalid_byte_count"),
        )
        .message(
            |request| request.inputs[0].shape = vec![1, 2],
            (3, "invalid_byte_count"),
        ),
        json(
            "an input twice",
            &format!("{X},{X}"),
            (400, "duplicate_name"),
        )
        .message(
            |request| {
                request.inputs.push(request.inputs[0].clone());
                let raw = request.raw_input_contents[0].clone();
                request.raw_input_contents.push(raw);
            },
            (3, "duplicate_name"),
        ),
        json(
            "elements in two places",
            r#"{"name":"x","datatype":"FP32","shape":[1,1],"data":[1],"parameters":{"binary_data_size":4}}"#,
            (400, "invalid_request"),
        )
        .message(
            |request| request.inputs[0].contents = Some(InferTensorContents::default()),
            (3, "invalid_request"),
        ),
    ]
}

fn parameters() -> Vec<Row> {
    const REGION: &str = r#"{"shared_memory_region":"none","shared_memory_byte_size":4}"#;
    let unknown =
        format!(r#"{{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{REGION}}}"#);
    vec![
        json("a parameter that is NaN", "", (400, "invalid_request"))
            .http(post(
                INFER,
                r#"{"parameters":{"slo_us":NaN},"inputs":[]}"#,
                None,
            ))
            .message(
                |request| {
                    let nan = parameter(ParameterChoice::DoubleParam(f64::NAN));
                    request.parameters.insert("slo_us".to_owned(), nan);
                },
                (3, "invalid_value"),
            ),
        json(
            "a region that is unknown",
            &unknown,
            (404, "unknown_region"),
        )
        .message(
            |request| {
                let name = parameter(ParameterChoice::StringParam("none".to_owned()));
                let size = parameter(ParameterChoice::Int64Param(4));
                let of = &mut request.inputs[0].parameters;
                of.insert("shared_memory_region".to_owned(), name);
                of.insert("shared_memory_byte_size".to_owned(), size);
                request.raw_input_contents.clear();
            },
            (5, "unknown_region"),
        ),
    ]
}

fn carriers() -> Vec<Row> {
    let whole = framed(0, &floats("identity", &[1.0]).encode_to_vec());
    let cut = whole[..whole.len() - 1].to_vec();
    let zeros = gzip(&vec![b' '; 100 * BODY_MAX]);
    let bomb = with_headers("content-encoding: gzip\r\n", zeros.len(), &zeros);
    const HEADER: &str = "inference-header-content-length: 9\r\n";
    const GZIP: &[(&str, &str)] = &[GRPC[0], ("grpc-encoding", "gzip")];
    const TEXT: &[(&str, &str)] = &[("content-type", "text/plain")];
    vec![
        json("text that is not UTF-8", "", (400, "invalid_request"))
            .http(with_headers("", 9, b"{\"id\":\"\xff\""))
            // Field 1, the model's name.
            .call(GRPC, framed(0, b"\x0a\x01\xff"), (3, "invalid_request")),
        json("a gzip bomb", "", (413, "too_large")).http(bomb).call(
            GZIP,
            framed(1, &zeros),
            (8, "too_large"),
        ),
        json("headers without a body", "", (400, "invalid_request"))
            .http(with_headers(HEADER, 0, b""))
            .call(GRPC, Vec::new(), (3, "invalid_request")),
        Row {
            http_is_cut: true,
            ..json("a half-closed stream", "", (400, "invalid_request"))
                .http(with_headers("", 100, b"{"))
                .call(GRPC, cut, (3, "invalid_request"))
        },
        json("a wrong content type", "", (415, "unsupported_media_type"))
            .http(with_headers("content-type: image/png\r\n", 2, b"{}"))
            .call(TEXT, whole, (3, "invalid_request")),
    ]
}

/// Sends a request and, where it is cut, no more. A client that left is counted, and gets
/// its answer where it can still be written.
async fn http(served: &Served, request: &[u8], cut: bool) -> (u16, String) {
    let at = served.at.http.expect("HTTP is served");
    let mut stream = TcpStream::connect(at).await.expect("it listens");
    let sent = stream.write_all(request).await;
    sent.expect("the server reads");
    if cut {
        stream.shutdown().await.expect("half of it can be closed");
    }
    let reply = soon(Connection::over(stream).reply()).await;
    if let Some(reply) = reply {
        return (reply.status, reply.header("fugato-error").to_owned());
    }
    assert!(cut, "who waits is answered");
    let refused = served.double.refused.lock().expect("no test panics");
    assert_eq!(refused.last(), Some(&ErrorKind::InvalidRequest));
    (400, "invalid_request".to_owned())
}

async fn grpc(served: &Served, row: &Row) -> (u16, String) {
    let (headers, body) = &row.grpc;
    let reply = exchange(served, "POST", CALL, headers, body.clone()).await;
    let code = reply.field("grpc-status").parse();
    let code = code.expect("every answer has a code");
    (code, reply.field("fugato-error").to_owned())
}

#[tokio::test]
async fn every_kind_of_bad_input_has_its_status_and_code() {
    let served = serve_with(ServerOptions {
        max_body_bytes: BODY_MAX,
        ..options()
    })
    .await;
    let mut wrong = Vec::new();
    let rows = [tensors(), parameters(), carriers()];
    for row in rows.into_iter().flatten() {
        let found = (
            http(&served, &row.http, row.http_is_cut).await,
            grpc(&served, &row).await,
        );
        let owned = |(code, label): Answer| (code, label.to_owned());
        let expected = (owned(row.http_gets), owned(row.grpc_gets));
        if found != expected {
            wrong.push(format!("{}: {found:?}, expected {expected:?}", row.kind));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let good = post(
        INFER,
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#,
        None,
    );
    assert_eq!(
        http(&served, &good, false).await,
        (200, String::new()),
        "it still serves"
    );
}

#[tokio::test]
async fn a_region_unregistered_mid_request_serves_it_and_no_other() {
    let mut served = serve().await;
    let content: Vec<u8> = 1.5f32.to_le_bytes().to_vec();
    fs::write(served.double.folder.path().join("r"), content).expect("a file can be written");
    let region = RegisterRegion {
        name: "r".to_owned(),
        key: "/r".to_owned(),
        offset: 0,
        byte_size: 4,
    };
    let http_request = post(
        "/v2/models/held/infer",
        r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}}]}"#,
        None,
    );
    let mut message = floats("held", &[1.5]);
    message.raw_input_contents.clear();
    let name = parameter(ParameterChoice::StringParam("r".to_owned()));
    let size = parameter(ParameterChoice::Int64Param(4));
    message.inputs[0].parameters = [
        ("shared_memory_region".to_owned(), name),
        ("shared_memory_byte_size".to_owned(), size),
    ]
    .into();
    let row = json("", "", (0, "")).call(GRPC, framed(0, &message.encode_to_vec()), (0, ""));
    let regions = served.double.regions().clone();
    let mut began = std::mem::replace(
        &mut served.events.began,
        tokio::sync::mpsc::unbounded_channel().1,
    );
    let gate = std::sync::Arc::clone(&served.double);
    let meanwhile = async {
        for _ in 0..2 {
            soon(began.recv()).await;
        }
        regions.unregister(Some("r")).expect("it is on");
        gate.gate.add_permits(2);
    };
    served
        .double
        .regions()
        .register(&region)
        .expect("the file holds it");
    let (over_http, over_grpc, ()) = tokio::join!(
        http(&served, &http_request, false),
        grpc(&served, &row),
        meanwhile
    );
    assert_eq!(
        (over_http, over_grpc),
        ((200, String::new()), (0, String::new()))
    );
    let late = (
        http(&served, &http_request, false).await,
        grpc(&served, &row).await,
    );
    let unknown = "unknown_region".to_owned();
    assert_eq!(late, ((404, unknown.clone()), (5, unknown)));
}
