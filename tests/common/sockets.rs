//! Looking at the sockets of this very process from outside of whoever owns them.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use everlink::net::kernel;
use socket2::SockRef;

/// A socket's keepalive, as the kernel tells it.
#[derive(Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub spacing: Duration,
    pub count: u32,
}

impl Keepalive {
    pub fn seconds(idle: u64, spacing: u64, count: u32) -> Self {
        Self { idle: Duration::from_secs(idle), spacing: Duration::from_secs(spacing), count }
    }
}

/// The keepalive of this process's socket that talks to `peer`; `None`: there is no such socket, or it has none.
pub fn keepalive_towards(peer: SocketAddr) -> Option<Keepalive> {
    find(|socket| socket.peer_addr().ok()?.as_socket().filter(|address| *address == peer).and_then(|_| read(socket)))
}

/// The keepalive of this process's connected socket at the local address.
pub fn keepalive_at(local: SocketAddr) -> Option<Keepalive> {
    find(|socket| {
        socket.peer_addr().ok()?;
        socket.local_addr().ok()?.as_socket().filter(|address| *address == local).and_then(|_| read(socket))
    })
}

fn read(socket: &SockRef<'_>) -> Option<Keepalive> {
    if !socket.keepalive().ok()? {
        return None;
    }
    Some(Keepalive {
        idle: socket.tcp_keepalive_time().ok()?,
        spacing: socket.tcp_keepalive_interval().ok()?,
        count: socket.tcp_keepalive_retries().ok()?,
    })
}

fn find<T>(mut look: impl FnMut(&SockRef<'_>) -> Option<T>) -> Option<T> {
    let mut look = |fd| kernel::with_fd(fd, |fd: BorrowedFd<'_>| Ok(look(&SockRef::from(&fd))));
    descriptors().into_iter().find_map(|fd| look(fd).ok().flatten())
}

/// The numbers of this process's open descriptors.
pub fn descriptors() -> Vec<RawFd> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
