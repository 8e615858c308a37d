//! The trace is read back as a viewer would.

use super::*;
use fugato_core::device::{AtomSet, LaneClass};
use fugato_core::{BatchSize, LaneId, LegIndex, PartitionId, Share, TaskId};
use serde_json::Value;

pub(crate) fn device(id: u16, slices: u16) -> DeviceSpec {
    let lanes = [LaneClass::Normal];
    DeviceSpec::nested(
        DeviceId(id),
        "a \"small\" one",
        Share(slices),
        &lanes,
        &lanes,
    )
}

/// A leg of `model` on the atoms `first .. first + share` of device 0.
pub(crate) fn leg(model: u32, (first, share): (u16, u16), (from, to): (u64, u64)) -> TimelineLeg {
    TimelineLeg {
        device: DeviceId(0),
        partition: PartitionId(first),
        atoms: AtomSet::range(first, share),
        lane: LaneId(0),
        model: ModelId(model),
        task: TaskId(from),
        leg: LegIndex(0),
        unsplit: false,
        batch: BatchSize(u32::from(share) * 2),
        share: Share(share),
        started: Timestamp::from_nanos(from),
        ended: Timestamp::from_nanos(to),
        predicted: Some(Nanos::new(1_500)),
    }
}

/// Legs as an exclusive policy would run them: a slice is taken again the moment it falls
/// free, and never before.
pub(crate) fn exclusive(slices: u16, count: u64) -> Vec<TimelineLeg> {
    let mut free = vec![0_u64; usize::from(slices)];
    let mut state = 11_u64;
    let mut draw = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut legs = Vec::new();
    for _ in 0..count {
        let share = 1 << draw(3);
        let first = draw(u64::from(slices) / share) * share;
        let (first, share) = (first as u16, share as u16);
        let atoms = usize::from(first)..usize::from(first + share);
        let from = free[atoms.clone()].iter().max().copied().unwrap_or(0);
        let to = from + 1_001 + draw(5_000) * u64::from(share);
        free[atoms].fill(to);
        legs.push(leg(draw(4) as u32, (first, share), (from, to)));
    }
    legs
}

fn trace(scene: &Scene<'_>) -> Vec<Value> {
    let mut out = Vec::new();
    write_trace(scene, &mut out).expect("written to memory");
    let file: Value = serde_json::from_slice(&out).expect("JSON");
    let events = file["traceEvents"].as_array().expect("a list");
    events.clone()
}

fn scene<'a>(
    devices: &'a [DeviceSpec],
    models: &'a BTreeMap<ModelId, String>,
    legs: &'a [TimelineLeg],
) -> Scene<'a> {
    Scene {
        simulated: true,
        what: "test",
        devices,
        models,
        legs,
        lost: 0,
    }
}

fn nanos(value: &Value) -> u64 {
    (value.as_f64().expect("a number") * 1e3).round() as u64
}

/// By thread, the spans in order of their starts.
fn tracks(events: &[Value]) -> BTreeMap<u64, Vec<(u64, u64)>> {
    let mut tracks: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let from = nanos(&event["ts"]);
        let span = (from, from + nanos(&event["dur"]));
        let tid = event["tid"].as_u64().expect("a thread");
        tracks.entry(tid).or_default().push(span);
    }
    for spans in tracks.values_mut() {
        spans.sort_unstable();
    }
    tracks
}

fn names(events: &[Value], what: &str) -> Vec<String> {
    let named = events.iter().filter(|event| event["name"] == what);
    named
        .map(|event| event["args"]["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn apart(spans: &[(u64, u64)]) -> bool {
    spans.windows(2).all(|pair| pair[0].1 <= pair[1].0)
}

#[test]
fn exclusive_legs_lie_one_after_another_on_every_slice_they_had() {
    let (devices, models) = ([device(0, 8)], BTreeMap::new());
    let legs = exclusive(8, 500);
    let events = trace(&scene(&devices, &models, &legs));
    let tracks = tracks(&events);
    assert_eq!(tracks.len(), 8, "one thread for each slice");
    assert!(tracks.values().all(|spans| apart(spans)));
    let spans: usize = tracks.values().map(Vec::len).sum();
    let shares: usize = legs.iter().map(|leg| usize::from(leg.share.0)).sum();
    assert_eq!(spans, shares, "a leg of k slices is on k threads");
    // Times are whole nanoseconds, and none is lost on the way.
    let busy: u64 = tracks.values().flatten().map(|(from, to)| to - from).sum();
    let had = legs
        .iter()
        .map(|leg| leg.length().as_nanos() * u64::from(leg.share.0));
    assert_eq!(busy, had.sum::<u64>());
}

#[test]
fn legs_at_once_on_one_slice_get_threads_of_their_own() {
    let (devices, models) = ([device(0, 2)], BTreeMap::new());
    let legs = [
        leg(0, (0, 2), (0, 10_000)),
        leg(1, (0, 1), (5_000, 15_000)),
        leg(2, (1, 1), (10_000, 20_000)),
    ];
    let events = trace(&scene(&devices, &models, &legs));
    let tracks = tracks(&events);
    assert!(tracks.values().all(|spans| apart(spans)));
    let threads = names(&events, "thread_name");
    assert_eq!(threads, ["slice 0", "slice 1", "slice 0, beside (1)"]);
    assert_eq!(tracks.len(), 3);
}

#[test]
fn devices_and_models_are_named_and_every_event_is_of_the_format() {
    let devices = [device(0, 4), device(1, 4)];
    let models = BTreeMap::from([(ModelId(0), "resnet \"50\" </script>".to_owned())]);
    let mut legs = vec![leg(0, (0, 2), (0, 1_000)), leg(7, (2, 2), (0, 1_000))];
    legs[1].device = DeviceId(1);
    legs[1].predicted = None;
    let events = trace(&scene(&devices, &models, &legs));
    let processes = names(&events, "process_name");
    assert_eq!(processes[0], "device 0: a \"small\" one (simulated)");
    assert_eq!(
        (processes.len(), names(&events, "thread_name").len()),
        (2, 8)
    );
    for event in &events {
        assert!(event["pid"].is_u64() && event["name"].is_string());
        match event["ph"].as_str() {
            Some("M") => assert!(event["args"].is_object()),
            Some("X") => assert!(event["ts"].is_number() && event["dur"].is_number()),
            other => panic!("phase {other:?}"),
        }
    }
    let of = |name: &str| {
        let found = events
            .iter()
            .find(|event| event["ph"] == "X" && event["name"] == name);
        found.expect(name).clone()
    };
    let known = of("resnet \"50\" </script>");
    assert_eq!(known["args"]["batch"], 4);
    assert_eq!(known["args"]["predicted_us"], 1.5);
    assert_eq!(known["args"]["actual_us"], 1.0);
    let unknown = of("model 7");
    assert_eq!(
        (&unknown["pid"], &unknown["args"]["predicted_us"]),
        (&2.into(), &Value::Null)
    );
}

#[test]
fn a_task_that_ran_in_one_go_is_named_so() {
    let (devices, models) = (
        [device(0, 2)],
        BTreeMap::from([(ModelId(0), "resnet50".to_owned())]),
    );
    let mut legs = [leg(0, (0, 1), (0, 1_000)), leg(0, (1, 1), (0, 1_000))];
    // As the scheduler has it: with the number of its last leg.
    (legs[1].leg, legs[1].unsplit) = (LegIndex(21), true);
    let events = trace(&scene(&devices, &models, &legs));
    let shown: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    let names: Vec<&Value> = shown.iter().map(|event| &event["name"]).collect();
    assert_eq!(names, ["resnet50", "resnet50 in one go"]);
    let [in_legs, unsplit] = [0, 1].map(|place: usize| &shown[place]["args"]);
    assert_eq!(in_legs["unsplit"], Value::Null);
    assert_eq!(unsplit["unsplit"], Value::Bool(true));
    assert_eq!(unsplit["model"], "resnet50", "the model is what it was");
}

#[test]
fn nothing_that_ran_is_a_valid_trace() {
    let events = trace(&scene(&[], &BTreeMap::new(), &[]));
    assert!(events.is_empty());
}
