//! Pipes, and bytes that go through them without being copied.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Both ends of a pipe for `splice`, non-blocking and closed on exec.
#[derive(Debug)]
pub struct Pipe {
    pub read: OwnedFd,
    pub write: OwnedFd,
    /// Bytes it holds, as the kernel granted them: at least what was asked.
    pub capacity: usize,
}

/// Moves up to `len` bytes between a pipe and a socket inside the kernel, never waiting; 0 is the end of the source.
///
/// `SPLICE_F_MORE` is never set: it corks the socket, and the last bytes of an answer would wait 200 ms for company.
/// Errors: `WouldBlock` when the source is dry *or* the target full; the caller knows which by what the pipe holds.
#[cfg(target_os = "linux")]
pub fn splice(from: RawFd, to: RawFd, len: usize) -> io::Result<usize> {
    // SAFETY: both offsets are null, so the kernel touches no memory of ours; the descriptors are only numbers.
    let moved = unsafe {
        libc::splice(
            from,
            std::ptr::null_mut(),
            to,
            std::ptr::null_mut(),
            len,
            libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE,
        )
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

#[cfg(not(target_os = "linux"))]
pub fn splice(_from: RawFd, _to: RawFd, _len: usize) -> io::Result<usize> {
    Err(super::unsupported("splice"))
}

/// A pipe that holds at least `capacity` bytes.
///
/// Errors: out of descriptors, or `PermissionDenied` when the user's share of pipe memory
/// (`/proc/sys/fs/pipe-user-pages-soft`, 16,384 pages by default) does not allow the size; the pipe is then gone.
#[cfg(target_os = "linux")]
pub fn pipe(capacity: usize) -> io::Result<Pipe> {
    let asked = libc::c_int::try_from(capacity).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut ends = [-1; 2];
    // SAFETY: `ends` has room for the two descriptors the kernel writes.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `pipe2` has just made both descriptors and nobody else knows them, so each has one owner from here.
    let read = unsafe { OwnedFd::from_raw_fd(ends[0]) };
    // SAFETY: as above, and it is the other of the two.
    let write = unsafe { OwnedFd::from_raw_fd(ends[1]) };
    // SAFETY: an open pipe and an integer argument; the kernel touches no memory of ours.
    let granted = unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, asked) };
    match usize::try_from(granted) {
        Ok(granted) => Ok(Pipe { read, write, capacity: granted }),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
pub fn pipe(_capacity: usize) -> io::Result<Pipe> {
    Err(super::unsupported("splice"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::net::kernel::pair;

    #[test]
    fn splice_moves_bytes_through_a_pipe_and_reports_dry_and_end() {
        let (mut source, into_pipe) = pair();
        let (from_pipe, mut sink) = pair();
        into_pipe.set_nonblocking(true).unwrap();
        let pipe = pipe(65536).unwrap();
        let dry = splice(into_pipe.as_raw_fd(), pipe.write.as_raw_fd(), 65536).unwrap_err();
        assert_eq!(dry.kind(), io::ErrorKind::WouldBlock);
        source.write_all(b"through the kernel").unwrap();
        let moved = loop {
            match splice(into_pipe.as_raw_fd(), pipe.write.as_raw_fd(), 65536) {
                Ok(moved) => break moved,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert_eq!(moved, 18);
        assert_eq!(splice(pipe.read.as_raw_fd(), from_pipe.as_raw_fd(), moved).unwrap(), moved);
        let mut got = [0; 18];
        sink.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"through the kernel");
        drop(source);
        while splice(into_pipe.as_raw_fd(), pipe.write.as_raw_fd(), 65536).is_err() {}
        assert_eq!(splice(into_pipe.as_raw_fd(), pipe.write.as_raw_fd(), 65536).unwrap(), 0, "end of the source");
    }

    #[test]
    fn a_pipe_has_the_size_asked_or_is_refused() {
        let granted = pipe(262_144).unwrap();
        assert!(granted.capacity >= 262_144, "{}", granted.capacity);
        // Over 2 GiB is over the limit for everybody, root included.
        assert!(pipe(usize::MAX).is_err());
        assert!(pipe(libc::c_int::MAX as usize).is_err());
    }
}
