//! A local client's socket, and how it is closed in order.

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use crate::net::descriptors::RESERVED;
use crate::net::transport::Transport;

/// How long an ordered end waits for the other side's.
const LINGER: Duration = Duration::from_secs(5);

/// Refused clients who are given that time, at once; half of the descriptors that are kept back for everything but
/// clients. In a storm the rest is closed at once, and whoever has sent something already may read a reset.
const LINGERING: usize = RESERVED / 2;

/// The accepted socket, not yet bound to any runtime.
#[derive(Debug)]
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    #[cfg(test)]
    Memory(crate::net::memory::Socket),
}

impl Socket {
    /// Binds the socket to the runtime that calls.
    pub fn into_transport(self) -> io::Result<Transport> {
        Ok(match self {
            Self::Tcp(socket) => Transport::Tcp(TcpStream::from_std(socket)?),
            Self::Unix(socket) => Transport::Unix(UnixStream::from_std(socket)?),
            #[cfg(test)]
            Self::Memory(socket) => Transport::Memory(socket),
        })
    }

    /// Says goodbye without having carried anything: ends our side, so that the client reads an end and no reset.
    pub fn refuse(self) {
        let ended = match &self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
            #[cfg(test)]
            Self::Memory(socket) => socket.end(),
        };
        // Where tasks are being ended, this is one more.
        let Ok(runtime) = Handle::try_current() else { return };
        if ended.is_ok()
            && let Some(lingering) = Lingering::one_more()
            && let Ok(transport) = self.into_transport()
        {
            runtime.spawn(async move {
                read_to_the_end(transport).await;
                drop(lingering);
            });
        }
    }
}

/// One of the refused who are still read to their end.
struct Lingering;

static REFUSED: AtomicUsize = AtomicUsize::new(0);

impl Lingering {
    fn one_more() -> Option<Self> {
        let made = Self;
        // Counted before the look, uncounted by the drop.
        (REFUSED.fetch_add(1, Ordering::Relaxed) < LINGERING).then_some(made)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        REFUSED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends a connection in order: our end first, then theirs or five seconds, then close.
pub async fn close_in_order(mut transport: Transport) {
    use tokio::io::AsyncWriteExt;
    let ended = tokio::time::timeout(LINGER, transport.shutdown()).await;
    if matches!(ended, Ok(Ok(()))) {
        read_to_the_end(transport).await;
    }
}

async fn read_to_the_end(mut transport: Transport) {
    let mut rest = [0; 1024];
    let _ = tokio::time::timeout(LINGER, async { while matches!(transport.read(&mut rest).await, Ok(n) if n > 0) {} })
        .await;
}
