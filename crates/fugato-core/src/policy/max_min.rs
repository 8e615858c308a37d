//! `max-min`: the model that had least device time by its weight goes first.
//!
//! # Source
//! "Max-Min Fair", one of the two extremes that D-STACK (TCC 2024, its scheduling baselines;
//! the section's number is not known here) compares its fairness with: the smallest demand is
//! served first, and what is left is divided evenly. No more of it is known here, so the rest
//! is ours: the accounts are kept as in start-time fair queueing (Goyal et
//! al., SIGCOMM 1996): slice-time over weight, and a model without requests saves none up, so
//! that one that was silent does not hold all slices when it returns: it is level with those of
//! its own device, since slice-time of one device says nothing of another's. Share and batch are
//! those of least work. Where the share of the model whose turn it is does not fit, the
//! partition that falls free first is kept for it, and others start only where they do not
//! delay it (EASY backfilling, Lifka 1995). Shares are exclusive, runs are not preempted.
//! Requests that cannot end in time even alone in their share are dropped; where deadlines are
//! only observed, none.

use super::sizes::{Change, Sizes};
use super::sizing::{OperatingPoint, Sizing};
use super::turn::Turn;
use super::{Backlog, CapacityRule, Policy, QueueOrder, Ran, ServiceBound, Verdict};
use crate::device::AtomSet;
use crate::id::{DeviceId, ModelId, Share};
use crate::sched::{LaneRef, View};
use crate::time::{Nanos, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The policy `max-min`.
#[derive(Debug)]
pub struct MaxMin {
    sizes: Sizes,
    accounts: Accounts,
    configuration: u64,
}

/// What each model had, over its weight.
#[derive(Debug, Default)]
struct Accounts {
    of: BTreeMap<ModelId, Account>,
    least: BTreeSet<(u64, ModelId)>,
    /// By device, what those who waited had at least, when last looked at.
    level: BTreeMap<DeviceId, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    /// Slice-nanoseconds over the weight, with what runs at its prediction.
    had: u64,
    weight: f64,
    /// The part of `had` that is only predicted, and of how many tasks.
    predicted: (u64, u64),
}

impl MaxMin {
    pub(crate) fn new() -> Self {
        Self {
            sizes: Sizes::new(OperatingPoint::Work),
            accounts: Accounts::default(),
            configuration: 0,
        }
    }

    fn start(&mut self, view: &View<'_>, device: DeviceId) -> Option<Verdict> {
        let accounts = &mut self.accounts;
        if self.configuration != view.configuration() {
            self.configuration = view.configuration();
            accounts.weigh(view);
        }
        self.sizes.refresh(view, device, |change| match change {
            // It may live on another device.
            Change::Gone(_) => {}
            Change::Sized(model, _) => accounts.open(device, model, view.weight(model)),
        });
        let free = view.free(device);
        if free.is_empty() || view.first_ready(device).is_none() {
            return None;
        }
        let mut kept = None;
        let mut level = None;
        let mut next = self.accounts.least.first().copied();
        while let Some((had, model)) = next {
            next = self.accounts.after(had, model);
            let Some(sizing) = self.sizes.get(device, model) else {
                continue;
            };
            if !view.waits(model) {
                let idle = view.in_flight(model) == 0;
                self.accounts.lift(device, model, idle);
                continue;
            }
            if *level.get_or_insert(had) == had {
                let known = self.accounts.level.entry(device).or_default();
                *known = had.max(*known);
            }
            let Some(head) = view.head(model) else {
                continue;
            };
            let Some(at) = place(view, device, (model, sizing), free, kept) else {
                kept = kept.or_else(|| view.falls_free(device, sizing.share));
                continue;
            };
            let start = view.now();
            let verdict = Turn { head, at, start }.in_share(view, sizing);
            if let Verdict::Launch { .. } = verdict {
                let run = sizing.run.unwrap_or(Nanos::ZERO);
                self.accounts
                    .charge(model, run.times(u64::from(sizing.share.0)));
            }
            return Some(verdict);
        }
        None
    }
}

/// A lane for a model's run that is not in the way of what is kept: outside of it, or over
/// before it falls free.
fn place(
    view: &View<'_>,
    device: DeviceId,
    (model, Sizing { batch, share, .. }): (ModelId, Sizing),
    free: AtomSet,
    kept: Option<(AtomSet, Timestamp)>,
) -> Option<LaneRef> {
    if share > Share(free.count()) {
        return None;
    }
    let Some((atoms, until)) = kept else {
        return view.place(device, share);
    };
    let beside = Share(view.slices(device).0 - free.count());
    let over = || {
        let run = view.predict_at(model, batch, (share, beside), 0.5)?;
        (view.now() + run.time <= until).then(|| view.place(device, share))?
    };
    let outside = share.0 <= free.without(atoms).count();
    let outside = outside.then(|| view.place_outside(device, share, atoms));
    outside.flatten().or_else(over)
}

impl Accounts {
    fn level(&self, device: DeviceId) -> u64 {
        self.level.get(&device).copied().unwrap_or(0)
    }

    fn open(&mut self, device: DeviceId, model: ModelId, weight: f64) {
        let had = self.level(device);
        self.of.entry(model).or_insert_with(|| {
            self.least.insert((had, model));
            Account {
                had,
                weight,
                predicted: (0, 0),
            }
        });
    }

    /// Closes the accounts of models that are gone; the others go on at their weights.
    fn weigh(&mut self, view: &View<'_>) {
        self.of.retain(|&model, account| {
            let stays = view.knows(model);
            if stays {
                account.weight = view.weight(model);
            } else {
                self.least.remove(&(account.had, model));
            }
            stays
        });
    }

    fn after(&self, had: u64, model: ModelId) -> Option<(u64, ModelId)> {
        let past = (
            std::ops::Bound::Excluded((had, model)),
            std::ops::Bound::Unbounded,
        );
        self.least.range(past).next().copied()
    }

    fn change(&mut self, model: ModelId, change: impl FnOnce(&mut Account)) {
        if let Some(account) = self.of.get_mut(&model) {
            self.least.remove(&(account.had, model));
            change(account);
            self.least.insert((account.had, model));
        }
    }

    /// Takes away what a model without requests has saved up, and, where nothing of it runs
    /// any more, what it was charged for tasks that never ended.
    fn lift(&mut self, device: DeviceId, model: ModelId, idle: bool) {
        let level = self.level(device);
        let low = |account: &Account| account.had < level || idle && account.predicted.1 > 0;
        if self.of.get(&model).is_some_and(low) {
            self.change(model, |account| {
                if idle {
                    account.had = account.had.saturating_sub(account.predicted.0);
                    account.predicted = (0, 0);
                }
                account.had = account.had.max(level);
            });
        }
    }

    /// Charges a task that starts at its prediction.
    fn charge(&mut self, model: ModelId, slice_time: Nanos) {
        self.change(model, |account| {
            let cost = over_weight(slice_time, account.weight);
            account.had = account.had.saturating_add(cost);
            account.predicted.0 = account.predicted.0.saturating_add(cost);
            account.predicted.1 += 1;
        });
    }

    /// Counts a leg that ended, and with its last leg the task's prediction no more.
    fn ran(&mut self, model: ModelId, slice_time: Nanos, is_last: bool) {
        self.change(model, |account| {
            let cost = over_weight(slice_time, account.weight);
            account.had = account.had.saturating_add(cost);
            if is_last && let Some(one) = account.predicted.0.checked_div(account.predicted.1) {
                account.had = account.had.saturating_sub(one);
                account.predicted = (account.predicted.0 - one, account.predicted.1 - 1);
            }
        });
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time over a weight above zero; the cast saturates"
)]
fn over_weight(slice_time: Nanos, weight: f64) -> u64 {
    (slice_time.as_nanos() as f64 / weight) as u64
}

impl Policy for MaxMin {
    fn name(&self) -> &'static str {
        "max-min"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Exclusive
    }

    /// None: a model that had more than the others is passed over until they have caught up.
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

    fn ran(&mut self, ran: &Ran) {
        let slice_time = ran.took.times(u64::from(ran.share.0));
        self.accounts.ran(ran.model, slice_time, ran.is_last);
    }
}
