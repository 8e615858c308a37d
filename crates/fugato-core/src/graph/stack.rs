//! Operators that can be one: convolutions of one tensor whose filters are stacked.
//!
//! # Source
//! IOS (Ding et al., MLSys 2021) merges convolutions of one stage that read the same tensor, the
//! smaller filters padded with zeros. So are those here whose operators have a [`Window`]; others
//! must be of one size. In its runtime an operator can read a part of what a merged one gives; here
//! what it gives is split, unless all that reads it is what joins it again.

use super::{Graph, Segments};
use crate::id::{OperatorIndex, SegmentIndex, TensorIndex};
use std::collections::{BTreeMap, BTreeSet};

/// With what others an operator can be stacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stacks {
    /// What another must say too.
    pub alike: String,
    /// What it reads of the tensor, in which others may differ: the weights of a smaller window
    /// are padded with zeros to those of the larger one. Empty where nothing may differ.
    pub window: Window,
}

/// What an operator reads of a tensor for each position that it writes: a span along each axis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window(pub Vec<Span>);

/// What is read along one axis: from `before` places before the position on, `size` places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Places before the position; the padding at the axis's begin.
    pub before: u64,
    /// Places in all, at least 1.
    pub size: u64,
}

impl Span {
    /// The smallest span that holds both.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        let before = self.before.max(other.before);
        let end = |one: Self| one.size.saturating_add(before - one.before);
        Self {
            before,
            size: end(self).max(end(other)),
        }
    }
}

impl Window {
    /// The smallest window that holds both, of as many axes.
    #[must_use]
    pub fn joined(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(one, other)| one.joined(*other)).collect())
    }

    /// How many places it has; 1 where it is empty.
    #[must_use]
    pub fn places(&self) -> u64 {
        let sizes = self.0.iter().map(|span| span.size.max(1));
        sizes.fold(1, u64::saturating_mul)
    }
}

/// Segments that can be one operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Those that can be stacked, at least two, rising. Some of them can be, too.
    pub members: Vec<SegmentIndex>,
    /// What only joins what all members give. It can be part of the operator, after them.
    pub join: Option<SegmentIndex>,
}

/// What operators that can be stacked have in common.
type Alike<'a> = (TensorIndex, &'a str);

impl Graph {
    /// Operators that can be stacked, as lists of at least two, each rising: they read the
    /// same tensor, and say the same of themselves ([`Stacks::alike`]).
    ///
    /// # Cost
    /// O(n log n) in operators.
    #[must_use]
    pub fn stackable(&self) -> Vec<Vec<OperatorIndex>> {
        let mut alike: BTreeMap<Alike<'_>, Vec<OperatorIndex>> = BTreeMap::new();
        for place in 0..self.operators().len() {
            let index = OperatorIndex::at(place);
            if let Some(key) = self.alike(index) {
                alike.entry(key).or_default().push(index);
            }
        }
        let mut found: Vec<_> = alike.into_values().filter(|list| list.len() > 1).collect();
        found.sort_unstable();
        found
    }

    /// Segments that can be stacked: those of [`Graph::stackable`] whose operators are
    /// segments of their own, as [`Graph::segments_to_stack`] makes them.
    ///
    /// # Panics
    /// Where the segments are not of this graph.
    #[must_use]
    pub fn stacks(&self, segments: &Segments) -> Vec<Stack> {
        let mut places = BTreeMap::new();
        for (place, segment) in segments.all().iter().enumerate() {
            let operators = segment.operators.iter();
            places.extend(operators.map(|&one| (one, SegmentIndex::at(place))));
        }
        let own = |operators: &[OperatorIndex]| {
            let place = *places.get(operators.first()?)?;
            (segments.segment(place).operators == operators).then_some(place)
        };
        let stack = |list: Vec<OperatorIndex>| {
            let members = list.iter().filter_map(|&member| own(&[member]));
            let mut members: Vec<SegmentIndex> = members.collect();
            members.sort_unstable();
            let is_whole = members.len() == list.len();
            let join = self.join_of(&list).filter(|_| is_whole);
            Stack {
                join: join.and_then(|join| own(&join)),
                members,
            }
        };
        let mut found: Vec<_> = self.stackable().into_iter().map(stack).collect();
        found.retain(|stack| stack.members.len() > 1);
        found.sort_unstable_by(|one, other| one.members.cmp(&other.members));
        found
    }

    /// The operators that join what these give and nothing else ([`joins`](super::Operator::joins)), rising, where
    /// nobody else reads that: after them there is one tensor, in which all are. `None` where there
    /// are none.
    ///
    /// # Cost
    /// O(n^2 log n) in the operators and what they read.
    ///
    /// # Panics
    /// Where an index is not of this graph.
    #[must_use]
    pub fn join_of(&self, members: &[OperatorIndex]) -> Option<Vec<OperatorIndex>> {
        let given = |&index: &OperatorIndex| self.operator(index).outputs.iter().copied();
        let mut open: BTreeSet<TensorIndex> = members.iter().flat_map(given).collect();
        let mut joins = Vec::new();
        while open.len() > 1 {
            let ready = |&tensor: &TensorIndex| {
                let &[reader] = self.consumers(tensor) else {
                    return None;
                };
                let operator = self.operator(reader);
                let is_ready = operator.joins
                    && operator.outputs.len() == 1
                    && operator.inputs.iter().all(|input| open.contains(input));
                is_ready.then_some(reader)
            };
            let reader = open.iter().find_map(ready)?;
            let operator = self.operator(reader);
            for input in &operator.inputs {
                // Each once, and for nobody else.
                if !open.remove(input) || self.outputs().contains(input) {
                    return None;
                }
                if self.consumers(*input) != [reader] {
                    return None;
                }
            }
            open.extend(&operator.outputs);
            joins.push(reader);
        }
        joins.sort_unstable();
        (!joins.is_empty()).then_some(joins)
    }

    /// Operators after which a segment ends, so that others can be stacked: those, and what
    /// joins what they give.
    pub(super) fn ends_to_stack(&self) -> Vec<OperatorIndex> {
        let mut ends = Vec::new();
        for list in self.stackable() {
            ends.extend(self.join_of(&list).and_then(|join| join.last().copied()));
            ends.extend(list);
        }
        ends
    }

    /// What an operator reads first, and what it says of itself; `None` where it cannot be
    /// stacked.
    fn alike(&self, index: OperatorIndex) -> Option<Alike<'_>> {
        let operator = self.operator(index);
        let key = operator.stacks.as_ref()?.alike.as_str();
        let (&read, [_]) = (operator.inputs.first()?, &operator.outputs[..]) else {
            return None;
        };
        Some((read, key))
    }
}

#[cfg(test)]
mod tests {
    use crate::graph::{Graph, Operator, Span, Stacks, Tensor, Window};
    use crate::id::{OperatorIndex, SegmentIndex, TensorIndex};

    /// A tensor that four operators read, three of them alike; each has one after it.
    fn forked() -> Graph {
        let tensor = |place: u32| Tensor {
            name: place.to_string(),
            bytes: 4,
            per_item: true,
            ..Tensor::default()
        };
        let operator = |reads: u32, writes: u32, stacks: Option<&str>| Operator {
            op_type: "Test".to_owned(),
            inputs: vec![TensorIndex(reads)],
            outputs: vec![TensorIndex(writes)],
            flops: 1,
            stacks: stacks.map(|alike| Stacks {
                alike: alike.to_owned(),
                window: Window::default(),
            }),
            ..Operator::default()
        };
        let operators = vec![
            operator(0, 1, Some("3x3")),
            operator(1, 2, Some("1x1")),
            operator(1, 3, Some("3x3")),
            operator(1, 4, Some("1x1")),
            operator(1, 5, None),
            operator(2, 6, None),
            operator(3, 7, None),
            operator(4, 8, Some("1x1")),
        ];
        let tensors = (0..9).map(tensor).collect();
        Graph::new(tensors, operators, vec![TensorIndex(0)], vec![]).unwrap()
    }

    #[test]
    fn operators_alike_of_one_tensor_are_stackable() {
        let graph = forked();
        assert_eq!(graph.stackable(), [[OperatorIndex(1), OperatorIndex(3)]]);
        // Joined with what follows them they are no segments of their own.
        let joined = graph.segments();
        assert_eq!((joined.count(), graph.stacks(&joined).len()), (5, 0));
        let apart = graph.segments_to_stack(u64::MAX);
        assert_eq!(apart.count(), 7, "what is not stackable stays joined");
        let stacks = graph.stacks(&apart);
        assert_eq!(stacks.len(), 1);
        let operators = |&index: &SegmentIndex| apart.segment(index).operators.clone();
        let operators: Vec<_> = stacks[0].members.iter().map(operators).collect();
        assert_eq!(operators, [[OperatorIndex(1)], [OperatorIndex(3)]]);
        assert_eq!(stacks[0].join, None, "what reads them joins nothing");
    }

    /// One tensor, what two alike make of it, and what joins: a copy of the first with the
    /// second, and after that another of what they give; `changed` before it is checked.
    fn joined(change: impl Fn(&mut Vec<Operator>)) -> Graph {
        let tensor = |place: u32| Tensor {
            name: place.to_string(),
            ..Tensor::default()
        };
        let operator = |reads: &[u32], writes: u32, joins: bool| Operator {
            inputs: reads.iter().copied().map(TensorIndex).collect(),
            outputs: vec![TensorIndex(writes)],
            stacks: (!joins).then(Stacks::default),
            joins,
            ..Operator::default()
        };
        let mut operators = vec![
            operator(&[0], 1, false),
            operator(&[0], 2, false),
            operator(&[1], 3, true),
            operator(&[3, 2], 4, true),
            operator(&[4, 4], 5, true),
        ];
        change(&mut operators);
        let tensors = (0..7).map(tensor).collect();
        Graph::new(tensors, operators, vec![TensorIndex(0)], vec![]).unwrap()
    }

    #[test]
    fn what_only_joins_stacked_operators_can_be_part_of_them() {
        let members = [OperatorIndex(0), OperatorIndex(1)];
        let join = |change: &dyn Fn(&mut Vec<Operator>)| joined(change).join_of(&members);
        let both = vec![OperatorIndex(2), OperatorIndex(3)];
        assert_eq!(join(&|_| ()), Some(both));
        assert_eq!(join(&|all| all[3].joins = false), None);
        let twice = |all: &mut Vec<Operator>| all[3].inputs.push(TensorIndex(3));
        assert_eq!(join(&twice), None);
        let more = |all: &mut Vec<Operator>| all[3].inputs.push(TensorIndex(0));
        assert_eq!(join(&more), None);
        let read_besides = |all: &mut Vec<Operator>| {
            all.push(Operator {
                inputs: vec![TensorIndex(2)],
                outputs: vec![TensorIndex(6)],
                ..Operator::default()
            });
        };
        assert_eq!(join(&read_besides), None);
    }

    #[test]
    fn a_join_is_a_segment_of_its_own() {
        let graph = joined(|all| {
            // Without the copy, which would be a segment too.
            all[2].stacks = None;
            all[2].inputs = vec![TensorIndex(4)];
            all[3].inputs = vec![TensorIndex(1), TensorIndex(2)];
            all[4].inputs = vec![TensorIndex(3)];
        });
        let segments = graph.segments_to_stack(u64::MAX);
        assert_eq!(segments.count(), 4, "two, what joins them, and the rest");
        let stack = &graph.stacks(&segments)[0];
        assert_eq!(stack.members, [SegmentIndex(0), SegmentIndex(1)]);
        assert_eq!(stack.join, Some(SegmentIndex(2)));
    }

    #[test]
    fn a_joined_window_holds_both() {
        let span = |before, size| Span { before, size };
        // Three places around the position, and the position.
        assert_eq!(span(1, 3).joined(span(0, 1)), span(1, 3));
        assert_eq!(span(0, 1).joined(span(1, 3)), span(1, 3));
        // What lies before it, and what lies after it.
        assert_eq!(span(2, 2).joined(span(0, 3)), span(2, 5));
        // Neither holds the position.
        assert_eq!(span(3, 1).joined(span(1, 1)), span(3, 3));
        let (row, column) = (span(0, 1), span(1, 3));
        let across = Window(vec![row, column]).joined(&Window(vec![column, row]));
        assert_eq!(across, Window(vec![column, column]));
        assert_eq!(across.places(), 9);
        assert_eq!(Window::default().places(), 1);
    }
}
