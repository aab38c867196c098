//! A listening socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Arrived;
use super::client::Socket;
use crate::config::{self, ListenAddress};
use crate::net::{kernel, socket};
use crate::systemd::Passed;

/// A socket that listens at an address of the configuration.
pub struct Bound {
    socket: Listening,
    /// It is the service manager's, who passes it to our successor as well.
    is_passed: bool,
    /// Clients came to its queue before its options were ours, and have not been accepted yet.
    has_early: AtomicBool,
    /// Who is in the queue is left to the successor.
    left: AtomicBool,
}

/// What a listener's address came to.
enum Listening {
    Tcp { listener: std::net::TcpListener, address: Option<SocketAddr> },
    Unix { listener: std::os::unix::net::UnixListener, path: PathBuf, inode: Option<(u64, u64)> },
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Listening::Tcp { address: Some(address), .. } => address.fmt(f),
            Listening::Tcp { address: None, .. } => f.write_str("?"),
            Listening::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Bound {
    pub fn keep_alive(&self, heartbeat: &config::Heartbeat) {
        if let Listening::Tcp { listener, .. } = &self.socket {
            // Accepted sockets inherit it on Linux; one that could not be set is a connection without keepalive, no more.
            let _ = socket::sustain(listener, heartbeat);
        }
    }

    pub fn accept(&self) -> io::Result<Arrived> {
        Ok(match &self.socket {
            Listening::Tcp { listener, address } => {
                let (socket, peer) = kernel::accept(listener.as_raw_fd()).inspect_err(|error| {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.has_early.store(false, Ordering::Relaxed);
                    }
                })?;
                if self.has_early.load(Ordering::Relaxed)
                    && let Some(address) = address
                {
                    // Without it the connection is sound, only slower.
                    let _ = socket::suit_listener(&socket, address.ip());
                }
                Arrived { socket: Socket::Tcp(socket.into()), peer, local: *address }
            }
            Listening::Unix { listener, .. } => {
                let (socket, _) = kernel::accept(listener.as_raw_fd())?;
                Arrived { socket: Socket::Unix(socket.into()), peer: None, local: None }
            }
        })
    }

    /// Whether somebody else has the socket as well, and its queue outlives us.
    pub fn is_passed(&self) -> bool {
        self.is_passed
    }

    /// Who is in the queue from now on is left to our successor, if there can be one.
    pub fn leave_queue(&self) {
        self.left.store(self.is_passed, Ordering::Relaxed);
    }

    /// Whether nobody is to be accepted any more.
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Listening::Tcp { listener, .. } => listener.as_fd(),
            Listening::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

impl Drop for Bound {
    /// The path goes with the socket, unless it was passed or somebody else's socket stands there by now.
    fn drop(&mut self) {
        if let Listening::Unix { path, inode, .. } = &self.socket
            && !self.is_passed
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

/// The socket that was passed for the address, or a new one.
pub fn bind(address: &ListenAddress, passed: &Passed) -> io::Result<Bound> {
    let (socket, is_passed) = match address {
        ListenAddress::Tcp(address) => {
            let (listener, is_passed) = passed.tcp(*address)?;
            let address = listener.local_addr().ok();
            (Listening::Tcp { listener, address }, is_passed)
        }
        ListenAddress::Unix(path) => {
            let (listener, is_passed) = passed.unix(path)?;
            (Listening::Unix { listener, path: path.clone(), inode: identity(path) }, is_passed)
        }
    };
    Ok(Bound { socket, is_passed, has_early: AtomicBool::new(is_passed), left: AtomicBool::new(false) })
}

/// The same for an address that has just been closed.
pub fn rebind(address: &ListenAddress, passed: &Passed) -> io::Result<Bound> {
    socket::once_free(|| bind(address, passed))
}
