//! A world whose scheduler is checked after every drain.

use crate::reference::Reference;
use fugato_core::device::DeviceSpec;
use fugato_core::sched::{
    Action, Arrival, Input, LegResult, Outcome, Scheduler, SchedulerConfig, Start,
};
use fugato_core::sim::SimDevice;
use fugato_core::{DeviceId, Nanos, RequestId, Timestamp};
use std::collections::VecDeque;
use std::fmt;

/// A generator of the world's own random numbers: SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Whether something of `percent` happens.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What happens to the world from outside.
#[derive(Clone, Debug)]
pub enum Event {
    Input(Input),
    /// What runs on a device fails when it ends.
    Fail(DeviceId),
    /// What runs on a device never ends.
    Hang(DeviceId),
    /// A device is lost, if it is there; late reports of what it ran may follow.
    Lose(DeviceId),
    /// A device is back, if it was lost.
    Return(DeviceId),
}

/// The world.
pub struct Harness {
    pub scheduler: Scheduler,
    pub reference: Reference,
    pub now: Timestamp,
    /// Every action, with its time.
    pub actions: Vec<(Timestamp, Action)>,
    devices: Vec<SimDevice>,
    outside: VecDeque<(Timestamp, Event)>,
    service: Box<dyn FnMut(&Start) -> Nanos>,
    random: Random,
    /// The percentage of inputs that are drained one by one, and of wake-ups that are late.
    singly: u64,
    late: u64,
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

impl Harness {
    /// A world of these devices that wakes in time.
    pub fn new(
        config: SchedulerConfig,
        devices: Vec<DeviceSpec>,
        service: impl FnMut(&Start) -> Nanos + 'static,
    ) -> Self {
        let mut world = Self {
            scheduler: Scheduler::new(config.clone()),
            reference: Reference::new(config),
            now: Timestamp::ZERO,
            actions: Vec::new(),
            devices: devices.iter().cloned().map(SimDevice::new).collect(),
            outside: VecDeque::new(),
            service: Box::new(service),
            random: Random(0),
            singly: 100,
            late: 0,
        };
        for device in devices {
            world.push(Timestamp::ZERO, Event::Input(Input::DeviceAdded(device)));
        }
        world
    }

    /// Hands some inputs in together, and sometimes wakes late, up to seconds.
    pub fn unruly(mut self, random: Random) -> Self {
        self.random = random;
        self.singly = 70;
        self.late = 10;
        self
    }

    pub fn push(&mut self, at: Timestamp, event: Event) {
        let last = self.outside.back().map_or(Timestamp::ZERO, |(at, _)| *at);
        self.outside.push_back((at.max(last), event));
    }

    pub fn input(&mut self, at: Timestamp, input: Input) {
        self.push(at, Event::Input(input));
    }

    pub fn arrival(&mut self, arrival: Arrival) {
        self.input(arrival.received, Input::Arrived(arrival));
    }

    fn next_at(&self) -> Option<Timestamp> {
        let outside = self.outside.front().map(|(at, _)| *at);
        let devices = self.devices.iter().filter_map(SimDevice::next_event);
        let timeout = self.scheduler.poll_timeout();
        devices.chain(outside).chain(timeout).min()
    }

    /// Goes to the next time at which anything happens; `false` where nothing will.
    pub fn step(&mut self) -> bool {
        let Some(next) = self.next_at() else {
            return false;
        };
        let late = if self.random.chance(self.late) {
            let most = [1_000, 1_000_000, 100_000_000][self.random.below(3) as usize];
            self.random.below(most)
        } else {
            0
        };
        self.go_to(next.max(self.now) + Nanos::new(late));
        true
    }

    /// Lets all happen up to `now`, without having looked before.
    pub fn go_to(&mut self, now: Timestamp) {
        self.now = now;
        let mut reports: VecDeque<Input> = VecDeque::new();
        for device in &mut self.devices {
            reports.extend(std::iter::from_fn(|| device.poll_event(now)));
        }
        let mut any = !reports.is_empty();
        for report in reports {
            self.hand_in(report);
        }
        while let Some((_, event)) = self.outside.pop_front_if(|(at, _)| *at <= now) {
            any = true;
            self.happen(event);
        }
        if !any {
            self.hand_in(Input::Timeout);
        }
        self.drain();
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.hand_in(input),
            Event::Fail(id) => self.each_running(id, SimDevice::fail),
            Event::Hang(id) => self.each_running(id, SimDevice::hang),
            Event::Lose(id) => self.lose(id),
            Event::Return(id) => {
                if !self.reference.is_present(id) {
                    let spec = self.device(id).spec().clone();
                    self.hand_in(Input::DeviceAdded(spec));
                }
            }
        }
    }

    fn each_running(&mut self, id: DeviceId, what: fn(&mut SimDevice, fugato_core::TaskId)) {
        for (task, _) in self.reference.running(id) {
            what(self.device(id), task);
        }
    }

    fn lose(&mut self, id: DeviceId) {
        if !self.reference.is_present(id) {
            return;
        }
        // What was decided before it was lost.
        self.hand_in(Input::Timeout);
        self.drain();
        let running = self.reference.running(id);
        let now = self.now;
        self.device(id).reset(now);
        self.hand_in(Input::DeviceLost { device: id });
        let late = running.first().filter(|_| self.random.chance(50));
        if let Some(&(task, leg)) = late {
            self.hand_in(Input::LegFinished {
                device: id,
                task,
                leg,
                started: now,
                ended: now,
                result: LegResult::Failed,
            });
        }
    }

    fn device(&mut self, id: DeviceId) -> &mut SimDevice {
        let device = self.devices.iter_mut().find(|device| device.id() == id);
        device.expect("a device of the world")
    }

    fn hand_in(&mut self, input: Input) {
        self.reference.input(self.now, &input);
        self.scheduler.handle(self.now, input);
        if self.random.chance(self.singly) {
            self.drain();
        }
    }

    fn drain(&mut self) {
        let now = self.now;
        while let Some(action) = self.scheduler.poll_action() {
            self.reference.action(now, &action);
            match &action {
                Action::Start(start) => {
                    let service = (self.service)(start);
                    self.device(start.device).start(now, start.clone(), service);
                }
                Action::Revoke {
                    device, task, leg, ..
                } => self.device(*device).revoke(now, *task, *leg),
                Action::Finish { .. } | Action::ModelDrained { .. } => {}
            }
            self.actions.push((now, action));
        }
        self.reference.drained(now, &self.scheduler);
    }

    /// Steps until nothing happens any more; a scheduler that goes in circles must not take
    /// the machine.
    pub fn run(&mut self, steps_max: usize) {
        for _ in 0..steps_max {
            if !self.step() {
                return;
            }
        }
        panic!(
            "the world does not come to rest in {steps_max} steps, at {:?}",
            self.now
        );
    }

    /// How each request ended, in order.
    pub fn outcomes(&self) -> &[(RequestId, Outcome)] {
        &self.reference.ended
    }

    pub fn count(&self, is_it: impl Fn(&Outcome) -> bool) -> usize {
        let ended = self.reference.ended.iter();
        ended.filter(|(_, outcome)| is_it(outcome)).count()
    }
}
