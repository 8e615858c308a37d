//! The cost model against IOS's published times.
//!
//! It is calibrated on the times of sequential and greedy schedules (V100): those of four
//! models at batch 1, and the sequential ones of Inception-v3 at larger batches. It is asked for
//! those of IOS's own schedules, which it was not shown.

use crate::graphs::total;
use crate::models;
use fugato_core::graph::{Graph, Segments};
use fugato_core::plan::{CostModel, Greedy, Ios, Planner, Sequential};
use fugato_core::{BatchSize, Share};
use std::io::Write;

/// A model with its published times, in milliseconds: sequential, greedy, and IOS's with
/// concurrent stages only.
///
/// IOS (MLSys 2021), table of the artifact: V100 at 1530 MHz, cuDNN 7.6.5, 32-bit floats.
struct Model {
    name: &'static str,
    /// Of a model whose graph is random: some of its kind, of which the mean counts.
    graphs: Vec<(Graph, Segments)>,
    sequential: f64,
    greedy: f64,
    ios: f64,
}

fn model(name: &'static str, graphs: Vec<Graph>, [sequential, greedy, ios]: [f64; 3]) -> Model {
    let apart = |graph: Graph| {
        let segments = graph.apart();
        (graph, segments)
    };
    Model {
        name,
        graphs: graphs.into_iter().map(apart).collect(),
        sequential,
        greedy,
        ios,
    }
}

fn published() -> [Model; 4] {
    let randwires = (1..=4).map(models::randwire).collect();
    let nasnet = vec![models::nasnet_large()];
    [
        model(
            "inception-v3",
            vec![models::inception_v3()],
            [6.51, 4.62, 4.11],
        ),
        model("randwire", randwires, [8.49, 6.27, 6.02]),
        model("nasnet-a-large", nasnet, [22.95, 16.78, 16.04]),
        model("squeezenet", vec![models::squeezenet()], [0.86, 0.98, 0.82]),
    ]
}

/// Inception-v3 by batch: sequential and IOS's, in milliseconds, of another run of the artifact.
const BY_BATCH: [(u32, f64, f64); 5] = [
    (1, 6.20, 3.94),
    (16, 17.95, 15.17),
    (32, 30.54, 27.00),
    (64, 55.67, 51.11),
    (128, 108.55, 102.74),
];

fn millis(model: &Model, planner: &impl Planner, device: &CostModel, batch: u32) -> f64 {
    let of = |(graph, segments): &(Graph, Segments)| {
        let mut costs = device.costs(graph, segments, BatchSize(batch), Share(80));
        let Ok(stages) = planner.stages(segments, &mut costs, &mut |_| ());
        total(&stages).as_millis_f64()
    };
    model.graphs.iter().map(of).sum::<f64>() / model.graphs.len() as f64
}

/// IOS plans a stage of RandWire (32 operators) at once, and each cell of NASNet on its own;
/// a limit between the two gives the same blocks. Across cells a cheaper plan is found.
const BLOCKS_OF_IOS: Ios = Ios {
    group_segments_max: 3,
    groups_max: 8,
    block_segments_max: 33,
    ways_max: 2_000_000,
    merge: false,
};

/// What is fitted: the logarithms of bandwidth, grain, launch and fork. The data sheet says the
/// operations per second.
type Point = [f64; 4];

fn device(point: Point) -> CostModel {
    let [bytes, grain, launch, fork] = point.map(f64::exp);
    CostModel {
        bytes_per_slice: bytes,
        grain_bytes: grain,
        launch_s: launch,
        fork_s: fork,
        ..CostModel::IOS_V100
    }
}

/// The mean square of the relative errors at what the model is calibrated on.
fn loss(models: &[Model], device: &CostModel) -> f64 {
    let error = |predicted: f64, published: f64| (predicted / published).ln().powi(2);
    let mut errors = Vec::new();
    for model in models {
        let greedy = millis(model, &Greedy::default(), device, 1);
        errors.push(error(
            millis(model, &Sequential, device, 1),
            model.sequential,
        ));
        errors.push(error(greedy, model.greedy));
    }
    for (batch, sequential, _) in BY_BATCH.into_iter().skip(1) {
        let predicted = millis(&models[0], &Sequential, device, batch);
        errors.push(error(predicted, sequential));
    }
    errors.iter().sum::<f64>() / errors.len() as f64
}

/// Pattern search: a step along each axis while it helps, then half the step.
fn fitted(models: &[Model], mut point: Point) -> (f64, Point) {
    let mut best = loss(models, &device(point));
    let mut step = 0.5;
    while step > 0.005 {
        let mut better = false;
        for axis in 0..point.len() {
            for by in [step, -step] {
                let mut tried = point;
                tried[axis] += by;
                let found = loss(models, &device(tried));
                if found < best {
                    (best, point, better) = (found, tried, true);
                    break;
                }
            }
        }
        if !better {
            step /= 2.0;
        }
    }
    (best, point)
}

/// From the bandwidth of the data sheet, and guesses of what it does not say.
fn starts() -> [Point; 3] {
    [8e3, 16e3, 32e3].map(|grain| [900e9 / 80.0, grain, 1e-6, 1e-5].map(f64::ln))
}

#[test]
fn the_model_of_the_v100_is_what_the_calibration_finds() {
    let models = published();
    let found = starts().map(|start| fitted(&models, start));
    let best = found.iter().min_by(|a, b| a.0.total_cmp(&b.0));
    let &(best, point) = best.expect("there are three starts");
    let point = device(point);
    let known = loss(&models, &CostModel::IOS_V100);
    assert!(known <= 1.02 * best, "{known} is not {best}, of {point:?}");
    assert!(
        known.sqrt() < 0.06,
        "calibrated with an error of {}",
        known.sqrt()
    );
}

#[test]
fn times_that_it_was_not_shown_are_predicted() {
    let device = CostModel::IOS_V100;
    for model in &published() {
        let name = model.name;
        let sequential = millis(model, &Sequential, &device, 1);
        let greedy = millis(model, &Greedy::default(), &device, 1);
        let lost = model.greedy > model.sequential;
        assert_eq!(greedy > sequential, lost, "{name}: {greedy}, {sequential}");
        let ios = millis(model, &BLOCKS_OF_IOS, &device, 1);
        let error = ios / model.ios - 1.0;
        writeln!(
            std::io::stdout(),
            "{name}: sequential {sequential:.2} ms, published {:.2}; greedy {greedy:.2}, {:.2}; \
             ios {ios:.2}, {:.2}: {:+.1} %",
            model.sequential,
            model.greedy,
            model.ios,
            100.0 * error
        )
        .expect("stdout");
        let published = model.ios;
        assert!(error.abs() < 0.1, "{name}: {ios} ms, published {published}");
    }
}

/// IOS with merge stages too took 4.03 ms for Inception-v3 and 4.11 without; for SqueezeNet 0.73
/// and 0.82, and nothing less for the two others, whose convolutions do not merge.
#[test]
fn merged_stages_are_predicted_too() {
    let merging = Ios {
        merge: true,
        ..BLOCKS_OF_IOS
    };
    let device = CostModel::IOS_V100;
    for (model, published) in published().iter().zip([4.03, 6.02, 16.04, 0.73]) {
        let both = millis(model, &merging, &device, 1);
        let plain = millis(model, &BLOCKS_OF_IOS, &device, 1);
        let merged = model.graphs.iter().map(|(graph, segments)| {
            let mut costs = device.costs(graph, segments, BatchSize(1), Share(80));
            let Ok(stages) = merging.stages(segments, &mut costs, &mut |_| ());
            stages.iter().filter(|stage| stage.merged).count()
        });
        let merged: usize = merged.sum();
        let (name, error) = (model.name, both / published - 1.0);
        writeln!(
            std::io::stdout(),
            "{name}: {both:.3} ms with {merged} merged stages, {plain:.3} without; published \
             {published}: {:+.1} %",
            100.0 * error
        )
        .expect("stdout");
        assert!(both <= plain, "{name}: {both}, {plain}");
        assert!(error.abs() < 0.1, "{name}: {both} ms");
        assert_eq!(merged > 0, published < model.ios, "{name}: {merged} merged");
    }
}

/// The gain over the sequential schedule falls with the batch as it does on the device.
#[test]
fn the_gain_falls_with_the_batch() {
    let [inception, ..] = published();
    let device = CostModel::IOS_V100;
    let (mut last, mut gains) = (f64::INFINITY, Vec::new());
    for (batch, sequential, ios) in BY_BATCH {
        let predicted = millis(&inception, &Sequential, &device, batch);
        let gain = predicted / millis(&inception, &BLOCKS_OF_IOS, &device, batch);
        let published = sequential / ios;
        let error = gain / published - 1.0;
        writeln!(
            std::io::stdout(),
            "batch {batch}: sequential {predicted:.1} ms, published {sequential:.1}; gain {gain:.2}, \
             {published:.2}: {:+.1} %",
            100.0 * error
        )
        .expect("stdout");
        assert!(error.abs() < 0.1, "batch {batch}: {gain}, {published}");
        let predicted = predicted / gain;
        let error = predicted / ios - 1.0;
        assert!(
            error.abs() < 0.1,
            "batch {batch}: {predicted} ms, published {ios}"
        );
        // It rises by 0.1 % from 32 items to 64, where all that fills the device is alike.
        assert!(gain < 1.01 * last, "batch {batch}: {gain}, {last}");
        last = gain;
        gains.push(gain);
    }
    assert!(gains[4] <= gains[1], "{gains:?}");
}
