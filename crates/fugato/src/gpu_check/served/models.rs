//! What several models take of memory, each with sessions in several partitions; and whether a
//! further session of a model has weights of its own.

use super::stage::{Host, OnStage, Place, Stage, item};
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

/// A session that takes so much of its model's weights, or more, does not share them: half of them
/// is room for its handles and work space, and copies of what the runtime packs anew.
const OWN: f64 = 0.5;

/// What is loaded.
pub(super) struct Plan {
    pub(super) models: Vec<&'static ZooModel>,
    /// Partitions in which each of them has a session.
    pub(super) partitions: usize,
    pub(super) max_batch: u32,
    /// Bytes of weights from which on it is asked whether sessions share them. What a session
    /// takes besides is more than half the weights of a small model.
    pub(super) large: u64,
}

struct Loaded {
    model: &'static str,
    weights: u64,
    /// Of the device's memory, since before the first model, but for further sessions.
    taken: u64,
    partitions: Vec<PartitionId>,
    /// What a session in one more partition took; `None`: the device has no such.
    further: Option<u64>,
}

impl Loaded {
    /// Whether its further session shares the weights; `None` where that is not known.
    fn shares(&self, plan: &Plan) -> Option<bool> {
        let further = self.further.filter(|_| self.weights >= plan.large)?;
        Some((further as f64) < self.weights as f64 * OWN)
    }
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    free: &mut dyn FnMut() -> anyhow::Result<u64>,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let partitions = nested(stage.device.spec(), plan.partitions);
    let others = stage.device.spec().partitions.iter();
    let mut others = others.filter(|other| !partitions.contains(&other.id));
    let further = others.next().map(|other| other.id);
    let before = free()?;
    // Of further sessions.
    let mut apart = 0;
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
            Ok(model) => {
                let left = free()?;
                let taken = before.saturating_sub(left).saturating_sub(apart);
                let further = match further {
                    Some(partition) => {
                        if let Err(error) = run_once(stage, &model, partition) {
                            refused = Some(format!("{} in another partition: {error:#}", zoo.name));
                            break;
                        }
                        Some(left.saturating_sub(free()?))
                    }
                    None => None,
                };
                apart += further.unwrap_or(0);
                loaded.push(Loaded {
                    model: zoo.name,
                    weights: model.stored.info().weight_bytes,
                    taken,
                    partitions: partitions.clone(),
                    further,
                });
            }
            Err(error) => {
                refused = Some(format!("{}: {error:#}", zoo.name));
                break;
            }
        }
        budget.keep(answer(&loaded, refused.as_deref(), plan))?;
    }
    Ok(answer(&loaded, refused.as_deref(), plan))
}

/// Runs a leg in a partition, the first of which makes a session there.
fn run_once<D: Host>(
    stage: &mut Stage<D>,
    model: &OnStage,
    partition: PartitionId,
) -> anyhow::Result<()> {
    let item = item(model.zoo, 0)?;
    stage.run(model, Place::of(partition), &[item])?;
    Ok(())
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
    let mib = |bytes: u64| bytes >> 20;
    let own = loaded
        .iter()
        .filter(|model| model.shares(plan) == Some(false));
    let own: Vec<String> = own
        .map(|model| {
            let (further, weights) = (model.further.unwrap_or(0), model.weights);
            format!("{} {} of {} MiB", model.model, mib(further), mib(weights))
        })
        .collect();
    let share = loaded
        .iter()
        .filter(|model| model.shares(plan) == Some(true));
    match (own.as_slice(), share.count()) {
        ([], 0) => words.push_str("; whether sessions share weights is not told"),
        ([], count) => {
            words = format!(
                "{words}; a further session took less than half of the weights of each of {count} \
                 large models"
            );
        }
        (own, _) => {
            let own = own.join(", ");
            words = format!("{words}; a further session took half of the weights or more: {own}");
        }
    }
    if let Some(refused) = refused {
        words = format!("{words}; {refused}");
    }
    let fails = refused.is_some() || taken > most || !own.is_empty();
    Answer {
        verdict: match (fails, is_whole) {
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
            "large_bytes": plan.large,
            "partitions": partitions,
            "models": loaded.iter().map(|model| json!({
                "model": model.model,
                "weights_bytes": model.weights,
                "taken_bytes_with_those_before": model.taken,
                "further_session_bytes": model.further,
                "shares_weights": model.shares(plan),
            })).collect::<Vec<_>>(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            models: ["resnet18", "bert-tiny"]
                .map(|name| fugato_zoo::find(name).expect("one"))
                .to_vec(),
            partitions: 2,
            max_batch: 8,
            large: 1 << 30,
        }
    }

    /// The first of the models, each of a GiB of weights, after all of which so much is taken.
    fn loaded(count: usize, taken: u64, further: Option<u64>) -> Vec<Loaded> {
        let models = plan().models.into_iter().take(count);
        let loaded = models.map(|zoo| Loaded {
            model: zoo.name,
            weights: 1 << 30,
            taken,
            partitions: vec![PartitionId(0), PartitionId(1)],
            further,
        });
        loaded.collect()
    }

    fn verdict(count: usize, taken: u64, refused: Option<&str>) -> Verdict {
        answer(&loaded(count, taken, None), refused, &plan()).verdict
    }

    #[test]
    fn memory_is_held_against_all_weights_and_a_refusal_fails() {
        let most = 7 << 30;
        assert_eq!(verdict(2, most, None), Verdict::Holds);
        assert_eq!(verdict(2, most + 1, None), Verdict::Fails);
        assert_eq!(verdict(1, 1 << 30, None), Verdict::Unknown);
        assert_eq!(verdict(1, 1 << 30, Some("no memory")), Verdict::Fails);
    }

    #[test]
    fn a_session_with_weights_of_its_own_fails_though_all_fits() {
        let half = 1 << 29;
        let told = |further, large| {
            let plan = Plan { large, ..plan() };
            answer(&loaded(2, 3 << 30, Some(further)), None, &plan)
        };
        let shared = told(half - 1, 1 << 30);
        assert_eq!(shared.verdict, Verdict::Holds);
        assert!(
            shared.words.contains("each of 2 large models"),
            "{}",
            shared.words
        );
        let own = told(half, 1 << 30);
        assert_eq!(own.verdict, Verdict::Fails);
        assert!(
            own.words.contains("resnet18 512 of 1024 MiB"),
            "{}",
            own.words
        );
        // Of a small model that says nothing.
        let small = told(half, (1 << 30) + 1);
        assert_eq!(small.verdict, Verdict::Holds);
        assert!(small.words.contains("is not told"), "{}", small.words);
        assert_eq!(
            small.facts["models"][0]["shares_weights"],
            serde_json::Value::Null
        );
    }
}
