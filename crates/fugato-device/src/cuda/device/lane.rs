//! A lane: legs in order on a stream, and two threads. One takes a leg up, gathers its inputs
//! and enqueues it; the other waits until the device is done with it and reports.
//!
//! The next leg is gathered, copied and enqueued while the one before it runs, so the device
//! goes from one to the other by itself. From then on it cannot be taken back: whoever tries
//! gets its start.
//!
//! **Invariant:** a leg that entered leaves exactly once, and its events come in order: what
//! changes a lane's legs and what reports the change is done under [`Lane::reports`].

use super::super::backend::Backend;
use super::model::{LaneKey, LoadedModel};
use super::run::{Enqueued, Ran, Readied};
use crate::batch::Failed;
use crate::device::{DeviceEvent, EventSink, LegWork, RevokeLeg, RunErrorKind, RunSplit};
use crate::report::{report_finished, report_started, run_error};
use crate::store::LoadCause;
use fugato_core::{ModelId, Nanos, Timestamp};
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The legs of a lane.
pub(super) struct Lane<B: Backend> {
    pub(super) key: LaneKey,
    state: Mutex<State<B>>,
    changed: Condvar,
    /// Held while legs change hands and that is reported.
    reports: Mutex<()>,
}

struct State<B: Backend> {
    /// Legs that nobody has taken up.
    waiting: VecDeque<LegWork>,
    /// Models to be made ready, before legs.
    jobs: VecDeque<Job<B>>,
    /// The one that was taken up.
    job: Option<Taking>,
    /// Legs that were taken up, the running one first.
    flights: VecDeque<Flight<B>>,
    serial: u64,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    /// No leg is taken up any more.
    Closed,
    /// Nothing that the device was given ends.
    Lost,
}

/// A model to be made ready on a lane, and who waits for that.
pub(super) struct Job<B: Backend> {
    pub(super) model: Arc<LoadedModel<B>>,
    pub(super) done: Sender<Result<Readied, LoadCause>>,
}

/// A model that is being made ready.
struct Taking {
    name: String,
    done: Sender<Result<Readied, LoadCause>>,
    watch: Option<Watch>,
}

/// A leg that was taken up.
struct Flight<B: Backend> {
    serial: u64,
    /// Without its requests.
    work: LegWork,
    /// Whether the thread that took it up has all it needs for it.
    ready: bool,
    /// `None` before that, and while another leg runs before it.
    started: Option<Timestamp>,
    watch: Option<Watch>,
    /// What the device was given, or why it was not.
    given: Option<Result<Enqueued<B>, Failed>>,
}

/// When the device was given something, and how long that may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub(super) since: Timestamp,
    pub(super) limit: Nanos,
}

/// What there is to do for the thread that takes legs up.
pub(super) enum Next<B: Backend> {
    Job(Job<B>),
    Leg(Taken<B>),
    Close,
}

/// A leg as the thread that took it up has it.
pub(super) struct Taken<B: Backend> {
    pub(super) serial: u64,
    pub(super) work: LegWork,
    pub(super) model: Option<Arc<LoadedModel<B>>>,
}

/// What a lane reports with: the clock, and to whom.
pub(super) struct Reporter<'a> {
    pub(super) clock: &'a (dyn Fn() -> Timestamp + Send + Sync),
    pub(super) sink: &'a EventSink,
}

impl<B: Backend> Lane<B> {
    pub(super) fn new(key: LaneKey) -> Self {
        Self {
            key,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                jobs: VecDeque::new(),
                job: None,
                flights: VecDeque::new(),
                serial: 0,
                standing: Standing::Open,
            }),
            changed: Condvar::new(),
            reports: Mutex::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reporting(&self) -> MutexGuard<'_, ()> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State<B>>) -> MutexGuard<'s, State<B>> {
        let woken = self.changed.wait(state);
        woken.unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a leg; gives it back where the lane takes nothing more.
    ///
    /// # Panics
    /// Where the lane holds two legs already: a bug of the caller.
    pub(super) fn start(&self, work: LegWork) -> Option<LegWork> {
        let mut state = self.lock();
        if state.standing != Standing::Open {
            return Some(work);
        }
        let held = state.waiting.len() + state.flights.len();
        let (task, (partition, lane)) = (work.start.task, self.key);
        if held >= 2 {
            drop(state);
            panic!("{lane} of {partition} was given {task} while it holds two legs");
        }
        state.waiting.push_back(work);
        drop(state);
        self.changed.notify_all();
        None
    }

    /// Queues a model to be made ready; gives it back where the lane takes nothing more.
    pub(super) fn prepare(&self, job: Job<B>) -> Option<Job<B>> {
        let mut state = self.lock();
        if state.standing != Standing::Open {
            return Some(job);
        }
        state.jobs.push_back(job);
        drop(state);
        self.changed.notify_all();
        None
    }

    /// Takes a leg back if nobody has taken it up.
    pub(super) fn revoke(&self, leg: &RevokeLeg) -> Option<LegWork> {
        let mut state = self.lock();
        let waiting = &mut state.waiting;
        let place = waiting
            .iter()
            .position(|work| work.start.task == leg.task && work.start.leg == leg.leg)?;
        waiting.remove(place)
    }

    /// Waits until there is something to do and takes it; `begin` takes hold of a leg's model.
    pub(super) fn take(
        &self,
        clock: &dyn Fn() -> Timestamp,
        begin: impl Fn(ModelId) -> Option<Arc<LoadedModel<B>>>,
    ) -> Next<B> {
        let mut state = self.lock();
        loop {
            if state.standing != Standing::Open {
                return Next::Close;
            }
            if let Some(job) = state.jobs.pop_front() {
                let (_, origin) = B::describe(&job.model.model);
                state.job = Some(Taking {
                    name: origin.display().to_string(),
                    done: job.done.clone(),
                    watch: None,
                });
                return Next::Job(job);
            }
            let due = state.waiting.front().map(|work| work.start.not_before);
            let now = clock();
            state = match due {
                Some(due) if due > now => {
                    let woken = self.changed.wait_timeout(state, Duration::from(due - now));
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => match state.waiting.pop_front() {
                    Some(work) => return Next::Leg(state.take_up(work, begin)),
                    None => state,
                },
                None => self.wait(state),
            };
        }
    }

    /// A leg that was taken up can be given to the device: it starts, unless another runs.
    pub(super) fn begin(&self, serial: u64, reporter: &Reporter<'_>) {
        let _in_order = self.reporting();
        let mut state = self.lock();
        let first = state.flights.front().map(|first| first.serial);
        let flight = state.flights.iter_mut();
        let Some(flight) = flight.into_iter().find(|flight| flight.serial == serial) else {
            return;
        };
        flight.ready = true;
        if first == Some(serial) {
            let now = (reporter.clock)();
            flight.started = Some(now);
            let event = started(&flight.work, now);
            drop(state);
            (reporter.sink)(event);
        }
    }

    /// Notes when the device is given a leg, and how long that may take; `None`: it has nothing
    /// of it.
    pub(super) fn watch(&self, serial: u64, watch: Option<Watch>) {
        let mut state = self.lock();
        let flight = state.flights.iter_mut();
        if let Some(flight) = flight.into_iter().find(|flight| flight.serial == serial) {
            flight.watch = watch;
        }
    }

    /// As [`watch`](Self::watch), of the model that is being made ready.
    pub(super) fn watch_job(&self, watch: Option<Watch>) {
        if let Some(job) = &mut self.lock().job {
            job.watch = watch;
        }
    }

    /// The model that was being made ready is, or it cannot be.
    pub(super) fn end_job(&self) {
        self.lock().job = None;
    }

    /// Notes what the device was given for a leg, for [`next_given`](Self::next_given).
    pub(super) fn give(&self, serial: u64, given: Result<Enqueued<B>, Failed>) {
        let mut state = self.lock();
        let flight = state.flights.iter_mut();
        match flight.into_iter().find(|flight| flight.serial == serial) {
            Some(flight) => flight.given = Some(given),
            None => leak(given),
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until the device was given the leg that is next to end; `None` when there will be
    /// no more.
    pub(super) fn next_given(&self) -> Option<(u64, Result<Enqueued<B>, Failed>)> {
        let mut state = self.lock();
        loop {
            match state.standing {
                Standing::Lost => return None,
                Standing::Closed if state.flights.is_empty() => return None,
                Standing::Open | Standing::Closed => {}
            }
            if let Some(flight) = state.flights.front_mut()
                && let Some(given) = flight.given.take()
            {
                return Some((flight.serial, given));
            }
            state = self.wait(state);
        }
    }

    /// Reports the end of the first leg, and the start of the one behind it.
    pub(super) fn end(&self, serial: u64, ran: Result<Ran, Failed>, reporter: &Reporter<'_>) {
        let _in_order = self.reporting();
        let mut state = self.lock();
        if state.flights.front().map(|first| first.serial) != Some(serial) {
            // It was reported with the loss of the device.
            return;
        }
        let ended = (reporter.clock)();
        let Some(Flight { work, started, .. }) = state.flights.pop_front() else {
            return;
        };
        let next = state.flights.front_mut().filter(|next| next.ready);
        let follows = next.map(|next| {
            next.started = Some(ended);
            self::started(&next.work, ended)
        });
        drop(state);
        self.changed.notify_all();
        if started.is_none() {
            // It failed before it could be given to the device.
            report_started(reporter.sink, &work, ended);
        }
        let started = started.unwrap_or(ended);
        let outcome = match ran {
            Ok(ran) => (Ok(ran.outputs), within(ran.split, ended - started)),
            Err((kind, detail)) => (Err(run_error(&work, kind, detail)), RunSplit::default()),
        };
        report_finished(reporter.sink, &work, (started, ended), outcome);
        if let Some(event) = follows {
            (reporter.sink)(event);
        }
    }

    /// What the device should have been done with by now.
    pub(super) fn overdue(&self, now: Timestamp) -> Option<String> {
        let state = self.lock();
        let late = |since: Timestamp, limit: Nanos, what: &dyn Fn() -> String| {
            let took = now.since(since);
            (took > limit).then(|| {
                format!(
                    "{} on {} of {} for {:.1} s, which may take {:.1} s",
                    what(),
                    self.key.1,
                    self.key.0,
                    took.as_secs_f64(),
                    limit.as_secs_f64()
                )
            })
        };
        let job = state.job.as_ref().and_then(|job| {
            let watch = job.watch?;
            late(watch.since, watch.limit, &|| {
                format!("`{}`, which is being loaded, has been running", job.name)
            })
        });
        job.or_else(|| {
            let first = state.flights.front()?;
            let (watch, started) = (first.watch?, first.started?);
            let start = &first.work.start;
            late(watch.since.max(started), watch.limit, &|| {
                format!(
                    "{} of {} of {} with a {} has been running",
                    start.leg, start.task, start.model, start.batch
                )
            })
        })
    }

    /// Ends every leg, since the device ends none any more.
    pub(super) fn lose(&self, detail: &str, reporter: &Reporter<'_>) {
        let _in_order = self.reporting();
        let (flights, waiting) = {
            let mut state = self.lock();
            state.standing = Standing::Lost;
            // Whoever waits for a job hears of it by the end of its sender.
            state.jobs.clear();
            // The thread that is at this one may never come back to send anything.
            if let Some(job) = state.job.take() {
                let detail = detail.to_owned();
                // Whoever waited may have gone away.
                let _ = job.done.send(Err(LoadCause::DeviceLost { detail }));
            }
            (
                std::mem::take(&mut state.flights),
                std::mem::take(&mut state.waiting),
            )
        };
        self.changed.notify_all();
        let flights = flights.into_iter().map(|flight| {
            flight.given.into_iter().for_each(leak);
            (flight.work, flight.started)
        });
        let waiting = waiting.into_iter().map(|work| (work, None));
        for (work, started) in flights.chain(waiting) {
            report_lost(&work, started, detail, reporter);
        }
    }

    /// Takes no more legs; gives those that nobody has taken up.
    pub(super) fn close(&self) -> VecDeque<LegWork> {
        let mut state = self.lock();
        if state.standing == Standing::Open {
            state.standing = Standing::Closed;
        }
        state.jobs.clear();
        let left = std::mem::take(&mut state.waiting);
        drop(state);
        self.changed.notify_all();
        left
    }
}

impl<B: Backend> State<B> {
    fn take_up(
        &mut self,
        mut work: LegWork,
        begin: impl Fn(ModelId) -> Option<Arc<LoadedModel<B>>>,
    ) -> Taken<B> {
        let (serial, requests) = (self.serial, std::mem::take(&mut work.requests));
        self.serial += 1;
        let taken = Taken {
            serial,
            model: begin(work.start.model),
            work: LegWork {
                start: work.start.clone(),
                requests,
            },
        };
        self.flights.push_back(Flight {
            serial,
            work,
            ready: false,
            started: None,
            watch: None,
            given: None,
        });
        taken
    }
}

fn started(work: &LegWork, at: Timestamp) -> DeviceEvent {
    DeviceEvent::Started {
        device: work.start.device,
        task: work.start.task,
        leg: work.start.leg,
        at,
    }
}

/// Reports a leg of a device that is lost.
pub(super) fn report_lost(
    work: &LegWork,
    started: Option<Timestamp>,
    detail: &str,
    reporter: &Reporter<'_>,
) {
    let now = (reporter.clock)();
    if started.is_none() {
        report_started(reporter.sink, work, now);
    }
    let error = run_error(work, RunErrorKind::DeviceLost, detail.to_owned());
    let outcome = (Err(error), RunSplit::default());
    report_finished(reporter.sink, work, (started.unwrap_or(now), now), outcome);
}

/// Keeps what a lost device may be writing to. Giving it back could wait for that device for
/// ever, and the process is about to end.
fn leak<B: Backend>(given: Result<Enqueued<B>, Failed>) {
    std::mem::forget(given);
}

/// A split that fits a leg of such a length: copies that went on while the leg before ran are
/// no part of it. What the device had to do with it stays as the device told it.
fn within(split: RunSplit, whole: Nanos) -> RunSplit {
    let infer = split.infer.min(whole);
    let output = split.output.min(whole.saturating_sub(infer));
    let input = whole.saturating_sub(infer + output).min(split.input);
    RunSplit {
        input,
        infer,
        output,
        ..split
    }
}
