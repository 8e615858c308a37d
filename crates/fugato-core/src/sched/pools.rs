//! Devices that models connect: what asks for one of them competes with what asks for the
//! others, and with nothing else.
//!
//! **Invariant:** a model is of exactly one pool, which has every device that hosts it; a
//! device is of one pool at most. Pools are joined where a model connects them, and never
//! divided again.

use super::measuring::Measuring;
use super::rivals::Rivals;
use super::work::WorkByOrder;
use crate::id::DeviceId;
use std::collections::BTreeSet;

/// Which pool, among those of a scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PoolId(usize);

/// Devices, and what is kept of the models that they host.
#[derive(Debug, Default)]
pub(super) struct Pool {
    pub(super) devices: BTreeSet<DeviceId>,
    /// Predicted work of all waiting requests, each at its model's `price`; kept where a
    /// request waits for those of all models.
    pub(super) work: WorkByOrder,
    /// The part of `work` that has deadlines which are enforced.
    pub(super) promised: WorkByOrder,
    /// Who asks for the devices.
    pub(super) rivals: Rivals,
    pub(super) measuring: Measuring,
    /// Requests that wait.
    pub(super) waiting: u64,
    /// Tasks that have not ended.
    pub(super) tasks: u64,
}

/// All pools; one that was joined to another is left empty.
#[derive(Debug, Default)]
pub(super) struct Pools(Vec<Pool>);

impl Pools {
    /// The pools that have any of these devices, rising.
    pub(super) fn with(&self, devices: &[DeviceId]) -> Vec<PoolId> {
        let has = |pool: &Pool| devices.iter().any(|device| pool.devices.contains(device));
        let pools = self.0.iter().enumerate();
        pools
            .filter(|(_, pool)| has(pool))
            .map(|(place, _)| PoolId(place))
            .collect()
    }

    /// Opens a pool without devices.
    pub(super) fn open(&mut self) -> PoolId {
        self.0.push(Pool::default());
        PoolId(self.0.len() - 1)
    }

    pub(super) fn get(&self, pool: PoolId) -> &Pool {
        &self.0[pool.0]
    }

    pub(super) fn get_mut(&mut self, pool: PoolId) -> &mut Pool {
        &mut self.0[pool.0]
    }

    /// The pools that have devices.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PoolId, &Pool)> {
        let pools = self.0.iter().enumerate();
        pools
            .filter(|(_, pool)| !pool.devices.is_empty())
            .map(|(place, pool)| (PoolId(place), pool))
    }

    /// Joins a pool, of which no request waits, to another.
    ///
    /// # Panics
    /// Where a request waits.
    pub(super) fn join(&mut self, joined: PoolId, to: PoolId) {
        let Pool {
            devices,
            work,
            promised,
            rivals,
            measuring,
            waiting,
            tasks,
        } = std::mem::take(self.get_mut(joined));
        assert_eq!(waiting, 0, "requests that wait in a pool that is joined");
        assert!(work.is_empty(), "work in a pool that is joined: {work:?}");
        assert!(
            promised.is_empty(),
            "promised work in a pool that is joined: {promised:?}"
        );
        let pool = self.get_mut(to);
        pool.devices.extend(devices);
        pool.rivals.join(rivals);
        pool.measuring.join(measuring);
        pool.tasks += tasks;
    }
}
