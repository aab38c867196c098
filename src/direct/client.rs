//! A local client that has been accepted and is not yet carried.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};

use super::pool::Pool;
use crate::net::descriptors::Held;
use crate::net::stream::Stream;

/// How long an ordered end waits for the other side's.
const LINGER: Duration = Duration::from_secs(5);

/// The accepted socket, not yet bound to any runtime.
#[derive(Debug)]
pub enum Socket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A client and what it occupies until it is gone.
pub struct Client {
    pub socket: Socket,
    pub accepted: Instant,
    pub place: Place,
}

/// One of `limits.connections`, and two descriptors: the client's and its connection's.
pub struct Place {
    pub pool: Arc<Pool>,
    pub _descriptors: Held,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.left();
    }
}

impl Socket {
    /// Binds the socket to the runtime that calls.
    pub fn into_stream(self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(socket) => Stream::Tcp(TcpStream::from_std(socket)?),
            Self::Unix(socket) => Stream::Unix(UnixStream::from_std(socket)?),
        })
    }

    /// Says goodbye without having carried anything: ends our side, so that the client reads an end and no reset.
    pub fn refuse(self) {
        let ended = match &self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
        };
        if ended.is_ok()
            && let Ok(stream) = self.into_stream()
        {
            tokio::spawn(read_to_the_end(stream));
        }
    }
}

/// Ends a connection in order: our end first, then theirs or five seconds, then close.
pub async fn close_in_order(mut stream: Stream) {
    use tokio::io::AsyncWriteExt;
    let ended = tokio::time::timeout(LINGER, stream.shutdown()).await;
    if matches!(ended, Ok(Ok(()))) {
        read_to_the_end(stream).await;
    }
}

async fn read_to_the_end(mut stream: Stream) {
    let mut rest = [0; 1024];
    let _ =
        tokio::time::timeout(LINGER, async { while matches!(stream.read(&mut rest).await, Ok(n) if n > 0) {} }).await;
}
