//! The near end with its links, clients and keeper, against a gateway in the same process.

mod clients;
mod links;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::keeper::Keeper;
use super::slot::Slot;
use crate::config::{self, Address, Endpoint, Service};
use crate::gateway::{self, Gateway};
use crate::http::example;
use crate::link::mailbox::order;
use crate::link::resolve::Resolver;
use crate::listener::Arrived;
use crate::listener::client::Socket;
use crate::metrics::{CloseReason, DialOutcome, Label, LinkState, LossReason, RefuseReason};
use crate::surroundings::Surroundings;

/// Nothing a test waits for takes longer, even on a machine under load.
const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN: &str = "a token of more than sixteen bytes";

/// An upstream in tunnel mode, a gateway, and an echo service behind it.
struct Stage {
    hub: Arc<Hub>,
    keeper: JoinHandle<()>,
    stop: CancellationToken,
    /// How long streams may stay once their link is to go.
    drain: watch::Sender<Duration>,
    gateway: Gateway,
    _files: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Self {
        Self::set_with(|_| {}, |_| {}).await
    }

    async fn set_with(
        of_gateway: impl FnOnce(&mut config::Gateway),
        of_upstream: impl FnOnce(&mut config::Upstream),
    ) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let token = files.path().join("token");
        std::fs::write(&token, TOKEN).expect("written");
        let status = example::status();
        let workers = [Handle::current()];
        let drain = watch::Sender::new(PATIENCE);

        let mut far = config::Gateway { token_file: Some(token.clone()), ..example::gateway() };
        let echo = Service { address: Address::Ip(echo().await), allow: None, proxy_protocol: false };
        far.services.insert("echo".to_owned(), echo);
        of_gateway(&mut far);
        let of_files = gateway::Files::read(&far).expect("fit");
        let (resolver, drained) = (Resolver::default(), drain.subscribe());
        let around = Surroundings { status: &status, resolver: &resolver, workers: &workers, drain: drained };
        let gateway = Gateway::start(&Arc::new(far), of_files, around).expect("random bytes");
        let listener = crate::net::socket::bind_listener(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = listener.local_addr().expect("bound");
        gateway.serve(vec![listener]);

        let mut settings = example::tunnel("site");
        settings.endpoints = vec![endpoint(address)];
        settings.pool.size = 1;
        of_upstream(&mut settings);
        let hub = Hub::new(&Arc::new(settings), &status, &Resolver::default(), &workers);
        hub.credentials.token.store(Some(Arc::new(super::token::read(&token).expect("fit"))));
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(Keeper::new(hub.clone(), drain.subscribe()).run(stop.clone()));
        Self { hub, keeper, stop, drain, gateway, _files: files }
    }

    /// With its link up.
    async fn up() -> Self {
        let stage = Self::set().await;
        stage.is_up().await;
        stage
    }

    async fn is_up(&self) {
        eventually("the link is up", || self.hub.slots().iter().any(|slot| slot.is_open())).await;
    }

    /// A link other than that stands.
    async fn has_another(&self, old: &Slot) {
        let another = || self.hub.slots().iter().any(|slot| slot.id != old.id && slot.is_open());
        eventually("another link stands", another).await;
    }

    /// The only link.
    fn slot(&self) -> Arc<Slot> {
        let slots = self.hub.slots();
        assert_eq!(slots.len(), 1);
        slots[0].clone()
    }

    fn change(&self, change: impl FnOnce(&mut config::Upstream)) {
        let mut settings = config::Upstream::clone(&self.hub.current());
        change(&mut settings);
        self.hub.apply(&Arc::new(settings));
    }

    /// A client of `echo` comes.
    async fn client(&self) -> TcpStream {
        let (client, arrived) = arrival().await;
        self.hub.arrive(arrived, "echo".into(), 0);
        client
    }

    /// A client whose bytes have come back.
    async fn carried(&self) -> TcpStream {
        let mut client = self.client().await;
        assert_eq!(say(&mut client, b"hello").await, b"hello");
        client
    }

    fn refused(&self, reason: RefuseReason) -> u64 {
        self.hub.status.metrics.refused[reason.index()].get()
    }

    fn closed(&self, reason: CloseReason) -> u64 {
        self.hub.status.metrics.closed[reason.index()].get()
    }

    /// The link of that place is over, and nothing of it counts as carried.
    async fn is_gone(&self, slot: &Slot) {
        let connections = &self.hub.status.metrics.connections;
        eventually("it is gone", || slot.streams.load(Ordering::Acquire) == 0 && connections.get() == 0).await;
    }

    /// Every client is gone, and every count says so.
    async fn is_quiet(&self) {
        eventually("nobody is left", || {
            self.hub.present.count() == 0
                && self.hub.streams() == 0
                && self.hub.status.metrics.connections.get() == 0
                && self.hub.status.metrics.waiting.get() == 0
        })
        .await;
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { name: address.to_string(), address: Address::Ip(address), priority: 1 }
}

/// A connection to a listener: the client's end, and what the listener would bring.
async fn arrival() -> (TcpStream, Arrived) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
    let (socket, peer) = listener.accept().await.expect("accepted");
    let local = socket.local_addr().ok();
    let socket = Socket::Tcp(socket.into_std().expect("taken"));
    (client, Arrived { socket, peer: Some(peer), local })
}

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn say(client: &mut TcpStream, what: &[u8]) -> Vec<u8> {
    client.write_all(what).await.expect("sent");
    let mut answer = vec![0; what.len()];
    tokio::time::timeout(PATIENCE, client.read_exact(&mut answer)).await.expect("in time").expect("answered");
    answer
}

/// The client reads an orderly end and nothing before it.
async fn ends(client: &mut TcpStream) {
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest)).await.expect("in time").expect("in order");
    assert!(rest.is_empty());
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
