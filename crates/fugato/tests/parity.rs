//! Parity: the same scenario on the simulator and on the real driver thread, with its
//! mailbox and its effects, gives the same inputs and the same decisions.
//!
//! The real driver runs here on a clock that the test moves, over a simulated device
//! behind the real device seam. Nothing sleeps: the test waits for the driver to say that
//! it has decided.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a device makes three of the inputs"
)]

use fugato::driver::{self, Answer, DriverParts, Hooks, Mailbox, Payload, ReplyResult, WaitClock};
use fugato::telemetry::Telemetry;
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::driver::{Clock, RecordedInputs, Recorder};
use fugato_core::sched::{
    Arrival, DynamicBatching, Input, LegResult, ModelSpec, Overdue, PolicySpec, QueueLimits,
    Scheduler, SchedulerConfig, Start,
};
use fugato_core::sim::{SimDevice, World};
use fugato_core::workload::{ArrivalProcess, ModelLoad, Workload};
use fugato_core::{
    BatchSize, DeviceId, LegIndex, ModelId, Nanos, RequestId, ShapeClass, Share, TaskId, Timestamp,
};
use fugato_device::{
    Device, DeviceEvent, LegWork, MonotonicClock, OutputTensor, RevokeLeg, RunSplit, TaskOutputs,
    TensorData,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const DEVICE: DeviceId = DeviceId(0);

/// A clock that the test moves.
#[derive(Clone, Default)]
struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    fn set(&self, now: Timestamp) {
        self.0.store(now.as_nanos(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.0.load(Ordering::SeqCst))
    }
}

impl WaitClock for ManualClock {
    /// Due, or never: the test nudges the driver when it has moved the clock.
    fn wait(&self, until: Timestamp) -> Duration {
        if until <= self.now() {
            Duration::ZERO
        } else {
            Duration::from_secs(3_600)
        }
    }
}

/// A simulated device behind the real seam; it runs by the test's clock.
struct SeamDevice {
    spec: DeviceSpec,
    clock: ManualClock,
    sim: Mutex<SimDevice>,
    /// By task: its requests, and its last leg.
    members: Mutex<BTreeMap<TaskId, (usize, LegIndex)>>,
    last_legs: BTreeMap<ModelId, LegIndex>,
}

impl SeamDevice {
    fn new(spec: DeviceSpec, clock: ManualClock, models: &[ModelSpec]) -> Self {
        let sim = Mutex::new(SimDevice::new(spec.clone()));
        Self {
            spec,
            clock,
            sim,
            members: Mutex::default(),
            last_legs: models
                .iter()
                .map(|model| (model.id, LegIndex(model.legs - 1)))
                .collect(),
        }
    }

    fn next_event(&self) -> Option<Timestamp> {
        self.sim
            .lock()
            .expect("no test thread panicked")
            .next_event()
    }

    /// The reports up to `now`, as a real device would make them.
    fn events(&self, now: Timestamp) -> Vec<DeviceEvent> {
        let mut sim = self.sim.lock().expect("no test thread panicked");
        let members = self.members.lock().expect("no test thread panicked");
        std::iter::from_fn(|| sim.poll_event(now))
            .map(|input| match input {
                Input::LegStarted {
                    device,
                    task,
                    leg,
                    at,
                } => DeviceEvent::Started {
                    device,
                    task,
                    leg,
                    at,
                },
                Input::LegRevoked { device, task, leg } => {
                    DeviceEvent::Revoked { device, task, leg }
                }
                Input::LegFinished {
                    device,
                    task,
                    leg,
                    started,
                    ended,
                    result,
                } => {
                    assert_eq!(result, LegResult::Done);
                    let output = OutputTensor {
                        shape: vec![1],
                        data: TensorData::Raw(bytes::Bytes::new()),
                    };
                    let (count, last) = members[&task];
                    let count = if leg == last { count } else { 0 };
                    let requests = vec![Ok(vec![output]); count];
                    let result = Ok(TaskOutputs { requests });
                    DeviceEvent::Finished {
                        device,
                        task,
                        leg,
                        started,
                        ended,
                        split: RunSplit::default(),
                        result,
                    }
                }
                other => panic!("no device reports {other:?}"),
            })
            .collect()
    }
}

impl Device for SeamDevice {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn start(&self, work: LegWork) {
        let mut members = self.members.lock().expect("no test thread panicked");
        if work.start.leg == LegIndex(0) {
            let last = self.last_legs[&work.start.model];
            members.insert(work.start.task, (work.requests.len(), last));
        }
        let service = service(&work.start);
        self.sim.lock().expect("no test thread panicked").start(
            self.clock.now(),
            work.start,
            service,
        );
    }

    fn revoke(&self, leg: &RevokeLeg) {
        self.sim.lock().expect("no test thread panicked").revoke(
            self.clock.now(),
            leg.task,
            leg.leg,
        );
    }
}

#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<RecordedInputs>>>);

impl Recorder for Log {
    fn record(&mut self, at: Timestamp, inputs: &[Input]) {
        let recorded = RecordedInputs {
            at,
            inputs: inputs.to_vec(),
        };
        self.0.lock().expect("no writer panicked").push(recorded);
    }
}

impl Log {
    fn read(&self) -> Vec<RecordedInputs> {
        self.0.lock().expect("no writer panicked").clone()
    }
}

/// Legs take (0.3 + 0.1 x items) ms, a little more for every third task.
fn service(start: &Start) -> Nanos {
    Nanos::from_micros(300 + 100 * u64::from(start.batch.0) + 40 * (start.task.0 % 3))
}

fn config(policy: PolicySpec) -> SchedulerConfig {
    SchedulerConfig {
        policy,
        ..SchedulerConfig::default()
    }
}

/// A policy, and how the device and the models are made for it.
#[derive(Clone, Debug)]
struct Case {
    policy: PolicySpec,
    /// The legs of the model with the longer objective.
    legs: u16,
    /// The lanes of the whole device, and of its parts.
    lanes: [Vec<LaneClass>; 2],
}

impl Case {
    fn whole(policy: PolicySpec) -> Self {
        Self {
            policy,
            legs: 1,
            lanes: [vec![LaneClass::Normal; 4], vec![LaneClass::Normal]],
        }
    }

    fn in_legs(policy: &str, lanes: &[LaneClass]) -> Self {
        Self {
            policy: PolicySpec::named(policy).expect("a policy's name"),
            legs: 3,
            lanes: [lanes.to_vec(), lanes.to_vec()],
        }
    }

    fn spec(&self) -> DeviceSpec {
        DeviceSpec::nested(DEVICE, "sim", Share(2), &self.lanes[0], &self.lanes[1])
    }
}

fn models(case: &Case) -> Vec<ModelSpec> {
    let model = |id, slo, preferred| ModelSpec {
        id: ModelId(id),
        name: format!("model-{id}"),
        slo: Some(Nanos::from_millis(slo)),
        weight: 1.0,
        max_batch: BatchSize(8),
        slots: 2,
        legs: 1,
        unsplit: false,
        devices: vec![DEVICE],
        limits: QueueLimits {
            requests: 100,
            bytes: 1 << 20,
        },
        batching: DynamicBatching {
            instances: 2,
            preferred,
            max_queue_delay: Nanos::from_micros(700),
        },
    };
    let long = ModelSpec {
        legs: case.legs,
        ..model(1, 20, vec![BatchSize(4)])
    };
    vec![model(0, 4, vec![]), long]
}

/// A steady and a bursty stream that together overload the device at times.
fn arrivals() -> Vec<Arrival> {
    let poisson = ArrivalProcess::Poisson { rate: 900.0 };
    let bursts = ArrivalProcess::Square {
        low: 200.0,
        high: 3_000.0,
        period: Nanos::from_millis(60),
        duty: 0.3,
    };
    let load = |id: u32, slo, process| {
        ModelLoad::new(format!("model-{id}"), Nanos::from_millis(slo), process)
    };
    let models = vec![load(0, 4, poisson), load(1, 20, bursts)];
    let workload = Workload::new(Nanos::from_millis(300), Nanos::ZERO, None, models)
        .expect("it is well formed");
    let arrivals = workload.arrivals(11);
    let arrival = |(index, at): (u64, fugato_core::workload::Arrival)| Arrival {
        request: RequestId(index),
        model: ModelId(u32::try_from(at.model).expect("two models")),
        items: BatchSize(1),
        bytes: 4,
        class: ShapeClass(0),
        received: at.at,
        deadline: None,
        queue_timeout: None,
        overdue: Overdue::Drop,
        priority: 0,
    };
    (0..).zip(arrivals).map(arrival).collect()
}

fn on_simulator(case: &Case) -> (Vec<RecordedInputs>, u64, u64) {
    let log = Log::default();
    let scheduler = Scheduler::new(config(case.policy.clone()));
    let mut world = World::new(scheduler, vec![SimDevice::new(case.spec())], service)
        .recording(Box::new(log.clone()));
    for model in models(case) {
        world.push(Timestamp::ZERO, Input::ModelAdded(model));
    }
    for arrival in arrivals() {
        world.push_arrival(arrival);
    }
    world.run();
    let scheduler = world.scheduler();
    (
        log.read(),
        scheduler.action_count(),
        scheduler.action_hash(),
    )
}

/// Hands in what happens at one time together, and waits until it is decided; gives the
/// scheduler's next timeout.
fn settle(mailbox: &Mailbox, events: Vec<DeviceEvent>, inputs: Vec<Input>) -> Option<Timestamp> {
    mailbox.together(events, inputs, Vec::new());
    mailbox
        .ask(Scheduler::poll_timeout)
        .blocking_recv()
        .expect("the driver answers")
}

fn on_driver(case: &Case) -> (Vec<RecordedInputs>, u64, u64, Vec<ReplyResult>) {
    let (clock, log) = (ManualClock::default(), Log::default());
    let models = models(case);
    let device = Arc::new(SeamDevice::new(case.spec(), clock.clone(), &models));
    let mailbox = Arc::new(Mailbox::new(MonotonicClock::start(), 1_000));
    let driver = driver::spawn(DriverParts {
        clock: clock.clone(),
        scheduler: Scheduler::new(config(case.policy.clone())),
        devices: [(DEVICE, Arc::clone(&device) as Arc<dyn Device>)].into(),
        mailbox: Arc::clone(&mailbox),
        metrics: Telemetry::new().driver(),
        hooks: Hooks {
            drained: Box::new(|_| {}),
            task_done: Box::new(|_, _, _| {}),
            sample: Box::new(|_| None),
            profile: Box::new(|_, _| {}),
            leg_ended: Box::new(|_| {}),
            device_lost: Box::new(|_, _| {}),
        },
        recorder: Some(Box::new(log.clone())),
        real_time: false,
        ended: CancellationToken::new(),
    })
    .expect("a thread can be had");
    let setup = [Input::DeviceAdded(case.spec())]
        .into_iter()
        .chain(models.into_iter().map(Input::ModelAdded));
    let mut timeout = settle(&mailbox, Vec::new(), setup.collect());
    let mut outside = arrivals().into_iter().peekable();
    let mut replies: Vec<oneshot::Receiver<Answer>> = Vec::new();
    loop {
        let next = outside.peek().map(|arrival| arrival.received);
        let Some(now) = [next, timeout, device.next_event()]
            .into_iter()
            .flatten()
            .min()
        else {
            break;
        };
        clock.set(now);
        let events = device.events(now);
        let mut batch = Vec::new();
        while let Some(arrival) = outside.next_if(|arrival| arrival.received <= now) {
            let (reply, answered) = oneshot::channel();
            replies.push(answered);
            batch.push((
                Payload {
                    items: 1,
                    inputs: Arc::from([]),
                    reply,
                },
                arrival,
            ));
        }
        mailbox.together(events, Vec::new(), batch);
        timeout = mailbox
            .ask(Scheduler::poll_timeout)
            .blocking_recv()
            .expect("the driver answers");
    }
    mailbox.close();
    let scheduler = driver.join().expect("the driver ended well");
    let answered = replies.into_iter().map(|reply| {
        reply
            .blocking_recv()
            .expect("every request is answered")
            .result
    });
    (
        log.read(),
        scheduler.action_count(),
        scheduler.action_hash(),
        answered.collect(),
    )
}

#[test]
fn the_simulator_and_the_driver_decide_alike() {
    let uncontrolled = PolicySpec::Uncontrolled {
        lanes: 3,
        share: None,
    };
    let (normal, urgent) = (LaneClass::Normal, LaneClass::Urgent);
    for case in [
        Case::whole(PolicySpec::Fifo),
        Case::whole(PolicySpec::Edf),
        Case::whole(uncontrolled),
        Case::in_legs("fifo", &[normal]),
        Case::in_legs("edf-legs", &[normal]),
        Case::in_legs("fugato", &[normal]),
        Case::in_legs("fugato", &[normal, urgent]),
    ] {
        let policy = &case;
        let (simulated, actions, hash) = on_simulator(&case);
        let (driven, driver_actions, driver_hash, replies) = on_driver(&case);
        let strip = |log: Vec<RecordedInputs>| -> Vec<(Timestamp, Input)> {
            let inputs = log.into_iter().flat_map(|recorded| {
                let at = recorded.at;
                recorded.inputs.into_iter().map(move |input| (at, input))
            });
            inputs
                .filter(|(_, input)| *input != Input::Timeout)
                .collect()
        };
        let (simulated, driven) = (strip(simulated), strip(driven));
        for (simulated, driven) in simulated.iter().zip(&driven) {
            assert_eq!(simulated, driven, "{policy:?}");
        }
        assert_eq!(simulated.len(), driven.len(), "{policy:?}");
        assert_eq!((actions, hash), (driver_actions, driver_hash), "{policy:?}");
        assert_eq!(replies.len(), arrivals().len());
        let served = replies.iter().filter(|reply| reply.is_ok()).count();
        assert!(
            served > replies.len() / 3,
            "{policy:?} served {served} of {}",
            replies.len()
        );
    }
}
