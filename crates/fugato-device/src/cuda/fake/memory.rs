//! Memory of the device that is not there, and of the host.

use super::super::backend::{Backend, Place};
use super::Fake;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Memory that was taken, given back when it is dropped.
pub(in super::super) struct Taken {
    pub(super) bytes: usize,
    pub(super) of: Fake,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.lock().memory_left += self.bytes;
    }
}

pub(in super::super) struct FakeMemory {
    pub(super) content: Arc<Mutex<Vec<u8>>>,
    pub(super) _taken: Taken,
}

pub(in super::super) struct FakePinned {
    pub(super) bytes: Vec<u8>,
    /// What the last copy brought, once it is done.
    pub(super) landed: Arc<OnceLock<Vec<u8>>>,
}

impl AsRef<[u8]> for FakePinned {
    fn as_ref(&self) -> &[u8] {
        self.landed.get().unwrap_or(&self.bytes)
    }
}

impl AsMut<[u8]> for FakePinned {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// A tensor of a binding.
#[derive(Clone)]
pub(super) struct Bound {
    pub(super) name: String,
    pub(super) content: Arc<Mutex<Vec<u8>>>,
    pub(super) range: Range<usize>,
}

impl Bound {
    pub(super) fn of(place: &Place<'_, FakeMemory>) -> Self {
        let range = place.offset..place.offset + place.bytes;
        let content = Arc::clone(&place.memory.content);
        let room = content.lock().unwrap_or_else(PoisonError::into_inner).len();
        assert!(range.end <= room, "{:?} has no room", place.name);
        assert!(range.start.is_multiple_of(Fake::ALIGN));
        Self {
            name: place.name.to_str().unwrap().to_owned(),
            content,
            range,
        }
    }

    pub(super) fn content(&self) -> MutexGuard<'_, Vec<u8>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
