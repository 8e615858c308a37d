//! Batch sizes that grow while batches are in time and shrink when one is late.
//!
//! # Source
//! Clipper (NSDI 2017, section on adaptive batching): additive increase until the latency
//! of a batch exceeds the objective, then a small multiplicative back-off (10 %). GSLICE
//! (SoCC 2020) grows and shrinks batches by the same comparison. Ours differs: a batch is
//! held against a stated part of the objective, half of it unless set otherwise, because
//! the objective counts from a request's arrival, and a request that just missed a batch
//! waits for a whole one; and only batches that fill more than half of the limit make it
//! grow, as a small one says nothing of a large one.

use super::Ran;
use crate::id::{BatchSize, DeviceId, ModelId};
use crate::sched::{LegResult, View};
use std::collections::BTreeMap;

/// One item, in the unit of limits.
const ITEM: u64 = 1_000;

/// The part of a limit that a late batch leaves of it, in percent.
const BACK_OFF: u64 = 90;

/// The limit of each model's batches, by device.
#[derive(Debug)]
pub(super) struct Aimd {
    target_percent: u64,
    limits: BTreeMap<(DeviceId, ModelId), u64>,
}

impl Aimd {
    /// Batches may take `target_percent` of the objective.
    pub(super) fn new(target_percent: u8) -> Self {
        Self {
            target_percent: u64::from(target_percent),
            limits: BTreeMap::new(),
        }
    }

    /// The most items for the next batch.
    pub(super) fn limit(&self, view: &View<'_>, device: DeviceId, model: ModelId) -> BatchSize {
        let limit = self.limits.get(&(device, model)).copied().unwrap_or(ITEM);
        let items = u32::try_from(limit / ITEM).unwrap_or(u32::MAX);
        BatchSize(items).min(view.max_batch(model))
    }

    /// Learns of a leg.
    pub(super) fn ran(&mut self, ran: &Ran) {
        if !ran.is_last || ran.result != LegResult::Done {
            return;
        }
        let limit = self.limits.entry((ran.device, ran.model)).or_insert(ITEM);
        let items = u64::from(ran.batch.0) * ITEM;
        let target = ran.slo.map(|slo| slo.scaled(self.target_percent, 100));
        if target.is_some_and(|target| ran.task_took > target) {
            // A limit that no batch reaches is not what made this one late.
            *limit = ((*limit).min(items) * BACK_OFF / 100).max(ITEM);
        } else if 2 * items > *limit {
            *limit += ITEM;
        }
    }

    /// Forgets models that are gone.
    pub(super) fn retain(&mut self, view: &View<'_>) {
        self.limits.retain(|&(_, model), _| view.knows(model));
    }
}
