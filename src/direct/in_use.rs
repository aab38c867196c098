//! The connections that clients are using: where the shared timer finds them, and what it may tell them.
//!
//! A carried connection only stores a few flags when bytes move. Once in a while one task for the upstream looks through
//! them all: no timer, and no clock, for each connection.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::config::{self, Beats};
use crate::link::watch::{self, Verdict};
use crate::metrics::CloseReason;
use crate::net::kernel::{self, TcpInfo};
use crate::net::rehearsal::{Kind, Rehearsal};
use crate::net::socket;
use crate::net::stream::Stream;

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
    upstream: Side,
    client: Side,
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
    origin: Origin,
    rehearsal: Mutex<Option<Arc<Rehearsal>>>,
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
struct Side {
    /// `None`: a unix socket, whose peer cannot vanish unseen.
    fd: Option<RawFd>,
    /// Bytes were written to it since the last look, or were not acknowledged then.
    stirred: AtomicBool,
    /// What the peer had acknowledged when bytes were last seen in flight; [`NOTHING`]: none were.
    acknowledged: AtomicU64,
    /// The first look, in milliseconds of [`InUse::born`], that saw that number.
    since: AtomicU64,
}

/// No connection gets that far.
const NOTHING: u64 = u64::MAX;

/// All of one upstream.
#[derive(Debug)]
pub struct InUse {
    born: Instant,
    slots: Mutex<Slots>,
    /// Counts the looks, from 1.
    looks: AtomicU32,
}

#[derive(Debug, Default)]
struct Slots {
    all: Vec<Option<Arc<Carried>>>,
    free: Vec<usize>,
}

/// A place in the list, given back when dropped: before the sockets close, so that a look never meets a number that
/// already belongs to somebody else.
#[derive(Debug)]
pub struct Registered {
    pub carried: Arc<Carried>,
    owner: Arc<InUse>,
    slot: usize,
}

/// What a look found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub open: usize,
    /// Clients that are dead.
    pub vanished: usize,
    pub idle: usize,
    /// Somebody heard from the upstream.
    pub received: bool,
    /// When the first of those that do not answer may be judged dead.
    pub due: Option<Duration>,
}

impl Default for InUse {
    fn default() -> Self {
        Self { born: Instant::now(), slots: Mutex::default(), looks: AtomicU32::new(0) }
    }
}

impl InUse {
    /// `sustained`: the upstream's socket has its keepalive; else the first look sets it.
    pub fn register(
        self: &Arc<Self>,
        client: Option<RawFd>,
        upstream: Option<RawFd>,
        sustained: bool,
        origin: Origin,
    ) -> Registered {
        let carried = Arc::new(Carried {
            upstream: Side::new(upstream),
            client: Side::new(client),
            order: AtomicU8::new(Order::None as u8),
            received: AtomicBool::new(false),
            touched: AtomicU32::new(self.looks.load(Ordering::Relaxed)),
            stalled: AtomicU32::new(0),
            sustained: AtomicBool::new(sustained),
            waker: OnceLock::new(),
            origin,
            rehearsal: Mutex::default(),
        });
        let mut slots = self.slots();
        let slot = match slots.free.pop() {
            Some(slot) => {
                slots.all[slot] = Some(carried.clone());
                slot
            }
            None => {
                slots.all.push(Some(carried.clone()));
                slots.all.len() - 1
            }
        };
        Registered { carried, owner: self.clone(), slot }
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        let slots = self.slots();
        slots.all.len() - slots.free.len()
    }

    /// Looks at every connection once. `tcp`: also ask the kernel about those with bytes in flight. `idle_after`: looks
    /// without a byte after which a connection is idle. `pipes_wanted`: somebody waits for a pipe.
    pub fn look(&self, heartbeat: &config::Heartbeat, tcp: bool, idle_after: Option<u32>, pipes_wanted: bool) -> Seen {
        let now = self.looks.fetch_add(1, Ordering::Relaxed) + 1;
        let lived = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(NOTHING);
        let mut seen = Seen::default();
        for carried in self.slots().all.iter().flatten() {
            seen.open += 1;
            carried.sustain(heartbeat);
            seen.received |= carried.received.swap(false, Ordering::Relaxed);
            let mut is_dead = |side: &Side| tcp && side.is_dead(lived, heartbeat, &mut seen.due);
            if is_dead(&carried.upstream) {
                carried.tell(Order::Dead);
            } else if is_dead(&carried.client) {
                seen.vanished += 1;
                carried.tell(Order::Vanished);
            } else if idle_after
                .is_some_and(|limit| now.saturating_sub(carried.touched.load(Ordering::Relaxed)) > limit)
            {
                seen.idle += 1;
                carried.tell(Order::Idle);
            } else if pipes_wanted && carried.has_stalled_since(now) {
                carried.tell(Order::EmptyPipe);
            }
        }
        seen
    }

    /// An edit of the heartbeat reaches connections in use: keepalive runs on the new numbers.
    pub fn retune(&self, heartbeat: &config::Heartbeat) {
        for carried in self.slots().all.iter().flatten() {
            carried.client.sustain(heartbeat);
            carried.sustained.store(false, Ordering::Relaxed);
            carried.sustain(heartbeat);
        }
    }

    /// Takes those of one origin through a drill; returns how many they are.
    pub fn rehearse(&self, origin: Origin, rehearsal: &Arc<Rehearsal>) -> usize {
        let slots = self.slots();
        let of_it = slots.all.iter().flatten().filter(|carried| carried.origin == origin);
        of_it.map(|carried| carried.rehearse(rehearsal)).count()
    }

    /// Tells all of them the same.
    pub fn tell_all(&self, order: Order) -> usize {
        let slots = self.slots();
        slots.all.iter().flatten().map(|carried| carried.tell(order)).count()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carried {
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

    /// Bytes moved since the carrier last said so.
    pub fn moved(&self, owner: &InUse, sent: bool, received: bool) {
        self.touched.store(owner.looks.load(Ordering::Relaxed), Ordering::Relaxed);
        if sent {
            self.upstream.stirred.store(true, Ordering::Relaxed);
        }
        if received {
            self.client.stirred.store(true, Ordering::Relaxed);
            self.received.store(true, Ordering::Relaxed);
        }
    }

    /// The carrier waits for a reader while a pipe of its is full, or no longer.
    pub fn stalls(&self, owner: &InUse, holds_pipe: bool) {
        let stalled = self.stalled.load(Ordering::Relaxed);
        if holds_pipe != (stalled != 0) {
            let now = if holds_pipe { owner.looks.load(Ordering::Relaxed).max(1) } else { 0 };
            self.stalled.store(now, Ordering::Relaxed);
        }
    }

    fn has_stalled_since(&self, now: u32) -> bool {
        match self.stalled.load(Ordering::Relaxed) {
            0 => false,
            // Two looks a second apart have seen it, so a whole second has passed.
            since => now.saturating_sub(since) >= 2,
        }
    }

    fn sustain(&self, heartbeat: &config::Heartbeat) {
        if !self.sustained.swap(true, Ordering::Relaxed) {
            self.upstream.sustain(heartbeat);
        }
    }

    /// Takes the connection through a drill.
    pub fn rehearse(&self, rehearsal: &Arc<Rehearsal>) {
        if rehearsal.kind() == Kind::Reset {
            return self.tell(Order::Reset);
        }
        *self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner) = Some(rehearsal.clone());
        self.tell(Order::Rehearse);
    }

    /// What [`Order::Rehearse`] is about.
    pub fn take_rehearsal(&self) -> Option<Arc<Rehearsal>> {
        self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn tell(&self, order: Order) {
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
    fn is_dead(&self, now: u64, heartbeat: &config::Heartbeat, due: &mut Option<Duration>) -> bool {
        let Some(fd) = self.fd else { return false };
        // Cleared before the look: bytes sent during it are looked at the next time.
        if !self.stirred.swap(false, Ordering::AcqRel) {
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

impl Registered {
    /// Both sockets are closed next: in order, or by a reset. An end that cannot be made a reset is still an end.
    pub fn close(&self, reason: CloseReason, sockets: [&Stream; 2]) {
        for socket in sockets {
            if reason == CloseReason::Finished {
                socket.let_go();
            } else {
                let _ = socket.reset_on_close();
            }
        }
    }

    pub fn moved(&self, sent: bool, received: bool) {
        self.carried.moved(&self.owner, sent, received);
    }

    pub fn stalls(&self, holds_pipe: bool) {
        self.carried.stalls(&self.owner, holds_pipe);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut slots = self.owner.slots();
        slots.all[self.slot] = None;
        slots.free.push(self.slot);
        // After a storm the list shrinks again.
        if slots.free.len() == slots.all.len() {
            *slots = Slots::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Beat, Heartbeat};

    fn heartbeat() -> Heartbeat {
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(3));
        Heartbeat { interval, timeout, misses: 3, beat: Beat::Kernel, in_use: config::InUse::Off }
    }

    #[test]
    fn idle_is_told_after_so_many_looks_without_a_byte_and_only_then() {
        let all = Arc::new(InUse::default());
        let register = || all.register(None, None, true, Origin::new(1, "a:1"));
        let (silent, busy) = (register(), register());
        for _ in 0..4 {
            busy.moved(true, false);
            let seen = all.look(&heartbeat(), false, Some(4), false);
            assert_eq!((seen.open, seen.idle), (2, 0));
        }
        busy.moved(false, true);
        let seen = all.look(&heartbeat(), false, Some(4), false);
        assert_eq!((seen.idle, seen.received), (1, true));
        assert_eq!((silent.carried.order(), busy.carried.order()), (Order::Idle, Order::None));
    }

    #[test]
    fn an_end_once_told_is_not_taken_back() {
        let all = Arc::new(InUse::default());
        let one = all.register(None, None, true, Origin::new(1, "a:1"));
        one.carried.tell(Order::EmptyPipe);
        assert_eq!((one.carried.order(), one.carried.order()), (Order::EmptyPipe, Order::None), "told once");
        assert_eq!(all.tell_all(Order::Dead), 1);
        all.tell_all(Order::Drained);
        one.carried.tell(Order::EmptyPipe);
        assert_eq!(one.carried.order(), Order::Dead);
    }
}
