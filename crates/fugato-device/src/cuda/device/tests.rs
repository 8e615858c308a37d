//! The device over one that is not there: what every device owes the driver, and what happens
//! when memory, captures or the device itself fail.

mod at_once;
mod faults;
mod legs;
mod loading;
mod on_host;
mod priorities;
mod profile;
mod rig;
mod small;

use super::super::backend::FaultKind;
use super::super::fake::{Fake, FakeFacts, FakeModel, model};
use super::super::layout::SmLayout;
use super::*;
use crate::device::{LoadOptions, Loaded, RequestInputs, RunError, TaskOutputs};
use crate::shared::{InputFault, SharedSlice};
use crate::store::{Cuts, LoadError, LoadErrorKind};
use crate::tensor::{ElementType, InputTensor, TensorData};
use fugato_core::device::{AtomSet, LaneClass};
use fugato_core::sched::Start;
use fugato_core::{BatchSize, DeviceId, LegIndex, PartitionId, RequestId, SlotIndex, TaskId};
use rig::Rig;
use std::sync::atomic::AtomicU64;

const ENOUGH: usize = 1 << 20;
const HANG: HangLimit = HangLimit {
    least: Nanos::from_millis(1_000),
    times: 20,
};
const LANES: [LaneClass; 2] = [LaneClass::Normal; 2];

/// A request of `items` rows of `row` bytes, all `seed`.
fn request(items: u32, row: u64, seed: u8) -> RequestInputs {
    let bytes = vec![seed; usize::try_from(u64::from(items) * row).unwrap()];
    let input = InputTensor {
        shape: vec![items.into(), row],
        data: TensorData::Raw(bytes.into()).into(),
    };
    RequestInputs {
        items,
        inputs: Arc::new([input]),
    }
}

/// A leg of model 0, of rows of four bytes, in lane 0 of the whole device.
fn leg(task: u64, requests: Vec<RequestInputs>) -> LegWork {
    LegWork {
        start: Start {
            device: DeviceId(0),
            task: TaskId(task),
            model: ModelId(0),
            leg: LegIndex(0),
            partition: PartitionId(0),
            lane: LaneId(0),
            slot: SlotIndex(u16::try_from(task % 2).unwrap()),
            batch: BatchSize(requests.iter().map(|request| request.items).sum()),
            unsplit: false,
            not_before: Timestamp::ZERO,
            requests: (0..requests.len() as u64).map(RequestId).collect(),
        },
        requests,
    }
}

fn one(task: u64) -> LegWork {
    leg(task, vec![request(1, 4, 7)])
}

fn in_partition(work: LegWork, partition: PartitionId, lane: u16) -> LegWork {
    let start = Start {
        partition,
        lane: LaneId(lane),
        ..work.start
    };
    LegWork { start, ..work }
}

fn of_model(work: LegWork, model: u32) -> LegWork {
    let start = Start {
        model: ModelId(model),
        ..work.start
    };
    LegWork { start, ..work }
}

/// Every row of every request's output is one more than its input.
fn assert_answers(outputs: &TaskOutputs, requests: &[(u32, u8)]) {
    assert_eq!(outputs.requests.len(), requests.len());
    for (output, &(items, seed)) in outputs.requests.iter().zip(requests) {
        let output = &output.as_ref().unwrap()[0];
        assert_eq!(output.shape, [u64::from(items), 4]);
        let expected = vec![seed + 1; items as usize * 4];
        assert_eq!(output.data, TensorData::Raw(expected.into()));
    }
}

fn is_lost(event: &DeviceEvent) -> bool {
    matches!(event, DeviceEvent::Finished { result: Err(error), .. }
        if error.kind == RunErrorKind::DeviceLost)
}

#[test]
fn it_publishes_runs_of_slices_with_their_atoms() {
    let rig = Rig::new(ENOUGH);
    let spec = rig.device.spec();
    spec.validate().unwrap();
    assert_eq!((spec.slices.0, spec.partitions.len()), (16, 36));
    assert!(spec.partitions.iter().all(|part| part.lanes == LANES));
}

#[test]
fn each_request_gets_its_own_rows() {
    let rig = Rig::with(vec![model("m", 4)]);
    let requests = [(1, 10), (2, 20), (1, 30)];
    let sent = requests.map(|(items, seed)| request(items, 4, seed));
    let outputs = rig.run(leg(0, sent.to_vec())).unwrap();
    assert_answers(&outputs, &requests);
    assert_eq!(rig.device.metrics().bytes_copied_in, 16);
}

#[test]
fn replies_keep_their_bytes_while_later_tasks_run() {
    let rig = Rig::with(vec![model("m", 4)]);
    let replies: Vec<_> = (0..6)
        .map(|task| rig.run(leg(task, vec![request(1, 4, task as u8)])).unwrap())
        .collect();
    for (seed, reply) in (0..).zip(&replies) {
        assert_answers(reply, &[(1, seed)]);
    }
}

#[test]
fn the_next_leg_of_a_lane_is_given_while_one_runs_and_starts_where_it_ends() {
    let rig = Rig::with(vec![model("m", 4)]);
    rig.run(one(0)).unwrap();
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(one(1));
    rig.device.start(one(2));
    // Both are on the device, and neither has run.
    rig.fake.until_logged("given: m.onnx x1 replayed", 3);
    assert!(matches!(
        rig.event(),
        DeviceEvent::Started {
            task: TaskId(1),
            ..
        }
    ));
    assert!(
        rig.events.try_recv().is_err(),
        "the second waits for the first"
    );
    rig.fake.release();
    let DeviceEvent::Finished {
        task: TaskId(1),
        started,
        ended,
        split,
        ..
    } = rig.event()
    else {
        panic!("the first ends first");
    };
    assert!(split.input + split.infer + split.output <= ended - started);
    let DeviceEvent::Started { task, at, .. } = rig.event() else {
        panic!("then the second starts");
    };
    assert_eq!((task, at), (TaskId(2), ended));
    let DeviceEvent::Finished { task, started, .. } = rig.event() else {
        panic!("and ends");
    };
    assert_eq!((task, started), (TaskId(2), ended));
}

#[test]
fn making_a_session_is_no_part_of_a_leg() {
    let rig = Rig::with(vec![model("m", 4)]);
    let takes = Nanos::from_millis(3_000);
    rig.fake.slow_sessions(&rig.time, takes);
    let half = rig.partition(AtomSet::range(0, 8));
    rig.device.start(in_partition(one(0), half, 0));
    let DeviceEvent::Started { at, .. } = rig.event() else {
        panic!("it starts");
    };
    let DeviceEvent::Finished { started, ended, .. } = rig.event() else {
        panic!("and ends");
    };
    assert!(at == started && at > Timestamp::ZERO + takes);
    assert!(
        ended - started < Nanos::from_millis(1),
        "{started} to {ended}"
    );
}

#[test]
#[should_panic(expected = "and it ends")]
fn a_test_that_fails_while_runs_are_held_ends() {
    let rig = Rig::with(vec![model("m", 4)]);
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(one(0));
    rig.fake.until_logged("given: m.onnx x1 replayed", 1);
    panic!("and it ends");
}

#[test]
fn a_leg_that_is_on_the_device_is_not_taken_back_and_one_that_waits_is() {
    let rig = Rig::with(vec![model("m", 4)]);
    let back = |task| RevokeLeg {
        task: TaskId(task),
        leg: LegIndex(0),
        partition: PartitionId(0),
        lane: LaneId(0),
    };
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(one(0));
    rig.device.start(one(1));
    rig.fake.until_logged("given: m.onnx x1 replayed", 2);
    rig.device.revoke(&back(1));
    rig.fake.release();
    let events: Vec<_> = (0..4).map(|_| rig.event()).collect();
    assert!(
        matches!(
            events[2],
            DeviceEvent::Started {
                task: TaskId(1),
                ..
            }
        ),
        "{events:?}"
    );
    let mut late = one(2);
    late.start.not_before = Timestamp::MAX;
    rig.device.start(late);
    rig.device.revoke(&back(2));
    let event = rig.event();
    assert!(
        matches!(
            event,
            DeviceEvent::Revoked {
                task: TaskId(2),
                ..
            }
        ),
        "{event:?}"
    );
}

#[test]
fn a_committed_leg_is_started_or_revoked_and_never_both() {
    let rig = Rig::with(vec![model("m", 4)]);
    for round in 0..300 {
        let (first, second) = (2 * round, 2 * round + 1);
        rig.device.start(one(first));
        rig.device.start(one(second));
        rig.device.revoke(&RevokeLeg {
            task: TaskId(second),
            leg: LegIndex(0),
            partition: PartitionId(0),
            lane: LaneId(0),
        });
        let (mut ended, mut fates) = (0, 0);
        while ended < 2 {
            match rig.event() {
                DeviceEvent::Started { task, .. } => fates += usize::from(task.0 == second),
                DeviceEvent::Revoked { task, .. } => {
                    fates += usize::from(task.0 == second);
                    ended += 1;
                }
                DeviceEvent::Finished { .. } => ended += 1,
                lost @ DeviceEvent::Lost { .. } => panic!("{lost:?}"),
            }
        }
        assert_eq!(fates, 1);
    }
}

#[test]
fn partitions_do_not_wait_for_each_other() {
    let rig = Rig::with(vec![model("m", 4)]);
    let (low, high) = (AtomSet::range(0, 8), AtomSet::range(8, 8));
    rig.fake.hold(low);
    rig.device
        .start(in_partition(one(0), rig.partition(low), 0));
    assert!(matches!(
        rig.event(),
        DeviceEvent::Started {
            task: TaskId(0),
            ..
        }
    ));
    let outputs = rig
        .run(in_partition(one(1), rig.partition(high), 0))
        .unwrap();
    assert_answers(&outputs, &[(1, 7)]);
    rig.fake.release();
    assert!(matches!(
        rig.event(),
        DeviceEvent::Finished {
            task: TaskId(0),
            ..
        }
    ));
}

#[test]
fn a_slot_is_one_tasks_at_a_time() {
    let rig = Rig::with(vec![model("m", 4)]);
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(one(0));
    assert!(matches!(
        rig.event(),
        DeviceEvent::Started {
            task: TaskId(0),
            ..
        }
    ));
    rig.fake.until_logged("given: m.onnx x1 replayed", 1);
    let error = rig
        .run(in_partition(one(2), PartitionId(0), 1))
        .unwrap_err();
    assert_eq!(error.kind, RunErrorKind::Runtime);
    assert!(error.detail.contains("task 0 is using"), "{error}");
    rig.fake.release();
    assert!(matches!(
        rig.event(),
        DeviceEvent::Finished { result: Ok(_), .. }
    ));
    // Free again at once.
    rig.run(one(4)).unwrap();
}

#[test]
fn batches_are_captured_as_they_are_loaded_or_when_they_come_again() {
    let rig = Rig::with(vec![model("m", 4)]);
    let captured = |rig: &Rig, rows: u32| {
        let line = format!("ran: m.onnx x{rows} captured");
        rig.fake
            .log()
            .iter()
            .filter(|&known| *known == line)
            .count()
    };
    // Both slots: a graph reads and writes the buffers of one.
    assert_eq!([1, 2, 3, 4].map(|rows| captured(&rig, rows)), [2, 2, 0, 2]);
    let hows: Vec<_> = (0..4)
        .map(|round| {
            let outputs = rig.run(leg(2 * round, vec![request(3, 4, 1)])).unwrap();
            assert_answers(&outputs, &[(3, 1)]);
            rig.fake
                .log()
                .into_iter()
                .rfind(|line| line.starts_with("ran: "))
                .unwrap()
        })
        .collect();
    let expected = ["eager", "eager", "captured", "replayed"];
    assert_eq!(hows, expected.map(|how| format!("ran: m.onnx x3 {how}")));
}

#[test]
fn a_capture_that_would_have_to_wait_is_put_off() {
    let rig = Rig::with(vec![model("m", 4)]);
    let how = |task| {
        rig.run(leg(task, vec![request(3, 4, 1)])).unwrap();
        rig.fake
            .log()
            .into_iter()
            .rfind(|line| line.starts_with("ran: "))
            .unwrap()
    };
    rig.fake.busy(true);
    for round in 0..4 {
        assert_eq!(how(2 * round), "ran: m.onnx x3 eager");
    }
    rig.fake.busy(false);
    assert_eq!(how(8), "ran: m.onnx x3 captured");
    assert_eq!(how(10), "ran: m.onnx x3 replayed");
}

#[test]
fn bad_legs_fail_with_the_reason_and_harm_nobody() {
    let rig = Rig::with(vec![model("m", 4)]);
    let mut no_such_slot = one(0);
    no_such_slot.start.slot = SlotIndex(9);
    let cases = [
        (
            of_model(one(0), 9),
            RunErrorKind::ModelNotLoaded,
            "not loaded",
        ),
        (no_such_slot, RunErrorKind::InvalidInput, "2 slots"),
        (
            leg(0, vec![request(5, 4, 0)]),
            RunErrorKind::InvalidInput,
            "above the most",
        ),
        (
            leg(0, vec![request(1, 5, 0)]),
            RunErrorKind::InvalidInput,
            "expected [1, 4]",
        ),
    ];
    for (work, kind, text) in cases {
        let error = rig.run(work).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.detail.contains(text), "{error}");
    }
    rig.fake.panic_at("upload");
    let error = rig.run(one(0)).unwrap_err();
    assert!(error.detail.contains("upload was to panic"), "{error}");
    rig.fake
        .fail("run", FaultKind::Other, "an operator refused the values");
    let half = rig.partition(AtomSet::range(0, 8));
    let error = rig.run(in_partition(one(0), half, 0)).unwrap_err();
    assert!(error.detail.contains("refused the values"), "{error}");
    rig.run(one(0)).unwrap();
    rig.run(in_partition(one(1), half, 0)).unwrap();
}

#[test]
fn inputs_that_cannot_be_had_fail_their_request_alone() {
    let rig = Rig::with(vec![model("m", 4)]);
    let short = SharedSlice {
        file: Arc::new(tempfile::tempfile().unwrap()),
        position: 0,
        length: 4,
        region: "client".into(),
        offset: 0,
    };
    let missing = RequestInputs {
        items: 1,
        inputs: Arc::new([InputTensor {
            shape: vec![1, 4],
            data: crate::tensor::InputData::Shared(short),
        }]),
    };
    let outputs = rig
        .run(leg(0, vec![missing.clone(), request(1, 4, 5)]))
        .unwrap();
    assert!(matches!(outputs.requests[0], Err(InputFault::Short { .. })));
    let kept = TaskOutputs {
        requests: outputs.requests.into_iter().skip(1).collect(),
    };
    assert_answers(&kept, &[(1, 5)]);
    let ran = rig.fake.log().len();
    let outputs = rig.run(leg(1, vec![missing])).unwrap();
    assert!(matches!(
        outputs.requests[..],
        [Err(InputFault::Short { .. })]
    ));
    assert_eq!(rig.fake.log().len(), ran, "there was nothing to run");
}

#[test]
fn a_device_that_is_dropped_ends_what_runs_and_takes_the_rest_back() {
    let Rig {
        fake,
        device,
        events,
        ..
    } = Rig::with(vec![model("m", 4)]);
    fake.hold(AtomSet::range(0, 16));
    device.start(one(0));
    let mut late = one(1);
    late.start.not_before = Timestamp::MAX;
    device.start(late);
    fake.until_logged("given: m.onnx x1 replayed", 1);
    let dropping = std::thread::spawn(move || drop(device));
    let of = |event: &DeviceEvent| match event {
        DeviceEvent::Started { task, .. } => ("started", *task),
        DeviceEvent::Finished { task, .. } => ("finished", *task),
        DeviceEvent::Revoked { task, .. } => ("revoked", *task),
        DeviceEvent::Lost { .. } => ("lost", TaskId(0)),
    };
    let mut seen: Vec<_> = events.iter().take(2).map(|event| of(&event)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("revoked", TaskId(1)), ("started", TaskId(0))]);
    fake.release();
    dropping.join().unwrap();
    assert_eq!(
        events.iter().map(|event| of(&event)).collect::<Vec<_>>(),
        [("finished", TaskId(0))]
    );
    assert_eq!(fake.memory_left(), ENOUGH);
}
