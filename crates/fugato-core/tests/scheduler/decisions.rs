//! What each policy decides in two small scenarios, one that all is served in and one of
//! overload and a lost device, written down in `decisions/`.
//!
//! `FUGATO_BLESS=1 cargo test -p fugato-core --test scheduler decisions` writes the files
//! anew; read the difference before it is committed.

use crate::common::{MS, US, arrival, at, config, model};
use crate::harness::{Event, Harness};
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::profile::{GridPoint, Knee, LegProfile, ModelProfile};
use fugato_core::sched::{
    Action, Arrival, DynamicBatching, Input, ModelSpec, Outcome, PolicySpec, QueueLimits,
    SchedulerConfig,
};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, Share};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Items that a model's run takes per slice: 1 ms and 0.5 ms per item on one slice, up to
/// its knee.
const KNEES: [u16; 3] = [1, 2, 4];

fn run(model: ModelId, batch: BatchSize, share: Share) -> Nanos {
    let knee = KNEES[model.0 as usize];
    let one = Nanos::from_micros(1_000 + 500 * u64::from(batch.0)).times(u64::from(knee));
    one.scaled(1, u64::from(share.0.min(knee)))
}

/// The profile of a model cut into so many equal legs.
fn profile(id: u32, legs: u16) -> ModelProfile {
    let mut profile = ModelProfile::new(format!("model-{id}"), "hash", 4);
    let knee = Some(KNEES[id as usize]);
    profile.knee = Knee {
        tolerance: knee,
        ..Knee::default()
    };
    for (batch, share) in [1, 2, 4]
        .into_iter()
        .flat_map(|b| (1..=4).map(move |s| (b, s)))
    {
        let median_s = run(ModelId(id), BatchSize(batch), Share(share)).as_secs_f64();
        profile.grid.push(GridPoint {
            batch,
            share,
            neighbours: 0,
            median_s: Some(median_s),
            p95_s: Some(median_s),
            low_s: None,
            high_s: None,
            repeats: 9,
            failed: None,
        });
    }
    if legs > 1 {
        let mut leg = LegProfile {
            assumed: false,
            knee: profile.knee,
            fit: None,
            grid: profile.grid.clone(),
        };
        for point in &mut leg.grid {
            let part = |time: Option<f64>| time.map(|time| time / f64::from(legs));
            (point.median_s, point.p95_s) = (part(point.median_s), part(point.p95_s));
        }
        profile.legs = vec![leg; usize::from(legs)];
    }
    profile
}

/// What two worlds differ in.
struct World {
    /// The shortest objective; the other two are twice and four times as long.
    slo_ms: u64,
    /// Of each model.
    limits: QueueLimits,
    /// What runs take, in tenths of what their profile says.
    tenths: u64,
}

/// Three models with knees of 1, 2 and 4 of four slices on one device; nothing asked yet.
fn served(policy: PolicySpec, legs: u16, world: World) -> Harness {
    let World {
        slo_ms,
        limits,
        tenths,
    } = world;
    let lanes = [LaneClass::Normal; 3];
    let device = DeviceSpec::ranges(DeviceId(0), "sim", Share(4), Share(1), &lanes, &lanes[..1]);
    let settings = SchedulerConfig {
        commit_lead: Nanos::from_micros(300),
        ..config(policy)
    };
    let shares: Vec<Share> = device.partitions.iter().map(|part| part.share()).collect();
    let mut world = Harness::new(settings, vec![device], move |start| {
        let share = shares[usize::from(start.partition.0)];
        run(start.model, start.batch, share).scaled(tenths, 10 * u64::from(legs))
    });
    for id in 0..3 {
        let spec = ModelSpec {
            slo: Some(Nanos::from_millis(slo_ms << id)),
            max_batch: BatchSize(4),
            limits,
            legs,
            batching: DynamicBatching {
                max_queue_delay: Nanos::from_millis(1),
                ..DynamicBatching::default()
            },
            ..model(id)
        };
        world.input(at(0), Input::ModelAdded(spec));
        let profile = Box::new(profile(id, legs));
        world.input(
            at(0),
            Input::ProfileGiven {
                model: ModelId(id),
                profile,
            },
        );
    }
    world
}

/// A burst that the device works off in about 40 ms, objectives of 25, 50 and 100 ms.
fn served_scenario(policy: PolicySpec, legs: u16) -> Harness {
    let world = World {
        slo_ms: 25,
        limits: model(0).limits,
        tenths: 10,
    };
    let mut world = served(policy, legs, world);
    for request in 0..15 {
        world.arrival(arrival(
            request,
            (request % 3) as u32,
            MS + request * 700 * US,
        ));
    }
    world
}

/// Queues of six, objectives of 5, 10 and 20 ms, runs that take three tenths longer than their
/// profile says, and a request each 0.2 ms, every seventh of which waits for 1 ms at most: more
/// than the device holds. From 5 to 7 ms it is lost.
fn overloaded_scenario(policy: PolicySpec, legs: u16) -> Harness {
    let limits = QueueLimits {
        requests: 6,
        ..model(0).limits
    };
    let world = World {
        slo_ms: 5,
        limits,
        tenths: 13,
    };
    let mut world = served(policy, legs, world);
    let mut lost = [
        (5, Event::Lose(DeviceId(0))),
        (7, Event::Return(DeviceId(0))),
    ]
    .into_iter()
    .peekable();
    for request in 0..50 {
        let received = MS + request * 200 * US;
        let patience = (request % 7 == 3).then(|| at(received + MS));
        while let Some((ms, event)) = lost.next_if(|(ms, _)| ms * MS <= received) {
            world.push(at(ms * MS), event);
        }
        world.arrival(Arrival {
            queue_timeout: patience,
            ..arrival(request, (request % 3) as u32, received)
        });
    }
    world
}

fn written(world: &mut Harness) -> String {
    world.run(10_000);
    let mut text = String::new();
    for (when, action) in &world.actions {
        let ms = when.as_nanos() as f64 / 1e6;
        match action {
            Action::Start(start) => {
                let requests: Vec<u64> = start.requests.iter().map(|id| id.0).collect();
                let (model, part) = (start.model.0, start.partition.0);
                let lane = start.lane.0;
                let leg = match start.leg.0 {
                    _ if start.unsplit => ", unsplit".to_owned(),
                    0 => String::new(),
                    leg => format!(", leg {leg}"),
                };
                writeln!(
                    text,
                    "{ms:>8.3} run  model {model}{leg} on {part}.{lane}: {requests:?}"
                )
            }
            Action::Revoke { task, .. } => writeln!(text, "{ms:>8.3} take back {task}"),
            Action::Finish { request, outcome } => {
                writeln!(text, "{ms:>8.3} end  {request}: {outcome:?}")
            }
            Action::ModelDrained { model } => writeln!(text, "{ms:>8.3} drained {model}"),
        }
        .expect("a string takes all");
    }
    text
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "whether the files are written is the caller's choice"
)]
fn decisions_are_as_written_down() {
    let bless = std::env::var("FUGATO_BLESS").is_ok();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scheduler/decisions");
    let mut differing = Vec::new();
    for (file, mut world) in worlds() {
        let found = written(&mut world);
        let path = folder.join(&file);
        if bless {
            fs::write(&path, found).expect("the folder is writable");
        } else if fs::read_to_string(&path).unwrap_or_default() != found {
            differing.push(format!("{file}:\n{found}"));
        }
    }
    assert!(
        differing.is_empty(),
        "other decisions than in `tests/scheduler/decisions`; if they are meant, write them by\n    \
         FUGATO_BLESS=1 cargo test -p fugato-core --test scheduler decisions\n{}",
        differing.join("\n")
    );
}

/// Every file with the world that it is of.
fn worlds() -> impl Iterator<Item = (String, Harness)> {
    let policy = |name: &str| PolicySpec::named(name).expect("a policy of its name");
    let whole = PolicySpec::NAMES.map(|name| (name, 1));
    let in_legs = ["edf-legs", "fugato"].map(|name| (name, 3));
    let both = whole.into_iter().chain(in_legs);
    both.flat_map(move |(name, legs)| {
        let stem = match legs {
            1 => name.to_owned(),
            legs => format!("{name}-in-{legs}"),
        };
        [
            (format!("{stem}.txt"), served_scenario(policy(name), legs)),
            (
                format!("{stem}-overloaded.txt"),
                overloaded_scenario(policy(name), legs),
            ),
        ]
    })
}

#[test]
fn under_overload_requests_end_in_each_way() {
    for (file, mut world) in worlds() {
        if !file.ends_with("-overloaded.txt") {
            continue;
        }
        world.run(10_000);
        assert_eq!(world.outcomes().len(), 50, "{file}: all end");
        let ends = [
            world.count(|end| matches!(end, Outcome::Completed)),
            world.count(|end| matches!(end, Outcome::Rejected(_))),
            world.count(|end| matches!(end, Outcome::Dropped(_))),
            world.count(|end| matches!(end, Outcome::Failed(_))),
        ];
        assert!(
            ends.iter().all(|&count| count > 0),
            "{file}: {ends:?} are completed, rejected, dropped and failed"
        );
    }
}
