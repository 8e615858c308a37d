//! Admission: a request is refused at once where it cannot be served.

use super::config::DeadlineMode;
use super::input::Arrival;
use super::outcome::{Rejection, Scope};
use super::state::State;
use crate::policy::{Backlog, CapacityRule};
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
    pub(super) fn admit(&self, arrival: &Arrival, backlog: Backlog) -> Result<Admitted, Rejection> {
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
        self.admit_by_deadline(arrival, backlog)
    }

    fn admit_by_deadline(
        &self,
        arrival: &Arrival,
        backlog: Backlog,
    ) -> Result<Admitted, Rejection> {
        let slo = self
            .model(arrival.model)
            .spec
            .slo
            .map(|slo| arrival.received + slo);
        let deadline = match (slo, arrival.deadline) {
            (Some(slo), Some(client)) => Some(slo.min(client)),
            (one, other) => one.or(other),
        };
        let estimate = self.estimate(arrival, deadline, backlog);
        let predicted = estimate.map(|(wait, run)| self.now + wait + run);
        if let (DeadlineMode::Enforce, Some(deadline)) = (self.config.deadlines, deadline) {
            match estimate {
                Some((wait, run)) if self.now + wait + run > deadline => {
                    let predicted = self.now + wait + run;
                    return Err(Rejection::DeadlineUnreachable {
                        deadline,
                        predicted,
                        wait,
                        run,
                    });
                }
                None if self.now > deadline => {
                    let (predicted, wait, run) = (self.now, Nanos::ZERO, Nanos::ZERO);
                    return Err(Rejection::DeadlineUnreachable {
                        deadline,
                        predicted,
                        wait,
                        run,
                    });
                }
                _ => {}
            }
        }
        Ok(Admitted {
            deadline,
            predicted,
        })
    }

    /// Time before the request's task could start, and time of that task.
    ///
    /// The wait is until a whole-device lane falls free, then the backlog the policy says
    /// goes first, spread over the lanes that may run at once. `None` where there is no
    /// measurement to judge by: none for such a batch, or none that is fresh while the
    /// model stands idle. Refusing then would keep the measurement from ever being made.
    fn estimate(
        &self,
        arrival: &Arrival,
        deadline: Option<Timestamp>,
        backlog: Backlog,
    ) -> Option<(Nanos, Nanos)> {
        let model = self.model(arrival.model);
        let stale = model
            .last_done
            .is_none_or(|last| self.now.since(last) >= self.config.probe_interval);
        if stale && model.in_flight == 0 && model.queue.is_empty() {
            return None;
        }
        let quantile = self.config.admission_quantile;
        let run = self
            .whole_devices(arrival.model)
            .filter_map(|at| {
                self.predict_task(arrival.model, arrival.items, at, quantile)?
                    .measured()
            })
            .min()?;
        let free_at = self
            .whole_lanes(arrival.model)
            .filter_map(|at| self.usable_at(at))
            .min();
        let ahead = match backlog {
            Backlog::Own => {
                let key = self.key(
                    arrival.request,
                    arrival.priority,
                    arrival.received,
                    deadline,
                );
                // Counting more than the slack holds changes nothing.
                let slack = deadline.map_or(Nanos::MAX, |deadline| deadline - self.now);
                let enough = slack.as_nanos() / model.per_item.as_nanos().max(1) + 1;
                model.per_item.times(model.queue.items_before(key, enough))
            }
            Backlog::All => self.backlog,
        };
        let at_once = match self.rule {
            CapacityRule::Exclusive => 1,
            CapacityRule::Oversubscribed { lanes } => {
                u64::from(lanes.min(model.spec.batching.instances).max(1))
            }
        };
        let devices = model
            .spec
            .devices
            .iter()
            .filter(|&&device| self.ledger.contains(device))
            .count() as u64;
        let wait =
            free_at.unwrap_or(self.now) - self.now + ahead.scaled(1, at_once * devices.max(1));
        Some((wait, run))
    }

    /// When a lane could take a leg: under an exclusive rule, not before the other lanes
    /// of its device end.
    fn usable_at(&self, at: super::LaneRef) -> Option<Timestamp> {
        let own = self.ledger.free_at(at, self.now)?;
        match self.rule {
            CapacityRule::Oversubscribed { .. } => Some(own),
            CapacityRule::Exclusive => {
                let others = self
                    .ledger
                    .occupied()
                    .filter(|other| other.device == at.device);
                Some(
                    others
                        .filter_map(|other| self.ledger.free_at(other, self.now))
                        .fold(own, Timestamp::max),
                )
            }
        }
    }
}
