//! Which atoms are taken when.

use crate::device::AtomSet;
use crate::time::{Nanos, Timestamp};

/// The atoms that are taken over time, from a beginning on.
///
/// **Invariant:** edges rise in time; after the last one nothing is taken.
#[derive(Debug)]
pub(super) struct Timeline {
    /// From each time on these are taken, until the next edge.
    edges: Vec<(Timestamp, AtomSet)>,
}

impl Timeline {
    pub(super) fn new(start: Timestamp) -> Self {
        Self {
            edges: vec![(start, AtomSet::EMPTY)],
        }
    }

    /// The stretch that a time is in.
    fn stretch(&self, at: Timestamp) -> usize {
        let after = self.edges.partition_point(|(start, _)| *start <= at);
        after.saturating_sub(1)
    }

    /// Makes a time an edge; gives its place.
    fn cut(&mut self, at: Timestamp) -> usize {
        let place = self.stretch(at);
        let (start, atoms) = self.edges[place];
        if start >= at {
            return place;
        }
        self.edges.insert(place + 1, (at, atoms));
        place + 1
    }

    /// Takes atoms from one time until another.
    pub(super) fn take(&mut self, from: Timestamp, until: Timestamp, atoms: AtomSet) {
        if until > from {
            let first = self.cut(from);
            let end = self.cut(until);
            for (_, taken) in &mut self.edges[first..end] {
                *taken = taken.union(atoms);
            }
        }
    }

    /// All that is taken at any time between two.
    pub(super) fn busy(&self, from: Timestamp, until: Timestamp) -> AtomSet {
        let stretches = self.edges[self.stretch(from)..].iter();
        let within = stretches.take_while(|(start, _)| *start < until || *start <= from);
        within.fold(AtomSet::EMPTY, |busy, (_, taken)| busy.union(*taken))
    }

    /// The earliest time from which on `fit` finds room beside all that is taken for
    /// `length`, and what it finds; it ends by the end of the window. `fit` finds none where
    /// more than `most` atoms are taken.
    ///
    /// # Cost
    /// The stretches of the window, times those that one length covers.
    pub(super) fn earliest<T>(
        &self,
        (from, by): (Timestamp, Timestamp),
        length: Nanos,
        most: u16,
        fit: impl Fn(AtomSet) -> Option<T>,
    ) -> Option<(Timestamp, T)> {
        let mut place = self.stretch(from);
        let mut start = from;
        loop {
            let end = start + length;
            if end > by {
                return None;
            }
            let mut busy = AtomSet::EMPTY;
            let mut full = None;
            for (index, (begins, taken)) in self.edges.iter().enumerate().skip(place) {
                if *begins >= end && *begins > start {
                    break;
                }
                busy = busy.union(*taken);
                if taken.count() > most {
                    full = Some(index);
                }
            }
            let next = match full {
                Some(index) => index + 1,
                None => match fit(busy) {
                    Some(found) => return Some((start, found)),
                    None => place + 1,
                },
            };
            place = next;
            start = self.edges.get(next)?.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::ZERO + Nanos::from_millis(ms)
    }

    #[test]
    fn room_is_found_between_what_is_taken() {
        let (left, right) = (AtomSet::range(0, 1), AtomSet::range(1, 1));
        let mut timeline = Timeline::new(ms(0));
        timeline.take(ms(0), ms(10), left);
        timeline.take(ms(5), ms(20), right);
        assert_eq!(timeline.busy(ms(0), ms(5)), left);
        assert_eq!(timeline.busy(ms(4), ms(6)), left.union(right));
        assert_eq!(timeline.busy(ms(20), ms(99)), AtomSet::EMPTY);
        let find = |from, by, length, wanted: AtomSet| {
            let room = |busy: AtomSet| (!busy.overlaps(wanted)).then_some(());
            let most = 2 - wanted.count();
            let length = Nanos::from_millis(length);
            let found = timeline.earliest((ms(from), ms(by)), length, most, room);
            found.map(|(start, ())| start)
        };
        assert_eq!(find(0, 100, 5, right), Some(ms(0)));
        assert_eq!(find(0, 100, 6, right), Some(ms(20)));
        assert_eq!(find(0, 100, 6, left), Some(ms(10)));
        assert_eq!(find(12, 18, 6, left), Some(ms(12)));
        assert_eq!(find(12, 17, 6, left), None, "it ends too late");
        assert_eq!(find(0, 100, 1, left.union(right)), Some(ms(20)));
    }
}
