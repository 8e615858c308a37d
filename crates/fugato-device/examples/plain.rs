//! In-process ONNX Runtime, to compare a server with: one item of a model at a time, as a
//! program that links the library would run it (all optimisations, its own defaults for
//! spinning). For each line of its input, a number of runs, it prints one of JSON: the median
//! and mean time of a run; so that it can take turns with the server.
//!
//! ```text
//! yes 50 | head -3 | cargo run --release -p fugato-device --example plain -- MODEL.onnx [THREADS] [VARY]
//! ```

#![allow(clippy::print_stdout, reason = "it prints its results")]

mod common;

use anyhow::{Context, Result, ensure};
use common::{one_item, runtime};
use fugato_device::reference::PlainSession;
use serde_json::json;
use std::time::Instant;

/// Runs before each turn that do not count: whoever ran before left other things in the caches.
const WARM_UP: usize = 5;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("expected a model file")?;
    let threads = arguments.next().map_or(Ok(2), |threads| threads.parse())?;
    let vary = arguments.next().map_or(Ok(128), |vary| vary.parse())?;
    let mut session = PlainSession::load(&runtime()?, path, threads)?;
    let inputs = one_item(session.inputs(), vary);
    for line in std::io::stdin().lines() {
        let runs: usize = line?.trim().parse().context("expected a number of runs")?;
        ensure!(runs > 0, "expected at least one run");
        let mut times = Vec::with_capacity(runs);
        for run in 0..WARM_UP + runs {
            let begun = Instant::now();
            session.run(&inputs)?;
            if run >= WARM_UP {
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.sort_unstable_by(f64::total_cmp);
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let p50 = times[(times.len() - 1) / 2];
        println!(
            "{}",
            json!({ "threads": threads, "runs": runs, "p50_ms": p50, "mean_ms": mean })
        );
    }
    Ok(())
}
