//! What every device owes the driver, run against each kind of device.
//!
//! A device is a [`Subject`]: how to make it with an identity model loaded, and the list
//! of what it *cannot* do. A case about an ability that a subject lacks checks what the
//! lack must look like from outside; no case is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed unwrap is a failed test, which says the device it failed on"
)]

mod common;

use bytes::Bytes;
use common::{Bench, identity, request, strings};
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::sched::Start;
use fugato_core::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, Nanos, PartitionId, RequestId, Share,
    SlotIndex, TaskId, Timestamp,
};
use fugato_device::{
    CpuDevice, CpuOptions, Device, DeviceEvent, EventSink, InputData, LegWork, LoadOptions,
    MonotonicClock, RequestInputs, RevokeLeg, RunErrorKind, RunSplit, TaskOutputs, TensorData,
};
use fugato_onnx::DataType;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The model every subject has loaded: `y = x` over rows of two strings, at most 8 rows.
const MODEL: ModelId = ModelId(1);

/// What a device may be unable to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ability {
    /// Give outputs. A device without it gives none.
    Compute,
    /// Run urgent legs before normal ones of the same atoms. A device without it
    /// publishes no urgent lane.
    Preempt,
    /// Hold a leg until its time. A device without it starts legs at once.
    Wait,
}

struct Subject {
    name: &'static str,
    cannot: &'static [Ability],
    make: fn(MonotonicClock, EventSink) -> Box<dyn Device>,
}

/// Add a device here, with all that it cannot do.
const SUBJECTS: [Subject; 2] = [
    Subject {
        name: "cpu",
        cannot: &[],
        make: |clock, sink| {
            let bench = Bench::new();
            let device = CpuDevice::new(DeviceId(0), CpuOptions::default(), clock, sink).unwrap();
            let stored = bench.prepare(&identity(DataType::String, 2));
            let options = LoadOptions {
                max_batch: 8,
                ..LoadOptions::default()
            };
            device.load(MODEL, &stored, &options).unwrap();
            Box::new(device)
        },
    },
    Subject {
        name: "instant",
        cannot: &[Ability::Compute, Ability::Preempt, Ability::Wait],
        make: |clock, sink| Box::new(Instant::new(clock, sink)),
    },
];

/// The least device there is: a leg ends where it starts, without a result.
struct Instant {
    spec: DeviceSpec,
    clock: MonotonicClock,
    sink: EventSink,
}

impl Instant {
    fn new(clock: MonotonicClock, sink: EventSink) -> Self {
        let lanes = [LaneClass::Normal];
        let spec = DeviceSpec::nested(DeviceId(0), "instant", Share(2), &lanes, &lanes);
        Self { spec, clock, sink }
    }
}

impl Device for Instant {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn start(&self, work: LegWork) {
        let Start {
            device,
            task,
            leg,
            model,
            batch,
            ..
        } = work.start;
        let now = self.clock.now();
        (self.sink)(DeviceEvent::Started {
            device,
            task,
            leg,
            at: now,
        });
        let result = match model {
            MODEL => Ok(TaskOutputs::default()),
            model => Err(fugato_device::RunError {
                model,
                batch: batch.0,
                kind: RunErrorKind::ModelNotLoaded,
                detail: "only one model is".to_owned(),
            }),
        };
        (self.sink)(DeviceEvent::Finished {
            device,
            task,
            leg,
            started: now,
            ended: now,
            split: RunSplit::default(),
            result,
        });
    }

    fn revoke(&self, _: &RevokeLeg) {}
}

/// A subject at work, and what it reports.
struct Rig {
    device: Box<dyn Device>,
    clock: MonotonicClock,
    events: Receiver<DeviceEvent>,
}

impl Rig {
    fn new(subject: &Subject) -> Self {
        let clock = MonotonicClock::start();
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let sink: EventSink = Arc::new(move |event| {
            let _ = sender.lock().unwrap().send(event);
        });
        Self {
            device: (subject.make)(clock, sink),
            clock,
            events,
        }
    }

    fn event(&self) -> DeviceEvent {
        self.events.recv_timeout(Duration::from_secs(120)).unwrap()
    }

    /// Every event until each of `tasks` has ended.
    fn until_ended(&self, tasks: usize) -> Vec<DeviceEvent> {
        let (mut events, mut ended) = (Vec::new(), 0);
        while ended < tasks {
            let event = self.event();
            ended += usize::from(!matches!(event, DeviceEvent::Started { .. }));
            events.push(event);
        }
        assert!(
            self.events.try_recv().is_err(),
            "an event too many after {events:?}"
        );
        events
    }
}

/// For each subject: runs `case`, naming the subject where it fails.
fn for_each(case: impl Fn(&Subject, &Rig)) {
    for subject in &SUBJECTS {
        eprintln!(
            "device `{}`, which cannot {:?}",
            subject.name, subject.cannot
        );
        case(subject, &Rig::new(subject));
    }
}

fn rows(items: u32, seed: u8) -> RequestInputs {
    let text = vec![seed; usize::from(seed)];
    let row: [&[u8]; 2] = [&text, b"\x00end"];
    request(
        items,
        vec![strings(&[items.into(), 2], &row.repeat(items as usize))],
    )
}

fn leg(task: u64, requests: Vec<RequestInputs>) -> LegWork {
    let batch = requests.iter().map(|request| request.items).sum();
    LegWork {
        start: Start {
            device: DeviceId(0),
            task: TaskId(task),
            model: MODEL,
            leg: LegIndex(0),
            partition: PartitionId(0),
            lane: LaneId(0),
            slot: SlotIndex(u16::try_from(task % 2).unwrap()),
            batch: BatchSize(batch),
            unsplit: false,
            not_before: Timestamp::ZERO,
            requests: (0..requests.len() as u64).map(RequestId).collect(),
        },
        requests,
    }
}

#[test]
fn it_publishes_partitions_that_can_be_scheduled() {
    for_each(|subject, rig| {
        let spec = rig.device.spec();
        spec.validate().unwrap();
        let urgent = spec
            .partitions
            .iter()
            .filter(|partition| partition.lanes.contains(&LaneClass::Urgent));
        let expected = match subject.cannot.contains(&Ability::Preempt) {
            true => 0,
            false => spec.partitions.len(),
        };
        assert_eq!(urgent.count(), expected);
    });
}

#[test]
fn it_reports_a_start_and_then_an_end_in_order_of_the_lane() {
    for_each(|_, rig| {
        let before = rig.clock.now();
        for task in 0..2 {
            rig.device.start(leg(task, vec![rows(1, 3)]));
        }
        let events = rig.until_ended(2);
        let mut last = before;
        for (index, event) in events.iter().enumerate() {
            let expected = TaskId(index as u64 / 2);
            match event {
                DeviceEvent::Started { task, at, .. } => {
                    assert_eq!((index % 2, *task), (0, expected));
                    assert!(*at >= last);
                    last = *at;
                }
                DeviceEvent::Finished {
                    task,
                    started,
                    ended,
                    split,
                    result,
                    ..
                } => {
                    assert_eq!((index % 2, *task), (1, expected));
                    assert!(result.is_ok(), "{result:?}");
                    assert_eq!(*started, last);
                    let parts = split.input + split.infer + split.output;
                    assert!(
                        parts <= *ended - *started,
                        "{split:?} of {started} .. {ended}"
                    );
                    last = *ended;
                }
                DeviceEvent::Revoked { .. } => panic!("nothing was revoked: {events:?}"),
                DeviceEvent::Lost { .. } => panic!("nothing was lost: {events:?}"),
            }
        }
        assert!(last <= rig.clock.now());
    });
}

#[test]
fn it_gives_each_request_its_own_rows() {
    for_each(|subject, rig| {
        let requests = vec![rows(1, 1), rows(3, 2), rows(2, 5)];
        rig.device.start(leg(0, requests.clone()));
        let events = rig.until_ended(1);
        let Some(DeviceEvent::Finished {
            result: Ok(outputs),
            ..
        }) = events.last()
        else {
            panic!("a good leg ends well: {events:?}");
        };
        if subject.cannot.contains(&Ability::Compute) {
            assert!(outputs.requests.is_empty());
            return;
        }
        assert_eq!(outputs.requests.len(), requests.len());
        for (sent, received) in requests.iter().zip(&outputs.requests) {
            let received = received.as_ref().expect("its inputs are here");
            assert_eq!(received.len(), 1);
            assert_eq!(received[0].shape, sent.inputs[0].shape);
            assert_eq!(
                InputData::from(received[0].data.clone()),
                sent.inputs[0].data
            );
            let TensorData::Strings(strings) = &received[0].data else {
                panic!("strings went in");
            };
            assert_eq!(strings[1], Bytes::from_static(b"\x00end"));
        }
    });
}

#[test]
fn a_leg_of_an_unknown_model_ends_badly_and_harms_nobody() {
    for_each(|_, rig| {
        let mut unknown = leg(0, vec![rows(1, 1)]);
        unknown.start.model = ModelId(77);
        rig.device.start(unknown);
        let events = rig.until_ended(1);
        let Some(DeviceEvent::Finished {
            result: Err(error), ..
        }) = events.last()
        else {
            panic!("it cannot end well: {events:?}");
        };
        assert_eq!(
            (error.kind, error.model),
            (RunErrorKind::ModelNotLoaded, ModelId(77))
        );
        rig.device.start(leg(1, vec![rows(1, 1)]));
        let events = rig.until_ended(1);
        assert!(matches!(
            events.last(),
            Some(DeviceEvent::Finished { result: Ok(_), .. })
        ));
    });
}

#[test]
fn it_holds_a_leg_until_its_time_and_gives_it_back_meanwhile() {
    for_each(|subject, rig| {
        let mut late = leg(0, vec![rows(1, 1)]);
        late.start.not_before = Timestamp::MAX;
        let revocation = RevokeLeg {
            task: late.start.task,
            leg: late.start.leg,
            partition: late.start.partition,
            lane: late.start.lane,
        };
        rig.device.start(late);
        rig.device.revoke(&revocation);
        let events = rig.until_ended(1);
        let was_revoked = matches!(
            events[..],
            [DeviceEvent::Revoked {
                task: TaskId(0),
                ..
            }]
        );
        assert_eq!(
            was_revoked,
            !subject.cannot.contains(&Ability::Wait),
            "{events:?}"
        );
        let mut soon = leg(1, vec![rows(1, 1)]);
        let not_before = rig.clock.now() + Nanos::from_millis(5);
        soon.start.not_before = not_before;
        rig.device.start(soon);
        let events = rig.until_ended(1);
        let Some(DeviceEvent::Started { at, .. }) = events.first() else {
            panic!("it starts: {events:?}");
        };
        assert!(*at >= not_before || subject.cannot.contains(&Ability::Wait));
    });
}

#[test]
fn a_committed_leg_is_started_or_revoked_and_never_both() {
    for_each(|_, rig| {
        for round in 0..500 {
            let legs = [
                leg(2 * round, vec![rows(1, 1)]),
                leg(2 * round + 1, vec![rows(1, 1)]),
            ];
            let committed = legs[1].start.task;
            let revocation = RevokeLeg {
                task: committed,
                leg: LegIndex(0),
                partition: PartitionId(0),
                lane: LaneId(0),
            };
            for leg in legs {
                rig.device.start(leg);
            }
            rig.device.revoke(&revocation);
            let events = rig.until_ended(2);
            let fates = events.iter().filter(|event| match event {
                DeviceEvent::Started { task, .. } | DeviceEvent::Revoked { task, .. } => {
                    *task == committed
                }
                DeviceEvent::Finished { .. } | DeviceEvent::Lost { .. } => false,
            });
            assert_eq!(fates.count(), 1, "{events:?}");
        }
    });
}
