//! The static stage: which model runs when and where within a session.

use super::timeline::Timeline;
use crate::device::AtomSet;
use crate::id::{BatchSize, ModelId, PartitionId, Share};
use crate::time::{Nanos, Timestamp};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// The most runs of one session. A session of more is cut short: a plan is to cost at most
/// a millisecond.
pub(super) const RUNS_MAX: u64 = 512;

/// A run that the static stage has a place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRun {
    /// The model.
    pub model: ModelId,
    /// The most items.
    pub batch: BatchSize,
    /// Where.
    pub partition: PartitionId,
    /// The atoms of that partition.
    pub atoms: AtomSet,
    /// When it starts.
    pub start: Timestamp,
    /// How long it should take.
    pub length: Nanos,
    /// The end of the model's turn: its objective is cut into turns of which each has a run.
    pub due: Timestamp,
}

impl PlannedRun {
    /// The slices it holds.
    pub fn share(&self) -> Share {
        Share(self.atoms.count())
    }

    /// When it should end.
    pub fn end(&self) -> Timestamp {
        self.start + self.length
    }
}

/// Runs of a model that a session has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The model.
    pub model: ModelId,
    /// How many of its runs.
    pub runs: u32,
}

/// The plan of one session on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// When the session begins.
    pub start: Timestamp,
    /// How long it is: the largest objective of the models that ask.
    pub length: Nanos,
    /// Its runs, rising by start.
    pub runs: Vec<PlannedRun>,
    /// What it has no room for, rising by model: of runs that are due no earlier than all
    /// others. The dynamic stage runs them where it can, and the next session places the
    /// models first.
    pub left_out: Vec<LeftOut>,
}

impl Plan {
    /// When the session ends.
    pub fn end(&self) -> Timestamp {
        self.start + self.length
    }

    /// The same plan, for a session that starts later.
    pub(super) fn moved_to(&self, start: Timestamp) -> Self {
        let later = start - self.start;
        let runs = self.runs.iter().map(|run| PlannedRun {
            start: run.start + later,
            due: run.due + later,
            ..*run
        });
        Self {
            start,
            runs: runs.collect(),
            ..self.clone()
        }
    }
}

/// What a model asks of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    pub(super) model: ModelId,
    pub(super) batch: BatchSize,
    pub(super) share: Share,
    /// Of a run at that batch and share.
    pub(super) length: Nanos,
    /// It is to run once in every such time.
    pub(super) every: Nanos,
    /// Whether it goes before all others, as it was left out before.
    pub(super) first: bool,
    /// Smaller shares that keep the objective, falling, with the time of a run.
    pub(super) narrower: Vec<(Share, Nanos)>,
}

impl Demand {
    /// Turns of a session of this length: one per objective, or as many as there is time
    /// to run where the objective is shorter than a run.
    fn turns(&self, session: Nanos) -> u64 {
        let (session, every) = (session.as_nanos(), self.every.as_nanos().max(1));
        let most = session / self.length.as_nanos().max(1);
        session.div_ceil(every).min(most.max(1))
    }
}

/// The length of a session: `wanted`, or less where that would be too many runs; no shorter
/// than any run.
pub(super) fn session_length(demands: &[Demand], wanted: Nanos) -> Nanos {
    let longest = demands.iter().map(|demand| demand.length).max();
    let wanted = wanted.max(longest.unwrap_or_default());
    let runs = |length| -> u64 { demands.iter().map(|demand| demand.turns(length)).sum() };
    let mut length = wanted;
    while runs(length) > RUNS_MAX {
        let shorter = length.scaled(1, 2).max(longest.unwrap_or_default());
        if shorter == length {
            break;
        }
        length = shorter;
    }
    length.max(Nanos::new(1))
}

/// Where a plan may put runs.
pub(super) struct Space<'a> {
    pub(super) all: AtomSet,
    /// A partition of a share within some atoms.
    pub(super) fit: &'a dyn Fn(Share, AtomSet) -> Option<(PartitionId, AtomSet)>,
    /// What runs already, and until when.
    pub(super) busy: &'a [(AtomSet, Timestamp)],
}

/// Which models' runs are pushed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// Those of the shortest objective.
    All,
    /// The first of them.
    First,
    /// None.
    Nobody,
}

/// Plans a session: the runs of the shortest objective first, pushed apart, then all others
/// in the order in which they are due, each as early as its share is free for its whole
/// length. Where that leaves something out, it is tried with one model pushed apart and with
/// none, and the plan kept that leaves least out.
pub(super) fn plan(space: &Space<'_>, start: Timestamp, length: Nanos, demands: &[Demand]) -> Plan {
    let plans = [Spread::All, Spread::First, Spread::Nobody];
    // Where there is more work than time, something is left out in any case.
    let overloaded =
        area(demands, length) > u128::from(length.as_nanos()) * u128::from(space.all.count());
    let plans = plans.into_iter().take(if overloaded { 1 } else { 3 });
    let mut best: Option<(u128, Plan)> = None;
    for spread in plans {
        let attempt = Attempt::new(space, start, length).run(demands, spread);
        if best.as_ref().is_none_or(|(area, _)| attempt.0 < *area) {
            best = Some(attempt);
        }
        if best.as_ref().is_some_and(|(area, _)| *area == 0) {
            break;
        }
    }
    best.map(|(_, plan)| plan).unwrap_or_default()
}

/// Slice-nanoseconds that models ask of a session.
pub(super) fn area(demands: &[Demand], session: Nanos) -> u128 {
    let areas = demands.iter().map(|demand| {
        let slices = demand.length.times(u64::from(demand.share.0));
        u128::from(slices.as_nanos()) * u128::from(demand.turns(session))
    });
    areas.sum()
}

/// The most smaller shares that one attempt tries, as each costs a look through its turn.
const NARROWER_MAX: u32 = 64;

/// One turn of a model.
#[derive(Clone, Copy, Debug)]
struct Turn {
    demand: usize,
    number: u64,
    release: Timestamp,
    due: Timestamp,
}

/// A start, and the partition to start on with its atoms.
type Found = (Timestamp, (PartitionId, AtomSet));

struct Attempt<'a> {
    space: &'a Space<'a>,
    timeline: Timeline,
    plan: Plan,
    /// Slice-nanoseconds left out.
    area: u128,
    /// Smaller shares that may still be tried.
    narrower: u32,
}

impl<'a> Attempt<'a> {
    fn new(space: &'a Space<'a>, start: Timestamp, length: Nanos) -> Self {
        let mut timeline = Timeline::new(start);
        for &(atoms, until) in space.busy {
            timeline.take(start, until, atoms);
        }
        let plan = Plan {
            start,
            length,
            ..Plan::default()
        };
        Self {
            space,
            timeline,
            plan,
            area: 0,
            narrower: NARROWER_MAX,
        }
    }

    fn run(mut self, demands: &[Demand], spread: Spread) -> (u128, Plan) {
        let mut turns = self.turns(demands);
        turns.sort_by_key(|turn| {
            let demand = &demands[turn.demand];
            let size = Reverse(demand.length.times(u64::from(demand.share.0)));
            (Reverse(demand.first), turn.due, size, demand.model)
        });
        let apart = apart(demands, self.plan.length, spread);
        let is_apart = |turn: &&Turn| apart.contains(&turn.demand);
        for turn in turns.iter().filter(is_apart) {
            // Early in one turn, late in the next: so the time between two runs is long.
            self.place(demands, turn, turn.number % 2 == 1);
        }
        for turn in turns.iter().filter(|turn| !is_apart(turn)) {
            self.place(demands, turn, false);
        }
        self.plan.runs.sort_by_key(|run| (run.start, run.model));
        self.plan.left_out.sort_by_key(|out| out.model);
        (self.area, self.plan)
    }

    fn turns(&self, demands: &[Demand]) -> Vec<Turn> {
        let (start, length) = (self.plan.start, self.plan.length);
        let of_demand = |(demand, wanted): (usize, &Demand)| {
            let turns = wanted.turns(length);
            let edge = move |number: u64| start + length.scaled(number, turns);
            (0..turns).map(move |number| Turn {
                demand,
                number,
                release: edge(number),
                due: edge(number + 1),
            })
        };
        demands.iter().enumerate().flat_map(of_demand).collect()
    }

    fn place(&mut self, demands: &[Demand], turn: &Turn, late: bool) {
        let demand = &demands[turn.demand];
        let own = [(demand.share, demand.length)];
        let shapes = own.iter().chain(&demand.narrower).zip(0..);
        for (&(share, length), narrower) in shapes {
            if narrower > 0 {
                if self.narrower == 0 {
                    break;
                }
                self.narrower -= 1;
            }
            let found = late
                .then(|| self.at(turn.due.before(length), turn, share, length))
                .flatten()
                .or_else(|| self.earliest(turn, share, length));
            if let Some((start, (partition, atoms))) = found {
                self.timeline.take(start, start + length, atoms);
                self.plan.runs.push(PlannedRun {
                    model: demand.model,
                    batch: demand.batch,
                    partition,
                    atoms,
                    start,
                    length,
                    due: turn.due,
                });
                return;
            }
        }
        self.leave_out(demand);
    }

    fn at(&self, start: Timestamp, turn: &Turn, share: Share, length: Nanos) -> Option<Found> {
        let busy = self.timeline.busy(start, start + length);
        let found = (self.space.fit)(share, self.space.all.without(busy))?;
        (start >= turn.release).then_some((start, found))
    }

    fn earliest(&self, turn: &Turn, share: Share, length: Nanos) -> Option<Found> {
        let fit = |busy| (self.space.fit)(share, self.space.all.without(busy));
        let most = self.space.all.count().saturating_sub(share.0);
        self.timeline
            .earliest((turn.release, turn.due), length, most, fit)
    }

    fn leave_out(&mut self, demand: &Demand) {
        self.area += u128::from(demand.length.times(u64::from(demand.share.0)).as_nanos());
        let known = self.plan.left_out.iter_mut();
        match known.into_iter().find(|out| out.model == demand.model) {
            Some(out) => out.runs += 1,
            None => self.plan.left_out.push(LeftOut {
                model: demand.model,
                runs: 1,
            }),
        }
    }
}

/// The demands whose runs are pushed apart: those of the shortest objective that have more
/// than one turn.
fn apart(demands: &[Demand], session: Nanos, spread: Spread) -> BTreeSet<usize> {
    let several = demands.iter().enumerate();
    let several = several.filter(|(_, demand)| demand.turns(session) > 1);
    let Some(shortest) = several.clone().map(|(_, demand)| demand.every).min() else {
        return BTreeSet::new();
    };
    let most = match spread {
        Spread::All => demands.len(),
        Spread::First => 1,
        Spread::Nobody => 0,
    };
    several
        .filter(|(_, demand)| demand.every == shortest)
        .map(|(index, _)| index)
        .take(most)
        .collect()
}
