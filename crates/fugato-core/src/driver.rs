//! The driver: the scheduler between a clock and what carries its actions out.
//!
//! The server's driver thread and the simulator's loop are both this type; they differ in
//! the [`Clock`] and the [`Effects`] they give it. That is why a scenario on the simulator
//! and on the real driver gives the same decisions.

use crate::sched::{Action, Decision, INPUT_VERSION, Input, Scheduler, SchedulerConfig};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a driver takes the time from.
pub trait Clock {
    /// The present; never goes back.
    fn now(&self) -> Timestamp;
}

/// What carries actions out.
pub trait Effects {
    /// Carries one action out. It must not block, and reports come back as inputs.
    fn perform(&mut self, now: Timestamp, action: Action);

    /// Takes note of a decision, in order; those that led to an action come before it.
    /// None come where [`SchedulerConfig::decisions`] is 0.
    fn note(&mut self, _decision: &Decision) {}
}

/// What keeps a log of inputs.
pub trait Recorder: fmt::Debug + Send {
    /// Keeps the inputs that were handed in together at `at`.
    fn record(&mut self, at: Timestamp, inputs: &[Input]);
}

/// The scheduler, a clock, and what carries actions out.
#[derive(Debug)]
pub struct Driver<C, E> {
    clock: C,
    effects: E,
    scheduler: Scheduler,
    recorder: Option<Box<dyn Recorder>>,
}

impl<C: Clock, E: Effects> Driver<C, E> {
    /// A driver that keeps no log.
    pub fn new(clock: C, effects: E, scheduler: Scheduler) -> Self {
        Self {
            clock,
            effects,
            scheduler,
            recorder: None,
        }
    }

    /// Logs all inputs from here on.
    #[must_use]
    pub fn recording(mut self, recorder: Box<dyn Recorder>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Hands in all inputs that are at hand (one decision then sees them all), and
    /// carries out what the scheduler decides. Leaves `inputs` empty.
    pub fn deliver(&mut self, inputs: &mut Vec<Input>) {
        let now = self.clock.now();
        if let Some(recorder) = &mut self.recorder {
            recorder.record(now, inputs);
        }
        for input in inputs.drain(..) {
            self.scheduler.handle(now, input);
        }
        while let Some(action) = self.scheduler.poll_action() {
            self.note_decisions();
            self.effects.perform(now, action);
        }
        self.note_decisions();
    }

    fn note_decisions(&mut self) {
        while let Some(decision) = self.scheduler.poll_decision() {
            self.effects.note(&decision);
        }
    }

    /// When to deliver [`Input::Timeout`] if nothing happens before.
    pub fn timeout(&self) -> Option<Timestamp> {
        self.scheduler.poll_timeout()
    }

    /// The clock.
    pub fn clock(&self) -> &C {
        &self.clock
    }

    /// The scheduler, to look at.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// What carries the actions out.
    pub fn effects_mut(&mut self) -> &mut E {
        &mut self.effects
    }

    /// The parts, at the end.
    pub fn into_parts(self) -> (E, Scheduler) {
        (self.effects, self.scheduler)
    }
}

/// What a recording begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingHeader {
    /// [`INPUT_VERSION`] of the writer.
    pub input_version: u32,
    /// The version of the program that wrote it; replay promises equal hashes for the
    /// same one.
    pub program: String,
    /// The settings the scheduler began with.
    pub config: SchedulerConfig,
}

/// Inputs that were handed in together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedInputs {
    /// When.
    pub at: Timestamp,
    /// The inputs, in order.
    pub inputs: Vec<Input>,
}

/// What a recording ends with, if it ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingFooter {
    /// Actions the scheduler gave.
    pub actions: u64,
    /// [`Scheduler::action_hash`] at the end.
    pub action_hash: u64,
}

/// A recording whose inputs this program cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recording has input version {found}, this program reads {INPUT_VERSION}")]
pub struct InputVersionError {
    /// The recording's version.
    pub found: u32,
}

/// Feeds recorded inputs to a new scheduler.
#[derive(Debug)]
pub struct Replay {
    scheduler: Scheduler,
    actions: u64,
}

impl Replay {
    /// A replay of the recording with this header.
    ///
    /// # Errors
    /// Where the recording's input version is not this program's.
    pub fn new(header: &RecordingHeader) -> Result<Self, InputVersionError> {
        if header.input_version != INPUT_VERSION {
            return Err(InputVersionError {
                found: header.input_version,
            });
        }
        Ok(Self {
            scheduler: Scheduler::new(header.config.clone()),
            actions: 0,
        })
    }

    /// Feeds inputs that were handed in together; gives the actions they led to.
    pub fn feed(&mut self, recorded: RecordedInputs) -> Vec<Action> {
        for input in recorded.inputs {
            self.scheduler.handle(recorded.at, input);
        }
        let actions: Vec<Action> = std::iter::from_fn(|| self.scheduler.poll_action()).collect();
        self.actions += actions.len() as u64;
        actions
    }

    /// What the recording's footer should say.
    pub fn footer(&self) -> RecordingFooter {
        RecordingFooter {
            actions: self.actions,
            action_hash: self.scheduler.action_hash(),
        }
    }
}
