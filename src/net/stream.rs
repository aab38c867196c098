use super::kernel::{self, TcpInfo};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}
impl Stream {
    pub fn raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(s) => s.as_raw_fd(),
            Self::Unix(s) => s.as_raw_fd(),
            Self::Tls(s) => s.get_ref().0.as_raw_fd(),
        }
    }
    pub fn tcp_fd(&self) -> Option<RawFd> {
        match self {
            Self::Unix(_) => None,
            _ => Some(self.raw_fd()),
        }
    }
    pub fn is_plain(&self) -> bool {
        !matches!(self, Self::Tls(_))
    }
    pub fn reset_on_close(&self) {
        match self {
            Self::Tcp(s) => {
                let _ = super::socket::reset_on_close(s);
            }
            Self::Tls(s) => {
                let _ = super::socket::reset_on_close(s.get_ref().0);
            }
            Self::Unix(_) => {}
        }
    }
    pub fn tcp_info(&self) -> io::Result<TcpInfo> {
        match self.tcp_fd() {
            Some(fd) => kernel::tcp_info(fd),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}
macro_rules! each {
    ($self:ident, $s:ident => $e:expr) => {
        match $self.get_mut() {
            Stream::Tcp($s) => {
                let $s = Pin::new($s);
                $e
            }
            Stream::Unix($s) => {
                let $s = Pin::new($s);
                $e
            }
            Stream::Tls($s) => {
                let $s = Pin::new(&mut **$s);
                $e
            }
        }
    };
}
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, b: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_read(cx, b))
    }
}
impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, s => s.poll_write(cx, b))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_shutdown(cx))
    }
}
