//! Options of TCP sockets that socket2 does not know.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Bounds the wait between two retransmissions of a TCP socket, so that traffic moves again soon after a network
/// heals. The kernel takes 1 – 120 s; values outside are brought inside. `Ok(false)`: the kernel is older than 6.15.
#[cfg(target_os = "linux")]
pub fn set_rto_max(fd: RawFd, longest: Duration) -> io::Result<bool> {
    /// `linux/tcp.h`; not in the libc crate yet.
    const TCP_RTO_MAX_MS: libc::c_int = 44;
    let milliseconds = longest.as_millis().clamp(1_000, 120_000) as libc::c_int;
    // SAFETY: the pointer is to a live `c_int` and the length is that of a `c_int`; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const milliseconds).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        error => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
pub fn set_rto_max(_fd: RawFd, _longest: Duration) -> io::Result<bool> {
    Ok(false)
}

/// Bounds what a TCP socket takes beyond what has left the host (`TCP_NOTSENT_LOWAT`, Linux 3.12): it is writable only
/// while fewer than so many bytes wait, so what matters more need not queue behind them. `Ok(false)`: not on this
/// system.
#[cfg(target_os = "linux")]
pub fn set_notsent_lowat(fd: RawFd, bytes: u32) -> io::Result<bool> {
    // SAFETY: the pointer is to a live `u32`, of the size of a `c_int`, and the length says so; the kernel only reads
    // it, and takes it as unsigned.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(true) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
pub fn set_notsent_lowat(_fd: RawFd, _bytes: u32) -> io::Result<bool> {
    Ok(false)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::net::kernel::{pair, tcp_info};

    #[test]
    fn a_socket_with_a_low_water_mark_takes_little_that_cannot_leave() {
        const MARK: u32 = 16 << 10;
        let takes = |mark: Option<u32>| {
            let (mut near, far) = pair();
            near.set_nonblocking(true).unwrap();
            if let Some(mark) = mark {
                assert!(set_notsent_lowat(near.as_raw_fd(), mark).unwrap());
            }
            while near.write(&[0; 4096]).is_ok() {}
            let info = tcp_info(near.as_raw_fd()).unwrap();
            drop(far);
            info.notsent_bytes
        };
        let (marked, free) = (takes(Some(MARK)), takes(None));
        assert!(marked < 4 * MARK && free > 8 * MARK, "{marked} and {free}");
        assert!(set_notsent_lowat(-1, MARK).is_err());
    }

    #[test]
    fn the_longest_retransmission_wait_is_set_where_the_kernel_can() {
        let (near, _far) = pair();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(set_rto_max(near.as_raw_fd(), Duration::from_secs(2)).unwrap(), version >= (6, 15));
        assert_eq!(set_rto_max(near.as_raw_fd(), Duration::ZERO).unwrap(), version >= (6, 15), "brought inside");
        assert!(set_rto_max(-1, Duration::from_secs(2)).is_err());
    }
}
