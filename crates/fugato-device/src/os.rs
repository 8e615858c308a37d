//! The operating system's part: affinity, niceness, heap.

use std::io;

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

/// Sets the niceness of the calling thread (Linux has one per thread), which threads it
/// starts inherit.
pub(crate) fn set_niceness(niceness: i32) -> io::Result<()> {
    // SAFETY: takes numbers only; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises (below 0) or lowers (above 0) the priority of the calling thread against others
/// of this machine, as niceness from -20 to 19.
///
/// # Errors
/// Raising it needs a privilege (`CAP_SYS_NICE`, or a limit on niceness that allows it).
pub fn prioritise_this_thread(niceness: i32) -> io::Result<()> {
    set_niceness(niceness)
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

/// The processor's name as it calls itself, or its architecture.
pub(crate) fn processor_name() -> String {
    let described = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = described.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
