//! What a policy may look at.

use super::config::DynamicBatching;
use super::ledger::{LaneRef, Offer};
use super::queue::QueueKey;
use super::state::{LegStage, State};
use crate::id::{BatchSize, DeviceId, ModelId, PartitionId, RequestId, ShapeClass, TaskId};
use crate::policy::Verdict;
use crate::profile::Prediction;
use crate::time::{Nanos, Timestamp};

/// A read-only view of the scheduler, given to [`Policy::decide`](crate::policy::Policy).
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    state: &'a State,
}

/// How many requests [`View::fills_after`] passes over: a few batches. It bounds what a
/// decision costs where thousands are due at once.
const PASSED_MAX: u32 = 256;

/// The first request of a model that could start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyHead {
    /// The model.
    pub model: ModelId,
    /// The class of its first request.
    pub class: ShapeClass,
    /// Where that request stands.
    pub key: QueueKey,
}

impl<'a> View<'a> {
    pub(super) const fn new(state: &'a State) -> Self {
        Self { state }
    }

    /// The present.
    pub fn now(&self) -> Timestamp {
        self.state.now
    }

    /// The devices that are present.
    pub fn devices(&self) -> impl Iterator<Item = DeviceId> + use<'a> {
        self.state.ready.keys().copied()
    }

    /// Of all models that the device hosts and that have a waiting request and a free slot
    /// and are not parked, the one whose first request goes first in the policy's order.
    pub fn first_ready(&self, device: DeviceId) -> Option<ReadyHead> {
        let &(_, model) = self.state.ready.get(&device)?.first()?;
        let (key, class) = self.state.model(model).queue.head()?;
        Some(ReadyHead { model, class, key })
    }

    /// The one after [`first_ready`](Self::first_ready).
    pub fn second_ready(&self, device: DeviceId) -> Option<ReadyHead> {
        let &(_, model) = self.state.ready.get(&device)?.iter().nth(1)?;
        let (key, class) = self.state.model(model).queue.head()?;
        Some(ReadyHead { model, class, key })
    }

    /// The best offer of the device's whole-device lanes: a free lane, else the one that
    /// falls free first, else a closed one (one with a committed leg if there is one).
    pub fn whole_device_offer(&self, device: DeviceId) -> Option<(LaneRef, Offer)> {
        let mut best: Option<(LaneRef, Offer)> = None;
        for at in self.state.ledger.lanes(device, PartitionId(0)) {
            let offer = self.offer(at);
            let better = match (best, offer) {
                (None, _) => true,
                (Some((_, Offer::Now)), _) => false,
                (Some(_), Offer::Now) => true,
                (Some((_, Offer::After(known))), Offer::After(end)) => end < known,
                (Some((_, Offer::Closed)), Offer::After(_)) => true,
                (Some((known, Offer::Closed)), Offer::Closed) => {
                    self.revocable(known).is_none() && self.revocable(at).is_some()
                }
                (Some((_, Offer::After(_))), Offer::Closed) => false,
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

    /// The committed leg of a lane that may be revoked: it is leg 0 of its task, has not
    /// started and is not being revoked. With the key of its most urgent request.
    pub fn revocable(&self, at: LaneRef) -> Option<(TaskId, QueueKey)> {
        let next = self.state.ledger.next(at)?;
        let task = self.state.task(next.task);
        (next.leg.0 == 0 && !next.revoking).then_some((next.task, task.key))
    }

    /// The verdict that moves on a task with legs left, where a lane is open for one:
    /// behind its own running leg, or on a free whole-device lane of its device. Tasks begun go before
    /// new ones, so that slots fall free.
    pub fn continue_first(&self) -> Option<Verdict> {
        self.state.continuing.iter().find_map(|&id| {
            let task = self.state.task(id);
            let at = match task.stage {
                LegStage::Running => match self.offer(task.at) {
                    Offer::After(_) => task.at,
                    Offer::Now | Offer::Closed => return None,
                },
                LegStage::Between => match self.whole_device_offer(task.at.device)? {
                    (at, Offer::Now) => at,
                    (_, Offer::After(_) | Offer::Closed) => return None,
                },
                LegStage::Committed => return None,
            };
            Some(Verdict::Continue { task: id, at })
        })
    }

    /// The model of a task in flight.
    pub fn task_model(&self, task: TaskId) -> ModelId {
        self.state.task(task).model
    }

    /// The largest batch of a model.
    pub fn max_batch(&self, model: ModelId) -> BatchSize {
        self.state.model(model).spec.max_batch
    }

    /// The batch that a lasting load of a model is best served in; `None` before the first
    /// measurement.
    pub fn planned_batch(&self, model: ModelId) -> Option<BatchSize> {
        self.state.model(model).plan.map(|plan| plan.batch)
    }

    /// Whether enough requests of a class wait to fill a batch of `items` with such as are
    /// due no earlier than `due`, and others wait before them. At most 256
    /// requests that are due earlier are passed over to find out.
    pub fn fills_after(
        &self,
        model: ModelId,
        class: ShapeClass,
        due: Timestamp,
        items: BatchSize,
    ) -> bool {
        let (mut passed, mut found) = (0, 0);
        for (key, brings) in self.state.model(model).queue.of_class(class) {
            let early = self
                .enforced_deadline(key.request())
                .is_some_and(|deadline| deadline < due);
            if early {
                passed += 1;
            } else {
                found += brings;
            }
            if found >= items.0 || passed > PASSED_MAX {
                break;
            }
        }
        found >= items.0 && (1..=PASSED_MAX).contains(&passed)
    }

    /// A model's settings for dynamic batching.
    pub fn batching(&self, model: ModelId) -> &'a DynamicBatching {
        &self.state.model(model).spec.batching
    }

    /// Tasks of a model that are committed or running.
    pub fn in_flight(&self, model: ModelId) -> u16 {
        self.state.model(model).in_flight
    }

    /// Items that one batch of the class could take now, at most `most` (but the first
    /// request is counted whatever it brings).
    pub fn batch_available(&self, model: ModelId, class: ShapeClass, most: BatchSize) -> BatchSize {
        let mut total = 0;
        for (_, items) in self.state.model(model).queue.of_class(class) {
            if total > 0 && total + items > most.0 {
                break;
            }
            total += items;
        }
        BatchSize(total)
    }

    /// The `quantile` of the time of a whole task; `None` where the model is unknown.
    pub fn predict_task(
        &self,
        model: ModelId,
        batch: BatchSize,
        at: LaneRef,
        quantile: f64,
    ) -> Option<Prediction> {
        self.state.predict_task(model, batch, at, quantile)
    }

    /// The quantile of latency that promises are made with.
    pub fn admission_quantile(&self) -> f64 {
        self.state.config.admission_quantile
    }

    /// A waiting request's deadline, if deadlines are enforced.
    pub fn enforced_deadline(&self, request: RequestId) -> Option<Timestamp> {
        self.state.enforced(self.state.request(request).deadline)
    }

    /// When a waiting request was received.
    pub fn received(&self, request: RequestId) -> Timestamp {
        self.state.request(request).received
    }

    /// The items a waiting request brings.
    pub fn items(&self, request: RequestId) -> BatchSize {
        self.state.request(request).items
    }

    /// Whether a waiting request whose predicted `run` ends too late should run all the
    /// same: where that prediction alone shuts it out, and is stale.
    pub fn is_probe(&self, request: RequestId, run: Nanos) -> bool {
        self.state.is_probe(self.state.request(request), run)
    }
}
