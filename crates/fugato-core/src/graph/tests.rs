use super::*;
use crate::id::SegmentIndex;
use proptest::prelude::*;

/// A graph whose operator `i` writes tensor `i` and reads those of `edges`, the last tensor
/// being the graph's input, which operators without predecessors read.
fn graph(edges: &[&[usize]], outputs: &[usize]) -> Result<Graph, GraphError> {
    let count = edges.len();
    let mut tensors: Vec<_> = (0..count)
        .map(|place| tensor(&format!("t{place}")))
        .collect();
    tensors.push(tensor("in"));
    let operators = edges.iter().enumerate().map(|(place, from)| Operator {
        name: format!("o{place}"),
        op_type: "Relu".to_owned(),
        inputs: match from {
            [] => vec![TensorIndex::at(count)],
            from => from.iter().map(|&tensor| TensorIndex::at(tensor)).collect(),
        },
        outputs: vec![TensorIndex::at(place)],
        flops: 10,
        weight_bytes: 1,
        stacks: None,
        joins: false,
    });
    let outputs = outputs.iter().map(|&tensor| TensorIndex::at(tensor));
    Graph::new(
        tensors,
        operators.collect(),
        vec![TensorIndex::at(count)],
        outputs.collect(),
    )
}

fn tensor(name: &str) -> Tensor {
    Tensor {
        name: name.to_owned(),
        bytes: 4,
        per_item: true,
        ..Tensor::default()
    }
}

fn cuts(segments: &Segments) -> Vec<Vec<u32>> {
    let operators = |segment: &Segment| segment.operators.iter().map(|index| index.0).collect();
    segments.all().iter().map(operators).collect()
}

#[test]
fn chains_are_cut_at_forks_and_joins() {
    // 0 -> 1 -> {2 -> 3, 4} -> 5 -> 6
    let edges: [&[usize]; 7] = [&[], &[0], &[1], &[2], &[1], &[3, 4], &[5]];
    let segments = graph(&edges, &[6]).unwrap().segments();
    assert_eq!(
        cuts(&segments),
        [vec![0, 1], vec![2, 3], vec![4], vec![5, 6]]
    );
    let join = SegmentIndex(3);
    assert_eq!(
        segments.predecessors(join),
        [SegmentIndex(1), SegmentIndex(2)]
    );
    assert_eq!(
        segments.successors(SegmentIndex(0)),
        segments.predecessors(join)
    );
    let join = segments.segment(join);
    assert_eq!(join.inputs, [TensorIndex(3), TensorIndex(4)]);
    assert_eq!(join.outputs, [TensorIndex(6)]);
    assert_eq!((join.flops, join.bytes, join.weight_bytes), (20, 20, 2));
}

#[test]
fn chains_are_cut_where_they_are_long_enough() {
    // 0 -> 1 -> 2 -> 3 -> {4, 5} -> 6, each of 10 operations.
    let edges: [&[usize]; 7] = [&[], &[0], &[1], &[2], &[3], &[3], &[4, 5]];
    let graph = graph(&edges, &[6]).unwrap();
    let of = |flops| cuts(&graph.segments_from(flops));
    let twos = [vec![0, 1], vec![2, 3], vec![4], vec![5], vec![6]];
    assert_eq!(of(20), twos);
    assert_eq!(of(11), twos, "a segment ends where it has enough");
    assert_eq!(of(30)[..2], [vec![0, 1, 2], vec![3]]);
    assert_eq!(of(0).len(), 7);
    assert_eq!(of(u64::MAX), cuts(&graph.segments()));
}

#[test]
fn outputs_may_also_be_read_and_inputs_may_be_read_twice() {
    // The chain's middle is an output, and the last reads the same tensor twice.
    let segments = graph(&[&[], &[0], &[1, 1]], &[1, 2]).unwrap().segments();
    assert_eq!(cuts(&segments), [vec![0, 1, 2]]);
    let only = segments.segment(SegmentIndex(0));
    assert_eq!(only.inputs, [TensorIndex(3)]);
    assert_eq!(only.outputs, [TensorIndex(1), TensorIndex(2)]);
}

#[test]
fn users_of_a_tensor_that_is_not_cut_stay_together_with_what_is_between() {
    // 0 -> {1, 2 -> 3}, and 3 reads 0's tensor as well, which may not be cut.
    let plain = graph(&[&[], &[0], &[0], &[0, 2]], &[1, 3]).unwrap();
    assert_eq!(plain.segments().count(), 4);
    let mut tensors = plain.tensors().to_vec();
    tensors[2].uncut = Some("it is a sequence".to_owned());
    let together = |tensors: &[Tensor]| {
        let operators = plain.operators().to_vec();
        let (inputs, outputs) = (plain.inputs().to_vec(), plain.outputs().to_vec());
        let graph = Graph::new(tensors.to_vec(), operators, inputs, outputs);
        cuts(&graph.unwrap().segments())
    };
    assert_eq!(together(&tensors), [vec![0], vec![1], vec![2, 3]]);
    tensors[2].uncut = None;
    tensors[0].uncut = Some("it is optional".to_owned());
    assert_eq!(together(&tensors), [vec![0, 1, 2, 3]]);
    assert_eq!(cuts(&plain.whole()), [vec![0, 1, 2, 3]]);

    let mut chain = graph(&[&[], &[0], &[1]], &[2]).unwrap();
    assert_eq!(cuts(&chain.apart()), [vec![0], vec![1], vec![2]]);
    chain.tensors[1].uncut = Some("it is one operator elsewhere".to_owned());
    assert_eq!(cuts(&chain.apart()), [vec![0], vec![1, 2]]);
    assert_eq!(cuts(&chain.segments()), [vec![0, 1, 2]]);
}

#[test]
fn operators_that_lie_between_joined_ones_are_joined_too() {
    // 0 -> 1 -> 2 -> 3, 0 -> 3 and 1 -> 4: joining 0 with 3 leaves 4 outside only.
    let plain = graph(&[&[], &[0], &[1], &[0, 2], &[1]], &[3, 4]).unwrap();
    let mut tensors = plain.tensors().to_vec();
    tensors[0].uncut = Some("it is a sequence".to_owned());
    let graph = Graph::new(
        tensors,
        plain.operators().to_vec(),
        plain.inputs().to_vec(),
        plain.outputs().to_vec(),
    );
    assert_eq!(
        cuts(&graph.unwrap().segments()),
        [vec![0, 1, 2, 3], vec![4]]
    );
}

#[test]
fn operators_are_sorted_and_keep_their_places_where_they_can() {
    let sorted = graph(&[&[2], &[], &[1]], &[0]).unwrap();
    let names: Vec<_> = sorted
        .operators()
        .iter()
        .map(|op| op.name.as_str())
        .collect();
    assert_eq!(names, ["o1", "o2", "o0"]);
    assert_eq!(sorted.producer(TensorIndex(0)), Some(OperatorIndex(2)));
    assert_eq!(sorted.consumers(TensorIndex(1)), [OperatorIndex(1)]);
    let kept = graph(&[&[], &[], &[1], &[0]], &[2, 3]).unwrap();
    assert_eq!(kept.operator(OperatorIndex(1)).name, "o1");
}

#[test]
fn faults_name_the_operator_and_the_tensor() {
    let message = |edges: &[&[usize]]| graph(edges, &[]).unwrap_err().to_string();
    assert_eq!(
        message(&[&[], &[0, 3], &[1], &[2]]),
        "graph has a circle: operator `o1` (`Relu`) -> operator `o2` (`Relu`) -> \
         operator `o3` (`Relu`) -> operator `o1` (`Relu`)"
    );
    assert_eq!(
        message(&[&[], &[1]]),
        "graph has a circle: operator `o1` (`Relu`) -> operator `o1` (`Relu`)"
    );
    assert_eq!(
        message(&[&[9]]),
        "operator `o0` (`Relu`) of the graph uses tensor 9, expected one below 2"
    );

    let good = graph(&[&[], &[0]], &[1]).unwrap();
    let broken = |change: fn(&mut Vec<Tensor>, &mut Vec<Operator>, &mut Vec<TensorIndex>)| {
        let (mut tensors, mut operators) = (good.tensors().to_vec(), good.operators().to_vec());
        let mut inputs = good.inputs().to_vec();
        change(&mut tensors, &mut operators, &mut inputs);
        let outputs = good.outputs().to_vec();
        Graph::new(tensors, operators, inputs, outputs)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        broken(|_, operators, _| operators[1].outputs.push(TensorIndex(0))),
        "tensor `t0` of the graph comes from operator `o0` (`Relu`) and from operator `o1` \
         (`Relu`), expected one source"
    );
    assert_eq!(
        broken(|tensors, _, _| tensors[0].weight = true),
        "tensor `t0` of the graph comes from the weights and from operator `o0` (`Relu`), \
         expected one source"
    );
    assert_eq!(
        broken(|_, _, inputs| inputs.clear()),
        "tensor `in`, read by operator `o0` (`Relu`) of the graph, comes from no operator, \
         input or weight"
    );
    assert_eq!(
        broken(|_, operators, _| drop(operators.pop())),
        "tensor `t1`, read by the outputs of the graph, comes from no operator, input or weight"
    );
    assert_eq!(
        broken(|tensors, operators, _| {
            tensors[1].name = "t0".to_owned();
            operators[0].name.clear();
        }),
        "graph has two tensors named `t0`: tensor 0 and tensor 1"
    );
}

#[test]
fn depth_and_width_are_no_limit() {
    let count = 100_000;
    let chain: Vec<Vec<usize>> = (0..count)
        .map(|at: usize| at.checked_sub(1).into_iter().collect())
        .collect();
    let chain: Vec<&[usize]> = chain.iter().map(Vec::as_slice).collect();
    assert_eq!(graph(&chain, &[]).unwrap().segments().count(), 1);

    // One operator read by all others, and all of them by the last.
    let all: Vec<usize> = (1..count).collect();
    let mut fan: Vec<&[usize]> = vec![&[0]; count];
    fan[0] = &[];
    fan.push(&all);
    assert_eq!(graph(&fan, &[]).unwrap().segments().count(), count + 1);
}

proptest! {
    /// Random graphs: every operator in one segment, segments in topological order, each a
    /// chain, and none that could be joined with the next.
    #[test]
    fn segments_are_the_longest_chains(picks in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..40)) {
        let edges: Vec<Vec<usize>> = picks
            .iter()
            .enumerate()
            .map(|(place, picks)| match place {
                0 => Vec::new(),
                _ => picks.iter().map(|pick| pick.index(place)).collect(),
            })
            .collect();
        let edges: Vec<&[usize]> = edges.iter().map(Vec::as_slice).collect();
        let graph = graph(&edges, &[]).unwrap();
        let segments = graph.segments();
        let mut seen: Vec<u32> = cuts(&segments).concat();
        seen.sort_unstable();
        prop_assert!(seen.iter().copied().eq(0..u32::try_from(edges.len()).unwrap()));
        for index in segments.indices() {
            let operators = &segments.segment(index).operators;
            for pair in operators.windows(2) {
                prop_assert_eq!(graph.predecessors(pair[1]), [pair[0]]);
                prop_assert_eq!(graph.successors(pair[0]), [pair[1]]);
            }
            prop_assert!(segments.predecessors(index).iter().all(|&before| before < index));
            for &next in segments.successors(index) {
                prop_assert!(segments.predecessors(next).contains(&index));
                let alone = segments.successors(index).len() == 1
                    && segments.predecessors(next).len() == 1;
                prop_assert!(!alone, "{} and {} are one chain", index, next);
            }
        }
    }
}
