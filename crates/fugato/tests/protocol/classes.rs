//! Outputs as classes, over both protocols.

use super::client::{Connection, post};
use super::double::serve;
use super::grpc::{client, floats};
use fugato::error::ErrorKind;
use fugato::server::proto::InferParameter;
use fugato::server::proto::infer_parameter::ParameterChoice;
use fugato::server::proto::model_infer_request::InferRequestedOutputTensor;
use fugato_device::ElementType;
use serde_json::json;
use std::collections::BTreeMap;

#[tokio::test]
async fn http_answers_with_classes_in_json_and_binary() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let body = |parameters: &str| {
        format!(
            r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[2,3],"data":[1,3,2,6,5,4]}}],
                "outputs":[{{"name":"y","parameters":{{"classification":2{parameters}}}}}]}}"#
        )
    };
    let path = "/v2/models/identity/infer";
    let reply = connection.exchange(&post(path, &body(""), None)).await;
    let expected = json!([{
        "name": "y", "datatype": "BYTES", "shape": [2, 2],
        "data": ["3.000000:1:bee", "2.000000:2", "6.000000:0:ant", "5.000000:1:bee"],
    }]);
    assert_eq!(reply.json()["outputs"], expected);

    let binary = post(path, &body(r#","binary_data":true"#), None);
    let reply = connection.exchange(&binary).await;
    let head: usize = reply
        .header("inference-header-content-length")
        .parse()
        .expect("a binary reply");
    assert!(reply.body[head..].starts_with(b"\x0e\0\0\x003.000000:1:bee\x0a\0\0\x002.000000:2"));
}

#[tokio::test]
async fn grpc_answers_with_classes() {
    let served = serve().await;
    let mut grpc = client(&served).await;
    let mut request = floats("identity", &[1.0, 3.0, 2.0]);
    let classes = |count| InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(count)),
    };
    request.outputs = vec![InferRequestedOutputTensor {
        name: "y".to_owned(),
        parameters: BTreeMap::from([("classification".to_owned(), classes(1))]),
    }];
    let reply = grpc.model_infer(request.clone()).await.expect("a reply");
    let reply = reply.into_inner();
    assert_eq!(reply.outputs[0].datatype, "BYTES");
    assert_eq!(reply.outputs[0].shape, [1, 1]);
    assert_eq!(
        reply.raw_output_contents[0],
        &b"\x0e\0\0\x003.000000:1:bee"[..]
    );

    let wanted = request.outputs[0].parameters.get_mut("classification");
    *wanted.expect("it was given") = classes(-1);
    let error = grpc
        .model_infer(request)
        .await
        .expect_err("a negative number");
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn classes_of_what_is_no_number_are_refused_and_counted() {
    let served = serve().await;
    let mut connection = Connection::open(served.at.http).await;
    let inputs = ElementType::ALL.map(|element| {
        let data = if element == ElementType::Bytes {
            r#"["a","b"]"#
        } else if element == ElementType::Bool {
            "[true,false]"
        } else {
            "[1,2]"
        };
        format!(r#"{{"name":"in_{element}","datatype":"{element}","shape":[1,2],"data":{data}}}"#)
    });
    let body = format!(
        r#"{{"inputs":[{}],"outputs":[{{"name":"out_BYTES","parameters":{{"classification":2}}}}]}}"#,
        inputs.join(",")
    );
    let request = post("/v2/models/types/infer", &body, None);
    let reply = connection.exchange(&request).await;
    assert_eq!(
        (reply.status, reply.header("fugato-error")),
        (400, "invalid_value")
    );
    let start = "parameter `classification` of output `out_BYTES` is 2 of BYTES";
    assert!(reply.error().starts_with(start), "{}", reply.error());
    let refused = served
        .double
        .refused
        .lock()
        .expect("no test panics with the lock");
    assert_eq!(*refused, [ErrorKind::InvalidValue]);
}
