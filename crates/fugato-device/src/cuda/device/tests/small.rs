//! A card that is too small to be divided.

use super::*;

/// Of 14 multiprocessors, where the smallest group has 8.
fn rig() -> Rig {
    let rig = Rig::over(&SmLayout::new(14, vec![14]), ENOUGH, false);
    rig.load(0, model("m", 4)).unwrap();
    rig.load(1, model("n", 4)).unwrap();
    rig
}

#[test]
fn it_is_one_slice_and_one_partition() {
    let rig = rig();
    let spec = rig.device.spec();
    spec.validate().unwrap();
    assert_eq!((spec.slices.0, spec.partitions.len()), (1, 1));
    assert_eq!(spec.partitions[0].lanes, LANES);
    assert_eq!(spec.partitions[0].atoms, AtomSet::range(0, 1));
}

#[test]
fn it_serves_models_one_after_the_other_and_at_once() {
    let rig = rig();
    for task in 0..3 {
        let outputs = rig.run(of_model(one(task), task as u32 % 2)).unwrap();
        assert_answers(&outputs, &[(1, 7)]);
    }
    // Both lanes share the one slice in time.
    rig.fake.hold(AtomSet::range(0, 1));
    rig.device.start(of_model(one(3), 0));
    let work = of_model(one(4), 1);
    rig.device.start(in_partition(work, PartitionId(0), 1));
    let started: Vec<_> = (0..2).map(|_| rig.event()).collect();
    assert!(
        matches!(
            started[..],
            [DeviceEvent::Started { .. }, DeviceEvent::Started { .. }]
        ),
        "{started:?}"
    );
    rig.fake.release();
    let mut ended: Vec<_> = (0..2)
        .map(|_| match rig.event() {
            DeviceEvent::Finished { task, result, .. } => {
                assert_answers(&result.unwrap(), &[(1, 7)]);
                task.0
            }
            other @ (DeviceEvent::Started { .. }
            | DeviceEvent::Lost { .. }
            | DeviceEvent::Revoked { .. }) => panic!("{other:?}"),
        })
        .collect();
    ended.sort_unstable();
    assert_eq!(ended, [3, 4]);
}
