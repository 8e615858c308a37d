//! What several models take of memory, each with sessions in several partitions.

use super::stage::{Host, Stage};
use crate::gpu_check::report::{Answer, Budget, Verdict};
use fugato_core::PartitionId;
use fugato_core::device::DeviceSpec;
use fugato_device::LoadOptions;
use fugato_zoo::ZooModel;
use serde_json::json;

/// All may take so many times their weights, and so many bytes more: handles and work space of
/// the vendor's libraries, activations and buffers.
const TIMES: f64 = 1.5;
const MORE: u64 = 4 << 30;

/// What is loaded.
pub(super) struct Plan {
    pub(super) models: Vec<&'static ZooModel>,
    /// Partitions in which each of them has a session.
    pub(super) partitions: usize,
    pub(super) max_batch: u32,
}

struct Loaded {
    model: &'static str,
    weights: u64,
    /// Of the device's memory, since before the first model.
    taken: u64,
    partitions: Vec<PartitionId>,
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    free: &mut dyn FnMut() -> anyhow::Result<u64>,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let partitions = nested(stage.device.spec(), plan.partitions);
    let before = free()?;
    let mut loaded: Vec<Loaded> = Vec::new();
    let mut refused = None;
    for zoo in &plan.models {
        if budget.is_spent() {
            break;
        }
        let options = LoadOptions {
            max_batch: plan.max_batch,
            warm: partitions.clone(),
            ..LoadOptions::default()
        };
        match stage.load(zoo, &options) {
            Ok(model) => loaded.push(Loaded {
                model: zoo.name,
                weights: model.stored.info().weight_bytes,
                taken: before.saturating_sub(free()?),
                partitions: partitions.clone(),
            }),
            Err(error) => {
                refused = Some(format!("{}: {error:#}", zoo.name));
                break;
            }
        }
        budget.keep(answer(&loaded, refused.as_deref(), plan))?;
    }
    Ok(answer(&loaded, refused.as_deref(), plan))
}

/// The first partitions of so many shares, the largest first: the whole, a half, a quarter.
fn nested(spec: &DeviceSpec, count: usize) -> Vec<PartitionId> {
    let mut wanted = spec.slices.0;
    let mut found = Vec::new();
    while found.len() < count && wanted > 0 {
        let mut partitions = spec.partitions.iter();
        let partition = partitions.find(|partition| partition.share().0 == wanted);
        found.extend(partition.map(|partition| partition.id));
        wanted /= 2;
    }
    found
}

fn answer(loaded: &[Loaded], refused: Option<&str>, plan: &Plan) -> Answer {
    let weights: u64 = loaded.iter().map(|model| model.weights).sum();
    let taken = loaded.last().map_or(0, |model| model.taken);
    let most = (weights as f64 * TIMES) as u64 + MORE;
    let partitions = loaded.first().map_or(0, |model| model.partitions.len());
    let is_whole = loaded.len() == plan.models.len() && partitions == plan.partitions;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mut words = format!(
        "{} of {} models with {partitions} partitions each take {:.2} GiB, of which their weights \
         are {:.2} (expected {:.2} at most)",
        loaded.len(),
        plan.models.len(),
        gib(taken),
        gib(weights),
        gib(most)
    );
    if let Some(refused) = refused {
        words = format!("{words}; {refused}");
    }
    Answer {
        verdict: match (refused.is_some() || taken > most, is_whole) {
            (true, _) => Verdict::Fails,
            (false, true) => Verdict::Holds,
            (false, false) => Verdict::Unknown,
        },
        words,
        facts: json!({
            "weights_bytes": weights,
            "taken_bytes": taken,
            "most_bytes": most,
            "max_batch": plan.max_batch,
            "partitions": partitions,
            "models": loaded.iter().map(|model| json!({
                "model": model.model,
                "weights_bytes": model.weights,
                "taken_bytes_with_those_before": model.taken,
            })).collect::<Vec<_>>(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(count: usize, taken: u64, refused: Option<&str>) -> Verdict {
        let names = ["resnet18", "bert-tiny"];
        let plan = Plan {
            models: names
                .iter()
                .map(|name| fugato_zoo::find(name).expect("one"))
                .collect(),
            partitions: 2,
            max_batch: 8,
        };
        let loaded = names.iter().take(count).map(|&model| Loaded {
            model,
            weights: 1 << 30,
            taken,
            partitions: vec![PartitionId(0), PartitionId(1)],
        });
        answer(&loaded.collect::<Vec<_>>(), refused, &plan).verdict
    }

    #[test]
    fn memory_is_held_against_all_weights_and_a_refusal_fails() {
        let most = 7 << 30;
        assert_eq!(verdict(2, most, None), Verdict::Holds);
        assert_eq!(verdict(2, most + 1, None), Verdict::Fails);
        assert_eq!(verdict(1, 1 << 30, None), Verdict::Unknown);
        assert_eq!(verdict(1, 1 << 30, Some("no memory")), Verdict::Fails);
    }
}
