//! A fault on purpose.

use super::driver::{CudaError, check};
use super::stream::Stream;
use cudarc::driver::sys;
use std::ptr::null_mut;

/// A kernel that traps, for the oldest device that CUDA 13 compiles for.
const TRAP: &std::ffi::CStr = c"
.version 7.0
.target sm_75
.address_size 64
.visible .entry fault()
{
    trap;
}
";

impl Stream {
    /// Runs a kernel that traps and waits for it. The device is lost to this process from then on:
    /// every call fails with an error that [is sticky](CudaError::is_sticky), which is what
    /// waiting should answer.
    ///
    /// # Errors
    /// Where the driver cannot compile or start it.
    pub fn trap(&self) -> Result<Result<(), CudaError>, CudaError> {
        self.partition().gpu().make_current()?;
        let mut library = null_mut();
        // SAFETY: the code ends with a zero, as PTX has to, and there are no options.
        check("cuLibraryLoadData", unsafe {
            sys::cuLibraryLoadData(
                &mut library,
                TRAP.as_ptr().cast(),
                null_mut(),
                null_mut(),
                0,
                null_mut(),
                null_mut(),
                0,
            )
        })?;
        let mut kernel = null_mut();
        // SAFETY: the library was just loaded, and stays: the process has not long to live.
        check("cuLibraryGetKernel", unsafe {
            sys::cuLibraryGetKernel(&mut kernel, library, c"fault".as_ptr())
        })?;
        // SAFETY: kernels of libraries stand for functions here, of the stream's context; this
        // one takes no parameters.
        check("cuLaunchKernel", unsafe {
            sys::cuLaunchKernel(
                kernel.cast(),
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                self.handle(),
                null_mut(),
                null_mut(),
            )
        })?;
        Ok(self.synchronize())
    }
}
