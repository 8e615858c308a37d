//! What one event costs the scheduler, against the number of models and of waiting
//! requests: `cargo bench -p fugato --bench decision`.
//!
//! One round is the life of one request: it arrives, its task is started, the device
//! reports start and end, the reply is given. The queue is kept at a stated length. The
//! figure is the median over rounds of a round's time divided by its four events; the
//! allocator and the caches are warm.

use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::sched::{
    Action, Arrival, DeadlineMode, DynamicBatching, Input, LegResult, ModelSpec, Overdue,
    PolicySpec, QueueLimits, Scheduler, SchedulerConfig, Start,
};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, RequestId, ShapeClass, Share, Timestamp};
use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

const ROUNDS: usize = 4_000;
const WARM_UP: usize = 500;
const STEP: Nanos = Nanos::from_micros(100);

struct World {
    scheduler: Scheduler,
    now: Timestamp,
    next: u64,
    models: u32,
    running: Option<Start>,
}

impl World {
    fn new(policy: PolicySpec, models: u32, queued: u64) -> Self {
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
        let device = DeviceSpec::nested(DeviceId(0), "bench", Share(2), &lanes, &lanes[..1]);
        scheduler.handle(Timestamp::ZERO, Input::DeviceAdded(device));
        for id in 0..models {
            scheduler.handle(Timestamp::ZERO, Input::ModelAdded(model(id)));
        }
        let mut world = Self {
            scheduler,
            now: Timestamp::ZERO,
            next: 0,
            models,
            running: None,
        };
        for _ in 0..=queued {
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
        self.scheduler.handle(self.now, Input::Arrived(arrival));
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.scheduler.poll_action() {
            if let Action::Start(start) = black_box(action) {
                self.running = Some(start);
            }
        }
        black_box(self.scheduler.poll_timeout());
    }

    /// One request in, one task through.
    fn round(&mut self) {
        self.now = self.now + STEP;
        self.arrive();
        let start = self
            .running
            .take()
            .expect("a task runs while requests wait");
        let (device, task, leg) = (start.device, start.task, start.leg);
        self.scheduler.handle(
            self.now,
            Input::LegStarted {
                device,
                task,
                leg,
                at: self.now,
            },
        );
        self.drain();
        let started = self.now;
        self.now = self.now + STEP;
        let finished = Input::LegFinished {
            device,
            task,
            leg,
            started,
            ended: self.now,
            result: LegResult::Done,
        };
        self.scheduler.handle(self.now, finished);
        self.drain();
    }
}

/// One item per task, so that a round is one request whatever waits.
fn model(id: u32) -> ModelSpec {
    ModelSpec {
        id: ModelId(id),
        name: format!("model-{id}"),
        // Long enough that all is admitted, so that every arrival is priced to the end.
        slo: Some(Nanos::from_millis(3_600_000 + u64::from(id % 7))),
        weight: 1.0,
        max_batch: BatchSize(1),
        slots: 1,
        legs: 1,
        devices: vec![DeviceId(0)],
        limits: QueueLimits {
            requests: u64::MAX,
            bytes: u64::MAX,
        },
        batching: DynamicBatching::default(),
    }
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "policy,models,queued,median_ns_per_event,p99_ns_per_event"
    )?;
    let policies = [
        PolicySpec::Fifo,
        PolicySpec::Edf,
        PolicySpec::Uncontrolled {
            lanes: 1,
            share: None,
        },
        PolicySpec::DSTACK,
    ];
    for policy in policies {
        for (models, queued) in [
            (1, 10),
            (1, 1_000),
            (1, 100_000),
            (10, 1_000),
            (100, 1_000),
            (1_000, 10_000),
        ] {
            let mut world = World::new(policy.clone(), models, queued);
            let mut times: Vec<Duration> = Vec::with_capacity(ROUNDS);
            for round in 0..WARM_UP + ROUNDS {
                let begun = Instant::now();
                world.round();
                if round >= WARM_UP {
                    times.push(begun.elapsed());
                }
            }
            times.sort_unstable();
            // Arrival, start, end, and the drain that answers.
            let per_event = |time: Duration| time.as_nanos() / 4;
            let (median, p99) = (
                per_event(times[ROUNDS / 2]),
                per_event(times[ROUNDS * 99 / 100]),
            );
            writeln!(out, "{},{models},{queued},{median},{p99}", policy.name())?;
        }
    }
    Ok(())
}
