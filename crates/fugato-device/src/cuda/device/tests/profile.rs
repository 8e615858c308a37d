//! The device under the profiler.

use super::*;
use crate::profiler::{Profiler, Visit, partitions_beside, slots_beside};

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
