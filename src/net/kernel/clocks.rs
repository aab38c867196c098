//! The kernel's clocks.

use std::time::Duration;

/// What `CLOCK_MONOTONIC` shows: the time since this machine was started, without suspensions.
pub fn monotonic() -> Duration {
    read_clock(libc::CLOCK_MONOTONIC)
}

/// How long this machine has been suspended since it was started, all times together: what `CLOCK_BOOTTIME` counts and
/// `CLOCK_MONOTONIC`, by which every timer goes, does not.
#[cfg(target_os = "linux")]
pub fn suspended() -> Duration {
    read_clock(libc::CLOCK_BOOTTIME).saturating_sub(read_clock(libc::CLOCK_MONOTONIC))
}

#[cfg(not(target_os = "linux"))]
pub fn suspended() -> Duration {
    Duration::ZERO
}

fn read_clock(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer leads to a timespec of ours. A clock that this kernel has not leaves it at zero.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
