//! What a policy may look at of the devices: their partitions and lanes, who is on them, and
//! where a leg fits.

use super::View;
use crate::device::{AtomSet, PartitionSpec};
use crate::id::{BatchSize, DeviceId, LegIndex, ModelId, PartitionId, Share, TaskId};
use crate::sched::ledger::{LaneRef, Offer};
use crate::sched::queue::QueueKey;
use crate::time::{Nanos, Timestamp};

/// A leg on a lane, committed or running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its task.
    pub task: TaskId,
    /// The task's model.
    pub model: ModelId,
    /// Items in the task's batch.
    pub batch: BatchSize,
    /// Which of its task it is; the last, of a task that runs in one go.
    pub leg: LegIndex,
    /// The lane.
    pub at: LaneRef,
    /// The atoms of its partition.
    pub atoms: AtomSet,
    /// When it should end, not before now; `None` where nothing is known of its time.
    pub ends: Option<Timestamp>,
}

impl<'a> View<'a> {
    /// The slices of a device.
    pub fn slices(&self, device: DeviceId) -> Share {
        let spec = self.state.ledger.spec(device);
        spec.map_or(Share(0), |spec| spec.slices)
    }

    /// The shares that the device's partitions have, rising.
    pub fn shares(&self, device: DeviceId) -> impl DoubleEndedIterator<Item = Share> + use<'a> {
        self.state.ledger.shares_of(device)
    }

    /// The device's partitions; the first one is the whole device.
    pub fn partitions(&self, device: DeviceId) -> &'a [PartitionSpec] {
        let spec = self.state.ledger.spec(device);
        spec.map_or(&[], |spec| &spec.partitions)
    }

    /// The normal lanes of a partition.
    pub fn lanes(
        &self,
        device: DeviceId,
        partition: PartitionId,
    ) -> impl Iterator<Item = LaneRef> + use<'a> {
        self.state.ledger.lanes(device, partition)
    }

    /// The slices of a lane's partition.
    pub fn share_of(&self, at: LaneRef) -> Share {
        self.state.ledger.share(at)
    }

    /// The atoms that nobody holds.
    pub fn free(&self, device: DeviceId) -> AtomSet {
        self.state.ledger.free(device)
    }

    /// A free lane of a partition of exactly that share whose atoms nobody holds: the one
    /// that leaves the free atoms least broken up.
    pub fn place(&self, device: DeviceId, share: Share) -> Option<LaneRef> {
        self.place_outside(device, share, AtomSet::EMPTY)
    }

    /// As [`place`](Self::place), on none of the atoms that are `kept`.
    pub fn place_outside(&self, device: DeviceId, share: Share, kept: AtomSet) -> Option<LaneRef> {
        self.state.ledger.place(device, share, kept)
    }

    /// Whether the device has urgent lanes, whose legs it suspends others for.
    pub fn has_urgent(&self, device: DeviceId) -> bool {
        self.state.ledger.has_urgent(device)
    }

    /// A free urgent lane of a partition of exactly that share, over whose atoms no urgent leg
    /// runs and that `may_cover` allows: the one that suspends least, the first of equal ones.
    pub fn place_over(
        &self,
        device: DeviceId,
        share: Share,
        may_cover: impl Fn(AtomSet) -> bool,
    ) -> Option<LaneRef> {
        self.state.ledger.over(device, share, may_cover)
    }

    /// The first partition of exactly that share all of whose atoms are among `atoms`,
    /// whoever holds them: for plans.
    pub fn fit(&self, device: DeviceId, share: Share, atoms: AtomSet) -> Option<&'a PartitionSpec> {
        self.state.ledger.fit(device, share, atoms)
    }

    /// As [`place`](Self::place), where partitions may overlap: the open lane of that share
    /// whose atoms the fewest legs cover.
    pub fn least_crowded(&self, device: DeviceId, share: Share) -> Option<LaneRef> {
        let open = |at| self.offer(at) == Offer::Now;
        self.state.ledger.least_crowded(device, share, open)
    }

    /// The legs on the device's lanes, by lane; a committed one behind a running one is not
    /// among them.
    pub fn running(&self, device: DeviceId) -> impl Iterator<Item = Running> + use<'a> {
        let state = self.state;
        let lanes = state.ledger.occupied_on(device);
        lanes.filter_map(move |at| {
            let leg = state.ledger.front(at)?;
            let task = state.task(leg.task);
            let begun = leg.started.unwrap_or(state.now);
            Some(Running {
                task: leg.task,
                model: task.model,
                batch: task.batch,
                leg: leg.leg,
                at,
                atoms: state.ledger.atoms(at),
                ends: leg.predicted.map(|run| (begun + run).max(state.now)),
            })
        })
    }

    /// The legs on the device's lanes, running or committed: their models, and how long
    /// each should take in all, where that is known.
    pub fn on_lanes(
        &self,
        device: DeviceId,
    ) -> impl Iterator<Item = (ModelId, Option<Nanos>)> + use<'a> {
        let state = self.state;
        let legs = state.ledger.occupied_on(device);
        let legs = legs.flat_map(|at| [state.ledger.front(at), state.ledger.next(at)]);
        legs.flatten()
            .map(|leg| (state.task(leg.task).model, leg.predicted))
    }

    /// Of the partitions of exactly that share, the one that should fall free first, and
    /// when: its atoms, and the end of the last leg on them. A leg whose end nobody knows
    /// counts as ending at once.
    ///
    /// # Cost
    /// The partitions of that share times the legs that run.
    pub fn falls_free(&self, device: DeviceId, share: Share) -> Option<(AtomSet, Timestamp)> {
        let running: Vec<Running> = self.running(device).collect();
        let parts = self.state.ledger.atoms_of_share(device, share);
        let free = parts.map(|atoms| {
            let over = running.iter().filter(|leg| leg.atoms.overlaps(atoms));
            let ends = over.filter_map(|leg| leg.ends);
            (atoms, ends.fold(self.now(), Timestamp::max))
        });
        free.min_by_key(|&(_, end)| end)
    }

    /// The best offer of the device's whole-device lanes: a free lane, else the one that
    /// falls free first, else a closed one (one with a committed leg if there is one).
    pub fn whole_device_offer(&self, device: DeviceId) -> Option<(LaneRef, Offer)> {
        let mut best: Option<(LaneRef, Offer)> = None;
        for at in self.state.ledger.lanes(device, PartitionId(0)) {
            let offer = self.offer(at);
            let better = match (best, offer) {
                (_, Offer::Now) => return Some((at, offer)),
                (None, _) | (Some((_, Offer::Closed)), Offer::After(_)) => true,
                (Some((_, Offer::After(known))), Offer::After(end)) => end < known,
                (Some((known, Offer::Closed)), Offer::Closed) => {
                    self.revocable(known).is_none() && self.revocable(at).is_some()
                }
                (Some((_, Offer::Now | Offer::After(_))), _) => false,
            };
            if better {
                best = Some((at, offer));
            }
        }
        best
    }

    /// What a lane can take.
    pub fn offer(&self, at: LaneRef) -> Offer {
        let state = self.state;
        state
            .ledger
            .offer(at, state.rule, state.now, state.config.commit_lead)
    }

    /// When a lane's last leg should end, not before now; now, where nobody knows.
    pub fn free_at(&self, at: LaneRef) -> Timestamp {
        let free = self.state.ledger.free_at(at, self.now());
        free.unwrap_or(self.now())
    }

    /// The committed leg of a lane that may be revoked: it is the first of its task, has not
    /// started and is not being revoked. With the key of its most urgent request.
    pub fn revocable(&self, at: LaneRef) -> Option<(TaskId, QueueKey)> {
        let next = self.state.ledger.next(at)?;
        let task = self.state.task(next.task);
        (task.is_first(next.leg) && !next.revoking).then_some((next.task, task.key))
    }

    /// The committed leg of a lane that may be revoked, whichever of its task it is, and the
    /// key of the task's most urgent request.
    pub fn committed(&self, at: LaneRef) -> Option<(TaskId, QueueKey)> {
        let next = self.state.ledger.next(at)?;
        (!next.revoking).then(|| (next.task, self.state.task(next.task).key))
    }
}
