//! Full memory, captures that fail, errors that stick, hangs.

use super::*;

#[test]
fn a_model_that_does_not_fit_is_refused_alone() {
    let rig = Rig::new(8_000);
    rig.load(0, model("small", 4)).unwrap();
    let before = rig.fake.memory_left();
    for facts in [
        FakeFacts {
            session_bytes: 10_000,
            ..model("its session", 4)
        },
        model("its buffers", 5_000),
    ] {
        let error = rig.load(1, facts).unwrap_err();
        assert_eq!(error.kind(), LoadErrorKind::DeviceMemory, "{error}");
        assert_eq!(rig.fake.memory_left(), before, "all is given back");
    }
    rig.run(one(0)).unwrap();
    rig.load(1, model("another", 4)).unwrap();
}

#[test]
fn memory_that_is_short_later_fails_that_leg_alone() {
    let rig = Rig::with(vec![model("m", 4)]);
    let half = rig.partition(AtomSet::range(0, 8));
    rig.fake
        .fail("session", FaultKind::OutOfMemory, "no memory for a session");
    let error = rig.run(in_partition(one(0), half, 0)).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::Runtime);
    assert!(error.detail.contains("no memory"), "{error}");
    rig.run(in_partition(one(0), half, 0)).unwrap();
    rig.run(one(1)).unwrap();
}

#[test]
fn unloading_gives_all_memory_back() {
    let rig = Rig::with(vec![model("m", 4)]);
    rig.run(one(0)).unwrap();
    assert!(rig.device.unload(ModelId(0)));
    assert!(!rig.device.unload(ModelId(0)));
    assert_eq!(rig.fake.memory_left(), ENOUGH);
    let error = rig.run(one(1)).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::ModelNotLoaded);
}

#[test]
fn a_capture_that_fails_leaves_an_eager_model() {
    for facts in [
        FakeFacts {
            breaks_captures: true,
            ..model("m", 4)
        },
        FakeFacts {
            branches: true,
            ..model("m", 4)
        },
    ] {
        let rig = Rig::with(vec![facts]);
        for task in 0..5 {
            let outputs = rig.run(leg(task, vec![request(2, 4, 3)])).unwrap();
            assert_answers(&outputs, &[(2, 3)]);
        }
        let other = in_partition(one(5), rig.partition(AtomSet::range(0, 8)), 0);
        rig.run(other).unwrap();
        let log = rig.fake.log();
        let sessions: Vec<_> = log
            .iter()
            .filter(|line| line.starts_with("session"))
            .collect();
        // A session that broke a capture off is not used again, and none after it tries.
        let without = sessions
            .iter()
            .filter(|line| line.ends_with("without graphs"));
        assert_eq!(without.count(), 2, "{sessions:?}");
        assert!(sessions.len() <= 3, "{sessions:?}");
        assert!(
            !log.iter().any(|line| line.ends_with("replayed")),
            "{log:?}"
        );
    }
}

#[test]
fn a_graph_that_no_longer_runs_is_replaced_by_an_eager_run() {
    let rig = Rig::with(vec![model("m", 4)]);
    rig.run(one(0)).unwrap();
    rig.fake
        .fail("replay", FaultKind::Capture, "the graph is gone");
    let outputs = rig.run(one(0)).unwrap();
    assert_answers(&outputs, &[(1, 7)]);
    let log = rig.fake.log();
    assert!(
        log.ends_with(&["ran: m.onnx x1 eager".into(), "download 4".into()]),
        "{log:?}"
    );
}

#[test]
fn a_sticky_error_ends_every_leg_as_lost_and_is_told_once() {
    let rig = Rig::with(vec![model("m", 4)]);
    let (low, high) = (AtomSet::range(0, 8), AtomSet::range(8, 8));
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device
        .start(in_partition(one(0), rig.partition(low), 0));
    rig.device
        .start(in_partition(one(1), rig.partition(high), 0));
    let mut late = in_partition(one(2), rig.partition(low), 0);
    late.start.not_before = Timestamp::MAX;
    rig.device.start(late);
    rig.fake.until_logged("given: m.onnx x1 eager", 4);
    rig.fake.lose();
    let mut events = Vec::new();
    while events.iter().filter(|event| is_lost(event)).count() < 3 {
        events.push(rig.event());
    }
    let told = events
        .iter()
        .filter(|event| matches!(event, DeviceEvent::Lost { .. }));
    assert_eq!(told.count(), 1, "{events:?}");
    let started = events
        .iter()
        .filter(|event| matches!(event, DeviceEvent::Started { .. }));
    assert_eq!((started.count(), events.len()), (3, 7), "{events:?}");
    // What comes later ends alike, at once.
    let error = rig.run(one(3)).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::DeviceLost);
    assert!(error.detail.contains("illegal memory access"), "{error}");
    let error = rig.load(1, model("another", 4)).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::Device);
    assert!(rig.events.try_recv().is_err());
}

#[test]
fn a_device_lost_while_a_model_is_loaded_is_told_too() {
    let rig = Rig::with(vec![model("m", 4)]);
    rig.fake
        .fail("weights", FaultKind::Lost, "an uncorrectable memory error");
    let error = rig.load(1, model("another", 4)).unwrap_err();
    assert!(
        error.report().contains("uncorrectable"),
        "{}",
        error.report()
    );
    assert!(matches!(rig.event(), DeviceEvent::Lost { .. }));
    let error = rig.run(one(0)).unwrap_err();
    assert_eq!(error.kind, RunErrorKind::DeviceLost);
}

#[test]
fn a_device_that_hangs_is_lost() {
    let rig = Rig::with(vec![model("m", 4)]);
    rig.run(one(0)).unwrap();
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(one(1));
    rig.device.start(one(2));
    rig.fake.until_logged("given: m.onnx x1 replayed", 3);
    assert!(matches!(
        rig.event(),
        DeviceEvent::Started {
            task: TaskId(1),
            ..
        }
    ));
    rig.pass(HANG.least.scaled(9, 10));
    rig.device.core().look();
    assert!(rig.events.try_recv().is_err(), "there is time left");
    rig.pass(HANG.least.scaled(1, 10));
    rig.device.core().look();
    let DeviceEvent::Lost { detail, .. } = rig.event() else {
        panic!("it hangs");
    };
    assert!(detail.contains("task 1 of model 0"), "{detail}");
    let events: Vec<_> = (0..3).map(|_| rig.event()).collect();
    assert!(is_lost(&events[0]) && is_lost(&events[2]), "{events:?}");
    // Its threads are left behind: dropping the device does not wait for them.
}

#[test]
fn how_long_a_run_may_take_grows_with_how_long_it_takes() {
    let seen = Nanos::from_millis(300);
    assert_eq!(HANG.of(None), HANG.least);
    assert_eq!(HANG.of(Some(Nanos::from_micros(5))), HANG.least);
    assert_eq!(HANG.of(Some(seen)), Nanos::from_millis(6_000));
    let slow = FakeFacts {
        takes: seen,
        ..model("m", 4)
    };
    let rig = Rig::with(vec![slow]);
    rig.run(one(0)).unwrap();
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(one(1));
    rig.fake.until_logged("given: m.onnx x1 replayed", 2);
    assert!(matches!(rig.event(), DeviceEvent::Started { .. }));
    rig.pass(Nanos::from_millis(5_000));
    rig.device.core().look();
    assert!(
        rig.events.try_recv().is_err(),
        "twenty times as long is not over"
    );
    rig.fake.release();
    assert!(matches!(
        rig.event(),
        DeviceEvent::Finished { result: Ok(_), .. }
    ));
}

/// Passes time until the device is taken to hang; what it said.
pub(super) fn until_it_hangs(rig: &Rig) -> String {
    let patience = std::time::Instant::now() + Duration::from_secs(120);
    loop {
        rig.pass(HANG.least);
        rig.device.core().look();
        match rig.events.try_recv() {
            Ok(DeviceEvent::Lost { detail, .. }) => return detail,
            Ok(other) => panic!("{other:?}"),
            Err(_) => std::thread::yield_now(),
        }
        assert!(std::time::Instant::now() < patience, "nobody looks");
    }
}

#[test]
fn a_device_that_hangs_as_a_model_is_loaded_is_lost() {
    let rig = Rig::with(vec![model("m", 4)]);
    rig.fake.hold(AtomSet::range(0, 16));
    std::thread::scope(|scope| {
        let device = &rig.device;
        let loading = scope.spawn(move || {
            let facts = FakeModel(Arc::new(model("n", 4)));
            device.load(ModelId(1), &facts, &LoadOptions::default())
        });
        let detail = until_it_hangs(&rig);
        assert!(
            detail.contains("`n.onnx`, which is being loaded"),
            "{detail}"
        );
        // Its lane's thread waits for ever, and whoever wants the model does not.
        let error = loading.join().unwrap().unwrap_err();
        assert!(error.report().contains("it hangs"), "{}", error.report());
    });
}

#[test]
fn a_session_that_is_made_anew_is_no_hang() {
    let rig = Rig::with(vec![model("m", 4)]);
    rig.fake.slow_sessions(&rig.time, HANG.least.times(3));
    let core = Arc::clone(&rig.device.core);
    rig.fake.meanwhile(move || core.look());
    rig.fake
        .fail("replay", FaultKind::Capture, "the graph is gone");
    let outputs = rig.run(one(0)).unwrap();
    assert_answers(&outputs, &[(1, 7)]);
    assert!(rig.events.try_recv().is_err());
}

#[test]
fn a_first_run_waits_for_its_turn_and_that_is_no_hang() {
    let rig = Rig::with(vec![model("m", 4)]);
    let half = rig.partition(AtomSet::range(0, 8));
    rig.fake.busy(true);
    rig.device.start(in_partition(one(0), half, 0));
    rig.fake.until_logged("session: m.onnx", 2);
    rig.pass(HANG.least.times(3));
    rig.device.core().look();
    assert!(rig.events.try_recv().is_err(), "it has not even started");
    rig.fake.busy(false);
    assert!(matches!(rig.event(), DeviceEvent::Started { .. }));
    assert!(matches!(
        rig.event(),
        DeviceEvent::Finished { result: Ok(_), .. }
    ));
}
