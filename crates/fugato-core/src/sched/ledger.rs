//! Who holds which atoms: the partitions and lanes of every device.
//!
//! **Invariant:** under an exclusive capacity rule, a leg is put on a free lane only if
//! its partition's atoms are disjoint from those of every occupied lane; under a layered one,
//! on a free urgent lane if they are disjoint from those of every occupied urgent lane. A lane
//! holds at most one running leg and one committed behind it.

mod claims;
mod layers;
mod places;
#[cfg(test)]
mod tests;

use super::dense::DenseMap;
use crate::device::{AtomSet, DeviceSpec, LaneClass, PartitionSpec};
use crate::flat::FlatMap;
use crate::id::{DeviceId, LaneId, LegIndex, PartitionId, Share, TaskId};
use crate::time::{Nanos, Timestamp};
use serde::Serialize;

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

/// A lane that holds a leg, with what is asked of it at every decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Occupied {
    partition: PartitionId,
    lane: LaneId,
    class: LaneClass,
    /// Those of its partition.
    atoms: AtomSet,
}

impl Occupied {
    /// What they are in order of.
    const fn place(&self) -> (PartitionId, LaneId) {
        (self.partition, self.lane)
    }

    fn is_at(&self, at: LaneRef) -> bool {
        self.place() == (at.partition, at.lane)
    }

    const fn on(&self, device: DeviceId) -> LaneRef {
        LaneRef {
            device,
            partition: self.partition,
            lane: self.lane,
        }
    }
}

#[derive(Debug)]
struct DeviceLedger {
    spec: DeviceSpec,
    /// All atoms that it has.
    all: AtomSet,
    /// Of each partition.
    shares: Vec<Share>,
    lanes: Vec<Vec<Lane>>,
    /// The partitions with a normal lane, by share.
    by_share: FlatMap<Share, Vec<PartitionId>>,
    /// By lane, rising: few, and looked through at every decision.
    occupied: Vec<Occupied>,
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

    /// The atoms of the occupied lanes, or of those of one class.
    fn occupied_atoms(&self, class: Option<LaneClass>) -> AtomSet {
        let occupied = self.occupied.iter();
        let occupied = occupied.filter(|lane| class.is_none_or(|class| lane.class == class));
        occupied.fold(AtomSet::EMPTY, |held, lane| held.union(lane.atoms))
    }

    /// Notes that a lane holds a leg.
    fn occupy(&mut self, at: LaneRef) {
        let lane = Occupied {
            partition: at.partition,
            lane: at.lane,
            class: self.class(at.partition, at.lane),
            atoms: self.atoms(at.partition),
        };
        self.held = self.held.union(lane.atoms);
        if lane.class == LaneClass::Urgent {
            self.urgent = self.urgent.union(lane.atoms);
        }
        let known = self
            .occupied
            .binary_search_by_key(&lane.place(), Occupied::place);
        if let Err(place) = known {
            self.occupied.insert(place, lane);
        }
    }

    /// Notes that a lane holds none any more.
    fn vacate(&mut self, at: LaneRef) {
        self.occupied.retain(|lane| !lane.is_at(at));
        self.held = self.occupied_atoms(None);
        if self.has_urgent {
            self.urgent = self.occupied_atoms(Some(LaneClass::Urgent));
        }
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
        let mut by_share: FlatMap<Share, Vec<PartitionId>> = FlatMap::default();
        for part in &spec.partitions {
            if part.lanes.contains(&LaneClass::Normal) {
                by_share.entry(part.share()).push(part.id);
            }
        }
        let id = spec.id;
        let mut lanes_of = spec.partitions.iter().flat_map(|part| &part.lanes);
        let device = DeviceLedger {
            has_urgent: lanes_of.any(|&class| class == LaneClass::Urgent),
            shares: spec.partitions.iter().map(PartitionSpec::share).collect(),
            all: AtomSet::range(0, spec.slices.0),
            spec,
            lanes,
            by_share,
            occupied: Vec::new(),
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
        let class = device.class(at.partition, at.lane);
        let own = device.atoms(at.partition);
        let others = device.occupied.iter().filter(|other| !other.is_at(at));
        let atoms = others.fold(AtomSet::EMPTY, |atoms, other| {
            atoms.union(match other.class == class {
                true => other.atoms,
                false => other.atoms.without(own),
            })
        });
        Share(atoms.count())
    }

    /// The atoms that no occupied lane covers.
    pub(super) fn free(&self, device: DeviceId) -> AtomSet {
        self.devices
            .get(&device)
            .map_or(AtomSet::EMPTY, |device| device.all.without(device.held))
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
            occupied.map(|at| &device.lanes[usize::from(at.partition.0)][usize::from(at.lane.0)])
        });
        lanes.filter_map(|lane| Some((lane.front.as_ref()?, lane.next.as_ref())))
    }

    /// Lanes of a device that hold a leg.
    pub(super) fn occupied_on(&self, device: DeviceId) -> impl Iterator<Item = LaneRef> {
        let ledger = self.devices.get(&device).into_iter();
        let lanes = ledger.flat_map(|ledger| &ledger.occupied);
        lanes.map(move |lane| lane.on(device))
    }

    /// Lanes of the same device that hold a leg on none of the atoms of this one's partition.
    pub(super) fn occupied_apart(&self, at: LaneRef) -> impl Iterator<Item = LaneRef> {
        let device = self.device(at.device);
        let own = device.atoms(at.partition);
        let apart = device.occupied.iter();
        let apart = apart.filter(move |other| !other.atoms.overlaps(own));
        apart.map(move |other| other.on(at.device))
    }

    /// Compares what is noted of each device with its lanes.
    ///
    /// # Panics
    /// Where they differ.
    pub(super) fn audit(&self) {
        for (id, device) in self.devices.iter() {
            let mut held = AtomSet::EMPTY;
            let mut occupied = Vec::new();
            for (part, lanes) in device.spec.partitions.iter().zip(&device.lanes) {
                for (lane, index) in lanes.iter().zip(0..) {
                    assert!(
                        lane.front.is_some() || lane.next.is_none(),
                        "a leg waits on an empty lane of {} of {id}",
                        part.id
                    );
                    if lane.front.is_some() {
                        held = held.union(part.atoms);
                        let lane = LaneId(index);
                        occupied.push(Occupied {
                            partition: part.id,
                            lane,
                            class: device.class(part.id, lane),
                            atoms: part.atoms,
                        });
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
