//! The driver thread: the scheduler on the real clock and real devices.
//!
//! Everything that happens (requests, cancellations, reports of devices, commands) goes
//! into one [`Mailbox`]; the thread takes all that is at hand at once, hands it to the
//! scheduler, and carries the actions out. It is the only thread that touches the
//! scheduler, and it never blocks on anything but its mailbox (and on the recorder, where
//! a recording was asked for).

mod course;
mod effects;
mod mailbox;
mod record;
#[cfg(test)]
mod tests;

pub use course::{Accepted, Course, LegCourse};
pub use effects::{
    Answer, DeviceLostHook, Hooks, Payload, ProfileEvent, ReplyResult, SampleHook, ServeFailure,
    Served, TaskDoneHook, TaskTiming,
};
pub use mailbox::{Mailbox, NotTaken};
pub use record::{FileRecorder, RecorderThread, RecordingError, Replayed, replay};

use crate::telemetry::DriverMetrics;
use effects::DeviceEffects;
use fugato_core::driver::{Clock, Driver, Recorder};
use fugato_core::sched::{Input, LegResult, Scheduler};
use fugato_core::{DeviceId, Timestamp};
use fugato_device::{Device, DeviceEvent, MonotonicClock, RunErrorKind, hasten_this_thread};
use mailbox::{Message, Stamped};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A clock that a driver thread can wait on.
pub trait WaitClock: Clock + Send + 'static {
    /// How long to wait for `until` if nothing happens before.
    fn wait(&self, until: Timestamp) -> Duration;
}

/// The real clock, for the driver.
#[derive(Clone, Copy, Debug)]
pub struct RealClock(pub MonotonicClock);

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

impl WaitClock for RealClock {
    fn wait(&self, until: Timestamp) -> Duration {
        (until - self.0.now()).into()
    }
}

/// What a driver thread is made of.
pub struct DriverParts<C> {
    /// Its clock.
    pub clock: C,
    /// Its scheduler.
    pub scheduler: Scheduler,
    /// The devices it starts legs on. They must already be inputs of the mailbox.
    pub devices: BTreeMap<DeviceId, Arc<dyn Device>>,
    /// Where it hears of everything.
    pub mailbox: Arc<Mailbox>,
    /// What it counts.
    pub metrics: Arc<DriverMetrics>,
    /// Called on the thread.
    pub hooks: Hooks,
    /// Keeps its inputs.
    pub recorder: Option<Box<dyn Recorder>>,
    /// Whether to ask for real-time priority for the thread.
    pub real_time: bool,
    /// Cancelled when the thread ends, in whatever way.
    pub ended: CancellationToken,
}

/// Tells those who wait for a driver that it has ended, even where it panicked.
struct Ending {
    mailbox: Arc<Mailbox>,
    ended: CancellationToken,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.mailbox.abandon();
        self.ended.cancel();
    }
}

/// Starts a driver thread. It ends after [`Mailbox::close`], when everything that was in
/// the mailbox by then is done; the scheduler is given back.
///
/// # Errors
/// Where the operating system gives no thread.
pub fn spawn<C: WaitClock>(parts: DriverParts<C>) -> io::Result<JoinHandle<Scheduler>> {
    let builder = std::thread::Builder::new().name("fugato-driver".to_owned());
    builder.spawn(move || {
        let _ending = Ending {
            mailbox: Arc::clone(&parts.mailbox),
            ended: parts.ended.clone(),
        };
        let promptness = hasten_this_thread(parts.real_time);
        tracing::debug!(?promptness, "the driver's thread begins");
        let DriverParts {
            clock,
            scheduler,
            devices,
            mailbox,
            metrics,
            hooks,
            recorder,
            real_time: _,
            ended: _,
        } = parts;
        let effects = DeviceEffects::new(devices, hooks);
        let mut driver = Driver::new(clock, effects, scheduler);
        if let Some(recorder) = recorder {
            driver = driver.recording(recorder);
        }
        drive(&mut driver, &mailbox, &metrics);
        let (effects, scheduler) = driver.into_parts();
        effects.abandon_all();
        scheduler
    })
}

fn drive<C: WaitClock>(
    driver: &mut Driver<C, DeviceEffects>,
    mailbox: &Mailbox,
    metrics: &DriverMetrics,
) {
    let mut messages = Vec::new();
    let mut inputs = Vec::new();
    let mut queries = Vec::new();
    loop {
        let wait = driver.timeout().map(|until| driver.clock().wait(until));
        let open = mailbox.take(&mut messages, wait);
        let taken = driver.clock().now();
        let oldest = messages.iter().map(|message: &Stamped| message.at).min();
        for Stamped { message, .. } in messages.drain(..) {
            match message {
                Message::Query(query) => queries.push(query),
                event @ (Message::Arrived(..) | Message::Device(_) | Message::Control(_)) => {
                    inputs.extend(input_of(driver.effects_mut(), event));
                }
            }
        }
        if inputs.is_empty() && driver.timeout().is_some_and(|until| until <= taken) {
            inputs.push(Input::Timeout);
        }
        if !inputs.is_empty() {
            let events = inputs.len();
            driver.deliver(&mut inputs);
            let now = driver.clock().now();
            metrics.decided(events, now - taken, oldest.map(|oldest| now - oldest));
        }
        for query in queries.drain(..) {
            query(driver.scheduler());
        }
        if !open {
            return;
        }
    }
}

/// The scheduler's input of a message; the payload stays with the effects.
fn input_of(effects: &mut DeviceEffects, message: Message) -> Option<Input> {
    match message {
        Message::Arrived(arrival, payload) => {
            effects.open(arrival.request, payload);
            Some(Input::Arrived(arrival))
        }
        Message::Control(input) => Some(*input),
        Message::Device(DeviceEvent::Started {
            device,
            task,
            leg,
            at,
        }) => Some(Input::LegStarted {
            device,
            task,
            leg,
            at,
        }),
        Message::Device(DeviceEvent::Revoked { device, task, leg }) => {
            effects.leg_revoked(task, leg);
            Some(Input::LegRevoked { device, task, leg })
        }
        // The leg has not ended: nothing on that device ever does.
        Message::Device(DeviceEvent::Finished {
            device,
            result: Err(error),
            ..
        }) if error.kind == RunErrorKind::DeviceLost => {
            effects.device_lost(device, &error.detail);
            Some(Input::DeviceLost { device })
        }
        Message::Device(DeviceEvent::Lost { device, detail }) => {
            effects.device_lost(device, &detail);
            Some(Input::DeviceLost { device })
        }
        Message::Device(DeviceEvent::Finished {
            device,
            task,
            leg,
            started,
            ended,
            split,
            result,
        }) => {
            let done = result.is_ok();
            effects.leg_finished(
                task,
                TaskTiming {
                    started,
                    ended,
                    split,
                },
                result,
            );
            let result = if done {
                LegResult::Done
            } else {
                LegResult::Failed
            };
            Some(Input::LegFinished {
                device,
                task,
                leg,
                started,
                ended,
                result,
            })
        }
        Message::Query(_) => None,
    }
}
