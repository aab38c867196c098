//! The connection a link holds while nobody else does, and what is heard on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::direct::beat::{Dialogue, Heard};
use crate::direct::pool::Opened;
use crate::link::dial::DialError;
use crate::link::heartbeat::Heartbeat;
use crate::listener::client::close_in_order;

pub(super) struct Connection {
    pub(super) opened: Opened,
    pub(super) dialogue: Dialogue,
    pub(super) heartbeat: Heartbeat,
    /// Not before this the first beat; `None` once it was sent.
    pub(super) first_beat: Option<Instant>,
    /// When a proof that does not come has failed.
    pub(super) prove_by: Instant,
    /// When to look at what keepalive found, on connections without beats.
    pub(super) look_at: Instant,
    pub(super) age_share: f64,
    /// Not before this another try to renew.
    pub(super) renew_after: Option<Instant>,
    pub(super) offered: bool,
    pub(super) misses: u32,
}

impl Connection {
    /// Closes it in order, on purpose, with a word of farewell where the protocol has one.
    pub(super) fn let_go(mut self) {
        if let Some(farewell) = self.dialogue.farewell() {
            // A server that does not take it now is left without.
            let _ = write_now(&mut self.opened.transport, farewell);
        }
        tokio::spawn(close_in_order(self.opened.transport));
    }
}

pub(super) enum Happened {
    Woken,
    Settings,
    Dialled(Box<Result<Opened, DialError>>),
    Heard(Heard),
    Ended(Option<io::Error>),
    Due,
    Orphaned,
}

/// Hears the server, or its end.
pub(super) async fn listen(connection: &mut Option<Connection>) -> Happened {
    match connection {
        None => std::future::pending().await,
        Some(connection) => std::future::poll_fn(|cx| poll_listen(cx, connection)).await,
    }
}

pub(super) fn poll_listen(cx: &mut Context<'_>, connection: &mut Connection) -> Poll<Happened> {
    let mut buffer = [0; 4096];
    let room = if connection.dialogue.owed() > 0 { buffer.len() } else { connection.dialogue.banner_room() };
    // A server that talks on and on to nobody waits in its own send buffer.
    if room == 0 {
        return Poll::Pending;
    }
    let mut buffer = ReadBuf::new(&mut buffer[..room.min(4096)]);
    match Pin::new(&mut connection.opened.transport).poll_read(cx, &mut buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Happened::Ended(Some(error))),
        Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Happened::Ended(None)),
        Poll::Ready(Ok(())) => Poll::Ready(Happened::Heard(connection.dialogue.received(buffer.filled()))),
    }
}

pub(super) fn poll_once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Writes a beat at once. A connection whose send buffer has no room for it has not moved for many beats.
pub(super) fn write_now(transport: &mut crate::net::transport::Transport, bytes: &[u8]) -> io::Result<()> {
    let written = poll_once(|cx| Pin::new(&mut *transport).poll_write(cx, bytes));
    match written {
        Some(Ok(count)) if count == bytes.len() => {
            // TLS keeps a record back that the socket refuses; the next write would find out.
            match poll_once(|cx| Pin::new(&mut *transport).poll_flush(cx)) {
                Some(Err(error)) => Err(error),
                _ => Ok(()),
            }
        }
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Err(io::ErrorKind::TimedOut.into()),
    }
}
