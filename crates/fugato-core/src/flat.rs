//! A map for keys that come seldom and are asked for often.

use std::collections::BTreeMap;

/// A map in the order of its keys, which stand side by side.
///
/// # Cost
/// A look-up is a binary search in contiguous memory: a fraction of a walk down a tree. A
/// key that comes or goes moves those after it, so it is for maps that are filled once, or
/// by things that live long.
#[derive(Clone, Debug)]
pub(crate) struct FlatMap<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> Default for FlatMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> FlatMap<K, V> {
    pub(crate) const fn new() -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
        }
    }
}

impl<K: Copy + Ord, V> FlatMap<K, V> {
    pub(crate) fn get(&self, key: K) -> Option<&V> {
        let place = self.keys.binary_search(&key).ok()?;
        self.values.get(place)
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let place = self.keys.binary_search(&key).ok()?;
        self.values.get_mut(place)
    }

    /// The value of a key, which comes with the default one where it is new.
    pub(crate) fn entry(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        self.entry_with(key, V::default)
    }

    /// The value of a key, which comes with the one that `new` makes where it is new.
    pub(crate) fn entry_with(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        let place = self.keys.binary_search(&key).unwrap_or_else(|place| {
            self.keys.insert(place, key);
            self.values.insert(place, new());
            place
        });
        &mut self.values[place]
    }

    /// Puts a value in, in place of an earlier one of its key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.keys.binary_search(&key) {
            Ok(place) => self.values[place] = value,
            Err(place) => {
                self.keys.insert(place, key);
                self.values.insert(place, value);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: K) {
        if let Ok(place) = self.keys.binary_search(&key) {
            self.keys.remove(place);
            self.values.remove(place);
        }
    }

    /// Lets go of the keys that `stays` denies.
    pub(crate) fn retain(&mut self, stays: impl Fn(K) -> bool) {
        let mut keys = self.keys.iter();
        self.values
            .retain(|_| keys.next().is_some_and(|&key| stays(key)));
        self.keys.retain(|&key| stays(key));
    }

    /// The keys, rising.
    pub(crate) fn keys(&self) -> &[K] {
        &self.keys
    }

    /// The values, by rising key.
    pub(crate) fn values(&self) -> &[V] {
        &self.values
    }
}

impl<K: Copy + Ord, V> FromIterator<(K, V)> for FlatMap<K, V> {
    /// Of equal keys the last one stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let sorted: BTreeMap<K, V> = entries.into_iter().collect();
        let (keys, values) = sorted.into_iter().unzip();
        Self { keys, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_tree(changes in prop::collection::vec((0_u8..20, 0_u32..100, 0_u8..5), 0..200)) {
            let mut flat = FlatMap::default();
            let mut tree = BTreeMap::new();
            for (key, value, change) in changes {
                match change {
                    0 => {
                        flat.remove(key);
                        tree.remove(&key);
                    }
                    1 => {
                        *flat.entry(key) += value;
                        *tree.entry(key).or_default() += value;
                    }
                    2 => {
                        flat.retain(|known| known % 7 != key % 7);
                        tree.retain(|known, _| known % 7 != key % 7);
                    }
                    _ => {
                        flat.insert(key, value);
                        tree.insert(key, value);
                    }
                }
                prop_assert_eq!(flat.get(key), tree.get(&key));
                prop_assert_eq!(flat.get_mut(key), tree.get_mut(&key));
                prop_assert!(flat.keys().iter().eq(tree.keys()));
                prop_assert!(flat.values().iter().eq(tree.values()));
            }
            let again: FlatMap<u8, u32> = tree.clone().into_iter().collect();
            prop_assert!(again.keys() == flat.keys() && again.values() == flat.values());
        }
    }
}
