use super::*;
use crate::policy::CapacityRule;

fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    let normal = [LaneClass::Normal, LaneClass::Normal];
    ledger.add(DeviceSpec::nested(
        DeviceId(0),
        "test",
        Share(2),
        &normal,
        &normal[..1],
    ));
    ledger
}

fn lane(partition: u16, lane: u16) -> LaneRef {
    LaneRef {
        device: DeviceId(0),
        partition: PartitionId(partition),
        lane: LaneId(lane),
    }
}

fn leg(task: u64) -> LaneLeg {
    LaneLeg {
        task: TaskId(task),
        leg: LegIndex(0),
        started: None,
        predicted: Some(Nanos::new(100)),
        revoking: false,
    }
}

const NOW: Timestamp = Timestamp::from_nanos(1_000);

#[test]
fn exclusive_partitions_close_what_overlaps_them() {
    let mut ledger = ledger();
    let offer =
        |ledger: &Ledger, at| ledger.offer(at, CapacityRule::Exclusive, NOW, Nanos::new(10));
    ledger.claim(lane(1, 0), leg(1), CapacityRule::Exclusive);
    assert_eq!(offer(&ledger, lane(0, 0)), Offer::Closed);
    assert_eq!(offer(&ledger, lane(2, 0)), Offer::Now);
    assert_eq!(ledger.neighbours(lane(2, 0)), Share(1));
    ledger.release(lane(1, 0), TaskId(1), LegIndex(0));
    assert_eq!(offer(&ledger, lane(0, 0)), Offer::Now);
}

#[test]
fn a_place_breaks_the_free_atoms_up_least() {
    let normal = [LaneClass::Normal];
    let mut ledger = Ledger::default();
    let (device, slices, unit) = (DeviceId(0), Share(6), Share(1));
    ledger.add(DeviceSpec::ranges(
        device, "ranges", slices, unit, &normal, &normal,
    ));
    let take = |ledger: &mut Ledger, share| {
        let at = ledger.place(device, Share(share), AtomSet::EMPTY)?;
        ledger.claim(at, leg(1), CapacityRule::Exclusive);
        Some(ledger.atoms(at).iter().collect::<Vec<u16>>())
    };
    assert_eq!(take(&mut ledger, 2), Some(vec![0, 1]), "at an edge");
    assert_eq!(take(&mut ledger, 1), Some(vec![2]), "at what is held");
    assert_eq!(take(&mut ledger, 4), None, "three are free");
    assert_eq!(take(&mut ledger, 3), Some(vec![3, 4, 5]));
    assert_eq!(ledger.free(device), AtomSet::EMPTY);
}

#[test]
fn where_partitions_overlap_the_least_crowded_one_is_taken() {
    let mut ledger = ledger();
    let rule = CapacityRule::Oversubscribed { lanes: 8 };
    let pick = |ledger: &Ledger| {
        ledger.least_crowded(DeviceId(0), Share(1), |at| ledger.front(at).is_none())
    };
    ledger.claim(lane(0, 0), leg(1), rule);
    assert_eq!(
        pick(&ledger),
        Some(lane(1, 0)),
        "the whole device is on both"
    );
    ledger.claim(lane(1, 0), leg(2), rule);
    assert_eq!(pick(&ledger), Some(lane(2, 0)));
    ledger.claim(lane(2, 0), leg(3), rule);
    assert_eq!(pick(&ledger), None);
}

#[test]
#[should_panic(expected = "would share atoms")]
fn an_overlapping_claim_is_a_bug() {
    let mut ledger = ledger();
    ledger.claim(lane(1, 0), leg(1), CapacityRule::Exclusive);
    ledger.claim(lane(0, 0), leg(2), CapacityRule::Exclusive);
}

#[test]
#[should_panic(expected = "more than 1 lanes")]
fn an_oversubscribed_device_has_a_limit_too() {
    let mut ledger = ledger();
    let rule = CapacityRule::Oversubscribed { lanes: 1 };
    ledger.claim(lane(0, 0), leg(1), rule);
    ledger.claim(lane(0, 1), leg(2), rule);
}

#[test]
fn lanes_left_over_from_oversubscription_take_nothing_exclusive() {
    let mut ledger = ledger();
    let shared = CapacityRule::Oversubscribed { lanes: 2 };
    for (at, task) in [(lane(0, 0), 1), (lane(0, 1), 2)] {
        ledger.claim(at, leg(task), shared);
        ledger.started(at, TaskId(task), NOW);
    }
    let now = Timestamp::from_nanos(1_095);
    let offer = |ledger: &Ledger, rule| ledger.offer(lane(0, 0), rule, now, Nanos::new(10));
    assert!(matches!(offer(&ledger, shared), Offer::After(_)));
    assert_eq!(offer(&ledger, CapacityRule::Exclusive), Offer::Closed);
    ledger.release(lane(0, 1), TaskId(2), LegIndex(0));
    assert!(matches!(
        offer(&ledger, CapacityRule::Exclusive),
        Offer::After(_)
    ));
}

#[test]
fn a_lane_takes_a_leg_ahead_only_near_the_predicted_end() {
    let mut ledger = ledger();
    let offer = |ledger: &Ledger, now| {
        ledger.offer(
            lane(0, 0),
            CapacityRule::Exclusive,
            Timestamp::from_nanos(now),
            Nanos::new(10),
        )
    };
    ledger.claim(lane(0, 0), leg(1), CapacityRule::Exclusive);
    assert_eq!(
        offer(&ledger, 1_095),
        Offer::Closed,
        "its start is not known yet"
    );
    ledger.started(lane(0, 0), TaskId(1), NOW);
    assert_eq!(offer(&ledger, 1_089), Offer::Closed);
    assert_eq!(
        offer(&ledger, 1_090),
        Offer::After(Timestamp::from_nanos(1_100))
    );
    assert_eq!(
        offer(&ledger, 1_200),
        Offer::After(Timestamp::from_nanos(1_200)),
        "it overran"
    );
    ledger.claim(lane(0, 0), leg(2), CapacityRule::Exclusive);
    assert_eq!(offer(&ledger, 1_095), Offer::Closed);
    assert_eq!(
        ledger.free_at(lane(0, 0), NOW),
        Some(Timestamp::from_nanos(1_200))
    );
    ledger.release(lane(0, 0), TaskId(1), LegIndex(0));
    assert_eq!(
        ledger.front(lane(0, 0)).map(|leg| leg.task),
        Some(TaskId(2))
    );
}
