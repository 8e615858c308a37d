//! How long legs take: the work that a leg brings to a simulated device.

use super::contention::Part;
use crate::id::Share;
use crate::sched::Start;
use crate::time::Nanos;
use std::fmt;

/// What a leg asks of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The time it takes alone on its partition.
    pub alone: Nanos,
    /// How much longer it takes, as a part of that time, beside neighbours of full demand
    /// on all other slices: its memory-bound part.
    pub sensitivity: Part,
    /// How much it makes its neighbours wait for memory.
    pub demand: Part,
    /// Slices it can make use of; those of its partition beyond them count as occupied
    /// and not as utilised. [`Share`] of [`u16::MAX`] for all.
    pub useful: Share,
}

impl From<Nanos> for Service {
    /// A leg that takes this long, whoever runs beside it, and uses all it is given.
    fn from(alone: Nanos) -> Self {
        Self {
            alone,
            sensitivity: Part::ZERO,
            demand: Part::ZERO,
            useful: Share(u16::MAX),
        }
    }
}

/// Says what legs ask of their devices.
pub trait ServiceTime: fmt::Debug {
    /// What one leg asks; called once per leg, in the order of starts.
    fn service(&mut self, start: &Start) -> Service;
}

/// A closure as a [`ServiceTime`].
pub(super) struct FnService<F>(pub F);

impl<F: FnMut(&Start) -> Nanos> ServiceTime for FnService<F> {
    fn service(&mut self, start: &Start) -> Service {
        (self.0)(start).into()
    }
}

impl<F> fmt::Debug for FnService<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FnService")
    }
}
