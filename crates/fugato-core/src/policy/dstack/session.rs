//! One device's session: its plan, what is left of it, and who ran.

use super::plan::{self, Demand, Plan, PlannedRun, Space};
use super::scoreboard::Scoreboard;
use super::{Settings, place};
use crate::device::AtomSet;
use crate::id::{BatchSize, DeviceId, ModelId, Share};
use crate::policy::turn::Turn;
use crate::policy::{Sizer, Sizing, Verdict};
use crate::sched::{LaneRef, Offer, View};
use crate::time::{Nanos, Timestamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The most points of latency surfaces that a replan looks at to size models anew, at ten
/// batches per share; but one model is always sized.
const POINTS_MAX: usize = 1_000;
const BATCHES: usize = 10;

/// The state of one device.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) device: DeviceId,
    pub(super) plan: Plan,
    /// Runs of the plan that were neither launched nor given up, rising by start.
    pub(super) pending: VecDeque<PlannedRun>,
    /// Sizes in force, of the models that asked when the session began.
    pub(super) sizes: BTreeMap<ModelId, Sizing>,
    pub(super) board: Scoreboard,
    /// What was so when the dynamic stage last found nothing: it finds nothing while that
    /// stays.
    pub(super) refused: Option<Refused>,
    sizer: Sizer,
    demands: Vec<Demand>,
    /// When a model with an objective above the session's length is to be planned again.
    turns: BTreeMap<ModelId, Timestamp>,
}

/// What the dynamic stage rests on, besides time, which only takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) moves: u64,
    pub(super) pending: usize,
    pub(super) session: Timestamp,
    /// Legs that another may be committed behind.
    pub(super) ending: usize,
}

/// What becomes of a planned run whose time has come.
enum Due {
    /// It gives a verdict, and is done.
    Launch(Verdict),
    /// It gives a verdict, and is looked at again.
    First(Verdict),
    /// It is given up.
    GiveUp,
    /// It goes on waiting.
    Keep,
}

impl Session {
    pub(super) fn new(settings: Settings, device: DeviceId) -> Self {
        Self {
            settings,
            device,
            plan: Plan::default(),
            pending: VecDeque::new(),
            sizes: BTreeMap::new(),
            board: Scoreboard::default(),
            refused: None,
            sizer: Sizer::new(settings.point),
            demands: Vec::new(),
            turns: BTreeMap::new(),
        }
    }

    /// Whether the plan is for the device as it is, and goes on.
    pub(super) fn is_current(&self, view: &View<'_>) -> bool {
        let known = |run: &PlannedRun| {
            let parts = view.partitions(self.device);
            let part = parts.get(usize::from(run.partition.0));
            part.is_some_and(|part| part.atoms == run.atoms)
        };
        self.plan.end() > view.now() && self.pending.front().is_none_or(known)
    }

    /// Begins the next session.
    pub(super) fn renew(&mut self, view: &View<'_>) {
        let now = view.now();
        self.board.turn();
        self.sizer.retain(view);
        self.turns.retain(|&model, _| view.knows(model));
        self.size(view);
        let (demands, length) = self.demands(view);
        let busy: Vec<(AtomSet, Timestamp)> = view
            .running(self.device)
            .map(|leg| (leg.atoms, leg.ends.unwrap_or(now)))
            .collect();
        let again = self.plan.moved_to(now);
        let same = length == again.length && demands == self.demands;
        self.plan = if same && again.left_out.is_empty() && keeps_clear(&again, &busy) {
            again
        } else {
            let space = Space {
                all: AtomSet::range(0, view.slices(self.device).0),
                fit: &|share, atoms| {
                    let part = view.fit(self.device, share, atoms)?;
                    Some((part.id, part.atoms))
                },
                busy: &busy,
            };
            plan::plan(&space, now, length, &demands)
        };
        self.demands = demands;
        self.pending = self.plan.runs.iter().copied().collect();
    }

    /// Sizes the models that ask, as many as the budget allows; the others keep what was
    /// found of them before.
    fn size(&mut self, view: &View<'_>) {
        let device = self.device;
        let per_model = BATCHES * view.shares(device).count().max(1);
        let mut budget = (POINTS_MAX / per_model).max(1);
        self.sizes.clear();
        for model in view.models(device).filter(|&model| asks(view, model)) {
            let known = self.sizer.is_known(view, device, model);
            let sizing = if known || budget > 0 {
                budget -= usize::from(!known);
                self.sizer.size(view, device, model)
            } else {
                self.sizer.latest(view, device, model)
            };
            let sizing = self.granted(view, model, sizing);
            self.sizes.insert(model, sizing);
        }
    }

    /// What is known of a model that did not ask when the session began.
    pub(super) fn latest(&self, view: &View<'_>, model: ModelId) -> Sizing {
        let sizing = self.sizer.latest(view, self.device, model);
        self.granted(view, model, sizing)
    }

    /// The sizing with the margin on top.
    fn granted(&self, view: &View<'_>, model: ModelId, sizing: Sizing) -> Sizing {
        let wanted = sizing.share.0.saturating_add(self.settings.margin.0);
        let mut shares = view.shares(self.device);
        let share = shares
            .rfind(|share| share.0 <= wanted)
            .filter(|&share| share > sizing.share);
        match share {
            Some(share) => Sizing {
                share,
                run: run(view, model, sizing.batch, share).or(sizing.run),
                ..sizing
            },
            None => sizing,
        }
    }

    /// What the models ask of the next session, and its length.
    fn demands(&mut self, view: &View<'_>) -> (Vec<Demand>, Nanos) {
        let before = &self.plan.left_out;
        let left_out: BTreeSet<ModelId> = before.iter().map(|out| out.model).collect();
        let mut demands = Vec::with_capacity(self.sizes.len());
        for (&model, sizing) in &self.sizes {
            let every = view.slo(model).unwrap_or(view.best_effort());
            // Of an unknown one it is the most that D-STACK lets a run have.
            let length = sizing.run.unwrap_or(every.scaled(1, 2));
            demands.push(Demand {
                model,
                batch: sizing.batch,
                share: sizing.share,
                length: length.max(Nanos::new(1)),
                every,
                first: left_out.contains(&model),
                narrower: Vec::new(),
            });
        }
        let objectives = demands.iter().filter_map(|demand| view.slo(demand.model));
        let wanted = objectives.max().unwrap_or(view.best_effort());
        let length = plan::session_length(&demands, wanted);
        let now = view.now();
        demands.retain(|demand| {
            let turn = self.turns.get(&demand.model);
            let is_due = demand.every <= length || turn.is_none_or(|&turn| turn < now + length);
            is_due || demand.first
        });
        for demand in &demands {
            self.turns.insert(demand.model, now + demand.every);
        }
        let whole = length.times(u64::from(view.slices(self.device).0));
        let tight = plan::area(&demands, length) * 2 > u128::from(whole.as_nanos());
        if tight {
            for demand in &mut demands {
                demand.narrower = narrower(view, self.device, demand);
            }
        }
        (demands, length)
    }

    /// What to do about the planned runs whose time has come.
    pub(super) fn planned(&mut self, view: &View<'_>) -> Option<Verdict> {
        let soon = view.now() + view.commit_lead();
        let mut index = 0;
        while let Some(&run) = self.pending.get(index).filter(|run| run.start <= soon) {
            match self.due(view, index, &run) {
                Due::Launch(verdict) => {
                    self.pending.remove(index);
                    self.board.ran(run.model);
                    return Some(verdict);
                }
                Due::First(verdict) => return Some(verdict),
                Due::GiveUp => {
                    self.pending.remove(index);
                }
                Due::Keep => index += 1,
            }
        }
        None
    }

    fn due(&self, view: &View<'_>, index: usize, run: &PlannedRun) -> Due {
        let now = view.now();
        if !view.knows(run.model) || now >= run.due {
            return Due::GiveUp;
        }
        if view.waiting_items(run.model) == 0 {
            // Its slot goes to the dynamic stage; without one it stays open while it can.
            let over = if self.settings.dynamic {
                run.start <= now
            } else {
                run.due.before(run.length) < now
            };
            return if over { Due::GiveUp } else { Due::Keep };
        }
        let Some(head) = view.head(run.model) else {
            return Due::Keep;
        };
        if run.start <= now
            && let Some(verdict) = place::doomed(view, self.device, head, run.share())
        {
            return Due::First(verdict);
        }
        let Some((at, start, until)) = self.room(view, index, run) else {
            return Due::Keep;
        };
        let most = if self.settings.dynamic {
            view.max_batch(run.model)
        } else {
            run.batch
        };
        // Its own length it may have in any case; more only where nothing is in the way.
        let until = until.max(start + run.length);
        let verdict = place::verdict(view, Turn { head, at, start }, until, most);
        if matches!(verdict, Verdict::Launch { .. }) {
            Due::Launch(verdict)
        } else {
            Due::First(verdict)
        }
    }

    /// Where a planned run can go now: on its partition, behind what ends there, or on
    /// another partition of its share that nothing else is planned on. With the start, and
    /// when the next planned run needs any of the atoms.
    fn room(
        &self,
        view: &View<'_>,
        index: usize,
        run: &PlannedRun,
    ) -> Option<(LaneRef, Timestamp, Timestamp)> {
        let now = view.now();
        let until = self.needed(run.atoms, Some(index));
        for at in view.lanes(self.device, run.partition) {
            match view.offer(at) {
                Offer::Now if run.start <= now => return Some((at, now, until)),
                Offer::After(end) => return Some((at, end, until)),
                Offer::Now | Offer::Closed => {}
            }
        }
        if run.start > now {
            return None;
        }
        let others = self.reserved(Some(index));
        let (at, until) = place::longest(view, self.device, run.share(), others)?;
        (now + run.length <= until).then_some((at, now, until))
    }

    /// What is planned, rising by start: the rest of this session, then the next one as if
    /// it were the same.
    pub(super) fn reserved(
        &self,
        but: Option<usize>,
    ) -> impl Iterator<Item = (Timestamp, AtomSet)> {
        let rest = self.pending.iter().enumerate();
        let rest = rest.filter(move |(index, _)| Some(*index) != but);
        let rest = rest.map(|(_, run)| (run.start, run.atoms));
        let length = self.plan.length;
        let again = self.plan.runs.iter();
        let again = again.map(move |run| (run.start + length, run.atoms));
        rest.chain(again)
    }

    /// When the next planned run needs any of these atoms.
    pub(super) fn needed(&self, atoms: AtomSet, but: Option<usize>) -> Timestamp {
        let mut reserved = self.reserved(but);
        let next = reserved.find(|(_, taken)| taken.overlaps(atoms));
        next.map_or(Timestamp::MAX, |(start, _)| start)
    }

    /// When a model is planned next, in this session or in the next one.
    pub(super) fn next_run(&self, model: ModelId) -> Timestamp {
        let mut rest = self.pending.iter();
        let next = rest.find(|run| run.model == model).map(|run| run.start);
        let again = || {
            let mut runs = self.plan.runs.iter();
            let first = runs.find(|run| run.model == model)?;
            Some(first.start + self.plan.length)
        };
        next.or_else(again).unwrap_or(Timestamp::MAX)
    }

    /// When something is planned next, or the session ends.
    pub(super) fn wake(&self, now: Timestamp) -> Timestamp {
        let mut starts = self.pending.iter().map(|run| run.start);
        let next = starts.find(|&start| start > now);
        next.map_or(self.plan.end(), |next| next.min(self.plan.end()))
    }
}

/// Whether anybody wants a model.
fn asks(view: &View<'_>, model: ModelId) -> bool {
    view.waiting_items(model) > 0 || view.rate(model) > 0.0
}

/// The median of a run alone on the device; `None` where nothing is known.
pub(super) fn run(
    view: &View<'_>,
    model: ModelId,
    batch: BatchSize,
    share: Share,
) -> Option<Nanos> {
    let run = view.predict_at(model, batch, (share, Share(0)), 0.5)?;
    Some(run.time)
}

/// The smaller shares in which a run still keeps the objective, falling.
fn narrower(view: &View<'_>, device: DeviceId, demand: &Demand) -> Vec<(Share, Nanos)> {
    let shares = view.shares(device).filter(|&share| share < demand.share);
    let runs = shares.filter_map(|share| {
        let length = run(view, demand.model, demand.batch, share)?;
        (length <= demand.every).then_some((share, length))
    });
    let mut runs: Vec<_> = runs.collect();
    runs.reverse();
    runs
}

/// Whether no leg that runs is in the way of a plan.
fn keeps_clear(plan: &Plan, busy: &[(AtomSet, Timestamp)]) -> bool {
    let clear = |run: &PlannedRun| {
        let mut legs = busy.iter();
        legs.all(|(atoms, until)| *until <= run.start || !atoms.overlaps(run.atoms))
    };
    plan.runs.iter().all(clear)
}
