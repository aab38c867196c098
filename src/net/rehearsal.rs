//! Outages on purpose: a socket that holds its bytes up for a while, and then lets them flow on.
//!
//! Bytes are late or wait, and keep their order; none is lost, none comes twice. What cannot be held is not read, and
//! not taken. While nothing gets through, the kernel hears nothing from the peer either (a socket filter drops all that
//! comes), so keepalive, `TCP_INFO` and the peer find what a cut cable would let them find.

#![forbid(unsafe_code)]

mod late;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::descriptors::RESERVED;
use super::kernel;
use crate::clock;

pub use late::Rehearsed;

/// Sockets given up during an outage that are kept from telling their peers; more of them close as ever. A quarter of the
/// descriptors that are kept back for everything but clients.
const KEPT: usize = RESERVED / 4;

/// What is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing gets through, and nobody is told.
    Blackhole,
    /// Connections are reset; dials are refused.
    Reset,
    /// Every byte comes so much later, each way.
    Delay(Duration),
}

/// One outage, shared by all sockets that it is about.
pub struct Rehearsal {
    kind: Kind,
    until: Instant,
    stopped: CancellationToken,
    /// Those [on their way](OnItsWay).
    on_their_way: TaskTracker,
    /// Sockets given up meanwhile: their close would be heard.
    kept: Mutex<Vec<OwnedFd>>,
}

impl Rehearsal {
    /// From now on, for `time`.
    pub fn new(kind: Kind, time: Duration) -> Arc<Self> {
        let (until, on_their_way) = (clock::now() + time, TaskTracker::new());
        on_their_way.close();
        let stopped = CancellationToken::new();
        Arc::new(Self { kind, until, stopped, on_their_way, kept: Mutex::default() })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// When it ends by itself.
    pub fn until(&self) -> Instant {
        self.until
    }

    pub fn is_over(&self) -> bool {
        self.stopped.is_cancelled() || clock::now() >= self.until
    }

    /// Ready when it is over.
    pub async fn over(&self) {
        tokio::select! {
            () = self.stopped.cancelled() => {}
            () = tokio::time::sleep_until(self.until.into()) => {}
        }
    }

    /// One more socket is to go through it, whose owner does not know yet.
    pub fn on_its_way(self: &Arc<Self>) -> OnItsWay {
        OnItsWay { rehearsal: self.clone(), _counted: self.on_their_way.token() }
    }

    /// Ready when nothing is on its way any more: every socket goes through it, or has gone.
    pub async fn in_force(&self) {
        self.on_their_way.wait().await;
    }

    /// Ends it now, if it has not ended: what was held flows on, what was kept is closed.
    pub fn end(&self) {
        self.stopped.cancel();
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        kept.iter().for_each(hear);
    }

    /// Nothing gets through as yet.
    fn is_dark(&self) -> bool {
        self.kind == Kind::Blackhole && !self.is_over()
    }

    /// Keeps a socket open that is given up now, until the end.
    fn keep(&self, fd: RawFd) {
        if !self.is_dark() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT && !self.stopped.is_cancelled() {
            kept.extend(kernel::with_fd(fd, |fd| fd.try_clone_to_owned()).ok());
        }
    }
}

impl fmt::Debug for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rehearsal").field("kind", &self.kind).field("until", &self.until).finish_non_exhaustive()
    }
}

/// A rehearsal that a socket's owner is to learn of, and to drop once it goes through it.
#[derive(Debug)]
pub struct OnItsWay {
    rehearsal: Arc<Rehearsal>,
    _counted: TaskTrackerToken,
}

impl OnItsWay {
    pub fn rehearsal(&self) -> &Arc<Rehearsal> {
        &self.rehearsal
    }
}

/// A socket whose bytes can be held up.
pub trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Bytes that it takes while nothing gets through, as a kernel would into its send buffer.
    const TAKEN: usize;

    /// The kernel's; `None`: it is none of the kernel's.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// From now on the kernel takes nothing in that comes for this socket. Where it cannot, its bytes wait unread.
fn deafen(socket: &impl AsFd) {
    // BPF_RET | BPF_K, 0: of every packet keep no byte (`linux/filter.h`).
    let _ = SockRef::from(socket).attach_filter(&[SockFilter::new(0x06, 0, 0, 0)]);
}

fn hear(socket: &impl AsFd) {
    let _ = SockRef::from(socket).detach_filter();
}

/// The error that ended a socket, taken away from it.
fn failure(socket: BorrowedFd<'_>) -> Option<io::Error> {
    let failed = kernel::has_failed(socket.as_raw_fd());
    failed.then(|| SockRef::from(&socket).take_error().ok().flatten()).flatten()
}

#[cfg(test)]
mod tests;
