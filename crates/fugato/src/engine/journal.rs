//! The journal: what became of the latest requests that have an id, for `explain`.

use crate::api::{Constraint, Explanation, LegExplanation, TraceContext};
use crate::driver::{Course, ReplyResult, ServeFailure};
use crate::error::InferError;
use crate::telemetry::TracedRequest;
use fugato_core::sched::{DropReason, Rejection, Scope};
use fugato_core::{Nanos, RequestId, Timestamp};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which request, as its client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) model: String,
    pub(super) version: String,
    pub(super) id: String,
}

/// A request that ended.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) arrived: Timestamp,
    pub(super) deadline: Option<Timestamp>,
    pub(super) ended: Timestamp,
    /// The label of its error and its text; `None` where it got its reply.
    pub(super) error: Option<(&'static str, String)>,
    pub(super) constraint: Option<Constraint>,
    pub(super) batch: Option<u32>,
    pub(super) course: Course,
}

/// A request that has not ended.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) name: Name,
    pub(super) arrived: Timestamp,
    pub(super) deadline: Option<Timestamp>,
}

/// What is known of a request.
#[derive(Debug)]
pub(super) enum Found {
    Open(RequestId, Open),
    Ended(Box<Explanation>),
}

/// The latest requests with an id; of two with the same id the later one is found.
#[derive(Debug)]
pub(super) struct Journal {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<RequestId, Open>,
    ended: VecDeque<Record>,
}

impl Journal {
    /// A journal that remembers `limit` ended requests; 0 remembers nothing.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    /// How many ended requests it remembers.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether a request of this id would be remembered.
    pub(super) fn wants(&self, id: &str) -> bool {
        self.limit > 0 && !id.is_empty()
    }

    pub(super) fn began(&self, request: RequestId, open: Open) {
        self.lock().open.insert(request, open);
    }

    pub(super) fn ended(&self, request: RequestId, record: Record) {
        let mut state = self.lock();
        state.open.remove(&request);
        if state.ended.len() >= self.limit {
            state.ended.pop_front();
        }
        state.ended.push_back(record);
    }

    /// Forgets a request whose client went away, or which never reached the scheduler.
    pub(super) fn dropped(&self, request: RequestId) {
        self.lock().open.remove(&request);
    }

    /// The latest request of that model and id.
    pub(super) fn find(&self, model: &str, id: &str) -> Option<Found> {
        let state = self.lock();
        let is_it = |name: &Name| name.model == model && name.id == id;
        let open = state.open.iter().rev().find(|(_, open)| is_it(&open.name));
        if let Some((&request, open)) = open {
            return Some(Found::Open(request, open.clone()));
        }
        let ended = state
            .ended
            .iter()
            .rev()
            .find(|record| is_it(&record.name))?;
        Some(Found::Ended(Box::new(ended.explain())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Microseconds from `arrived` to `at`, which may be earlier.
fn since(arrived: Timestamp, at: Timestamp) -> i64 {
    let micros = |span: Nanos| i64::try_from(span.as_nanos() / 1_000).unwrap_or(i64::MAX);
    if at >= arrived {
        micros(at - arrived)
    } else {
        -micros(arrived - at)
    }
}

impl Open {
    /// The explanation of a request that is in `state`.
    pub(super) fn explain(self, state: &'static str) -> Explanation {
        let Name { model, version, id } = self.name;
        Explanation {
            model_name: model,
            model_version: version,
            id,
            state,
            outcome: None,
            reason: None,
            constraint: None,
            deadline_us: self.deadline.map(|at| since(self.arrived, at)),
            predicted_us: None,
            ended_us: None,
            batch_size: None,
            legs: Vec::new(),
        }
    }
}

impl Record {
    /// The record of a request that ended `now` with `result`.
    pub(super) fn new(open: Open, now: Timestamp, result: &ReplyResult, course: Course) -> Self {
        let constraint = match result {
            Ok(_) => None,
            Err(failure) => constraint(failure, open.arrived, now),
        };
        Self {
            name: open.name,
            arrived: open.arrived,
            deadline: open.deadline,
            ended: now,
            error: None,
            constraint,
            batch: result.as_ref().ok().map(|served| served.batch),
            course,
        }
    }

    /// With the error that its client is told.
    pub(super) fn with_error(mut self, error: Option<&InferError>) -> Self {
        self.error = error.map(|error| (error.kind().facts().label, error.to_string()));
        self
    }

    /// As a request to trace, part of its client's trace `context`.
    pub(super) fn traced(&self, context: Option<TraceContext>) -> TracedRequest<'_> {
        TracedRequest {
            model: &self.name.model,
            version: &self.name.version,
            id: &self.name.id,
            context,
            arrived: self.arrived,
            ended: self.ended,
            error: self.error.as_ref().map(|(label, text)| (*label, &**text)),
            course: &self.course,
        }
    }

    fn explain(&self) -> Explanation {
        let since = |at| since(self.arrived, at);
        let legs = self.course.legs.iter().map(|leg| LegExplanation {
            leg: leg.leg.0,
            unsplit: leg.unsplit,
            task: leg.task.0,
            device: leg.device.0,
            partition: leg.partition.0,
            lane: leg.lane.0,
            batch_size: leg.batch.0,
            committed_ahead: leg.ahead,
            issued_us: since(leg.issued),
            started_us: leg.ran.map(|(started, _)| since(started)),
            ended_us: leg.ran.map(|(_, ended)| since(ended)),
            predicted_run_us: leg
                .predicted
                .map(|run| i64::try_from(run.as_nanos() / 1_000).unwrap_or(i64::MAX)),
        });
        let accepted = self.course.accepted;
        Explanation {
            model_name: self.name.model.clone(),
            model_version: self.name.version.clone(),
            id: self.name.id.clone(),
            state: "ended",
            outcome: Some(self.error.as_ref().map_or("ok", |(label, _)| *label)),
            reason: self.error.as_ref().map(|(_, text)| text.clone()),
            constraint: self.constraint,
            deadline_us: accepted
                .map_or(self.deadline, |accepted| accepted.deadline)
                .map(since),
            predicted_us: accepted.and_then(|accepted| accepted.predicted).map(since),
            ended_us: Some(since(self.ended)),
            batch_size: self.batch,
            legs: legs.collect(),
        }
    }
}

/// The constraint that ended a request, where it was one.
fn constraint(failure: &ServeFailure, arrived: Timestamp, now: Timestamp) -> Option<Constraint> {
    let since = |at| since(arrived, at);
    let span = |span: Nanos| i64::try_from(span.as_nanos() / 1_000).unwrap_or(i64::MAX);
    let scope_name = |scope| match scope {
        Scope::Model => "model",
        Scope::Total => "total",
    };
    match *failure {
        ServeFailure::Rejected(Rejection::DeadlineUnreachable {
            deadline,
            predicted,
            wait,
            run,
        }) => Some(Constraint::Deadline {
            deadline_us: since(deadline),
            predicted_us: since(predicted),
            by_us: span(predicted - deadline),
            wait_us: Some(span(wait)),
            run_us: Some(span(run)),
        }),
        ServeFailure::Rejected(Rejection::NoRoom { deadline, short }) => Some(Constraint::Room {
            deadline_us: since(deadline),
            by_us: span(short),
        }),
        ServeFailure::Dropped(DropReason::Doomed {
            deadline,
            predicted,
        }) => Some(Constraint::Deadline {
            deadline_us: since(deadline),
            predicted_us: since(predicted),
            by_us: span(predicted - deadline),
            wait_us: None,
            run_us: None,
        }),
        ServeFailure::Dropped(DropReason::Expired { deadline }) => Some(Constraint::Expired {
            deadline_us: since(deadline),
            by_us: span(now - deadline),
        }),
        ServeFailure::Dropped(DropReason::QueueTimeout { at }) => Some(Constraint::QueueTimeout {
            timeout_us: since(at),
        }),
        ServeFailure::Rejected(Rejection::QueueFull {
            scope,
            queued,
            limit,
        }) => Some(Constraint::QueueRequests {
            scope: scope_name(scope),
            held: queued,
            limit,
        }),
        ServeFailure::Rejected(Rejection::BytesFull {
            scope,
            held,
            request,
            limit,
        }) => Some(Constraint::QueueBytes {
            scope: scope_name(scope),
            held,
            wanted: request,
            limit,
            by: held.saturating_add(request).saturating_sub(limit),
        }),
        ServeFailure::Rejected(
            Rejection::UnknownModel
            | Rejection::ModelStopping
            | Rejection::Draining
            | Rejection::NoDevice
            | Rejection::BatchTooLarge { .. },
        )
        | ServeFailure::Cancelled
        | ServeFailure::Run(_)
        | ServeFailure::Input(_)
        | ServeFailure::DeviceLost(_) => None,
    }
}
