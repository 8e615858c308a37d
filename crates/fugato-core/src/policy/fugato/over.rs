//! Who runs over whom, on a device that suspends a leg for one on an urgent lane.
//!
//! One due earlier goes over one due later, as under preemptive earliest deadline first. On several
//! slices that is not enough: who is suspended keeps its slices, so it loses time though others, due
//! later still, run on beside it. So a task gives way only where it has as long as the run to spare
//! once more after it, and, to one that would be in time after it too, where it has more time to spare
//! than that; and of several that would, those with the most. Where a task is late anyway, nothing is
//! lost.
//!
//! Without these bounds long models pay for short ones: 6 % of the load that is held on two cores
//! where batching pays, simulated by 24 seeds.

use super::Fugato;
use super::claims::{Claim, Who};
use crate::device::AtomSet;
use crate::id::DeviceId;
use crate::policy::Verdict;
use crate::sched::{Running, View};
use crate::time::{Nanos, Timestamp};
use std::cmp::Reverse;

/// The part of its time to spare that a task waits for the end of a leg that runs, or a head for
/// that of a task. To suspend a leg costs it no more than the run that it is suspended for, but what
/// it had in the caches of its core; to wait costs the one that waits, and those that come behind
/// it, what they would need when the next surprise comes.
pub(super) const PATIENCE: (u64, u64) = (1, 4);

/// Runs of the one that goes over it that a task has time to spare for: this one, and as long again
/// for what comes after it.
const RUNS: u64 = 2;

/// One that would go over others.
#[derive(Clone, Copy, Debug)]
struct Over {
    due: Timestamp,
    /// What it takes.
    run: Nanos,
    /// What it has left after that.
    spare: Nanos,
    /// Whether it is late if it waits for what runs.
    cannot_wait: bool,
}

/// A leg that runs, and the time to spare of its task; `None` where that is late.
type Below = (Running, Option<Nanos>);

impl Fugato {
    /// Whether anything runs that somebody could run over.
    pub(super) fn may_overtake(&self, view: &View<'_>, device: DeviceId) -> bool {
        self.parts.niceness && view.has_urgent(device) && view.running(device).next().is_some()
    }

    /// Starts, or goes on with, the first who cannot wait for the end of what runs, over it.
    pub(super) fn overtaken(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claims: &[Claim],
    ) -> Option<Verdict> {
        let running: Vec<Below> = view
            .running(device)
            .map(|leg| (leg, self.spare_of(view, &leg, claims)))
            .collect();
        let mut claims = claims.iter();
        claims.find_map(|claim| self.overtakes(view, device, claim, &running))
    }

    /// For how long a task that runs may be suspended before it is late; `None` where it is late
    /// already. One that need not end by any time has all there is, and one of which nothing is
    /// known is taken to end at once.
    fn spare_of(&self, view: &View<'_>, leg: &Running, claims: &[Claim]) -> Option<Nanos> {
        let Some(due) = view.head_deadline(leg.task) else {
            return Some(Nanos::MAX);
        };
        let is_its = |claim: &&Claim| claim.running() == Some(leg.task);
        let end = claims
            .iter()
            .find(is_its)
            .and_then(|claim| self.ends(claim));
        let end = end.or(leg.ends).unwrap_or(view.now());
        (end <= due).then(|| due - end)
    }

    fn overtakes(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claim: &Claim,
        running: &[Below],
    ) -> Option<Verdict> {
        let due = claim.due.filter(|_| claim.running().is_none())?;
        let table = self.tables.get(claim.table);
        let slack: Nanos = due - view.now();
        let place = table.enough(claim.leg, slack)?;
        let (share, run) = (table.share(place), table.rest(place, claim.leg));
        let (_, free) = view.falls_free(device, share)?;
        let spare = slack.saturating_sub(run);
        let (part, whole) = PATIENCE;
        let waits = free > view.now() && free - view.now() <= spare.scaled(part, whole);
        if waits {
            // That it ends is an event; that it does not, is none.
            let late = free + Nanos::new(1);
            self.overdue = Some(self.overdue.map_or(late, |known| known.min(late)));
            return None;
        }
        let over = Over {
            due,
            run,
            spare,
            cannot_wait: free - view.now() > spare,
        };
        let give_way = running.iter().filter(|below| gives_way(view, below, over));
        let mut give_way: Vec<Below> = give_way.copied().collect();
        give_way.sort_by_key(|&(_, spare)| Reverse(spare));
        // Over as few as will do of those that lose the least by it; what is free is shared out.
        let at = (1..=give_way.len()).find_map(|most| {
            let may_be_suspended =
                |leg: &Running| give_way[..most].iter().any(|(other, _)| other.at == leg.at);
            view.place_over(device, share, |atoms: AtomSet| {
                let legs = running.iter().map(|(leg, _)| leg);
                let mut below = legs.filter(|leg| leg.atoms.overlaps(atoms)).peekable();
                below.peek().is_some() && below.all(may_be_suspended)
            })
        })?;
        Some(match claim.who {
            Who::Head(head) => {
                self.count(view, device, head.model);
                Verdict::Launch {
                    model: head.model,
                    class: head.class,
                    batch: claim.batch,
                    at,
                }
            }
            Who::Running(begun) | Who::Between(begun) => Verdict::Continue {
                task: begun.task,
                at,
            },
        })
    }
}

/// Whether a leg that runs may be suspended for one that goes over it.
fn gives_way(view: &View<'_>, &(leg, spare): &Below, over: Over) -> bool {
    let due = view.head_deadline(leg.task);
    let is_later = due.is_none_or(|due| due > over.due);
    match spare {
        Some(spare) => {
            let has_more = over.cannot_wait || spare > over.spare;
            is_later && has_more && spare >= over.run.times(RUNS)
        }
        None => is_later || leg.ends.is_some_and(|ends| Some(ends) > due),
    }
}
