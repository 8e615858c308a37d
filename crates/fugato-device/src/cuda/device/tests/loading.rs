//! What is done as a model is loaded.

use super::*;

#[test]
fn all_slots_of_a_batch_are_warmed_before_the_next_batch() {
    let rig = Rig::with(vec![model("m", 4)]);
    let rows = |line: &String| {
        let run = line.strip_prefix("ran: m.onnx x")?;
        Some(run.split(' ').next()?.to_owned())
    };
    let mut order: Vec<_> = rig.fake.log().iter().filter_map(rows).collect();
    // Two slots, an eager run and a captured one each.
    assert_eq!(
        order.iter().filter(|rows| *rows == "2").count(),
        4,
        "{order:?}"
    );
    order.dedup();
    assert_eq!(order, ["1", "2", "4"], "each batch's plans are made once");
}

#[test]
fn models_without_fixed_shapes_are_refused_by_name() {
    let rig = Rig::new(ENOUGH);
    let mut varying = model("varying", 4);
    varying.info.inputs[0].shape = vec![None, None];
    let error = rig.load(0, varying).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::UnsupportedInterface);
    assert!(
        error
            .report()
            .contains("input `x` is UINT8 of shape [?, ?]"),
        "{}",
        error.report()
    );
    let mut strings = model("strings", 4);
    strings.info.outputs[0].element = ElementType::Bytes;
    let error = rig.load(0, strings).unwrap_err();
    assert!(
        error.report().contains("output `y` is BYTES"),
        "{}",
        error.report()
    );
    assert_eq!(rig.fake.memory_left(), ENOUGH);
}

#[test]
fn what_the_device_lacks_is_told_from_what_it_has_not_now() {
    let rig = Rig::with(vec![model("m", 4)]);
    let held = rig.fake.memory_left();
    // With graphs, and without.
    for _ in 0..2 {
        let detail = "Could not find an implementation for Odd(1)";
        rig.fake.fail("session", FaultKind::Refused, detail);
    }
    let error = rig.load(1, model("odd", 4)).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::UnsupportedOperator);
    assert!(error.report().contains("Odd(1)"), "{}", error.report());
    assert_eq!(rig.fake.memory_left(), held);
    for _ in 0..2 {
        rig.fake.fail("session", FaultKind::Other, "who knows");
    }
    let error = rig.load(1, model("odd", 4)).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::Device);
    rig.fake
        .fail("session", FaultKind::OutOfMemory, "no memory for a session");
    let error = rig.load(1, model("odd", 4)).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::DeviceMemory);
    assert_eq!(rig.fake.memory_left(), held);
    rig.load(1, model("odd", 4)).unwrap();
    rig.run(one(0)).unwrap();
}

#[test]
fn what_a_model_is_not_loaded_with_is_an_error() {
    let rig = Rig::with(vec![model("m", 4)]);
    assert_eq!(
        rig.load(0, model("twice", 4)).unwrap_err().kind(),
        LoadErrorKind::Options
    );
    let options = LoadOptions {
        warm: vec![PartitionId(99)],
        ..LoadOptions::default()
    };
    let facts = FakeModel(Arc::new(model("nowhere", 4)));
    let error = rig.device.load(ModelId(1), &facts, &options).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::Options);
}
