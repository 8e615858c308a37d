//! HTTP: a body that cannot be read, or says what cannot be, is named; so is a reply that JSON
//! cannot carry.

use super::client::{Connection, post};
use super::double::serve;
use super::http::counting;

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
