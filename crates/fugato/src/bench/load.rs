//! Sending the load: open loop and closed loop.
//!
//! **Invariant:** in open loop nothing the server does delays or skips the count of a
//! request: the sender hands each over when it is due and never waits for a reply, and
//! latency counts from the scheduled time. What cannot be sent because too many requests
//! are outstanding is counted as unsent.

use super::client::{CallError, Client, Outputs, Prepared, Reply, ReplyFault};
use super::compare::compare;
use super::regions::Regions;
use super::stats::{Outcome, Recorder};
use super::tensor::Tensor;
use fugato_core::workload::{Arrival, Arrivals};
use fugato_core::{Nanos, Timestamp};
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The longest the sender sleeps before it looks whether it shall stop.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// The longest wait for replies after a run that was ended early.
const STOPPED_DRAIN: Duration = Duration::from_secs(1);

/// One model's requests, ready to send.
#[derive(Debug)]
pub struct Target {
    /// The requests, by client and case: `requests[client][case]`.
    pub requests: Vec<Vec<Prepared>>,
    /// By case, the outputs expected; empty where answers are not checked.
    pub expected: Vec<Vec<Tensor>>,
    /// The shared memory that inputs are in and outputs go to, where it is used.
    pub regions: Option<Regions>,
}

/// What sends the requests of an open loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pacing {
    /// A thread of its own that sleeps until each request is due: late by the system's
    /// wake-up time (typically 0.1 ms), and using next to no CPU time.
    Thread,
    /// The runtime's timer: late by up to 1 ms, and it follows a paused clock.
    Timer,
}

/// The sender and what it has recorded.
#[derive(Debug)]
pub struct Load {
    clients: Vec<Client>,
    targets: Vec<Target>,
    lanes: Vec<Lane>,
    epoch: Instant,
    /// Requests due before this are not measured.
    warmup: Nanos,
    max_outstanding: u32,
    stop: CancellationToken,
}

/// What changes for one model while requests are sent.
#[derive(Debug)]
struct Lane {
    recorder: Mutex<Recorder>,
    outstanding: Arc<Semaphore>,
    /// Requests sent, for the turn of clients and cases.
    turn: AtomicU64,
}

impl Load {
    /// A load on `targets` over `clients`, whose time starts at once, with up to
    /// `max_outstanding` requests of each model unanswered at any time. Cancelling `stop`
    /// ends it early.
    pub fn new(
        clients: Vec<Client>,
        targets: Vec<Target>,
        warmup: Nanos,
        max_outstanding: u32,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let lane = |_: &Target| Lane {
            recorder: Mutex::default(),
            outstanding: Arc::new(Semaphore::new(max_outstanding as usize)),
            turn: AtomicU64::new(0),
        };
        Arc::new(Self {
            lanes: targets.iter().map(lane).collect(),
            clients,
            targets,
            epoch: Instant::now(),
            warmup,
            max_outstanding,
            stop,
        })
    }

    /// The time since the load's start.
    pub fn now(&self) -> Timestamp {
        Timestamp::ZERO + Nanos::from(self.epoch.elapsed())
    }

    /// Sends every arrival when it is due, then waits up to `drain` for the replies.
    pub async fn open(self: &Arc<Self>, arrivals: Arrivals, pacing: Pacing, drain: Duration) {
        match pacing {
            Pacing::Thread => {
                let (load, runtime) = (Arc::clone(self), Handle::current());
                let sender = std::thread::spawn(move || load.pace(arrivals, &runtime));
                let joined = tokio::task::spawn_blocking(move || sender.join()).await;
                if !matches!(joined, Ok(Ok(()))) {
                    panic!("the sending thread panicked");
                }
            }
            Pacing::Timer => {
                for arrival in arrivals {
                    let due = self.epoch + (arrival.at - Timestamp::ZERO).into();
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = self.stop.cancelled() => break,
                    }
                    self.send(arrival, &Handle::current());
                }
            }
        }
        let idle = async {
            for lane in &self.lanes {
                // An error would say that the semaphore is closed, which nothing does.
                let _ = lane.outstanding.acquire_many(self.max_outstanding).await;
            }
        };
        // Whatever is left after that is counted as unanswered.
        let _ = tokio::time::timeout(self.drain(drain), idle).await;
    }

    /// Sends every arrival when it is due, from a thread that may sleep.
    fn pace(self: &Arc<Self>, arrivals: Arrivals, runtime: &Handle) {
        for arrival in arrivals {
            let due = self.epoch + (arrival.at - Timestamp::ZERO).into();
            loop {
                if self.stop.is_cancelled() {
                    return;
                }
                let left = due.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(STOP_CHECK));
            }
            self.send(arrival, runtime);
        }
    }

    /// Hands one request to the runtime; never waits.
    fn send(self: &Arc<Self>, arrival: Arrival, runtime: &Handle) {
        let lane = &self.lanes[arrival.model];
        let measured = arrival.at >= Timestamp::ZERO + self.warmup;
        if measured {
            lane.recorder().scheduled(self.measured_after(arrival.at));
        }
        let Ok(permit) = Arc::clone(&lane.outstanding).try_acquire_owned() else {
            if measured {
                lane.recorder().unsent();
            }
            return;
        };
        let load = Arc::clone(self);
        runtime.spawn(async move {
            load.call(arrival.model, arrival.at, measured).await;
            drop(permit);
        });
    }

    /// Keeps `concurrency` requests of each model outstanding until `end`, then waits up
    /// to `drain` for the last replies.
    pub async fn closed(self: &Arc<Self>, concurrency: u32, end: Timestamp, drain: Duration) {
        let mut workers = tokio::task::JoinSet::new();
        for model in 0..self.targets.len() {
            for _ in 0..concurrency {
                let load = Arc::clone(self);
                workers.spawn(async move { load.work(model, end).await });
            }
        }
        let done = async {
            while let Some(joined) = workers.join_next().await {
                if let Err(error) = joined {
                    panic!("a closed-loop sender failed: {error}");
                }
            }
        };
        let limit = async {
            let end = self.epoch + (end - Timestamp::ZERO).into();
            tokio::select! {
                () = tokio::time::sleep_until(end) => {}
                () = self.stop.cancelled() => {}
            }
            tokio::time::sleep(self.drain(drain)).await;
        };
        tokio::select! {
            () = done => {}
            () = limit => {}
        }
    }

    /// How long to wait for the last replies.
    fn drain(&self, drain: Duration) -> Duration {
        if self.stop.is_cancelled() {
            drain.min(STOPPED_DRAIN)
        } else {
            drain
        }
    }

    async fn work(&self, model: usize, end: Timestamp) {
        loop {
            let now = self.now();
            if now >= end || self.stop.is_cancelled() {
                return;
            }
            let measured = now >= Timestamp::ZERO + self.warmup;
            if measured {
                let after = self.measured_after(now);
                self.lanes[model].recorder().scheduled(after);
            }
            self.call(model, now, measured).await;
        }
    }

    /// The time from the end of the warm-up to `due`.
    fn measured_after(&self, due: Timestamp) -> Nanos {
        due - (Timestamp::ZERO + self.warmup)
    }

    /// Sends one request and reads its reply, from shared memory where it is there.
    async fn exchange(
        &self,
        target: &Target,
        client: usize,
        case: usize,
    ) -> Result<Reply, CallError> {
        let outputs = if target.expected.is_empty() {
            Outputs::Drop
        } else {
            Outputs::Read
        };
        let request = &target.requests[client][case];
        let Some(regions) = &target.regions else {
            return self.clients[client].infer(request, outputs).await;
        };
        let slot = regions
            .take()
            .expect("there is a slot for each request that may be outstanding");
        let to = Some(slot.prepared(client));
        let mut reply = self.clients[client].infer_to(request, to, outputs).await?;
        let read = slot.read(&mut reply.outputs);
        read.map_err(|source| ReplyFault::Region { source })?;
        Ok(reply)
    }

    /// Takes shared memory back from the servers.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn unregister(&self) -> Result<(), CallError> {
        let mut result = Ok(());
        for regions in self.targets.iter().filter_map(|t| t.regions.as_ref()) {
            result = result.and(regions.unregister(&self.clients).await);
        }
        result
    }

    /// Sends the next request of `model`, due at `due`, and records how it ended.
    async fn call(&self, model: usize, due: Timestamp, measured: bool) {
        let lateness = self.now() - due;
        let (target, lane) = (&self.targets[model], &self.lanes[model]);
        // Clients take turns; each goes through all cases before the next round.
        let turn = usize::try_from(lane.turn.fetch_add(1, Ordering::Relaxed)).unwrap_or(0);
        let client = turn % self.clients.len();
        let cases = &target.requests[client];
        let case = turn / self.clients.len() % cases.len();
        let reply = self.exchange(target, client, case).await;
        let latency = self.now() - due;
        let outcome = match reply {
            Ok(reply) => match target.expected.get(case) {
                Some(expected) => match compare(&reply.outputs, expected) {
                    Ok(()) => Outcome::Answered { batch: reply.batch },
                    Err(mismatch) => Outcome::Wrong {
                        what: format!("case {case}: {mismatch}"),
                    },
                },
                None => Outcome::Answered { batch: reply.batch },
            },
            Err(CallError::Rejected {
                status,
                label,
                message,
            }) => Outcome::Rejected {
                why: format!("{status}: {message}"),
                label: label.unwrap_or(status),
            },
            Err(error) => Outcome::Failed {
                why: with_causes(&error),
            },
        };
        if measured {
            let after = self.measured_after(due);
            lane.recorder().ended(outcome, after, lateness, latency);
        }
    }

    /// Requests sent so far, those of the warm-up included.
    pub fn sent(&self) -> u64 {
        let lanes = self.lanes.iter();
        lanes.map(|lane| lane.turn.load(Ordering::Relaxed)).sum()
    }

    /// What has been recorded so far, by model.
    pub fn recorded(&self) -> Vec<Recorder> {
        let lanes = self.lanes.iter();
        lanes.map(|lane| lane.recorder().clone()).collect()
    }
}

impl Lane {
    /// The recorder. Every change of it is one call that cannot panic half-way, so a
    /// poisoned lock still guards sound counts.
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error and its causes on one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
