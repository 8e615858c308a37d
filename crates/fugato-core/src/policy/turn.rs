//! A model's turn to run: which batch, and what becomes of its first request. What the
//! policies have in common that serve requests while they can still end in time.
//!
//! # Source
//! Dropping what cannot end in time before it runs: Clockwork (OSDI 2020) and Nexus
//! (SOSP 2019, early drop). Nexus passes a window of the planned batch over the queue and
//! drops all before the first request that the whole batch would serve in time. Ours differs:
//! it does so only where enough later requests fill the window, or a half, a quarter, .. of
//! it, and the smaller batch that still serves the head costs a quarter more per item.

use super::{Sizing, Verdict};
use crate::id::{BatchSize, DeviceId};
use crate::sched::{DropReason, LaneRef, Offer, ReadyHead, TasksOn, View};
use crate::time::{Nanos, Timestamp};

/// The first request of a model, where it would run, and when that would begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) head: ReadyHead,
    pub(super) at: LaneRef,
    pub(super) start: Timestamp,
}

/// What becomes of the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It runs in a batch of so many items, with no deadline to keep or none that is known
    /// to be in reach.
    Run(BatchSize),
    /// It ends in time in a batch of so many items, and by itself takes `alone`.
    InTime { batch: BatchSize, alone: Nanos },
    /// It does not run.
    Drop(DropReason),
}

/// The whole-device lane of a device that takes a leg, and when that would start.
pub(super) fn whole_device(view: &View<'_>, device: DeviceId) -> Option<(LaneRef, Timestamp)> {
    match view.whole_device_offer(device)? {
        (at, Offer::Now) => Some((at, view.now())),
        (at, Offer::After(free)) => Some((at, free)),
        (_, Offer::Closed) => None,
    }
}

impl Turn {
    /// A launch of at most `most` items, or a drop of the head.
    pub(super) fn verdict(
        self,
        view: &View<'_>,
        most: BatchSize,
        planned: Option<BatchSize>,
    ) -> Verdict {
        match self.fate(view, most, planned) {
            Fate::Run(batch) | Fate::InTime { batch, .. } => self.launch(batch),
            Fate::Drop(reason) => self.give_up(reason),
        }
    }

    /// The verdict in a share: a launch, a wait for the batch that the model is sized for to
    /// fill, or a drop of the head. Where more waits than that batch, more goes along, as
    /// long as the head is in time.
    pub(super) fn in_share(self, view: &View<'_>, sizing: Sizing) -> Verdict {
        match self.grows_until(view, sizing.batch) {
            Some(until) => Verdict::Park {
                model: self.head.model,
                until: Some(until),
            },
            None => {
                let most = view.max_batch(self.head.model);
                self.verdict(view, most, Some(most))
            }
        }
    }

    /// Until when the batch may wait to grow to `full` items: while its first request has
    /// waited less than the model's queue delay.
    pub(super) fn grows_until(self, view: &View<'_>, full: BatchSize) -> Option<Timestamp> {
        let delay = view.batching(self.head.model).max_queue_delay;
        let until = view.received(self.head.key.request()) + delay;
        let ripe = view.now() >= until || view.waiting_items(self.head.model) >= u64::from(full.0);
        (!ripe).then_some(until)
    }

    pub(super) fn launch(self, batch: BatchSize) -> Verdict {
        Verdict::Launch {
            model: self.head.model,
            class: self.head.class,
            batch,
            at: self.at,
        }
    }

    pub(super) fn give_up(self, reason: DropReason) -> Verdict {
        Verdict::Drop {
            request: self.head.key.request(),
            reason,
        }
    }

    /// The largest batch up to `most` that ends by the head's deadline; a drop where not even
    /// the head alone would end in time, or where it is better given up for a batch of up to
    /// `planned` items.
    pub(super) fn fate(self, view: &View<'_>, most: BatchSize, planned: Option<BatchSize>) -> Fate {
        let head = self.head;
        let most = view.batch_available(head.model, head.class, most);
        let request = head.key.request();
        let Some(deadline) = view.enforced_deadline(request) else {
            return Fate::Run(most);
        };
        let alone = view.items(request);
        let tasks = view.tasks_on(head.model, self.at);
        match tasks.measured(alone) {
            // Nothing is known of so small or so large a batch: run it, to know.
            None => Fate::Run(alone),
            Some(run) if self.start + run <= deadline => {
                let by = |batch| self.end(view, &tasks, batch);
                let batch = largest_in_time(alone, most, deadline, by);
                let planned = planned
                    .and_then(|planned| self.outweighed(view, &tasks, (batch, planned), deadline));
                match planned {
                    Some(predicted) => Fate::Drop(DropReason::Doomed {
                        deadline,
                        predicted,
                    }),
                    None => Fate::InTime { batch, alone: run },
                }
            }
            Some(run) if view.is_probe(request, run) => Fate::Run(alone),
            Some(run) => Fate::Drop(DropReason::Doomed {
                deadline,
                predicted: self.start + run,
            }),
        }
    }

    /// When a batch should end, by the quantile that promises are made with.
    fn end(self, view: &View<'_>, tasks: &TasksOn<'_>, batch: BatchSize) -> Option<Timestamp> {
        let run = tasks.predict(batch, view.admission_quantile())?;
        Some(self.start + run.time)
    }

    /// Whether to give up the head rather than to run the short `batch` that ends by its
    /// deadline: where an item of that batch costs a quarter more time than one of the planned
    /// batch, or of a half, a quarter, .. of it, and enough requests with later deadlines wait
    /// to fill that one. Gives the end of the batch that is to run instead.
    ///
    /// Under overload the short batch serves its few requests at the expense of more than as
    /// many behind it, whose batches are then cut even shorter: without this, one late batch
    /// makes all that follow small and late. Where the planned batch takes most of the objective
    /// the queue never holds as many that it would serve in time, so smaller ones are tried.
    ///
    /// # Cost
    /// For each halving some predictions and a walk of some hundred requests, in overload only.
    fn outweighed(
        self,
        view: &View<'_>,
        tasks: &TasksOn<'_>,
        (batch, planned): (BatchSize, BatchSize),
        deadline: Timestamp,
    ) -> Option<Timestamp> {
        let short = self.end(view, tasks, batch)? - self.start;
        let halvings = std::iter::successors(Some(planned.0), |size| Some(size / 2));
        let larger = halvings.take_while(|&size| size > batch.0);
        larger.map(BatchSize).find_map(|size| {
            let full = self.end(view, tasks, size)?;
            let dearer = short.times(4 * u64::from(size.0))
                > (full - self.start).times(5 * u64::from(batch.0));
            let fills = || view.fills_after(self.head.model, self.head.class, full, size);
            (full > deadline && dearer && fills()).then_some(full)
        })
    }

    /// The largest batch between the head alone and `most` that should end by `limit`.
    pub(super) fn largest_by(
        self,
        view: &View<'_>,
        most: BatchSize,
        limit: Timestamp,
    ) -> BatchSize {
        let alone = view.items(self.head.key.request());
        let tasks = view.tasks_on(self.head.model, self.at);
        largest_in_time(alone, most, limit, |batch| self.end(view, &tasks, batch))
    }
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
