//! The threads that help a lane to run the groups of a stage at once.
//!
//! **Invariant:** [`Crew::run`] returns when the last of its jobs has ended, whatever became
//! of them, so what jobs read and write is lent to them for no longer than the call.

use super::leg::run_bound;
use super::slot::Bound;
use crate::batch::Failed;
use crate::capi::Value;
use crate::device::RunErrorKind;
use crate::os;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A part that is bound and may run.
pub(super) struct Job {
    pub(super) part: usize,
    pub(super) bound: Bound,
    /// Whether the runtime allocates any of its outputs.
    pub(super) is_allocated: bool,
}

/// A part that has run, well or badly.
pub(super) struct Done {
    pub(super) part: usize,
    pub(super) bound: Bound,
    pub(super) result: Result<Vec<Value>, Failed>,
}

/// The helpers of a lane, each on a core of its own. They have the niceness of the thread that
/// makes them, and sleep while there is nothing to do.
pub(super) struct Crew {
    board: Arc<Board>,
    helpers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Board {
    state: Mutex<State>,
    posted: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    done: Vec<Done>,
    closed: bool,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a job and notes its end.
    fn work(&self, job: Job) {
        let done = run(job);
        self.lock().done.push(done);
        self.ended.notify_one();
    }
}

/// Runs a job; a panic is its failure, so that who waits for it does not wait for ever.
fn run(job: Job) -> Done {
    let Job {
        part,
        mut bound,
        is_allocated,
    } = job;
    let ran = catch_unwind(AssertUnwindSafe(|| {
        run_bound(&mut bound.binding, is_allocated)
    }));
    let result = ran.unwrap_or_else(|_| {
        let detail = "a group of the stage panicked".to_owned();
        Err((RunErrorKind::Runtime, detail))
    });
    Done {
        part,
        bound,
        result,
    }
}

impl Crew {
    /// A crew of a thread for each of `cores`, the first for the calling one.
    pub(super) fn new(cores: &[usize]) -> std::io::Result<Self> {
        let mut crew = Self {
            board: Arc::default(),
            helpers: Vec::new(),
        };
        let lane = std::thread::current();
        for (helper, &core) in cores.iter().enumerate().skip(1) {
            let board = Arc::clone(&crew.board);
            let name = format!("{}+{helper}", lane.name().unwrap_or("lane"));
            let thread = std::thread::Builder::new().name(name);
            crew.helpers.push(thread.spawn(move || help(&board, core))?);
        }
        Ok(crew)
    }

    /// Runs jobs at once, as far as there are threads, and waits for the last.
    pub(super) fn run(&self, jobs: Vec<Job>) -> Vec<Done> {
        let count = jobs.len();
        let board = &self.board;
        board.lock().jobs.extend(jobs);
        for _ in 0..self.helpers.len().min(count.saturating_sub(1)) {
            board.posted.notify_one();
        }
        loop {
            let job = board.lock().jobs.pop_front();
            match job {
                Some(job) => board.work(job),
                None => break,
            }
        }
        let mut state = board.lock();
        while state.done.len() < count {
            let woken = board.ended.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut state.done)
    }
}

fn help(board: &Board, core: usize) {
    if let Err(error) = os::pin(&[core]) {
        tracing::warn!(%error, core, "a lane's helper runs unpinned");
    }
    let mut state = board.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            board.work(job);
            state = board.lock();
        } else if state.closed {
            return;
        } else {
            let woken = board.posted.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.board.lock().closed = true;
        self.board.posted.notify_all();
        for helper in self.helpers.drain(..) {
            // What a job came to was reported with it; a helper itself does not panic.
            let _ended = helper.join();
        }
    }
}
