//! The model store: optimised once, shared, and mended where it is damaged; models that
//! cannot be loaded say why.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{
    Bench, Rig, as_f32, batched, dense, identity, later_leg, model, node, random_rows, request,
};
use fugato_core::{ModelId, OperatorIndex, PartitionId};
use fugato_device::reference::PlainSession;
use fugato_device::{
    Batching, Cuts, Device, ElementType, LoadErrorKind, LoadOptions, ModelStore, Runtime,
    RuntimeErrorKind, StoredModel,
};
use fugato_onnx::proto::{StringStringEntryProto, TypeProto, ValueInfoProto, type_proto};
use fugato_onnx::{DataType, ExternalPolicy, ModelProto, TensorProto};
use std::path::Path;

fn failure(bench: &Bench, path: &Path) -> (LoadErrorKind, String) {
    let Err(error) = bench.store.prepare(path) else {
        panic!("`{}` was loaded", path.display());
    };
    (error.kind(), error.report())
}

fn failure_of(model: &ModelProto) -> (LoadErrorKind, String) {
    let bench = Bench::new();
    let path = bench.write("bad.onnx", model);
    failure(&bench, &path)
}

/// Runs the stored model and plain ONNX Runtime on the same rows.
fn assert_works(bench: &Bench, stored: &StoredModel) {
    let rig = Rig::new();
    rig.load(1, stored, 2);
    let input = random_rows(5, 2, 64);
    let found = rig.run(1, vec![request(2, vec![input.clone()])]).unwrap();
    let mut plain = PlainSession::load(&bench.runtime, stored.origin(), 1).unwrap();
    let expected = plain.run(&[input]).unwrap();
    common::assert_close(&as_f32(&found[0][0]), &as_f32(&expected[0]), 1e-5);
}

#[test]
fn weights_that_kernels_read_stay_in_memory_while_sessions_are_made() {
    const FLOATS: i64 = 1 << 20;
    let bench = Bench::new();
    // The kernel of `Add` reads its weights where they are.
    let offset = TensorProto::from_f32s("w", &[FLOATS], &common::floats(1, 1 << 20));
    let stored = bench.prepare(&model(
        vec![
            node("Add", &["x", "w"], &["h"]),
            node("Neg", &["h"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[FLOATS])],
        vec![batched("y", DataType::Float, &[FLOATS])],
        vec![offset],
    ));
    let in_use = || stored.pages().count().unwrap();
    assert_eq!(in_use(), 0);
    let rig = Rig::new();
    let each = (0..2).map(|place| vec![OperatorIndex::at(place)]);
    let options = LoadOptions {
        cuts: Some(Cuts::sequential(each)),
        ..LoadOptions::default()
    };
    let loaded = rig.device.load(ModelId(1), &stored, &options).unwrap();
    assert_eq!(loaded.legs, 2);
    // Sessions of one core are made as each leg first runs there.
    stored.give_pages_back();
    let mut partitions = rig.device.spec().partitions.iter();
    let single = partitions.find(|partition| partition.share().0 == 1);
    let mut first = rig.leg(1, vec![request(1, vec![random_rows(1, 1, 1 << 20)])]);
    first.start.partition = single.unwrap().id;
    let second = later_leg(&first, 1);
    rig.device.start(first);
    rig.finished().result.unwrap();
    let all = in_use();
    assert!(all >= (4 << 20) / (64 << 10), "{all} pages of 4 MiB");
    rig.device.start(second);
    rig.finished().result.unwrap();
    assert_eq!(in_use(), all);
    stored.give_pages_back();
    assert_eq!(in_use(), 0);
}

#[test]
fn a_model_is_optimised_once() {
    let bench = Bench::new();
    let path = bench.write("dense.onnx", &dense(64));
    let first = bench.store.prepare(&path).unwrap();
    assert!(!first.was_cached());
    let second = bench.store.prepare(&path).unwrap();
    assert!(second.was_cached());
    assert_eq!(first.info(), second.info());
    assert_eq!(second.shared_weights(), (2, 2 * 64 * 64 * 4));
    // Another file of the same content is the same model; another content is not.
    let copy = bench.write("copy.onnx", &dense(64));
    assert!(bench.store.prepare(copy).unwrap().was_cached());
    let other = bench.write("other.onnx", &dense(32));
    assert!(!bench.store.prepare(other).unwrap().was_cached());
    assert_works(&bench, &second);
}

/// A device that is not the CPU has no operators of the CPU's own layout.
#[test]
fn a_model_for_any_device_keeps_to_onnx_and_answers_alike() {
    let bench = Bench::new();
    let zoo = fugato_zoo::find("squeezenet1_1").unwrap();
    let path = &bench.write("squeezenet.onnx", &zoo.build(1));
    let own = bench.store.prepare(path).unwrap();
    let any = bench.store.clone().for_any_device().prepare(path).unwrap();
    assert_ne!(own.optimised_graph(), any.optimised_graph());
    assert!(!any.was_cached());
    let graph = any.graph().unwrap();
    let mut kinds = graph
        .graph()
        .operators()
        .iter()
        .map(|operator| &*operator.op_type);
    assert!(!kinds.any(|kind| kind.starts_with("Reorder") || kind.starts_with("Fused")));
    // Its large weights are apart, for a device to have once.
    let (weights, bytes) = any.shared_weights();
    assert!(
        weights > 20 && bytes > 4_000_000,
        "{weights} of {bytes} bytes"
    );
    let input = common::zoo::item(zoo, 3);
    let run = |path: &Path| {
        let mut session = PlainSession::load(&bench.runtime, path, 1).unwrap();
        as_f32(&session.run(&input).unwrap()[0])
    };
    common::assert_close(&run(any.optimised_graph()), &run(path), 1e-4);
}

#[test]
fn a_damaged_entry_is_rebuilt() {
    let bench = Bench::new();
    let path = bench.write("dense.onnx", &dense(64));
    let entry = bench
        .store
        .prepare(&path)
        .unwrap()
        .optimised_graph()
        .parent()
        .unwrap()
        .to_owned();
    let flip = |name: &str| {
        let file = entry.join(name);
        let mut content = std::fs::read(&file).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(&file, content).unwrap();
    };
    let cut = |name: &str| {
        let file = entry.join(name);
        let content = std::fs::read(&file).unwrap();
        std::fs::write(&file, &content[..content.len() / 2]).unwrap();
    };
    for name in ["entry.json", "model.onnx", "weights.bin"] {
        for damage in [&flip as &dyn Fn(&str), &cut, &|name| {
            std::fs::remove_file(entry.join(name)).unwrap();
        }] {
            damage(name);
            let mended = bench.store.prepare(&path).unwrap();
            assert!(!mended.was_cached(), "damage to {name} was not seen");
            assert_works(&bench, &mended);
            assert!(bench.store.prepare(&path).unwrap().was_cached());
        }
    }
    let left: Vec<_> = std::fs::read_dir(entry.parent().unwrap())
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "drafts were left behind: {left:?}");
}

#[test]
fn preparing_from_many_threads_at_once_makes_one_entry() {
    let bench = Bench::new();
    let path = bench.write("dense.onnx", &dense(64));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let folder = bench.path("store");
                let store = ModelStore::open(&bench.runtime, folder).unwrap();
                store.prepare(&path).unwrap();
            });
        }
    });
    let entries: Vec<_> = std::fs::read_dir(bench.path("store")).unwrap().collect();
    assert_eq!(entries.len(), 1, "found {entries:?}");
    assert_works(&bench, &bench.store.prepare(&path).unwrap());
}

/// Plants what a dead process leaves: a draft with content, and its lock file unlocked.
fn plant_dead_draft(store: &Path, name: &str) {
    let draft = store.join(name);
    std::fs::create_dir_all(draft.join("inner")).unwrap();
    std::fs::write(draft.join("inner/optimised.onnx"), b"partial").unwrap();
    std::fs::write(store.join(format!("{name}.lock")), b"").unwrap();
}

#[test]
fn drafts_of_dead_processes_are_swept_and_those_of_live_ones_kept() {
    let bench = Bench::new();
    let store = bench.path("store");
    plant_dead_draft(&store, ".draft-dead");
    plant_dead_draft(&store, ".draft-live");
    std::fs::create_dir(store.join(".draft-without-lock")).unwrap();
    std::fs::write(store.join(".draft-without-folder.lock"), b"").unwrap();
    let held = std::fs::File::open(store.join(".draft-live.lock")).unwrap();
    held.lock().unwrap();
    ModelStore::open(&bench.runtime, &store).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(&store)
        .unwrap()
        .map(|found| found.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, [".draft-live", ".draft-live.lock"]);
    drop(held);
    ModelStore::open(&bench.runtime, &store).unwrap();
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0);
}

#[test]
fn a_store_is_opened_by_many_at_once_whatever_the_dead_left() {
    let bench = Bench::new();
    let path = bench.write("dense.onnx", &dense(64));
    let store = bench.path("store");
    for round in 0..8 {
        for number in 0..32 {
            plant_dead_draft(&store, &format!(".draft-{round}-{number}"));
        }
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let store = ModelStore::open(&bench.runtime, &store).unwrap();
                    store.prepare(&path).unwrap();
                });
            }
        });
        let left: Vec<_> = std::fs::read_dir(&store).unwrap().collect();
        assert_eq!(left.len(), 1, "found {left:?}");
        std::fs::remove_dir_all(left[0].as_ref().unwrap().path()).unwrap();
    }
}

#[test]
fn a_dead_draft_that_cannot_be_removed_stops_nothing() {
    let bench = Bench::new();
    let store = bench.path("store");
    // A file in the place of the folder.
    std::fs::write(store.join(".draft-odd"), b"").unwrap();
    plant_dead_draft(&store, ".draft-next");
    ModelStore::open(&bench.runtime, &store).unwrap();
    assert!(!store.join(".draft-next").exists());
    assert!(store.join(".draft-odd").exists());
}

#[test]
fn external_data_is_used_and_hashed() {
    let bench = Bench::new();
    let path = bench.path("dense.onnx");
    let policy = ExternalPolicy::Always("dense.bin");
    fugato_onnx::save_model(&dense(64), &path, policy).unwrap();
    let stored = bench.store.prepare(&path).unwrap();
    assert_eq!(stored.info().weight_bytes, 2 * 64 * 64 * 4);
    assert_works(&bench, &stored);
    let mut content = std::fs::read(bench.path("dense.bin")).unwrap();
    content[3] ^= 0x80;
    std::fs::write(bench.path("dense.bin"), &content).unwrap();
    let changed = bench.store.prepare(&path).unwrap();
    assert!(!changed.was_cached(), "a changed weight is another model");
    assert_works(&bench, &changed);

    std::fs::write(bench.path("dense.bin"), &content[..100]).unwrap();
    let (kind, report) = failure(&bench, &path);
    assert_eq!(kind, LoadErrorKind::ExternalData);
    assert!(report.contains("which has 100 bytes"), "{report}");
    std::fs::remove_file(bench.path("dense.bin")).unwrap();
    let (kind, report) = failure(&bench, &path);
    assert_eq!(kind, LoadErrorKind::ExternalData);
    assert!(report.contains("`dense.bin`"), "{report}");
}

#[test]
fn external_data_outside_of_the_folder_is_refused() {
    for location in ["../secret", "/etc/passwd", ""] {
        let mut weight = TensorProto::from_f32s("w1", &[64, 64], &[]);
        weight.raw_data = None;
        weight.data_location = Some(1);
        weight.external_data = vec![StringStringEntryProto::new("location", location)];
        let mut bad = dense(64);
        bad.graph.as_mut().unwrap().initializer[0] = weight;
        let (kind, report) = failure_of(&bad);
        assert_eq!(kind, LoadErrorKind::ExternalData);
        assert!(report.contains("outside of its folder"), "{report}");
    }
}

#[test]
fn files_that_are_no_models_are_refused_by_kind() {
    let bench = Bench::new();
    let whole = std::fs::read(bench.write("whole.onnx", &dense(64))).unwrap();
    let cases: [(&str, Option<&[u8]>, LoadErrorKind); 5] = [
        ("missing", None, LoadErrorKind::File),
        ("empty", Some(b""), LoadErrorKind::InvalidModel),
        (
            "text",
            Some(b"not a model at all"),
            LoadErrorKind::InvalidModel,
        ),
        (
            "cut",
            Some(&whole[..whole.len() / 2]),
            LoadErrorKind::InvalidModel,
        ),
        ("tail", Some(&whole[1..]), LoadErrorKind::InvalidModel),
    ];
    for (name, content, expected) in cases {
        let path = bench.path(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let (kind, report) = failure(&bench, &path);
        assert_eq!(kind, expected, "{name}: {report}");
        assert!(report.contains(path.to_str().unwrap()), "{report}");
    }
    assert_eq!(failure(&bench, bench.folder.path()).0, LoadErrorKind::File);
}

#[test]
fn no_prefix_of_a_model_is_loaded_or_brings_the_process_down() {
    let bench = Bench::new();
    let whole = std::fs::read(bench.write("whole.onnx", &identity(DataType::Float, 2))).unwrap();
    let path = bench.path("cut");
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        // A prefix may end between two fields, and lack only a trailing one.
        if let Err(error) = bench.store.prepare(&path) {
            assert!(!error.report().is_empty());
            assert_ne!(error.kind(), LoadErrorKind::Store);
        }
    }
}

#[test]
fn models_that_the_runtime_cannot_run_are_refused_by_kind() {
    let rows = |name| batched(name, DataType::Float, &[4]);
    let with = |op: &str| {
        model(
            vec![node(op, &["x"], &["y"])],
            vec![rows("x")],
            vec![rows("y")],
            vec![],
        )
    };
    let (kind, report) = failure_of(&with("Frobnicate"));
    assert_eq!(kind, LoadErrorKind::UnsupportedOperator);
    assert!(report.contains("Frobnicate"), "{report}");

    let mut foreign = with("Relu");
    foreign.graph.as_mut().unwrap().node[0].domain = Some("com.example".to_owned());
    let (kind, report) = failure_of(&foreign);
    assert_eq!(kind, LoadErrorKind::UnsupportedOperator, "{report}");

    let mut future = with("Relu");
    future.opset_import[0].version = Some(99);
    let (kind, report) = failure_of(&future);
    assert_eq!(kind, LoadErrorKind::UnsupportedOperator, "{report}");

    let mut dangling = with("Relu");
    dangling.graph.as_mut().unwrap().node[0].input[0] = "nowhere".to_owned();
    let (kind, report) = failure_of(&dangling);
    assert_eq!(kind, LoadErrorKind::InvalidModel, "{report}");
}

#[test]
fn only_tensors_of_protocol_types_are_served() {
    let sequence = ValueInfoProto {
        name: Some("y".to_owned()),
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::SequenceType(
                fugato_onnx::proto::SequenceType {
                    elem_type: batched("", DataType::Float, &[4]).r#type.map(Box::new),
                },
            )),
            denotation: None,
        }),
        ..ValueInfoProto::default()
    };
    let split = model(
        vec![node("SequenceConstruct", &["x"], &["y"])],
        vec![batched("x", DataType::Float, &[4])],
        vec![sequence],
        vec![],
    );
    let (kind, report) = failure_of(&split);
    assert_eq!(kind, LoadErrorKind::UnsupportedInterface);
    assert!(report.contains("output `y` is a sequence"), "{report}");

    let mut eight_bits = identity(DataType::Float8e4m3fn, 4);
    eight_bits.opset_import[0].version = Some(19);
    let (kind, report) = failure_of(&eight_bits);
    assert_eq!(kind, LoadErrorKind::UnsupportedInterface);
    assert!(report.contains("input `x`"), "{report}");
}

#[test]
fn a_model_tells_what_it_is() {
    let bench = Bench::new();
    let mut described = dense(64);
    described.producer_version = Some("1.2".to_owned());
    described.metadata_props = vec![StringStringEntryProto::new("labels", "cat,dog")];
    let stored = bench.prepare(&described);
    let info = stored.info();
    assert_eq!(
        (info.producer.as_str(), info.producer_version.as_str()),
        ("tests", "1.2")
    );
    assert_eq!(info.opsets, [(String::new(), 17)]);
    assert_eq!(info.custom["labels"], "cat,dog");
    assert_eq!(info.ir_version, 9);
    assert_eq!(info.weight_bytes, 2 * 64 * 64 * 4);
    assert_eq!(info.batching, Batching::Batchable);
    let input = &info.inputs[0];
    assert_eq!(
        (input.name.as_str(), input.element),
        ("x", ElementType::Fp32)
    );
    assert_eq!(input.shape, [None, Some(64)]);
    assert_eq!(input.symbols, [Some("batch".to_owned()), None]);
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let bench = Bench::new();
    let stored = bench.prepare(&dense(64));
    let rig = Rig::new();
    let base = LoadOptions::default;
    let cases = [
        (
            LoadOptions {
                max_batch: 0,
                ..base()
            },
            "max_batch",
        ),
        (LoadOptions { slots: 0, ..base() }, "slots"),
        (
            LoadOptions {
                warm: vec![PartitionId(999)],
                ..base()
            },
            "no partition 999",
        ),
    ];
    for (options, expected) in cases {
        let error = rig.device.load(ModelId(1), &stored, &options).unwrap_err();
        assert_eq!(error.kind(), LoadErrorKind::Options);
        assert!(error.report().contains(expected), "{}", error.report());
    }
    rig.load(1, &stored, 1);
    let error = rig.device.load(ModelId(1), &stored, &base()).unwrap_err();
    assert!(error.report().contains("in use"), "{}", error.report());
}

#[test]
fn a_library_that_is_missing_or_another_is_an_error() {
    let loaded = common::runtime();
    assert!(loaded.version().starts_with("1."), "{}", loaded.version());
    let error = Runtime::load("/nowhere/libonnxruntime.so").unwrap_err();
    assert_eq!(error.kind(), RuntimeErrorKind::Missing);
    assert!(error.to_string().contains("make runtime"), "{error}");
    let bench = Bench::new();
    let other = bench.path("libother.so");
    std::fs::write(&other, b"not a library").unwrap();
    let error = Runtime::load(&other).unwrap_err();
    assert_eq!(error.kind(), RuntimeErrorKind::AlreadyLoaded);
}
