use super::*;
use crate::error::ErrorKind;
use fugato_core::Timestamp;

fn spec(name: &str, element: ElementType, shape: &[Option<u64>]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        element,
        shape: shape.to_vec(),
        symbols: vec![None; shape.len()],
    }
}

/// Two inputs, two outputs; batches of up to 4 rows.
fn model() -> ModelInfo {
    let mut data = spec("data", ElementType::Fp32, &[None, Some(2), Some(3)]);
    data.symbols[0] = Some("batch".to_owned());
    ModelInfo {
        name: "m".to_owned(),
        version: "1".to_owned(),
        inputs: vec![data, spec("text", ElementType::Bytes, &[None, None])],
        outputs: vec![
            spec("a", ElementType::Fp32, &[None]),
            spec("b", ElementType::Fp32, &[None]),
        ],
        max_batch_size: 4,
        versions: vec!["1".to_owned()],
        labels: Vec::new(),
    }
}

fn input(name: &str, element: ElementType, shape: &[u64], data: TensorData) -> NamedInput {
    NamedInput {
        name: name.to_owned(),
        element,
        shape: shape.to_vec(),
        data: data.into(),
    }
}

fn data(shape: &[u64], bytes: usize) -> NamedInput {
    let raw = TensorData::Raw(vec![0; bytes].into());
    input("data", ElementType::Fp32, shape, raw)
}

fn text(shape: &[u64], raw: &'static [u8]) -> NamedInput {
    let raw = TensorData::Raw(Bytes::from_static(raw));
    input("text", ElementType::Bytes, shape, raw)
}

fn request(inputs: Vec<NamedInput>, outputs: &[&str]) -> InferRequest {
    InferRequest {
        model: "m".to_owned(),
        version: None,
        id: String::new(),
        inputs,
        outputs: outputs.iter().map(|&name| name.into()).collect(),
        arrived: Timestamp::ZERO,
        deadline: None,
        queue_timeout: None,
        priority: 0,
        trace: None,
    }
}

const TWO: &[u8] = b"\x01\0\0\0x\0\0\0\0";

#[test]
fn a_good_request_comes_out_in_the_models_order() {
    let inputs = vec![text(&[2, 1], TWO), data(&[2, 2, 3], 48)];
    let valid = validate(&model(), request(inputs, &["b"])).expect("it fits");
    assert_eq!(valid.items, 2);
    assert_eq!(valid.inputs[0].shape, [2, 2, 3]);
    let strings = TensorData::Strings(vec![Bytes::from_static(b"x"), Bytes::new()]);
    assert_eq!(valid.inputs[1].data, InputData::Here(strings));
    assert_eq!(*valid.shape.0, [2, 3, 1]);
    assert_eq!(*valid.outputs, [1]);
    assert_eq!(valid.bytes, 48 + 1 + 2 * size_of::<Bytes>() as u64);

    let all = validate(
        &model(),
        request(vec![text(&[2, 1], TWO), data(&[2, 2, 3], 48)], &[]),
    )
    .expect("it fits");
    assert_eq!(*all.outputs, [0, 1]);
}

#[test]
fn a_model_without_a_batch_dimension_takes_whole_shapes() {
    let mut info = model();
    info.max_batch_size = 0;
    let inputs = vec![text(&[2, 1], TWO), data(&[9, 2, 3], 216)];
    let valid = validate(&info, request(inputs, &[])).expect("it fits");
    assert_eq!(valid.items, 1);
    assert_eq!(*valid.shape.0, [9, 2, 3, 2, 1]);
}

#[test]
fn every_fault_is_named() {
    let good = || data(&[2, 2, 3], 48);
    let int = TensorData::Raw(vec![0; 48].into());
    let cases: Vec<(Vec<NamedInput>, &[&str], ErrorKind, &str)> = vec![
        (
            vec![good()],
            &[],
            ErrorKind::MissingInput,
            "the request lacks input `text` of model `m`, which takes `data`, `text`",
        ),
        (
            vec![input("datum", ElementType::Fp32, &[1], int.clone())],
            &[],
            ErrorKind::UnknownInput,
            "model `m` has no input `datum`, it has `data`, `text`",
        ),
        (
            vec![good(), good()],
            &[],
            ErrorKind::DuplicateName,
            "input `data` of model `m` is named twice, expected once",
        ),
        (
            vec![input("data", ElementType::Int32, &[2, 2, 3], int)],
            &[],
            ErrorKind::InvalidType,
            "input `data` of model `m` has type INT32, expected FP32",
        ),
        (
            vec![data(&[2, 3, 2], 48)],
            &[],
            ErrorKind::InvalidShape,
            "input `data` of model `m` has shape [2, 3, 2], expected [batch, 2, 3]",
        ),
        (
            vec![data(&[2, 6], 48)],
            &[],
            ErrorKind::InvalidShape,
            "input `data` of model `m` has shape [2, 6], expected [batch, 2, 3]",
        ),
        (
            vec![data(&[0, 2, 3], 0)],
            &[],
            ErrorKind::InvalidShape,
            "input `data` of model `m` has shape [0, 2, 3], expected every dimension between \
             1 and 9223372036854775807",
        ),
        (
            vec![data(&[5, 2, 3], 120)],
            &[],
            ErrorKind::InvalidShape,
            "input `data` of model `m` has shape [5, 2, 3], a batch of 5, expected at most \
             max_batch_size = 4",
        ),
        (
            vec![text(&[4, u64::MAX / 2], TWO)],
            &[],
            ErrorKind::InvalidShape,
            "input `text` of model `m` has shape [4, 9223372036854775807], whose BYTES \
             elements do not fit in memory",
        ),
        (
            vec![good(), text(&[1, 2], TWO)],
            &[],
            ErrorKind::InvalidShape,
            "input `text` of model `m` has a batch of 1, expected 2 as input `data` has",
        ),
        (
            vec![data(&[2, 2, 3], 47)],
            &[],
            ErrorKind::InvalidByteCount,
            "input `data` of model `m` has 47 bytes, expected 48 for FP32 of shape [2, 2, 3]",
        ),
        (
            vec![text(&[1, 1], TWO)],
            &[],
            ErrorKind::InvalidByteCount,
            "input `text` of model `m` has 2 elements, expected 1 for shape [1, 1]",
        ),
        (
            vec![text(&[2, 2], TWO)],
            &[],
            ErrorKind::InvalidByteCount,
            "input `text` of model `m` has 2 elements, expected 4 for shape [2, 2]",
        ),
        (
            vec![text(&[1, 2], b"\x01\0\0\0x\x09\0\0\0y")],
            &[],
            ErrorKind::InvalidByteCount,
            "input `text` of model `m`: string 1 says 9 bytes and 1 are left",
        ),
        (
            vec![text(&[1, 2], b"\x01\0\0\0x\x09\0")],
            &[],
            ErrorKind::InvalidByteCount,
            "input `text` of model `m`: string 1 says 4 bytes and 2 are left",
        ),
        (
            vec![good()],
            &["c"],
            ErrorKind::UnknownOutput,
            "model `m` has no output `c`, it has `a`, `b`",
        ),
        (
            vec![good()],
            &["a", "a"],
            ErrorKind::DuplicateName,
            "output `a` of model `m` is named twice, expected once",
        ),
    ];
    for (inputs, outputs, kind, message) in cases {
        let error = validate(&model(), request(inputs, outputs)).expect_err(message);
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    }
}

#[test]
fn a_bool_is_0_or_1() {
    let info = ModelInfo {
        inputs: vec![spec("flag", ElementType::Bool, &[None])],
        ..model()
    };
    let raw = |bytes: &'static [u8]| {
        let raw = TensorData::Raw(Bytes::from_static(bytes));
        request(vec![input("flag", ElementType::Bool, &[2], raw)], &[])
    };
    validate(&info, raw(&[0, 1])).expect("0 and 1 are booleans");
    let error = validate(&info, raw(&[1, 2])).expect_err("2 is no boolean");
    assert_eq!(error.kind(), ErrorKind::InvalidValue);
    assert_eq!(
        error.to_string(),
        "element 1 of input `flag` of model `m` is 2, expected a BOOL of 0 or 1"
    );
}
