//! Legs onto lanes and off them: what a lane can take, and what it holds.

use super::{DeviceLedger, LaneLeg, LaneRef, Ledger, Offer};
use crate::device::{AtomSet, LaneClass};
use crate::id::{LegIndex, TaskId};
use crate::policy::CapacityRule;
use crate::time::{Nanos, Timestamp};

impl DeviceLedger {
    /// The atoms that keep a free lane from a leg.
    fn barred(&self, at: LaneRef, rule: CapacityRule) -> AtomSet {
        match (rule, self.class(at.partition, at.lane)) {
            (CapacityRule::Layered, LaneClass::Urgent) => self.urgent,
            (CapacityRule::Layered | CapacityRule::Exclusive, _) => self.held,
            (CapacityRule::Oversubscribed { .. }, _) => AtomSet::EMPTY,
        }
    }
}

impl Ledger {
    /// What the lane can take under `rule`, if legs may be committed `lead` ahead.
    pub(in crate::sched) fn offer(
        &self,
        at: LaneRef,
        rule: CapacityRule,
        now: Timestamp,
        lead: Nanos,
    ) -> Offer {
        let device = self.device(at.device);
        let lane = device.lane(at);
        let Some(front) = &lane.front else {
            let free = match rule {
                CapacityRule::Exclusive | CapacityRule::Layered => {
                    let barred = device.barred(at, rule);
                    !barred.overlaps(device.atoms(at.partition))
                }
                CapacityRule::Oversubscribed { lanes } => {
                    device.occupied.len() < usize::from(lanes)
                }
            };
            return if free { Offer::Now } else { Offer::Closed };
        };
        if !self.may_follow(at, rule) {
            return Offer::Closed;
        }
        match (lane.next, front.started, front.predicted) {
            (None, Some(started), Some(predicted)) if now + lead >= started + predicted => {
                Offer::After((started + predicted).max(now))
            }
            _ => Offer::Closed,
        }
    }

    /// When the lane's last leg should end: `now` where it is free, `None` where nothing
    /// is known.
    pub(in crate::sched) fn free_at(&self, at: LaneRef, now: Timestamp) -> Option<Timestamp> {
        let lane = self.lane(at);
        let Some(front) = &lane.front else {
            return Some(now);
        };
        let end = (front.started.unwrap_or(now) + front.predicted?).max(now);
        match &lane.next {
            None => Some(end),
            Some(next) => Some(end + next.predicted?),
        }
    }

    /// Puts a leg on a lane.
    ///
    /// # Panics
    /// Where `rule` forbids it, or the lane holds two legs: the policy's verdict was
    /// wrong.
    pub(in crate::sched) fn claim(&mut self, at: LaneRef, leg: LaneLeg, rule: CapacityRule) {
        let atoms = self.partition(at).atoms;
        let device = self.device(at.device);
        let lane = self.lane(at);
        if lane.front.is_none() {
            match rule {
                CapacityRule::Exclusive | CapacityRule::Layered => assert!(
                    !device.barred(at, rule).overlaps(atoms),
                    "{leg:?} would share atoms on {at:?}, which the capacity rule forbids"
                ),
                CapacityRule::Oversubscribed { lanes } => assert!(
                    device.occupied.len() < usize::from(lanes),
                    "{leg:?} on {at:?} would be more than {lanes} lanes at once"
                ),
            }
        }
        assert!(
            lane.front.is_none() || self.may_follow(at, rule),
            "{leg:?} would follow on {at:?}, whose atoms another lane uses too"
        );
        assert!(
            lane.next.is_none(),
            "{at:?} holds a running and a committed leg already"
        );
        self.moves += 1;
        let lane = self.lane_mut(at);
        if lane.front.is_none() {
            lane.front = Some(leg);
        } else {
            lane.next = Some(leg);
        }
        if let Some(device) = self.devices.get_mut(&at.device) {
            device.occupy(at);
        }
    }

    /// Notes that the front leg has begun.
    ///
    /// # Panics
    /// Where another leg is in front: the device broke the lane's order.
    pub(in crate::sched) fn started(&mut self, at: LaneRef, task: TaskId, when: Timestamp) {
        let front = self.lane_mut(at).front.as_mut();
        let front = front.filter(|leg| leg.task == task);
        let Some(leg) = front else {
            panic!("{task} started on {at:?}, where it is not in front")
        };
        leg.started = Some(when);
        leg.revoking = false;
    }

    /// Marks a committed leg as being taken back.
    pub(in crate::sched) fn mark_revoking(&mut self, at: LaneRef, task: TaskId, leg: LegIndex) {
        let lane = self.lane_mut(at);
        for known in [&mut lane.front, &mut lane.next].into_iter().flatten() {
            if (known.task, known.leg) == (task, leg) {
                known.revoking = true;
            }
        }
    }

    /// Takes a leg off its lane; what was committed behind it moves up.
    ///
    /// # Panics
    /// Where the lane does not hold the leg.
    pub(in crate::sched) fn release(
        &mut self,
        at: LaneRef,
        task: TaskId,
        leg: LegIndex,
    ) -> LaneLeg {
        let is_it = |known: &Option<LaneLeg>| {
            known.is_some_and(|known| (known.task, known.leg) == (task, leg))
        };
        self.moves += 1;
        let lane = self.lane_mut(at);
        let gone = if is_it(&lane.front) {
            let gone = lane.front.take();
            lane.front = lane.next.take();
            gone
        } else if is_it(&lane.next) {
            lane.next.take()
        } else {
            None
        };
        let empty = lane.front.is_none();
        let Some(gone) = gone else {
            panic!("{leg} of {task} is not on {at:?}")
        };
        if empty && let Some(device) = self.devices.get_mut(&at.device) {
            device.vacate(at);
        }
        gone
    }
}
