//! Where one link can be reached by others: what it is to carry, and what it is told.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::client::Client;
use crate::link::mailbox::Mailbox;
use crate::link::names::Led;

/// One place in the pool.
pub struct Slot {
    mailbox: Mailbox,
    /// Its session takes new streams.
    pub open: AtomicBool,
    /// It will end; another has its place in the pool.
    pub leaving: AtomicBool,
    /// Its session lives at a gateway that new streams are not for: another takes its place in the pool, and until that
    /// stands it takes streams as well, if it can.
    pub yields: AtomicBool,
    /// It has no session, and looks for any gateway.
    pub fresh: AtomicBool,
    /// Its session is searched for, and a gateway that does not have it is up.
    pub searches: AtomicBool,
    /// Streams it carries, clients on their way to it included.
    pub streams: AtomicUsize,
    /// How many its session takes.
    most: AtomicUsize,
    /// `None`: its link is over, and nobody looks here any more.
    clients: Mutex<Option<Vec<Client>>>,
    /// The name that led to the address of its connection, while that stands.
    led: Mutex<Option<(String, IpAddr)>>,
}

impl Slot {
    pub fn new(id: u64, worker: usize) -> Arc<Self> {
        Arc::new(Self {
            mailbox: Mailbox::new(id, worker),
            open: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            yields: AtomicBool::new(false),
            fresh: AtomicBool::new(true),
            searches: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            most: AtomicUsize::new(usize::MAX),
            clients: Mutex::new(Some(Vec::new())),
            led: Mutex::default(),
        })
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) && !self.leaving.load(Ordering::Acquire)
    }

    /// It keeps its place in the pool.
    pub fn stays(&self) -> bool {
        !self.leaving.load(Ordering::Acquire) && !self.yields.load(Ordering::Acquire)
    }

    /// Its session takes so many streams at once.
    pub fn takes(&self, streams: usize) {
        self.most.store(streams, Ordering::Release);
    }

    pub fn has_room(&self) -> bool {
        self.streams.load(Ordering::Acquire) < self.most.load(Ordering::Acquire)
    }

    fn clients(&self) -> MutexGuard<'_, Option<Vec<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a client. It comes back if the link is over.
    pub fn give(&self, client: Client) -> Option<Client> {
        match &mut *self.clients() {
            None => return Some(client),
            Some(clients) => {
                self.streams.fetch_add(1, Ordering::AcqRel);
                clients.push(client);
            }
        }
        self.wake.notify_one();
        None
    }

    pub fn take_clients(&self) -> Vec<Client> {
        self.clients().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The link is over: nobody is let in any more. Returns who came in its last moment.
    pub fn close(&self) -> Vec<Client> {
        self.open.store(false, Ordering::Release);
        self.clients().take().unwrap_or_default()
    }

    /// A stream, or a client on its way, is gone. A link that leaves ends with its last one.
    pub fn one_less(&self) {
        if self.streams.fetch_sub(1, Ordering::AcqRel) == 1 && self.leaving.load(Ordering::Acquire) {
            self.wake.notify_one();
        }
    }

    /// A name led to the address of its connection; `None`: nothing is known of the like.
    pub fn set_led(&self, led: Option<(String, IpAddr)>) {
        *self.led.lock().unwrap_or_else(PoisonError::into_inner) = led;
    }

    /// What is to be asked for, whether it still leads here.
    pub fn led(&self) -> Option<Led> {
        let (host, address) =
            self.led.lock().unwrap_or_else(PoisonError::into_inner).clone().filter(|_| self.stays())?;
        Some(Led { link: self.id, host, address })
    }
}

impl Deref for Slot {
    type Target = Mailbox;

    fn deref(&self) -> &Mailbox {
        &self.mailbox
    }
}
