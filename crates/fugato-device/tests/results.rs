//! What the CPU device computes is what plain ONNX Runtime computes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{
    Bench, Rig, as_f32, assert_close, dense, identity, onnx_type, random_rows, raw, request,
    strings,
};
use fugato_device::reference::PlainSession;
use fugato_device::{ElementType, TensorData};

#[test]
fn plain_runtime_tells_which_provider_runs_what() {
    let bench = Bench::new();
    let path = bench.write("dense.onnx", &dense(8));
    let plain = PlainSession::load(&bench.runtime, &path, 1).unwrap();
    let placed = plain.placed().unwrap();
    let providers: Vec<_> = placed.keys().map(String::as_str).collect();
    assert_eq!(providers, ["CPUExecutionProvider"]);
    let kinds = &placed["CPUExecutionProvider"];
    assert_eq!(kinds.get("MatMul"), Some(&2), "{kinds:?}");
    assert_eq!(kinds.get("Relu"), Some(&1), "{kinds:?}");
}

#[test]
fn batched_rows_equal_plain_runs() {
    let bench = Bench::new();
    let path = bench.write("dense.onnx", &dense(64));
    let stored = bench.store.prepare(&path).unwrap();
    let mut plain = PlainSession::load(&bench.runtime, &path, 1).unwrap();
    let rig = Rig::new();
    rig.load(1, &stored, 8);
    for batch in [1_u32, 3, 8] {
        let inputs: Vec<_> = (0..batch)
            .map(|seed| random_rows(seed.into(), 1, 64))
            .collect();
        let requests = inputs.iter().map(|input| request(1, vec![input.clone()]));
        let outputs = rig.run(1, requests.collect()).unwrap();
        assert_eq!(outputs.len(), inputs.len());
        for (input, output) in inputs.iter().zip(&outputs) {
            let expected = plain.run(std::slice::from_ref(input)).unwrap();
            assert_eq!(output[0].shape, [1, 64]);
            assert_close(&as_f32(&output[0]), &as_f32(&expected[0]), 1e-5);
        }
    }
}

#[test]
fn every_element_type_comes_back_as_it_went_in() {
    let bench = Bench::new();
    let rig = Rig::new();
    for (id, element) in (0..).zip(ElementType::ALL) {
        let name = format!("{element}.onnx");
        let path = bench.write(&name, &identity(onnx_type(element), 3));
        rig.load(id, &bench.store.prepare(path).unwrap(), 4);
        let tensor = |seed: u8, rows: u64| match element.size() {
            // 0xff and 0x00 in turn: NaNs, negative numbers and odd payloads included.
            Some(size) => {
                let count = usize::try_from(rows * 3).unwrap() * size;
                let byte = |index: usize| {
                    if element == ElementType::Bool {
                        return u8::from(index % 2 == usize::from(seed % 2));
                    }
                    seed.wrapping_mul(101).wrapping_add((index * 37) as u8)
                };
                raw(&[rows, 3], (0..count).map(byte).collect::<Vec<_>>())
            }
            None => {
                let jpeg = [b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" as &[u8], &[seed]].concat();
                let one: [&[u8]; 3] = [&jpeg, b"", b"\x00\x00"];
                strings(&[rows, 3], &one.repeat(usize::try_from(rows).unwrap()))
            }
        };
        let sent = [tensor(1, 1), tensor(2, 2)];
        let requests = vec![
            request(1, vec![sent[0].clone()]),
            request(2, vec![sent[1].clone()]),
        ];
        let received = rig.run(id, requests).unwrap();
        for (sent, received) in sent.iter().zip(&received) {
            assert_eq!(received[0].shape, sent.shape, "{element}");
            let found = fugato_device::InputData::from(received[0].data.clone());
            assert_eq!(found, sent.data, "{element}");
            let is_string = matches!(received[0].data, TensorData::Strings(_));
            assert_eq!(is_string, element == ElementType::Bytes);
        }
    }
}
