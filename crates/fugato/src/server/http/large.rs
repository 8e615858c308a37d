//! Large JSON, which takes milliseconds to read or write, off the threads that serve.

use crate::error::InferError;
use std::sync::Arc;
use std::thread::available_parallelism;
use tokio::sync::Semaphore;

/// JSON (or tensors to write as JSON) up to this size is worked on where it is: handing it
/// over costs more than it saves for requests of the usual kind.
const INLINE_BYTES: usize = 1 << 20;

/// The places for work on large JSON: half of the processors, so that serving goes on.
#[derive(Clone)]
pub(super) struct Large {
    places: Arc<Semaphore>,
}

impl Large {
    /// All places are free.
    pub(super) fn new() -> Self {
        // Where the number is unknown, one place is right for any machine.
        let processors = available_parallelism().map_or(1, usize::from);
        Self {
            places: Arc::new(Semaphore::new((processors / 2).max(1))),
        }
    }

    /// Does `work` on `bytes` of JSON, on a thread of its own where they are many.
    ///
    /// # Errors
    /// `Internal` where the work panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, InferError> {
        if bytes <= INLINE_BYTES {
            return Ok(work());
        }
        let failed =
            |error: &dyn std::error::Error| InferError::internal("HTTP server", error.to_string());
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|error| failed(&error))?;
        let work = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        work.await.map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[tokio::test]
    async fn large_work_leaves_the_serving_thread_and_small_work_does_not() {
        let large = Large::new();
        let here = thread::current().id();
        let at = |bytes| large.run(bytes, || thread::current().id());
        assert_eq!(at(INLINE_BYTES).await.expect("it is done"), here);
        for _ in 0..2 * large.places.available_permits() {
            assert_ne!(at(INLINE_BYTES + 1).await.expect("it is done"), here);
        }
        let error = large.run(usize::MAX, || panic!("of a test")).await;
        let error: Result<(), _> = error;
        error.expect_err("a panic is an error");
        at(usize::MAX).await.expect("a panic gives its place back");
    }
}
