//! A lane: a worker thread with a mailbox of one leg behind the running one.
//!
//! **Invariant:** a leg that entered leaves exactly once: the worker takes it (and then
//! reports `Started` and `Finished`), or [`Lane::revoke`] takes it. Both do so under the
//! mailbox's lock.

use crate::clock::MonotonicClock;
use crate::device::{EventSink, LegWork, RevokeLeg, RunErrorKind, RunSplit};
use crate::report::{Outcome, panic_text, report_finished, report_started, run_error};
use fugato_core::{LegIndex, TaskId, Timestamp};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a lane's thread does with a leg.
pub(super) trait Worker: Send + Sync + 'static {
    /// What a leg holds while it runs.
    type Leg;

    /// Prepares the thread (affinity, niceness).
    fn enter(&self);

    /// Takes hold of what a leg needs, before its start is reported: what is taken away
    /// after that report is not missed by the leg.
    fn begin(&self, work: &LegWork) -> Self::Leg;

    /// Runs a leg.
    fn run(&self, work: &LegWork, leg: Self::Leg) -> Outcome;
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
    pub(super) fn start<W: Worker>(
        &self,
        work: LegWork,
        name: &str,
        worker: impl FnOnce() -> Arc<W>,
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

    fn ensure_thread<W: Worker>(
        &self,
        name: &str,
        worker: impl FnOnce() -> Arc<W>,
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
        let error = run_error(work, RunErrorKind::Runtime, detail);
        report_started(&self.mailbox.sink, work, now);
        let sink = &self.mailbox.sink;
        report_finished(sink, work, (now, now), (Err(error), RunSplit::default()));
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
fn work_off(mailbox: &Mailbox, worker: &impl Worker) {
    worker.enter();
    while let Some((work, started)) = mailbox.take() {
        let leg = worker.begin(&work);
        report_started(&mailbox.sink, &work, started);
        let ran = catch_unwind(AssertUnwindSafe(|| worker.run(&work, leg)));
        let outcome = ran.unwrap_or_else(|panic| {
            let detail = format!("the lane panicked: {}", panic_text(&*panic));
            let error = run_error(&work, RunErrorKind::Runtime, detail);
            (Err(error), RunSplit::default())
        });
        let ended = mailbox.clock.now();
        // Before the report, so that whoever hears it may fill the lane again at once.
        mailbox.lock().running = None;
        report_finished(&mailbox.sink, &work, (started, ended), outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceEvent, TaskOutputs};
    use fugato_core::sched::Start;
    use fugato_core::{BatchSize, DeviceId, LaneId, ModelId, PartitionId, SlotIndex};
    use std::sync::mpsc::{Receiver, channel};

    /// Panics on odd tasks.
    struct Moody;

    impl Worker for Moody {
        type Leg = ();

        fn enter(&self) {}

        fn begin(&self, _: &LegWork) {}

        fn run(&self, work: &LegWork, (): ()) -> Outcome {
            let task = work.start.task;
            assert!(task.0.is_multiple_of(2), "odd: {task}");
            (Ok(TaskOutputs::default()), RunSplit::default())
        }
    }

    fn leg(task: u64) -> LegWork {
        LegWork {
            start: Start {
                device: DeviceId(0),
                task: TaskId(task),
                model: ModelId(0),
                leg: LegIndex(0),
                partition: PartitionId(0),
                lane: LaneId(0),
                slot: SlotIndex(0),
                batch: BatchSize(1),
                unsplit: false,
                not_before: Timestamp::ZERO,
                requests: Vec::new(),
            },
            requests: Vec::new(),
        }
    }

    fn lane() -> (Lane, Receiver<DeviceEvent>) {
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let sink = Arc::new(move |event| {
            let sender = sender.lock().expect("no holder panics");
            sender.send(event).expect("the test listens");
        });
        (Lane::new(MonotonicClock::start(), sink), events)
    }

    #[test]
    fn a_panic_fails_its_leg_and_the_lane_goes_on() {
        let (lane, events) = lane();
        for task in 0..4 {
            lane.start(leg(task), "lane", || Arc::new(Moody));
            let started = events.recv().expect("the lane lives");
            assert!(matches!(started, DeviceEvent::Started { .. }));
            let Ok(DeviceEvent::Finished { result, .. }) = events.recv() else {
                panic!("a started leg finishes");
            };
            match result {
                Ok(_) => assert_eq!(task % 2, 0),
                Err(error) => {
                    assert_eq!(error.kind, RunErrorKind::Runtime);
                    assert_eq!(error.detail, format!("the lane panicked: odd: task {task}"));
                }
            }
        }
        lane.close();
        lane.join();
    }

    #[test]
    fn a_closed_lane_gives_back_what_never_began() {
        let (lane, events) = lane();
        let mut late = leg(0);
        late.start.not_before = Timestamp::MAX;
        lane.start(late, "lane", || Arc::new(Moody));
        let left = lane.close();
        lane.join();
        assert_eq!(left.len(), 1);
        assert!(events.try_recv().is_err());
    }
}
