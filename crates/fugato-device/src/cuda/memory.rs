//! Memory of the device, and host memory that it can reach.

use super::driver::{CudaError, beside_captures, check, end};
use super::gpu::Gpu;
use super::stream::Stream;
use cudarc::driver::sys;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// Memory of a device, in bytes.
#[derive(Debug)]
pub struct DeviceMemory {
    address: sys::CUdeviceptr,
    bytes: usize,
    gpu: Arc<Gpu>,
}

impl DeviceMemory {
    /// Takes `bytes` of the device's memory, at least 1.
    ///
    /// # Errors
    /// Where there are not that many.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self, CudaError> {
        gpu.make_current()?;
        let mut address = 0;
        // SAFETY: the context is current, and the place for the answer valid.
        let taken = beside_captures(|| unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) });
        check("cuMemAlloc", taken)?;
        Ok(Self {
            address,
            bytes,
            gpu: Arc::clone(gpu),
        })
    }

    /// Its size, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn address(&self) -> sys::CUdeviceptr {
        self.address
    }

    /// Enqueues a copy of all that `from` holds.
    ///
    /// # Errors
    /// Where the driver fails.
    ///
    /// # Panics
    /// Where `from` is larger.
    pub fn copy_from(&self, from: &PinnedMemory, stream: &Stream) -> Result<(), CudaError> {
        self.copy_part_from((from, from.bytes), 0, stream)
    }

    /// Enqueues a copy of the first `bytes` of `from` to the place `at`.
    ///
    /// # Errors
    /// Where the driver fails.
    ///
    /// # Panics
    /// Where there are not so many, or no room for them.
    pub fn copy_part_from(
        &self,
        (from, bytes): (&PinnedMemory, usize),
        at: usize,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let fits = at.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(bytes <= from.bytes && fits, "a copy fits its target");
        // SAFETY: both ranges are valid for the length; whoever drops one of them waits for
        // the stream before (`PinnedMemory` and `DeviceMemory` synchronise in `drop`).
        check("cuMemcpyHtoDAsync", unsafe {
            let host = from.address.as_ptr().cast();
            sys::cuMemcpyHtoDAsync_v2(self.address + at as u64, host, bytes, stream.handle())
        })
    }

    /// Enqueues a fill of the whole.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn fill(&self, byte: u8, stream: &Stream) -> Result<(), CudaError> {
        // SAFETY: the range is valid; freeing it waits for the device.
        check("cuMemsetD8Async", unsafe {
            sys::cuMemsetD8Async(self.address, byte, self.bytes, stream.handle())
        })
    }

    /// Enqueues a copy into the whole of `to`.
    ///
    /// # Errors
    /// Where the driver fails.
    ///
    /// # Panics
    /// Where `to` is larger.
    pub fn copy_to(&self, to: &mut PinnedMemory, stream: &Stream) -> Result<(), CudaError> {
        let bytes = to.bytes;
        self.copy_first_to((to, bytes), stream)
    }

    /// Enqueues a copy of the first `bytes` to `to`.
    ///
    /// # Errors
    /// Where the driver fails.
    ///
    /// # Panics
    /// Where there are not so many, or no room for them.
    pub fn copy_first_to(
        &self,
        (to, bytes): (&mut PinnedMemory, usize),
        stream: &Stream,
    ) -> Result<(), CudaError> {
        self.copy_part_to(0, (to, bytes), stream)
    }

    /// Enqueues a copy of `bytes` from the place `at` on to `to`.
    ///
    /// # Errors
    /// Where the driver fails.
    ///
    /// # Panics
    /// Where there are not so many, or no room for them.
    pub fn copy_part_to(
        &self,
        at: usize,
        (to, bytes): (&mut PinnedMemory, usize),
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let is_there = at.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(bytes <= to.bytes && is_there, "a copy fits its target");
        // SAFETY: as for `copy_part_from`.
        check("cuMemcpyDtoHAsync", unsafe {
            let host = to.address.as_ptr().cast();
            sys::cuMemcpyDtoHAsync_v2(host, self.address + at as u64, bytes, stream.handle())
        })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: owned, and freed only here; freeing waits for the device's work.
        let ended = self
            .gpu
            .make_current()
            .map(|()| beside_captures(|| unsafe { sys::cuMemFree_v2(self.address) }));
        match ended {
            Ok(result) => end("cuMemFree", result),
            Err(error) => tracing::warn!(%error, "device memory could not be released"),
        }
    }
}

/// Host memory that the device copies from and to by itself.
#[derive(Debug)]
pub struct PinnedMemory {
    address: NonNull<u8>,
    bytes: usize,
    gpu: Arc<Gpu>,
}

// SAFETY: plain memory with one owner.
unsafe impl Send for PinnedMemory {}

impl PinnedMemory {
    /// Takes `bytes` of host memory, at least 1, filled with zeroes.
    ///
    /// # Errors
    /// Where there are not that many.
    pub fn new(gpu: &Arc<Gpu>, bytes: usize) -> Result<Self, CudaError> {
        gpu.make_current()?;
        let mut address = null_mut();
        // SAFETY: the context is current, and the place for the answer valid.
        let taken =
            beside_captures(|| unsafe { sys::cuMemHostAlloc(&mut address, bytes.max(1), 0) });
        check("cuMemHostAlloc", taken)?;
        let address = NonNull::new(address.cast::<u8>()).expect("a call that succeeded gives one");
        // SAFETY: just allocated with that size.
        unsafe { address.as_ptr().write_bytes(0, bytes) };
        Ok(Self {
            address,
            bytes,
            gpu: Arc::clone(gpu),
        })
    }

    /// What it holds. Copies to it must have ended: see [`Stream::synchronize`].
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: valid and initialised for the length, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.bytes) }
    }

    /// What it holds. Copies from and to it must have ended.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.bytes) }
    }
}

impl AsRef<[u8]> for PinnedMemory {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl AsMut<[u8]> for PinnedMemory {
    fn as_mut(&mut self) -> &mut [u8] {
        self.bytes_mut()
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        let ended = self.gpu.make_current().map(|()| {
            let address = self.address.as_ptr().cast();
            // SAFETY: owned, and freed only here; freeing waits for the device's work.
            beside_captures(|| unsafe { sys::cuMemFreeHost(address) })
        });
        match ended {
            Ok(result) => end("cuMemFreeHost", result),
            Err(error) => tracing::warn!(%error, "pinned memory could not be released"),
        }
    }
}
