//! Whether plans with groups at once pay: the model as it is, its plan with all of a leg in one
//! session, and its plan with groups side by side in one graph, each captured; on the whole device
//! as one leg, and in several legs that take turns between two partitions.

use super::stage::{Host, OnStage, Place, Stage, Through, halves, items, median, micros};
use super::zoo::deviation;
use crate::gpu_check::report::{Answer, Budget, Verdict};
use anyhow::Context;
use fugato_core::graph::Segments;
use fugato_core::plan::{self, AnyPlanner, CostBasis, CostModel, LegLimits, PlanKey, Planner};
use fugato_core::profile::DeviceKey;
use fugato_core::{BatchSize, Nanos, PartitionId, Share};
use fugato_device::{Cuts, DeviceMetrics, GpuTuning, LoadOptions, OutputTensor, RequestInputs};
use fugato_zoo::ZooModel;
use serde_json::{Value, json};

/// Largest deviation over the largest value of an output that is the same answer: the same
/// kernels as in the model in one piece, but for what its optimiser joins across a cut.
const SAME: f64 = 1e-5;

/// How many times as fast as one after the other groups at once must be, on the whole device.
const LEAST: f64 = 1.25;

/// Parts of a plan's computed time that its legs take at least, where it is to have several.
const LEGS: u64 = 4;

/// What is tried.
pub(super) struct Plan {
    /// In the order they are tried.
    pub(super) models: Vec<&'static ZooModel>,
    pub(super) planner: AnyPlanner,
    /// What the planner counts with.
    pub(super) costs: CostModel,
    /// The slices of the device that those costs are of.
    pub(super) share: Share,
    /// Tasks of which the median counts.
    pub(super) rounds: usize,
    /// What the check is of.
    pub(super) runtime: String,
    /// As the vendor's libraries say themselves.
    pub(super) libraries: Option<String>,
}

impl Plan {
    /// Tasks whose time counts.
    fn tasks(&self) -> u64 {
        self.rounds.max(1) as u64
    }
}

/// Where a model is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Whole,
    /// Legs take turns between two partitions.
    TwoPartitions,
}

impl Where {
    const ALL: [Self; 2] = [Self::Whole, Self::TwoPartitions];

    fn name(self) -> &'static str {
        match self {
            Self::Whole => "the whole device",
            Self::TwoPartitions => "two partitions in turn",
        }
    }
}

/// What became of a model.
struct Row {
    model: &'static str,
    place: Where,
    found: Result<Found, String>,
}

/// So many of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Count {
    of: u64,
    all: u64,
}

impl Count {
    fn is_all(self) -> bool {
        self.of == self.all
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} legs", self.of, self.all)
    }
}

#[derive(Clone, Copy)]
struct Found {
    legs: u16,
    /// Those whose groups did run at once.
    legs_at_once: u16,
    /// Those that have groups at once in the plan.
    legs_wide: usize,
    /// How many legs ran in graphs, and how many did: in one piece, in one session each, and
    /// with groups at once those of them that have some.
    unsplit_captured: Count,
    in_turn_captured: Count,
    ran_at_once: Count,
    stages: usize,
    /// The most groups of a stage.
    width: usize,
    /// On the whole device the time of the runs by the device's clock; on two partitions from
    /// the start of the first leg to the end of the last.
    unsplit: Nanos,
    in_turn: Nanos,
    at_once: Nanos,
    deviation: f64,
}

impl Found {
    /// How many times as fast as whichever is faster one after the other.
    fn gain(&self) -> f64 {
        let one_by_one = self.unsplit.min(self.in_turn);
        one_by_one.as_nanos() as f64 / self.at_once.as_nanos().max(1) as f64
    }
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let mut rows = Vec::new();
    for place in Where::ALL {
        for zoo in &plan.models {
            if budget.is_spent() {
                break;
            }
            let found = one(stage, plan, zoo, place);
            rows.push(Row {
                model: zoo.name,
                place,
                found: found.map_err(|error| format!("{error:#}")),
            });
            budget.keep(answer(&rows, plan))?;
        }
    }
    Ok(answer(&rows, plan))
}

fn one<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    zoo: &'static ZooModel,
    place: Where,
) -> anyhow::Result<Found> {
    let partitions = match place {
        Where::Whole => vec![PartitionId(0)],
        Where::TwoPartitions => {
            let pair = halves(stage.device.spec());
            let pair = pair.context("the device has no two partitions beside each other")?;
            vec![pair.0, pair.1]
        }
    };
    let (planned, segments) = planned(stage, plan, zoo, place)?;
    let width = planned.width();
    let is_wide = |leg: &&plan::Leg| {
        let stages = leg.stages.start as usize..leg.stages.end as usize;
        let mut stages = planned.stages[stages].iter();
        stages.any(|stage| stage.groups.len() > 1)
    };
    let legs_wide = planned.legs.iter().filter(is_wide).count();
    anyhow::ensure!(width > 1, "the planner puts no groups at once");
    let items = items(zoo, 1)?;
    let unsplit = timed(stage, plan, zoo, (&partitions[..1], None), (&items, None))?;
    let cuts = Cuts::of(&planned, &segments);
    let mut ways = Vec::new();
    for side_by_side in [false, true] {
        let way = (&partitions[..], Some((&cuts, side_by_side)));
        let expected = Some(&unsplit.outputs[..]);
        ways.push(timed(stage, plan, zoo, way, (&items, expected))?);
    }
    let (in_turn, at_once) = (&ways[0], &ways[1]);
    let time = |timed: &Timed| match place {
        Where::Whole => timed.runs,
        Where::TwoPartitions => timed.took,
    };
    Ok(Found {
        legs: at_once.legs,
        legs_at_once: at_once.legs_at_once,
        legs_wide,
        unsplit_captured: unsplit.captured(unsplit.legs.into(), plan),
        in_turn_captured: in_turn.captured(in_turn.legs.into(), plan),
        ran_at_once: Count {
            of: at_once.ran_at_once,
            all: legs_wide as u64 * plan.tasks(),
        },
        stages: planned.stages.len(),
        width,
        unsplit: time(&unsplit),
        in_turn: time(in_turn),
        at_once: time(at_once),
        deviation: in_turn.deviation.max(at_once.deviation),
    })
}

/// The plan of a model, by computed costs.
fn planned<D: Host>(
    stage: &Stage<D>,
    plan: &Plan,
    zoo: &'static ZooModel,
    place: Where,
) -> anyhow::Result<(plan::Plan, Segments)> {
    let stored = stage.prepare(zoo)?;
    let graph = stored.graph()?;
    let segments = graph.segments();
    let (batch, share) = (BatchSize(1), plan.share);
    let mut costs = plan.costs.costs(graph.graph(), &segments, batch, share);
    let Ok(stages) = plan.planner.stages(&segments, &mut costs, &mut |_| {});
    let spec = stage.device.spec();
    let key = PlanKey {
        model: stored.info().hash.clone(),
        device: DeviceKey {
            kind: "any".to_owned(),
            name: spec.name.clone(),
            slices: spec.slices.0,
        },
        runtime: plan.runtime.clone(),
        share,
        batch,
    };
    let all = stages
        .iter()
        .fold(Nanos::ZERO, |sum, stage| sum + stage.predicted);
    let least = match place {
        Where::Whole => Nanos::MAX,
        Where::TwoPartitions => Nanos::new(all.as_nanos() / LEGS),
    };
    let limits = LegLimits {
        min: least,
        max: Nanos::MAX,
    };
    let name = plan.planner.name();
    let planned = plan::Plan::new(key, name, CostBasis::Modelled, stages, limits);
    planned.check(&segments)?;
    Ok((planned, segments))
}

/// A model in one way of running it.
struct Timed {
    legs: u16,
    legs_at_once: u16,
    /// In the tasks whose time counts.
    ran_captured: u64,
    ran_at_once: u64,
    runs: Nanos,
    took: Nanos,
    deviation: f64,
    outputs: Vec<Vec<OutputTensor>>,
}

impl Timed {
    fn captured(&self, legs: u64, plan: &Plan) -> Count {
        let (of, all) = (self.ran_captured, legs * plan.tasks());
        Count { of, all }
    }
}

fn timed<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    zoo: &'static ZooModel,
    (partitions, cuts): (&[PartitionId], Option<(&Cuts, bool)>),
    (items, expected): (&[RequestInputs], Option<&[Vec<OutputTensor>]>),
) -> anyhow::Result<Timed> {
    let options = LoadOptions {
        slots: 1,
        warm: partitions.to_vec(),
        cuts: cuts.map(|(cuts, _)| cuts.clone()),
        gpu: GpuTuning {
            tf32: false,
            side_by_side: cuts.is_some_and(|(_, side_by_side)| side_by_side),
            ..GpuTuning::default()
        },
        ..LoadOptions::default()
    };
    let model = stage.load(zoo, &options)?;
    let ran = repeated(stage, &model, partitions, items, plan.tasks());
    stage.unload(&model);
    let (ran, counted) = ran?;
    let mut worst = 0.0_f64;
    for through in &ran {
        if let Some(expected) = expected {
            worst = worst.max(deviation(&through.outputs, expected)?);
        }
    }
    Ok(Timed {
        legs: model.loaded.legs,
        legs_at_once: model.loaded.legs_at_once,
        ran_captured: counted.legs_captured,
        ran_at_once: counted.legs_at_once,
        runs: median(ran.iter().map(|through| through.runs).collect()),
        took: median(ran.iter().map(|through| through.took).collect()),
        deviation: worst,
        outputs: ran
            .into_iter()
            .next()
            .map_or(Vec::new(), |through| through.outputs),
    })
}

/// Tasks one after the other, after one whose time does not count, and what the device counted
/// meanwhile.
fn repeated<D: Host>(
    stage: &mut Stage<D>,
    model: &OnStage,
    partitions: &[PartitionId],
    items: &[RequestInputs],
    rounds: u64,
) -> anyhow::Result<(Vec<Through>, DeviceMetrics)> {
    let places: Vec<_> = partitions.iter().copied().map(Place::of).collect();
    stage.run_through(model, &places, items)?;
    let before = stage.device.metrics();
    let tasks = (0..rounds).map(|_| stage.run_through(model, &places, items));
    let ran = tasks.collect::<anyhow::Result<_>>()?;
    let after = stage.device.metrics();
    let counted = DeviceMetrics {
        legs_captured: after.legs_captured.saturating_sub(before.legs_captured),
        legs_at_once: after.legs_at_once.saturating_sub(before.legs_at_once),
        ..DeviceMetrics::default()
    };
    Ok((ran, counted))
}

fn answer(rows: &[Row], plan: &Plan) -> Answer {
    let faults: Vec<String> = rows.iter().filter_map(fault).collect();
    let all = plan.models.len() * Where::ALL.len();
    let gains = rows.iter().filter(|row| row.place == Where::Whole);
    let gains = gains.filter_map(|row| Some((row.model, row.found.as_ref().ok()?.gain())));
    let gains: Vec<_> = gains
        .map(|(model, gain)| format!("{model} {gain:.2}"))
        .collect();
    let gains = match gains.is_empty() {
        true => String::new(),
        false => format!(
            "groups at once are so many times as fast as the faster of the model in one piece and \
             its legs in one session each: {} (expected {LEAST} at least)",
            gains.join(", ")
        ),
    };
    let tried = format!("{} of {all} measurements", rows.len());
    Answer {
        verdict: match (faults.is_empty(), rows.len() == all) {
            (false, _) => Verdict::Fails,
            (true, true) => Verdict::Holds,
            (true, false) => Verdict::Unknown,
        },
        words: match faults.as_slice() {
            [] if gains.is_empty() => tried,
            [] => format!("{tried}: {gains}"),
            faults => format!("{tried}: {}", faults.join("; ")),
        },
        facts: json!({
            "runtime": plan.runtime,
            "libraries": plan.libraries,
            "planner": plan.planner.name(),
            "costs": "computed",
            "rows": rows.iter().map(facts).collect::<Vec<_>>(),
        }),
    }
}

/// What is wrong with a row. How fast several legs over two partitions are is reported, and no
/// question.
fn fault(row: &Row) -> Option<String> {
    let Row {
        model,
        place,
        found,
    } = row;
    let place_name = place.name();
    let found = match found {
        Ok(found) => found,
        Err(error) => return Some(format!("{model} on {place_name}: {error}")),
    };
    let gain = found.gain();
    let what = if found.deviation > SAME {
        format!("deviates by {:.1e}", found.deviation)
    } else if found.legs_at_once == 0 {
        "has no groups that run at once".to_owned()
    } else if usize::from(found.legs_at_once) < found.legs_wide {
        let (legs, wide) = (found.legs_at_once, found.legs_wide);
        format!("has groups that run at once in {legs} of {wide} legs")
    } else if !found.ran_at_once.is_all() {
        format!("ran groups at once in {}", found.ran_at_once)
    } else if !found.unsplit_captured.is_all() {
        format!("in one piece ran {} in graphs", found.unsplit_captured)
    } else if !found.in_turn_captured.is_all() {
        format!(
            "in one session each ran {} in graphs",
            found.in_turn_captured
        )
    } else if *place == Where::TwoPartitions && found.legs < 2 {
        "is one leg".to_owned()
    } else if *place == Where::Whole && gain < LEAST {
        format!("is {gain:.2} times as fast with groups at once (expected {LEAST} at least)")
    } else {
        return None;
    };
    Some(format!("{model} on {place_name} {what}"))
}

fn facts(row: &Row) -> Value {
    let mut facts = json!({ "model": row.model, "on": row.place.name() });
    let more = match &row.found {
        Ok(found) => json!({
            "stages": found.stages,
            "groups_at_once_most": found.width,
            "legs": found.legs,
            "legs_at_once": found.legs_at_once,
            "ran_at_once": found.ran_at_once.of,
            "legs_captured": [found.unsplit_captured.of, found.in_turn_captured.of],
            "unsplit_us": micros(found.unsplit),
            "legs_in_one_session_us": micros(found.in_turn),
            "groups_at_once_us": micros(found.at_once),
            "times_as_fast": found.gain(),
            "deviation": found.deviation,
        }),
        Err(error) => json!({ "error": error }),
    };
    if let (Value::Object(facts), Value::Object(more)) = (&mut facts, more) {
        facts.extend(more);
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let models = ["inception_v3", "nasnet_a_large"];
        let models = models.map(|name| fugato_zoo::find(name).expect("one"));
        Plan {
            models: models.to_vec(),
            planner: "list".parse().expect("a planner"),
            costs: CostModel::IOS_V100,
            share: Share(80),
            rounds: 1,
            runtime: "onnxruntime 1".to_owned(),
            libraries: None,
        }
    }

    const GOOD: Found = Found {
        legs: 3,
        legs_at_once: 2,
        legs_wide: 2,
        unsplit_captured: Count { of: 1, all: 1 },
        in_turn_captured: Count { of: 3, all: 3 },
        ran_at_once: Count { of: 2, all: 2 },
        stages: 9,
        width: 4,
        unsplit: Nanos::from_micros(1_300),
        in_turn: Nanos::from_micros(1_250),
        at_once: Nanos::from_micros(1_000),
        deviation: SAME,
    };

    fn judged(whole: [Found; 2], apart: &[Found]) -> Answer {
        let row = |place, found: &Found| Row {
            model: "inception_v3",
            place,
            found: Ok(*found),
        };
        let mut rows: Vec<_> = whole.iter().map(|found| row(Where::Whole, found)).collect();
        rows.extend(apart.iter().map(|found| row(Where::TwoPartitions, found)));
        answer(&rows, &plan())
    }

    #[test]
    fn groups_at_once_are_held_against_the_faster_way_one_after_the_other() {
        let verdict = |whole, apart: &[Found]| judged(whole, apart).verdict;
        let two = [GOOD, GOOD];
        assert_eq!(verdict(two, &two), Verdict::Holds);
        assert_eq!(verdict(two, &[GOOD]), Verdict::Unknown);
        let slow = Found {
            at_once: Nanos::from_micros(1_001),
            ..GOOD
        };
        assert_eq!(verdict([GOOD, slow], &two), Verdict::Fails);
        // Over two partitions the time is told, and nothing asked of it.
        assert_eq!(verdict(two, &[slow, slow]), Verdict::Holds);
        let whole_is_faster = Found {
            unsplit: Nanos::from_micros(1_200),
            ..GOOD
        };
        assert_eq!(verdict([GOOD, whole_is_faster], &two), Verdict::Fails);
    }

    #[test]
    fn wrong_answers_fail_and_so_do_groups_that_run_one_after_the_other() {
        let two = [GOOD, GOOD];
        let off = Found {
            deviation: 2.0 * SAME,
            ..GOOD
        };
        let fell_back = Found {
            legs_at_once: 0,
            ..GOOD
        };
        let partly = Found {
            legs_at_once: 1,
            ..GOOD
        };
        let later = Found {
            ran_at_once: Count { of: 1, all: 2 },
            ..GOOD
        };
        let eager = Found {
            unsplit_captured: Count { of: 0, all: 1 },
            ..GOOD
        };
        let eager_legs = Found {
            in_turn_captured: Count { of: 2, all: 3 },
            ..GOOD
        };
        let one_leg = Found { legs: 1, ..GOOD };
        for (wrong, expected) in [
            (off, "deviates by 2.0e-5"),
            (fell_back, "no groups that run"),
            (partly, "run at once in 1 of 2 legs"),
            (later, "ran groups at once in 1 of 2 legs"),
            (eager, "in one piece ran 0 of 1 legs in graphs"),
            (eager_legs, "in one session each ran 2 of 3 legs in graphs"),
        ] {
            for answer in [judged([GOOD, wrong], &two), judged(two, &[GOOD, wrong])] {
                assert_eq!(answer.verdict, Verdict::Fails);
                assert!(answer.words.contains(expected), "{}", answer.words);
            }
        }
        assert_eq!(judged([one_leg, one_leg], &two).verdict, Verdict::Holds);
        assert_eq!(judged(two, &[one_leg, GOOD]).verdict, Verdict::Fails);
        let failed = Row {
            model: "randwire_ws",
            place: Where::Whole,
            found: Err("no memory".to_owned()),
        };
        let answer = answer(&[failed], &plan());
        assert_eq!(answer.verdict, Verdict::Fails);
        assert!(
            answer
                .words
                .contains("randwire_ws on the whole device: no memory")
        );
    }
}
