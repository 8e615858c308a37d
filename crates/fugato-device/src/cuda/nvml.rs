//! What NVIDIA's management library says of a device: memory, power, use, and from Hopper on how
//! busy its multiprocessors are.
//!
//! The library is loaded by name, where there is one; its functions are few and their C
//! interface does not change, so they are declared here.

use super::gpm::Gpm;
use crate::device::GpuHealth;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::ptr::null_mut;

/// 0 where a call succeeded.
pub(super) type Return = c_int;
/// A device of the library.
pub(super) type Handle = *mut c_void;

#[derive(Default)]
#[repr(C)]
struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[derive(Default)]
#[repr(C)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// `NVML_TEMPERATURE_GPU`.
const TEMPERATURE_OF_CHIP: c_uint = 0;

/// The library with one device.
#[derive(Debug)]
pub(super) struct Nvml {
    handle: Handle,
    memory: Option<unsafe extern "C" fn(Handle, *mut Memory) -> Return>,
    power: Option<unsafe extern "C" fn(Handle, *mut c_uint) -> Return>,
    energy: Option<unsafe extern "C" fn(Handle, *mut c_ulonglong) -> Return>,
    utilization: Option<unsafe extern "C" fn(Handle, *mut Utilization) -> Return>,
    temperature: Option<unsafe extern "C" fn(Handle, c_uint, *mut c_uint) -> Return>,
    gpm: Option<Gpm>,
}

// SAFETY: the library is documented as safe to call from any thread, and the handle names a
// device, not a thread's view of it.
unsafe impl Send for Nvml {}
// SAFETY: as above.
unsafe impl Sync for Nvml {}

/// A function of a library by its name; `None` where it has none of that name.
///
/// # Safety
/// `library` must be open for the life of the process, and `F` the function's type.
pub(super) unsafe fn function<F: Copy>(library: *mut c_void, name: &CStr) -> Option<F> {
    assert_eq!(
        size_of::<F>(),
        size_of::<*mut c_void>(),
        "a pointer to a function"
    );
    // SAFETY: the library is open and the name ends with a zero.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr()) };
    // SAFETY: a symbol that is there is a function of type `F`, by this function's contract.
    (!symbol.is_null()).then(|| unsafe { std::mem::transmute_copy(&symbol) })
}

impl Nvml {
    /// Finds the device of that UUID; `None` where there is no library, or it knows none.
    pub(super) fn find(uuid: [u8; 16]) -> Option<Self> {
        Self::find_in(c"libnvidia-ml.so.1", uuid)
    }

    fn find_in(name: &CStr, uuid: [u8; 16]) -> Option<Self> {
        let uuid = CString::new(shown(uuid)).ok()?;
        // SAFETY: the name ends with a zero; what the library does when it is loaded is the
        // vendor's. It is never unloaded, and its functions have the types that its header
        // gives them.
        unsafe {
            let library = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
            if library.is_null() {
                return None;
            }
            let init: unsafe extern "C" fn() -> Return = function(library, c"nvmlInit_v2")?;
            let find: unsafe extern "C" fn(*const c_char, *mut Handle) -> Return =
                function(library, c"nvmlDeviceGetHandleByUUID")?;
            let mut handle = null_mut();
            if init() != 0 || find(uuid.as_ptr(), &mut handle) != 0 {
                return None;
            }
            Some(Self {
                handle,
                memory: function(library, c"nvmlDeviceGetMemoryInfo"),
                power: function(library, c"nvmlDeviceGetPowerUsage"),
                energy: function(library, c"nvmlDeviceGetTotalEnergyConsumption"),
                utilization: function(library, c"nvmlDeviceGetUtilizationRates"),
                temperature: function(library, c"nvmlDeviceGetTemperature"),
                gpm: Gpm::find(library, handle),
            })
        }
    }

    /// Asks the device. Takes milliseconds, and is to be asked no more often than each 100 ms.
    pub(super) fn health(&self) -> GpuHealth {
        let activity = self.gpm.as_ref().map(Gpm::since_last).unwrap_or_default();
        let memory = ask(self.memory, |ask, place: &mut Memory| {
            // SAFETY: the handle is of a device, and the place valid.
            unsafe { ask(self.handle, place) }
        });
        let utilization = ask(self.utilization, |ask, place: &mut Utilization| {
            // SAFETY: as above.
            unsafe { ask(self.handle, place) }
        });
        GpuHealth {
            memory_used: memory.as_ref().map(|memory| memory.used),
            memory_total: memory.as_ref().map(|memory| memory.total),
            power_milliwatts: ask(self.power, |ask, place| {
                // SAFETY: as above.
                unsafe { ask(self.handle, place) }
            }),
            energy_millijoules: ask(self.energy, |ask, place| {
                // SAFETY: as above.
                unsafe { ask(self.handle, place) }
            }),
            busy_percent: utilization.map(|utilization| utilization.gpu),
            sm_active_percent: activity.active,
            sm_occupied_percent: activity.occupied,
            celsius: ask(self.temperature, |ask, place| {
                // SAFETY: as above.
                unsafe { ask(self.handle, TEMPERATURE_OF_CHIP, place) }
            }),
        }
    }
}

/// The answer of a function that is there and succeeds.
fn ask<F, T: Default>(function: Option<F>, call: impl FnOnce(F, &mut T) -> Return) -> Option<T> {
    let mut answer = T::default();
    (call(function?, &mut answer) == 0).then_some(answer)
}

/// A UUID as the library writes it.
pub(super) fn shown(uuid: [u8; 16]) -> String {
    let hex = |part: &[u8]| {
        part.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let parts = [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex(&uuid[part]));
    format!("GPU-{}", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_reads_as_tools_show_it() {
        let uuid = std::array::from_fn(|index| index as u8 * 16 + 10);
        assert_eq!(shown(uuid), "GPU-0a1a2a3a-4a5a-6a7a-8a9a-aabacadaeafa");
    }

    #[test]
    fn without_the_library_there_is_nothing_to_say() {
        assert!(Nvml::find_in(c"libno-such-library.so.1", [0; 16]).is_none());
        // Whatever this machine has, no device has this number.
        assert!(Nvml::find([0; 16]).is_none());
    }

    #[test]
    fn a_function_that_fails_or_is_missing_tells_nothing() {
        let answers = |code: Return| {
            move |(): (), place: &mut u32| {
                *place = 7;
                code
            }
        };
        assert_eq!(ask(Some(()), answers(0)), Some(7));
        assert_eq!(ask(Some(()), answers(3)), None);
        assert_eq!(ask(None, answers(0)), None);
    }
}
