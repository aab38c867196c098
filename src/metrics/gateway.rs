//! The gateway's handles.

use prometheus::{IntCounter, IntGauge};

use super::labels::{Label, Refusal};
use super::session::Violations;

/// What a gateway counts. Its series are there while there is a `[gateway]`.
pub struct GatewayMetrics {
    /// Kept by the sessions' entries in the status.
    pub sessions: IntGauge,
    /// Brought up to date from the sessions before each scrape.
    pub streams: IntGauge,
    pub pending: IntGauge,
    pub refusals: Vec<IntCounter>,
    pub violations: Violations,
}

impl GatewayMetrics {
    pub fn refuse(&self, reason: Refusal) {
        self.refusals[reason.index()].inc();
    }
}
