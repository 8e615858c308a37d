//! What a neighbour of another model, in a partition of its own, costs a model: one that moves
//! many bytes for what it computes, and one that computes much for what it moves. What
//! neighbours of the same model cost is in the profile.

use super::stage::{Host, OnStage, Stage, halves, item, micros};
use crate::gpu_check::report::{Answer, Budget, Verdict};
use anyhow::Context;
use fugato_core::Nanos;
use fugato_device::{LoadOptions, Neighbour, Profiler, Visit, VisitError, slots_beside};
use fugato_zoo::ZooModel;
use serde_json::{Value, json};
use std::sync::Arc;

/// The 95th percentile beside a neighbour may be this many times the one alone.
const MOST: f64 = 1.5;

/// What is run.
pub(super) struct Plan {
    /// The model whose legs are timed, one item each.
    pub(super) zoo: &'static ZooModel,
    pub(super) neighbours: Vec<Other>,
    /// Legs to time, each way.
    pub(super) legs: u32,
}

/// A neighbour to try.
#[derive(Clone, Copy)]
pub(super) struct Other {
    /// What it strains.
    pub(super) what: &'static str,
    pub(super) zoo: &'static ZooModel,
    pub(super) batch: u32,
}

/// Times of legs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    median: Nanos,
    p95: Nanos,
}

/// A visit by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Timed {
    /// By the device's own events where it has such, which is what is judged.
    own: Times,
    /// From start to end as the scheduler is told: with what the host does for a leg.
    by_host: Times,
}

impl Timed {
    fn of<D: Host>(profiler: &mut Profiler<D>, visit: &Visit) -> Result<Self, VisitError> {
        Ok(Self {
            own: Times::of(profiler.visit(visit, || true)?),
            by_host: Times::of(profiler.by_host().to_vec()),
        })
    }

    fn facts(self) -> Value {
        let of = |times: Times| json!({ "median": micros(times.median), "p95": micros(times.p95) });
        json!({ "own_us": of(self.own), "by_host_us": of(self.by_host) })
    }
}

impl Times {
    fn of(mut legs: Vec<Nanos>) -> Self {
        legs.sort_unstable();
        let at = |part: usize| legs.get(legs.len() * part / 100).copied();
        Self {
            median: at(50).unwrap_or_default(),
            p95: at(95).unwrap_or_default(),
        }
    }
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let pair = halves(stage.device.spec());
    let (here, there) = pair.context("the device has no two partitions beside each other")?;
    let load = |stage: &mut Stage<D>, zoo, max_batch, partition| -> anyhow::Result<OnStage> {
        let options = LoadOptions {
            max_batch,
            slots: slots_beside(1),
            warm: vec![partition],
            ..LoadOptions::default()
        };
        stage.load(zoo, &options)
    };
    let timed = load(stage, plan.zoo, 1, here)?;
    let mut visit = Visit {
        model: timed.id,
        item: item(plan.zoo, 0)?,
        batch: 1,
        partition: here,
        busy: Vec::new(),
        neighbour: None,
        warm_up: 5,
        legs: plan.legs,
    };
    let mut profiler = Profiler::new(Arc::clone(&stage.device), stage.router.queue());
    let alone = Timed::of(&mut profiler, &visit)?;
    visit.busy = vec![there];
    let mut found = Vec::new();
    for other in &plan.neighbours {
        if budget.is_spent() {
            break;
        }
        let model = load(stage, other.zoo, other.batch, there)?;
        visit.neighbour = Some(Neighbour {
            model: model.id,
            item: item(other.zoo, 0)?,
            batch: other.batch,
        });
        found.push((*other, Timed::of(&mut profiler, &visit)?));
        stage.unload(&model);
        budget.keep(answer(alone, &found, plan))?;
    }
    stage.listen();
    stage.unload(&timed);
    Ok(answer(alone, &found, plan))
}

fn answer(alone: Timed, found: &[(Other, Timed)], plan: &Plan) -> Answer {
    let least = alone.own.p95.as_nanos().max(1) as f64;
    let over = |times: Timed| times.own.p95.as_nanos() as f64 / least;
    let holds = found.iter().all(|&(_, times)| over(times) <= MOST);
    let is_whole = found.len() == plan.neighbours.len();
    let beside = found.iter().map(|&(other, times)| {
        let Other { what, zoo, batch } = other;
        let over = over(times);
        format!(
            "{over:.2} times beside {} at batch {batch} ({what})",
            zoo.name
        )
    });
    Answer {
        verdict: match (holds, is_whole) {
            (false, _) => Verdict::Fails,
            (true, true) => Verdict::Holds,
            (true, false) => Verdict::Unknown,
        },
        words: format!(
            "the 95th percentile of {} is {:.0} us alone, {} (expected {MOST} at most)",
            plan.zoo.name,
            micros(alone.own.p95),
            beside.collect::<Vec<_>>().join(", ")
        ),
        facts: json!({
            "model": plan.zoo.name,
            "alone_us": { "median": micros(alone.own.median), "p95": micros(alone.own.p95) },
            "alone_by_both": alone.facts(),
            "neighbours": found.iter().map(|&(other, times)| json!({
                "model": other.zoo.name,
                "batch": other.batch,
                "strains": other.what,
                "median_us": micros(times.own.median),
                "p95_us": micros(times.own.p95),
                "by_both": times.facts(),
                "p95_over_alone": over(times),
            })).collect::<Vec<_>>(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_neighbour_that_disturbs_fails_and_all_have_to_be_tried() {
        let zoo = fugato_zoo::find("identity").expect("one");
        let other = |what| Other {
            what,
            zoo,
            batch: 1,
        };
        let plan = Plan {
            zoo,
            neighbours: vec![other("memory"), other("compute")],
            legs: 1,
        };
        let times = |p95| Timed {
            own: Times {
                median: Nanos::from_micros(80),
                p95: Nanos::from_micros(p95),
            },
            // What the host does is no matter of the neighbours.
            by_host: Times {
                median: Nanos::from_micros(300),
                p95: Nanos::from_micros(4 * p95),
            },
        };
        let verdict = |beside: &[u64]| {
            let found = plan.neighbours.iter().zip(beside);
            let found: Vec<_> = found.map(|(&other, &p95)| (other, times(p95))).collect();
            answer(times(100), &found, &plan).verdict
        };
        assert_eq!(verdict(&[150, 150]), Verdict::Holds);
        assert_eq!(verdict(&[100, 151]), Verdict::Fails);
        assert_eq!(verdict(&[151]), Verdict::Fails);
        assert_eq!(verdict(&[100]), Verdict::Unknown);
    }

    #[test]
    fn percentiles_are_among_the_times() {
        let legs = (1..=100).rev().map(Nanos::from_micros).collect();
        let Times { median, p95 } = Times::of(legs);
        assert_eq!(
            (median, p95),
            (Nanos::from_micros(51), Nanos::from_micros(96))
        );
        assert_eq!(Times::of(Vec::new()), Times::default());
    }
}
