//! What a session takes of memory and of time to make. Each of these sessions has weights of its
//! own, which are taken off; whether the device's share theirs, the part `models` tells.

use crate::gpu_check::bench::Bench;
use crate::gpu_check::report::{Answer, Verdict};
use serde_json::{Value, json};
use std::time::Instant;

const MODELS: [&str; 3] = ["resnet50", "mobilenet_v2", "bert-base"];

/// Sessions of a model, each with a stream of its own.
const SESSIONS: usize = 4;

/// What a session may take besides weights: handles and work space of the vendor's libraries,
/// and activations at batch 1.
const BESIDES: u64 = 256 << 20;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let whole = bench.whole()?;
    let (mut rows, mut most) = (Vec::new(), 0);
    for name in MODELS {
        let weights = bench.model_file(name)?.metadata()?.len();
        let mut sessions = Vec::new();
        for index in 0..SESSIONS {
            let stream = whole.stream(0)?;
            let before = bench.gpu.memory_free()?;
            let begun = Instant::now();
            let mut model = bench.load(name, 1, &stream)?;
            let loaded = begun.elapsed();
            let after_load = bench.gpu.memory_free()?;
            model.run()?;
            let first_run = begun.elapsed() - loaded;
            model.run()?;
            model.run()?;
            let after_runs = bench.gpu.memory_free()?;
            let graph = model.capture()?.instantiate()?;
            graph.upload(&stream)?;
            stream.synchronize()?;
            let taken = before.saturating_sub(bench.gpu.memory_free()?);
            if index > 0 {
                most = most.max(taken.saturating_sub(weights));
            }
            rows.push(json!({
                "model": name,
                "session": index,
                "weights_bytes": weights,
                "load_bytes": before.saturating_sub(after_load),
                "run_bytes": after_load.saturating_sub(after_runs),
                "taken_bytes": taken,
                "load_s": loaded.as_secs_f64(),
                "first_run_s": first_run.as_secs_f64(),
            }));
            sessions.push((model, graph));
        }
    }
    Ok(answer(most, &rows))
}

/// What is said of sessions of which a further one takes at most so many bytes besides weights.
fn answer(most: u64, rows: &[Value]) -> Answer {
    Answer {
        verdict: Verdict::of(most <= BESIDES),
        words: format!(
            "a further session takes at most {} MiB besides its weights (expected {} at most)",
            most >> 20,
            BESIDES >> 20
        ),
        facts: json!({ "sessions": rows }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_session_may_take_a_quarter_of_a_gibibyte() {
        assert_eq!(answer(0, &[]).verdict, Verdict::Holds);
        let most = answer(BESIDES, &[]);
        assert_eq!(most.verdict, Verdict::Holds);
        assert!(most.words.contains("at most 256 MiB"), "{}", most.words);
        assert_eq!(answer(BESIDES + 1, &[]).verdict, Verdict::Fails);
    }
}
