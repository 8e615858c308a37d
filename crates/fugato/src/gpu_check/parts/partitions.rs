//! How models run on a part of the multiprocessors.

use crate::gpu_check::bench::{Bench, micros};
use crate::gpu_check::report::{Answer, Verdict};
use serde_json::json;

const MODELS: [&str; 3] = ["mobilenet_v2", "resnet50", "bert-base"];
const BATCHES: [u32; 3] = [1, 8, 32];

/// Into how many parts the device is divided; a model runs on one of them.
const DIVISIONS: [u32; 4] = [1, 2, 4, 8];

/// A half of the device may take this many times as long as the whole: 2 where kernels fill
/// it, and more only where a kernel that was chosen for the whole is a bad choice for a half.
const MOST: f64 = 2.3;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let mut rows = Vec::new();
    let mut worst = (0.0_f64, String::new());
    for name in MODELS {
        for batch in BATCHES {
            let mut times = Vec::new();
            for division in DIVISIONS {
                let partition = match division {
                    1 => bench.whole()?,
                    parts => bench.parts(parts)?.swap_remove(0),
                };
                let stream = partition.stream(0)?;
                let graph = bench.graph(name, batch, &stream)?;
                times.push((partition.sms(), bench.time(&graph, &stream)?));
            }
            let over = times[1].1.as_secs_f64() / times[0].1.as_secs_f64();
            if over > worst.0 {
                worst = (over, format!("{name} at batch {batch}"));
            }
            let times = times
                .iter()
                .map(|(sms, time)| json!({ "sms": sms, "us": micros(*time) }));
            rows.push(json!({
                "model": name,
                "batch": batch,
                "half_over_whole": over,
                "times": times.collect::<Vec<_>>(),
            }));
        }
    }
    let (worst, of) = worst;
    Ok(Answer {
        verdict: Verdict::of(worst <= MOST),
        words: format!(
            "a half takes at most {worst:.2} times as long as the whole, {of} (expected {MOST} \
             at most)"
        ),
        facts: json!({ "runs": rows }),
    })
}
