//! The warm links of one upstream, and the clients who come for them.
//!
//! A link offers itself here whenever it could be handed out; a client takes the first one offered, or waits. While
//! more clients wait than dials are under way, and the upstream was answering when last heard from, extra connections are
//! dialled for them, so that a burst larger than the pool pays one round trip and not many.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::age::Ages;
use super::carry::Carry;
use super::carry_lines;
use super::client::{Client, Place as ClientPlace};
use super::endpoints::Endpoints;
use super::in_use;
use super::line::LineMode;
use crate::config::{self, Beat, Endpoint, InUse};
use crate::link::dial::{self, DialError, DialOptions};
use crate::link::resolve::Resolver;
use crate::listener::client::{Socket, close_in_order};
use crate::listener::{Arrivals, Arrived};
use crate::metrics::{
    CloseReason, DialOutcome, EndpointMetrics, Label, LinkState, LossReason, RefuseReason, UpstreamMetrics,
};
use crate::net::descriptors::{Descriptors, Held};
use crate::net::stream::Stream;
use crate::net::tls::ClientTls;
use crate::status::{Status, UpstreamStatus};

/// Orders to a link, as bits.
pub mod order {
    pub const STOP: u8 = 1;
    /// Cut the wait short.
    pub const RETRY: u8 = 2;
    /// A better endpoint is well again: move there.
    pub const MOVE: u8 = 4;
    /// Beat at once: this machine was suspended.
    pub const ASK: u8 = 8;
}

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
    endpoint_metrics: ArcSwap<Vec<(String, EndpointMetrics)>>,
    /// Clients accepted and not yet gone.
    clients: AtomicUsize,
    /// The last that was heard from the upstream was good: not merely a connect, which a hung server's kernel grants too.
    answering: AtomicBool,
    /// This server speaks before it is spoken to.
    speaks_first: AtomicBool,
    next_link: AtomicU64,
    /// Why a link was last lost, for the record of the outage.
    last_trouble: ArcSwap<String>,
    /// Lines logged about links in the second that began then.
    told: Mutex<(Instant, u32)>,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Arc<Place>>,
    waiting: VecDeque<Client>,
    /// Dials under way.
    dialling: usize,
    closed: bool,
}

/// Where one link can be reached.
pub struct Place {
    pub id: u64,
    pub worker: usize,
    pub wake: Notify,
    given: Mutex<Option<Client>>,
    orders: AtomicU8,
}

/// A connection made, and what it occupies.
pub struct Opened {
    pub stream: Stream,
    pub endpoint: Endpoint,
    pub address: Option<SocketAddr>,
    pub rtt: Duration,
    pub at: Instant,
    /// Keepalive has been set on the socket.
    pub sustained: bool,
    pub tie: Tie,
}

/// Counts a connection at its endpoint, from the dial on, and once it is proven among the live ones; its dial, once it is
/// known what became of it; and a descriptor.
pub struct Tie {
    pool: Arc<Pool>,
    endpoint: Endpoint,
    alive: Option<Alive>,
    dial: Dial,
    _descriptor: Held,
}

/// What has become of a dial so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dial {
    UnderWay,
    Connected,
    Counted,
}

/// Keeps the upstream up while it exists.
pub struct Alive(Arc<Pool>);

/// A dial under way.
struct Dialling<'a>(&'a Pool);

impl Pool {
    pub fn new(
        settings: &Arc<config::Upstream>,
        process: &Arc<Status>,
        resolver: &Resolver,
        workers: &[Handle],
        tls: Option<Arc<ClientTls>>,
    ) -> Arc<Self> {
        let seed = fastrand::u64(..);
        Arc::new(Self {
            name: settings.name.clone(),
            process: process.clone(),
            status: process.add_upstream(settings),
            settings: watch::Sender::new(settings.clone()),
            in_use: Arc::default(),
            tls: ArcSwapOption::from(tls),
            looked_after: AtomicBool::new(false),
            retry: Notify::new(),
            woken: Notify::new(),
            keeper: Notify::new(),
            endpoints: Mutex::new(Endpoints::new(&settings.endpoints, settings.balance, seed)),
            ages: Mutex::default(),
            queue: Mutex::default(),
            resolver: resolver.clone(),
            workers: workers.to_vec(),
            turn: AtomicUsize::new(fastrand::usize(..workers.len().max(1))),
            alive: Mutex::new(0),
            endpoint_metrics: ArcSwap::from_pointee(endpoint_metrics(process, settings)),
            clients: AtomicUsize::new(0),
            answering: AtomicBool::new(false),
            speaks_first: AtomicBool::new(false),
            next_link: AtomicU64::new(1),
            last_trouble: ArcSwap::from_pointee("not connected yet".to_owned()),
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

    pub fn new_place(&self, worker: usize) -> Arc<Place> {
        Arc::new(Place {
            id: self.next_link.fetch_add(1, Ordering::Relaxed),
            worker,
            wake: Notify::new(),
            given: Mutex::new(None),
            orders: AtomicU8::new(0),
        })
    }

    // ---- clients ----

    /// A client was accepted on `worker`: hands it to a link, lets it wait, or refuses it.
    pub fn arrive(self: &Arc<Self>, socket: Socket, worker: usize) {
        let metrics = &self.status.metrics;
        metrics.connections_total.inc();
        let limits = &self.current().limits;
        let clients = self.clients.fetch_add(1, Ordering::AcqRel);
        let descriptors = Descriptors::shared().try_take(2);
        let Some(descriptors) = descriptors.filter(|_| clients < limits.connections) else {
            self.left();
            metrics.refuse(RefuseReason::Limit);
            tracing::debug!(upstream = self.name, clients, "client refused: at the limit");
            return socket.refuse();
        };
        let place = ClientPlace { pool: self.clone(), descriptors };
        self.queue_up(Client { socket, accepted: Instant::now(), place }, worker, false);
    }

    /// A client whose link turned out to be gone comes first again.
    pub fn come_again(self: &Arc<Self>, client: Client) {
        self.queue_up(client, 0, true);
    }

    fn queue_up(self: &Arc<Self>, client: Client, worker: usize, first: bool) {
        let limits = &self.current().limits;
        let mut queue = self.queue();
        // A link on the same thread is handed over without waking another core.
        let at = queue.ready.iter().take(8).position(|place| place.worker == worker).unwrap_or(0);
        if let Some(place) = queue.ready.remove(at) {
            place.give(client);
            return;
        }
        // `wait` is for a link that is down; while the upstream answers, a connection is under way.
        let down = limits.wait.is_zero() && !self.is_answering();
        let refused = if queue.closed || down {
            Some(RefuseReason::LinkDown)
        } else if queue.waiting.len() >= limits.waiting {
            Some(RefuseReason::Limit)
        } else {
            None
        };
        if let Some(reason) = refused {
            drop(queue);
            self.status.metrics.refuse(reason);
            return client.socket.refuse();
        }
        if first {
            queue.waiting.push_front(client);
        } else {
            queue.waiting.push_back(client);
        }
        self.status.metrics.waiting.set(queue.waiting.len() as i64);
        let dial_more = self.is_answering() && queue.dialling < queue.waiting.len();
        if dial_more {
            queue.dialling += 1;
        }
        drop(queue);
        self.keeper.notify_one();
        if dial_more {
            let pool = self.clone();
            self.worker().1.spawn(async move { pool.dial_for_waiting().await });
        }
    }

    /// One more connection than the pool keeps, for a client who waits.
    async fn dial_for_waiting(self: Arc<Self>) {
        let opened = {
            let _counted = Dialling(&self);
            self.open().await
        };
        // Whom it was dialled for waits on if it failed, for a link.
        let Ok(opened) = opened else { return };
        match self.next_waiting() {
            Some(client) => self.carry(client, opened, Vec::new()),
            None => {
                let Opened { stream, tie, .. } = opened;
                drop(tie);
                close_in_order(stream).await;
            }
        }
    }

    fn next_waiting(&self) -> Option<Client> {
        let mut queue = self.queue();
        let client = queue.waiting.pop_front();
        self.status.metrics.waiting.set(queue.waiting.len() as i64);
        client
    }

    /// Refuses the clients who have waited for `limits.wait`; says when the next one will have.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        let wait = {
            let settings = self.current();
            match settings.limits.wait {
                Duration::ZERO if self.is_answering() => settings.retry.connect_timeout,
                wait => wait,
            }
        };
        loop {
            let mut queue = self.queue();
            let front = queue.waiting.front()?.accepted + wait;
            if front > now {
                return Some(front);
            }
            let client = queue.waiting.pop_front();
            self.status.metrics.waiting.set(queue.waiting.len() as i64);
            drop(queue);
            if let Some(client) = client {
                self.status.metrics.refuse(RefuseReason::LinkDown);
                tracing::debug!(upstream = self.name, waited = ?wait, "client refused: no link");
                client.socket.refuse();
            }
        }
    }

    /// The upstream goes: nobody waits any more, nobody is let in.
    pub fn close(&self) {
        let waiting = {
            let mut queue = self.queue();
            queue.closed = true;
            queue.ready.clear();
            std::mem::take(&mut queue.waiting)
        };
        self.status.metrics.waiting.set(0);
        for client in waiting {
            self.status.metrics.refuse(RefuseReason::LinkDown);
            client.socket.refuse();
        }
    }

    /// Clients accepted and not yet gone.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Acquire)
    }

    /// A client is gone.
    pub fn left(&self) {
        self.clients.fetch_sub(1, Ordering::AcqRel);
    }

    // ---- links ----

    /// A link could be handed out now. Returns the client who waited longest, or remembers the link.
    pub fn offer(&self, place: &Arc<Place>) -> Option<Client> {
        let mut queue = self.queue();
        if let Some(client) = queue.waiting.pop_front() {
            self.status.metrics.waiting.set(queue.waiting.len() as i64);
            return Some(client);
        }
        if !queue.closed {
            queue.ready.push_back(place.clone());
        }
        None
    }

    /// A link can no longer be handed out. Returns the client it was given just before, if any.
    pub fn withdraw(&self, place: &Place) -> Option<Client> {
        let mut queue = self.queue();
        if let Some(at) = queue.ready.iter().position(|ready| ready.id == place.id) {
            queue.ready.remove(at);
        }
        place.take_given()
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

    /// A dial, counted among those under way: for a link of the pool.
    pub async fn dial(self: Arc<Self>, only: Option<Endpoint>) -> Result<Opened, DialError> {
        self.queue().dialling += 1;
        let _counted = Dialling(&self);
        match only {
            Some(endpoint) => self.open_at(endpoint).await,
            None => self.open().await,
        }
    }

    /// Tries the endpoints in order; the error is the last one's.
    async fn open(self: &Arc<Self>) -> Result<Opened, DialError> {
        let order = self.endpoints().order();
        let mut last = None;
        for endpoint in order {
            match self.open_at(endpoint).await {
                Ok(opened) => return Ok(opened),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| DialError::Refused {
            endpoint: self.name.clone(),
            address: "no endpoint".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        }))
    }

    async fn open_at(self: &Arc<Self>, endpoint: Endpoint) -> Result<Opened, DialError> {
        let settings = self.current();
        let options = DialOptions::new(&settings, self.tls.load_full());
        let mut tie = self.tie(&endpoint);
        let started = Instant::now();
        match dial::dial(&endpoint, &options, &self.resolver).await {
            Ok(dialled) => {
                tie.dial = Dial::Connected;
                self.status.metrics.dial_duration.observe(started.elapsed().as_secs_f64());
                Ok(Opened {
                    tie,
                    endpoint,
                    stream: dialled.stream,
                    address: dialled.address,
                    rtt: dialled.connect_rtt,
                    at: Instant::now(),
                    sustained: false,
                })
            }
            Err(error) => {
                tie.fail(error.outcome());
                if error.outcome() == DialOutcome::Local {
                    // Our own want says nothing of the endpoint.
                    self.lost(error.to_string());
                } else {
                    self.trouble(&endpoint, error.to_string());
                }
                Err(error)
            }
        }
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

    /// Dials under way count as connections: many at once would all go to the same endpoint otherwise.
    fn tie(self: &Arc<Self>, endpoint: &Endpoint) -> Tie {
        self.endpoints().dialled(endpoint);
        let (pool, endpoint) = (self.clone(), endpoint.clone());
        Tie { pool, endpoint, alive: None, dial: Dial::UnderWay, _descriptor: Descriptors::shared().take(1) }
    }

    /// The endpoint's series, if it is (still) in the configuration.
    pub fn with_endpoint_metrics(&self, endpoint: &Endpoint, act: impl FnOnce(&EndpointMetrics)) {
        if let Some((_, metrics)) = self.endpoint_metrics.load().iter().find(|(name, _)| *name == endpoint.name) {
            act(metrics);
        }
    }

    /// Takes new settings; what depends on them follows by itself. Series of endpoints that went, go.
    pub fn apply(&self, settings: &Arc<config::Upstream>) {
        let old = self.current();
        {
            let mut endpoints = self.endpoints();
            endpoints.replace(&settings.endpoints, settings.balance);
            self.endpoint_metrics.store(Arc::new(endpoint_metrics(&self.process, settings)));
            for gone in old.endpoints.iter().filter(|old| !settings.endpoints.iter().any(|new| new.name == old.name)) {
                self.process.metrics.remove_endpoint(&self.name, &gone.name);
            }
            for endpoint in settings.endpoints.iter().filter(|endpoint| endpoints.is_live(endpoint)) {
                self.with_endpoint_metrics(endpoint, |metrics| metrics.up.set(1));
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

    // ---- carrying ----

    /// Joins a client to a connection. Must be called on the runtime the connection belongs to.
    pub fn carry(self: &Arc<Self>, client: Client, opened: Opened, banner: Vec<u8>) {
        let Client { socket, accepted, mut place } = client;
        // From here on the connection is there, and counts for itself.
        place.descriptors.give_back(1);
        let stream = match socket.into_stream() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(upstream = self.name, %error, "client lost: its socket cannot be registered");
                return;
            }
        };
        let by_line = self.line_mode();
        let registered = self.in_use.register(stream.tcp_fd(), opened.stream.tcp_fd(), opened.sustained);
        if !self.looked_after.swap(true, Ordering::AcqRel) {
            self.keeper.notify_one();
        }
        let Opened { stream: upstream, mut tie, .. } = opened;
        tie.prove();
        let metrics = &self.status.metrics;
        metrics.wait.observe(accepted.elapsed().as_secs_f64());
        metrics.connections.inc();
        metrics.links[LinkState::InUse.index()].inc();
        let carried = Carrying { place, tie, since: accepted, reason: CloseReason::Error };
        if let Some(mode) = by_line {
            let settings = self.settings.subscribe();
            tokio::spawn(carried.until(move |metrics| async move {
                carry_lines::carry(registered, (stream, upstream), banner, mode, settings, &metrics).await
            }));
        } else {
            let carry = Carry::new(registered, stream, upstream, banner);
            tokio::spawn(carried.until(move |metrics| async move { carry.run(&metrics).await }));
        }
    }

    /// Line mode for a new connection, if that is how this upstream's are carried.
    fn line_mode(&self) -> Option<LineMode> {
        let settings = self.settings.borrow();
        let heartbeat = &settings.heartbeat;
        match &heartbeat.beat {
            Beat::Exchange { send, expect } if heartbeat.in_use == InUse::Line => {
                let (send, expect) = (send.clone(), expect.clone());
                LineMode::new(send, expect, heartbeat.into(), Instant::now(), fastrand::u64(..)).ok()
            }
            _ => None,
        }
    }
}

impl Arrivals for Pool {
    fn arrive(self: Arc<Self>, client: Arrived, worker: usize) {
        Pool::arrive(&self, client.socket, worker);
    }

    fn settings(&self) -> watch::Receiver<Arc<config::Upstream>> {
        self.settings.subscribe()
    }

    fn accept_failed(&self) {
        self.process.metrics.accept_errors.inc();
    }
}

fn endpoint_metrics(process: &Status, settings: &config::Upstream) -> Vec<(String, EndpointMetrics)> {
    let metrics = |name: &str| process.metrics.endpoint(&settings.name, name);
    settings.endpoints.iter().map(|endpoint| (endpoint.name.clone(), metrics(&endpoint.name))).collect()
}

/// A connection in use. Counted out when dropped, even by a panic of its task.
struct Carrying {
    place: ClientPlace,
    tie: Tie,
    since: Instant,
    reason: CloseReason,
}

impl Carrying {
    async fn until<F: Future<Output = CloseReason>>(mut self, carry: impl FnOnce(Arc<UpstreamMetrics>) -> F) {
        let metrics = self.place.pool.status.metrics.clone();
        self.reason = carry(metrics).await;
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        let pool = &self.place.pool;
        pool.status.metrics.connections.dec();
        pool.status.metrics.links[LinkState::InUse.index()].dec();
        pool.status.metrics.close(self.reason);
        // Any other end is the client's or the server's own; a death was found by us.
        if self.reason == CloseReason::Dead {
            pool.status.metrics.lose(LossReason::Heartbeat);
            pool.with_endpoint_metrics(&self.tie.endpoint, |metrics| metrics.losses.inc());
        }
        tracing::debug!(
            upstream = pool.name,
            endpoint = self.tie.endpoint.name,
            reason = self.reason.name(),
            duration = ?self.since.elapsed(),
            "connection closed"
        );
    }
}

impl Place {
    /// Called with the queue locked, so that a link that withdraws knows whether it has a client.
    fn give(&self, client: Client) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
        self.wake.notify_one();
    }

    pub fn take_given(&self) -> Option<Client> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn tell(&self, order: u8) {
        self.orders.fetch_or(order, Ordering::AcqRel);
        self.wake.notify_one();
    }

    pub fn take_orders(&self) -> u8 {
        self.orders.swap(0, Ordering::AcqRel)
    }
}

impl Tie {
    /// The connection is good: it, and so its endpoint and the upstream, are up.
    pub fn prove(&mut self) {
        if self.alive.is_some() {
            return;
        }
        self.alive = Some(self.pool.stay_alive());
        let mut endpoints = self.pool.endpoints();
        endpoints.proven(&self.endpoint);
        self.pool.with_endpoint_metrics(&self.endpoint, |metrics| metrics.up.set(1));
        drop(endpoints);
        self.count(DialOutcome::Ok);
    }

    /// The dial came to nothing, be it after a connect that proved nothing.
    pub fn fail(&mut self, outcome: DialOutcome) {
        self.count(outcome);
    }

    fn count(&mut self, outcome: DialOutcome) {
        if std::mem::replace(&mut self.dial, Dial::Counted) != Dial::Counted {
            self.pool.status.metrics.dial(outcome);
        }
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        // No longer wanted before it could prove anything; a dial that was broken off has no outcome.
        if self.dial == Dial::Connected {
            self.count(DialOutcome::Ok);
        }
        let mut endpoints = self.pool.endpoints();
        endpoints.disconnected(&self.endpoint, self.alive.is_some());
        if !endpoints.is_live(&self.endpoint) {
            self.pool.with_endpoint_metrics(&self.endpoint, |metrics| metrics.up.set(0));
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut alive = self.0.alive.lock().unwrap_or_else(PoisonError::into_inner);
        *alive = alive.saturating_sub(1);
        if *alive == 0 {
            let reason = self.0.last_trouble.load();
            self.0.status.set_alive(false, &reason);
            tracing::warn!(upstream = self.0.name, "upstream down: {reason}");
        }
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.dialling = queue.dialling.saturating_sub(1);
    }
}
