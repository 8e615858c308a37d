//! Where a leg could go: the partitions and lanes of a share.

use super::{LaneRef, Ledger};
use crate::device::{AtomSet, LaneClass, PartitionSpec};
use crate::id::{DeviceId, Share};

impl Ledger {
    /// The first normal lane of the smallest partition of that share, on the first of
    /// these devices that is present.
    pub(in crate::sched) fn lane_of_share(
        &self,
        devices: &[DeviceId],
        share: Share,
    ) -> Option<LaneRef> {
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
    pub(in crate::sched) fn shares(&self, devices: &[DeviceId]) -> impl Iterator<Item = Share> {
        let device = devices.iter().find(|&&device| self.contains(device));
        let spec = device.and_then(|&device| self.spec(device));
        let partitions = spec.map(|spec| spec.partitions.as_slice());
        let partitions = partitions.unwrap_or_default().iter();
        let normal = |part: &&PartitionSpec| part.lanes.contains(&LaneClass::Normal);
        partitions.filter(normal).map(PartitionSpec::share)
    }

    /// The shares of the partitions of a device that have normal lanes, rising.
    pub(in crate::sched) fn shares_of(
        &self,
        device: DeviceId,
    ) -> impl DoubleEndedIterator<Item = Share> {
        let device = self.devices.get(&device);
        let shares = device.map_or(&[][..], |device| device.by_share.keys());
        shares.iter().copied()
    }

    /// The first partition of that share with a normal lane and all atoms within `atoms`.
    ///
    /// # Cost
    /// The partitions of that share.
    pub(in crate::sched) fn fit(
        &self,
        device: DeviceId,
        share: Share,
        atoms: AtomSet,
    ) -> Option<&PartitionSpec> {
        let ledger = self.devices.get(&device)?;
        let parts = ledger.by_share.get(share)?.iter();
        let mut parts = parts.map(|part| &ledger.spec.partitions[usize::from(part.0)]);
        parts.find(|part| atoms.contains(part.atoms))
    }

    /// The atoms of each partition of that share.
    pub(in crate::sched) fn atoms_of_share(
        &self,
        device: DeviceId,
        share: Share,
    ) -> impl Iterator<Item = AtomSet> {
        let ledger = self.devices.get(&device);
        let parts = ledger.and_then(|ledger| ledger.by_share.get(share));
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
    pub(in crate::sched) fn place(
        &self,
        device: DeviceId,
        share: Share,
        kept: AtomSet,
    ) -> Option<LaneRef> {
        let ledger = self.devices.get(&device)?;
        let free = self.free(device).without(kept);
        let parts = ledger.by_share.get(share)?.iter();
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
    pub(in crate::sched) fn least_crowded(
        &self,
        device: DeviceId,
        share: Share,
        is_open: impl Fn(LaneRef) -> bool,
    ) -> Option<LaneRef> {
        let ledger = self.devices.get(&device)?;
        let parts = ledger.by_share.get(share)?.iter();
        let lanes = parts.flat_map(|&part| self.lanes(device, part));
        let open = lanes.filter(|&at| is_open(at));
        open.min_by_key(|&at| {
            let atoms = self.partition(at).atoms;
            let others = ledger.occupied.iter();
            others.filter(|other| other.atoms.overlaps(atoms)).count()
        })
    }
}
