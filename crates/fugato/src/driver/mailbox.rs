//! The driver's mailbox: many writers, one reader that takes everything at once.

use super::effects::Payload;
use fugato_core::sched::{Arrival, Input, Scheduler};
use fugato_core::{RequestId, Timestamp};
use fugato_device::{DeviceEvent, MonotonicClock};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Looks at the scheduler on the driver's thread.
pub(super) type Query = Box<dyn FnOnce(&Scheduler) + Send>;

pub(super) enum Message {
    Arrived(Arrival, Payload),
    Device(DeviceEvent),
    Control(Box<Input>),
    Query(Query),
}

/// A message and when it was put in.
pub(super) struct Stamped {
    pub(super) at: Timestamp,
    pub(super) message: Message,
}

/// Where a driver hears of everything.
///
/// **Invariant:** request ids rise in the order of the messages that bring them.
pub struct Mailbox {
    clock: MonotonicClock,
    state: Mutex<State>,
    filled: Condvar,
    arrivals_max: usize,
}

struct State {
    messages: Vec<Stamped>,
    arrivals: usize,
    next_request: u64,
    /// Whether the reader sleeps, so that writers wake it only when it does.
    asleep: bool,
    closed: bool,
}

impl State {
    fn next_id(&mut self) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        id
    }
}

/// Why the mailbox did not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It holds as many new requests as it may.
    #[error("{limit} requests wait to be looked at, which is the limit")]
    Full {
        /// The limit.
        limit: usize,
    },
    /// The driver has ended or is about to.
    #[error("the driver has ended")]
    Closed,
}

impl Mailbox {
    /// An empty mailbox that takes at most `arrivals_max` requests between two looks of
    /// the driver. Other messages are bounded by what is in flight.
    pub fn new(clock: MonotonicClock, arrivals_max: usize) -> Self {
        let state = State {
            messages: Vec::new(),
            arrivals: 0,
            next_request: 0,
            asleep: false,
            closed: false,
        };
        Self {
            clock,
            state: Mutex::new(state),
            filled: Condvar::new(),
            arrivals_max,
        }
    }

    /// Puts a request in and gives it its id, which `arrival` is told.
    ///
    /// # Errors
    /// [`NotTaken`]; the payload is dropped.
    pub fn arrive(
        &self,
        payload: Payload,
        arrival: impl FnOnce(RequestId) -> Arrival,
    ) -> Result<RequestId, NotTaken> {
        let at = self.clock.now();
        let mut state = self.lock();
        if state.closed {
            return Err(NotTaken::Closed);
        }
        if state.arrivals >= self.arrivals_max {
            return Err(NotTaken::Full {
                limit: self.arrivals_max,
            });
        }
        let id = state.next_id();
        state.arrivals += 1;
        state.messages.push(Stamped {
            at,
            message: Message::Arrived(arrival(id), payload),
        });
        self.wake(state);
        Ok(id)
    }

    /// Puts in a report of a device.
    pub fn device(&self, event: DeviceEvent) {
        self.push(Message::Device(event));
    }

    /// Puts in an input that has no payload.
    pub fn control(&self, input: Input) {
        self.push(Message::Control(Box::new(input)));
    }

    /// Puts in reports of devices, inputs and requests that the driver will see together.
    /// The requests get their ids here.
    pub fn together(
        &self,
        events: Vec<DeviceEvent>,
        inputs: Vec<Input>,
        requests: Vec<(Payload, Arrival)>,
    ) {
        let at = self.clock.now();
        let mut state = self.lock();
        let events = events.into_iter().map(Message::Device);
        let inputs = inputs
            .into_iter()
            .map(|input| Message::Control(Box::new(input)));
        let messages = events.chain(inputs).map(|message| Stamped { at, message });
        state.messages.extend(messages);
        for (payload, arrival) in requests {
            let arrival = Arrival {
                request: state.next_id(),
                ..arrival
            };
            let message = Message::Arrived(arrival, payload);
            state.messages.push(Stamped { at, message });
        }
        self.wake(state);
    }

    /// Runs `query` on the driver's thread once everything put in before is decided, and
    /// gives its answer; `None` where the driver has ended.
    pub fn ask<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Scheduler) -> T + Send + 'static,
    ) -> tokio::sync::oneshot::Receiver<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.push(Message::Query(Box::new(move |scheduler| {
            // An asker that went away needs no answer.
            let _ = answer.send(query(scheduler));
        })));
        answered
    }

    /// Makes the driver look at its clock.
    pub fn nudge(&self) {
        self.wake(self.lock());
    }

    /// Ends the driver once it has dealt with everything put in before.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake(state);
    }

    /// Closes the mailbox and drops what is in it, whose senders learn of it by their
    /// channels: there is no driver to look at it.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.messages);
        drop(state);
        drop(left);
    }

    fn push(&self, message: Message) {
        let at = self.clock.now();
        let mut state = self.lock();
        if !state.closed {
            state.messages.push(Stamped { at, message });
            self.wake(state);
        }
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let asleep = std::mem::replace(&mut state.asleep, false);
        drop(state);
        if asleep {
            self.filled.notify_one();
        }
    }

    /// Moves all messages into `into`, waiting for one at most as long as `wait` (for
    /// ever where it is `None`). `false` where the mailbox is closed.
    pub(super) fn take(&self, into: &mut Vec<Stamped>, wait: Option<Duration>) -> bool {
        let mut state = self.lock();
        if state.messages.is_empty() && !state.closed && wait != Some(Duration::ZERO) {
            state.asleep = true;
            state = match wait {
                None => self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    self.filled
                        .wait_timeout(state, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
            state.asleep = false;
        }
        state.arrivals = 0;
        into.append(&mut state.messages);
        !state.closed
    }

    /// Whether the driver sleeps and nothing is there for it.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.asleep && state.messages.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox")
            .field("messages", &self.lock().messages.len())
            .finish_non_exhaustive()
    }
}
