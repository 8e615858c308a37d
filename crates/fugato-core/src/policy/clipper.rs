//! `clipper`: a batch size per model that grows while batches are in time and shrinks when
//! one is late; the whole device, first come first served.
//!
//! # Source
//! Clipper (Crankshaw et al., NSDI 2017, sections on adaptive and on delayed batching): one
//! queue per model container, batches up to a limit found by additive increase and
//! multiplicative decrease against the latency objective, and a wait for a fuller batch
//! where the model asks for one. Ours differs: Clipper leaves it to the operating system or
//! the device how containers share it, and says only that each has its own queue; here the
//! device runs one batch at a time, and the queues take turns by the arrival of their first
//! requests. Batches may take half of the objective unless set otherwise. Clipper drops
//! nothing; here requests that cannot end in time are dropped as by `edf`, because late
//! answers count for nothing and would hold up those that could be in time. Where deadlines
//! are only observed, none are.
//!
//! | symbol | here |
//! |---|---|
//! | maximum batch size of a container | `Aimd::limit` |
//! | batch wait timeout | `ModelSpec::batching.max_queue_delay` |

use super::aimd::Aimd;
use super::turn::{Turn, whole_device};
use super::{Backlog, CapacityRule, Policy, QueueOrder, Ran, ServiceBound, Verdict};
use crate::sched::View;

/// The policy `clipper`.
#[derive(Debug)]
pub struct Clipper {
    aimd: Aimd,
    configuration: u64,
}

impl Clipper {
    /// Batches may take `target_percent` of their model's objective.
    pub(crate) fn new(target_percent: u8) -> Self {
        Self {
            aimd: Aimd::new(target_percent),
            configuration: 0,
        }
    }
}

impl Policy for Clipper {
    fn name(&self) -> &'static str {
        "clipper"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Exclusive
    }

    /// Models whose batch is not ripe are parked; among the others the oldest request goes
    /// first.
    fn service_bound(&self) -> Option<ServiceBound> {
        Some(ServiceBound { passes: 0 })
    }

    fn queue_order(&self) -> QueueOrder {
        QueueOrder::Arrival
    }

    /// Its own: a container knows of no other queue.
    fn backlog(&self) -> Backlog {
        Backlog::Own
    }

    fn decide(&mut self, view: &View<'_>) -> Verdict {
        if let Some(verdict) = view.continue_first() {
            return verdict;
        }
        if self.configuration != view.configuration() {
            self.configuration = view.configuration();
            self.aimd.retain(view);
        }
        let verdict = view.devices().find_map(|device| {
            let (at, start) = whole_device(view, device)?;
            let head = view.first_ready(device)?;
            let turn = Turn { head, at, start };
            let limit = self.aimd.limit(view, device, head.model);
            match turn.grows_until(view, limit) {
                Some(until) => Some(Verdict::Park {
                    model: head.model,
                    until: Some(until),
                }),
                None => Some(turn.verdict(view, limit, Some(limit))),
            }
        });
        verdict.unwrap_or(Verdict::WAIT)
    }

    fn ran(&mut self, ran: &Ran) {
        self.aimd.ran(ran);
    }
}
