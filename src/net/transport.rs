//! One open connection to an endpoint, whatever it runs over.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::kernel::{self, TcpInfo};
use super::rehearsal::{self, Rehearsal, Rehearsed};
use super::socket;
use crate::config::Heartbeat;

/// A connection as it was dialled. Under TLS, writes may stay in memory until [`AsyncWrite::poll_flush`].
#[derive(Debug)]
pub enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    TlsUnix(Box<TlsStream<UnixStream>>),
    #[cfg(test)]
    Memory(super::memory::Socket),
    /// In a rehearsed outage.
    Rehearsed(Box<Rehearsed<Transport>>),
}

impl Transport {
    /// The connection in an outage that is rehearsed, unless it is in that one already.
    pub fn rehearsed(self, rehearsal: &Arc<Rehearsal>) -> Self {
        match self {
            Self::Rehearsed(old) if old.is_in(rehearsal) => Self::Rehearsed(old),
            Self::Rehearsed(old) if old.is_through() => old.into_inner().rehearsed(rehearsal),
            other => Self::Rehearsed(Box::new(Rehearsed::new(other, rehearsal))),
        }
    }

    /// The connection itself, if it was in an outage that has left no trace.
    pub fn settled(self) -> Self {
        match self {
            Self::Rehearsed(old) if old.is_through() => old.into_inner(),
            other => other,
        }
    }

    /// Lets what is due in a rehearsed outage go its way; of any other connection nothing is.
    #[inline]
    pub fn drive(&mut self, context: &mut Context<'_>) {
        if let Self::Rehearsed(transport) = self {
            transport.drive(context);
        }
    }

    /// The socket underneath; under TLS it carries ciphertext.
    pub fn raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// What the socket carries is what the peers say, so bytes may be moved inside the kernel.
    pub fn is_plain(&self) -> bool {
        !matches!(self, Self::Tls(_) | Self::TlsUnix(_) | Self::Rehearsed(_))
    }

    /// The TCP socket underneath, if it is one: what has a `TCP_INFO` and keepalive.
    pub fn tcp_fd(&self) -> Option<RawFd> {
        match self {
            Self::Tcp(_) | Self::Tls(_) => Some(self.raw_fd()),
            Self::Unix(_) | Self::TlsUnix(_) => None,
            #[cfg(test)]
            Self::Memory(_) => None,
            Self::Rehearsed(transport) => transport.inner().tcp_fd(),
        }
    }

    /// What the kernel knows of it. Error `Unsupported` on a unix socket.
    pub fn tcp_info(&self) -> io::Result<TcpInfo> {
        match self.tcp_fd() {
            Some(fd) => kernel::tcp_info(fd),
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "a unix socket has no TCP_INFO")),
        }
    }

    /// See [`kernel::has_failed`].
    pub fn has_failed(&self) -> bool {
        match self {
            #[cfg(test)]
            Self::Memory(transport) => transport.has_failed(),
            _ => kernel::has_failed(self.raw_fd()),
        }
    }

    /// Sets what it needs to outlive silence and outages; a unix socket needs nothing.
    pub fn sustain(&self, heartbeat: &Heartbeat) -> io::Result<()> {
        match self.tcp_fd() {
            Some(_) => socket::sustain(self, heartbeat),
            None => Ok(()),
        }
    }

    /// Whether a plain socket may have something to read. After a read that found less than it asked for, this is pending
    /// without a system call, and the waker is set. Under TLS always ready: only reading tells.
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(transport) => transport.poll_read_ready(context),
            Self::Unix(transport) => transport.poll_read_ready(context),
            Self::Tls(_) | Self::TlsUnix(_) | Self::Rehearsed(_) => Poll::Ready(Ok(())),
            #[cfg(test)]
            Self::Memory(transport) => transport.poll_read_ready(context),
        }
    }

    /// It is closed next, in order: what is unsent is the kernel's to deliver, however slowly it is read.
    pub fn let_go(&self) {
        if self.tcp_fd().is_some() {
            socket::let_go(self);
        }
    }

    /// Its close will be a reset. A unix socket has none: its peer sees the end.
    pub fn reset_on_close(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Self::Memory(transport) = self {
            transport.reset_on_close();
        }
        match self.tcp_fd() {
            Some(_) => socket::reset_on_close(self),
            None => Ok(()),
        }
    }
}

impl rehearsal::Socket for Transport {
    /// About what a kernel takes for a peer that does not acknowledge.
    const TAKEN: usize = 64 * 1024;

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            #[cfg(test)]
            Self::Memory(_) => None,
            Self::Rehearsed(transport) => transport.inner().fd(),
            transport => Some(transport.as_fd()),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(transport) => transport.as_fd(),
            Self::Unix(transport) => transport.as_fd(),
            Self::Tls(transport) => transport.get_ref().0.as_fd(),
            Self::TlsUnix(transport) => transport.get_ref().0.as_fd(),
            #[cfg(test)]
            Self::Memory(_) => unreachable!("a socket of memory has no descriptor"),
            Self::Rehearsed(transport) => transport.inner().as_fd(),
        }
    }
}

/// Calls the same method of whichever it is.
macro_rules! each {
    ($self:expr, $transport:ident => $call:expr) => {
        match $self.get_mut() {
            Transport::Tcp(inner) => {
                let $transport = Pin::new(inner);
                $call
            }
            Transport::Unix(inner) => {
                let $transport = Pin::new(inner);
                $call
            }
            Transport::Tls(inner) => {
                let $transport = Pin::new(&mut **inner);
                $call
            }
            Transport::TlsUnix(inner) => {
                let $transport = Pin::new(&mut **inner);
                $call
            }
            #[cfg(test)]
            Transport::Memory(inner) => {
                let $transport = Pin::new(inner);
                $call
            }
            Transport::Rehearsed(inner) => {
                let $transport = Pin::new(&mut **inner);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, transport => transport.poll_read(context, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, transport => transport.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, transport => transport.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, transport => transport.poll_shutdown(context))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::kernel::TcpState;

    #[tokio::test]
    async fn tcp_carries_bytes_tells_its_state_and_resets_when_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let mut transport = Transport::Tcp(dialled);
        transport.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        far.read_exact(&mut got).await.unwrap();
        far.write_all(&got).await.unwrap();
        transport.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        assert!(transport.is_plain());
        assert_eq!(transport.tcp_fd(), Some(transport.raw_fd()));
        assert_eq!(transport.tcp_info().unwrap().state, TcpState::Established);
        transport.reset_on_close().unwrap();
        drop(transport);
        assert_eq!(far.read(&mut got).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_unix_socket_has_no_tcp_state_and_ends_instead_of_resetting() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut transport = Transport::Unix(near);
        transport.write_all(b"x").await.unwrap();
        assert!(transport.is_plain());
        assert_eq!(transport.tcp_fd(), None);
        assert_eq!(transport.tcp_info().unwrap_err().kind(), io::ErrorKind::Unsupported);
        transport.reset_on_close().unwrap();
        drop(transport);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"x");
    }
}
