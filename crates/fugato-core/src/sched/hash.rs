//! A hash of the action log, to compare runs.

use super::action::Action;
use std::hash::{Hash, Hasher};

/// A running hash over actions: equal for equal logs of the same binary.
///
/// It must detect accidents, not attacks, and be stable, which the standard library's
/// hasher does not promise. It takes in whole words, one multiplication for each instead of
/// one for each byte. A step loses nothing: logs that differ in one word have different
/// hashes after it, and keep them for as long as they go on alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionHash(u64);

impl ActionHash {
    const SEED: u64 = 0xcbf2_9ce4_8422_2325;

    /// Odd, so that multiplying by it can be undone; its bits are those of the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    pub(super) fn update(&mut self, action: &Action) {
        action.hash(self);
    }

    const fn mix(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(Self::FACTOR);
        // The high bits are the best mixed ones.
        self.0 = mixed ^ (mixed >> 32);
    }
}

impl Default for ActionHash {
    fn default() -> Self {
        Self(Self::SEED)
    }
}

impl Hasher for ActionHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(size_of::<u64>()) {
            let mut word = [0; size_of::<u64>()];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.mix(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RequestId;
    use crate::sched::Outcome;

    fn hash_of(requests: &[u64]) -> u64 {
        let mut hash = ActionHash::default();
        for &request in requests {
            hash.update(&Action::Finish {
                request: RequestId(request),
                outcome: Outcome::Completed,
            });
        }
        hash.finish()
    }

    #[test]
    fn order_and_length_count() {
        let logs: [&[u64]; 6] = [&[], &[0], &[0, 0], &[1, 2], &[2, 1], &[1 << 40, 2]];
        let mut hashes = logs.map(hash_of);
        hashes.sort_unstable();
        assert!(
            hashes.windows(2).all(|pair| pair[0] != pair[1]),
            "{hashes:x?}"
        );
    }

    #[test]
    fn it_is_the_same_on_every_platform() {
        assert_eq!(hash_of(&[7, 8, 9]), 8_629_412_927_091_431_055);
    }
}
