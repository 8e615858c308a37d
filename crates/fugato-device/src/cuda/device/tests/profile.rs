//! The device under the profiler.

use super::legs::{net, three};
use super::*;
use crate::profiler::{Neighbour, Profiler, Visit, Walk, partitions_beside, slots_beside};

#[test]
fn a_model_is_timed_beside_busy_partitions() {
    let rig = Rig::new(ENOUGH);
    let spec = rig.device.spec();
    let beside = |part: PartitionId| partitions_beside(spec, part);
    let mut parts = spec.partitions.iter().map(|part| part.id);
    let half = parts.find(|&part| !beside(part).is_empty()).unwrap();
    let busy = beside(half);
    let options = LoadOptions {
        max_batch: 4,
        slots: slots_beside(busy.len()),
        ..LoadOptions::default()
    };
    let facts = FakeModel(Arc::new(model("m", 4)));
    rig.device.load(ModelId(0), &facts, &options).unwrap();
    let Rig { device, events, .. } = rig;
    let mut profiler = Profiler::new(Arc::new(device), events);
    let visit = Visit {
        model: ModelId(0),
        item: request(1, 4, 7),
        batch: 2,
        partition: half,
        busy,
        neighbour: None,
        warm_up: 1,
        legs: 3,
    };
    // One task runs in each of the others and one is committed, which is enqueued behind it.
    let times = profiler.visit(&visit, || true).unwrap();
    assert_eq!(times.len(), 3);
}

#[test]
fn legs_are_timed_beside_the_model_as_it_is() {
    let rig = Rig::new(ENOUGH);
    let spec = rig.device.spec();
    let beside = |part: PartitionId| partitions_beside(spec, part);
    let mut parts = spec.partitions.iter().map(|part| part.id);
    let half = parts.find(|&part| !beside(part).is_empty()).unwrap();
    let busy = beside(half);
    let load = |id, slots, cuts| {
        let options = LoadOptions {
            max_batch: 4,
            slots,
            cuts,
            ..LoadOptions::default()
        };
        let facts = FakeModel(Arc::new(net()));
        rig.device.load(ModelId(id), &facts, &options).unwrap().legs
    };
    assert_eq!(load(0, slots_beside(busy.len()), None), 1);
    assert_eq!(load(1, 1, Some(three())), 3);
    let item = request(1, 16, 7);
    let visit = Visit {
        model: ModelId(1),
        item: item.clone(),
        batch: 2,
        partition: half,
        busy,
        neighbour: Some(Neighbour {
            model: ModelId(0),
            item,
            batch: 1,
        }),
        warm_up: 1,
        legs: 2,
    };
    let Rig { device, events, .. } = rig;
    let mut profiler = Profiler::new(Arc::new(device), events);
    let tasks = profiler.visit_legs(&visit, 3, || true).unwrap();
    let legs: Vec<usize> = tasks.iter().map(Vec::len).collect();
    assert_eq!(legs, [3, 3]);
    // A leg that the model does not have ends the visit, and the slot is free for the next.
    assert!(profiler.visit_legs(&visit, 4, || true).is_err());
    assert_eq!(profiler.visit_legs(&visit, 3, || true).unwrap().len(), 2);
}

/// A visit of model 0, alone on the device.
fn alone() -> Visit {
    Visit {
        model: ModelId(0),
        item: request(1, 4, 7),
        batch: 2,
        partition: PartitionId(0),
        busy: Vec::new(),
        neighbour: None,
        warm_up: 1,
        legs: 3,
    }
}

#[test]
fn legs_are_timed_by_the_devices_events_and_by_the_hosts_clock_beside() {
    let rig = Rig::with(vec![model("m", 4)]);
    let Rig { device, events, .. } = rig;
    let mut profiler = Profiler::new(Arc::new(device), events);
    let times = profiler.visit(&alone(), || true).unwrap();
    assert_eq!(
        times,
        [Nanos::from_micros(100); 3],
        "what a run takes there"
    );
    // The host's clock goes on as it is looked at, a few times each leg.
    let by_host = profiler.by_host().to_vec();
    assert_eq!(by_host.len(), 3);
    let few = |time: &Nanos| *time > Nanos::ZERO && *time < Nanos::from_micros(50);
    assert!(by_host.iter().all(few), "{by_host:?}");
    let walk = Walk {
        model: ModelId(0),
        item: request(1, 4, 7),
        batch: 1,
        partition: PartitionId(0),
        legs: 1,
    };
    let walked = profiler.walk(&walk).unwrap();
    assert_eq!(walked.legs, [Nanos::from_micros(100)]);
    assert_eq!(walked.on_device, Some(Nanos::from_micros(100)));
    assert!(few(&walked.whole), "{:?}", walked.whole);
}

#[test]
fn legs_of_a_cut_model_have_each_its_own_time_of_the_device() {
    let rig = Rig::new(ENOUGH);
    let loaded = rig.load_cut(0, net(), Some(three())).unwrap();
    assert_eq!(loaded.legs, 3);
    let Rig { device, events, .. } = rig;
    let mut profiler = Profiler::new(Arc::new(device), events);
    let visit = Visit {
        item: request(1, 16, 7),
        ..alone()
    };
    let tasks = profiler.visit_legs(&visit, 3, || true).unwrap();
    assert_eq!(tasks, vec![vec![Nanos::from_micros(100); 3]; 3]);
    assert_eq!(profiler.by_host().len(), 9);
}

#[test]
fn a_device_that_does_not_tell_times_is_timed_by_the_hosts_clock() {
    let rig = Rig::with(vec![model("m", 4)]);
    for _ in 0..4 {
        rig.fake.fail("elapsed", FaultKind::Other, "not supported");
    }
    let Rig { device, events, .. } = rig;
    let mut profiler = Profiler::new(Arc::new(device), events);
    let times = profiler.visit(&alone(), || true).unwrap();
    assert_eq!(times, profiler.by_host());
    assert_eq!(times.len(), 3, "no leg failed");
}
