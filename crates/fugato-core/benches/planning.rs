//! What planning takes, at modelled costs: `cargo bench -p fugato-core --bench planning`.
//!
//! `list` is timed on NASNet-A-Large and on a random graph of 1,200 operators, `ios` (r = 3,
//! s = 8) on Inception-v3 and on NASNet-A-Large. Segments are chains of operators, as a
//! served model has them, and single operators, as IOS has them. The least of some runs is
//! told, because anything else on the machine only adds to it.

#[path = "../tests/plans/models.rs"]
mod models;

use fugato_core::graph::{Graph, Operator, Segments, Tensor};
use fugato_core::plan::{CostModel, Greedy, Ios, List, Planner, Sequential};
use fugato_core::{BatchSize, Nanos, Share, TensorIndex};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::hint::black_box;
use std::io::Write;
use std::time::Duration;

/// Operators, each of which reads up to three of the sixteen before it.
fn random(count: usize) -> Graph {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut tensors = Vec::new();
    let mut operators = Vec::new();
    for place in 0..count {
        let first = place.saturating_sub(16);
        let reads = if place == 0 {
            0
        } else {
            random.random_range(1..=3)
        };
        let inputs = (0..reads).map(|_| TensorIndex::at(random.random_range(first..place)));
        operators.push(Operator {
            op_type: "Random".to_owned(),
            inputs: inputs.collect(),
            outputs: vec![TensorIndex::at(place)],
            flops: random.random_range(0..100_000_000),
            ..Operator::default()
        });
        tensors.push(Tensor {
            name: place.to_string(),
            bytes: random.random_range(4_000..1_000_000),
            per_item: true,
            ..Tensor::default()
        });
    }
    Graph::new(tensors, operators, vec![], vec![]).expect("operators read earlier ones")
}

fn main() {
    let mut out = std::io::stdout().lock();
    let head = "graph                        segments  planner     stages  predicted      took";
    writeln!(out, "{head}").expect("stdout");
    let graphs = [
        ("inception-v3", models::inception_v3()),
        ("squeezenet", models::squeezenet()),
        ("randwire", models::randwire(1)),
        ("nasnet-a-large", models::nasnet_large()),
        ("random of 1,200", random(1_200)),
    ];
    for (name, graph) in &graphs {
        for (cut, segments) in [("chains", graph.segments()), ("apart", graph.apart())] {
            let mut report =
                |planner: &str, (stages, predicted, took): (usize, Nanos, Duration)| {
                    let count = segments.count();
                    let label = format!("{name}, {cut}");
                    let predicted = predicted.to_string();
                    writeln!(
                    out,
                    "{label:28} {count:8}  {planner:10} {stages:7}  {predicted:>9}  {took:>8.1?}"
                )
                .expect("stdout");
                };
            report("sequential", timed(&Sequential, graph, &segments, 20));
            report("greedy", timed(&Greedy::default(), graph, &segments, 20));
            report("list", timed(&List::default(), graph, &segments, 20));
            report("ios", timed(&Ios::default(), graph, &segments, 2));
        }
    }
}

/// The stages, their time, and the least time that planning took.
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench times the core from outside"
)]
fn timed(
    planner: &impl Planner,
    graph: &Graph,
    segments: &Segments,
    runs: usize,
) -> (usize, Nanos, Duration) {
    let mut least = Duration::MAX;
    let mut found = (0, Nanos::ZERO);
    for _ in 0..runs {
        let begun = std::time::Instant::now();
        let mut costs = CostModel::IOS_V100.costs(graph, segments, BatchSize(1), Share(80));
        let Ok(stages) = planner.stages(black_box(segments), &mut costs, &mut |_| ());
        least = least.min(begun.elapsed());
        let times = stages.iter().map(|stage| stage.predicted);
        found = (
            stages.len(),
            times.fold(Nanos::ZERO, |sum, time| sum + time),
        );
    }
    (found.0, found.1, least)
}
