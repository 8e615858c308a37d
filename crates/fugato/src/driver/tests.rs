//! What a device is told of tasks that nobody waits for any more.
//!
//! The device says what the test says, and the clock stands where the test puts it. Nothing
//! sleeps but the driver: the test sees in its mailbox when it does.

use super::*;
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::sched::{
    Arrival, DynamicBatching, ModelSpec, Overdue, PolicySpec, QueueLimits, SchedulerConfig, Start,
};
use fugato_core::{BatchSize, LegIndex, ModelId, Nanos, RequestId, ShapeClass, Share, TaskId};
use fugato_device::{LeftBehind, LegWork, RevokeLeg, RunSplit, TaskOutputs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

const DEVICE: DeviceId = DeviceId(0);
const LEG: Nanos = Nanos::from_micros(20);
const LEAD: Nanos = Nanos::from_micros(18);

const MODEL: ModelId = ModelId(0);

/// A clock that the test moves.
#[derive(Clone, Debug, Default)]
struct TestClock {
    now: Arc<AtomicU64>,
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.now.load(Ordering::SeqCst))
    }
}

impl WaitClock for TestClock {
    /// Due, or never: the test nudges the driver when it has moved the clock.
    fn wait(&self, until: Timestamp) -> Duration {
        match until <= self.now() {
            true => Duration::ZERO,
            false => Duration::from_secs(3_600),
        }
    }
}

/// A device that the test speaks for.
struct Silent {
    spec: DeviceSpec,
    started: Sender<Start>,
    revoked: Sender<RevokeLeg>,
    let_go: Sender<LeftBehind>,
}

impl Device for Silent {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn start(&self, work: LegWork) {
        self.started.send(work.start).expect("the test listens");
    }

    fn revoke(&self, leg: &RevokeLeg) {
        self.revoked.send(*leg).expect("the test listens");
    }

    fn let_go(&self, left: &LeftBehind) {
        self.let_go.send(*left).expect("the test listens");
    }
}

fn spec() -> DeviceSpec {
    DeviceSpec::nested(DEVICE, "silent", Share(1), &[LaneClass::Normal], &[])
}

/// Of three legs.
fn model() -> ModelSpec {
    ModelSpec {
        id: MODEL,
        name: "model".to_owned(),
        slo: Some(Nanos::from_millis(1_000)),
        weight: 1.0,
        max_batch: BatchSize(1),
        slots: 1,
        legs: 3,
        unsplit: false,
        devices: vec![DEVICE],
        limits: QueueLimits {
            requests: 10,
            bytes: 1_000,
        },
        batching: DynamicBatching::default(),
    }
}

fn hooks() -> Hooks {
    Hooks {
        drained: Box::new(|_| {}),
        task_done: Box::new(|_, _, _| {}),
        sample: Box::new(|_| None),
        profile: Box::new(|_, _| {}),
        leg_ended: Box::new(|_| {}),
        device_lost: Box::new(|_, _| {}),
    }
}

/// Microseconds after the start.
fn at(micros: u64) -> Timestamp {
    Timestamp::ZERO + Nanos::from_micros(micros)
}

/// A driver whose device and clock are the test's.
struct Rig {
    clock: TestClock,
    mailbox: Arc<Mailbox>,
    driver: JoinHandle<Scheduler>,
    started: Receiver<Start>,
    revoked: Receiver<RevokeLeg>,
    let_go: Receiver<LeftBehind>,
}

impl Rig {
    fn new() -> Self {
        let (start, started) = channel();
        let (revoke, revoked) = channel();
        let (leave, let_go) = channel();
        let device = Arc::new(Silent {
            spec: spec(),
            started: start,
            revoked: revoke,
            let_go: leave,
        });
        let clock = TestClock::default();
        let mailbox = Arc::new(Mailbox::new(MonotonicClock::start(), 10));
        mailbox.control(Input::DeviceAdded(spec()));
        mailbox.control(Input::ModelAdded(model()));
        let parts = DriverParts {
            clock: clock.clone(),
            scheduler: Scheduler::new(SchedulerConfig {
                policy: PolicySpec::EdfLegs,
                commit_lead: LEAD,
                ..SchedulerConfig::default()
            }),
            devices: [(DEVICE, device as Arc<dyn Device>)].into(),
            mailbox: Arc::clone(&mailbox),
            metrics: crate::telemetry::Telemetry::new().driver(),
            hooks: hooks(),
            recorder: None,
            real_time: false,
            ended: CancellationToken::new(),
        };
        let driver = spawn(parts).expect("a thread can be had");
        Self {
            clock,
            mailbox,
            driver,
            started,
            revoked,
            let_go,
        }
    }

    /// Waits until the driver has dealt with everything and sleeps.
    fn settle(&self) {
        while !self.mailbox.is_idle() {
            std::thread::yield_now();
        }
    }

    /// Moves the clock and has the driver look at it.
    fn pass_to(&self, micros: u64) {
        self.move_to(micros);
        self.mailbox.nudge();
        self.settle();
    }

    fn move_to(&self, micros: u64) {
        let now = at(micros).as_nanos();
        self.clock.now.store(now, Ordering::SeqCst);
    }

    fn ask(&self) -> oneshot::Receiver<Answer> {
        let (reply, answered) = oneshot::channel();
        let payload = Payload {
            items: 1,
            inputs: Arc::from([]),
            reply,
        };
        let received = self.clock.now();
        let arrival = |request| Arrival {
            request,
            model: MODEL,
            items: BatchSize(1),
            bytes: 4,
            class: ShapeClass(0),
            received,
            deadline: None,
            queue_timeout: None,
            overdue: Overdue::Drop,
            priority: 0,
        };
        let taken = self.mailbox.arrive(payload, arrival);
        taken.expect("there is room");
        answered
    }

    fn begins(&self, task: u64, leg: u16, micros: u64) {
        self.mailbox.device(DeviceEvent::Started {
            device: DEVICE,
            task: TaskId(task),
            leg: LegIndex(leg),
            at: at(micros),
        });
    }

    fn ends(&self, task: u64, leg: u16, micros: u64) {
        let requests = if leg == 2 {
            vec![Ok(Vec::new())]
        } else {
            Vec::new()
        };
        self.mailbox.device(DeviceEvent::Finished {
            device: DEVICE,
            task: TaskId(task),
            leg: LegIndex(leg),
            started: at(micros).before(LEG),
            ended: at(micros),
            split: RunSplit::default(),
            result: Ok(TaskOutputs { requests }),
        });
    }

    /// A task that teaches what its legs take, from 0 to 60 us; then a second one, whose first
    /// leg runs from 60 us, and whose second is committed at 62 us.
    fn second_task() -> (Self, oneshot::Receiver<Answer>) {
        let rig = Self::new();
        let first = rig.ask();
        for leg in 0..3 {
            let start = rig.started.recv().expect("the driver lives");
            assert_eq!((start.task.0, start.leg.0), (0, leg));
            let begin = u64::from(leg) * 20;
            rig.settle();
            rig.begins(0, leg, begin);
            rig.settle();
            rig.move_to(begin + 20);
            rig.ends(0, leg, begin + 20);
            rig.settle();
        }
        let first = first.blocking_recv().expect("the driver lives");
        assert!(first.result.is_ok(), "{:?}", first.result);
        let second = rig.ask();
        rig.settle();
        rig.begins(1, 0, 60);
        rig.settle();
        rig.pass_to(62);
        let started: Vec<_> = rig.started.try_iter().collect();
        let started: Vec<_> = started
            .iter()
            .map(|start| (start.task.0, start.leg.0))
            .collect();
        assert_eq!(started, [(1, 0), (1, 1)], "the second leg is committed");
        (rig, second)
    }
}

#[test]
fn a_task_keeps_its_tensors_while_a_leg_of_it_runs_whose_next_is_taken_back() {
    let (rig, second) = Rig::second_task();
    let request = RequestId(1);
    rig.mailbox.control(Input::Cancelled { request });
    let answer = second.blocking_recv().expect("the driver lives");
    assert!(matches!(answer.result, Err(ServeFailure::Cancelled)));
    assert_eq!(rig.revoked.recv().map(|leg| leg.leg.0), Ok(1));
    rig.settle();
    rig.mailbox.device(DeviceEvent::Revoked {
        device: DEVICE,
        task: TaskId(1),
        leg: LegIndex(1),
    });
    rig.settle();
    assert_eq!(rig.let_go.try_iter().count(), 0, "the first leg runs");
    rig.ends(1, 0, 80);
    rig.settle();
    assert_eq!(rig.let_go.try_iter().count(), 1);
    rig.mailbox.close();
    rig.driver.join().expect("it ends well");
}
