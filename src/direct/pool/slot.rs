//! One link's place in the pool: the client it is given, and what it is told.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use super::Client;
use crate::link::mailbox::Mailbox;

/// One place in the pool.
pub struct Slot {
    mailbox: Mailbox,
    given: Mutex<Option<Client>>,
}

impl Slot {
    pub(super) fn new(id: u64, worker: usize) -> Arc<Self> {
        Arc::new(Self { mailbox: Mailbox::new(id, worker), given: Mutex::default() })
    }

    /// Called with the queue locked, so that a link that withdraws knows whether it has a client.
    pub(super) fn give(&self, client: Client) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        self.wake.notify_one();
    }

    pub fn take_given(&self) -> Option<Client> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Deref for Slot {
    type Target = Mailbox;

    fn deref(&self) -> &Mailbox {
        &self.mailbox
    }
}
