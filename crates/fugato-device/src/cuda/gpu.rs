//! A device, and its division into groups of multiprocessors.

use super::division::{divide, too_small};
use super::driver::{CudaError, Driver, NoDriver, WORK_QUEUES, check, end};
use super::layout::{SmGranularity, SmLayout};
use super::nvml;
use super::priority::Priorities;
use super::queues::WorkQueues;
use super::stream::Stream;
use cudarc::driver::sys::{self, CUdevResource, CUdevice_attribute as Attribute};
use fugato_core::device::AtomSet;
use serde::Serialize;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::Arc;

/// One device, with its primary context held.
#[derive(Debug)]
pub struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    info: GpuInfo,
    queues: WorkQueues,
}

// SAFETY: contexts may be used from any thread; each use makes it current on its own.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuInfo {
    /// Its place among the devices that this process sees.
    pub ordinal: u32,
    /// Product name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub sms: u32,
    /// The smallest group of multiprocessors that a green context may have; 0 where the
    /// driver does not say.
    pub sms_least: u32,
    /// Groups are multiples of this many; 0 where the driver does not say.
    pub sms_alignment: u32,
    /// Memory, in bytes.
    pub memory: u64,
    /// Second-level cache, in bytes.
    pub l2_cache: u64,
}

/// A device that the driver has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place among the devices that this process sees.
    pub ordinal: u32,
    /// Product name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub sms: u32,
    /// Memory, in bytes.
    pub memory: u64,
    /// The newest CUDA version that the driver knows.
    pub driver: String,
    /// The driver's own version, where the system tells it.
    pub driver_build: Option<String>,
    /// The number that names the device in all libraries: `GPU-` and 32 digits in groups.
    pub uuid: Option<String>,
}

impl Found {
    /// Why it is expected not to be divided into partitions, if so.
    pub fn undivided(&self) -> Option<String> {
        let (major, _) = self.compute_capability;
        let granularity = SmGranularity::documented(major);
        let is_small = granularity.slices(self.sms).len() < 2;
        is_small.then(|| too_small(self.sms, granularity))
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.compute_capability;
        write!(
            f,
            "{} (number {}, compute capability {major}.{minor}, {} multiprocessors, {} MiB), \
             driver of CUDA {}",
            self.name,
            self.ordinal,
            self.sms,
            self.memory >> 20,
            self.driver
        )
    }
}

/// Finds a device without opening it.
///
/// # Errors
/// Where there is no driver, it is too old, or it has no such device.
pub fn find(ordinal: u32) -> Result<Found, NoDriver> {
    let driver = Driver::find()?;
    let count = driver.devices()?;
    if ordinal >= count {
        return Err(NoDriver::NoDevice { ordinal, count });
    }
    let mut device = 0;
    // SAFETY: the driver is started, and the place for the answer valid.
    check("cuDeviceGet", unsafe {
        sys::cuDeviceGet(&mut device, ordinal.cast_signed())
    })?;
    let info = describe(device, ordinal)?;
    Ok(Found {
        ordinal,
        name: info.name,
        compute_capability: info.compute_capability,
        sms: info.sms,
        memory: info.memory,
        driver: driver.version(),
        driver_build: driver.build(),
        uuid: uuid_of(device).ok().map(nvml::shown),
    })
}

fn uuid_of(device: sys::CUdevice) -> Result<[u8; 16], CudaError> {
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: the device is valid, and so is the place for the answer.
    check("cuDeviceGetUuid", unsafe {
        sys::cuDeviceGetUuid_v2(&mut uuid, device)
    })?;
    Ok(uuid.bytes.map(|byte| byte as u8))
}

impl Gpu {
    /// Opens a device and makes it current on the calling thread.
    ///
    /// # Errors
    /// Where there is no such device, or the driver fails.
    pub fn open(driver: Driver, ordinal: u32) -> Result<Arc<Self>, NoDriver> {
        let count = driver.devices()?;
        if ordinal >= count {
            return Err(NoDriver::NoDevice { ordinal, count });
        }
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: the driver is started; the places for the answers are valid; the context is
        // released by `Gpu`'s destructor.
        unsafe {
            check("cuDeviceGet", sys::cuDeviceGet(&mut device, ordinal as i32))?;
            check(
                "cuDevicePrimaryCtxRetain",
                sys::cuDevicePrimaryCtxRetain(&mut context, device),
            )?;
        }
        let mut gpu = Self {
            device,
            context,
            info: describe(device, ordinal)?,
            queues: WorkQueues::new(driver.has(WORK_QUEUES)),
        };
        gpu.make_current()?;
        let all = gpu.all_sms()?;
        // SAFETY: the resource is of multiprocessors, so that is the union's valid part.
        let sm = unsafe { all.__bindgen_anon_1.sm };
        gpu.info.sms = sm.smCount;
        gpu.info.sms_least = sm.minSmPartitionSize;
        gpu.info.sms_alignment = sm.smCoscheduledAlignment;
        Ok(Arc::new(gpu))
    }

    /// What the device is.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// Makes the device's primary context the one of the calling thread.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn make_current(&self) -> Result<(), CudaError> {
        // SAFETY: the context is held.
        check("cuCtxSetCurrent", unsafe {
            sys::cuCtxSetCurrent(self.context)
        })
    }

    /// Bytes of device memory that are free now, whoever holds the others.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn memory_free(&self) -> Result<u64, CudaError> {
        self.make_current()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is current, and the places for the answers are valid.
        check("cuMemGetInfo", unsafe {
            sys::cuMemGetInfo_v2(&mut free, &mut total)
        })?;
        Ok(free as u64)
    }

    /// The priorities that streams of the device may have.
    ///
    /// # Errors
    /// Where the driver fails.
    pub(super) fn stream_priorities(&self) -> Result<Priorities, CudaError> {
        self.make_current()?;
        let Priorities {
            mut least,
            mut greatest,
        } = Priorities::NONE;
        // SAFETY: the context is current, and the places for the answers are valid.
        check("cuCtxGetStreamPriorityRange", unsafe {
            sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest)
        })?;
        Ok(Priorities { least, greatest })
    }

    /// The number that names this device in all libraries.
    ///
    /// # Errors
    /// Where the driver fails.
    pub(super) fn uuid(&self) -> Result<[u8; 16], CudaError> {
        uuid_of(self.device)
    }

    /// The whole device, as one group.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn whole(&self) -> Result<SmGroups, CudaError> {
        Ok(SmGroups(vec![self.all_sms()?]))
    }

    /// Divides the device into disjoint groups of at least `sms` multiprocessors each, as
    /// many as there can be. The driver rounds up to what it can co-schedule; what is left
    /// over is in no group.
    ///
    /// # Errors
    /// Where no group of that size can be had.
    pub fn split(&self, sms: u32) -> Result<SmGroups, CudaError> {
        let all = self.all_sms()?;
        let mut count = self.info.sms / sms.max(1);
        // SAFETY: plain C data, for which zeroes are a valid value.
        let empty: CUdevResource = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut groups = vec![empty; count as usize];
        let mut rest = empty;
        // SAFETY: there are `count` places for groups; the driver lowers the count.
        check("cuDevSmResourceSplitByCount", unsafe {
            sys::cuDevSmResourceSplitByCount(
                groups.as_mut_ptr(),
                &mut count,
                &all,
                &mut rest,
                0,
                sms,
            )
        })?;
        groups.truncate(count as usize);
        Ok(SmGroups(groups))
    }

    /// Divides the device into its smallest groups, which are its slices. One that is too
    /// small to divide, or that the driver does not divide, is one slice.
    ///
    /// All slices come from this one call, also where the driver has one for unequal groups
    /// (`cuDevSmResourceSplit`): groups of two calls overlap in ways that nobody tells.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn divide(&self) -> Result<(SmLayout, SmGroups), CudaError> {
        let sms = self.info.sms;
        let groups = divide(
            (sms, SmGranularity::of(&self.info)),
            |least| self.split(least),
            || self.whole(),
        )?;
        Ok((SmLayout::new(sms, groups.sms()), groups))
    }

    fn all_sms(&self) -> Result<CUdevResource, CudaError> {
        self.resource(sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_SM)
    }

    /// Whether partitions have work queues of their own, where the device has enough of them: the
    /// driver knows how (CUDA 13.1) and has not refused it. Else a replay may wait for another
    /// partition's work that happens to be in the same queue.
    pub fn divides_work_queues(&self) -> bool {
        self.queues.are_divided()
    }

    /// What a green context is asked for beside its multiprocessors: work queues that it shares
    /// with others only where there are too few.
    fn queues_of_its_own(&self) -> Result<CUdevResource, CudaError> {
        let kind = sys::CUdevResourceType::CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG;
        let mut queues = self.resource(kind)?;
        queues.__bindgen_anon_1.wqConfig.sharingScope =
            sys::CUdevWorkqueueConfigScope::CU_WORKQUEUE_SCOPE_GREEN_CTX_BALANCED;
        Ok(queues)
    }

    fn resource(&self, kind: sys::CUdevResourceType) -> Result<CUdevResource, CudaError> {
        let mut resource = MaybeUninit::zeroed();
        // SAFETY: the place for the answer is valid and was filled where the call succeeded;
        // zeroes are a valid value otherwise.
        unsafe {
            check(
                "cuDeviceGetDevResource",
                sys::cuDeviceGetDevResource(self.device, resource.as_mut_ptr(), kind),
            )?;
            Ok(resource.assume_init())
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: retained once by `open`, released only here; whatever lies in the context
        // holds the `Gpu`.
        end("cuDevicePrimaryCtxRelease", unsafe {
            sys::cuDevicePrimaryCtxRelease_v2(self.device)
        });
    }
}

fn describe(device: sys::CUdevice, ordinal: u32) -> Result<GpuInfo, CudaError> {
    let attribute = |attribute| {
        let mut value = 0;
        // SAFETY: the device is valid, and so is the place for the answer.
        check("cuDeviceGetAttribute", unsafe {
            sys::cuDeviceGetAttribute(&mut value, attribute, device)
        })?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let (mut name, mut memory) = ([0; 128], 0);
    // SAFETY: the name ends with a zero within the length given.
    let name = unsafe {
        let length = name.len() as i32;
        check(
            "cuDeviceGetName",
            sys::cuDeviceGetName(name.as_mut_ptr(), length, device),
        )?;
        check(
            "cuDeviceTotalMem",
            sys::cuDeviceTotalMem_v2(&mut memory, device),
        )?;
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    };
    Ok(GpuInfo {
        ordinal,
        name,
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        sms_least: 0,
        sms_alignment: 0,
        memory: memory as u64,
        l2_cache: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
    })
}

/// Disjoint groups of multiprocessors, of one division of the device. Groups of several
/// divisions overlap.
#[derive(Clone)]
pub struct SmGroups(Vec<CUdevResource>);

// SAFETY: plain data of the driver, tied to no thread.
unsafe impl Send for SmGroups {}

/// Makes a green context of groups of one division that lie side by side, and of whatever else
/// it is asked for.
fn green_context(
    device: sys::CUdevice,
    resources: &mut [CUdevResource],
) -> Result<sys::CUgreenCtx, CudaError> {
    let (mut description, mut green) = (null_mut(), null_mut());
    // SAFETY: the resources are valid for the call, of this device, and as the driver asks; the
    // places for the answers are valid.
    unsafe {
        check(
            "cuDevResourceGenerateDesc",
            sys::cuDevResourceGenerateDesc(
                &mut description,
                resources.as_mut_ptr(),
                resources.len() as u32,
            ),
        )?;
        let flags = sys::CUgreenCtxCreate_flags::CU_GREEN_CTX_DEFAULT_STREAM as u32;
        check(
            "cuGreenCtxCreate",
            sys::cuGreenCtxCreate(&mut green, description, device, flags),
        )?;
    }
    Ok(green)
}

impl SmGroups {
    /// The multiprocessors of each group.
    pub fn sms(&self) -> Vec<u32> {
        // SAFETY: groups are of multiprocessors, so that is the union's valid part.
        let sms = |group: &CUdevResource| unsafe { group.__bindgen_anon_1.sm.smCount };
        self.0.iter().map(sms).collect()
    }
}

/// Multiprocessors that work can be confined to: a green context.
///
/// It lives as long as the process: the driver cannot take back the description that it was
/// made from, and destroying it would invalidate graphs that were captured in it.
#[derive(Debug)]
pub struct Partition {
    gpu: Arc<Gpu>,
    green: sys::CUgreenCtx,
    context: sys::CUcontext,
    sms: u32,
}

// SAFETY: the handle is only used while streams are made and read, by whoever has the
// partition; the driver asks for one thread at a time, which `stream` keeps by a lock.
unsafe impl Send for Partition {}
// SAFETY: as above.
unsafe impl Sync for Partition {}

impl Partition {
    /// Makes a partition of the groups numbered `from..from + count` of a division.
    ///
    /// # Errors
    /// Where the driver fails.
    ///
    /// # Panics
    /// Where the division has no such groups.
    pub fn new(
        gpu: &Arc<Gpu>,
        groups: &SmGroups,
        from: usize,
        count: usize,
    ) -> Result<Arc<Self>, CudaError> {
        gpu.make_current()?;
        let green = gpu.queues.with(
            groups.0[from..from + count].to_vec(),
            || gpu.queues_of_its_own(),
            |resources| green_context(gpu.device, resources),
        );
        let (green, mut context) = (green?, null_mut());
        // SAFETY: the green context was just made, and the place for the answer is valid.
        check("cuCtxFromGreenCtx", unsafe {
            sys::cuCtxFromGreenCtx(&mut context, green)
        })?;
        Ok(Arc::new(Self {
            gpu: Arc::clone(gpu),
            green,
            context,
            sms: groups.sms()[from..from + count].iter().sum(),
        }))
    }

    /// Makes the partition of these neighbouring slices of a layout, whose division is
    /// `groups`. The whole device has the multiprocessors that no slice has, too.
    ///
    /// # Errors
    /// Where the driver fails.
    ///
    /// # Panics
    /// Where the atoms are not of the layout.
    pub fn of_atoms(
        gpu: &Arc<Gpu>,
        (layout, groups): (&SmLayout, &SmGroups),
        atoms: AtomSet,
    ) -> Result<Arc<Self>, CudaError> {
        if atoms.count() == layout.slices().0 {
            return Self::new(gpu, &gpu.whole()?, 0, 1);
        }
        let first = atoms.iter().next().unwrap_or(0);
        Self::new(gpu, groups, first.into(), atoms.count().into())
    }

    /// Its multiprocessors.
    pub fn sms(&self) -> u32 {
        self.sms
    }

    /// Its device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// A stream whose work runs on these multiprocessors only. A lower `priority` goes first.
    ///
    /// # Errors
    /// Where the driver fails.
    pub fn stream(self: &Arc<Self>, priority: i32) -> Result<Arc<Stream>, CudaError> {
        static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _guard = ONE_AT_A_TIME
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut stream = null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the green context lives as long as the process.
        check("cuGreenCtxStreamCreate", unsafe {
            sys::cuGreenCtxStreamCreate(&mut stream, self.green, flags, priority)
        })?;
        Ok(Arc::new(Stream::owned(stream, Arc::clone(self))))
    }

    pub(super) fn context(&self) -> sys::CUcontext {
        self.context
    }
}
