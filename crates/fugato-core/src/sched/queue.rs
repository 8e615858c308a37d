//! The queue of one model: ordered, and divided into classes that can share a batch.

use super::line::Line;
use super::work::block_of;
use crate::id::{RequestId, ShapeClass};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// Where a request stands in its model's queue; smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    /// Triton's priority, with 0 mapped to the lowest.
    pub(super) priority: u32,
    /// Arrival or deadline, as the policy asks.
    pub(super) order: Timestamp,
    /// Breaks ties by arrival.
    pub(super) request: RequestId,
}

/// Where a model stands among the models of a device: by the order of its first request.
/// A priority orders the requests of one model (Triton's meaning), not the models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelKey {
    order: Timestamp,
    request: RequestId,
}

impl QueueKey {
    /// That of a task without requests: after all of them.
    pub(super) const fn of_none(now: Timestamp) -> Self {
        Self {
            priority: u32::MAX,
            order: now,
            request: RequestId(u64::MAX),
        }
    }

    fn block(self) -> (u32, u64) {
        (self.priority, block_of(self.order))
    }

    /// Its place in the order of all models.
    pub(super) const fn order(self) -> Timestamp {
        self.order
    }

    /// The request it belongs to.
    pub const fn request(self) -> RequestId {
        self.request
    }

    /// Where a model stands whose first request this is.
    pub const fn model_key(self) -> ModelKey {
        ModelKey {
            order: self.order,
            request: self.request,
        }
    }
}

/// Requests of one model that wait.
///
/// # Cost
/// All operations are logarithmic in the number of waiting requests and classes; for one
/// class, whose requests come and go in about their order, they are a few instructions.
#[derive(Debug, Default)]
pub(super) struct ModelQueue {
    /// One of them may be empty: the only one, for the next request.
    classes: BTreeMap<ShapeClass, Line<QueueKey, Waiting>>,
    /// The first request of all.
    head: Option<(QueueKey, ShapeClass)>,
    /// The first request of each other class.
    other_heads: BTreeSet<(QueueKey, ShapeClass)>,
    /// Items by priority and millisecond (about) of their order, to price what is ahead of
    /// a request without walking the queue.
    blocks: Line<(u32, u64), Items>,
    requests: u64,
    items: u64,
}

/// What a waiting request brings.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    items: u32,
    promised: bool,
}

/// Items of some waiting requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Items {
    pub(super) all: u64,
    /// Those of requests with a deadline that is enforced.
    pub(super) promised: u64,
}

impl ModelQueue {
    /// Takes in a request; one that is `promised` has a deadline that is enforced.
    pub(super) fn push(&mut self, class: ShapeClass, key: QueueKey, items: u32, promised: bool) {
        let waiting = self.classes.entry(class).or_default();
        let before = waiting.first();
        let twice = waiting.insert(key, Waiting { items, promised });
        assert!(twice.is_none(), "{} was queued twice", key.request);
        if before.is_none_or(|before| key < before) {
            self.change_head(class, before, Some(key));
        }
        let (all, promised) = (u64::from(items), u64::from(items) * u64::from(promised));
        match self.blocks.get_mut(key.block()) {
            Some(block) => {
                block.all += all;
                block.promised += promised;
            }
            None => {
                self.blocks.insert(key.block(), Items { all, promised });
            }
        }
        self.requests += 1;
        self.items += all;
    }

    /// Takes one request out; says whether it was promised. `None` where it is not here.
    pub(super) fn remove(&mut self, class: ShapeClass, key: QueueKey) -> Option<bool> {
        let waiting = self.classes.get_mut(&class)?;
        let before = waiting.first();
        let Waiting { items, promised } = waiting.remove(key)?;
        let after = waiting.first();
        if before != after {
            self.change_head(class, before, after);
        }
        if after.is_none() && self.classes.len() > 1 {
            self.classes.remove(&class);
        }
        if let Some(left) = self.blocks.get_mut(key.block()) {
            left.all -= u64::from(items);
            left.promised -= u64::from(items) * u64::from(promised);
            if left.all == 0 {
                self.blocks.remove(key.block());
            }
        }
        self.requests -= 1;
        self.items -= u64::from(items);
        Some(promised)
    }

    /// Notes that another request of a class goes first.
    fn change_head(
        &mut self,
        class: ShapeClass,
        before: Option<QueueKey>,
        after: Option<QueueKey>,
    ) {
        if let Some(before) = before.map(|key| (key, class))
            && self.head.take_if(|head| *head == before).is_none()
        {
            self.other_heads.remove(&before);
        }
        let after = after.map(|key| (key, class));
        let first = self.head.or_else(|| self.other_heads.pop_first());
        self.head = match (first, after) {
            (Some(first), Some(after)) => {
                self.other_heads.insert(first.max(after));
                Some(first.min(after))
            }
            (first, after) => first.or(after),
        };
    }

    /// The request that goes first, with its class.
    pub(super) fn head(&self) -> Option<(QueueKey, ShapeClass)> {
        self.head
    }

    /// Requests of `class` in order, with their items.
    pub(super) fn of_class(&self, class: ShapeClass) -> impl Iterator<Item = (QueueKey, u32)> {
        let waiting = self.classes.get(&class).into_iter();
        let waiting = waiting.flat_map(Line::iter);
        waiting.map(|(key, waiting)| (key, waiting.items))
    }

    /// Items that go before a newcomer with this key, to the millisecond (its own counts,
    /// as ties go to who came first); counting ends once there are `enough`.
    ///
    /// # Cost
    /// The milliseconds that hold requests before the key, or `enough`, if that is less; none
    /// of it where all go before.
    pub(super) fn items_before(&self, key: QueueKey, enough: u64) -> u64 {
        let block = key.block();
        if self.items < enough && self.blocks.last().is_none_or(|last| last <= block) {
            return self.items;
        }
        let mut before = 0;
        for (_, items) in self.blocks.iter().take_while(|&(at, _)| at <= block) {
            before += items.all;
            if before >= enough {
                break;
            }
        }
        before
    }

    /// Items by the block of their order; a block comes once per priority.
    pub(super) fn items_by_block(&self) -> impl Iterator<Item = (u64, Items)> {
        self.blocks
            .iter()
            .map(|((_, block), &items)| (block, items))
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests
    }

    pub(super) fn items(&self) -> u64 {
        self.items
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::work::BLOCK_SHIFT;

    fn key(order: u64, request: u64) -> QueueKey {
        QueueKey {
            priority: 1,
            order: Timestamp::from_nanos(order),
            request: RequestId(request),
        }
    }

    #[test]
    fn the_head_is_the_first_of_all_classes() {
        let mut queue = ModelQueue::default();
        queue.push(ShapeClass(1), key(30, 1), 1, false);
        queue.push(ShapeClass(2), key(20, 2), 4, false);
        queue.push(ShapeClass(1), key(10, 3), 1, false);
        assert_eq!(queue.head(), Some((key(10, 3), ShapeClass(1))));
        assert_eq!(queue.items(), 6);
        assert!(queue.remove(ShapeClass(1), key(10, 3)).is_some());
        assert_eq!(queue.head(), Some((key(20, 2), ShapeClass(2))));
        assert!(queue.remove(ShapeClass(2), key(20, 2)).is_some());
        assert!(queue.remove(ShapeClass(2), key(20, 2)).is_none());
        assert_eq!(queue.head(), Some((key(30, 1), ShapeClass(1))));
        assert!(queue.remove(ShapeClass(1), key(30, 1)).is_some());
        assert!(queue.is_empty() && queue.items() == 0 && queue.head().is_none());
    }

    #[test]
    fn what_is_ahead_is_counted_by_priority_then_order() {
        let mut queue = ModelQueue::default();
        let ms = |ms: u64, request| key(ms << BLOCK_SHIFT, request);
        queue.push(ShapeClass(0), ms(10, 1), 1, false);
        queue.push(ShapeClass(1), ms(20, 2), 4, false);
        queue.push(
            ShapeClass(0),
            QueueKey {
                priority: 0,
                ..ms(99, 3)
            },
            8,
            false,
        );
        assert_eq!(queue.items_before(ms(9, 9), 100), 8);
        assert_eq!(queue.items_before(ms(15, 9), 100), 9);
        assert_eq!(queue.items_before(ms(30, 9), 100), 13);
        assert_eq!(
            queue.items_before(ms(30, 9), 9),
            9,
            "it stops when that is enough"
        );
        assert!(queue.remove(ShapeClass(0), ms(10, 1)).is_some());
        assert_eq!(queue.items_before(ms(15, 9), 100), 8);
    }

    #[test]
    fn priority_goes_before_order() {
        let mut queue = ModelQueue::default();
        queue.push(
            ShapeClass(0),
            QueueKey {
                priority: 2,
                ..key(1, 1)
            },
            1,
            false,
        );
        queue.push(ShapeClass(0), key(9, 2), 1, false);
        assert_eq!(queue.head(), Some((key(9, 2), ShapeClass(0))));
    }
}
