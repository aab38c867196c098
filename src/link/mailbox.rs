//! Where one link is reached by others, whatever runs over it: the orders it is given, and a drill it is to go through.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::drill::Drill;

/// Orders to a link, as bits. Several wait together; one given twice is one.
pub mod order {
    /// Cut the wait short.
    pub const RETRY: u16 = 1;
    /// Beat at once: this machine was suspended.
    pub const ASK: u16 = 1 << 1;
    /// Go to a new connection: the files that dials depend on have changed, or a better endpoint is well again.
    pub const MOVE: u16 = 1 << 2;
    /// The name that led to the connection's address leads elsewhere.
    pub const FOLLOW: u16 = 1 << 3;
    /// It leads there again. Tunnel only.
    pub const STAY: u16 = 1 << 4;
    /// End at once. Direct only.
    pub const STOP: u16 = 1 << 5;
    /// A client waits: dial now, beside the backoff.
    pub const WANTED: u16 = 1 << 6;
    /// No new streams; end with the last one, or when told to cut. Tunnel only.
    pub const DRAIN: u16 = 1 << 7;
    /// Reset every stream. Tunnel only.
    pub const CUT: u16 = 1 << 8;
    /// The link that takes this one's place stands: no new streams; end with the last one, whenever that is. Tunnel only.
    pub const YIELD: u16 = 1 << 9;
}

/// One link's: its number, the worker it lives on, and what it is told.
pub struct Mailbox {
    pub id: u64,
    pub worker: usize,
    /// Something has come: orders, a drill, or what its owner keeps beside this.
    pub wake: Notify,
    orders: AtomicU16,
    drill: Mutex<Option<Drill>>,
}

impl Mailbox {
    pub fn new(id: u64, worker: usize) -> Self {
        Self { id, worker, wake: Notify::new(), orders: AtomicU16::new(0), drill: Mutex::default() }
    }

    /// Gives one of [`order`], or several.
    pub fn tell(&self, orders: u16) {
        self.orders.fetch_or(orders, Ordering::AcqRel);
        self.wake.notify_one();
    }

    pub fn take_orders(&self) -> u16 {
        self.orders.swap(0, Ordering::AcqRel)
    }

    /// Brings a drill, for the link to go through.
    pub fn drill(&self, drill: Drill) {
        *self.drill.lock().unwrap_or_else(PoisonError::into_inner) = Some(drill);
        self.wake.notify_one();
    }

    pub fn take_drill(&self) -> Option<Drill> {
        self.drill.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_wait_together_and_are_taken_once() {
        let mailbox = Mailbox::new(1, 0);
        mailbox.tell(order::RETRY);
        mailbox.tell(order::RETRY | order::YIELD);
        mailbox.wake.notified().await;
        assert_eq!(mailbox.take_orders(), order::RETRY | order::YIELD);
        assert_eq!(mailbox.take_orders(), 0);
    }
}
