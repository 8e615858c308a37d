//! A map for ids that are given out in rising order and taken back in about that order:
//! a look-up is an index, where a tree would walk and compare.

use crate::id::{DeviceId, ModelId, RequestId, TaskId};
use std::collections::{BTreeMap, VecDeque};

/// An id that is a number.
pub(super) trait Id: Copy + Ord {
    /// The number.
    fn number(self) -> u64;
    /// The id of a number that [`number`](Self::number) gave.
    fn of(number: u64) -> Self;
}

macro_rules! id {
    ($($name:ident($repr:ty)),*) => {
        $(impl Id for $name {
            fn number(self) -> u64 {
                u64::from(self.0)
            }

            fn of(number: u64) -> Self {
                Self(<$repr>::try_from(number).unwrap_or(<$repr>::MAX))
            }
        })*
    };
}

id!(RequestId(u64), TaskId(u64), ModelId(u32), DeviceId(u16));

/// Places of the window that may be empty, besides three times as many as are taken: past
/// that the oldest entries move into the tree, so that one that stays for ever does not
/// keep the window growing.
const EMPTY_MAX: usize = 1_024;

/// A map in the order of its ids.
///
/// # Cost
/// A look-up, an insertion and a removal are a few instructions, amortised, for ids that
/// are near to the others; logarithmic for those left far behind.
#[derive(Debug)]
pub(super) struct DenseMap<K, V> {
    /// The number of the window's first place.
    first: u64,
    window: VecDeque<Option<V>>,
    /// Entries of the window.
    taken: usize,
    /// Entries outside of the window, or in a place of it that is empty.
    far: BTreeMap<K, V>,
}

impl<K, V> Default for DenseMap<K, V> {
    fn default() -> Self {
        Self {
            first: 0,
            window: VecDeque::new(),
            taken: 0,
            far: BTreeMap::new(),
        }
    }
}

impl<K: Id, V> DenseMap<K, V> {
    fn place(&self, key: K) -> Option<usize> {
        let place = key.number().checked_sub(self.first)?;
        usize::try_from(place)
            .ok()
            .filter(|&place| place < self.window.len())
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let near = self
            .place(*key)
            .and_then(|place| self.window[place].as_ref());
        near.or_else(|| self.far.get(key))
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.place(*key) {
            Some(place) if self.window[place].is_some() => self.window[place].as_mut(),
            _ => self.far.get_mut(key),
        }
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Puts a value in; gives the one that it takes the place of.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(&key) {
            return Some(std::mem::replace(known, value));
        }
        if self.taken == 0 {
            self.window.clear();
            self.first = key.number();
        }
        let Some(place) = key.number().checked_sub(self.first) else {
            return self.far.insert(key, value);
        };
        let most = EMPTY_MAX + 4 * (self.taken + 1);
        self.leave_behind(place.saturating_add(1).saturating_sub(most as u64));
        if self.taken == 0 {
            self.window.clear();
            self.first = key.number();
        }
        let place = usize::try_from(key.number() - self.first).unwrap_or(usize::MAX);
        while self.window.len() <= place {
            self.window.push_back(None);
        }
        self.window[place] = Some(value);
        self.taken += 1;
        None
    }

    /// Moves the entries of the first `places` of the window out of it.
    fn leave_behind(&mut self, places: u64) {
        for _ in 0..places {
            let Some(entry) = self.window.pop_front() else {
                break;
            };
            if let Some(value) = entry {
                self.far.insert(K::of(self.first), value);
                self.taken -= 1;
            }
            self.first = self.first.saturating_add(1);
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let near = self.place(*key).and_then(|place| self.window[place].take());
        let Some(value) = near else {
            return self.far.remove(key);
        };
        self.taken -= 1;
        while let Some(None) = self.window.front() {
            self.window.pop_front();
            self.first = self.first.saturating_add(1);
        }
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.taken + self.far.len()
    }

    /// The entries, rising by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let first = self.first;
        let entries = self.window.iter().enumerate();
        let mut near = entries
            .filter_map(move |(place, entry)| Some((K::of(first + place as u64), entry.as_ref()?)))
            .peekable();
        let mut far = self.far.iter().map(|(&key, value)| (key, value)).peekable();
        std::iter::from_fn(move || match (near.peek(), far.peek()) {
            (Some((one, _)), Some((other, _))) if other < one => far.next(),
            (None, _) => far.next(),
            (Some(_), _) => near.next(),
        })
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The values, in no stated order.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.window
            .iter_mut()
            .flatten()
            .chain(self.far.values_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map(
            steps in prop::collection::vec((0_u64..6_000, 0_u8..4), 1..300),
            jump in prop::collection::vec(0_u64..300, 300),
        ) {
            let (mut dense, mut tree) = (DenseMap::default(), BTreeMap::new());
            let mut newest = 0;
            for (&(id, kind), jump) in steps.iter().zip(jump) {
                let id = TaskId(id);
                match kind {
                    0 => prop_assert_eq!(dense.remove(&id), tree.remove(&id)),
                    1 => prop_assert_eq!(dense.insert(id, newest), tree.insert(id, newest)),
                    2 => {
                        newest += jump;
                        let id = TaskId(newest);
                        prop_assert_eq!(dense.insert(id, newest), tree.insert(id, newest));
                    }
                    _ => {
                        let oldest = tree.keys().next().copied().unwrap_or(id);
                        prop_assert_eq!(dense.remove(&oldest), tree.remove(&oldest));
                    }
                }
                prop_assert_eq!(dense.get(&id), tree.get(&id));
                prop_assert_eq!(dense.len(), tree.len());
            }
            let entries: Vec<(TaskId, u64)> = dense.iter().map(|(id, &value)| (id, value)).collect();
            prop_assert_eq!(entries, tree.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_that_stays_does_not_keep_the_window_growing() {
        let mut map = DenseMap::default();
        map.insert(RequestId(0), ());
        for id in 1..100_000 {
            map.insert(RequestId(id), ());
            map.remove(&RequestId(id));
        }
        assert!(map.window.len() <= EMPTY_MAX + 8, "{}", map.window.len());
        assert!(map.contains_key(&RequestId(0)));
        map.insert(RequestId(u64::MAX), ());
        assert_eq!((map.len(), map.window.len()), (2, 1));
        assert_eq!(map.remove(&RequestId(0)), Some(()));
        assert_eq!(map.remove(&RequestId(u64::MAX)), Some(()));
        assert_eq!(map.len(), 0);
    }
}
