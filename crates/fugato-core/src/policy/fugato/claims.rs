//! Who asks for slices at a boundary, in which order, and how many each needs to be in time.
//!
//! Tasks that are begun go before heads of queues: what they hold is paid for, and ends. But a head that
//! would lose a quarter of its time to spare by waiting for the first of them to end is **pressed**
//! (those on their last leg are not looked at). It goes
//! before tasks with more time to spare that are in time in the share they have even after its run: at a
//! boundary between two of their legs it takes what they had. Others would need a larger share
//! afterwards, which costs more than it gives: on seven models and 80 slices, four tasks of each in
//! flight, 3 to 8 % of the load. A task without a deadline is as if due when its queue takes it to be, so
//! that heads do not pass it for ever.

use super::Fugato;
use super::room::ALL;
use super::table::TableId;
use crate::id::{BatchSize, DeviceId, ModelId, Share, TaskId};
use crate::sched::{Begun, ReadyHead, View};
use crate::time::{Nanos, Timestamp};

/// The part of its time to spare that a head waits for the first of the tasks with legs left to end.
const PATIENCE: (u64, u64) = (1, 4);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    /// A task of which a leg runs: it asks for what its next leg needs.
    Running(Begun),
    /// A task between two legs.
    Between(Begun),
    /// The first request of a model that could start.
    Head(ReadyHead),
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) who: Who,
    pub(super) model: ModelId,
    pub(super) batch: BatchSize,
    /// Of that batch.
    pub(super) table: TableId,
    /// The leg that comes next.
    pub(super) leg: u16,
    /// By when the first request is due; `None` where deadlines are not enforced, or it has
    /// none.
    pub(super) due: Option<Timestamp>,
    /// By when it goes in the order of claims: when it is due, or what its queue takes for that of a task
    /// without a deadline.
    served: Timestamp,
    /// The smallest share in which that is kept, and the usual one where none does: as far as it is
    /// allowed, and of a head that is allowed nothing as far as it ever may be.
    pub(super) need: Share,
    /// The share above which the next leg gains nothing.
    pub(super) most: Share,
    /// What its running leg holds.
    pub(super) held: Share,
    /// The most that it may have; see [`room`](super::room).
    pub(super) allowed: Share,
    /// When it can take slices: at the end of its running leg.
    pub(super) from: Timestamp,
    urgency: Urgency,
}

/// Smaller goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Urgency {
    class: Class,
    /// The last moment at which its best share keeps the deadline.
    latest: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Begun,
    /// Heads that cannot wait for tasks, and the tasks that can wait for them.
    Pressed,
    Head,
    Late,
}

impl Claim {
    /// Whether it is that of a head that goes before tasks that are begun.
    pub(super) fn is_pressed(&self) -> bool {
        matches!(self.who, Who::Head(_)) && self.urgency.class == Class::Pressed
    }

    /// The task whose leg runs, if it is that of one.
    pub(super) fn running(&self) -> Option<TaskId> {
        match self.who {
            Who::Running(begun) => Some(begun.task),
            Who::Between(_) | Who::Head(_) => None,
        }
    }
}

impl Fugato {
    /// Everybody who asks for slices of a device, the most urgent first.
    pub(super) fn claims(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        heads: &[ReadyHead],
    ) -> Vec<Claim> {
        let mut claims = Vec::with_capacity(2 * heads.len());
        let begun = view.begun(device);
        claims.extend(begun.map(|begun| self.of_task(view, device, begun)));
        let owed = self.owed(view, device);
        let heads = heads.iter().copied();
        let heads = heads.filter(|head| owed.is_none_or(|model| model == head.model));
        claims.extend(heads.map(|head| self.of_head(view, device, head)));
        if self.parts.preempt {
            self.press(view, &mut claims);
        }
        // In the order of ids, and of deadlines, where equally urgent.
        claims.sort_by_key(|claim| claim.urgency);
        claims
    }

    /// Puts heads that cannot wait for the first task with legs left to end among the tasks that can
    /// wait for them.
    fn press(&self, view: &View<'_>, claims: &mut [Claim]) {
        let ends = claims.iter().filter_map(|claim| self.ends(claim));
        let Some(end) = ends.min() else {
            return;
        };
        let wait = end - view.now();
        let (part, whole) = PATIENCE;
        let mut pressed = Vec::new();
        for claim in claims.iter_mut() {
            let Urgency { class, latest } = claim.urgency;
            if class == Class::Head && wait > (latest - view.now()).scaled(part, whole) {
                claim.urgency.class = Class::Pressed;
                pressed.extend(self.run(claim, claim.need).map(|run| (latest, run)));
            }
        }
        if pressed.is_empty() {
            return;
        }
        pressed.sort_unstable();
        for claim in claims {
            let Urgency { class, latest } = claim.urgency;
            let Some(end) = self.ends(claim).filter(|_| class == Class::Begun) else {
                continue;
            };
            // Before the first that it cannot wait for: equal keys stay in the order they are in,
            // which is tasks before heads.
            let spare = claim.served - end;
            let mut earlier = pressed.iter().take_while(|(other, _)| *other < latest);
            let barred = earlier.find(|&&(_, run)| run > spare);
            claim.urgency = Urgency {
                class: Class::Pressed,
                latest: barred.map_or(latest, |&(other, _)| other),
            };
        }
    }

    /// When a task that is begun ends in the share that it holds, or else needs; `None` of a head,
    /// and where nothing is known.
    pub(super) fn ends(&self, claim: &Claim) -> Option<Timestamp> {
        let share = match claim.who {
            Who::Running(_) => claim.held,
            Who::Between(_) => claim.need,
            Who::Head(_) => return None,
        };
        Some(claim.from + self.run(claim, share)?)
    }

    /// What is left of a task, or all of a head's, takes in a share; `None` where nothing is known.
    fn run(&self, claim: &Claim, share: Share) -> Option<Nanos> {
        let table = self.tables.get(claim.table);
        let place = table.within(share.0).filter(|_| table.is_known())?;
        Some(table.rest(place, claim.leg))
    }

    fn of_task(&mut self, view: &View<'_>, device: DeviceId, begun: Begun) -> Claim {
        let (who, held, from) = if begun.runs {
            let ends = view.free_at(begun.at);
            (Who::Running(begun), view.share_of(begun.at), ends)
        } else {
            (Who::Between(begun), Share(0), view.now())
        };
        let table = self.tables.find(view, device, begun.model, begun.batch);
        let task = (begun.model, begun.batch, begun.leg.0 + 1);
        let due = view.head_deadline(begun.task);
        let mut claim = blank(who, task, table, (due, from));
        claim.served = view.head_order(begun.task).unwrap_or(Timestamp::MAX);
        let last = view.last_deadline(begun.task);
        self.sized(view, device, Claim { held, ..claim }, last)
    }

    fn of_head(&mut self, view: &View<'_>, device: DeviceId, head: ReadyHead) -> Claim {
        let most = self.most(view, device, head.model);
        let batch = view.batch_available(head.model, head.class, most);
        let due = view.enforced_deadline(head.key.request());
        let table = self.tables.find(view, device, head.model, batch);
        let task = (head.model, batch, 0);
        let claim = blank(Who::Head(head), task, table, (due, view.now()));
        self.sized(view, device, claim, None)
    }

    /// The claim with what it needs, what it can use and how urgent it is. Where the first
    /// request is late and the `last` is not, it is served for that one, after all others.
    fn sized(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claim: Claim,
        last: Option<Timestamp>,
    ) -> Claim {
        let sizing = self.sizes.get(device, claim.model);
        let usual = sizing.map_or_else(|| view.slices(device), |sizing| sizing.share);
        let leg_shares = self.parts.leg_shares;
        let limit = self.limit(view, device, claim.model);
        let allowed = self.allowed(view, device, &claim, limit);
        let table = self.tables.get(claim.table);
        let Some(fastest) = table.fastest_within(limit, claim.leg) else {
            // Nothing is known of it.
            let class = match claim.who {
                Who::Running(_) | Who::Between(_) => Class::Begun,
                Who::Head(_) => Class::Head,
            };
            return Claim {
                need: usual.min(allowed),
                most: usual.min(allowed),
                allowed,
                urgency: Urgency {
                    class,
                    latest: claim.served,
                },
                ..claim
            };
        };
        let allowed = table.within(allowed.0);
        let allowed = allowed.map_or(Share(0), |place| table.share(place));
        let enough = |due: Option<Timestamp>| {
            let place = table.enough(claim.leg, due? - claim.from)?;
            (table.share(place) <= limit).then_some(place)
        };
        let first = enough(claim.due);
        let need = first.or_else(|| enough(last));
        let need = need.map_or(usual, |place| table.share(place));
        let most = match leg_shares {
            true => table.knee_of_leg(table.widest(), claim.leg),
            false => table.knee_of_rest(claim.leg),
        };
        let quick = table.rest(fastest, claim.leg);
        let class = match claim.who {
            _ if claim.due.is_some() && first.is_none() => Class::Late,
            Who::Running(_) | Who::Between(_) => Class::Begun,
            Who::Head(_) => Class::Head,
        };
        let may = match (claim.who, allowed) {
            // If those that it waits for held nothing.
            (Who::Head(_), Share(0)) => limit,
            _ => allowed,
        };
        Claim {
            need: need.min(may),
            most: table.share(most).min(allowed),
            allowed,
            urgency: Urgency {
                class,
                latest: claim.served.before(quick),
            },
            ..claim
        }
    }
}

fn blank(
    who: Who,
    (model, batch, leg): (ModelId, BatchSize, u16),
    table: TableId,
    (due, from): (Option<Timestamp>, Timestamp),
) -> Claim {
    let served = due.unwrap_or(Timestamp::MAX);
    Claim {
        who,
        model,
        batch,
        table,
        leg,
        due,
        served,
        need: Share(0),
        most: Share(0),
        held: Share(0),
        allowed: ALL,
        from,
        urgency: Urgency {
            class: Class::Head,
            latest: served,
        },
    }
}
