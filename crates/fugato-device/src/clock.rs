//! The one clock of a server: monotonic, from the process's start.

use fugato_core::Timestamp;
use std::time::Instant;

/// A monotonic clock whose epoch is its creation. Copies share the epoch, so the driver,
/// the devices and the servers stamp events on one axis.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    epoch: Instant,
}

impl MonotonicClock {
    /// A clock that starts at zero.
    pub fn start() -> Self {
        Self {
            epoch: Instant::now(),
        }
    }

    /// The time since the clock's start.
    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    /// `instant` on this clock's axis; zero where it is before the clock's start.
    pub fn at(&self, instant: Instant) -> Timestamp {
        let nanos = instant.saturating_duration_since(self.epoch).as_nanos();
        Timestamp::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
