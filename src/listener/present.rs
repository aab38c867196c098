//! The clients of one upstream who have been accepted and are not yet gone: how many there are, and that there is room for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::client::Socket;
use crate::metrics::{Label, RefuseReason};
use crate::net::descriptors::{Descriptors, Held};
use crate::status::UpstreamStatus;

/// Counts them.
pub struct Present {
    count: AtomicUsize,
    upstream: Arc<UpstreamStatus>,
}

/// What a client occupies until it is gone: one of `limits.connections`, and descriptors.
pub struct Admitted {
    pub descriptors: Held,
    present: Arc<Present>,
}

impl Present {
    pub fn new(upstream: &Arc<UpstreamStatus>) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), upstream: upstream.clone() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Counts a client in, with the descriptors that carrying it takes, or refuses it at a limit.
    pub fn admit(self: &Arc<Self>, socket: Socket, descriptors: usize) -> Option<(Socket, Admitted)> {
        self.upstream.metrics.connections_total.inc();
        let most = self.upstream.settings.load().limits.connections;
        let room = |count| (count < most).then_some(count + 1);
        let counted = self.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_ok();
        let descriptors = if counted { Descriptors::shared().try_take(descriptors) } else { None };
        match descriptors {
            Some(descriptors) => Some((socket, Admitted { descriptors, present: self.clone() })),
            None => {
                if counted {
                    self.count.fetch_sub(1, Ordering::AcqRel);
                }
                self.refuse(socket, RefuseReason::Limit, "at the limit");
                None
            }
        }
    }

    /// Turns a client away and counts it.
    pub fn refuse(&self, socket: Socket, reason: RefuseReason, why: &str) {
        self.upstream.metrics.refuse(reason);
        tracing::debug!(upstream = self.upstream.name, reason = reason.name(), "client refused: {why}");
        socket.refuse();
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.present.count.fetch_sub(1, Ordering::AcqRel);
    }
}
