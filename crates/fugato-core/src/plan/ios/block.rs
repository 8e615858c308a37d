//! A block: segments of a range, in sets of bits.

use crate::graph::Segments;
use crate::id::SegmentIndex;
use std::collections::BTreeSet;
use std::ops::Range;

/// Segments of a block; the lowest bit is its first segment.
pub(super) type Set = u128;

/// Most segments that a [`Set`] can hold.
pub(super) const BLOCK_MAX: usize = 128;

/// The segments of a range, and which wait for which; what is before the range has run.
pub(super) struct Block {
    /// The first segment of the range.
    pub(super) first: usize,
    /// By segment: those that wait for it.
    successors: Vec<Set>,
    /// By segment: those that it waits for.
    predecessors: Vec<Set>,
    /// By segment: those that must have run before it, however far.
    ancestors: Vec<Set>,
}

impl Block {
    /// # Panics
    /// Where the range is longer than [`BLOCK_MAX`].
    pub(super) fn new(segments: &Segments, range: Range<usize>) -> Self {
        assert!(
            range.len() <= BLOCK_MAX,
            "a block of {} segments",
            range.len()
        );
        let within = |index: &SegmentIndex| range.contains(&index.place());
        let set = |list: &[SegmentIndex]| {
            let inside = list.iter().filter(|index| within(index));
            inside.fold(0, |set, index| set | bit(index.place() - range.start))
        };
        let indices = range.clone().map(SegmentIndex::at);
        let predecessors: Vec<Set> = indices
            .clone()
            .map(|index| set(segments.predecessors(index)))
            .collect();
        let mut ancestors: Vec<Set> = Vec::with_capacity(range.len());
        for &before in &predecessors {
            // Ancestors stand before: the order is topological.
            ancestors.push(members(before).fold(before, |all, member| all | ancestors[member]));
        }
        Self {
            first: range.start,
            successors: indices
                .map(|index| set(segments.successors(index)))
                .collect(),
            predecessors,
            ancestors,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.successors.len()
    }

    /// All segments of the block.
    pub(super) fn all(&self) -> Set {
        (0..self.count()).fold(0, |all, member| all | bit(member))
    }

    /// The connected sets of at most `size_max` segments that can run when `done` has: what
    /// they wait for is done, or in them. In the order of their first segments.
    ///
    /// Two of them that are disjoint do not wait for each other: each has in it, or behind
    /// it, all that it waits for.
    pub(super) fn groups(&self, done: Set, size_max: usize) -> Vec<Set> {
        let ready = (0..self.count())
            .filter(|&member| done & bit(member) == 0 && self.predecessors[member] & !done == 0);
        let mut found: Vec<Set> = ready.map(bit).collect();
        let mut seen: BTreeSet<Set> = found.iter().copied().collect();
        let mut next = 0;
        // Each follower brings in what else it waits for. Every connected set is reached
        // so, from any of its ready segments.
        while let Some(&group) = found.get(next) {
            next += 1;
            let followers = members(group).fold(0, |all, member| all | self.successors[member]);
            for follower in members(followers & !group) {
                let grown = group | bit(follower) | self.ancestors[follower] & !done;
                if grown.count_ones() as usize <= size_max && seen.insert(grown) {
                    found.push(grown);
                }
            }
        }
        found.sort_unstable_by_key(|&group| (group.trailing_zeros(), group));
        found
    }

    /// The connected part of a set that its first segment is in.
    pub(super) fn connected(&self, set: Set) -> Set {
        let mut part = set & set.wrapping_neg();
        let mut fresh = part;
        while fresh != 0 {
            let near = members(fresh).fold(0, |all, member| {
                all | self.successors[member] | self.predecessors[member]
            });
            fresh = near & set & !part;
            part |= fresh;
        }
        part
    }
}

pub(super) fn bit(member: usize) -> Set {
    1 << member
}

/// The members of a set, rising.
pub(super) fn members(mut set: Set) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let member = set.trailing_zeros();
        (set != 0).then(|| {
            set &= set - 1;
            member as usize
        })
    })
}
