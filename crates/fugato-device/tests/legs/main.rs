//! Models cut into parts and legs: the answers are those of the model in one piece, and
//! the legs of a task follow each other in its slot whatever runs between them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod tasks;
mod uncut;
mod zoo;

use common::onnx::{looping, scanning};
use common::{
    Bench, Rig, as_f32, assert_close, batched, branching, model, node, random_rows, raw, request,
    strings,
};
use fugato_core::{ModelId, OperatorIndex};
use fugato_device::reference::PlainSession;
use fugato_device::{Cuts, InputTensor, LoadOptions, StoredModel, TensorData};
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{AttributeProto, ValueInfoProto};
use fugato_onnx::{DataType, ModelProto, TensorProto};
use std::path::PathBuf;

fn options(cuts: Cuts, max_batch: u32) -> LoadOptions {
    LoadOptions {
        max_batch,
        cuts: Some(cuts),
        ..LoadOptions::default()
    }
}

/// A leg for each segment.
fn apart(stored: &StoredModel) -> Cuts {
    let segments = stored.graph().unwrap().segments();
    Cuts::sequential(segments.all().iter().map(|one| one.operators.clone()))
}

/// A leg for each operator, chains cut too.
fn operator_by_operator(stored: &StoredModel) -> Cuts {
    let count = stored.graph().unwrap().graph().operators().len();
    Cuts::sequential((0..count).map(|place| vec![OperatorIndex::at(place)]))
}

fn part_files(stored: &StoredModel) -> Vec<PathBuf> {
    let entry = stored.optimised_graph().parent().unwrap();
    let files = std::fs::read_dir(entry).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let is_part = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("part-")
    };
    files.filter(is_part).collect()
}

#[test]
fn lengths_that_only_running_tells_pass_between_legs() {
    let bench = Bench::new();
    let path = bench.write(
        "bert.onnx",
        &fugato_zoo::find("bert-tiny").unwrap().build(1),
    );
    let stored = bench.store.prepare(&path).unwrap();
    let mut plain = PlainSession::load(&bench.runtime, &path, 1).unwrap();
    let rig = Rig::new();
    let cuts = apart(&stored);
    let legs = u16::try_from(cuts.legs()).unwrap();
    assert!(legs > 10);
    rig.device
        .load(ModelId(1), &stored, &options(cuts, 2))
        .unwrap();
    for length in [5_u64, 17, 3] {
        let inputs = stored.info().inputs.iter().map(|spec| {
            let value = i64::from(spec.name != "token_type_ids");
            let values = (0..length).flat_map(|_| value.to_le_bytes());
            raw(&[1, length], values.collect::<Vec<u8>>())
        });
        let inputs: Vec<_> = inputs.collect();
        let expected = plain.run(&inputs).unwrap();
        let found = rig.run_legs(1, legs, vec![request(1, inputs)]).unwrap();
        for (found, expected) in found[0].iter().zip(&expected) {
            assert_eq!(found.shape, expected.shape);
            assert_close(&as_f32(found), &as_f32(expected), 1e-5);
        }
    }
}

/// Runs a model whole and operator by operator on one row each.
fn assert_same(model: &ModelProto, inputs: &[InputTensor]) {
    let bench = Bench::new();
    let stored = bench.prepare(model);
    let rig = Rig::new();
    rig.load(1, &stored, 1);
    let cuts = operator_by_operator(&stored);
    let legs = u16::try_from(cuts.legs()).unwrap();
    assert!(legs > 1);
    let loaded = rig.device.load(ModelId(2), &stored, &options(cuts, 1));
    assert_eq!(loaded.unwrap().legs, legs);
    let work = || vec![request(1, inputs.to_vec())];
    let expected = rig.run(1, work()).unwrap();
    // Twice: what the first task left must not show in the second.
    for _ in 0..2 {
        assert_eq!(rig.run_legs(2, legs, work()).unwrap(), expected);
    }
}

#[test]
fn subgraphs_find_what_they_capture() {
    let rows = random_rows(3, 1, 4);
    assert_same(&branching(), &[rows]);
}

#[test]
fn loops_and_scans_run_in_a_part_of_their_own() {
    assert_same(&looping(), &[random_rows(3, 1, 4)]);
    assert_same(&scanning(), &[random_rows(5, 5, 4)]);
}

#[test]
fn strings_pass_between_legs() {
    let port = |name: &str, dims: &[i64]| {
        let dims = dims.iter().map(|&size| Dimension::size(size));
        ValueInfoProto::tensor(name, DataType::String, dims.collect())
    };
    let doubled = model(
        vec![
            node("Concat", &["x", "x"], &["xx"]).with([AttributeProto::int("axis", 0)]),
            node("Unsqueeze", &["xx", "axis"], &["y"]),
        ],
        vec![port("x", &[2])],
        vec![port("y", &[4, 1])],
        vec![TensorProto::from_i64s("axis", &[1], &[1])],
    );
    assert_same(&doubled, &[strings(&[2], &[b"ab", b"c"])]);
}

/// `x * x`, which is an output, its root, and a sigmoid of `x`.
fn twice_used() -> ModelProto {
    model(
        vec![
            node("Mul", &["x", "x"], &["squares"]),
            node("Sqrt", &["squares"], &["y"]),
            node("Sigmoid", &["x"], &["s"]),
            node("Add", &["s", "squares"], &["z"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![
            batched("z", DataType::Float, &[4]),
            batched("squares", DataType::Float, &[4]),
            batched("y", DataType::Float, &[4]),
        ],
        vec![],
    )
}

#[test]
fn an_input_used_twice_and_an_output_in_between_work() {
    assert_same(&twice_used(), &[random_rows(1, 1, 4)]);
}

#[test]
fn a_model_without_a_batch_takes_any_rows() {
    // A softmax over the rows makes it one request per run, of any number of rows.
    let mixing = model(
        vec![
            node("Relu", &["x"], &["r"]),
            node("Softmax", &["r"], &["s"]).with([AttributeProto::int("axis", 0)]),
            node("Exp", &["s"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![batched("y", DataType::Float, &[4])],
        vec![],
    );
    let bench = Bench::new();
    let stored = bench.prepare(&mixing);
    assert!(!stored.info().batching.is_batchable());
    let rig = Rig::new();
    rig.load(1, &stored, 1);
    let cuts = operator_by_operator(&stored);
    let legs = u16::try_from(cuts.legs()).unwrap();
    rig.device
        .load(ModelId(2), &stored, &options(cuts, 1))
        .unwrap();
    for rows in [1, 5, 2] {
        let work = || vec![request(1, vec![random_rows(rows, rows, 4)])];
        let expected = rig.run(1, work()).unwrap();
        assert_eq!(rig.run_legs(2, legs, work()).unwrap(), expected);
    }
}

#[test]
fn a_file_that_is_not_its_part_is_written_anew() {
    let bench = Bench::new();
    let stored = bench.prepare(&twice_used());
    let rig = Rig::new();
    let cuts = operator_by_operator(&stored);
    rig.device
        .load(ModelId(1), &stored, &options(cuts.clone(), 1))
        .unwrap();
    let files = part_files(&stored);
    for file in &files {
        std::fs::write(file, b"no model").unwrap();
    }
    let loaded = rig.device.load(ModelId(2), &stored, &options(cuts, 1));
    assert_eq!(loaded.unwrap().legs as usize, files.len());
    let work = || vec![request(1, vec![random_rows(7, 1, 4)])];
    let legs = u16::try_from(files.len()).unwrap();
    let expected = rig.run_legs(1, legs, work()).unwrap();
    assert_eq!(rig.run_legs(2, legs, work()).unwrap(), expected);
    let TensorData::Raw(bytes) = &expected[0][0].data else {
        panic!("floats are raw");
    };
    assert_eq!(bytes.len(), 16);
}

/// The cores of each of this process's threads that help lanes: those of one test, since no
/// other here has stages of several groups.
fn helpers() -> Vec<Vec<usize>> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let cores = tasks.filter_map(|task| {
        let status = std::fs::read_to_string(task.unwrap().path().join("status"));
        // A thread may end while the folder is read.
        let status = status.ok()?;
        let (name, _) = status.split_once('\n')?;
        name.contains('+').then(|| common::allowed_cores(&status))
    });
    let mut cores: Vec<_> = cores.collect();
    cores.sort();
    cores
}

#[test]
fn groups_of_a_stage_have_threads_of_their_own() {
    let bench = Bench::new();
    let wide = model(
        vec![
            node("Exp", &["x"], &["a"]),
            node("Tanh", &["x"], &["b"]),
            node("Neg", &["x"], &["c"]),
            node("Sum", &["a", "b", "c"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[1000])],
        vec![batched("y", DataType::Float, &[1000])],
        vec![],
    );
    let stored = bench.prepare(&wide);
    let graph = stored.graph().unwrap();
    let (last, first): (Vec<_>, Vec<_>) = (0..graph.graph().operators().len())
        .map(OperatorIndex::at)
        .partition(|&operator| graph.graph().successors(operator).is_empty());
    assert_eq!((first.len(), last.len()), (3, 1));
    let groups = first.into_iter().map(|operator| vec![operator]).collect();
    let cuts = Cuts::new(vec![vec![groups, vec![last]]]);
    let rig = Rig::new();
    rig.load(1, &stored, 4);
    let as_planned = options(cuts, 4);
    let by_time = LoadOptions {
        finds_ways: true,
        ..as_planned.clone()
    };
    rig.device.load(ModelId(2), &stored, &as_planned).unwrap();
    rig.device.load(ModelId(3), &stored, &by_time).unwrap();
    let work = |items| vec![request(items, vec![random_rows(3, items.into(), 1000)])];
    let expected = [4, 1].map(|items| rig.run(1, work(items)).unwrap());
    let none: [Vec<usize>; 0] = [];
    assert_eq!(helpers(), none, "a model in one piece needs none");
    let at_once = |model, items, runs: u32| {
        let before = rig.device.metrics().legs_at_once;
        for _ in 0..runs {
            let ran = rig.run(model, work(items)).unwrap();
            assert_eq!(ran, expected[usize::from(items == 1)]);
        }
        rig.device.metrics().legs_at_once - before
    };
    let each = |runs| u64::from(common::cores().len() > 1) * runs;
    assert_eq!([at_once(2, 4, 20), at_once(2, 1, 20)], [each(20); 2]);
    // The ways take turns, and then the faster stays; of single rows since it was loaded.
    assert_eq!(at_once(3, 4, 16), each(8));
    for items in [4, 1] {
        let found = at_once(3, items, 20);
        assert!([0, each(20)].contains(&found), "{found} of 20");
    }
    // One on each core but the lane's own. A thread gives itself its name and core when it first
    // runs, which may be after the lane has done all the work.
    let cores = common::cores();
    let wanted: Vec<_> = cores[1..].iter().map(|&core| vec![core]).collect();
    let begun = std::time::Instant::now();
    while helpers() != wanted && begun.elapsed().as_secs() < 30 {
        std::thread::yield_now();
    }
    assert_eq!(helpers(), wanted);
    rig.drop_device();
    assert_eq!(helpers(), none);
}
