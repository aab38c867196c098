//! The local side of one stream: its socket, and what that has not taken yet.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ready::Bell;
use crate::link::watch::Stall;
use crate::net::kernel;
use crate::net::transport::Transport;

/// The kernel holds no more than about this for a socket whose other end does not read. Left alone it takes 2.6 MB on
/// loopback: a thousand stalled readers would use up what the whole host has for TCP, and everybody on it would crawl. A
/// path is not slowed down: bytes on their way do not count.
const UNSENT: u32 = 256 * 1024;

/// A local connection, given to the driver.
pub struct Local {
    /// A client's or a service's, plain TCP or a unix socket.
    pub transport: Transport,
    /// What it occupies; dropped when the stream is over.
    pub guard: Box<dyn Any + Send>,
}

/// Whether the driver will look at the socket for something to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Nothing was there; the bell rings when something is.
    Idle,
    /// It stands in one of the driver's queues.
    Queued,
    /// Something may be there, and the peer's credit is used up.
    NoCredit,
    /// Something may be there, and no room to keep it for replay.
    NoRoom,
    /// The client or service has ended its side, or there is none yet.
    Over,
}

/// What the session keeps with each stream: the socket behind it, once there is one.
pub(super) struct LocalSide {
    /// `None`: the service is being dialled.
    pub transport: Option<Transport>,
    guard: Option<Box<dyn Any + Send>>,
    pub bell: Bell,
    pub reading: Reading,
    /// Received and refused by the socket.
    queue: VecDeque<u8>,
    /// The peer has ended; passed on once the queue is empty.
    pub end_to_pass: bool,
    /// Our socket has been told of the peer's end.
    pub shut: bool,
    /// Reset by the peer while its service is still being dialled.
    pub dead: bool,
    pub since: Instant,
    /// The sweep before which a byte last moved.
    pub touched: u32,
    pub sustained: bool,
    /// It stands on the list of sockets to be looked at.
    pub stirred: bool,
    pub stall: Stall,
}

impl LocalSide {
    pub fn new(bell: Bell, local: Option<Local>, now: Instant, sweep: u32) -> Self {
        let mut side = Self {
            transport: None,
            guard: None,
            bell,
            reading: Reading::Over,
            queue: VecDeque::new(),
            end_to_pass: false,
            shut: false,
            dead: false,
            since: now,
            touched: sweep,
            sustained: false,
            stirred: false,
            stall: Stall::default(),
        };
        if let Some(local) = local {
            side.settle(local);
        }
        side
    }

    /// The socket is there.
    pub fn settle(&mut self, local: Local) {
        if let Some(socket) = local.transport.tcp_fd() {
            let _ = kernel::set_notsent_lowat(socket, UNSENT);
        }
        self.transport = Some(local.transport);
        self.guard = Some(local.guard);
        self.reading = Reading::Idle;
    }

    /// The local side has ended and was told of the peer's end.
    pub fn is_through(&self) -> bool {
        self.reading == Reading::Over && self.shut && self.queue.is_empty()
    }

    pub fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Reads what is there straight into `slot`. `Pending`: the bell will ring.
    pub fn read(&mut self, slot: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(transport) = &mut self.transport else { return Poll::Pending };
        let mut buffer = ReadBuf::new(slot);
        let mut context = Context::from_waker(self.bell.waker());
        match Pin::new(transport).poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether there may be more to read; if not, the bell will ring. After a short read this costs no system call.
    pub fn may_read(&mut self) -> bool {
        let mut context = Context::from_waker(self.bell.waker());
        self.transport.as_mut().is_some_and(|transport| transport.poll_read_ready(&mut context).is_ready())
    }

    /// Passes `bytes` on; keeps what the socket refuses. Returns how many bytes it took.
    pub fn deliver(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = if self.queue.is_empty() { self.write(bytes)? } else { 0 };
        if let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            self.queue.extend(rest);
        }
        Ok(taken)
    }

    /// Passes on what is kept. Returns how many bytes the socket took.
    pub fn flush(&mut self) -> io::Result<usize> {
        let mut queue = std::mem::take(&mut self.queue);
        let mut passed = 0;
        loop {
            let (first, _) = queue.as_slices();
            let length = first.len();
            if length == 0 {
                // Its memory goes with it.
                return Ok(passed);
            }
            let count = self.write(first)?;
            queue.drain(..count);
            passed += count;
            if count < length {
                self.queue = queue;
                return Ok(passed);
            }
        }
    }

    /// Tells our socket of the peer's end, once everything before it has been taken.
    pub fn pass_end(&mut self) {
        if !self.end_to_pass || self.shut || !self.queue.is_empty() {
            return;
        }
        let Some(transport) = &mut self.transport else { return };
        self.shut = true;
        // With our side ended as well, the close that follows says the same.
        if self.reading == Reading::Over {
            return;
        }
        let mut context = Context::from_waker(self.bell.waker());
        // A plain socket's shutdown is a system call that never waits; one that fails has ended already.
        let _ = Pin::new(transport).poll_shutdown(&mut context);
    }

    /// Closed in order. Whoever is connected may take his time to read the rest.
    pub fn let_go(self) {
        if let Some(transport) = &self.transport {
            transport.let_go();
        }
    }

    /// Whoever is connected reads a reset.
    pub fn reset(self) {
        if let Some(transport) = &self.transport {
            let _ = transport.reset_on_close();
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let Some(transport) = &mut self.transport else { return Ok(0) };
        let mut context = Context::from_waker(self.bell.waker());
        let whole = bytes.len();
        // After a short write once more: that sets the bell without a system call.
        while !bytes.is_empty() {
            match Pin::new(&mut *transport).poll_write(&mut context, bytes) {
                Poll::Ready(Ok(count)) => bytes = bytes.get(count..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(whole - bytes.len())
    }
}
