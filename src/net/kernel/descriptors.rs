//! Descriptors as such: how many there may be, whose they are, and whether one has failed.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether an error waits to be told at a socket, its peer's reset above all. It is not taken away: whoever reads or writes
/// next hears it. A socket that has ended in order, with bytes that wait to be read or without, has none.
pub fn has_failed(fd: RawFd) -> bool {
    let mut asked = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: the pointer is to one live `pollfd`, and the count says so; with a timeout of 0 the call returns at once.
    let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
    found == 1 && asked.revents & libc::POLLERR != 0
}

/// Raises this process's soft limit of open descriptors to the hard one. Returns the soft limit before and now.
pub fn raise_descriptor_limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live `rlimit` the kernel fills.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = limit.rlim_cur;
    // macOS says "unlimited" but takes no more than OPEN_MAX.
    let most = if cfg!(target_os = "linux") { limit.rlim_max } else { limit.rlim_max.min(10_240) };
    if before >= most {
        return Ok((before, before));
    }
    limit.rlim_cur = most;
    // SAFETY: `limit` is a live `rlimit` the kernel only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((before, most))
}

/// Lends the descriptor of a socket that is held elsewhere to `act`. The caller sees to it that the socket stays open
/// meanwhile, by a lock that its owner takes before closing.
///
/// Errors: `EBADF`, from here for a number that can be no descriptor, from `act` for one that is not open.
pub fn with_fd<R>(fd: RawFd, act: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1, which a borrowed descriptor must never be; the borrow ends with `act`, during which
    // the caller keeps the socket open, and it is only handed to system calls, which look the number up.
    act(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Takes over the descriptors from 3 on that whoever started this process has left open for it (sd_listen_fds(3)), and has
/// them closed on exec from now on. To be called before this process has opened anything itself; only the first call takes
/// any.
///
/// Errors, for each by itself: `EBADF`, nothing is open at that number.
pub fn inherited(count: u16) -> Vec<io::Result<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let take = |fd: RawFd| {
        // SAFETY: the number of a descriptor and an integer argument; the kernel touches no memory of ours.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, for the call above has succeeded. Nobody else in this process owns it: the standard library
        // opens none before `main`, the caller has opened none yet, and a second call never comes here.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    (3..3 + RawFd::from(count)).map(take).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::net::kernel::{TcpState, pair, tcp_info};

    #[test]
    fn a_reset_is_a_failure_and_an_end_in_order_is_none_though_bytes_wait() {
        let (mut near, far) = pair();
        near.write_all(b"last words").unwrap();
        // The end that ends first is closed to the kernel as soon as the other follows, whatever waits to be read.
        far.shutdown(std::net::Shutdown::Write).unwrap();
        drop(near);
        while tcp_info(far.as_raw_fd()).unwrap().state != TcpState::Closed {
            std::thread::yield_now();
        }
        assert!(!has_failed(far.as_raw_fd()));
        let mut words = String::new();
        (&far).read_to_string(&mut words).unwrap();
        assert_eq!(words, "last words");

        let (mut near, far) = pair();
        near.write_all(b"unread").unwrap();
        assert!(!has_failed(near.as_raw_fd()));
        // Bytes that nobody has read make a reset of a close.
        while tcp_info(far.as_raw_fd()).unwrap().bytes_received < 6 {
            std::thread::yield_now();
        }
        drop(far);
        while !has_failed(near.as_raw_fd()) {
            std::thread::yield_now();
        }
        assert_eq!(near.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset, "it is still there");
        assert!(!has_failed(-1));
    }

    #[test]
    fn a_number_that_is_no_descriptor_is_lent_to_nobody() {
        let lent = with_fd(-1, |_| -> io::Result<()> { panic!("it was lent") });
        assert_eq!(lent.unwrap_err().raw_os_error(), Some(libc::EBADF));
        let (near, _far) = pair();
        let number = with_fd(near.as_raw_fd(), |fd| Ok(fd.as_raw_fd()));
        assert_eq!(number.unwrap(), near.as_raw_fd());
    }

    #[test]
    fn the_descriptor_limit_rises_to_the_hard_one_and_stays() {
        let (_, now) = raise_descriptor_limit().unwrap();
        assert_eq!(raise_descriptor_limit().unwrap(), (now, now));
    }
}
