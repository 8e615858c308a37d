//! `edf`: one task at a time on the whole device, earliest deadline first, and what would
//! be late is dropped before it runs.
//!
//! # Source
//! Clockwork (Gujarati et al., OSDI 2020): a device runs one model at a time, latency is
//! predicted, the controller drops requests that cannot meet their deadline and chooses
//! the largest batch that ends before the earliest deadline in it. Ours differs: it
//! predicts with an online median in place of a rolling maximum, commits a leg ahead and
//! revokes it when a more urgent request arrives or the leg before it runs so long that the
//! first request would be late, and does not load models on demand.

use super::{Backlog, CapacityRule, Policy, QueueOrder, ServiceBound, Verdict};
use crate::id::BatchSize;
use crate::profile::Prediction;
use crate::sched::{DropReason, LaneRef, Offer, ReadyHead, View};
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

/// The largest batch that ends by the head's deadline and leaves the next model's head the
/// time to run; a drop where not even the head alone would end in time.
fn launch_or_drop(view: &View<'_>, head: ReadyHead, at: LaneRef, start: Timestamp) -> Verdict {
    let most = view.batch_available(head.model, head.class, view.max_batch(head.model));
    let launch = |batch| Verdict::Launch {
        model: head.model,
        class: head.class,
        batch,
        at,
    };
    let request = head.key.request();
    let Some(deadline) = view.enforced_deadline(request) else {
        return launch(most);
    };
    let careful = view.admission_quantile();
    let end = |batch| Some(start + view.predict_task(head.model, batch, at, careful)?.time);
    let alone = view.items(request);
    let known = view
        .predict_task(head.model, alone, at, 0.5)
        .and_then(Prediction::measured);
    match known {
        // Nothing is known of so small or so large a batch: run it, to know.
        None => launch(alone),
        Some(run) if start + run <= deadline => {
            let batch = largest_in_time(alone, most, deadline, end);
            if let Some(predicted) = outweighed(view, head, batch, (start, deadline), end) {
                let reason = DropReason::Doomed {
                    deadline,
                    predicted,
                };
                return Verdict::Drop { request, reason };
            }
            // A limit that not even the head alone keeps is lost whatever the batch.
            let next = leaves_next(view, at).filter(|&next| start + run <= next);
            launch(match next {
                Some(next) => largest_in_time(alone, batch, next, end),
                None => batch,
            })
        }
        Some(run) if view.is_probe(request, run) => launch(alone),
        Some(run) => {
            let reason = DropReason::Doomed {
                deadline,
                predicted: start + run,
            };
            Verdict::Drop { request, reason }
        }
    }
}

/// Whether to give up the head rather than to run the short `batch` that ends by its
/// deadline: where an item of that batch costs a quarter more time than one of the planned
/// batch, and enough requests with later deadlines wait to fill that one. Gives the end of
/// the planned batch.
///
/// Under overload the short batch serves its few requests at the expense of more than as
/// many behind it, whose batches are then cut even shorter: without this, one late batch
/// makes all that follow small and late.
fn outweighed(
    view: &View<'_>,
    head: ReadyHead,
    batch: BatchSize,
    (start, deadline): (Timestamp, Timestamp),
    end: impl Fn(BatchSize) -> Option<Timestamp>,
) -> Option<Timestamp> {
    let planned = view.planned_batch(head.model)?;
    let full = end(planned)?;
    let short = end(batch)? - start;
    let dearer =
        short.times(4 * u64::from(planned.0)) > (full - start).times(5 * u64::from(batch.0));
    (full > deadline && dearer && view.fills_after(head.model, head.class, full, planned))
        .then_some(full)
}

/// When the head of the next model must start to end in time.
fn leaves_next(view: &View<'_>, at: LaneRef) -> Option<Timestamp> {
    let next = view.second_ready(at.device)?;
    let request = next.key.request();
    let deadline = view.enforced_deadline(request)?;
    let run = view.predict_task(next.model, view.items(request), at, 0.5)?;
    Some(deadline.before(run.measured()?))
}

/// The largest batch between `alone` and `most` whose predicted end is by `deadline`, by
/// bisection: predictions rise with the batch, and where noise breaks that the answer is
/// still one whose end is in time.
pub(super) fn largest_in_time(
    alone: BatchSize,
    most: BatchSize,
    deadline: Timestamp,
    end: impl Fn(BatchSize) -> Option<Timestamp>,
) -> BatchSize {
    let in_time = |batch: u32| end(BatchSize(batch)).is_none_or(|end| end <= deadline);
    if in_time(most.0) {
        return most.max(alone);
    }
    let (mut good, mut late) = (alone.0, most.0);
    while late.saturating_sub(good) > 1 {
        let middle = good + (late - good) / 2;
        if in_time(middle) {
            good = middle;
        } else {
            late = middle;
        }
    }
    BatchSize(good)
}
