//! Where local clients arrive, and whom they are brought to.
//!
//! Sockets are kept by address, not by upstream, so that two upstreams can swap ports without closing one. A change is
//! made in two steps: everything that can fail is bound first, then the rest cannot fail.

#![forbid(unsafe_code)]

mod accept;
mod bound;
pub mod client;
pub mod waiting;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{self, ListenAddress};
use crate::net::socket;
use crate::systemd::Passed;
use crate::workers::restarted;
use accept::{Target, accept};
use bound::{Bound, bind, rebind};
use client::Socket;

/// Whom a listener's clients are brought to: a direct upstream, or one forward of an upstream in tunnel mode.
pub trait Arrivals: Send + Sync {
    /// A client was accepted by a task on `worker`. Must not block: the next one waits for it.
    fn arrive(self: Arc<Self>, client: Arrived, worker: usize);

    /// The upstream's settings, now and whenever they change: the heartbeat's numbers are the clients' keepalive.
    fn settings(&self) -> watch::Receiver<Arc<config::Upstream>>;

    /// A client could not be accepted for want of something.
    fn accept_failed(&self);

    /// The worker whose task had best accept, if it matters: a client accepted there costs no wake-up of another one.
    fn preferred_worker(&self) -> Option<usize> {
        None
    }
}

/// A client as it comes from its listener.
#[derive(Debug)]
pub struct Arrived {
    pub socket: Socket,
    /// `None`: it came over a unix socket.
    pub peer: Option<SocketAddr>,
    /// The listener's address, as the kernel tells it; a wildcard's is not the one the client dialled. `None`: unix.
    pub local: Option<SocketAddr>,
}

/// Whose clients arrive at a listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    pub upstream: String,
    /// Which of the upstream's forwards; 0 in direct mode.
    pub forward: usize,
}

/// A listener as a configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub address: ListenAddress,
    pub owner: Owner,
    /// The forward's service: the name it keeps when others come and go before it. Empty in direct mode.
    pub service: String,
}

impl Wanted {
    /// All of an upstream.
    pub fn of(upstream: &config::Upstream) -> Vec<Self> {
        let wanted = |forward, service: &str, address: &ListenAddress| Self {
            address: address.clone(),
            owner: Owner { upstream: upstream.name.clone(), forward },
            service: service.to_owned(),
        };
        match &upstream.tunnel {
            None => upstream.listen.iter().map(|address| wanted(0, "", address)).collect(),
            Some(tunnel) => {
                let numbered = tunnel.forwards.iter().enumerate();
                numbered.flat_map(|(n, f)| f.listen.iter().map(move |address| wanted(n, &f.service, address))).collect()
            }
        }
    }
}

/// An address, and for port 0 (the kernel picks) also whose.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    address: ListenAddress,
    /// Upstream and service.
    owner: Option<(String, String)>,
}

impl Key {
    fn new(wanted: &Wanted) -> Self {
        let any = matches!(wanted.address, ListenAddress::Tcp(address) if address.port() == 0);
        let owner = || (wanted.owner.upstream.clone(), wanted.service.clone());
        Self { address: wanted.address.clone(), owner: any.then(owner) }
    }
}

/// All listening sockets of the process.
#[derive(Default)]
pub struct Listeners {
    open: HashMap<Key, Open>,
    /// Used in the place of sockets of our own.
    passed: Passed,
}

struct Open {
    bound: Arc<Bound>,
    target: Arc<Target>,
    /// Whose task accepts.
    worker: usize,
    stop: CancellationToken,
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    pub upstream: String,
    pub address: ListenAddress,
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upstream, address, error } = self;
        write!(f, "{upstream}: cannot listen on {address}: {error}{}", cure(error))
    }
}

/// What helps when an address could not be bound; empty: nothing that is known.
pub fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: end it, or choose another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE, a path a writable directory",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// Sockets bound for a configuration that is not yet in force. Dropping it closes them again.
pub struct Prepared {
    wanted: Vec<(Key, Owner)>,
    bound: HashMap<Key, Bound>,
    /// A wildcard and its own specific addresses cannot be bound at once: the old ones, closed already, to be brought back
    /// if the new one fails.
    displaced: Vec<(Key, Arc<Target>)>,
}

impl Listeners {
    /// None yet; what was passed is used where its address is wanted.
    pub fn with(passed: Passed) -> Self {
        Self { passed, ..Self::default() }
    }

    /// Binds what is new in `wanted`. What is open already is kept; nothing else changes yet.
    pub fn prepare(&mut self, wanted: &[Wanted], workers: &[Handle]) -> Result<Prepared, Vec<BindError>> {
        let mut prepared = Prepared { wanted: Vec::new(), bound: HashMap::new(), displaced: Vec::new() };
        let mut errors = Vec::new();
        let mut blocked = Vec::new();
        for one in wanted {
            let (address, upstream) = (&one.address, &one.owner.upstream);
            let key = Key::new(one);
            prepared.wanted.push((key.clone(), one.owner.clone()));
            if self.open.contains_key(&key) || prepared.bound.contains_key(&key) {
                continue;
            }
            match bind(address, &self.passed) {
                Ok(bound) => {
                    prepared.bound.insert(key, bound);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && !self.rivals(&key, wanted).is_empty() => {
                    blocked.push((key, upstream));
                }
                Err(error) => {
                    errors.push(BindError { upstream: upstream.clone(), address: address.clone(), error });
                }
            }
        }
        // Nothing that serves is closed for a change that fails anyway.
        for (key, upstream) in blocked {
            if !errors.is_empty() {
                break;
            }
            for rival in self.rivals(&key, wanted) {
                if let Some(open) = self.open.remove(&rival) {
                    prepared.displaced.push((rival, open.target.clone()));
                    open.stop.cancel();
                }
            }
            match rebind(&key.address, &self.passed) {
                Ok(bound) => {
                    prepared.bound.insert(key, bound);
                }
                Err(error) => errors.push(BindError { upstream: upstream.clone(), address: key.address, error }),
            }
        }
        if errors.is_empty() {
            return Ok(prepared);
        }
        prepared.bound.clear();
        for (key, target) in prepared.displaced {
            match rebind(&key.address, &self.passed) {
                Ok(bound) => self.start(key, bound, target, workers),
                Err(error) => tracing::error!(address = %key.address, %error, "a listener could not be bound again"),
            }
        }
        Err(errors)
    }

    /// Puts the prepared sockets to work, points all at their `targets`, and closes those that nobody wants, after what
    /// their queue holds has been accepted. Returns the addresses really bound, by owner.
    pub fn commit(
        &mut self,
        prepared: Prepared,
        targets: &HashMap<Owner, Arc<dyn Arrivals>>,
        workers: &[Handle],
    ) -> HashMap<Owner, Vec<String>> {
        let Prepared { wanted, mut bound, .. } = prepared;
        let mut listening: HashMap<Owner, Vec<String>> = HashMap::new();
        for (key, owner) in &wanted {
            let Some(arrivals) = targets.get(owner) else { continue };
            match (self.open.get_mut(key), bound.remove(key)) {
                (Some(open), _) => {
                    open.target.arrivals.store(Arc::new(arrivals.clone()));
                    open.target.changed.notify_one();
                    if let Some(worker) = preferred(&**arrivals, workers).filter(|worker| *worker != open.worker) {
                        open.move_to(worker, workers);
                    }
                }
                (None, Some(bound)) => {
                    tracing::info!(upstream = owner.upstream, address = %bound, "listening for clients");
                    let target = Target { arrivals: ArcSwap::from_pointee(arrivals.clone()), changed: Notify::new() };
                    self.start(key.clone(), bound, Arc::new(target), workers);
                }
                (None, None) => continue,
            }
            if let Some(open) = self.open.get(key) {
                listening.entry(owner.clone()).or_default().push(open.bound.to_string());
            }
        }
        self.open.retain(|key, open| {
            let stays = wanted.iter().any(|(wanted, _)| wanted == key);
            if !stays {
                open.stop.cancel();
            }
            stays
        });
        listening
    }

    /// Stops accepting at the sockets that were passed: who comes waits in the queue for our successor. Returns whether
    /// all are such, and nobody can come any more.
    pub fn hold(&self) -> bool {
        let (passed, own): (Vec<_>, Vec<_>) = self.open.values().partition(|open| open.bound.is_passed());
        for open in &passed {
            open.bound.leave_queue();
            open.stop.cancel();
        }
        own.is_empty() && !passed.is_empty()
    }

    /// Stops accepting everywhere.
    pub fn close(&mut self) {
        for (_, open) in self.open.drain() {
            open.bound.leave_queue();
            open.stop.cancel();
        }
    }

    fn start(&mut self, key: Key, bound: Bound, target: Arc<Target>, workers: &[Handle]) {
        let worker = preferred(&***target.arrivals.load(), workers);
        let worker = worker.unwrap_or_else(|| fastrand::usize(..workers.len().max(1)));
        let open = Open { bound: Arc::new(bound), target, worker, stop: CancellationToken::new() };
        open.accept(workers);
        self.open.insert(key, open);
    }

    /// The open sockets that overlap with `key` and are not wanted any more: a wildcard has one for each of its addresses.
    fn rivals(&self, key: &Key, wanted: &[Wanted]) -> Vec<Key> {
        let ListenAddress::Tcp(new) = &key.address else { return Vec::new() };
        let unwanted = |key: &Key| !wanted.iter().any(|wanted| Key::new(wanted) == *key);
        let rival =
            |key: &&Key| matches!(&key.address, ListenAddress::Tcp(old) if socket::overlap(old, new)) && unwanted(key);
        self.open.keys().filter(rival).cloned().collect()
    }
}

/// The worker that the target would have.
fn preferred(arrivals: &dyn Arrivals, workers: &[Handle]) -> Option<usize> {
    arrivals.preferred_worker().filter(|worker| *worker < workers.len())
}

impl Open {
    fn accept(&self, workers: &[Handle]) {
        let (bound, target, stop, worker) = (self.bound.clone(), self.target.clone(), self.stop.clone(), self.worker);
        if let Some(handle) = workers.get(worker) {
            handle.spawn(restarted(move || accept(bound.clone(), target.clone(), stop.clone(), worker)));
        }
    }

    /// Accepts on another worker. The old task serves what it finds in the queue at its end: no client is lost between.
    fn move_to(&mut self, worker: usize, workers: &[Handle]) {
        std::mem::take(&mut self.stop).cancel();
        self.worker = worker;
        self.accept(workers);
    }
}

#[cfg(test)]
mod tests;
