//! `edf`: one task at a time on the whole device, earliest deadline first, and what would
//! be late is dropped before it runs.
//!
//! # Source
//! Clockwork (Gujarati et al., OSDI 2020; what it says of its controller and its workers, by
//! subject, as section numbers are not known here): a device runs one model at a time, latency
//! is predicted, the controller drops requests that cannot meet their deadline and chooses
//! the largest batch that ends before the earliest deadline in it. Ours differs: it
//! predicts with an online median in place of a rolling maximum, commits a leg ahead and
//! revokes it when a more urgent request arrives or the leg before it runs so long that the
//! first request would be late, and does not load models on demand.

use super::turn::{Fate, Turn};
use super::{Backlog, CapacityRule, Policy, QueueOrder, ServiceBound, Verdict};
use crate::sched::{LaneRef, Offer, ReadyHead, View};
use crate::time::Timestamp;

/// The policy `edf`.
#[derive(Clone, Copy, Debug)]
pub struct Edf;

impl Policy for Edf {
    fn name(&self) -> &'static str {
        "edf"
    }

    fn capacity(&self) -> CapacityRule {
        CapacityRule::Exclusive
    }

    /// None: a stream of tight deadlines keeps loose ones waiting until theirs are near.
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
        if let Some(verdict) = view.continue_first() {
            return verdict;
        }
        let verdict = view.devices().find_map(|device| {
            let offer = view.whole_device_offer(device)?;
            if let Some(task) = view.lapsed(offer.0) {
                // What waits is looked at anew: a smaller batch, or one without its first
                // request, which would hold the lane for nothing.
                return Some(Verdict::Revoke { task });
            }
            let head = view.first_ready(device)?;
            match offer {
                (at, Offer::Now) => Some(launch_or_drop(view, head, at, view.now())),
                (at, Offer::After(free)) => Some(launch_or_drop(view, head, at, free)),
                (at, Offer::Closed) => {
                    let (task, key) = view.revocable(at)?;
                    // Requests of one model go by priority first, which a deadline does not
                    // overrule.
                    let urgent = head.model != view.task_model(task)
                        && head.key.model_key() < key.model_key();
                    urgent.then_some(Verdict::Revoke { task })
                }
            }
        });
        verdict.unwrap_or(Verdict::WAIT)
    }
}

/// What the head's [`Turn`] gives, less what would keep the next model's head from ending in
/// time.
fn launch_or_drop(view: &View<'_>, head: ReadyHead, at: LaneRef, start: Timestamp) -> Verdict {
    let turn = Turn { head, at, start };
    let most = view.max_batch(head.model);
    match turn.fate(view, most, view.planned_batch(head.model)) {
        Fate::Run(batch) => turn.launch(batch),
        Fate::InTime { batch, alone } => {
            // A limit that not even the head alone keeps is lost whatever the batch.
            let next = leaves_next(view, at).filter(|&next| start + alone <= next);
            turn.launch(match next {
                Some(next) => turn.largest_by(view, batch, next),
                None => batch,
            })
        }
        Fate::Drop(reason) => turn.give_up(reason),
    }
}

/// When the head of the next model must start to end in time.
fn leaves_next(view: &View<'_>, at: LaneRef) -> Option<Timestamp> {
    let next = view.second_ready(at.device)?;
    let request = next.key.request();
    let deadline = view.enforced_deadline(request)?;
    let run = view
        .tasks_on(next.model, at)
        .predict(view.items(request), 0.5)?;
    Some(deadline.before(run.measured()?))
}
