//! `fifo`: one task at a time on the whole device, in order of arrival.
//!
//! # Source
//! None: it stands for a plain server with adaptive batching and no thought of deadlines.
//! The batch is whatever waits of the model whose request came first, up to its largest.

use super::{Backlog, CapacityRule, Policy, QueueOrder, ServiceBound, Verdict};
use crate::sched::{Offer, View};

/// The policy `fifo`.
#[derive(Clone, Copy, Debug)]
pub struct Fifo;

impl Policy for Fifo {
    fn name(&self) -> &'static str {
        "fifo"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Exclusive
    }

    /// The oldest request goes first, without exception.
    fn service_bound(&self) -> Option<ServiceBound> {
        Some(ServiceBound { passes: 0 })
    }

    fn queue_order(&self) -> QueueOrder {
        QueueOrder::Arrival
    }

    fn backlog(&self) -> Backlog {
        Backlog::All
    }

    fn decide(&mut self, view: &View<'_>) -> Verdict {
        if let Some(verdict) = view.continue_first() {
            return verdict;
        }
        let launch = view.devices().find_map(|device| {
            let head = view.first_ready(device)?;
            match view.whole_device_offer(device)? {
                (at, Offer::Now | Offer::After(_)) => Some(Verdict::Launch {
                    model: head.model,
                    class: head.class,
                    batch: view.max_batch(head.model),
                    at,
                }),
                (_, Offer::Closed) => None,
            }
        });
        launch.unwrap_or(Verdict::WAIT)
    }
}
