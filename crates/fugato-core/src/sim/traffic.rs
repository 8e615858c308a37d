//! The traffic of a workload around a simulated world, counted as it passes.
//!
//! **Invariant:** what is kept per request is let go when the request ends, so that a run
//! of any length takes the memory of what is in flight.

use super::tally::ModelTally;
use super::world::Outside;
use crate::id::{BatchSize, ModelId, RequestId, ShapeClass};
use crate::sched::{self, Action, Decision, Input, Outcome, Overdue};
use crate::time::{Nanos, Timestamp};
use crate::timeline::Timeline;
use crate::workload::{Arrival, ArrivalProcess, Arrivals, Workload};
use std::collections::VecDeque;

/// Sends the requests of a workload, and counts how they end.
#[derive(Debug)]
pub(super) struct Traffic {
    /// What comes before the first request: the models.
    pub setup: VecDeque<Input>,
    arrivals: Arrivals,
    next: Option<Arrival>,
    models: Vec<Counted>,
    /// Models, by index, of which the next request is due at `now`.
    refills: VecDeque<usize>,
    /// Requests that have not ended, by id from `first` on.
    open: VecDeque<Option<Open>>,
    first: u64,
    /// Of the open ones, those that will be counted.
    counting: u64,
    now: Timestamp,
    window: (Timestamp, Timestamp),
    pub timeline: Option<Timeline>,
}

#[derive(Debug)]
struct Counted {
    items: BatchSize,
    /// The objective; none where the queue is full by construction.
    slo: Option<Nanos>,
    saturated: bool,
    tally: ModelTally,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    model: usize,
    received: Timestamp,
}

impl Traffic {
    /// The traffic of `workload`. Of a saturated model, `fill[model]` requests are
    /// open at all times.
    pub(super) fn new(workload: &Workload, seed: u64, fill: &[u64]) -> Self {
        let mut arrivals = workload.arrivals(seed);
        let next = arrivals.next();
        let models = workload.models().iter().map(|model| {
            let saturated = model.arrivals == ArrivalProcess::Saturated;
            Counted {
                items: model.batch,
                slo: (!saturated).then_some(model.slo),
                saturated,
                tally: ModelTally::default(),
            }
        });
        let models: Vec<Counted> = models.collect();
        // Model by model in turn, so that none is ahead.
        let most = fill.iter().copied().max().unwrap_or(0);
        let turns = (0..most).flat_map(|turn| (0..fill.len()).map(move |model| (turn, model)));
        let refills = turns
            .filter(|&(turn, model)| models[model].saturated && turn < fill[model])
            .map(|(_, model)| model)
            .collect();
        Self {
            setup: VecDeque::new(),
            arrivals,
            next,
            models,
            refills,
            open: VecDeque::new(),
            first: 0,
            counting: 0,
            now: Timestamp::ZERO,
            window: (
                Timestamp::ZERO + workload.warmup(),
                Timestamp::ZERO + workload.end(),
            ),
            timeline: None,
        }
    }

    /// Whether a request that was counted as come has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.counting > 0
    }

    /// What was counted, by model. What is still open counts as late.
    pub(super) fn into_tallies(self) -> (Vec<ModelTally>, Option<Timeline>) {
        let mut models = self.models;
        for open in self.open.into_iter().flatten() {
            let model = &mut models[open.model];
            if !model.saturated && in_window(self.window, open.received) {
                model.tally.late += 1;
            }
        }
        let tallies = models.into_iter().map(|model| model.tally).collect();
        (tallies, self.timeline)
    }

    fn send(&mut self, model: usize, at: Timestamp) -> Input {
        let request = RequestId(self.first + self.open.len() as u64);
        self.open.push_back(Some(Open {
            model,
            received: at,
        }));
        let counted = &mut self.models[model];
        if !counted.saturated && in_window(self.window, at) {
            counted.tally.requests += 1;
            self.counting += 1;
        }
        Input::Arrived(sched::Arrival {
            request,
            model: model_id(model),
            items: counted.items,
            bytes: 0,
            class: ShapeClass(0),
            received: at,
            deadline: None,
            queue_timeout: None,
            overdue: Overdue::Drop,
            priority: 0,
        })
    }

    fn ended(&mut self, request: RequestId, outcome: Outcome) {
        let place = usize::try_from(request.0 - self.first).unwrap_or(usize::MAX);
        let Some(open) = self.open.get_mut(place).and_then(Option::take) else {
            panic!("{request} ended twice");
        };
        while let Some(None) = self.open.front() {
            self.open.pop_front();
            self.first += 1;
        }
        let model = &mut self.models[open.model];
        let counts = if model.saturated {
            self.refills.push_back(open.model);
            in_window(self.window, self.now)
        } else {
            in_window(self.window, open.received)
        };
        if !counts {
            return;
        }
        if model.saturated {
            model.tally.requests += 1;
        } else {
            self.counting -= 1;
        }
        match outcome {
            Outcome::Completed => model.tally.completed(open.received, self.now, model.slo),
            Outcome::Rejected(_) => model.tally.rejected += 1,
            Outcome::Dropped(_) => model.tally.dropped += 1,
            Outcome::Failed(_) => model.tally.failed += 1,
            Outcome::Cancelled => unreachable!("nobody cancels {request}"),
        }
    }
}

/// The id of a model in the simulator: its index in the workload.
pub(super) fn model_id(index: usize) -> ModelId {
    ModelId(u32::try_from(index).unwrap_or(u32::MAX))
}

fn in_window((from, to): (Timestamp, Timestamp), at: Timestamp) -> bool {
    from <= at && at < to
}

impl Outside for Traffic {
    fn next_at(&self) -> Option<Timestamp> {
        if !self.setup.is_empty() || !self.refills.is_empty() {
            return Some(self.now);
        }
        self.next.map(|next| next.at)
    }

    fn poll(&mut self, now: Timestamp) -> Option<Input> {
        self.now = now;
        if let Some(input) = self.setup.pop_front() {
            return Some(input);
        }
        if let Some(model) = self.refills.pop_front() {
            return Some(self.send(model, now));
        }
        let due = self.next.filter(|next| next.at <= now)?;
        self.next = self.arrivals.next();
        Some(self.send(due.model, due.at))
    }

    fn performed(&mut self, now: Timestamp, action: Action) {
        self.now = now;
        if let Action::Finish { request, outcome } = action {
            self.ended(request, outcome);
        }
    }

    fn note(&mut self, decision: &Decision) {
        if let Some(timeline) = &mut self.timeline {
            timeline.note(decision);
        }
    }
}
