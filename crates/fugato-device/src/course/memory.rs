//! Places for tensors in one block of memory, those that are never there at once over
//! each other.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A tensor and when it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) number: usize,
    /// Bytes, at least 1.
    pub(super) size: usize,
    /// The first stage that it is there in.
    pub(super) first: usize,
    /// The last one.
    pub(super) last: usize,
    /// A tensor of the same size that is last there in this one's first stage, and whose
    /// place it takes.
    pub(super) over: Option<usize>,
}

/// Tensors in one place, one after the other.
struct Run {
    size: usize,
    first: usize,
    last: usize,
    offset: usize,
    members: Vec<usize>,
}

/// The offset of each tensor by its number, a multiple of `align`, and the bytes of them all.
///
/// The largest first, each at the lowest offset that is free as long as it is there:
/// within a few percent of the least for the graphs of networks.
///
/// # Cost
/// O(n^2) in tensors.
pub(super) fn plan(spans: &[Span], align: usize) -> (BTreeMap<usize, usize>, usize) {
    let mut runs = runs(spans);
    runs.sort_by_key(|run| (Reverse(run.size), run.first));
    let mut placed: Vec<Run> = Vec::with_capacity(runs.len());
    for mut run in runs {
        let mut beside: Vec<(usize, usize)> = placed
            .iter()
            .filter(|other| other.first <= run.last && run.first <= other.last)
            .map(|other| (other.offset, other.offset + other.size))
            .collect();
        beside.sort_unstable();
        for (start, end) in beside {
            if run.offset + run.size <= start {
                break;
            }
            run.offset = run.offset.max(end.next_multiple_of(align));
        }
        placed.push(run);
    }
    let size = placed.iter().map(|run| run.offset + run.size).max();
    let offsets = placed.iter().flat_map(|run| {
        let members = run.members.iter();
        members.map(|&number| (number, run.offset))
    });
    (offsets.collect(), size.unwrap_or(0))
}

/// Joins each tensor with the one it is written over.
fn runs(spans: &[Span]) -> Vec<Run> {
    let mut by_number = BTreeMap::new();
    let mut runs: Vec<Run> = Vec::new();
    let mut in_order: Vec<&Span> = spans.iter().collect();
    in_order.sort_by_key(|span| (span.first, span.number));
    for span in in_order {
        let over = span.over.and_then(|over| by_number.get(&over).copied());
        let free = over.filter(|&run: &usize| runs[run].last == span.first);
        let run = match free {
            Some(run) => run,
            None => {
                runs.push(Run {
                    size: span.size,
                    first: span.first,
                    last: span.last,
                    offset: 0,
                    members: Vec::new(),
                });
                runs.len() - 1
            }
        };
        runs[run].last = span.last;
        runs[run].members.push(span.number);
        by_number.insert(span.number, run);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIGN: usize = 64;

    fn span(number: usize, size: usize, first: usize, last: usize) -> Span {
        Span {
            number,
            size,
            first,
            last,
            over: None,
        }
    }

    #[test]
    fn places_are_used_again_and_never_twice_at_once() {
        // A chain needs two places, whatever its length.
        let chain: Vec<_> = (0..10).map(|n| span(n, 640, n, n + 1)).collect();
        let (offsets, size) = plan(&chain, ALIGN);
        assert_eq!(size, 2 * 640);
        assert_eq!(offsets.len(), 10);
        let mut random = 1_u64;
        let mut next = |end: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) as usize % end
        };
        for _ in 0..100 {
            let spans = (0..20).map(|number| {
                let first = next(10);
                span(number, 1 + next(1000), first, first + next(5))
            });
            let spans: Vec<_> = spans.collect();
            let (offsets, size) = plan(&spans, ALIGN);
            for (place, one) in spans.iter().enumerate() {
                let start = offsets[&one.number];
                assert!(start.is_multiple_of(ALIGN) && start + one.size <= size);
                for other in &spans[..place] {
                    let apart = one.last < other.first || other.last < one.first;
                    let begin = offsets[&other.number];
                    assert!(
                        apart || start + one.size <= begin || begin + other.size <= start,
                        "{one:?} at {start} and {other:?} at {begin}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_sum_takes_the_place_of_what_it_adds() {
        let mut spans = vec![span(0, 100, 0, 2), span(1, 100, 1, 2), span(2, 100, 2, 5)];
        spans[2].over = Some(0);
        let (offsets, size) = plan(&spans, ALIGN);
        assert_eq!(offsets[&2], offsets[&0]);
        assert_ne!(offsets[&1], offsets[&0]);
        assert_eq!(size, 228);
        // Not where somebody else still reads what would be written over.
        spans[0].last = 3;
        let (offsets, _) = plan(&spans, ALIGN);
        assert_ne!(offsets[&2], offsets[&0]);
    }
}
