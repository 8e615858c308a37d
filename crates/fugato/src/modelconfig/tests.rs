//! Configurations as people write them.

use super::*;
use crate::api::ModelInfo;
use crate::config::{ByteSize, ModelDevice, Span};
use crate::repository::VersionPolicy;
use crate::server::proto::ModelConfig;
use crate::server::proto::model_instance_group::Kind;
use fugato_core::Nanos;
use fugato_device::TensorSpec;
use std::fmt::Write as _;

const CLASSIFIER: &str = r#"
# A picture in, the names of classes out.
name: "resnet50"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [
  {
    name: "data"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ 3, 224, 224 ]
  }
]
output [
  {
    name: "prob"
    data_type: TYPE_FP32
    dims: [ 1000 ]
    label_filename: "labels.txt"
  }
]
instance_group [ { count: 2 kind: KIND_CPU }, { count: 1 kind: KIND_GPU gpus: [ 0 ] } ]
"#;

const BATCHING: &str = r#"
max_batch_size: 8
dynamic_batching {
  preferred_batch_size: [ 8, 4 ]
  max_queue_delay_microseconds: 100
  preserve_ordering: true
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy {
    timeout_action: DELAY
    default_timeout_microseconds: 5000
    allow_timeout_override: true
    max_queue_size: 64
  }
  priority_queue_policy {
    key: 3
    value: { timeout_action: REJECT default_timeout_microseconds: 1000 }
  }
}
parameters { key: "fugato.slo" value: { string_value: "25ms" } }
parameters: { key: "fugato.weight", value: { string_value: "2" } }
parameters { key: "fugato.queue_bytes_max" value { string_value: "64MiB" } }
parameters { key: "intra_op_thread_count" value { string_value: "4" } }
"#;

const WARM_UP: &str = r#"
backend: 'onnxruntime';
max_batch_size: 4,
default_model_filename: "net.onnx"
version_policy: { specific: { versions: [3, 1, 3] } }
model_warmup <
  name: "first" "st"
  batch_size: 4
  inputs { key: "ids" value { data_type: TYPE_INT64 dims: 128 dims: 1 random_data: true } }
  inputs { key: "mask" value { data_type: TYPE_INT64 dims: [] zero_data: true } }
  inputs { key: "raw" value { data_type: TYPE_STRING dims: [2] input_data_file: "a/raw.bin" } }
>
model_warmup { name: "none" }
optimization { graph { level: -1 } cuda { graphs: true } }
"#;

fn read(text: &str) -> ModelConfig {
    parse_text(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn wanted(model: &str, text: &str) -> Wanted {
    interpret(model, &read(text)).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn paths(wanted: &Wanted) -> Vec<&str> {
    let notices = wanted.notices.iter();
    notices.map(|notice| notice.path.as_str()).collect()
}

#[test]
fn a_classifier_is_understood() {
    let wanted = wanted("resnet50", CLASSIFIER);
    assert_eq!(wanted.batch, BatchLimit::AtMost(16));
    assert_eq!(wanted.inputs[0].dims, [Some(3), Some(224), Some(224)]);
    assert_eq!(wanted.inputs[0].element, Some(ElementType::Fp32));
    assert_eq!(wanted.outputs[0].label_file.as_deref(), Some("labels.txt"));
    assert_eq!(wanted.instances, Some(3));
    assert_eq!(wanted.versions, VersionPolicy::Latest(1));
    assert_eq!(wanted.model_file, "model.onnx");
    assert_eq!(paths(&wanted), ["instance_group[1].gpus"]);
    // True on an NVIDIA device, so said on the CPU alone.
    let [notice] = wanted.cpu_notices.as_slice() else {
        panic!("one notice: {:?}", wanted.cpu_notices);
    };
    assert_eq!(notice.path, "instance_group[1].kind");
}

#[test]
fn queue_policies_and_own_settings_are_understood() {
    let wanted = wanted("m", BATCHING);
    let batching = wanted.dynamic_batching.as_ref().expect("it is set");
    assert_eq!(batching.preferred_sizes, [4, 8]);
    assert_eq!(batching.queue_delay_max, Nanos::from_micros(100));
    assert_eq!(batching.default_priority_level, 2);
    let policy = batching.policy(1);
    assert_eq!(policy.timeout_action, TimeoutAction::Delay);
    assert_eq!(policy.default_timeout, Some(Nanos::from_millis(5)));
    assert!(policy.allow_timeout_override);
    assert_eq!(policy.queue_size_max, Some(64));
    let policy = batching.policy(3);
    assert_eq!(policy.timeout_action, TimeoutAction::Reject);
    assert_eq!(policy.queue_size_max, None);
    let settings = &wanted.settings;
    assert_eq!(settings.slo, Some(Span::from_millis(25)));
    assert_eq!(settings.weight, Some(2.0));
    assert_eq!(settings.queue_bytes_max, Some(ByteSize::mib(64)));
    assert_eq!(settings.max_batch_size, Some(8));
    assert_eq!(settings.preferred_batch_sizes, Some(vec![4, 8]));
    assert_eq!(settings.max_queue_delay, Some(Span::from_micros(100)));
    assert_eq!(
        paths(&wanted),
        [
            "dynamic_batching.preserve_ordering",
            "parameters[\"intra_op_thread_count\"]"
        ]
    );
}

#[test]
fn warm_ups_versions_and_odd_syntax_are_understood() {
    let wanted = wanted("m", WARM_UP);
    assert_eq!(wanted.versions, VersionPolicy::Specific(vec![1, 3]));
    assert_eq!(wanted.model_file, "net.onnx");
    let [warm_up] = wanted.warm_ups.as_slice() else {
        panic!("one sample: {:?}", wanted.warm_ups);
    };
    assert_eq!(
        (warm_up.name.as_str(), warm_up.batch_size, warm_up.count),
        ("firstst", 4, 1)
    );
    let data: Vec<_> = warm_up.inputs.iter().map(|input| &input.data).collect();
    let file = WarmUpData::File("a/raw.bin".to_owned());
    assert_eq!(data, [&WarmUpData::Random, &WarmUpData::Zero, &file]);
    assert_eq!(warm_up.inputs[0].dims, [128, 1]);
    assert_eq!(
        paths(&wanted),
        [
            "optimization.graph",
            "optimization.cuda",
            "model_warmup[1].batch_size"
        ]
    );
}

#[test]
fn what_would_change_answers_is_refused_by_name() {
    let cases = [
        (
            "platform: 'tensorflow_savedmodel'",
            "`platform` in the configuration of model `m` is `tensorflow_savedmodel`",
        ),
        ("backend: 'python'", "`backend`"),
        ("runtime: 'model.py'", "`runtime`"),
        ("name: 'other'", "has name `other`"),
        (
            "platform: 'ensemble' ensemble_scheduling { step { model_name: 'a' } }",
            "`ensemble_scheduling`",
        ),
        (
            "sequence_batching { oldest { } }",
            "sets `sequence_batching`",
        ),
        (
            "model_transaction_policy { decoupled: true }",
            "`model_transaction_policy.decoupled`",
        ),
        ("input { name: 'x' reshape { } }", "sets `input[0].reshape`"),
        ("input { name: 'x' allow_ragged_batch: true }", "ragged"),
        ("output { name: 'y' is_shape_tensor: true }", "shape"),
        ("batch_input { }", "`batch_input`"),
        (
            "model_operations { op_library_filename: 'x.so' }",
            "`model_operations.op_library_filename`",
        ),
        ("max_batch_size: -1", "0 to 65536"),
        ("input { name: 'x' dims: 0 }", "`input[0].dims` in"),
        ("input { name: 'x' dims: -2 }", "[-2]"),
        ("input { data_type: TYPE_FP32 }", "`input[0].name`"),
        ("input { name: 'x' } input { name: 'x' }", "declared twice"),
        ("input { name: 'x' data_type: 99 }", "is 99"),
        (
            "input { name: 'x' format: FORMAT_NCHW dims: 3 }",
            "of 3 for this format",
        ),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }",
            "1 to max_batch_size (4)",
        ),
        (
            "dynamic_batching { priority_levels: 2 }",
            "1 to priority_levels (2)",
        ),
        (
            "dynamic_batching { priority_levels: 18446744073709551615 default_priority_level: 1 }",
            "0 to 65536",
        ),
        (
            "dynamic_batching { priority_queue_policy { key: 1 value { } } }",
            "priority_queue_policy[1]",
        ),
        (
            "dynamic_batching { max_queue_delay_microseconds: 18446744073709551615 }",
            "at most 18446744073709551",
        ),
        ("instance_group { count: 65 }", "65 instances"),
        ("instance_group { count: -1 }", "`instance_group[0].count`"),
        ("version_policy { specific { versions: 0 } }", "at least 1"),
        (
            "default_model_filename: '../model.onnx'",
            "has a component `.` or `..`",
        ),
        (
            "output { name: 'y' label_filename: '/x' }",
            "`output[0].label_filename`",
        ),
        (
            "model_warmup { batch_size: 1 inputs { key: 'x' value { data_type: TYPE_INT8 } } }",
            "`model_warmup[0].inputs[\"x\"]`",
        ),
        (
            "parameters { key: 'fugato.solo' value { string_value: '1' } }",
            "unknown field `solo`",
        ),
        (
            "parameters { key: 'fugato.slo' value { string_value: '25' } }",
            "with its unit",
        ),
        (
            "parameters { key: 'fugato.instances' value { string_value: '2' } }",
            "`instance_group[].count`",
        ),
    ];
    for (text, expected) in cases {
        let error = interpret("m", &read(text)).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn text_that_is_none_is_refused_with_its_place() {
    let cases = [
        (
            "max_batch_size: \"eight\"",
            "line 1, column 17, at field `max_batch_size`: expected an integer",
        ),
        (
            "\nbatch: 1",
            "line 2, column 1, at field `batch`: field 'batch' not found",
        ),
        (
            "input {\n  dims: [1, 2,]\n}",
            "line 2, column 15, at field `input.dims`",
        ),
        (
            "max_batch_size: 8\ndynamic_batchin {}",
            "line 2, column 1, at field `dynamic_batchin`: field 'dynamic_batchin' not found",
        ),
        (
            "input { data_type: TYPE_F32 }",
            "at field `input.data_type`: value 'TYPE_F32'",
        ),
        ("name: \"é\" max_batch_size: 99999999999", "column 27"),
        ("input [ { name: 'x' }", "line 1, column 22"),
        (
            "input [ { name: 'x' }, { nam: 'y' } ]",
            "line 1, column 26, at field `input.nam`",
        ),
        ("name: 'never ends", "string"),
        ("name: 'a' name: 'b'", "already set"),
        ("# only this\n}", "line 2, column 1"),
        ("\u{0}", "line 1, column 1"),
        ("name: 'x\\", "line 1"),
    ];
    for (text, expected) in cases {
        let error = parse_text(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert_eq!(parse_text(""), Ok(ModelConfig::default()));
}

#[test]
fn size_and_nesting_are_bounded() {
    let any = "[a.b/inference.ModelConfig] {".repeat(30_000);
    for text in ["{".repeat(100_000), "input<".repeat(50_000), any] {
        let error = parse_text(&text).expect_err("too deep");
        assert!(matches!(error, ModelConfigError::TooDeep { line: 1, .. }));
    }
    let long = " ".repeat(CONFIG_BYTES_MAX + 1);
    let too_long = ModelConfigError::TooLong { found: long.len() };
    assert_eq!(parse_text(&long), Err(too_long.clone()));
    assert_eq!(parse_json(&long), Err(too_long));
    assert!(parse_json(&"[".repeat(CONFIG_BYTES_MAX)).is_err());
    assert!(parse_json(&"{\"input\":[".repeat(50_000)).is_err());
    // Strings and comments hold no braces that count.
    let text = format!("name: '{}' # {}", "{".repeat(99), "{".repeat(99));
    assert_eq!(read(&text).name.len(), 99);
}

#[test]
fn json_says_the_same_as_text() {
    for text in [CLASSIFIER, BATCHING, WARM_UP, ""] {
        let config = read(text);
        let json = to_json(&config);
        assert_eq!(parse_json(&json).as_ref(), Ok(&config), "{json}");
    }
    let json: serde_json::Value = serde_json::from_str(&to_json(&read(BATCHING))).expect("JSON");
    let batching = &json["dynamic_batching"];
    assert_eq!(batching["max_queue_delay_microseconds"], 100);
    assert_eq!(batching["default_queue_policy"]["timeout_action"], "DELAY");
    assert_eq!(batching["priority_queue_policy"]["3"]["max_queue_size"], 0);
    assert_eq!(json["platform"], "");
    assert_eq!(json["input"], serde_json::json!([]));
    assert_eq!(json.get("optimization"), None);
    assert_eq!(json.get("sequence_batching"), None);
    let camel = r#"{"maxBatchSize": "3", "input": [{"name": "x", "dims": ["-1"]}]}"#;
    assert_eq!(parse_json(camel).expect("JSON").input[0].dims, [-1]);
    let error = parse_json("{\n \"batch\": 1}")
        .expect_err("unknown")
        .to_string();
    assert!(
        error.starts_with("line 2, column ") && error.contains("batch"),
        "{error}"
    );
    assert!(parse_json("{} x").is_err());
}

fn spec(name: &str, element: ElementType, shape: &[Option<u64>]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        element,
        shape: shape.to_vec(),
        symbols: vec![None; shape.len()],
    }
}

#[test]
fn declarations_are_held_against_the_file() {
    let inputs = [spec("x", ElementType::Fp32, &[None, None, Some(4)])];
    let outputs = [
        spec("y", ElementType::Fp32, &[None, Some(10)]),
        spec("z", ElementType::Int64, &[None]),
    ];
    let cases = [
        ("max_batch_size: 8 input { name: 'x' dims: [7, 4] }", ""),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: [-1, -1, 4] } output { name: 'y' dims: [-1, 10] }",
            "",
        ),
        ("output { name: 'y' dims: [10] }", ""),
        (
            "input { name: 'w' }",
            "input `w`, but its model file has the inputs `x`",
        ),
        (
            "input { name: 'x' data_type: TYPE_FP16 }",
            "type FP16, but its model file has it of type FP32",
        ),
        (
            "max_batch_size: 8 input { name: 'x' dims: [-1, 5] }",
            "dims [-1, 5], but its model file has it with [-1, 4] beside the batch",
        ),
        (
            "max_batch_size: 8 input { name: 'x' dims: [-1, -1] }",
            "dims [-1, -1]",
        ),
        (
            "max_batch_size: 8 input { name: 'x' dims: [4] }",
            "dims [4]",
        ),
        (
            "input { name: 'x' dims: [4, 4] } output { name: 'y' dims: [10] }",
            "dims [4, 4]",
        ),
    ];
    for (text, expected) in cases {
        let wanted = wanted("m", text);
        match check(&wanted, &inputs, &outputs) {
            Ok(_) => assert_eq!(expected, "", "{text}"),
            Err(error) => assert!(
                !expected.is_empty() && error.to_string().contains(expected),
                "{text}: {error}"
            ),
        }
    }
    let declared = wanted(
        "m",
        "max_batch_size: 8 input { name: 'x' dims: [7, 4] } output { name: 'y' dims: 10 }",
    );
    let notices = check(&declared, &inputs, &outputs).expect("it fits");
    assert!(notices[0].reason.contains("`z`"), "{notices:?}");
    let narrowed = declared.narrowed_inputs(&inputs);
    assert_eq!(narrowed[0].shape, [None, Some(7), Some(4)]);
    let fixed = [spec("x", ElementType::Fp32, &[Some(1), Some(7), Some(4)])];
    let error = check(&declared, &fixed, &outputs).expect_err("no batch");
    assert!(
        error.to_string().contains("first dimension is not open"),
        "{error}"
    );
    let two = [inputs[0].clone(), spec("v", ElementType::Fp32, &[None])];
    let error = check(&declared, &two, &outputs).expect_err("one is missing");
    assert!(error.to_string().contains("`v`"), "{error}");
}

#[test]
fn answers_are_completed_by_what_is_served() {
    let mut info = ModelInfo {
        name: "m".to_owned(),
        version: "1".to_owned(),
        inputs: vec![spec("x", ElementType::Bytes, &[None, Some(3), None])],
        outputs: vec![spec("y", ElementType::Fp32, &[None])],
        max_batch_size: 8,
        versions: vec!["1".to_owned()],
        labels: Vec::new(),
    };
    let full = complete(None, &info);
    assert_eq!(full.input[0].dims, [3, -1]);
    assert_eq!(full.input[0].data_type(), DataType::TypeString);
    assert!(full.output[0].dims.is_empty());
    let json: serde_json::Value = serde_json::from_str(&to_json(&full)).expect("JSON");
    assert_eq!(json["version_policy"]["latest"]["num_versions"], 1);
    assert_eq!(json["instance_group"][0]["kind"], "KIND_AUTO");
    assert_eq!(json["instance_group"][0]["count"], 1);
    assert_eq!(json["default_model_filename"], "model.onnx");
    assert!(json["dynamic_batching"].is_object());

    let text = "output { name: 'y' label_filename: 'l' } version_policy { all { } } instance_group { kind: KIND_GPU gpus: 1 count: 2 }";
    let full = complete(Some(&read(text)), &info);
    assert_eq!(full.output[0].label_filename, "l");
    assert_eq!(full.instance_group[0].name, "m_0");
    assert_eq!(full.instance_group[0].count, 2);
    assert_eq!(full.instance_group[0].kind(), Kind::Gpu);
    assert_eq!(full.instance_group[0].gpus, [1]);
    info.max_batch_size = 0;
    let full = complete(None, &info);
    assert_eq!(full.input[0].dims, [-1, 3, -1]);
    assert_eq!(full.scheduling_choice, None);
}

/// The page's table: the fields with what is done, in the order of the schema.
fn table() -> String {
    let mut table = "| field | what is done | why |\n|---|---|---|\n".to_owned();
    for (path, treatment) in treatments() {
        let (done, why) = match treatment {
            Treatment::Done => ("done", ""),
            Treatment::Warned(why) => ("warned", why),
            Treatment::Refused(why) => ("refused", why),
        };
        writeln!(table, "| `{path}` | {done} | {why} |").expect("memory grows");
    }
    table
}

#[test]
fn the_reference_page_lists_every_field() {
    const START: &str = "<!-- fields -->\n";
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/model-config.md"
    );
    let page = std::fs::read_to_string(path).expect("the page");
    let (head, rows) = page.split_once(START).expect("the marker");
    let expected = table();
    if std::env::var_os("FUGATO_BLESS").is_some() {
        std::fs::write(path, format!("{head}{START}{expected}")).expect("it can be written");
        return;
    }
    assert!(
        rows == expected,
        "run FUGATO_BLESS=1 cargo test -p fugato --lib modelconfig"
    );
}

/// Clients change a field of what they are answered and send it all back.
#[test]
fn an_answer_that_is_sent_back_leaves_open_where_the_model_runs() {
    let info = ModelInfo {
        name: "m".to_owned(),
        version: "1".to_owned(),
        inputs: vec![spec("x", ElementType::Fp32, &[None, Some(3)])],
        outputs: vec![spec("y", ElementType::Fp32, &[None])],
        labels: Vec::new(),
        max_batch_size: 8,
        versions: vec!["1".to_owned()],
    };
    for (text, device) in [
        ("", None),
        ("instance_group { count: 2 }", None),
        ("instance_group { kind: KIND_GPU gpus: 1 }", None),
        ("instance_group { kind: KIND_MODEL }", None),
        (
            "instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU } ]",
            None,
        ),
        (
            "instance_group [ { kind: KIND_CPU }, { kind: KIND_AUTO } ]",
            None,
        ),
        (
            "instance_group { kind: KIND_CPU count: 2 }",
            Some(ModelDevice::Cpu),
        ),
    ] {
        let asked = read(text);
        let before = interpret("m", &asked).expect("it is a configuration");
        assert_eq!(before.settings.device, device, "{text}");
        let answer = complete(Some(&asked), &info);
        let after = interpret("m", &answer).expect("an answer is a configuration");
        assert_eq!(after.settings.device, device, "{text}");
        assert_eq!(after.cpu_notices, before.cpu_notices, "{text}");
        assert_eq!(complete(Some(&answer), &info), answer, "{text}");
    }
    let answer = complete(None, &info);
    assert_eq!(answer.instance_group[0].kind(), Kind::Auto);
    let after = interpret("m", &answer).expect("an answer is a configuration");
    assert_eq!(after.settings.device, None);
}
