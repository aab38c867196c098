//! The processes: a sidecar with its links, the gateways, the services behind them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::counts::Counts;
use super::streams::Users;
use crate::config::{self, Address, Beats, Endpoint, Service};
use crate::gateway::{Files, Gateway};
use crate::http::example;
use crate::link::mailbox::order;
use crate::link::resolve::Resolver;
use crate::listener::Arrived;
use crate::listener::client::Socket;
use crate::metrics::{CloseReason, Label};
use crate::net::memory::{self, USERS, as_process, net};
use crate::net::transport::Transport;
use crate::session::hello::Token;
use crate::surroundings::Surroundings;
use crate::tunnel::hub::Hub;
use crate::tunnel::keeper::Keeper;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
const PORT: u16 = 7443;
const TOKEN: &[u8] = b"a token of more than sixteen bytes";

/// A run's own numbers.
pub struct Profile {
    pub storm: Duration,
    /// Nothing that ends a session or a stream happens.
    pub gentle: bool,
    pub gateways: usize,
    pub links: usize,
    pub clients: usize,
    /// Bytes of a client at most.
    pub most: usize,
    /// The sidecar is killed at the end, and does not leave in order.
    pub dies: bool,
}

impl Profile {
    pub fn random(random: &mut Rng) -> Self {
        let gentle = random.u8(0..5) < 2;
        let most = [4, 12, 24][random.usize(0..3)];
        let clients = random.usize(1..=most);
        Self {
            storm: SECOND * random.u32(3..20),
            gentle,
            gateways: random.usize(1..=3),
            links: random.usize(1..=4),
            clients,
            most: [1000, 8000, 60_000, 300_000][random.usize(0..4)] / clients.div_ceil(8),
            dies: random.u8(0..8) == 0,
        }
    }
}

/// Each gateway is reached at two.
pub fn gateway_addresses(index: usize) -> [SocketAddr; 2] {
    [0, 1].map(|which| ([10, 0, which, 1 + index as u8], PORT).into())
}

/// From now on the name of that endpoint leads to that address of that gateway.
pub fn name(endpoint: usize, gateway: usize, which: usize) {
    let address = gateway_addresses(gateway)[which].ip();
    net(|network| network.names.insert(host(endpoint), address));
}

fn host(endpoint: usize) -> String {
    format!("gateway-{endpoint}.test")
}

fn service_address() -> SocketAddr {
    ([127, 0, 0, 1], 9000).into()
}

/// One gateway: where it stands, and the process that runs there.
pub struct Far {
    pub index: usize,
    pub settings: config::Gateway,
    pub process: usize,
    pub gateway: Option<Gateway>,
    drain: watch::Sender<Duration>,
}

impl Far {
    pub fn new(index: usize, random: &mut Rng, gentle: bool) -> Self {
        let mut settings = config::Gateway { name: format!("gateway-{index}"), ..example::gateway() };
        let service = |address| Service { address: Address::Ip(address), allow: None, proxy_protocol: false };
        settings.services.insert("data".to_owned(), service(service_address()));
        settings.services.insert("out of reach".to_owned(), service(([127, 0, 0, 1], 9).into()));
        settings.resume.buffer = [256 << 10, 1 << 20, 16 << 20][random.usize(0..3)];
        if !gentle {
            settings.resume.deadline = SECOND * random.u32(2..30);
        }
        settings.heartbeat = random.bool().then(|| beats(random));
        Self { index, settings, process: USERS, gateway: None, drain: watch::Sender::new(2 * SECOND) }
    }

    /// A new process takes its place.
    pub fn start(&mut self) {
        let addresses = gateway_addresses(self.index);
        self.process = net(|network| {
            let process = network.process();
            addresses.iter().for_each(|address| network.listen(process, *address));
            process
        });
        let settings = Arc::new(self.settings.clone());
        let (files, status, resolver) = (Files::of_token(TOKEN), example::status(), Resolver::default());
        let workers = [Handle::current()];
        as_process(self.process, || {
            let drain = self.drain.subscribe();
            let around = Surroundings { status: &status, resolver: &resolver, workers: &workers, drain };
            let gateway = Gateway::start(&settings, files, around).expect("random bytes");
            addresses.iter().for_each(|address| gateway.serve_in_memory(*address));
            self.gateway = Some(gateway);
        });
    }

    /// As SIGKILL does. What the process leaves behind is cleared away.
    pub fn kill(&mut self) {
        drop(net(|network| network.kill(self.process)));
        if let Some(gateway) = self.gateway.take() {
            gateway.cut();
        }
    }

    pub fn change(&mut self, change: impl FnOnce(&mut config::Gateway)) {
        change(&mut self.settings);
        if let Some(gateway) = &self.gateway {
            gateway.apply(&Arc::new(self.settings.clone()), None);
        }
    }
}

/// The sidecar.
pub struct Near {
    pub hub: Arc<Hub>,
    pub process: usize,
    pub settings: config::Upstream,
    pub keeper: JoinHandle<()>,
    pub stop: CancellationToken,
    _drain: watch::Sender<Duration>,
}

impl Near {
    pub fn start(profile: &Profile, random: &mut Rng) -> Self {
        let mut settings = example::tunnel("site");
        settings.endpoints = (0..profile.gateways).map(endpoint).collect();
        settings.balance = if random.bool() { config::Balance::Priority } else { config::Balance::RoundRobin };
        settings.pool.size = profile.links;
        settings.heartbeat = heartbeat(random, settings.heartbeat);
        settings.limits.wait = SECOND * random.u32(1..90);
        settings.retry.initial = MS * random.u32(100..500);
        settings.retry.max = SECOND * random.u32(2..6);
        settings.retry.stable_after = SECOND * random.u32(1..10);
        if random.u8(0..4) == 0 {
            settings.pool.max_age = Some(SECOND * random.u32(2..10));
        }
        if !profile.gentle {
            settings.retry.attempts = (random.u8(0..4) == 0).then(|| random.u32(1..4));
            settings.limits.idle_timeout = (random.u8(0..3) == 0).then(|| SECOND * random.u32(2..8));
            settings.limits.waiting = random.usize(1..20);
        }
        if let Some(tunnel) = &mut settings.tunnel {
            tunnel.resume.buffer = [256 << 10, 1 << 20, 16 << 20][random.usize(0..3)];
            tunnel.resume.deadline = if profile.gentle { 120 * SECOND } else { SECOND * random.u32(2..30) };
            tunnel.windows = (16 << 10) * settings.limits.connections as u64 + [0, 1 << 20][random.usize(0..2)];
        }
        let process = net(|network| network.process());
        let (status, workers) = (example::status(), [Handle::current()]);
        let hub = Hub::new(&Arc::new(settings.clone()), &status, &Resolver::default(), &workers);
        let drain = watch::Sender::new(2 * SECOND);
        let stop = CancellationToken::new();
        let keeper = Keeper::new(hub.clone(), drain.subscribe());
        let near = Self { hub, process, settings, stop: stop.clone(), _drain: drain, keeper: tokio::spawn(async {}) };
        near.give_token(true);
        Self { keeper: tokio::spawn(memory::of(process, keeper.run(stop))), ..near }
    }

    pub fn give_token(&self, right: bool) {
        let token = Token::new(if right { TOKEN } else { b"a token that nobody else knows" }).expect("long enough");
        self.hub.credentials.token.store(Some(Arc::new(token)));
        self.hub.tell_all(if right { order::RETRY | order::MOVE } else { order::MOVE });
    }

    pub fn change(&mut self, change: impl FnOnce(&mut config::Upstream)) {
        change(&mut self.settings);
        self.hub.apply(&Arc::new(self.settings.clone()));
    }

    /// A client of a plan comes.
    pub fn client(&self, users: &Arc<Users>, plan: usize) {
        let what = &users.plans()[plan];
        let (client, ours) = net(|network| network.pair(USERS, self.process));
        let (peer, local) = (ours.peer_addr().ok(), ours.local_addr().ok());
        let arrived = Arrived { socket: Socket::Memory(ours), peer, local };
        let (hub, service, hops) = (self.hub.clone(), what.service.into(), what.hops);
        tokio::spawn(memory::of(self.process, async move { hub.arrive(arrived, service, hops) }));
        tokio::spawn(users.clone().client(plan, Transport::Memory(client)));
    }

    /// Connections carried to an end, by reason.
    pub fn closed(&self) -> Vec<(CloseReason, u64)> {
        let closed = &self.hub.status.metrics.closed;
        CloseReason::ALL.iter().map(|reason| (*reason, closed[reason.index()].get())).collect()
    }

    pub fn refused(&self) -> u64 {
        self.hub.status.metrics.refused.iter().map(|count| count.get()).sum()
    }

    /// Every link stands.
    pub fn is_whole(&self) -> bool {
        let slots = self.hub.slots();
        let staying = slots.iter().filter(|slot| slot.stays());
        let (mut open, mut all) = (0, 0);
        for slot in staying {
            all += 1;
            open += usize::from(slot.is_open());
        }
        open == all && all == self.settings.pool.size
    }

    /// Notes in which states the links are.
    pub fn look(&self, counts: &mut Counts) {
        for link in &*self.hub.status.links() {
            counts.one(format!("link {}", link.view().state.name()));
        }
        if self.hub.slots().iter().any(|slot| !slot.stays() && slot.is_open()) {
            counts.one("link yields, and still takes streams");
        }
    }
}

/// The service behind all gateways.
pub fn serve(users: &Arc<Users>) {
    net(|network| network.listen(USERS, service_address()));
    let users = users.clone();
    tokio::spawn(async move {
        while let Some(socket) = memory::accept(service_address()).await {
            tokio::spawn(users.clone().service(Transport::Memory(socket)));
        }
    });
}

pub fn endpoint(index: usize) -> Endpoint {
    let host = host(index);
    Endpoint { name: format!("{host}:{PORT}"), address: Address::Host { host, port: PORT }, priority: 1 + index as u32 }
}

pub fn beats(random: &mut Rng) -> Beats {
    Beats { interval: MS * random.u32(300..5000), timeout: MS * random.u32(200..2000), misses: random.u32(2..5) }
}

pub fn heartbeat(random: &mut Rng, settings: config::Heartbeat) -> config::Heartbeat {
    let Beats { interval, timeout, misses } = beats(random);
    config::Heartbeat { interval, timeout, misses, ..settings }
}
