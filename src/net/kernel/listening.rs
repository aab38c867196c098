//! Waiting for clients at a listening socket, and taking them from it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes one connection from a listening socket, non-blocking and closed on exec, in a single call, and without tying
/// it to any event loop: the thread that will carry it may be another. The address is `None` for unix sockets.
///
/// Errors: `WouldBlock` when none waits; `EMFILE` and `ENFILE` (the connection stays queued); `ECONNABORTED` when the
/// client has left already.
#[cfg(target_os = "linux")]
pub fn accept(listener: RawFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let accept = |storage: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        // SAFETY: `try_init` hands out a live storage and its size; the kernel writes at most that much, and sets both.
        let fd = unsafe { libc::accept4(listener, storage.cast(), length, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
    };
    // SAFETY: on success the kernel has written an address of the length it reports, which is what `try_init` asks.
    let (fd, address) = unsafe { socket2::SockAddr::try_init(accept) }?;
    // SAFETY: `accept4` has just made this descriptor and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((socket, address.as_socket()))
}

#[cfg(not(target_os = "linux"))]
pub fn accept(listener: RawFd) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    if listener < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is not -1; it is borrowed for this one call, during which the caller's listener is open.
    let listener = unsafe { std::os::fd::BorrowedFd::borrow_raw(listener) };
    let (socket, address) = socket2::SockRef::from(&listener).accept()?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), address.as_socket()))
}

/// A socket that is only waited for: reading and accepting stay with its owner.
pub struct Awaited(Arc<dyn AsFd + Send + Sync>);

impl AsRawFd for Awaited {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits for a listening socket in the runtime that calls. `listener` has one socket from its making to its end, as the
/// standard library's listeners have. Errors: the runtime cannot take another descriptor.
pub fn await_clients(listener: Arc<dyn AsFd + Send + Sync>) -> io::Result<AsyncFd<Awaited>> {
    // SAFETY: the registration holds a share of the owner, and the owner keeps one and the same descriptor open for as
    // long as it exists. `AsFd` alone does not promise the latter; both callers' owners, `listener::Bound` and
    // `std::net::TcpListener`, do: they never put another socket in the place of the first.
    unsafe { AsyncFd::register_with_interest(Awaited(listener), Interest::READABLE) }.map_err(Into::into)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn an_accepted_socket_is_nonblocking_and_closed_on_exec() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(accept(listener.as_raw_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, peer) = accept(listener.as_raw_fd()).unwrap();
        assert_eq!(peer, Some(client.local_addr().unwrap()));
        let mut stream = TcpStream::from(socket);
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", stream.as_raw_fd())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = libc::c_int::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & libc::O_CLOEXEC, 0, "{info}");
    }

    #[test]
    fn a_unix_client_is_accepted_without_an_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(accept(listener.as_raw_fd()).unwrap().1, None);
    }
}
