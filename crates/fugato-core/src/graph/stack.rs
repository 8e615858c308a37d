//! Operators that can be one: convolutions of one tensor whose filters are stacked.
//!
//! # Source
//! IOS (Ding et al., MLSys 2021) merges convolutions of one stage that read the same tensor.
//! It pads filters of different sizes with zeros; here sizes must be equal, so that nothing
//! else is computed than before.

use super::{Graph, Segments};
use crate::id::{OperatorIndex, SegmentIndex, TensorIndex};
use std::collections::BTreeMap;

/// What operators that can be stacked have in common.
type Alike<'a> = (TensorIndex, &'a str);

impl Graph {
    /// Operators that can be stacked, as lists of at least two, each rising: they read the
    /// same tensor, and say the same of themselves.
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
    pub fn stacks(&self, segments: &Segments) -> Vec<Vec<SegmentIndex>> {
        let mut alone = BTreeMap::new();
        for (place, segment) in segments.all().iter().enumerate() {
            if let [only] = segment.operators[..] {
                alone.insert(only, SegmentIndex::at(place));
            }
        }
        let own = |list: Vec<OperatorIndex>| {
            let own = list.iter().filter_map(|index| alone.get(index).copied());
            let mut own: Vec<SegmentIndex> = own.collect();
            own.sort_unstable();
            own
        };
        let mut found: Vec<_> = self.stackable().into_iter().map(own).collect();
        found.retain(|list| list.len() > 1);
        found.sort_unstable();
        found
    }

    /// What an operator reads first, and what it says of itself; `None` where it cannot be
    /// stacked.
    fn alike(&self, index: OperatorIndex) -> Option<Alike<'_>> {
        let operator = self.operator(index);
        let key = operator.stacks.as_deref()?;
        let (&read, [_]) = (operator.inputs.first()?, &operator.outputs[..]) else {
            return None;
        };
        Some((read, key))
    }
}

#[cfg(test)]
mod tests {
    use crate::graph::{Graph, Operator, Tensor};
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
            stacks: stacks.map(str::to_owned),
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
        let operators: Vec<_> = stacks[0].iter().map(operators).collect();
        assert_eq!(operators, [[OperatorIndex(1)], [OperatorIndex(3)]]);
    }
}
