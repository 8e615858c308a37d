//! HTTP: what works.

use super::client::{Connection, bare, post};
use super::double::{Served, serve, serve_with, soon};
use fugato::server::ServerOptions;
use fugato_core::Nanos;
use fugato_device::ElementType;
use serde_json::{Value, json};

const IDENTITY: &str = "/v2/models/identity/infer";
const TYPES: &str = "/v2/models/types/infer";

async fn get(served: &Served, path: &str) -> Value {
    let mut connection = Connection::open(served.at.http).await;
    let reply = connection.exchange(&bare("GET", path)).await;
    assert_eq!(reply.status, 200, "{path}: {reply:?}");
    if reply.body.is_empty() {
        Value::Null
    } else {
        assert_eq!(reply.header("content-type"), "application/json");
        reply.json()
    }
}

#[tokio::test]
async fn health_and_metadata() {
    let served = serve().await;
    for path in [
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/identity/ready",
        "/v2/models/identity/versions/1/ready",
    ] {
        assert_eq!(get(&served, path).await, Value::Null, "{path}");
    }
    let server = get(&served, "/v2").await;
    assert_eq!(server["name"], "fugato");
    let extensions = server["extensions"].as_array().expect("a list");
    assert!(extensions.contains(&json!("binary_tensor_data")));

    let tensor = |name: &str| json!({"name": name, "datatype": "FP32", "shape": [-1, -1]});
    let expected = json!({
        "name": "identity", "versions": ["1"], "platform": "onnxruntime_onnx",
        "inputs": [tensor("x")], "outputs": [tensor("y")],
    });
    assert_eq!(get(&served, "/v2/models/identity").await, expected);
    assert_eq!(
        get(&served, "/v2/models/identity/versions/1").await,
        expected
    );

    let config = get(&served, "/v2/models/identity/config").await;
    assert_eq!(config["max_batch_size"], 8);
    // As Triton prints it: what has its default is there too.
    let input = json!([{
        "name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [-1],
        "is_shape_tensor": false, "allow_ragged_batch": false, "optional": false,
        "is_non_linear_format_io": false,
    }]);
    assert_eq!(config["input"], input);
    assert_eq!(config["instance_group"], json!([]));
}

#[tokio::test]
async fn the_repository_index_lists_models_with_their_reason() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let all = connection
        .exchange(&bare("POST", "/v2/repository/index"))
        .await
        .json();
    let broken = json!({
        "name": "broken", "version": "1", "state": "UNAVAILABLE",
        "reason": "operator `Nope` is unknown",
    });
    assert!(all.as_array().expect("a list").contains(&broken));
    let ready = post("/v2/repository/index", r#"{"ready": true}"#, None);
    let ready = connection.exchange(&ready).await.json();
    assert_eq!(ready.as_array().map(Vec::len), Some(5), "{ready}");
}

#[tokio::test]
async fn statistics_are_in_the_form_of_triton() {
    let served = serve().await;
    let counted = |count: u64| json!({"count": count, "ns": count * 1000});
    let identity = json!({
        "name": "identity", "version": "1", "last_inference": 1,
        "inference_count": 2, "execution_count": 3,
        "inference_stats": {
            "success": counted(4), "fail": counted(5), "queue": counted(7),
            "compute_input": counted(8), "compute_infer": counted(9),
            "compute_output": counted(10), "cache_hit": counted(0), "cache_miss": counted(0),
        },
        "batch_stats": [{
            "batch_size": 11, "compute_input": counted(12), "compute_infer": counted(13),
            "compute_output": counted(14),
        }],
    });
    for path in [
        "/v2/models/identity/stats",
        "/v2/models/identity/versions/1/stats",
    ] {
        let expected = json!({ "model_stats": [identity] });
        assert_eq!(get(&served, path).await, expected, "{path}");
    }
    let all = get(&served, "/v2/models/stats").await;
    let models = all["model_stats"].as_array().expect("a list");
    assert_eq!((models.len(), &models[0]), (5, &identity));
    let mut connection = Connection::open(served.at.http).await;
    for path in [
        "/v2/models/nope/stats",
        "/v2/models/identity/versions/7/stats",
    ] {
        let reply = connection.exchange(&bare("GET", path)).await;
        assert_eq!(reply.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_models_profile_says_how_it_stands() {
    let served = serve().await;
    for path in [
        "/v2/models/identity/profile",
        "/v2/models/identity/versions/1/profile",
    ] {
        let profile = get(&served, path).await;
        assert_eq!(profile["schema"], "fugato.profile/1", "{profile}");
        assert_eq!(profile["models"], json!([]));
        let serving = json!({
            "median_from": "online", "tail_from": "online", "online_error": 0.25,
            "drifted": false, "measuring": true, "points": 3, "device_seconds": 0.5,
        });
        assert_eq!(profile["serving"], serving);
    }
    let mut connection = Connection::open(served.at.http).await;
    let unknown = bare("GET", "/v2/models/nope/profile");
    assert_eq!(connection.exchange(&unknown).await.status, 404);
}

#[tokio::test]
async fn metrics_have_their_own_port() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.metrics).await;
    let reply = connection.exchange(&bare("GET", "/metrics")).await;
    assert!(
        reply
            .header("content-type")
            .starts_with("application/openmetrics-text")
    );
    assert!(String::from_utf8_lossy(&reply.body).contains("up 1"));
    let mut connection = Connection::open(served.at.http).await;
    let reply = connection.exchange(&bare("GET", "/metrics")).await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn json_in_and_out_flat_or_nested() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    for data in ["[1.5, -2, 3e2, 0.1]", "[[1.5, -2],\n [3e2, 0.1]]"] {
        let body = format!(
            r#"{{"id": "a\"b", "inputs": [
                {{"data": {data}, "name": "x", "shape": [2, 2], "datatype": "FP32"}}]}}"#
        );
        let reply = connection.exchange(&post(IDENTITY, &body, None)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let expected = json!({
            "id": "a\"b", "model_name": "identity", "model_version": "1",
            "parameters": {"batch_size": 2},
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 2],
                         "data": [1.5, -2.0, 300.0, 0.1]}],
        });
        assert_eq!(reply.json(), expected);
    }
}

/// JSON of two values of each type that stretch it.
fn extremes(element: ElementType) -> &'static str {
    match element {
        ElementType::Bool => "[true,false]",
        ElementType::Uint8 => "[0,255]",
        ElementType::Uint16 => "[0,65535]",
        ElementType::Uint32 => "[0,4294967295]",
        ElementType::Uint64 => "[0,18446744073709551615]",
        ElementType::Int8 => "[-128,127]",
        ElementType::Int16 => "[-32768,32767]",
        ElementType::Int32 => "[-2147483648,2147483647]",
        ElementType::Int64 => "[-9223372036854775808,9223372036854775807]",
        ElementType::Fp16 => "[-65504.0,0.099975586]",
        ElementType::Bf16 => "[-3.0,0.10009766]",
        ElementType::Fp32 => "[-3.4028235e38,1e-45]",
        ElementType::Fp64 => "[-1.7976931348623157e308,5e-324]",
        ElementType::Bytes => r#"["grüß \"dich\"\n","\u0001"]"#,
    }
}

#[tokio::test]
async fn every_type_goes_through_json_exactly() {
    let served = serve().await;
    let inputs = ElementType::ALL.map(|element| {
        let data = extremes(element);
        format!(r#"{{"name":"in_{element}","datatype":"{element}","shape":[1,2],"data":{data}}}"#)
    });
    let body = format!(r#"{{"inputs":[{}]}}"#, inputs.join(","));
    let mut connection = Connection::open(served.at.http).await;
    let reply = connection.exchange(&post(TYPES, &body, None)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    for element in ElementType::ALL {
        let data = match element {
            // Half floats print as the shortest double of their value.
            ElementType::Fp16 => "[-65504.0,0.0999755859375]",
            ElementType::Bf16 => "[-3.0,0.10009765625]",
            ElementType::Bool
            | ElementType::Uint8
            | ElementType::Uint16
            | ElementType::Uint32
            | ElementType::Uint64
            | ElementType::Int8
            | ElementType::Int16
            | ElementType::Int32
            | ElementType::Int64
            | ElementType::Fp32
            | ElementType::Fp64
            | ElementType::Bytes => extremes(element),
        };
        let expected = format!(
            r#"{{"name":"out_{element}","datatype":"{element}","shape":[1,2],"data":{data}}}"#
        );
        assert!(text.contains(&expected), "{expected} in {text}");
    }
}

#[tokio::test]
async fn every_type_goes_through_binary_unchanged() {
    let served = serve().await;
    let mut binary = Vec::new();
    let mut sizes = Vec::new();
    let inputs = ElementType::ALL.map(|element| {
        let raw: Vec<u8> = match element.size() {
            Some(size) => (0..2 * size).map(|byte| (byte % 2) as u8).collect(),
            None => b"\x02\0\0\0\xff\xfe\0\0\0\0".to_vec(),
        };
        binary.extend_from_slice(&raw);
        sizes.push(raw.len());
        let size = raw.len();
        format!(
            r#"{{"name":"in_{element}","datatype":"{element}","shape":[1,2],
                 "parameters":{{"binary_data_size":{size}}}}}"#
        )
    });
    let body = format!(
        r#"{{"parameters":{{"binary_data_output":true}},"inputs":[{}]}}"#,
        inputs.join(",")
    );
    let mut connection = Connection::open(served.at.http).await;
    let reply = connection
        .exchange(&post(TYPES, &body, Some(&binary)))
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let head: usize = reply
        .header("inference-header-content-length")
        .parse()
        .expect("a binary reply says where its JSON ends");
    let json: Value = serde_json::from_slice(&reply.body[..head]).expect("JSON");
    for (index, size) in sizes.iter().enumerate() {
        let parameters = &json["outputs"][index]["parameters"];
        assert_eq!(*parameters, json!({"binary_data_size": size}));
    }
    assert_eq!(reply.body[head..], binary);
    assert_eq!(reply.header("content-type"), "application/octet-stream");
}

#[tokio::test]
async fn json_and_binary_mix_and_outputs_come_as_asked() {
    let served = serve().await;
    let others: Vec<String> = ElementType::ALL
        .into_iter()
        .filter(|element| !matches!(element, ElementType::Fp32 | ElementType::Int8))
        .map(|element| {
            let data = extremes(element);
            format!(
                r#"{{"name":"in_{element}","datatype":"{element}","shape":[1,2],"data":{data}}}"#
            )
        })
        .collect();
    let body = format!(
        r#"{{"inputs":[
            {{"name":"in_INT8","datatype":"INT8","shape":[2,2],
              "parameters":{{"binary_data_size":4}}}},
            {},
            {{"name":"in_FP32","datatype":"FP32","shape":[1,2],
              "parameters":{{"binary_data_size":8}}}}],
          "outputs":[{{"name":"out_INT8"}},
                     {{"name":"out_FP32","parameters":{{"binary_data":true}}}}]}}"#,
        others.join(",")
    );
    let binary = b"\x01\x02\x03\xff\0\0\x80\x3f\0\0\0\x40";
    let mut connection = Connection::open(served.at.http).await;
    let reply = connection.exchange(&post(TYPES, &body, Some(binary))).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let head: usize = reply
        .header("inference-header-content-length")
        .parse()
        .expect("a binary output");
    let json: Value = serde_json::from_slice(&reply.body[..head]).expect("JSON");
    let expected = json!([
        {"name": "out_INT8", "datatype": "INT8", "shape": [2, 2], "data": [1, 2, 3, -1]},
        {"name": "out_FP32", "datatype": "FP32", "shape": [1, 2],
         "parameters": {"binary_data_size": 8}},
    ]);
    assert_eq!(json["outputs"], expected);
    assert_eq!(reply.body[head..], binary[4..]);
}

#[tokio::test]
async fn parameters_reach_the_service() {
    let served = serve().await;
    let body = r#"{"parameters":{"slo_us":2500,"timeout":7,"priority":3,"mine":"x"},
        "inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}"#;
    let mut connection = Connection::open(served.at.http).await;
    let path = "/v2/models/identity/versions/1/infer";
    let reply = connection.exchange(&post(path, body, None)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let seen = served.double.last();
    assert_eq!(seen.left, Some(Nanos::from_micros(2500)));
    assert_eq!(seen.queue_timeout, Some(Nanos::from_micros(7)));
    assert_eq!((seen.priority, seen.version.as_deref()), (3, Some("1")));
}

/// A binary request to `identity` of `floats` floats that count up, and its payload.
pub(crate) fn counting(floats: usize) -> (Vec<u8>, Vec<u8>) {
    #[expect(clippy::cast_precision_loss, reason = "any values do")]
    let payload: Vec<u8> = (0..floats).flat_map(|n| (n as f32).to_le_bytes()).collect();
    let json = format!(
        r#"{{"parameters":{{"binary_data_output":true}},"inputs":[{{"name":"x",
            "datatype":"FP32","shape":[1,{floats}],
            "parameters":{{"binary_data_size":{}}}}}]}}"#,
        payload.len()
    );
    (post(IDENTITY, &json, Some(&payload)), payload)
}

#[tokio::test]
async fn large_bodies_pass_whole_and_chunked() {
    let served = serve_with(ServerOptions {
        max_body_bytes: 32 << 20,
        ..super::double::options()
    })
    .await;
    let (request, payload) = counting(4 << 20);
    let (mut sender, receiver) = {
        let at = served.at.http.expect("HTTP is served");
        let stream = tokio::net::TcpStream::connect(at)
            .await
            .expect("it listens");
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
            .await
            .expect("it speaks HTTP")
    };
    let connection = tokio::spawn(receiver);
    let head_end = request.windows(4).position(|four| four == b"\r\n\r\n");
    let body = request[head_end.expect("a head") + 4..].to_vec();
    let json_length = body.len() - payload.len();
    for chunked in [false, true] {
        let pieces = body.chunks(if chunked { 100_000 } else { body.len() });
        let frames: Vec<Result<_, std::convert::Infallible>> = pieces
            .map(|piece| {
                Ok(hyper::body::Frame::data(bytes::Bytes::copy_from_slice(
                    piece,
                )))
            })
            .collect();
        let mut builder = hyper::Request::post(IDENTITY)
            .header("inference-header-content-length", json_length)
            .header("host", "test");
        if !chunked {
            builder = builder.header("content-length", body.len());
        }
        let stream = http_body_util::StreamBody::new(Frames(frames.into_iter()));
        let request = builder.body(stream).expect("a request");
        let reply = soon(sender.send_request(request)).await.expect("a reply");
        assert_eq!(reply.status(), 200);
        let body = http_body_util::BodyExt::collect(reply.into_body());
        let body = soon(body).await.expect("a body").to_bytes();
        assert!(body.ends_with(&payload), "{} bytes came back", body.len());
    }
    drop(sender);
    soon(connection)
        .await
        .expect("no panic")
        .expect("a clean end");
}

/// An iterator as a stream.
struct Frames<I>(I);

impl<I: Iterator + Unpin> tokio_stream::Stream for Frames<I> {
    type Item = I::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<I::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

#[tokio::test]
async fn requests_pipeline_on_one_connection() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let (request, payload) = counting(100);
    connection
        .send(&[request.as_slice(), &request].concat())
        .await;
    for _ in 0..2 {
        let reply = soon(connection.reply()).await.expect("both are answered");
        assert!(reply.body.ends_with(&payload));
    }
}
