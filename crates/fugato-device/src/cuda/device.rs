//! The device over any [`Backend`]: models, lanes, and what happens when the device is lost.
//!
//! Start reading at [`GpuDevice`]. `load` brings models up, `lane` keeps the order of legs and
//! events, `run` gets a leg onto the device and off it; `model` has what is loaded, `session` what
//! runs it on a lane, `streams` what it runs on, `at_once` how groups of a leg run side by side,
//! `slot` the buffers of a task, `output` those of its results.
//!
//! **Invariant:** once the device is lost nothing is given to it, nothing of it is waited for,
//! and no memory that it may write to is given back: every leg ends as
//! [`RunErrorKind::DeviceLost`], and the process is to end.

mod answers;
mod at_once;
mod lane;
mod load;
mod model;
mod output;
mod run;
mod session;
mod slot;
mod streams;
#[cfg(test)]
mod tests;
mod watchdog;

use super::backend::Backend;
use super::priority::Priorities;
use crate::device::{
    Device, DeviceEvent, DeviceMetrics, EventSink, LeftBehind, LegWork, RevokeLeg, RunErrorKind,
    RunSplit,
};
use crate::report::{panic_text, report_finished, report_started, run_error};
use crate::store::LoadCause;
use crate::urgency::Urgency;
use fugato_core::device::DeviceSpec;
use fugato_core::{LaneId, ModelId, Nanos, Timestamp};
use lane::{Job, Lane, Next, Reporter, Watch};
use model::{LaneKey, LoadedModel};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;
use streams::LaneTools;
use watchdog::Watchdog;

/// Tells the time on the axis of the device's events.
pub(super) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// After what time without an end a leg is taken to hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HangLimit {
    /// At least so long.
    pub(super) least: Nanos,
    /// And so many times as long as the longest run seen of that model, batch and partition.
    pub(super) times: u64,
}

/// What first runs of a session may take, in [`HangLimit::least`]: they make plans of convolutions,
/// and libraries compile kernels in them.
const LOADING: u64 = 4;

impl HangLimit {
    fn of(self, longest: Option<Nanos>) -> Nanos {
        let seen = longest.map_or(Nanos::ZERO, |longest| longest.times(self.times));
        seen.max(self.least)
    }

    /// Where it may be the first run of a session.
    fn loading(self) -> Nanos {
        self.least.times(LOADING)
    }
}

/// A device.
pub(super) struct GpuDevice<B: Backend> {
    core: Arc<Core<B>>,
    threads: Mutex<HashMap<LaneKey, [JoinHandle<()>; 2]>>,
    /// Disconnected when the threads of all lanes have ended.
    ended: Mutex<(Option<Sender<()>>, Receiver<()>)>,
    watchdog: Option<Watchdog>,
}

/// What a device's threads share.
struct Core<B: Backend> {
    backend: B,
    spec: DeviceSpec,
    clock: Clock,
    sink: EventSink,
    hang: HangLimit,
    side_by_side: bool,
    /// Of the device's streams, once they were asked for.
    priorities: OnceLock<Priorities>,
    models: RwLock<HashMap<ModelId, Arc<LoadedModel<B>>>>,
    /// `lanes[partition][lane]`, as in the spec.
    lanes: Vec<Vec<Lane<B>>>,
    /// Why it is lost.
    lost: OnceLock<String>,
    legs: AtomicU64,
    legs_at_once: AtomicU64,
    legs_captured: AtomicU64,
    bytes_copied_in: AtomicU64,
    /// Whether it did not tell what a leg took, which was said.
    silent: Arc<AtomicBool>,
}

/// What a device is made of.
pub(super) struct Parts<B> {
    pub(super) backend: B,
    pub(super) spec: DeviceSpec,
    pub(super) clock: Clock,
    pub(super) sink: EventSink,
    pub(super) hang: HangLimit,
    /// Whether groups that a plan has at once run so, where they can.
    pub(super) side_by_side: bool,
}

impl<B: Backend> GpuDevice<B> {
    /// A device without models. Threads start when their lanes are first used.
    pub(super) fn new(parts: Parts<B>) -> Self {
        let Parts {
            backend,
            spec,
            clock,
            sink,
            hang,
            side_by_side,
        } = parts;
        let lanes = spec.partitions.iter().map(|partition| {
            let keys = (0..partition.lanes.len()).map(|lane| {
                let lane = u16::try_from(lane).unwrap_or(u16::MAX);
                (partition.id, LaneId(lane))
            });
            keys.map(Lane::new).collect()
        });
        let (sender, receiver) = channel();
        Self {
            core: Arc::new(Core {
                lanes: lanes.collect(),
                backend,
                spec,
                clock,
                sink,
                hang,
                side_by_side,
                priorities: OnceLock::new(),
                models: RwLock::default(),
                lost: OnceLock::new(),
                legs: AtomicU64::new(0),
                legs_at_once: AtomicU64::new(0),
                legs_captured: AtomicU64::new(0),
                bytes_copied_in: AtomicU64::new(0),
                silent: Arc::default(),
            }),
            threads: Mutex::default(),
            ended: Mutex::new((Some(sender), receiver)),
            watchdog: None,
        }
    }

    /// Starts a thread that looks now and then whether the device hangs.
    pub(super) fn watched(mut self) -> Self {
        let core = Arc::clone(&self.core);
        self.watchdog = Watchdog::start(core.hang.least, move || core.look())
            .inspect_err(|error| {
                tracing::warn!(%error, "nobody watches whether the device hangs");
            })
            .ok();
        self
    }

    /// Unloads a model; says whether it was loaded. Legs that were taken up finish, later ones
    /// fail, and its memory is freed with its last leg.
    pub(super) fn unload(&self, id: ModelId) -> bool {
        let mut models = self
            .core
            .models
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let unloaded = models.remove(&id);
        drop(models);
        let was_loaded = unloaded.is_some();
        if self.core.lost.get().is_some() {
            // Giving its memory back could wait for the device for ever.
            std::mem::forget(unloaded);
        }
        was_loaded
    }

    pub(super) fn metrics(&self) -> DeviceMetrics {
        DeviceMetrics {
            legs: self.core.legs.load(Ordering::Relaxed),
            legs_at_once: self.core.legs_at_once.load(Ordering::Relaxed),
            legs_captured: self.core.legs_captured.load(Ordering::Relaxed),
            bytes_copied_in: self.core.bytes_copied_in.load(Ordering::Relaxed),
            bytes_copied_out: 0,
            gpu: None,
        }
    }

    fn ensure_threads(&self, key: LaneKey) -> std::io::Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.contains_key(&key) {
            return Ok(());
        }
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let spawn = |kind: &str, work: fn(&Core<B>, LaneKey)| {
            let (core, ended) = (Arc::clone(&self.core), ended.0.clone());
            // Linux shows 15 bytes of a thread's name.
            let name = format!("{kind}-{}.{}", key.0.0, key.1.0);
            let builder = std::thread::Builder::new().name(name);
            builder.spawn(move || {
                work(&core, key);
                drop(core);
                drop(ended);
            })
        };
        let feeds = spawn("lane", Core::feed)?;
        let reaps = spawn("ends", Core::reap).inspect_err(|_| {
            // The lane is of no use without it, and says so to whoever starts a leg there.
            if let Some(lane) = self.core.find(key) {
                lane.close();
            }
        })?;
        threads.insert(key, [feeds, reaps]);
        Ok(())
    }

    fn report_revoked(&self, work: &LegWork) {
        (self.core.sink)(DeviceEvent::Revoked {
            device: work.start.device,
            task: work.start.task,
            leg: work.start.leg,
        });
    }

    /// Whether it is lost to this process.
    pub(super) fn is_lost(&self) -> bool {
        self.core.lost.get().is_some()
    }

    #[cfg(test)]
    fn core(&self) -> &Core<B> {
        &self.core
    }
}

impl<B: Backend> Device for GpuDevice<B> {
    fn spec(&self) -> &DeviceSpec {
        &self.core.spec
    }

    fn start(&self, work: LegWork) {
        let (core, key) = (&self.core, (work.start.partition, work.start.lane));
        let lane = core.lane(key);
        let (work, detail) = match self.ensure_threads(key) {
            Err(error) => {
                let detail = format!("the lane's threads could not be started: {error}");
                (work, detail)
            }
            Ok(()) => match (lane.start(work), core.lost.get()) {
                (None, _) => return,
                (Some(work), Some(lost)) => {
                    return lane::report_lost(&work, None, lost, &core.reporter());
                }
                (Some(work), None) => (work, "the device is being closed".to_owned()),
            },
        };
        let now = (core.clock)();
        let error = run_error(&work, RunErrorKind::Runtime, detail);
        report_started(&core.sink, &work, now);
        let outcome = (Err(error), RunSplit::default());
        report_finished(&core.sink, &work, (now, now), outcome);
    }

    fn revoke(&self, leg: &RevokeLeg) {
        let lane = self.core.lane((leg.partition, leg.lane));
        if let Some(work) = lane.revoke(leg) {
            self.report_revoked(&work);
        }
    }

    fn let_go(&self, left: &LeftBehind) {
        if let Some(model) = self.core.model(left.model) {
            model.let_go(left.task, left.slot);
        }
    }
}

impl<B: Backend> Drop for GpuDevice<B> {
    /// Lets legs that were taken up finish, revokes the others and joins the threads. Threads
    /// that wait for a lost device are left to the end of the process.
    fn drop(&mut self) {
        let lanes = || self.core.lanes.iter().flatten();
        for work in lanes().flat_map(Lane::close) {
            self.report_revoked(&work);
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.0 = None;
        loop {
            // The watchdog goes on meanwhile, and finds out where a thread waits in vain.
            match ended.1.recv_timeout(Duration::from_millis(20)) {
                Err(RecvTimeoutError::Disconnected) => break,
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            }
            if self.core.lost.get().is_some() {
                break;
            }
        }
        drop(self.watchdog.take());
        if self.core.lost.get().is_some() {
            std::mem::forget(Arc::clone(&self.core));
            return;
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain().flat_map(|(_, threads)| threads) {
            if let Err(panic) = thread.join() {
                tracing::error!(panic = panic_text(&*panic), "a lane's thread panicked");
            }
        }
    }
}

impl<B: Backend> Core<B> {
    fn reporter(&self) -> Reporter<'_> {
        Reporter {
            clock: &*self.clock,
            sink: &self.sink,
        }
    }

    fn find(&self, (partition, lane): LaneKey) -> Option<&Lane<B>> {
        let lanes = self.lanes.get(usize::from(partition.0))?;
        lanes.get(usize::from(lane.0))
    }

    fn lane(&self, key: LaneKey) -> &Lane<B> {
        let found = self.find(key);
        found.unwrap_or_else(|| panic!("the device has no {} of {}", key.1, key.0))
    }

    fn model(&self, id: ModelId) -> Option<Arc<LoadedModel<B>>> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        models.get(&id).map(Arc::clone)
    }

    fn alive(&self) -> Result<(), LoadCause> {
        match self.lost.get() {
            None => Ok(()),
            Some(detail) => Err(LoadCause::DeviceLost {
                detail: detail.clone(),
            }),
        }
    }

    /// The device is lost: says so once, and ends every leg.
    fn lose(&self, detail: &str) {
        if self.lost.set(detail.to_owned()).is_err() {
            return;
        }
        (self.sink)(DeviceEvent::Lost {
            device: self.spec.id,
            detail: detail.to_owned(),
        });
        for lane in self.lanes.iter().flatten() {
            lane.lose(detail, &self.reporter());
        }
    }

    /// Has the device do something for the model that a lane makes ready, and watches whether it
    /// hangs. What `work` does takes no longer than a run, and waits for nobody else.
    fn watched<T>(&self, key: LaneKey, work: impl FnOnce() -> T) -> T {
        let (lane, since) = (self.lane(key), (self.clock)());
        let limit = self.hang.loading();
        lane.watch_job(Some(Watch { since, limit }));
        let done = work();
        lane.watch_job(None);
        done
    }

    /// Looks whether the device hangs.
    fn look(&self) {
        let now = (self.clock)();
        let overdue = self
            .lanes
            .iter()
            .flatten()
            .find_map(|lane| lane.overdue(now));
        if let Some(detail) = overdue {
            self.lose(&format!("it hangs: {detail}"));
        }
    }

    /// The thread of a lane that takes legs up and gives them to the device.
    fn feed(&self, key: LaneKey) {
        let lane = self.lane(key);
        let mut tools = LaneTools::new(key);
        loop {
            match lane.take(&*self.clock, |model| self.model(model)) {
                Next::Close => return,
                Next::Job(job) => {
                    let prepared = tools
                        .of(self, job.model.tuning.urgency)
                        .map_err(LoadCause::from)
                        .and_then(|tools| guarded(|| tools.prepare(self, &job.model)));
                    let Job { model, done } = job;
                    // What is refused gives its memory back before that is heard of.
                    drop(model);
                    lane.end_job();
                    // Whoever waited may have gone away.
                    let _ = done.send(prepared);
                }
                Next::Leg(taken) => {
                    let model = taken.model.as_ref();
                    let urgency = model.map_or(Urgency::LEAST, |model| model.tuning.urgency);
                    let given = tools
                        .of(self, urgency)
                        .map_err(run::failed)
                        .and_then(|tools| guarded(|| tools.enqueue(self, &taken)));
                    let serial = taken.serial;
                    drop(taken);
                    match given {
                        Err((RunErrorKind::DeviceLost, detail)) => self.lose(&detail),
                        given => lane.give(serial, given),
                    }
                }
            }
        }
    }

    /// The thread of a lane that waits for the device and reports.
    fn reap(&self, key: LaneKey) {
        let lane = self.lane(key);
        if let Err(fault) = self.backend.enter() {
            tracing::warn!(%fault, "a lane's second thread could not be made one of the device");
        }
        while let Some((serial, given)) = lane.next_given() {
            let ran = given.and_then(|given| guarded(|| given.finish(&self.backend)));
            match ran {
                Err((RunErrorKind::DeviceLost, detail)) => self.lose(&detail),
                ran => {
                    self.legs.fetch_add(1, Ordering::Relaxed);
                    let copied = ran.as_ref().map_or(0, |ran| ran.bytes_copied_in);
                    self.bytes_copied_in.fetch_add(copied, Ordering::Relaxed);
                    lane.end(serial, ran, &self.reporter());
                }
            }
        }
    }
}

/// Runs `work`; a panic fails it and nothing else.
fn guarded<T, E: Panicked>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|panic| {
        let detail = format!("the lane panicked: {}", panic_text(&*panic));
        Err(E::panicked(detail))
    })
}

/// An error that a panic can be made into.
trait Panicked {
    fn panicked(detail: String) -> Self;
}

impl Panicked for LoadCause {
    fn panicked(detail: String) -> Self {
        Self::Device { detail }
    }
}

impl Panicked for crate::batch::Failed {
    fn panicked(detail: String) -> Self {
        (RunErrorKind::Runtime, detail)
    }
}
