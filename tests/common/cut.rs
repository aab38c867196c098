//! How relays cut what passes through them: the words for it, and the deed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes read at once.
pub const PIECE: usize = 64 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From whoever dials to whoever accepts: from a sidecar to its gateway.
    Up = 0,
    Down = 1,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By a reset at both ends.
    Reset,
    /// By an end of data at both ends, wherever in a record or a frame that is.
    End,
    /// It does not: nothing passes any more, and nobody is told.
    Silence,
}

/// The other side of a connection that came. A target that is not there is told by a reset.
pub async fn connect(client: &TcpStream, target: SocketAddr) -> io::Result<TcpStream> {
    let server = TcpStream::connect(target).await.inspect_err(|_| reset_on_close(client))?;
    for socket in [client, &server] {
        socket.set_nodelay(true)?;
    }
    Ok(server)
}

/// Cuts both ways, each from where it is read to where it is written.
pub async fn cut(how: How, mut ways: [(OwnedReadHalf, OwnedWriteHalf); 2]) {
    match how {
        How::Reset => {
            for (from, to) in ways {
                reset_on_close(from.as_ref());
                // Dropped it would say an end first.
                to.forget();
            }
        }
        How::End => {
            let [up, down] = &mut ways;
            let _ = tokio::join!(up.1.shutdown(), down.1.shutdown());
            // Closed with bytes unread it would be a reset after all.
            let rest = async { tokio::join!(swallow(&mut up.0), swallow(&mut down.0)) };
            let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
        }
        How::Silence => {}
    }
}

pub fn reset_on_close(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

async fn swallow(from: &mut OwnedReadHalf) {
    let mut buffer = vec![0; PIECE];
    while matches!(from.read(&mut buffer).await, Ok(1..)) {}
}
