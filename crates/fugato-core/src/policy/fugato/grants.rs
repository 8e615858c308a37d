//! Who gets how many of the free slices.

use super::Fugato;
use super::claims::{Claim, Who};
use super::table::{Place, TableId};
use crate::id::{BatchSize, DeviceId, Share};
use crate::policy::Verdict;
use crate::sched::{LaneRef, ReadyHead, View};
use crate::time::{Nanos, Timestamp};

/// What somebody gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    who: Who,
    batch: BatchSize,
    /// Of that batch.
    table: TableId,
    leg: u16,
    share: Share,
    most: Share,
}

/// Slices that a more urgent one takes as soon as it can.
#[derive(Clone, Copy, Debug)]
struct Kept {
    slices: u16,
    from: Timestamp,
}

/// Who gets less than it needs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unmet {
    pub(super) anybody: bool,
    /// The place of the first pressed head among them.
    pub(super) pressed: Option<usize>,
}

impl Unmet {
    fn add(&mut self, place: usize, claim: &Claim) {
        self.anybody = true;
        if claim.is_pressed() {
            self.pressed = self.pressed.or(Some(place));
        }
    }
}

impl Grant {
    /// The verdict that gives it; `None` where no partition of free atoms is left for it.
    pub(super) fn verdict(&self, view: &View<'_>, device: DeviceId) -> Option<Verdict> {
        let at = self.place(view, device)?;
        Some(match self.who {
            Who::Running(begun) | Who::Between(begun) => Verdict::Continue {
                task: begun.task,
                at,
            },
            Who::Head(head) => Verdict::Launch {
                model: head.model,
                class: head.class,
                batch: self.batch,
                at,
            },
        })
    }

    /// A lane of the share, or where the free atoms make no such partition, of the next
    /// smaller one that they do.
    fn place(&self, view: &View<'_>, device: DeviceId) -> Option<LaneRef> {
        let shares = view.shares(device).rev();
        let mut shares = shares.filter(|&share| share <= self.share);
        shares.find_map(|share| view.place(device, share))
    }
}

impl Fugato {
    /// Divides the free slices of a device among claims, the most urgent first, and says
    /// who gets less than it needs.
    pub(super) fn grants(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claims: &[Claim],
    ) -> (Vec<Grant>, Unmet) {
        let mut free = view.free(device).count();
        let (mut grants, mut kept) = (Vec::new(), Vec::new());
        let mut unmet = Unmet::default();
        for (place, claim) in claims.iter().enumerate() {
            if let Who::Running(_) = claim.who {
                let slices = claim.need.0.saturating_sub(claim.held.0);
                let from = claim.from;
                kept.push(Kept { slices, from });
                continue;
            }
            if claim.allowed == Share(0) {
                // It waits for others that leave room, and may take what they have at a boundary.
                unmet.add(place, claim);
                continue;
            }
            if free == 0 {
                // Nothing is left to be given, or to be kept.
                unmet.add(place, claim);
                continue;
            }
            match self.fits(view, device, claim, free, &kept) {
                Some(grant) => {
                    if grant.share < claim.need {
                        unmet.add(place, claim);
                    }
                    free -= grant.share.0;
                    grants.push(grant);
                }
                None => {
                    unmet.add(place, claim);
                    let (slices, ends) = (claim.need.0, view.falls_free(device, claim.need));
                    let from = ends.map_or(view.now(), |(_, end)| end);
                    kept.push(Kept { slices, from });
                }
            }
        }
        if self.parts.widen {
            let kept = kept.iter().map(|kept| kept.slices);
            let kept = kept.fold(0, u16::saturating_add);
            self.widen(&mut grants, free.saturating_sub(kept));
        }
        (grants, unmet)
    }

    /// The batch and the share that a claim gets out of the free slices; `None` where it
    /// waits for more.
    fn fits(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        claim: &Claim,
        free: u16,
        kept: &[Kept],
    ) -> Option<Grant> {
        let grant = |(batch, table), share| Grant {
            who: claim.who,
            batch,
            table,
            leg: claim.leg,
            share,
            most: claim.most,
        };
        let table = self.tables.get(claim.table);
        if !table.is_known() {
            let batch = match claim.who {
                // The first request alone, to learn of it.
                Who::Head(head) => view.items(head.key.request()),
                Who::Running(_) | Who::Between(_) => claim.batch,
            };
            if claim.need.0 > free {
                return None;
            }
            let table = self.tables.find(view, device, claim.model, batch);
            return Some(grant((batch, table), claim.need));
        }
        let wanted = table.within(claim.need.0)?;
        let ends = view.now() + table.leg(wanted, claim.leg);
        let over = kept.iter().filter(|kept| ends > kept.from);
        let over = over.map(|kept| kept.slices).fold(0, u16::saturating_add);
        let room = free.saturating_sub(over);
        let place = table.within(room.min(claim.need.0))?;
        match claim.who {
            Who::Head(head) if room < claim.need.0 => {
                let (batch, table, place) = self.smaller(view, device, (claim, head), place)?;
                let share = self.cut(claim, table, place);
                Some(grant((batch, table), share))
            }
            Who::Head(_) | Who::Running(_) | Who::Between(_) => {
                let share = self.cut(claim, claim.table, place);
                Some(grant((claim.batch, claim.table), share))
            }
        }
    }

    /// The share of a place, or the knee of the leg where legs have shares of their own.
    fn cut(&self, claim: &Claim, table: TableId, place: Place) -> Share {
        let table = self.tables.get(table);
        table.share(match self.parts.leg_shares {
            true => table.knee_of_leg(place, claim.leg),
            false => place,
        })
    }

    /// The largest batch that ends in time in a share up to `most`, with its table and share.
    /// None where it is less than half of what waits and that could be in time in a larger share:
    /// then that is worth waiting for.
    fn smaller(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        (claim, head): (&Claim, ReadyHead),
        most: Place,
    ) -> Option<(BatchSize, TableId, Place)> {
        let slack: Nanos = claim.due? - view.now();
        let mut in_time = |items: u32| {
            let batch = BatchSize(items);
            let table = self.tables.find(view, device, claim.model, batch);
            let place = self.tables.get(table).enough(0, slack)?;
            Some((batch, table, place))
        };
        let all = in_time(claim.batch.0);
        let mut best = None;
        let (mut good, mut late) = (0, claim.batch.0);
        let mut tried = view.items(head.key.request()).0;
        while tried < late {
            match in_time(tried).filter(|&(.., place)| place <= most) {
                Some(found) => (good, best) = (tried, Some(found)),
                None => late = tried,
            }
            if good == 0 || late - good <= 1 {
                break;
            }
            tried = good + (late - good) / 2;
        }
        best.filter(|_| all.is_none() || 2 * good >= claim.batch.0)
    }

    /// Hands out what is left, step by step to whoever saves the largest part of its time by
    /// a slice.
    ///
    /// # Cost
    /// The shares of the device times the grants.
    fn widen(&self, grants: &mut [Grant], left: u16) {
        let mut left = left;
        loop {
            let steps = grants.iter().enumerate().filter_map(|(index, grant)| {
                let (gain, share) = self.step(grant, left)?;
                Some((gain, index, share))
            });
            let best = steps.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            let Some((_, index, share)) = best else {
                return;
            };
            left -= share.0 - grants[index].share.0;
            grants[index].share = share;
        }
    }

    /// What a grant gains by the next larger share, in parts of its time per slice.
    fn step(&self, grant: &Grant, left: u16) -> Option<(f64, Share)> {
        let table = self.tables.get(grant.table);
        if !table.is_known() {
            return None;
        }
        let place = table.within(grant.share.0)?;
        let share = (place < table.widest()).then(|| table.share(place + 1))?;
        let more = share.0 - grant.share.0;
        if share > grant.most || more > left {
            return None;
        }
        let slow = table.rest(place, grant.leg).as_secs_f64();
        let fast = table.rest(place + 1, grant.leg).as_secs_f64();
        let gain = (slow - fast) / slow / f64::from(more);
        (gain > 0.0).then_some((gain, share))
    }
}
