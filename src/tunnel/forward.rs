//! One forward: where clients of a service arrive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::client::Client;
use super::hub::Hub;
use crate::clock;
use crate::config;
use crate::listener::client::Socket;
use crate::listener::{Arrivals, Arrived};
use crate::metrics::RefuseReason;
use crate::net::proxy_protocol::{self, Parsed};

/// A PROXY protocol header must be there within this; its specification asks for 3 s at least.
const HEADER_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at a header that is not whole yet.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// See the module.
pub struct Forward {
    hub: Arc<Hub>,
    service: Arc<str>,
    /// Networks whose clients begin with a PROXY protocol header; empty: nobody does.
    trusted: Vec<ipnet::IpNet>,
}

impl Forward {
    pub fn new(hub: &Arc<Hub>, forward: &config::Forward) -> Arc<Self> {
        Arc::new(Self {
            hub: hub.clone(),
            service: forward.service.as_str().into(),
            trusted: forward.accept_proxy_protocol.clone(),
        })
    }

    /// A client whose first bytes are a header: reads exactly that, and lets it in. It has its place from the start, or
    /// those who say nothing would be without number.
    async fn introduce(self: Arc<Self>, arrived: Arrived) {
        let Arrived { socket, peer, local } = arrived;
        let accepted = clock::now();
        let Some((Socket::Tcp(socket), admitted)) = self.hub.present.admit(socket, 1) else { return };
        let Ok(mut stream) = TcpStream::from_std(socket) else { return };
        let header = match timeout(HEADER_WITHIN, header(&mut stream)).await {
            Ok(Ok(header)) => header,
            Ok(Err(why)) => return self.turn_away(peer, &why),
            Err(_) => return self.turn_away(peer, "no whole PROXY protocol header within 5s"),
        };
        let Ok(socket) = stream.into_std() else { return };
        let (socket, service) = (Socket::Tcp(socket), self.service.clone());
        let (peer, local) = (header.0.or(peer), header.1.or(local));
        let hops = header.2.map_or(0, |hops| hops.saturating_add(1));
        self.hub.enter(Client { socket, accepted, service, peer, local, hops, admitted });
    }

    fn turn_away(&self, peer: Option<SocketAddr>, why: &str) {
        self.hub.status.metrics.refuse(RefuseReason::Limit);
        tracing::debug!(upstream = self.hub.name, ?peer, "client refused: {why}");
    }
}

impl Arrivals for Forward {
    fn arrive(self: Arc<Self>, client: Arrived, _worker: usize) {
        if self.trusted.is_empty() {
            return self.hub.arrive(client, self.service.clone(), 0);
        }
        let is_of = |peer: SocketAddr| self.trusted.iter().any(|network| network.contains(&peer.ip().to_canonical()));
        if client.peer.is_some_and(is_of) {
            tokio::spawn(self.introduce(client));
        } else {
            self.hub.status.metrics.connections_total.inc();
            self.turn_away(client.peer, "not a trusted proxy");
            client.socket.refuse();
        }
    }

    fn settings(&self) -> watch::Receiver<Arc<config::Upstream>> {
        self.hub.settings.subscribe()
    }

    fn accept_failed(&self) {
        self.hub.process.metrics.accept_errors.inc();
    }

    fn preferred_worker(&self) -> Option<usize> {
        self.hub.preferred_worker()
    }
}

type Header = (Option<SocketAddr>, Option<SocketAddr>, Option<u8>);

/// Reads one header and not a byte more.
async fn header(stream: &mut TcpStream) -> Result<Header, String> {
    let mut bytes = vec![0; proxy_protocol::LONGEST];
    let mut seen = 0;
    loop {
        let count = stream.peek(&mut bytes).await.map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("closed before its PROXY protocol header".to_owned());
        }
        match proxy_protocol::parse(&bytes[..count]) {
            Err(malformed) => return Err(malformed.to_string()),
            Ok(Parsed::Header { source, destination, length, hops }) => {
                stream.read_exact(&mut bytes[..length]).await.map_err(|error| error.to_string())?;
                return Ok((source, destination, hops));
            }
            // The kernel says only that there is something, not that there is more.
            Ok(Parsed::NeedMore) if seen == count => sleep(LOOK_AGAIN).await,
            Ok(Parsed::NeedMore) => seen = count,
        }
    }
}
