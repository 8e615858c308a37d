//! How busy a device's multiprocessors were, by the counters that NVIDIA's management library
//! reads from Hopper on (its GPM functions).
//!
//! Counters are read as samples; what happened is told of the time between two of them.

use super::nvml::{Handle, Return, function};
use std::ffi::{c_char, c_double, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

/// `nvmlGpmSample_t`: a buffer that the library makes.
type Sample = *mut c_void;

/// The version of [`Support`] and of [`Question`]; both of the header's are 1.
const VERSION: c_uint = 1;

/// `NVML_GPM_METRIC_SM_UTIL`: percent of multiprocessors that had work.
const SM_UTIL: c_uint = 2;

/// `NVML_GPM_METRIC_SM_OCCUPANCY`: percent of warps that were there, of those that could be.
const SM_OCCUPANCY: c_uint = 3;

/// Places for metrics in [`Question`]. The library fills in as many as are asked for; the header
/// had 98 at first and 333 in CUDA 13, and a structure that were shorter than the library's would
/// be written past.
const PLACES: usize = 512;

/// `nvmlGpmSupport_t`.
#[repr(C)]
struct Support {
    version: c_uint,
    is_supported: c_uint,
}

/// `nvmlGpmMetric_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Metric {
    id: c_uint,
    answered: Return,
    value: c_double,
    /// Its short name, long name and unit, where the library gives them.
    names: [*const c_char; 3],
}

/// `nvmlGpmMetricsGet_t`.
#[repr(C)]
struct Question {
    version: c_uint,
    count: c_uint,
    before: Sample,
    after: Sample,
    metrics: [Metric; PLACES],
}

/// The library's functions, by the types that its header gives them.
#[derive(Clone, Copy, Debug)]
struct Functions {
    support: unsafe extern "C" fn(Handle, *mut Support) -> Return,
    make: unsafe extern "C" fn(*mut Sample) -> Return,
    free: unsafe extern "C" fn(Sample) -> Return,
    read: unsafe extern "C" fn(Handle, Sample) -> Return,
    compare: unsafe extern "C" fn(*mut Question) -> Return,
}

/// The counters of one device.
#[derive(Debug)]
pub(super) struct Gpm {
    functions: Functions,
    device: Handle,
    samples: Mutex<Samples>,
}

#[derive(Debug)]
struct Samples {
    /// What was read last, where `is_read`.
    last: Sample,
    is_read: bool,
    /// For the next.
    spare: Sample,
}

// SAFETY: the library is documented as safe to call from any thread; a sample is memory of the
// process, used by one thread at a time under the lock.
unsafe impl Send for Gpm {}
// SAFETY: as above.
unsafe impl Sync for Gpm {}

/// What multiprocessors did, in percent of what they could. `None`: nobody tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Activity {
    /// Multiprocessors with work.
    pub(super) active: Option<f64>,
    /// Warps on them.
    pub(super) occupied: Option<f64>,
}

impl Gpm {
    /// The counters of a device; `None` where the library or the device has none.
    ///
    /// # Safety
    /// `library` must be NVIDIA's management library, started and open for the life of the
    /// process, and `device` a handle of it.
    pub(super) unsafe fn find(library: *mut c_void, device: Handle) -> Option<Self> {
        // SAFETY: the types are those of the library's header; the rest is this function's
        // contract.
        unsafe {
            let functions = Functions {
                support: function(library, c"nvmlGpmQueryDeviceSupport")?,
                make: function(library, c"nvmlGpmSampleAlloc")?,
                free: function(library, c"nvmlGpmSampleFree")?,
                read: function(library, c"nvmlGpmSampleGet")?,
                compare: function(library, c"nvmlGpmMetricsGet")?,
            };
            Self::over(functions, device)
        }
    }

    /// # Safety
    /// The functions must do as the library's, for the life of the process, and `device` be one
    /// that they know.
    unsafe fn over(functions: Functions, device: Handle) -> Option<Self> {
        let mut support = Support {
            version: VERSION,
            is_supported: 0,
        };
        let (mut last, mut spare) = (null_mut(), null_mut());
        // SAFETY: the places are valid, and the rest is this function's contract.
        unsafe {
            if (functions.support)(device, &mut support) != 0 || support.is_supported == 0 {
                return None;
            }
            if (functions.make)(&mut last) != 0 {
                return None;
            }
            if (functions.make)(&mut spare) != 0 {
                (functions.free)(last);
                return None;
            }
        }
        let samples = Samples {
            last,
            is_read: false,
            spare,
        };
        Some(Self {
            functions,
            device,
            samples: Mutex::new(samples),
        })
    }

    /// Reads the counters; what happened since they were read before, which must be 100 ms ago or
    /// longer. Nothing is known the first time, and after they could not be read.
    pub(super) fn since_last(&self) -> Activity {
        let samples = self.samples.lock();
        let mut samples = samples.unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the device is known to the library, and the sample one of it, under the lock.
        let read = unsafe { (self.functions.read)(self.device, samples.spare) };
        let was_read = std::mem::replace(&mut samples.is_read, read == 0);
        if read != 0 {
            return Activity::default();
        }
        let Samples { last, spare, .. } = *samples;
        (samples.last, samples.spare) = (spare, last);
        match was_read {
            true => self.between(last, spare),
            false => Activity::default(),
        }
    }

    fn between(&self, before: Sample, after: Sample) -> Activity {
        let metric = |id| Metric {
            id,
            answered: 0,
            value: 0.0,
            names: [null_mut::<c_char>().cast_const(); 3],
        };
        let mut metrics = [metric(0); PLACES];
        metrics[0] = metric(SM_UTIL);
        metrics[1] = metric(SM_OCCUPANCY);
        let mut question = Box::new(Question {
            version: VERSION,
            count: 2,
            before,
            after,
            metrics,
        });
        // SAFETY: both samples are the library's and were read, and the question is at least as
        // long as the library's own.
        if unsafe { (self.functions.compare)(&mut *question) } != 0 {
            return Activity::default();
        }
        let [active, occupied] = [0, 1].map(|place| {
            let Metric {
                answered, value, ..
            } = question.metrics[place];
            let is_percent = answered == 0 && value.is_finite() && value >= 0.0;
            is_percent.then(|| value.min(100.0))
        });
        Activity { active, occupied }
    }
}

impl Drop for Gpm {
    fn drop(&mut self) {
        let samples = self.samples.get_mut();
        let samples = samples.unwrap_or_else(PoisonError::into_inner);
        for sample in [samples.last, samples.spare] {
            // SAFETY: the library made it, and it is freed only here. Whether that succeeds
            // changes nothing.
            unsafe { (self.functions.free)(sample) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::mem::{offset_of, size_of};

    /// A device that counts how often it is read, and answers by that.
    #[derive(Default)]
    struct Device {
        is_supported: bool,
        reads: f64,
        refuses: bool,
        samples: i32,
        compares_badly: bool,
        has_room_for_one: bool,
    }

    unsafe extern "C" fn support(device: Handle, support: *mut Support) -> Return {
        // SAFETY: the tests hand their device and a valid place over.
        let (device, support) = unsafe { (&*device.cast::<Device>(), &mut *support) };
        assert_eq!(support.version, 1);
        support.is_supported = device.is_supported.into();
        0
    }

    thread_local! {
        /// Samples that this thread's test has made, and freed.
        static SAMPLES: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    }

    unsafe extern "C" fn make(sample: *mut Sample) -> Return {
        let (made, freed) = SAMPLES.get();
        SAMPLES.set((made + 1, freed));
        // SAFETY: the place is valid.
        unsafe { *sample = Box::into_raw(Box::new(0.0_f64)).cast() };
        0
    }

    /// Makes the first and no other.
    unsafe extern "C" fn make_one(sample: *mut Sample) -> Return {
        let (made, _) = SAMPLES.get();
        if made > 0 {
            return 20;
        }
        // SAFETY: as for `make`.
        unsafe { make(sample) }
    }

    unsafe extern "C" fn free(sample: Sample) -> Return {
        let (made, freed) = SAMPLES.get();
        SAMPLES.set((made, freed + 1));
        // SAFETY: made by `make`.
        drop(unsafe { Box::from_raw(sample.cast::<f64>()) });
        0
    }

    unsafe extern "C" fn read(device: Handle, sample: Sample) -> Return {
        // SAFETY: as above; nobody else has the device meanwhile.
        let (device, sample) = unsafe { (&mut *device.cast::<Device>(), sample.cast::<f64>()) };
        if device.refuses {
            return 3;
        }
        device.reads += 1.0;
        device.samples += 1;
        // SAFETY: as above.
        unsafe { *sample = device.reads * device.reads };
        0
    }

    /// The difference of the squares, which is larger each time; of the warps, what is no number.
    unsafe extern "C" fn compare(question: *mut Question) -> Return {
        // SAFETY: as above.
        let question = unsafe { &mut *question };
        assert_eq!((question.version, question.count), (1, 2));
        // SAFETY: as above.
        let difference = unsafe { *question.after.cast::<f64>() - *question.before.cast::<f64>() };
        for metric in &mut question.metrics[..2] {
            match metric.id {
                SM_UTIL => metric.value = difference,
                SM_OCCUPANCY => (metric.value, metric.answered) = (f64::NAN, 0),
                other => panic!("{other}"),
            }
        }
        0
    }

    unsafe extern "C" fn compare_badly(_question: *mut Question) -> Return {
        2
    }

    fn gpm(device: &mut Device) -> Option<Gpm> {
        let functions = Functions {
            support,
            make: match device.has_room_for_one {
                true => make_one,
                false => make,
            },
            free,
            read,
            compare: match device.compares_badly {
                true => compare_badly,
                false => compare,
            },
        };
        // SAFETY: the functions know the device, which the test keeps.
        unsafe { Gpm::over(functions, std::ptr::from_mut(device).cast()) }
    }

    #[test]
    fn what_happened_is_told_of_the_time_since_the_last_reading() {
        let mut device = Device {
            is_supported: true,
            ..Device::default()
        };
        let gpm = gpm(&mut device).expect("it is supported");
        let active: Vec<_> = (0..4).map(|_| gpm.since_last().active).collect();
        assert_eq!(active, [None, Some(3.0), Some(5.0), Some(7.0)]);
        // What is no number is not told.
        assert_eq!(gpm.since_last().occupied, None);
    }

    #[test]
    fn a_device_before_hopper_has_none() {
        assert!(gpm(&mut Device::default()).is_none());
        assert_eq!(SAMPLES.get(), (0, 0), "nothing is made for it");
    }

    #[test]
    fn every_sample_that_was_made_is_freed_once() {
        let mut device = Device {
            is_supported: true,
            ..Device::default()
        };
        let place: *mut Device = &mut device;
        // SAFETY: nobody uses the device while it is changed below.
        let gpm = gpm(unsafe { &mut *place }).expect("it is supported");
        // They change places as they are read, and not where that fails.
        for refuses in [false, false, true, false, false] {
            // SAFETY: as above.
            unsafe { (*place).refuses = refuses };
            gpm.since_last();
        }
        assert_eq!(SAMPLES.get(), (2, 0), "as long as they are read");
        drop(gpm);
        assert_eq!(SAMPLES.get(), (2, 2));
    }

    #[test]
    fn a_library_without_room_for_a_second_sample_gets_the_first_back() {
        let mut device = Device {
            is_supported: true,
            has_room_for_one: true,
            ..Device::default()
        };
        assert!(gpm(&mut device).is_none());
        assert_eq!(SAMPLES.get(), (1, 1));
    }

    #[test]
    fn a_reading_that_fails_begins_anew() {
        let mut device = Device {
            is_supported: true,
            ..Device::default()
        };
        let place: *mut Device = &mut device;
        // SAFETY: nobody uses the device while it is changed below.
        let gpm = gpm(unsafe { &mut *place }).expect("it is supported");
        assert_eq!(gpm.since_last(), Activity::default());
        // SAFETY: as above.
        unsafe { (*place).refuses = true };
        assert_eq!(gpm.since_last(), Activity::default());
        // SAFETY: as above.
        unsafe { (*place).refuses = false };
        assert_eq!(gpm.since_last(), Activity::default());
        assert_eq!(gpm.since_last().active, Some(5.0));
    }

    #[test]
    fn samples_that_cannot_be_compared_tell_nothing() {
        let mut device = Device {
            is_supported: true,
            compares_badly: true,
            ..Device::default()
        };
        let gpm = gpm(&mut device).expect("it is supported");
        for _ in 0..3 {
            assert_eq!(gpm.since_last(), Activity::default());
        }
    }

    #[test]
    fn structures_lie_in_memory_as_the_header_has_them() {
        assert_eq!(size_of::<Support>(), 8);
        assert_eq!(size_of::<Metric>(), 40);
        assert_eq!(offset_of!(Metric, value), 8);
        assert_eq!(offset_of!(Question, before), 8);
        assert_eq!(offset_of!(Question, metrics), 24);
    }
}
