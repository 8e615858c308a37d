//! A simulated world: arrivals and devices on a simulated clock, the real driver between.

use super::device::SimDevice;
use super::service::{FnService, ServiceTime};
use crate::driver::{Clock, Driver, Effects, Recorder};
use crate::id::{DeviceId, RequestId, TaskId};
use crate::sched::{Action, Arrival, Decision, Input, Outcome, Scheduler, Start};
use crate::time::{Nanos, Timestamp};
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

/// What surrounds scheduler and devices: where events come from, and who watches.
pub trait Outside: fmt::Debug {
    /// When the next event comes; never earlier than one that came before.
    fn next_at(&self) -> Option<Timestamp>;

    /// The next event that comes by `now`.
    fn poll(&mut self, now: Timestamp) -> Option<Input>;

    /// Watches an action being carried out.
    fn performed(&mut self, now: Timestamp, action: Action);

    /// Watches a decision; none come where
    /// [`SchedulerConfig::decisions`](crate::sched::SchedulerConfig::decisions) is 0.
    fn note(&mut self, _decision: &Decision) {}
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

/// Events that were written down beforehand, and all that happened: for short scenarios.
#[derive(Debug, Default)]
pub struct Script {
    events: VecDeque<(Timestamp, Input)>,
    /// Every request that ended, in order.
    pub ended: Vec<EndedRequest>,
    /// Every action, in order, with its time.
    pub actions: Vec<(Timestamp, Action)>,
}

impl Outside for Script {
    fn next_at(&self) -> Option<Timestamp> {
        self.events.front().map(|(at, _)| *at)
    }

    fn poll(&mut self, now: Timestamp) -> Option<Input> {
        let due = self.events.pop_front_if(|(at, _)| *at <= now);
        due.map(|(_, input)| input)
    }

    fn performed(&mut self, now: Timestamp, action: Action) {
        if let Action::Finish { request, outcome } = action {
            self.ended.push(EndedRequest {
                request,
                at: now,
                outcome,
            });
        }
        self.actions.push((now, action));
    }
}

/// Carries actions out on simulated devices.
#[derive(Debug)]
pub struct SimEffects<O> {
    /// Rising by id.
    devices: Vec<SimDevice>,
    service: Box<dyn ServiceTime>,
    outside: O,
}

impl<O> SimEffects<O> {
    fn device(&mut self, id: DeviceId) -> Option<&mut SimDevice> {
        let place = self.devices.binary_search_by_key(&id, SimDevice::id).ok()?;
        self.devices.get_mut(place)
    }
}

impl<O: Outside> Effects for SimEffects<O> {
    fn perform(&mut self, now: Timestamp, action: Action) {
        match &action {
            Action::Start(start) => {
                let service = self.service.service(start);
                // The device has no use for the requests.
                let leg = Start {
                    requests: Vec::new(),
                    ..*start
                };
                if let Some(device) = self.device(leg.device) {
                    device.start(now, leg, service);
                }
            }
            &Action::Revoke {
                device, task, leg, ..
            } => {
                if let Some(device) = self.device(device) {
                    device.revoke(now, task, leg);
                }
            }
            Action::Finish { .. } | Action::ModelDrained { .. } => {}
        }
        self.outside.performed(now, action);
    }

    fn note(&mut self, decision: &Decision) {
        self.outside.note(decision);
    }
}

/// The simulated world.
#[derive(Debug)]
pub struct World<O = Script> {
    clock: SimClock,
    driver: Driver<SimClock, SimEffects<O>>,
    /// The devices, to be added.
    inputs: Vec<Input>,
}

impl World {
    /// A world with these devices, at time zero, and an empty script. `service` says how
    /// long legs take alone on their partition.
    pub fn new(
        scheduler: Scheduler,
        devices: Vec<SimDevice>,
        service: impl FnMut(&Start) -> Nanos + 'static,
    ) -> Self {
        let service = Box::new(FnService(service));
        Self::with(scheduler, devices, service, Script::default())
    }

    /// Adds an event from outside.
    ///
    /// # Panics
    /// Where it is earlier than the last one added: events are added in order of time.
    pub fn push(&mut self, at: Timestamp, input: Input) {
        let events = &mut self.effects_mut().events;
        assert!(
            events.back().is_none_or(|(last, _)| *last <= at),
            "events must be added in order of time"
        );
        events.push_back((at, input));
    }

    /// Adds a request that arrives at its `received` time.
    pub fn push_arrival(&mut self, arrival: Arrival) {
        self.push(arrival.received, Input::Arrived(arrival));
    }
}

impl<O: Outside> World<O> {
    /// A world with these devices, at time zero.
    pub fn with(
        scheduler: Scheduler,
        mut devices: Vec<SimDevice>,
        service: Box<dyn ServiceTime>,
        outside: O,
    ) -> Self {
        let clock = SimClock::default();
        devices.sort_by_key(SimDevice::id);
        let added = devices.iter();
        let inputs = added
            .map(|device| Input::DeviceAdded(device.spec().clone()))
            .collect();
        let effects = SimEffects {
            devices,
            service,
            outside,
        };
        Self {
            clock: clock.clone(),
            driver: Driver::new(clock, effects, scheduler),
            inputs,
        }
    }

    /// Logs all inputs.
    #[must_use]
    pub fn recording(mut self, recorder: Box<dyn Recorder>) -> Self {
        self.driver = self.driver.recording(recorder);
        self
    }

    /// Makes the running leg of a task fail when it ends.
    pub fn fail_task(&mut self, device: DeviceId, task: TaskId) {
        if let Some(device) = self.driver.effects_mut().device(device) {
            device.fail(task);
        }
    }

    /// Makes the running leg of a task never end, until its device is lost.
    pub fn hang_task(&mut self, device: DeviceId, task: TaskId) {
        if let Some(device) = self.driver.effects_mut().device(device) {
            device.hang(task);
        }
    }

    /// When the next thing happens; `None` where nothing ever will again.
    pub fn next_at(&mut self) -> Option<Timestamp> {
        let timeout = self.driver.timeout();
        let effects = self.driver.effects_mut();
        let outside = effects.outside.next_at();
        let devices = effects.devices.iter().filter_map(SimDevice::next_event);
        let added = (!self.inputs.is_empty()).then_some(Timestamp::ZERO);
        let times = [outside, timeout, devices.min(), added];
        times.into_iter().flatten().min()
    }

    /// Goes to the next event and delivers all that happens at its time: reports of
    /// devices first, then events from outside, then the scheduler's own timeout.
    /// `false` where nothing will ever happen again.
    pub fn step(&mut self) -> bool {
        self.next_at().map(|at| self.deliver(at)).is_some()
    }

    fn deliver(&mut self, at: Timestamp) {
        self.clock.set(at);
        let now = self.clock.now();
        let inputs = &mut self.inputs;
        let effects = self.driver.effects_mut();
        for device in &mut effects.devices {
            inputs.extend(std::iter::from_fn(|| device.poll_event(now)));
        }
        while let Some(input) = effects.outside.poll(now) {
            if let Input::DeviceLost { device } = &input
                && let Some(device) = effects.device(*device)
            {
                device.reset(now);
            }
            inputs.push(input);
        }
        if inputs.is_empty() {
            inputs.push(Input::Timeout);
        }
        self.driver.deliver(inputs);
    }

    /// Steps until nothing will happen again.
    pub fn run(&mut self) {
        while self.step() {}
    }

    /// Steps through all that happens before `end`.
    pub fn run_before(&mut self, end: Timestamp) {
        while let Some(at) = self.next_at().filter(|&at| at < end) {
            self.deliver(at);
        }
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The scheduler, to look at.
    pub fn scheduler(&self) -> &Scheduler {
        self.driver.scheduler()
    }

    /// What surrounds it, with what happened so far.
    pub fn effects_mut(&mut self) -> &mut O {
        &mut self.driver.effects_mut().outside
    }

    /// What surrounded it, at the end.
    pub fn into_outside(self) -> O {
        self.driver.into_parts().0.outside
    }

    /// The devices, rising by id.
    pub fn devices_mut(&mut self) -> &mut [SimDevice] {
        &mut self.driver.effects_mut().devices
    }
}
