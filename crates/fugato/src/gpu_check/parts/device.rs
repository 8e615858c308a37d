//! What the device is, and into which partitions it can be divided.

use crate::gpu_check::bench::{Bench, micros};
use crate::gpu_check::report::{Answer, Verdict};
use fugato_core::DeviceId;
use fugato_core::device::LaneClass;
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
    let (layout, groups) = bench.gpu.divide()?;
    let lanes = [LaneClass::Normal];
    let spec = layout.spec(DeviceId(0), &info.name, &lanes, &lanes);
    let before = bench.gpu.memory_free()?;
    let mut partitions = Vec::new();
    for published in &spec.partitions {
        let begun = Instant::now();
        let partition = Partition::of_atoms(&bench.gpu, (&layout, &groups), published.atoms)?;
        let made = begun.elapsed();
        partition.stream(0)?.synchronize()?;
        partitions.push(json!({
            "slices": published.share().0,
            "sms": partition.sms(),
            "expected_sms": layout.sms(published.atoms),
            "created_us": micros(made),
        }));
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
        verdict: Verdict::of(layout.is_divided()),
        words: format!(
            "{}, {} multiprocessors in {} slices, {} partitions, CUDA {}, ONNX Runtime {}",
            info.name,
            info.sms,
            layout.slices().0,
            partitions.len(),
            bench.driver.version(),
            bench.runtime_version()
        ),
        facts: json!({
            "device": info,
            "cuda": bench.driver.version(),
            "onnxruntime": bench.runtime_version(),
            "libraries": libraries.collect::<Vec<_>>(),
            "divisions": divisions,
            "spare_sms": layout.spare(),
            "partitions": partitions,
            "partitions_bytes": taken,
            "divides_work_queues": bench.gpu.divides_work_queues(),
        }),
    })
}
