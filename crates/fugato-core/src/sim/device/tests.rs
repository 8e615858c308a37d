use super::*;
use crate::device::LaneClass;
use crate::id::SlotIndex;
use crate::sim::Part;

fn spec() -> DeviceSpec {
    let lanes = [LaneClass::Normal; 2];
    DeviceSpec::nested(DeviceId(0), "sim", Share(2), &lanes, &lanes)
}

fn device() -> SimDevice {
    SimDevice::new(spec())
}

fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn start(task: u64, partition: u16, lane: u16) -> Start {
    Start {
        device: DeviceId(0),
        task: TaskId(task),
        model: ModelId(u32::from(partition)),
        leg: LegIndex(0),
        partition: PartitionId(partition),
        lane: LaneId(lane),
        slot: SlotIndex(0),
        batch: BatchSize(1),
        unsplit: false,
        not_before: Timestamp::ZERO,
        requests: Vec::new(),
    }
}

/// A leg whose time is half memory.
fn memory_bound(alone: u64) -> Service {
    Service {
        sensitivity: Part::new(0.5),
        demand: Part::new(0.5),
        ..Nanos::new(alone).into()
    }
}

/// (task, start, end) of all legs that end by 1 ms, by end.
fn finished(device: &mut SimDevice) -> Vec<(u64, u64, u64)> {
    let legs = std::iter::from_fn(|| device.poll_event(at(1_000_000)));
    legs.filter_map(|event| {
        let Input::LegFinished {
            task,
            started,
            ended,
            ..
        } = event
        else {
            return None;
        };
        Some((task.0, started.as_nanos(), ended.as_nanos()))
    })
    .collect()
}

#[test]
fn disjoint_partitions_run_undisturbed_and_shared_ones_divide_time() {
    let mut apart = device();
    apart.start(at(0), start(1, 1, 0), Nanos::new(100));
    apart.start(at(0), start(2, 2, 0), Nanos::new(100));
    assert_eq!(finished(&mut apart), [(1, 0, 100), (2, 0, 100)]);
    let mut shared = device();
    shared.start(at(0), start(1, 0, 0), Nanos::new(100));
    shared.start(at(50), start(2, 0, 1), Nanos::new(100));
    assert_eq!(finished(&mut shared), [(1, 0, 150), (2, 50, 200)]);
}

#[test]
fn a_committed_leg_follows_by_itself_or_comes_back() {
    let mut device = device();
    device.start(at(0), start(1, 0, 0), Nanos::new(100));
    device.start(at(90), start(2, 0, 0), Nanos::new(100));
    assert_eq!(finished(&mut device), [(1, 0, 100), (2, 100, 200)]);
    let mut device = self::device();
    device.start(at(0), start(1, 0, 0), Nanos::new(100));
    device.start(at(90), start(2, 0, 0), Nanos::new(100));
    device.revoke(at(95), TaskId(2), LegIndex(0));
    let revoked = Input::LegRevoked {
        device: DeviceId(0),
        task: TaskId(2),
        leg: LegIndex(0),
    };
    let events: Vec<Input> = std::iter::from_fn(|| device.poll_event(at(96))).collect();
    assert!(events.contains(&revoked));
    assert_eq!(finished(&mut device), [(1, 0, 100)]);
}

#[test]
fn launches_and_boundaries_cost_what_they_are_set_to() {
    let overheads = Overheads {
        launch: Nanos::new(10),
        boundary: Nanos::new(3),
        ..Overheads::NONE
    };
    let mut device = SimDevice::with_overheads(spec(), overheads);
    device.start(at(0), start(1, 0, 0), Nanos::new(100));
    device.start(at(50), start(2, 0, 0), Nanos::new(100));
    assert_eq!(finished(&mut device), [(1, 10, 110), (2, 113, 213)]);
    // A leg that is still being launched can be taken back.
    let mut device = SimDevice::with_overheads(spec(), overheads);
    device.start(at(0), start(1, 0, 0), Nanos::new(100));
    device.start(at(0), start(2, 0, 0), Nanos::new(100));
    device.revoke(at(5), TaskId(1), LegIndex(0));
    assert_eq!(finished(&mut device), [(2, 15, 115)]);
}

#[test]
fn a_leg_changes_its_pace_as_neighbours_come_and_go() {
    // Beside a full neighbour each takes 1 + 1/2 * 1/2 of its time.
    let mut device = device();
    device.start(at(0), start(1, 1, 0), memory_bound(1_000));
    device.start(at(500), start(2, 2, 0), memory_bound(1_000));
    // The first has 500 left, at 5/4: until 1125. The second has then done 500, and the
    // rest of it runs alone.
    assert_eq!(finished(&mut device), [(1, 0, 1_125), (2, 500, 1_625)]);
    // Beside compute-bound work nothing changes.
    let mut device = self::device();
    device.start(at(0), start(1, 1, 0), memory_bound(1_000));
    device.start(at(500), start(2, 2, 0), Nanos::new(1_000));
    assert_eq!(finished(&mut device), [(1, 0, 1_000), (2, 500, 1_500)]);
}

#[test]
fn time_that_is_shared_is_counted_once() {
    let mut device = device();
    let half = Service {
        useful: Share(1),
        ..Nanos::new(100).into()
    };
    device.start(at(0), start(1, 0, 0), half);
    device.start(at(0), start(2, 0, 1), half);
    // Looked at on the way, and again at the end.
    assert_eq!(device.used(at(100))[&ModelId(0)].held, 200);
    assert_eq!(finished(&mut device), [(1, 0, 200), (2, 0, 200)]);
    let used = device.used(at(1_000_000))[&ModelId(0)];
    assert_eq!((used.held, used.useful), (400, 200));
    assert_eq!((used.runs, used.items), (2, 2));
}

#[test]
fn a_leg_that_hangs_holds_its_atoms_until_the_device_is_lost() {
    let mut device = device();
    device.start(at(0), start(1, 1, 0), Nanos::new(100));
    device.start(at(0), start(2, 2, 0), Nanos::new(100));
    device.start(at(0), start(3, 1, 0), Nanos::new(100));
    device.poll_event(at(50));
    device.hang(TaskId(1));
    assert_eq!(finished(&mut device), [(2, 0, 100)]);
    assert_eq!(device.next_event(), None);
    device.reset(at(1_000_000));
    assert_eq!(device.used(at(1_000_000))[&ModelId(1)].held, 1_000_000);
    device.start(at(1_000_000), start(4, 1, 0), Nanos::new(0));
    assert_eq!(finished(&mut device), [(4, 1_000_000, 1_000_000)]);
}
