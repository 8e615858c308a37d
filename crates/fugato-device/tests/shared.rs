//! Inputs in a client's shared memory: read into the batch, and one that cannot be read
//! fails its own request only.

#![allow(
    clippy::unwrap_used,
    reason = "a failed unwrap in a test is a failed test"
)]

mod common;

use common::{Bench, Rig, as_f32, f32_bytes, floats, identity, random_rows, request};
use fugato_device::{Device, InputData, InputFault, InputTensor, SharedSlice, TaskOutputs};
use fugato_onnx::DataType;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Elements of a row.
const ROW: u64 = 6;

/// A file with these bytes from `position` on, as a client's region `name`.
fn shared(name: &str, position: u64, bytes: &[u8]) -> (Arc<File>, InputTensor) {
    let file = Arc::new(tempfile::tempfile().unwrap());
    file.write_all_at(bytes, position).unwrap();
    let slice = SharedSlice {
        file: Arc::clone(&file),
        position,
        length: bytes.len(),
        region: name.into(),
        offset: 0,
    };
    let tensor = InputTensor {
        shape: vec![1, ROW],
        data: InputData::Shared(slice),
    };
    (file, tensor)
}

fn shared_floats(name: &str, seed: u64) -> (Arc<File>, InputTensor, Vec<f32>) {
    let values = floats(seed, usize::try_from(ROW).unwrap());
    let (file, tensor) = shared(name, 4096, &f32_bytes(&values));
    (file, tensor, values)
}

fn run(rig: &Rig, inputs: Vec<InputTensor>) -> TaskOutputs {
    let requests = inputs.into_iter().map(|input| request(1, vec![input]));
    rig.device.start(rig.leg(1, requests.collect()));
    rig.finished().result.unwrap()
}

#[test]
fn a_client_that_shrinks_its_file_fails_its_own_request_only() {
    let bench = Bench::new();
    let rig = Rig::new();
    rig.load(1, &bench.prepare(&identity(DataType::Float, 6)), 8);
    let (_kept, first, first_values) = shared_floats("first", 1);
    let (cut, second, second_values) = shared_floats("second", 2);
    let here = random_rows(3, 1, ROW);

    // The rows that the cut request leaves must not be those of the task before.
    let whole = run(&rig, vec![first.clone(), second.clone(), here.clone()]);
    let values = |request: usize, outputs: &TaskOutputs| {
        as_f32(&outputs.requests[request].as_ref().unwrap()[0])
    };
    assert_eq!(values(1, &whole), second_values);
    let here_values = values(2, &whole);
    let before = rig.device.metrics();
    assert_eq!(before.bytes_copied_in, 3 * ROW * 4, "each byte once");

    cut.set_len(4096 + 10).unwrap();
    let outputs = run(&rig, vec![first, second.clone(), here]);
    assert_eq!(values(0, &outputs), first_values);
    assert_eq!(values(2, &outputs), here_values);
    let short = InputFault::Short {
        region: "second".into(),
        offset: 0,
        found: 10,
        expected: ROW * 4,
    };
    assert_eq!(outputs.requests[1].as_ref().unwrap_err(), &short);

    // Alone it fails without a run, and once the file is whole again it is answered.
    let outputs = run(&rig, vec![second.clone()]);
    assert_eq!(outputs.requests[0].as_ref().unwrap_err(), &short);
    cut.write_all_at(&f32_bytes(&second_values), 4096).unwrap();
    assert_eq!(values(0, &run(&rig, vec![second])), second_values);
}

#[test]
fn what_a_type_cannot_have_is_found_in_the_copy() {
    let bench = Bench::new();
    let rig = Rig::new();
    rig.load(1, &bench.prepare(&identity(DataType::Bool, 6)), 8);
    let (_good_file, good) = shared("good", 0, &[1, 0, 1, 0, 0, 1]);
    let (_bad_file, bad) = shared("bad", 0, &[1, 0, 1, 0, 7, 1]);
    let outputs = run(&rig, vec![bad, good]);
    let fault = outputs.requests[0].as_ref().unwrap_err();
    assert_eq!(
        fault,
        &InputFault::Bool {
            input: "x".to_owned(),
            index: 4,
            found: 7,
        }
    );
    let good = &outputs.requests[1].as_ref().unwrap()[0];
    assert_eq!(good.data.byte_size(), 6);
    let fugato_device::TensorData::Raw(bytes) = &good.data else {
        panic!("BOOL is raw");
    };
    assert_eq!(&bytes[..], [1, 0, 1, 0, 0, 1]);
}
