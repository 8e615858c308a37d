//! `max-throughput`: what brings most items per slice-second goes first.
//!
//! # Source
//! "Max-Throughput", one of the two extremes that D-STACK (TCC 2024, its scheduling baselines;
//! the section's number is not known here) compares its fairness with: it favours cheap models,
//! serves slightly more in all, and starves the dear ones. No more of it is known here, so the
//! rest is ours: a model's share and batch are those of least work
//! (slice-seconds per item); whenever slices are free, the cheapest model with requests whose
//! share fits starts, with more than its batch where more waits and is in time. Shares are
//! exclusive and runs are not preempted. A model that nothing is known of counts as the
//! cheapest, so that it becomes known. Requests that cannot end in time even alone in their
//! share are dropped; where deadlines are only observed, none.

use super::sizes::{Change, Sizes};
use super::sizing::{OperatingPoint, Sizing};
use super::turn::Turn;
use super::{Backlog, CapacityRule, Policy, QueueOrder, ServiceBound, Verdict};
use crate::id::{DeviceId, ModelId, Share};
use crate::sched::View;
use crate::time::Nanos;
use std::collections::{BTreeMap, BTreeSet};

/// The policy `max-throughput`.
#[derive(Debug)]
pub struct MaxThroughput {
    sizes: Sizes,
    prices: BTreeMap<DeviceId, Prices>,
}

/// Models by price.
#[derive(Debug, Default)]
struct Prices {
    of: BTreeMap<ModelId, Nanos>,
    cheapest: BTreeSet<(Nanos, ModelId)>,
}

impl MaxThroughput {
    pub(crate) const fn new() -> Self {
        Self {
            sizes: Sizes::new(OperatingPoint::Work),
            prices: BTreeMap::new(),
        }
    }

    fn start(&mut self, view: &View<'_>, device: DeviceId) -> Option<Verdict> {
        let prices = self.prices.entry(device).or_default();
        self.sizes.refresh(view, device, |change| match change {
            Change::Gone(model) => prices.forget(model),
            Change::Sized(model, sizing) => prices.set(model, price(sizing)),
        });
        let free = Share(view.free(device).count());
        if free == Share(0) || view.first_ready(device).is_none() {
            return None;
        }
        let mut full = None;
        prices.cheapest.iter().find_map(|&(_, model)| {
            let head = view.head(model)?;
            let sizing = self.sizes.get(device, model)?;
            if sizing.share > free || full == Some(sizing.share) {
                return None;
            }
            let Some(at) = view.place(device, sizing.share) else {
                full = Some(sizing.share);
                return None;
            };
            let start = view.now();
            let turn = Turn { head, at, start };
            Some(turn.in_share(view, sizing))
        })
    }
}

/// Slice-time per item.
fn price(sizing: Sizing) -> Nanos {
    let run = sizing.run.unwrap_or(Nanos::ZERO);
    run.scaled(u64::from(sizing.share.0), u64::from(sizing.batch.0.max(1)))
}

impl Prices {
    fn forget(&mut self, model: ModelId) {
        if let Some(price) = self.of.remove(&model) {
            self.cheapest.remove(&(price, model));
        }
    }

    fn set(&mut self, model: ModelId, price: Nanos) {
        self.forget(model);
        self.of.insert(model, price);
        self.cheapest.insert((price, model));
    }
}

impl Policy for MaxThroughput {
    fn name(&self) -> &'static str {
        "max-throughput"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Exclusive
    }

    /// None: it starves dear models while cheap ones have requests.
    fn service_bound(&self) -> Option<ServiceBound> {
        None
    }

    fn queue_order(&self) -> QueueOrder {
        QueueOrder::Arrival
    }

    fn backlog(&self) -> Backlog {
        Backlog::Own
    }

    fn decide(&mut self, view: &View<'_>) -> Verdict {
        if let Some(verdict) = view.continue_first() {
            return verdict;
        }
        let verdict = view.devices().find_map(|device| self.start(view, device));
        verdict.unwrap_or_else(|| Verdict::Wait {
            until: self.sizes.catch_up(view),
        })
    }
}
