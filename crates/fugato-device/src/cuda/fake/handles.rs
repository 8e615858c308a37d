//! What the fake device hands out: sessions, bindings, the turn, events.

use super::capture::InFlight;
use super::memory::{Bound, Taken};
use super::model::FakePart;
use super::{Fake, GraphId};
use std::sync::{Arc, Mutex};

pub(in super::super) struct FakeSession {
    pub(super) part: FakePart,
    pub(super) stream: usize,
    pub(super) graphs: bool,
    pub(super) in_flight: Arc<Mutex<InFlight>>,
    pub(super) taken: Arc<Taken>,
    pub(super) _weights: Arc<Taken>,
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.taken.of.take_time();
    }
}

/// The turn, until it is dropped.
pub(in super::super) struct FakeTurn(pub(super) Fake);

impl Drop for FakeTurn {
    fn drop(&mut self) {
        self.0.lock().turn = None;
        self.0.0.changed.notify_all();
    }
}

pub(in super::super) struct FakeBinding {
    pub(super) part: FakePart,
    pub(super) stream: usize,
    pub(super) graphs: bool,
    pub(super) rows: i64,
    pub(super) inputs: Vec<Bound>,
    pub(super) outputs: Vec<Bound>,
    pub(super) captured: Vec<GraphId>,
    pub(super) in_flight: Arc<Mutex<InFlight>>,
    /// A session is there as long as what is bound to it.
    pub(super) session: Arc<Taken>,
}

/// An event: how often it was recorded, how many of those were reached, and when the last was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    pub(super) recorded: u64,
    pub(super) reached: u64,
    pub(super) at: u64,
}

impl Marks {
    /// When it was reached, since it was recorded last.
    pub(super) fn time(self) -> Option<u64> {
        (self.reached == self.recorded && self.recorded > 0).then_some(self.at)
    }
}
