//! A hash of the action log, to compare runs.

use super::action::Action;
use std::hash::{Hash, Hasher};

/// A running hash over actions: equal for equal logs of the same binary.
///
/// FNV-1a with 64 bits: it must detect accidents, not attacks, and be stable within a
/// binary, which the standard library's hasher does not promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionHash(u64);

impl ActionHash {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    pub(super) fn update(&mut self, action: &Action) {
        action.hash(self);
    }
}

impl Default for ActionHash {
    fn default() -> Self {
        Self(Self::OFFSET)
    }
}

impl Hasher for ActionHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(Self::PRIME);
        }
    }
}
