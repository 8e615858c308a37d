//! Whether two partitions work side by side in one graph.

use crate::gpu_check::bench::{Bench, micros, quantile};
use crate::gpu_check::report::{Answer, Verdict};
use fugato_device::cuda::{CudaModelError, Event};
use serde_json::{Value, json};

const MODEL: &str = "resnet50";
const BATCHES: [u32; 2] = [1, 8];

/// Both together may take this much of the slower one alone. One after the other they take
/// about twice of it.
const MOST: f64 = 1.3;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let halves = bench.parts(2)?;
    let streams = [halves[0].stream(0)?, halves[1].stream(0)?];
    let whole = bench.whole()?;
    let alone = whole.stream(0)?;
    let (mut rows, mut worst) = (Vec::new(), 0.0_f64);
    for batch in BATCHES {
        let mut first = bench.warm(MODEL, batch, &streams[0])?;
        let mut second = bench.warm(MODEL, batch, &streams[1])?;
        let each = [
            first.capture()?.instantiate()?,
            second.capture()?.instantiate()?,
        ];
        let (fork, join) = (Event::new(&bench.gpu)?, Event::new(&bench.gpu)?);
        let both = streams[0].capture::<CudaModelError>(|| {
            streams[0].record(&fork)?;
            streams[1].wait(&fork)?;
            first.enqueue()?;
            second.enqueue()?;
            streams[1].record(&join)?;
            Ok(streams[0].wait(&join)?)
        })?;
        let both = both.keeping(first.holds()).keeping(second.holds());
        let kernels = [both.nodes(&halves[0])?, both.nodes(&halves[1])?];
        let both = both.instantiate()?;
        let a = bench.time(&each[0], &streams[0])?;
        let b = bench.time(&each[1], &streams[1])?;
        let joint = bench.time(&both, &streams[0])?;
        // Two graphs, launched on two streams.
        let apart = bench.times(&streams[0], 30, || {
            streams[0].record(&fork)?;
            streams[1].wait(&fork)?;
            each[0].launch(&streams[0])?;
            each[1].launch(&streams[1])?;
            streams[1].record(&join)?;
            Ok(streams[0].wait(&join)?)
        })?;
        let unshared = bench.time(&bench.graph(MODEL, batch, &alone)?, &alone)?;
        let ratio = joint.as_secs_f64() / a.max(b).as_secs_f64();
        worst = worst.max(ratio);
        rows.push(json!({
            "model": MODEL,
            "batch": batch,
            "sms": [halves[0].sms(), halves[1].sms()],
            "kernels_by_half": kernels.map(|nodes| nodes.kernels_of_partition),
            "alone_us": [micros(a), micros(b)],
            "both_in_one_graph_us": micros(joint),
            "both_in_two_graphs_us": micros(quantile(&apart, 0.5)),
            "over_the_slower_alone": ratio,
            "whole_device_us": micros(unshared),
        }));
    }
    Ok(answer(worst, &rows))
}

/// What is said of the runs, of which the worst took so many times the slower one alone.
fn answer(worst: f64, rows: &[Value]) -> Answer {
    Answer {
        verdict: Verdict::of(worst <= MOST),
        words: format!(
            "two of {MODEL} in one graph take at most {worst:.2} times the slower one alone \
             (expected {MOST} at most, 2 is one after the other)"
        ),
        facts: json!({ "runs": rows }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_take_much_longer_than_one_are_not_side_by_side() {
        assert_eq!(answer(1.0, &[]).verdict, Verdict::Holds);
        assert_eq!(answer(MOST, &[]).verdict, Verdict::Holds);
        assert_eq!(answer(MOST + 0.001, &[]).verdict, Verdict::Fails);
        let one_after_the_other = answer(2.0, &[]);
        assert_eq!(one_after_the_other.verdict, Verdict::Fails);
        let words = one_after_the_other.words;
        assert!(words.contains("2.00 times"), "{words}");
        let unknown = answer(f64::NAN, &[]);
        assert_eq!(unknown.verdict, Verdict::Fails, "a time that is none");
    }
}
