//! Predicted work of all waiting requests, in the order in which the policy serves it.
//!
//! **Invariant:** what is taken out of a block was put into it, at the same price.

use super::sums::Sums;
use crate::time::{Nanos, Timestamp};
use std::collections::BTreeMap;

/// About a millisecond: 2^20 ns. Orders are told apart to that.
pub(super) const BLOCK_SHIFT: u32 = 20;

/// The level at which [`WorkByOrder::room_from`] looks: blocks of 17 ms, the error that it
/// may make.
const ROOM_LEVEL: usize = 1;

/// How many blocks that hold work [`WorkByOrder::room_from`] looks at: a second and more.
const ROOM_BLOCKS: usize = 64;

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
    levels: [Sums; LEVELS],
}

impl WorkByOrder {
    pub(super) fn add(&mut self, block: u64, work: Nanos) {
        if work == Nanos::ZERO {
            return;
        }
        for (level, sums) in self.levels.iter_mut().enumerate() {
            sums.add(index(block, level), work.as_nanos());
        }
    }

    /// # Panics
    /// Where more is taken out than there is.
    pub(super) fn remove(&mut self, block: u64, work: Nanos) {
        if work == Nanos::ZERO {
            return;
        }
        for (level, sums) in self.levels.iter_mut().enumerate() {
            sums.remove(index(block, level), work.as_nanos());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.levels
            .iter()
            .all(|sums| sums.entries(0).next().is_none())
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
            sum += sums.of(from..to);
        }
        Nanos::new(sum)
    }

    /// The least time that is left free before any order from `order` on, where `width`
    /// times the passing time is worked off: how much can come in at `order` with no later
    /// one ending after its order. `None` where nothing waits there. To a block of
    /// 17 ms, over the next 64 blocks that hold any.
    pub(super) fn room_from(&self, order: Timestamp, now: Timestamp, width: u64) -> Option<Nanos> {
        let shift = BLOCK_SHIFT + FAN_SHIFT * u32::try_from(ROOM_LEVEL).unwrap_or(0);
        let first = order.as_nanos() >> shift;
        let mut sum = match (first << shift).checked_sub(1) {
            Some(before) => self.up_to(Timestamp::from_nanos(before)).as_nanos(),
            None => 0,
        };
        let blocks = self.levels[ROOM_LEVEL].entries(first).take(ROOM_BLOCKS);
        let rooms = blocks.map(|(block, work)| {
            sum += work;
            let end = Timestamp::from_nanos((block + 1) << shift);
            (end - now).saturating_sub(Nanos::new(sum).scaled(1, width.max(1)))
        });
        rooms.min()
    }
}

impl WorkByOrder {
    /// Compares every level with the work of each block.
    ///
    /// # Panics
    /// Where a sum is wrong.
    pub(super) fn audit(&self, blocks: &BTreeMap<u64, u64>) {
        for (level, found) in self.levels.iter().enumerate() {
            let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
            for (&block, &work) in blocks.iter().filter(|&(_, &work)| work > 0) {
                *expected.entry(index(block, level)).or_default() += work;
            }
            let found: BTreeMap<u64, u64> = found.entries(0).collect();
            assert_eq!(found, expected, "sums of work, level {level}");
        }
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
        fn room_agrees_with_looking_at_each_block(
            held in prop::collection::vec((0_u64..1_000, 0_u64..20_000_000), 0..60),
            from in 0_u64..1_000,
            now in 0_u64..1_000,
            width in 1_u64..4,
        ) {
            let mut sums = WorkByOrder::default();
            for &(block, work) in &held {
                sums.add(block, Nanos::new(work));
            }
            let fan = 1 << FAN_SHIFT;
            let now = now << BLOCK_SHIFT;
            let rooms = (from / fan..1_000 / fan + 1).filter_map(|coarse| {
                let end = (coarse + 1) * fan;
                let here = held.iter().any(|&(at, work)| at / fan == coarse && work > 0);
                let sum: u64 = held.iter().filter(|(at, _)| *at < end).map(|(_, work)| work).sum();
                here.then(|| (end << BLOCK_SHIFT).saturating_sub(now).saturating_sub(sum / width))
            });
            let order = Timestamp::from_nanos(from << BLOCK_SHIFT);
            let found = sums.room_from(order, Timestamp::from_nanos(now), width);
            prop_assert_eq!(found.map(Nanos::as_nanos), rooms.min());
        }

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
            prop_assert!(sums.levels.iter().all(|sums| sums.entries(0).next().is_none()));
        }
    }
}
