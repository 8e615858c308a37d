//! `fugato`: at each boundary between two legs, who goes on, in which share.
//!
//! What runs is never late for being slow: a task gets the smallest share in which it ends in
//! time, because a small share costs the least slice-seconds, and what nobody needs goes to
//! whoever gains most by it. Both are looked at anew at each boundary, so a task that fell
//! behind gets more and one that is ahead gives some up.
//!
//! | question | answer |
//! |---|---|
//! | who goes first | tasks that are begun and heads that cannot wait for one of them to end, then other heads of queues, then tasks whose first request is late; among each the one that must go on first: its deadline less its time in the best share ([`claims`]) |
//! | which share | the smallest in which the rest of the task ends by its first request's deadline |
//! | which batch | all that waits, or as many as end in time in the slices that are free |
//! | what is left | slice by slice to whoever saves the largest part of its time by it, up to the knee of its next leg |
//! | what is left free | where the device suspends nothing, what a model of short objective needs, by each model whose longest leg takes more than half of that ([`room`]) |
//! | who is suspended | where the device has urgent lanes, whoever is due later and has time for it, for a task that would lose a thirtieth of its time to spare by waiting for the end of the leg that runs ([`over`]) |
//! | when a batch begins | when it is full, or its first request has waited for the model's *dequeue interval* |
//! | what is not served | a task none of whose requests can be in time; a head that would need a dear share, while enough later ones wait for a batch that ends in time in a cheap one |
//!
//! The dequeue interval is `SLO / (n + 1)` for `n` tasks at once, derived in [`pace`]: the one that
//! leaves a batch the longest time to run, and so the smallest share. It
//! is cut where the batch would then need more than its usual share, and does not apply where the
//! requests that come in it make an item no cheaper by a tenth. It is at most four usual runs.
//!
//! A task whose next leg would be the same whoever decides is committed to it before its leg
//! ends, so that the boundary costs no decision: that is the hysteresis of one leg. What is
//! kept for a more urgent one may be used by others up to the moment at which it could be
//! taken (EASY backfilling, Lifka 1995). Of many models that wait, the eight that go first are
//! looked at, so that a decision costs no more than with eight.
//!
//! # Source
//! Ours, of parts known before; by subject, as section numbers are not known here. Slack-based
//! choice of a share: elastic tasks (Buttazzo et al., RTSS 1998); least laxity first (Mok,
//! 1983); dequeue frequency: TOP (TPDS 2025, of which the abstract alone is open). Dropping heads
//! for full batches: Nexus (SOSP 2019, on early drop), as [`edf`](super::Edf) does.
//!
//! # How ours differs
//! - An elastic task stretches its period; here the period is given, and the share gives way.
//! - Laxity is that in the best share, among tasks of one kind, and only between legs.
//! - TOP learns the dequeue frequency; here it follows from objective and slots.
//! - Nexus drops within a plan of duty cycles; here there is no plan, only the next leg.

mod claims;
mod grants;
mod over;
mod pace;
mod pair;
mod room;
mod table;

use super::sizes::{Change, Sizes};
use super::sizing::OperatingPoint;
use super::{Backlog, CapacityRule, Policy, QueueOrder, Ran, RunsUnsplit, ServiceBound, Verdict};
use crate::id::{DeviceId, ModelId, Share};
use crate::sched::{Begun, DropReason, Offer, ReadyHead, View};
use crate::time::Timestamp;
use claims::{Claim, Who};
use pace::Paces;
use pair::Pairs;
use room::Rooms;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use table::Tables;

/// Launches of others that the first of those who wait lets pass at most: some batches of
/// each of many models, and few enough that nobody waits for a second on millisecond runs.
const PASSES: u32 = 64;

/// Heads that are looked at: those that go first. It bounds what a decision costs where many
/// models wait.
const HEADS: usize = 8;

/// A head is dear where an item of its batch costs more than this much of what one costs in
/// the share and batch of least work. Under overload all heads come to cost nearly this much, so it
/// is what goodput may fall by there (simulated at twice the load held: by 15 % with 5/4).
const DEAR: (u64, u64) = (11, 10);

/// What of the policy is on: all but what did not gain, or too little to be sure of. Each is
/// there to be turned off in comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FugatoParts {
    /// Whether shares are chosen anew at each leg, and pressed heads go in between. Without it a task
    /// runs to its end in the share that it began in.
    pub preempt: bool,
    /// Whether a leg gets no more than its own knee, so that others may have the rest. Then no task
    /// runs in one go.
    pub leg_shares: bool,
    /// Whether what nobody needs goes to whoever gains by it.
    pub widen: bool,
    /// Whether batches wait for the dequeue interval.
    pub dequeue: bool,
    /// Whether that interval is the one of least work at the rate of arrivals.
    pub work_interval: bool,
    /// Whether batches grow no larger than the one that holds the most.
    pub best_batch: bool,
    /// Whether what is late or dear is given up.
    pub give_up: bool,
    /// Whether an urgent leg begins over one that runs, where the device has urgent lanes.
    pub niceness: bool,
    /// Whether a task runs in one go that is the only one, while no other model asks for its
    /// devices.
    pub unsplit: bool,
    /// Whether a model of a leg that would make others late leaves them slices, where the device
    /// cannot suspend that leg.
    pub leave_room: bool,
}

impl Default for FugatoParts {
    fn default() -> Self {
        Self {
            preempt: true,
            leg_shares: false,
            widen: true,
            dequeue: true,
            work_interval: false,
            best_batch: true,
            give_up: true,
            niceness: true,
            unsplit: true,
            leave_room: true,
        }
    }
}

/// The policy `fugato`.
#[derive(Debug)]
pub struct Fugato {
    parts: FugatoParts,
    tables: Tables,
    sizes: Sizes,
    pairs: Pairs,
    paces: Paces,
    rooms: Rooms,
    /// By device: the model that went first at the last launch, and how often in a row it
    /// was passed over.
    passes: BTreeMap<DeviceId, (ModelId, u32)>,
    /// When a leg that somebody waits for should have ended.
    overdue: Option<Timestamp>,
    /// Those of a decision, kept for its memory.
    heads: Vec<ReadyHead>,
}

impl Fugato {
    pub(crate) fn new(parts: FugatoParts) -> Self {
        Self {
            parts,
            tables: Tables::default(),
            pairs: Pairs::default(),
            paces: Paces::default(),
            rooms: Rooms::default(),
            sizes: Sizes::new(OperatingPoint::Work),
            passes: BTreeMap::new(),
            overdue: None,
            heads: Vec::with_capacity(HEADS),
        }
    }

    fn on(&mut self, view: &View<'_>, device: DeviceId) -> Option<Verdict> {
        let rooms = &mut self.rooms;
        self.sizes.refresh(view, device, |change| match change {
            Change::Sized(model, _) | Change::Gone(model) => rooms.forget(model),
        });
        let mut heads = std::mem::take(&mut self.heads);
        heads.clear();
        heads.extend(view.ready(device).take(HEADS));
        let verdict = self.given_up(view, device, &heads);
        let verdict = verdict.or_else(|| self.waits(view, device, &heads));
        let verdict = verdict.or_else(|| self.served(view, device, &heads));
        self.heads = heads;
        verdict
    }

    /// Whoever of all who ask gets slices, or runs over somebody.
    fn served(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        heads: &[ReadyHead],
    ) -> Option<Verdict> {
        let ends_soon = |begun: Begun| begun.runs && ends_soon(view, &begun);
        let shares_out = !view.free(device).is_empty() || view.begun(device).any(ends_soon);
        let overtakes = self.may_overtake(view, device);
        if !shares_out && !overtakes {
            return None;
        }
        let claims = self.claims(view, device, heads);
        if let Some(verdict) = self.held_back(view, device, &claims) {
            return Some(verdict);
        }
        let shared_out = match shares_out {
            true => self.shared_out(view, device, &claims),
            false => None,
        };
        shared_out.or_else(|| match overtakes {
            true => self.overtaken(view, device, &claims),
            false => None,
        })
    }

    /// Gives the free slices to those who can take them now; where all of them are given,
    /// commits legs of tasks that go on as they are, those behind a pressed head left out.
    fn shared_out(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claims: &[Claim],
    ) -> Option<Verdict> {
        let free = view.free(device);
        let (grants, unmet) = self.grants(view, device, claims);
        let given = grants.iter().find_map(|grant| grant.verdict(view, device));
        if let Some(verdict) = given {
            if let Verdict::Launch { model, .. } = verdict {
                self.count(view, device, model);
            }
            return Some(verdict);
        }
        let same = |claim: &&Claim| {
            let grows = !free.is_empty() && self.parts.widen && claim.held < claim.most;
            let may = claim.held <= claim.allowed;
            let gives_up = unmet.anybody && claim.need < claim.held;
            may && claim.need <= claim.held && !grows && !gives_up
        };
        // A pressed head may take what those behind it hold, at the boundary.
        let before = unmet.pressed.unwrap_or(claims.len());
        let running = claims[..before]
            .iter()
            .filter(same)
            .find_map(|claim| match claim.who {
                Who::Running(begun) => ends_soon(view, &begun).then_some(begun),
                Who::Between(_) | Who::Head(_) => None,
            })?;
        Some(Verdict::Continue {
            task: running.task,
            at: running.at,
        })
    }

    /// The only model that may launch on a device, where it was passed over often enough.
    fn owed(&self, view: &View<'_>, device: DeviceId) -> Option<ModelId> {
        let first = view.first_ready(device)?.model;
        let &(model, passes) = self.passes.get(&device)?;
        (model == first && passes >= PASSES).then_some(first)
    }

    fn count(&mut self, view: &View<'_>, device: DeviceId, launched: ModelId) {
        let Some(first) = view.first_ready(device).map(|head| head.model) else {
            return;
        };
        let known = self.passes.get(&device).copied();
        let before = known.filter(|&(model, _)| model == first);
        let passes = match before {
            _ if launched == first => 0,
            Some((_, passes)) => passes + 1,
            None => 1,
        };
        self.passes.insert(device, (first, passes));
    }

    /// A task or a head that is late, or not worth its slices.
    fn given_up(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        heads: &[ReadyHead],
    ) -> Option<Verdict> {
        let hopeless = heads.iter().find_map(|&head| {
            let reason = self.hopeless(view, device, head)?;
            let request = head.key.request();
            Some(Verdict::Drop { request, reason })
        });
        if hopeless.is_some() || !self.parts.give_up {
            return hopeless;
        }
        let late = view.begun(device).find_map(|begun| {
            let predicted = self.too_late(view, device, begun)?;
            let task = begun.task;
            Some(Verdict::Abandon { task, predicted })
        });
        late.or_else(|| {
            heads.iter().find_map(|&head| {
                let reason = self.outweighed(view, device, head)?;
                let request = head.key.request();
                Some(Verdict::Drop { request, reason })
            })
        })
    }

    /// When a task between two legs would end in the best share that it may have, alone, where
    /// that is past the deadlines of all its requests.
    fn too_late(&mut self, view: &View<'_>, device: DeviceId, begun: Begun) -> Option<Timestamp> {
        let deadline = view.last_deadline(begun.task).filter(|_| !begun.runs)?;
        let limit = self.limit(view, device, begun.model);
        let table = self.tables.of(view, device, begun.model, begun.batch);
        let leg = begun.leg.0 + 1;
        let place = table.fastest_within(limit, leg)?;
        if view.now() + table.rest(place, leg) <= deadline {
            return None;
        }
        // The table is careful; what is given up must be late at the median and alone.
        let alone = (table.share(place), Share(0));
        let rest = view.rest(begun, alone, 0.5)?.measured()?;
        Some(view.now() + rest).filter(|&predicted| predicted > deadline)
    }

    /// Why a head cannot be served: it would be late by itself in the best share that it may
    /// have. One that is wanted as a probe runs.
    fn hopeless(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        head: ReadyHead,
    ) -> Option<DropReason> {
        let request = head.key.request();
        let deadline = view.enforced_deadline(request)?;
        let table = (self.tables).find(view, device, head.model, view.items(request));
        let in_time = |rest| view.now() + rest <= deadline;
        // In the smallest share, which it may always have.
        if self.tables.get(table).in_smallest(0).is_none_or(in_time) {
            return None;
        }
        let limit = self.limit(view, device, head.model);
        let table = self.tables.get(table);
        let place = table.fastest_within(limit, 0)?;
        if view.now() + table.rest(place, 0) <= deadline {
            return None;
        }
        // As above; a share that was never measured is taken at its best.
        let alone = (table.share(place), Share(0));
        let known = view.predict_at(head.model, view.items(request), alone, 0.5);
        let run = known.map_or(table.rest(place, 0), |known| known.time);
        let predicted = view.now() + run;
        let late = predicted > deadline && !view.is_probe(request, run);
        late.then_some(DropReason::Doomed {
            deadline,
            predicted,
        })
    }

    /// Why a head is given up: it would need a share that is dear and not free, and enough
    /// later requests wait to fill a batch that ends in time in the share of least work.
    fn outweighed(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        head: ReadyHead,
    ) -> Option<DropReason> {
        let deadline = view.enforced_deadline(head.key.request())?;
        let usual = self.sizes.get(device, head.model)?;
        let run = usual.run?;
        let predicted = view.now() + run;
        let items = u64::from(usual.batch.0);
        if predicted <= deadline || view.waiting_items(head.model) <= items {
            return None;
        }
        let most = view.max_batch(head.model);
        let batch = view.batch_available(head.model, head.class, most);
        let table = self.tables.of(view, device, head.model, batch);
        if !table.is_known() {
            return None;
        }
        let is_dear = table.enough(0, deadline - view.now()).is_none_or(|place| {
            let share = table.share(place);
            let (dear, least) = DEAR;
            let costs = table.rest(place, 0).times(u64::from(share.0) * items);
            let usually = run.times(u64::from(usual.share.0) * u64::from(batch.0));
            share.0 > view.free(device).count() && costs.times(least) > usually.times(dear)
        });
        let fills = || view.fills_after(head.model, head.class, predicted, usual.batch);
        (is_dear && fills()).then_some(DropReason::Doomed {
            deadline,
            predicted,
        })
    }
}

/// Whether the leg of a task that runs is about to end, so that the next may be committed.
fn ends_soon(view: &View<'_>, begun: &Begun) -> bool {
    matches!(view.offer(begun.at), Offer::After(_))
}

impl Policy for Fugato {
    fn name(&self) -> &'static str {
        "fugato"
    }

    fn capacity(&self) -> CapacityRule {
        match self.parts.niceness {
            true => CapacityRule::Layered,
            false => CapacityRule::Exclusive,
        }
    }

    fn service_bound(&self) -> Option<ServiceBound> {
        Some(ServiceBound { passes: PASSES })
    }

    fn queue_order(&self) -> QueueOrder {
        QueueOrder::Deadline
    }

    /// Its own: models have shares of their own.
    fn backlog(&self) -> Backlog {
        Backlog::Own
    }

    fn decide(&mut self, view: &View<'_>) -> Verdict {
        if !self.parts.preempt
            && let Some(verdict) = view.continue_first()
        {
            return verdict;
        }
        self.overdue = None;
        self.rooms.begin();
        let verdict = view.devices().find_map(|device| self.on(view, device));
        verdict.unwrap_or_else(|| {
            let times = [self.sizes.catch_up(view), self.overdue];
            Verdict::Wait {
                until: times.into_iter().flatten().min(),
            }
        })
    }

    fn runs_unsplit(&self) -> RunsUnsplit {
        // A task whose legs have shares of their own got that of its first.
        match self.parts.unsplit && !self.parts.leg_shares {
            true => RunsUnsplit::LoneTask,
            false => RunsUnsplit::Never,
        }
    }

    fn ran(&mut self, ran: &Ran) {
        if ran.is_last && self.tables.ran(ran.model) {
            self.rooms.forget(ran.model);
        }
    }
}
