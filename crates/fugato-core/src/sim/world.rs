//! A simulated world: arrivals and devices on a simulated clock, the real driver between.

use super::device::SimDevice;
use crate::driver::{Clock, Driver, Effects, Recorder};
use crate::id::{DeviceId, RequestId};
use crate::sched::{Action, Arrival, Input, Outcome, Scheduler, Start};
use crate::time::{Nanos, Timestamp};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

/// How long a leg takes alone on its partition.
pub trait ServiceTime: fmt::Debug {
    /// The time of one leg; called once per leg, in the order of starts.
    fn service(&mut self, start: &Start) -> Nanos;
}

impl<F: FnMut(&Start) -> Nanos> ServiceTime for FnService<F> {
    fn service(&mut self, start: &Start) -> Nanos {
        (self.0)(start)
    }
}

/// A closure as a [`ServiceTime`].
struct FnService<F>(F);

impl<F> fmt::Debug for FnService<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnService")
    }
}

/// A clock that stands where it is put. Copies show the same time.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Rc<Cell<Timestamp>>);

impl SimClock {
    fn set(&self, now: Timestamp) {
        self.0.set(self.0.get().max(now));
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.get()
    }
}

/// A request that ended, as the driver saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedRequest {
    /// The request.
    pub request: RequestId,
    /// When the driver was told.
    pub at: Timestamp,
    /// How.
    pub outcome: Outcome,
}

/// Carries actions out on simulated devices, and keeps what happened.
#[derive(Debug)]
pub struct SimEffects {
    devices: BTreeMap<DeviceId, SimDevice>,
    service: Box<dyn ServiceTime>,
    /// Every request that ended, in order.
    pub ended: Vec<EndedRequest>,
    /// Every action, in order, with its time.
    pub actions: Vec<(Timestamp, Action)>,
}

impl Effects for SimEffects {
    fn perform(&mut self, now: Timestamp, action: Action) {
        match &action {
            Action::Start(start) => {
                let service = self.service.service(start);
                if let Some(device) = self.devices.get_mut(&start.device) {
                    device.start(now, start.clone(), service);
                }
            }
            Action::Revoke {
                device, task, leg, ..
            } => {
                if let Some(device) = self.devices.get_mut(device) {
                    device.revoke(now, *task, *leg);
                }
            }
            &Action::Finish { request, outcome } => self.ended.push(EndedRequest {
                request,
                at: now,
                outcome,
            }),
            Action::ModelDrained { .. } => {}
        }
        self.actions.push((now, action));
    }
}

/// The simulated world.
#[derive(Debug)]
pub struct World {
    clock: SimClock,
    driver: Driver<SimClock, SimEffects>,
    outside: VecDeque<(Timestamp, Input)>,
}

impl World {
    /// A world with these devices, at time zero. `service` says how long legs take.
    pub fn new(
        scheduler: Scheduler,
        devices: Vec<SimDevice>,
        service: impl FnMut(&Start) -> Nanos + 'static,
    ) -> Self {
        let clock = SimClock::default();
        let added = devices
            .iter()
            .map(|device| (Timestamp::ZERO, Input::DeviceAdded(device.spec().clone())));
        let outside = added.collect();
        let devices = devices
            .into_iter()
            .map(|device| (device.id(), device))
            .collect();
        let service = Box::new(FnService(service));
        let effects = SimEffects {
            devices,
            service,
            ended: Vec::new(),
            actions: Vec::new(),
        };
        Self {
            clock: clock.clone(),
            driver: Driver::new(clock, effects, scheduler),
            outside,
        }
    }

    /// Logs all inputs.
    #[must_use]
    pub fn recording(mut self, recorder: Box<dyn Recorder>) -> Self {
        self.driver = self.driver.recording(recorder);
        self
    }

    /// Adds an event from outside.
    ///
    /// # Panics
    /// Where it is earlier than the last one added: events are added in order of time.
    pub fn push(&mut self, at: Timestamp, input: Input) {
        assert!(
            self.outside.back().is_none_or(|(last, _)| *last <= at),
            "events must be added in order of time"
        );
        self.outside.push_back((at, input));
    }

    /// Adds a request that arrives at its `received` time.
    pub fn push_arrival(&mut self, arrival: Arrival) {
        self.push(arrival.received, Input::Arrived(arrival));
    }

    /// Makes the running leg of a task fail when it ends.
    pub fn fail_task(&mut self, device: DeviceId, task: crate::id::TaskId) {
        if let Some(device) = self.driver.effects_mut().devices.get_mut(&device) {
            device.fail(task);
        }
    }

    /// Goes to the next event and delivers all that happens at its time: reports of
    /// devices first, then events from outside, then the scheduler's own timeout.
    /// `false` where nothing will ever happen again.
    pub fn step(&mut self) -> bool {
        let outside = self.outside.front().map(|(at, _)| *at);
        let timeout = self.driver.timeout();
        let devices = self
            .driver
            .effects_mut()
            .devices
            .values()
            .filter_map(SimDevice::next_event)
            .min();
        let Some(at) = [outside, timeout, devices].into_iter().flatten().min() else {
            return false;
        };
        self.clock.set(at);
        let now = self.clock.now();
        let mut inputs = Vec::new();
        for device in self.driver.effects_mut().devices.values_mut() {
            inputs.extend(std::iter::from_fn(|| device.poll_event(now)));
        }
        while let Some((_, input)) = self.outside.pop_front_if(|(at, _)| *at <= now) {
            if let Input::DeviceLost { device } = &input
                && let Some(device) = self.driver.effects_mut().devices.get_mut(device)
            {
                device.reset();
            }
            inputs.push(input);
        }
        if inputs.is_empty() {
            inputs.push(Input::Timeout);
        }
        self.driver.deliver(&mut inputs);
        true
    }

    /// Steps until nothing will happen again.
    pub fn run(&mut self) {
        while self.step() {}
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The scheduler, to look at.
    pub fn scheduler(&self) -> &Scheduler {
        self.driver.scheduler()
    }

    /// What happened so far.
    pub fn effects_mut(&mut self) -> &mut SimEffects {
        self.driver.effects_mut()
    }
}
