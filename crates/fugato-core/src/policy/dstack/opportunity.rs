//! The dynamic stage: what runs where nothing is planned.

use super::place;
use super::session::{Refused, Session, run};
use crate::id::Share;
use crate::policy::turn::Turn;
use crate::policy::{Sizing, Verdict};
use crate::sched::{LaneRef, Offer, ReadyHead, Running, View};
use crate::time::{Nanos, Timestamp};

/// Models that are compared by their scores: those due first. A model that is due later comes to
/// be one of them in time.
const COMPARED: usize = 32;

/// Models that are tried at most: each that does not fit costs some predictions.
const TRIES: usize = 16;

/// A slot: a lane, and the free time on it.
#[derive(Clone, Copy, Debug)]
struct Slot {
    at: LaneRef,
    from: Timestamp,
    until: Timestamp,
}

/// The free slice, as far as it was looked at.
struct Free<'a> {
    /// The shares that the device's partitions have, rising.
    shares: Vec<Share>,
    /// By share: the free place that is planned for latest.
    longest: Vec<(Share, Option<Slot>)>,
    /// Behind legs that are about to end.
    behind: &'a [(Share, Slot)],
}

impl Session {
    /// Starts a model in the free slice: of those that do not run the one with the fewest
    /// runs in the last ten sessions that fits, of equal ones the one due first; where none
    /// fits, one that runs already.
    pub(super) fn opportunity(&mut self, view: &View<'_>) -> Option<Verdict> {
        let ending: Vec<Running> = view
            .running(self.device)
            .filter(|leg| matches!(view.offer(leg.at), Offer::After(_)))
            .collect();
        let asked = Refused {
            moves: view.moves(),
            pending: self.pending.len(),
            session: self.plan.start,
            ending: ending.len(),
        };
        if self.refused == Some(asked) || view.free(self.device).is_empty() && ending.is_empty() {
            return None;
        }
        let verdict = self.fill(view, &self.behind(view, ending));
        match &verdict {
            Some(Verdict::Launch { model, .. }) => self.board.ran(*model),
            Some(_) => {}
            None => self.refused = Some(asked),
        }
        verdict
    }

    fn fill(&self, view: &View<'_>, legs: &[(Running, Slot)]) -> Option<Verdict> {
        let behind: Vec<(Share, Slot)> = legs
            .iter()
            .map(|(leg, slot)| (Share(leg.atoms.count()), *slot))
            .collect();
        let mut free = Free {
            shares: view.shares(self.device).collect(),
            longest: Vec::new(),
            behind: &behind,
        };
        for head in self.candidates(view, legs) {
            let sizing = self.sizing(view, head);
            let verdict = place::doomed(view, self.device, head, sizing.share)
                .or_else(|| self.fitted(view, head, sizing, &mut free));
            if verdict.is_some() {
                return verdict;
            }
        }
        None
    }

    /// The slots that legs leave behind which another may be committed.
    fn behind(&self, view: &View<'_>, ending: Vec<Running>) -> Vec<(Running, Slot)> {
        let slots = ending.into_iter().filter_map(|leg| {
            let Offer::After(from) = view.offer(leg.at) else {
                return None;
            };
            let (at, until) = (leg.at, self.needed(leg.atoms, None));
            Some((leg, Slot { at, from, until }))
        });
        slots.collect()
    }

    /// Who may start, in order. Without the dynamic stage: only whom the plan has no run for.
    fn candidates(&self, view: &View<'_>, ending: &[(Running, Slot)]) -> Vec<ReadyHead> {
        let is_planned = |model| {
            let mut runs = self.plan.runs.iter();
            runs.any(|run| run.model == model)
        };
        let ready = view.ready(self.device);
        let ready = ready.filter(|head| self.settings.dynamic || !is_planned(head.model));
        let mut ready: Vec<_> = ready
            .take(COMPARED)
            .enumerate()
            .map(|(rank, head)| {
                let tasks = usize::from(view.in_flight(head.model));
                let of_it = ending.iter().filter(|(leg, _)| leg.model == head.model);
                let runs = tasks > of_it.count();
                (runs, self.board.runs(head.model), rank, head)
            })
            .collect();
        let order = |&(runs, score, rank, _): &(bool, u32, usize, ReadyHead)| (runs, score, rank);
        if ready.len() > TRIES {
            ready.select_nth_unstable_by_key(TRIES, order);
            ready.truncate(TRIES);
        }
        ready.sort_unstable_by_key(order);
        ready.into_iter().map(|(.., head)| head).collect()
    }

    fn sizing(&self, view: &View<'_>, head: ReadyHead) -> Sizing {
        match self.sizes.get(&head.model) {
            Some(sizing) => *sizing,
            None => self.latest(view, head.model),
        }
    }

    /// The run of a model in the free slice, in its share or a smaller one in which it keeps
    /// its objective; `None` where it does not fit.
    fn fitted(
        &self,
        view: &View<'_>,
        head: ReadyHead,
        sizing: Sizing,
        free: &mut Free<'_>,
    ) -> Option<Verdict> {
        let objective = view.slo(head.model).unwrap_or(view.best_effort());
        let alone = view.items(head.key.request());
        // The model's own planned run needs a place for its task too.
        let own = match view.free_slots(head.model) {
            0 | 1 => self.next_run(head.model),
            _ => Timestamp::MAX,
        };
        let up_to = free.shares.partition_point(|&share| share <= sizing.share);
        (0..up_to).rev().find_map(|place| {
            let share = free.shares[place];
            let known = run(view, head.model, alone, share);
            let length = match known {
                Some(length) if share < sizing.share && length > objective => return None,
                Some(length) => length,
                // Not known: it may take as long as a run may.
                None if share == sizing.share => objective.scaled(1, 2),
                None => return None,
            };
            let mut slot = self.slot(view, share, length, free)?;
            slot.until = slot.until.min(own);
            if slot.from + length > slot.until {
                return None;
            }
            let deadline = view.enforced_deadline(head.key.request());
            let in_time = deadline.is_none_or(|deadline| slot.from + length <= deadline);
            if share < sizing.share && !in_time {
                return None;
            }
            let most = view.max_batch(head.model);
            let turn = Turn {
                head,
                at: slot.at,
                start: slot.from,
            };
            Some(place::verdict(view, turn, slot.until, most))
        })
    }

    /// A slot of a share that is free for a length of time.
    fn slot(
        &self,
        view: &View<'_>,
        share: Share,
        length: Nanos,
        free: &mut Free<'_>,
    ) -> Option<Slot> {
        let fits = |slot: &Slot| slot.from + length <= slot.until;
        let known = free.longest.iter().find(|(known, _)| *known == share);
        let longest = match known {
            Some((_, slot)) => *slot,
            None => {
                let found = place::longest(view, self.device, share, self.reserved(None));
                let slot = found.map(|(at, until)| Slot {
                    at,
                    from: view.now(),
                    until,
                });
                free.longest.push((share, slot));
                slot
            }
        };
        let behind = free.behind.iter();
        let behind = behind.filter(|(known, _)| *known == share);
        let mut slots = longest.into_iter().chain(behind.map(|(_, slot)| *slot));
        slots.find(fits)
    }
}
