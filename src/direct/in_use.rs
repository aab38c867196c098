//! The connections that clients are using: where the shared timer finds them, and what it may tell them.
//!
//! A carried connection only stores a few flags when bytes move. Once in a while one task for the upstream looks through
//! them all: no timer, and no clock, for each connection.

mod carried;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config;
use crate::metrics::CloseReason;
use crate::net::rehearsal::Rehearsal;
use crate::net::transport::Transport;

use carried::Side;
pub use carried::{Carried, Order, Origin};

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
        let carried = Arc::new(Carried::new([client, upstream], sustained, origin, self.looks()));
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
        let lived = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut seen = Seen::default();
        for carried in self.slots().all.iter().flatten() {
            seen.open += 1;
            carried.sustain(heartbeat);
            seen.received |= carried.has_received();
            let mut is_dead = |side: &Side| tcp && side.is_dead(lived, heartbeat, &mut seen.due);
            if is_dead(&carried.upstream) {
                carried.tell(Order::Dead);
            } else if is_dead(&carried.client) {
                seen.vanished += 1;
                carried.tell(Order::Vanished);
            } else if idle_after.is_some_and(|limit| carried.looks_since_moved(now) > limit) {
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
            carried.retune(heartbeat);
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

    fn looks(&self) -> u32 {
        self.looks.load(Ordering::Relaxed)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    /// Both sockets are closed next: in order, or by a reset. An end that cannot be made a reset is still an end.
    pub fn close(&self, reason: CloseReason, sockets: [&Transport; 2]) {
        for socket in sockets {
            if reason == CloseReason::Finished {
                socket.let_go();
            } else {
                let _ = socket.reset_on_close();
            }
        }
    }

    pub fn moved(&self, sent: bool, received: bool) {
        self.carried.moved(self.owner.looks(), sent, received);
    }

    pub fn stalls(&self, holds_pipe: bool) {
        self.carried.stalls(self.owner.looks(), holds_pipe);
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
