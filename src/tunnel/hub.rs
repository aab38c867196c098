//! One upstream in tunnel mode: its links, and the clients who come for them.
//!
//! A client goes to the link with the fewest streams whose session is up. While none is, clients wait outside all of
//! them, and the first session that stands takes them.

mod clients;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::client::Client;
use super::drains::Drains;
use super::slot::Slot;
use crate::config;
use crate::link::drill::{self, Begun, Drill};
use crate::link::mailbox::order;
use crate::link::names::Led;
use crate::link::resolve::Resolver;
use crate::listener::present::Present;
use crate::listener::waiting::Waiting;
use crate::metrics::EndpointSeries;
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
    pub fn tell(&self, link: u64, order: u16) {
        self.slots.load().iter().filter(|slot| slot.id == link).for_each(|slot| slot.tell(order));
    }

    /// Tells every link the same.
    pub fn tell_all(&self, order: u16) {
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

    /// Cuts every wait for a redial short.
    pub fn retry(&self) {
        self.tell_all(order::RETRY);
    }

    /// Rehearses an outage on the first link that is up. Errors: why not, for people.
    pub fn drill(&self, order: drill::Order) -> Result<Begun, String> {
        let slots = self.slots.load();
        let slot = |id| slots.iter().find(|slot| slot.id == id && !slot.leaving.load(Ordering::Acquire));
        let (link, endpoint) = drill::first_up(&self.status, |id| slot(id).is_some())?;
        let Some(slot) = slot(link) else { return Err(format!("link {link} of {} has just gone", self.name)) };
        let streams = slot.streams.load(Ordering::Relaxed);
        let drill = Drill::begin(&self.status, link, endpoint, order)?;
        let begun = drill.begun(&format!("its {streams} stream{}", if streams == 1 { "" } else { "s" }));
        slot.drill(drill);
        Ok(begun)
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
