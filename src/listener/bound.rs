//! A listening socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::Arrived;
use super::client::Socket;
use crate::config::{self, ListenAddress};
use crate::net::{kernel, socket};

/// What a listener's address came to.
pub enum Bound {
    Tcp { listener: std::net::TcpListener, address: Option<SocketAddr> },
    Unix { listener: std::os::unix::net::UnixListener, path: PathBuf, inode: Option<(u64, u64)> },
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address: Some(address), .. } => address.fmt(f),
            Self::Tcp { address: None, .. } => f.write_str("?"),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Bound {
    pub fn keep_alive(&self, heartbeat: &config::Heartbeat) {
        if let Self::Tcp { listener, .. } = self {
            // Accepted sockets inherit it on Linux; one that could not be set is a connection without keepalive, no more.
            let _ = socket::sustain(listener, heartbeat);
        }
    }

    pub fn accept(&self) -> io::Result<Arrived> {
        Ok(match self {
            Self::Tcp { listener, address } => {
                let (socket, peer) = kernel::accept(listener.as_raw_fd())?;
                Arrived { socket: Socket::Tcp(socket.into()), peer, local: *address }
            }
            Self::Unix { listener, .. } => {
                let (socket, _) = kernel::accept(listener.as_raw_fd())?;
                Arrived { socket: Socket::Unix(socket.into()), peer: None, local: None }
            }
        })
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp { listener, .. } => listener.as_fd(),
            Self::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

impl Drop for Bound {
    /// The path goes with the socket, unless somebody else's socket stands there by now.
    fn drop(&mut self) {
        if let Self::Unix { path, inode, .. } = self
            && inode.is_some()
            && identity(path) == *inode
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn identity(path: &std::path::Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

pub fn bind(address: &ListenAddress) -> io::Result<Bound> {
    match address {
        ListenAddress::Tcp(address) => {
            let listener = socket::bind_listener(*address)?;
            let address = listener.local_addr().ok();
            Ok(Bound::Tcp { listener, address })
        }
        ListenAddress::Unix(path) => {
            let listener = socket::bind_unix(path)?;
            Ok(Bound::Unix { listener, path: path.clone(), inode: identity(path) })
        }
    }
}

/// The same for an address that has just been closed.
pub fn rebind(address: &ListenAddress) -> io::Result<Bound> {
    socket::once_free(|| bind(address))
}
