//! One end of a connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{NEAR, net, present, with};
use crate::net::kernel::TcpInfo;

/// Closed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    pub connection: usize,
    pub side: usize,
    addresses: [SocketAddr; 2],
}

impl Socket {
    pub(super) fn new(connection: usize, side: usize, addresses: [SocketAddr; 2]) -> Self {
        Self { connection, side, addresses }
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addresses[1 - self.side])
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addresses[self.side])
    }

    /// See [`Tcp`](crate::net::tcp::Tcp).
    pub async fn has_first_byte(&self) -> io::Result<bool> {
        std::future::poll_fn(|context| {
            net(|network| {
                let connection = network.connections.get_mut(&self.connection).ok_or(io::ErrorKind::NotConnected)?;
                connection.poll_readable(self.side, context).map_ok(|()| connection.has_bytes(self.side))
            })
        })
        .await
    }

    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ready = with(|network| {
            let connection = network.connections.get_mut(&self.connection)?;
            Some(connection.poll_readable(self.side, context).map(|_| Ok(())))
        });
        ready.flatten().unwrap_or(Poll::Ready(Ok(())))
    }

    /// Our end of the bytes.
    pub fn end(&self) -> io::Result<()> {
        with(|network| {
            if let Some(connection) = network.connections.get_mut(&self.connection) {
                connection.end(self.side, present());
            }
            network.stir();
        });
        Ok(())
    }

    pub fn reset_on_close(&self) {
        with(|network| {
            if let Some(connection) = network.connections.get_mut(&self.connection) {
                connection.resets[self.side] = true;
            }
        });
    }

    /// A reset has come.
    pub fn has_failed(&self) -> bool {
        with(|network| network.connections.get(&self.connection).is_none_or(|it| it.has_failed(self.side)))
            == Some(true)
    }

    pub fn info(&self) -> TcpInfo {
        net(|network| network.connections[&self.connection].info(self.side, present()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = with(|network| {
            let connection = network.connections.get_mut(&self.connection).ok_or(io::ErrorKind::NotConnected)?;
            let before = buffer.filled().len();
            std::task::ready!(connection.poll_readable(self.side, context))?;
            let full = connection.read(self.side, buffer);
            let count = buffer.filled().len() - before;
            if connection.gateway.is_some() {
                if let Some(tap) = &mut network.tap {
                    tap.read(self.connection, self.side, count);
                }
                // There is room again: what stood before a shut window moves.
                if full {
                    network.stir();
                }
            }
            Poll::Ready(Ok(()))
        });
        read.unwrap_or(Poll::Ready(Err(io::ErrorKind::NotConnected.into())))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = with(|network| {
            let connection = network.connections.get_mut(&self.connection).ok_or(io::ErrorKind::NotConnected)?;
            let count = std::task::ready!(connection.write(self.side, bytes, present(), &mut network.random, context))?;
            if connection.gateway.is_some() {
                if let Some(tap) = &mut network.tap {
                    tap.wrote(self.connection, self.side, &bytes[..count]);
                }
                network.stir();
            }
            Poll::Ready(Ok(count))
        });
        written.unwrap_or(Poll::Ready(Err(io::ErrorKind::NotConnected.into())))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        with(|network| {
            let Some(connection) = network.connections.get_mut(&self.connection) else { return };
            connection.close(self.side, present());
            if connection.gateway.is_some()
                && let Some(tap) = &mut network.tap
            {
                tap.closed(self.connection, self.side);
            }
            if connection.is_over() {
                network.connections.remove(&self.connection);
            }
            network.stir();
        });
    }
}

/// Which end it is.
impl Socket {
    pub fn is_near(&self) -> bool {
        self.side == NEAR
    }
}
