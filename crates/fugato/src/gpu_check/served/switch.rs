//! How long the device stands still between two legs of a model: in one partition, where the
//! second waits on the device as the first ends; in one partition and in another, where the
//! second is started when the first has ended.

use super::stage::{Host, OnStage, Place, Ran, Stage, halves, item, median, micros};
use crate::gpu_check::report::{Answer, Budget, Verdict};
use fugato_core::{Nanos, PartitionId, SlotIndex};
use fugato_device::{LoadOptions, RequestInputs};
use fugato_zoo::ZooModel;
use serde_json::json;

/// A leg in another partition may start so much later than one in the same: the order of
/// 10 us that an event between two streams takes, twice.
const FURTHER: Nanos = Nanos::from_micros(20);

/// A leg that waits on the device may start so long after the one before it ends, without an
/// answer of the host.
const BOUNDARY: Nanos = Nanos::from_micros(20);

/// What is run.
pub(super) struct Plan {
    pub(super) zoo: &'static ZooModel,
    /// Legs one after the other, each way.
    pub(super) legs: usize,
}

/// Idle times between two runs, medians.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Gaps {
    /// In the same partition, by the second waiting there.
    waiting: Nanos,
    /// In the same partition, started at the end of the first.
    same: Nanos,
    /// In another partition, started at the end of the first; `None`: there is none.
    other: Option<Nanos>,
}

pub(super) fn run<D: Host>(
    stage: &mut Stage<D>,
    plan: &Plan,
    budget: &mut Budget<'_>,
) -> anyhow::Result<Answer> {
    let pair = halves(stage.device.spec());
    let here = pair.map_or(PartitionId(0), |(here, _)| here);
    let there = pair.map(|(_, there)| there);
    let options = LoadOptions {
        slots: 2,
        warm: [Some(here), there].into_iter().flatten().collect(),
        ..LoadOptions::default()
    };
    let model = stage.load(plan.zoo, &options)?;
    let items = [item(plan.zoo, 0)?];
    // Sessions are there; what only a first run does is done by these.
    for partition in [Some(here), there].into_iter().flatten() {
        for slot in [SlotIndex(0), SlotIndex(1)] {
            for _ in 0..4 {
                let place = Place {
                    slot,
                    ..Place::of(partition)
                };
                stage.run(&model, place, &items)?;
            }
        }
    }
    let mut gaps = Gaps {
        waiting: waiting(stage, &model, (here, &items), plan.legs)?,
        same: in_turn(stage, &model, (here, here), &items, plan.legs)?,
        other: None,
    };
    budget.keep(Answer {
        verdict: Verdict::Unknown,
        ..answer(&gaps, plan)
    })?;
    if let Some(there) = there {
        gaps.other = Some(in_turn(stage, &model, (here, there), &items, plan.legs)?);
    }
    stage.unload(&model);
    Ok(answer(&gaps, plan))
}

/// The mean idle time between runs of a lane that always has the next leg waiting: what is left
/// of the time from the first start to the last end once the runs, the first copy in and the
/// last copy out are taken off.
fn waiting<D: Host>(
    stage: &mut Stage<D>,
    model: &OnStage,
    (partition, items): (PartitionId, &[RequestInputs]),
    legs: usize,
) -> anyhow::Result<Nanos> {
    let place = |leg: usize| Place {
        slot: SlotIndex(u16::from(leg % 2 == 1)),
        ..Place::of(partition)
    };
    let mut next = stage.start(model, place(0), items);
    let mut ran = Vec::with_capacity(legs);
    for leg in 1..legs.max(2) {
        let waits = stage.start(model, place(leg), items);
        ran.push(stage.end_of(next)?);
        next = waits;
    }
    ran.push(stage.end_of(next)?);
    Ok(idle(&ran))
}

fn idle(ran: &[Ran]) -> Nanos {
    let (Some(first), Some(last)) = (ran.first(), ran.last()) else {
        return Nanos::ZERO;
    };
    let runs = ran
        .iter()
        .fold(Nanos::ZERO, |sum, ran| sum + ran.split.infer);
    let ends = first.split.input + last.split.output;
    let idle = (last.ended - first.started).saturating_sub(runs + ends);
    let boundaries = u64::try_from(ran.len() - 1).unwrap_or(u64::MAX);
    Nanos::new(idle.as_nanos() / boundaries.max(1))
}

/// The median idle time between a run in one partition and one in the other that is started
/// when the first has ended.
fn in_turn<D: Host>(
    stage: &mut Stage<D>,
    model: &OnStage,
    (here, there): (PartitionId, PartitionId),
    items: &[RequestInputs],
    legs: usize,
) -> anyhow::Result<Nanos> {
    let mut before: Option<Ran> = None;
    let mut gaps = Vec::with_capacity(legs);
    for leg in 0..legs.max(2) {
        let partition = if leg % 2 == 0 { here } else { there };
        let ran = stage.run(model, Place::of(partition), items)?;
        gaps.extend(before.map(|before| between(&before, &ran)));
        before = Some(ran);
    }
    Ok(median(gaps))
}

/// From the end of one run to the start of the next: the ends of legs by the host's clock, the
/// parts of a leg by the device's.
fn between(before: &Ran, ran: &Ran) -> Nanos {
    let Ran { ended, split, .. } = ran;
    let after = split.infer + split.output;
    let apart = *ended - before.ended;
    (apart + before.split.output).saturating_sub(after)
}

fn answer(gaps: &Gaps, plan: &Plan) -> Answer {
    let Gaps {
        waiting,
        same,
        other,
    } = *gaps;
    let further = other.map(|other| other.saturating_sub(same));
    let holds = waiting <= BOUNDARY && further.is_some_and(|further| further <= FURTHER);
    let limit = |time: Nanos| format!("expected {:.0} at most", micros(time));
    Answer {
        verdict: Verdict::of(holds),
        words: format!(
            "between two legs the device stands still for {:.1} us where the second waits there              ({}) and {:.1} us where it is started at the end of the first; {}",
            micros(waiting),
            limit(BOUNDARY),
            micros(same),
            match further {
                Some(further) => format!(
                    "in another partition {:.1} us longer ({})",
                    micros(further),
                    limit(FURTHER)
                ),
                None => "there is no other partition beside the first".to_owned(),
            }
        ),
        facts: json!({
            "model": plan.zoo.name,
            "legs": plan.legs,
            "idle_waiting_us": micros(waiting),
            "idle_same_partition_us": micros(same),
            "idle_other_partition_us": other.map(micros),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::Timestamp;
    use fugato_device::RunSplit;

    fn plan() -> Plan {
        Plan {
            zoo: fugato_zoo::find("identity").expect("one"),
            legs: 4,
        }
    }

    /// A leg from `from` to `to`, of whose time 10 us are copies in and 20 us copies out.
    fn ran(from: u64, to: u64, infer: u64) -> Ran {
        let at = |micros: u64| Timestamp::from_nanos(micros * 1_000);
        Ran {
            started: at(from),
            ended: at(to),
            split: RunSplit {
                input: Nanos::from_micros(10),
                infer: Nanos::from_micros(infer),
                output: Nanos::from_micros(20),
                on_device: None,
            },
            outputs: Vec::new(),
        }
    }

    #[test]
    fn idle_time_is_what_is_between_runs() {
        // Three runs of 100 us with 15 us between them, copies hidden but for the first and last.
        let waited = [ran(0, 130, 100), ran(130, 245, 100), ran(245, 360, 100)];
        assert_eq!(idle(&waited), Nanos::from_micros(15));
        assert_eq!(idle(&[]), Nanos::ZERO);
        // Ends at 200 less 20 of copying; the next one's run starts at 400 less 120.
        assert_eq!(
            between(&ran(0, 200, 100), &ran(250, 400, 100)),
            Nanos::from_micros(100)
        );
    }

    #[test]
    fn a_boundary_or_a_switch_that_takes_long_fails_and_so_does_a_single_partition() {
        let verdict = |waiting, same, other: Option<u64>| {
            let gaps = Gaps {
                waiting: Nanos::from_micros(waiting),
                same: Nanos::from_micros(same),
                other: other.map(Nanos::from_micros),
            };
            answer(&gaps, &plan()).verdict
        };
        assert_eq!(verdict(20, 90, Some(110)), Verdict::Holds);
        assert_eq!(verdict(21, 90, Some(110)), Verdict::Fails);
        assert_eq!(verdict(20, 90, Some(111)), Verdict::Fails);
        assert_eq!(verdict(20, 90, Some(10)), Verdict::Holds);
        assert_eq!(verdict(20, 90, None), Verdict::Fails);
    }
}
