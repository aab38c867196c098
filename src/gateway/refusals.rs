//! Who is turned away: what they are told, what is counted, and what the log says of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::log_limit::LogLimit;
use crate::clock;
use crate::log;
use crate::metrics::{GatewayMetrics, Label, Refusal};
use crate::session::hello::{self, Code};

/// When a dialer that heard `busy` for want of room may come again: about as long as room takes to come up.
pub const BUSY_FOR: Duration = Duration::from_secs(5);

/// Counts refusals and tells of them.
pub struct Refusals {
    metrics: Arc<GatewayMetrics>,
    told: Mutex<LogLimit<Refusal>>,
}

impl Refusals {
    pub fn new(metrics: Arc<GatewayMetrics>) -> Self {
        Self { metrics, told: Mutex::default() }
    }

    /// One more. `why` may hold a peer's words.
    pub fn count(&self, reason: Refusal, peer: Option<SocketAddr>, why: &str) {
        self.metrics.refuse(reason);
        let tell = self.told.lock().unwrap_or_else(PoisonError::into_inner).tell(reason, clock::now());
        if let Some(left_out) = tell {
            let peer = peer.map(tracing::field::display);
            tracing::warn!(
                reason = reason.name(),
                peer,
                left_out,
                "a dialer was turned away: {}",
                log::escape(why.as_bytes())
            );
        }
    }
}

/// A refusal to be sent. The name only to those who have proven themselves.
pub fn refusal(code: Code, retry_after: Duration, name: Option<&str>) -> hello::Refusal {
    hello::Refusal { code, retry_after, versions: hello::VERSIONS, name: name.map(str::to_owned) }
}
