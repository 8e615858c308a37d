//! Host memory that results come back to, kept for the next task when the last reply lets go
//! of it.

use super::super::backend::{Backend, Fault};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// Host memory for an output.
pub(super) struct PinnedPool<B: Backend> {
    free: Mutex<Vec<B::Pinned>>,
    keep: usize,
    bytes: usize,
}

impl<B: Backend> PinnedPool<B> {
    /// A pool of so many pieces of so many bytes.
    pub(super) fn new(backend: &B, pieces: usize, bytes: usize) -> Result<Arc<Self>, Fault> {
        let free: Result<Vec<_>, _> = (0..pieces).map(|_| backend.pinned(bytes)).collect();
        Ok(Arc::new(Self {
            free: Mutex::new(free?),
            // One more than tasks in flight: replies are being sent.
            keep: pieces + 1,
            bytes,
        }))
    }

    pub(super) fn take(self: &Arc<Self>, backend: &B) -> Result<Leased<B>, Fault> {
        let free = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let memory = match free {
            Some(memory) => memory,
            None => backend.pinned(self.bytes)?,
        };
        Ok(Leased {
            memory: Some(memory),
            bytes: 0,
            pool: Arc::clone(self),
        })
    }
}

/// Memory of a pool, which goes back there.
pub(super) struct Leased<B: Backend> {
    memory: Option<B::Pinned>,
    bytes: usize,
    pool: Arc<PinnedPool<B>>,
}

impl<B: Backend> Leased<B> {
    pub(super) fn memory(&mut self) -> &mut B::Pinned {
        let memory = self.memory.as_mut();
        memory.expect("a lease holds its memory until it is dropped")
    }

    /// The first `bytes`, for as long as anybody reads them.
    pub(super) fn give_out(mut self, bytes: usize) -> Bytes {
        self.bytes = bytes;
        Bytes::from_owner(self)
    }
}

impl<B: Backend> AsRef<[u8]> for Leased<B> {
    fn as_ref(&self) -> &[u8] {
        let memory = self.memory.as_ref();
        let memory = memory.expect("a lease holds its memory until it is dropped");
        &memory.as_ref()[..self.bytes]
    }
}

impl<B: Backend> Drop for Leased<B> {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let mut free = self
                .pool
                .free
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if free.len() < self.pool.keep {
                free.push(memory);
            }
        }
    }
}
