//! What the device is, and into which partitions it can be divided.

use crate::gpu_check::bench::{Bench, micros};
use crate::gpu_check::report::{Answer, Verdict};
use fugato_core::device::LaneClass;
use fugato_core::{DeviceId, Share};
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
    let (mut partitions, mut sizes) = (Vec::new(), Vec::new());
    for published in &spec.partitions {
        let begun = Instant::now();
        let partition = Partition::of_atoms(&bench.gpu, (&layout, &groups), published.atoms)?;
        let made = begun.elapsed();
        partition.stream(0)?.synchronize()?;
        let size = Size {
            sms: partition.sms(),
            expected: layout.sms(published.atoms),
        };
        sizes.push(size);
        partitions.push(json!({
            "slices": published.share().0,
            "sms": size.sms,
            "expected_sms": size.expected,
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
    let slices = layout.slices();
    Ok(Answer {
        verdict: verdict(slices, &sizes),
        words: format!(
            "{}, {} multiprocessors in {} slices, {} partitions{}, CUDA {}, ONNX Runtime {}",
            info.name,
            info.sms,
            slices.0,
            partitions.len(),
            others(&sizes),
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

/// The multiprocessors of a partition, and how many it is to have.
#[derive(Clone, Copy)]
struct Size {
    sms: u32,
    expected: u32,
}

/// A device is divided where there are two slices or more, and each partition is as large as its
/// slices say.
fn verdict(slices: Share, sizes: &[Size]) -> Verdict {
    let are_expected = sizes.iter().all(|size| size.sms == size.expected);
    Verdict::of(slices.0 > 1 && are_expected)
}

/// Names the first partition of another size than expected, if there is one.
fn others(sizes: &[Size]) -> String {
    let mut others = sizes.iter().filter(|size| size.sms != size.expected);
    let first = others.next().map(|Size { sms, expected }| {
        format!(
            ", {} of them of another size than expected (one has {sms} multiprocessors, expected \
             {expected})",
            1 + others.count()
        )
    });
    first.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_one_slice_is_not_divided_and_partitions_are_as_large_as_their_slices() {
        let size = |sms, expected| Size { sms, expected };
        let exact = [size(132, 132), size(64, 64)];
        assert_eq!(verdict(Share(2), &exact), Verdict::Holds);
        assert_eq!(verdict(Share(1), &exact[..1]), Verdict::Fails);
        assert_eq!(others(&exact), "");
        let off = [size(132, 132), size(66, 64), size(32, 64)];
        assert_eq!(verdict(Share(2), &off), Verdict::Fails);
        assert!(others(&off).contains("2 of them of another size"));
        assert!(others(&off).contains("one has 66 multiprocessors, expected 64"));
    }
}
