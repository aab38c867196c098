//! One socket in a rehearsed outage, and the lines in which its bytes wait.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{Kind, Rehearsal, Socket, deafen, failure, hear};
use crate::clock;

/// The most that is on its way in each direction of a delayed socket, in bytes: past it the source is not read, so a
/// long delay is a slow path as well.
const UNDER_WAY: usize = 4 << 20;
/// What is read at once into the line.
const READ: usize = 16 * 1024;
/// Reads in a row before others run.
const READS: usize = 16;
/// Bytes that come within this of each other travel together, as late as the last of them.
const TOGETHER: Duration = Duration::from_millis(1);
/// And so many at most.
const PIECE: usize = 64 * 1024;
/// Nothing wakes a reader who does not read: how often a dark socket is asked whether the kernel has given it up.
const LOOK: Duration = Duration::from_millis(100);

/// A socket whose bytes are held up until its rehearsal is over; from then on it is as any other.
///
/// Whoever owns it polls a read, a write or [`drive`](Self::drive) whenever woken, or what is due waits on.
pub struct Rehearsed<S> {
    // Dropped first, while the socket is open.
    keep: Keep,
    inner: S,
    out: Line,
    into: Line,
    /// The peer's end, or an error, and when it is due.
    end: Option<(Instant, Option<io::Error>)>,
    /// When our own end is.
    shut: Option<Instant>,
    broken: Option<io::Error>,
    unflushed: bool,
    over: bool,
    clock: Pin<Box<Sleep>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// Keeps a socket that is given up in the dark from telling so.
struct Keep {
    rehearsal: Arc<Rehearsal>,
    fd: Option<RawFd>,
}

impl Drop for Keep {
    fn drop(&mut self) {
        if let Some(fd) = self.fd {
            self.rehearsal.keep(fd);
        }
    }
}

/// Bytes that wait, in order.
#[derive(Default)]
struct Line {
    pieces: VecDeque<Piece>,
    /// Of the first piece.
    gone: usize,
    held: usize,
}

struct Piece {
    began: Instant,
    due: Instant,
    bytes: Vec<u8>,
}

impl Line {
    fn push(&mut self, due: Instant, bytes: &[u8]) {
        self.held += bytes.len();
        match self.pieces.back_mut() {
            Some(last) if due < last.began + TOGETHER && last.bytes.len() + bytes.len() <= PIECE => {
                last.bytes.extend_from_slice(bytes);
                last.due = due;
            }
            _ => self.pieces.push_back(Piece { began: due, due, bytes: bytes.to_vec() }),
        }
    }

    /// The bytes whose time has come; `all`: whatever their time.
    fn due(&self, now: Instant, all: bool) -> Option<&[u8]> {
        let first = self.pieces.front().filter(|piece| all || piece.due <= now)?;
        first.bytes.get(self.gone..)
    }

    fn advance(&mut self, count: usize) {
        self.held = self.held.saturating_sub(count);
        self.gone += count;
        if self.pieces.front().is_some_and(|first| self.gone >= first.bytes.len()) {
            self.pieces.pop_front();
            self.gone = 0;
        }
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn next(&self) -> Option<Instant> {
        self.pieces.front().map(|piece| piece.due)
    }
}

impl<S: Socket> Rehearsed<S> {
    /// Must be called where the socket's runtime is.
    pub fn new(inner: S, rehearsal: &Arc<Rehearsal>) -> Self {
        let fd = inner.fd();
        if rehearsal.is_dark()
            && let Some(fd) = &fd
        {
            deafen(fd);
        }
        Self {
            keep: Keep { rehearsal: rehearsal.clone(), fd: fd.map(|fd| fd.as_raw_fd()) },
            inner,
            out: Line::default(),
            into: Line::default(),
            end: None,
            shut: None,
            broken: None,
            unflushed: false,
            over: false,
            clock: Box::pin(tokio::time::sleep_until(rehearsal.until().into())),
            stopped: Box::pin(rehearsal.stopped.clone().cancelled_owned()),
        }
    }

    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Whether it is this outage that the socket is in, or was.
    pub fn is_in(&self, rehearsal: &Arc<Rehearsal>) -> bool {
        Arc::ptr_eq(&self.keep.rehearsal, rehearsal)
    }

    /// The outage is over, and everything that was held has gone its way.
    pub fn is_through(&self) -> bool {
        self.over && self.out.is_empty() && !self.unflushed && self.into.is_empty() && self.end.is_none()
    }

    /// The socket itself, once it [is through](Self::is_through).
    pub fn into_inner(self) -> S {
        let Self { mut keep, inner, .. } = self;
        keep.fd = None;
        inner
    }

    /// Passes on what is due, and sees to it that the task is woken when something will be.
    pub fn drive(&mut self, context: &mut Context<'_>) {
        let now = clock::now();
        if !self.over && self.keep.rehearsal.is_over() {
            self.over = true;
            self.inner.fd().iter().for_each(hear);
        }
        while let Some(bytes) = self.out.due(now, self.over) {
            match Pin::new(&mut self.inner).poll_write(context, bytes) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) => {
                    self.out.advance(count);
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => {
                    self.broken = Some(error);
                    self.out = Line::default();
                }
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.inner).poll_flush(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => (self.broken, self.unflushed) = (Some(error), false),
            }
        }
        self.wake_later(context, now);
    }

    fn wake_later(&mut self, context: &mut Context<'_>, now: Instant) {
        let rehearsal = &self.keep.rehearsal;
        let (end, look) = (self.end.as_ref().map(|(due, _)| *due), rehearsal.is_dark().then(|| now + LOOK));
        let until = (!self.over).then(|| rehearsal.until());
        let lines = [self.out.next(), self.into.next(), end, self.shut].into_iter().flatten();
        // What is due already waits for the socket, or for its reader.
        let Some(at) = lines.filter(|due| *due > now).chain(until).chain(look).min() else { return };
        self.clock.as_mut().reset(at.max(now + TOGETHER).into());
        let rings = self.clock.as_mut().poll(context).is_ready();
        if !self.over && (self.stopped.as_mut().poll(context).is_ready() || rings) {
            context.waker().wake_by_ref();
        }
    }

    fn due_at(&self, now: Instant) -> Instant {
        match self.keep.rehearsal.kind() {
            Kind::Delay(by) => now + by,
            _ => self.keep.rehearsal.until(),
        }
    }

    /// Takes in what has come, as far as there is room for it on its way.
    fn take_in(&mut self, context: &mut Context<'_>, now: Instant) {
        let mut buffer = [0; READ];
        let due = self.due_at(now);
        for _ in 0..READS {
            if self.end.is_some() || self.into.held >= UNDER_WAY {
                return;
            }
            let mut buffer = ReadBuf::new(&mut buffer);
            match Pin::new(&mut self.inner).poll_read(context, &mut buffer) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => self.end = Some((due, Some(error))),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.end = Some((due, None)),
                Poll::Ready(Ok(())) => self.into.push(due, buffer.filled()),
            }
        }
        context.waker().wake_by_ref();
    }

    /// Gives what is due. Pending: nothing is.
    fn give(&mut self, now: Instant, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        while let Some(bytes) = self.into.due(now, self.over) {
            let count = bytes.len().min(buffer.remaining());
            if count == 0 {
                break;
            }
            buffer.put_slice(bytes.get(..count).unwrap_or_default());
            self.into.advance(count);
        }
        if buffer.filled().len() > before || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match &mut self.end {
            Some((due, error)) if self.into.is_empty() && (self.over || *due <= now) => {
                // An error is told once, as a socket tells it; after it there is only the end.
                Poll::Ready(error.take().map_or(Ok(()), Err))
            }
            _ => Poll::Pending,
        }
    }
}

impl<S: Socket> AsyncRead for Rehearsed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_through() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        this.drive(context);
        if this.over && this.into.is_empty() && this.end.is_none() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        if this.keep.rehearsal.is_dark() {
            return this.inner.fd().and_then(failure).map_or(Poll::Pending, |error| Poll::Ready(Err(error)));
        }
        let now = clock::now();
        if !this.over {
            this.take_in(context, now);
        }
        let given = this.give(now, buffer);
        this.wake_later(context, now);
        given
    }
}

impl<S: Socket> AsyncWrite for Rehearsed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Err(error));
        }
        if this.is_through() {
            return Pin::new(&mut this.inner).poll_write(context, bytes);
        }
        this.drive(context);
        if this.over {
            return match this.out.is_empty() {
                true => Pin::new(&mut this.inner).poll_write(context, bytes),
                false => Poll::Pending,
            };
        }
        let most = match this.keep.rehearsal.kind() {
            Kind::Delay(_) => UNDER_WAY,
            _ => S::TAKEN,
        };
        let count = bytes.len().min(most.saturating_sub(this.out.held));
        if count == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        let now = clock::now();
        this.out.push(this.due_at(now), bytes.get(..count).unwrap_or_default());
        this.wake_later(context, now);
        Poll::Ready(Ok(count))
    }

    /// Ready while bytes are on their way: they go without being asked for again.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Err(error));
        }
        if this.is_through() {
            return Pin::new(&mut this.inner).poll_flush(context);
        }
        this.drive(context);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let now = clock::now();
        let due = this.due_at(now);
        let due = *this.shut.get_or_insert(due);
        this.drive(context);
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Err(error));
        }
        if this.out.is_empty() && !this.unflushed && (this.over || due <= now) {
            this.shut = Some(now);
            return Pin::new(&mut this.inner).poll_shutdown(context);
        }
        Poll::Pending
    }
}

impl<S: fmt::Debug> fmt::Debug for Rehearsed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rehearsed").field("inner", &self.inner).field("over", &self.over).finish_non_exhaustive()
    }
}
