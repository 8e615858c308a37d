use super::*;
use crate::graph::{Operator, Span, Stacks, Tensor, Window};
use crate::id::{SegmentIndex, TensorIndex};

/// A device where one operation of 100 bytes of output takes 100 us on one slice, and each
/// kernel 10 us of its own.
const DEVICE: CostModel = CostModel {
    flops_per_slice: 1e6,
    bytes_per_slice: f64::INFINITY,
    grain_bytes: 100.0,
    launch_s: 10e-6,
    sync_s: 0.0,
    lane_slices: Share(u16::MAX),
    lanes: 4,
    fork_s: 5e-6,
};

/// Independent operators of these widths, each operation of 100 floating-point operations.
fn independent(widths: &[u64]) -> Graph {
    let operator = |(place, &width): (usize, &u64)| Operator {
        outputs: vec![TensorIndex::at(place)],
        flops: 100 * width,
        ..Operator::default()
    };
    let tensor = |(place, &width): (usize, &u64)| Tensor {
        name: place.to_string(),
        bytes: 100 * width,
        per_item: true,
        ..Tensor::default()
    };
    let operators = widths.iter().enumerate().map(operator).collect();
    let tensors = widths.iter().enumerate().map(tensor).collect();
    Graph::new(tensors, operators, vec![], vec![]).expect("nothing depends on anything")
}

fn micros(device: CostModel, widths: &[u64], share: u16, groups: &[&[u32]]) -> f64 {
    let graph = independent(widths);
    let mut costs = device.costs(&graph, &graph.segments(), BatchSize(1), Share(share));
    let group = |segments: &&[u32]| {
        Group::from(
            segments
                .iter()
                .copied()
                .map(SegmentIndex)
                .collect::<Vec<_>>(),
        )
    };
    let groups: Vec<Group> = groups.iter().map(group).collect();
    let Ok(time) = costs.stage(&groups);
    time.as_secs_f64() * 1e6
}

fn close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < 0.01,
        "{found} us, expected {expected}"
    );
}

#[test]
fn a_kernel_alone_fills_as_many_slices_as_it_has_operations() {
    close(micros(DEVICE, &[4], 1, &[&[0]]), 410.0);
    close(micros(DEVICE, &[4], 4, &[&[0]]), 110.0);
    close(micros(DEVICE, &[4], 8, &[&[0]]), 110.0);
    close(micros(DEVICE, &[4, 4], 8, &[&[0, 1]]), 220.0);
    close(micros(DEVICE, &[], 8, &[]), 0.0);
}

#[test]
fn groups_share_the_slices_and_pay_for_fork_and_join() {
    // Four slices of eight each: neither waits but for the other's launch.
    close(
        micros(DEVICE, &[4, 4], 8, &[&[0], &[1]]),
        5.0 + 20.0 + 100.0,
    );
    // All slices each: the work takes twice as long.
    close(
        micros(DEVICE, &[8, 8], 8, &[&[0], &[1]]),
        5.0 + 20.0 + 200.0,
    );
    // One of 100 us, and two of them: beside the first they take 150, then one is alone.
    close(
        micros(DEVICE, &[8, 4, 4], 8, &[&[0], &[1, 2]]),
        5.0 + 20.0 + 150.0 + 110.0,
    );
}

#[test]
fn groups_wait_for_lanes_and_lanes_have_slices() {
    let narrow = CostModel { lanes: 1, ..DEVICE };
    close(micros(narrow, &[4, 4], 8, &[&[0], &[1]]), 225.0);
    let threads = CostModel {
        lane_slices: Share(1),
        ..DEVICE
    };
    close(micros(threads, &[2, 2], 2, &[&[0], &[1]]), 225.0);
    close(micros(threads, &[2, 2], 2, &[&[0, 1]]), 220.0);
}

#[test]
fn bandwidth_is_shared_and_empty_kernels_cost_their_launch() {
    // 100 bytes out at 1 byte per us and slice: 50 us on two slices, all of the bandwidth.
    let slow = CostModel {
        bytes_per_slice: 1e6,
        flops_per_slice: f64::INFINITY,
        ..DEVICE
    };
    close(micros(slow, &[1], 2, &[&[0]]), 60.0);
    close(micros(slow, &[1, 1], 2, &[&[0], &[1]]), 5.0 + 20.0 + 100.0);
    close(micros(slow, &[0, 0], 2, &[&[0], &[1]]), 25.0);
}

#[test]
fn a_kernel_computes_while_it_moves_its_bytes() {
    // 400 bytes out are four operations: 100 us on four slices of eight, and at 1 byte per us and
    // slice 50 us on eight.
    let both = CostModel {
        bytes_per_slice: 1e6,
        ..DEVICE
    };
    close(micros(both, &[4], 8, &[&[0]]), 110.0);
    // Half of the slices and half of the bandwidth each: two fit.
    close(micros(both, &[4, 4], 8, &[&[0], &[1]]), 125.0);
    let slower = CostModel {
        bytes_per_slice: 0.25e6,
        ..DEVICE
    };
    close(micros(slower, &[4], 8, &[&[0]]), 210.0);
    // All of the bandwidth each.
    close(micros(slower, &[4, 4], 8, &[&[0], &[1]]), 425.0);
}

/// Three operators that read one tensor, of a slice each and the second of a window half as long
/// as the others', and one of another kind.
fn alike() -> Graph {
    let tensor = |name: &str| Tensor {
        name: name.to_owned(),
        bytes: 100,
        per_item: true,
        ..Tensor::default()
    };
    let operator = |writes: u32, alike: &str, size: u64| Operator {
        inputs: vec![TensorIndex(0)],
        outputs: vec![TensorIndex(writes)],
        flops: 100,
        weight_bytes: 1_000,
        stacks: Some(Stacks {
            alike: alike.to_owned(),
            window: Window(vec![Span { before: 0, size }]),
        }),
        ..Operator::default()
    };
    let operators = vec![
        operator(1, "a", 2),
        operator(2, "a", 1),
        operator(3, "b", 2),
        operator(4, "a", 2),
    ];
    let tensors = ["x", "p", "q", "r", "s"]
        .iter()
        .map(|name| tensor(name))
        .collect();
    Graph::new(tensors, operators, vec![TensorIndex(0)], vec![]).expect("a fork")
}

#[test]
fn operators_alike_merge_into_one_and_a_split() {
    let graph = alike();
    let segments = graph.segments();
    // Ten bytes a microsecond on each of two slices, or 5 us for a hundred.
    let device = CostModel {
        bytes_per_slice: 10e6,
        ..DEVICE
    };
    let mut costs = device.costs(&graph, &segments, BatchSize(1), Share(2));
    let mut merged = |segments: &[u32]| {
        let segments: Vec<SegmentIndex> = segments.iter().copied().map(SegmentIndex).collect();
        let Ok(time) = costs.merged(&segments);
        time.map(|time| time.as_secs_f64() * 1e6)
    };
    // 10 us of launch, then 100 us of work in two slices beside 2,000 bytes of weights, 100 read and
    // 200 written; then 10 us of launch, and 200 bytes read and written.
    let expected = 10.0 + 115.0 + 10.0 + 20.0;
    close(merged(&[0, 3]).expect("they are alike"), expected);
    // The shorter window twice over: half as much work and weights more.
    let padded = 10.0 + 165.0 + 10.0 + 20.0;
    close(merged(&[0, 1]).expect("they are alike"), padded);
    close(merged(&[1, 3]).expect("they are alike"), padded);
    assert_eq!(merged(&[0, 2]), None);
    assert_eq!(merged(&[]), None);
}
