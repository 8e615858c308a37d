//! Where a model is cut into blocks.

use crate::graph::Segments;
use crate::id::SegmentIndex;
use std::ops::Range;

/// The blocks of a model, in order: each **waist** (a segment that every other one waits
/// for, or is waited for by) alone, and what lies between two of them.
///
/// No stage of several groups holds a waist, or segments of both its sides. A `merged` one may: the
/// waist, as what joins the others. Then it is in the block with what lies before it.
///
/// # Cost
/// O(segments + edges).
pub(super) fn blocks(segments: &Segments, merged: bool) -> Vec<Range<usize>> {
    let count = segments.count();
    // All before a segment are ancestors where each has a successor up to there; all after
    // it descendants where each has a predecessor from there on.
    let mut before = vec![true; count];
    let mut reach = Some(0);
    for (place, is_before) in before.iter_mut().enumerate() {
        *is_before = reach.is_some_and(|reach| reach <= place);
        let first = segments.successors(SegmentIndex::at(place)).first();
        reach = reach
            .zip(first)
            .map(|(reach, first)| first.place().max(reach));
    }
    let mut waists = Vec::new();
    let mut reach = Some(count);
    for place in (0..count).rev() {
        if before[place] && reach.is_some_and(|reach| reach >= place) {
            waists.push(place);
        }
        let last = segments.predecessors(SegmentIndex::at(place)).last();
        reach = reach.zip(last).map(|(reach, last)| last.place().min(reach));
    }
    let mut blocks = Vec::new();
    let mut start = 0;
    for waist in waists.into_iter().rev() {
        if merged {
            blocks.push(start..waist + 1);
        } else {
            blocks.extend((start < waist).then_some(start..waist));
            blocks.push(waist..waist + 1);
        }
        start = waist + 1;
    }
    blocks.extend((start < count).then_some(start..count));
    blocks
}

/// How many segments are still waited for, between any two.
pub(super) struct Cuts {
    /// By place: segments before it that something from there on waits for.
    pending: Vec<usize>,
}

impl Cuts {
    pub(super) fn new(segments: &Segments) -> Self {
        let mut starts = vec![0; segments.count() + 1];
        let mut ends = vec![0; segments.count() + 1];
        for index in segments.indices() {
            if let Some(last) = segments.successors(index).last() {
                starts[index.place() + 1] += 1;
                ends[last.place()] += 1;
            }
        }
        let mut pending = 0;
        let count = starts.iter().zip(&ends).map(|(start, end)| {
            pending += start;
            let here = pending;
            pending -= end;
            here
        });
        Self {
            pending: count.collect(),
        }
    }

    /// Where to cut a range of at least two in two: in its middle half, where the fewest
    /// are pending, and of such places nearest to its middle.
    pub(super) fn narrowest(&self, range: Range<usize>) -> usize {
        let quarter = range.len() / 4;
        let places = (range.start + quarter).max(range.start + 1)..=range.end - quarter.max(1);
        let middle = range.start + range.len() / 2;
        let narrowest = places.min_by_key(|&place| (self.pending[place], place.abs_diff(middle)));
        narrowest.expect("a range of two has a place to cut")
    }
}

#[cfg(test)]
mod tests;
