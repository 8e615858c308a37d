//! Whether a captured graph can be moved to another partition.

use crate::gpu_check::bench::{Bench, micros};
use crate::gpu_check::report::{Answer, Verdict};
use anyhow::ensure;
use fugato_device::cuda::Graph;
use serde_json::json;

const MODEL: &str = "resnet50";
const BATCH: u32 = 8;

/// A graph that moved to the whole device may take this many times of one that was captured
/// there; on the small partition it takes several times as long.
const MOST: f64 = 1.15;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let small = bench.parts(8)?.swap_remove(0);
    let whole = bench.whole()?;
    let (narrow, wide) = (small.stream(0)?, whole.stream(0)?);
    let mut model = bench.warm(MODEL, BATCH, &narrow)?;
    let captured = model.capture()?;
    let expected = {
        captured.instantiate()?.launch(&narrow)?;
        model.read(0)?
    };
    let on_small = bench.time(&captured.instantiate()?, &narrow)?;
    let on_whole = bench.time(&bench.graph(MODEL, BATCH, &wide)?, &wide)?;

    // One leg of two captured pieces, put together before it is moved.
    let mut leg = Graph::empty(&bench.gpu)?;
    let first = leg.add(&captured, &[])?;
    leg.add(&captured, &[first])?;
    let composed = bench.time(&leg.instantiate()?, &narrow)?;

    let mut moved = Graph::empty(&bench.gpu)?;
    moved.add(&captured, &[])?;
    let outcome = moved.retarget(&whole);
    let facts = |more: serde_json::Value| {
        json!({
            "model": MODEL,
            "batch": BATCH,
            "sms": [small.sms(), whole.sms()],
            "captured_on_small_us": micros(on_small),
            "captured_on_whole_us": micros(on_whole),
            "two_children_on_small_us": micros(composed),
            "moved": more,
        })
    };
    let kernels = match outcome {
        Ok(kernels) => kernels,
        Err(error) => {
            return Ok(Answer {
                verdict: Verdict::of(false),
                words: format!("the driver refuses to move a kernel: {error}"),
                facts: facts(json!({ "error": error.to_string() })),
            });
        }
    };
    let nodes = moved.nodes(&whole)?;
    let executable = moved.instantiate()?;
    let on_moved = bench.time(&executable, &wide)?;
    // The answer to another input lies where the moved graph has to put its own.
    bench.feed(MODEL, &mut model, 1)?;
    captured.instantiate()?.launch(&narrow)?;
    narrow.synchronize()?;
    ensure!(
        model.read(0)? != expected,
        "two inputs have one answer, which tells nothing of the moved graph"
    );
    bench.feed(MODEL, &mut model, 0)?;
    executable.launch(&wide)?;
    wide.synchronize()?;
    let is_same = model.read(0)? == expected;
    let moved = Moved {
        kernels_there: nodes.kernels_of_partition,
        over: on_moved.as_secs_f64() / on_whole.as_secs_f64(),
        is_same,
    };
    Ok(Answer {
        verdict: moved.verdict(),
        words: format!(
            "{kernels} kernels moved from {} to {} multiprocessors, {} of them are said to be \
             there, {:.2} times the time of a capture there (expected {MOST} at most), \
             answers {}",
            small.sms(),
            whole.sms(),
            moved.kernels_there,
            moved.over,
            if is_same { "equal" } else { "differ" }
        ),
        facts: facts(json!({
            "kernels": kernels,
            "kernels_there": moved.kernels_there,
            "us": micros(on_moved),
            "answers_equal": is_same,
        })),
    })
}

/// A graph that was moved.
#[derive(Clone, Copy)]
struct Moved {
    /// Those that the driver says are in the other partition.
    kernels_there: usize,
    /// Its time in that of a graph that was captured there.
    over: f64,
    is_same: bool,
}

impl Moved {
    /// What the driver says of kernels is told and not asked for: only their time and what they
    /// answer is of use.
    fn verdict(&self) -> Verdict {
        Verdict::of(self.is_same && self.over <= MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_has_moved_if_it_is_as_fast_there_and_answers_the_same() {
        let verdict = |over, is_same| {
            let moved = Moved {
                kernels_there: 100,
                over,
                is_same,
            };
            moved.verdict()
        };
        assert_eq!(verdict(1.0, true), Verdict::Holds);
        assert_eq!(verdict(MOST, true), Verdict::Holds);
        assert_eq!(verdict(MOST + 0.001, true), Verdict::Fails);
        assert_eq!(verdict(1.0, false), Verdict::Fails);
        assert_eq!(verdict(f64::NAN, true), Verdict::Fails);
    }
}
