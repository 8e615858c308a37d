//! Models cut into parts and legs: the answers are those of the model in one piece, and
//! the legs of a task follow each other in its slot whatever runs between them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::zoo::item;
use common::{
    Bench, Rig, as_f32, assert_close, batched, branching, dense, later_leg, model, node,
    random_rows, raw, request, strings,
};
use fugato_core::{LegIndex, ModelId, OperatorIndex, SlotIndex, TaskId};
use fugato_device::reference::PlainSession;
use fugato_device::{
    Cuts, Device, DeviceEvent, InputTensor, LeftBehind, LegWork, LoadErrorKind, LoadOptions,
    RunErrorKind, StoredModel, TensorData,
};
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{AttributeProto, ValueInfoProto};
use fugato_onnx::{DataType, ExternalPolicy, ModelProto, TensorProto};
use std::path::PathBuf;
use std::sync::Mutex;

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

/// A model of the zoo in one leg of all segments, and in a leg for each, against itself in
/// one piece.
fn compare(name: &str) {
    compare_batches(name, &[1, 2]);
}

fn compare_batches(name: &str, batches: &[u64]) {
    let zoo = fugato_zoo::find(name).unwrap();
    let bench = Bench::new();
    let stored = bench.prepare(&zoo.build(1));
    let rig = Rig::new();
    rig.load(1, &stored, 2);
    // Chains are cut too, or some models would be one segment.
    let segments = stored.graph().unwrap().segments_from(100_000_000);
    assert!(segments.count() > 1);
    let together = Cuts::segment_by_segment(&segments);
    let all = segments.all().iter();
    let apart = Cuts::sequential(all.map(|one| one.operators.clone()));
    for (id, cuts) in [(2, together), (3, apart)] {
        let legs = u16::try_from(cuts.legs()).unwrap();
        let loaded = rig.device.load(ModelId(id), &stored, &options(cuts, 2));
        assert_eq!(loaded.unwrap().legs, legs);
        for &batch in batches {
            let items = || (0..batch).map(|seed| request(1, item(zoo, seed)));
            let expected = rig.run(1, items().collect()).unwrap();
            let found = rig.run_legs(id, legs, items().collect()).unwrap();
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert_eq!(found.shape, expected.shape);
                assert_close(&as_f32(found), &as_f32(expected), 1e-5);
            }
        }
    }
    // Both plans are of the same segments, so of the same files.
    assert_eq!(part_files(&stored).len(), segments.count());
}

#[test]
fn squeezenet() {
    compare("squeezenet1_1");
}

#[test]
fn mobilenet() {
    compare("mobilenet_v2");
}

#[test]
fn googlenet() {
    compare("googlenet");
}

#[test]
fn resnet18() {
    compare("resnet18");
}

#[test]
fn resnet50() {
    compare("resnet50");
}

#[test]
fn resnext50() {
    compare("resnext50_32x4d");
}

#[test]
fn alexnet() {
    compare("alexnet");
}

#[test]
fn shufflenet() {
    compare("shufflenet_v2_x1_0");
}

#[test]
fn inception() {
    compare("inception_v3");
}

#[test]
fn densenet() {
    compare("densenet121");
}

#[test]
fn vgg19() {
    compare("vgg19");
}

#[test]
fn bert_base() {
    compare("bert-base");
}

#[test]
fn randwire() {
    compare("randwire_ws");
}

/// One item: it takes as long as six of ResNet-50.
#[test]
fn nasnet() {
    compare_batches("nasnet_a_large", &[1]);
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

fn refused(stored: &StoredModel, cuts: Cuts) -> String {
    let rig = Rig::new();
    let loaded = rig.device.load(ModelId(1), stored, &options(cuts, 1));
    let error = loaded.unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::Options);
    error.report()
}

#[test]
fn cuts_that_do_not_fit_are_refused_by_name() {
    let bench = Bench::new();
    let stored = bench.prepare(&dense(64));
    let graph = stored.graph().unwrap();
    let count = graph.graph().operators().len();
    assert!(count >= 2);
    let all = || (0..count).map(OperatorIndex::at);
    let label = |place| graph.graph().label(OperatorIndex::at(place));
    let backwards = Cuts::sequential(all().rev().map(|operator| vec![operator]));
    let report = refused(&stored, backwards);
    assert!(
        report.contains(&format!("{} runs before", label(count - 1))),
        "{report}"
    );
    let report = refused(&stored, Cuts::sequential([all().skip(1).collect()]));
    let expected = format!("{} is in 0 parts of the plan", label(0));
    assert!(report.contains(&expected), "{report}");
    let twice = [
        all().collect::<Vec<_>>(),
        vec![OperatorIndex::at(count - 1)],
    ];
    let report = refused(&stored, Cuts::sequential(twice));
    assert!(report.contains("is in 2 parts of the plan"), "{report}");
    let missing = [all().collect::<Vec<_>>(), vec![OperatorIndex::at(count)]];
    let report = refused(&stored, Cuts::sequential(missing));
    let expected = format!("the model has {count} operators, no operator {count}");
    assert!(report.contains(&expected), "{report}");
    let report = refused(&stored, Cuts::default());
    assert!(report.contains("the plan has 0 legs"), "{report}");
}

#[test]
fn a_sequence_may_not_be_cut() {
    let sequence = model(
        vec![
            node("SplitToSequence", &["x"], &["parts"]).with([AttributeProto::int("axis", 1)]),
            node("ConcatFromSequence", &["parts"], &["c"]).with([AttributeProto::int("axis", 1)]),
            node("Exp", &["c"], &["y"]),
            node("Neg", &["x"], &["z"]),
        ],
        vec![batched("x", DataType::Float, &[4])],
        vec![
            batched("y", DataType::Float, &[4]),
            batched("z", DataType::Float, &[4]),
        ],
        vec![],
    );
    let bench = Bench::new();
    let stored = bench.prepare(&sequence);
    let report = refused(&stored, operator_by_operator(&stored));
    assert!(
        report.contains("cannot be cut at `parts`: it is not a tensor"),
        "{report}"
    );
    // Its segments keep it inside.
    let rig = Rig::new();
    rig.load(1, &stored, 1);
    let cuts = apart(&stored);
    let legs = u16::try_from(cuts.legs()).unwrap();
    assert!(legs > 1);
    rig.device
        .load(ModelId(2), &stored, &options(cuts, 1))
        .unwrap();
    let work = || vec![request(1, vec![random_rows(1, 1, 4)])];
    let expected = rig.run(1, work()).unwrap();
    assert_eq!(rig.run_legs(2, legs, work()).unwrap(), expected);
}

/// A model of several legs, loaded as model 1, with two slots.
fn in_legs(rig: &Rig, bench: &Bench) -> u16 {
    let stored = bench.prepare(&twice_used());
    let cuts = operator_by_operator(&stored);
    let legs = u16::try_from(cuts.legs()).unwrap();
    let loaded = rig.device.load(ModelId(1), &stored, &options(cuts, 4));
    assert_eq!(loaded.unwrap().legs, legs);
    legs
}

#[test]
fn tasks_at_different_legs_keep_to_their_slots() {
    let (bench, rig) = (Bench::new(), Rig::new());
    let legs = in_legs(&rig, &bench);
    let rows = [random_rows(1, 1, 4), random_rows(2, 3, 4)];
    let expected = [(1, &rows[0]), (3, &rows[1])].map(|(items, rows)| {
        let work = vec![request(items, vec![rows.clone()])];
        rig.run_legs(1, legs, work).unwrap()
    });
    let first = rig.leg(1, vec![request(1, vec![rows[0].clone()])]);
    let mut second = rig.leg(1, vec![request(3, vec![rows[1].clone()])]);
    second.start.slot = SlotIndex(1);
    let mut later: Vec<_> = (1..legs)
        .flat_map(|leg| [later_leg(&first, leg), later_leg(&second, leg)])
        .collect();
    later.reverse();
    let tasks = [first.start.task, second.start.task];
    rig.device.start(first);
    rig.device.start(second);
    let mut found = Vec::new();
    // The lane holds one leg of each; the next of a task follows when its last has ended.
    while found.len() < 2 {
        let ended = rig.finished();
        let outputs = ended.result.unwrap();
        match later.pop() {
            Some(work) => {
                assert_eq!(work.start.task, ended.task);
                rig.device.start(work);
            }
            None => found.push(outputs),
        }
    }
    for (task, found) in found.into_iter().enumerate() {
        let found: Vec<_> = found.requests.into_iter().map(Result::unwrap).collect();
        assert_eq!(found, expected[task], "{}", tasks[task]);
    }
}

#[test]
fn a_cancelled_task_leaves_nothing_to_the_next() {
    let (bench, rig) = (Bench::new(), Rig::new());
    let legs = in_legs(&rig, &bench);
    let work = || vec![request(2, vec![random_rows(7, 2, 4)])];
    let expected = rig.run_legs(1, legs, work()).unwrap();
    let cancelled = rig.leg(1, vec![request(2, vec![random_rows(8, 2, 4)])]);
    let late = later_leg(&cancelled, 1);
    rig.device.start(cancelled);
    rig.finished().result.unwrap();
    assert_eq!(rig.run_legs(1, legs, work()).unwrap(), expected);
    // Nor can it be taken up again.
    rig.device.start(late);
    let error = rig.finished().result.unwrap_err();
    assert_eq!(error.kind, RunErrorKind::InvalidInput);
    assert!(
        error.detail.contains("no task is under way"),
        "{}",
        error.detail
    );
}

#[test]
fn a_task_that_goes_no_further_leaves_nothing() {
    let bench = Bench::new();
    let rig = Rig::new();
    let legs = in_legs(&rig, &bench);
    assert!(legs > 1);
    let left = |work: &LegWork| LeftBehind {
        task: work.start.task,
        model: work.start.model,
        slot: work.start.slot,
    };
    let first = rig.leg(1, vec![request(1, vec![random_rows(1, 1, 4)])]);
    let (next, mine) = (later_leg(&first, 1), left(&first));
    let other = LeftBehind {
        task: TaskId(99),
        ..mine
    };
    rig.device.start(first);
    assert!(rig.finished().result.is_ok());
    // Another task's leavings are not this one's.
    rig.device.let_go(&other);
    rig.device.let_go(&mine);
    rig.device.start(next);
    let detail = rig.finished().result.unwrap_err().detail;
    assert!(detail.contains("no task is under way"), "{detail}");
    // The slot is as good as new.
    let work = vec![request(1, vec![random_rows(2, 1, 4)])];
    rig.run_legs(1, legs, work).unwrap();
}

#[test]
fn legs_out_of_order_are_refused_and_end_the_task() {
    let (bench, rig) = (Bench::new(), Rig::new());
    let legs = in_legs(&rig, &bench);
    let refused = |work, expected: &str| {
        rig.device.start(work);
        let error = rig.finished().result.unwrap_err();
        assert_eq!(error.kind, RunErrorKind::InvalidInput);
        assert!(error.detail.contains(expected), "{}", error.detail);
    };
    let work = || vec![request(1, vec![random_rows(7, 1, 4)])];
    let first = rig.leg(1, work());
    refused(later_leg(&first, 1), "no task is under way");
    let skipped = later_leg(&first, 2);
    let mut other = later_leg(&first, 1);
    other.start.task = TaskId(77);
    let past = later_leg(&first, legs);
    let mut with_requests = later_leg(&first, 1);
    with_requests.requests = work();
    rig.device.start(first);
    rig.finished().result.unwrap();
    refused(skipped, "leg 1 of task");
    refused(other, "leg 1 of task 77");
    refused(
        past,
        &format!("the model's plan has {legs} legs, not a leg {legs}"),
    );
    refused(with_requests, "1 requests came with leg 1");
}

#[test]
fn a_leg_that_is_taken_back_may_be_started_again() {
    let (bench, rig) = (Bench::new(), Rig::new());
    let legs = in_legs(&rig, &bench);
    let work = || vec![request(1, vec![random_rows(7, 1, 4)])];
    let expected = rig.run_legs(1, legs, work()).unwrap();
    let first = rig.leg(1, work());
    let later: Vec<_> = (1..legs).map(|leg| later_leg(&first, leg)).collect();
    let mut held = later_leg(&first, 1);
    held.start.not_before = fugato_core::Timestamp::MAX;
    let revoke = fugato_device::RevokeLeg {
        task: held.start.task,
        leg: LegIndex(1),
        partition: held.start.partition,
        lane: held.start.lane,
    };
    rig.device.start(first);
    rig.finished().result.unwrap();
    rig.device.start(held);
    rig.device.revoke(&revoke);
    assert!(matches!(rig.event(), DeviceEvent::Revoked { .. }));
    let mut found = Vec::new();
    for leg in later {
        rig.device.start(leg);
        found = rig.finished().result.unwrap().requests;
    }
    let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
    assert_eq!(found, expected);
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

#[test]
fn a_model_whose_parts_do_not_run_is_served_whole() {
    let bench = Bench::new();
    let chain = model(
        vec![
            node("Exp", &["x"], &["a"]),
            node("Tanh", &["a"], &["b"]),
            node("Neg", &["b"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[64])],
        vec![batched("y", DataType::Float, &[64])],
        vec![],
    );
    let stored = bench.prepare(&chain);
    // What the runtime said of a value between operators, made wrong.
    let path = stored.optimised_graph();
    let mut graph = fugato_onnx::read_model(path).unwrap();
    let values = &mut graph.graph.as_mut().unwrap().value_info;
    assert!(!values.is_empty());
    for value in values {
        let shape = value.tensor_type_mut().unwrap().shape.as_mut().unwrap();
        *shape.dim.last_mut().unwrap() = Dimension::size(32);
    }
    fugato_onnx::save_model(&graph, path, ExternalPolicy::Never).unwrap();
    let rig = Rig::new();
    let cuts = operator_by_operator(&stored);
    assert!(cuts.legs() > 1);
    let loaded = rig.device.load(ModelId(1), &stored, &options(cuts, 2));
    assert_eq!(loaded.unwrap().legs, 1);
    let input = random_rows(5, 2, 64);
    let found = rig.run(1, vec![request(2, vec![input.clone()])]).unwrap();
    let mut plain = PlainSession::load(&bench.runtime, stored.origin(), 1).unwrap();
    let expected = plain.run(&[input]).unwrap();
    assert_close(&as_f32(&found[0][0]), &as_f32(&expected[0]), 1e-5);
}

/// What is logged while `work` runs, on this thread.
fn logged<T>(work: impl FnOnce() -> T) -> (T, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(Mutex::new(file.reopen().unwrap()))
        .finish();
    let done = tracing::subscriber::with_default(lines, work);
    (done, std::fs::read_to_string(file.path()).unwrap())
}

#[test]
fn a_model_whose_part_does_not_load_is_served_whole_and_says_so_once() {
    let bench = Bench::new();
    let turned = model(
        vec![
            node("Exp", &["x"], &["a"]),
            node("Transpose", &["a"], &["b"]).with([AttributeProto::ints("perm", &[0, 2, 1])]),
            node("Neg", &["b"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[4, 8])],
        vec![batched("y", DataType::Float, &[8, 4])],
        vec![],
    );
    let stored = bench.prepare(&turned);
    // What the transposition reads, described with too few dimensions: with the operators
    // before it the runtime knows better, by itself it refuses the file.
    let path = stored.optimised_graph();
    let mut graph = fugato_onnx::read_model(path).unwrap();
    let values = &mut graph.graph.as_mut().unwrap().value_info;
    let read = values.iter_mut().find(|value| value.name() == "a").unwrap();
    let shape = read.tensor_type_mut().unwrap().shape.as_mut().unwrap();
    assert_eq!(shape.dim.pop(), Some(Dimension::size(8)));
    fugato_onnx::save_model(&graph, path, ExternalPolicy::Never).unwrap();
    let rig = Rig::new();
    let partitions = rig.device.spec().partitions.iter();
    let everywhere = LoadOptions {
        warm: partitions.map(|partition| partition.id).collect(),
        ..options(operator_by_operator(&stored), 2)
    };
    assert!(everywhere.warm.len() > 1);
    let (loaded, said) = logged(|| rig.device.load(ModelId(1), &stored, &everywhere));
    assert_eq!(loaded.unwrap().legs, 1);
    let input = random_rows(5, 2, 32);
    let input = InputTensor {
        shape: vec![2, 4, 8],
        ..input
    };
    let work = vec![request(2, vec![input.clone()])];
    let (found, said_later) = logged(|| rig.run(1, work).unwrap());
    let mut plain = PlainSession::load(&bench.runtime, stored.origin(), 1).unwrap();
    let expected = plain.run(&[input]).unwrap();
    assert_close(&as_f32(&found[0][0]), &as_f32(&expected[0]), 1e-5);
    let once = "a part of the model does not work by itself; the model is not cut";
    assert_eq!(said.matches(once).count(), 1, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let origin = stored.origin().display().to_string();
    assert!(
        said.contains(&origin) && said.contains("Transpose_b"),
        "{said}"
    );
    assert_eq!(said_later, "");
}

/// The names of this process's threads that help lanes: those of one test, since no other
/// here has stages of several groups.
fn helpers() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| {
        let name = std::fs::read_to_string(task.unwrap().path().join("comm"));
        // A thread may end while the folder is read.
        name.ok().map(|name| name.trim().to_owned())
    });
    names.filter(|name| name.contains('+')).collect()
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
    rig.device
        .load(ModelId(2), &stored, &options(cuts, 4))
        .unwrap();
    let work = || vec![request(4, vec![random_rows(3, 4, 1000)])];
    let expected = rig.run(1, work()).unwrap();
    assert_eq!(helpers(), [""; 0], "a model in one piece needs none");
    for _ in 0..20 {
        assert_eq!(rig.run(2, work()).unwrap(), expected);
    }
    // One for each core but the lane's own. A thread gives itself its name when it first runs,
    // which may be after the lane has done all the work.
    let wanted = common::cores().len() - 1;
    let begun = std::time::Instant::now();
    while helpers().len() != wanted && begun.elapsed().as_secs() < 30 {
        std::thread::yield_now();
    }
    assert_eq!(helpers().len(), wanted);
    rig.drop_device();
    assert_eq!(helpers(), [""; 0]);
}
