//! A gateway with real sockets, and a dialer written by hand: it knows the protocol by its pure parts alone.

mod claims;
mod dialer;
mod ends;
mod hellos;
mod streams;
mod tls;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener as Listener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::shared::COME_BACK;
use super::*;
use crate::config::{Address, Beats, Service};
use crate::http::example;
use crate::link::resolve::Resolver;
use crate::metrics::{Label, Refusal};
use crate::net::renewal::News;
use crate::status::{GatewayStatus, Status};
use dialer::{Dialer, TOKEN};

/// Nothing a test waits for takes longer, even on a machine under load.
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway on a port of its own, with an echo service.
struct Stage {
    gateway: Gateway,
    address: SocketAddr,
    /// Where the service `echo` really is.
    echo: SocketAddr,
    settings: config::Gateway,
    status: Arc<Status>,
    files: tempfile::TempDir,
    drain: watch::Sender<Duration>,
    workers: Vec<Handle>,
}

impl Stage {
    async fn set() -> Self {
        Self::set_with(|_| {}).await
    }

    /// With a token, the service `echo`, and whatever `change` makes of the rest.
    async fn set_with(change: impl FnOnce(&mut config::Gateway)) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let token = files.path().join("token");
        std::fs::write(&token, TOKEN).expect("written");
        let echo = echo().await;
        let mut settings = config::Gateway { token_file: Some(token), ..example::gateway() };
        settings.services.insert("echo".to_owned(), service(echo));
        change(&mut settings);
        let status = example::status();
        let drain = watch::Sender::new(Duration::from_secs(30));
        let workers = vec![Handle::current()];
        let (gateway, address) = started(&settings, &status, &Resolver::default(), &drain, &workers);
        Self { gateway, address, echo, settings, status, files, drain, workers }
    }

    /// Another gateway in its place, by the settings as they stand.
    fn restart_with(&mut self, resolver: &Resolver) {
        (self.gateway, self.address) = started(&self.settings, &self.status, resolver, &self.drain, &self.workers);
    }

    fn change(&mut self, change: impl FnOnce(&mut config::Gateway)) {
        change(&mut self.settings);
        self.gateway.apply(&Arc::new(self.settings.clone()), None);
    }

    fn dialer(&self) -> Dialer {
        Dialer::new(self.address)
    }

    fn shown(&self) -> Arc<GatewayStatus> {
        self.status.gateway().expect("it runs")
    }

    fn refused(&self, reason: Refusal) -> u64 {
        self.gateway.shared.status.metrics.refusals[reason.index()].get()
    }

    /// Figures of the gateway that are not 0, without `everlink_gateway_`: those whose line has this in it.
    fn told(&self, what: &str) -> Vec<String> {
        let families = self.gateway.shared.process.metrics.gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families).expect("written");
        let lines = text.lines().filter_map(|line| line.strip_prefix("everlink_gateway_"));
        lines.filter(|line| line.contains(what) && !line.ends_with(" 0")).map(str::to_owned).collect()
    }

    fn violations(&self, reason: &str) -> u64 {
        let metrics = &self.gateway.shared.status.metrics;
        metrics.violations.figures().find(|(name, _)| *name == reason).map_or(0, |(_, count)| count)
    }

    /// Nothing is left of any dialer.
    async fn is_empty(&self) {
        let shared = &self.gateway.shared;
        eventually("everything is freed", || {
            shared.sessions.all().is_empty()
                && shared.budget.used() == 0
                && shared.status.metrics.pending.get() == 0
                && shared.status.metrics.sessions.get() == 0
                && shared.status.sessions().is_empty()
        })
        .await;
    }
}

fn started(
    settings: &config::Gateway,
    status: &Arc<Status>,
    resolver: &Resolver,
    drain: &watch::Sender<Duration>,
    workers: &[Handle],
) -> (Gateway, SocketAddr) {
    let (files, settings) = (Files::read(settings).expect("fit"), Arc::new(settings.clone()));
    let around = Surroundings { status, resolver, workers, drain: drain.subscribe() };
    let gateway = Gateway::start(&settings, files, around).expect("random bytes");
    let listener = crate::net::socket::bind_listener(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = listener.local_addr().expect("bound");
    gateway.serve(vec![listener]);
    (gateway, address)
}

fn service(address: SocketAddr) -> Service {
    Service { address: Address::Ip(address), allow: None, proxy_protocol: false }
}

/// Quick enough to be waited for.
fn quick_beats() -> Beats {
    Beats { interval: Duration::from_millis(200), timeout: Duration::from_millis(50), misses: 2 }
}

async fn echo() -> SocketAddr {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
