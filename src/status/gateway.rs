//! What the gateway shows of itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::session::SessionFigures;
use crate::config;
use crate::metrics::GatewayMetrics;

/// The gateway of this process.
pub struct GatewayStatus {
    pub settings: ArcSwap<config::Gateway>,
    pub metrics: Arc<GatewayMetrics>,
    /// Addresses really bound, as the kernel tells them.
    pub listening: ArcSwap<Vec<String>>,
    /// It takes no new session and no new stream any more.
    pub draining: AtomicBool,
    sessions: ArcSwap<Vec<Arc<GatewaySession>>>,
}

/// One session at the gateway.
pub struct GatewaySession {
    pub figures: SessionFigures,
    /// The name in the dialer's certificate; `None`: a token alone proves it.
    pub identity: Option<String>,
    connection: ArcSwap<Connection>,
}

/// Where a session's connection comes from, or came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub peer: Option<SocketAddr>,
    /// `false`: the session waits to be resumed.
    pub connected: bool,
    /// The last change of that.
    pub since: SystemTime,
}

/// Shows a session until it is dropped.
pub struct Shown {
    gateway: Arc<GatewayStatus>,
    session: Arc<GatewaySession>,
}

impl GatewayStatus {
    pub(super) fn new(settings: &Arc<config::Gateway>, metrics: Arc<GatewayMetrics>) -> Self {
        Self {
            settings: ArcSwap::new(settings.clone()),
            metrics,
            listening: ArcSwap::default(),
            draining: AtomicBool::new(false),
            sessions: ArcSwap::default(),
        }
    }

    /// A new session, connected from `peer`.
    pub fn add_session(
        self: &Arc<Self>,
        figures: SessionFigures,
        identity: Option<&str>,
        peer: Option<SocketAddr>,
    ) -> Shown {
        let connection = Connection { peer, connected: true, since: SystemTime::now() };
        let session = Arc::new(GatewaySession {
            figures,
            identity: identity.map(str::to_owned),
            connection: ArcSwap::from_pointee(connection),
        });
        self.sessions.rcu(|sessions| sessions.iter().cloned().chain([session.clone()]).collect::<Vec<_>>());
        self.metrics.sessions.inc();
        Shown { gateway: self.clone(), session }
    }

    pub fn sessions(&self) -> Arc<Vec<Arc<GatewaySession>>> {
        self.sessions.load_full()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Streams of all sessions.
    pub fn streams(&self) -> u64 {
        self.sessions.load().iter().map(|session| session.figures.view().streams).sum()
    }

    /// Sessions that have no connection.
    fn waiting(&self) -> usize {
        self.sessions.load().iter().filter(|session| !session.connection().connected).count()
    }

    /// Brings the gauges up to now; called before each scrape.
    pub fn refresh(&self) {
        self.metrics.waiting.set(i64::try_from(self.waiting()).unwrap_or(i64::MAX));
        self.metrics.streams.set(i64::try_from(self.streams()).unwrap_or(i64::MAX));
    }
}

impl GatewaySession {
    pub fn connection(&self) -> Arc<Connection> {
        self.connection.load_full()
    }

    /// It goes on over a connection from `peer`.
    pub fn connected(&self, peer: Option<SocketAddr>) {
        self.connection.store(Arc::new(Connection { peer, connected: true, since: SystemTime::now() }));
    }

    /// It has no connection any more; where the last one came from is still shown.
    pub fn disconnected(&self) {
        let peer = self.connection.load().peer;
        self.connection.store(Arc::new(Connection { peer, connected: false, since: SystemTime::now() }));
    }
}

impl std::ops::Deref for Shown {
    type Target = GatewaySession;

    fn deref(&self) -> &GatewaySession {
        &self.session
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let stays = |session: &&Arc<GatewaySession>| !Arc::ptr_eq(session, &self.session);
        self.gateway.sessions.rcu(|sessions| sessions.iter().filter(stays).cloned().collect::<Vec<_>>());
        self.gateway.metrics.sessions.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::example;

    #[test]
    fn a_session_is_shown_and_counted_until_it_is_dropped() {
        let status = example::status();
        let gateway = status.add_gateway(&Arc::new(example::gateway()));
        let peer = Some(([10, 0, 0, 9], 40_000).into());
        let [one, other] = [1, 2].map(|n| gateway.add_session(SessionFigures::new(&[n; 16], 64), Some("edge"), peer));
        one.figures.set_streams(3);
        other.figures.set_streams(4);
        gateway.refresh();
        assert_eq!((gateway.metrics.sessions.get(), gateway.metrics.streams.get()), (2, 7));
        one.disconnected();
        gateway.refresh();
        assert_eq!(gateway.metrics.waiting.get(), 1);
        assert_eq!((one.connection().connected, one.connection().peer), (false, peer), "where it was is still known");
        drop(one);
        assert_eq!((gateway.metrics.sessions.get(), gateway.streams()), (1, 4));
        assert_eq!(gateway.sessions()[0].figures.view().id.to_string(), "02020202");
    }

    #[test]
    fn a_gateway_that_goes_takes_its_series_along_unless_another_has_come() {
        let status = example::status();
        let told = || status.metrics.gather().iter().any(|family| family.name() == "everlink_gateway_sessions");
        let settings = Arc::new(example::gateway());
        let (old, new) = (status.add_gateway(&settings), status.add_gateway(&settings));
        status.remove_gateway(&old);
        assert!(told() && status.gateway().is_some());
        status.remove_gateway(&new);
        assert!(!told() && status.gateway().is_none());
    }
}
