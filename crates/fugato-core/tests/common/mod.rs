//! What the scheduler tests share: a small language for scenarios.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(
    clippy::disallowed_types,
    reason = "a test reads the log while the world writes it"
)]

use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::driver::{RecordedInputs, Recorder};
use fugato_core::sched::{
    Action, Arrival, DynamicBatching, Input, ModelSpec, Outcome, Overdue, PolicySpec, QueueLimits,
    Scheduler, SchedulerConfig, Start,
};
use fugato_core::sim::{SimDevice, World};
use fugato_core::{BatchSize, DeviceId, ModelId, Nanos, RequestId, ShapeClass, Share, Timestamp};
use std::sync::{Arc, Mutex};

pub const US: u64 = 1_000;
pub const MS: u64 = 1_000_000;

pub fn at(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

pub fn config(policy: PolicySpec) -> SchedulerConfig {
    SchedulerConfig {
        policy,
        ..SchedulerConfig::default()
    }
}

pub fn device(id: u16, slices: u16, lanes: usize) -> DeviceSpec {
    DeviceSpec::nested(
        DeviceId(id),
        "sim",
        Share(slices),
        &vec![LaneClass::Normal; lanes],
        &[LaneClass::Normal],
    )
}

pub fn model(id: u32) -> ModelSpec {
    ModelSpec {
        id: ModelId(id),
        name: format!("model-{id}"),
        slo: None,
        weight: 1.0,
        max_batch: BatchSize(8),
        slots: 2,
        legs: 1,
        unsplit: false,
        devices: vec![DeviceId(0)],
        limits: QueueLimits {
            requests: 1_000,
            bytes: 1 << 30,
        },
        batching: DynamicBatching::default(),
    }
}

pub fn arrival(request: u64, model: u32, received: u64) -> Arrival {
    Arrival {
        request: RequestId(request),
        model: ModelId(model),
        items: BatchSize(1),
        bytes: 4,
        class: ShapeClass(0),
        received: at(received),
        deadline: None,
        queue_timeout: None,
        overdue: Overdue::Drop,
        priority: 0,
    }
}

/// A log that the test can read while the world writes it.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<RecordedInputs>>>);

impl Recorder for Log {
    fn record(&mut self, at: Timestamp, inputs: &[Input]) {
        let inputs = RecordedInputs {
            at,
            inputs: inputs.to_vec(),
        };
        self.0.lock().expect("no writer panicked").push(inputs);
    }
}

impl Log {
    pub fn read(&self) -> Vec<RecordedInputs> {
        self.0.lock().expect("no writer panicked").clone()
    }
}

pub fn world(
    config: SchedulerConfig,
    devices: Vec<DeviceSpec>,
    service: impl FnMut(&Start) -> Nanos + 'static,
) -> World {
    World::new(
        Scheduler::new(config),
        devices.into_iter().map(SimDevice::new).collect(),
        service,
    )
}

pub fn starts(world: &mut World) -> Vec<(u64, Start)> {
    let actions = &world.effects_mut().actions;
    actions
        .iter()
        .filter_map(|(at, action)| match action {
            Action::Start(start) => Some((at.as_nanos(), start.clone())),
            Action::Revoke { .. } | Action::Finish { .. } | Action::ModelDrained { .. } => None,
        })
        .collect()
}

/// The requests of each task, in order of starts.
pub fn batches(world: &mut World) -> Vec<Vec<u64>> {
    let starts = starts(world);
    starts
        .iter()
        .map(|(_, start)| start.requests.iter().map(|request| request.0).collect())
        .collect()
}

pub fn outcomes(world: &mut World) -> Vec<(u64, Outcome)> {
    world
        .effects_mut()
        .ended
        .iter()
        .map(|ended| (ended.request.0, ended.outcome))
        .collect()
}
