//! Operators that the device lacks, and that run on the host.

use super::super::super::fake::graph;
use super::*;

/// What of model 0 runs on the host.
fn on_host(rig: &Rig) -> Option<String> {
    let model = rig.device.core().model(ModelId(0)).unwrap();
    model.on_host()
}

fn with(on_host: &'static [&'static str]) -> FakeFacts {
    let operators: &[_] = &[("a", &["x"] as &[_]), ("b", &["a"]), ("y", &["b"])];
    FakeFacts {
        on_host,
        ..graph("m", 4, operators, &["y"])
    }
}

#[test]
fn operators_that_run_on_the_host_are_known_by_kind_once_the_model_is_loaded() {
    let rig = Rig::with(vec![with(&["a", "y"])]);
    assert_eq!(on_host(&rig).as_deref(), Some("Adds-a, Adds-y"));
    // It is served, without graphs.
    rig.run(one(0)).unwrap();
    let log = rig.fake.log();
    assert!(
        log.iter()
            .any(|line| line == "session: m.onnx without graphs"),
        "{log:?}"
    );
    assert_eq!(rig.device.metrics().legs_captured, 0);
}

#[test]
fn each_is_counted_once_however_many_lanes_run_it() {
    let rig = Rig::with(vec![with(&["b"])]);
    let half = rig.partition(AtomSet::range(0, 8));
    rig.run(in_partition(one(0), half, 0)).unwrap();
    rig.run(in_partition(one(1), half, 1)).unwrap();
    assert_eq!(on_host(&rig).as_deref(), Some("Adds-b"));
}

#[test]
fn of_a_model_that_the_device_runs_alone_nothing_is_told() {
    let rig = Rig::with(vec![with(&[])]);
    assert_eq!(on_host(&rig), None);
    let branches = FakeFacts {
        branches: true,
        ..with(&[])
    };
    let rig = Rig::with(vec![branches]);
    assert_eq!(on_host(&rig), None, "it is eager for another reason");
}

#[test]
fn operators_that_compute_shapes_are_known_of_captured_sessions_too() {
    let shapes = FakeFacts {
        shapes: &["a"],
        ..with(&[])
    };
    let rig = Rig::with(vec![shapes]);
    let model = rig.device.core().model(ModelId(0)).unwrap();
    assert_eq!(model.shapes_on_host().as_deref(), Some("Adds-a"));
    assert_eq!(on_host(&rig), None, "no run of it waits for the host");
    rig.run(one(0)).unwrap();
    assert_eq!(rig.device.metrics().legs_captured, 1);
    // Eager sessions run them each time.
    let both = FakeFacts {
        shapes: &["a"],
        ..with(&["y"])
    };
    let rig = Rig::with(vec![both]);
    assert_eq!(on_host(&rig).as_deref(), Some("Adds-a, Adds-y"));
}

#[test]
fn a_model_is_loaded_though_nobody_tells_where_its_operators_run() {
    let rig = Rig::new(ENOUGH);
    rig.fake.fail("on_host", FaultKind::Other, "not noted");
    rig.load(0, with(&["a"])).unwrap();
    assert_eq!(on_host(&rig), None);
    rig.run(one(0)).unwrap();
}
