//! Groups of a plan side by side, in one graph: the order that it keeps, what it must show before
//! it serves, and what becomes of a model where it cannot.

use super::super::super::fake::{Spoils, graph};
use super::super::super::graph::GraphNodes;
use super::super::at_once::CAPTURES;
use super::*;
use crate::device::GpuTuning;
use fugato_core::OperatorIndex;

/// Three groups that read the input, three that each read two of those, and one that reads all of
/// these: `y` is six times the input and ten; before it `d`, of which it is twice and three more.
pub(super) fn wide() -> FakeFacts {
    graph(
        "wide",
        4,
        &[
            ("a", &["x"]),
            ("b", &["x"]),
            ("c", &["x"]),
            ("d", &["a", "b"]),
            ("e", &["b", "c"]),
            ("f", &["c", "a"]),
            ("y", &["d", "e", "f"]),
        ],
        &["y"],
    )
}

/// `legs[leg][stage][group][operator]`.
fn cuts(legs: &[&[&[&[usize]]]]) -> Cuts {
    let group = |group: &&[usize]| group.iter().copied().map(OperatorIndex::at).collect();
    let stage = |stage: &&[&[usize]]| stage.iter().map(group).collect();
    let leg = |leg: &&[&[&[usize]]]| leg.iter().map(stage).collect();
    Cuts::new(legs.iter().map(leg).collect())
}

const THREE: &[&[usize]] = &[&[0], &[1], &[2]];
const THREE_MORE: &[&[usize]] = &[&[3], &[4], &[5]];
const LAST: &[&[usize]] = &[&[6]];

pub(super) fn one_leg() -> Cuts {
    cuts(&[&[THREE, THREE_MORE, LAST]])
}

/// What comes of the first three leaves the first leg, and some of the second leg is used only
/// in it.
fn two_legs() -> Cuts {
    cuts(&[&[THREE], &[THREE_MORE, LAST]])
}

/// As [`two_legs`], with nothing at once in the first.
fn second_alone() -> Cuts {
    cuts(&[&[&[&[0, 1, 2]]], &[THREE_MORE, LAST]])
}

fn rig() -> Rig {
    Rig::making(ENOUGH, true)
}

/// The next leg of a task.
fn next(first: &LegWork) -> LegWork {
    LegWork {
        start: Start {
            leg: LegIndex(first.start.leg.0 + 1),
            requests: Vec::new(),
            ..first.start.clone()
        },
        requests: Vec::new(),
    }
}

fn items(rows: u32, seed: u8) -> Vec<RequestInputs> {
    vec![request(rows, 4, seed)]
}

/// `y` of [`wide`].
fn assert_wide(outputs: &TaskOutputs, rows: u32, seed: u8) {
    let output = &outputs.requests[0].as_ref().unwrap()[0];
    let expected = vec![6 * seed + 10; rows as usize * 4];
    assert_eq!(output.data, TensorData::Raw(expected.into()));
}

/// Runs tasks of all slots and some batches, of so many legs.
fn assert_answers_throughout(rig: &Rig, legs: u16) {
    for (task, rows) in (0..).zip([1, 1, 2, 2, 4, 4, 3, 3]) {
        let seed = 3 + task as u8;
        let mut work = leg(task, items(rows, seed));
        for _ in 1..legs {
            let then = next(&work);
            assert!(rig.run(work).unwrap().requests.is_empty());
            work = then;
        }
        assert_wide(&rig.run(work).unwrap(), rows, seed);
    }
}

/// How many lines of the log begin so.
fn lines(rig: &Rig, prefix: &str) -> usize {
    let log = rig.fake.log();
    log.iter().filter(|line| line.starts_with(prefix)).count()
}

/// Loads [`wide`] whose graph or groups come to nothing, and shows that it runs all the same.
fn assert_in_turn(rig: &Rig, facts: FakeFacts, plan: Cuts) {
    let legs = u16::try_from(plan.legs()).unwrap();
    let loaded = rig.load_cut(0, facts, Some(plan)).unwrap();
    assert_eq!((loaded.legs, loaded.legs_at_once), (legs, 0));
    let launched = lines(rig, "given: at once");
    assert_answers_throughout(rig, legs);
    assert_eq!(lines(rig, "given: at once"), launched, "none of it serves");
    assert_eq!(rig.device.metrics().legs_at_once, 0);
    assert!(rig.device.unload(ModelId(0)));
    assert_eq!(rig.fake.memory_left(), ENOUGH, "all is given back");
}

#[test]
fn stages_follow_each_other_and_groups_of_one_wait_for_none_of_it() {
    let rig = rig();
    let loaded = rig.load_cut(0, wide(), Some(one_leg())).unwrap();
    assert_eq!((loaded.legs, loaded.legs_at_once), (1, 1));
    let before = lines(&rig, "ran: at once");
    // The fake runs what may run last first.
    assert_wide(&rig.run(leg(0, items(2, 9))).unwrap(), 2, 9);
    assert_eq!(lines(&rig, "ran: at once"), before + 1);
    let log = rig.fake.log();
    let groups = ["a", "b", "c", "d", "e", "f", "y"];
    let graph = groups
        .map(|group| format!("wide.onnx:{group} x2"))
        .join(", ");
    assert!(log.contains(&format!("captured: {graph}")), "{log:?}");
    assert_eq!(log[log.len() - 2], format!("ran: at once: {graph}"));
    assert_eq!(rig.device.metrics().legs_at_once, 1);
    // By the longest way through it, not by the sum of all.
    let model = rig.device.core().model(ModelId(0)).unwrap();
    let longest = model.longest((PartitionId(0), LegIndex(0), 2));
    assert_eq!(longest, Some(Nanos::from_micros(300)));
}

#[test]
fn each_slot_and_likely_batch_has_its_graph_and_others_run_as_before() {
    for (plan, legs, at_once) in [
        (one_leg(), 1, 1),
        (two_legs(), 2, 2),
        (second_alone(), 2, 1),
    ] {
        let rig = rig();
        let loaded = rig.load_cut(0, wide(), Some(plan)).unwrap();
        assert_eq!((loaded.legs, loaded.legs_at_once), (legs, at_once));
        // Two slots, and batches of 1, 2 and 4.
        assert_eq!(lines(&rig, "captured: "), 6 * usize::from(at_once));
        assert_answers_throughout(&rig, legs);
        // A batch of 3 has no graph.
        let expected = 6 * u64::from(at_once);
        assert_eq!(rig.device.metrics().legs_at_once, expected);
        assert!(rig.device.unload(ModelId(0)));
        assert_eq!(rig.fake.memory_left(), ENOUGH);
    }
}

#[test]
fn only_where_it_is_wanted() {
    let tunings = |side_by_side, graphs| GpuTuning {
        side_by_side,
        graphs,
        ..GpuTuning::default()
    };
    for (device, tuning) in [
        (false, tunings(true, true)),
        (true, tunings(false, true)),
        (true, tunings(true, false)),
    ] {
        let rig = Rig::making(ENOUGH, device);
        let options = LoadOptions {
            max_batch: 4,
            cuts: Some(two_legs()),
            gpu: tuning,
            ..LoadOptions::default()
        };
        let facts = FakeModel(Arc::new(wide()));
        let loaded = rig.device.load(ModelId(0), &facts, &options).unwrap();
        assert_eq!((loaded.legs, loaded.legs_at_once), (2, 0));
        assert_eq!(lines(&rig, "captured: "), 0);
        assert_eq!(lines(&rig, "session: "), 2, "one for each leg");
        assert_answers_throughout(&rig, 2);
    }
}

#[test]
fn a_graph_that_answers_otherwise_never_serves() {
    let all = [
        (Spoils::Inputs, two_legs()),
        (Spoils::Outputs, two_legs()),
        // In the middle of a leg, and of its stage.
        (Spoils::Group("e"), one_leg()),
        (Spoils::Order, one_leg()),
    ];
    for (spoils, plan) in all {
        let rig = rig();
        let facts = FakeFacts { spoils, ..wide() };
        assert_in_turn(&rig, facts, plan);
        // It was tried: nothing else would have told.
        assert!(lines(&rig, "ran: at once") > 0, "{spoils:?}");
    }
}

#[test]
fn a_graph_that_calls_the_host_or_copies_to_it_or_from_passing_memory_never_runs() {
    let host = GraphNodes {
        host: 1,
        ..GraphNodes::default()
    };
    let pageable = GraphNodes {
        copies: 2,
        pageable: 1,
        ..GraphNodes::default()
    };
    let to_host = GraphNodes {
        copies: 2,
        to_host: 1,
        ..GraphNodes::default()
    };
    for nodes in [host, pageable, to_host] {
        let rig = rig();
        rig.fake.captures_hold(nodes);
        assert_in_turn(&rig, wide(), one_leg());
        assert_eq!(lines(&rig, "ran: at once"), 0, "{nodes:?}");
    }
    let rig = rig();
    rig.fake.captures_hold(GraphNodes {
        allocations: 3,
        copies: 2,
        ..GraphNodes::default()
    });
    let loaded = rig.load_cut(0, wide(), Some(one_leg())).unwrap();
    assert_eq!(loaded.legs_at_once, 1, "memory of its own is no harm");
}

#[test]
fn whatever_breaks_a_capture_off_leaves_the_leg_as_it_is_without() {
    let calls = [
        "capture_streams",
        "recorded",
        "end_capture",
        "contents",
        "memory_free",
        "make_graph",
        "launch",
        "read",
        "write",
    ];
    let kinds = [FaultKind::Capture, FaultKind::Other, FaultKind::OutOfMemory];
    for (call, kind) in calls.iter().flat_map(|call| kinds.map(|kind| (call, kind))) {
        let rig = rig();
        rig.fake.fail(call, kind, "not today");
        assert_in_turn(&rig, wide(), one_leg());
    }
}

#[test]
fn a_graph_that_goes_wrong_once_its_sessions_run_again_never_serves() {
    // Of the last batch that was captured it is right.
    let rig = rig();
    let facts = FakeFacts {
        spoils: Spoils::OtherBatches,
        ..wide()
    };
    let loaded = rig.load_cut(0, facts, Some(two_legs())).unwrap();
    assert_eq!(loaded.legs_at_once, 0);
    assert_eq!(lines(&rig, "captured: "), 12, "none was given up before");
    assert_answers_throughout(&rig, 2);
}

#[test]
fn a_capture_that_takes_memory_is_made_again_and_refused_if_it_goes_on() {
    for (captures, at_once) in [(1, 1), (CAPTURES - 1, 1), (CAPTURES, 0)] {
        let rig = rig();
        rig.fake.captures_take(captures, 1);
        let loaded = rig.load_cut(0, wide(), Some(one_leg())).unwrap();
        assert_eq!(loaded.legs_at_once, at_once, "{captures}");
        assert_answers_throughout(&rig, 1);
    }
}

#[test]
fn what_others_take_while_a_capture_waits_for_its_turn_is_not_held_against_it() {
    let rig = rig();
    rig.fake.turns_take(1_000, 1);
    let loaded = rig.load_cut(0, wide(), Some(one_leg())).unwrap();
    assert_eq!(loaded.legs_at_once, 1);
    // Each was made once.
    assert_eq!(lines(&rig, "captured: "), 6);
}

#[test]
fn kernels_on_others_multiprocessors_are_refused() {
    let nodes = GraphNodes {
        kernels: 1,
        ..GraphNodes::default()
    };
    let rig = rig();
    rig.fake.captures_hold(nodes);
    let half = rig.partition(AtomSet::range(0, 8));
    let facts = FakeModel(Arc::new(wide()));
    let mut options = LoadOptions {
        max_batch: 4,
        cuts: Some(one_leg()),
        warm: vec![half],
        ..LoadOptions::default()
    };
    let loaded = rig.device.load(ModelId(0), &facts, &options).unwrap();
    assert_eq!((loaded.legs, loaded.legs_at_once), (1, 0));
    let work = in_partition(leg(0, items(2, 9)), half, 0);
    assert_wide(&rig.run(work).unwrap(), 2, 9);
    assert_eq!(rig.device.metrics().legs_at_once, 0);
    // The whole device is nobody else's.
    options.warm = vec![PartitionId(0)];
    let loaded = rig.device.load(ModelId(1), &facts, &options).unwrap();
    assert_eq!(loaded.legs_at_once, 1);
}

#[test]
fn groups_that_answer_otherwise_than_the_leg_in_one_piece_never_serve() {
    let rig = rig();
    let facts = FakeFacts {
        spoils: Spoils::Part("e"),
        ..wide()
    };
    assert_in_turn(&rig, facts, one_leg());
    assert!(lines(&rig, "ran: at once") > 0, "it was tried");
}

#[test]
fn a_device_that_hangs_as_graphs_are_tried_is_lost() {
    let rig = rig();
    let (fake, made) = (rig.fake.clone(), AtomicU64::new(0));
    // The leg's one session, then those of its groups.
    rig.fake.meanwhile(move || {
        if made.fetch_add(1, Ordering::SeqCst) == 7 {
            fake.hold(AtomSet::range(0, 16));
        }
    });
    std::thread::scope(|scope| {
        let device = &rig.device;
        let loading = scope.spawn(move || {
            let options = LoadOptions {
                max_batch: 4,
                cuts: Some(one_leg()),
                ..LoadOptions::default()
            };
            device.load(ModelId(0), &FakeModel(Arc::new(wide())), &options)
        });
        rig.fake.until_logged("given: wide.onnx:c x1 eager", 1);
        let detail = faults::until_it_hangs(&rig);
        assert!(detail.contains("which is being loaded"), "{detail}");
        let error = loading.join().unwrap().unwrap_err();
        assert!(error.report().contains("it hangs"), "{}", error.report());
    });
}

#[test]
fn giving_a_graph_up_is_no_hang() {
    let rig = rig();
    rig.load_cut(0, wide(), Some(one_leg())).unwrap();
    rig.fake.slow_sessions(&rig.time, HANG.least.times(3));
    let core = Arc::clone(&rig.device.core);
    rig.fake.meanwhile(move || core.look());
    rig.fake
        .fail("launch", FaultKind::Other, "the graph is gone");
    assert_wide(&rig.run(leg(0, items(2, 9))).unwrap(), 2, 9);
    assert!(rig.events.try_recv().is_err());
}

#[test]
fn an_operator_that_cannot_be_captured_leaves_its_leg_alone() {
    let rig = rig();
    // The last operator, which is in the second leg.
    let facts = FakeFacts {
        branches: true,
        ..wide()
    };
    let loaded = rig.load_cut(0, facts, Some(two_legs())).unwrap();
    assert_eq!((loaded.legs, loaded.legs_at_once), (2, 1));
    assert_answers_throughout(&rig, 2);
    assert_eq!(rig.device.metrics().legs_at_once, 6);
}

#[test]
fn a_tensor_between_groups_whose_size_is_not_known_leaves_its_leg_alone() {
    let rig = rig();
    let operators: &[(&str, &[&str])] = &[
        ("~a", &["x"]),
        ("b", &["x"]),
        ("c", &["~a", "b"]),
        ("d", &["c"]),
        ("e", &["c"]),
        ("y", &["d", "e"]),
    ];
    let plan = cuts(&[&[&[&[0], &[1]], &[&[2]]], &[&[&[3], &[4]], &[&[5]]]]);
    let facts = graph("net", 4, operators, &["y"]);
    let loaded = rig.load_cut(0, facts, Some(plan)).unwrap();
    assert_eq!((loaded.legs, loaded.legs_at_once), (2, 1));
    let begun = leg(0, items(2, 5));
    let last = next(&begun);
    rig.run(begun).unwrap();
    let outputs = rig.run(last).unwrap();
    let expected = TensorData::Raw(vec![4 * 5 + 9; 8].into());
    assert_eq!(outputs.requests[0].as_ref().unwrap()[0].data, expected);
}

#[test]
fn memory_that_does_not_suffice_for_the_groups_is_no_reason_to_refuse_the_model() {
    let in_turn = Rig::new(ENOUGH);
    in_turn.load_cut(0, wide(), Some(two_legs())).unwrap();
    let taken = ENOUGH - in_turn.fake.memory_left();
    let side_by_side = rig();
    side_by_side.load_cut(0, wide(), Some(two_legs())).unwrap();
    let most = ENOUGH - side_by_side.fake.memory_left();
    // Seven sessions, and in both slots the places of three tensors that do not leave their leg.
    assert_eq!(most - taken, 7 * 500 + 2 * 3 * 16);
    // From what the model takes without, to nearly what its groups take besides.
    for memory in [taken, taken + 64, taken + 600, taken + 2_000, most - 1] {
        let rig = Rig::making(memory, true);
        let loaded = rig.load_cut(0, wide(), Some(two_legs())).unwrap();
        assert_eq!(loaded.legs, 2, "{memory} of {taken} to {most}");
        assert!(loaded.legs_at_once < 2, "{memory} of {taken} to {most}");
        assert_answers_throughout(&rig, 2);
        assert!(rig.device.unload(ModelId(0)));
        assert_eq!(rig.fake.memory_left(), memory);
    }
    let rig = Rig::making(taken - 1, true);
    let error = rig.load_cut(0, wide(), Some(two_legs())).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::DeviceMemory);
    assert_eq!(rig.fake.memory_left(), taken - 1);
}

#[test]
fn a_device_lost_in_a_capture_is_told_and_refuses_the_model() {
    for call in [
        "capture_streams",
        "recorded",
        "contents",
        "make_graph",
        "launch",
        "read",
    ] {
        let rig = rig();
        rig.load(1, model("m", 4)).unwrap();
        rig.fake
            .fail(call, FaultKind::Lost, "an uncorrectable memory error");
        let error = rig.load_cut(0, wide(), Some(one_leg())).unwrap_err();
        assert!(
            error.report().contains("uncorrectable"),
            "{}",
            error.report()
        );
        assert!(matches!(rig.event(), DeviceEvent::Lost { .. }), "{call}");
        let error = rig.run(of_model(one(0), 1)).unwrap_err();
        assert_eq!(error.kind, RunErrorKind::DeviceLost);
    }
}

#[test]
fn a_panic_in_a_capture_ends_it() {
    let rig = rig();
    rig.fake.panic_at("recorded");
    // Whatever becomes of this model.
    let _ = rig.load_cut(0, wide(), Some(one_leg()));
    let loaded = rig.load_cut(1, wide(), Some(one_leg())).unwrap();
    assert_eq!(loaded.legs_at_once, 1, "the next one is captured");
    let outputs = rig.run(of_model(leg(0, items(1, 5)), 1)).unwrap();
    assert_wide(&outputs, 1, 5);
}

#[test]
fn a_graph_that_no_longer_runs_is_replaced_for_good() {
    let rig = rig();
    rig.load_cut(0, wide(), Some(two_legs())).unwrap();
    rig.fake
        .fail("launch", FaultKind::Other, "the graph is gone");
    assert_answers_throughout(&rig, 2);
    // One of the two legs.
    assert_eq!(rig.device.metrics().legs_at_once, 6);
    rig.fake
        .fail("launch", FaultKind::Lost, "an illegal address");
    let begun = leg(0, items(1, 5));
    let last = next(&begun);
    rig.run(begun).unwrap();
    rig.device.start(last);
    assert!(matches!(rig.event(), DeviceEvent::Started { .. }));
    let events = [rig.event(), rig.event()];
    assert!(events.iter().any(is_lost), "{events:?}");
}

#[test]
fn a_model_that_is_unloaded_keeps_its_graph_until_that_has_run() {
    let rig = rig();
    rig.load_cut(0, wide(), Some(one_leg())).unwrap();
    let given = lines(&rig, "given: at once");
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(leg(0, items(2, 9)));
    rig.fake.until_logged("given: at once", given + 1);
    assert!(matches!(rig.event(), DeviceEvent::Started { .. }));
    assert!(rig.device.unload(ModelId(0)));
    assert!(rig.fake.memory_left() < ENOUGH);
    rig.fake.release();
    let DeviceEvent::Finished { result, .. } = rig.event() else {
        panic!("it ends");
    };
    assert_wide(&result.unwrap(), 2, 9);
    let error = rig.run(leg(1, items(2, 9))).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::ModelNotLoaded);
    assert_eq!(rig.fake.memory_left(), ENOUGH);
}

#[test]
fn graphs_of_both_slots_follow_each_other_on_the_lane() {
    let rig = rig();
    rig.load_cut(0, wide(), Some(one_leg())).unwrap();
    let given = lines(&rig, "given: at once");
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(leg(0, items(2, 9)));
    rig.device.start(leg(1, items(4, 5)));
    // Both are there, and they have their sessions in common.
    rig.fake.until_logged("given: at once", given + 2);
    rig.fake.release();
    let mut ended = Vec::new();
    while ended.len() < 2 {
        if let DeviceEvent::Finished { task, result, .. } = rig.event() {
            ended.push((task.0, result.unwrap()));
        }
    }
    assert_eq!((ended[0].0, ended[1].0), (0, 1));
    assert_wide(&ended[0].1, 2, 9);
    assert_wide(&ended[1].1, 4, 5);
}

#[test]
fn a_task_that_is_cancelled_between_legs_leaves_nothing_to_the_next() {
    let rig = rig();
    rig.load_cut(0, wide(), Some(two_legs())).unwrap();
    let begun = leg(0, items(2, 9));
    let then = next(&begun);
    rig.run(begun).unwrap();
    rig.device.let_go(&LeftBehind {
        task: TaskId(0),
        model: ModelId(0),
        slot: SlotIndex(0),
    });
    let error = rig.run(then).unwrap_err();
    assert!(error.detail.contains("no task is under way"), "{error}");
    assert_answers_throughout(&rig, 2);
}

#[test]
fn partitions_that_were_made_warm_have_graphs_and_others_do_without() {
    let rig = rig();
    let (low, high) = (AtomSet::range(0, 8), AtomSet::range(8, 8));
    let (low, high) = (rig.partition(low), rig.partition(high));
    let options = LoadOptions {
        max_batch: 4,
        cuts: Some(two_legs()),
        warm: vec![low, high],
        ..LoadOptions::default()
    };
    let facts = FakeModel(Arc::new(wide()));
    let loaded = rig.device.load(ModelId(0), &facts, &options).unwrap();
    assert_eq!((loaded.legs, loaded.legs_at_once), (2, 2));
    // To another partition at the boundary, and back.
    for (task, (here, there)) in (0..).zip([(low, high), (high, low)]) {
        let begun = in_partition(leg(task, items(2, 9)), here, 0);
        let then = in_partition(next(&begun), there, 0);
        rig.run(begun).unwrap();
        assert_wide(&rig.run(then).unwrap(), 2, 9);
    }
    assert_eq!(rig.device.metrics().legs_at_once, 4);
    // Into one that has none, with what groups side by side have left, and out of it.
    let begun = in_partition(leg(0, items(1, 8)), low, 0);
    let then = in_partition(next(&begun), PartitionId(0), 0);
    rig.run(begun).unwrap();
    assert_wide(&rig.run(then).unwrap(), 1, 8);
    let begun = leg(0, items(1, 8));
    let then = in_partition(next(&begun), high, 0);
    rig.run(begun).unwrap();
    assert_wide(&rig.run(then).unwrap(), 1, 8);
    assert_eq!(rig.device.metrics().legs_at_once, 6);
}

#[test]
fn what_tries_the_graphs_is_gone_when_requests_come() {
    let rig = rig();
    rig.load_cut(0, wide(), Some(one_leg())).unwrap();
    let model = rig.device.core().model(ModelId(0)).unwrap();
    for slot in &model.slots {
        let staged = slot.staged.lock().unwrap();
        assert!(staged.iter().all(|staged| staged.as_ref() == [0; 16]));
    }
}
