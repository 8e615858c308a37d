//! What one event costs the scheduler, against the number of models and of waiting
//! requests: `cargo bench -p fugato --bench decision`, or with words after `--` only the
//! rows that begin with one of them.
//!
//! One round is the life of one request: it arrives, its task is started, the device
//! reports start and end, the reply is given. The queue is kept at a stated length. The
//! figures are over the events of all rounds, an event being a call of `handle` with the
//! drain that answers it; the allocator and the caches are warm. The longest event of a
//! policy that plans ahead is one that plans, or one that the machine interrupted: the
//! 99.9th percentile tells them apart.
//!
//! A second table tells what `dstack`'s plans cost: the events after which another plan is in
//! force, of sessions as long as objectives of 50 to 400 ms make them. A third tells it of the
//! policies that say nothing of their plans: the longest event of every quarter of a simulated
//! second, in which each of them plans or sizes its models anew. What the machine interrupts is in it.

use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::sched::{
    Action, Arrival, DeadlineMode, DynamicBatching, Input, LegResult, ModelSpec, Overdue,
    PolicySpec, QueueLimits, Scheduler, SchedulerConfig, Start,
};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, RequestId, ShapeClass, Share, Timestamp};
use std::collections::VecDeque;
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

const ROUNDS: usize = 4_000;
const WARM_UP: usize = 500;
/// Of a bench of plans: hundreds of sessions.
const REPLAN_ROUNDS: usize = 200_000;
const STEP: Nanos = Nanos::from_micros(100);
/// As often as policies plan or size anew (`PLAN_EVERY`, `LOOK_EVERY` in `fugato-core`).
const ANEW_EVERY: Nanos = Nanos::from_millis(250);
const SIZES_OF_PLANS: [(u32, u16); 5] = [(10, 2), (10, 80), (100, 2), (100, 80), (100, 148)];

struct World {
    scheduler: Scheduler,
    now: Timestamp,
    next: u64,
    models: u32,
    /// Started and not ended, the oldest first.
    running: VecDeque<Start>,
    /// How long each event took.
    times: Vec<Duration>,
    /// How long each event took after which another plan was in force.
    replans: Vec<Duration>,
    /// The longest event of each [`ANEW_EVERY`].
    longest: Vec<Duration>,
    /// When the last of these began.
    window: Timestamp,
}

/// What a bench is about.
#[derive(Clone, Copy)]
struct Size {
    models: u32,
    queued: u64,
    slices: Share,
    /// Of a model.
    slo: fn(u32) -> Nanos,
}

impl World {
    fn new(policy: PolicySpec, size: Size) -> Self {
        let config = SchedulerConfig {
            policy,
            deadlines: DeadlineMode::Enforce,
            limits: QueueLimits {
                requests: u64::MAX,
                bytes: u64::MAX,
            },
            ..SchedulerConfig::default()
        };
        let mut scheduler = Scheduler::new(config);
        let lanes = [LaneClass::Normal; 4];
        let device = DeviceSpec::nested(DeviceId(0), "bench", size.slices, &lanes, &lanes[..1]);
        scheduler.handle(Timestamp::ZERO, Input::DeviceAdded(device));
        for id in 0..size.models {
            let spec = model(id, (size.slo)(id));
            scheduler.handle(Timestamp::ZERO, Input::ModelAdded(spec));
        }
        let mut world = Self {
            scheduler,
            now: Timestamp::ZERO,
            next: 0,
            models: size.models,
            running: VecDeque::new(),
            times: Vec::new(),
            replans: Vec::new(),
            longest: Vec::new(),
            window: Timestamp::ZERO,
        };
        for _ in 0..=size.queued {
            world.arrive();
        }
        world
    }

    fn arrive(&mut self) {
        let model =
            ModelId(u32::try_from(self.next % u64::from(self.models)).expect("below a u32"));
        let arrival = Arrival {
            request: RequestId(self.next),
            model,
            items: BatchSize(1),
            bytes: 4,
            class: ShapeClass(0),
            received: self.now,
            deadline: None,
            queue_timeout: None,
            overdue: Overdue::Drop,
            priority: 0,
        };
        self.next += 1;
        self.event(Input::Arrived(arrival));
    }

    /// One event and all that it leads to.
    fn event(&mut self, input: Input) {
        let planned = self.planned();
        let begun = Instant::now();
        self.scheduler.handle(self.now, input);
        let mut revoked = Vec::new();
        while let Some(action) = self.scheduler.poll_action() {
            match black_box(action) {
                Action::Start(start) => self.running.push_back(start),
                Action::Revoke { task, .. } => revoked.push(task),
                Action::Finish { .. } | Action::ModelDrained { .. } => {}
            }
        }
        black_box(self.scheduler.poll_timeout());
        let took = begun.elapsed();
        self.times.push(took);
        if self.longest.is_empty() || self.now - self.window >= ANEW_EVERY {
            self.window = self.now;
            self.longest.push(took);
        }
        if let Some(longest) = self.longest.last_mut() {
            *longest = took.max(*longest);
        }
        if planned != self.planned() {
            self.replans.push(took);
        }
        for task in revoked {
            let place = self.running.iter().position(|start| start.task == task);
            let gone = place.and_then(|place| self.running.remove(place));
            let Start { device, leg, .. } = gone.expect("what is revoked was started");
            self.event(Input::LegRevoked { device, task, leg });
        }
    }

    /// The session of the plan in force.
    fn planned(&self) -> Option<(Timestamp, usize)> {
        let plan = self.scheduler.plan(DeviceId(0))?;
        Some((plan.start, plan.runs.len()))
    }

    /// One request in, one task through.
    fn round(&mut self) {
        self.now = self.now + STEP;
        self.arrive();
        while self.running.is_empty() {
            let next = self.scheduler.poll_timeout();
            self.now = next.expect("a policy that waits says until when");
            self.event(Input::Timeout);
        }
        let Some(start) = self.running.pop_front() else {
            return;
        };
        let (device, task, leg) = (start.device, start.task, start.leg);
        let started = self.now;
        self.event(Input::LegStarted {
            device,
            task,
            leg,
            at: started,
        });
        self.now = self.now + STEP;
        self.event(Input::LegFinished {
            device,
            task,
            leg,
            started,
            ended: self.now,
            result: LegResult::Done,
        });
    }
}

/// One item per task, so that a round is one request whatever waits.
fn model(id: u32, slo: Nanos) -> ModelSpec {
    ModelSpec {
        id: ModelId(id),
        name: format!("model-{id}"),
        slo: Some(slo),
        weight: 1.0,
        max_batch: BatchSize(1),
        slots: 1,
        legs: 1,
        unsplit: false,
        devices: vec![DeviceId(0)],
        limits: QueueLimits {
            requests: u64::MAX,
            bytes: u64::MAX,
        },
        batching: DynamicBatching::default(),
    }
}

/// Long enough that all is admitted, so that every arrival is priced to the end.
fn an_hour(id: u32) -> Nanos {
    Nanos::from_millis(3_600_000 + u64::from(id % 7))
}

/// Four kinds of models, of which the shortest has eight runs in a session.
fn short(id: u32) -> Nanos {
    Nanos::from_millis(50 << (id % 4))
}

fn per_mille(sorted: &[Duration], at: usize) -> u128 {
    sorted[(sorted.len() - 1) * at / 1_000].as_nanos()
}

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = words
        .iter()
        .filter(|word| !word.starts_with("--"))
        .collect();
    let wanted =
        |row: &str| words.is_empty() || words.iter().any(|word| row.starts_with(word.as_str()));
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "policy,models,queued,median_ns_per_event,p99_ns_per_event,p999_ns_per_event,longest_ns"
    )?;
    for name in PolicySpec::NAMES {
        let policy = PolicySpec::named(name).expect("a policy of its name");
        for (models, queued) in [
            (1, 10),
            (1, 1_000),
            (1, 100_000),
            (10, 1_000),
            (100, 1_000),
            (100, 10_000),
            (1_000, 10_000),
        ] {
            if !wanted(&format!("{name},{models},{queued}")) {
                continue;
            }
            let size = Size {
                models,
                queued,
                slices: Share(2),
                slo: an_hour,
            };
            let mut world = World::new(policy.clone(), size);
            for round in 0..WARM_UP + ROUNDS {
                if round == WARM_UP {
                    world.times.clear();
                }
                world.round();
            }
            let mut times = world.times;
            times.sort_unstable();
            let [median, p99, p999, longest] =
                [500, 990, 999, 1_000].map(|at| per_mille(&times, at));
            writeln!(
                out,
                "{name},{models},{queued},{median},{p99},{p999},{longest}"
            )?;
        }
    }
    if wanted("replans") {
        replans(&mut out)?;
    }
    writeln!(
        out,
        "\nlongest of 250 ms,models,slices,windows,median_us,p90_us,longest_us"
    )?;
    for name in PolicySpec::NAMES {
        for (models, slices) in SIZES_OF_PLANS {
            if wanted(&format!("longest,{name},{models},{slices}")) {
                longest(&mut out, name, (models, slices))?;
            }
        }
    }
    Ok(())
}

/// What a policy's plans are timed in.
fn planning(name: &str, (models, slices): (u32, u16)) -> World {
    let policy = PolicySpec::named(name).expect("a policy of its name");
    let size = Size {
        models,
        queued: 0,
        slices: Share(slices),
        slo: short,
    };
    let mut world = World::new(policy, size);
    for round in 0..REPLAN_ROUNDS {
        if round == REPLAN_ROUNDS / 4 {
            world.replans.clear();
            world.longest.clear();
        }
        world.round();
    }
    world
}

fn microseconds(times: &mut [Duration]) -> [u128; 3] {
    times.sort_unstable();
    [500, 900, 1_000].map(|at| per_mille(times, at) / 1_000)
}

/// The events after which another plan of `dstack` is in force.
fn replans(out: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        out,
        "\nmodels,slices,runs,plans,median_us,p90_us,longest_us"
    )?;
    for (models, slices) in SIZES_OF_PLANS {
        let mut world = planning("dstack", (models, slices));
        let plan = world.scheduler.plan(DeviceId(0));
        let runs = plan.map_or(0, |plan| plan.runs.len());
        let [median, p90, longest] = microseconds(&mut world.replans);
        let plans = world.replans.len();
        writeln!(
            out,
            "{models},{slices},{runs},{plans},{median},{p90},{longest}"
        )?;
    }
    Ok(())
}

/// The longest event of each window of a policy.
fn longest(out: &mut impl Write, name: &str, size: (u32, u16)) -> std::io::Result<()> {
    let mut world = planning(name, size);
    let [median, p90, longest] = microseconds(&mut world.longest);
    let (windows, (models, slices)) = (world.longest.len(), size);
    writeln!(
        out,
        "{name},{models},{slices},{windows},{median},{p90},{longest}"
    )
}
