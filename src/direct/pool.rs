//! The warm links of one upstream, and the clients who come for them.
//!
//! A link offers itself here whenever it could be handed out; a client takes the first one offered, or waits. While
//! more clients wait than dials are under way, and the upstream was answering when last heard from, extra connections are
//! dialled for them, so that a burst larger than the pool pays one round trip and not many.

mod carrying;
mod clients;
mod dials;
mod named;
mod slot;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::age::Ages;
use super::client::Client;
use super::endpoints::Endpoints;
use super::in_use::{self, Origin};
use crate::config::{self, Endpoint};
use crate::link::drill::{self, Begun, Drill};
use crate::link::resolve::Resolver;
use crate::listener::present::Present;
use crate::listener::waiting::Waiting;
use crate::metrics::EndpointSeries;
use crate::net::tls::ClientTls;
use crate::status::{LET_GO, Status, UpstreamStatus};

pub use dials::{Opened, Tie};
pub use slot::Slot;

/// Lines about single links that an upstream may log in a second.
const LINES_A_SECOND: u32 = 3;

/// One upstream's links and clients, shared by its listeners, its links and its keeper.
pub struct Pool {
    pub name: String,
    pub process: Arc<Status>,
    pub status: Arc<UpstreamStatus>,
    pub settings: watch::Sender<Arc<config::Upstream>>,
    pub in_use: Arc<in_use::InUse>,
    pub tls: ArcSwapOption<ClientTls>,
    /// The keeper's timer for connections in use runs. It runs on for a while when the last one has gone, so that a client
    /// at a time does not start it for each.
    pub looked_after: AtomicBool,
    /// Tells the keeper to cut every wait short.
    pub retry: Notify,
    /// Tells the keeper that this machine was suspended: every link is to be asked at once.
    pub woken: Notify,
    /// Wakes the keeper: something is to be timed.
    pub keeper: Notify,
    endpoints: Mutex<Endpoints>,
    ages: Mutex<Ages>,
    queue: Mutex<Queue>,
    resolver: Resolver,
    workers: Vec<Handle>,
    turn: AtomicUsize,
    /// Links that live: warm, in use, or being refilled. A lock, so that "the last went" and "the first came" are told
    /// in the order in which they happened.
    alive: Mutex<usize>,
    pub endpoint_series: EndpointSeries,
    pub present: Arc<Present>,
    /// The last that was heard from the upstream was good: not merely a connect, which a hung server's kernel grants too.
    answering: AtomicBool,
    /// This server speaks before it is spoken to.
    speaks_first: AtomicBool,
    /// The upstream goes: that its last link ends is no trouble.
    leaving: AtomicBool,
    /// It has gone: nobody is carried any more.
    gone: AtomicBool,
    next_link: AtomicU64,
    /// Why a link was last lost, for the record of the outage.
    last_trouble: ArcSwap<String>,
    /// The link that is a scout; 0: none is.
    pub scout: AtomicU64,
    /// A drill on its way to its link, by the keeper.
    drill: Mutex<Option<Drill>>,
    /// Lines logged about links in the second that began then.
    told: Mutex<(Instant, u32)>,
}

struct Queue {
    ready: VecDeque<Arc<Slot>>,
    waiting: Waiting<Client>,
    /// Dials under way.
    dialling: usize,
}

/// Keeps the upstream up while it exists.
pub struct Alive(Arc<Pool>);

impl Pool {
    pub fn new(
        settings: &Arc<config::Upstream>,
        process: &Arc<Status>,
        resolver: &Resolver,
        workers: &[Handle],
        tls: Option<Arc<ClientTls>>,
    ) -> Arc<Self> {
        let seed = fastrand::u64(..);
        let status = process.add_upstream(settings);
        let waiting = Waiting::new(status.metrics.waiting.clone());
        Arc::new(Self {
            name: settings.name.clone(),
            process: process.clone(),
            present: Present::new(&status),
            status,
            settings: watch::Sender::new(settings.clone()),
            in_use: Arc::default(),
            tls: ArcSwapOption::from(tls),
            looked_after: AtomicBool::new(false),
            retry: Notify::new(),
            woken: Notify::new(),
            keeper: Notify::new(),
            endpoints: Mutex::new(Endpoints::new(&settings.endpoints, settings.balance, seed)),
            ages: Mutex::default(),
            queue: Mutex::new(Queue { ready: VecDeque::new(), waiting, dialling: 0 }),
            resolver: resolver.clone(),
            workers: workers.to_vec(),
            turn: AtomicUsize::new(fastrand::usize(..workers.len().max(1))),
            alive: Mutex::new(0),
            endpoint_series: EndpointSeries::new(&process.metrics, settings),
            answering: AtomicBool::new(false),
            speaks_first: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            next_link: AtomicU64::new(1),
            last_trouble: ArcSwap::from_pointee("not connected yet".to_owned()),
            scout: AtomicU64::new(0),
            drill: Mutex::default(),
            told: Mutex::new((Instant::now(), 0)),
        })
    }

    pub fn current(&self) -> Arc<config::Upstream> {
        self.settings.borrow().clone()
    }

    pub fn endpoints(&self) -> MutexGuard<'_, Endpoints> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ages(&self) -> MutexGuard<'_, Ages> {
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next runtime in turn, and its number.
    pub fn worker(&self) -> (usize, &Handle) {
        let index = self.turn.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        (index, &self.workers[index])
    }

    /// A new place among the links.
    pub fn new_slot(&self, worker: usize) -> Arc<Slot> {
        Slot::new(self.next_link.fetch_add(1, Ordering::Relaxed), worker)
    }

    /// A link could be handed out now. Returns the client who waited longest, or remembers the link.
    pub fn offer(&self, slot: &Arc<Slot>) -> Option<Client> {
        let mut queue = self.queue();
        if let Some(client) = queue.waiting.take_first() {
            return Some(client);
        }
        if !queue.waiting.is_closed() {
            queue.ready.push_back(slot.clone());
        }
        None
    }

    /// A link can no longer be handed out. Returns the client it was given just before, if any.
    pub fn withdraw(&self, slot: &Slot) -> Option<Client> {
        let mut queue = self.queue();
        if let Some(at) = queue.ready.iter().position(|ready| ready.id == slot.id) {
            queue.ready.remove(at);
        }
        slot.take_given()
    }

    /// Rehearses an outage on the first link that is up, and on the connections in use that it has handed out. Errors: why
    /// not, for people.
    pub fn drill(&self, order: drill::Order) -> Result<Begun, String> {
        let scout = self.scout.load(Ordering::Relaxed);
        let (link, endpoint) = drill::first_up(&self.status, |id| id != scout)?;
        let origin = Origin::new(link, &endpoint);
        let drill = Drill::begin(&self.status, link, endpoint, order)?;
        let carried = match self.in_use.rehearse(origin, drill.rehearsal()) {
            1 => "the connection in use that it handed out".to_owned(),
            n => format!("the {n} connections in use that it handed out"),
        };
        let begun = drill.begun(&carried);
        *self.drill.lock().unwrap_or_else(PoisonError::into_inner) = Some(drill);
        self.keeper.notify_one();
        Ok(begun)
    }

    /// Ends the drill that runs. Returns what ended, for people. Errors: none runs.
    pub fn stop_drill(&self) -> Result<String, String> {
        let ended = drill::stop(&self.status)?;
        self.keeper.notify_one();
        Ok(ended)
    }

    /// The drill that is on its way to its link.
    pub fn take_drill(&self) -> Option<Drill> {
        self.drill.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether one more line about a link may go to the log: a pool that falls as a whole is told by a few of its links, and
    /// by the line about the upstream.
    pub fn may_tell(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(told.0) >= Duration::from_secs(1) {
            *told = (now, 0);
        }
        told.1 += 1;
        told.1 <= LINES_A_SECOND
    }

    /// Whether the last that was heard from the upstream was good.
    pub fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed)
    }

    /// A beat was answered, or was not: a connect alone says neither.
    pub fn answers(&self, well: bool) {
        self.answering.store(well, Ordering::Relaxed);
    }

    pub fn speaks_first(&self) -> bool {
        self.speaks_first.load(Ordering::Relaxed)
    }

    pub fn learn_that_it_speaks_first(&self) {
        self.speaks_first.store(true, Ordering::Relaxed);
    }

    /// An endpoint could not be reached, or did not prove itself.
    pub fn trouble(&self, endpoint: &Endpoint, what: String) {
        self.answering.store(false, Ordering::Relaxed);
        self.endpoints().failed(endpoint, &self.current().retry, Instant::now());
        self.ages().dialled(false);
        self.last_trouble.store(Arc::new(what));
        self.keeper.notify_one();
    }

    /// Remembers why a link was lost.
    pub fn lost(&self, why: String) {
        self.last_trouble.store(Arc::new(why));
    }

    /// A connection proved itself at this endpoint.
    pub fn proven(&self, endpoint: &Endpoint) {
        self.answering.store(true, Ordering::Relaxed);
        let now = Instant::now();
        let learned = {
            let mut ages = self.ages();
            ages.dialled(true);
            ages.learned(now)
        };
        // What is shown holds whole milliseconds.
        let learned = learned.map(|age| Duration::from_millis(age.as_millis() as u64));
        if learned != self.status.learned_max_age() {
            self.status.set_learned_max_age(learned);
            if let Some(age) = learned {
                tracing::info!(
                    upstream = self.name,
                    max_age = ?age,
                    "the server cuts idle connections: warm links are renewed before that"
                );
            }
        }
        let mut endpoints = self.endpoints();
        // With all of them failing there is no scout: whoever gets through clears the name.
        if endpoints.are_all_failing() {
            endpoints.recovered(endpoint);
            // From now on the others are worth a scout.
            self.keeper.notify_one();
        }
    }

    /// Takes new settings; what depends on them follows by itself. Series of endpoints that went, go.
    pub fn apply(&self, settings: &Arc<config::Upstream>) {
        let old = self.current();
        {
            let mut endpoints = self.endpoints();
            endpoints.replace(&settings.endpoints, settings.balance);
            self.endpoint_series.replace(&self.process.metrics, settings);
            for endpoint in settings.endpoints.iter().filter(|endpoint| endpoints.is_live(endpoint)) {
                self.endpoint_series.with(&endpoint.name, |metrics| metrics.up.set(1));
            }
            if old.retry != settings.retry || old.endpoints != settings.endpoints || old.tls != settings.tls {
                endpoints.forget_failures();
            }
        }
        self.status.settings.store(settings.clone());
        self.status.metrics.configure(settings);
        self.ages().forget();
        self.status.set_learned_max_age(None);
        self.settings.send_replace(settings.clone());
    }

    /// Keeps the upstream up until the result is dropped.
    pub fn stay_alive(self: &Arc<Self>) -> Alive {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        *alive += 1;
        if *alive == 1 {
            let down = self.status.set_alive(true, "");
            tracing::info!(upstream = self.name, ?down, "upstream up");
        }
        Alive(self.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut alive = self.0.alive.lock().unwrap_or_else(PoisonError::into_inner);
        *alive = alive.saturating_sub(1);
        if *alive == 0 && self.0.leaving.load(Ordering::Relaxed) {
            self.0.status.set_alive(false, LET_GO);
            tracing::info!(upstream = self.0.name, "upstream {LET_GO}");
        } else if *alive == 0 {
            let reason = self.0.last_trouble.load();
            self.0.status.set_alive(false, &reason);
            tracing::warn!(upstream = self.0.name, "upstream down: {reason}");
        }
    }
}
