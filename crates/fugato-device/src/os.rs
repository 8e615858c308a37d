//! The operating system's part: affinity, niceness, heap.

use std::io;
use std::os::unix::fs::FileExt;

/// The cores that this thread, and threads it starts, may run on, rising.
pub(crate) fn affinity() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero set is a valid, empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid and of the size given; 0 is the calling thread.
    let status = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    let limit = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: the index is within the set.
    Ok((0..limit)
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect())
}

/// Confines the calling thread, and threads it starts, to `cores`.
pub(crate) fn pin(cores: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero set is a valid, empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &core in cores {
        let limit = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
        assert!(
            core < limit,
            "core {core} is past {limit}, the most of a set"
        );
        // SAFETY: the index is within the set.
        unsafe { libc::CPU_SET(core, &mut set) };
    }
    // SAFETY: `set` is valid and of the size given; 0 is the calling thread.
    match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How long a thread has a core before Linux looks at others of its kind (6.12 and later). Others
/// that wake up with a shorter slice, and thus are due sooner, run at once.
///
/// What an urgent thread and one that it has suspended get on one core follows from three rules.
/// A thread that has had more than its part is not chosen, however heavy it is: the urgent one has as
/// soon as it has run, so the other is chosen at the first interruption. Whoever is chosen stays for
/// the shorter of their slices, and then until the next tick. And what a thread is owed is kept up to
/// twice its own slice. So what may be suspended has the short slice: it is chosen for little. And
/// the urgent one has the long slice: it is owed much for that
/// (bench/runs/2026-11-23-x86_64-2cpu-urgent-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slice {
    /// 5 ms, of a thread that runs models: longer than what other programs have by default,
    /// 0.7 to 2.8 ms by the number of cores, so that the server's threads, and
    /// clients on the same machine, run at once.
    Long,
    /// 1 ms, of a thread that runs models and that urgent ones may suspend.
    Suspended,
    /// 10 ms, of an urgent thread.
    Urgent,
}

impl Slice {
    fn nanos(self) -> u64 {
        match self {
            Self::Long => 5_000_000,
            Self::Suspended => 1_000_000,
            Self::Urgent => 10_000_000,
        }
    }
}

/// The niceness of the calling thread.
pub(crate) fn niceness() -> i32 {
    // SAFETY: takes numbers only; 0 is the calling thread, of which it can always be told.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Has the calling thread, and threads it starts, yield to others: with a niceness (Linux
/// has one per thread), and with a slice where the kernel knows slices.
pub(crate) fn yield_to_others(niceness: i32, slice: Slice) -> io::Result<()> {
    let fair = SchedAttr {
        size: u32::try_from(size_of::<SchedAttr>()).unwrap_or(0),
        policy: u32::try_from(libc::SCHED_OTHER).unwrap_or(0),
        flags: 0,
        nice: niceness,
        priority: 0,
        runtime: slice.nanos(),
        deadline: 0,
        period: 0,
    };
    // A sandbox may know only the older call, which has no slices.
    if set_attributes(&fair) {
        return Ok(());
    }
    // SAFETY: takes numbers only; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What the operating system gave a thread that must run as soon as it is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promptness {
    /// It preempts every thread without real-time priority.
    RealTime,
    /// Niceness below 0 and a short slice.
    Raised,
    /// A short slice: it preempts threads with a longer one when it wakes up, where the
    /// kernel knows slices (Linux 6.12 and later).
    ShortSlice,
    /// Nothing.
    Usual,
}

/// The shortest slice Linux gives.
const SHORT_SLICE_NS: u64 = 100_000;

/// Of a thread that works for microseconds at a time and that everything waits for.
const RAISED_NICENESS: i32 = -10;

/// The kernel's `struct sched_attr`, in its first version.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Has the calling thread run as soon as it is woken, as far as the process may ask for
/// that: with real-time priority if `real_time` and permitted, else with niceness below
/// 0, else with a short slice. Threads it starts begin with the usual priority.
///
/// A thread with real-time priority must never work for long: others of its core stand
/// still meanwhile.
pub fn hasten_this_thread(real_time: bool) -> Promptness {
    let policy = |policy: i32| u32::try_from(policy).unwrap_or(0);
    let fair = |nice| (policy(libc::SCHED_OTHER), nice, 0, SHORT_SLICE_NS);
    let attempts = [
        (
            real_time,
            Promptness::RealTime,
            (policy(libc::SCHED_FIFO), 0, 1, 0),
        ),
        (real_time, Promptness::Raised, fair(RAISED_NICENESS)),
        (true, Promptness::ShortSlice, fair(0)),
    ];
    let given = attempts
        .into_iter()
        .find(|&(wanted, _, (policy, nice, priority, runtime))| {
            // A thread that is started from this one does other work.
            let flags = u64::try_from(libc::SCHED_FLAG_RESET_ON_FORK).unwrap_or(0);
            let size = u32::try_from(size_of::<SchedAttr>()).unwrap_or(0);
            wanted
                && set_attributes(&SchedAttr {
                    size,
                    policy,
                    flags,
                    nice,
                    priority,
                    runtime,
                    deadline: 0,
                    period: 0,
                })
        });
    given.map_or(Promptness::Usual, |(_, promptness, _)| promptness)
}

fn set_attributes(attributes: &SchedAttr) -> bool {
    // SAFETY: the kernel reads `size` bytes of a valid structure; thread 0 is the calling
    // one, and the last argument must be 0.
    unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            0,
            std::ptr::from_ref(attributes),
            0,
        ) == 0
    }
}

/// Of each page of `bytes`, whether this process has it in memory. The first one counts from the
/// page's beginning.
///
/// # Errors
/// Where the system does not tell: it is no Linux, or hides it.
pub(crate) fn pages_present(bytes: &[u8]) -> io::Result<Vec<bool>> {
    /// Of an entry, that the page is there.
    const PRESENT: u64 = 1 << 63;
    let page = page_bytes();
    let first = bytes.as_ptr().addr() / page;
    let end = (bytes.as_ptr().addr() + bytes.len()).div_ceil(page);
    let mut entries = vec![0; (end - first) * size_of::<u64>()];
    let offset = u64::try_from(first * size_of::<u64>()).unwrap_or(u64::MAX);
    std::fs::File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, offset)?;
    let (entries, _) = entries.as_chunks();
    let entries = entries.iter().map(|entry| u64::from_ne_bytes(*entry));
    Ok(entries.map(|entry| entry & PRESENT != 0).collect())
}

/// Bytes of a page of memory.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: takes a number only.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Has the allocator give free pages back to the operating system, where it can.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number only; it tells whether it gave memory back, and either way
    // is fine.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Blocks from this many bytes on have pages of their own, which go back when the block does.
/// A model's largest (its weights as kernels like them, the memory it runs in) are above it;
/// requests' tensors, which would pay a page fault per 4 KiB each time, mostly below.
const OWN_PAGES_BYTES: libc::c_int = 4 << 20;

/// Bytes at the end of the heap that may stay free until a model is loaded or unloaded, which
/// gives them back ([`trim_heap`]): half of what the C library's own adaption may come to.
/// With its smallest, 128 KiB, each request for an image took 0.3 ms longer.
const FREE_END_BYTES: libc::c_int = 32 << 20;

/// Keeps the C library's heap small where models come and go. Call it before threads are
/// started.
///
/// - One arena for two cores, in place of eight for each. What a model leaves free is spread
///   over all arenas that its threads used, and of all but the first the free end cannot be
///   given back. Most requests are served from blocks that a thread keeps for itself, so two
///   threads of one arena seldom wait for each other.
/// - A fixed size from which blocks have pages of their own. The C library raises it to that
///   of the largest block freed so far, so that blocks of megabytes come to lie in the heap,
///   and small ones that live longer keep the room behind them from being used again.
///
/// The figures are in bench/runs/2026-11-21-x86_64-2cpu-cycles.
pub fn bound_heap() {
    #[cfg(target_env = "gnu")]
    {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = libc::c_int::try_from((cores / 2).max(1)).unwrap_or(libc::c_int::MAX);
        for (parameter, value) in [
            (libc::M_ARENA_MAX, arenas),
            (libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES),
            (libc::M_TRIM_THRESHOLD, FREE_END_BYTES),
        ] {
            // SAFETY: takes two numbers only, and says no where it does not know the first.
            let set = unsafe { libc::mallopt(parameter, value) };
            if set == 0 {
                tracing::debug!(parameter, value, "the heap could not be bounded");
            }
        }
    }
}

/// The processor's name as it calls itself, or its architecture.
pub(crate) fn processor_name() -> String {
    let described = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = described.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Ends the process without taking it apart: destructors and handlers of libraries do not run.
pub fn exit_at_once(code: u8) -> ! {
    // SAFETY: ends the process; nothing after it relies on what is not done.
    unsafe { libc::_exit(code.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_their_slices_where_the_kernel_knows_slices() {
        let attributes = |slice| {
            let own = std::thread::spawn(move || {
                if let Some(slice) = slice {
                    yield_to_others(15, slice).expect("any thread may yield");
                }
                let mut found = std::mem::MaybeUninit::<SchedAttr>::zeroed();
                // SAFETY: the kernel writes at most the size given; thread 0 is the calling
                // one, and the last argument must be 0.
                let status = unsafe {
                    let (size, none) = (size_of::<SchedAttr>(), 0);
                    libc::syscall(libc::SYS_sched_getattr, 0, found.as_mut_ptr(), size, none)
                };
                assert_eq!(status, 0, "{}", io::Error::last_os_error());
                // SAFETY: all bits of it are valid in numbers, and zeroed before.
                unsafe { found.assume_init() }
            });
            own.join().expect("the thread ends")
        };
        let usual = attributes(None);
        // Older kernels say 0.
        let knows = usual.runtime > 0;
        for slice in [Slice::Long, Slice::Suspended, Slice::Urgent] {
            let given = attributes(Some(slice));
            let expected = if knows { slice.nanos() } else { 0 };
            assert_eq!((given.nice, given.runtime), (15, expected));
            let is_longer = usual.runtime <= slice.nanos();
            assert!(is_longer || slice == Slice::Suspended, "{slice:?}");
        }
    }
}
