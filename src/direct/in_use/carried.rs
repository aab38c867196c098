//! One connection that a client is using, as the shared timer sees it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use crate::config::{self, Beats};
use crate::link::watch::{self, Verdict};
use crate::net::kernel::{self, TcpInfo};
use crate::net::rehearsal::{Kind, OnItsWay, Rehearsal};
use crate::net::socket;

/// What the shared timer tells a connection to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    None = 0,
    /// The far end is dead: reset.
    Dead = 1,
    /// It moved no byte for `idle_timeout`.
    Idle = 2,
    /// The drain is over.
    Drained = 3,
    /// Others need the pipe that a stalled reader keeps full.
    EmptyPipe = 4,
    /// The client is gone without a word: reset.
    Vanished = 5,
    /// A drill resets the upstream's side.
    Reset = 6,
    /// A drill holds the upstream's bytes up: see [`Carried::take_rehearsal`].
    Rehearse = 7,
}

/// One carried connection, as the shared timer sees it.
#[derive(Debug)]
pub struct Carried {
    pub(super) upstream: Side,
    pub(super) client: Side,
    order: AtomicU8,
    /// Bytes came from the upstream since the last look.
    received: AtomicBool,
    /// The look before which a byte last moved.
    touched: AtomicU32,
    /// The look before which it stalled with bytes in a pipe; 0: it has none.
    stalled: AtomicU32,
    /// Whether keepalive has been set on the upstream's socket.
    sustained: AtomicBool,
    waker: OnceLock<Waker>,
    pub(super) origin: Origin,
    rehearsal: Mutex<Option<OnItsWay>>,
}

/// The link that handed a connection out, and the endpoint, as one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin(u64);

impl Origin {
    pub fn new(link: u64, endpoint: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (link, endpoint).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// One of its sockets.
#[derive(Debug)]
pub(super) struct Side {
    /// `None`: a unix socket, whose peer cannot vanish unseen.
    fd: Option<RawFd>,
    /// Bytes were written to it since the last look, or were not acknowledged then.
    stirred: AtomicBool,
    /// What the peer had acknowledged when bytes were last seen in flight; [`NOTHING`]: none were.
    acknowledged: AtomicU64,
    /// The first look, in milliseconds of the life of [`InUse`](super::InUse), that saw that number.
    since: AtomicU64,
}

/// No connection gets that far.
const NOTHING: u64 = u64::MAX;

impl Carried {
    /// `sockets`: the client's and the upstream's. `sustained`: the latter has its keepalive. `looks`: how many there were.
    pub(super) fn new(sockets: [Option<RawFd>; 2], sustained: bool, origin: Origin, looks: u32) -> Self {
        let [client, upstream] = sockets.map(Side::new);
        Self {
            upstream,
            client,
            order: AtomicU8::new(Order::None as u8),
            received: AtomicBool::new(false),
            touched: AtomicU32::new(looks),
            stalled: AtomicU32::new(0),
            sustained: AtomicBool::new(sustained),
            waker: OnceLock::new(),
            origin,
            rehearsal: Mutex::default(),
        }
    }

    /// What the connection was told, if anything; [`Order::EmptyPipe`] and [`Order::Rehearse`] are told once.
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            1 => Order::Dead,
            2 => Order::Idle,
            3 => Order::Drained,
            5 => Order::Vanished,
            6 => Order::Reset,
            once @ (4 | 7) => {
                let _ = self.order.compare_exchange(once, 0, Ordering::AcqRel, Ordering::Relaxed);
                if once == 4 { Order::EmptyPipe } else { Order::Rehearse }
            }
            _ => Order::None,
        }
    }

    /// Whose task to wake when there is an order. A task keeps its waker for life.
    pub fn woken_by(&self, waker: &Waker) {
        if self.waker.get().is_none() {
            let _ = self.waker.set(waker.clone());
        }
    }

    /// Bytes moved since the carrier last said so. `looks`: how many there were.
    pub(super) fn moved(&self, looks: u32, sent: bool, received: bool) {
        self.touched.store(looks, Ordering::Relaxed);
        if sent {
            self.upstream.stirred.store(true, Ordering::Relaxed);
        }
        if received {
            self.client.stirred.store(true, Ordering::Relaxed);
            self.received.store(true, Ordering::Relaxed);
        }
    }

    /// The carrier waits for a reader while a pipe of its is full, or no longer.
    pub(super) fn stalls(&self, looks: u32, holds_pipe: bool) {
        let stalled = self.stalled.load(Ordering::Relaxed);
        if holds_pipe != (stalled != 0) {
            let now = if holds_pipe { looks.max(1) } else { 0 };
            self.stalled.store(now, Ordering::Relaxed);
        }
    }

    /// Whether bytes came from the upstream since this was last asked.
    pub(super) fn has_received(&self) -> bool {
        take(&self.received)
    }

    /// How many looks, of which `now` is the last, there were since a byte moved.
    pub(super) fn looks_since_moved(&self, now: u32) -> u32 {
        now.saturating_sub(self.touched.load(Ordering::Relaxed))
    }

    pub(super) fn has_stalled_since(&self, now: u32) -> bool {
        match self.stalled.load(Ordering::Relaxed) {
            0 => false,
            // Two looks a second apart have seen it, so a whole second has passed.
            since => now.saturating_sub(since) >= 2,
        }
    }

    /// Keepalive runs on these numbers from now on.
    pub(super) fn retune(&self, heartbeat: &config::Heartbeat) {
        self.client.sustain(heartbeat);
        self.sustained.store(false, Ordering::Relaxed);
        self.sustain(heartbeat);
    }

    pub(super) fn sustain(&self, heartbeat: &config::Heartbeat) {
        if !self.sustained.load(Ordering::Relaxed) && !self.sustained.swap(true, Ordering::Relaxed) {
            self.upstream.sustain(heartbeat);
        }
    }

    /// Takes the connection through a drill.
    pub fn rehearse(&self, rehearsal: &Arc<Rehearsal>) {
        *self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner) = Some(rehearsal.on_its_way());
        self.tell(if rehearsal.kind() == Kind::Reset { Order::Reset } else { Order::Rehearse });
    }

    /// What [`Order::Rehearse`] is about.
    pub fn take_rehearsal(&self) -> Option<OnItsWay> {
        self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn tell(&self, order: Order) {
        let _ = self.order.fetch_update(Ordering::AcqRel, Ordering::Acquire, |current| {
            // An end once told is not taken back, and a pipe may be asked for again.
            let gives_way = match current {
                0 | 4 => true,
                7 => order != Order::EmptyPipe,
                _ => false,
            };
            gives_way.then_some(order as u8)
        });
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// Whether a flag was set; it is not any more. Most connections are idle at most looks: only what is set is written.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel)
}

impl Side {
    fn new(fd: Option<RawFd>) -> Self {
        let (acknowledged, since) = (AtomicU64::new(NOTHING), AtomicU64::new(0));
        Self { fd, stirred: AtomicBool::new(true), acknowledged, since }
    }

    /// A socket that just died refuses; its carrier finds out by itself.
    fn sustain(&self, heartbeat: &config::Heartbeat) {
        if let Some(fd) = self.fd {
            let _ = kernel::with_fd(fd, |fd| socket::sustain(&fd, heartbeat));
        }
    }

    /// `due`: brought forward to when this may be judged anew.
    pub(super) fn is_dead(&self, now: u64, heartbeat: &config::Heartbeat, due: &mut Option<Duration>) -> bool {
        let Some(fd) = self.fd else { return false };
        // Cleared before the look: bytes sent during it are looked at the next time.
        if !take(&self.stirred) {
            return false;
        }
        let Ok(info) = kernel::tcp_info(fd) else { return false };
        let (stalled, beats) = (self.stalled(now, &info), Beats::from(heartbeat));
        match watch::judge(&info, stalled, &beats) {
            Verdict::Dead => true,
            Verdict::InFlight => {
                self.stirred.store(true, Ordering::Release);
                *due = [*due, watch::dead_in(&info, stalled, &beats)].into_iter().flatten().min();
                false
            }
            Verdict::Quiet => false,
        }
    }

    /// How long looks have seen bytes in flight and none acknowledged.
    fn stalled(&self, now: u64, info: &TcpInfo) -> Duration {
        let acknowledged = if info.unacked == 0 { NOTHING } else { info.bytes_acked };
        if self.acknowledged.swap(acknowledged, Ordering::Relaxed) != acknowledged || acknowledged == NOTHING {
            self.since.store(now, Ordering::Relaxed);
        }
        Duration::from_millis(now.saturating_sub(self.since.load(Ordering::Relaxed)))
    }
}
