//! The protocol over HTTP/1.1, tensors in the binary extension.

use super::{
    Call, CallError, ERROR_LABEL, InputFrom, OutputTo, Outputs, Reply, ReplyFault, Tensor,
    TensorSpec, described, output, spec,
};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use bytes::{Bytes, BytesMut};
use fugato_core::Nanos;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::json;

/// The header that says how much of a body is JSON; the rest is tensors.
const JSON_LENGTH: &str = "inference-header-content-length";

/// Characters of an error body that are kept.
const MESSAGE_LENGTH: usize = 300;

#[derive(Clone, Debug)]
pub(super) struct HttpClient {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A request whose JSON is open: its last brace, and what outputs go where, come when it
/// is sent.
#[derive(Clone, Debug)]
pub(super) struct PreparedHttp {
    path: String,
    json: Bytes,
    /// The tensors that come with the request; with the JSON in one piece where nothing
    /// is said of outputs.
    body: Bytes,
}

/// What closes the JSON of a request whose outputs go to these places.
pub(super) fn outputs(outputs: &[OutputTo<'_>]) -> Bytes {
    let outputs = outputs.iter().map(|output| {
        json!({
            "name": output.name,
            "parameters": region_parameters(output.region, output.offset, output.size),
        })
    });
    let outputs: Vec<_> = outputs.collect();
    format!(",\"outputs\":{}}}", serde_json::Value::from(outputs)).into()
}

fn region_parameters(region: &str, offset: u64, size: u64) -> serde_json::Value {
    json!({
        "shared_memory_region": region,
        "shared_memory_offset": offset,
        "shared_memory_byte_size": size,
    })
}

impl PreparedHttp {
    pub(super) fn new(
        model: &str,
        inputs: &[Tensor],
        from: &[InputFrom<'_>],
        slo: Option<Nanos>,
    ) -> Self {
        let tensors: Vec<_> = inputs
            .iter()
            .zip(from)
            .map(|(input, from)| {
                let parameters = match *from {
                    InputFrom::Request => json!({ "binary_data_size": input.data.len() }),
                    InputFrom::Region {
                        region,
                        offset,
                        size,
                    } => region_parameters(region, offset, size),
                };
                json!({
                    "name": input.name,
                    "datatype": input.element.oip_name(),
                    "shape": input.shape,
                    "parameters": parameters,
                })
            })
            .collect();
        let mut parameters = json!({ "binary_data_output": true });
        if let Some(slo) = slo {
            parameters["slo_us"] = json!(slo.as_nanos() / 1_000);
        }
        let mut header = json!({ "inputs": tensors, "parameters": parameters }).to_string();
        let closed = header.len();
        let sent: Vec<&Bytes> = inputs
            .iter()
            .zip(from)
            .filter(|(_, from)| matches!(from, InputFrom::Request))
            .map(|(input, _)| &input.data)
            .collect();
        let payload: usize = sent.iter().map(|data| data.len()).sum();
        let mut body = BytesMut::with_capacity(closed + payload);
        body.extend_from_slice(header.as_bytes());
        for data in sent {
            body.extend_from_slice(data);
        }
        header.truncate(closed - 1);
        Self {
            path: format!("/v2/models/{}/infer", escaped(model)),
            json: header.into(),
            body: body.freeze(),
        }
    }

    /// The JSON's length and the body, with `to` as the outputs.
    fn body(&self, to: Option<&Bytes>) -> (usize, Bytes) {
        let closed = self.json.len() + 1;
        let Some(to) = to else {
            return (closed, self.body.clone());
        };
        let mut body = BytesMut::with_capacity(self.body.len() + to.len());
        body.extend_from_slice(&self.json);
        body.extend_from_slice(to);
        let length = body.len();
        body.extend_from_slice(&self.body[closed..]);
        (length, body.freeze())
    }
}

#[derive(Deserialize)]
struct MetadataJson {
    inputs: Vec<SpecJson>,
}

#[derive(Deserialize)]
struct SpecJson {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

#[derive(Deserialize)]
struct ReplyJson {
    #[serde(default)]
    parameters: ReplyParameters,
    #[serde(default)]
    outputs: Vec<OutputJson>,
}

#[derive(Default, Deserialize)]
struct ReplyParameters {
    batch_size: Option<u32>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data_size: Option<usize>,
    shared_memory_region: Option<String>,
}

/// `{"error": ..}`, the body of the protocol's errors.
#[derive(Deserialize)]
struct ErrorJson {
    error: String,
}

impl HttpClient {
    pub(super) fn new(authority: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            base: format!("http://{authority}"),
            client: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    pub(super) async fn inputs(&self, model: &str) -> Result<Vec<TensorSpec>, Call> {
        let uri = format!("{}/v2/models/{}", self.base, escaped(model));
        let request = request(Method::GET, uri).body(Full::default());
        let (_, body) = self.call(request).await?;
        let metadata: MetadataJson = serde_json::from_slice(&body).map_err(ReplyFault::Json)?;
        let inputs = metadata.inputs.into_iter();
        inputs
            .map(|input| Ok(spec(input.name, &input.datatype, &input.shape)?))
            .collect()
    }

    pub(super) async fn infer(
        &self,
        prepared: &PreparedHttp,
        to: Option<&Bytes>,
        outputs: Outputs,
    ) -> Result<Reply, Call> {
        let uri = format!("{}{}", self.base, prepared.path);
        let (json_length, body) = prepared.body(to);
        let request = request(Method::POST, uri)
            .header("content-type", "application/octet-stream")
            .header(JSON_LENGTH, json_length)
            .body(Full::new(body));
        let (json_length, body) = self.call(request).await?;
        Ok(read_reply(json_length, body, outputs)?)
    }

    pub(super) async fn register(&self, region: &str, key: &str, size: u64) -> Result<(), Call> {
        let uri = self.region_uri(region, "register");
        let body = json!({ "key": key, "offset": 0, "byte_size": size }).to_string();
        let request = request(Method::POST, uri)
            .header("content-type", "application/json")
            .body(Full::from(body));
        self.call(request).await.map(|_| ())
    }

    pub(super) async fn unregister(&self, region: &str) -> Result<(), Call> {
        let uri = self.region_uri(region, "unregister");
        let request = request(Method::POST, uri).body(Full::default());
        self.call(request).await.map(|_| ())
    }

    fn region_uri(&self, region: &str, what: &str) -> String {
        let region = escaped(region);
        format!("{}/v2/systemsharedmemory/region/{region}/{what}", self.base)
    }

    /// The JSON length the reply's header says, and the body of a reply of status 200.
    async fn call(
        &self,
        request: Result<Request<Full<Bytes>>, axum::http::Error>,
    ) -> Result<(Option<String>, Bytes), Call> {
        let request = request.expect("escaped paths and numbers are valid in a request");
        let response = self.client.request(request).await?;
        let status = response.status();
        let json_length = response.headers().get(JSON_LENGTH);
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let json_length = json_length.map(text);
        let label = response.headers().get(ERROR_LABEL).map(text);
        let body = response.into_body().collect().await?.to_bytes();
        if status == StatusCode::OK {
            return Ok((json_length, body));
        }
        let message = serde_json::from_slice::<ErrorJson>(&body).map_or_else(
            |_| String::from_utf8_lossy(&body).into_owned(),
            |body| body.error,
        );
        let message = message.chars().take(MESSAGE_LENGTH).collect();
        let rejected = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        let error = if rejected.contains(&status) {
            CallError::Rejected {
                status: status.to_string(),
                label,
                message,
            }
        } else {
            CallError::Status {
                status: status.to_string(),
                message,
            }
        };
        Err(Call::Other(error))
    }
}

fn request(method: Method, uri: String) -> axum::http::request::Builder {
    Request::builder().method(method).uri(uri)
}

fn read_reply(
    json_length: Option<String>,
    mut body: Bytes,
    outputs: Outputs,
) -> Result<Reply, ReplyFault> {
    let sizes = ReplyFault::BinarySizes { body: body.len() };
    let json_length = match json_length.map(|text| text.parse::<usize>()) {
        None => body.len(),
        Some(Ok(length)) if length <= body.len() => length,
        Some(_) => return Err(sizes),
    };
    let json: ReplyJson =
        serde_json::from_slice(&body.split_to(json_length)).map_err(ReplyFault::Json)?;
    let mut reply = Reply {
        outputs: Vec::new(),
        batch: json.parameters.batch_size,
    };
    if outputs == Outputs::Drop {
        return Ok(reply);
    }
    for tensor in json.outputs {
        if tensor.parameters.shared_memory_region.is_some() {
            let tensor = described(tensor.name, &tensor.datatype, &tensor.shape, Bytes::new())?;
            reply.outputs.push(tensor);
            continue;
        }
        let Some(size) = tensor.parameters.binary_data_size else {
            return Err(ReplyFault::NoRawData { name: tensor.name });
        };
        if size > body.len() {
            return Err(sizes);
        }
        let data = body.split_to(size);
        let tensor = output(tensor.name, &tensor.datatype, &tensor.shape, data)?;
        reply.outputs.push(tensor);
    }
    Ok(reply)
}

/// A model's name as one segment of a path: all but unreserved characters as `%XX`.
fn escaped(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str, data: &[u8]) -> (Option<String>, Bytes) {
        let body = [json.as_bytes(), data].concat();
        (Some(json.len().to_string()), body.into())
    }

    const OUTPUT: &str = r#"{"parameters":{"batch_size":3},"outputs":[
        {"name":"y","datatype":"UINT8","shape":[2],"parameters":{"binary_data_size":2}}]}"#;

    #[test]
    fn binary_outputs_are_read() {
        let (length, bytes) = body(OUTPUT, &[7, 8]);
        let reply = read_reply(length, bytes, Outputs::Read).expect("valid");
        assert_eq!(reply.batch, Some(3));
        assert_eq!(reply.outputs[0].data, [7, 8].as_slice());
    }

    #[test]
    fn sizes_that_lie_are_refused() {
        let (length, bytes) = body(OUTPUT, &[7]);
        let error = read_reply(length, bytes.clone(), Outputs::Read);
        assert!(matches!(error, Err(ReplyFault::BinarySizes { .. })));
        for length in ["99999", "-1", "x"] {
            let error = read_reply(Some(length.to_owned()), bytes.clone(), Outputs::Read);
            assert!(matches!(error, Err(ReplyFault::BinarySizes { .. })));
        }
        let (length, bytes) = body(&OUTPUT.replace("[2]", "[3]"), &[7, 8]);
        let error = read_reply(length, bytes, Outputs::Read);
        assert!(matches!(error, Err(ReplyFault::Tensor(_))));
    }

    #[test]
    fn names_become_one_segment() {
        assert_eq!(escaped("bert-base_1.0"), "bert-base_1.0");
        assert_eq!(escaped("a/b c%"), "a%2Fb%20c%25");
    }
}
