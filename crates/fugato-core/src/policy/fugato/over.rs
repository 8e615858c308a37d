//! Who runs over whom, on a device that suspends a leg for one on an urgent lane.

use super::Fugato;
use super::claims::{Claim, Who};
use crate::device::AtomSet;
use crate::id::DeviceId;
use crate::policy::Verdict;
use crate::sched::{Running, View};
use crate::time::{Nanos, Timestamp};

/// The part of its time to spare that a task waits for the end of a leg that runs, or a head for
/// that of a task. To suspend a leg costs it no more than the run that it is suspended for, but what
/// it had in the caches of its core; to wait costs the one that waits, and those that come behind
/// it, what they would need when the next surprise comes.
pub(super) const PATIENCE: (u64, u64) = (1, 4);

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
        let mut claims = claims.iter();
        claims.find_map(|claim| self.overtakes(view, device, claim, &running))
    }

    fn overtakes(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claim: &Claim,
        running: &[Running],
    ) -> Option<Verdict> {
        let due = claim
            .due
            .filter(|_| !matches!(claim.who, Who::Running(_)))?;
        let table = self.tables.get(claim.table);
        let slack: Nanos = due - view.now();
        let place = table.enough(claim.leg, slack)?;
        let (share, run) = (table.share(place), table.rest(place, claim.leg));
        let (_, free) = view.falls_free(device, share)?;
        let (part, whole) = PATIENCE;
        let waits =
            free > view.now() && free - view.now() <= slack.saturating_sub(run).scaled(part, whole);
        if waits {
            // That it ends is an event; that it does not, is none.
            let late = free + Nanos::new(1);
            self.overdue = Some(self.overdue.map_or(late, |known| known.min(late)));
            return None;
        }
        let may_cover = |atoms: AtomSet| {
            let mut below = running.iter().filter(|leg| leg.atoms.overlaps(atoms));
            below.all(|leg| is_due_after(view, leg, due))
        };
        let at = view.place_over(device, share, may_cover)?;
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

/// Whether a leg that runs loses nothing by being suspended for what is due earlier: it is due
/// later, or never, or late anyway.
fn is_due_after(view: &View<'_>, leg: &Running, due: Timestamp) -> bool {
    let own = view.head_deadline(leg.task);
    own.is_none_or(|own| own > due || leg.ends.is_some_and(|ends| ends > own))
}
