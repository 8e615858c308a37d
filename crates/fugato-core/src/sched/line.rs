//! An ordered map for keys that come in about rising order and leave from about the front:
//! what waits in a queue.
//!
//! **Invariant:** `near` rises, and neither begins nor ends with a place that was emptied; a
//! key is in `near` or in `far`, never in both.

use std::collections::{BTreeMap, VecDeque};

/// How far from an end of the row a key is put in by moving those between: as dear as the
/// tree then.
const NEAR: usize = 64;

/// Places that an empty row keeps.
const KEPT: usize = 256;

/// A map in the order of its keys.
///
/// # Cost
/// A key that comes near the end or near the front is put in by a few instructions, the first
/// one is taken out by as few, any other by a binary search; a key that comes far from both
/// ends costs what it costs in a tree.
#[derive(Debug)]
pub(super) struct Line<K, V> {
    /// `None` where the value was taken out.
    near: VecDeque<(K, Option<V>)>,
    /// Places of `near` that were emptied.
    emptied: usize,
    far: BTreeMap<K, V>,
}

impl<K, V> Default for Line<K, V> {
    fn default() -> Self {
        Self {
            near: VecDeque::new(),
            emptied: 0,
            far: BTreeMap::new(),
        }
    }
}

impl<K: Copy + Ord, V> Line<K, V> {
    /// The place of a key in `near`, or that where it would stand.
    fn place(&self, key: K) -> Result<usize, usize> {
        match (self.near.front(), self.near.back()) {
            (Some(&(first, _)), _) if first == key => Ok(0),
            (_, Some(&(last, _))) if last == key => Ok(self.near.len() - 1),
            (_, Some(&(last, _))) if last > key => {
                self.near.binary_search_by(|(known, _)| known.cmp(&key))
            }
            _ => Err(self.near.len()),
        }
    }

    /// Puts a value in; gives the one that it takes the place of.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.place(key) {
            Ok(place) => {
                let known = self.near[place].1.replace(value);
                self.emptied -= usize::from(known.is_none());
                known
            }
            Err(place) => {
                let moved = place.min(self.near.len() - place);
                if moved > NEAR || (!self.far.is_empty() && self.far.contains_key(&key)) {
                    return self.far.insert(key, value);
                }
                self.near.insert(place, (key, Some(value)));
                None
            }
        }
    }

    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        match self.place(key) {
            Ok(place) if self.near[place].1.is_some() => self.near[place].1.as_mut(),
            _ => self.far.get_mut(&key),
        }
    }

    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        let Ok(place) = self.place(key) else {
            return self.far.remove(&key);
        };
        let value = self.near[place].1.take()?;
        self.emptied += 1;
        self.trim();
        Some(value)
    }

    /// Lets go of emptied places: at the ends, and anywhere where they are most.
    fn trim(&mut self) {
        let is_empty = |entry: &mut (K, Option<V>)| entry.1.is_none();
        while self.near.pop_front_if(is_empty).is_some() {
            self.emptied -= 1;
        }
        while self.near.pop_back_if(is_empty).is_some() {
            self.emptied -= 1;
        }
        if self.emptied > NEAR && self.emptied > self.near.len() / 2 {
            self.near.retain(|(_, value)| value.is_some());
            self.emptied = 0;
        }
        if self.near.is_empty() && self.near.capacity() > KEPT {
            self.near.shrink_to(KEPT);
        }
    }

    pub(super) fn first(&self) -> Option<K> {
        let near = self.near.front().map(|&(key, _)| key);
        match (near, self.far.keys().next()) {
            (Some(near), Some(&far)) => Some(near.min(far)),
            (near, far) => near.or(far.copied()),
        }
    }

    pub(super) fn last(&self) -> Option<K> {
        let near = self.near.back().map(|&(key, _)| key);
        near.max(self.far.keys().next_back().copied())
    }

    /// All that is held, rising by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let near = self.near.iter();
        let mut near = near
            .filter_map(|(key, value)| Some((*key, value.as_ref()?)))
            .peekable();
        let mut far = self.far.iter().map(|(key, value)| (*key, value)).peekable();
        std::iter::from_fn(move || match (near.peek(), far.peek()) {
            (Some((one, _)), Some((other, _))) if other < one => far.next(),
            (None, _) => far.next(),
            (Some(_), _) => near.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is done to a line, and where among some keys.
    fn steps() -> impl Strategy<Value = Vec<(u8, u64)>> {
        prop::collection::vec((0_u8..6, 0_u64..400), 1..600)
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_tree(steps in steps()) {
            let (mut line, mut tree) = (Line::default(), BTreeMap::new());
            let mut end = 1_000;
            for (turn, &(step, at)) in steps.iter().enumerate() {
                match step {
                    // Most come in order.
                    0 | 1 => {
                        end += at;
                        prop_assert_eq!(line.insert(end, turn), tree.insert(end, turn));
                    }
                    2 => {
                        let key = end.saturating_sub(10 * at);
                        prop_assert_eq!(line.insert(key, turn), tree.insert(key, turn));
                    }
                    3 => {
                        let first = tree.keys().next().copied();
                        prop_assert_eq!(line.first(), first);
                        if let Some(first) = first {
                            prop_assert_eq!(line.remove(first), tree.remove(&first));
                        }
                    }
                    4 => {
                        let some = tree.keys().nth(usize::try_from(at)? % tree.len().max(1));
                        let some = some.copied().unwrap_or(at);
                        prop_assert_eq!(line.remove(some), tree.remove(&some));
                    }
                    _ => {
                        let key = end.saturating_sub(at);
                        prop_assert_eq!(line.get_mut(key), tree.get_mut(&key));
                    }
                }
                prop_assert_eq!(line.last(), tree.keys().next_back().copied());
                let holes = line.near.iter().filter(|(_, value)| value.is_none()).count();
                prop_assert_eq!(line.emptied, holes);
                prop_assert!(line.iter().eq(tree.iter().map(|(key, value)| (*key, value))));
            }
        }
    }

    #[test]
    fn what_leaves_from_the_middle_leaves_no_memory_behind() {
        let mut line = Line::default();
        for key in 0..10_000 {
            line.insert(key, ());
        }
        for key in (1..9_999).rev() {
            assert_eq!(line.remove(key), Some(()));
        }
        assert!(line.near.len() <= 2 * NEAR + 4, "{}", line.near.len());
        line.remove(0);
        line.remove(9_999);
        assert!(line.near.capacity() <= 2 * KEPT);
    }
}
