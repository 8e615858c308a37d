//! What those who wait for the driver see when it breaks.

use fugato::driver::{
    self, Answer, DriverParts, Hooks, Mailbox, NotTaken, Payload, RealClock, ServeFailure,
};
use fugato::telemetry::Telemetry;
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::sched::{
    Arrival, DynamicBatching, Input, ModelSpec, Overdue, QueueLimits, Rejection, Scheduler,
    SchedulerConfig,
};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, RequestId, ShapeClass, Share, Timestamp};
use fugato_device::{
    Device, DeviceEvent, LegWork, MonotonicClock, RevokeLeg, RunError, RunErrorKind, RunSplit,
};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// A device with the worst of bugs.
struct Panicking(DeviceSpec);

impl Device for Panicking {
    fn spec(&self) -> &DeviceSpec {
        &self.0
    }

    fn start(&self, work: LegWork) {
        panic!("{} cannot start", work.start.task);
    }

    fn revoke(&self, _: &RevokeLeg) {}
}

/// A device that goes away under the first leg.
struct Vanishing {
    spec: DeviceSpec,
    events: Arc<Mailbox>,
}

impl Device for Vanishing {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn start(&self, LegWork { start, .. }: LegWork) {
        let (device, task, leg, at) = (start.device, start.task, start.leg, Timestamp::ZERO);
        self.events.device(DeviceEvent::Started {
            device,
            task,
            leg,
            at,
        });
        let error = RunError {
            model: start.model,
            batch: start.batch.0,
            kind: RunErrorKind::DeviceLost,
            detail: "an illegal address was used".to_owned(),
        };
        self.events.device(DeviceEvent::Finished {
            device,
            task,
            leg,
            started: at,
            ended: at,
            split: RunSplit::default(),
            result: Err(error),
        });
    }

    fn revoke(&self, _: &RevokeLeg) {}
}

fn spec() -> DeviceSpec {
    DeviceSpec::nested(DeviceId(0), "bad", Share(1), &[LaneClass::Normal], &[])
}

/// Puts two requests where the driver sees both before it decides about one: the device runs
/// one leg at a time, so the first is started and the second waits.
fn two_requests(mailbox: &Mailbox) -> [oneshot::Receiver<Answer>; 2] {
    mailbox.control(Input::DeviceAdded(spec()));
    mailbox.control(Input::ModelAdded(model()));
    [(); 2].map(|()| {
        let (payload, answered) = payload();
        mailbox.arrive(payload, arrival).expect("there is room");
        answered
    })
}

/// A driver of one device; what the device said when it was lost goes to `lost`.
fn spawn(
    clock: MonotonicClock,
    mailbox: &Arc<Mailbox>,
    device: Arc<dyn Device>,
    ended: &CancellationToken,
    lost: &Arc<Mutex<Vec<String>>>,
) -> JoinHandle<Scheduler> {
    let lost = Arc::clone(lost);
    let parts = DriverParts {
        clock: RealClock(clock),
        scheduler: Scheduler::new(SchedulerConfig {
            best_effort: Nanos::from_millis(1),
            ..SchedulerConfig::default()
        }),
        devices: [(DeviceId(0), device)].into(),
        mailbox: Arc::clone(mailbox),
        metrics: Telemetry::new().driver(),
        hooks: Hooks {
            drained: Box::new(|_| {}),
            task_done: Box::new(|_, _, _| {}),
            sample: Box::new(|_| None),
            profile: Box::new(|_, _| {}),
            leg_ended: Box::new(|_| {}),
            device_lost: Box::new(move |_, detail| {
                let mut lost = lost.lock().expect("no holder panics");
                lost.push(detail.to_owned());
            }),
        },
        recorder: None,
        real_time: false,
        ended: ended.clone(),
    };
    driver::spawn(parts).expect("a thread can be had")
}

fn model() -> ModelSpec {
    ModelSpec {
        id: ModelId(0),
        name: "model".to_owned(),
        slo: None,
        weight: 1.0,
        max_batch: BatchSize(1),
        slots: 1,
        legs: 1,
        unsplit: false,
        devices: vec![DeviceId(0)],
        limits: QueueLimits {
            requests: 10,
            bytes: 1_000,
        },
        batching: DynamicBatching::default(),
    }
}

fn arrival(request: RequestId) -> Arrival {
    Arrival {
        request,
        model: ModelId(0),
        items: BatchSize(1),
        bytes: 4,
        class: ShapeClass(0),
        received: Timestamp::ZERO,
        deadline: None,
        queue_timeout: None,
        overdue: Overdue::Drop,
        priority: 0,
    }
}

fn payload() -> (Payload, oneshot::Receiver<Answer>) {
    let (reply, answered) = oneshot::channel();
    (
        Payload {
            items: 1,
            inputs: Arc::from([]),
            reply,
        },
        answered,
    )
}

#[test]
fn a_driver_that_panics_leaves_nobody_waiting() {
    let clock = MonotonicClock::start();
    let mailbox = Arc::new(Mailbox::new(clock, 10));
    let ended = CancellationToken::new();
    // One is started and breaks the driver, the other is never looked at.
    let answers = two_requests(&mailbox);
    let device = Arc::new(Panicking(spec()));
    let driver = spawn(clock, &mailbox, device, &ended, &Arc::default());
    for answer in answers {
        assert!(answer.blocking_recv().is_err(), "its channel is closed");
    }
    assert!(driver.join().is_err(), "the panic is passed on");
    assert!(ended.is_cancelled());
    let (payload, _answered) = payload();
    assert_eq!(mailbox.arrive(payload, arrival), Err(NotTaken::Closed));
    assert!(
        mailbox.ask(|_| ()).blocking_recv().is_err(),
        "a question is not left open"
    );
}

#[test]
fn a_device_that_is_lost_takes_its_requests_with_it_and_the_driver_goes_on() {
    let clock = MonotonicClock::start();
    let mailbox = Arc::new(Mailbox::new(clock, 10));
    let (ended, lost) = (CancellationToken::new(), Arc::default());
    let answers = two_requests(&mailbox);
    let device = Arc::new(Vanishing {
        spec: spec(),
        events: Arc::clone(&mailbox),
    });
    let driver = spawn(clock, &mailbox, device, &ended, &lost);
    // The one whose leg was running, and the one that nothing is left to run.
    for answer in answers {
        let answer = answer.blocking_recv().expect("the driver goes on");
        let Err(failure) = answer.result else {
            panic!("there is nothing to serve with");
        };
        assert!(
            matches!(failure, ServeFailure::DeviceLost(DeviceId(0))),
            "{failure:?}"
        );
    }
    let told = lost.lock().expect("no holder panics").clone();
    assert_eq!(told, ["an illegal address was used"]);
    let (payload, answered) = payload();
    mailbox.arrive(payload, arrival).expect("there is room");
    let answer = answered.blocking_recv().expect("the driver goes on");
    let refused = matches!(
        answer.result,
        Err(ServeFailure::Rejected(Rejection::NoDevice))
    );
    assert!(refused, "{:?}", answer.result);
    mailbox.close();
    driver.join().expect("it ends well");
}
