//! Sums by index, for indices that move on with time.

use std::collections::BTreeMap;
use std::ops::Range;

/// Indices that the window holds.
const WINDOW: u64 = 1 << 10;

/// Of a new window, those before the index that opens it: others may come before it.
const BEFORE: u64 = WINDOW / 4;

/// Sums of amounts by index. Those near to each other stand in a window that moves on as
/// they pass, any others in a tree.
///
/// **Invariant:** an index has its sum in the window or in the tree, never in both.
///
/// # Cost
/// A change and each index of a range are a few instructions where the indices that are
/// held lie within 1,024 of each other, logarithmic otherwise.
#[derive(Debug)]
pub(super) struct Sums {
    /// The indices `from..from + WINDOW` may be in the window.
    from: u64,
    /// Nothing is in the window from here on.
    to: u64,
    /// By index modulo its length; 0 where there is nothing.
    window: Vec<u64>,
    /// Places of the window that hold something.
    taken: usize,
    far: BTreeMap<u64, u64>,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            from: 0,
            to: 0,
            window: vec![0; place(WINDOW - 1) + 1],
            taken: 0,
            far: BTreeMap::new(),
        }
    }
}

impl Sums {
    pub(super) fn add(&mut self, index: u64, amount: u64) {
        if amount == 0 {
            return;
        }
        let far = !self.far.is_empty() && self.far.contains_key(&index);
        if far || !self.reaches(index) {
            *self.far.entry(index).or_default() += amount;
            return;
        }
        let sum = &mut self.window[place(index)];
        self.taken += usize::from(*sum == 0);
        *sum += amount;
        self.to = self.to.max(index + 1);
    }

    /// # Panics
    /// Where more is taken out than there is.
    pub(super) fn remove(&mut self, index: u64, amount: u64) {
        if amount == 0 {
            return;
        }
        let near = self.near().contains(&index) && self.window[place(index)] > 0;
        let held = if near {
            self.window[place(index)]
        } else {
            self.far.get(&index).copied().unwrap_or(0)
        };
        assert!(
            held >= amount,
            "{amount} taken out of place {index}, which holds {held}"
        );
        let left = held - amount;
        if near {
            self.window[place(index)] = left;
            self.taken -= usize::from(left == 0);
        } else if left == 0 {
            self.far.remove(&index);
        } else {
            self.far.insert(index, left);
        }
    }

    /// Whether the window holds an index, which it moves on for as far as it can.
    fn reaches(&mut self, index: u64) -> bool {
        if self.taken == 0 {
            self.from = index.saturating_sub(BEFORE);
            self.to = index;
        }
        while index >= self.from + WINDOW && self.window[place(self.from)] == 0 {
            self.from += 1;
        }
        (self.from..self.from + WINDOW).contains(&index)
    }

    fn near(&self) -> Range<u64> {
        self.from..self.to.max(self.from)
    }

    /// The sum of all that is held of a range.
    pub(super) fn of(&self, range: Range<u64>) -> u64 {
        let far = if self.far.is_empty() {
            0
        } else {
            self.far.range(range.clone()).map(|(_, sum)| sum).sum()
        };
        let near = range.start.max(self.near().start)..range.end.min(self.near().end);
        near.map(|index| self.window[place(index)]).sum::<u64>() + far
    }

    /// What is held from an index on, rising.
    pub(super) fn entries(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        let near = from.max(self.near().start)..self.near().end;
        let near = near.map(|index| (index, self.window[place(index)]));
        let mut near = near.filter(|&(_, sum)| sum > 0).peekable();
        let far = self.far.range(from..);
        let mut far = far.map(|(&index, &sum)| (index, sum)).peekable();
        std::iter::from_fn(move || match (near.peek(), far.peek()) {
            (Some((one, _)), Some((other, _))) if other < one => far.next(),
            (None, _) => far.next(),
            (Some(_), _) => near.next(),
        })
    }
}

const fn place(index: u64) -> usize {
    (index % WINDOW) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_agree_with_a_tree(
            steps in prop::collection::vec((0_u64..3_000, 0_u64..4, any::<bool>(), 0_u64..200), 1..300),
        ) {
            let (mut sums, mut tree) = (Sums::default(), BTreeMap::<u64, u64>::new());
            let mut passed = 0;
            for (index, amount, out, passes) in steps {
                if out && let Some((first, held)) = tree.pop_first() {
                    sums.remove(first, held);
                    passed += passes;
                } else {
                    sums.add(passed + index, amount);
                    if amount > 0 {
                        *tree.entry(passed + index).or_default() += amount;
                    }
                }
                let from = passed + index / 2;
                let expected: u64 = tree.range(from..from + 900).map(|(_, sum)| sum).sum();
                prop_assert_eq!(sums.of(from..from + 900), expected);
                let expected = tree.range(from..).map(|(&index, &sum)| (index, sum));
                prop_assert!(sums.entries(from).eq(expected));
            }
        }
    }
}
