//! Clients who come, wait, and are handed to a link or refused.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::dials::{Dialling, Opened};
use super::{Client, Pool};
use crate::config;
use crate::listener::client::{Socket, close_in_order};
use crate::listener::{Arrivals, Arrived};
use crate::metrics::RefuseReason;

impl Pool {
    /// A client was accepted on `worker`: hands it to a link, lets it wait, or refuses it.
    pub fn arrive(self: &Arc<Self>, socket: Socket, worker: usize) {
        if let Some((socket, admitted)) = self.present.admit(socket, 2) {
            self.queue_up(Client { socket, accepted: Instant::now(), admitted }, worker);
        }
    }

    /// A client whose link turned out to be gone comes first again.
    pub fn come_again(self: &Arc<Self>, client: Client) {
        self.queue_up(client, 0);
    }

    fn queue_up(self: &Arc<Self>, client: Client, worker: usize) {
        let limits = &self.current().limits;
        let mut queue = self.queue();
        // A link on the same thread is handed over without waking another core.
        let at = queue.ready.iter().take(8).position(|slot| slot.worker == worker).unwrap_or(0);
        if let Some(slot) = queue.ready.remove(at) {
            slot.give(client);
            return;
        }
        if queue.waiting.is_closed() {
            drop(queue);
            return self.serve_last(client);
        }
        // `wait` is for a link that is down; while the upstream answers, a connection is under way.
        let down = limits.wait.is_zero() && !self.is_answering();
        let refused = if down {
            Some(RefuseReason::LinkDown)
        } else if queue.waiting.len() >= limits.waiting {
            Some(RefuseReason::Limit)
        } else {
            None
        };
        if let Some(reason) = refused {
            drop(queue);
            return self.present.refuse(client.socket, reason, "nobody may wait");
        }
        queue.waiting.insert(client);
        let dial_more = self.is_answering() && queue.dialling < queue.waiting.len();
        if dial_more {
            queue.dialling += 1;
        }
        drop(queue);
        self.keeper.notify_one();
        if dial_more {
            let pool = self.clone();
            self.worker().1.spawn(async move { pool.dial_for_waiting().await });
        }
    }

    /// One more connection than the pool keeps, for a client who waits.
    async fn dial_for_waiting(self: Arc<Self>) {
        let opened = {
            let _counted = Dialling(&self);
            self.open(0).await
        };
        // Whom it was dialled for waits on if it failed, for a link.
        let Ok(opened) = opened else { return };
        // In a statement of its own: the queue is not to be locked meanwhile.
        let client = self.queue().waiting.take_first();
        match client {
            Some(client) => self.carry(client, opened, Vec::new()),
            None => {
                let Opened { transport, tie, .. } = opened;
                drop(tie);
                close_in_order(transport).await;
            }
        }
    }

    /// Refuses the clients who have waited for `limits.wait`; says when the next one will have.
    pub fn expire(&self, now: Instant) -> Option<Instant> {
        let wait = {
            let settings = self.current();
            match settings.limits.wait {
                Duration::ZERO if self.is_answering() => settings.retry.connect_timeout,
                wait => wait,
            }
        };
        let (late, next) = self.queue().waiting.take_late(now, wait);
        for client in late {
            self.present.refuse(client.socket, RefuseReason::LinkDown, "it has waited for `limits.wait`");
        }
        next
    }

    /// Whether a client waits.
    pub fn has_waiting(&self) -> bool {
        !self.queue().waiting.is_empty()
    }

    /// Whether a dial is under way.
    pub fn is_dialling(&self) -> bool {
        self.queue().dialling > 0
    }

    /// The upstream goes: nobody waits for its links any more.
    pub fn close(self: &Arc<Self>) {
        self.leaving.store(true, Ordering::Relaxed);
        self.status.draining.store(true, Ordering::Relaxed);
        let waiting = {
            let mut queue = self.queue();
            queue.ready.clear();
            queue.waiting.close()
        };
        waiting.into_iter().for_each(|client| self.serve_last(client));
    }

    /// It has gone, and so has everybody's time.
    pub fn end(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Who came before the upstream went, and has no link, has a connection of its own if the server answers.
    fn serve_last(self: &Arc<Self>, client: Client) {
        let refuse = |pool: &Self, client: Client| {
            pool.present.refuse(client.socket, RefuseReason::LinkDown, "its upstream goes");
        };
        if !self.is_answering() {
            return refuse(self, client);
        }
        let pool = self.clone();
        self.worker().1.spawn(async move {
            match pool.open(0).await {
                Ok(opened) if !pool.gone.load(Ordering::Relaxed) => pool.carry(client, opened, Vec::new()),
                _ => refuse(&pool, client),
            }
        });
    }
}

impl Arrivals for Pool {
    fn arrive(self: Arc<Self>, client: Arrived, worker: usize) {
        Pool::arrive(&self, client.socket, worker);
    }

    fn settings(&self) -> watch::Receiver<Arc<config::Upstream>> {
        self.settings.subscribe()
    }

    fn accept_failed(&self) {
        self.process.metrics.accept_errors.inc();
    }
}
