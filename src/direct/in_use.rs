//! The connections that clients are using: where the shared timer finds them, and what it may tell them.
//!
//! A carried connection only stores a few flags when bytes move. Once in a while one task for the upstream looks through
//! them all: no timer, and no clock, for each connection.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use super::watch::{self, Verdict};
use crate::config;
use crate::net::{kernel, socket};

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
}

/// One carried connection, as the shared timer sees it.
#[derive(Debug)]
pub struct Carried {
    /// The upstream's TCP socket; `None` on a unix socket.
    upstream: Option<RawFd>,
    client: Option<RawFd>,
    order: AtomicU8,
    /// Bytes went to the upstream since the last look, or were not acknowledged then.
    stirred: AtomicBool,
    /// Bytes came from the upstream since the last look.
    received: AtomicBool,
    /// The look before which a byte last moved.
    touched: AtomicU32,
    /// The look before which it stalled with bytes in a pipe; 0: it has none.
    stalled: AtomicU32,
    waker: OnceLock<Waker>,
}

/// All of one upstream.
#[derive(Debug, Default)]
pub struct InUse {
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
    first: bool,
}

/// What a look found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub open: usize,
    pub dead: usize,
    pub idle: usize,
    /// Somebody heard from the upstream.
    pub received: bool,
}

impl InUse {
    pub fn register(self: &Arc<Self>, client: Option<RawFd>, upstream: Option<RawFd>) -> Registered {
        let carried = Arc::new(Carried {
            upstream,
            client,
            order: AtomicU8::new(Order::None as u8),
            stirred: AtomicBool::new(true),
            received: AtomicBool::new(false),
            touched: AtomicU32::new(self.looks.load(Ordering::Relaxed)),
            stalled: AtomicU32::new(0),
            waker: OnceLock::new(),
        });
        let mut slots = self.slots();
        let first = slots.free.len() == slots.all.len();
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
        Registered { carried, owner: self.clone(), slot, first }
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
        let mut seen = Seen::default();
        for carried in self.slots().all.iter().flatten() {
            seen.open += 1;
            seen.received |= carried.received.swap(false, Ordering::Relaxed);
            if tcp && carried.is_dead(heartbeat) {
                seen.dead += 1;
                carried.tell(Order::Dead);
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
        let keepalive = socket::Keepalive::from_heartbeat(heartbeat);
        for carried in self.slots().all.iter().flatten() {
            if let Some(fd) = carried.client {
                let _ = kernel::with_fd(fd, |fd| socket::apply_keepalive(&fd, &keepalive));
            }
            if let Some(fd) = carried.upstream {
                kernel::with_fd(fd, |fd| socket::follow(&fd, heartbeat));
            }
        }
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
    /// What the connection was told, if anything; [`Order::EmptyPipe`] is told once.
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            1 => Order::Dead,
            2 => Order::Idle,
            3 => Order::Drained,
            4 => {
                let _ = self.order.compare_exchange(4, 0, Ordering::AcqRel, Ordering::Relaxed);
                Order::EmptyPipe
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
            self.stirred.store(true, Ordering::Relaxed);
        }
        if received {
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

    fn is_dead(&self, heartbeat: &config::Heartbeat) -> bool {
        let Some(fd) = self.upstream else { return false };
        // Cleared before the look: bytes sent during it are looked at the next time.
        if !self.stirred.swap(false, Ordering::AcqRel) {
            return false;
        }
        match kernel::tcp_info(fd).map(|info| watch::judge(&info, heartbeat)) {
            Ok(Verdict::Dead) => true,
            Ok(Verdict::InFlight) => {
                self.stirred.store(true, Ordering::Release);
                false
            }
            Ok(Verdict::Quiet) | Err(_) => false,
        }
    }

    fn tell(&self, order: Order) {
        let _ = self.order.fetch_update(Ordering::AcqRel, Ordering::Acquire, |current| {
            // An end once told is not taken back.
            (current == 0 || current == Order::EmptyPipe as u8).then_some(order as u8)
        });
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

impl Registered {
    /// Whether it was the only one when it came: the shared timer has to be started. Of two that come at once, one is.
    pub fn is_first(&self) -> bool {
        self.first
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
    fn of_two_that_come_at_once_one_starts_the_shared_timer() {
        let all = Arc::new(InUse::default());
        let (one, other) = (all.register(None, None), all.register(None, None));
        assert_eq!((one.is_first(), other.is_first()), (true, false));
        drop(one);
        assert!(!all.register(None, None).is_first(), "one is left");
        drop(other);
        assert!(all.register(None, None).is_first(), "after the last has gone the timer has stopped");
    }

    #[test]
    fn idle_is_told_after_so_many_looks_without_a_byte_and_only_then() {
        let all = Arc::new(InUse::default());
        let (silent, busy) = (all.register(None, None), all.register(None, None));
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
        let one = all.register(None, None);
        one.carried.tell(Order::EmptyPipe);
        assert_eq!((one.carried.order(), one.carried.order()), (Order::EmptyPipe, Order::None), "told once");
        assert_eq!(all.tell_all(Order::Dead), 1);
        all.tell_all(Order::Drained);
        one.carried.tell(Order::EmptyPipe);
        assert_eq!(one.carried.order(), Order::Dead);
    }
}
