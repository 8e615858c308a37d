//! What the device is, and into which partitions it can be divided.

use super::Answer;
use crate::gpu_check::bench::{Bench, micros};
use fugato_device::cuda::Partition;
use serde_json::json;
use std::time::Instant;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Answer> {
    let info = bench.gpu.info();
    let mut divisions = Vec::new();
    for parts in [1, 2, 4, 8, 16] {
        let asked = info.sms / parts;
        let groups = bench.gpu.split(asked.max(1));
        divisions.push(match groups {
            Ok(groups) => json!({ "asked": asked, "groups": groups.sms() }),
            Err(error) => json!({ "asked": asked, "error": error.to_string() }),
        });
    }
    let before = bench.gpu.memory_free()?;
    let mut creation = Vec::new();
    let halves = bench.gpu.split(info.sms / 2 / 8 * 8)?;
    for index in 0..halves.sms().len() {
        let begun = Instant::now();
        let partition = Partition::new(&bench.gpu, &halves, index, 1)?;
        let made = begun.elapsed();
        partition.stream(0)?.synchronize()?;
        creation.push(json!({ "sms": partition.sms(), "created_us": micros(made) }));
    }
    let taken = before.saturating_sub(bench.gpu.memory_free()?);
    let libraries = bench.libraries.loaded.iter().map(|(name, folder)| {
        let place = folder.as_ref().map_or_else(
            || "system".to_owned(),
            |folder| folder.display().to_string(),
        );
        json!({ "name": name, "place": place })
    });
    Ok(Answer {
        holds: creation.len() >= 2,
        words: format!(
            "{}, {} multiprocessors in steps of {}, CUDA {}, ONNX Runtime {}",
            info.name,
            info.sms,
            info.sms_alignment,
            bench.driver.version(),
            bench.runtime_version()
        ),
        facts: json!({
            "device": info,
            "cuda": bench.driver.version(),
            "onnxruntime": bench.runtime_version(),
            "libraries": libraries.collect::<Vec<_>>(),
            "divisions": divisions,
            "halves": creation,
            "halves_bytes": taken,
        }),
    })
}
