//! One upstream in tunnel mode: its links, and the clients who come for them.
//!
//! A client goes to the link with the fewest streams whose session is up. While none is, clients wait outside all of
//! them, and the first session that stands takes them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::drains::{Drains, UnderWay};
use super::slot::{Client, Slot, order};
use crate::clock;
use crate::config;
use crate::link::drill::{self, Drill};
use crate::link::names::Led;
use crate::link::resolve::Resolver;
use crate::listener::Arrived;
use crate::listener::present::Present;
use crate::listener::waiting::Waiting;
use crate::metrics::{EndpointSeries, RefuseReason};
use crate::net::tls::ClientTls;
use crate::session::hello::Token;
use crate::status::{Event, LET_GO, Status, UpstreamStatus};

/// What an upstream's files hold.
#[derive(Default)]
pub struct Credentials {
    pub tls: ArcSwapOption<ClientTls>,
    pub token: ArcSwapOption<Token>,
}

/// One upstream's links and clients, shared by its listeners, its links and its keeper.
pub struct Hub {
    pub name: String,
    pub process: Arc<Status>,
    pub status: Arc<UpstreamStatus>,
    pub settings: watch::Sender<Arc<config::Upstream>>,
    pub credentials: Credentials,
    pub resolver: Resolver,
    /// Wakes the keeper: something is to be timed, or a link is leaving.
    pub keeper: Notify,
    workers: Vec<Handle>,
    turn: AtomicUsize,
    next_link: AtomicU64,
    slots: ArcSwap<Vec<Arc<Slot>>>,
    waiting: Mutex<Waiting<Client>>,
    drains: Mutex<Drains>,
    pub present: Arc<Present>,
    alive: Mutex<HashMap<String, usize>>,
    /// The upstream goes: that its last link ends is no trouble.
    leaving: AtomicBool,
    pub endpoint_series: EndpointSeries,
    last_end: ArcSwap<End>,
    /// It is down since its last link ended in order, and nobody has been warned of that.
    unwarned: AtomicBool,
}

/// Why a link ended, or none can be had.
struct End {
    why: String,
    /// Planned, by either end: no trouble yet.
    in_order: bool,
}

/// Keeps the upstream and an endpoint up while it exists.
pub struct Alive {
    hub: Arc<Hub>,
    endpoint: String,
}

impl Hub {
    pub fn new(
        settings: &Arc<config::Upstream>,
        process: &Arc<Status>,
        resolver: &Resolver,
        workers: &[Handle],
    ) -> Arc<Self> {
        let status = process.add_upstream(settings);
        Arc::new(Self {
            name: settings.name.clone(),
            process: process.clone(),
            waiting: Mutex::new(Waiting::new(status.metrics.waiting.clone())),
            drains: Mutex::default(),
            present: Present::new(&status),
            status,
            settings: watch::Sender::new(settings.clone()),
            credentials: Credentials::default(),
            resolver: resolver.clone(),
            keeper: Notify::new(),
            workers: workers.to_vec(),
            turn: AtomicUsize::new(fastrand::usize(..workers.len().max(1))),
            next_link: AtomicU64::new(1),
            slots: ArcSwap::default(),
            alive: Mutex::default(),
            leaving: AtomicBool::new(false),
            endpoint_series: EndpointSeries::new(&process.metrics, settings),
            last_end: ArcSwap::from_pointee(End { why: "not connected yet".to_owned(), in_order: false }),
            unwarned: AtomicBool::new(false),
        })
    }

    pub fn current(&self) -> Arc<config::Upstream> {
        self.settings.borrow().clone()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<Client>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- links ----

    /// A new place in the pool, on the next runtime in turn.
    pub fn add_slot(&self) -> (Arc<Slot>, &Handle) {
        let worker = self.turn.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        let slot = Slot::new(self.next_link.fetch_add(1, Ordering::Relaxed), worker);
        self.slots.rcu(|slots| slots.iter().cloned().chain([slot.clone()]).collect::<Vec<_>>());
        (slot, &self.workers[worker])
    }

    /// The next runtime in turn.
    pub fn worker(&self) -> &Handle {
        &self.workers[self.turn.fetch_add(1, Ordering::Relaxed) % self.workers.len()]
    }

    /// The place's link is over. Whoever came in its last moment comes again.
    pub fn remove_slot(&self, slot: &Slot) {
        self.slots.rcu(|slots| slots.iter().filter(|other| other.id != slot.id).cloned().collect::<Vec<_>>());
        for client in slot.close() {
            self.enter(client);
        }
        self.drain_ended(slot.id);
    }

    pub fn slots(&self) -> Arc<Vec<Arc<Slot>>> {
        self.slots.load_full()
    }

    /// The links that names led to where they are.
    pub fn led(&self) -> Vec<Led> {
        self.slots.load().iter().filter_map(|slot| slot.led()).collect()
    }

    /// Tells one link, if it is still there.
    pub fn tell(&self, link: u64, order: u8) {
        self.slots.load().iter().filter(|slot| slot.id == link).for_each(|slot| slot.tell(order));
    }

    /// Tells every link the same.
    pub fn tell_all(&self, order: u8) {
        self.slots.load().iter().for_each(|slot| slot.tell(order));
    }

    /// The worker of its link, if there is just one: a client accepted there costs no wake-up of another core.
    pub fn preferred_worker(&self) -> Option<usize> {
        match &self.slots.load()[..] {
            [slot] => Some(slot.worker),
            _ => None,
        }
    }

    /// Streams of all links.
    pub fn streams(&self) -> usize {
        self.slots.load().iter().map(|slot| slot.streams.load(Ordering::Relaxed)).sum()
    }

    /// Whether the upstream is up.
    pub fn is_up(&self) -> bool {
        self.status.metrics.up.get() == 1
    }

    /// A link has a proven connection to `endpoint`, until the result is dropped.
    pub fn stay_alive(self: &Arc<Self>, endpoint: &str) -> Alive {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        let first = alive.values().sum::<usize>() == 0;
        *alive.entry(endpoint.to_owned()).or_default() += 1;
        self.endpoint_series.with(endpoint, |metrics| metrics.up.set(1));
        if first {
            let down = self.status.set_alive(true, "");
            self.unwarned.store(false, Ordering::Relaxed);
            tracing::info!(upstream = self.name, ?down, "upstream up");
        }
        Alive { hub: self.clone(), endpoint: endpoint.to_owned() }
    }

    /// Remembers why a link was lost or could not be had. Warns if none is up and that was no trouble until now.
    pub fn trouble(&self, why: String) {
        if self.unwarned.swap(false, Ordering::Relaxed) {
            tracing::warn!(upstream = self.name, "upstream down: no other link takes the place of the last: {why}");
        }
        self.last_end.store(Arc::new(End { why, in_order: false }));
    }

    /// Remembers why a link is about to end as planned: another is to take its place.
    pub fn ends_in_order(&self, why: &str) {
        self.last_end.store(Arc::new(End { why: why.to_owned(), in_order: true }));
    }

    /// It is down as planned so far.
    #[cfg(test)]
    pub fn is_unwarned(&self) -> bool {
        self.unwarned.load(Ordering::Relaxed)
    }

    pub fn record(&self, event: Event) {
        self.status.record(event);
    }

    /// An event of the upstream itself.
    pub fn note(&self, kind: &'static str, text: String) {
        let at = SystemTime::now();
        self.record(Event { at, kind, link: None, endpoint: None, reason: None, text });
    }

    /// Takes new settings; what depends on them follows by itself. Series of endpoints that went, go.
    pub fn apply(&self, settings: &Arc<config::Upstream>) {
        {
            let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
            self.endpoint_series.replace(&self.process.metrics, settings);
            for endpoint in alive.iter().filter(|(_, links)| **links > 0).map(|(endpoint, _)| endpoint) {
                self.endpoint_series.with(endpoint, |metrics| metrics.up.set(1));
            }
        }
        self.status.settings.store(settings.clone());
        self.status.metrics.configure(settings);
        self.settings.send_replace(settings.clone());
    }

    // ---- clients ----

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

    /// Cuts every wait for a redial short.
    pub fn retry(&self) {
        self.tell_all(order::RETRY);
    }

    /// Rehearses an outage on the first link that is up. Returns what is done, for people. Errors: why not.
    pub fn drill(&self, order: drill::Order) -> Result<String, String> {
        let slots = self.slots.load();
        let slot = |id| slots.iter().find(|slot| slot.id == id && !slot.leaving.load(Ordering::Acquire));
        let (link, endpoint) = drill::first_up(&self.status, |id| slot(id).is_some())?;
        let Some(slot) = slot(link) else { return Err(format!("link {link} of {} has just gone", self.name)) };
        let streams = slot.streams.load(Ordering::Relaxed);
        let drill = Drill::begin(&self.status, link, endpoint, order)?;
        let told = drill.told(&format!("its {streams} stream{}", if streams == 1 { "" } else { "s" }));
        slot.drill(drill);
        Ok(told)
    }

    /// Ends the drill that runs. Returns what ended, for people. Errors: none runs.
    pub fn stop_drill(&self) -> Result<String, String> {
        let ended = drill::stop(&self.status)?;
        self.slots.load().iter().for_each(|slot| slot.wake.notify_one());
        Ok(ended)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let hub = &self.hub;
        let mut alive = hub.alive.lock().unwrap_or_else(PoisonError::into_inner);
        let links = alive.get_mut(&self.endpoint).map_or(0, |links| {
            *links = links.saturating_sub(1);
            *links
        });
        if links == 0 {
            alive.remove(&self.endpoint);
            hub.endpoint_series.with(&self.endpoint, |metrics| metrics.up.set(0));
        }
        if alive.is_empty() && hub.leaving.load(Ordering::Relaxed) {
            hub.status.set_alive(false, LET_GO);
            tracing::info!(upstream = hub.name, "upstream {LET_GO}");
        } else if alive.is_empty() {
            let End { why, in_order } = &**hub.last_end.load();
            hub.status.set_alive(false, why);
            if *in_order {
                hub.unwarned.store(true, Ordering::Relaxed);
                tracing::info!(upstream = hub.name, "upstream down: {why}; another link is made");
            } else {
                tracing::warn!(upstream = hub.name, "upstream down: {why}");
            }
        }
    }
}
