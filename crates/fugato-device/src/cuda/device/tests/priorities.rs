//! Streams by the urgency of models.

use super::at_once::{one_leg, wide};
use super::*;
use crate::device::GpuTuning;
use crate::urgency::Urgency;

/// Two lanes, model 0 without an objective, model 1 with one of 5 ms, model 2 with one of 50 ms.
fn rig(least: i32, greatest: i32) -> Rig {
    let rig = Rig::new(ENOUGH);
    rig.fake.has_priorities(least, greatest);
    load(&rig);
    rig
}

fn load(rig: &Rig) {
    let models = [
        ("slow", None),
        ("fast", Some(Nanos::from_millis(5))),
        ("between", Some(Nanos::from_millis(50))),
    ];
    for (id, (name, slo)) in (0..).zip(models) {
        let options = LoadOptions {
            gpu: GpuTuning {
                urgency: Urgency::of_slo(slo),
                ..GpuTuning::default()
            },
            ..LoadOptions::default()
        };
        rig.load_as(id, model(name, 4), options).unwrap();
    }
}

/// The priority of each model's session, where it is made as the model is loaded.
fn of_models(rig: &Rig) -> Vec<i32> {
    let made = rig.fake.session_priorities();
    let names: Vec<_> = made.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["slow.onnx", "fast.onnx", "between.onnx"]);
    made.into_iter().map(|(_, priority)| priority).collect()
}

#[test]
fn urgent_models_are_on_streams_of_a_greater_priority() {
    assert_eq!(of_models(&rig(0, -5)), [0, -4, -1]);
    // A device of two priorities, and one of none.
    assert_eq!(of_models(&rig(0, -1)), [0, -1, 0]);
    assert_eq!(of_models(&rig(0, 0)), [0, 0, 0]);
}

#[test]
fn every_lane_of_every_partition_has_streams_of_the_models_priority() {
    let rig = rig(0, -5);
    let half = rig.partition(AtomSet::range(8, 8));
    for (task, (partition, lane)) in (0..).zip([(PartitionId(0), 1), (half, 0), (half, 1)]) {
        for model in 0..3 {
            let work = of_model(one(task * 3 + u64::from(model)), model);
            rig.run(in_partition(work, partition, lane)).unwrap();
        }
    }
    let made = rig.fake.session_priorities();
    assert_eq!(made.len(), 12, "one for each lane: {made:?}");
    for (name, priority) in made {
        let expected = match name.as_str() {
            "slow.onnx" => 0,
            "fast.onnx" => -4,
            _ => -1,
        };
        assert_eq!(priority, expected, "{name}");
    }
}

#[test]
fn models_of_one_urgency_share_the_streams_of_a_lane() {
    let rig = Rig::new(ENOUGH);
    rig.fake.has_priorities(0, -5);
    for id in 0..3 {
        rig.load(id, model("m", 4)).unwrap();
    }
    let made = rig.fake.streams();
    rig.run(of_model(one(0), 2)).unwrap();
    assert_eq!((made, rig.fake.streams()), (3, 3), "run, copies, copies");
}

#[test]
fn legs_of_a_lane_keep_their_order_though_the_second_is_more_urgent() {
    let rig = rig(0, -5);
    rig.fake.hold(AtomSet::range(0, 16));
    rig.device.start(of_model(one(0), 2));
    // Its streams were made before, so that the fake would begin with it.
    rig.device.start(of_model(one(1), 1));
    rig.fake.until_logged("given: between.onnx x1 replayed", 1);
    // The second is on the device, on other streams, and waits there.
    let given = |rig: &Rig| {
        let log = rig.fake.log();
        let ran = |line: &&String| line.starts_with("ran: ") && line.ends_with("replayed");
        log.iter().filter(ran).cloned().collect::<Vec<_>>()
    };
    rig.fake.until_logged("given: fast.onnx x1 replayed", 1);
    assert_eq!(given(&rig), [""; 0]);
    rig.fake.release();
    let tasks: Vec<_> = (0..4)
        .map(|_| match rig.event() {
            DeviceEvent::Started { task, .. } => (task.0, "starts"),
            DeviceEvent::Finished { task, result, .. } => {
                result.unwrap();
                (task.0, "ends")
            }
            other @ (DeviceEvent::Lost { .. } | DeviceEvent::Revoked { .. }) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        tasks,
        [(0, "starts"), (0, "ends"), (1, "starts"), (1, "ends")]
    );
    let ran = given(&rig);
    assert!(
        ran.len() == 2 && ran[0].contains("between") && ran[1].contains("fast"),
        "{ran:?}"
    );
}

#[test]
fn a_device_that_does_not_tell_its_priorities_has_none() {
    let rig = Rig::new(ENOUGH);
    rig.fake.has_priorities(0, -5);
    rig.fake
        .fail("priorities", FaultKind::Other, "not supported");
    load(&rig);
    assert_eq!(of_models(&rig), [0, 0, 0]);
    rig.run(of_model(one(0), 1)).unwrap();
}

#[test]
fn a_device_lost_as_it_is_asked_for_its_priorities_is_lost() {
    let rig = Rig::new(ENOUGH);
    rig.fake.fail("priorities", FaultKind::Lost, "gone");
    let error = rig.load(0, model("m", 4)).unwrap_err();
    assert_eq!(error.kind(), LoadErrorKind::Device);
}

#[test]
fn groups_side_by_side_are_on_streams_of_their_models_priority() {
    let rig = Rig::making(ENOUGH, true);
    rig.fake.has_priorities(0, -5);
    let options = LoadOptions {
        cuts: Some(one_leg()),
        gpu: GpuTuning {
            urgency: Urgency::of_slo(Some(Nanos::from_millis(25))),
            ..GpuTuning::default()
        },
        ..LoadOptions::default()
    };
    let loaded = rig.load_as(0, wide(), options).unwrap();
    assert_eq!(loaded.legs_at_once, 1);
    let made = rig.fake.session_priorities();
    assert_eq!(
        made.len(),
        8,
        "seven groups, and the leg by itself: {made:?}"
    );
    assert!(made.iter().all(|&(_, priority)| priority == -2), "{made:?}");
}
