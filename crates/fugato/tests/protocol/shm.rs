//! System shared memory over both protocols.

use super::client::{Connection, Reply, bare, post};
use super::double::{Served, serve, soon};
use super::grpc::client;
use fugato::error::ErrorKind;
use fugato::server::proto::infer_parameter::ParameterChoice;
use fugato::server::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use fugato::server::proto::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryStatusRequest,
    CudaSharedMemoryUnregisterRequest, InferParameter, InferTensorContents, ModelInferRequest,
    SystemSharedMemoryRegisterRequest, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryUnregisterRequest,
};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tonic::Code;

const REGIONS: &str = "/v2/systemsharedmemory";

/// Two rows of two floats.
const FLOATS: [f32; 4] = [1.5, -2.0, 300.0, 0.25];

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Makes the file `key` in the folder of shared memory.
fn file(served: &Served, key: &str, content: &[u8]) -> PathBuf {
    let path = served.double.folder.path().join(key);
    fs::write(&path, content).expect("a file can be written");
    path
}

/// Sends a request without a body.
async fn ask(connection: &mut Connection, method: &str, path: &str) -> Reply {
    connection.exchange(&bare(method, path)).await
}

async fn http(served: &Served) -> Connection {
    Connection::open(served.at.http).await
}

/// Registers all of a file over HTTP.
async fn register(served: &Served, name: &str, content: &[u8]) -> PathBuf {
    let path = file(served, name, content);
    let body = json!({"key": format!("/{name}"), "offset": 0, "byte_size": content.len()});
    let url = format!("{REGIONS}/region/{name}/register");
    let request = post(&url, &body.to_string(), None);
    let reply = http(served).await.exchange(&request).await;
    assert_eq!((reply.status, reply.body.len()), (200, 0), "{reply:?}");
    path
}

fn parameters(region: &str, byte_size: u64, offset: u64) -> Value {
    json!({
        "shared_memory_region": region, "shared_memory_byte_size": byte_size,
        "shared_memory_offset": offset,
    })
}

/// A request to a model of floats: two rows of two, in and out as these parameters say.
fn request(input: &Value, output: &Value) -> String {
    let input = json!({"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": input});
    let output = json!({"name": "y", "parameters": output});
    json!({"inputs": [input], "outputs": [output]}).to_string()
}

async fn infer(served: &Served, body: &str) -> Reply {
    let request = post("/v2/models/identity/infer", body, None);
    http(served).await.exchange(&request).await
}

fn label(reply: &Reply) -> &str {
    reply.header("fugato-error")
}

#[tokio::test]
async fn http_registers_lists_and_unregisters() {
    let served = serve().await;
    register(&served, "a", &[0; 64]).await;
    register(&served, "b", &[0; 32]).await;
    let mut connection = http(&served).await;
    let entry = |name: &str, size: u64| json!({"name": name, "key": format!("/{name}"), "offset": 0, "byte_size": size});
    for (path, expected) in [
        ("/status", json!([entry("a", 64), entry("b", 32)])),
        ("/region/b/status", json!([entry("b", 32)])),
    ] {
        let reply = ask(&mut connection, "GET", &format!("{REGIONS}{path}")).await;
        assert_eq!(reply.json(), expected);
    }
    let again = post(
        &format!("{REGIONS}/region/a/register"),
        r#"{"key": "a", "byte_size": 1}"#,
        None,
    );
    let again = connection.exchange(&again).await;
    assert_eq!((again.status, label(&again)), (409, "region_exists"));

    for (path, left) in [("/region/a/unregister", 1), ("/unregister", 0)] {
        // Twice: what is gone is nothing to do.
        for _ in 0..2 {
            let reply = ask(&mut connection, "POST", &format!("{REGIONS}{path}")).await;
            assert_eq!(reply.status, 200, "{path}");
        }
        let status = ask(&mut connection, "GET", &format!("{REGIONS}/status")).await;
        assert_eq!(status.json().as_array().map(Vec::len), Some(left));
    }
    let gone = ask(
        &mut connection,
        "GET",
        &format!("{REGIONS}/region/a/status"),
    )
    .await;
    assert_eq!(gone.status, 404);
}

#[tokio::test]
async fn http_reads_inputs_from_regions_and_writes_outputs_to_them() {
    let served = serve().await;
    let content = [&[7; 8], &bytes(&FLOATS)[..]].concat();
    register(&served, "in", &content).await;
    let out = register(&served, "out", &[9; 40]).await;
    let body = request(&parameters("in", 16, 8), &parameters("out", 30, 4));
    let reply = infer(&served, &body).await;
    assert_eq!(reply.header("content-type"), "application/json");
    let output = json!({
        "name": "y", "datatype": "FP32", "shape": [2, 2],
        "parameters": {
            "binary_data_size": 0, "shared_memory_region": "out",
            "shared_memory_byte_size": 16, "shared_memory_offset": 4,
        },
    });
    assert_eq!(reply.json()["outputs"], json!([output]), "{reply:?}");
    let expected = [&[9; 4], &bytes(&FLOATS)[..], &[9; 20]].concat();
    assert_eq!(fs::read(&out).expect("it is there"), expected);

    // One side alone: from a region into the reply, and from the request into a region.
    let reply = infer(&served, &request(&parameters("in", 16, 8), &json!({}))).await;
    assert_eq!(reply.json()["outputs"][0]["data"], json!(FLOATS));
    let body = json!({
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [5, 6]}],
        "outputs": [{"name": "y", "parameters": parameters("out", 8, 0)}],
    });
    let reply = infer(&served, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let written = fs::read(&out).expect("it is there");
    assert_eq!(written[..8], bytes(&[5.0, 6.0]));
    assert_eq!(
        written[8..12],
        bytes(&FLOATS)[4..8],
        "nothing past the output"
    );
}

#[tokio::test]
async fn strings_are_serialised_in_regions_too() {
    let served = serve().await;
    let strings = b"\x03\x00\x00\x00abc\x00\x00\x00\x00";
    register(&served, "in", strings).await;
    let out = register(&served, "out", &[9; 16]).await;
    let mut inputs = Vec::new();
    for element in fugato_device::ElementType::ALL {
        let size = element.size().unwrap_or(0);
        let name = format!("in_{element}");
        let input = match size {
            0 => json!({"name": name, "shape": [1, 2], "datatype": "BYTES",
                        "parameters": parameters("in", strings.len() as u64, 0)}),
            _ => json!({"name": name, "shape": [1, 2], "datatype": element.oip_name(),
                        "parameters": {"binary_data_size": 2 * size}}),
        };
        inputs.push((input, vec![0; 2 * size]));
    }
    let (inputs, binary): (Vec<_>, Vec<_>) = inputs.into_iter().unzip();
    let outputs = json!([{"name": "out_BYTES", "parameters": parameters("out", 16, 0)}]);
    let body = json!({"inputs": inputs, "outputs": outputs}).to_string();
    let request = post("/v2/models/types/infer", &body, Some(&binary.concat()));
    let reply = http(&served).await.exchange(&request).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let written = fs::read(out).expect("it is there");
    assert_eq!(written, [&strings[..], &[9; 5]].concat());
}

#[tokio::test]
async fn what_a_request_gets_wrong_is_named() {
    let served = serve().await;
    register(&served, "in", &bytes(&FLOATS)).await;
    register(&served, "out", &[0; 40]).await;
    let good_in = parameters("in", 16, 0);
    let good_out = parameters("out", 16, 0);
    let cases = [
        (
            parameters("none", 16, 0),
            good_out.clone(),
            ErrorKind::UnknownRegion,
        ),
        (
            good_in.clone(),
            parameters("none", 16, 0),
            ErrorKind::UnknownRegion,
        ),
        (
            parameters("in", 17, 0),
            good_out.clone(),
            ErrorKind::InvalidRegion,
        ),
        (
            parameters("in", 16, 1),
            good_out.clone(),
            ErrorKind::InvalidRegion,
        ),
        (
            parameters("in", 16, u64::MAX),
            good_out.clone(),
            ErrorKind::InvalidRegion,
        ),
        (
            parameters("in", 0, 0),
            good_out.clone(),
            ErrorKind::InvalidRegion,
        ),
        (
            parameters("in", 12, 0),
            good_out.clone(),
            ErrorKind::InvalidByteCount,
        ),
        (
            good_in.clone(),
            parameters("out", 15, 0),
            ErrorKind::InvalidRegion,
        ),
        (
            good_in.clone(),
            parameters("out", 41, 0),
            ErrorKind::InvalidRegion,
        ),
        (
            json!({"shared_memory_region": "in"}),
            good_out.clone(),
            ErrorKind::InvalidValue,
        ),
        (
            json!({"shared_memory_byte_size": 16}),
            good_out.clone(),
            ErrorKind::InvalidValue,
        ),
        (
            json!({"shared_memory_region": 7}),
            good_out.clone(),
            ErrorKind::InvalidValue,
        ),
        (
            json!({"shared_memory_region": "in", "shared_memory_byte_size": -16}),
            good_out.clone(),
            ErrorKind::InvalidValue,
        ),
        (
            json!({"shared_memory_region": "in", "shared_memory_byte_size": 16,
                   "binary_data_size": 16}),
            good_out,
            ErrorKind::InvalidValue,
        ),
    ];
    for (input, output, kind) in cases {
        let reply = infer(&served, &request(&input, &output)).await;
        let facts = kind.facts();
        let found = (reply.status, label(&reply));
        assert_eq!(
            found,
            (facts.http_status, facts.label),
            "{input} {output} {reply:?}"
        );
    }
    let twice = json!({
        "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": FLOATS,
                    "parameters": good_in}],
    });
    let reply = infer(&served, &twice.to_string()).await;
    assert_eq!(label(&reply), "invalid_request");
    let small = infer(&served, &request(&good_in, &parameters("out", 15, 0))).await;
    let message = small.error();
    assert!(
        message.contains("15 bytes") && message.contains("16"),
        "{message}"
    );
}

#[tokio::test]
async fn a_region_that_shrinks_while_its_request_waits_is_an_error_of_that_request() {
    let mut served = serve().await;
    let path = register(&served, "in", &bytes(&FLOATS)).await;
    let body = request(&parameters("in", 16, 0), &json!({}));
    let mut cut = http(&served).await;
    cut.send(&post("/v2/models/held/infer", &body, None)).await;
    soon(served.events.began.recv()).await;
    let file = fs::OpenOptions::new().write(true).open(&path);
    file.and_then(|file| file.set_len(10))
        .expect("it can be cut");
    served.double.gate.add_permits(1);
    let reply = soon(cut.reply()).await.expect("the server lives");
    assert_eq!((reply.status, label(&reply)), (400, "region_short"));
    let message = reply.error();
    assert!(message.contains("after 10 of the 16 bytes"), "{message}");

    // An output that would make the file longer is refused, too.
    let body = json!({
        "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": FLOATS}],
        "outputs": [{"name": "y", "parameters": parameters("in", 16, 0)}],
    });
    let reply = infer(&served, &body.to_string()).await;
    assert_eq!((reply.status, label(&reply)), (400, "region_short"));
    assert_eq!(fs::metadata(&path).expect("it is there").len(), 10);
    let refused = served.double.refused.lock().expect("no test panics");
    assert_eq!(
        *refused,
        [ErrorKind::RegionShort],
        "what the protocol found itself"
    );
}

#[tokio::test]
async fn a_region_that_is_unregistered_serves_the_requests_that_named_it() {
    let mut served = serve().await;
    let path = register(&served, "both", &bytes(&FLOATS)).await;
    let both = parameters("both", 16, 0);
    let mut waiting = http(&served).await;
    let held = post("/v2/models/held/infer", &request(&both, &both), None);
    waiting.send(&held).await;
    soon(served.events.began.recv()).await;
    let mut connection = http(&served).await;
    let gone = ask(&mut connection, "POST", &format!("{REGIONS}/unregister")).await;
    assert_eq!(gone.status, 200);
    served.double.gate.add_permits(1);
    let reply = soon(waiting.reply()).await.expect("it is answered");
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(fs::read(path).expect("it is there"), bytes(&FLOATS));
    let late = connection.exchange(&held).await;
    assert_eq!((late.status, label(&late)), (404, "unknown_region"));
}

#[tokio::test]
async fn outputs_may_not_overwrite_each_other() {
    let served = serve().await;
    register(&served, "out", &[0; 64]).await;
    let inputs: Vec<Value> = fugato_device::ElementType::ALL
        .into_iter()
        .map(|element| {
            json!({"name": format!("in_{element}"), "shape": [1, 2],
                   "datatype": element.oip_name(),
                   "parameters": {"binary_data_size": 2 * element.size().unwrap_or(4)}})
        })
        .collect();
    let binary: usize = fugato_device::ElementType::ALL
        .into_iter()
        .map(|element| 2 * element.size().unwrap_or(4))
        .sum();
    for (offset, status) in [(7, 400), (8, 200)] {
        let outputs = json!([
            {"name": "out_INT32", "parameters": parameters("out", 8, 0)},
            {"name": "out_FP32", "parameters": parameters("out", 8, offset)},
        ]);
        let body = json!({"inputs": inputs, "outputs": outputs}).to_string();
        let request = post("/v2/models/types/infer", &body, Some(&vec![0; binary]));
        let reply = http(&served).await.exchange(&request).await;
        assert_eq!(reply.status, status, "{reply:?}");
        if status == 400 {
            let message = reply.error();
            assert!(
                message.contains("output `out_FP32` over output `out_INT32`"),
                "{message}"
            );
        }
    }
}

fn grpc_parameters(region: &str, byte_size: i64) -> Vec<(String, InferParameter)> {
    let parameter = |name: &str, choice| {
        let parameter = InferParameter {
            parameter_choice: Some(choice),
        };
        (name.to_owned(), parameter)
    };
    vec![
        parameter(
            "shared_memory_region",
            ParameterChoice::StringParam(region.to_owned()),
        ),
        parameter(
            "shared_memory_byte_size",
            ParameterChoice::Int64Param(byte_size),
        ),
    ]
}

fn grpc_request() -> ModelInferRequest {
    ModelInferRequest {
        model_name: "identity".to_owned(),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![2, 2],
            parameters: grpc_parameters("in", 16).into_iter().collect(),
            contents: None,
        }],
        outputs: vec![InferRequestedOutputTensor {
            name: "y".to_owned(),
            parameters: grpc_parameters("out", 40).into_iter().collect(),
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn grpc_registers_and_infers() {
    let served = serve().await;
    let mut client = client(&served).await;
    file(&served, "in", &bytes(&FLOATS));
    let out = file(&served, "out", &[9; 50]);
    for (name, offset, byte_size) in [("in", 0, 16), ("out", 10, 40)] {
        let request = SystemSharedMemoryRegisterRequest {
            name: name.to_owned(),
            key: format!("/{name}"),
            offset,
            byte_size,
        };
        let first = client.system_shared_memory_register(request.clone()).await;
        first.expect("it fits");
        let again = client.system_shared_memory_register(request).await;
        let again = again.expect_err("it is there");
        assert_eq!(again.code(), Code::AlreadyExists);
    }
    let all = SystemSharedMemoryStatusRequest::default();
    let status = client.system_shared_memory_status(all).await;
    let status = status.expect("it is answered").into_inner().regions;
    assert_eq!(status.keys().collect::<Vec<_>>(), ["in", "out"]);
    let region = &status["out"];
    assert_eq!(
        (region.key.as_str(), region.offset, region.byte_size),
        ("/out", 10, 40)
    );

    let reply = client.model_infer(grpc_request()).await;
    let reply = reply.expect("it is answered").into_inner();
    assert_eq!(reply.raw_output_contents, [bytes::Bytes::new()]);
    let mut expected = grpc_parameters("out", 16);
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    let found: Vec<_> = reply.outputs[0].parameters.clone().into_iter().collect();
    assert_eq!(found, expected);
    let written = fs::read(out).expect("it is there");
    assert_eq!(written, [&[9; 10], &bytes(&FLOATS)[..], &[9; 24]].concat());

    let mut beside = grpc_request();
    beside.inputs[0].contents = Some(InferTensorContents::default());
    let error = client.model_infer(beside).await.expect_err("in two places");
    assert_eq!(error.code(), Code::InvalidArgument);
    let mut raw = grpc_request();
    raw.raw_input_contents = vec![bytes::Bytes::from(bytes(&FLOATS))];
    let error = client.model_infer(raw).await.expect_err("in two places");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(
        error.message().contains("1 raw contents for the 0 inputs"),
        "{error}"
    );

    let all = SystemSharedMemoryUnregisterRequest::default();
    let gone = client.system_shared_memory_unregister(all).await;
    gone.expect("it is answered");
    let error = client.model_infer(grpc_request()).await;
    assert_eq!(error.expect_err("it is gone").code(), Code::NotFound);
}

#[tokio::test]
async fn cuda_shared_memory_has_nothing_registered_and_registers_nothing() {
    let served = serve().await;
    let mut client = client(&served).await;
    let status = client.cuda_shared_memory_status(CudaSharedMemoryStatusRequest::default());
    let status = status.await.expect("it is answered").into_inner();
    assert!(status.regions.is_empty());
    let all = CudaSharedMemoryUnregisterRequest::default();
    client
        .cuda_shared_memory_unregister(all)
        .await
        .expect("nothing to do");
    let error = client
        .cuda_shared_memory_register(CudaSharedMemoryRegisterRequest::default())
        .await;
    let error = error.expect_err("there is no GPU");
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(
        error.message().contains("CudaSharedMemoryRegister"),
        "{error}"
    );
    let mut connection = http(&served).await;
    let status = ask(&mut connection, "GET", "/v2/cudasharedmemory/status").await;
    assert_eq!(status.json(), json!([]));
    let register = bare("POST", "/v2/cudasharedmemory/region/r/register");
    assert_eq!(connection.exchange(&register).await.status, 501);
}
