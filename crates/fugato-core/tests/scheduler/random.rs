//! Random worlds, one per seed: policies, devices, models and what happens to them.
//!
//! `FUGATO_SEEDS=N` runs seeds 0 to N - 1, `FUGATO_SEED=N` that one alone. What a seed takes is
//! held and, with `-- --nocapture`, told.

use crate::common::{MS, US, arrival, at, config, device, model};
use crate::harness::{Event, Harness, Random};
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::profile::{GridPoint, Knee, ModelProfile};
use fugato_core::sched::{
    Arrival, DeadlineMode, DynamicBatching, Input, ModelSpec, Overdue, PolicySpec, QueueLimits,
    SchedulerConfig,
};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, RequestId, ShapeClass, Share};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Seeds of a run without `FUGATO_SEEDS`.
const SEEDS: u64 = 10_000;

/// What a seed may take on the mean of a sweep, on a processor: worlds that are larger would
/// make it a wait to run them. Fifteen times what it takes on an idle machine of two
/// cores, five times what it takes where another fills the cores: so only larger worlds or a
/// slower scheduler can break it, and no slow machine.
const SEED_MAX: Duration = Duration::from_millis(10);

/// What any one seed may take, on a processor. Single worlds are larger than the mean: of 10,000
/// seeds on that busy machine the largest took 24 to 32 ms, so no more than the mean can be
/// held to 10 ms. Three times the largest, as a world that makes the scheduler go in circles
/// takes far more.
const WORST_MAX: Duration = Duration::from_millis(100);

/// The time that this thread was on a processor, which others cannot lengthen; `None` where the
/// system does not tell.
fn on_processor() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = told.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// What the seeds of a sweep took on a processor.
#[derive(Debug, Default)]
struct Times {
    seeds: u32,
    total: Duration,
    /// The longest, and its seed.
    worst: (Duration, u64),
}

impl Times {
    fn add(&mut self, seed: u64, took: Duration) {
        self.seeds += 1;
        self.total += took;
        self.worst = self.worst.max((took, seed));
    }

    /// Holds the mean and the longest time, and tells them.
    #[expect(
        clippy::print_stderr,
        reason = "who runs many seeds asks what they take"
    )]
    fn hold(&self) {
        let mean = self.total / self.seeds.max(1);
        let (worst, seed) = self.worst;
        eprintln!(
            "{} seeds of {mean:?} each on the mean; {worst:?} at most, seed {seed}",
            self.seeds
        );
        assert!(
            mean <= SEED_MAX,
            "a seed takes {mean:?}, expected at most {SEED_MAX:?}"
        );
        assert!(
            worst <= WORST_MAX,
            "seed {seed} takes {worst:?}, expected at most {WORST_MAX:?}"
        );
    }
}

/// A number from the environment.
#[expect(
    clippy::disallowed_methods,
    reason = "which seeds run is the caller's choice; each seed alone decides its world"
)]
fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is `{value}`, expected a number")))
}

/// Runs every `step`-th seed from `first` on.
fn sweep(first: u64, step: u64) {
    if let Some(seed) = number("FUGATO_SEED") {
        if seed % step == first {
            run(seed);
        }
        return;
    }
    let seeds = first..number("FUGATO_SEEDS").unwrap_or(SEEDS);
    let mut times = Times::default();
    for seed in seeds.step_by(usize::try_from(step).expect("a small step")) {
        let begun = on_processor();
        let passed = catch_unwind(AssertUnwindSafe(|| run(seed))).is_ok();
        assert!(
            passed,
            "seed {seed} fails; run it alone by\n    \
             FUGATO_SEED={seed} cargo test -p fugato-core --test scheduler seeds"
        );
        if let Some((begun, ended)) = begun.zip(on_processor()) {
            times.add(seed, ended.saturating_sub(begun));
        }
    }
    times.hold();
}

#[test]
fn even_seeds_keep_the_contract() {
    sweep(0, 2);
}

#[test]
fn odd_seeds_keep_the_contract() {
    sweep(1, 2);
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let mut world = build(&mut random);
    world.run(20_000);
    assert!(
        world.reference.is_idle(),
        "something is left: {:?}",
        world.reference
    );
    assert_eq!(world.scheduler.requests_open(), 0);
}

fn policy(random: &mut Random) -> PolicySpec {
    let names = PolicySpec::NAMES;
    let name = names[random.below(names.len() as u64) as usize];
    let mut policy = PolicySpec::named(name).expect("a policy of its name");
    if let PolicySpec::Uncontrolled { lanes, share } = &mut policy {
        *lanes = 1 + random.below(4) as u16;
        *share = random.chance(50).then_some(Share(1));
    }
    policy
}

fn settings(random: &mut Random) -> SchedulerConfig {
    let enforce = random.chance(70);
    SchedulerConfig {
        deadlines: if enforce {
            DeadlineMode::Enforce
        } else {
            DeadlineMode::Observe
        },
        commit_lead: Nanos::new(random.below(600) * US),
        limits: QueueLimits {
            requests: 10 + random.below(60),
            bytes: 500 + random.below(5_000),
        },
        verdicts_max: 1 + random.below(300) as u32,
        decisions: 64,
        profile_share: [0.0, 0.0, 0.05, 1.0][random.below(4) as usize],
        ..config(policy(random))
    }
}

fn hardware(random: &mut Random, id: u16) -> DeviceSpec {
    let (slices, lanes) = (1 + random.below(6) as u16, 1 + random.below(4) as usize);
    if random.chance(50) {
        return device(id, slices, lanes);
    }
    let mut whole = vec![LaneClass::Normal; lanes];
    let mut part = vec![LaneClass::Normal; 1 + lanes % 2];
    if random.chance(50) {
        whole.push(LaneClass::Urgent);
        part.push(LaneClass::Urgent);
    }
    let (id, slices) = (DeviceId(id), Share(slices));
    DeviceSpec::ranges(id, "sim", slices, Share(1), &whole, &part)
}

fn served(random: &mut Random, id: u32, devices: u64) -> ModelSpec {
    let max_batch = 1 + random.below(8) as u32;
    let hosts = 1 + random.below((1 << devices) - 1);
    let hosts = (0..2).filter(|device| hosts >> device & 1 == 1);
    let preferred = random.chance(50).then(|| BatchSize(max_batch.div_ceil(2)));
    ModelSpec {
        slo: random
            .chance(70)
            .then(|| Nanos::from_millis(2 + random.below(40))),
        weight: [0.5, 1.0, 4.0][random.below(3) as usize],
        max_batch: BatchSize(max_batch),
        slots: 1 + random.below(3) as u16,
        legs: if random.chance(60) {
            1
        } else {
            1 + random.below(3) as u16
        },
        unsplit: random.chance(50),
        devices: hosts.map(DeviceId).collect(),
        limits: QueueLimits {
            requests: 5 + random.below(40),
            bytes: 4_000,
        },
        batching: DynamicBatching {
            instances: 1 + random.below(2) as u16,
            preferred: preferred.into_iter().collect(),
            max_queue_delay: Nanos::new(random.below(800) * US),
        },
        ..model(id)
    }
}

/// A run in nanoseconds: (0.2 + 0.1 x items) ms, times the model's number + 1, on one slice.
fn service(model: ModelId, batch: BatchSize) -> u64 {
    (2 + u64::from(batch.0)) * 100 * US * u64::from(model.0 + 1)
}

/// A profile that is right, or wrong by a factor.
fn profile(random: &mut Random, spec: &ModelSpec) -> ModelProfile {
    let factor = [0.2, 1.0, 1.0, 1.0, 5.0][random.below(5) as usize];
    let knee = 1 + random.below(8) as u16;
    let mut profile = ModelProfile::new(spec.name.clone(), "hash", spec.max_batch.0);
    profile.knee = Knee {
        tolerance: Some(knee),
        ..Knee::default()
    };
    let mut batches = vec![1, spec.max_batch.0.div_ceil(2), spec.max_batch.0];
    batches.dedup();
    for batch in batches {
        for share in 1..=8_u16 {
            let alone = service(spec.id, BatchSize(batch)) as f64 * 1e-9 * factor;
            let median_s = alone / f64::from(share.min(knee));
            profile.grid.push(GridPoint {
                batch,
                share,
                neighbours: 0,
                median_s: Some(median_s),
                p95_s: Some(1.1 * median_s),
                low_s: None,
                high_s: None,
                repeats: 5,
                failed: None,
            });
        }
    }
    profile
}

fn request(random: &mut Random, id: u64, spec: &ModelSpec, now: u64) -> Arrival {
    // One in some is larger than any batch may be.
    let items = 1 + random.below(u64::from(spec.max_batch.0) + 1) as u32;
    let overdue = if random.chance(50) {
        Overdue::Drop
    } else {
        Overdue::Delay
    };
    Arrival {
        items: BatchSize(items),
        bytes: 1 + random.below(200),
        class: ShapeClass(u32::from(random.chance(20))),
        deadline: random.chance(15).then(|| at(now + random.below(20 * MS))),
        queue_timeout: random.chance(10).then(|| at(now + random.below(5 * MS))),
        overdue,
        priority: [0, 0, 0, 1, 2][random.below(5) as usize],
        ..arrival(id, spec.id.0, now)
    }
}

fn build(random: &mut Random) -> Harness {
    let count = 1 + random.below(2);
    let devices: Vec<DeviceSpec> = (0..count).map(|id| hardware(random, id as u16)).collect();
    let models = 1 + random.below(4) as u32;
    let models: Vec<ModelSpec> = (0..models).map(|id| served(random, id, count)).collect();
    let mut noise = Random(random.next());
    let settings = settings(random);
    let mut world = Harness::new(settings, devices, move |start| {
        Nanos::new(service(start.model, start.batch) * (50 + noise.below(150)) / 100)
    })
    .unruly(Random(random.next()));
    for spec in &models {
        world.input(at(0), Input::ModelAdded(spec.clone()));
        if spec.legs == 1 && random.chance(50) {
            let profile = Box::new(profile(random, spec));
            world.input(
                at(0),
                Input::ProfileGiven {
                    model: spec.id,
                    profile,
                },
            );
        }
        if random.chance(30) {
            world.input(at(0), Input::ProfileWanted { model: spec.id });
        }
    }
    let mut events = Vec::new();
    let (mut now, mut next) = (0, 0);
    // How close requests come: from overload to calm.
    let gap = [20 * US, 200 * US, MS, 5 * MS][random.below(4) as usize];
    for _ in 0..10 + random.below(100) {
        now += if random.chance(30) {
            0
        } else {
            random.below(2 * gap)
        };
        happen(random, &models, count, (now, &mut next), &mut events);
    }
    let end = now + 200 * MS;
    events.sort_by_key(|(at, _)| *at);
    for (when, event) in events {
        world.push(at(when), event);
    }
    for device in 0..count as u16 {
        world.push(at(end), Event::Return(DeviceId(device)));
    }
    world
}

/// One thing that happens at `now`; some are followed by others.
fn happen(
    random: &mut Random,
    models: &[ModelSpec],
    devices: u64,
    (now, next): (u64, &mut u64),
    events: &mut Vec<(u64, Event)>,
) {
    let spec = &models[random.below(models.len() as u64) as usize];
    let device = DeviceId(random.below(devices) as u16);
    let event = match random.below(100) {
        0..=74 => {
            *next += 1;
            Event::Input(Input::Arrived(request(random, *next - 1, spec, now)))
        }
        75..=84 => Event::Input(Input::Cancelled {
            request: RequestId(random.below(*next + 1)),
        }),
        85..=86 => Event::Input(Input::PolicyChanged(policy(random))),
        87 => {
            let enforce = random.chance(50);
            let mode = if enforce {
                DeadlineMode::Enforce
            } else {
                DeadlineMode::Observe
            };
            Event::Input(Input::DeadlinesChanged(mode))
        }
        // The first model stays as it is, so that it may be removed.
        88..=90 if spec.id != ModelId(0) => Event::Input(Input::ModelChanged(ModelSpec {
            slots: 1 + random.below(3) as u16,
            weight: 2.0,
            slo: random
                .chance(70)
                .then(|| Nanos::from_millis(2 + random.below(40))),
            ..spec.clone()
        })),
        91 if random.chance(20) => Event::Input(Input::ModelRemoved { model: ModelId(0) }),
        91 if random.chance(10) => Event::Input(Input::Drain),
        92..=94 => Event::Fail(device),
        95 => {
            let back = now + random.below(10 * MS);
            events.push((back, Event::Lose(device)));
            events.push((back + random.below(10 * MS), Event::Return(device)));
            Event::Hang(device)
        }
        96..=97 => {
            let back = now + random.below(10 * MS);
            events.push((back, Event::Return(device)));
            Event::Lose(device)
        }
        _ => Event::Input(Input::Timeout),
    };
    events.push((now, event));
}
