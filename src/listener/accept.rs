//! Accepting clients.

use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::bound::Bound;
use super::{Arrivals, Arrived};
use crate::config;
use crate::net::accepting::{self, BATCH, Pause};
use crate::net::kernel;

/// Where clients are brought at this moment.
pub struct Target {
    pub arrivals: ArcSwap<Arc<dyn Arrivals>>,
    pub changed: Notify,
}

impl Target {
    /// Never across a wait: what it leads to could not go as long.
    fn arrive(&self, client: Arrived, worker: usize) {
        Arc::clone(&**self.arrivals.load()).arrive(client, worker);
    }

    fn settings(&self) -> watch::Receiver<Arc<config::Upstream>> {
        self.arrivals.load().settings()
    }
}

/// Accepts until stopped, and then what the queue still holds, unless that is left to a successor.
pub async fn accept(bound: Arc<Bound>, target: Arc<Target>, stop: CancellationToken, worker: usize) {
    let ready = match kernel::await_clients(bound.clone()) {
        Ok(ready) => ready,
        Err(error) => {
            tracing::error!(listener = %bound, %error, "cannot wait for clients");
            return;
        }
    };
    let mut pause = Pause::default();
    let mut settings = target.settings();
    bound.keep_alive(&settings.borrow_and_update().heartbeat);
    loop {
        let mut guard = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Clients inherit the keepalive of the upstream they come to, as it is configured now.
            () = target.changed.notified() => {
                settings = target.settings();
                bound.keep_alive(&settings.borrow_and_update().heartbeat);
                continue;
            }
            Ok(()) = settings.changed() => {
                bound.keep_alive(&settings.borrow_and_update().heartbeat);
                continue;
            }
            guard = ready.readable() => match guard {
                Ok(guard) => guard,
                Err(error) => {
                    tracing::error!(listener = %bound, %error, "cannot wait for clients");
                    return;
                }
            },
        };
        for _ in 0..BATCH {
            match bound.accept() {
                Ok(client) => {
                    pause.end();
                    target.arrive(client, worker);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    break;
                }
                // The client gave up while it was queued.
                Err(error) if accepting::is_the_peers(&error) => {}
                Err(error) => {
                    target.arrivals.load().accept_failed();
                    tracing::warn!(listener = %bound, %error, pause = ?pause.time(), "cannot accept; trying again");
                    pause.pass(&stop).await;
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
    while !bound.is_left()
        && let Ok(client) = bound.accept()
    {
        target.arrive(client, worker);
    }
}
