//! The timeline of the server: the legs that ended last, for whoever asks, and in a file.
//!
//! **Invariant:** the driver's thread only takes note of a leg, and waits for a reader for no
//! longer than it takes to copy [`CHUNK`] legs. The file is a whole document at any time.

use crate::api::TimelineTrace;
use fugato_core::device::DeviceSpec;
use fugato_core::sched::Decision;
use fugato_core::timeline::{Timeline, TimelineLeg};
use fugato_core::{ModelId, Timestamp};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Legs that are copied at a time: tens of microseconds.
const CHUNK: usize = 1_024;

/// How often the file is written, at most: what a process that is killed loses.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// Of the time, the part that writing the file takes at most.
const WRITE_SHARE: u32 = 50;

/// Names of models that are remembered, with those that were taken out.
const NAMES_MAX: usize = 4_096;

/// The legs that ended last.
pub(super) struct LiveTimeline {
    devices: Mutex<Vec<DeviceSpec>>,
    legs: Mutex<Timeline>,
    names: Mutex<BTreeMap<ModelId, String>>,
}

impl LiveTimeline {
    /// A timeline that keeps the last `most` legs.
    pub(super) fn new(most: usize) -> Self {
        Self {
            devices: Mutex::default(),
            legs: Mutex::new(Timeline::new(most)),
            names: Mutex::default(),
        }
    }

    /// Shows a device too, before its first leg.
    pub(super) fn add_device(&self, device: &DeviceSpec) {
        self.legs().add_device(device);
        self.devices().push(device.clone());
    }

    /// Takes note of a leg that ended.
    pub(super) fn note(&self, decision: &Decision) {
        self.legs().note(decision);
    }

    /// Takes note of what people call a model.
    pub(super) fn name(&self, id: ModelId, name: &str, version: &str) {
        let mut names = self.names();
        names.insert(id, format!("{name}/{version}"));
        while names.len() > NAMES_MAX {
            names.pop_first();
        }
    }

    /// The legs that ended at `since` or later, as far as they are kept.
    pub(super) fn since(&self, since: Timestamp) -> TimelineTrace {
        let (mut lost, end) = {
            let legs = self.legs();
            (legs.lost(), legs.lost() + legs.legs().len() as u64)
        };
        let (mut kept, mut next) = (Vec::new(), 0);
        while next < end {
            let (chunk, after) = self.chunk(next);
            if next == 0 && chunk.first().is_some_and(|oldest| oldest.ended < since) {
                // What is gone is older than what is asked for.
                lost = 0;
            }
            kept.extend(chunk.into_iter().filter(|leg| leg.ended >= since));
            next = after;
        }
        TimelineTrace {
            devices: self.devices().clone(),
            models: self.names().clone(),
            legs: kept,
            lost,
        }
    }

    /// A few legs from the one that was the `from`th to end, or from the oldest that is kept;
    /// and the number of the one after them.
    fn chunk(&self, from: u64) -> (Vec<TimelineLeg>, u64) {
        let legs = self.legs();
        let first = from.max(legs.lost());
        let skip = usize::try_from(first - legs.lost()).unwrap_or(usize::MAX);
        let chunk: Vec<TimelineLeg> = legs.legs().skip(skip).take(CHUNK).copied().collect();
        // Where nothing is left there is nothing to go on with.
        let after = if chunk.is_empty() {
            u64::MAX
        } else {
            first + chunk.len() as u64
        };
        (chunk, after)
    }

    fn devices(&self) -> MutexGuard<'_, Vec<DeviceSpec>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn legs(&self) -> MutexGuard<'_, Timeline> {
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<ModelId, String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the timeline cannot be kept in its file.
#[derive(Debug, thiserror::Error)]
#[error("the timeline `{}` cannot be written", path.display())]
pub struct TimelineFileError {
    /// The file.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

/// Writes the timeline to a file now and then, and at the end.
pub(super) struct TimelineFile {
    path: PathBuf,
    timeline: Arc<LiveTimeline>,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl TimelineFile {
    /// Writes the file, which has no legs yet, and starts a thread that keeps it.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn create(
        path: &Path,
        timeline: Arc<LiveTimeline>,
    ) -> Result<Self, TimelineFileError> {
        let failed = |source| TimelineFileError {
            path: path.to_owned(),
            source,
        };
        write(path, &timeline).map_err(failed)?;
        let (stop, stopped) = channel();
        let (own, of) = (path.to_owned(), Arc::clone(&timeline));
        let keep = move || {
            let mut pause = WRITE_EVERY;
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let begun = Instant::now();
                if let Err(error) = write(&own, &of) {
                    let path = own.display();
                    tracing::warn!(%path, %error, "the timeline cannot be written for now");
                }
                pause = WRITE_EVERY.max(begun.elapsed() * WRITE_SHARE);
            }
        };
        let thread = std::thread::Builder::new().name("fugato-timeline".to_owned());
        Ok(Self {
            path: path.to_owned(),
            timeline,
            stop,
            thread: thread.spawn(keep).map_err(failed)?,
        })
    }

    /// Writes the file for the last time.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn finish(self) -> Result<(), TimelineFileError> {
        // It may have panicked; what was kept is written all the same.
        let _ = self.stop.send(());
        let _ = self.thread.join();
        write(&self.path, &self.timeline).map_err(|source| TimelineFileError {
            path: self.path.clone(),
            source,
        })
    }
}

/// Writes all legs that are kept, in one step: whoever reads meanwhile sees the file before.
fn write(path: &Path, timeline: &LiveTimeline) -> io::Result<()> {
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let trace = timeline.since(Timestamp::ZERO);
    trace.write(File::create(&partial)?)?;
    fs::rename(&partial, path)
}
