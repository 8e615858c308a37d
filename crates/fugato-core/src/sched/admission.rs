//! Admission: a request is refused at once where it cannot be served.

use super::config::DeadlineMode;
use super::input::Arrival;
use super::outcome::{Rejection, Scope};
use super::pools::Pool;
use super::state::State;
use crate::id::{BatchSize, DeviceId, ModelId, PartitionId};
use crate::policy::{Backlog, CapacityRule, QueueOrder};
use crate::time::{Nanos, Timestamp};

/// What admission found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    /// The earliest of the client's deadline and the model's SLO.
    pub(super) deadline: Option<Timestamp>,
    /// When the request should end, where that can be predicted.
    pub(super) predicted: Option<Timestamp>,
}

impl State {
    /// Whether a request may enter, judged by limits first and by its deadline last.
    pub(super) fn admit(&self, arrival: &Arrival) -> Result<Admitted, Rejection> {
        if self.draining {
            return Err(Rejection::Draining);
        }
        let model = self
            .models
            .get(&arrival.model)
            .ok_or(Rejection::UnknownModel)?;
        let spec = &model.spec;
        if model.stopping {
            return Err(Rejection::ModelStopping);
        }
        if !spec
            .devices
            .iter()
            .any(|&device| self.ledger.contains(device))
        {
            return Err(Rejection::NoDevice);
        }
        if arrival.items > spec.max_batch {
            return Err(Rejection::BatchTooLarge {
                items: arrival.items,
                max: spec.max_batch,
            });
        }
        let limits = [
            (
                Scope::Model,
                spec.limits,
                model.queue.requests(),
                model.bytes,
            ),
            (Scope::Total, self.config.limits, self.waiting, self.bytes),
        ];
        for (scope, limit, queued, held) in limits {
            if queued >= limit.requests {
                return Err(Rejection::QueueFull {
                    scope,
                    queued,
                    limit: limit.requests,
                });
            }
            if held.saturating_add(arrival.bytes) > limit.bytes {
                return Err(Rejection::BytesFull {
                    scope,
                    held,
                    request: arrival.bytes,
                    limit: limit.bytes,
                });
            }
        }
        self.admit_by_deadline(arrival)
    }

    fn admit_by_deadline(&self, arrival: &Arrival) -> Result<Admitted, Rejection> {
        let slo = self
            .model(arrival.model)
            .spec
            .slo
            .map(|slo| arrival.received + slo);
        let deadline = match (slo, arrival.deadline) {
            (Some(slo), Some(client)) => Some(slo.min(client)),
            (one, other) => one.or(other),
        };
        let batch = self
            .model(arrival.model)
            .plan
            .map_or(arrival.items, |plan| plan.batch);
        let mut wait = self.predicted_wait(arrival, deadline, batch);
        let mut run = self.predicted_run(arrival, batch);
        if let Some(deadline) = deadline
            && self.now + wait + run.unwrap_or(Nanos::ZERO) > deadline
            && let Some(together) = self.all_together(arrival, deadline)
        {
            (wait, run) = (together.0, Some(together.1));
        }
        let predicted = run.map(|run| self.now + wait + run);
        if let (DeadlineMode::Enforce, Some(deadline)) = (self.config.deadlines, deadline) {
            let run = run.unwrap_or(Nanos::ZERO);
            let predicted = self.now + wait + run;
            if predicted > deadline {
                return Err(Rejection::DeadlineUnreachable {
                    deadline,
                    predicted,
                    wait,
                    run,
                });
            }
            let short = self.short_of_room(arrival, deadline);
            if run > Nanos::ZERO && short > Nanos::ZERO {
                return Err(Rejection::NoRoom { deadline, short });
            }
        }
        Ok(Admitted {
            deadline,
            predicted,
        })
    }

    /// Wait and run where the request goes into one batch with all that waits of its model:
    /// larger than planned for a lasting load, right for a burst that meets an idle device.
    /// `None` where there is no such batch that ends in time for its first request too, or
    /// where other models ask for the device, whose share it would take.
    fn all_together(&self, arrival: &Arrival, deadline: Timestamp) -> Option<(Nanos, Nanos)> {
        let model = self.model(arrival.model);
        let items = model.queue.items() + u64::from(arrival.items.0);
        let batch = BatchSize(u32::try_from(items).ok()?);
        let (first, _) = model.queue.head()?;
        let first = self.request(first.request()).deadline;
        let last = first.map_or(deadline, |first| first.min(deadline));
        if batch > model.spec.max_batch || !self.pool(arrival.model).rivals.is_alone(arrival.model)
        {
            return None;
        }
        let wait = self.predicted_wait(arrival, Some(deadline), batch);
        let run = self.predicted_run(arrival, batch)?;
        (self.now + wait + run <= last).then_some((wait, run))
    }

    /// Time of the task that the request will be in, at the quantile of admission: that of
    /// itself and what waits of its model, up to `batch` items.
    ///
    /// `None` where there is no measurement to judge by: none for such a batch, or none
    /// that is fresh while the model stands idle. Refusing for it then would keep the
    /// measurement from ever being made.
    fn predicted_run(&self, arrival: &Arrival, batch: BatchSize) -> Option<Nanos> {
        let model = self.model(arrival.model);
        if model.queue.is_empty() && self.is_stale(model) {
            return None;
        }
        let quantile = self.config.admission_quantile;
        let alone = self.fastest_at(arrival.model, arrival.items, quantile)?;
        let waiting = u32::try_from(model.queue.items()).unwrap_or(u32::MAX);
        let batch = BatchSize(arrival.items.0.saturating_add(waiting).min(batch.0));
        let together = self
            .whole_devices(arrival.model)
            .filter_map(|at| self.predict_task(arrival.model, batch, at, quantile))
            .map(|prediction| prediction.time)
            .min();
        Some(together.unwrap_or(alone).max(alone))
    }

    /// Time before the request's task could start: until a whole-device lane falls free,
    /// then what goes before it in the policy's order, less what shares its batch of `batch`
    /// items, spread over the lanes that may run at once. Where several models ask for more
    /// than the device can do, no less than its model's backlog takes at its share of the
    /// device.
    fn predicted_wait(
        &self,
        arrival: &Arrival,
        deadline: Option<Timestamp>,
        batch: BatchSize,
    ) -> Nanos {
        let model = self.model(arrival.model);
        let key = self.key(
            arrival.request,
            arrival.priority,
            arrival.received,
            deadline,
        );
        // Counting more than the slack holds changes nothing.
        let slack = deadline.map_or(Nanos::MAX, |deadline| deadline - self.now);
        let enough = (slack.as_nanos() / model.price.as_nanos().max(1)).saturating_add(1);
        let before = model.queue.items_before(key, enough);
        let beside = model.price.times(before % u64::from(batch.0.max(1)));
        let own = model.price.times(before).saturating_sub(beside);
        let width = self.width(arrival.model);
        let Pool { work, rivals, .. } = self.pool(arrival.model);
        let claims = rivals.claims(self.now, width);
        let ahead = match self.backlog {
            Backlog::Own => own,
            Backlog::All => {
                let all = work.up_to(key.order()).saturating_sub(beside);
                let stretched = rivals.stretched(arrival.model, own);
                all.max(stretched.scaled(claims, 1_000))
            }
        };
        let wait = self.busy(arrival.model) + ahead.scaled(1, width);
        match self.order {
            QueueOrder::Deadline if claims > 0 => {
                let overtaking = rivals.overtaking(self.now, arrival.model, wait, slack);
                wait + overtaking.scaled(claims, 1_000)
            }
            QueueOrder::Arrival | QueueOrder::Deadline => wait,
        }
    }

    /// By how much the requests that were accepted and go after this one would miss their
    /// deadlines if it were accepted too, with some time in reserve where more is asked than
    /// the device can do. Zero under an order by
    /// arrival, where nobody is overtaken, and where no other model asks: one model's
    /// requests go into one another's batches.
    fn short_of_room(&self, arrival: &Arrival, deadline: Timestamp) -> Nanos {
        let overtakes = self.order == QueueOrder::Deadline && self.backlog == Backlog::All;
        let Pool {
            promised, rivals, ..
        } = self.pool(arrival.model);
        if !overtakes || rivals.is_alone(arrival.model) {
            return Nanos::ZERO;
        }
        let width = self.width(arrival.model);
        let Some(room) = promised.room_from(deadline, self.now, width) else {
            return Nanos::ZERO;
        };
        let price = self.model(arrival.model).price;
        let work = price.times(u64::from(arrival.items.0)).scaled(1, width);
        let claims = rivals.claims(self.now, width);
        let reserve = rivals.reserve(self.now, arrival.model);
        let reserve = reserve.scaled(claims, 1_000);
        (self.busy(arrival.model) + work + reserve).saturating_sub(room)
    }

    /// Time until a device that hosts the model could take a leg of it.
    fn busy(&self, model: ModelId) -> Nanos {
        let devices = self.model(model).spec.devices.iter();
        let present = devices.filter(|&&device| self.ledger.contains(device));
        let free_at = present.filter_map(|&device| self.free_at(device)).min();
        free_at.unwrap_or(self.now) - self.now
    }

    /// When a device could take a leg: where the whole device is one queue, not before all
    /// its lanes end. Where models have shares of their own it is not known whom a model
    /// waits for, and it is taken to wait for none.
    fn free_at(&self, device: DeviceId) -> Option<Timestamp> {
        match (self.rule, self.backlog) {
            (CapacityRule::Oversubscribed { .. }, _) | (_, Backlog::Own) => {
                let lanes = self.ledger.lanes(device, PartitionId(0));
                lanes
                    .filter_map(|at| self.ledger.free_at(at, self.now))
                    .min()
            }
            (CapacityRule::Exclusive | CapacityRule::Layered, Backlog::All) => {
                let lanes = self.ledger.occupied_on(device);
                let ends = lanes.filter_map(|at| self.ledger.free_at(at, self.now));
                Some(ends.fold(self.now, Timestamp::max))
            }
        }
    }

    /// How many tasks of a model may run at once.
    fn width(&self, model: ModelId) -> u64 {
        let spec = &self.model(model).spec;
        let at_once = match self.rule {
            CapacityRule::Exclusive | CapacityRule::Layered => 1,
            CapacityRule::Oversubscribed { lanes } => {
                u64::from(lanes.min(spec.batching.instances).max(1))
            }
        };
        let present = |device: &&DeviceId| self.ledger.contains(**device);
        let devices = spec.devices.iter().filter(present).count() as u64;
        at_once * devices.max(1)
    }
}
