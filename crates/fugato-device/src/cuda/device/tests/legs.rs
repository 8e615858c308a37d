//! Models in legs: what passes between them, where they run, what becomes of tasks that end
//! early, and models whose parts do not work.

use super::super::super::fake::graph;
use super::*;
use fugato_core::OperatorIndex;

/// `y` is four times what it is given and nine, `m`, which is given before it, three more; the
/// input is read again by `c`, and `a` by `d`.
pub(super) fn net() -> FakeFacts {
    graph(
        "net",
        16,
        &[
            ("a", &["x"]),
            ("b", &["a"]),
            ("c", &["b", "x"]),
            ("m", &["b"]),
            ("d", &["c", "a"]),
            ("y", &["d", "m"]),
        ],
        &["y", "m"],
    )
}

/// The parts of [`net`] in three legs.
const PARTS: [&str; 3] = ["net.onnx:a+b", "net.onnx:c+m", "net.onnx:d+y"];

fn legs_of(legs: &[&[usize]]) -> Cuts {
    let leg = |leg: &&[usize]| leg.iter().copied().map(OperatorIndex::at).collect();
    Cuts::sequential(legs.iter().map(leg))
}

pub(super) fn three() -> Cuts {
    legs_of(&[&[0, 1], &[2, 3], &[4, 5]])
}

/// A device with [`net`] in three legs.
fn in_legs() -> Rig {
    let rig = Rig::new(ENOUGH);
    assert_eq!(rig.load_cut(0, net(), Some(three())).unwrap().legs, 3);
    rig
}

/// A first leg of a task with these items and values.
fn first(task: u64, requests: &[(u32, u8)]) -> LegWork {
    let sent = requests.iter();
    let sent = sent.map(|&(items, seed)| request(items, 16, seed));
    leg(task, sent.collect())
}

fn later(first: &LegWork, leg: u16) -> LegWork {
    LegWork {
        start: Start {
            leg: LegIndex(leg),
            requests: Vec::new(),
            ..first.start.clone()
        },
        requests: Vec::new(),
    }
}

/// Runs a task from its first leg to its end.
fn finish(rig: &Rig, work: LegWork, legs: u16) -> TaskOutputs {
    let later_legs: Vec<_> = (1..legs).map(|leg| later(&work, leg)).collect();
    let mut outputs = rig.run(work).unwrap();
    for work in later_legs {
        assert!(outputs.requests.is_empty(), "{} follows", work.start.leg);
        outputs = rig.run(work).unwrap();
    }
    outputs
}

fn assert_net(outputs: &TaskOutputs, requests: &[(u32, u8)]) {
    assert_eq!(outputs.requests.len(), requests.len());
    for (output, &(items, seed)) in outputs.requests.iter().zip(requests) {
        let output = output.as_ref().unwrap();
        for (output, expected) in output.iter().zip([4 * seed + 9, seed + 3]) {
            assert_eq!(output.shape, [u64::from(items), 16]);
            let expected = vec![expected; items as usize * 16];
            assert_eq!(output.data, TensorData::Raw(expected.into()));
        }
        assert_eq!(output.len(), 2);
    }
}

/// The log without what loading did.
fn since(rig: &Rig, before: usize) -> Vec<String> {
    rig.fake.log().split_off(before)
}

fn left_by(work: &LegWork) -> LeftBehind {
    LeftBehind {
        task: work.start.task,
        model: work.start.model,
        slot: work.start.slot,
    }
}

#[test]
fn a_task_goes_leg_by_leg_and_only_its_ends_touch_the_host() {
    let rig = in_legs();
    rig.load(1, net()).unwrap();
    let before = rig.fake.log().len();
    let requests = [(1, 10), (2, 20), (1, 30)];
    assert_net(&finish(&rig, first(0, &requests), 3), &requests);
    let ran: Vec<_> = PARTS
        .iter()
        .map(|part| format!("ran: {part} x4 replayed"))
        .collect();
    let log = since(&rig, before);
    let done: Vec<_> = log
        .iter()
        .filter(|line| !line.starts_with("given"))
        .collect();
    assert_eq!(
        done,
        [
            "upload 64",
            &ran[0],
            &ran[1],
            &ran[2],
            "download 64",
            "download 64"
        ]
    );
    assert_eq!(rig.device.metrics().bytes_copied_in, 64);
    assert_eq!(rig.device.metrics().legs, 3);
    // As the model in one piece answers.
    let whole = rig.run(of_model(first(1, &requests), 1)).unwrap();
    assert_net(&whole, &requests);
}

#[test]
fn tasks_at_different_legs_keep_to_their_slots() {
    let rig = in_legs();
    let (one, two) = (first(0, &[(1, 5)]), first(1, &[(3, 50)]));
    let (one_later, two_later) = (later(&one, 1), later(&two, 1));
    let (one_last, two_last) = (later(&one, 2), later(&two, 2));
    rig.run(one).unwrap();
    rig.run(two).unwrap();
    rig.run(two_later).unwrap();
    rig.run(one_later).unwrap();
    assert_net(&rig.run(one_last).unwrap(), &[(1, 5)]);
    assert_net(&rig.run(two_last).unwrap(), &[(3, 50)]);
}

#[test]
fn memory_between_legs_is_used_again_and_weights_are_there_once() {
    let chain: [(&str, &[&str]); 6] = [
        ("a", &["x"]),
        ("b", &["a"]),
        ("c", &["b"]),
        ("d", &["c"]),
        ("e", &["d"]),
        ("y", &["e"]),
    ];
    let rig = Rig::new(ENOUGH);
    let cuts = legs_of(&[&[0], &[1], &[2], &[3], &[4], &[5]]);
    let facts = graph("chain", 16, &chain, &["y"]);
    assert_eq!(rig.load_cut(0, facts, Some(cuts)).unwrap().legs, 6);
    let (weights, sessions, batch) = (1_000, 6 * 500, 4 * 16);
    // Input, output, and of five tensors between legs never more than two at once.
    let slots = 2 * (batch + batch + 2 * batch);
    assert_eq!(ENOUGH - rig.fake.memory_left(), weights + sessions + slots);
    let outputs = finish(&rig, first(0, &[(2, 7)]), 6);
    let expected = TensorData::Raw(vec![13; 32].into());
    assert_eq!(outputs.requests[0].as_ref().unwrap()[0].data, expected);
    assert!(rig.device.unload(ModelId(0)));
    assert_eq!(rig.fake.memory_left(), ENOUGH);
}

#[test]
fn a_leg_in_another_partition_waits_for_the_one_before() {
    let rig = in_legs();
    let (low, high) = (AtomSet::range(0, 8), AtomSet::range(8, 8));
    let (low_part, high_part) = (rig.partition(low), rig.partition(high));
    let requests = [(3, 11)];
    let (begun, behind) = (first(0, &requests), first(1, &[(1, 1)]));
    let next = in_partition(later(&begun, 1), high_part, 1);
    let last = later(&begun, 2);
    rig.fake.hold(low);
    rig.device.start(in_partition(begun, low_part, 0));
    rig.device.start(in_partition(behind, low_part, 0));
    // The lane is done with giving the first to the device when it gives it the second.
    rig.fake.until_logged("given: net.onnx:a+b x3 eager", 1);
    rig.fake.until_logged("given: net.onnx:a+b x1 eager", 3);
    // A scheduler waits for the first to end; the device does not rely on it.
    rig.device.start(next);
    rig.fake.until_logged("given: net.onnx:c+m x3 eager", 1);
    let has_run = |rig: &Rig, part: &str| {
        let line = format!("ran: {part} x3 eager");
        rig.fake.log().contains(&line)
    };
    assert!(!has_run(&rig, PARTS[1]), "it reads what is not there yet");
    rig.fake.release();
    let mut ended = 0;
    while ended < 3 {
        if let DeviceEvent::Finished { result, .. } = rig.event() {
            assert!(result.unwrap().requests.is_empty());
            ended += 1;
        }
    }
    assert!(has_run(&rig, PARTS[1]));
    // And back, to where its first graphs are.
    assert_net(&rig.run(last).unwrap(), &requests);
}

#[test]
fn the_next_leg_of_a_task_may_be_given_while_one_runs() {
    let rig = in_legs();
    let requests = [(1, 9)];
    let begun = first(0, &requests);
    let (next, last) = (later(&begun, 1), later(&begun, 2));
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(begun);
    rig.device.start(next);
    rig.fake.until_logged("given: net.onnx:c+m x1 replayed", 1);
    rig.fake.release();
    let mut seen = Vec::new();
    for _ in 0..4 {
        match rig.event() {
            DeviceEvent::Started { leg, at, .. } => seen.push((leg.0, "started", at)),
            DeviceEvent::Finished { leg, ended, .. } => seen.push((leg.0, "ended", ended)),
            other @ (DeviceEvent::Revoked { .. } | DeviceEvent::Lost { .. }) => panic!("{other:?}"),
        }
    }
    let order: Vec<_> = seen.iter().map(|&(leg, what, _)| (leg, what)).collect();
    assert_eq!(
        order,
        [(0, "started"), (0, "ended"), (1, "started"), (1, "ended")]
    );
    assert_eq!(seen[1].2, seen[2].2, "the device goes on by itself");
    assert_net(&rig.run(last).unwrap(), &requests);
}

#[test]
fn a_leg_that_fails_in_the_middle_ends_its_task_and_frees_the_slot() {
    let rig = in_legs();
    let taken = rig.fake.memory_left();
    let fails: [&dyn Fn(); 2] = [
        // As it is enqueued: the graph, and the eager run in its place.
        &|| {
            for call in ["replay", "run"] {
                rig.fake.fail(call, FaultKind::Other, "an operator refused");
            }
        },
        // As its end is waited for.
        &|| {
            rig.fake
                .fail("finish", FaultKind::Other, "an operator refused")
        },
    ];
    for fail in fails {
        let begun = first(0, &[(1, 9)]);
        let (next, last) = (later(&begun, 1), later(&begun, 2));
        rig.run(begun).unwrap();
        fail();
        let error = rig.run(next).unwrap_err();
        assert!(error.detail.contains("an operator refused"), "{error}");
        let error = rig.run(last).unwrap_err();
        assert_eq!(error.kind, RunErrorKind::InvalidInput);
        assert!(error.detail.contains("no task is under way"), "{error}");
        // The next task of the slot, and one beside it.
        assert_net(&finish(&rig, first(2, &[(1, 3)]), 3), &[(1, 3)]);
        assert_net(&finish(&rig, first(1, &[(2, 4)]), 3), &[(2, 4)]);
        assert_eq!(rig.fake.memory_left(), taken);
    }
}

#[test]
fn a_cancelled_task_stops_at_the_boundary_and_leaves_nothing() {
    let rig = in_legs();
    let begun = first(0, &[(1, 9)]);
    let (next, mine) = (later(&begun, 1), left_by(&begun));
    let again = || later(&first(0, &[(1, 9)]), 1);
    rig.run(begun).unwrap();
    let ran = rig.fake.log().len();
    // Another task's leavings are not this one's.
    rig.device.let_go(&LeftBehind {
        task: TaskId(99),
        ..mine
    });
    rig.device.let_go(&mine);
    let error = rig.run(next).unwrap_err();
    assert!(error.detail.contains("no task is under way"), "{error}");
    assert_eq!(rig.fake.log().len(), ran, "nothing more ran");
    assert_net(&finish(&rig, first(2, &[(1, 3)]), 3), &[(1, 3)]);
    // Where nobody lets go of it, the slot's next task takes its place.
    rig.run(first(0, &[(1, 9)])).unwrap();
    assert_net(&finish(&rig, first(2, &[(4, 30)]), 3), &[(4, 30)]);
    let error = rig.run(again()).unwrap_err();
    assert!(error.detail.contains("no task is under way"), "{error}");
}

#[test]
fn a_leg_that_was_taken_back_may_be_started_again_elsewhere() {
    let rig = in_legs();
    let begun = first(0, &[(1, 9)]);
    let mut held = later(&begun, 1);
    held.start.not_before = Timestamp::MAX;
    let next = in_partition(later(&begun, 1), rig.partition(AtomSet::range(0, 4)), 0);
    let last = later(&begun, 2);
    rig.run(begun).unwrap();
    rig.device.start(held);
    rig.device.revoke(&RevokeLeg {
        task: TaskId(0),
        leg: LegIndex(1),
        partition: PartitionId(0),
        lane: LaneId(0),
    });
    assert!(matches!(rig.event(), DeviceEvent::Revoked { .. }));
    rig.run(next).unwrap();
    assert_net(&rig.run(last).unwrap(), &[(1, 9)]);
}

#[test]
fn legs_out_of_order_are_refused() {
    let rig = in_legs();
    let refused = |work, expected: &str| {
        let error = rig.run(work).unwrap_err();
        assert_eq!(error.kind, RunErrorKind::InvalidInput);
        assert!(error.detail.contains(expected), "{error}");
    };
    let begun = first(0, &[(1, 9)]);
    refused(later(&begun, 1), "no task is under way");
    let (next, skipped, past) = (later(&begun, 1), later(&begun, 2), later(&begun, 3));
    let mut other = later(&begun, 1);
    other.start.task = TaskId(76);
    let mut larger = later(&begun, 1);
    larger.start.batch = BatchSize(3);
    rig.run(begun).unwrap();
    refused(skipped, "leg 1 of task 0 with a batch of 1 is next");
    refused(other, "leg 1 of task 76");
    refused(larger, "with a batch of 3 was started");
    refused(past, "the model's plan has 3 legs");
    rig.run(next).unwrap();
}

#[test]
fn inputs_that_cannot_be_had_are_told_by_the_last_leg() {
    let rig = in_legs();
    let short = SharedSlice {
        file: Arc::new(tempfile::tempfile().unwrap()),
        position: 0,
        length: 16,
        region: "client".into(),
        offset: 0,
    };
    let missing = RequestInputs {
        items: 1,
        inputs: Arc::new([InputTensor {
            shape: vec![1, 16],
            data: crate::tensor::InputData::Shared(short),
        }]),
    };
    let ran = rig.fake.log().len();
    let outputs = finish(&rig, leg(0, vec![missing.clone()]), 3);
    assert!(matches!(
        outputs.requests[..],
        [Err(InputFault::Short { .. })]
    ));
    assert_eq!(rig.fake.log().len(), ran, "there was nothing to run");
    let outputs = finish(&rig, leg(0, vec![missing, request(1, 16, 5)]), 3);
    assert!(matches!(outputs.requests[0], Err(InputFault::Short { .. })));
    let kept = TaskOutputs {
        requests: outputs.requests.into_iter().skip(1).collect(),
    };
    assert_net(&kept, &[(1, 5)]);
}

#[test]
fn each_leg_is_captured_for_each_slot_and_batch() {
    let rig = in_legs();
    let captured = |rig: &Rig, part: &str, rows: u32| {
        let line = format!("ran: {part} x{rows} captured");
        let log = rig.fake.log();
        log.iter().filter(|&known| *known == line).count()
    };
    for part in PARTS {
        let counts = [1, 2, 3, 4].map(|rows| captured(&rig, part, rows));
        assert_eq!(counts, [2, 2, 0, 2], "{part}");
    }
    for task in [0, 2, 4, 6] {
        assert_net(&finish(&rig, first(task, &[(3, 8)]), 3), &[(3, 8)]);
    }
    assert_eq!(PARTS.map(|part| captured(&rig, part, 3)), [1; 3]);
}

#[test]
fn a_leg_that_cannot_be_captured_leaves_the_others_theirs() {
    let rig = Rig::new(ENOUGH);
    let facts = FakeFacts {
        branches: true,
        ..net()
    };
    assert_eq!(rig.load_cut(0, facts, Some(three())).unwrap().legs, 3);
    let before = rig.fake.log().len();
    assert_net(&finish(&rig, first(0, &[(2, 8)]), 3), &[(2, 8)]);
    let log = since(&rig, before);
    let ran: Vec<_> = log.iter().filter(|line| line.starts_with("ran")).collect();
    let hows = ["replayed", "replayed", "eager"];
    let expected = PARTS.iter().zip(hows);
    let expected: Vec<_> = expected
        .map(|(part, how)| format!("ran: {part} x2 {how}"))
        .collect();
    assert_eq!(ran, expected.iter().collect::<Vec<_>>());
}

#[test]
fn a_model_whose_parts_do_not_work_is_loaded_in_one_piece() {
    let does_not_load = Rig::new(ENOUGH);
    let facts = FakeFacts {
        not_alone: Some("m"),
        ..net()
    };
    assert_eq!(
        does_not_load
            .load_cut(0, facts, Some(three()))
            .unwrap()
            .legs,
        1
    );
    let does_not_run = Rig::new(ENOUGH);
    does_not_run
        .fake
        .fail("run", FaultKind::Other, "a part has another shape alone");
    assert_eq!(
        does_not_run.load_cut(0, net(), Some(three())).unwrap().legs,
        1
    );
    let has_no_place = Rig::new(ENOUGH);
    let facts = graph("net", 16, &[("~a", &["x"]), ("y", &["~a"])], &["y"]);
    let cuts = legs_of(&[&[0], &[1]]);
    assert_eq!(has_no_place.load_cut(1, facts, Some(cuts)).unwrap().legs, 1);
    let whole = Rig::with(vec![net()]);
    for rig in [does_not_load, does_not_run] {
        assert_eq!(rig.fake.memory_left(), whole.fake.memory_left());
        assert_net(&rig.run(first(0, &[(2, 8)])).unwrap(), &[(2, 8)]);
    }
}

#[test]
fn a_model_that_refuses_zeros_in_one_piece_too_keeps_its_legs() {
    let rig = Rig::new(ENOUGH);
    for _ in 0..2 {
        rig.fake.fail("run", FaultKind::Other, "zero is no value");
    }
    assert_eq!(rig.load_cut(0, net(), Some(three())).unwrap().legs, 3);
    assert_net(&finish(&rig, first(0, &[(2, 8)]), 3), &[(2, 8)]);
}

#[test]
fn cuts_into_one_leg_leave_the_model_whole_and_wrong_ones_are_refused() {
    let rig = Rig::new(ENOUGH);
    let at = OperatorIndex::at;
    let stages = vec![vec![vec![at(0), at(1)]], vec![vec![at(2)], vec![at(3)]]];
    let one = |rest: Vec<Vec<Vec<OperatorIndex>>>| Cuts::new(vec![[stages.clone(), rest].concat()]);
    let cuts = one(vec![vec![vec![at(4), at(5)]]]);
    assert_eq!(rig.load_cut(0, net(), Some(cuts)).unwrap().legs, 1);
    rig.fake.until_logged("session: net.onnx with graphs", 1);
    assert_net(&rig.run(first(0, &[(2, 8)])).unwrap(), &[(2, 8)]);
    let error = rig.load_cut(1, net(), Some(one(Vec::new()))).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::Options);
    assert!(
        error.report().contains("is in 0 parts of the plan"),
        "{}",
        error.report()
    );
}

#[test]
fn groups_of_a_stage_run_in_one_session() {
    let rig = Rig::new(ENOUGH);
    let at = OperatorIndex::at;
    let cuts = Cuts::new(vec![
        vec![vec![vec![at(0), at(1)]], vec![vec![at(2)], vec![at(3)]]],
        vec![vec![vec![at(4), at(5)]]],
    ]);
    assert_eq!(rig.load_cut(0, net(), Some(cuts)).unwrap().legs, 2);
    rig.fake
        .until_logged("session: net.onnx:a+b+c+m with graphs", 1);
    assert_net(&finish(&rig, first(0, &[(2, 8)]), 2), &[(2, 8)]);
}

#[test]
fn a_model_whose_legs_do_not_fit_is_refused_alone() {
    let rig = Rig::new(9_200);
    rig.load(0, model("small", 4)).unwrap();
    let before = rig.fake.memory_left();
    let wide = || FakeFacts {
        session_bytes: 100,
        ..graph("net", 400, &[("a", &["x"]), ("y", &["a"])], &["y"])
    };
    let cuts = || Some(legs_of(&[&[0], &[1]]));
    // Its inputs and outputs fit, and not what its legs leave for each other.
    let error = rig.load_cut(1, wide(), cuts()).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::DeviceMemory, "{error}");
    assert_eq!(rig.fake.memory_left(), before, "all is given back");
    let sessions = FakeFacts {
        session_bytes: 4_000,
        ..net()
    };
    let error = rig.load_cut(1, sessions, Some(three())).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::DeviceMemory, "{error}");
    assert_eq!(rig.fake.memory_left(), before, "all is given back");
    assert_answers(&rig.run(one(0)).unwrap(), &[(1, 7)]);
    rig.load(1, wide()).unwrap();
}

#[test]
fn memory_that_is_short_in_another_partition_ends_that_task_alone() {
    let rig = in_legs();
    let half = rig.partition(AtomSet::range(0, 8));
    let begun = first(0, &[(1, 9)]);
    let next = in_partition(later(&begun, 1), half, 0);
    rig.run(begun).unwrap();
    rig.fake
        .fail("session", FaultKind::OutOfMemory, "no memory for a session");
    let error = rig.run(next).unwrap_err();
    assert!(error.detail.contains("no memory"), "{error}");
    assert_net(&finish(&rig, first(2, &[(1, 3)]), 3), &[(1, 3)]);
}

#[test]
fn a_device_lost_with_a_task_half_way_ends_it() {
    let rig = in_legs();
    let (between, running) = (first(0, &[(1, 9)]), first(1, &[(1, 9)]));
    let (next, left) = (later(&between, 1), left_by(&between));
    let running_next = later(&running, 1);
    rig.run(between).unwrap();
    rig.run(running).unwrap();
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(running_next);
    rig.fake.until_logged("given: net.onnx:c+m x1 replayed", 1);
    rig.fake.lose();
    let events: Vec<_> = (0..3).map(|_| rig.event()).collect();
    assert!(events.iter().any(is_lost), "{events:?}");
    let told = |event: &&DeviceEvent| matches!(event, DeviceEvent::Lost { .. });
    assert_eq!(events.iter().filter(told).count(), 1, "{events:?}");
    let error = rig.run(next).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::DeviceLost);
    // Nothing of the device is waited for.
    rig.device.let_go(&left);
    assert!(rig.device.unload(ModelId(0)));
}

#[test]
fn a_leg_that_hangs_is_named() {
    let rig = in_legs();
    let begun = first(0, &[(1, 9)]);
    let next = later(&begun, 1);
    rig.run(begun).unwrap();
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(next);
    rig.fake.until_logged("given: net.onnx:c+m x1 replayed", 1);
    assert!(matches!(rig.event(), DeviceEvent::Started { .. }));
    rig.pass(HANG.least);
    rig.device.core().look();
    let DeviceEvent::Lost { detail, .. } = rig.event() else {
        panic!("it hangs");
    };
    assert!(detail.contains("leg 1 of task 0 of model 0"), "{detail}");
}
