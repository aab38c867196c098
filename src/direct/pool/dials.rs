//! Dials, and what a connection occupies from its dial on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Alive, Pool};
use crate::config::Endpoint;
use crate::link::dial::{self, DialError, DialOptions};
use crate::link::drill;
use crate::metrics::DialOutcome;
use crate::net::descriptors::{Descriptors, Held};
use crate::net::transport::Transport;

/// A connection made, and what it occupies.
pub struct Opened {
    pub transport: Transport,
    pub endpoint: Endpoint,
    /// The link it was dialled for; 0: none.
    pub link: u64,
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
    pub(super) endpoint: Endpoint,
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

/// A dial under way.
pub(super) struct Dialling<'a>(pub(super) &'a Pool);

impl Pool {
    /// A dial, counted among those under way: for this link of the pool.
    pub async fn dial(self: Arc<Self>, only: Option<Endpoint>, link: u64) -> Result<Opened, DialError> {
        self.queue().dialling += 1;
        let _counted = Dialling(&self);
        match only {
            Some(endpoint) => self.open_at(endpoint, link).await,
            None => self.open(link).await,
        }
    }

    /// Tries the endpoints in order; the error is the last one's. `link`: 0 if it is for none.
    pub(super) async fn open(self: &Arc<Self>, link: u64) -> Result<Opened, DialError> {
        let order = self.endpoints().order();
        let mut last = None;
        for endpoint in order {
            match self.open_at(endpoint, link).await {
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

    async fn open_at(self: &Arc<Self>, endpoint: Endpoint, link: u64) -> Result<Opened, DialError> {
        let settings = self.current();
        let mut options = DialOptions::new(&settings, self.tls.load_full());
        let mut tie = self.tie(&endpoint);
        let started = Instant::now();
        let dialled = async {
            if let Some(rehearsal) = self.status.rehearsal_of(link, &endpoint.name) {
                options.connect_timeout = drill::pass(&rehearsal, &endpoint.name, options.connect_timeout).await?;
            }
            dial::dial(&endpoint, &options, &self.resolver).await
        };
        match dialled.await {
            Ok(dialled) => {
                tie.dial = Dial::Connected;
                self.status.metrics.dial_duration.observe(started.elapsed().as_secs_f64());
                Ok(Opened {
                    tie,
                    endpoint,
                    link,
                    transport: dialled.transport,
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

    /// Dials under way count as connections: many at once would all go to the same endpoint otherwise.
    fn tie(self: &Arc<Self>, endpoint: &Endpoint) -> Tie {
        self.endpoints().dialled(endpoint);
        let (pool, endpoint) = (self.clone(), endpoint.clone());
        Tie { pool, endpoint, alive: None, dial: Dial::UnderWay, _descriptor: Descriptors::shared().take(1) }
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
        self.pool.endpoint_series.with(&self.endpoint.name, |metrics| metrics.up.set(1));
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
            self.pool.endpoint_series.with(&self.endpoint.name, |metrics| metrics.dialled(outcome));
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
            self.pool.endpoint_series.with(&self.endpoint.name, |metrics| metrics.up.set(0));
        }
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.dialling = queue.dialling.saturating_sub(1);
    }
}
