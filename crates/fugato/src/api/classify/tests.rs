use super::*;
use crate::error::ErrorKind;
use fugato_device::TensorSpec;
use std::sync::Arc;

/// The classes of an output of these bytes, or the refusal.
fn classes(
    element: ElementType,
    raw: Vec<u8>,
    shape: &[u64],
    batched: bool,
    classes: u32,
) -> Result<(Vec<u64>, Vec<String>), InferError> {
    let labels = ["ant", "", "cat"].map(str::to_owned);
    let info = ModelInfo {
        name: "m".to_owned(),
        version: "1".to_owned(),
        inputs: Vec::new(),
        outputs: vec![TensorSpec {
            name: "y".to_owned(),
            element,
            shape: vec![None; shape.len()],
            symbols: vec![None; shape.len()],
        }],
        max_batch_size: if batched { 8 } else { 0 },
        versions: vec!["1".to_owned()],
        labels: vec![Some(labels.into())],
    };
    let mut reply = InferReply {
        model: Arc::new(info),
        id: String::new(),
        outputs: vec![ReplyOutput {
            index: 0,
            element,
            shape: shape.to_vec(),
            data: TensorData::Raw(raw.into()),
        }],
        batch: 1,
    };
    let requested = [RequestedOutput {
        name: "y".to_owned(),
        classes,
        region: None,
    }];
    classify(&mut reply, &requested)?;
    let output = reply.outputs.remove(0);
    assert_eq!(output.element, ElementType::Bytes);
    let TensorData::Strings(strings) = output.data else {
        panic!("classes are strings");
    };
    let text = |string: &Bytes| String::from_utf8(string.to_vec()).expect("text");
    Ok((output.shape, strings.iter().map(text).collect()))
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn each_row_has_its_best_with_labels() {
    let raw = bytes_of(&[0.1, 0.7, 0.2, 3.5, -1.0, 1e9]);
    let (shape, found) =
        classes(ElementType::Fp32, raw.clone(), &[2, 3], true, 2).expect("classes");
    assert_eq!(shape, [2, 2]);
    let expected = [
        "0.700000:1",
        "0.200000:2:cat",
        "1000000000.000000:2:cat",
        "3.500000:0:ant",
    ];
    assert_eq!(found, expected);
    // Without a batch dimension the whole output is one row, and labels may be too few.
    let (shape, found) = classes(ElementType::Fp32, raw, &[2, 3], false, 99).expect("classes");
    assert_eq!(shape, [6]);
    assert_eq!((found[0].as_str(), found.len()), ("1000000000.000000:5", 6));
}

#[test]
fn equals_are_in_order_and_nan_is_last() {
    let raw = bytes_of(&[f32::NAN, 0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 0.0]);
    let (_, found) = classes(ElementType::Fp32, raw, &[6], false, 6).expect("classes");
    let expected = [
        "inf:3",
        "0.000000:1",
        "-0.000000:2:cat",
        "0.000000:5",
        "-inf:4",
        "nan:0:ant",
    ];
    assert_eq!(found, expected);
}

#[test]
fn every_type_of_numbers_is_ordered_by_value() {
    let cases: [(ElementType, Vec<u8>, [&str; 2]); 12] = [
        (ElementType::Int8, vec![0x80, 127], ["127:1", "-128:0:ant"]),
        (
            ElementType::Int16,
            vec![0, 0x80, 1, 0],
            ["1:1", "-32768:0:ant"],
        ),
        (
            ElementType::Int32,
            [i32::MIN.to_le_bytes(), 5i32.to_le_bytes()].concat(),
            ["5:1", "-2147483648:0:ant"],
        ),
        (
            ElementType::Int64,
            [i64::MIN.to_le_bytes(), i64::MAX.to_le_bytes()].concat(),
            ["9223372036854775807:1", "-9223372036854775808:0:ant"],
        ),
        (ElementType::Uint8, vec![7, 255], ["255:1", "7:0:ant"]),
        (ElementType::Uint16, vec![7, 0, 0, 1], ["256:1", "7:0:ant"]),
        (
            ElementType::Uint32,
            [7u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat(),
            ["4294967295:1", "7:0:ant"],
        ),
        (
            ElementType::Uint64,
            [7u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat(),
            ["18446744073709551615:1", "7:0:ant"],
        ),
        (
            ElementType::Fp16,
            [-2.5f32, 0.5]
                .map(|v| f16::from_f32(v).to_le_bytes())
                .concat(),
            ["0.500000:1", "-2.500000:0:ant"],
        ),
        (
            ElementType::Bf16,
            [-2.5f32, 0.5]
                .map(|v| bf16::from_f32(v).to_le_bytes())
                .concat(),
            ["0.500000:1", "-2.500000:0:ant"],
        ),
        (
            ElementType::Fp32,
            bytes_of(&[-2.5, 0.5]),
            ["0.500000:1", "-2.500000:0:ant"],
        ),
        (
            ElementType::Fp64,
            [-2.5f64, 0.5].map(f64::to_le_bytes).concat(),
            ["0.500000:1", "-2.500000:0:ant"],
        ),
    ];
    for (element, raw, expected) in cases {
        let (_, found) = classes(element, raw, &[1, 2], true, 5).expect("classes");
        assert_eq!(found, expected, "{element}");
    }
}

#[test]
fn what_has_no_classes_is_refused_or_empty() {
    for element in [ElementType::Bool, ElementType::Bytes] {
        let error = classes(element, vec![1], &[1, 1], true, 3).expect_err("no numbers");
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        let expected = format!("parameter `classification` of output `y` is 3 of {element}");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    let many = 1 << 20;
    let raw = vec![0; 2 * many];
    let error = classes(ElementType::Uint8, raw, &[2, many as u64], true, u32::MAX);
    let error = error.expect_err("two million classes");
    assert!(error.to_string().contains("for each of 2 rows"), "{error}");
    let (shape, found) = classes(ElementType::Fp32, Vec::new(), &[2, 0], true, 3).expect("none");
    assert_eq!((shape, found.len()), (vec![2, 0], 0));
}
