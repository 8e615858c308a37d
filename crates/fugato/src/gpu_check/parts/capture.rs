//! Whether a run of ONNX Runtime can be captured into a graph of ours, and answers the same.

use crate::gpu_check::bench::{Bench, micros, quantile};
use crate::gpu_check::compare::apart;
use crate::gpu_check::report::{Answer, Budget, Verdict};
use fugato_device::cuda::{CudaModel, Executable, Partition};
use serde_json::{Value, json};
use std::sync::Arc;

/// With residuals, with concatenations, with splits and shuffles, with attention.
const MODELS: [&str; 5] = [
    "resnet50",
    "googlenet",
    "shufflenet_v2_x1_0",
    "densenet121",
    "bert-base",
];
const BATCHES: [u32; 2] = [1, 8];

/// Inputs that take turns.
const SEEDS: [u64; 2] = [0, 1];

/// Replays of each input, between which another model's graph runs.
const ROUNDS: usize = 10;

/// Largest deviation over the largest value that is still the same answer: kernels that add in
/// another order, which those of the same plan do not.
const SAME: f64 = 1e-6;

pub(super) fn run(bench: &Bench, budget: &mut Budget<'_>) -> anyhow::Result<Answer> {
    let whole = bench.whole()?;
    let mut found = Found::default();
    // A second model whose replays come between those of the first.
    let other = whole.stream(0)?;
    let between = bench.graph("squeezenet1_1", 1, &other)?;
    for (name, batch) in MODELS
        .into_iter()
        .flat_map(|name| BATCHES.map(|batch| (name, batch)))
    {
        if budget.is_spent() {
            break;
        }
        match one(bench, name, batch, &whole, &between) {
            Ok((row, deviation)) => found.note(name, batch, row, deviation),
            Err(error) => found.fail(name, batch, &error),
        }
        budget.keep(found.answer())?;
    }
    Ok(found.answer())
}

/// What was found of the models so far.
#[derive(Default)]
struct Found {
    rows: Vec<Value>,
    worst: f64,
    bad: Vec<String>,
}

impl Found {
    fn note(&mut self, name: &str, batch: u32, row: Value, deviation: f64) {
        self.rows.push(row);
        self.worst = self.worst.max(deviation);
        if deviation > SAME {
            let bad = format!("{name} at batch {batch} deviates by {deviation:.1e}");
            self.bad.push(bad);
        }
    }

    fn fail(&mut self, name: &str, batch: u32, error: &anyhow::Error) {
        let error = format!("{error:#}");
        self.bad.push(format!("{name} at batch {batch}: {error}"));
        let row = json!({ "model": name, "batch": batch, "error": error });
        self.rows.push(row);
    }

    fn answer(&self) -> Answer {
        let all = MODELS.len() * BATCHES.len();
        Answer {
            verdict: match (self.bad.is_empty(), self.rows.len() == all) {
                (false, _) => Verdict::Fails,
                (true, true) => Verdict::Holds,
                (true, false) => Verdict::Unknown,
            },
            words: match self.bad.as_slice() {
                [] => format!(
                    "{} of {all} captures, of {} models at batches {BATCHES:?}, largest deviation \
                     {:.1e}",
                    self.rows.len(),
                    MODELS.len(),
                    self.worst
                ),
                bad => bad.join("; "),
            },
            facts: json!({ "largest_deviation": self.worst, "runs": self.rows }),
        }
    }
}

fn one(
    bench: &Bench,
    name: &str,
    batch: u32,
    whole: &Arc<Partition>,
    between: &Executable,
) -> anyhow::Result<(Value, f64)> {
    let stream = whole.stream(0)?;
    let mut model = bench.warm(name, batch, &stream)?;
    let eager = bench.times(&stream, 20, || Ok(model.enqueue()?))?;
    let mut expected = Vec::new();
    for seed in SEEDS {
        bench.feed(name, &mut model, seed)?;
        model.run()?;
        expected.push(answers(&model)?);
    }
    let free = bench.gpu.memory_free()?;
    let graph = model.capture()?;
    let grown = free.saturating_sub(bench.gpu.memory_free()?);
    let nodes = graph.nodes(whole)?;
    let executable = graph.instantiate()?;
    executable.upload(&stream)?;
    let mut deviation = 0.0_f64;
    for _ in 0..ROUNDS {
        // Inputs take turns, so what lies in the outputs before a replay is another's answer.
        for (seed, expected) in SEEDS.into_iter().zip(&expected) {
            bench.feed(name, &mut model, seed)?;
            executable.launch(&stream)?;
            deviation = deviation.max(apart(&answers(&model)?, expected)?);
            between.launch(&stream)?;
            stream.synchronize()?;
        }
    }
    // The session runs as before, with other inputs than the last replay had.
    bench.feed(name, &mut model, SEEDS[0])?;
    model.run()?;
    deviation = deviation.max(apart(&answers(&model)?, &expected[0])?);
    let replay = bench.times(&stream, 50, || Ok(executable.launch(&stream)?))?;
    let row = json!({
        "model": name,
        "batch": batch,
        "deviation": deviation,
        "nodes": nodes,
        "grown_bytes": grown,
        "eager_us": micros(quantile(&eager, 0.5)),
        "replay_us": micros(quantile(&replay, 0.5)),
        "replay_p99_us": micros(quantile(&replay, 0.99)),
    });
    anyhow::ensure!(
        nodes.host == 0,
        "its graph calls the host {} times",
        nodes.host
    );
    Ok((row, deviation))
}

fn answers(model: &CudaModel) -> anyhow::Result<Vec<f32>> {
    let mut answers = Vec::new();
    for output in 0..model.outputs().len() {
        let bytes = model.read(output)?;
        let (words, _) = bytes.as_chunks::<4>();
        answers.extend(words.iter().map(|&word| f32::from_le_bytes(word)));
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_hold_once_all_were_tried_and_fail_with_the_first_that_deviates() {
        let mut found = Found::default();
        let pairs = MODELS
            .into_iter()
            .flat_map(|name| BATCHES.map(|batch| (name, batch)));
        for (name, batch) in pairs {
            assert_eq!(found.answer().verdict, Verdict::Unknown);
            found.note(name, batch, Value::Null, SAME);
        }
        assert_eq!(found.answer().verdict, Verdict::Holds);
        found.fail("vgg19", 1, &anyhow::anyhow!("no memory"));
        assert_eq!(found.answer().verdict, Verdict::Fails);
        let mut found = Found::default();
        found.note("resnet50", 8, Value::Null, 2.0 * SAME);
        assert_eq!(found.answer().verdict, Verdict::Fails);
        assert!(
            found
                .answer()
                .words
                .contains("resnet50 at batch 8 deviates")
        );
    }
}
