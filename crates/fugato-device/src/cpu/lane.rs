//! A lane: a worker thread with a mailbox of one leg behind the running one.
//!
//! **Invariant:** a leg that entered leaves exactly once: the worker takes it (and then
//! reports `Started` and `Finished`), or [`Lane::revoke`] takes it. Both do so under the
//! mailbox's lock.

use crate::clock::MonotonicClock;
use crate::device::{
    DeviceEvent, LegWork, RevokeLeg, RunError, RunErrorKind, RunSplit, TaskOutputs,
};
use fugato_core::{LegIndex, TaskId, Timestamp};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where a device reports what happens. Called from lane threads; must not block.
pub type EventSink = Arc<dyn Fn(DeviceEvent) + Send + Sync>;

/// What a lane's thread does with a leg.
pub(super) trait Worker: Send + Sync + 'static {
    /// Prepares the thread (affinity, niceness).
    fn enter(&self);

    /// Runs a leg.
    fn run(&self, work: &LegWork) -> (Result<TaskOutputs, RunError>, RunSplit);
}

/// An in-order queue with a thread that starts when first used.
pub(super) struct Lane {
    mailbox: Arc<Mailbox>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Mailbox {
    state: Mutex<State>,
    changed: Condvar,
    clock: MonotonicClock,
    sink: EventSink,
}

#[derive(Default)]
struct State {
    running: Option<(TaskId, LegIndex)>,
    /// Legs that have not begun: at most one behind a running leg, two where none runs
    /// (the worker is about to take the first).
    waiting: VecDeque<LegWork>,
    closed: bool,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a leg may begin and takes it; `None` when the lane is closed.
    fn take(&self) -> Option<(LegWork, Timestamp)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = self.clock.now();
            let due = state.waiting.front().map(|work| work.start.not_before);
            state = match due {
                None => {
                    let woken = self.changed.wait(state);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
                Some(due) if due > now => {
                    let wait = Duration::from(due - now);
                    let woken = self.changed.wait_timeout(state, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    let work = state.waiting.pop_front()?;
                    state.running = Some((work.start.task, work.start.leg));
                    return Some((work, now));
                }
            };
        }
    }
}

impl Lane {
    pub(super) fn new(clock: MonotonicClock, sink: EventSink) -> Self {
        Self {
            mailbox: Arc::new(Mailbox {
                state: Mutex::default(),
                changed: Condvar::new(),
                clock,
                sink,
            }),
            thread: Mutex::new(None),
        }
    }

    /// Queues a leg, starting the thread where there is none.
    ///
    /// # Panics
    /// Where the lane holds two legs already: a bug of the caller.
    pub(super) fn start(
        &self,
        work: LegWork,
        name: &str,
        worker: impl FnOnce() -> Arc<dyn Worker>,
    ) {
        if let Err(error) = self.ensure_thread(name, worker) {
            self.report_unstarted(&work, &error);
            return;
        }
        let mut state = self.mailbox.lock();
        let held = state.waiting.len() + usize::from(state.running.is_some());
        let (task, running) = (work.start.task, state.running);
        if held >= 2 {
            drop(state);
            panic!("{name} was given {task} while it holds two legs (running: {running:?})");
        }
        state.waiting.push_back(work);
        drop(state);
        self.mailbox.changed.notify_one();
    }

    fn ensure_thread(
        &self,
        name: &str,
        worker: impl FnOnce() -> Arc<dyn Worker>,
    ) -> std::io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let mailbox = Arc::clone(&self.mailbox);
            let worker = worker();
            let builder = std::thread::Builder::new().name(name.to_owned());
            *thread = Some(builder.spawn(move || work_off(&mailbox, &*worker))?);
        }
        Ok(())
    }

    /// Ends a leg whose lane has no thread to run it.
    fn report_unstarted(&self, work: &LegWork, error: &std::io::Error) {
        let now = self.mailbox.clock.now();
        let detail = format!("the lane's thread could not be started: {error}");
        let result = Err(run_error(work, RunErrorKind::Runtime, detail));
        report(
            &self.mailbox.sink,
            work,
            now,
            now,
            RunSplit::default(),
            result,
        );
    }

    /// Takes a leg back if the worker has not taken it.
    pub(super) fn revoke(&self, leg: &RevokeLeg) -> Option<LegWork> {
        let mut state = self.mailbox.lock();
        let waiting = &mut state.waiting;
        let place = waiting
            .iter()
            .position(|work| work.start.task == leg.task && work.start.leg == leg.leg)?;
        waiting.remove(place)
    }

    /// Ends the thread after its running leg; gives the legs that never began.
    pub(super) fn close(&self) -> VecDeque<LegWork> {
        let left = {
            let mut state = self.mailbox.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        self.mailbox.changed.notify_one();
        left
    }

    /// Waits for the thread of a closed lane.
    pub(super) fn join(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = thread.take().map(JoinHandle::join);
        if let Some(Err(panic)) = ended {
            tracing::error!(panic = panic_text(&*panic), "a lane's thread panicked");
        }
    }
}

/// The thread's loop.
fn work_off(mailbox: &Mailbox, worker: &dyn Worker) {
    worker.enter();
    while let Some((work, started)) = mailbox.take() {
        (mailbox.sink)(DeviceEvent::Started {
            device: work.start.device,
            task: work.start.task,
            leg: work.start.leg,
            at: started,
        });
        let ran = catch_unwind(AssertUnwindSafe(|| worker.run(&work)));
        let (result, split) = ran.unwrap_or_else(|panic| {
            let detail = format!("the lane panicked: {}", panic_text(&*panic));
            let error = run_error(&work, RunErrorKind::Runtime, detail);
            (Err(error), RunSplit::default())
        });
        let ended = mailbox.clock.now();
        // Before the report, so that whoever hears it may fill the lane again at once.
        mailbox.lock().running = None;
        finish(&mailbox.sink, &work, started, ended, split, result);
    }
}

fn report(
    sink: &EventSink,
    work: &LegWork,
    started: Timestamp,
    ended: Timestamp,
    split: RunSplit,
    result: Result<TaskOutputs, RunError>,
) {
    sink(DeviceEvent::Started {
        device: work.start.device,
        task: work.start.task,
        leg: work.start.leg,
        at: started,
    });
    finish(sink, work, started, ended, split, result);
}

fn finish(
    sink: &EventSink,
    work: &LegWork,
    started: Timestamp,
    ended: Timestamp,
    split: RunSplit,
    result: Result<TaskOutputs, RunError>,
) {
    sink(DeviceEvent::Finished {
        device: work.start.device,
        task: work.start.task,
        leg: work.start.leg,
        started,
        ended,
        split,
        result,
    });
}

pub(super) fn run_error(work: &LegWork, kind: RunErrorKind, detail: String) -> RunError {
    RunError {
        model: work.start.model,
        batch: work.start.batch.0,
        kind,
        detail,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(owned).unwrap_or("(no message)")
}
