//! Who runs over whom, on a device that suspends a leg for one on an urgent lane.
//!
//! One due earlier goes over one due later, as under preemptive earliest deadline first. On several
//! slices that is not enough: who is suspended keeps its slices, so it loses time though others, due
//! later still, run on beside it. So a task gives way only where it has as long as the run to spare
//! once more after it, and, to one that could wait and be in time, where it has more time to spare
//! than that; and of several that would, those with the most. Where a task is late whatever is done,
//! nothing is lost; but where others of its model wait for its slot, it goes to its boundary first.
//!
//! Without these bounds long models pay for short ones: together with the smallest of equal
//! batches ([`pair`](super::pair)) they are worth 10 % of the load that is held on two cores where
//! batching pays and 5 % on six models, simulated by 24 seeds.

use super::Fugato;
use super::claims::{Claim, Who};
use crate::device::AtomSet;
use crate::id::DeviceId;
use crate::policy::Verdict;
use crate::sched::{Running, View};
use crate::time::{Nanos, Timestamp};
use std::cmp::Reverse;

/// The part of its time to spare that one waits for the end of a leg that runs, where its own run
/// keeps nobody waiting for long. To suspend a leg costs it no more than the run that it is suspended
/// for, but what it had in the caches of its core; to wait costs the one that waits, and those that
/// come behind it, what they would need when the next surprise comes. With a quarter no more is
/// held, simulated by 24 seeds while it was made, and real latencies have a longer tail (the tries
/// of bench/runs/2026-11-23-x86_64-2cpu-urgent-6).
const PATIENCE: (u64, u64) = (1, 32);

/// The part that others wait. Nobody goes over a leg that has gone over another, so who goes over
/// one early may make somebody late.
const PATIENCE_OF_LONG: (u64, u64) = (1, 4);

/// An objective of less than this many runs makes a run long.
const SHORT: u64 = 2;

/// Runs of the one that goes over it that a task has time to spare for: this one, and as long again
/// for what comes after it.
const RUNS: u64 = 2;

/// The policy is not asked again sooner than that for what one has to spare: of a leg that has not
/// begun it is reckoned anew each time.
const SOONEST: Nanos = Nanos::from_micros(100);

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

/// A leg that runs.
#[derive(Clone, Copy, Debug)]
struct Below {
    leg: Running,
    /// The first deadline of its task that is kept, or the first of all; `None` where nothing need end
    /// by any time.
    due: Option<Timestamp>,
    spare: Spare,
}

/// For how long a task may be suspended before it is late. Smaller loses less by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Spare {
    /// All that is waited for is late, whatever is done.
    Late,
    /// So long; nothing where that is uncertain.
    Time(Reverse<Nanos>),
}

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
        let running: Vec<Running> = view.running(device).collect();
        let running = running.into_iter();
        let running: Vec<Below> = running.map(|leg| self.below(view, device, leg)).collect();
        let mut claims = claims.iter();
        claims.find_map(|claim| self.overtakes(view, device, claim, &running))
    }

    /// For how long the task of a leg that runs may be suspended. One whose first requests are late is
    /// served for the others; one that need not end by any time has all there is.
    fn below(&mut self, view: &View<'_>, device: DeviceId, leg: Running) -> Below {
        let Some(first) = view.head_deadline(leg.task) else {
            let spare = Spare::Time(Reverse(Nanos::MAX));
            return Below {
                leg,
                due: None,
                spare,
            };
        };
        let last = view.last_deadline(leg.task).unwrap_or(Timestamp::MAX);
        let end = self.end_of(view, device, &leg);
        let kept = end.and_then(|end| view.deadline_from(leg.task, end));
        let time = kept.zip(end).map_or(Nanos::ZERO, |(due, end)| due - end);
        let spare = match leg.ends {
            Some(ends) if ends > last => Spare::Late,
            _ => Spare::Time(Reverse(time)),
        };
        let due = Some(kept.unwrap_or(first));
        Below { leg, due, spare }
    }

    /// When the task of a leg that runs ends in the share that it has; `None` where nobody knows.
    fn end_of(&mut self, view: &View<'_>, device: DeviceId, leg: &Running) -> Option<Timestamp> {
        let (ends, next) = (leg.ends?, leg.leg.0 + 1);
        if next >= view.legs(leg.model) {
            return Some(ends);
        }
        let table = self.tables.of(view, device, leg.model, leg.batch);
        let place = table.within(view.share_of(leg.at).0)?;
        table.is_known().then(|| ends + table.rest(place, next))
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
        if view.place(device, share).is_some() {
            // It is kept for somebody who goes before this one.
            return None;
        }
        let (_, free) = view.falls_free(device, share)?;
        let spare = slack.saturating_sub(run);
        let is_long = |shortest| run.times(SHORT) > shortest;
        let (part, whole) = match view.shortest_beside(claim.model).is_some_and(is_long) {
            true => PATIENCE_OF_LONG,
            false => PATIENCE,
        };
        let wait = free - view.now();
        if free > view.now() && wait <= spare.scaled(part, whole) {
            self.look_again(free);
            return None;
        }
        let over = Over {
            due,
            run,
            spare,
            // Nobody knows how long, where it should have been free by now; and one that is begun goes on.
            cannot_wait: wait > spare || free <= view.now() || matches!(claim.who, Who::Between(_)),
        };
        let give_way = running.iter().filter(|below| gives_way(view, below, over));
        let mut give_way: Vec<Below> = give_way.copied().collect();
        give_way.sort_by_key(|below| below.spare);
        // Over as few as will do of those that lose the least by it.
        let at = (1..=give_way.len()).find_map(|most| {
            let may_be_suspended =
                |leg: &Running| give_way[..most].iter().any(|below| below.leg.at == leg.at);
            view.place_over(device, share, |atoms: AtomSet| {
                let legs = running.iter().map(|below| &below.leg);
                let mut below = legs.filter(|leg| leg.atoms.overlaps(atoms));
                below.all(may_be_suspended)
            })
        });
        let Some(at) = at else {
            self.look_again_for(view, over, free, running);
            return None;
        };
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

    /// Has the policy asked again when others may give way to one that nobody gives way to now.
    fn look_again_for(&mut self, view: &View<'_>, over: Over, free: Timestamp, running: &[Below]) {
        let now = view.now();
        if free > now {
            // What it waits for may not end.
            self.look_again(free);
        }
        for below in running {
            let overruns = below.leg.ends.is_none_or(|ends| ends <= now);
            match below.spare {
                // Late once that is past.
                Spare::Time(_) if overruns => {
                    let last = view.last_deadline(below.leg.task);
                    if let Some(last) = last.filter(|&last| last > now) {
                        self.look_again(last);
                    }
                }
                // It comes to have less time to spare than that.
                Spare::Time(Reverse(spare)) if !over.cannot_wait && spare < over.spare => {
                    let less = over.spare.saturating_sub(spare).max(SOONEST);
                    self.look_again(now + less);
                }
                Spare::Time(_) | Spare::Late => {}
            }
        }
    }

    /// Has the policy asked again right after a time that is no event: that something ends is one, that
    /// it does not is none.
    fn look_again(&mut self, time: Timestamp) {
        let after = time + Nanos::new(1);
        self.overdue = Some(self.overdue.map_or(after, |known| known.min(after)));
    }
}

/// Whether a leg that runs may be suspended for one that goes over it.
fn gives_way(view: &View<'_>, below: &Below, over: Over) -> bool {
    match below.spare {
        Spare::Time(Reverse(spare)) => {
            let is_later = below.due.is_none_or(|due| due > over.due);
            let has_more = over.cannot_wait || spare > over.spare;
            is_later && has_more && spare >= over.run.times(RUNS)
        }
        // Until its boundary, where it is given up, it may keep others of its model waiting.
        Spare::Late => {
            let model = below.leg.model;
            let holds_up = view.waits(model) && view.free_slots(model) == 0;
            over.cannot_wait || !holds_up
        }
    }
}
