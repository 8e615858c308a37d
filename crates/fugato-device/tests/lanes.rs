//! Lanes: order, commitment, revocation, classes, and the life of output buffers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use bytes::Bytes;
use common::{Bench, Rig, as_f32, dense, identity, random_rows, request};
use fugato_core::device::LaneClass;
use fugato_core::{LaneId, ModelId, Nanos, PartitionId, SlotIndex, TaskId};
use fugato_device::{
    CpuOptions, Device, DeviceEvent, InputData, LegWork, LoadOptions, OutputTensor, RevokeLeg,
    TensorData,
};
use fugato_onnx::DataType;

/// A model whose leg takes long enough to do something meanwhile: 2 x 2 x 512 x 512
/// multiply-adds per row.
const WIDTH: u64 = 512;
const LONG: u32 = 1024;

fn rig_with_long_and_short(bench: &Bench, options: CpuOptions) -> Rig {
    let rig = Rig::with(options);
    let long = bench.write("long.onnx", &dense(i64::try_from(WIDTH).unwrap()));
    let short = bench.write("short.onnx", &identity(DataType::Float, 4));
    rig.load(1, &bench.store.prepare(long).unwrap(), LONG);
    rig.load(2, &bench.store.prepare(short).unwrap(), 1);
    rig
}

fn long(rig: &Rig) -> LegWork {
    rig.leg(
        1,
        vec![request(LONG, vec![random_rows(1, LONG.into(), WIDTH)])],
    )
}

fn short(rig: &Rig, slot: u16) -> LegWork {
    let mut leg = rig.leg(2, vec![request(1, vec![random_rows(2, 1, 4)])]);
    leg.start.slot = SlotIndex(slot);
    leg
}

fn revocation(leg: &LegWork) -> RevokeLeg {
    RevokeLeg {
        task: leg.start.task,
        leg: leg.start.leg,
        partition: leg.start.partition,
        lane: leg.start.lane,
    }
}

#[test]
fn a_lane_takes_its_committed_leg_by_itself_and_in_order() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    let legs = [long(&rig), short(&rig, 0)];
    let order: Vec<TaskId> = legs.iter().map(|leg| leg.start.task).collect();
    for leg in legs {
        rig.device.start(leg);
    }
    // Nothing is told to the device between the two.
    let (first, second) = (rig.finished(), rig.finished());
    assert_eq!([first.task, second.task], order[..]);
    assert!(first.result.is_ok() && second.result.is_ok());
    assert!(first.started <= first.ended);
    assert!(
        second.started >= first.ended,
        "{second:?} overlaps {first:?}"
    );
    for slot in [0, 1].repeat(100) {
        let leg = short(&rig, slot);
        let task = leg.start.task;
        rig.device.start(leg);
        if slot == 1 {
            let (a, b) = (rig.finished(), rig.finished());
            assert_eq!((a.task.0, b.task.0), (task.0 - 1, task.0));
            assert!(b.started >= a.ended);
        }
    }
    assert!(rig.no_event_left());
}

#[test]
#[should_panic(expected = "while it holds two legs")]
fn a_third_leg_is_a_bug_of_the_caller() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    for leg in [long(&rig), short(&rig, 0), short(&rig, 1)] {
        rig.device.start(leg);
    }
}

#[test]
fn a_leg_does_not_start_before_its_time() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    let mut leg = short(&rig, 0);
    leg.start.not_before = rig.clock.now() + Nanos::from_millis(20);
    let not_before = leg.start.not_before;
    rig.device.start(leg);
    assert!(rig.finished().started >= not_before);
    // One that waits for its time can be revoked, and lets later ones through.
    let mut leg = short(&rig, 0);
    leg.start.not_before = rig.clock.now() + Nanos::from_millis(1_000_000);
    let revoked = revocation(&leg);
    rig.device.start(leg);
    rig.device.revoke(&revoked);
    assert!(matches!(rig.event(), DeviceEvent::Revoked { task, .. } if task == revoked.task));
    rig.device.start(short(&rig, 0));
    assert!(rig.finished().result.is_ok());
}

#[test]
fn a_revoked_leg_is_either_started_or_revoked() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    let (mut revocations, mut starts) = (0, 0);
    let mut race = |first: LegWork, delay: u32| {
        let committed = short(&rig, 1);
        let revoke = revocation(&committed);
        rig.device.start(first);
        rig.device.start(committed);
        for _ in 0..delay {
            std::hint::spin_loop();
        }
        rig.device.revoke(&revoke);
        let (mut seen, mut ended) = (Vec::new(), 0);
        while ended < 2 {
            let event = rig.event();
            ended += u32::from(!matches!(event, DeviceEvent::Started { .. }));
            seen.push(event);
        }
        let of_committed = seen.iter().filter(|event| match event {
            DeviceEvent::Started { task, .. } | DeviceEvent::Revoked { task, .. } => {
                *task == revoke.task
            }
            DeviceEvent::Finished { .. } | DeviceEvent::Lost { .. } => false,
        });
        let of_committed: Vec<_> = of_committed.collect();
        assert_eq!(of_committed.len(), 1, "{seen:?}");
        let was_revoked = matches!(of_committed[0], DeviceEvent::Revoked { .. });
        assert_eq!(seen.len(), if was_revoked { 3 } else { 4 }, "{seen:?}");
        revocations += u32::from(was_revoked);
        starts += u32::from(!was_revoked);
    };
    for iteration in 0..3000_u32 {
        race(
            short(&rig, 0),
            iteration.wrapping_mul(2_654_435_761) % 20_000,
        );
    }
    // Behind a long leg it is revoked for certain; behind a short one, after a long
    // while, it has started.
    race(long(&rig), 0);
    race(short(&rig, 0), 50_000_000);
    assert!(
        revocations > 0 && starts > 0,
        "{revocations} revoked, {starts} started"
    );
    assert!(rig.no_event_left());
}

#[test]
fn a_leg_that_ran_cannot_be_revoked() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    let leg = short(&rig, 0);
    let revoke = revocation(&leg);
    rig.device.start(leg);
    rig.finished();
    rig.device.revoke(&revoke);
    assert!(rig.no_event_left());
}

#[test]
fn an_urgent_leg_overtakes_a_normal_one_inside_an_operator() {
    // Two matrix products of a few tenths of a second, many of the scheduler's slices.
    const ROWS: u32 = 16 * LONG;
    let bench = Bench::new();
    let rig = Rig::with(CpuOptions {
        cores: vec![common::cores()[0]],
        ..CpuOptions::default()
    });
    let model = bench.prepare(&dense(i64::try_from(WIDTH).unwrap()));
    rig.load(1, &model, ROWS);
    let lanes = &rig.device.spec().partitions[0].lanes;
    let urgent_lane = lanes
        .iter()
        .position(|&class| class == LaneClass::Urgent)
        .unwrap();
    let input = random_rows(1, ROWS.into(), WIDTH);
    let leg = || rig.leg(1, vec![request(ROWS, vec![input.clone()])]);
    // Twice the same work on one core.
    let (normal, mut urgent) = (leg(), leg());
    urgent.start.lane = LaneId(u16::try_from(urgent_lane).unwrap());
    urgent.start.slot = SlotIndex(1);
    let tasks = [urgent.start.task, normal.start.task];
    rig.device.start(normal);
    assert!(matches!(rig.event(), DeviceEvent::Started { task, .. } if task == tasks[1]));
    rig.device.start(urgent);
    let (urgent, normal) = (rig.finished(), rig.finished());
    assert_eq!([urgent.task, normal.task], tasks, "{urgent:?} {normal:?}");
    assert!(urgent.started >= normal.started);
    // At equal shares both would end together, within a slice. Fifteen steps of niceness
    // are shares of 28 to 1: when the urgent leg ends, the normal one, begun before it,
    // has nearly half of its time to go. A tenth is asked for, since other tests and
    // programs want the core too.
    let left = (normal.ended - urgent.ended).as_nanos();
    let whole = (normal.ended - normal.started).as_nanos();
    assert!(left * 10 > whole, "{left} ns of {whole} ns were left");
}

fn bytes(output: &OutputTensor) -> &Bytes {
    let TensorData::Raw(bytes) = &output.data else {
        panic!("expected numbers, found strings");
    };
    bytes
}

#[test]
fn outputs_stay_as_they_are_while_later_batches_run() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    let run = |seed: u64| {
        let input = random_rows(seed, 1, 4);
        let expected = input.data.clone();
        let outputs = rig.run(2, vec![request(1, vec![input])]).unwrap();
        (outputs[0][0].clone(), expected)
    };
    // More than the pool keeps.
    let held: Vec<_> = (0..20).map(run).collect();
    for (output, expected) in &held {
        assert_eq!(InputData::from(output.data.clone()), *expected);
    }
    let mut places: Vec<_> = held
        .iter()
        .map(|(output, _)| bytes(output).as_ptr())
        .collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), held.len(), "two held outputs share a buffer");
    drop(held);
    let (output, _) = run(99);
    assert!(
        places.contains(&bytes(&output).as_ptr()),
        "no buffer came back to the pool"
    );
}

#[test]
fn lanes_of_one_partition_run_a_model_at_once() {
    let bench = Bench::new();
    let rig = Rig::new();
    let path = bench.write("dense.onnx", &dense(64));
    let stored = bench.store.prepare(&path).unwrap();
    let options = LoadOptions {
        max_batch: 4,
        slots: 8,
        ..LoadOptions::default()
    };
    rig.device.load(ModelId(1), &stored, &options).unwrap();
    let input = |index: u16| random_rows(u64::from(index) + 1, 1, 64);
    let alone: Vec<_> = (0..8)
        .map(|index| as_f32(&rig.run(1, vec![request(1, vec![input(index)])]).unwrap()[0][0]))
        .collect();
    for _ in 0..50 {
        let mut tasks = Vec::new();
        for index in 0..8 {
            let mut leg = rig.leg(1, vec![request(1, vec![input(index)])]);
            leg.start.lane = LaneId(index);
            leg.start.slot = SlotIndex(index);
            tasks.push(leg.start.task);
            rig.device.start(leg);
        }
        for _ in 0..8 {
            let finished = rig.finished();
            let index = tasks
                .iter()
                .position(|&task| task == finished.task)
                .unwrap();
            let found = as_f32(&finished.result.unwrap().requests[0].as_ref().unwrap()[0]);
            common::assert_close(&found, &alone[index], 1e-6);
        }
    }
}

#[test]
fn two_tasks_in_one_slot_are_a_bug_of_the_caller() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    let (first, mut second) = (long(&rig), long(&rig));
    second.start.lane = LaneId(1);
    rig.device.start(first);
    // The slot is taken up some time after the start is reported; the second task comes
    // long before the first one's end, and one of the two finds the slot in use.
    assert!(matches!(rig.event(), DeviceEvent::Started { .. }));
    rig.device.start(second);
    let ends = [rig.finished().result, rig.finished().result];
    let errors: Vec<_> = ends.iter().filter_map(|end| end.as_ref().err()).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].detail.contains("which another task is using"),
        "{}",
        errors[0].detail
    );
}

#[test]
fn every_partition_and_lane_runs_legs() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    for partition in rig.device.spec().partitions.clone() {
        for lane in 0..partition.lanes.len() {
            let mut leg = short(&rig, 0);
            leg.start.partition = partition.id;
            leg.start.lane = LaneId(u16::try_from(lane).unwrap());
            rig.device.start(leg);
            let result = rig.finished().result;
            assert!(result.is_ok(), "{} lane {lane}: {result:?}", partition.id);
        }
    }
}

#[test]
fn a_dropped_device_finishes_what_runs_and_revokes_what_waits() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    let (running, waiting) = (long(&rig), short(&rig, 0));
    let tasks = [running.start.task, waiting.start.task];
    rig.device.start(running);
    assert!(matches!(rig.event(), DeviceEvent::Started { .. }));
    rig.device.start(waiting);
    let events = rig.drop_device();
    let ends = events.iter().map(|event| match event {
        DeviceEvent::Finished { task, result, .. } => (*task, result.is_ok()),
        DeviceEvent::Revoked { task, .. } => (*task, false),
        DeviceEvent::Started { task, .. } => panic!("{task} started"),
        DeviceEvent::Lost { detail, .. } => panic!("{detail}"),
    });
    let mut ends: Vec<_> = ends.collect();
    ends.sort_unstable();
    assert_eq!(ends, [(tasks[0], true), (tasks[1], false)]);
}

#[test]
fn an_unloaded_model_finishes_its_running_leg_and_then_frees_its_weights() {
    let bench = Bench::new();
    let rig = rig_with_long_and_short(&bench, CpuOptions::default());
    let store = bench.path("store");
    let mapped = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.contains(store.to_str().unwrap())
    };
    assert!(mapped());
    rig.device.start(long(&rig));
    assert!(matches!(rig.event(), DeviceEvent::Started { .. }));
    assert!(rig.device.unload(ModelId(1)));
    assert!(rig.finished().result.is_ok());
    // The next leg of the lane begins after the last one's model is dropped.
    rig.device.start(short(&rig, 0));
    assert!(rig.finished().result.is_ok());
    assert!(
        !mapped(),
        "the weights of an unloaded model are still mapped"
    );
}

#[test]
fn partitions_are_halves_of_the_whole() {
    let rig = Rig::new();
    let spec = rig.device.spec();
    spec.validate().unwrap();
    assert_eq!(usize::from(spec.slices.0), common::cores().len());
    assert_eq!(spec.partitions[0].id, PartitionId(0));
    for partition in &spec.partitions {
        let urgent = partition
            .lanes
            .iter()
            .filter(|&&class| class == LaneClass::Urgent);
        assert_eq!(urgent.count(), 1);
    }
}
