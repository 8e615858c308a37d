//! A model whose weights are more than 2 GB, which no single protobuf message can hold: it
//! loads from its external data, is cut, and answers as it does in one piece.
//!
//! Ignored unless asked for (`make large`, a part of `make test`): it writes as much into the store.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{
    Bench, Rig, as_f32, assert_close, batched, f32_bytes, floats, model, node, raw, request,
};
use fugato_core::ModelId;
use fugato_device::{Cuts, LoadOptions};
use fugato_onnx::proto::{DataLocation, StringStringEntryProto};
use fugato_onnx::{DataType, TensorProto};
use std::os::unix::fs::FileExt;

/// Words and numbers of each: 2.25 GB, of which all but a few pages are a hole in the file.
const WORDS: i64 = 550_000;
const WIDTH: i64 = 1_024;

/// Words whose numbers are not zero, the last beyond 2 GiB.
const KNOWN: [i64; 3] = [3, 300_000, WORDS - 1];

#[test]
#[ignore = "it writes 2.25 GB: `make large` runs it"]
fn more_than_two_gigabytes_load_and_are_cut() {
    let bench = Bench::new();
    let row = usize::try_from(WIDTH).unwrap();
    let bytes = WORDS.cast_unsigned() * WIDTH.cast_unsigned() * 4;
    assert!(bytes > 1 << 31);
    let table = std::fs::File::create(bench.path("table.bin")).unwrap();
    table.set_len(bytes).unwrap();
    for word in KNOWN {
        let place = word.cast_unsigned() * WIDTH.cast_unsigned() * 4;
        let values = f32_bytes(&floats(word.cast_unsigned(), row));
        table.write_all_at(&values, place).unwrap();
    }
    let outside = TensorProto {
        name: Some("table".to_owned()),
        dims: vec![WORDS, WIDTH],
        data_type: Some(DataType::Float as i32),
        data_location: Some(DataLocation::External as i32),
        external_data: vec![StringStringEntryProto::new("location", "table.bin")],
        ..TensorProto::default()
    };
    let weights = TensorProto::from_f32s("w", &[WIDTH, 16], &floats(1, row * 16));
    let stored = bench.prepare(&model(
        vec![
            node("Gather", &["table", "words"], &["a"]),
            node("Tanh", &["a"], &["b"]),
            node("MatMul", &["b", "w"], &["y"]),
            node("Neg", &["b"], &["z"]),
        ],
        vec![batched("words", DataType::Int64, &[3])],
        vec![
            batched("y", DataType::Float, &[3, 16]),
            batched("z", DataType::Float, &[3, WIDTH]),
        ],
        vec![outside, weights],
    ));
    assert!(stored.info().weight_bytes > 1 << 31);
    let graph = stored.graph().unwrap();
    assert_eq!(graph.indivisible(), None);
    let segments = graph.segments();
    let cuts = Cuts::sequential(segments.all().iter().map(|one| one.operators.clone()));
    let legs = u16::try_from(cuts.legs()).unwrap();
    assert!(legs > 1);

    let rig = Rig::new();
    rig.load(1, &stored, 1);
    let options = LoadOptions {
        cuts: Some(cuts),
        ..LoadOptions::default()
    };
    let loaded = rig.device.load(ModelId(2), &stored, &options).unwrap();
    assert_eq!(loaded.legs, legs);
    let words: Vec<u8> = KNOWN.iter().flat_map(|word| word.to_le_bytes()).collect();
    let work = || vec![request(1, vec![raw(&[1, 3], words.clone())])];
    let expected = rig.run(1, work()).unwrap();
    let found = rig.run_legs(2, legs, work()).unwrap();
    for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
        assert_close(&as_f32(found), &as_f32(expected), 1e-5);
    }
}
