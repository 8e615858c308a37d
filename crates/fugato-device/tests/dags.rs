//! Random networks under random plans and under those of every planner: whatever is cut where,
//! the answers are those of the model in one piece.
//!
//! A failing seed is run alone with `FUGATO_DAG_SEED=N`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{
    Bench, Random, Rig, as_f32, assert_close, batched, f32_bytes, floats, model, node, raw, request,
};
use fugato_core::graph::Segments;
use fugato_core::plan::{AnyPlanner, CostModel, LegLimits, Plan, PlanKey, Planner};
use fugato_core::profile::DeviceKey;
use fugato_core::{BatchSize, ModelId, Nanos, SegmentIndex, Share};
use fugato_device::{Cuts, InputTensor, LoadOptions, ModelGraph};
use fugato_onnx::proto::AttributeProto;
use fugato_onnx::{DataType, ModelProto, NodeProto, TensorProto};

/// As many as the project's goal says.
const NETWORKS: u64 = 1000;

/// Side of the square images.
const SIDE: i64 = 6;

/// A value of a network under construction.
#[derive(Clone)]
struct Value {
    name: String,
    channels: i64,
}

/// A network of image operators with forks, joins and several outputs.
struct Network {
    random: Random,
    nodes: Vec<NodeProto>,
    weights: Vec<TensorProto>,
    values: Vec<Value>,
}

impl Network {
    fn any(&mut self) -> Value {
        // Late ones more often, so that networks are deep as well as wide.
        let count = self.values.len();
        let recent = count.saturating_sub(4);
        let place = match self.random.one_in(3) {
            true => self.random.below(count),
            false => recent + self.random.below(count - recent),
        };
        self.values[place].clone()
    }

    fn weight(&mut self, dims: &[i64]) -> String {
        let name = format!("w{}", self.weights.len());
        let count: i64 = dims.iter().product();
        let fan_in = dims.iter().skip(1).product::<i64>().max(1) as f32;
        let values = floats(self.random.below(1 << 30) as u64, count.try_into().unwrap());
        let values: Vec<f32> = values.iter().map(|v| v * 2.0 / fan_in.sqrt()).collect();
        self.weights
            .push(TensorProto::from_f32s(&name, dims, &values));
        name
    }

    fn push(&mut self, op: &str, inputs: &[&str], channels: i64, with: Vec<AttributeProto>) {
        let name = format!("t{}", self.values.len());
        self.nodes.push(node(op, inputs, &[&name]).with(with));
        self.values.push(Value { name, channels });
    }

    fn convolution(&mut self) {
        let from = self.any();
        let channels = [3, 16, 20, 32][self.random.below(4)];
        let kernel = [1, 3][self.random.below(2)];
        let weight = self.weight(&[channels, from.channels, kernel, kernel]);
        let pad = kernel / 2;
        let with = vec![
            AttributeProto::ints("pads", &[pad, pad, pad, pad]),
            AttributeProto::ints("kernel_shape", &[kernel, kernel]),
        ];
        self.push("Conv", &[&from.name, &weight], channels, with);
    }

    /// Two values of one shape, which may be one and the same.
    fn pair(&mut self) -> (Value, Value) {
        let first = self.any();
        let alike = self.values.iter().filter(|v| v.channels == first.channels);
        let alike: Vec<_> = alike.cloned().collect();
        let second = alike[self.random.below(alike.len())].clone();
        (first, second)
    }

    fn step(&mut self) {
        match self.random.below(9) {
            0..=3 => self.convolution(),
            4 => {
                let from = self.any();
                let op = ["Relu", "Sigmoid", "Tanh"][self.random.below(3)];
                self.push(op, &[&from.name], from.channels, vec![]);
            }
            5 | 6 => {
                let (first, second) = self.pair();
                let op = ["Add", "Max", "Min"][self.random.below(3)];
                self.push(op, &[&first.name, &second.name], first.channels, vec![]);
            }
            7 => {
                let from = self.any();
                let with = vec![
                    AttributeProto::ints("kernel_shape", &[3, 3]),
                    AttributeProto::ints("pads", &[1, 1, 1, 1]),
                ];
                self.push("MaxPool", &[&from.name], from.channels, with);
            }
            _ => {
                let (first, second) = (self.any(), self.any());
                let channels = first.channels + second.channels;
                let with = vec![AttributeProto::int("axis", 1)];
                if channels <= 64 {
                    self.push("Concat", &[&first.name, &second.name], channels, with);
                }
            }
        }
    }
}

/// A network, and the channels of its input.
fn network(seed: u64) -> (ModelProto, i64) {
    let mut random = Random::new(seed);
    let channels = [3, 16][random.below(2)];
    let steps = 3 + random.below(14);
    let mut network = Network {
        random,
        nodes: Vec::new(),
        weights: Vec::new(),
        values: vec![Value {
            name: "x".to_owned(),
            channels,
        }],
    };
    while network.nodes.len() < steps {
        network.step();
    }
    // What nobody reads is an output, and so is some of what somebody reads.
    let outputs: Vec<_> = network.values[1..].to_vec();
    let outputs = outputs.iter().filter(|value| {
        let mut readers = network.nodes.iter();
        let is_read = readers.any(|node| node.input.contains(&value.name));
        !is_read || network.random.one_in(6)
    });
    let shape = |channels| [channels, SIDE, SIDE];
    let outputs = outputs
        .map(|value| batched(&value.name, DataType::Float, &shape(value.channels)))
        .collect();
    let inputs = vec![batched("x", DataType::Float, &shape(channels))];
    (
        model(network.nodes, inputs, outputs, network.weights),
        channels,
    )
}

/// Segments put into groups, stages and legs at random.
fn random_cuts(segments: &Segments, random: &mut Random) -> Cuts {
    let mut done = vec![false; segments.count()];
    let mut legs = vec![Vec::new()];
    while done.iter().any(|done| !done) {
        let before = done.clone();
        let mut groups: Vec<Vec<SegmentIndex>> = Vec::new();
        for index in segments.indices() {
            let is_ready = |of: SegmentIndex, group: &[SegmentIndex]| {
                let mut waits = segments.predecessors(of).iter();
                waits.all(|wait| before[wait.place()] || group.contains(wait))
            };
            if done[index.place()] {
                continue;
            }
            let joins = groups.iter().position(|group| is_ready(index, group));
            match joins {
                Some(group) if !random.one_in(3) => groups[group].push(index),
                _ if is_ready(index, &[]) && (groups.is_empty() || random.one_in(2)) => {
                    groups.push(vec![index]);
                }
                _ => continue,
            }
            done[index.place()] = true;
        }
        let operators = |group: Vec<SegmentIndex>| {
            let segments = group.iter().map(|&index| segments.segment(index));
            segments.flat_map(|one| one.operators.clone()).collect()
        };
        let stage = groups.into_iter().map(operators).collect();
        if random.one_in(3) && !legs[legs.len() - 1].is_empty() {
            legs.push(Vec::new());
        }
        let last = legs.len() - 1;
        legs[last].push(stage);
    }
    Cuts::new(legs)
}

fn input(channels: i64, rows: u64, seed: u64) -> InputTensor {
    let shape = [
        rows,
        channels.cast_unsigned(),
        SIDE.cast_unsigned(),
        SIDE.cast_unsigned(),
    ];
    let count = shape.iter().product::<u64>();
    raw(&shape, f32_bytes(&floats(seed, count.try_into().unwrap())))
}

/// The cuts of each planner's plan, by the modelled times of a device of many slices, on which
/// groups at once pay; each of them once.
fn planned_cuts(graph: &ModelGraph) -> Vec<(String, Cuts)> {
    let mut all: Vec<(String, Cuts)> = Vec::new();
    for name in AnyPlanner::NAMES {
        let planner: AnyPlanner = name.parse().unwrap();
        let segments = match planner.merges() {
            true => graph.segments_to_stack(u64::MAX),
            false => graph.segments(),
        };
        let (share, batch) = (Share(80), BatchSize(1));
        let mut costs = CostModel::IOS_V100.costs(graph.graph(), &segments, batch, share);
        let Ok(stages) = planner.stages(&segments, &mut costs, &mut |_| {});
        let key = PlanKey {
            model: String::new(),
            device: DeviceKey {
                kind: "cpu".to_owned(),
                name: "a device that is computed".to_owned(),
                slices: share.0,
            },
            runtime: String::new(),
            share,
            batch,
        };
        let legs = LegLimits {
            min: Nanos::from_micros(20),
            ..LegLimits::default()
        };
        let basis = fugato_core::plan::StageCost::basis(&costs);
        let plan = Plan::new(key, planner.name(), basis, stages, legs);
        plan.check(&segments).unwrap();
        let cuts = Cuts::of(&plan, &segments);
        if all.iter().all(|(_, known)| known != &cuts) {
            all.push((name.to_owned(), cuts));
        }
    }
    all
}

/// Runs a network whole and cut in several ways, at two batches.
fn check(bench: &Bench, rig: &Rig, seed: u64) {
    let (model, channels) = network(seed);
    let path = bench.write(&format!("{seed}.onnx"), &model);
    let stored = bench.store.prepare(&path).unwrap();
    let graph = stored.graph().unwrap();
    assert_eq!(graph.indivisible(), None, "seed {seed}");
    let mut random = Random::new(seed + 1_000_000);
    let any = random_cuts(&graph.segments(), &mut random);
    let ways = [("random".to_owned(), any)].into_iter();
    let ways: Vec<_> = ways.chain(planned_cuts(&graph)).collect();
    let whole = LoadOptions {
        max_batch: 3,
        warm: vec![],
        ..LoadOptions::default()
    };
    let id = u32::try_from(seed).unwrap() * 2;
    rig.device.load(ModelId(id), &stored, &whole).unwrap();
    let batches = [1, 3];
    let work = |rows: u32| vec![request(rows, vec![input(channels, rows.into(), seed)])];
    let expected = batches.map(|rows| rig.run(id, work(rows)).unwrap());
    for (name, cuts) in ways {
        let cut = LoadOptions {
            cuts: Some(cuts.clone()),
            ..whole.clone()
        };
        let legs = u16::try_from(cuts.legs()).unwrap();
        let loaded = rig.device.load(ModelId(id + 1), &stored, &cut).unwrap();
        assert_eq!(loaded.legs, legs, "seed {seed}, {name}: {cuts:?}");
        for (&rows, expected) in batches.iter().zip(&expected) {
            let found = rig.run_legs(id + 1, legs, work(rows)).unwrap();
            assert_eq!(found[0].len(), expected[0].len(), "seed {seed}, {name}");
            for (found, expected) in found[0].iter().zip(&expected[0]) {
                assert_eq!(found.shape, expected.shape, "seed {seed}, {name}");
                let (found, expected) = (as_f32(found), as_f32(expected));
                assert!(expected.iter().all(|value| value.is_finite()));
                match expected.iter().all(|&value| value == 0.0) {
                    true => assert_eq!(found, expected, "seed {seed}, {name}"),
                    false => assert_close(&found, &expected, 1e-5),
                }
            }
        }
        rig.device.unload(ModelId(id + 1));
    }
    rig.device.unload(ModelId(id));
}

#[test]
fn random_networks_under_random_and_planned_cuts_give_the_same_answers() {
    let one = std::env::var("FUGATO_DAG_SEED").ok();
    let seeds = match one.as_deref().map(str::parse) {
        Some(seed) => {
            let seed = seed.unwrap();
            seed..seed + 1
        }
        None => 0..NETWORKS,
    };
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let seeds = seeds.clone().filter(move |seed| seed % threads == thread);
            scope.spawn(move || {
                let (bench, rig) = (Bench::new(), Rig::new());
                for seed in seeds {
                    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        check(&bench, &rig, seed);
                    }));
                    assert!(checked.is_ok(), "rerun with FUGATO_DAG_SEED={seed}");
                }
            });
        }
    });
}
