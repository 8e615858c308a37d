//! The corpora of `fuzz/`, and small changes of them, through the functions that fuzzing
//! calls: what fuzzing once found stays found without its toolchain.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// Changed inputs for each target, beside its corpus.
const CHANGED: usize = 2000;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let files = fs::read_dir(folder.join(target)).expect("the target has a corpus");
    let mut inputs: Vec<_> = files
        .map(|file| {
            let file = file.expect("the folder can be read");
            let name = file.file_name().to_string_lossy().into_owned();
            (name, fs::read(file.path()).expect("the file can be read"))
        })
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 10, "{} inputs of {target}", inputs.len());
    inputs
}

/// Changes, inserts, drops or repeats a few bytes.
fn change(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1));
        match rng.random_range(0..4) {
            0 if at < bytes.len() => bytes[at] = rng.random(),
            1 => bytes.insert(at.min(bytes.len()), rng.random()),
            2 if at < bytes.len() => bytes.truncate(at),
            _ => {
                let again = bytes[at.min(bytes.len())..].to_vec();
                bytes.extend(again);
            }
        }
    }
}

fn replay(target: &str, call: fn(&[u8])) {
    let inputs = corpus(target);
    for (name, input) in &inputs {
        let done = catch_unwind(|| call(input));
        done.unwrap_or_else(|_| panic!("of {target}/{name}"));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..CHANGED {
        let mut input = inputs[rng.random_range(0..inputs.len())].1.clone();
        change(&mut input, &mut rng);
        let done = catch_unwind(|| call(&input));
        done.unwrap_or_else(|_| panic!("of {target}: {}", input.escape_ascii()));
    }
}

#[test]
fn http_infer() {
    replay("http_infer", fugato::fuzz::http_infer);
}

#[test]
fn grpc_infer() {
    replay("grpc_infer", fugato::fuzz::grpc_infer);
}

#[test]
fn model_config() {
    replay("model_config", fugato::fuzz::model_config);
}

#[test]
fn shared_memory() {
    replay("shared_memory", fugato::fuzz::shared_memory);
}

#[test]
fn onnx_reader() {
    replay("onnx_reader", fugato::fuzz::onnx_reader);
}
