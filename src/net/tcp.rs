//! A tunnel's TCP socket: the kernel's, and in simulations one of memory. What is built for users knows only the former.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::kernel::{self, TcpInfo};
#[cfg(test)]
use super::memory;
use super::rehearsal::{self, Rehearsal, Rehearsed};
use super::socket;

/// A socket that belongs to the runtime it was made in.
#[derive(Debug)]
pub enum Tcp {
    Kernel(TcpStream),
    #[cfg(test)]
    Memory(memory::Socket),
    /// In a rehearsed outage.
    Rehearsed(Box<Rehearsed<Tcp>>),
}

/// One that belongs to none.
#[derive(Debug)]
pub enum Unbound {
    Kernel(std::net::TcpStream),
    #[cfg(test)]
    Memory(memory::Socket),
}

/// Calls the same of whichever socket it is.
macro_rules! each {
    ($socket:expr, $inner:ident => $call:expr) => {
        match $socket {
            Tcp::Kernel($inner) => $call,
            #[cfg(test)]
            Tcp::Memory($inner) => $call,
            Tcp::Rehearsed($inner) => $call,
        }
    };
}

/// For what only the kernel can do; in memory there is nothing to be done.
macro_rules! kernels {
    ($socket:expr, $inner:ident => $call:expr, $otherwise:expr) => {
        match $socket.bare() {
            Tcp::Kernel($inner) => $call,
            _ => $otherwise,
        }
    };
}

impl Tcp {
    /// The socket in an outage that is rehearsed, unless it is in that one already.
    pub fn rehearsed(self, rehearsal: &Arc<Rehearsal>) -> Self {
        match self {
            Self::Rehearsed(old) if old.is_in(rehearsal) => Self::Rehearsed(old),
            Self::Rehearsed(old) if old.is_through() => old.into_inner().rehearsed(rehearsal),
            other => Self::Rehearsed(Box::new(Rehearsed::new(other, rehearsal))),
        }
    }

    /// Lets what is due in a rehearsed outage go its way; of any other socket nothing is.
    #[inline]
    pub fn drive(&mut self, context: &mut Context<'_>) {
        if let Self::Rehearsed(tcp) = self {
            tcp.drive(context);
        }
    }

    /// The socket itself.
    fn bare(&self) -> &Self {
        match self {
            Self::Rehearsed(tcp) => tcp.inner().bare(),
            other => other,
        }
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self.bare() {
            Self::Kernel(tcp) => tcp.peer_addr(),
            #[cfg(test)]
            Self::Memory(tcp) => tcp.peer_addr(),
            Self::Rehearsed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.bare() {
            Self::Kernel(tcp) => tcp.local_addr(),
            #[cfg(test)]
            Self::Memory(tcp) => tcp.local_addr(),
            Self::Rehearsed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Waits for the first byte and leaves it where it is. False: the peer has ended without one.
    pub async fn has_first_byte(&self) -> io::Result<bool> {
        match self {
            Self::Kernel(tcp) => Ok(tcp.peek(&mut [0]).await? > 0),
            #[cfg(test)]
            Self::Memory(tcp) => tcp.has_first_byte().await,
            Self::Rehearsed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Our end of the bytes.
    pub fn end(&self) -> io::Result<()> {
        match self.bare() {
            Self::Kernel(tcp) => SockRef::from(tcp).shutdown(Shutdown::Write),
            #[cfg(test)]
            Self::Memory(tcp) => tcp.end(),
            Self::Rehearsed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// What the kernel knows of it.
    pub fn info(&self) -> io::Result<TcpInfo> {
        match self.bare() {
            Self::Kernel(tcp) => kernel::tcp_info(tcp.as_raw_fd()),
            #[cfg(test)]
            Self::Memory(tcp) => Ok(tcp.info()),
            Self::Rehearsed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Its close will be a reset.
    pub fn reset_on_close(&self) -> io::Result<()> {
        match self.bare() {
            Self::Kernel(tcp) => socket::reset_on_close(tcp),
            #[cfg(test)]
            Self::Memory(tcp) => {
                tcp.reset_on_close();
                Ok(())
            }
            Self::Rehearsed(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// See [`kernel::set_notsent_lowat`].
    pub fn set_notsent_lowat(&self, bytes: u32) -> io::Result<bool> {
        kernels!(self, tcp => kernel::set_notsent_lowat(tcp.as_raw_fd(), bytes), Ok(false))
    }

    /// See [`socket::apply_rto_max`].
    pub fn apply_rto_max(&self, longest: Duration) -> io::Result<()> {
        kernels!(self, tcp => socket::apply_rto_max(tcp, longest), Ok(()))
    }

    /// The kernel's socket, for TLS. Error `Unsupported`: it is none.
    pub fn into_kernels(self) -> io::Result<TcpStream> {
        match self {
            Self::Kernel(tcp) => Ok(tcp),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Leaves its runtime. An error means the connection is gone, or is in a rehearsed outage.
    pub fn unbind(self) -> io::Result<Unbound> {
        Ok(match self {
            Self::Kernel(tcp) => Unbound::Kernel(tcp.into_std()?),
            #[cfg(test)]
            Self::Memory(tcp) => Unbound::Memory(tcp),
            Self::Rehearsed(_) => return Err(io::ErrorKind::Unsupported.into()),
        })
    }
}

impl Unbound {
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Kernel(tcp) => tcp.peer_addr(),
            #[cfg(test)]
            Self::Memory(tcp) => tcp.peer_addr(),
        }
    }

    /// Joins the runtime it is called in; panics outside of one. An error means the connection is gone.
    pub fn bind(self) -> io::Result<Tcp> {
        Ok(match self {
            Self::Kernel(tcp) => Tcp::Kernel(TcpStream::from_std(tcp)?),
            #[cfg(test)]
            Self::Memory(tcp) => Tcp::Memory(tcp),
        })
    }
}

#[cfg(test)]
impl std::os::fd::AsFd for Tcp {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        kernels!(self, tcp => tcp.as_fd(), unreachable!("a socket of memory has no descriptor"))
    }
}

impl rehearsal::Socket for Tcp {
    /// A tunnel keeps its bytes itself until they are acknowledged.
    const TAKEN: usize = 0;

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        kernels!(self, tcp => Some(tcp.as_fd()), None)
    }
}

impl From<TcpStream> for Tcp {
    fn from(tcp: TcpStream) -> Self {
        Self::Kernel(tcp)
    }
}

impl AsyncRead for Tcp {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), tcp => Pin::new(&mut *tcp).poll_read(context, buffer))
    }
}

impl AsyncWrite for Tcp {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), tcp => Pin::new(&mut *tcp).poll_write(context, bytes))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), tcp => Pin::new(&mut *tcp).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), tcp => Pin::new(&mut *tcp).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), tcp => Pin::new(&mut *tcp).poll_shutdown(context))
    }
}
