//! Measuring models while they are served: in idle gaps, within a share of the device.

mod common;

use common::{Log, MS, US, arrival, at, config, device, model, starts, world};
use fugato_core::driver::{RecordingHeader, Replay};
use fugato_core::profile::{GridPoint, ModelProfile};
use fugato_core::sched::{INPUT_VERSION, Input, ModelSpec, PolicySpec, SchedulerConfig, Start};
use fugato_core::sim::World;
use fugato_core::{BatchSize, ModelId, Nanos, Timestamp};
use std::collections::BTreeMap;

const SHARE: f64 = 0.05;

fn measuring(policy: PolicySpec) -> SchedulerConfig {
    SchedulerConfig {
        profile_share: SHARE,
        ..config(policy)
    }
}

/// Slices of each partition of [`device`]`(0, slices, _)`.
fn share_of(start: &Start, slices: u16) -> u64 {
    let spec = device(0, slices, 1);
    u64::from(spec.partitions[usize::from(start.partition.0)].share().0)
}

/// A batch of `b` takes 1 ms times b over the slices that help, of which there are 2.
fn service(start: &Start, slices: u16) -> u64 {
    u64::from(start.batch.0) * MS / share_of(start, slices).min(2)
}

/// A world of one device of four slices and one model, which is to be measured.
fn idle_world(config: SchedulerConfig, spec: ModelSpec) -> World {
    let mut world = world(config, vec![device(0, 4, 4)], |start| {
        Nanos::new(service(start, 4))
    });
    let model = spec.id;
    world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    world.push(Timestamp::ZERO, Input::ProfileWanted { model });
    world
}

fn run(world: &mut World) {
    let steps = (0..200_000).take_while(|_| world.step()).count();
    assert!(steps < 200_000, "the world does not come to rest");
}

fn medians(points: &[GridPoint]) -> BTreeMap<(u32, u16), Nanos> {
    let measured = points
        .iter()
        .filter_map(|point| Some((point, point.median_s?)));
    measured
        .map(|(point, median)| ((point.batch, point.share), Nanos::from_secs_f64(median)))
        .collect()
}

#[test]
fn an_idle_device_is_measured_within_the_share() {
    let mut world = idle_world(measuring(PolicySpec::Edf), model(0));
    run(&mut world);
    let expected = [
        ((1, 1), 1_000),
        ((1, 2), 500),
        ((1, 4), 500),
        ((2, 1), 2_000),
        ((2, 2), 1_000),
        ((2, 4), 1_000),
        ((4, 1), 4_000),
        ((4, 2), 2_000),
        ((4, 4), 2_000),
        ((8, 1), 8_000),
        ((8, 2), 4_000),
        ((8, 4), 4_000),
    ];
    let points = world.scheduler().measured_points(ModelId(0)).to_vec();
    let expected = expected.map(|(point, micros)| (point, Nanos::from_micros(micros)));
    assert_eq!(medians(&points), expected.into());
    let mut taken = 0;
    let mut begun = None;
    for (when, start) in starts(&mut world) {
        assert!(start.requests.is_empty());
        let begun = *begun.get_or_insert(when);
        let allowed = (when - begun) as f64 * SHARE;
        assert!(
            taken as f64 <= allowed + 1.0,
            "{taken} ns taken of {allowed} by {start:?}"
        );
        taken += service(&start, 4) * share_of(&start, 4) / 4;
    }
    let status = world
        .scheduler()
        .profile_status(ModelId(0))
        .expect("it is served");
    assert!(!status.measuring);
    assert_eq!(status.points, 12);
    assert_eq!(status.device_time, Nanos::new(taken));
    assert!(status.standing.is_some(), "what was measured is put to use");
}

#[test]
fn nothing_is_measured_where_it_is_off_or_known_or_drained() {
    let off = SchedulerConfig {
        profile_share: 0.0,
        ..measuring(PolicySpec::Edf)
    };
    let mut world = idle_world(off, model(0));
    run(&mut world);
    assert!(starts(&mut world).is_empty());
    let mut world = idle_world(measuring(PolicySpec::Edf), model(0));
    let mut profile = ModelProfile::new("model", "hash", 8);
    profile.grid = vec![GridPoint {
        batch: 1,
        share: 4,
        neighbours: 0,
        median_s: Some(1e-3),
        p95_s: Some(1e-3),
        low_s: Some(1e-3),
        high_s: Some(1e-3),
        repeats: 1,
        failed: None,
    }];
    let given = Input::ProfileGiven {
        model: ModelId(0),
        profile: Box::new(profile),
    };
    world.push(Timestamp::ZERO, given);
    run(&mut world);
    assert!(starts(&mut world).is_empty());
    let status = world.scheduler().profile_status(ModelId(0));
    assert!(status.is_some_and(|status| status.standing.is_some()));
    let mut world = idle_world(measuring(PolicySpec::Edf), model(0));
    world.push(Timestamp::ZERO, Input::Drain);
    run(&mut world);
    assert!(starts(&mut world).is_empty());
}

#[test]
fn a_request_never_waits_for_more_than_a_quarter_of_the_shortest_objective() {
    let spec = ModelSpec {
        slo: Some(Nanos::from_millis(12)),
        ..model(0)
    };
    let mut world = idle_world(measuring(PolicySpec::Edf), spec);
    run(&mut world);
    for (_, start) in starts(&mut world) {
        assert!(service(&start, 4) <= 3 * MS, "{start:?}");
    }
    let points = world.scheduler().measured_points(ModelId(0));
    let refused = points.iter().filter(|point| point.failed.is_some());
    let places: Vec<_> = refused.map(|point| (point.batch, point.share)).collect();
    assert_eq!(places, [(4, 1), (8, 4)], "the second ends it");
    let reason = points.last().and_then(|point| point.failed.as_deref());
    let reason = reason.expect("it was refused");
    assert!(
        reason.contains("4.00 ms") && reason.contains("3.00 ms"),
        "{reason}"
    );
}

/// Requests every `gap`, from the start; gives the world at rest.
fn loaded_world(policy: PolicySpec, gap: u64, requests: u64) -> World {
    let mut world = idle_world(measuring(policy), model(0));
    for request in 0..requests {
        let when = request * gap;
        world.push(at(when), Input::Arrived(arrival(request, 0, when)));
    }
    run(&mut world);
    world
}

#[test]
fn a_busy_device_is_not_measured() {
    // Half of the time is idle, in gaps that are shorter than any run to measure.
    let mut world = loaded_world(PolicySpec::Edf, MS - 1, 2_000);
    let last = (2_000 - 1) * (MS - 1);
    let early: Vec<_> = starts(&mut world)
        .into_iter()
        .filter(|(when, start)| *when <= last && start.requests.is_empty())
        .collect();
    assert!(early.len() < 10, "{} runs between requests", early.len());
    assert!(
        !world.scheduler().measured_points(ModelId(0)).is_empty(),
        "later it is"
    );
}

#[test]
fn what_requests_run_beside_is_not_taken_for_the_time_alone() {
    let policy = PolicySpec::Uncontrolled {
        lanes: 4,
        share: None,
    };
    let world = loaded_world(policy, 3_700 * US, 20_000);
    let measured = medians(world.scheduler().measured_points(ModelId(0)));
    let alone = |&(batch, share): &(u32, u16)| {
        Nanos::from_millis(u64::from(batch)).scaled(1, u64::from(share.min(2)))
    };
    assert!(measured.len() >= 12);
    for (point, median) in &measured {
        assert_eq!(*median, alone(point), "{point:?}");
    }
}

/// What was measured when the server stopped is used, and the rest is measured.
#[test]
fn a_profile_that_is_unfinished_is_finished() {
    let whole = {
        let mut world = idle_world(measuring(PolicySpec::Edf), model(0));
        run(&mut world);
        world.scheduler().measured_points(ModelId(0)).to_vec()
    };
    for unfinished in [false, true] {
        let mut world = world(measuring(PolicySpec::Edf), vec![device(0, 4, 1)], |start| {
            Nanos::new(service(start, 4))
        });
        world.push(Timestamp::ZERO, Input::ModelAdded(model(0)));
        let mut profile = ModelProfile::new("m", "", 8);
        profile.sparse = true;
        profile.unfinished = unfinished;
        profile.grid = whole[..3].to_vec();
        let (model, profile) = (ModelId(0), Box::new(profile));
        world.push(Timestamp::ZERO, Input::ProfileGiven { model, profile });
        world.push(Timestamp::ZERO, Input::ProfileWanted { model });
        run(&mut world);
        let measured = world.scheduler().measured_points(model).len();
        assert_eq!(measured, if unfinished { whole.len() } else { 0 });
    }
}

/// A model whose times leave its profile's band while its last requests run.
#[test]
fn a_model_that_drifts_while_it_is_removed_is_let_go() {
    let mut world = world(measuring(PolicySpec::Edf), vec![device(0, 4, 1)], |start| {
        Nanos::new(5 * service(start, 4))
    });
    let mut profile = ModelProfile::new("m", "", 1);
    profile.sparse = true;
    profile.grid = {
        let mut world = idle_world(measuring(PolicySpec::Edf), model(0));
        run(&mut world);
        world.scheduler().measured_points(ModelId(0)).to_vec()
    };
    let spec = ModelSpec {
        max_batch: BatchSize(1),
        ..model(0)
    };
    let (model, profile) = (ModelId(0), Box::new(profile));
    world.push(Timestamp::ZERO, Input::ModelAdded(spec));
    world.push(Timestamp::ZERO, Input::ProfileWanted { model });
    world.push(Timestamp::ZERO, Input::ProfileGiven { model, profile });
    for request in 0..100 {
        world.push_arrival(arrival(request, 0, MS));
    }
    world.push(at(2 * MS), Input::ModelRemoved { model });
    run(&mut world);
    assert_eq!(world.scheduler().profile_status(model), None);
    assert_eq!(world.scheduler().requests_open(), 0);
}

#[test]
fn a_model_that_drifts_is_measured_anew() {
    let slowed = 400_000 * MS;
    let mut now = 0;
    let world = world(
        measuring(PolicySpec::Edf),
        vec![device(0, 4, 4)],
        move |start| {
            now = now.max(start.not_before.as_nanos());
            let factor = if now >= slowed { 2 } else { 1 };
            Nanos::new(factor * service(start, 4))
        },
    );
    let log = Log::default();
    let mut world = world.recording(Box::new(log.clone()));
    let model_id = ModelId(0);
    world.push(Timestamp::ZERO, Input::ModelAdded(model(0)));
    world.push(Timestamp::ZERO, Input::ProfileWanted { model: model_id });
    for request in 0..8_000 {
        let when = request * 100 * MS;
        world.push(at(when), Input::Arrived(arrival(request, 0, when)));
    }
    run(&mut world);
    let points = world.scheduler().measured_points(model_id).to_vec();
    assert_eq!(
        medians(&points)[&(8, 4)],
        Nanos::from_millis(8),
        "as it is after it slowed"
    );
    let status = world
        .scheduler()
        .profile_status(model_id)
        .expect("it is served");
    let standing = status.standing.expect("it has a profile");
    assert!(!standing.drifted && !status.measuring, "{standing:?}");
    // All of it is in the recording.
    let header = RecordingHeader {
        input_version: INPUT_VERSION,
        program: "test".to_owned(),
        config: measuring(PolicySpec::Edf),
    };
    let mut replay = Replay::new(&header).expect("the version is this program's");
    for inputs in log.read() {
        replay.feed(inputs);
    }
    assert_eq!(replay.footer().action_hash, world.scheduler().action_hash());
}

#[test]
fn models_take_turns_and_may_leave() {
    let mut world = idle_world(measuring(PolicySpec::Edf), model(0));
    let other = ModelSpec {
        max_batch: BatchSize(2),
        ..model(1)
    };
    let model = other.id;
    world.push(Timestamp::ZERO, Input::ModelAdded(other));
    world.push(Timestamp::ZERO, Input::ProfileWanted { model });
    world.push(at(500 * MS), Input::ModelRemoved { model: ModelId(0) });
    run(&mut world);
    let starts = starts(&mut world);
    let early = starts.iter().take(10).map(|(_, start)| start.model.0);
    assert_eq!(early.collect::<Vec<_>>(), [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]);
    assert!(world.scheduler().measured_points(ModelId(0)).is_empty());
    assert_eq!(world.scheduler().measured_points(model).len(), 6);
}
