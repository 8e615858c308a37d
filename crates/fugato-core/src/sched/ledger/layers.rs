//! Legs over others: what urgent lanes take beside normal ones of the same atoms.

use super::{LaneRef, Ledger};
use crate::device::{AtomSet, LaneClass};
use crate::id::{DeviceId, LaneId, Share, TaskId};
use crate::policy::CapacityRule;
use crate::time::Nanos;

impl Ledger {
    /// Whether a leg may be committed behind the one that runs: not where other lanes have
    /// atoms of the partition, be they left over from a policy that oversubscribed, or those of
    /// an urgent leg, whose end nobody should be promised who is suspended by it.
    pub(super) fn may_follow(&self, at: LaneRef, rule: CapacityRule) -> bool {
        let device = self.device(at.device);
        let own = device.class(at.partition, at.lane);
        let over = match (rule, own) {
            (CapacityRule::Oversubscribed { .. }, _) => return true,
            (CapacityRule::Layered, LaneClass::Urgent) => Some(LaneClass::Urgent),
            (CapacityRule::Layered | CapacityRule::Exclusive, _) => None,
        };
        let atoms = self.partition(at).atoms;
        !device.occupied.iter().any(|other| {
            !other.is_at(at)
                && over.is_none_or(|class| other.class == class)
                && other.atoms.overlaps(atoms)
        })
    }

    /// The urgent lane of a partition of that share which takes a leg, and that covers the
    /// fewest atoms that are held, of those whose atoms `may_cover` allows; the first of equal
    /// ones.
    ///
    /// # Cost
    /// The partitions of the device.
    pub(in crate::sched) fn over(
        &self,
        device: DeviceId,
        share: Share,
        may_cover: impl Fn(AtomSet) -> bool,
    ) -> Option<LaneRef> {
        let ledger = self.devices.get(&device)?;
        let parts = ledger.spec.partitions.iter();
        let open = parts.filter(|part| {
            part.share() == share && !ledger.urgent.overlaps(part.atoms) && may_cover(part.atoms)
        });
        let lanes = open.filter_map(|part| {
            let mut lanes = (0..).zip(&part.lanes);
            let urgent = lanes.find(|&(_, &class)| class == LaneClass::Urgent)?;
            Some((part, LaneId(urgent.0)))
        });
        let best = lanes.min_by_key(|(part, _)| part.atoms.intersection(ledger.held).count());
        best.map(|(part, lane)| LaneRef {
            device,
            partition: part.id,
            lane,
        })
    }

    /// Whether a device has urgent lanes.
    pub(in crate::sched) fn has_urgent(&self, device: DeviceId) -> bool {
        let device = self.devices.get(&device);
        device.is_some_and(|device| device.has_urgent)
    }

    /// Whether a lane is of the normal class.
    pub(in crate::sched) fn is_normal(&self, at: LaneRef) -> bool {
        self.device(at.device).class(at.partition, at.lane) == LaneClass::Normal
    }

    /// The occupied lanes of the other class that have atoms of this lane's partition.
    fn layered(&self, at: LaneRef) -> impl Iterator<Item = LaneRef> {
        let device = self.device(at.device);
        let own = device.class(at.partition, at.lane);
        let atoms = self.partition(at).atoms;
        let occupied = device.occupied.iter();
        let other = occupied.filter(move |other| other.class != own && other.atoms.overlaps(atoms));
        other.map(move |other| other.on(at.device))
    }

    /// Whether legs run on other lanes over a lane's atoms, or under them.
    pub(in crate::sched) fn is_layered(&self, at: LaneRef) -> bool {
        self.layered(at).next().is_some()
    }

    /// The tasks of the legs that run under one on an urgent lane.
    pub(in crate::sched) fn tasks_below(&self, at: LaneRef) -> impl Iterator<Item = TaskId> {
        let below = self.layered(at).filter(|&other| self.is_normal(other));
        below.filter_map(|other| Some(self.front(other)?.task))
    }

    /// Puts off the predicted ends of legs that run under one on an urgent lane, which runs for
    /// `run`.
    pub(in crate::sched) fn suspend_below(&mut self, at: LaneRef, run: Nanos) {
        let below = self.layered(at).filter(|&other| self.is_normal(other));
        let below: Vec<LaneRef> = below.collect();
        for other in below {
            if let Some(front) = &mut self.lane_mut(other).front {
                front.predicted = front.predicted.map(|predicted| predicted + run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LaneLeg;
    use super::*;
    use crate::device::DeviceSpec;
    use crate::id::{LegIndex, PartitionId};
    use crate::sched::ledger::Offer;
    use crate::time::Timestamp;

    const RULE: CapacityRule = CapacityRule::Layered;
    const NORMAL: u16 = 0;
    const URGENT: u16 = 1;

    /// Two slices; the partitions are both, the first and the second.
    fn ledger() -> Ledger {
        let lanes = [LaneClass::Normal, LaneClass::Urgent];
        let mut ledger = Ledger::default();
        let spec = DeviceSpec::nested(DeviceId(0), "test", Share(2), &lanes, &lanes);
        ledger.add(spec);
        ledger
    }

    fn lane(partition: u16, lane: u16) -> LaneRef {
        LaneRef {
            device: DeviceId(0),
            partition: PartitionId(partition),
            lane: LaneId(lane),
        }
    }

    /// Puts a leg of 100 ns on a lane, where it begins at once.
    fn run(ledger: &mut Ledger, at: LaneRef, task: u64) {
        let leg = LaneLeg {
            task: TaskId(task),
            leg: LegIndex(0),
            started: None,
            predicted: Some(Nanos::new(100)),
            revoking: false,
        };
        ledger.claim(at, leg, RULE);
        ledger.started(at, TaskId(task), Timestamp::ZERO);
    }

    fn offer(ledger: &Ledger, at: LaneRef, now: u64) -> Offer {
        let now = Timestamp::ZERO + Nanos::new(now);
        ledger.offer(at, RULE, now, Nanos::new(50))
    }

    #[test]
    fn an_urgent_leg_goes_over_normal_ones_and_no_other_way_round() {
        let mut ledger = ledger();
        run(&mut ledger, lane(1, NORMAL), 1);
        assert_eq!(offer(&ledger, lane(0, NORMAL), 0), Offer::Closed);
        let any = |_| true;
        let over = |ledger: &Ledger, share| ledger.over(DeviceId(0), Share(share), any);
        let free = over(&ledger, 1);
        assert_eq!(free, Some(lane(2, URGENT)), "what is free comes first");
        assert_eq!(over(&ledger, 2), Some(lane(0, URGENT)));
        run(&mut ledger, lane(0, URGENT), 2);
        ledger.audit();
        // All atoms have an urgent leg.
        assert_eq!((over(&ledger, 1), over(&ledger, 2)), (None, None));
        for partition in 0..3 {
            for class in [NORMAL, URGENT] {
                let at = lane(partition, class);
                assert_eq!(offer(&ledger, at, 0), Offer::Closed, "{at:?}");
            }
        }
        // Nobody may follow the one that is suspended; the urgent one may be followed.
        assert_eq!(offer(&ledger, lane(1, NORMAL), 90), Offer::Closed);
        let follows = Offer::After(Timestamp::ZERO + Nanos::new(100));
        assert_eq!(offer(&ledger, lane(0, URGENT), 90), follows);
        ledger.release(lane(1, NORMAL), TaskId(1), LegIndex(0));
        assert_eq!(offer(&ledger, lane(1, NORMAL), 0), Offer::Closed);
        ledger.release(lane(0, URGENT), TaskId(2), LegIndex(0));
        assert_eq!(offer(&ledger, lane(1, NORMAL), 0), Offer::Now);
        ledger.audit();
    }

    #[test]
    fn only_what_may_be_suspended_is_covered() {
        let mut ledger = ledger();
        run(&mut ledger, lane(1, NORMAL), 1);
        run(&mut ledger, lane(2, NORMAL), 2);
        let second = ledger.atoms(lane(2, NORMAL));
        let spares_second = |atoms: AtomSet| !atoms.overlaps(second);
        let found = ledger.over(DeviceId(0), Share(1), spares_second);
        assert_eq!(found, Some(lane(1, URGENT)));
        assert_eq!(ledger.over(DeviceId(0), Share(2), spares_second), None);
    }

    #[test]
    fn a_suspended_leg_ends_later_and_is_no_neighbour() {
        let mut ledger = ledger();
        let (below, above) = (lane(1, NORMAL), lane(1, URGENT));
        run(&mut ledger, below, 1);
        run(&mut ledger, lane(2, NORMAL), 2);
        run(&mut ledger, above, 3);
        ledger.suspend_below(above, Nanos::new(30));
        let end = |at| ledger.free_at(at, Timestamp::ZERO);
        assert_eq!(end(below), Some(Timestamp::ZERO + Nanos::new(130)));
        assert_eq!(
            end(lane(2, NORMAL)),
            Some(Timestamp::ZERO + Nanos::new(100))
        );
        assert_eq!(ledger.neighbours(above), Share(1));
        assert_eq!(ledger.neighbours(below), Share(1));
        assert!(ledger.tasks_below(above).eq([TaskId(1)]));
        assert!(ledger.is_layered(below) && !ledger.is_layered(lane(2, NORMAL)));
    }
}
