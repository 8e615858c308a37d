//! Streams of partitions, and events on them.

use super::driver::{CudaError, check, end};
use super::gpu::{Gpu, Partition};
use super::graph::Graph;
use cudarc::driver::sys;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// A queue of work on the multiprocessors of one [`Partition`].
#[derive(Debug)]
pub struct Stream {
    stream: sys::CUstream,
    partition: Arc<Partition>,
}

// SAFETY: the driver's streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// Held while a capture is open: nothing else may synchronise the device meanwhile, and
/// making a session does. Taken by [`Stream::capture`] and by whoever makes sessions.
static CAPTURE: Mutex<()> = Mutex::new(());

/// Shows that nobody else captures, or makes or drops a session, in this process.
pub(super) type Alone = MutexGuard<'static, ()>;

/// Waits until nobody else captures, or makes or drops a session.
pub(super) fn alone() -> Alone {
    CAPTURE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`alone`]; `None` where that would take waiting.
pub(super) fn alone_now() -> Option<Alone> {
    match CAPTURE.try_lock() {
        Ok(alone) => Some(alone),
        Err(TryLockError::Poisoned(alone)) => Some(alone.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Stream {
    pub(super) fn owned(stream: sys::CUstream, partition: Arc<Partition>) -> Self {
        Self { stream, partition }
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.stream
    }

    /// Where its work runs.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Waits until all that was enqueued is done.
    ///
    /// # Errors
    /// Where the driver, or any work before, failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe {
            sys::cuStreamSynchronize(self.stream)
        })
    }

    /// Records an event after what is enqueued.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn record(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both are alive.
        check("cuEventRecord", unsafe {
            sys::cuEventRecord(event.event, self.stream)
        })
    }

    /// Has what is enqueued from now on wait for an event.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn wait(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both are alive.
        check("cuStreamWaitEvent", unsafe {
            sys::cuStreamWaitEvent(self.stream, event.event, 0)
        })
    }

    /// Makes a graph of what `enqueue` puts on this stream, and on streams that it forks to
    /// and joins by events. Nothing of it runs.
    ///
    /// The mode is `RELAXED`, in which the runtime may allocate; whoever calls warms up first
    /// and compares [`Gpu::memory_free`] if that must not be. Neither sessions are made nor the
    /// device waited for meanwhile, in the whole process.
    ///
    /// # Errors
    /// What `enqueue` answers, or where the driver fails; the stream can be used on.
    pub fn capture<E: From<CudaError>>(
        &self,
        enqueue: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        self.capture_alone(&alone(), enqueue)
    }

    /// As [`capture`](Self::capture), by whoever is alone already.
    pub(super) fn capture_alone<E: From<CudaError>>(
        &self,
        _alone: &Alone,
        enqueue: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        self.partition.gpu().make_current()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive.
        check("cuStreamBeginCapture", unsafe {
            sys::cuStreamBeginCapture_v2(self.stream, mode)
        })?;
        // A panic must not leave the stream in its capture.
        let open = Capturing(self);
        let done = enqueue();
        std::mem::forget(open);
        let mut graph = null_mut();
        // SAFETY: the capture was begun on this stream; the graph, if any, becomes ours.
        let ended = check("cuStreamEndCapture", unsafe {
            sys::cuStreamEndCapture(self.stream, &mut graph)
        });
        let graph = Graph::owned(graph, Arc::clone(self.partition.gpu()));
        done?;
        ended?;
        graph.ok_or_else(|| {
            E::from(CudaError {
                call: "cuStreamEndCapture",
                code: 0,
                name: "CUDA_SUCCESS".to_owned(),
                meaning: "the capture was invalidated and gave no graph".to_owned(),
            })
        })
    }
}

impl Stream {
    /// Ends a capture that somebody else began on it and did not end; what was captured is
    /// thrown away.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn abandon_capture(&self) -> Result<(), CudaError> {
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the stream is alive, and the place for the answer valid.
        check("cuStreamIsCapturing", unsafe {
            sys::cuStreamIsCapturing(self.stream, &mut status)
        })?;
        if status == sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Ok(());
        }
        let mut graph = null_mut();
        // SAFETY: the stream is alive and capturing; the graph, if any, becomes ours. That the
        // capture was broken off, which is why it is ended, makes this fail without a graph.
        let _broken_off = unsafe { sys::cuStreamEndCapture(self.stream, &mut graph) };
        drop(Graph::owned(graph, Arc::clone(self.partition.gpu())));
        Ok(())
    }
}

/// Ends a capture that nobody else came to end.
struct Capturing<'a>(&'a Stream);

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.abandon_capture() {
            tracing::warn!(%error, "a capture could not be ended");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: owned, and destroyed only here; the driver finishes what is enqueued.
        end("cuStreamDestroy", unsafe {
            sys::cuStreamDestroy_v2(self.stream)
        });
    }
}

/// A point in the work of a stream.
#[derive(Debug)]
pub struct Event {
    event: sys::CUevent,
    _gpu: Arc<Gpu>,
}

// SAFETY: the driver's events may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that notes the time at which it is reached.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        Self::with(gpu, 0)
    }

    /// As [`new`](Self::new); a thread that waits for it sleeps instead of asking again and
    /// again.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn to_sleep_for(gpu: &Arc<Gpu>) -> Result<Self, CudaError> {
        Self::with(gpu, sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32)
    }

    fn with(gpu: &Arc<Gpu>, flags: u32) -> Result<Self, CudaError> {
        gpu.make_current()?;
        let mut event = null_mut();
        // SAFETY: the context is current, and the place for the answer valid.
        check("cuEventCreate", unsafe {
            sys::cuEventCreate(&mut event, flags)
        })?;
        Ok(Self {
            event,
            _gpu: Arc::clone(gpu),
        })
    }

    /// Waits until it is reached.
    ///
    /// # Errors
    /// Where the driver, or work before the event, failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the event is alive.
        check("cuEventSynchronize", unsafe {
            sys::cuEventSynchronize(self.event)
        })
    }

    /// How much later than `since` it was reached, by the device's clock (steps of about half
    /// a microsecond). Both must have been reached.
    ///
    /// # Errors
    /// Where one was not, or the driver fails.
    pub fn elapsed(&self, since: &Self) -> Result<Duration, CudaError> {
        let mut milliseconds = 0.0;
        // SAFETY: both are alive, and the place for the answer valid.
        check("cuEventElapsedTime", unsafe {
            sys::cuEventElapsedTime_v2(&mut milliseconds, since.event, self.event)
        })?;
        Ok(Duration::from_secs_f64(
            f64::from(milliseconds.max(0.0)) / 1_000.0,
        ))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: owned, and destroyed only here.
        end("cuEventDestroy", unsafe {
            sys::cuEventDestroy_v2(self.event)
        });
    }
}
