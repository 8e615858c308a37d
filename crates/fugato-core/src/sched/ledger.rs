//! Who holds which atoms: the partitions and lanes of every device.
//!
//! **Invariant:** under an exclusive capacity rule, a leg is put on a free lane only if
//! its partition's atoms are disjoint from those of every occupied lane; under a layered one,
//! on a free urgent lane if they are disjoint from those of every occupied urgent lane. A lane
//! holds at most one running leg and one committed behind it.

mod layers;

use super::dense::DenseMap;
use crate::device::{AtomSet, DeviceSpec, LaneClass, PartitionSpec};
use crate::id::{DeviceId, LaneId, LegIndex, PartitionId, Share, TaskId};
use crate::policy::CapacityRule;
use crate::time::{Nanos, Timestamp};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// One lane, named in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LaneRef {
    /// The device.
    pub device: DeviceId,
    /// The partition.
    pub partition: PartitionId,
    /// The lane of the partition.
    pub lane: LaneId,
}

/// A leg on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneLeg {
    /// Its task.
    pub task: TaskId,
    /// The leg.
    pub leg: LegIndex,
    /// When the device reported its start; `None` while it is only committed.
    pub started: Option<Timestamp>,
    /// Predicted run time, where there is any knowledge.
    pub predicted: Option<Nanos>,
    /// Whether it is being taken back.
    pub revoking: bool,
}

/// What a lane can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// A leg that starts at once.
    Now,
    /// A leg committed behind the running one, which should end at this time.
    After(Timestamp),
    /// Nothing.
    Closed,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    front: Option<LaneLeg>,
    next: Option<LaneLeg>,
}

#[derive(Debug)]
struct DeviceLedger {
    spec: DeviceSpec,
    /// Of each partition.
    shares: Vec<Share>,
    lanes: Vec<Vec<Lane>>,
    /// The partitions with a normal lane, by share.
    by_share: BTreeMap<Share, Vec<PartitionId>>,
    occupied: BTreeSet<(PartitionId, LaneId)>,
    held: AtomSet,
    /// What urgent lanes hold of it.
    urgent: AtomSet,
    has_urgent: bool,
}

impl DeviceLedger {
    fn atoms(&self, partition: PartitionId) -> AtomSet {
        self.spec.partitions[usize::from(partition.0)].atoms
    }

    fn class(&self, partition: PartitionId, lane: LaneId) -> LaneClass {
        self.spec.partitions[usize::from(partition.0)].lanes[usize::from(lane.0)]
    }

    /// The atoms that keep a free lane from a leg.
    fn barred(&self, at: LaneRef, rule: CapacityRule) -> AtomSet {
        match (rule, self.class(at.partition, at.lane)) {
            (CapacityRule::Layered, LaneClass::Urgent) => self.urgent,
            (CapacityRule::Layered | CapacityRule::Exclusive, _) => self.held,
            (CapacityRule::Oversubscribed { .. }, _) => AtomSet::EMPTY,
        }
    }

    /// The atoms of the occupied lanes, or of those of one class.
    fn occupied_atoms(&self, class: Option<LaneClass>) -> AtomSet {
        let occupied = self.occupied.iter();
        let occupied = occupied
            .filter(|&&(part, lane)| class.is_none_or(|class| self.class(part, lane) == class));
        occupied.fold(AtomSet::EMPTY, |held, &(part, _)| {
            held.union(self.atoms(part))
        })
    }

    fn lane(&self, at: LaneRef) -> &Lane {
        let lanes = self.lanes.get(usize::from(at.partition.0));
        lanes
            .and_then(|lanes| lanes.get(usize::from(at.lane.0)))
            .unwrap_or_else(|| panic!("no such lane: {at:?}"))
    }
}

/// The ledger of all present devices.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Rises when a leg takes a lane or leaves it.
    pub(super) moves: u64,
    devices: DenseMap<DeviceId, DeviceLedger>,
}

impl Ledger {
    /// # Panics
    /// Where the device is present already, or its description is malformed (the driver
    /// validates it).
    pub(super) fn add(&mut self, spec: DeviceSpec) {
        assert_eq!(
            spec.validate(),
            Ok(()),
            "a malformed device reached the scheduler"
        );
        let lanes = spec
            .partitions
            .iter()
            .map(|part| vec![Lane::default(); part.lanes.len()])
            .collect();
        let mut by_share: BTreeMap<Share, Vec<PartitionId>> = BTreeMap::new();
        for part in &spec.partitions {
            if part.lanes.contains(&LaneClass::Normal) {
                by_share.entry(part.share()).or_default().push(part.id);
            }
        }
        let id = spec.id;
        let mut lanes_of = spec.partitions.iter().flat_map(|part| &part.lanes);
        let device = DeviceLedger {
            has_urgent: lanes_of.any(|&class| class == LaneClass::Urgent),
            shares: spec.partitions.iter().map(PartitionSpec::share).collect(),
            spec,
            lanes,
            by_share,
            occupied: BTreeSet::new(),
            held: AtomSet::EMPTY,
            urgent: AtomSet::EMPTY,
        };
        assert!(
            self.devices.insert(id, device).is_none(),
            "{id} was added twice"
        );
    }

    /// Takes a device out; gives the legs that were on it.
    pub(super) fn remove(&mut self, device: DeviceId) -> Vec<LaneLeg> {
        let lanes = self
            .devices
            .remove(&device)
            .map(|device| device.lanes)
            .unwrap_or_default();
        lanes
            .into_iter()
            .flatten()
            .flat_map(|lane| [lane.front, lane.next])
            .flatten()
            .collect()
    }

    pub(super) fn contains(&self, device: DeviceId) -> bool {
        self.devices.contains_key(&device)
    }

    pub(super) fn specs(&self) -> impl Iterator<Item = &DeviceSpec> {
        self.devices.values().map(|device| &device.spec)
    }

    pub(super) fn spec(&self, device: DeviceId) -> Option<&DeviceSpec> {
        self.devices.get(&device).map(|device| &device.spec)
    }

    fn partition(&self, at: LaneRef) -> &PartitionSpec {
        let device = self.device(at.device);
        device
            .spec
            .partitions
            .get(usize::from(at.partition.0))
            .unwrap_or_else(|| {
                panic!("{} has no {}", at.device, at.partition);
            })
    }

    pub(super) fn share(&self, at: LaneRef) -> Share {
        let shares = &self.device(at.device).shares;
        let share = shares.get(usize::from(at.partition.0));
        *share.unwrap_or_else(|| panic!("{} has no {}", at.device, at.partition))
    }

    /// Slices of the device that other lanes hold. Those of its own partition count where
    /// lanes share it in time, and not where one of the two is suspended.
    ///
    /// # Cost
    /// The occupied lanes of the device.
    pub(super) fn neighbours(&self, at: LaneRef) -> Share {
        let device = self.device(at.device);
        let occupied = device.occupied.iter();
        let class = device.class(at.partition, at.lane);
        let own = device.atoms(at.partition);
        let others = occupied.filter(|&&lane| lane != (at.partition, at.lane));
        let atoms = others.fold(AtomSet::EMPTY, |atoms, &(partition, lane)| {
            let held = device.atoms(partition);
            atoms.union(match device.class(partition, lane) == class {
                true => held,
                false => held.without(own),
            })
        });
        Share(atoms.count())
    }

    /// The first normal lane of the smallest partition of that share, on the first of
    /// these devices that is present.
    pub(super) fn lane_of_share(&self, devices: &[DeviceId], share: Share) -> Option<LaneRef> {
        let &device = devices.iter().find(|&&device| self.contains(device))?;
        let partitions = &self.spec(device)?.partitions;
        let fits = partitions
            .iter()
            .filter(|partition| partition.share() == share);
        fits.flat_map(|partition| self.lanes(device, partition.id))
            .next()
    }

    /// The shares of the partitions with normal lanes, of the first of these devices that
    /// is present.
    pub(super) fn shares(&self, devices: &[DeviceId]) -> impl Iterator<Item = Share> {
        let device = devices.iter().find(|&&device| self.contains(device));
        let spec = device.and_then(|&device| self.spec(device));
        let partitions = spec.map(|spec| spec.partitions.as_slice());
        let partitions = partitions.unwrap_or_default().iter();
        let normal = |part: &&PartitionSpec| part.lanes.contains(&LaneClass::Normal);
        partitions.filter(normal).map(PartitionSpec::share)
    }

    /// The shares of the partitions of a device that have normal lanes, rising.
    pub(super) fn shares_of(&self, device: DeviceId) -> impl Iterator<Item = Share> {
        let device = self.devices.get(&device);
        device
            .into_iter()
            .flat_map(|device| device.by_share.keys().copied())
    }

    /// The atoms that no occupied lane covers.
    pub(super) fn free(&self, device: DeviceId) -> AtomSet {
        self.devices.get(&device).map_or(AtomSet::EMPTY, |device| {
            AtomSet::range(0, device.spec.slices.0).without(device.held)
        })
    }

    /// The first partition of that share with a normal lane and all atoms within `atoms`.
    ///
    /// # Cost
    /// The partitions of that share.
    pub(super) fn fit(
        &self,
        device: DeviceId,
        share: Share,
        atoms: AtomSet,
    ) -> Option<&PartitionSpec> {
        let ledger = self.devices.get(&device)?;
        let parts = ledger.by_share.get(&share)?.iter();
        let mut parts = parts.map(|part| &ledger.spec.partitions[usize::from(part.0)]);
        parts.find(|part| atoms.contains(part.atoms))
    }

    /// The atoms of each partition of that share.
    pub(super) fn atoms_of_share(
        &self,
        device: DeviceId,
        share: Share,
    ) -> impl Iterator<Item = AtomSet> {
        let ledger = self.devices.get(&device);
        let parts = ledger.and_then(|ledger| ledger.by_share.get(&share));
        let partitions = ledger.map_or(&[][..], |ledger| &ledger.spec.partitions);
        let parts = parts.into_iter().flatten();
        parts.map(|part| partitions[usize::from(part.0)].atoms)
    }

    /// A free lane of a partition of that share whose atoms nobody holds, nor any of the
    /// atoms that are `kept`: the one that leaves the free atoms least broken up, the first
    /// of equal ones.
    ///
    /// # Cost
    /// The partitions of that share.
    pub(super) fn place(&self, device: DeviceId, share: Share, kept: AtomSet) -> Option<LaneRef> {
        let ledger = self.devices.get(&device)?;
        let free = self.free(device).without(kept);
        let parts = ledger.by_share.get(&share)?.iter();
        let fits = parts.filter(|part| {
            let atoms = ledger.spec.partitions[usize::from(part.0)].atoms;
            free.contains(atoms)
        });
        let best = fits.min_by_key(|part| {
            let atoms = ledger.spec.partitions[usize::from(part.0)].atoms;
            atoms.neighbours().intersection(free).count()
        })?;
        self.lanes(device, *best).next()
    }

    /// The lane of a partition of that share which takes a leg and whose atoms are covered
    /// by the fewest occupied lanes; the first of equal ones.
    ///
    /// # Cost
    /// The lanes of the partitions of that share, each times the occupied lanes.
    pub(super) fn least_crowded(
        &self,
        device: DeviceId,
        share: Share,
        is_open: impl Fn(LaneRef) -> bool,
    ) -> Option<LaneRef> {
        let ledger = self.devices.get(&device)?;
        let parts = ledger.by_share.get(&share)?.iter();
        let lanes = parts.flat_map(|&part| self.lanes(device, part));
        let open = lanes.filter(|&at| is_open(at));
        open.min_by_key(|&at| {
            let atoms = self.partition(at).atoms;
            let others = ledger.occupied.iter().filter(|(partition, _)| {
                ledger.spec.partitions[usize::from(partition.0)]
                    .atoms
                    .overlaps(atoms)
            });
            others.count()
        })
    }

    pub(super) fn atoms(&self, at: LaneRef) -> AtomSet {
        self.partition(at).atoms
    }

    fn device(&self, device: DeviceId) -> &DeviceLedger {
        self.devices
            .get(&device)
            .unwrap_or_else(|| panic!("{device} is not present"))
    }

    fn lane(&self, at: LaneRef) -> &Lane {
        self.device(at.device).lane(at)
    }

    fn lane_mut(&mut self, at: LaneRef) -> &mut Lane {
        let device = self
            .devices
            .get_mut(&at.device)
            .unwrap_or_else(|| panic!("{} is not present", at.device));
        let lanes = device.lanes.get_mut(usize::from(at.partition.0));
        lanes
            .and_then(|lanes| lanes.get_mut(usize::from(at.lane.0)))
            .unwrap_or_else(|| panic!("no such lane: {at:?}"))
    }

    pub(super) fn front(&self, at: LaneRef) -> Option<&LaneLeg> {
        self.lane(at).front.as_ref()
    }

    pub(super) fn next(&self, at: LaneRef) -> Option<&LaneLeg> {
        self.lane(at).next.as_ref()
    }

    /// What the lane can take under `rule`, if legs may be committed `lead` ahead.
    pub(super) fn offer(
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
    pub(super) fn free_at(&self, at: LaneRef, now: Timestamp) -> Option<Timestamp> {
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

    /// Lanes of the normal class of one partition.
    pub(super) fn lanes(
        &self,
        device: DeviceId,
        partition: PartitionId,
    ) -> impl Iterator<Item = LaneRef> {
        let spec = self
            .spec(device)
            .and_then(|spec| spec.partitions.get(usize::from(partition.0)));
        let lanes = spec.map(|spec| spec.lanes.as_slice()).unwrap_or_default();
        lanes
            .iter()
            .zip(0u16..)
            .filter(|(class, _)| **class == LaneClass::Normal)
            .map(move |(_, index)| LaneRef {
                device,
                partition,
                lane: LaneId(index),
            })
    }

    /// Lanes that hold a leg.
    pub(super) fn occupied(&self) -> impl Iterator<Item = LaneRef> {
        let devices = self.devices.iter();
        devices.flat_map(|(device, _)| self.occupied_on(device))
    }

    /// The legs on each lane that holds one: that in front, and that committed behind it.
    pub(super) fn legs(&self) -> impl Iterator<Item = (&LaneLeg, Option<&LaneLeg>)> {
        let lanes = self.devices.values().flat_map(|device| {
            let occupied = device.occupied.iter();
            occupied.map(|&(part, lane)| &device.lanes[usize::from(part.0)][usize::from(lane.0)])
        });
        lanes.filter_map(|lane| Some((lane.front.as_ref()?, lane.next.as_ref())))
    }

    /// Lanes of a device that hold a leg.
    pub(super) fn occupied_on(&self, device: DeviceId) -> impl Iterator<Item = LaneRef> {
        let ledger = self.devices.get(&device).into_iter();
        let lanes = ledger.flat_map(|ledger| &ledger.occupied);
        lanes.map(move |&(partition, lane)| LaneRef {
            device,
            partition,
            lane,
        })
    }

    /// Puts a leg on a lane.
    ///
    /// # Panics
    /// Where `rule` forbids it, or the lane holds two legs: the policy's verdict was
    /// wrong.
    pub(super) fn claim(&mut self, at: LaneRef, leg: LaneLeg, rule: CapacityRule) {
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
            device.occupied.insert((at.partition, at.lane));
            device.held = device.held.union(atoms);
            if device.class(at.partition, at.lane) == LaneClass::Urgent {
                device.urgent = device.urgent.union(atoms);
            }
        }
    }

    /// Notes that the front leg has begun.
    ///
    /// # Panics
    /// Where another leg is in front: the device broke the lane's order.
    pub(super) fn started(&mut self, at: LaneRef, task: TaskId, when: Timestamp) {
        let front = self.lane_mut(at).front.as_mut();
        let front = front.filter(|leg| leg.task == task);
        let Some(leg) = front else {
            panic!("{task} started on {at:?}, where it is not in front")
        };
        leg.started = Some(when);
        leg.revoking = false;
    }

    /// Marks a committed leg as being taken back.
    pub(super) fn mark_revoking(&mut self, at: LaneRef, task: TaskId, leg: LegIndex) {
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
    pub(super) fn release(&mut self, at: LaneRef, task: TaskId, leg: LegIndex) -> LaneLeg {
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
            device.occupied.remove(&(at.partition, at.lane));
            device.held = device.occupied_atoms(None);
            device.urgent = device.occupied_atoms(Some(LaneClass::Urgent));
        }
        gone
    }

    /// Compares what is noted of each device with its lanes.
    ///
    /// # Panics
    /// Where they differ.
    pub(super) fn audit(&self) {
        for (id, device) in self.devices.iter() {
            let mut held = AtomSet::EMPTY;
            let mut occupied = BTreeSet::new();
            for (part, lanes) in device.spec.partitions.iter().zip(&device.lanes) {
                for (lane, index) in lanes.iter().zip(0..) {
                    assert!(
                        lane.front.is_some() || lane.next.is_none(),
                        "a leg waits on an empty lane of {} of {id}",
                        part.id
                    );
                    if lane.front.is_some() {
                        held = held.union(part.atoms);
                        occupied.insert((part.id, LaneId(index)));
                    }
                }
            }
            assert_eq!(device.occupied, occupied, "occupied lanes of {id}");
            assert_eq!(device.held, held, "held atoms of {id}");
            let urgent = device.occupied_atoms(Some(LaneClass::Urgent));
            assert_eq!(device.urgent, urgent, "urgently held atoms of {id}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        let normal = [LaneClass::Normal, LaneClass::Normal];
        ledger.add(DeviceSpec::nested(
            DeviceId(0),
            "test",
            Share(2),
            &normal,
            &normal[..1],
        ));
        ledger
    }

    fn lane(partition: u16, lane: u16) -> LaneRef {
        LaneRef {
            device: DeviceId(0),
            partition: PartitionId(partition),
            lane: LaneId(lane),
        }
    }

    fn leg(task: u64) -> LaneLeg {
        LaneLeg {
            task: TaskId(task),
            leg: LegIndex(0),
            started: None,
            predicted: Some(Nanos::new(100)),
            revoking: false,
        }
    }

    const NOW: Timestamp = Timestamp::from_nanos(1_000);

    #[test]
    fn exclusive_partitions_close_what_overlaps_them() {
        let mut ledger = ledger();
        let offer =
            |ledger: &Ledger, at| ledger.offer(at, CapacityRule::Exclusive, NOW, Nanos::new(10));
        ledger.claim(lane(1, 0), leg(1), CapacityRule::Exclusive);
        assert_eq!(offer(&ledger, lane(0, 0)), Offer::Closed);
        assert_eq!(offer(&ledger, lane(2, 0)), Offer::Now);
        assert_eq!(ledger.neighbours(lane(2, 0)), Share(1));
        ledger.release(lane(1, 0), TaskId(1), LegIndex(0));
        assert_eq!(offer(&ledger, lane(0, 0)), Offer::Now);
    }

    #[test]
    fn a_place_breaks_the_free_atoms_up_least() {
        let normal = [LaneClass::Normal];
        let mut ledger = Ledger::default();
        let (device, slices, unit) = (DeviceId(0), Share(6), Share(1));
        ledger.add(DeviceSpec::ranges(
            device, "ranges", slices, unit, &normal, &normal,
        ));
        let take = |ledger: &mut Ledger, share| {
            let at = ledger.place(device, Share(share), AtomSet::EMPTY)?;
            ledger.claim(at, leg(1), CapacityRule::Exclusive);
            Some(ledger.atoms(at).iter().collect::<Vec<u16>>())
        };
        assert_eq!(take(&mut ledger, 2), Some(vec![0, 1]), "at an edge");
        assert_eq!(take(&mut ledger, 1), Some(vec![2]), "at what is held");
        assert_eq!(take(&mut ledger, 4), None, "three are free");
        assert_eq!(take(&mut ledger, 3), Some(vec![3, 4, 5]));
        assert_eq!(ledger.free(device), AtomSet::EMPTY);
    }

    #[test]
    fn where_partitions_overlap_the_least_crowded_one_is_taken() {
        let mut ledger = ledger();
        let rule = CapacityRule::Oversubscribed { lanes: 8 };
        let pick = |ledger: &Ledger| {
            ledger.least_crowded(DeviceId(0), Share(1), |at| ledger.front(at).is_none())
        };
        ledger.claim(lane(0, 0), leg(1), rule);
        assert_eq!(
            pick(&ledger),
            Some(lane(1, 0)),
            "the whole device is on both"
        );
        ledger.claim(lane(1, 0), leg(2), rule);
        assert_eq!(pick(&ledger), Some(lane(2, 0)));
        ledger.claim(lane(2, 0), leg(3), rule);
        assert_eq!(pick(&ledger), None);
    }

    #[test]
    #[should_panic(expected = "would share atoms")]
    fn an_overlapping_claim_is_a_bug() {
        let mut ledger = ledger();
        ledger.claim(lane(1, 0), leg(1), CapacityRule::Exclusive);
        ledger.claim(lane(0, 0), leg(2), CapacityRule::Exclusive);
    }

    #[test]
    #[should_panic(expected = "more than 1 lanes")]
    fn an_oversubscribed_device_has_a_limit_too() {
        let mut ledger = ledger();
        let rule = CapacityRule::Oversubscribed { lanes: 1 };
        ledger.claim(lane(0, 0), leg(1), rule);
        ledger.claim(lane(0, 1), leg(2), rule);
    }

    #[test]
    fn lanes_left_over_from_oversubscription_take_nothing_exclusive() {
        let mut ledger = ledger();
        let shared = CapacityRule::Oversubscribed { lanes: 2 };
        for (at, task) in [(lane(0, 0), 1), (lane(0, 1), 2)] {
            ledger.claim(at, leg(task), shared);
            ledger.started(at, TaskId(task), NOW);
        }
        let now = Timestamp::from_nanos(1_095);
        let offer = |ledger: &Ledger, rule| ledger.offer(lane(0, 0), rule, now, Nanos::new(10));
        assert!(matches!(offer(&ledger, shared), Offer::After(_)));
        assert_eq!(offer(&ledger, CapacityRule::Exclusive), Offer::Closed);
        ledger.release(lane(0, 1), TaskId(2), LegIndex(0));
        assert!(matches!(
            offer(&ledger, CapacityRule::Exclusive),
            Offer::After(_)
        ));
    }

    #[test]
    fn a_lane_takes_a_leg_ahead_only_near_the_predicted_end() {
        let mut ledger = ledger();
        let offer = |ledger: &Ledger, now| {
            ledger.offer(
                lane(0, 0),
                CapacityRule::Exclusive,
                Timestamp::from_nanos(now),
                Nanos::new(10),
            )
        };
        ledger.claim(lane(0, 0), leg(1), CapacityRule::Exclusive);
        assert_eq!(
            offer(&ledger, 1_095),
            Offer::Closed,
            "its start is not known yet"
        );
        ledger.started(lane(0, 0), TaskId(1), NOW);
        assert_eq!(offer(&ledger, 1_089), Offer::Closed);
        assert_eq!(
            offer(&ledger, 1_090),
            Offer::After(Timestamp::from_nanos(1_100))
        );
        assert_eq!(
            offer(&ledger, 1_200),
            Offer::After(Timestamp::from_nanos(1_200)),
            "it overran"
        );
        ledger.claim(lane(0, 0), leg(2), CapacityRule::Exclusive);
        assert_eq!(offer(&ledger, 1_095), Offer::Closed);
        assert_eq!(
            ledger.free_at(lane(0, 0), NOW),
            Some(Timestamp::from_nanos(1_200))
        );
        ledger.release(lane(0, 0), TaskId(1), LegIndex(0));
        assert_eq!(
            ledger.front(lane(0, 0)).map(|leg| leg.task),
            Some(TaskId(2))
        );
    }
}
