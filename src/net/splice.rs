//! Pipes lent to whoever moves bulk, and the two halves of a `splice(2)` transfer.
//!
//! The kernel allows a user without privileges 16,384 pipe pages: 256 pipes of 256 KiB, and every later one is born with
//! two pages (`pipe-user-pages-soft`). So at most half of that is ever held, and a pipe is borrowed only while bytes are
//! on their way through it.

#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;

use super::kernel::{self, Pipe};
use super::transport::Transport;

/// Pipes that exist at once, at most.
pub const PIPES: usize = 128;
/// What a pipe holds, bytes.
pub const PIPE_CAPACITY: usize = 256 * 1024;
/// Empty pipes kept for the next borrower.
const SPARE: usize = 16;

/// All pipes of this process.
#[derive(Debug)]
pub struct Pipes {
    spare: Mutex<Vec<Pipe>>,
    /// Pipes lent or spare.
    exist: AtomicUsize,
    limit: usize,
    /// How often somebody asked in vain.
    refused: AtomicUsize,
}

/// A borrowed pipe and the bytes in it. Returned when empty; destroyed otherwise, for its bytes are somebody's.
#[derive(Debug)]
pub struct Lent {
    pipe: Option<Pipe>,
    held: usize,
    pipes: &'static Pipes,
}

impl Pipes {
    /// The pipes of this process.
    pub fn shared() -> &'static Self {
        static SHARED: Pipes = Pipes::new(PIPES);
        &SHARED
    }

    const fn new(limit: usize) -> Self {
        Self { spare: Mutex::new(Vec::new()), exist: AtomicUsize::new(0), limit, refused: AtomicUsize::new(0) }
    }

    /// An empty pipe; `None` when all are lent or the kernel gives no more. The caller then copies.
    pub fn borrow(&'static self) -> Option<Lent> {
        if let Some(pipe) = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Some(Lent { pipe: Some(pipe), held: 0, pipes: self });
        }
        if self.exist.fetch_add(1, Ordering::AcqRel) < self.limit
            && let Ok(pipe) = kernel::pipe(PIPE_CAPACITY)
        {
            return Some(Lent { pipe: Some(pipe), held: 0, pipes: self });
        }
        self.exist.fetch_sub(1, Ordering::AcqRel);
        self.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// How often somebody asked in vain so far: whoever sees it grow knows that pipes are wanted.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Lent {
    /// Bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Fills the empty pipe from `source`; 0 is its end. Never called while the pipe holds bytes, so "would block" can only
    /// mean that the source has nothing.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, source: &Transport) -> Poll<io::Result<usize>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(0)) };
        let to = pipe.write.as_raw_fd();
        let moved = ready!(poll_io(source, cx, Interest::READABLE, |from| kernel::splice(from, to, pipe.capacity)))?;
        self.held += moved;
        Poll::Ready(Ok(moved))
    }

    /// Moves bytes on to `sink`.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, sink: &Transport) -> Poll<io::Result<usize>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(0)) };
        let (from, held) = (pipe.read.as_raw_fd(), self.held);
        let moved = ready!(poll_io(sink, cx, Interest::WRITABLE, |to| kernel::splice(from, to, held)))?;
        self.held = self.held.saturating_sub(moved);
        Poll::Ready(Ok(moved))
    }

    /// Gives the pipe up and returns what was in it.
    pub fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.held];
        if let Some(pipe) = self.pipe.take() {
            self.pipes.exist.fetch_sub(1, Ordering::AcqRel);
            io::PipeReader::from(pipe.read).read_exact(&mut bytes)?;
        }
        Ok(bytes)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut spare = self.pipes.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if self.held == 0 && spare.len() < SPARE {
            spare.push(pipe);
        } else {
            self.pipes.exist.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Runs `operation` on the socket's descriptor whenever it is ready, until it no longer says "would block".
fn poll_io(
    stream: &Transport,
    cx: &mut Context<'_>,
    interest: Interest,
    mut operation: impl FnMut(i32) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    let fd = stream.raw_fd();
    loop {
        let done = match stream {
            Transport::Tcp(socket) => {
                ready!(if interest.is_readable() { socket.poll_read_ready(cx) } else { socket.poll_write_ready(cx) })?;
                socket.try_io(interest, || operation(fd))
            }
            Transport::Unix(socket) => {
                ready!(if interest.is_readable() { socket.poll_read_ready(cx) } else { socket.poll_write_ready(cx) })?;
                socket.try_io(interest, || operation(fd))
            }
            _ => return Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        };
        match done {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_bounded_and_return_only_when_empty() {
        static PIPES: Pipes = Pipes::new(2);
        let (first, second) = (PIPES.borrow().expect("one"), PIPES.borrow().expect("two"));
        assert!(PIPES.borrow().is_none());
        assert_eq!(PIPES.refused(), 1);
        drop(first);
        let mut again = PIPES.borrow().expect("the returned one");
        assert!(PIPES.borrow().is_none(), "it was reused, not made anew");
        again.held = 1;
        drop(again);
        drop(second);
        assert_eq!(PIPES.spare.lock().expect("unpoisoned").len(), 1, "one with bytes left is destroyed");
        assert_eq!(PIPES.exist.load(Ordering::Relaxed), 1);
    }
}
