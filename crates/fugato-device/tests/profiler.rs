//! The profiler's visits on real sessions: what is timed, who is busy, what fails.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{Bench, batched, dense, model, node, random_rows, request};
use fugato_core::device::{AtomSet, DeviceSpec, LaneClass};
use fugato_core::{DeviceId, ModelId, OperatorIndex, PartitionId, Share};
use fugato_device::{
    CpuDevice, CpuOptions, Cuts, Device, LoadOptions, MonotonicClock, Neighbour, Profiler, Visit,
    VisitError, partitions_beside, slots_beside,
};
use fugato_onnx::{DataType, ModelProto, TensorProto};
use std::cell::Cell;
use std::sync::{Arc, Mutex, mpsc::channel};

const WIDTH: u64 = 64;
const MODEL: ModelId = ModelId(3);

/// A profiler of one model, loaded for batches up to `max_batch`.
fn profiler(bench: &Bench, model: &ModelProto, max_batch: u32) -> Profiler<CpuDevice> {
    let (sender, events) = channel();
    let sender = Mutex::new(sender);
    let sink = Arc::new(move |event| {
        // A receiver that is gone is a test that has ended.
        let _ = sender.lock().unwrap().send(event);
    });
    let clock = MonotonicClock::start();
    let device = CpuDevice::new(DeviceId(0), CpuOptions::default(), clock, sink).unwrap();
    let busy = partitions_beside(device.spec(), smallest(device.spec()));
    let options = LoadOptions {
        max_batch,
        slots: slots_beside(busy.len()),
        ..LoadOptions::default()
    };
    device.load(MODEL, &bench.prepare(model), &options).unwrap();
    Profiler::new(Arc::new(device), events)
}

fn smallest(spec: &DeviceSpec) -> PartitionId {
    spec.partitions.last().unwrap().id
}

fn visit(batch: u32, partition: PartitionId) -> Visit {
    Visit {
        model: MODEL,
        item: request(1, vec![random_rows(1, 1, WIDTH)]),
        batch,
        partition,
        busy: Vec::new(),
        neighbour: None,
        warm_up: 1,
        legs: 3,
    }
}

#[test]
fn a_visit_times_its_legs_and_leaves_the_device_idle() {
    let bench = Bench::new();
    let mut profiler = profiler(&bench, &dense(i64::try_from(WIDTH).unwrap()), 8);
    let before = profiler.device().metrics();
    let times = profiler.visit(&visit(8, PartitionId(0)), || true).unwrap();
    assert_eq!(times.len(), 3);
    assert!(times.iter().all(|took| took.as_nanos() > 0));
    let after = profiler.device().metrics();
    assert_eq!(after.legs - before.legs, 4, "the warm-up too");
    let bytes = after.bytes_copied_in - before.bytes_copied_in;
    assert_eq!(bytes, 4 * 8 * WIDTH * 4, "whole batches, item by item");
}

#[test]
fn neighbours_run_batches_of_another_model() {
    let bench = Bench::new();
    let graph = dense(i64::try_from(WIDTH).unwrap());
    let mut profiler = profiler(&bench, &graph, 4);
    let partition = smallest(profiler.device().spec());
    let busy = partitions_beside(profiler.device().spec(), partition);
    let other = ModelId(4);
    let options = LoadOptions {
        max_batch: 4,
        slots: slots_beside(busy.len()),
        ..LoadOptions::default()
    };
    let stored = bench.prepare(&graph);
    profiler.device().load(other, &stored, &options).unwrap();
    let beside = Visit {
        busy: busy.clone(),
        neighbour: Some(Neighbour {
            model: other,
            item: request(1, vec![random_rows(2, 1, WIDTH)]),
            batch: 4,
        }),
        ..visit(1, partition)
    };
    let before = profiler.device().metrics();
    assert_eq!(profiler.visit(&beside, || true).unwrap().len(), 3);
    let after = profiler.device().metrics();
    let (legs, bytes) = (
        after.legs - before.legs,
        after.bytes_copied_in - before.bytes_copied_in,
    );
    // Four timed legs of one item; all others are of four.
    assert_eq!(bytes, (4 + 4 * (legs - 4)) * WIDTH * 4, "{legs} legs");
    // Where one is not loaded, the visit fails and the device is idle.
    profiler.device().unload(other);
    let failed = profiler.visit(&beside, || true);
    assert_eq!(failed.is_err(), !busy.is_empty());
    profiler.visit(&visit(1, partition), || true).unwrap();
}

/// Three products one after the other.
fn products() -> ModelProto {
    let nodes = [("x", "a"), ("a", "b"), ("b", "y")];
    let nodes = nodes.map(|(from, to)| node("MatMul", &[from, "w"], &[to]));
    let side = i64::try_from(WIDTH).unwrap();
    let weights = vec![0.01; usize::try_from(WIDTH * WIDTH).unwrap()];
    model(
        nodes.to_vec(),
        vec![batched("x", DataType::Float, &[side])],
        vec![batched("y", DataType::Float, &[side])],
        vec![TensorProto::from_f32s("w", &[side, side], &weights)],
    )
}

#[test]
fn tasks_of_several_legs_are_timed_leg_by_leg_beside_the_model_as_it_is() {
    let bench = Bench::new();
    let mut profiler = profiler(&bench, &products(), 4);
    let partition = smallest(profiler.device().spec());
    let busy = partitions_beside(profiler.device().spec(), partition);
    let stored = bench.prepare(&products());
    let cuts = Cuts::sequential((0..3).map(|operator| vec![OperatorIndex::at(operator)]));
    let cut = ModelId(4);
    let options = LoadOptions {
        max_batch: 4,
        slots: 1,
        cuts: Some(cuts),
        ..LoadOptions::default()
    };
    let loaded = profiler.device().load(cut, &stored, &options).unwrap();
    assert_eq!(loaded.legs, 3);
    let beside = Visit {
        model: cut,
        busy,
        neighbour: Some(Neighbour {
            model: MODEL,
            item: request(1, vec![random_rows(2, 1, WIDTH)]),
            batch: 1,
        }),
        ..visit(4, partition)
    };
    let tasks = profiler.visit_legs(&beside, 3, || true).unwrap();
    assert_eq!(tasks.len(), 3);
    for legs in &tasks {
        assert_eq!(legs.len(), 3);
        assert!(legs.iter().all(|took| took.as_nanos() > 0));
    }
    let alone = Visit {
        busy: Vec::new(),
        ..beside
    };
    let before = profiler.device().metrics().legs;
    profiler.visit_legs(&alone, 3, || true).unwrap();
    let after = profiler.device().metrics().legs;
    assert_eq!(after - before, 4 * 3, "whole tasks, the warm-up too");
    // Beyond its last leg a model has none; what it has left does not harm the next task.
    assert!(profiler.visit_legs(&alone, 4, || true).is_err());
    assert_eq!(profiler.visit_legs(&alone, 3, || true).unwrap().len(), 3);
}

#[test]
fn the_other_partitions_are_busy_meanwhile_and_idle_after() {
    let bench = Bench::new();
    let mut profiler = profiler(&bench, &dense(i64::try_from(WIDTH).unwrap()), 4);
    let partition = smallest(profiler.device().spec());
    let busy = partitions_beside(profiler.device().spec(), partition);
    let ordered = Visit {
        busy: busy.clone(),
        ..visit(4, partition)
    };
    assert_eq!(usize::from(ordered.slots()), 2 * busy.len() + 1);
    for _ in 0..3 {
        let before = profiler.device().metrics().legs;
        let times = profiler.visit(&ordered, || true).unwrap();
        assert_eq!(times.len(), 3);
        let legs = profiler.device().metrics().legs - before;
        // The first leg of each, before anything was timed.
        assert!(legs >= 4 + busy.len() as u64, "{legs} legs ran");
    }
    let before = profiler.device().metrics().legs;
    profiler.visit(&visit(1, PartitionId(0)), || true).unwrap();
    let after = profiler.device().metrics().legs;
    assert_eq!(after - before, 4, "nothing else ran");
}

/// `y = x + table[batch - 1]`: only batches up to the table's five rows can be run.
fn up_to_five() -> ModelProto {
    let ints = |name: &str, values: &[i64]| TensorProto::from_i64s(name, &[1], values);
    model(
        vec![
            node("Shape", &["x"], &["shape"]),
            node("Gather", &["shape", "zero"], &["batch"]),
            node("Sub", &["batch", "one"], &["row"]),
            node("Gather", &["table", "row"], &["addend"]),
            node("Add", &["x", "addend"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[64])],
        vec![batched("y", DataType::Float, &[64])],
        vec![
            ints("zero", &[0]),
            ints("one", &[1]),
            TensorProto::from_f32s("table", &[5], &[0.0; 5]),
        ],
    )
}

#[test]
fn a_batch_that_cannot_be_run_fails_with_the_reason_and_the_next_visit_runs() {
    let bench = Bench::new();
    let mut profiler = profiler(&bench, &up_to_five(), 8);
    let partition = smallest(profiler.device().spec());
    let busy = partitions_beside(profiler.device().spec(), partition);
    let eight = Visit {
        busy,
        ..visit(8, partition)
    };
    let error = profiler.visit(&eight, || true).unwrap_err();
    assert!(matches!(&error, VisitError::Run(run) if run.batch == 8));
    assert!(error.to_string().contains("Gather"), "{error}");
    let times = profiler.visit(&visit(5, partition), || true).unwrap();
    assert_eq!(times.len(), 3);
}

#[test]
fn a_visit_that_is_called_off_gives_what_it_has() {
    let bench = Bench::new();
    let mut profiler = profiler(&bench, &dense(i64::try_from(WIDTH).unwrap()), 1);
    let asked = Cell::new(0);
    let go_on = || asked.replace(asked.get() + 1) < 3;
    let times = profiler.visit(&visit(1, PartitionId(0)), go_on).unwrap();
    assert_eq!(times.len(), 2, "three legs, one of them warm-up");
}

#[test]
fn what_lies_beside_a_partition_fills_the_device() {
    for slices in 1..=40 {
        let lanes = [LaneClass::Normal];
        let spec = DeviceSpec::nested(DeviceId(0), "test", Share(slices), &lanes, &lanes);
        for partition in &spec.partitions {
            let beside = partitions_beside(&spec, partition.id);
            let mut all = partition.atoms;
            for other in beside {
                let other = &spec.partitions[usize::from(other.0)];
                assert!(!all.overlaps(other.atoms), "{slices} slices, {partition:?}");
                all = all.union(other.atoms);
            }
            assert_eq!(
                all,
                AtomSet::range(0, slices),
                "{slices} slices, {partition:?}"
            );
        }
    }
}
