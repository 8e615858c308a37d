//! `edf-legs`: as `edf`, one task at a time on the whole device, and whoever has the earliest
//! deadline is chosen anew at each boundary between two legs.
//!
//! # Source
//! Preemptive earliest deadline first (Liu and Layland, JACM 1973, the deadline driven
//! scheduling algorithm), preemptive at the points that a plan has: limited preemption
//! (Buttazzo, Bertogna and Yao, IEEE TII 2013, fixed preemption points). Both by subject:
//! section numbers are not known here. On one machine it is optimal where everything fits, up
//! to the longest leg.
//!
//! # How ours differs
//! - Those tasks are periodic and their longest times are known; here requests come as they
//!   come, in batches, and times are predicted medians.
//! - A task that was passed over keeps its slot with its buffers and goes on later, so a
//!   model's slots bound how many of its tasks are begun.
//! - Under overload earliest deadline first is known to keep what is late and lose what follows
//!   (the domino effect), so a task none of whose requests can end in time is given up, as a
//!   request that waits is. Where deadlines are only observed, none is.
//!
//! Shares are not its matter: what a model cannot use of the device stays idle. That is what
//! it is there to show.

use super::turn::Turn;
use super::{Backlog, CapacityRule, Policy, QueueOrder, ServiceBound, Verdict};
use crate::id::{DeviceId, Share};
use crate::sched::{Begun, Offer, View};
use crate::time::Timestamp;

/// The policy `edf-legs`.
#[derive(Clone, Copy, Debug)]
pub struct EdfLegs;

impl Policy for EdfLegs {
    fn name(&self) -> &'static str {
        "edf-legs"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Exclusive
    }

    /// None, as under `edf`.
    fn service_bound(&self) -> Option<ServiceBound> {
        None
    }

    fn queue_order(&self) -> QueueOrder {
        QueueOrder::Deadline
    }

    fn backlog(&self) -> Backlog {
        Backlog::All
    }

    fn decide(&mut self, view: &View<'_>) -> Verdict {
        let verdict = view.devices().find_map(|device| decide(view, device));
        verdict.unwrap_or(Verdict::WAIT)
    }
}

fn decide(view: &View<'_>, device: DeviceId) -> Option<Verdict> {
    if let Some(verdict) = given_up(view, device) {
        return Some(verdict);
    }
    let (at, offer) = view.whole_device_offer(device)?;
    if let Some(task) = view.lapsed(at) {
        return Some(Verdict::Revoke { task });
    }
    // A leg that runs may be followed by its own successor only on its lane.
    let open = |begun: &Begun| !begun.runs || begun.at == at;
    let begun = view.begun(device).filter(open);
    let begun = begun.min_by_key(|begun| begun.key.model_key());
    let head = view.first_ready(device);
    let start = match offer {
        Offer::Now => view.now(),
        Offer::After(free) => free,
        Offer::Closed => {
            let (task, key) = view.committed(at)?;
            // Requests of one model go by priority first, which a deadline does not overrule.
            let other = view.task_model(task);
            let urgent = head.filter(|head| head.model != other)?;
            let before = urgent.key.model_key() < key.model_key();
            return before.then_some(Verdict::Revoke { task });
        }
    };
    match (begun, head) {
        (Some(begun), head)
            if head.is_none_or(|head| begun.key.model_key() <= head.key.model_key()) =>
        {
            let task = begun.task;
            Some(Verdict::Continue { task, at })
        }
        (_, Some(head)) => {
            let most = view.max_batch(head.model);
            let planned = view.planned_batch(head.model);
            Some(Turn { head, at, start }.verdict(view, most, planned))
        }
        (_, None) => None,
    }
}

/// A task between two legs of which no request can end in time even if it goes on at once
/// and is not passed over again.
fn given_up(view: &View<'_>, device: DeviceId) -> Option<Verdict> {
    let between = view.begun(device).filter(|begun| !begun.runs);
    let whole = (view.slices(device), Share(0));
    between
        .filter_map(|begun| {
            let deadline = view.last_deadline(begun.task)?;
            let predicted = ends(view, begun, whole)?;
            let task = begun.task;
            (predicted > deadline).then_some(Verdict::Abandon { task, predicted })
        })
        .next()
}

/// When a task ends that goes on now.
fn ends(view: &View<'_>, begun: Begun, place: (Share, Share)) -> Option<Timestamp> {
    Some(view.now() + view.rest(begun, place, 0.5)?.measured()?)
}
