//! What a test asks of the fake device: what it is like, and how it fails.

use super::super::backend::{Fault, FaultKind};
use super::super::priority::Priorities;
use super::{Fake, Planned};
use fugato_core::Nanos;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

impl Fake {
    /// Has streams of these priorities, from now on.
    pub(in super::super) fn has_priorities(&self, least: i32, greatest: i32) {
        self.lock().priorities = Priorities { least, greatest };
    }

    /// How many streams were made.
    pub(in super::super) fn streams(&self) -> usize {
        self.lock().streams.len()
    }

    /// The sessions that were made, in order, and the priority of the stream of each.
    pub(in super::super) fn session_priorities(&self) -> Vec<(String, i32)> {
        self.lock().sessions.clone()
    }

    /// Has the next call named `call` fail so.
    pub(in super::super) fn fail(&self, call: &'static str, kind: FaultKind, detail: &str) {
        let detail = detail.to_owned();
        let fault = Planned::Fault(Fault { kind, detail });
        self.lock().faults.entry(call).or_default().push_back(fault);
    }

    /// Has the next call named `call` panic.
    pub(in super::super) fn panic_at(&self, call: &'static str) {
        let faults = &mut self.lock().faults;
        faults.entry(call).or_default().push_back(Planned::Panic);
    }

    /// Has each session that is made or dropped take so long of the host's time.
    pub(in super::super) fn slow_sessions(&self, time: &Arc<AtomicU64>, takes: Nanos) {
        self.lock().slow = Some((Arc::clone(time), takes));
    }

    /// Has whoever wants the turn find that a session is being made, or not.
    pub(in super::super) fn busy(&self, busy: bool) {
        self.lock().busy = busy;
        self.0.changed.notify_all();
    }

    /// Has others take so many bytes, for good, while each of so many turns is waited for.
    pub(in super::super) fn turns_take(&self, turns: usize, bytes: usize) {
        self.lock().turns_take = (turns, bytes);
    }

    /// Does this whenever a session is made, or dropped.
    pub(in super::super) fn meanwhile(&self, what: impl Fn() + Send + Sync + 'static) {
        self.lock().meanwhile = Some(Arc::new(what));
    }
}
