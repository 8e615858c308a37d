//! `uncontrolled`: every model at once, without shares; the operating system or the
//! device's own scheduler divides the time.
//!
//! # Source
//! Triton Inference Server's dynamic batcher with instance groups (its model
//! configuration documentation): a model has N instances; a free one takes the largest
//! preferred batch that waits, or anything once the oldest request has waited for
//! `max_queue_delay`, or at once where no delay is set. It also stands for default MPS
//! in the scheduling baselines of D-STACK (TCC 2024; the section's number is not known here).
//!
//! # How ours differs
//! - Where Triton's instances are threads that race for the queue, models take turns by the
//!   arrival of their oldest request.
//! - Where the device's streams have priorities, models of shorter objectives have streams of a
//!   greater one. The device gives them, not this policy, which knows lanes only. In Triton it is
//!   a setting of each model; default MPS sets none.

use super::{Backlog, CapacityRule, Policy, QueueOrder, ServiceBound, Verdict};
use crate::id::{BatchSize, DeviceId, Share};
use crate::sched::{LaneRef, Offer, ReadyHead, View};

/// The policy `uncontrolled`.
#[derive(Clone, Copy, Debug)]
pub struct Uncontrolled {
    lanes: u16,
    share: Option<Share>,
}

impl Uncontrolled {
    /// At most `lanes` legs at once on one device, each on `share` of its slices, or on all
    /// of them.
    pub const fn new(lanes: u16, share: Option<Share>) -> Self {
        Self { lanes, share }
    }

    /// An open lane for a leg.
    fn lane(self, view: &View<'_>, device: DeviceId) -> Option<LaneRef> {
        // Another device than the one that the share was set for may not have partitions of it.
        let share = self.share.and_then(|share| {
            let mut shares = view.shares(device);
            shares.find(|&known| known >= share)
        });
        if let Some(share) = share.filter(|&share| share < view.slices(device)) {
            return view.least_crowded(device, share);
        }
        match view.whole_device_offer(device)? {
            (at, Offer::Now) => Some(at),
            (_, Offer::After(_) | Offer::Closed) => None,
        }
    }

    /// The batch to run of what waits, or `None` where waiting longer may serve better.
    fn batch(view: &View<'_>, head: ReadyHead) -> Option<BatchSize> {
        let batching = view.batching(head.model);
        let max = view.max_batch(head.model);
        let available = view.batch_available(head.model, head.class, max);
        if available >= max {
            return Some(max);
        }
        let preferred = batching
            .preferred
            .iter()
            .rev()
            .find(|&&size| size <= available);
        if let Some(&size) = preferred {
            return Some(size);
        }
        let waited_out = view.received(head.key.request()) + batching.max_queue_delay;
        (view.now() >= waited_out).then_some(available)
    }
}

impl Policy for Uncontrolled {
    fn name(&self) -> &'static str {
        "uncontrolled"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Oversubscribed { lanes: self.lanes }
    }

    /// Models whose batch is not ripe or whose instances are all busy are parked; among
    /// the others the oldest request goes first.
    fn service_bound(&self) -> Option<ServiceBound> {
        Some(ServiceBound { passes: 0 })
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
        let verdict = view.devices().find_map(|device| {
            let head = view.first_ready(device)?;
            let batching = view.batching(head.model);
            if view.in_flight(head.model) >= batching.instances {
                return Some(Verdict::Park {
                    model: head.model,
                    until: None,
                });
            }
            let Some(batch) = Self::batch(view, head) else {
                let until = view.received(head.key.request()) + batching.max_queue_delay;
                return Some(Verdict::Park {
                    model: head.model,
                    until: Some(until),
                });
            };
            let at = self.lane(view, device)?;
            Some(Verdict::Launch {
                model: head.model,
                class: head.class,
                batch,
                at,
            })
        });
        verdict.unwrap_or(Verdict::WAIT)
    }
}
