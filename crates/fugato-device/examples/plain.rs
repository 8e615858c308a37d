//! In-process ONNX Runtime, to compare a server with: one item of a model at a time, as a
//! program that links the library would run it (all optimisations, its own defaults for
//! spinning). Prints JSON with the median and the 99th percentile.
//!
//! ```text
//! cargo run --release -p fugato-device --example plain -- MODEL.onnx [RUNS] [THREADS] [VARY]
//! ```

#![allow(clippy::print_stdout, reason = "it prints its result")]

mod common;

use anyhow::{Context, Result};
use common::{one_item, runtime};
use fugato_device::reference::PlainSession;
use serde_json::json;
use std::time::Instant;

const WARM_UP: usize = 20;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("expected a model file")?;
    let runs: usize = arguments.next().map_or(Ok(200), |runs| runs.parse())?;
    let threads = arguments.next().map_or(Ok(2), |threads| threads.parse())?;
    let vary = arguments.next().map_or(Ok(128), |vary| vary.parse())?;
    let mut session = PlainSession::load(&runtime()?, path, threads)?;
    let inputs = one_item(session.inputs(), vary);
    let mut times = Vec::with_capacity(runs);
    for run in 0..WARM_UP + runs {
        let begun = Instant::now();
        session.run(&inputs)?;
        if run >= WARM_UP {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    let at = |quantile: usize| times[(times.len() - 1) * quantile / 100];
    println!(
        "{}",
        json!({ "threads": threads, "runs": runs, "p50_ms": at(50), "p99_ms": at(99) })
    );
    Ok(())
}
