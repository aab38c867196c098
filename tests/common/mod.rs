//! What the tests share: an everlink inside the test process, plain servers, and waiting for conditions.
#![allow(dead_code)] // each test binary uses its own part

pub mod program;
pub mod server;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use everlink::config::{
    Address, Balance, Beat, Endpoint, Expect, Heartbeat, InUse, Jitter, Limits, ListenAddress, Pool, Retry, Upstream,
};
use everlink::link::resolve::Resolver;
use everlink::listener::Listeners;
use everlink::metrics::Metrics;
use everlink::status::{Status, UpstreamStatus};
use everlink::upstream;
use everlink::workers::{Layout, Workers};
use tokio::sync::watch;

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

/// An upstream named `test` with one endpoint and no beats, everything else quick enough for a test.
pub fn upstream(endpoint: SocketAddr) -> Upstream {
    Upstream {
        name: "test".into(),
        listen: vec![ListenAddress::Tcp(local())],
        endpoints: vec![Endpoint { name: endpoint.to_string(), address: Address::Ip(endpoint), priority: 1 }],
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
    }
}

/// The tutorial's beats: "ping" is answered by "pong".
pub fn ping_pong() -> Beat {
    Beat::Exchange { send: b"ping".to_vec(), expect: Expect::Prefix(b"pong".to_vec()) }
}

pub fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A running everlink with one upstream.
pub struct Everlink {
    pub status: Arc<Status>,
    pub upstream: Arc<UpstreamStatus>,
    running: Option<upstream::Upstream>,
    listeners: Listeners,
    workers: Option<Workers>,
    _drain: watch::Sender<Duration>,
}

impl Everlink {
    pub fn start(settings: Upstream) -> Self {
        Self::start_on(settings, Layout::Separate(2))
    }

    pub fn start_on(settings: Upstream, layout: Layout) -> Self {
        let status = Status::new(Metrics::new().expect("metrics"), layout.runtimes());
        let workers = Workers::start(layout, &status).expect("workers");
        let (drain, drained) = watch::channel(Duration::from_secs(5));
        let settings = Arc::new(settings);
        let running =
            upstream::Upstream::start(&settings, &status, &Resolver::default(), workers.handles(), None, drained);
        let mut listeners = Listeners::default();
        let wanted: Vec<_> = settings.listen.iter().map(|a| (a.clone(), settings.name.clone())).collect();
        let prepared = listeners.prepare(&wanted, workers.handles()).unwrap_or_else(|e| panic!("bound: {}", e[0]));
        let pools = HashMap::from([(settings.name.clone(), running.pool.clone())]);
        listeners.commit(prepared, &pools, workers.handles());
        let upstream = status.upstreams()[&settings.name].clone();
        Self { status, upstream, running: Some(running), listeners, workers: Some(workers), _drain: drain }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.upstream.listening.load()[0].parse().expect("an address")
    }

    pub fn edit(&self, change: impl FnOnce(&mut Upstream)) {
        let running = self.running.as_ref().expect("running");
        let mut settings = Upstream::clone(&running.pool.current());
        change(&mut settings);
        running.pool.apply(&Arc::new(settings));
    }

    pub fn retry(&self) {
        self.running.as_ref().expect("running").retry();
    }

    /// Links in this state.
    pub fn links(&self, state: everlink::metrics::LinkState) -> i64 {
        use everlink::metrics::Label;
        self.upstream.metrics.links[state.index()].get()
    }

    pub async fn until_up(&self, links: i64) {
        eventually("links up", || self.links(everlink::metrics::LinkState::Up) == links).await;
    }

    pub fn losses(&self, reason: everlink::metrics::LossReason) -> u64 {
        use everlink::metrics::Label;
        self.upstream.metrics.losses[reason.index()].get()
    }

    pub fn closed(&self, reason: everlink::metrics::CloseReason) -> u64 {
        use everlink::metrics::Label;
        self.upstream.metrics.closed[reason.index()].get()
    }

    pub fn refused(&self, reason: everlink::metrics::RefuseReason) -> u64 {
        use everlink::metrics::Label;
        self.upstream.metrics.refused[reason.index()].get()
    }

    pub fn dials(&self, outcome: everlink::metrics::DialOutcome) -> u64 {
        use everlink::metrics::Label;
        self.upstream.metrics.dials[outcome.index()].get()
    }

    /// Removes the upstream as a reload would.
    pub fn remove(&mut self) {
        self.listeners.close();
        if let Some(running) = self.running.take() {
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
