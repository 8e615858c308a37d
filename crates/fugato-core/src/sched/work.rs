//! Predicted work of all waiting requests, in the order in which the policy serves it.
//!
//! **Invariant:** what is taken out of a block was put into it, at the same price.

use crate::time::{Nanos, Timestamp};
use std::collections::BTreeMap;

/// About a millisecond: 2^20 ns. Orders are told apart to that.
pub(super) const BLOCK_SHIFT: u32 = 20;

/// Each level sums up 2^`FAN_SHIFT` entries of the level below it.
const FAN_SHIFT: u32 = 4;

/// Blocks of 1 ms, 17 ms, 268 ms, 4.3 s, 69 s and 18 minutes; the last level is read in
/// full, which is short for any deadline that a request has.
const LEVELS: usize = 6;

/// Sums of work by order, with the sum of all that goes before an order at hand.
///
/// # Cost
/// A change touches one entry per level, a sum reads at most 2^[`FAN_SHIFT`] entries per
/// level: neither grows with the number of requests or models.
#[derive(Debug, Default)]
pub(super) struct WorkByOrder {
    levels: [BTreeMap<u64, u64>; LEVELS],
}

impl WorkByOrder {
    pub(super) fn add(&mut self, block: u64, work: Nanos) {
        if work == Nanos::ZERO {
            return;
        }
        for (level, sums) in self.levels.iter_mut().enumerate() {
            *sums.entry(index(block, level)).or_default() += work.as_nanos();
        }
    }

    /// # Panics
    /// Where more is taken out than there is.
    pub(super) fn remove(&mut self, block: u64, work: Nanos) {
        if work == Nanos::ZERO {
            return;
        }
        for (level, sums) in self.levels.iter_mut().enumerate() {
            let at = index(block, level);
            let held = sums.get(&at).copied().unwrap_or(0);
            assert!(
                held >= work.as_nanos(),
                "{work} taken out of a block that holds {held} ns"
            );
            if held == work.as_nanos() {
                sums.remove(&at);
            } else {
                sums.insert(at, held - work.as_nanos());
            }
        }
    }

    /// The work that goes no later than `order`, to the block.
    pub(super) fn up_to(&self, order: Timestamp) -> Nanos {
        let end = block_of(order) + 1;
        let mut sum = 0_u64;
        for (level, sums) in self.levels.iter().enumerate() {
            // The entries of this level that the next one does not hold in full.
            let to = index(end, level);
            let from = if level + 1 < LEVELS {
                index(end, level + 1) << FAN_SHIFT
            } else {
                0
            };
            sum += sums.range(from..to).map(|(_, work)| work).sum::<u64>();
        }
        Nanos::new(sum)
    }
}

pub(super) const fn block_of(order: Timestamp) -> u64 {
    order.as_nanos() >> BLOCK_SHIFT
}

fn index(block: u64, level: usize) -> u64 {
    (0..level).fold(block, |index, _| index >> FAN_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_agree_with_adding_up(
            changes in prop::collection::vec((0_u64..1 << 26, 0_u64..1_000, any::<bool>()), 1..200),
            asked in prop::collection::vec(0_u64..1 << 26, 1..20),
        ) {
            let mut sums = WorkByOrder::default();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for (block, work, out) in changes {
                if out && let Some((block, work)) = held.pop() {
                    sums.remove(block, Nanos::new(work));
                } else {
                    sums.add(block, Nanos::new(work));
                    held.push((block, work));
                }
            }
            for block in asked {
                let expected: u64 = held.iter().filter(|(at, _)| *at <= block).map(|(_, work)| work).sum();
                let order = Timestamp::from_nanos(block << BLOCK_SHIFT);
                prop_assert_eq!(sums.up_to(order), Nanos::new(expected));
            }
            for (block, work) in held.drain(..) {
                sums.remove(block, Nanos::new(work));
            }
            prop_assert!(sums.levels.iter().all(BTreeMap::is_empty));
        }
    }
}
