//! One client and one connection: bytes both ways until both have ended.
//!
//! A direction starts by copying through a buffer of the thread's own, so an idle connection holds none. When it has
//! filled that buffer several times in a row it changes to `splice(2)`, which moves pages instead of bytes; when it falls
//! silent it changes back, because splice costs small requests more than it saves. The two directions take turns, one
//! buffer each, and after a bounded number of turns the task lets others run.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::in_use::{Order, Registered};
use crate::metrics::{CloseReason, Direction, UpstreamMetrics};
use crate::net::rehearsal::OnItsWay;
use crate::net::splice::{Lent, Pipes};
use crate::net::transport::Transport;

/// The thread's buffer. Larger ones no longer fit beside the sockets' own memory in a core's cache.
const BUFFER: usize = 64 * 1024;
/// So many bytes without a sparse wake-up between them are bulk: several full buffers in a row.
const BULK: usize = 3 * BUFFER;
/// A wake-up that brings less than this is not bulk …
const SPARSE: usize = 16 * 1024;
/// … and so many of them in a row are silence enough to copy again.
const SPARSE_WAKES: u8 = 3;
/// Turns of both directions before other tasks run.
const TURNS: u32 = 16;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// A client joined to a connection.
pub struct Carry {
    // Dropped first: see `Registered`.
    registered: Registered,
    client: Transport,
    upstream: Transport,
    up: Half,
    down: Half,
}

/// One direction.
#[derive(Default)]
struct Half {
    /// Bytes read that the sink has not taken; empty (and without memory) most of the time.
    pending: Vec<u8>,
    written: usize,
    lent: Option<Lent>,
    bulk: bool,
    /// While copying: bytes since the last sparse wake-up.
    run: usize,
    /// While splicing: sparse wake-ups in a row.
    sparse: u8,
    /// Bytes since the source last had nothing.
    since_wait: usize,
    /// Bytes moved and not yet counted.
    uncounted: u64,
    /// A TLS sink has taken bytes that its socket has not.
    unflushed: bool,
    stage: Stage,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The source has ended; its end has to be passed on.
    Ended,
    /// And was.
    Shut,
    /// The sink takes no more.
    Broken,
}

enum Step {
    Moved,
    Stopped,
    /// Reading failed: the source is gone.
    Gone(io::Error),
}

enum Turn {
    /// More could move; others first.
    Again,
    /// The upstream's side goes through a drill.
    Rehearse(OnItsWay),
    Done(CloseReason),
}

impl Carry {
    /// `banner`: what the server said before the client came.
    pub fn new(registered: Registered, client: Transport, upstream: Transport, banner: Vec<u8>) -> Self {
        let down = Half { pending: banner, ..Half::default() };
        Self { registered, client, upstream, up: Half::default(), down }
    }

    /// Carries until the end and closes both sockets: in order, or both with a reset.
    pub async fn run(mut self, metrics: &UpstreamMetrics) -> CloseReason {
        loop {
            match std::future::poll_fn(|cx| self.poll_turns(cx, metrics)).await {
                Turn::Again => {
                    if matches!(self.upstream, Transport::Rehearsed(_)) {
                        self.upstream = self.upstream.settled();
                    }
                    tokio::task::yield_now().await;
                }
                Turn::Rehearse(rehearsal) => self.upstream = self.upstream.rehearsed(rehearsal.rehearsal()),
                Turn::Done(reason) => {
                    self.registered.close(reason, [&self.client, &self.upstream]);
                    return reason;
                }
            }
        }
    }

    fn poll_turns(&mut self, cx: &mut Context<'_>, metrics: &UpstreamMetrics) -> Poll<Turn> {
        self.registered.carried.woken_by(cx.waker());
        let result = match self.obey() {
            Some(turn) => Poll::Ready(turn),
            None => {
                self.upstream.drive(cx);
                self.turns(cx)
            }
        };
        let (sent, received) = (std::mem::take(&mut self.up.uncounted), std::mem::take(&mut self.down.uncounted));
        if sent > 0 {
            metrics.moved(Direction::Sent, sent);
        }
        if received > 0 {
            metrics.moved(Direction::Received, received);
        }
        if sent > 0 || received > 0 {
            self.registered.moved(sent > 0, received > 0);
        }
        if self.up.bulk || self.down.bulk {
            self.registered.stalls(self.up.lent.is_some() || self.down.lent.is_some());
        }
        result
    }

    fn obey(&mut self) -> Option<Turn> {
        let reason = match self.registered.carried.order() {
            Order::None => return None,
            Order::Dead => CloseReason::Dead,
            Order::Vanished => CloseReason::ClientReset,
            Order::Idle => CloseReason::Idle,
            Order::Drained => CloseReason::Drained,
            Order::Reset => CloseReason::UpstreamReset,
            Order::EmptyPipe => return self.empty_pipes().err().map(Turn::Done),
            Order::Rehearse => {
                if let Err(reason) = self.empty_pipes() {
                    return Some(Turn::Done(reason));
                }
                // What is held up is not moved inside the kernel.
                [&mut self.up, &mut self.down].into_iter().for_each(|half| (half.bulk, half.run) = (false, 0));
                return self.registered.carried.take_rehearsal().map(Turn::Rehearse);
            }
        };
        Some(Turn::Done(reason))
    }

    fn empty_pipes(&mut self) -> Result<(), CloseReason> {
        self.up.empty_pipe()?;
        self.down.empty_pipe()
    }

    fn turns(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        for _ in 0..TURNS {
            let up = self.up.step(cx, &mut self.client, &mut self.upstream, self.down.stage == Stage::Shut);
            if let Poll::Ready(Step::Gone(_)) = up {
                return Poll::Ready(Turn::Done(CloseReason::ClientReset));
            }
            let down = self.down.step(cx, &mut self.upstream, &mut self.client, self.up.stage == Stage::Shut);
            if let Poll::Ready(Step::Gone(error)) = down {
                return Poll::Ready(Turn::Done(upstream_gone(&error)));
            }
            match (self.up.stage, self.down.stage) {
                (Stage::Shut, Stage::Shut) => return Poll::Ready(Turn::Done(CloseReason::Finished)),
                // A sink that takes no more may still have sent something, which has been delivered by now.
                (Stage::Broken, Stage::Shut | Stage::Broken) => {
                    return Poll::Ready(Turn::Done(CloseReason::UpstreamReset));
                }
                (Stage::Shut, Stage::Broken) => return Poll::Ready(Turn::Done(CloseReason::ClientReset)),
                _ => {}
            }
            let moved = |step: &Poll<Step>| matches!(step, Poll::Ready(Step::Moved));
            if !moved(&up) && !moved(&down) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Turn::Again)
    }
}

/// The kernel's keepalive ends a connection with a timeout; an unreachable network ends it when it is told so.
pub fn upstream_gone(error: &io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            CloseReason::Dead
        }
        _ => CloseReason::UpstreamReset,
    }
}

impl Half {
    /// Moves at most one buffer.
    /// `last`: the other direction has ended.
    fn step(&mut self, cx: &mut Context<'_>, source: &mut Transport, sink: &mut Transport, last: bool) -> Poll<Step> {
        match self.stage {
            Stage::Shut | Stage::Broken => return Poll::Ready(Step::Stopped),
            Stage::Open | Stage::Ended => {}
        }
        if !self.pending.is_empty() {
            return self.write(cx, sink);
        }
        if self.unflushed {
            match self.flush(cx, sink) {
                Poll::Ready(Step::Moved) => {}
                other => return other,
            }
        }
        if self.lent.as_ref().is_some_and(|lent| lent.held() > 0) {
            return self.drain(cx, sink);
        }
        if self.stage == Stage::Ended {
            return self.shut(cx, sink, last);
        }
        if self.bulk
            && let Some(lent) = self.lent.take().or_else(|| Pipes::shared().borrow())
        {
            return self.splice(cx, source, sink, lent);
        }
        self.copy(cx, source, sink, last)
    }

    fn copy(&mut self, cx: &mut Context<'_>, source: &mut Transport, sink: &mut Transport, last: bool) -> Poll<Step> {
        SHARED.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            match Pin::new(&mut *source).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    self.waited();
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Step::Gone(error)),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.stage = Stage::Ended;
                return self.shut(cx, sink, last);
            }
            self.since_wait += bytes.len();
            self.run += bytes.len();
            self.bulk = self.run >= BULK && source.is_plain() && sink.is_plain();
            let taken = match Pin::new(&mut *sink).poll_write(cx, bytes) {
                Poll::Ready(Ok(taken)) => taken,
                Poll::Ready(Err(_)) => return self.break_off(),
                Poll::Pending => 0,
            };
            self.uncounted += taken as u64;
            if taken < bytes.len() {
                self.pending = bytes[taken..].to_vec();
            }
            self.unflushed = !sink.is_plain();
            Poll::Ready(Step::Moved)
        })
    }

    fn splice(&mut self, cx: &mut Context<'_>, source: &Transport, sink: &Transport, mut lent: Lent) -> Poll<Step> {
        match lent.poll_fill(cx, source) {
            // The empty pipe goes back with `lent`.
            Poll::Pending => {
                self.waited();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Step::Gone(error)),
            Poll::Ready(Ok(0)) => {
                self.stage = Stage::Ended;
                Poll::Ready(Step::Moved)
            }
            Poll::Ready(Ok(moved)) => {
                self.since_wait += moved;
                self.lent = Some(lent);
                self.drain(cx, sink)
            }
        }
    }

    fn drain(&mut self, cx: &mut Context<'_>, sink: &Transport) -> Poll<Step> {
        let Some(lent) = &mut self.lent else { return Poll::Ready(Step::Moved) };
        match lent.poll_drain(cx, sink) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => self.break_off(),
            Poll::Ready(Ok(moved)) => {
                self.uncounted += moved as u64;
                if lent.held() == 0 {
                    self.lent = None;
                }
                Poll::Ready(Step::Moved)
            }
        }
    }

    /// TLS may keep the last records to itself until it is asked, however long the source is silent after them.
    fn flush(&mut self, cx: &mut Context<'_>, sink: &mut Transport) -> Poll<Step> {
        match Pin::new(sink).poll_flush(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => self.break_off(),
            Poll::Ready(Ok(())) => {
                self.unflushed = false;
                Poll::Ready(Step::Moved)
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, sink: &mut Transport) -> Poll<Step> {
        match Pin::new(&mut *sink).poll_write(cx, &self.pending[self.written..]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => self.break_off(),
            Poll::Ready(Ok(taken)) => {
                self.uncounted += taken as u64;
                self.written += taken;
                if self.written == self.pending.len() {
                    self.pending = Vec::new();
                    self.written = 0;
                    self.unflushed = !sink.is_plain();
                }
                Poll::Ready(Step::Moved)
            }
        }
    }

    /// Passes the source's end on. If it is the last one, the close that follows at once tells it (nothing is unread, so it
    /// is no reset); under TLS the end has to be said.
    fn shut(&mut self, cx: &mut Context<'_>, sink: &mut Transport, last: bool) -> Poll<Step> {
        if last && sink.is_plain() {
            self.stage = Stage::Shut;
            return Poll::Ready(Step::Stopped);
        }
        match Pin::new(sink).poll_shutdown(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                self.stage = Stage::Shut;
                Poll::Ready(Step::Stopped)
            }
            // It has ended already; there is nobody left to tell.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
                self.stage = Stage::Shut;
                Poll::Ready(Step::Stopped)
            }
            Poll::Ready(Err(_)) => self.break_off(),
        }
    }

    fn break_off(&mut self) -> Poll<Step> {
        self.stage = Stage::Broken;
        self.pending = Vec::new();
        self.lent = None;
        Poll::Ready(Step::Stopped)
    }

    /// The source has nothing: was that wake-up worth a pipe?
    fn waited(&mut self) {
        if self.since_wait == 0 {
            return;
        }
        let sparse = self.since_wait < SPARSE;
        if sparse && !self.bulk {
            self.run = 0;
        }
        self.sparse = if sparse { self.sparse.saturating_add(1) } else { 0 };
        if self.bulk && self.sparse >= SPARSE_WAKES {
            self.bulk = false;
            self.run = 0;
        }
        self.since_wait = 0;
    }

    /// Others need the pipe: its bytes move into memory of this direction's own.
    fn empty_pipe(&mut self) -> Result<(), CloseReason> {
        if let Some(lent) = self.lent.take() {
            self.pending = lent.into_bytes().map_err(|_| CloseReason::Error)?;
        }
        Ok(())
    }
}
