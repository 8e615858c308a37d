//! What a session of a model takes of memory and of time to make, as models are served: all
//! sessions share the weights that the first one came with.

use super::stage::{Host, OnStage, Place, Stage, item};
use crate::gpu_check::report::{Answer, Budget, Verdict};
use fugato_core::PartitionId;
use fugato_device::LoadOptions;
use fugato_zoo::ZooModel;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What a further session may take: handles and work space of the vendor's libraries, and
/// activations at batch 1. One with weights of its own takes these too.
const MOST: u64 = 256 << 20;

/// Runs in a place until one is captured: two eager ones, and the one that is.
const RUNS: usize = 3;

/// What is loaded.
pub(super) struct Plan {
    pub(super) models: Vec<&'static ZooModel>,
    /// Of each model, each in a partition of its own, the first in the whole device.
    pub(super) sessions: usize,
}

/// A session.
struct Session {
    taken: u64,
    /// Until it had run, and its runs were captured.
    ready: Duration,
}

/// What became of a model.
struct Tried {
    model: &'static str,
    weights: u64,
    /// The first one's memory includes the weights and the buffers.
    first: Session,
    further: Vec<Session>,
    /// What was still taken once it was unloaded.
    kept: u64,
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    free: &mut dyn FnMut() -> anyhow::Result<u64>,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let mut found = Vec::new();
    for zoo in &plan.models {
        if budget.is_spent() {
            break;
        }
        found.push(one(stage, plan, zoo, free)?);
        budget.keep(answer(&found, plan))?;
    }
    Ok(answer(&found, plan))
}

fn one<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    zoo: &'static ZooModel,
    free: &mut dyn FnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Tried> {
    // So that what is timed is neither writing nor optimising it.
    stage.prepare(zoo)?;
    let options = LoadOptions {
        max_batch: 1,
        ..LoadOptions::default()
    };
    let before = free()?;
    let begun = Instant::now();
    let model = stage.load(zoo, &options)?;
    let whole = session(stage, (&model, PartitionId(0)), (before, begun), free)?;
    let others = stage.device.spec().partitions.iter();
    let others: Vec<PartitionId> = others.map(|other| other.id).collect();
    let mut further = Vec::new();
    for &partition in others.iter().skip(1).take(plan.sessions.saturating_sub(1)) {
        let since = (free()?, Instant::now());
        further.push(session(stage, (&model, partition), since, free)?);
    }
    stage.unload(&model);
    Ok(Tried {
        model: zoo.name,
        weights: model.stored.info().weight_bytes,
        first: whole,
        further,
        kept: before.saturating_sub(free()?),
    })
}

/// Has a model run in a partition, which has its session made there.
fn session<D: Host>(
    stage: &mut Stage<D>,
    (model, partition): (&OnStage, PartitionId),
    (before, begun): (u64, Instant),
    free: &mut dyn FnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Session> {
    let item = item(model.zoo, 0)?;
    for _ in 0..RUNS {
        stage.run(model, Place::of(partition), std::slice::from_ref(&item))?;
    }
    let ready = begun.elapsed();
    Ok(Session {
        taken: before.saturating_sub(free()?),
        ready,
    })
}

fn answer(found: &[Tried], plan: &Plan) -> Answer {
    let further = || found.iter().flat_map(|tried| &tried.further);
    let most = further().map(|session| session.taken).max();
    let slowest = further().map(|session| session.ready).max();
    let is_whole = found.len() == plan.models.len();
    let words = match most.zip(slowest) {
        Some((most, slowest)) => format!(
            "a further session takes at most {} MiB beside the weights that all share (expected {} \
             at most), and {:.1} s until its runs are captured",
            most >> 20,
            MOST >> 20,
            slowest.as_secs_f64()
        ),
        None => "no further session could be made: the device has one partition".to_owned(),
    };
    Answer {
        verdict: match (most, is_whole) {
            (Some(most), _) if most > MOST => Verdict::Fails,
            (Some(_), true) => Verdict::Holds,
            (Some(_), false) | (None, _) => Verdict::Unknown,
        },
        words,
        facts: json!({
            "most_bytes": MOST,
            "models": found.iter().map(facts).collect::<Vec<_>>(),
        }),
    }
}

fn facts(tried: &Tried) -> Value {
    let of = |session: &Session| {
        json!({
            "taken_bytes": session.taken,
            "ready_s": session.ready.as_secs_f64(),
        })
    };
    json!({
        "model": tried.model,
        "weights_bytes": tried.weights,
        "first": of(&tried.first),
        "further": tried.further.iter().map(of).collect::<Vec<_>>(),
        "kept_after_unload_bytes": tried.kept,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            models: vec![fugato_zoo::find("identity").expect("one")],
            sessions: 3,
        }
    }

    fn tried(further: &[u64]) -> Vec<Tried> {
        let session = |&taken: &u64| Session {
            taken,
            ready: Duration::from_millis(1_500),
        };
        vec![Tried {
            model: "identity",
            weights: 1 << 30,
            first: session(&(2 << 30)),
            further: further.iter().map(session).collect(),
            kept: 0,
        }]
    }

    #[test]
    fn a_further_session_may_take_a_quarter_of_a_gibibyte() {
        let verdict = |further: &[u64]| answer(&tried(further), &plan()).verdict;
        assert_eq!(verdict(&[0, MOST]), Verdict::Holds);
        assert_eq!(verdict(&[0, MOST + 1]), Verdict::Fails);
        assert_eq!(verdict(&[]), Verdict::Unknown, "a device of one partition");
        assert_eq!(answer(&[], &plan()).verdict, Verdict::Unknown);
        let words = answer(&tried(&[MOST]), &plan()).words;
        assert!(
            words.contains("at most 256 MiB beside the weights"),
            "{words}"
        );
        assert!(
            words.ends_with("1.5 s until its runs are captured"),
            "{words}"
        );
    }
}
