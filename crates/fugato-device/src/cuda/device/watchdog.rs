//! Looks whether a device hangs.

use fugato_core::Nanos;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that looks at something now and then, until it is dropped.
pub(super) struct Watchdog {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Looks a few times in `limit`, within which what it looks for must be seen.
    pub(super) fn start(limit: Nanos, look: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let period = Duration::from(limit) / 8;
        let period = period.clamp(Duration::from_millis(10), Duration::from_secs(1));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("gpu-watch".to_owned());
        let thread = thread.spawn(move || {
            let (stop, changed) = &*told;
            let mut stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stopped {
                let woken = changed.wait_timeout(stopped, period);
                stopped = woken.unwrap_or_else(PoisonError::into_inner).0;
                if !*stopped {
                    look();
                }
            }
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let (stop, changed) = &*self.stop;
        *stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It ends by itself; what it panicked of it has said.
            let _ = thread.join();
        }
    }
}
