//! Connections in use: a client joined to a connection, until either ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use super::dials::{Opened, Tie};
use super::{Client, Pool};
use crate::config::{Beat, InUse};
use crate::direct::carry::Carry;
use crate::direct::carry_lines;
use crate::direct::in_use::Origin;
use crate::direct::line::LineMode;
use crate::listener::present::Admitted;
use crate::metrics::{CloseReason, Label, LinkState, LossReason, UpstreamMetrics};
use crate::status::Event;

impl Pool {
    /// Joins a client to a connection. Must be called on the runtime the connection belongs to.
    pub fn carry(self: &Arc<Self>, client: Client, opened: Opened, banner: Vec<u8>) {
        let Client { socket, accepted, mut admitted } = client;
        // From here on the connection is there, and counts for itself.
        admitted.descriptors.give_back(1);
        let client = match socket.into_transport() {
            Ok(transport) => transport,
            Err(error) => {
                tracing::warn!(upstream = self.name, %error, "client lost: its socket cannot be registered");
                return;
            }
        };
        let by_line = self.line_mode();
        let origin = Origin::new(opened.link, &opened.endpoint.name);
        let registered = self.in_use.register(client.tcp_fd(), opened.transport.tcp_fd(), opened.sustained, origin);
        if !self.looked_after.swap(true, Ordering::AcqRel) {
            self.keeper.notify_one();
        }
        // A drill that began before this connection was registered has not found it.
        if let Some(rehearsal) = self.status.rehearsal_of(opened.link, &opened.endpoint.name) {
            registered.carried.rehearse(&rehearsal);
        }
        let Opened { transport: upstream, mut tie, .. } = opened;
        tie.prove();
        let metrics = &self.status.metrics;
        metrics.wait.observe(accepted.elapsed().as_secs_f64());
        metrics.connections.inc();
        metrics.links[LinkState::InUse.index()].inc();
        let carried =
            Carrying { pool: self.clone(), _admitted: admitted, tie, since: accepted, reason: CloseReason::Error };
        if let Some(mode) = by_line {
            let settings = self.settings.subscribe();
            tokio::spawn(carried.until(move |metrics| async move {
                carry_lines::carry(registered, (client, upstream), banner, mode, settings, &metrics).await
            }));
        } else {
            let carry = Carry::new(registered, client, upstream, banner);
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

/// A connection in use. Counted out when dropped, even by a panic of its task.
struct Carrying {
    pool: Arc<Pool>,
    _admitted: Admitted,
    tie: Tie,
    since: Instant,
    reason: CloseReason,
}

impl Carrying {
    async fn until<F: Future<Output = CloseReason>>(mut self, carry: impl FnOnce(Arc<UpstreamMetrics>) -> F) {
        let metrics = self.pool.status.metrics.clone();
        self.reason = carry(metrics).await;
    }

    /// A client has lost something, which neither it nor the server can explain. Of many at once a few are told.
    fn tell_of_death(&self) {
        let (pool, endpoint) = (&self.pool, &self.tie.endpoint.name);
        if !pool.may_tell(Instant::now()) {
            return;
        }
        let duration = self.since.elapsed();
        tracing::warn!(upstream = pool.name, endpoint, ?duration, "connection in use was dead: its client is reset");
        pool.status.record(Event {
            at: SystemTime::now(),
            kind: "dead_in_use",
            link: None,
            endpoint: Some(endpoint.clone()),
            reason: Some(LossReason::Heartbeat),
            text: "a connection in use was dead, its client was reset".to_owned(),
        });
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        let pool = &self.pool;
        pool.status.metrics.connections.dec();
        pool.status.metrics.links[LinkState::InUse.index()].dec();
        pool.status.metrics.close(self.reason);
        // Any other end is the client's or the server's own; a death was found by us.
        if self.reason == CloseReason::Dead {
            pool.status.metrics.lose(LossReason::Heartbeat);
            pool.endpoint_series.with(&self.tie.endpoint.name, |metrics| metrics.losses.inc());
            self.tell_of_death();
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
