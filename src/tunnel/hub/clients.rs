//! The clients who come for an upstream's links: to a link at once, or into the wait, or away.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use super::Hub;
use crate::clock;
use crate::link::mailbox::order;
use crate::listener::Arrived;
use crate::metrics::RefuseReason;
use crate::tunnel::client::Client;
use crate::tunnel::drains::{Drains, UnderWay};
use crate::tunnel::slot::Slot;

impl Hub {
    /// A client of `service` was accepted: hands it to a link, lets it wait, or refuses it.
    pub fn arrive(&self, arrived: Arrived, service: Arc<str>, hops: u8) {
        let Arrived { socket, peer, local } = arrived;
        let accepted = clock::now();
        if let Some((socket, admitted)) = self.present.admit(socket, 1) {
            self.enter(Client { socket, accepted, service, peer, local, hops, admitted });
        }
    }

    /// A client that was admitted, known in full by now; or one whose link turned out to be down, or full.
    pub fn enter(&self, mut client: Client) {
        let limits = &self.current().limits;
        let mut waiting = self.waiting();
        // With the list locked: a link that comes up now takes from the list whoever did not see it yet.
        while let Some(slot) = self.best() {
            // One that ends at this moment gives the client back, and is not open any more.
            match slot.give(client) {
                None => return,
                Some(back) => client = back,
            }
        }
        let refused = if waiting.is_closed() {
            Some(RefuseReason::LinkDown)
        } else if self.is_full() {
            Some(RefuseReason::Limit)
        } else if limits.wait.is_zero() {
            Some(RefuseReason::LinkDown)
        } else if waiting.len() >= limits.waiting {
            Some(RefuseReason::Limit)
        } else {
            None
        };
        if let Some(reason) = refused {
            drop(waiting);
            return self.present.refuse(client.socket, reason, "nobody may wait");
        }
        waiting.insert(client);
        drop(waiting);
        self.keeper.notify_one();
    }

    /// The open link with the fewest streams, of those that take more.
    fn best(&self) -> Option<Arc<Slot>> {
        let slots = self.slots.load();
        let free = slots.iter().filter(|slot| slot.is_open() && slot.has_room());
        free.min_by_key(|slot| slot.streams.load(Ordering::Relaxed)).cloned()
    }

    /// Clients wait for a link.
    pub fn has_waiting(&self) -> bool {
        !self.waiting().is_empty()
    }

    /// Clients wait, for no link is open; or may not wait, and are refused.
    pub fn is_waited_for(&self) -> bool {
        let waits = self.current().limits.wait.is_zero() || !self.waiting().is_empty();
        waits && !self.slots.load().iter().any(|slot| slot.is_open())
    }

    /// Every link is up, and none takes more streams: nothing is to be waited for.
    fn is_full(&self) -> bool {
        let slots = self.slots.load();
        let mut staying = slots.iter().filter(|slot| !slot.leaving.load(Ordering::Acquire)).peekable();
        staying.peek().is_some() && staying.all(|slot| slot.is_open() && !slot.has_room())
    }

    /// A link's session stands: it takes those who wait, and whoever comes from now on.
    pub fn opened(&self, slot: &Slot) {
        let mut waiting = self.waiting();
        slot.open.store(true, Ordering::Release);
        let clients = waiting.take_all();
        drop(waiting);
        if slot.stays() {
            self.slots.load().iter().filter(|slot| slot.yields.load(Ordering::Acquire)).for_each(|slot| {
                slot.leaving.store(true, Ordering::Release);
                slot.tell(order::YIELD);
            });
        }
        clients.into_iter().filter_map(|client| slot.give(client)).for_each(|back| self.enter(back));
    }

    fn drains(&self) -> MutexGuard<'_, Drains> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A link's gateway drains: whoever comes meanwhile waits for another, and their waits do not run yet.
    pub fn drain_began(&self, link: u64) {
        self.drains().begin(link);
    }

    /// That link is over, or its connection lost.
    pub fn drain_ended(&self, link: u64) {
        if self.drains().end(link, clock::now()) {
            self.keeper.notify_one();
        }
    }

    /// Refuses the clients who have waited for `limits.wait`; says when the next one will have.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        let wait = self.current().limits.wait;
        match self.drains().nobody_before(wait) {
            // Its end wakes the keeper.
            Err(UnderWay) => return None,
            Ok(Some(at)) if now < at => return Some(at).filter(|_| !self.waiting().is_empty()),
            Ok(_) => {}
        }
        let (late, next) = self.waiting().take_late(now, wait);
        for client in late {
            self.present.refuse(client.socket, RefuseReason::LinkDown, "it has waited for `limits.wait`");
        }
        next
    }

    /// The upstream goes: nobody waits any more, nobody is let in.
    pub fn close(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.status.draining.store(true, Ordering::Relaxed);
        let clients = self.waiting().close();
        let refuse = |client: Client| self.present.refuse(client.socket, RefuseReason::LinkDown, "its upstream goes");
        clients.into_iter().for_each(refuse);
    }
}
