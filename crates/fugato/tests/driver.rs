//! What those who wait for the driver see when it breaks.

use fugato::driver::{self, DriverParts, Hooks, Mailbox, NotTaken, Payload, RealClock};
use fugato::telemetry::Telemetry;
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::sched::{
    Arrival, DynamicBatching, Input, ModelSpec, Overdue, QueueLimits, Scheduler, SchedulerConfig,
};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, RequestId, ShapeClass, Share, Timestamp};
use fugato_device::{Device, LegWork, MonotonicClock, RevokeLeg};
use std::sync::Arc;
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

fn model() -> ModelSpec {
    ModelSpec {
        id: ModelId(0),
        name: "model".to_owned(),
        slo: None,
        weight: 1.0,
        max_batch: BatchSize(1),
        slots: 1,
        legs: 1,
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

fn payload() -> (Payload, oneshot::Receiver<driver::Answer>) {
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
    let spec = DeviceSpec::nested(DeviceId(0), "bad", Share(1), &[LaneClass::Normal], &[]);
    let device: Arc<dyn Device> = Arc::new(Panicking(spec.clone()));
    let ended = CancellationToken::new();
    // Both requests are in the mailbox before the driver looks: one is started and breaks
    // it, the other is never looked at.
    mailbox.control(Input::DeviceAdded(spec));
    mailbox.control(Input::ModelAdded(model()));
    let answers: Vec<_> = (0..2)
        .map(|_| {
            let (payload, answered) = payload();
            mailbox.arrive(payload, arrival).expect("there is room");
            answered
        })
        .collect();
    let driver = driver::spawn(DriverParts {
        clock: RealClock(clock),
        scheduler: Scheduler::new(SchedulerConfig {
            best_effort: Nanos::from_millis(1),
            ..SchedulerConfig::default()
        }),
        devices: [(DeviceId(0), device)].into(),
        mailbox: Arc::clone(&mailbox),
        metrics: Telemetry::new().driver(),
        hooks: Hooks {
            drained: Box::new(|_| {}),
            task_done: Box::new(|_, _, _| {}),
            sample: Box::new(|_| None),
            profile: Box::new(|_, _| {}),
            leg_ended: Box::new(|_| {}),
        },
        recorder: None,
        real_time: false,
        ended: ended.clone(),
    })
    .expect("a thread can be had");
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
