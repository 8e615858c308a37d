//! A double of a server: both protocols on one loopback port, scripted answers.
//!
//! Its model takes any inputs and answers output `y`, FP32 [1], with the value 1.

use super::client::ServerUrl;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// What the double does with one request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Answers 1, saying that the batch was of this size.
    Answer { batch: u32 },
    /// Answers 1 after it has kept itself, and so every request behind, busy.
    Stall(Duration),
    /// Answers 2.
    Lie,
    /// Refuses for load: 503 or UNAVAILABLE.
    Reject,
    /// Fails: 500 or INTERNAL.
    Fail,
    /// Never answers.
    Hang,
}

/// The double, on until its runtime ends.
pub(super) struct Double {
    http: ServerUrl,
    grpc: ServerUrl,
    seen: Arc<AtomicUsize>,
}

struct Script {
    act: Box<dyn Fn(usize) -> Act + Send + Sync>,
    seen: Arc<AtomicUsize>,
    /// Requests are answered one at a time.
    busy: Mutex<()>,
}

impl Double {
    /// Starts a double that does `act(n)` with the n-th request, from 0.
    pub(super) async fn start(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let seen = Arc::new(AtomicUsize::new(0));
        let script = Arc::new(Script {
            act: Box::new(act),
            seen: Arc::clone(&seen),
            busy: Mutex::new(()),
        });
        let service = "/inference.GRPCInferenceService";
        let app = Router::new()
            .route("/v2/models/m", get(http_metadata))
            .route("/v2/models/m/infer", post(http_infer))
            .route(&format!("{service}/ModelMetadata"), post(grpc_metadata))
            .route(&format!("{service}/ModelInfer"), post(grpc_infer))
            .with_state(script);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a loopback port");
        let address = listener.local_addr().expect("a bound listener");
        tokio::spawn(async move { axum::serve(listener, app).await });
        let url = |scheme| format!("{scheme}://{address}").parse().expect("an address");
        Self {
            http: url("http"),
            grpc: url("grpc"),
            seen,
        }
    }

    /// The address for HTTP.
    pub(super) fn http(&self) -> ServerUrl {
        self.http.clone()
    }

    /// The address for gRPC.
    pub(super) fn grpc(&self) -> ServerUrl {
        self.grpc.clone()
    }

    /// Inference requests seen so far.
    pub(super) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Script {
    /// The next act, once the double is free.
    async fn next(&self) -> Act {
        let act = (self.act)(self.seen.fetch_add(1, Ordering::SeqCst));
        let _busy = self.busy.lock().await;
        if let Act::Stall(time) = act {
            tokio::time::sleep(time).await;
        }
        act
    }
}

async fn http_metadata() -> String {
    let input = r#"{"name":"x","datatype":"FP32","shape":[-1,4]}"#;
    format!(r#"{{"name":"m","inputs":[{input}],"outputs":[]}}"#)
}

async fn http_infer(
    State(script): State<Arc<Script>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let length = headers["inference-header-content-length"].to_str();
    let length: usize = length.expect("text").parse().expect("a length");
    let json: serde_json::Value = serde_json::from_slice(&body[..length]).expect("JSON");
    assert_eq!(json["inputs"][0]["shape"], serde_json::json!([1, 4]));
    assert_eq!(body.len(), length + 16);
    let (batch, value) = match script.next().await {
        Act::Answer { batch } => (batch, 1.0_f32),
        Act::Stall(_) => (1, 1.0),
        Act::Lie => (1, 2.0),
        Act::Reject => {
            return (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"full"}"#).into_response();
        }
        Act::Fail => return (StatusCode::INTERNAL_SERVER_ERROR, "broken").into_response(),
        Act::Hang => std::future::pending().await,
    };
    let output =
        r#"{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}"#;
    let json = format!(r#"{{"parameters":{{"batch_size":{batch}}},"outputs":[{output}]}}"#);
    let mut reply = BytesMut::from(json.as_bytes());
    reply.put_f32_le(value);
    let length = [("inference-header-content-length", json.len().to_string())];
    (length, reply.freeze()).into_response()
}

/// The messages, spelt by number here so that the client's are checked against them.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    model: String,
    #[prost(message, repeated, tag = "5")]
    inputs: Vec<InputOrOutput>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    contents: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InputOrOutput {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Metadata {
    #[prost(message, repeated, tag = "4")]
    inputs: Vec<InputOrOutput>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Int64 {
    #[prost(int64, tag = "2")]
    value: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(btree_map = "string, message", tag = "4")]
    parameters: std::collections::BTreeMap<String, Int64>,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<InputOrOutput>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    contents: Vec<Bytes>,
}

async fn grpc_metadata(body: Bytes) -> Response {
    let asked = InputOrOutput::decode(&body[5..]).expect("a request behind its frame");
    if asked.name != "m" {
        return grpc_error("5");
    }
    let inputs = vec![InputOrOutput {
        name: "x".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![-1, 4],
    }];
    grpc_reply(&Metadata { inputs })
}

async fn grpc_infer(State(script): State<Arc<Script>>, body: Bytes) -> Response {
    let request = Request::decode(&body[5..]).expect("a request behind its frame");
    assert_eq!(request.model, "m");
    assert_eq!(request.inputs[0].shape, [1, 4]);
    assert_eq!(request.contents[0].len(), 16);
    let (batch, value) = match script.next().await {
        Act::Answer { batch } => (batch, 1.0_f32),
        Act::Stall(_) => (1, 1.0),
        Act::Lie => (1, 2.0),
        Act::Reject => return grpc_error("14"),
        Act::Fail => return grpc_error("13"),
        Act::Hang => std::future::pending().await,
    };
    let value_of = |value: u32| Int64 {
        value: i64::from(value),
    };
    grpc_reply(&Answer {
        parameters: [("batch_size".to_owned(), value_of(batch))].into(),
        outputs: vec![InputOrOutput {
            name: "y".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1],
        }],
        contents: vec![value.to_le_bytes().to_vec().into()],
    })
}

const GRPC: (header::HeaderName, HeaderValue) = (
    header::CONTENT_TYPE,
    HeaderValue::from_static("application/grpc"),
);

fn grpc_reply(message: &impl prost::Message) -> Response {
    let length = u32::try_from(message.encoded_len()).expect("a short message");
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(length);
    message.encode(&mut frame).expect("room in the buffer");
    let trailers = std::future::ready(Some(Ok(HeaderMap::from_iter([(
        header::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]))));
    let body = Body::new(Full::new(frame.freeze()).with_trailers(trailers));
    ([GRPC], body).into_response()
}

fn grpc_error(code: &'static str) -> Response {
    let status = [("grpc-status", code), ("grpc-message", "refused")];
    ([GRPC], status).into_response()
}
