//! Where one link can be reached: the client it is given, and what it is told.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Client;
use crate::link::drill::Drill;

/// Orders to a link, as bits.
pub mod order {
    pub const STOP: u8 = 1;
    /// Cut the wait short.
    pub const RETRY: u8 = 2;
    /// A better endpoint is well again: move there.
    pub const MOVE: u8 = 4;
    /// Beat at once: this machine was suspended.
    pub const ASK: u8 = 8;
    /// A client waits: dial now, beside the backoff.
    pub const WANTED: u8 = 16;
    /// The name that led to the connection's address leads elsewhere: renew it.
    pub const RENEW: u8 = 32;
}

/// Where one link can be reached.
pub struct Place {
    pub id: u64,
    pub worker: usize,
    pub wake: Notify,
    given: Mutex<Option<Client>>,
    drill: Mutex<Option<Drill>>,
    orders: AtomicU8,
}

impl Place {
    pub(super) fn new(id: u64, worker: usize) -> Arc<Self> {
        let (wake, given, drill, orders) = (Notify::new(), Mutex::new(None), Mutex::new(None), AtomicU8::new(0));
        Arc::new(Self { id, worker, wake, given, drill, orders })
    }

    /// Called with the queue locked, so that a link that withdraws knows whether it has a client.
    pub(super) fn give(&self, client: Client) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        self.wake.notify_one();
    }

    pub fn take_given(&self) -> Option<Client> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Brings a drill, for the link to go through.
    pub fn drill(&self, drill: Drill) {
        *self.drill.lock().unwrap_or_else(PoisonError::into_inner) = Some(drill);
        self.wake.notify_one();
    }

    pub fn take_drill(&self) -> Option<Drill> {
        self.drill.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn tell(&self, order: u8) {
        self.orders.fetch_or(order, Ordering::AcqRel);
        self.wake.notify_one();
    }

    pub fn take_orders(&self) -> u8 {
        self.orders.swap(0, Ordering::AcqRel)
    }
}
