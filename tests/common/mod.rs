//! What the tests share: an everlink inside the test process, plain servers, and waiting for conditions.
#![allow(dead_code)] // each test binary uses its own part

#[path = "../../src/port.rs"]
pub mod port;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod server;
pub mod sockets;

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use everlink::config::{
    Address, Balance, Beat, Endpoint, Expect, Heartbeat, InUse, Jitter, Limits, ListenAddress, Pool, Retry, Upstream,
};
use everlink::direct::keeper::Direct;
use everlink::link::resolve::Resolver;
use everlink::listener::{Arrivals, BindError, Listeners, Owner, Wanted};
use everlink::metrics::{CloseReason, DialOutcome, Label, LinkState, LossReason, Metrics, RefuseReason};
use everlink::net::tls::ClientTls;
use everlink::status::{Status, UpstreamStatus};
use everlink::surroundings::Surroundings;
use everlink::workers::{Layout, Workers};
use tokio::runtime::Handle;
use tokio::sync::watch;

pub use port::nobody;

/// Nothing a test waits for takes longer than this, even on a machine under load.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds; says `what` if it never does.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Holds that `invariant` is true all the time until `condition` is.
pub async fn always_until(what: &str, mut invariant: impl FnMut() -> bool, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(invariant(), "did not hold: {what}");
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: the end of \"{what}\"");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// An upstream named `test` with one endpoint and no beats, everything else quick enough for a test.
pub fn upstream(endpoint: SocketAddr) -> Upstream {
    Upstream {
        name: "test".into(),
        listen: vec![ListenAddress::Tcp(local())],
        endpoints: vec![at(endpoint, 1)],
        balance: Balance::Priority,
        required: false,
        heartbeat: Heartbeat {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(3),
            misses: 3,
            beat: Beat::Kernel,
            in_use: InUse::Off,
        },
        retry: Retry {
            initial: Duration::from_millis(20),
            max: Duration::from_millis(200),
            multiplier: 2.0,
            jitter: Jitter::Full,
            attempts: None,
            stable_after: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
        },
        pool: Pool { size: 2, max_age: None },
        limits: Limits { connections: 1024, wait: Duration::from_secs(5), waiting: 256, idle_timeout: None },
        tls: None,
        tunnel: None,
    }
}

/// The same under another name.
pub fn named(name: &str, endpoint: SocketAddr) -> Upstream {
    Upstream { name: name.into(), ..upstream(endpoint) }
}

/// An endpoint with a priority.
pub fn at(address: SocketAddr, priority: u32) -> Endpoint {
    Endpoint { name: address.to_string(), address: Address::Ip(address), priority }
}

/// The tutorial's beats: "ping" is answered by "pong".
pub fn ping_pong() -> Beat {
    Beat::Exchange { send: b"ping".to_vec(), expect: Expect::Prefix(b"pong".to_vec()) }
}

/// The same in lines: answers are told apart however they arrive.
pub fn ping_lines() -> Beat {
    Beat::Exchange { send: b"ping\n".to_vec(), expect: Expect::Prefix(b"pong".to_vec()) }
}

pub fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A client of an everlink.
pub fn connect_to(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// A client whose kernel takes no more than some KiB while nobody reads.
pub fn narrow_client(address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(8192).expect("set");
    socket.connect(&address.into()).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.into()
}

/// What an upstream's series say.
pub trait Counts {
    fn links_in(&self, state: LinkState) -> i64;
    fn losses(&self, reason: LossReason) -> u64;
    fn closed(&self, reason: CloseReason) -> u64;
    fn refused(&self, reason: RefuseReason) -> u64;
    fn dials(&self, outcome: DialOutcome) -> u64;
    fn is_up(&self) -> bool;
    /// Events of a kind that are still remembered.
    fn events_of(&self, kind: &str) -> usize;
}

impl Counts for UpstreamStatus {
    fn links_in(&self, state: LinkState) -> i64 {
        self.metrics.links[state.index()].get()
    }

    fn losses(&self, reason: LossReason) -> u64 {
        self.metrics.losses[reason.index()].get()
    }

    fn closed(&self, reason: CloseReason) -> u64 {
        self.metrics.closed[reason.index()].get()
    }

    fn refused(&self, reason: RefuseReason) -> u64 {
        self.metrics.refused[reason.index()].get()
    }

    fn dials(&self, outcome: DialOutcome) -> u64 {
        self.metrics.dials[outcome.index()].get()
    }

    fn is_up(&self) -> bool {
        self.metrics.up.get() == 1
    }

    fn events_of(&self, kind: &str) -> usize {
        self.events().iter().filter(|event| event.kind == kind).count()
    }
}

/// A running everlink.
pub struct Everlink {
    pub status: Arc<Status>,
    /// The first upstream.
    pub upstream: Arc<UpstreamStatus>,
    settings: Vec<Arc<Upstream>>,
    running: BTreeMap<String, Direct>,
    listeners: Listeners,
    workers: Option<Workers>,
    drain: watch::Sender<Duration>,
}

impl Everlink {
    pub fn start(settings: Upstream) -> Self {
        Self::start_on(settings, Layout::Separate(2))
    }

    pub fn start_on(settings: Upstream, layout: Layout) -> Self {
        Self::start_all(vec![settings], layout)
    }

    pub fn start_all(all: Vec<Upstream>, layout: Layout) -> Self {
        let status = Status::new(Metrics::new().expect("metrics"), layout.runtimes());
        let workers = Workers::start(layout, &status).expect("workers");
        let first = Arc::new(all[0].clone());
        let mut made = Self {
            // Until the first change below puts the true one there.
            upstream: Status::new(Metrics::new().expect("metrics"), 0).add_upstream(&first),
            status,
            settings: Vec::new(),
            running: BTreeMap::new(),
            listeners: Listeners::default(),
            workers: Some(workers),
            drain: watch::Sender::new(Duration::from_secs(5)),
        };
        made.change(all).unwrap_or_else(|errors| panic!("bound: {}", errors[0]));
        made.upstream = made.of(&first.name);
        made
    }

    /// Changes to these upstreams as a reload would: all of it or nothing.
    pub fn change(&mut self, all: Vec<Upstream>) -> Result<(), Vec<BindError>> {
        let all: Vec<_> = all.into_iter().map(Arc::new).collect();
        let wanted: Vec<_> = all.iter().flat_map(|settings| Wanted::of(settings)).collect();
        let workers = self.workers.as_ref().expect("running");
        let prepared = self.listeners.prepare(&wanted, workers.handles())?;
        for settings in &all {
            if let Some(running) = self.running.get(&settings.name) {
                if running.pool.current() != *settings {
                    running.pool.apply(settings);
                }
                continue;
            }
            let tls = settings.tls.as_ref().map(|tls| Arc::new(ClientTls::new(tls).expect("usable TLS files")));
            let drain = self.drain.subscribe();
            let (status, resolver, workers) = (&self.status, &Resolver::default(), workers.handles());
            let started = Direct::start(settings, tls, Surroundings { status, resolver, workers, drain });
            self.running.insert(settings.name.clone(), started);
        }
        let owner = |name: &String| Owner { upstream: name.clone(), forward: 0 };
        let targets: HashMap<_, Arc<dyn Arrivals>> = all
            .iter()
            .map(|settings| (owner(&settings.name), self.running[&settings.name].pool.clone() as Arc<dyn Arrivals>))
            .collect();
        let mut listening = self.listeners.commit(prepared, &targets, workers.handles());
        for settings in &all {
            let addresses = listening.remove(&owner(&settings.name)).unwrap_or_default();
            self.running[&settings.name].pool.status.listens(vec![addresses]);
        }
        let gone: Vec<_> = self.running.keys().filter(|name| !targets.contains_key(&owner(name))).cloned().collect();
        for name in gone {
            if let Some(running) = self.running.remove(&name) {
                running.remove();
            }
        }
        self.settings = all;
        Ok(())
    }

    /// The upstreams as configured now.
    pub fn settings(&self) -> Vec<Upstream> {
        self.settings.iter().map(|settings| Upstream::clone(settings)).collect()
    }

    /// Edits the first upstream.
    pub fn edit(&mut self, change: impl FnOnce(&mut Upstream)) {
        let mut all = self.settings();
        change(&mut all[0]);
        self.change(all).unwrap_or_else(|errors| panic!("bound: {}", errors[0]));
    }

    /// How long the clients of a removed upstream may stay.
    pub fn drain_within(&self, time: Duration) {
        self.drain.send_replace(time);
    }

    pub fn of(&self, upstream: &str) -> Arc<UpstreamStatus> {
        self.status.upstreams()[upstream].clone()
    }

    /// Where clients of the first upstream connect.
    pub fn address(&self) -> SocketAddr {
        self.address_of(&self.upstream.name)
    }

    pub fn address_of(&self, upstream: &str) -> SocketAddr {
        let listening = self.of(upstream).listening.load_full();
        listening.iter().find_map(|address| address.parse().ok()).expect("a TCP listener")
    }

    pub fn connect(&self) -> TcpStream {
        connect_to(self.address())
    }

    /// Clients of the first upstream: accepted and not yet gone.
    pub fn clients(&self) -> usize {
        self.running[&self.upstream.name].pool.present.count()
    }

    pub fn retry(&self) {
        self.running[&self.upstream.name].retry();
    }

    pub fn workers(&self) -> &[Handle] {
        self.workers.as_ref().expect("running").handles()
    }

    /// Tasks on the workers.
    pub fn tasks(&self) -> usize {
        self.workers().iter().map(|worker| worker.metrics().num_alive_tasks()).sum()
    }

    /// Links of the first upstream in this state.
    pub fn links(&self, state: LinkState) -> i64 {
        self.upstream.links_in(state)
    }

    /// Until so many links are up, and with them the upstream.
    pub async fn until_up(&self, links: i64) {
        eventually("links up", || self.links(LinkState::Up) == links && self.is_up()).await;
    }

    pub fn losses(&self, reason: LossReason) -> u64 {
        self.upstream.losses(reason)
    }

    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.upstream.closed(reason)
    }

    pub fn refused(&self, reason: RefuseReason) -> u64 {
        self.upstream.refused(reason)
    }

    pub fn dials(&self, outcome: DialOutcome) -> u64 {
        self.upstream.dials(outcome)
    }

    pub fn is_up(&self) -> bool {
        self.upstream.is_up()
    }

    /// 1 while a link to the endpoint is up or in use.
    pub fn endpoint_up(&self, endpoint: SocketAddr) -> i64 {
        self.status.metrics.endpoint(&self.upstream.name, &endpoint.to_string()).up.get()
    }

    /// Removes every upstream as a reload would.
    pub fn remove(&mut self) {
        self.listeners.close();
        for (_, running) in std::mem::take(&mut self.running) {
            running.remove();
        }
    }
}

impl Drop for Everlink {
    fn drop(&mut self) {
        self.remove();
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
    }
}
